import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startGateway, type TestGateway } from '../harness.ts';
import { until } from '../waiting.ts';
import { RawHttpClient } from './clients.ts';
import { ModernClient } from './modern-client.ts';

/* What a client sees when there is no room for its call, and what an operator sees of the room that there is. */

let gateway: TestGateway;

beforeAll(async () => {
  gateway = await startGateway({
    servers: {
      full: { fixture: 'everything', concurrency: 1 },
      spared: { fixture: 'tiny', pool: { standby: 2 } },
    },
    gateway: { max_queue: 1 },
  });
  await gateway.settled();
});
afterAll(() => gateway?.[Symbol.asyncDispose]());

// biome-ignore lint/suspicious/noExplicitAny: a test reads whatever came
const json = async (path: string): Promise<any> => (await fetch(gateway.url(path))).json();
const rest = (tool: string, args: object, signal?: AbortSignal) =>
  fetch(gateway.url(`/full/tools/${tool}`), {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(args),
    signal,
  });

/** One call that works, and one that waits: the queue is full. */
async function withFullQueue(work: () => Promise<void>) {
  const abort = new AbortController();
  const calls = [1, 2].map(() => rest('sleep', { ms: 60_000 }, abort.signal).catch(() => {}));
  await until(async () => (await json('/servers/full')).waiting === 1, 'the queue is full');
  try {
    await work();
  } finally {
    abort.abort();
    await Promise.all(calls);
    await until(async () => (await json('/servers/full')).waiting === 0, 'the queue is empty');
  }
}

describe('a full queue', () => {
  it('is 503 on REST, with Retry-After', async () => {
    await withFullQueue(async () => {
      const refused = await rest('echo', { text: 'x' });
      expect(refused.status).toBe(503);
      expect(Number(refused.headers.get('retry-after'))).toBeGreaterThan(0);
      expect(await refused.json()).toMatchObject({
        code: 'queue_full',
        server: 'full',
        retryAfterSeconds: Number(refused.headers.get('retry-after')),
        hint: expect.any(String),
      });
    });
  });

  it('is an error of MCP in either era, with the same header', async () => {
    const legacy = new RawHttpClient(gateway, '/full/mcp');
    await legacy.initialize();
    const modern = new ModernClient(gateway, '/full/mcp');
    await withFullQueue(async () => {
      const call = { name: 'echo', arguments: { text: 'x' } };
      const old = await legacy.post({ jsonrpc: '2.0', id: 2, method: 'tools/call', params: call });
      const now = await modern.send(modern.message('tools/call', call));
      for (const headers of [old.headers, now.headers]) {
        expect(Number(headers.get('retry-after'))).toBeGreaterThan(0);
      }
      for (const answer of [old.messages[0], await now.json()]) {
        expect(answer.error.data).toMatchObject({
          code: 'queue_full',
          retryAfterSeconds: expect.any(Number),
        });
      }
    });
  });
});

it('GET /servers shows spares, what they hold, and what each instance uses', async () => {
  const spares = await until(async () => {
    const { servers, standby_memory } = await json('/servers');
    const { instances, state } = servers[1];
    const isDone = instances.length === 2 && instances.every(({ memory }: { memory?: number }) => memory);
    return isDone && { instances, state, standby_memory };
  }, 'two spares');
  expect(spares.state).toBe('paused');
  for (const spare of spares.instances) {
    expect(spare).toMatchObject({
      state: 'paused',
      standby: true,
      leases: 0,
      memory: expect.any(Number),
      cpu: 0,
    });
  }
  const sum = spares.instances.reduce((all: number, { memory }: { memory: number }) => all + memory, 0);
  expect(spares.standby_memory).toBe(sum);

  const taken = spares.instances.map(({ id }: { id: string }) => id);
  await fetch(gateway.url('/spared/tools/echo'), {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: '{"text":"x"}',
  });
  const { state, instances } = await json('/servers/spared');
  expect(state).toBe('ready');
  const used = instances.find(({ standby }: { standby?: boolean }) => !standby);
  expect(taken).toContain(used.id);
  expect(used).toMatchObject({ state: 'ready', cpu: expect.any(Number) });
});
