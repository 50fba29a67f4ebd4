import { describe, expect, it } from 'vitest';
import { type Deferred, deferred } from '../../src/base/async.ts';
import { rejection, scriptedFleet, serverOf } from './fixtures.ts';
import { settle } from './held-clock.ts';

const call = { method: 'tools/call', params: { name: 'echo' } };
const answered = { era: 'legacy', result: {} };

/** A fleet whose one instance is frozen, and thaws when the test says so. */
async function frozen(settings: Parameters<typeof serverOf>[1] = {}) {
  const thaw: Deferred<void> = deferred();
  const start: Deferred<void> = deferred();
  let isFirst = true;
  const made = scriptedFleet([serverOf('files', { pauseAfterMs: 1000, ...settings })], {
    script: {
      resume: () => thaw.promise,
      start: () => (isFirst ? Promise.resolve() : start.promise),
    },
  });
  await made.fleet.call('files', call, { affinity: 's1' });
  isFirst = false;
  await made.clock.pass(1000);
  expect(made.fleet.status('files').state).toBe('paused');
  return { ...made, thaw, start };
}

describe('a thaw that takes long', () => {
  it('is overtaken by a fresh instance, after a second', async () => {
    const { fleet, runtime, clock, start } = await frozen();
    const result = fleet.call('files', call);
    await clock.pass(999);
    expect(runtime.starting).toBe(0);
    await clock.pass(1);
    expect(runtime.starting).toBe(1);
    start.resolve();
    expect(await result).toEqual(answered);
    await settle();
    expect(runtime.running).toEqual([runtime.last]);
    expect(fleet.status('files').instances).toHaveLength(1);
    expect(runtime.violations).toEqual([]);
  });

  it('may still come first: what was started for it goes unused', async () => {
    const { fleet, runtime, clock, thaw, start } = await frozen();
    const result = fleet.call('files', call);
    await clock.pass(3000);
    thaw.resolve();
    expect(await result).toEqual(answered);
    start.resolve();
    await settle();
    expect(runtime.running).toEqual([runtime.instances[0]]);
    expect(fleet.status('files').instances).toHaveLength(1);
    await clock.pass(400_000);
    expect(clock.pending).toBe(0);
  });

  it('is waited for where memory matters, and the loss is told', async () => {
    const { fleet, runtime, clock, start } = await frozen({ stateful: true });
    const result = rejection(fleet.call('files', call, { affinity: 's1' }));
    await clock.pass(9999);
    expect(runtime.starting).toBe(0);
    start.resolve();
    await clock.pass(1);
    expect(runtime.instances[0]!.isRunning).toBe(false);
    expect((await result).message).toMatch(/memory for this session is lost.*Nothing was done for this call/);
    expect(await fleet.call('files', call, { affinity: 's1' })).toEqual(answered);
  });

  it('costs nobody a breaker', async () => {
    const { fleet, clock, start } = await frozen();
    start.resolve();
    const result = fleet.call('files', call);
    await clock.pass(20_000);
    await result;
    expect(fleet.status('files')).toMatchObject({
      state: 'paused',
      retryAtMs: undefined,
      lastError: undefined,
    });
  });
});

describe('an instance that somebody else has frozen', () => {
  it('is shown as frozen, and thawed for the next call', async () => {
    const { fleet, runtime, events } = scriptedFleet();
    const resumed: string[] = [];
    events.on('instance.resumed', ({ instance }) => resumed.push(instance));
    await fleet.call('files', call);
    runtime.last.isFrozen = true;
    expect(fleet.status('files')).toMatchObject({ state: 'paused', instances: [{ state: 'paused' }] });
    expect(await fleet.call('files', call)).toEqual(answered);
    expect(resumed).toEqual(['files-1']);
    expect(fleet.status('files').state).toBe('ready');
  });

  it('is replaced when it does not thaw, unless calls are in flight on it: those keep it', async () => {
    let isBroken = false;
    const { fleet, runtime, clock } = scriptedFleet(undefined, {
      script: { resume: () => (isBroken ? new Promise(() => {}) : Promise.resolve()) },
    });
    const lease = await fleet.lease('files');
    isBroken = true;
    runtime.last.isFrozen = true;
    const result = fleet.call('files', call);
    await clock.pass(1000);
    expect(await result).toEqual(answered);
    expect(runtime.instances).toHaveLength(2);
    expect(runtime.instances[0]!.wasStopped).toBe(false);
    lease.release();
    await clock.pass(10_000);
    expect(runtime.instances[0]!.wasStopped).toBe(true);
    expect(runtime.violations).toEqual([]);
  });

  it('is shown as running when somebody else has thawed it', async () => {
    const { fleet, runtime, clock } = scriptedFleet([serverOf('files', { pauseAfterMs: 1000 })]);
    await fleet.call('files', call);
    runtime.last.isFrozen = true;
    await clock.pass(1000);
    expect(fleet.status('files').state).toBe('paused');
    runtime.last.isFrozen = false;
    expect(fleet.status('files')).toMatchObject({ state: 'ready', instances: [{ state: 'ready' }] });
    expect(await fleet.call('files', call)).toEqual(answered);
  });
});
