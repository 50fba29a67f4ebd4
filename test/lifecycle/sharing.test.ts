import { describe, expect, it } from 'vitest';
import type { Request } from '../../src/protocol/jsonrpc.ts';
import { rejection, scriptedFleet, serverOf } from './fixtures.ts';
import { settle } from './held-clock.ts';
import type { ScriptedRuntime } from './scripted-runtime.ts';

/* Who gets which instance, and when. */

const call = { method: 'tools/call', params: { name: 'echo' } };
const answered = { era: 'legacy', result: {} };
const megabyte = 1024 ** 2;

/** A server with three instances that are ready, whose calls are answered by the test. */
async function three(loadBalancing: 'least_connections' | 'round_robin' | 'random', concurrency = 100) {
  const made = scriptedFleet([serverOf('files', { loadBalancing, concurrency, pool: { min: 3, max: 3 } })], {
    script: { onRequest() {} },
  });
  made.fleet.start();
  await settle();
  expect(made.runtime.running).toHaveLength(3);
  const send = async (count: number) => {
    for (let one = 0; one < count; one += 1) void made.fleet.call('files', call).catch(() => {});
    await settle();
  };
  return { ...made, send, counts: () => countsOf(made.runtime) };
}

const calls = ({ instances }: ScriptedRuntime) =>
  instances.map(({ received }) =>
    received.filter((message) => 'method' in message && message.method === call.method),
  );
const countsOf = (runtime: ScriptedRuntime) => calls(runtime).map(({ length }) => length);

describe('load_balancing', () => {
  it('least_connections: the one with the fewest calls in flight', async () => {
    const { fleet, runtime, send, counts } = await three('least_connections');
    await send(30);
    expect(counts()).toEqual([10, 10, 10]);
    // The second one is quick: it gets what comes.
    for (const request of runtime.instances[1]!.open) runtime.instances[1]!.answer(request, {});
    await settle();
    await send(9);
    expect(counts()).toEqual([10, 19, 10]);
    await fleet.kill();
  });

  it('round_robin: each in turn, however long its calls take', async () => {
    const { fleet, runtime, send, counts } = await three('round_robin');
    await send(2);
    for (const request of runtime.instances[1]!.open) runtime.instances[1]!.answer(request, {});
    await settle();
    await send(28);
    expect(counts()).toEqual([10, 10, 10]);
    await fleet.kill();
  });

  it('round_robin: passes over one that is full', async () => {
    const { fleet, runtime, send, counts } = await three('round_robin', 3);
    await send(9);
    const [first] = runtime.instances;
    for (const request of first!.open) first!.answer(request, {});
    await settle();
    await send(4);
    expect(counts()).toEqual([6, 3, 3]);
    expect(fleet.status('files').waiting).toBe(1);
    await fleet.kill();
  });

  it('random: all of them, in no order', async () => {
    const { fleet, send, counts } = await three('random');
    await send(90);
    expect(counts().reduce((sum, count) => sum + count)).toBe(90);
    // Each misses its chance with a probability of 1 in 10^16.
    for (const count of counts()) expect(count).toBeGreaterThan(0);
    await fleet.kill();
  });
});

describe('a pool', () => {
  it('grows only when all its instances are full, and shrinks to min, each instance by its own idle time', async () => {
    const { fleet, runtime, clock } = scriptedFleet([
      serverOf('files', { concurrency: 2, pool: { min: 1, max: 3 } }),
    ]);
    fleet.start();
    await settle();
    const leases = [await fleet.lease('files'), await fleet.lease('files')];
    expect(runtime.running).toHaveLength(1);
    leases.push(await fleet.lease('files'), await fleet.lease('files'), await fleet.lease('files'));
    expect(runtime.running).toHaveLength(3);
    for (const lease of leases.splice(2)) lease.release();
    await clock.pass(299_999);
    expect(runtime.running).toHaveLength(3);
    await clock.pass(1);
    expect(runtime.running).toHaveLength(1);
    for (const lease of leases) lease.release();
    await clock.pass(600_000);
    expect(runtime.running).toHaveLength(1);
  });
});

describe('those who wait', () => {
  const numbered = (caller: string, n: number) => ({ method: 'tools/call', params: { caller, n } });
  const served = ({ received }: { received: unknown[] }) =>
    (received as Request[])
      .filter(({ method }) => method === 'tools/call')
      .map(({ params }) => `${params!.caller}${params!.n}`);

  it('take turns: one client’s thousand calls keep nobody else waiting', async () => {
    const { fleet, runtime } = scriptedFleet([serverOf('files', { concurrency: 1 })], {
      script: { onRequest() {} },
    });
    const send = (caller: string, count: number) => {
      for (let n = 0; n < count; n += 1) {
        void fleet.call('files', numbered(caller, n), { affinity: caller }).catch(() => {});
      }
    };
    send('greedy', 1000);
    await settle();
    send('modest', 2);
    send('other', 1);
    await settle();
    for (let n = 0; n < 6; n += 1) {
      runtime.last.answer(runtime.last.open[0]!, {});
      await settle();
    }
    expect(served(runtime.last)).toEqual([
      'greedy0',
      'greedy1',
      'modest0',
      'other0',
      'greedy2',
      'modest1',
      'greedy3',
    ]);
    await fleet.kill();
  });

  it('are not kept out by one caller who has filled the queue', async () => {
    const { fleet } = scriptedFleet([serverOf('files', { concurrency: 1 })], { gateway: { maxQueue: 4 } });
    const held = await fleet.lease('files', { affinity: 'greedy' });
    const greedy = Array.from({ length: 4 }, () => fleet.lease('files', { affinity: 'greedy' }));
    const newest = rejection(greedy[3]!);
    expect((await rejection(fleet.lease('files', { affinity: 'greedy' }))).code).toBe('queue_full');
    const modest = fleet.lease('files', { affinity: 'modest' });
    expect(await newest).toMatchObject({ code: 'queue_full', data: { retryAfterSeconds: 1 } });
    // Two and two: nobody has more than anybody else.
    const second = fleet.lease('files', { affinity: 'modest' });
    expect((await rejection(greedy[2]!)).code).toBe('queue_full');
    expect((await rejection(fleet.lease('files', { affinity: 'modest' }))).code).toBe('queue_full');
    held.release();
    for (const lease of [greedy[0]!, modest, greedy[1]!, second]) (await lease).release();
    expect(fleet.status('files').waiting).toBe(0);
  });

  it('are told when to come back, when it is full and when it took too long', async () => {
    const { fleet, clock } = scriptedFleet([serverOf('files', { concurrency: 1 })], {
      gateway: { maxQueue: 1 },
    });
    const held = await fleet.lease('files');
    const waiting = rejection(fleet.lease('files'));
    await clock.pass(7000);
    expect(await rejection(fleet.lease('files'))).toMatchObject({
      code: 'queue_full',
      data: { retryAfterSeconds: 7 },
    });
    await clock.pass(53_000);
    expect(await waiting).toMatchObject({ code: 'queue_timeout', data: { retryAfterSeconds: 30 } });
    held.release();
  });
});

describe('gateway.max_memory', () => {
  const named = (...names: string[]) => names.map((name) => serverOf(name));
  const here = ({ running }: ScriptedRuntime) => running.map(({ server }) => server.name);

  it('counts what instances may use until it is measured, and what is idle longest makes room', async () => {
    const { fleet, runtime, clock } = scriptedFleet(named('a', 'b', 'c'), {
      gateway: { maxMemoryBytes: 1100 * megabyte },
      script: { memoryBytes: () => 300 * megabyte },
    });
    for (const name of ['a', 'b']) await fleet.call(name, call);
    // Two at 512 MB each leave nothing for a third; measured, they do not either.
    await fleet.call('c', call);
    expect(here(runtime)).toEqual(['b', 'c']);
    await clock.pass(10_000);
    await fleet.call('a', call);
    expect(here(runtime)).toEqual(['b', 'c', 'a'].slice(-2));
    await clock.pass(10_000);
  });

  it('stops what is idle when instances grow beyond it, and nothing that is in use', async () => {
    let each = 100 * megabyte;
    const { fleet, runtime, clock } = scriptedFleet(named('a', 'b', 'c'), {
      gateway: { maxMemoryBytes: 2000 * megabyte },
      script: { memoryBytes: () => each },
    });
    const a = await fleet.lease('a');
    for (const name of ['b', 'c']) {
      await clock.pass(1000);
      await fleet.call(name, call);
    }
    await clock.pass(10_000);
    expect(here(runtime)).toEqual(['a', 'b', 'c']);
    each = 900 * megabyte;
    await clock.pass(10_000);
    expect(here(runtime)).toEqual(['a', 'c']);
    each = 3000 * megabyte;
    await clock.pass(10_000);
    expect(here(runtime)).toEqual(['a']);
    a.release();
    await clock.pass(10_000);
    expect(here(runtime)).toEqual([]);
    expect(runtime.violations).toEqual([]);
    expect(clock.pending).toBe(0);
  });

  it('lets a call wait that finds no room, and says so when it waited too long', async () => {
    const { fleet, runtime, clock } = scriptedFleet(named('a', 'b'), {
      gateway: { maxMemoryBytes: 600 * megabyte },
      script: { memoryBytes: () => 500 * megabyte },
    });
    const a = await fleet.lease('a');
    const late = rejection(fleet.call('b', call));
    await clock.pass(60_000);
    expect(await late).toMatchObject({ code: 'queue_timeout', data: { retryAfterSeconds: 30 } });
    expect((await late).hint).toMatch(/max_instances.*max_memory/);
    const next = fleet.call('b', call);
    await clock.pass(1000);
    a.release();
    expect(await next).toEqual(answered);
    expect(here(runtime)).toEqual(['b']);
  });

  it('never keeps out a server that runs alone', async () => {
    const { fleet } = scriptedFleet(named('a'), { gateway: { maxMemoryBytes: 10 * megabyte } });
    expect(await fleet.call('a', call)).toEqual(answered);
  });

  it('costs no question to the engine where it is not set', async () => {
    const { fleet, runtime, clock } = scriptedFleet(named('a'));
    const lease = await fleet.lease('a');
    await clock.pass(100_000);
    expect(runtime.last.measured).toBe(0);
    lease.release();
  });

  it('is shared by spares, which go first', async () => {
    const { fleet, runtime, clock } = scriptedFleet(
      [serverOf('used'), serverOf('spare', { pool: { standby: 1 } }), serverOf('new')],
      { gateway: { maxMemoryBytes: 1200 * megabyte }, script: { memoryBytes: () => 400 * megabyte } },
    );
    await fleet.call('used', call);
    fleet.start();
    await clock.pass(10_000);
    expect(here(runtime)).toEqual(['used', 'spare']);
    await fleet.call('new', call);
    expect(here(runtime)).toEqual(['used', 'new']);
  });
});
