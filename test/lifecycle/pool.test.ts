import { describe, expect, it } from 'vitest';
import { deferred } from '../../src/base/async.ts';
import { GatewayError } from '../../src/base/errors.ts';
import type { Lease } from '../../src/lifecycle/lease.ts';
import { NotWritten } from '../../src/runtimes/runtime.ts';
import { rejection, scriptedFleet, serverOf } from './fixtures.ts';
import { settle } from './held-clock.ts';

const call = { method: 'tools/call', params: { name: 'echo' } };

describe('starting', () => {
  it('starts one instance for a hundred first calls', async () => {
    const gate = deferred<void>();
    const { fleet, runtime } = scriptedFleet(undefined, { script: { start: () => gate.promise } });
    const calls = Array.from({ length: 100 }, () => fleet.call('files', call));
    await settle();
    expect(runtime.starting).toBe(1);
    gate.resolve();
    await Promise.all(calls);
    expect(runtime.instances).toHaveLength(1);
  });

  it('gives those who wait the same error when the start fails', async () => {
    const failure = new GatewayError('image_missing', 'no image', { hint: 'build it' });
    const { fleet } = scriptedFleet(undefined, { script: { start: () => Promise.reject(failure) } });
    const errors = await Promise.all([1, 2, 3].map(() => rejection(fleet.call('files', call))));
    expect(errors.map(({ code }) => code)).toEqual(['image_missing', 'image_missing', 'image_missing']);
    expect(fleet.status('files')).toMatchObject({
      state: 'failed',
      lastError: { code: 'image_missing', hint: 'build it' },
    });
  });

  it('goes on with a start whose callers gave up', async () => {
    const gate = deferred<void>();
    const { fleet, runtime, clock } = scriptedFleet(undefined, { script: { start: () => gate.promise } });
    const abort = new AbortController();
    const given = rejection(fleet.call('files', call, { signal: abort.signal }));
    await settle();
    abort.abort();
    expect((await given).code).toBe('cancelled');
    gate.resolve();
    await settle();
    expect(fleet.status('files').state).toBe('ready');
    await clock.pass(300_000);
    expect(runtime.running).toHaveLength(0);
    expect(fleet.status('files')).toMatchObject({ state: 'stopped', instances: [] });
  });

  it('ends each step at its own bound, and what comes too late is stopped', async () => {
    const late = deferred<void>();
    let step = 'prepare';
    const never = new Promise<void>(() => {});
    const { fleet, runtime, clock } = scriptedFleet(undefined, {
      script: {
        prepare: () => (step === 'prepare' ? never : Promise.resolve()),
        start: () => (step === 'start' ? late.promise : Promise.resolve()),
        initialize: () => {},
      },
    });
    const building = rejection(fleet.call('files', call));
    await clock.pass(599_999);
    expect(fleet.status('files').state).toBe('starting');
    await clock.pass(1);
    expect((await building).code).toBe('build_failed');

    step = 'start';
    const starting = rejection(fleet.call('files', call));
    await clock.pass(1000 + 30_000);
    expect((await starting).code).toBe('start_timeout');
    late.resolve();
    await settle();
    expect(runtime.running).toEqual([]);

    step = 'handshake';
    const shaking = rejection(fleet.call('files', call));
    await clock.pass(2000);
    runtime.last.stderr.push('still thinking');
    runtime.last.writesNoise('Server is up!');
    await clock.pass(10_000);
    const error = await shaking;
    expect(error.code).toBe('handshake_timeout');
    expect(error.message).toMatch(
      /files.*did not answer initialize within 10 s.*Server is up!.*still thinking/s,
    );
    expect(runtime.running).toEqual([]);
  });

  it('does not count a build against the time in the queue', async () => {
    const gate = deferred<void>();
    const { fleet, clock } = scriptedFleet(undefined, { script: { prepare: () => gate.promise } });
    const result = fleet.call('files', call);
    await clock.pass(400_000);
    gate.resolve();
    expect(await result).toEqual({ era: 'legacy', result: {} });
  });

  it('says what the wait is for', async () => {
    const heard: string[] = [];
    const { fleet } = scriptedFleet(undefined, {
      script: {
        async prepare(_server, { onProgress }) {
          onProgress?.({ step: 'build', text: 'step 3/9' });
        },
      },
    });
    await fleet.call('files', call, { onWaiting: (text) => heard.push(text) });
    expect(heard).toEqual(['starting files', 'preparing files: step 3/9']);
  });

  it('holds a start slot only from create to running', async () => {
    const servers = ['a', 'b', 'c', 'd'].map((name) => serverOf(name));
    const { fleet, runtime } = scriptedFleet(servers, {
      gateway: { parallelStarts: 2 },
      script: {
        initialize: (instance, request) =>
          instance.server.name === 'd' ? instance.ready(request) : undefined,
      },
    });
    for (const name of ['a', 'b', 'c']) fleet.call(name, call).catch(() => {});
    await fleet.call('d', call);
    expect(runtime.mostStarting).toBe(2);
    await fleet.kill();
  });

  it('says why a server cannot start at all', async () => {
    const { fleet } = scriptedFleet([
      serverOf('off', { enabled: false }),
      serverOf('poor', {
        problem: { code: 'variable_missing', message: 'TOKEN is not set', hint: 'set it' },
      }),
    ]);
    expect((await rejection(fleet.call('off', call))).code).toBe('server_disabled');
    expect(await rejection(fleet.call('poor', call))).toMatchObject({
      code: 'variable_missing',
      hint: 'set it',
    });
    expect((await rejection(fleet.call('nobody', call))).code).toBe('server_unknown');
    expect(fleet.status('off').state).toBe('disabled');
    expect(fleet.status('poor')).toMatchObject({ state: 'failed', lastError: { code: 'variable_missing' } });
  });
});

describe('rest', () => {
  it('stops an instance after its idle time and not before', async () => {
    const { fleet, runtime, clock } = scriptedFleet();
    await fleet.call('files', call);
    await clock.pass(299_999);
    await fleet.call('files', call);
    await clock.pass(299_999);
    expect(runtime.running).toHaveLength(1);
    await clock.pass(1);
    expect(runtime.running).toHaveLength(0);
    expect(clock.pending).toBe(0);
  });

  it('never stops under a lease, however long', async () => {
    const { fleet, runtime, clock } = scriptedFleet();
    const lease = await fleet.lease('files');
    await clock.pass(3_000_000);
    expect(runtime.running).toHaveLength(1);
    lease.release();
    lease.release();
    await clock.pass(300_000);
    expect(runtime.running).toHaveLength(0);
  });

  it('gives a call that comes while its server drains a fresh instance, and never runs two copies', async () => {
    const gate = deferred<void>();
    const { fleet, runtime, clock } = scriptedFleet(undefined, { script: { stop: () => gate.promise } });
    await fleet.call('files', call);
    await clock.pass(300_000);
    expect(fleet.status('files').state).toBe('draining');
    const result = fleet.call('files', call);
    await settle();
    expect(runtime.instances).toHaveLength(1);
    gate.resolve();
    expect(await result).toEqual({ era: 'legacy', result: {} });
    expect(runtime.instances).toHaveLength(2);
    expect(runtime.mostRunning).toBe(1);
    expect(runtime.violations).toEqual([]);
  });

  it('freezes, thaws for a call, and stops when it stays idle', async () => {
    const { fleet, runtime, clock } = scriptedFleet([serverOf('files', { pauseAfterMs: 60_000 })]);
    await fleet.call('files', call);
    await clock.pass(60_000);
    expect(runtime.last.isPaused).toBe(true);
    expect(fleet.status('files').state).toBe('paused');
    await fleet.call('files', call);
    expect(runtime.last.isPaused).toBe(false);
    await clock.pass(300_000);
    expect(runtime.running).toEqual([]);
    expect(runtime.instances).toHaveLength(1);
    expect(runtime.violations).toEqual([]);
  });

  it('lets a call that comes while it freezes wait for the thaw', async () => {
    const gate = deferred<void>();
    const { fleet, runtime, clock } = scriptedFleet([serverOf('files', { pauseAfterMs: 60_000 })], {
      script: { pause: () => gate.promise },
    });
    await fleet.call('files', call);
    await clock.pass(60_000);
    const result = fleet.call('files', call);
    await settle();
    gate.resolve();
    expect(await result).toEqual({ era: 'legacy', result: {} });
    expect(runtime.instances).toHaveLength(1);
    expect(runtime.violations).toEqual([]);
  });

  it('replaces an instance that does not thaw, without the caller noticing', async () => {
    const { fleet, runtime, clock } = scriptedFleet([serverOf('files', { pauseAfterMs: 60_000 })], {
      script: { resume: () => Promise.reject(new Error('cgroup is gone')) },
    });
    await fleet.call('files', call);
    await clock.pass(60_000);
    expect(await fleet.call('files', call)).toEqual({ era: 'legacy', result: {} });
    expect(runtime.instances).toHaveLength(2);
    expect(runtime.running).toHaveLength(1);
  });

  it('stays up where the engine cannot freeze', async () => {
    let tries = 0;
    const { fleet, runtime, clock } = scriptedFleet([serverOf('files', { pauseAfterMs: 60_000 })], {
      script: {
        pause: () => {
          tries += 1;
          return Promise.reject(new Error('no freezer'));
        },
      },
    });
    await fleet.call('files', call);
    await clock.pass(120_000);
    expect(fleet.status('files').state).toBe('ready');
    expect(tries).toBe(1);
    await clock.pass(180_000);
    expect(runtime.running).toEqual([]);
  });

  it('stops what was started for upkeep when that is done, unless a call came', async () => {
    const { fleet, runtime, clock } = scriptedFleet();
    const upkeep = await fleet.lease('files', { purpose: 'upkeep' });
    upkeep.release();
    await settle();
    expect(runtime.running).toEqual([]);

    const again = await fleet.lease('files', { purpose: 'upkeep' });
    await fleet.call('files', call);
    again.release();
    await settle();
    expect(runtime.running).toHaveLength(1);

    await clock.pass(200_000);
    (await fleet.lease('files', { purpose: 'upkeep' })).release();
    await clock.pass(100_000);
    expect(runtime.running).toEqual([]);
  });

  it('keeps pool.min running, and brings it back', async () => {
    const { fleet, runtime, clock } = scriptedFleet([
      serverOf('files', { pool: { min: 1, max: 2 }, concurrency: 1 }),
    ]);
    fleet.start();
    await settle();
    expect(runtime.running).toHaveLength(1);
    const leases = await Promise.all([fleet.lease('files'), fleet.lease('files')]);
    expect(runtime.running).toHaveLength(2);
    for (const lease of leases) lease.release();
    await clock.pass(600_000);
    expect(runtime.running).toHaveLength(1);
    runtime.running[0]!.dies();
    await settle();
    expect(runtime.running).toHaveLength(1);
    await fleet.close();
    expect(runtime.running).toEqual([]);
    expect(clock.pending).toBe(0);
  });
});

describe('the queue', () => {
  it('serves in order, at most `concurrency` at a time', async () => {
    const { fleet, runtime } = scriptedFleet([serverOf('files', { concurrency: 2 })], {
      script: { onRequest() {} },
    });
    const order: number[] = [];
    const calls = [0, 1, 2, 3, 4].map((n) =>
      fleet.call('files', { method: 'tools/call', params: { n } }).then(() => order.push(n)),
    );
    await settle();
    const served: unknown[] = [];
    while (runtime.last.open.length > 0) {
      expect(runtime.last.open.length).toBeLessThanOrEqual(2);
      const [first] = runtime.last.open;
      served.push(first!.params!.n);
      runtime.last.answer(first!, {});
      await settle();
    }
    await Promise.all(calls);
    expect(served).toEqual([0, 1, 2, 3, 4]);
    expect(order).toEqual([0, 1, 2, 3, 4]);
  });

  it('grows to pool.max and no further', async () => {
    const { fleet, runtime } = scriptedFleet([serverOf('files', { concurrency: 2, pool: { max: 3 } })], {
      script: { onRequest() {} },
    });
    const calls = Array.from({ length: 20 }, () => fleet.call('files', call));
    await settle();
    expect(runtime.running).toHaveLength(3);
    expect(runtime.running.map(({ open }) => open.length)).toEqual([2, 2, 2]);
    while (runtime.running.some(({ open }) => open.length > 0)) {
      for (const instance of runtime.running)
        for (const request of instance.open) instance.answer(request, {});
      await settle();
    }
    await Promise.all(calls);
    expect(runtime.instances).toHaveLength(3);
  });

  it('is bounded in length and in time, and one who leaves does not disturb the others', async () => {
    const { fleet, clock } = scriptedFleet([serverOf('files', { concurrency: 1 })], {
      gateway: { maxQueue: 2 },
    });
    const held = await fleet.lease('files');
    const abort = new AbortController();
    const leaving = rejection(fleet.lease('files', { signal: abort.signal }));
    const staying = fleet.lease('files');
    expect((await rejection(fleet.lease('files'))).code).toBe('queue_full');
    abort.abort();
    expect((await leaving).code).toBe('cancelled');
    const late = rejection(fleet.lease('files'));
    await clock.pass(30_000);
    held.release();
    const next = await staying;
    await clock.pass(30_000);
    expect((await late).code).toBe('queue_timeout');
    next.release();
  });

  it('gives a server that is known to ask one call at a time while it is shared', async () => {
    const { fleet, runtime } = scriptedFleet(
      [serverOf('asks', { interactive: true, isolation: 'shared' }), serverOf('learns')],
      { script: { onRequest() {} } },
    );
    fleet.markInteractive('learns');
    for (const name of ['asks', 'learns']) {
      for (let n = 0; n < 3; n += 1) fleet.call(name, call).catch(() => {});
    }
    await settle();
    expect(runtime.running.map(({ open }) => open.length)).toEqual([1, 1]);
    await fleet.kill();
  });

  it('keeps to gateway.max_instances: the one idle for longest makes room, else calls wait', async () => {
    const servers = ['a', 'b', 'c'].map((name) => serverOf(name));
    const { fleet, runtime, clock } = scriptedFleet(servers, { gateway: { maxInstances: 2 } });
    await fleet.call('a', call);
    await clock.pass(1000);
    await fleet.call('b', call);
    await clock.pass(1000);
    const c = await fleet.lease('c');
    expect(runtime.running.map(({ server }) => server.name)).toEqual(['b', 'c']);
    const b = await fleet.lease('b');
    const waiting = fleet.call('a', call);
    await clock.pass(10_000);
    expect(runtime.running.map(({ server }) => server.name)).toEqual(['b', 'c']);
    c.release();
    expect(await waiting).toEqual({ era: 'legacy', result: {} });
    expect(runtime.running.map(({ server }) => server.name)).toEqual(['b', 'a']);
    expect(runtime.mostRunning).toBe(2);
    b.release();

    const late = [await fleet.lease('a'), await fleet.lease('b')];
    const refused = rejection(fleet.call('c', call));
    await clock.pass(60_000);
    expect(await refused).toMatchObject({ code: 'queue_timeout' });
    for (const lease of late) lease.release();
    await settle();
    // Nobody waits for it any more, so nothing makes room.
    expect(runtime.running.map(({ server }) => server.name)).toEqual(['b', 'a']);
  });
});

describe('room for instances', () => {
  it('is made by one that is just being frozen', async () => {
    const gate = deferred<void>();
    const servers = [serverOf('a', { pauseAfterMs: 1000 }), serverOf('b')];
    const { fleet, runtime, clock } = scriptedFleet(servers, {
      gateway: { maxInstances: 1 },
      script: { pause: () => gate.promise },
    });
    await fleet.call('a', call);
    await clock.pass(1000);
    const waiting = fleet.call('b', call);
    await settle();
    gate.resolve();
    expect(await waiting).toEqual({ era: 'legacy', result: {} });
    expect(runtime.violations).toEqual([]);
  });

  it('is not taken from a warm instance for a second one that nobody needs any more', async () => {
    const { fleet, runtime } = scriptedFleet(
      [serverOf('a', { concurrency: 1, pool: { max: 2 } }), serverOf('b')],
      {
        gateway: { maxInstances: 2 },
      },
    );
    const other = await fleet.lease('b');
    const first = await fleet.lease('a');
    const second = fleet.lease('a');
    await settle();
    first.release();
    (await second).release();
    await settle();
    expect(runtime.instances).toHaveLength(2);
    expect(runtime.running).toHaveLength(2);
    other.release();
    await settle();
    expect(runtime.running).toHaveLength(2);
  });
});

describe('failing', () => {
  it('tells the calls of a dead instance, and starts another one for the next', async () => {
    const { fleet, runtime } = scriptedFleet(undefined, { script: { onRequest() {} } });
    const calls = [rejection(fleet.call('files', call)), rejection(fleet.call('files', call))];
    await settle();
    runtime.last.stderr.push('TypeError: x is not a function');
    runtime.last.dies({ code: 7 });
    for (const error of await Promise.all(calls)) {
      expect(error).toMatchObject({ code: 'instance_crashed', server: 'files', data: { exitCode: 7 } });
      expect(error.message).toMatch(/files.*exit code 7.*TypeError: x is not a function/s);
      expect(error.hint).toBeTruthy();
    }
    runtime.script = {};
    expect(await fleet.call('files', call)).toEqual({ era: 'legacy', result: {} });
    expect(runtime.instances).toHaveLength(2);
  });

  it('is gone from the status at once, whatever the clearing up takes', async () => {
    const { fleet, runtime } = scriptedFleet(undefined, { script: { stop: () => new Promise(() => {}) } });
    await fleet.call('files', call);
    runtime.last.dies('unsaid');
    await Promise.resolve();
    await Promise.resolve();
    expect(fleet.status('files').instances).toEqual([]);
    expect(fleet.status('files').state).toBe('stopped');
  });

  it('does not wait for an engine that never says why', async () => {
    const { fleet, runtime, clock } = scriptedFleet(undefined, { script: { onRequest() {} } });
    const failed = rejection(fleet.call('files', call));
    await settle();
    runtime.last.dies('unsaid');
    let isTold = false;
    void failed.then(() => {
      isTold = true;
    });
    await clock.pass(79);
    expect(isTold).toBe(false);
    await clock.pass(1);
    expect(isTold).toBe(true);
    expect((await failed).message).not.toMatch(/exit code/);
  });

  it('waits longer for why where no call waits for the answer', async () => {
    const { fleet, runtime, clock } = scriptedFleet();
    await fleet.call('files', call);
    const died = runtime.last;
    died.dies('unsaid');
    await clock.pass(500);
    died.explains({ code: 137, signal: 'SIGKILL', outOfMemory: true });
    await settle();
    expect(fleet.status('files')).toMatchObject({
      state: 'stopped',
      instances: [],
      lastError: { code: 'out_of_memory' },
    });
  });

  it('waits longer for why where it is a start that fails', async () => {
    const { fleet, runtime, clock } = scriptedFleet(undefined, { script: { initialize() {} } });
    const failed = rejection(fleet.call('files', call));
    await settle();
    runtime.last.dies('unsaid');
    await clock.pass(500);
    runtime.last.explains({ code: 3 });
    expect((await failed).message).toMatch(/code 3/);
  });

  it('backs off from a crash loop, opens the breaker, and closes it with the first answer', async () => {
    const { fleet, runtime, clock } = scriptedFleet(undefined, {
      script: { onRequest: (instance) => instance.dies({ code: 1 }) },
    });
    const codes: string[] = [];
    codes.push((await rejection(fleet.call('files', call))).code);
    codes.push((await rejection(fleet.call('files', call))).code);
    expect(runtime.instances).toHaveLength(2);
    const third = rejection(fleet.call('files', call));
    await clock.pass(1999);
    expect(runtime.instances).toHaveLength(2);
    await clock.pass(1);
    codes.push((await third).code);
    expect(codes).toEqual(['instance_crashed', 'instance_crashed', 'instance_crashed']);
    const open = await rejection(fleet.call('files', call));
    expect(open).toMatchObject({ code: 'server_failing', data: { retryInMs: 4000, failures: 3 } });
    expect(open.message).toMatch(/files failed 3 times.*4 s.*exit code 1/s);
    expect(open.hint).toBeTruthy();
    expect(fleet.status('files')).toMatchObject({ state: 'failed', retryAtMs: clock.now() + 4000 });

    await clock.pass(4000);
    runtime.script = {};
    expect(await fleet.call('files', call)).toEqual({ era: 'legacy', result: {} });
    runtime.last.dies();
    await settle();
    expect(await fleet.call('files', call)).toEqual({ era: 'legacy', result: {} });
  });

  it('waits twice as long after each failed start, up to a minute', async () => {
    const { fleet, clock } = scriptedFleet(undefined, {
      script: { start: () => Promise.reject(new GatewayError('start_failed', 'no')) },
    });
    const waits: number[] = [];
    for (let n = 0; n < 9; n += 1) {
      const failed = rejection(fleet.call('files', call));
      await clock.pass(0);
      await failed;
      const waitMs = fleet.status('files').retryAtMs! - clock.now();
      waits.push(waitMs);
      await clock.pass(waitMs);
    }
    expect(waits).toEqual([1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000, 60_000]);
  });

  it('asks an engine that is away again at each call', async () => {
    let isAway = true;
    const { fleet, events } = scriptedFleet(undefined, {
      script: {
        prepare: () =>
          isAway ? Promise.reject(new GatewayError('engine_unreachable', 'no engine')) : Promise.resolve(),
      },
    });
    for (let n = 0; n < 5; n += 1) {
      expect((await rejection(fleet.call('files', call))).code).toBe('engine_unreachable');
    }
    isAway = false;
    events.emit('engine.back', { runtime: 'process' });
    expect(await fleet.call('files', call)).toEqual({ era: 'legacy', result: {} });
  });

  it('counts instances that die together once', async () => {
    const { fleet, runtime } = scriptedFleet([serverOf('files', { concurrency: 1, pool: { max: 3 } })], {
      script: { onRequest() {} },
    });
    const calls = [1, 2, 3].map(() => rejection(fleet.call('files', call)));
    await settle();
    for (const instance of runtime.running) instance.dies();
    await Promise.all(calls);
    runtime.script = {};
    expect(await fleet.call('files', call)).toEqual({ era: 'legacy', result: {} });
  });

  it('tries a call that was not written on a fresh instance, twice at most', async () => {
    let deaths = 2;
    const { fleet, runtime, clock } = scriptedFleet(undefined, {
      script: {
        onSend(instance, message) {
          if (!('method' in message) || message.method !== 'tools/call' || deaths === 0) return;
          deaths -= 1;
          instance.dies();
        },
      },
    });
    const running = fleet.call('files', call);
    await clock.pass(10_000);
    expect(await running).toEqual({ era: 'legacy', result: {} });
    expect(runtime.instances).toHaveLength(3);
  });

  it('backs off from instances that cannot be written to as from those that die', async () => {
    const { fleet, runtime, clock } = scriptedFleet(undefined, {
      script: {
        onSend(_instance, message) {
          if ('method' in message && message.method === 'tools/call') throw new NotWritten('EPIPE');
        },
      },
    });
    const failed = rejection(fleet.call('files', call));
    await clock.pass(10_000);
    expect(await failed).toMatchObject({ code: 'instance_crashed' });
    expect(runtime.instances).toHaveLength(3);
    expect(runtime.running).toHaveLength(0);
    runtime.script = {};
    expect(await fleet.call('files', call)).toEqual({ era: 'legacy', result: {} });
  });

  it('replaces an instance that answers nothing any more', async () => {
    const { fleet, runtime, clock } = scriptedFleet([serverOf('files', { timeouts: { callMs: 1000 } })], {
      script: { onRequest() {} },
    });
    const timedOut = rejection(fleet.call('files', call));
    await clock.pass(1000);
    expect((await timedOut).code).toBe('call_timeout');
    const first = runtime.last;
    const lease = await fleet.lease('files');
    await clock.pass(9500);
    const hanging = rejection(lease.call(call));
    await clock.pass(500);
    expect((await hanging).code).toBe('instance_crashed');
    lease.release();
    expect(first.isRunning).toBe(false);
    runtime.script = {};
    expect(await fleet.call('files', call)).toEqual({ era: 'legacy', result: {} });
  });

  it('keeps an instance that is slow with one call and answers others', async () => {
    const { fleet, runtime, clock } = scriptedFleet([serverOf('files', { timeouts: { callMs: 1000 } })], {
      script: {
        onRequest(instance, request) {
          if (request.method === 'ping') instance.answer(request, {});
        },
      },
    });
    const timedOut = rejection(fleet.call('files', call));
    await clock.pass(30_000);
    expect((await timedOut).code).toBe('call_timeout');
    expect(runtime.running).toHaveLength(1);
  });

  it('does not take a rest for a failure', async () => {
    const { fleet, clock } = scriptedFleet();
    await fleet.call('files', call);
    await clock.pass(300_000);
    expect(fleet.status('files')).toMatchObject({
      state: 'stopped',
      lastError: undefined,
      retryAtMs: undefined,
    });
  });

  it('never writes a call twice, unless the server permits it and the call does no harm', async () => {
    const script = {
      onRequest: (instance: { dies(exit: { code: number }): void }) => instance.dies({ code: 1 }),
    };
    const { fleet, runtime, clock } = scriptedFleet(
      [serverOf('files'), serverOf('patient', { retry: 'annotated' })],
      { script },
    );
    expect((await rejection(fleet.call('files', call, { isReplayable: true }))).code).toBe(
      'instance_crashed',
    );
    expect(runtime.instances).toHaveLength(1);
    expect((await rejection(fleet.call('patient', call))).code).toBe('instance_crashed');
    expect(runtime.instances).toHaveLength(2);
    const replayed = rejection(fleet.call('patient', call, { isReplayable: true }));
    await clock.pass(10_000);
    expect((await replayed).code).toBe('instance_crashed');
    expect(runtime.instances).toHaveLength(4);
  });
});

describe('sessions', () => {
  it('gives each session its own instance, alive as long as it', async () => {
    const { fleet, runtime, clock } = scriptedFleet([serverOf('notes', { isolation: 'session' })]);
    const names = await Promise.all(
      ['s1', 's2', 's1', undefined].map(async (affinity) => {
        using lease = await fleet.lease('notes', { affinity });
        return lease.instance;
      }),
    );
    expect(new Set(names).size).toBe(3);
    expect(names[0]).toBe(names[2]);
    await clock.pass(3_000_000);
    expect(runtime.running).toHaveLength(2);
    fleet.endSession('s1');
    await settle();
    expect(runtime.running).toHaveLength(1);
    expect((await rejection(fleet.call('notes', call, { affinity: 's1' }))).code).toBe('session_unknown');
    expect(runtime.running).toHaveLength(1);
  });

  it('does not stop a session’s instance under a call when the session ends', async () => {
    const { fleet, runtime } = scriptedFleet([serverOf('notes', { isolation: 'session' })]);
    const lease = await fleet.lease('notes', { affinity: 's1' });
    fleet.endSession('s1');
    await settle();
    expect(runtime.running).toHaveLength(1);
    lease.release();
    await settle();
    expect(runtime.running).toHaveLength(0);
  });

  it('makes room with instances of sessions, but never with those whose memory matters', async () => {
    const { fleet, runtime, clock } = scriptedFleet(
      [serverOf('plain', { isolation: 'session' }), serverOf('memory', { stateful: true })],
      { gateway: { maxInstances: 2 } },
    );
    await fleet.call('memory', call, { affinity: 's1' });
    await clock.pass(1);
    await fleet.call('plain', call, { affinity: 's1' });
    await clock.pass(1);
    await fleet.call('plain', call, { affinity: 's2' });
    expect(runtime.running.map(({ server }) => server.name)).toEqual(['memory', 'plain']);
    expect(runtime.instances).toHaveLength(3);
  });

  it('reports lost state once, then goes on', async () => {
    const { fleet, runtime } = scriptedFleet([serverOf('memory', { stateful: true })]);
    await fleet.call('memory', call, { affinity: 's1' });
    await fleet.call('memory', call, { affinity: 's2' });
    for (const instance of runtime.running) instance.dies();
    await settle();
    const error = await rejection(fleet.call('memory', call, { affinity: 's1' }));
    expect(error.code).toBe('instance_crashed');
    expect(error.message).toMatch(/memory.*lost/);
    expect(await fleet.call('memory', call, { affinity: 's1' })).toEqual({ era: 'legacy', result: {} });
    await fleet.stop('memory');
    expect((await rejection(fleet.call('memory', call, { affinity: 's1' }))).message).toMatch(
      /stopped on request/,
    );
    expect((await rejection(fleet.call('memory', call, { affinity: 's2' }))).message).toMatch(/lost/);
    expect(await fleet.call('memory', call, { affinity: 's3' })).toEqual({ era: 'legacy', result: {} });
  });

  it('takes the error of a call in flight as that report', async () => {
    const { fleet, runtime } = scriptedFleet([serverOf('memory', { stateful: true })], {
      script: { onRequest() {} },
    });
    const failed = rejection(fleet.call('memory', call, { affinity: 's1' }));
    await settle();
    runtime.last.dies();
    expect((await failed).message).toMatch(/memory is lost/);
    runtime.script = {};
    expect(await fleet.call('memory', call, { affinity: 's1' })).toEqual({ era: 'legacy', result: {} });
  });

  it('does not try a call that was not written elsewhere when that would hide a loss', async () => {
    const { fleet, runtime } = scriptedFleet([serverOf('memory', { stateful: true })]);
    await fleet.call('memory', call, { affinity: 's1' });
    runtime.script = {
      onSend(instance) {
        instance.dies();
      },
    };
    const error = await rejection(fleet.call('memory', call, { affinity: 's1' }));
    expect(error).toMatchObject({ code: 'instance_crashed' });
    expect(error.message).toMatch(/memory is lost/);
    runtime.script = {};
    expect(await fleet.call('memory', call, { affinity: 's1' })).toEqual({ era: 'legacy', result: {} });
  });

  it('knows after a restart of the gateway which sessions lost state', async () => {
    const kept = new Map<string, unknown>();
    const store = {
      get: async <T>(key: string) => kept.get(key) as T | undefined,
      set: async (key: string, value: unknown) => void kept.set(key, value),
      delete: async (key: string) => void kept.delete(key),
      async *entries() {},
    };
    const servers = [serverOf('memory', { stateful: true })];
    const first = scriptedFleet(servers, { fleet: { store: store as never } });
    await first.fleet.call('memory', call, { affinity: 's1' });
    await first.fleet.call('memory', call, { affinity: 's2' });
    first.fleet.endSession('s2');

    const second = scriptedFleet(servers, { fleet: { store: store as never } });
    const outcomes = await Promise.allSettled([
      second.fleet.call('memory', call, { affinity: 's1' }),
      second.fleet.call('memory', call, { affinity: 's1' }),
    ]);
    expect(outcomes.map(({ status }) => status).sort()).toEqual(['fulfilled', 'rejected']);
    expect(await second.fleet.call('memory', call, { affinity: 's1' })).toEqual({
      era: 'legacy',
      result: {},
    });
    expect(await second.fleet.call('memory', call, { affinity: 's2' })).toEqual({
      era: 'legacy',
      result: {},
    });
  });

  it('tells of a loss after a restart of the gateway that came before it could', async () => {
    const kept = new Map<string, unknown>();
    const store = {
      get: async <T>(key: string) => kept.get(key) as T | undefined,
      set: async (key: string, value: unknown) => void kept.set(key, value),
      delete: async (key: string) => void kept.delete(key),
      async *entries() {},
    };
    const servers = [serverOf('memory', { stateful: true })];
    const first = scriptedFleet(servers, { fleet: { store: store as never } });
    await first.fleet.call('memory', call, { affinity: 's1' });
    first.runtime.last.dies();
    await settle();

    const second = scriptedFleet(servers, { fleet: { store: store as never } });
    expect((await rejection(second.fleet.call('memory', call, { affinity: 's1' }))).message).toMatch(/lost/);
    expect(await second.fleet.call('memory', call, { affinity: 's1' })).toEqual({
      era: 'legacy',
      result: {},
    });
  });

  it('does not rest a shared server whose memory matters while a session that used it lives', async () => {
    const { fleet, runtime, clock } = scriptedFleet([
      serverOf('memory', { stateful: true, isolation: 'shared' }),
    ]);
    await fleet.call('memory', call, { affinity: 's1' });
    await clock.pass(3_000_000);
    expect(runtime.running).toHaveLength(1);
    fleet.endSession('s1');
    await settle();
    expect(runtime.running).toHaveLength(0);
  });
});

describe('the end', () => {
  it('refuses new calls, waits for those in flight, then stops everything', async () => {
    const { fleet, runtime, clock } = scriptedFleet([serverOf('a'), serverOf('b')], {
      script: { onRequest() {} },
    });
    const inFlight = fleet.call('a', call);
    await fleet.lease('b').then((lease) => lease.release());
    await settle();
    const drained = fleet.drain(30_000);
    expect((await rejection(fleet.call('b', call))).code).toBe('draining');
    await clock.pass(10_000);
    expect(runtime.running).toHaveLength(2);
    runtime.instances[0]!.answer(runtime.instances[0]!.open[0]!, { done: true });
    expect(await inFlight).toEqual({ era: 'legacy', result: { done: true } });
    await drained;
    expect(runtime.running).toEqual([]);
    expect(runtime.violations).toEqual([]);
    expect(clock.pending).toBe(0);
  });

  it('ends at its bound all the same', async () => {
    const { fleet, runtime, clock } = scriptedFleet(undefined, { script: { onRequest() {} } });
    const stuck = rejection(fleet.call('files', call));
    await settle();
    const drained = fleet.drain(30_000);
    await clock.pass(30_000);
    expect((await stuck).code).toBe('draining');
    await drained;
    expect(runtime.running).toEqual([]);
    expect(clock.pending).toBe(0);
  });

  it('ends at once when it is told twice', async () => {
    const graces: number[] = [];
    const { fleet, runtime } = scriptedFleet(undefined, {
      script: {
        onRequest() {},
        async stop(_instance, graceMs) {
          graces.push(graceMs);
        },
      },
    });
    const stuck = rejection(fleet.call('files', call));
    await settle();
    const drained = fleet.drain(30_000);
    await fleet.kill();
    await drained;
    expect((await stuck).code).toBe('draining');
    expect(graces).toEqual([0]);
    expect(runtime.running).toEqual([]);
  });

  it('ends starts that are under way', async () => {
    const { fleet, runtime, clock } = scriptedFleet(undefined, {
      script: {
        start: (_server, { signal }) =>
          new Promise((_, reject) => signal!.addEventListener('abort', () => reject(signal!.reason))),
      },
    });
    const starting = rejection(fleet.call('files', call));
    await settle();
    await fleet.close();
    expect((await starting).code).toBe('draining');
    expect(runtime.running).toEqual([]);
    expect(clock.pending).toBe(0);
  });

  it('stops one server on request when its calls are done, and starts it again for the next', async () => {
    const { fleet, runtime } = scriptedFleet();
    const lease: Lease = await fleet.lease('files');
    const stopped = fleet.stop('files');
    const next = fleet.call('files', call);
    await settle();
    expect(runtime.instances).toHaveLength(1);
    lease.release();
    await stopped;
    expect(await next).toEqual({ era: 'legacy', result: {} });
    expect(runtime.instances).toHaveLength(2);
    expect(runtime.mostRunning).toBe(1);
  });
});
