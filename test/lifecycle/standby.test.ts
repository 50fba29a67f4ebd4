import { describe, expect, it } from 'vitest';
import { deferred } from '../../src/base/async.ts';
import { GatewayError } from '../../src/base/errors.ts';
import { clientAffinity } from '../../src/lifecycle/lease.ts';
import { rejection, scriptedFleet, serverOf } from './fixtures.ts';
import { settle } from './held-clock.ts';
import type { Script, ScriptedInstance } from './scripted-runtime.ts';

const call = { method: 'tools/call', params: { name: 'echo' } };
const answered = { era: 'legacy', result: {} };
const megabyte = 1024 ** 2;

type Options = Parameters<typeof scriptedFleet>[1];
type Settings = Parameters<typeof serverOf>[1];

/** A fleet whose spares are made. */
async function withSpares(settings: Settings = {}, options: Options = {}) {
  const server = serverOf('files', { ...settings, pool: { standby: 1, ...settings?.pool } });
  const made = scriptedFleet([server], options);
  made.fleet.start();
  await made.clock.pass(1000);
  const spares = () => made.fleet.status('files').instances.filter(({ isStandby }) => isStandby);
  return { ...made, spares };
}

describe('a spare', () => {
  it('is started, told that it is ready, and frozen, and no use of it is none', async () => {
    const { fleet, runtime, clock, spares } = await withSpares({ pool: { standby: 2 } });
    expect(runtime.running.map(({ isPaused }) => isPaused)).toEqual([true, true]);
    expect(runtime.running.every((one) => one.notifications('notifications/initialized').length === 1)).toBe(
      true,
    );
    expect(fleet.status('files').state).toBe('paused');
    expect(spares()).toMatchObject([
      { state: 'paused', leases: 0, memoryBytes: 1024, cpuPercent: 0 },
      { state: 'paused', leases: 0, memoryBytes: 1024, cpuPercent: 0 },
    ]);
    expect(fleet.isReady('files')).toBe(false);
    await clock.pass(3_000_000);
    expect(runtime.instances).toHaveLength(2);
    // What is frozen goes on using what it uses.
    expect(runtime.instances.map(({ measured }) => measured)).toEqual([1, 1]);
    await fleet.close();
    expect(runtime.running).toEqual([]);
    expect(clock.pending).toBe(0);
  });

  it('is taken by a call that finds nothing ready, and another one is made afterwards', async () => {
    const { fleet, runtime, clock, spares } = await withSpares();
    expect(await fleet.call('files', call)).toEqual(answered);
    expect(runtime.instances).toHaveLength(1);
    expect(runtime.last.isPaused).toBe(false);
    expect(fleet.status('files')).toMatchObject({ state: 'ready', instances: [{ isStandby: false }] });
    await clock.pass(1000);
    expect(runtime.running.map(({ isPaused }) => isPaused)).toEqual([false, true]);
    // The one that is ready has the calls.
    expect(await fleet.call('files', call)).toEqual(answered);
    expect(spares()).toHaveLength(1);
    await clock.pass(300_000);
    expect(runtime.running.map(({ isPaused }) => isPaused)).toEqual([true]);
    expect(runtime.violations).toEqual([]);
  });

  it('serves a hundred first calls alone', async () => {
    const { fleet, runtime } = await withSpares({ pool: { standby: 2 } });
    await Promise.all(Array.from({ length: 100 }, () => fleet.call('files', call)));
    expect(runtime.instances.filter(({ received }) => received.length > 2)).toHaveLength(1);
    expect(runtime.instances).toHaveLength(2);
  });

  it('becomes a member within pool.max only', async () => {
    const { fleet, runtime } = await withSpares({ concurrency: 1, pool: { max: 2, standby: 3 } });
    const leases = [await fleet.lease('files'), await fleet.lease('files')];
    const third = fleet.lease('files');
    await settle();
    expect(runtime.running.map(({ isPaused }) => isPaused)).toEqual([false, false, true]);
    leases[0]!.release();
    leases.push(await third);
    expect(runtime.instances).toHaveLength(3);
    for (const lease of leases) lease.release();
  });

  it('is joined while it starts', async () => {
    const gate = deferred<void>();
    const { fleet, runtime, clock } = await withSpares({}, { script: { start: () => gate.promise } });
    const first = fleet.call('files', call);
    await settle();
    expect(runtime.starting).toBe(1);
    gate.resolve();
    expect(await first).toEqual(answered);
    expect(runtime.instances).toHaveLength(1);
    await clock.pass(1000);
    expect(runtime.instances).toHaveLength(2);
  });

  it('is taken while it is being frozen', async () => {
    const gate = deferred<void>();
    const { fleet, runtime } = await withSpares({}, { script: { pause: () => gate.promise } });
    const first = fleet.call('files', call);
    await settle();
    gate.resolve();
    expect(await first).toEqual(answered);
    expect(runtime.instances).toHaveLength(1);
    expect(runtime.violations).toEqual([]);
  });

  it('stays awake where the engine cannot freeze', async () => {
    const script: Script = { pause: () => Promise.reject(new Error('no freezer')) };
    const { fleet, runtime, spares } = await withSpares({}, { script });
    expect(spares()).toMatchObject([{ state: 'ready' }]);
    expect(await fleet.call('files', call)).toEqual(answered);
    expect(runtime.instances).toHaveLength(1);
  });

  it('is a usual instance after a caller who gave up', async () => {
    const gate = deferred<void>();
    const { fleet, runtime, clock } = await withSpares({}, { script: { resume: () => gate.promise } });
    const abort = new AbortController();
    const given = rejection(fleet.call('files', call, { signal: abort.signal }));
    await settle();
    abort.abort();
    expect((await given).code).toBe('cancelled');
    gate.resolve();
    await clock.pass(299_000);
    expect(runtime.instances[0]!.isRunning).toBe(true);
    await clock.pass(1000);
    expect(runtime.instances[0]!.isRunning).toBe(false);
  });

  it('waits until its server has been learnt to know', async () => {
    const { fleet, runtime, clock } = await withSpares({}, { era: undefined });
    expect(runtime.instances).toEqual([]);
    const upkeep = await fleet.lease('files', { purpose: 'upkeep' });
    await clock.pass(1000);
    upkeep.release();
    await clock.pass(1000);
    expect(runtime.running.map(({ isPaused }) => isPaused)).toEqual([true]);
  });

  it('takes the place of a member that pool.min wants and that died', async () => {
    const { runtime, clock } = await withSpares({ pool: { min: 1, standby: 1 } });
    expect(runtime.running.map(({ isPaused }) => isPaused)).toEqual([false, true]);
    runtime.instances[0]!.dies();
    await settle();
    expect(runtime.running.map(({ isPaused }) => isPaused)).toEqual([false]);
    expect(runtime.instances).toHaveLength(2);
    await clock.pass(1000);
    expect(runtime.running.map(({ isPaused }) => isPaused)).toEqual([false, true]);
  });

  it('has its lists read when it is taken, and its own notifications reach nobody', async () => {
    const heard: string[] = [];
    const { fleet, runtime } = await withSpares(
      { pool: { standby: 1 } },
      {
        script: { pause: () => Promise.reject(new Error('no freezer')) },
        listener: {
          onReady: (server, _affinity, startedFor) => heard.push(`${server} for ${startedFor}`),
          onNotification: (_server, _affinity, { method }) => heard.push(method),
        },
      },
    );
    runtime.last.says({ jsonrpc: '2.0', method: 'notifications/tools/list_changed' });
    expect(heard).toEqual([]);
    await fleet.call('files', call);
    expect(heard).toEqual(['files for call']);
    expect(runtime.instances).toHaveLength(1);
  });
});

describe('a spare that is of no use', () => {
  it('is replaced when it dies', async () => {
    const { runtime, clock, spares } = await withSpares();
    runtime.last.dies({ code: 137 });
    await settle();
    expect(spares()).toEqual([]);
    await clock.pass(2000);
    expect(spares()).toHaveLength(1);
    expect(runtime.instances).toHaveLength(2);
  });

  it('is tried at growing intervals, and keeps no call from trying', async () => {
    let tries = 0;
    const { fleet, clock } = await withSpares(
      {},
      {
        script: {
          start: () => {
            tries += 1;
            return Promise.reject(new GatewayError('start_failed', 'no'));
          },
        },
      },
    );
    await clock.pass(60_000);
    expect(tries).toBeLessThan(9);
    expect(fleet.status('files')).toMatchObject({
      lastError: { code: 'start_failed' },
      retryAtMs: undefined,
      instances: [],
    });
    const before = tries;
    expect((await rejection(fleet.call('files', call))).code).toBe('start_failed');
    expect(tries).toBe(before + 1);
  });

  it('is not made while its server is in back-off', async () => {
    let deaths = 0;
    const { fleet, runtime, clock } = scriptedFleet([serverOf('files', { pool: { standby: 1 } })], {
      script: {
        onRequest: (instance) => {
          deaths += 1;
          instance.dies({ code: 1 });
        },
      },
    });
    for (const passMs of [0, 0, 2000]) {
      const failed = rejection(fleet.call('files', call));
      await clock.pass(passMs);
      await failed;
    }
    expect(deaths).toBe(3);
    const { retryAtMs } = fleet.status('files');
    const before = runtime.instances.length;
    await clock.pass(retryAtMs! - clock.now() - 1);
    expect(runtime.instances).toHaveLength(before);
    await clock.pass(1000);
    expect(runtime.instances).toHaveLength(before + 1);
  });

  it('is replaced by a fresh start when it does not thaw', async () => {
    let isBroken = true;
    const { fleet, runtime } = await withSpares(
      {},
      {
        script: {
          resume: () => (isBroken ? Promise.reject(new Error('cgroup is gone')) : Promise.resolve()),
        },
      },
    );
    expect(await fleet.call('files', call)).toEqual(answered);
    expect(runtime.instances).toHaveLength(2);
    isBroken = false;
    expect(runtime.violations).toEqual([]);
  });

  it('is not used when its image has changed, and goes by itself', async () => {
    const { fleet, runtime, clock, spares } = await withSpares({ pool: { standby: 2 } });
    const outdated = runtime.instances.slice();
    runtime.digest = 'sha256:1';
    const lease = await fleet.lease('files');
    expect(outdated.map(({ name }) => name)).not.toContain(lease.instance);
    lease.release();
    await clock.pass(1000);
    expect(outdated.map(({ isRunning }) => isRunning)).toEqual([false, false]);
    expect(spares()).toHaveLength(2);
    expect(fleet.status('files').lastError).toBeUndefined();

    // Also when nobody asks.
    const before = spares().map(({ id }) => id);
    runtime.digest = 'sha256:2';
    await clock.pass(31_000);
    const after = spares().map(({ id }) => id);
    expect(after).toHaveLength(2);
    expect(after.filter((id) => before.includes(id))).toEqual([]);
  });

  it('goes with its server’s stop, and comes back', async () => {
    const { fleet, runtime, clock, spares } = await withSpares();
    await fleet.stop('files');
    expect(runtime.running).toEqual([]);
    await clock.pass(1000);
    expect(spares()).toHaveLength(1);
  });
});

describe('a spare of a server with an instance for each session', () => {
  const asksForRoots: Script = {
    initialize(instance, request) {
      instance.ready(request);
      instance.says({ jsonrpc: '2.0', id: 'first', method: 'roots/list' });
    },
    onRequest: (instance, request) => instance.answer(request, {}),
  };

  it('is the next session’s own, whose folders it asks for again', async () => {
    const asked: (string | undefined)[] = [];
    const { fleet, runtime, spares } = await withSpares(
      { isolation: 'session' },
      {
        script: asksForRoots,
        listener: {
          onRequest: async (_server, affinity) => {
            asked.push(affinity);
            return { result: { roots: [] } };
          },
          onAsked: () => asked.push('learnt'),
        },
      },
    );
    const spare = runtime.last;
    expect(spare.answerTo('first')).toMatchObject({ error: { code: -32601 } });
    expect(await fleet.call('files', call, { affinity: 's1' })).toEqual(answered);
    expect(runtime.instances).toHaveLength(1);
    expect(spare.notifications('notifications/roots/list_changed')).toHaveLength(1);
    spare.says({ jsonrpc: '2.0', id: 'second', method: 'roots/list' });
    await settle();
    expect(spare.answerTo('second')).toMatchObject({ result: { roots: [] } });
    expect(asked).toEqual(['s1']);
    expect(spares()).toEqual([]);
    fleet.endSession('s1');
    await settle();
    expect(spare.isRunning).toBe(false);
  });

  it('is not for those who have no name, and asks modern clients during their calls alone', async () => {
    const { fleet, runtime } = await withSpares({ isolation: 'session' }, { script: asksForRoots });
    await fleet.call('files', call);
    expect(runtime.instances).toHaveLength(2);
    await fleet.call('files', call, { affinity: clientAffinity('c') });
    expect(runtime.instances).toHaveLength(2);
    expect(runtime.instances[0]!.notifications('notifications/roots/list_changed')).toEqual([]);
  });

  it('is never given to two', async () => {
    const { fleet, runtime } = await withSpares({ isolation: 'session', pool: { standby: 1 } });
    const names = await Promise.all(
      ['s1', 's2', 's3'].map(async (affinity) => {
        using lease = await fleet.lease('files', { affinity });
        return lease.instance;
      }),
    );
    expect(new Set(names).size).toBe(3);
    expect(runtime.instances).toHaveLength(3);
  });
});

describe('room', () => {
  const named = (...names: string[]) => names.map((name) => serverOf(name, { pool: { standby: 1 } }));
  const here = (instances: ScriptedInstance[]) =>
    instances.map(({ server, isPaused }) => `${server.name}${isPaused ? ' frozen' : ''}`);

  it('is for calls first: spares fill what they leave, and go when they need it', async () => {
    const { fleet, runtime, clock } = scriptedFleet(named('a', 'b', 'c'), { gateway: { maxInstances: 2 } });
    fleet.start();
    await clock.pass(1000);
    expect(here(runtime.running)).toEqual(['a frozen', 'b frozen']);
    const c = await fleet.lease('c');
    expect(here(runtime.running)).toEqual(['a frozen', 'c']);
    const a = await fleet.lease('a');
    await clock.pass(10_000);
    expect(here(runtime.running)).toEqual(['a', 'c']);
    // An idle instance that was used stays longer than a spare.
    c.release();
    a.release();
    const b = await fleet.lease('b');
    expect(runtime.mostRunning).toBe(2);
    b.release();
  });

  it('is taken from spares before it is taken from what was used', async () => {
    const { fleet, runtime, clock } = scriptedFleet([serverOf('used'), ...named('spare'), serverOf('new')], {
      gateway: { maxInstances: 2 },
    });
    await fleet.call('used', call);
    fleet.start();
    await clock.pass(1000);
    expect(here(runtime.running)).toEqual(['used', 'spare frozen']);
    await fleet.call('new', call);
    expect(here(runtime.running)).toEqual(['used', 'new']);
  });

  it('among starts is left to calls', async () => {
    const gates: (() => void)[] = [];
    const { fleet, runtime, clock } = scriptedFleet(named('a', 'b', 'c', 'd', 'e'), {
      gateway: { parallelStarts: 2 },
      script: { start: () => new Promise((resolve) => gates.push(resolve)) },
    });
    fleet.start();
    await clock.pass(1000);
    expect(runtime.starting).toBe(1);
    const first = fleet.call('e', call);
    await settle();
    expect(runtime.starting).toBe(2);
    gates[1]!();
    expect(await first).toEqual(answered);
    expect(here(runtime.running)).toEqual(['e']);
    await settle();
    while (gates.length > 0) {
      gates.shift()!();
      await clock.pass(1000);
    }
    expect(runtime.mostStarting).toBe(2);
    expect(here(runtime.running).sort()).toEqual([
      'a frozen',
      'b frozen',
      'c frozen',
      'd frozen',
      'e',
      'e frozen',
    ]);
  });

  it('in memory is bounded by gateway.standby_memory, for those that were needed last', async () => {
    const { fleet, runtime, clock } = scriptedFleet(named('a', 'b', 'c'), {
      gateway: { standbyMemoryBytes: 1024 * megabyte },
      script: { memoryBytes: () => 400 * megabyte },
    });
    fleet.start();
    await clock.pass(20_000);
    // Two of an estimated 512 MB, then two of 400.
    expect(here(runtime.running)).toEqual(['a frozen', 'b frozen']);
    expect(fleet.standbyBytes).toBe(800 * megabyte);
    await fleet.call('c', call);
    await clock.pass(20_000);
    expect(here(runtime.running)).toEqual(['a frozen', 'c', 'c frozen']);
    expect(fleet.standbyBytes).toBe(800 * megabyte);
  });

  it('in memory is not counted as free before it is', async () => {
    const gate = deferred<void>();
    const { fleet, runtime, clock } = scriptedFleet(named('a', 'b'), {
      gateway: { standbyMemoryBytes: 600 * megabyte },
      script: { memoryBytes: () => 500 * megabyte },
    });
    fleet.start();
    await clock.pass(5000);
    expect(here(runtime.running)).toEqual(['a frozen']);
    runtime.script.stop = () => gate.promise;
    await fleet.call('b', call);
    await clock.pass(5000);
    expect(here(runtime.running)).toEqual(['a frozen', 'b']);
    gate.resolve();
    await clock.pass(5000);
    expect(here(runtime.running)).toEqual(['b', 'b frozen']);
  });

  it('in memory is given back by spares that turn out too large', async () => {
    const { fleet, runtime, clock } = scriptedFleet(named('a', 'b'), {
      gateway: { standbyMemoryBytes: 1024 * megabyte },
      script: { memoryBytes: () => 600 * megabyte },
    });
    fleet.start();
    await clock.pass(60_000);
    expect(here(runtime.running)).toEqual(['a frozen']);
    expect(runtime.instances).toHaveLength(2);
  });

  it('in memory may be none at all', async () => {
    const { fleet, runtime, clock } = scriptedFleet(named('a'), { gateway: { standbyMemoryBytes: 0 } });
    fleet.start();
    await clock.pass(60_000);
    expect(runtime.instances).toEqual([]);
    expect(await fleet.call('a', call)).toEqual(answered);
  });
});
