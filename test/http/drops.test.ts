import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startGateway, type TestGateway } from '../harness.ts';
import { kinds, leaks, soak } from '../soak/drops.ts';
import { until } from '../waiting.ts';
import { RawHttpClient } from './clients.ts';
import { Exchange } from './exchange.ts';
import { ModernClient } from './modern-client.ts';

let gateway: TestGateway;

beforeAll(async () => {
  gateway = await startGateway({
    servers: {
      slow: { fixture: 'slow-start', env: { START_DELAY_MS: '500' }, idle_timeout: '100ms' },
      everything: { concurrency: 1, timeouts: { call: '2s' } },
      asks: { fixture: 'asks-the-user', timeouts: { client: '2s' } },
    },
  });
  await gateway.settled();
});
afterAll(() => gateway?.[Symbol.asyncDispose]());

const status = (server: string) => gateway.app.fleet.status(server);
const held = (server: string) =>
  status(server).waiting + status(server).instances.reduce((sum, { leases }) => sum + leases, 0);
const isFree = (server: string) => until(() => held(server) === 0, `${server} is free`);

/** A modern call that can be dropped. */
function modernCall(server: string, tool: string, args: object, more: object = {}): Exchange {
  const client = new ModernClient(gateway, `/${server}/mcp`, { elicitation: {} });
  const body = client.message('tools/call', { name: tool, arguments: args, ...more });
  const headers = { 'mcp-protocol-version': '2026-07-28', 'mcp-method': 'tools/call', 'mcp-name': tool };
  return new Exchange(client.url, { headers, body });
}

const cancellations = async (server: string): Promise<number> => {
  const { answer } = await new ModernClient(gateway, `/${server}/mcp`).call('cancellations');
  return answer.result.structuredContent.cancelled.length;
};

describe('a modern client that goes away', () => {
  it('while its container boots leaves nothing behind, and the container goes', async () => {
    await until(() => status('slow').instances.length === 0);
    const exchange = modernCall('slow', 'echo', { text: 'x' });
    await until(() => status('slow').state === 'starting');
    expect(held('slow')).toBe(1);
    exchange.drop();
    await isFree('slow');
    await until(() => status('slow').instances.length === 0);
    expect(status('slow').lastError).toBeUndefined();
  });

  it('while it queues leaves the queue, and is never called', async () => {
    const before = await cancellations('everything');
    const running = modernCall('everything', 'sleep', { ms: 1000 });
    await until(() => held('everything') === 1);
    const counted = modernCall('everything', 'counter', {});
    await until(() => status('everything').waiting === 1);
    counted.drop();
    await until(() => status('everything').waiting === 0);
    expect(running.isOver).toBe(false);
    await running.ended;
    expect(running.messages.at(-1).result.content[0].text).toBe('slept 1000 ms');
    await isFree('everything');
    const { answer } = await new ModernClient(gateway, '/everything/mcp').call('counter');
    expect(answer.result.content[0].text).toBe('1');
    expect(await cancellations('everything')).toBe(before);
  });

  it('while its call runs has it cancelled at the server', async () => {
    const before = await cancellations('everything');
    const exchange = modernCall('everything', 'sleep', { ms: 60_000 });
    await until(() => held('everything') === 1);
    exchange.drop();
    await isFree('everything');
    expect(await cancellations('everything')).toBe(before + 1);
  });

  it('with a question open has it declined after timeouts.client, and the call cancelled that goes on all the same', async () => {
    const exchange = modernCall('asks', 'insist', {});
    await exchange.ended;
    const { requestState, resultType } = exchange.messages.at(-1).result;
    expect([resultType, held('asks')]).toEqual(['input_required', 1]);
    await isFree('asks');
    const late = modernCall('asks', 'insist', {}, { requestState, inputResponses: {} });
    await late.ended;
    expect([late.status, late.messages]).toMatchObject([
      400,
      [{ error: { code: -32602, data: { code: 'state_refused' } } }],
    ]);
    await isFree('asks');
  });

  it('is seen to by the server, which is told that the call is over', async () => {
    // Its own instance: one that asks is replaced after a call that was given up.
    const own = await startGateway({
      servers: {
        asks: { fixture: 'asks-the-user', interactive: false, timeouts: { client: '300ms' } },
      },
    });
    await using _ = own;
    await own.settled();
    const client = new ModernClient(own, '/asks/mcp', { elicitation: {} });
    const asked = await client.call('insist');
    expect(asked.answer.result.resultType).toBe('input_required');
    await until(async () => {
      const { answer } = await client.call('cancellations');
      return answer.result.structuredContent.cancelled.length === 1;
    });
  });
});

describe('a legacy client that loses its connection', () => {
  /** A call that shows its first event before its answer. */
  async function begin(name: string, args: object) {
    const { url, headers } = await connected();
    const params = { name, arguments: args, _meta: { progressToken: 1 } };
    const exchange = new Exchange(url, {
      headers,
      body: { jsonrpc: '2.0', id: 1, method: 'tools/call', params },
    });
    await until(() => exchange.messages.length > 0);
    return {
      exchange,
      resume: () =>
        new Exchange(url, { method: 'GET', headers: { ...headers, 'last-event-id': exchange.lastEventId! } }),
    };
  }

  async function connected() {
    const client = new RawHttpClient(gateway, '/everything/mcp');
    await client.initialize();
    return client;
  }

  it('has its call run on, and the answer when it comes back', async () => {
    const before = await cancellations('everything');
    const { exchange, resume } = await begin('progress', { steps: 4, ms: 300 });
    exchange.drop();
    await exchange.ended;
    expect(held('everything')).toBe(1);
    await isFree('everything');
    const back = resume();
    await back.ended;
    expect(back.messages.at(-1).result.content[0].text).toBe('4 steps');
    const steps = [...exchange.messages, ...back.messages].flatMap(({ params }) => params?.progress ?? []);
    expect(steps).toEqual([1, 2, 3, 4]);
    expect(await cancellations('everything')).toBe(before);
  });

  it('and never comes back: its call is freed at its end', async () => {
    const { exchange } = await begin('progress', { steps: 3, ms: 300 });
    exchange.drop();
    await exchange.ended;
    expect(held('everything')).toBe(1);
    await isFree('everything');
  });

  it('and never comes back: its call is freed at its timeout, and cancelled at the server', async () => {
    const before = await cancellations('everything');
    const { url, headers } = await connected();
    const params = { name: 'sleep', arguments: { ms: 60_000 } };
    const exchange = new Exchange(url, {
      headers,
      body: { jsonrpc: '2.0', id: 1, method: 'tools/call', params },
    });
    await until(() => held('everything') === 1);
    exchange.drop();
    await exchange.ended;
    await new Promise((resolve) => setTimeout(resolve, 300));
    expect(held('everything')).toBe(1);
    await isFree('everything');
    expect(await cancellations('everything')).toBe(before + 1);
  });
});

describe('hundreds of clients of each kind', () => {
  it(`leave nothing: ${kinds.join(', ')}`, async () => {
    const looks = await soak({ clients: 300, perWave: 100, wavesPerLook: 1 });
    expect(leaks(looks, 2 * 2 ** 20)).toEqual([]);
  }, 300_000);
});
