import { ElicitRequestSchema } from '@modelcontextprotocol/sdk/types.js';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startGateway, type TestGateway } from '../harness.ts';
import { connectV1, RawHttpClient } from './clients.ts';

let gateway: TestGateway;

beforeAll(async () => {
  gateway = await startGateway({
    servers: {
      everything: { description: 'All there is' },
      broken: { fixture: 'exits-at-once' },
      off: { fixture: 'tiny', enabled: false },
      own: { fixture: 'everything', isolation: 'session' },
    },
    gateway: { max_body: '16k' },
  });
  await gateway.settled();
});
afterAll(() => gateway?.[Symbol.asyncDispose]());

const get = async (path: string, init?: RequestInit) => {
  const response = await fetch(gateway.url(path), init);
  const text = await response.text();
  const type = response.headers.get('content-type') ?? '';
  return {
    status: response.status,
    type,
    text,
    headers: response.headers,
    body: type.includes('json') ? JSON.parse(text) : text,
  };
};
const call = (path: string, body: unknown, headers = {}) =>
  get(path, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...headers },
    body: typeof body === 'string' ? body : JSON.stringify(body),
  });

describe('the plain routes', () => {
  it('say what this is and how it is', async () => {
    expect(await get('/')).toMatchObject({
      status: 200,
      body: { name: 'mcp-gateway', version: '0.0.0-test', servers: ['everything', 'broken', 'off', 'own'] },
    });
    const { status, body } = await get('/health');
    expect([status, body.status]).toEqual([200, 'ok']);
    expect(body.uptime).toBeGreaterThanOrEqual(0);
    expect(Object.values(body.servers as Record<string, number>).reduce((a, b) => a + b)).toBe(4);
    expect(body.servers).toMatchObject({ disabled: 1 });
    expect((await get('/health/live')).status).toBe(200);
    expect((await get('/health/ready')).status).toBe(200);
  });

  it('show every server as it stands', async () => {
    await call('/everything/tools/echo', { text: 'x' });
    const { body } = await get('/servers');
    expect(body.servers.map(({ name, state }: { name: string; state: string }) => [name, state])).toEqual([
      ['everything', 'ready'],
      ['broken', expect.stringMatching(/failed|starting/)],
      ['off', 'disabled'],
      ['own', expect.any(String)],
    ]);
    const everything = (await get('/servers/everything')).body;
    expect(everything).toMatchObject({
      name: 'everything',
      type: 'process',
      description: 'All there is',
      state: 'ready',
    });
    expect(everything.tools).toBeGreaterThan(40);
    expect(everything.instances).toEqual([
      {
        id: expect.any(String),
        state: 'ready',
        leases: expect.any(Number),
        started_at: expect.any(String),
        memory: expect.any(Number),
        cpu: expect.any(Number),
      },
    ]);
    const broken = (await get('/servers/broken')).body;
    // It is tried again and again.
    expect(broken).toMatchObject({ state: expect.stringMatching(/failed|starting/), tools: 0 });
    expect(broken.last_error.message).toContain('broken');
    expect(broken.last_error.hint).toEqual(expect.any(String));
  });

  it('list and call tools by their own names', async () => {
    const { body } = await get('/everything/tools');
    expect(body.tools.map(({ name }: { name: string }) => name)).toContain('echo');
    expect(await call('/everything/tools/add', { a: 1, b: 2 })).toMatchObject({
      status: 200,
      body: { structuredContent: { sum: 3 } },
    });
    expect((await get('/everything/tools/pid', { method: 'POST' })).body.content[0].text).toMatch(/^\d+$/);
    expect(await call('/everything/tools/fail', { message: 'no' })).toMatchObject({
      status: 200,
      body: { isError: true, content: [{ text: 'no' }] },
    });
    expect((await call('/own/tools/counter', {})).body.content[0].text).toMatch(/^\d+$/);
  });

  it('decline what a tool asks its client, as there is none', async () => {
    const { body } = await call('/everything/tools/ask_elicitation', { force: true });
    expect(JSON.parse(body.content[0].text)).toEqual({ result: { action: 'decline' } });
  });

  it('give a server’s output, once or as it comes', async () => {
    await call('/everything/tools/stderr', { text: 'first words' });
    const once = await get('/servers/everything/logs?tail=1');
    expect(once).toMatchObject({ status: 200, text: 'first words\n' });
    expect(once.type).toContain('text/plain');
    const lines = await get('/servers/everything/logs?tail=1', { headers: { accept: 'application/json' } });
    expect(lines.body).toEqual({ lines: ['first words'] });
    expect((await get('/servers/everything/logs?tail=-1')).status).toBe(400);

    const abort = new AbortController();
    const following = await fetch(gateway.url('/servers/everything/logs?follow=1&tail=0'), {
      signal: abort.signal,
    });
    const reader = following.body!.pipeThrough(new TextDecoderStream()).getReader();
    await call('/everything/tools/stderr', { text: 'more words' });
    let text = '';
    while (!text.includes('\n')) text += (await reader.read()).value ?? '';
    expect(text).toBe('more words\n');
    abort.abort();
  });

  it.each([
    ['GET', '/nothing', 404, 'route_unknown'],
    ['GET', '/servers/everthing', 404, 'server_unknown'],
    ['GET', '/everthing/tools', 404, 'server_unknown'],
    ['GET', '/everything/nothing', 404, 'route_unknown'],
    ['POST', '/everything/tools/ecko', 404, 'tool_unknown'],
    ['POST', '/broken/tools/any', 502, undefined],
    ['POST', '/off/tools/echo', 503, 'server_disabled'],
    ['DELETE', '/health', 405, 'method_not_allowed'],
    ['GET', '/everything/tools/echo', 405, 'method_not_allowed'],
    ['POST', '/servers', 405, 'method_not_allowed'],
  ])('%s %s is a problem that helps: %i', async (method, path, status, code) => {
    const answer = await get(path, { method });
    expect(answer.status).toBe(status);
    expect(answer.type).toBe('application/problem+json');
    expect(answer.body).toMatchObject({
      type: expect.any(String),
      title: expect.any(String),
      status,
      detail: expect.any(String),
      hint: expect.any(String),
      ...(code && { code }),
    });
    if (status === 405) expect(answer.headers.get('allow')).toBeTruthy();
    if (code === 'server_unknown') expect(answer.body.hint).toContain('everything');
  });

  it.each(['/metrics', '/events', '/openapi.json', '/docs', '/config', '/reload', '/dashboard'])(
    '%s is a 404 problem as long as there is nothing behind it',
    async (path) => {
      expect(await get(path)).toMatchObject({ status: 404, type: 'application/problem+json' });
    },
  );

  it('refuse arguments that are none', async () => {
    expect((await call('/everything/tools/echo', '[1]')).status).toBe(400);
    expect((await call('/everything/tools/echo', '{"text":')).status).toBe(400);
    expect((await call('/everything/tools/echo', { text: 'x'.repeat(20_000) })).status).toBe(413);
    expect((await call('/everything/tools/echo', '{}', { 'content-type': 'text/plain' })).status).toBe(415);
  });

  it('keep a server’s own error whole', async () => {
    const { status, body } = await call('/everything/tools/rpc_error', {
      code: -32077,
      message: 'mine',
      data: { a: 1 },
    });
    expect(status).toBe(502);
    expect(body).toMatchObject({
      server: 'everything',
      error: { code: -32077, message: 'mine', data: { a: 1 } },
    });
  });
});

describe('a restart', () => {
  it('keeps sessions with what they know; a deleted one stays unknown', async () => {
    const options = { servers: { everything: {} } };
    await using first = await startGateway(options);
    await first.settled();
    const client = new RawHttpClient(first, '/everything/mcp');
    await client.initialize();
    await client.request('logging/setLevel', { level: 'error' });
    await client.request('resources/subscribe', { uri: 'test://watched-resource' });
    const gone = new RawHttpClient(first, '/everything/mcp');
    await gone.initialize();
    await fetch(gone.url, { method: 'DELETE', headers: gone.headers });
    await first.stop();

    await using second = await startGateway({ ...options, folder: first.folder });
    const again = Object.assign(new RawHttpClient(second, '/everything/mcp'), { headers: client.headers });
    const stream = await again.listen();
    expect(stream.status).toBe(200);
    const quiet = await again.request('tools/call', { name: 'log', arguments: { level: 'info' } });
    expect(quiet.before).toEqual([]);
    const loud = await again.request('tools/call', {
      name: 'log',
      arguments: { level: 'error', text: 'heard' },
    });
    expect(loud.before[0].params.data).toBe('heard');
    await again.call('touch_resource');
    const deadline = Date.now() + 10_000;
    while (stream.messages.length === 0 && Date.now() < deadline)
      await new Promise((resolve) => setTimeout(resolve, 20));
    expect(stream.messages[0]).toMatchObject({ method: 'notifications/resources/updated' });
    stream.close();
    const late = Object.assign(new RawHttpClient(second, '/everything/mcp'), { headers: gone.headers });
    expect((await late.request('ping')).status).toBe(404);
  });

  it('keeps what was learnt: questions of simultaneous calls are told apart from the first one on', async () => {
    const options = { servers: { asks: { fixture: 'asks-the-user' } } };
    await using first = await startGateway(options);
    await first.settled();
    const ask = async (gateway: TestGateway, who: number) => {
      const client = await connectV1(gateway, '/asks/mcp', { elicitation: {} });
      client.setRequestHandler(ElicitRequestSchema, () => ({
        action: 'accept',
        content: { answer: `${who}` },
      }));
      const { content } = await client.callTool({ name: 'ask' });
      await client.close();
      return JSON.parse((content as { text: string }[])[0]!.text).result?.content.answer;
    };
    expect(await ask(first, 0)).toBe('0');
    await first.stop();
    await using second = await startGateway({ ...options, folder: first.folder });
    expect(await Promise.all([1, 2, 3, 4].map((who) => ask(second, who)))).toEqual(['1', '2', '3', '4']);
  });

  it('while draining finishes what runs, begins nothing new, and says so', async () => {
    await using draining = await startGateway({ servers: { everything: {} } });
    await draining.settled();
    const client = new RawHttpClient(draining, '/everything/mcp');
    await client.initialize();
    const stream = await client.listen();
    const running = client.request('tools/call', { name: 'sleep', arguments: { ms: 800 } });
    await new Promise((resolve) => setTimeout(resolve, 200));
    const drained = draining.app.drain();
    await stream.ended;
    expect((await fetch(draining.url('/health/ready'))).status).toBe(503);
    expect((await fetch(draining.url('/health'))).status).toBe(200);
    const refused = await client.request('ping');
    expect(refused).toMatchObject({ status: 503, answer: { error: { data: { code: 'draining' } } } });
    expect((await running).answer.result.content[0].text).toBe('slept 800 ms');
    await drained;
  });
});
