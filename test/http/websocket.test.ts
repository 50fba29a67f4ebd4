import { once } from 'node:events';
import { createServer, request } from 'node:http';
import type { AddressInfo } from 'node:net';
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { WebSocketClientTransport } from '@modelcontextprotocol/sdk/client/websocket.js';
import {
  ElicitRequestSchema,
  ResourceUpdatedNotificationSchema,
  ToolListChangedNotificationSchema,
} from '@modelcontextprotocol/sdk/types.js';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { WebSocket } from 'ws';
import { Channels } from '../../src/http/channel.ts';
import { WebSocketEndpoint } from '../../src/http/websocket.ts';
import { Events } from '../../src/observability/events.ts';
import { startGateway, type TestGateway } from '../harness.ts';
import { HeldClock } from '../lifecycle/held-clock.ts';
import { until } from '../waiting.ts';

const info = { name: 'test-client', version: '1.2.3' };
const initialize = (protocolVersion = '2025-11-25') => ({
  jsonrpc: '2.0',
  id: 'init',
  method: 'initialize',
  params: { protocolVersion, capabilities: {}, clientInfo: info },
});
const ping = { jsonrpc: '2.0', id: 1, method: 'ping' };

let gateway: TestGateway;

beforeAll(async () => {
  gateway = await startGateway({
    servers: { everything: {}, tiny: {}, own: { fixture: 'everything', isolation: 'session' } },
    gateway: { max_body: '100k', allowed_origins: ['https://app.example'] },
  });
  await gateway.settled();
});
afterAll(() => gateway?.[Symbol.asyncDispose]());

const address = (endpoint: string, from = gateway) => new URL(from.url(endpoint).href.replace(/^http/, 'ws'));

async function connected(endpoint = '/mcp', capabilities: object = {}) {
  const client = new Client(info, { capabilities });
  await client.connect(new WebSocketClientTransport(address(endpoint)));
  return client;
}

/** A socket without any client around it. */
class RawSocket {
  // biome-ignore lint/suspicious/noExplicitAny: a test reads whatever came
  readonly messages: any[] = [];
  readonly socket: WebSocket;
  readonly closed: Promise<{ code: number; reason: string }>;

  constructor(socket: WebSocket) {
    this.socket = socket;
    socket.on('message', (data, isBinary) => {
      expect(isBinary).toBe(false);
      this.messages.push(JSON.parse(String(data)));
    });
    socket.on('error', () => {});
    this.closed = once(socket, 'close').then(([code, reason]) => ({ code, reason: String(reason) }));
  }

  static async open(endpoint = '/mcp', from = gateway, options: object = {}): Promise<RawSocket> {
    const raw = new RawSocket(new WebSocket(address(endpoint, from), 'mcp', options));
    await once(raw.socket, 'open');
    return raw;
  }

  send(message: unknown): void {
    this.socket.send(typeof message === 'string' ? message : JSON.stringify(message));
  }

  // biome-ignore lint/suspicious/noExplicitAny: a test reads whatever came
  answered(id: unknown): Promise<any> {
    return until(() => this.messages.find((message) => message.id === id), `answer to ${id}`);
  }

  async initialize(version?: string) {
    this.send(initialize(version));
    const answer = await this.answered('init');
    this.send({ jsonrpc: '2.0', method: 'notifications/initialized' });
    return answer;
  }

  async close() {
    this.socket.close();
    return this.closed;
  }
}

/** A request to upgrade; the answer's status and text, 101 when it was. */
function upgrade(path: string, headers: Record<string, string> = {}, from = gateway) {
  const { port } = new URL(from.origin);
  return new Promise<{ status: number; text: string; protocol?: string }>((resolve, reject) => {
    const outgoing = request({
      host: '127.0.0.1',
      port,
      path,
      headers: {
        connection: 'Upgrade',
        upgrade: 'websocket',
        'sec-websocket-version': '13',
        'sec-websocket-key': 'dGhlIHNhbXBsZSBub25jZQ==',
        ...headers,
      },
    });
    outgoing.on('upgrade', (answer, socket) => {
      socket.destroy();
      resolve({ status: 101, text: '', protocol: answer.headers['sec-websocket-protocol'] as string });
    });
    outgoing.on('response', async (answer) => {
      let text = '';
      for await (const chunk of answer) text += chunk;
      resolve({ status: answer.statusCode!, text });
    });
    outgoing.on('error', reject);
    outgoing.end();
  });
}

/** The endpoint without a gateway behind it: modern requests are answered with 20 MB. */
async function bare(options: { maxUnreadBytes?: number } = {}) {
  const clock = new HeldClock();
  const events = new Events();
  const dropped: object[] = [];
  events.on('client.dropped', (event) => dropped.push(event));
  const unused = () => {
    throw new Error('There is no session here');
  };
  const channels = new Channels({
    gateway: {
      initialize: unused,
      request: unused,
      notification: unused,
      response: unused,
      listen: unused,
      modern: async ({ id }) => ({ jsonrpc: '2.0', id, result: { text: 'x'.repeat(20_000_000) } }),
    },
    sessions: { hold: () => () => {}, end: () => {} },
    maxChannels: 10,
    isAccepting: () => true,
  });
  const endpoint = new WebSocketEndpoint({
    channels,
    maxBodyBytes: 1000,
    checkScope() {},
    events,
    clock,
    ...options,
  });
  const server = createServer().listen(0, '127.0.0.1');
  server.on('upgrade', (incoming, socket, head) => endpoint.upgrade(incoming, socket, head, undefined));
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  const sockets: WebSocket[] = [];
  return {
    clock,
    dropped,
    channels,
    endpoint,
    async open(client: object) {
      const socket = new WebSocket(`ws://127.0.0.1:${port}`, client);
      sockets.push(socket);
      await once(socket, 'open');
      return socket;
    },
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.terminate();
      server.close();
    },
  };
}

const instancesOf = (server: string, from = gateway) => from.app.fleet.status(server).instances;

describe('a client over WebSocket', () => {
  it('works with all servers, and with one under its bare names', async () => {
    const all = await connected();
    expect(await all.callTool({ name: 'tiny__echo', arguments: { text: 'hello' } })).toMatchObject({
      content: [{ type: 'text', text: 'hello' }],
    });
    const one = await connected('/tiny/mcp');
    expect((await one.listTools()).tools.map(({ name }) => name)).toEqual(['echo']);
    await Promise.all([all.close(), one.close()]);
  });

  it('gets what belongs to it, and answers questions', async () => {
    const client = await connected('/everything/mcp', { elicitation: { form: {} } });
    const seen: string[] = [];
    client.setRequestHandler(ElicitRequestSchema, () => ({ action: 'accept' as const, content: { a: 'b' } }));
    client.setNotificationHandler(ResourceUpdatedNotificationSchema, () => {
      seen.push('updated');
    });
    client.setNotificationHandler(ToolListChangedNotificationSchema, () => {
      seen.push('tools');
    });
    const asked = await client.callTool({ name: 'ask_elicitation', arguments: { message: 'say' } });
    expect(JSON.stringify(asked.content)).toContain('accept');
    await client.subscribeResource({ uri: 'test://watched-resource' });
    await client.callTool({ name: 'touch_resource', arguments: {} });
    await client.callTool({ name: 'add_tool', arguments: { name: 'of_the_socket' } });
    for (const expected of ['updated', 'tools']) await until(() => seen.includes(expected), expected);
    await client.close();
  });

  it('has many calls at once, answered as each is done', async () => {
    const raw = await RawSocket.open('/own/mcp');
    await raw.initialize();
    const call = (id: number, name: string, args: object) =>
      raw.send({ jsonrpc: '2.0', id, method: 'tools/call', params: { name, arguments: args } });
    call(1000, 'sleep', { ms: 800 });
    for (let id = 1; id <= 200; id += 1) call(id, 'echo', { text: `number ${id}` });
    for (let id = 1; id <= 200; id += 1)
      expect((await raw.answered(id)).result.content[0].text).toBe(`number ${id}`);
    expect((await raw.answered(1000)).result.content[0].text).toBe('slept 800 ms');
    expect(raw.messages.at(-1)!.id).toBe(1000);
    await raw.close();
  });

  it('has an instance of its own that ends with its socket, and its calls with it', async () => {
    const raw = await RawSocket.open('/own/mcp');
    await raw.initialize();
    const params = { name: 'sleep', arguments: { ms: 60_000 } };
    raw.send({ jsonrpc: '2.0', id: 1, method: 'tools/call', params });
    await until(() => instancesOf('own').some(({ leases }) => leases === 1), 'the call runs');
    raw.send({ jsonrpc: '2.0', method: 'notifications/cancelled', params: { requestId: 1 } });
    await until(() => instancesOf('own').some(({ leases }) => leases === 0), 'the call is over');
    raw.send({ jsonrpc: '2.0', id: 2, method: 'tools/call', params });
    await until(() => instancesOf('own').some(({ leases }) => leases === 1), 'the second call runs');
    raw.socket.terminate();
    await until(() => instancesOf('own').length === 0, 'no instance is left');
    expect(raw.messages.map(({ id }) => id)).toEqual(['init']);
  });

  it('gets a large result', async () => {
    const raw = await RawSocket.open('/everything/mcp', gateway, { maxPayload: 0 });
    await raw.initialize();
    const params = { name: 'big', arguments: { bytes: 9_000_000 } };
    raw.send({ jsonrpc: '2.0', id: 1, method: 'tools/call', params });
    expect((await raw.answered(1)).result.content[0].text).toHaveLength(9_000_000);
    await raw.close();
  });
});

describe('a modern client over WebSocket', () => {
  const modern = (id: unknown, method: string, params: object = {}) => ({
    jsonrpc: '2.0',
    id,
    method,
    params: {
      ...params,
      _meta: {
        'io.modelcontextprotocol/protocolVersion': '2026-07-28',
        'io.modelcontextprotocol/clientInfo': info,
        'io.modelcontextprotocol/clientCapabilities': {},
      },
    },
  });
  const call = (id: unknown, name: string, args: object) =>
    modern(id, 'tools/call', { name, arguments: args });

  it('needs no handshake, and shares its socket with a legacy session', async () => {
    const raw = await RawSocket.open('/tiny/mcp');
    raw.send(modern('a', 'server/discover'));
    expect((await raw.answered('a')).result.supportedVersions).toContain('2026-07-28');
    raw.send(call('b', 'echo', { text: 'modern' }));
    expect((await raw.answered('b')).result).toMatchObject({
      resultType: 'complete',
      content: [{ text: 'modern' }],
    });
    await raw.initialize();
    raw.send({
      jsonrpc: '2.0',
      id: 'c',
      method: 'tools/call',
      params: call(0, 'echo', { text: 'legacy' }).params,
    });
    raw.send({ ...ping, method: 'tools/call', params: { name: 'echo', arguments: { text: 'legacy' } } });
    const { result } = await raw.answered(1);
    expect(result.content[0].text).toBe('legacy');
    expect(result).not.toHaveProperty('resultType');
    await raw.answered('c');
    await raw.close();
  });

  it('gets errors in the words of its era', async () => {
    const raw = await RawSocket.open();
    const { params } = modern(0, 'ping');
    raw.send({
      ...modern(1, 'server/discover'),
      params: { _meta: { ...params._meta, 'io.modelcontextprotocol/protocolVersion': '2099-01-01' } },
    });
    expect((await raw.answered(1)).error.code).toBe(-32022);
    raw.send(modern(2, 'nonsense'));
    expect((await raw.answered(2)).error.code).toBe(-32601);
    await raw.close();
  });

  it('cancels a call by its id, and all of them by closing the socket', async () => {
    await using other = await startGateway({ servers: { everything: {} } });
    await other.settled();
    const leases = () => instancesOf('everything', other)[0]?.leases ?? 0;
    const raw = await RawSocket.open('/everything/mcp', other);
    for (const id of [1, 'two', 3]) raw.send(call(id, 'sleep', { ms: 60_000 }));
    await until(() => leases() === 3, 'three calls run');
    raw.send({ jsonrpc: '2.0', method: 'notifications/cancelled', params: { requestId: 'two' } });
    await until(() => leases() === 2, 'two calls run');
    raw.send(modern(4, 'server/discover'));
    await raw.answered(4);
    expect(raw.messages).toHaveLength(1);
    raw.socket.terminate();
    await until(() => leases() === 0, 'no call runs');
  });

  it('that uses an id twice leaves nothing behind', async () => {
    await using other = await startGateway({ servers: { everything: {} }, gateway: { max_sessions: 2 } });
    await other.settled();
    const leases = () => instancesOf('everything', other)[0]?.leases ?? 0;
    const listen = modern('same', 'subscriptions/listen', { notifications: {} });
    const acknowledged = ({ messages }: RawSocket) =>
      messages.filter(({ method }) => method === 'notifications/subscriptions/acknowledged').length;
    const raw = await RawSocket.open('/everything/mcp', other);
    for (const message of [
      listen,
      listen,
      call(1, 'sleep', { ms: 60_000 }),
      call(1, 'sleep', { ms: 60_000 }),
    ])
      raw.send(message);
    await until(() => acknowledged(raw) === 2 && leases() === 2, 'all of them are under way');
    raw.socket.terminate();
    await until(() => leases() === 0, 'no call runs');
    const next = await RawSocket.open('/everything/mcp', other);
    next.send(listen);
    await until(() => acknowledged(next) === 1, 'there is room for another listen stream');
    await next.close();
  });

  it('listens more than once on its socket, until it cancels or the gateway ends', async () => {
    await using other = await startGateway({ servers: { everything: {} } });
    await other.settled();
    const raw = await RawSocket.open('/everything/mcp', other);
    const listen = (id: string, notifications: object) =>
      raw.send(modern(id, 'subscriptions/listen', { notifications }));
    const told = (id: string) =>
      raw.messages
        .filter(({ params }) => params?._meta?.['io.modelcontextprotocol/subscriptionId'] === id)
        .map(({ method }) => method);
    listen('tools', { toolsListChanged: true });
    listen('prompts', { promptsListChanged: true });
    await until(() => told('tools').length + told('prompts').length === 2, 'both are acknowledged');
    raw.send(call(1, 'add_tool', { name: 'another' }));
    raw.send(call(2, 'add_prompt', { name: 'another' }));
    await until(() => told('tools').length === 2 && told('prompts').length === 2, 'each is told');
    expect(told('tools')[1]).toBe('notifications/tools/list_changed');
    expect(told('prompts')[1]).toBe('notifications/prompts/list_changed');
    raw.send({ jsonrpc: '2.0', method: 'notifications/cancelled', params: { requestId: 'tools' } });
    raw.send(call(3, 'add_tool', { name: 'one-more' }));
    await raw.answered(3);
    const drained = other.app.drain();
    expect(await raw.answered('prompts')).toHaveProperty('result');
    expect((await raw.closed).code).toBe(1001);
    await drained;
    expect(told('tools')).toHaveLength(2);
    expect(raw.messages.some(({ id }) => id === 'tools')).toBe(false);
  });
});

describe('messages on a socket', () => {
  it('are answered with errors where they cannot be taken, and the socket goes on', async () => {
    const raw = await RawSocket.open();
    raw.send(ping);
    expect(await raw.answered(1)).toMatchObject({
      error: { code: -32000, data: { code: 'session_missing' } },
    });
    raw.send({ jsonrpc: '2.0', method: 'notifications/initialized' });
    await raw.initialize();
    const refused = async (message: unknown, code: number, id: unknown = null) => {
      raw.messages.length = 0;
      raw.send(message);
      expect(await raw.answered(id)).toMatchObject({ error: { code } });
    };
    await refused('{"jsonrpc"', -32700);
    await refused('{}', -32600);
    await refused({ id: 5, method: 'ping' }, -32600, 5);
    await refused([ping], -32600);
    await refused(initialize(), -32600, 'init');
    await refused({ jsonrpc: '2.0', id: 6, method: 'nonsense' }, -32601, 6);
    raw.messages.length = 0;
    raw.send({ ...ping, id: 7 });
    expect((await raw.answered(7)).result).toEqual({});
    expect(raw.messages).toHaveLength(1);
    await raw.close();
  });

  it('wait for the answer of initialize', async () => {
    const raw = await RawSocket.open('/tiny/mcp');
    raw.send(initialize());
    raw.send({ jsonrpc: '2.0', method: 'notifications/initialized' });
    raw.send(ping);
    expect((await raw.answered(1)).result).toEqual({});
    expect(raw.messages.map(({ id }) => id)).toEqual(['init', 1]);
    await raw.close();
  });

  it('come as batches where the version has them', async () => {
    const raw = await RawSocket.open();
    await raw.initialize('2025-03-26');
    raw.send([ping, { ...ping, id: 2 }]);
    const batch = await until(() => raw.messages.find((message) => Array.isArray(message)), 'the batch');
    expect(batch).toEqual([1, 2].map((id) => ({ jsonrpc: '2.0', id, result: {} })));
    await raw.close();
  });

  it('are text, and not larger than a body may be', async () => {
    const binary = await RawSocket.open();
    binary.socket.send(Buffer.from(JSON.stringify(ping)));
    expect(await binary.closed).toEqual({ code: 1003, reason: 'Messages are text frames' });
    const large = await RawSocket.open();
    large.send({ ...ping, params: { x: 'x'.repeat(110_000) } });
    expect((await large.closed).code).toBe(1009);
    const broken = await RawSocket.open();
    broken.socket.send(Buffer.from([0x22, 0xff, 0x22]), { binary: false });
    expect((await broken.closed).code).toBe(1007);
  });
});

describe('an upgrade', () => {
  it('gets the subprotocol that MCP clients ask for, and no other', async () => {
    expect(await upgrade('/mcp', { 'sec-websocket-protocol': 'mcp' })).toMatchObject({
      status: 101,
      protocol: 'mcp',
    });
    const other = await upgrade('/tiny/mcp', { 'sec-websocket-protocol': 'chat' });
    expect(other).toMatchObject({ status: 101, protocol: undefined });
    expect(await upgrade('/mcp', { 'sec-websocket-extensions': 'permessage-deflate' })).toMatchObject({
      status: 101,
    });
  });

  it('is refused from elsewhere (403), to elsewhere (404) and when it is none (400)', async () => {
    expect(await upgrade('/mcp', { origin: 'https://evil.example' })).toMatchObject({ status: 403 });
    expect(await upgrade('/mcp', { host: 'evil.example' })).toMatchObject({ status: 403 });
    expect(await upgrade('/mcp', { origin: 'https://app.example' })).toMatchObject({ status: 101 });
    for (const path of ['/', '/servers', '/sse', '/nobody/mcp'])
      expect(await upgrade(path)).toMatchObject({ status: 404, text: expect.stringContaining('"hint"') });
    const noKey = await upgrade('/mcp', { 'sec-websocket-key': '' });
    expect(noKey).toMatchObject({ status: 400, text: expect.stringContaining('handshake') });
  });

  it('to something else is ignored: the request is answered as it is', async () => {
    const { status, text } = await upgrade('/health', { upgrade: 'h2c' });
    expect(status).toBe(200);
    expect(JSON.parse(text).status).toBe('ok');
  });

  it('is bounded in number', async () => {
    await using other = await startGateway({ servers: { tiny: {} }, gateway: { max_sessions: 2 } });
    const open = [await RawSocket.open('/mcp', other), await RawSocket.open('/tiny/mcp', other)];
    expect(await upgrade('/mcp', {}, other)).toMatchObject({
      status: 503,
      text: expect.stringContaining('max_sessions'),
    });
    await Promise.all(open.map((raw) => raw.close()));
    await until(async () => (await upgrade('/mcp', {}, other)).status === 101, 'there is room again');
  });
});

describe('a socket', () => {
  it('whose client does not read is closed with a reason', async () => {
    const dropped: object[] = [];
    const events = new Events();
    events.on('client.dropped', (event) => dropped.push(event));
    await using other = await startGateway({ servers: { everything: {} }, events });
    await other.settled();
    const raw = await RawSocket.open('/everything/mcp', other, { maxPayload: 0 });
    await raw.initialize();
    raw.socket.pause();
    const params = { name: 'big', arguments: { bytes: 6_000_000 } };
    for (let id = 1; id <= 6; id += 1) raw.send({ jsonrpc: '2.0', id, method: 'tools/call', params });
    await until(() => dropped.length > 0, 'the client is dropped');
    expect(dropped).toEqual([
      {
        transport: 'websocket',
        session: expect.any(String),
        reason: 'The client reads too slowly',
        bytes: expect.any(Number),
      },
    ]);
    raw.socket.resume();
    expect(await raw.closed).toEqual({ code: 1013, reason: 'The client reads too slowly' });
  });

  it('whose client is silent is dropped, one that answers pings is not', async () => {
    const { clock, dropped, channels, endpoint, open, [Symbol.asyncDispose]: end } = await bare();
    const silent = await open({ autoPong: false });
    const talking = await open({});
    const closed = once(silent, 'close');
    for (let round = 0; round < 6; round += 1) {
      const pinged = once(talking, 'ping');
      await clock.pass(15_000);
      await pinged;
      // Its answer has arrived when a later message of it has.
      talking.send('{}');
      await once(talking, 'message');
    }
    expect((await closed)[0]).toBe(1013);
    expect(dropped).toMatchObject([{ reason: 'The client does not answer' }]);
    expect(channels.size).toBe(1);
    const ended = once(talking, 'close');
    const closing = endpoint.close();
    expect((await ended)[0]).toBe(1001);
    await clock.pass(5000);
    await closing;
    expect(clock.pending).toBe(0);
    await end();
  });

  it('is closed where all clients together leave too much unread, the slowest first', async () => {
    await using edge = await bare({ maxUnreadBytes: 1_000_000 });
    const reading = await edge.open({ maxPayload: 0 });
    const slow = await edge.open({ maxPayload: 0 });
    slow.pause();
    const ask = (socket: WebSocket) =>
      socket.send(
        JSON.stringify({
          jsonrpc: '2.0',
          id: 1,
          method: 'big',
          params: { _meta: { 'io.modelcontextprotocol/protocolVersion': '2026-07-28' } },
        }),
      );
    ask(slow);
    await until(() => edge.dropped.length > 0, 'the slow one is dropped');
    expect(edge.dropped).toMatchObject([{ reason: 'The clients together read too slowly' }]);
    expect(edge.channels.size).toBe(1);
    reading.send('{}');
    const [answer] = await once(reading, 'message');
    expect(JSON.parse(String(answer)).error.code).toBe(-32600);
    slow.resume();
    expect((await once(slow, 'close'))[0]).toBe(1006);
  });

  it('is closed when the gateway drains, after the answers', async () => {
    await using other = await startGateway({ servers: { everything: {} } });
    await other.settled();
    const busy = await RawSocket.open('/everything/mcp', other);
    const idle = await RawSocket.open('/mcp', other);
    await busy.initialize();
    busy.send({
      jsonrpc: '2.0',
      id: 1,
      method: 'tools/call',
      params: { name: 'sleep', arguments: { ms: 1500 } },
    });
    await until(() => instancesOf('everything', other)[0]?.leases === 1, 'the call runs');
    const drained = other.app.drain();
    expect(await idle.closed).toEqual({ code: 1001, reason: 'The gateway is shutting down' });
    busy.send({ ...ping, id: 2 });
    expect(await busy.answered(2)).toMatchObject({ error: { data: { code: 'draining' } } });
    expect((await busy.answered(1)).result.content[0].text).toBe('slept 1500 ms');
    expect((await busy.closed).code).toBe(1001);
    await drained;
  });
});
