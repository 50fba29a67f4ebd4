import { request } from 'node:http';
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Events, type GatewayEvents } from '../../src/observability/events.ts';
import { startGateway, type TestGateway } from '../harness.ts';
import { until } from '../waiting.ts';
import { RawHttpClient } from './clients.ts';
import { EventReader } from './event-reader.ts';

const servers = {
  everything: {},
  asks: { fixture: 'asks-the-user' },
  impatient: { fixture: 'asks-the-user', timeouts: { client: '300ms' } },
  sleepy: { fixture: 'everything' },
  own: { fixture: 'everything', isolation: 'session' },
};
const events = new Events();
const dropped: GatewayEvents['client.dropped'][] = [];
events.on('client.dropped', (payload) => dropped.push(payload));
let gateway: TestGateway;

beforeAll(async () => {
  gateway = await startGateway({ servers, events });
  await gateway.settled();
  // So that no call's progress is that of a start.
  for (const endpoint of ['/everything/mcp', '/sleepy/mcp']) await (await connected(endpoint)).call('echo');
});
afterAll(() => gateway?.[Symbol.asyncDispose]());

async function connected(endpoint = '/everything/mcp', version?: string, capabilities: object = {}) {
  const client = new RawHttpClient(gateway, endpoint);
  await client.initialize(version, capabilities);
  return client;
}

const steps = (count: number, ms = 50, progressToken = 'p') => ({
  name: 'progress',
  arguments: { steps: count, ms },
  _meta: { progressToken },
});
const stepsIn = (reader: EventReader) =>
  reader.messages.filter(({ method }) => method === 'notifications/progress').map(({ params }) => params);
const answerIn = (reader: EventReader) => reader.messages.find(({ method }) => method === undefined);
const oneTo = (count: number) => Array.from({ length: count }, (_, index) => index + 1);

async function leasesOf(server: string): Promise<number> {
  const answer = await fetch(gateway.url(`/servers/${server}`));
  const { instances } = (await answer.json()) as { instances: { leases: number }[] };
  return instances.reduce((sum, { leases }) => sum + leases, 0);
}

describe('events of a legacy session', () => {
  it('have ids that no other of the session has; a stream begins with one to come back to', async () => {
    const client = await connected();
    const readers = [
      await EventReader.get(client),
      await EventReader.call(client, steps(3, 1), 1),
      await EventReader.call(client, steps(3, 1), 2),
    ];
    await Promise.all(readers.slice(1).map(({ ended }) => ended));
    await until(() => readers[0]!.events.length > 0, 'the first event');
    for (const { events } of readers) {
      expect(events[0]).toEqual({ id: expect.any(String), retry: expect.stringMatching(/^\d+$/), data: '' });
    }
    const ids = readers.flatMap(({ events }) => events.map(({ id }) => id));
    expect(ids).toHaveLength(1 + 2 * (1 + 3 + 1));
    expect(new Set(ids).size).toBe(ids.length);
    for (const id of ids) expect(id).toMatch(/^[\w-]{1,30}$/);
    readers[0]!.drop();
  });

  it.each(['2025-06-18', '2025-03-26'])('are never empty for clients of %s', async (version) => {
    const client = await connected('/everything/mcp', version);
    const listening = await EventReader.get(client);
    const call = await EventReader.call(client, steps(2, 1));
    await call.ended;
    expect(call.events.map(({ data }) => data)).not.toContain('');
    expect(call.events).toHaveLength(3);
    expect(call.events.every(({ id, retry }) => id !== undefined && retry === undefined)).toBe(true);
    expect(listening.events).toEqual([]);
    listening.drop();
  });
});

describe('a call whose connection dropped', () => {
  it.each(['2025-11-25', '2025-06-18'])(
    'goes on where it was, live, and ends with its answer (%s)',
    async (version) => {
      const client = await connected('/everything/mcp', version);
      const first = await EventReader.call(client, steps(8), 'my call');
      await first.message(2);
      first.drop();
      await first.ended;
      const second = await EventReader.get(client, first.lastId);
      await second.ended;
      expect([...stepsIn(first), ...stepsIn(second)].map(({ progress }) => progress)).toEqual(oneTo(8));
      expect(stepsIn(second).length).toBeGreaterThan(2);
      expect(answerIn(second)).toMatchObject({ id: 'my call', result: { content: [{ text: '8 steps' }] } });
      expect(second.messages.at(-1)).toEqual(answerIn(second));
    },
  );

  it('is answered although nobody was there, from any event on, as often as asked for', async () => {
    const client = await connected();
    const first = await EventReader.call(client, steps(4, 20));
    await first.message(1);
    first.drop();
    await first.ended;
    await new Promise((resolve) => setTimeout(resolve, 300));
    for (let time = 0; time < 2; time += 1) {
      for (const [index, { id }] of first.events.entries()) {
        const again = await EventReader.get(client, id);
        await again.ended;
        expect(stepsIn(again).map(({ progress }) => progress)).toEqual(oneTo(4).slice(index));
        expect(answerIn(again).result.content[0].text).toBe('4 steps');
      }
    }
  });

  it('has nothing to come when the client has seen its answer, or cancelled it', async () => {
    const client = await connected();
    const listening = await EventReader.get(client);
    const call = await EventReader.call(client, steps(1, 1));
    await call.ended;
    const again = await EventReader.get(client, call.lastId);
    expect([again.status, again.events]).toEqual([204, []]);

    const cancelled = await EventReader.call(client, steps(100), 'long');
    await cancelled.message(1);
    await client.post({
      jsonrpc: '2.0',
      method: 'notifications/cancelled',
      params: { requestId: 'long' },
    });
    await cancelled.ended;
    expect(answerIn(cancelled)).toBeUndefined();
    expect((await EventReader.get(client, cancelled.lastId)).status).toBe(204);
    // The GET stream has kept its place.
    await client.request('resources/subscribe', { uri: 'test://watched-resource' });
    await client.call('touch_resource');
    await listening.message(1);
    listening.drop();
  });

  it('crosses with no other, in this session or another one', async () => {
    const clients = [await connected(), await connected()];
    const calls = await Promise.all(
      clients.flatMap((client, owner) =>
        ['a', 'b'].map(async (name) => {
          const token = `${owner}${name}`;
          const reader = await EventReader.call(client, steps(6, 50, token), token);
          await reader.message(1);
          reader.drop();
          await reader.ended;
          return { client, token, reader };
        }),
      ),
    );
    const resumed = await Promise.all(
      calls.map(async ({ client, token, reader }) => {
        const again = await EventReader.get(client, reader.lastId);
        await again.ended;
        return { token, reader, again };
      }),
    );
    for (const { token, reader, again } of resumed) {
      const seen = [...stepsIn(reader), ...stepsIn(again)];
      expect(seen.map(({ progress }) => progress)).toEqual(oneTo(6));
      expect(new Set(seen.map(({ progressToken }) => progressToken))).toEqual(new Set([token]));
      expect(again.messages.at(-1).id).toBe(token);
    }
  });

  it('goes to the connection that asked last when two ask for it', async () => {
    const client = await connected();
    const first = await EventReader.call(client, steps(10));
    await first.message(2);
    first.drop();
    await first.ended;
    const [one, two] = [
      await EventReader.get(client, first.lastId),
      await EventReader.get(client, first.lastId),
    ];
    await Promise.all([one.ended, two.ended]);
    expect(answerIn(one)).toBeUndefined();
    expect([...stepsIn(first), ...stepsIn(two)].map(({ progress }) => progress)).toEqual(oneTo(10));
    expect(answerIn(two).result.content[0].text).toBe('10 steps');
  });

  it('runs to its end and is released, also when its client never comes back', async () => {
    const client = await connected('/sleepy/mcp');
    const call = await EventReader.call(client, steps(5, 100));
    await call.message(1);
    call.drop();
    await call.ended;
    expect(await leasesOf('sleepy')).toBe(1);
    await until(async () => (await leasesOf('sleepy')) === 0, 'the lease is released');
    const cancelled = (await client.call('cancellations')).result.structuredContent.cancelled;
    expect(cancelled).toEqual([]);
  });

  it('can be come back to when it had been silent', { timeout: 20_000 }, async () => {
    const client = await connected();
    const first = await EventReader.call(client, { name: 'sleep', arguments: { ms: 7000 } });
    await until(() => first.events.length > 0, 'the stream opens');
    expect(first.messages).toEqual([]);
    first.drop();
    await first.ended;
    const second = await EventReader.get(client, first.lastId);
    await second.ended;
    expect(second.messages.map(({ id }) => id)).toEqual([1]);
  });
});

describe('a question on a stream whose connection dropped', () => {
  it('waits there, is seen again and answered; the GET stream never has it', async () => {
    const client = await connected('/asks/mcp', undefined, { elicitation: {} });
    const listening = await EventReader.get(client);
    const call = await EventReader.call(client, { name: 'ask' });
    await call.message(1);
    call.drop();
    await call.ended;
    const primed = call.events[0]!.id;
    const again = await EventReader.get(client, primed);
    await again.message(1);
    expect(again.messages).toEqual(call.messages);
    const result = { action: 'accept', content: { answer: 'here I am again' } };
    await client.post({ jsonrpc: '2.0', id: again.messages[0].id, result });
    await again.ended;
    expect(JSON.parse(answerIn(again).result.content[0].text)).toEqual({ result });
    expect(listening.messages).toEqual([]);
    listening.drop();
  });

  it('is void after a while', async () => {
    const client = await connected('/impatient/mcp', undefined, { elicitation: {} });
    const call = await EventReader.call(client, { name: 'ask' });
    await call.message(1);
    call.drop();
    await call.ended;
    await until(async () => (await leasesOf('impatient')) === 0, 'the call is over');
    const again = await EventReader.get(client, call.lastId);
    await again.ended;
    expect(again.messages[0]).toMatchObject({
      method: 'notifications/cancelled',
      params: { requestId: call.messages[0].id },
    });
    expect(JSON.parse(answerIn(again).result.content[0].text)).toEqual({ result: { action: 'decline' } });
  });
});

describe('the GET stream', () => {
  const uri = 'test://watched-resource';
  const touch = (client: RawHttpClient) => client.call('touch_resource', { uri });

  it('goes on where it was: what was lost on the way, what came meanwhile, what comes', async () => {
    const client = await connected();
    await client.request('resources/subscribe', { uri });
    const first = await EventReader.get(client);
    for (let touched = 1; touched <= 3; touched += 1) {
      await touch(client);
      await first.message(touched);
    }
    first.drop();
    await first.ended;
    await touch(client);
    await touch(client);
    const second = await EventReader.get(client, first.events.at(-2)!.id);
    await second.message(2);
    await touch(client);
    await second.message(3);
    await touch(client);
    await second.message(4);
    // One that was sent and is sent again, one for what came while nobody listened, and two live ones.
    expect(second.messages).toHaveLength(4);
    expect(second.events.filter(({ data }) => data !== '')[0]).toEqual(first.events.at(-1));
    const ids = [...first.events, ...second.events].filter(({ data }) => data !== '').map(({ id }) => id);
    expect(new Set(ids).size).toBe(6);
    second.drop();
  });

  it('has log lines of an own server that came while it was away', async () => {
    const client = await connected('/own/mcp');
    await client.request('logging/setLevel', { level: 'debug' });
    const first = await EventReader.get(client);
    await until(() => first.events.length > 0, 'it is open');
    first.drop();
    await first.ended;
    await new Promise((resolve) => setTimeout(resolve, 50));
    // With two calls at work its lines belong to neither, so they go to the GET stream.
    const sleeping = client.call('sleep', { ms: 500 });
    const { answer, before } = await client.request('tools/call', {
      name: 'log',
      arguments: { level: 'info', text: 'meanwhile', count: 2, ms: 50 },
    });
    expect([answer.result.content[0].text, before]).toEqual(['2 lines', []]);
    const second = await EventReader.get(client, first.lastId);
    await second.message(2);
    expect(second.messages.map(({ params }) => params.data)).toEqual(['meanwhile', 'meanwhile']);
    await sleeping;
    second.drop();
  });

  it('is not taken from under the one that replaced it', async () => {
    const client = await connected();
    await client.request('resources/subscribe', { uri });
    const first = await EventReader.get(client);
    await until(() => first.events.length > 0, 'it is open');
    await touch(client);
    await first.message(1);
    const second = await EventReader.get(client);
    await first.ended;
    // What the first one had sent can be had; it ends then.
    const rest = await EventReader.get(client, first.events[0]!.id);
    await rest.ended;
    expect(rest.messages).toEqual(first.messages);
    expect((await EventReader.get(client, first.lastId)).status).toBe(204);
    await touch(client);
    await second.message(1);
    second.drop();
    await second.ended;
    await new Promise((resolve) => setTimeout(resolve, 50));
    // Now that nobody listens, any way back is good.
    const third = await EventReader.get(client, first.lastId);
    expect(third.status).toBe(200);
    await touch(client);
    await third.message(1);
    third.drop();
  });

  it.each([
    ['garbage', 'what is this'],
    ['an empty one', ''],
    ['a long one', 'x'.repeat(8000)],
    ['one like ours', '00000000-g1-1'],
  ])('is opened for an id that leads nowhere: %s', async (_what, id) => {
    const client = await connected();
    await client.request('resources/subscribe', { uri });
    const stream = await EventReader.get(client, id);
    expect([stream.status, stream.type]).toEqual([200, 'text/event-stream']);
    await touch(client);
    await stream.message(1);
    expect(stream.messages.map(({ method }) => method)).toEqual(['notifications/resources/updated']);
    stream.drop();
  });
});

describe('event ids of another session', () => {
  it('lead to nothing of that session', async () => {
    const [owner, stranger] = [await connected(), await connected()];
    const listening = await EventReader.get(owner);
    const call = await EventReader.call(owner, steps(5));
    // The stranger's streams have the same numbers.
    const own = await EventReader.get(stranger);
    const ownCall = await EventReader.call(stranger, steps(5));
    await Promise.all([call.message(1), ownCall.message(1), until(() => listening.events.length > 0)]);
    own.drop();
    ownCall.drop();
    expect((await EventReader.get(stranger, call.events[0]!.id)).status).toBe(204);
    const opened = await EventReader.get(stranger, listening.events[0]!.id);
    expect(opened.status).toBe(200);
    await call.ended;
    expect(opened.messages).toEqual([]);
    expect(answerIn(call).result.content[0].text).toBe('5 steps');
    for (const reader of [listening, opened]) reader.drop();
  });
});

describe('after a restart', () => {
  it('the session goes on, its streams begin anew', async () => {
    const first = await startGateway({ servers: { everything: {} } });
    await first.settled();
    const client = new RawHttpClient(first, '/everything/mcp');
    await client.initialize();
    await client.request('resources/subscribe', { uri: 'test://watched-resource' });
    const listening = await EventReader.get(client);
    const call = await EventReader.call(client, steps(100));
    await Promise.all([call.message(1), until(() => listening.events.length > 0)]);
    await first.stop();
    await using second = await startGateway({ servers: { everything: {} }, folder: first.folder });
    const back = new RawHttpClient(second, '/everything/mcp');
    back.headers = client.headers;
    const stream = await EventReader.get(back, listening.lastId);
    expect(stream.status).toBe(200);
    // The call is gone; asking for it does not take the GET stream's place.
    expect((await EventReader.get(back, call.lastId)).status).toBe(204);
    await back.call('touch_resource');
    await stream.message(1);
    stream.drop();
  });
});

describe('a reader that is too slow', () => {
  it('loses its connection, an operator is told, and what it has not read can be had', async () => {
    const client = await connected('/own/mcp');
    await client.request('logging/setLevel', { level: 'debug' });
    const line = 'x'.repeat(200_000);
    const before = dropped.length;
    const body = JSON.stringify({
      jsonrpc: '2.0',
      id: 'slow',
      method: 'tools/call',
      params: { name: 'log', arguments: { level: 'info', text: line, count: 120, ms: 5 } },
    });
    let seen = '';
    const outgoing = request(client.url, {
      method: 'POST',
      headers: {
        ...client.headers,
        'content-type': 'application/json',
        accept: 'application/json, text/event-stream',
      },
    });
    outgoing.on('error', () => {});
    outgoing.on('response', (incoming) => {
      incoming.on('error', () => {});
      incoming.once('readable', () => {
        seen = String(incoming.read(100));
      });
    });
    outgoing.end(body);
    await until(() => dropped.length > before, 'it is dropped');
    expect(dropped.at(-1)).toEqual({
      transport: 'http',
      session: expect.any(String),
      reason: 'It was too far behind',
      bytes: expect.any(Number),
    });
    expect(dropped.at(-1)!.bytes).toBeGreaterThan(8 * 1024 * 1024);
    const id = /^id: (.+)$/m.exec(seen)![1]!;
    const again = await EventReader.get(client, id);
    await again.ended;
    expect(again.messages.at(-1)).toMatchObject({ id: 'slow', result: { content: [{ text: '120 lines' }] } });
    // Within the bounds: the last of them, all that there is room for.
    expect(again.messages.length).toBeGreaterThan(20);
    expect(again.messages.length).toBeLessThan(121);
    outgoing.destroy();
  });
});

describe('the SDK’s client', () => {
  it('reconnects by itself, misses nothing and repeats nothing', { timeout: 20_000 }, async () => {
    let cuts = 0;
    const cut: typeof fetch = async (input, init) => {
      const response = await fetch(input, init);
      const isStream = response.headers.get('content-type') === 'text/event-stream';
      if (init?.method !== 'POST' || !isStream) return response;
      cuts += 1;
      let chunks = 0;
      const reader = response.body!.getReader();
      const body = new ReadableStream({
        async pull(controller) {
          const { value, done } = await reader.read();
          if (done) return controller.close();
          controller.enqueue(value);
          chunks += 1;
          if (chunks < 3) return;
          await reader.cancel();
          controller.error(new Error('cut'));
        },
      });
      return new Response(body, response);
    };
    const client = new Client({ name: 'resumes', version: '1' });
    client.onerror = () => {};
    await client.connect(
      new StreamableHTTPClientTransport(gateway.url('/everything/mcp'), {
        fetch: cut,
      }),
    );
    const tokens: string[] = [];
    const seen: number[] = [];
    const result = await client.callTool(steps(8, 40), undefined, {
      onprogress: ({ progress }) => seen.push(progress),
      onresumptiontoken: (token) => tokens.push(token),
    });
    expect(result.content).toEqual([{ type: 'text', text: '8 steps' }]);
    expect(cuts).toBe(1);
    expect(seen).toEqual(oneTo(8));
    expect(tokens.length).toBeGreaterThan(8);
    await client.close();
  });

  it('takes up a call of an earlier process by its resumption token', { timeout: 20_000 }, async () => {
    const transport = new StreamableHTTPClientTransport(gateway.url('/everything/mcp'));
    const first = new Client({ name: 'resumes', version: '1' });
    first.onerror = () => {};
    await first.connect(transport);
    let token = '';
    const onresumptiontoken = (latest: string) => {
      token = latest;
    };
    const lost = first.callTool(steps(6, 100), undefined, { onprogress: () => {}, onresumptiontoken });
    lost.catch(() => {});
    await until(() => token !== '', 'a token');
    const { sessionId, protocolVersion } = transport;
    await first.close();

    const second = new Client({ name: 'resumes', version: '1' });
    const back = new StreamableHTTPClientTransport(gateway.url('/everything/mcp'), { sessionId });
    await second.connect(back);
    back.setProtocolVersion(protocolVersion!);
    const result = await second.callTool(steps(6, 100), undefined, {
      resumptionToken: token,
      onresumptiontoken,
    });
    expect(result.content).toEqual([{ type: 'text', text: '6 steps' }]);
    await second.close();
  });
});
