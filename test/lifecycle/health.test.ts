import { describe, expect, it } from 'vitest';
import { GatewayError } from '../../src/base/errors.ts';
import { rejection, type ServerSettings, scriptedFleet, serverOf } from './fixtures.ts';
import { settle } from './held-clock.ts';
import type { Script } from './scripted-runtime.ts';

const call = { method: 'tools/call', params: { name: 'x' } };

/** A server that can be told to say nothing any more. */
function deafening(script: Script = {}) {
  const ears = { isDeaf: false, pings: 0 };
  const answers: Script = {
    ...script,
    onRequest(instance, request) {
      if (request.method === 'ping') ears.pings += 1;
      if (!ears.isDeaf) instance.answer(request, {});
    },
    discover(instance, request) {
      ears.pings += 1;
      if (!ears.isDeaf) instance.discovered(request);
    },
  };
  return { ears, script: answers };
}

describe('a server that runs and has nothing to do', () => {
  it('is asked every 30 s whether it is well, unless it is held, frozen, or has just spoken', async () => {
    const { ears, script } = deafening();
    const { fleet, runtime, clock } = scriptedFleet([serverOf('files', { pauseAfterMs: 200_000 })], {
      script,
    });
    const lease = await fleet.lease('files');
    await clock.pass(60_000);
    expect(ears.pings).toBe(0);
    lease.release();
    await clock.pass(60_000);
    expect(ears.pings).toBe(2);
    await fleet.call('files', call);
    await clock.pass(30_000);
    expect(ears.pings).toBe(2);
    await clock.pass(180_000);
    expect(runtime.last.isPaused).toBe(true);
    const before = ears.pings;
    await clock.pass(80_000);
    expect(ears.pings).toBe(before);
    expect(runtime.violations).toEqual([]);
  });

  it('is asked by server/discover where it is of the modern era, and never where the interval is 0', async () => {
    const { ears, script } = deafening({ era: 'modern' });
    const modern = scriptedFleet([serverOf('files')], { script, era: 'modern' });
    await modern.fleet.call('files', call);
    await modern.clock.pass(90_000);
    expect(modern.runtime.last.requests('ping')).toEqual([]);
    // The first was its handshake.
    expect(ears.pings).toBeGreaterThan(2);
    expect(modern.runtime.instances).toHaveLength(1);

    const never = deafening();
    const { fleet, clock } = scriptedFleet(
      [serverOf('files', { healthCheck: { intervalMs: 0, path: undefined } })],
      never,
    );
    await fleet.call('files', call);
    await clock.pass(200_000);
    expect(never.ears.pings).toBe(0);
  });

  it('shows by any answer that it is well, an error too', async () => {
    const { fleet, runtime, clock } = scriptedFleet(undefined, {
      script: { onRequest: (instance, request) => instance.refuses(request) },
    });
    await fleet.call('files', call);
    await clock.pass(250_000);
    expect(runtime.instances).toHaveLength(1);
    expect(runtime.running).toHaveLength(1);
  });

  it('is asked three times in a row when it is silent, then stopped; the next call starts a fresh one', async () => {
    const { ears, script } = deafening();
    const { fleet, runtime, clock } = scriptedFleet(undefined, { script });
    await fleet.call('files', call);
    // It has just spoken.
    await clock.pass(30_000);
    ears.isDeaf = true;
    await clock.pass(30_000);
    expect(ears.pings).toBe(1);
    await clock.pass(29_999);
    expect(ears.pings).toBe(3);
    expect(runtime.running).toHaveLength(1);
    await clock.pass(1);
    expect(runtime.running).toEqual([]);
    const { instances, lastError } = fleet.status('files');
    expect(instances).toEqual([]);
    expect(lastError).toMatchObject({
      code: 'instance_crashed',
      message: 'Server files answered nothing any more and was stopped',
    });
    ears.isDeaf = false;
    expect(await fleet.call('files', call)).toMatchObject({ result: {} });
  });

  it('is left alone when it speaks again in between, or has got a call', async () => {
    const { ears, script } = deafening();
    const { fleet, runtime, clock } = scriptedFleet(undefined, { script });
    await fleet.call('files', call);
    await clock.pass(30_000);
    ears.isDeaf = true;
    await clock.pass(45_000);
    ears.isDeaf = false;
    await clock.pass(60_000);
    expect(runtime.running).toHaveLength(1);
    ears.isDeaf = true;
    await clock.pass(25_000);
    const busy = fleet.call('files', call);
    await clock.pass(60_000);
    expect(runtime.running).toHaveLength(1);
    runtime.last.answer(runtime.last.open[0]!, {});
    expect(await busy).toMatchObject({ result: {} });
  });

  it('is not blamed for the silence of the engine that it runs on', async () => {
    const { ears, script } = deafening();
    const { fleet, runtime, clock } = scriptedFleet(undefined, { script });
    await fleet.call('files', call);
    const [instance] = runtime.instances;
    const { stats } = instance!;
    instance!.stats = () => Promise.reject(new GatewayError('engine_unreachable', 'The engine is silent'));
    ears.isDeaf = true;
    await clock.pass(250_000);
    expect(runtime.running).toEqual([instance]);
    // Also when a call brings it to light.
    const late = rejection(fleet.call('files', call, { silenceLimitMs: 1000 }));
    await clock.pass(20_000);
    expect((await late).code).toBe('call_timeout');
    expect(runtime.running).toEqual([instance]);
    instance!.stats = stats;
    const hanging = rejection(fleet.call('files', call, { silenceLimitMs: 1000 }));
    await clock.pass(20_000);
    expect((await hanging).code).toBe('call_timeout');
    expect(runtime.running).toEqual([]);
  });
});

describe('a server whose instances fall silent one after the other', () => {
  it('is kept at pool.min with growing pauses, and after three of them calls are told at once', async () => {
    const { ears, script } = deafening();
    const { fleet, runtime, clock } = scriptedFleet(
      [serverOf('files', { pool: { min: 2, max: 2 }, idleTimeoutMs: Number.POSITIVE_INFINITY })],
      { script },
    );
    ears.isDeaf = true;
    fleet.start();
    await clock.pass(0);
    expect(runtime.running).toHaveLength(2);
    // Both fell silent at the same time, which is one failure; they are replaced.
    await clock.pass(91_500);
    expect(runtime.instances).toHaveLength(4);
    await clock.pass(92_500);
    expect(runtime.instances).toHaveLength(6);
    await clock.pass(90_000);
    expect(runtime.running).toEqual([]);
    const refused = await rejection(fleet.call('files', call));
    expect(refused).toMatchObject({ code: 'server_failing', data: { failures: 3 } });
    expect(refused.message).toMatch(/files failed 3 times .* answered nothing any more/);
    expect(fleet.status('files').state).toBe('failed');
    ears.isDeaf = false;
    await clock.pass(10_000);
    expect(await fleet.call('files', call)).toMatchObject({ result: {} });
    await settle();
    expect(fleet.status('files')).toMatchObject({ state: 'ready', retryAtMs: undefined });
    expect(runtime.running).toHaveLength(2);
  });
});

describe('a server that has failed three times in a row', () => {
  /** Its instances die at each call, until `script.onRequest` is another. */
  async function failing(settings: ServerSettings = {}) {
    const test = scriptedFleet([serverOf('files', settings)], {
      script: { onRequest: (instance) => instance.dies({ code: 1 }) },
    });
    const { fleet, clock, runtime } = test;
    await rejection(fleet.call('files', call));
    await rejection(fleet.call('files', call));
    const third = rejection(fleet.call('files', call));
    await clock.pass(2000);
    await third;
    expect((await rejection(fleet.call('files', call))).data).toMatchObject({ retryInMs: 4000 });
    expect(runtime.instances).toHaveLength(3);
    runtime.script = { onRequest() {} };
    await clock.pass(4000);
    return test;
  }
  const many = (count: number, one: () => Promise<unknown>) => {
    const outcomes: unknown[] = [];
    for (let n = 0; n < count; n += 1) {
      void one().then(
        () => outcomes.push('answered'),
        (error: GatewayError) => outcomes.push(error.code),
      );
    }
    return outcomes;
  };

  it('is tried with one start and one call; the others wait, and are served when that is answered', async () => {
    const { fleet, runtime } = await failing({ pool: { max: 3 }, concurrency: 2 });
    const outcomes = many(6, () => fleet.call('files', call));
    await settle();
    expect(runtime.instances).toHaveLength(4);
    expect(runtime.last.open).toHaveLength(1);
    runtime.last.answer(runtime.last.open[0]!, {});
    await settle();
    expect(outcomes).toEqual(['answered']);
    expect(runtime.running).toHaveLength(3);
    for (const instance of runtime.running) for (const request of instance.open) instance.answer(request, {});
    await settle();
    expect(outcomes).toEqual(Array(6).fill('answered'));
    expect(fleet.status('files').state).toBe('ready');
  });

  it('has all told at once when that call kills it too, and pauses twice as long', async () => {
    const { fleet, runtime, clock } = await failing({ pool: { max: 3 } });
    const outcomes = many(4, () => fleet.call('files', call));
    await settle();
    runtime.last.dies({ code: 1 });
    await clock.pass(100);
    expect(outcomes.sort()).toEqual([
      'instance_crashed',
      'server_failing',
      'server_failing',
      'server_failing',
    ]);
    expect(runtime.instances).toHaveLength(4);
    expect((await rejection(fleet.call('files', call))).data).toMatchObject({ failures: 4, retryInMs: 7900 });
  });

  it('is tried by one session alone where each has an instance of its own', async () => {
    const { fleet, runtime } = await failing({ isolation: 'session' });
    let session = 0;
    const outcomes = many(3, () => fleet.call('files', call, { affinity: `s${session++}` }));
    await settle();
    expect(runtime.instances).toHaveLength(4);
    runtime.last.answer(runtime.last.open[0]!, {});
    await settle();
    expect(outcomes).toEqual(['answered']);
    expect(runtime.instances).toHaveLength(6);
  });

  it('does not keep the others waiting for a long call', async () => {
    const { fleet, runtime, clock } = await failing();
    const outcomes = many(3, () => fleet.call('files', call));
    await clock.pass(4999);
    expect(runtime.last.open).toHaveLength(1);
    await clock.pass(1);
    expect(runtime.last.open).toHaveLength(3);
    for (const request of runtime.last.open) runtime.last.answer(request, {});
    await settle();
    expect(outcomes).toEqual(Array(3).fill('answered'));
  });

  it('goes on to the next who waits when the one who tried it has gone', async () => {
    const { fleet, runtime } = await failing({ isolation: 'session' });
    runtime.script.start = () => new Promise(() => {});
    const first = rejection(fleet.call('files', call, { affinity: 'a' }));
    const second = fleet.call('files', call, { affinity: 'b' });
    await settle();
    runtime.script = {};
    fleet.endSession('a');
    expect((await first).code).toBe('session_unknown');
    expect(await second).toMatchObject({ result: {} });
  });
});
