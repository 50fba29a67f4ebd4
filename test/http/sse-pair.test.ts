import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { SSEClientTransport } from '@modelcontextprotocol/sdk/client/sse.js';
import {
  CreateMessageRequestSchema,
  LoggingMessageNotificationSchema,
  ResourceUpdatedNotificationSchema,
  ToolListChangedNotificationSchema,
} from '@modelcontextprotocol/sdk/types.js';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startGateway, type TestGateway } from '../harness.ts';
import { until } from '../waiting.ts';

const info = { name: 'test-client', version: '1.2.3' };
const initialize = (protocolVersion = '2024-11-05') => ({
  jsonrpc: '2.0',
  id: 'init',
  method: 'initialize',
  params: { protocolVersion, capabilities: {}, clientInfo: info },
});
const initialized = { jsonrpc: '2.0', method: 'notifications/initialized' };
const ping = { jsonrpc: '2.0', id: 1, method: 'ping' };

let gateway: TestGateway;

beforeAll(async () => {
  gateway = await startGateway({
    servers: { everything: {}, tiny: {}, own: { fixture: 'everything', isolation: 'session' } },
    gateway: { max_body: '100k', max_sessions: 20 },
  });
  await gateway.settled();
});
afterAll(() => gateway?.[Symbol.asyncDispose]());

async function connected(endpoint = '/sse', capabilities: object = {}) {
  const client = new Client(info, { capabilities });
  await client.connect(new SSEClientTransport(gateway.url(endpoint)));
  return client;
}

/** The pair without any library. */
class RawPair {
  // biome-ignore lint/suspicious/noExplicitAny: a test reads whatever came
  readonly messages: any[] = [];
  readonly ended: Promise<void>;
  readonly address: URL;
  readonly #abort: AbortController;

  constructor(address: URL, rest: AsyncIterator<string>, abort: AbortController) {
    this.address = address;
    this.#abort = abort;
    this.ended = (async () => {
      for (let next = await rest.next(); !next.done; next = await rest.next()) {
        const data = /^event: message\ndata: (.*)$/m.exec(next.value)?.[1];
        if (data !== undefined) this.messages.push(JSON.parse(data));
      }
    })().catch(() => {});
  }

  static async open(from = gateway, endpoint = '/sse'): Promise<RawPair> {
    const abort = new AbortController();
    const response = await fetch(from.url(endpoint), { signal: abort.signal });
    expect(response.status).toBe(200);
    expect(response.headers.get('content-type')).toBe('text/event-stream');
    const events = eventsOf(response);
    const first = (await events.next()).value!;
    const address = /^event: endpoint\ndata: (.*)$/.exec(first)?.[1];
    expect(first, first).toMatch(/^event: endpoint\ndata: \//);
    return new RawPair(from.url(address!), events, abort);
  }

  async post(body: unknown, headers: Record<string, string> = {}, address = this.address) {
    const response = await fetch(address, {
      method: 'POST',
      headers: { 'content-type': 'application/json', ...headers },
      body: typeof body === 'string' ? body : JSON.stringify(body),
    });
    const text = await response.text();
    return { status: response.status, text, error: text === '' ? undefined : JSON.parse(text).error };
  }

  async initialize(version?: string) {
    expect((await this.post(initialize(version))).status).toBe(202);
    const answer = await this.answered('init');
    expect((await this.post(initialized)).status).toBe(202);
    return answer;
  }

  // biome-ignore lint/suspicious/noExplicitAny: a test reads whatever came
  answered(id: unknown): Promise<any> {
    return until(() => this.messages.find((message) => message.id === id), `answer to ${id}`);
  }

  async close(): Promise<void> {
    this.#abort.abort();
    await this.ended;
  }
}

async function* eventsOf(response: Response): AsyncGenerator<string> {
  let rest = '';
  const decoder = new TextDecoder();
  for await (const chunk of response.body!) {
    const events = (rest + decoder.decode(chunk, { stream: true })).split('\n\n');
    rest = events.pop()!;
    yield* events;
  }
}

describe('a client of HTTP+SSE', () => {
  it('works with all servers, and with one under its bare names', async () => {
    const all = await connected();
    expect(await all.callTool({ name: 'tiny__echo', arguments: { text: 'hello' } })).toMatchObject({
      content: [{ type: 'text', text: 'hello' }],
    });
    const one = await connected('/tiny/sse');
    expect((await one.listTools()).tools.map(({ name }) => name)).toEqual(['echo']);
    await Promise.all([all.close(), one.close()]);
  });

  it('gets what belongs to its calls and its session, and answers questions', async () => {
    const client = await connected('/everything/sse', { sampling: {} });
    const seen: string[] = [];
    client.setRequestHandler(CreateMessageRequestSchema, () => ({
      model: 'none',
      role: 'assistant' as const,
      content: { type: 'text' as const, text: 'from the client' },
    }));
    client.setNotificationHandler(LoggingMessageNotificationSchema, ({ params }) => {
      seen.push(`log ${params.data}`);
    });
    client.setNotificationHandler(ResourceUpdatedNotificationSchema, ({ params }) => {
      seen.push(`updated ${params.uri}`);
    });
    client.setNotificationHandler(ToolListChangedNotificationSchema, () => {
      seen.push('tools');
    });
    const asked = await client.callTool({ name: 'ask_sampling', arguments: { prompt: 'say' } });
    expect(JSON.stringify(asked.content)).toContain('from the client');

    const steps: number[] = [];
    await client.callTool({ name: 'progress', arguments: { steps: 3, ms: 1 } }, undefined, {
      onprogress: ({ progress }) => steps.push(progress),
    });
    expect(steps).toEqual([1, 2, 3]);

    await client.setLoggingLevel('info');
    await client.callTool({ name: 'log', arguments: { level: 'info', text: 'a line' } });
    await client.subscribeResource({ uri: 'test://watched-resource' });
    await client.callTool({ name: 'touch_resource', arguments: {} });
    await client.callTool({ name: 'add_tool', arguments: { name: 'of_the_pair' } });
    for (const expected of ['log a line', 'updated test://watched-resource', 'tools'])
      await until(() => seen.includes(expected), expected);
    await client.close();
  });

  it.each(['2024-11-05', '2025-03-26', '2025-06-18', '2025-11-25'])('agrees on %s', async (version) => {
    const pair = await RawPair.open();
    expect((await pair.initialize(version)).result.protocolVersion).toBe(version);
    await pair.close();
  });

  it('has an instance of its own that ends with its stream, and its calls with it', async () => {
    const client = await connected('/own/sse');
    const call = client.callTool({ name: 'sleep', arguments: { ms: 60_000 } }).catch(() => {});
    const instances = () => gateway.app.fleet.status('own').instances;
    await until(() => instances().some(({ leases }) => leases === 1), 'the call runs');
    await client.close();
    await call;
    await until(() => instances().length === 0, 'no instance is left');
  });

  it('cancels a call', async () => {
    const pair = await RawPair.open(gateway, '/own/sse');
    await pair.initialize();
    const params = { name: 'sleep', arguments: { ms: 60_000 } };
    await pair.post({ jsonrpc: '2.0', id: 7, method: 'tools/call', params });
    const leases = () => gateway.app.fleet.status('own').instances.map((instance) => instance.leases);
    await until(() => leases()[0] === 1, 'the call runs');
    await pair.post({ jsonrpc: '2.0', method: 'notifications/cancelled', params: { requestId: 7 } });
    await until(() => leases()[0] === 0, 'the call is over');
    expect(pair.messages.map(({ id }) => id)).toEqual(['init']);
    await pair.close();
  });
});

describe('the address of a stream', () => {
  it('is worthless elsewhere and when the stream is closed', async () => {
    const pair = await RawPair.open(gateway, '/tiny/sse');
    expect(pair.address.pathname).toBe('/tiny/messages');
    expect(pair.address.searchParams.get('sessionId')!.length).toBeGreaterThanOrEqual(32);
    await pair.initialize();
    const id = pair.address.searchParams.get('sessionId');
    for (const endpoint of ['/messages', '/everything/messages']) {
      const answer = await pair.post(ping, {}, gateway.url(`${endpoint}?sessionId=${id}`));
      expect(answer).toMatchObject({ status: 404, error: { code: -32001 } });
    }
    expect(await pair.post(ping)).toMatchObject({ status: 202 });
    await pair.close();
    await until(async () => (await pair.post(ping)).status === 404, 'the id is unknown');
  });

  it('has an id (400) that exists (404)', async () => {
    const pair = await RawPair.open();
    const at = (address: string) => pair.post(ping, {}, gateway.url(address));
    expect(await at('/messages')).toMatchObject({ status: 400, error: { code: -32000 } });
    const unknown = await at('/messages?sessionId=nonsense');
    expect(unknown).toMatchObject({ status: 404, error: { code: -32001 } });
    expect(unknown.error.message).toContain('GET /sse');
    await pair.close();
  });

  it('is for its own method', async () => {
    const post = await fetch(gateway.url('/sse'), { method: 'POST', body: '{}' });
    expect(post.status).toBe(405);
    expect(post.headers.get('allow')).toBe('GET');
    expect(await post.text()).toContain('/mcp');
    expect((await fetch(gateway.url('/messages?sessionId=x'))).headers.get('allow')).toBe('POST');
    expect((await fetch(gateway.url('/nobody/sse'))).status).toBe(404);
    expect((await fetch(gateway.url('/sse'), { headers: { accept: 'application/json' } })).status).toBe(406);
    expect((await fetch(gateway.url('/sse'), { headers: { origin: 'https://evil.example' } })).status).toBe(
      403,
    );
  });
});

describe('what cannot be taken', () => {
  it.each([
    ['no JSON', '{"jsonrpc"', {}, 400, -32700],
    ['no message', '{}', {}, 400, -32600],
    ['a wrong content type', ping, { 'content-type': 'text/plain' }, 415, -32600],
    ['a body that is too large', { ...ping, params: { x: 'x'.repeat(110_000) } }, {}, 413, -32600],
    ['a batch', [ping], {}, 400, -32600],
    ['a second initialize', initialize(), {}, 400, -32600],
  ] as const)('is refused: %s', async (_name, body, headers, status, code) => {
    const pair = await RawPair.open();
    await pair.initialize();
    expect(await pair.post(body, headers)).toMatchObject({ status, error: { code } });
    expect(await pair.post(ping)).toMatchObject({ status: 202 });
    expect(await pair.answered(1)).toEqual({ jsonrpc: '2.0', id: 1, result: {} });
    await pair.close();
  });

  it('is refused before initialize, and waits while that is answered', async () => {
    const pair = await RawPair.open();
    expect(await pair.post(ping)).toMatchObject({ status: 400, error: { code: -32000 } });
    expect(await pair.post(initialized)).toMatchObject({ status: 400 });
    expect(pair.messages).toEqual([]);
    const statuses = await Promise.all([pair.post(initialize()), pair.post(ping)]);
    if (statuses[1].status === 202) expect((await pair.answered(1)).result).toEqual({});
    await pair.answered('init');
    await pair.close();
  });

  it('is taken as a batch where the version has batches, and answered as one', async () => {
    const pair = await RawPair.open();
    await pair.initialize('2025-03-26');
    expect(
      (await pair.post([initialized, ping, { ...ping, id: 2 }, { id: 3 }, { ...initialize() }])).status,
    ).toBe(202);
    const batch = await until(() => pair.messages.find((message) => Array.isArray(message)), 'the batch');
    expect(batch).toMatchObject([
      { id: 1, result: {} },
      { id: 2, result: {} },
      { id: 3, error: { code: -32600 } },
      { id: 'init', error: { code: -32600 } },
    ]);
    expect(await pair.post([])).toMatchObject({ status: 400 });
    expect(await pair.post(Array(101).fill(ping))).toMatchObject({ status: 400 });
    await pair.close();
  });
});

describe('streams', () => {
  it('are bounded in number, and make room when they close', async () => {
    const pairs: RawPair[] = [];
    for (let opened = 0; opened < 20; opened += 1) pairs.push(await RawPair.open());
    const refused = await fetch(gateway.url('/sse'));
    expect(refused.status).toBe(503);
    expect(await refused.text()).toContain('max_sessions');
    await pairs.pop()!.close();
    await until(async () => {
      const response = await fetch(gateway.url('/sse'));
      await response.body?.cancel();
      return response.status === 200;
    }, 'a stream is opened again');
    await Promise.all(pairs.map((pair) => pair.close()));
  });

  it('end when the gateway drains, those with a call after its answer', async () => {
    await using other = await startGateway({ servers: { everything: {} } });
    await other.settled();
    const busy = await RawPair.open(other, '/everything/sse');
    const idle = await RawPair.open(other, '/everything/sse');
    await busy.initialize();
    await idle.initialize();
    const params = { name: 'sleep', arguments: { ms: 1500 } };
    await busy.post({ jsonrpc: '2.0', id: 1, method: 'tools/call', params });
    await until(() => other.app.fleet.status('everything').instances[0]?.leases === 1, 'the call runs');
    const drained = other.app.drain();
    await idle.ended;
    expect((await fetch(other.url('/sse'))).status).toBe(503);
    expect(await busy.post(ping)).toMatchObject({ status: 503 });
    await busy.ended;
    expect(busy.messages.at(-1)).toMatchObject({ id: 1, result: { content: [{ text: 'slept 1500 ms' }] } });
    await drained;
  });
});
