import { request } from 'node:http';
import { Client, StreamableHTTPClientTransport } from '@modelcontextprotocol/client';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startGateway, type TestGateway } from '../harness.ts';
import { until } from '../waiting.ts';
import { RawHttpClient } from './clients.ts';

let gateway: TestGateway;

beforeAll(async () => {
  gateway = await startGateway({
    servers: { everything: {}, tiny: {}, asks: { fixture: 'asks-the-user', timeouts: { client: '500ms' } } },
    gateway: { max_body: '100k', allowed_hosts: ['gateway.lan'], allowed_origins: ['https://app.example'] },
  });
  await gateway.settled();
});
afterAll(() => gateway?.[Symbol.asyncDispose]());

async function connected(endpoint = '/mcp', version?: string, capabilities: object = {}) {
  const client = new RawHttpClient(gateway, endpoint);
  await client.initialize(version, capabilities);
  return client;
}

/** A request with headers that fetch does not let through. */
function rawRequest(options: {
  method?: string;
  path?: string;
  headers: Record<string, string>;
  body?: string;
}) {
  const { port } = new URL(gateway.origin);
  return new Promise<{ status: number; headers: Record<string, unknown>; text: string }>(
    (resolve, reject) => {
      const outgoing = request({ host: '127.0.0.1', port, method: 'GET', ...options }, (answer) => {
        let text = '';
        answer.on('data', (chunk) => {
          text += chunk;
        });
        answer.on('end', () => resolve({ status: answer.statusCode!, headers: answer.headers, text }));
      });
      outgoing.on('error', reject);
      outgoing.end(options.body);
    },
  );
}

/** The answer to a tool call as it comes, headers first. */
const callTool = (
  client: RawHttpClient,
  params: object,
  { accept = 'application/json, text/event-stream', signal }: { accept?: string; signal?: AbortSignal } = {},
) =>
  fetch(client.url, {
    method: 'POST',
    headers: { 'content-type': 'application/json', accept, ...client.headers },
    body: JSON.stringify({ jsonrpc: '2.0', id: 1, method: 'tools/call', params }),
    signal,
  });

describe('the address', () => {
  it('may be the whole one, as proxies send it', async () => {
    const { port } = new URL(gateway.origin);
    const body = JSON.stringify({
      jsonrpc: '2.0',
      id: 1,
      method: 'initialize',
      params: { protocolVersion: '2025-11-25' },
    });
    const headers = {
      host: `localhost:${port}`,
      'content-type': 'application/json',
      accept: 'application/json, text/event-stream',
    };
    for (const path of [`http://localhost:${port}/mcp`, `http://localhost:${port}/tiny/mcp`]) {
      const answer = await rawRequest({ method: 'POST', path, headers, body });
      expect(answer.status).toBe(200);
      expect(JSON.parse(answer.text).result.protocolVersion).toBe('2025-11-25');
    }
  });
});

describe('initialize', () => {
  it.each(['2024-11-05', '2025-03-26', '2025-06-18', '2025-11-25'])('agrees on %s', async (version) => {
    const answer = await new RawHttpClient(gateway).initialize(version);
    expect(answer.result.protocolVersion).toBe(version);
  });

  it.each(['0.1.0', '2099-01-01', undefined, 7])(
    'offers the latest version to one that asks for %s',
    async (version) => {
      const client = new RawHttpClient(gateway);
      const { messages, headers } = await client.post({
        jsonrpc: '2.0',
        id: 1,
        method: 'initialize',
        params: { protocolVersion: version, capabilities: {}, clientInfo: { name: 'x', version: '1' } },
      });
      expect(messages[0].result.protocolVersion).toBe('2025-11-25');
      expect(headers.get('mcp-session-id')).toMatch(/^[\w-]+\.[\w-]+\.[\w-]+$/);
    },
  );

  it('refuses a client that says too much of itself', async () => {
    const client = new RawHttpClient(gateway, '/tiny/mcp');
    const { messages, headers } = await client.post(
      JSON.stringify({
        jsonrpc: '2.0',
        id: 1,
        method: 'initialize',
        params: { protocolVersion: '2025-11-25', capabilities: {}, clientInfo: { name: '"'.repeat(40_000) } },
      }),
    );
    expect(messages[0].error.code).toBe(-32602);
    expect(headers.get('mcp-session-id')).toBeNull();
  });
});

describe('a client of both eras', () => {
  it('finds the modern one, and works', async () => {
    const client = new Client({ name: 'both', version: '1' }, { versionNegotiation: { mode: 'auto' } });
    await client.connect(new StreamableHTTPClientTransport(gateway.url('/tiny/mcp')));
    expect(client.getNegotiatedProtocolVersion()).toBe('2026-07-28');
    const result = await client.callTool({ name: 'echo', arguments: { text: 'hello' } });
    expect(result.content).toEqual([{ type: 'text', text: 'hello' }]);
    await client.close();
  });
});

describe('sessions over HTTP', () => {
  it('are needed (400), must exist (404), and end by DELETE', async () => {
    const client = await connected();
    const ping = { jsonrpc: '2.0', id: 1, method: 'ping' };
    expect((await client.post(ping)).messages).toEqual([{ jsonrpc: '2.0', id: 1, result: {} }]);

    const stranger = new RawHttpClient(gateway);
    expect((await stranger.post(ping)).status).toBe(400);
    expect((await stranger.post(ping, { 'mcp-session-id': 'nonsense' })).status).toBe(404);
    const elsewhere = new RawHttpClient(gateway, '/tiny/mcp');
    expect((await elsewhere.post(ping, client.headers)).status).toBe(404);

    const end = () => fetch(client.url, { method: 'DELETE', headers: client.headers });
    expect((await end()).status).toBe(204);
    expect((await end()).status).toBe(404);
    expect((await client.post(ping)).status).toBe(404);
    expect((await client.post({ jsonrpc: '2.0', method: 'notifications/initialized' })).status).toBe(404);
  });

  it('leave no log level behind on a shared server', async () => {
    const before = await connected('/everything/mcp');
    await before.request('logging/setLevel', { level: 'emergency' });
    await before.call('echo', { text: 'x' });
    await fetch(before.url, { method: 'DELETE', headers: before.headers });
    const after = await connected('/everything/mcp');
    const logs = { name: 'log', arguments: { level: 'error', text: 'wanted' } };
    const { before: lines } = await after.request('tools/call', logs);
    expect(lines.map(({ params }) => params.data)).toEqual(['wanted']);
  });

  it('check the protocol version header', async () => {
    const client = await connected();
    const ping = { jsonrpc: '2.0', id: 1, method: 'ping' };
    expect((await client.post(ping, { 'mcp-protocol-version': '2025-11-25' })).status).toBe(200);
    for (const version of ['1999-01-01', 'garbage']) {
      const { status, messages } = await client.post(ping, { 'mcp-protocol-version': version });
      expect(status).toBe(400);
      expect(messages[0].error).toMatchObject({ code: -32000, data: { code: 'version_unsupported' } });
    }
  });

  it('have one GET stream: a second one takes its place', async () => {
    const client = await connected('/everything/mcp');
    const first = await client.listen();
    expect(first.status).toBe(200);
    const second = await client.listen();
    await first.ended;
    await client.request('resources/subscribe', { uri: 'test://watched-resource' });
    await client.call('touch_resource');
    await until(() => second.messages.length > 0, 'update on the second stream');
    expect(first.messages).toEqual([]);
    second.close();
  });

  it('watch a bounded number of resources', async () => {
    const client = await connected('/everything/mcp');
    const uri = `test://watched-resource/${'x'.repeat(9000)}`;
    expect((await client.request('resources/subscribe', { uri })).answer.error.code).toBe(-32602);
    for (let number = 0; number < 1000; number += 1) {
      const { answer } = await client.request('resources/subscribe', {
        uri: `test://watched-resource/${number}`,
      });
      expect(answer.result).toEqual({});
    }
    const { answer } = await client.request('resources/subscribe', { uri: 'test://watched-resource' });
    expect(answer.error.message).toContain('1000');
  });

  it('keep for the next GET stream what came without one, each thing once', async () => {
    const client = await connected('/everything/mcp');
    const uri = 'test://watched-resource';
    await client.request('resources/subscribe', { uri });
    for (let touched = 0; touched < 5; touched++) await client.call('touch_resource', { uri });
    const stream = await client.listen();
    await until(() => stream.messages.length > 0, 'kept update');
    await client.call('touch_resource', { uri });
    await until(() => stream.messages.length > 1, 'update');
    expect(stream.messages).toEqual(
      Array(2).fill({ jsonrpc: '2.0', method: 'notifications/resources/updated', params: { uri } }),
    );
    stream.close();
  });
});

describe('answers', () => {
  it('are plain JSON when nothing comes first, whatever a client accepts', async () => {
    const client = await connected();
    for (const accept of ['application/json, text/event-stream', 'application/json', '*/*', '']) {
      const { type, messages } = await client.post(
        { jsonrpc: '2.0', id: 1, method: 'tools/list' },
        { accept },
      );
      expect(type).toBe('application/json');
      expect(messages[0].result.tools.length).toBeGreaterThan(40);
    }
  });

  it('are a stream for a client that accepts nothing else, and 406 for one that accepts neither', async () => {
    const client = await connected();
    const ping = { jsonrpc: '2.0', id: 1, method: 'ping' };
    const streamed = await client.post(ping, { accept: 'text/event-stream' });
    expect(streamed.type).toBe('text/event-stream');
    expect(streamed.headers.get('x-accel-buffering')).toBe('no');
    expect(streamed.headers.get('cache-control')).toContain('no-cache');
    expect(streamed.messages).toEqual([{ jsonrpc: '2.0', id: 1, result: {} }]);
    const refused = await client.post(ping, { accept: 'text/html' });
    expect(refused.status).toBe(406);
    expect((await client.post(ping)).status).toBe(200);
  });

  it('are a stream when progress comes first, with the client’s own token', async () => {
    const client = await connected('/everything/mcp');
    for (const progressToken of ['token-ä', 0, 7, '7']) {
      const { before, answer } = await client.request('tools/call', {
        name: 'progress',
        arguments: { steps: 2, ms: 5 },
        _meta: { progressToken },
      });
      expect(before.map(({ params }) => params.progressToken)).toEqual([progressToken, progressToken]);
      expect(answer.result.content[0].text).toBe('2 steps');
    }
  });

  it('open as a stream after 5 s of silence', async () => {
    const client = await connected('/everything/mcp');
    const startedAt = Date.now();
    const response = await callTool(client, { name: 'sleep', arguments: { ms: 10_000 } });
    const openedAfterMs = Date.now() - startedAt;
    expect(response.headers.get('content-type')).toBe('text/event-stream');
    expect(openedAfterMs).toBeGreaterThan(4500);
    expect(openedAfterMs).toBeLessThan(9900);
    expect(await response.text()).toContain('slept 10000 ms');
  });

  it('keep a client that reads JSON alone waiting, and are JSON in the end', async () => {
    const client = await connected('/everything/mcp');
    const startedAt = Date.now();
    const response = await callTool(
      client,
      { name: 'sleep', arguments: { ms: 9000 } },
      { accept: 'application/json' },
    );
    expect(Date.now() - startedAt).toBeLessThan(8900);
    expect(await response.json()).toMatchObject({ id: 1, result: { content: [{ text: 'slept 9000 ms' }] } });
  });

  it('have the id as it was sent, of whatever type', async () => {
    const client = await connected('/tiny/mcp');
    for (const id of ['1', '01', 'ünïcode ☃', '', 0, 1, -5, 9007199254740991]) {
      const { answer } = await client.request(
        'tools/call',
        { name: 'echo', arguments: { text: `${id}` } },
        id,
      );
      expect(answer).toEqual({ jsonrpc: '2.0', id, result: { content: [{ type: 'text', text: `${id}` }] } });
    }
    const { text } = await client.post('{"jsonrpc":"2.0","id":90071992547409931234,"method":"ping"}');
    expect(text).toBe('{"jsonrpc":"2.0","id":90071992547409931234,"result":{}}');
  });

  it('keep unknown fields, _meta and error data as the server wrote them', async () => {
    const client = await connected();
    const meta = { 'example.com/a': { deep: [1, { b: null }] }, progressToken: 'p' };
    const result = (await client.call('everything__unknown_fields', {}, meta)).result;
    expect(result).toEqual({
      content: [
        {
          type: 'text',
          text: 'known',
          'x-field': { deep: [1, { null: null }] },
          _meta: { 'example.com/part': 1 },
        },
        { type: 'hologram', shape: { faces: 12 }, 'x-float': 1.5 },
      ],
      'x-top': ['unknown', 1, true, null],
      _meta: { 'example.com/echo': { ...meta, progressToken: expect.anything() } },
    });
    const data = { why: ['x', { y: 1 }], z: null };
    expect(
      (await client.call('everything__rpc_error', { code: -32077, message: 'mine', data })).error,
    ).toEqual({
      code: -32077,
      message: 'mine',
      data,
    });
  });

  it('name the thing, the cause and the next step when something is wrong', async () => {
    const client = await connected();
    const unknown = await client.call('everything__ehco');
    expect(unknown.error).toMatchObject({
      code: -32602,
      data: { code: 'tool_unknown', hint: expect.any(String) },
    });
    expect(unknown.error.message).toMatch(/everything__ehco.*Did you mean "everything__echo"\?/);
    expect((await client.request('tasks/update')).answer.error.code).toBe(-32601);
    expect((await client.request('no/such/method')).answer.error.message).toContain('no/such/method');
    expect((await client.request('resources/read', { uri: 'no://where' })).answer.error.code).toBe(-32002);
    expect((await client.request('tools/call', {})).answer.error.code).toBe(-32602);
    expect((await client.request('tools/list', { cursor: 'mine' })).answer.error.code).toBe(-32602);
    expect((await client.request('logging/setLevel', { level: 'loud' })).answer.error.code).toBe(-32602);
  });

  it('pass a result of 10 MB', async () => {
    const client = await connected('/everything/mcp');
    const { result } = await client.call('big', { bytes: 10_000_000 });
    expect(result.content[0].text.length).toBe(10_000_000);
  });
});

describe('a request that is cancelled', () => {
  it('has no answer, and leaves the session usable', async () => {
    const client = await connected('/everything/mcp');
    for (const id of ['one', 2]) {
      const call = client.request('tools/call', { name: 'sleep', arguments: { ms: 60_000 } }, id);
      const cancel = (requestId: unknown) =>
        client.post({ jsonrpc: '2.0', method: 'notifications/cancelled', params: { requestId } });
      let isOver = false;
      void call.then(() => {
        isOver = true;
      });
      // The same id of another type is another request.
      for (let sent = 0; sent < 5; sent += 1) await cancel(id === 2 ? '2' : 1);
      expect(isOver).toBe(false);
      // One that comes before its request cancels nothing.
      while (!isOver) {
        await cancel(id);
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
      const { answer, status } = await call;
      expect(status).toBe(200);
      expect(answer).toBeUndefined();
    }
    expect((await client.call('echo', { text: 'still here' })).result.content[0].text).toBe('still here');
  });

  it('is not cancelled by a dropped connection', async () => {
    const client = await connected('/everything/mcp');
    const before = (await client.call('cancellations')).result.structuredContent.cancelled.length;
    const abort = new AbortController();
    const file = `${gateway.folder}/written later`;
    const dropped = callTool(
      client,
      { name: 'progress', arguments: { steps: 3, ms: 100 }, _meta: { progressToken: 1 } },
      { signal: abort.signal },
    );
    await (await dropped).body!.getReader().read();
    abort.abort();
    await new Promise((resolve) => setTimeout(resolve, 500));
    expect((await client.call('write_file', { path: file, text: 'x' })).result.content[0].text).toBe(
      'written',
    );
    expect((await client.call('cancellations')).result.structuredContent.cancelled.length).toBe(before);
  });
});

describe('questions of a server', () => {
  it('come on the stream of the call that caused them, with ids of the gateway’s own', async () => {
    const client = await connected('/asks/mcp', undefined, { elicitation: {}, sampling: {} });
    const response = await callTool(client, { name: 'ask' });
    const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
    let text = '';
    const next = async () => {
      for (;;) {
        while (!text.includes('\n\n')) text += (await reader.read()).value ?? '';
        const event = text.slice(0, text.indexOf('\n\n'));
        text = text.slice(event.length + 2);
        const data = /^data: (.+)$/m.exec(event)?.[1];
        if (data !== undefined) return JSON.parse(data);
      }
    };
    const question = await next();
    expect(question).toMatchObject({ method: 'elicitation/create', params: { mode: 'form' } });
    expect(typeof question.id).toBe('string');
    // Another session cannot answer it.
    const stranger = await connected('/asks/mcp', undefined, { elicitation: {} });
    const forged = {
      jsonrpc: '2.0',
      id: question.id,
      result: { action: 'accept', content: { answer: 'forged' } },
    };
    expect((await stranger.post(forged)).status).toBe(202);
    const genuine = {
      jsonrpc: '2.0',
      id: question.id,
      result: { action: 'accept', content: { answer: 'mine' }, x: 1 },
    };
    expect((await client.post(genuine)).status).toBe(202);
    const answer = await next();
    expect(answer.id).toBe(1);
    expect(JSON.parse(answer.result.content[0].text)).toEqual({ result: genuine.result });
  });

  it('are declined when nobody answers in time, and the client is told that they are void', async () => {
    const client = await connected('/asks/mcp', undefined, { elicitation: {} });
    const { before, answer } = await client.request('tools/call', { name: 'ask' });
    expect(JSON.parse(answer.result.content[0].text)).toEqual({ result: { action: 'decline' } });
    expect(before.map(({ method }) => method)).toEqual(['elicitation/create', 'notifications/cancelled']);
    expect(before[1].params.requestId).toBe(before[0].id);
  });

  it('are declined for a client that cannot receive them', async () => {
    const client = await connected('/asks/mcp', undefined, { elicitation: {} });
    const { messages } = await client.post(
      { jsonrpc: '2.0', id: 1, method: 'tools/call', params: { name: 'ask' } },
      { accept: 'application/json' },
    );
    expect(JSON.parse(messages[0].result.content[0].text)).toEqual({ result: { action: 'decline' } });
  });
});

describe('batches', () => {
  it('are answered on 2025-03-26, in one array or one stream', async () => {
    const client = await connected('/everything/mcp', '2025-03-26');
    const echo = (id: unknown, text: string) => ({
      jsonrpc: '2.0',
      id,
      method: 'tools/call',
      params: { name: 'echo', arguments: { text } },
    });
    const plain = await client.post([
      echo(1, 'one'),
      { jsonrpc: '2.0', method: 'notifications/initialized' },
      echo('1', 'two'),
      { jsonrpc: '2.0', id: 3, method: 'nonsense' },
      { not: 'a message' },
    ]);
    expect(plain.type).toBe('application/json');
    expect(plain.messages.map(({ id }) => id)).toEqual([1, '1', 3, null]);
    expect(plain.messages[1].result.content[0].text).toBe('two');
    expect(plain.messages.slice(2).map(({ error }) => error.code)).toEqual([-32601, -32600]);

    const streamed = await client.post([
      echo(1, 'one'),
      {
        jsonrpc: '2.0',
        id: 2,
        method: 'tools/call',
        params: { name: 'progress', arguments: { steps: 1, ms: 1 }, _meta: { progressToken: 'x' } },
      },
    ]);
    expect(streamed.type).toBe('text/event-stream');
    expect(streamed.messages.filter(({ id }) => id !== undefined).map(({ id }) => id)).toEqual([1, 2]);

    expect((await client.post([{ jsonrpc: '2.0', method: 'notifications/initialized' }])).status).toBe(202);
  });

  it('are refused where they do not belong: other versions, empty, too long, with initialize', async () => {
    const ping = { jsonrpc: '2.0', id: 1, method: 'ping' };
    const newer = await connected('/tiny/mcp', '2025-06-18');
    expect(await newer.post([ping])).toMatchObject({ status: 400, messages: [{ error: { code: -32600 } }] });
    const client = await connected('/tiny/mcp', '2025-03-26');
    for (const body of [[], Array(101).fill(ping)]) {
      expect(await client.post(body)).toMatchObject({ status: 400, messages: [{ error: { code: -32600 } }] });
    }
    const { messages } = await client.post([{ ...ping, method: 'initialize' }]);
    expect(messages[0].error.code).toBe(-32600);
    expect((await client.post(ping)).messages[0].result).toEqual({});
  });
});

describe('bad input', () => {
  it.each([
    ['not JSON', '{"jsonrpc":', -32700],
    ['nothing', '', -32700],
    ['a number', '7', -32600],
    ['null', 'null', -32600],
    ['no version', '{"id":1,"method":"ping"}', -32600],
    ['a wrong version', '{"jsonrpc":"1.0","id":1,"method":"ping"}', -32600],
    ['an object as id', '{"jsonrpc":"2.0","id":{},"method":"ping"}', -32600],
    ['null as id', '{"jsonrpc":"2.0","id":null,"method":"ping"}', -32600],
    ['a fraction as id', '{"jsonrpc":"2.0","id":1.5,"method":"ping"}', -32600],
    ['a number as method', '{"jsonrpc":"2.0","id":1,"method":7}', -32600],
    ['an array as params', '{"jsonrpc":"2.0","id":1,"method":"ping","params":[]}', -32600],
    ['both result and error', '{"jsonrpc":"2.0","id":1,"result":{},"error":{"code":1,"message":""}}', -32600],
    [
      'deep nesting',
      `{"jsonrpc":"2.0","id":1,"method":"ping","params":{"a":${'['.repeat(5000)}${']'.repeat(5000)}}}`,
      -32600,
    ],
  ])('%s gets its code, and the connection goes on', async (_what, body, code) => {
    const client = await connected('/tiny/mcp');
    const { status, messages } = await client.post(body);
    expect(status).toBe(400);
    expect(messages[0]).toMatchObject({ jsonrpc: '2.0', error: { code } });
    expect((await client.post({ jsonrpc: '2.0', id: 2, method: 'ping' })).messages[0].result).toEqual({});
  });

  it('too large a body is refused, declared or not, on a connection that goes on', async () => {
    const client = await connected('/tiny/mcp');
    const body = JSON.stringify({
      jsonrpc: '2.0',
      id: 1,
      method: 'ping',
      params: { x: 'x'.repeat(110_000) },
    });
    expect(await client.post(body)).toMatchObject({ status: 413, messages: [{ error: { code: -32600 } }] });
    const headers = { 'content-type': 'application/json', host: 'localhost', 'transfer-encoding': 'chunked' };
    expect((await rawRequest({ method: 'POST', path: '/mcp', headers, body })).status).toBe(413);
    expect((await client.post({ jsonrpc: '2.0', id: 2, method: 'ping' })).status).toBe(200);
  });

  it.each([
    'text/plain',
    'application/x-www-form-urlencoded',
    'multipart/form-data',
    'application/jsonx',
    '',
  ])('content type %j is refused', async (type) => {
    const client = await connected('/tiny/mcp');
    const answer = await client.post('{"jsonrpc":"2.0","id":1,"method":"ping"}', { 'content-type': type });
    expect(answer.status).toBe(415);
  });

  it('content types that mean JSON are taken', async () => {
    const client = await connected('/tiny/mcp');
    for (const type of ['application/json; charset=utf-8', 'APPLICATION/JSON', 'application/json-rpc']) {
      const answer = await client.post('{"jsonrpc":"2.0","id":1,"method":"ping"}', { 'content-type': type });
      expect(answer.status).toBe(200);
    }
  });

  it('other methods are 405 with Allow, and a person with curl is told what this is', async () => {
    const put = await fetch(gateway.url('/mcp'), { method: 'PUT' });
    expect([put.status, put.headers.get('allow')]).toEqual([405, 'GET, POST, DELETE']);
    const curl = await rawRequest({ path: '/mcp', headers: { host: 'localhost:8000', accept: '*/*' } });
    expect(curl.status).toBe(406);
    expect(curl.text).toContain('claude mcp add --transport http mcp-gateway http://localhost:8000/mcp');
  });
});

describe('the guard on every route', () => {
  const routes = ['/', '/mcp', '/tiny/mcp', '/health', '/servers', '/tiny/tools', '/nothing/at/all'];

  it.each(routes)('%s: a foreign Host or Origin is 403', async (path) => {
    for (const headers of [
      { host: 'evil.example' },
      { host: 'localhost', origin: 'http://evil.example' },
      { host: 'localhost', origin: 'null' },
    ]) {
      const { status, text } = await rawRequest({
        path,
        headers: headers as unknown as Record<string, string>,
      });
      expect(status).toBe(403);
      expect(JSON.parse(text)).toMatchObject(
        path.endsWith('mcp') ? { error: { code: -32000 } } : { status: 403 },
      );
    }
    expect((await rawRequest({ path, headers: { host: 'gateway.lan:80' } })).status).not.toBe(403);
  });

  it('lets listed origins call, preflight included, and tells others nothing', async () => {
    const headers = {
      host: 'localhost',
      'access-control-request-method': 'POST',
      'access-control-request-headers': 'mcp-session-id',
    };
    const preflight = await rawRequest({
      method: 'OPTIONS',
      path: '/mcp',
      headers: { ...headers, origin: 'https://app.example' },
    });
    expect(preflight.status).toBe(204);
    expect(preflight.headers).toMatchObject({
      'access-control-allow-origin': 'https://app.example',
      'access-control-allow-headers': 'mcp-session-id',
    });
    const answer = await rawRequest({
      path: '/health',
      headers: { host: 'localhost', origin: 'https://app.example' },
    });
    expect(answer.headers['access-control-allow-origin']).toBe('https://app.example');
    const other = await rawRequest({
      method: 'OPTIONS',
      path: '/mcp',
      headers: { ...headers, origin: 'https://evil.example' },
    });
    expect(other.status).toBe(403);
    expect(other.headers['access-control-allow-origin']).toBeUndefined();
  });
});
