import { execFileSync, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import { type AddressInfo, connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StdioClientTransport } from '@modelcontextprotocol/sdk/client/stdio.js';
import { afterEach, describe, expect, it } from 'vitest';
import { RawClient } from './raw-client.ts';

const program = join(import.meta.dirname, '../../servers/context7/server.js');
const KEY = 'ctx7sk-11111111-2222-3333-4444-555555555555';

const closing: (() => unknown)[] = [];
afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close();
});

async function listen(server: Server): Promise<number> {
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  closing.push(() => {
    server.closeAllConnections();
    server.close();
  });
  return (server.address() as AddressInfo).port;
}

type Answer = (request: IncomingMessage, response: ServerResponse, url: URL) => void;

const json = (
  response: ServerResponse,
  status: number,
  body: unknown,
  headers: Record<string, string> = {},
) => {
  response.writeHead(status, { 'content-type': 'application/json', ...headers });
  response.end(JSON.stringify(body));
};

const REACT = {
  id: '/facebook/react',
  title: 'React',
  description: 'A library for user interfaces',
  totalSnippets: 2500,
  versions: ['v18.2.0'],
};
const CONTEXT = {
  codeSnippets: [
    {
      codeTitle: 'Count with useState',
      codeDescription: 'A counter',
      codeLanguage: 'tsx',
      codeTokens: 40,
      codeId: 'https://example.com/react#snippet_0',
      pageTitle: 'State',
      codeList: [
        { language: 'tsx', code: 'const [count, setCount] = useState(0);' },
        { language: 'python', code: 'count = 0' },
      ],
    },
    {
      codeTitle: 'Install',
      codeDescription: 'With npm',
      codeId: 'https://example.com/react#snippet_1',
      codeList: [{ language: 'bash', code: 'npm install react' }],
    },
  ],
  infoSnippets: [
    {
      breadcrumb: 'Hooks > State',
      pageId: 'https://example.com/state',
      content: 'State is kept between renders.',
    },
  ],
};

/** What Context7's API answers when all is well, by its public description. */
const well: Answer = (_request, response, url) => {
  if (url.pathname === '/api/v2/libs/search') {
    json(response, 200, { results: [REACT, { id: '/reactjs/react.dev' }], searchFilterApplied: false });
  } else if (url.pathname === '/api/v2/context') json(response, 200, CONTEXT);
  else json(response, 404, { error: 'not_found', message: 'no such endpoint' });
};

/** A stand-in for the API over real HTTP; `requests` has what it was asked. */
async function standIn(answer: Answer = well) {
  const requests: { url: URL; headers: IncomingMessage['headers'] }[] = [];
  const server = createServer((request, response) => {
    const url = new URL(request.url ?? '', 'http://stand-in');
    requests.push({ url, headers: request.headers });
    answer(request, response, url);
  });
  const port = await listen(server);
  return { requests, port, baseUrl: `http://127.0.0.1:${port}/api` };
}

async function start(env: Record<string, string>) {
  const transport = new StdioClientTransport({
    command: process.execPath,
    args: [program],
    env: { PATH: process.env.PATH ?? '', ...env },
    stderr: 'pipe',
  });
  let stderr = '';
  transport.stderr?.on('data', (chunk) => {
    stderr += chunk;
  });
  const client = new Client({ name: 'test', version: '1.0.0' });
  await client.connect(transport);
  closing.push(() => client.close());
  const call = async (name: string, args: Record<string, unknown>, options?: { signal?: AbortSignal }) => {
    const result = await client.callTool({ name, arguments: args }, undefined, options);
    const [content] = result.content as { type: string; text: string }[];
    return { text: content?.text ?? '', isError: result.isError === true };
  };
  return { client, call, stderr: () => stderr };
}

describe('tools', () => {
  it('are two, read-only, described, with the arguments a model needs', async () => {
    const { client } = await start({});
    expect(client.getServerVersion()?.name).toBe('context7');
    expect(client.getInstructions()).toContain('Context7');
    const { tools } = await client.listTools();
    expect(tools.map((tool) => tool.name)).toEqual(['get_documentation', 'search_code_examples']);
    for (const tool of tools) {
      expect(tool.description?.length).toBeGreaterThan(80);
      expect(tool.annotations).toMatchObject({ readOnlyHint: true, openWorldHint: true });
      for (const argument of Object.values(tool.inputSchema.properties ?? {})) {
        expect((argument as { description?: string }).description).toBeTruthy();
      }
    }
    expect(tools[0]?.inputSchema.required).toEqual(['library']);
    expect(tools[1]?.inputSchema.required).toEqual(['query']);
  });
});

describe('get_documentation', () => {
  it('finds the library by its name, then asks for what the topic wants', async () => {
    const { baseUrl, requests } = await standIn();
    const { call } = await start({ CONTEXT7_BASE_URL: baseUrl, CONTEXT7_API_KEY: KEY });
    const { text, isError } = await call('get_documentation', {
      library: 'react',
      topic: 'How do I keep state?',
    });
    expect(isError).toBe(false);
    expect(text).toContain('# /facebook/react');
    expect(text).toContain('Other libraries that match: /reactjs/react.dev');
    expect(text).toContain('State is kept between renders.');
    expect(text).toContain('```tsx\nconst [count, setCount] = useState(0);\n```');
    expect(text).toContain('Source: https://example.com/state');
    expect(requests.map(({ url }) => [url.pathname, Object.fromEntries(url.searchParams)])).toEqual([
      ['/api/v2/libs/search', { libraryName: 'react', query: 'How do I keep state?' }],
      ['/api/v2/context', { libraryId: '/facebook/react', query: 'How do I keep state?', type: 'json' }],
    ]);
    expect(requests.every(({ headers }) => headers.authorization === `Bearer ${KEY}`)).toBe(true);
  });

  it('takes an exact id, version included, without a search', async () => {
    const { baseUrl, requests } = await standIn();
    const { call } = await start({ CONTEXT7_BASE_URL: `${baseUrl}/` });
    expect((await call('get_documentation', { library: '/facebook/react/v18.2.0' })).isError).toBe(false);
    expect(requests).toHaveLength(1);
    expect(requests[0]?.url.searchParams.get('libraryId')).toBe('/facebook/react/v18.2.0');
    expect(requests[0]?.url.searchParams.get('query')).toContain('Overview');
  });

  it('sends no Authorization without a key', async () => {
    const { baseUrl, requests } = await standIn();
    const { call } = await start({ CONTEXT7_BASE_URL: baseUrl, CONTEXT7_API_KEY: '' });
    await call('get_documentation', { library: 'react' });
    expect(requests.map(({ headers }) => headers.authorization)).toEqual([undefined, undefined]);
  });

  it('keeps to the tokens it was given and says what it left out', async () => {
    const content = 'word '.repeat(500);
    const { baseUrl } = await standIn((_request, response) =>
      json(response, 200, { codeSnippets: [], infoSnippets: Array.from({ length: 9 }, () => ({ content })) }),
    );
    const { call } = await start({ CONTEXT7_BASE_URL: baseUrl });
    const short = await call('get_documentation', { library: '/a/b', tokens: 1500 });
    expect(short.text.length).toBeLessThan(1500 * 4 + 200);
    expect(short.text).toContain('7 more sections left out');
    const long = await call('get_documentation', { library: '/a/b', tokens: 50_000 });
    expect(long.text.length).toBeGreaterThan(9 * content.length - 9);
  });

  it('follows a library to its new id', async () => {
    const { baseUrl, requests } = await standIn((request, response, url) => {
      if (url.searchParams.get('libraryId') === '/old/name') {
        json(response, 301, {
          error: 'library_redirected',
          message: 'moved',
          redirectUrl: '/facebook/react',
        });
      } else well(request, response, url);
    });
    const { call } = await start({ CONTEXT7_BASE_URL: baseUrl });
    const { text, isError } = await call('get_documentation', { library: '/old/name' });
    expect([isError, text.split('\n')[0]]).toEqual([false, '# /facebook/react']);
    expect(requests).toHaveLength(2);
  });

  it('passes plain text on where the API answers with it', async () => {
    const { baseUrl } = await standIn((_request, response) => {
      response.writeHead(200, { 'content-type': 'text/plain' });
      response.end('### Plain\n\nas it came\n');
    });
    const { call } = await start({ CONTEXT7_BASE_URL: baseUrl });
    expect((await call('get_documentation', { library: '/a/b' })).text).toBe(
      '# /a/b\n\n### Plain\n\nas it came',
    );
  });
});

describe('search_code_examples', () => {
  it('returns code alone, in the language that was asked for', async () => {
    const { baseUrl } = await standIn();
    const { call } = await start({ CONTEXT7_BASE_URL: baseUrl });
    const all = await call('search_code_examples', { query: 'count clicks', library: 'react' });
    expect(all.text).toContain('### Count with useState');
    expect(all.text).toContain('### Install');
    expect(all.text).not.toContain('State is kept between renders.');
    const python = await call('search_code_examples', { query: 'count', library: 'react', language: 'py' });
    expect(python.text).toContain('```python\ncount = 0\n```');
    expect(python.text).not.toContain('useState(0)');
    expect(python.text).not.toContain('Install');
    const one = await call('search_code_examples', { query: 'count', library: 'react', limit: 1 });
    expect(one.text).not.toContain('Install');
  });

  it('lets Context7 choose the library when none is named', async () => {
    const { baseUrl, requests } = await standIn();
    const { call } = await start({ CONTEXT7_BASE_URL: baseUrl });
    expect((await call('search_code_examples', { query: 'a react counter' })).text).toContain(
      '# /facebook/react',
    );
    expect(requests[0]?.url.searchParams.get('libraryName')).toBe('a react counter');
  });

  it('says when there is no such example', async () => {
    const { baseUrl } = await standIn();
    const { call } = await start({ CONTEXT7_BASE_URL: baseUrl });
    const { text, isError } = await call('search_code_examples', {
      query: 'x',
      library: 'react',
      language: 'cobol',
    });
    expect(isError).toBe(true);
    expect(text).toContain('no cobol example');
  });
});

describe('what goes wrong is a result that names the cause and the next step', () => {
  const ask = async (env: Record<string, string>, library = '/facebook/react') => {
    const { call, stderr } = await start(env);
    const { text, isError } = await call('get_documentation', { library });
    expect(isError).toBe(true);
    expect(text.trim().split('\n').length).toBeGreaterThanOrEqual(2);
    expect(text + stderr()).not.toContain(KEY);
    return text;
  };
  const refusing = async (status: number, headers: Record<string, string> = {}, body: unknown = {}) =>
    (await standIn((_request, response) => json(response, status, body, headers))).baseUrl;

  it('401 with a key', async () => {
    const baseUrl = await refusing(401, {}, { error: 'invalid_api_key', message: 'Invalid API key.' });
    const text = await ask({ CONTEXT7_BASE_URL: baseUrl, CONTEXT7_API_KEY: KEY });
    expect(text).toMatch(/refused the API key \(401\).*Invalid API key\./);
    expect(text).toContain('Check CONTEXT7_API_KEY');
  });

  it('401 without a key', async () => {
    const text = await ask({ CONTEXT7_BASE_URL: await refusing(401) });
    expect(text).toMatch(/wants an API key \(401\)[\s\S]*set CONTEXT7_API_KEY/);
  });

  it('404', async () => {
    const baseUrl = await refusing(404, {}, { error: 'library_not_found', message: 'Library not found.' });
    expect(await ask({ CONTEXT7_BASE_URL: baseUrl })).toMatch(
      /no documentation of \/facebook\/react \(404\).*Library not found\.[\s\S]*Check the spelling/,
    );
  });

  it('429 with Retry-After in seconds, without a key', async () => {
    const text = await ask({ CONTEXT7_BASE_URL: await refusing(429, { 'retry-after': '17' }) });
    expect(text).toMatch(
      /rate limit is reached \(429\); this server has no API key[\s\S]*Wait 17 s[\s\S]*CONTEXT7_API_KEY/,
    );
  });

  it('429 with Retry-After as a date, with a key', async () => {
    const date = new Date(Date.now() + 90_000).toUTCString();
    const baseUrl = await refusing(429, { 'retry-after': date });
    const text = await ask({ CONTEXT7_BASE_URL: baseUrl, CONTEXT7_API_KEY: KEY });
    const seconds = Number(/Wait (\d+) s/.exec(text)?.[1]);
    expect(seconds).toBeGreaterThan(30);
    expect(seconds).toBeLessThanOrEqual(91);
  });

  it.each([500, 503, 504])('%i', async (status) => {
    const text = await ask({ CONTEXT7_BASE_URL: await refusing(status) });
    expect(text).toContain(`Context7 failed (${status})`);
    expect(text).toContain('try again in a minute');
  });

  it.each([
    [202, 'still preparing'],
    [402, 'spending limit'],
    [403, 'does not allow access'],
    [422, 'cannot answer for'],
    [418, 'status 418, which was not expected'],
  ])('%i', async (status, cause) => {
    expect(await ask({ CONTEXT7_BASE_URL: await refusing(status) })).toContain(cause);
  });

  it('no answer in time', async () => {
    const { baseUrl } = await standIn(() => {});
    const text = await ask({ CONTEXT7_BASE_URL: baseUrl, CONTEXT7_TIMEOUT_MS: '300' });
    expect(text).toContain('did not answer within 0.3 s');
  });

  it('an answer that begins and never ends', async () => {
    const { baseUrl } = await standIn((_request, response) => {
      response.writeHead(200, { 'content-type': 'application/json' });
      response.write('{"codeSnippets":[');
    });
    const text = await ask({ CONTEXT7_BASE_URL: baseUrl, CONTEXT7_TIMEOUT_MS: '300' });
    expect(text).toContain('did not answer within 0.3 s');
  });

  it('nobody listens', async () => {
    const { port } = await standIn();
    await closing.pop()?.();
    const text = await ask({ CONTEXT7_BASE_URL: `http://127.0.0.1:${port}/api` });
    expect(text).toContain(`Cannot reach Context7 at 127.0.0.1:${port} (ECONNREFUSED)`);
    expect(text).toContain('network: none');
  });

  it('the name does not resolve', async () => {
    const text = await ask({ CONTEXT7_BASE_URL: 'http://context7.invalid/api' });
    expect(text).toMatch(/Cannot reach Context7 at context7\.invalid \((ENOTFOUND|EAI_AGAIN)\)/);
  });

  it('the connection breaks', async () => {
    const { baseUrl } = await standIn((request) => request.socket.destroy());
    expect(await ask({ CONTEXT7_BASE_URL: baseUrl })).toContain('Cannot reach Context7');
  });

  it.each([
    ['text/html', '<html>Sign in to the hotel network</html>'],
    ['application/json', '{"codeSnippets": ['],
    ['application/json', ''],
  ])('%s that is no JSON: %s', async (type, body) => {
    const { baseUrl } = await standIn((_request, response) => {
      response.writeHead(200, { 'content-type': type });
      response.end(body);
    });
    const text = await ask({ CONTEXT7_BASE_URL: baseUrl });
    expect(text).toContain(`Expected JSON from 127.0.0.1`);
    expect(text).toContain(body.slice(0, 20) || 'an empty body');
  });

  it('JSON of another shape', async () => {
    expect(await ask({ CONTEXT7_BASE_URL: await refusing(200, {}, { hello: 1 }) })).toContain(
      'Expected snippets',
    );
    expect(await ask({ CONTEXT7_BASE_URL: await refusing(200, {}, { hello: 1 }) }, 'react')).toContain(
      'Expected a list of libraries',
    );
  });

  it('no library of that name, nothing on that topic', async () => {
    expect(await ask({ CONTEXT7_BASE_URL: await refusing(200, {}, { results: [] }) }, 'no-such')).toContain(
      'knows no library called no-such',
    );
    const empty = await refusing(200, {}, { codeSnippets: [], infoSnippets: [] });
    expect(await ask({ CONTEXT7_BASE_URL: empty })).toContain('has nothing about this in /facebook/react');
  });

  it('a redirect to elsewhere, which does not get the key', async () => {
    const elsewhere = await standIn();
    const baseUrl = await refusing(302, { location: elsewhere.baseUrl });
    const text = await ask({ CONTEXT7_BASE_URL: baseUrl, CONTEXT7_API_KEY: KEY });
    expect(text).toContain('status 302');
    expect(elsewhere.requests).toEqual([]);
  });

  it.each(['not a url', 'ftp://example.com'])('CONTEXT7_BASE_URL is %s', async (baseUrl) => {
    expect(await ask({ CONTEXT7_BASE_URL: baseUrl })).toContain(
      `CONTEXT7_BASE_URL is no HTTP URL: ${baseUrl}`,
    );
  });

  it.each(['\u{1f511}', '\nx', ' x'])('a key with %j in it, which no message quotes', async (part) => {
    const { baseUrl, requests } = await standIn();
    const text = await ask({ CONTEXT7_BASE_URL: baseUrl, CONTEXT7_API_KEY: `${KEY}${part}` });
    expect(text).toContain('CONTEXT7_API_KEY has characters that no key has');
    expect(requests).toEqual([]);
  });

  it.skipIf(spawnSync('openssl', ['version']).error)('a certificate that nobody signed', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'context7-'));
    try {
      const [key, cert] = [join(folder, 'key.pem'), join(folder, 'cert.pem')];
      const subject = ['-subj', '/CN=127.0.0.1', '-addext', 'subjectAltName=IP:127.0.0.1'];
      execFileSync(
        'openssl',
        ['req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-keyout', key, '-out', cert, ...subject],
        {
          stdio: 'ignore',
        },
      );
      const port = await listen(createTlsServer({ key: readFileSync(key), cert: readFileSync(cert) }));
      const text = await ask({ CONTEXT7_BASE_URL: `https://127.0.0.1:${port}/api` });
      expect(text).toContain('cannot be verified (DEPTH_ZERO_SELF_SIGNED_CERT)');
      expect(text).toContain('gateway.ca_certificates');
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  it('wrong arguments', async () => {
    const { call } = await start({});
    const { text, isError } = await call('get_documentation', { library: '' });
    expect(isError).toBe(true);
    expect(text).toContain('library');
  });
});

describe('the process', () => {
  it('goes through the proxy of its environment', async () => {
    const { baseUrl, requests } = await standIn();
    let tunnels = 0;
    const proxy = createServer((request, response) => {
      tunnels++;
      fetch(request.url ?? '').then(async (answer) => json(response, answer.status, await answer.json()));
    });
    proxy.on('connect', (request: IncomingMessage, socket: Socket) => {
      tunnels++;
      const [host, port] = (request.url ?? '').split(':');
      const upstream = connect(Number(port), host, () => socket.write('HTTP/1.1 200 OK\r\n\r\n'));
      socket.pipe(upstream).pipe(socket);
      socket.on('error', () => upstream.destroy());
      upstream.on('error', () => socket.destroy());
    });
    const port = await listen(proxy);
    const { call } = await start({ CONTEXT7_BASE_URL: baseUrl, HTTP_PROXY: `http://127.0.0.1:${port}` });
    expect((await call('get_documentation', { library: '/a/b' })).isError).toBe(false);
    expect(requests).toHaveLength(1);
    expect(tunnels).toBe(1);
  });

  it('drops its request to the API when the call is cancelled', async () => {
    const arrived = Promise.withResolvers<IncomingMessage>();
    const { baseUrl } = await standIn((request) => arrived.resolve(request));
    const { call } = await start({ CONTEXT7_BASE_URL: baseUrl });
    const abort = new AbortController();
    const result = call('get_documentation', { library: '/a/b' }, { signal: abort.signal });
    const { socket } = await arrived.promise;
    abort.abort();
    await expect(result).rejects.toThrow();
    if (!socket.destroyed) await once(socket, 'close');
  });

  it.each(['stdin', 'SIGTERM'] as const)('ends at once by %s, a request under way or not', async (how) => {
    const arrived = Promise.withResolvers<void>();
    const { baseUrl } = await standIn(() => arrived.resolve());
    await using server = new RawClient([process.execPath, program], { env: { CONTEXT7_BASE_URL: baseUrl } });
    await server.initialize();
    server.post('tools/call', { name: 'get_documentation', arguments: { library: '/a/b' } });
    await arrived.promise;
    if (how === 'stdin') server.endInput();
    else server.process.kill('SIGTERM');
    expect(await server.exited).toEqual({ code: how === 'stdin' ? 0 : 143, signal: null });
  });
});
