import { describe, expect, it } from 'vitest';
import type { Lease } from '../../src/lifecycle/lease.ts';
import { rejection, scriptedFleet, serverOf } from './fixtures.ts';
import { settle } from './held-clock.ts';

const call = { method: 'tools/call', params: { name: 'echo' } };

/* A hold keeps an instance for what goes on there by itself: a task. */

describe('a hold', () => {
  it('keeps the instance of a call beyond that call, and restarts the idle clock when it ends', async () => {
    const { fleet, runtime, clock } = scriptedFleet([serverOf('files', { pauseAfterMs: 60_000 })]);
    let hold: Lease | undefined;
    await fleet.call('files', call, {
      onLease: (lease) => {
        hold = lease.hold();
      },
    });
    expect(hold!.instance).toBe(runtime.last.name);
    await clock.pass(3_000_000);
    expect(runtime.running).toHaveLength(1);
    expect(runtime.last.isPaused).toBe(false);
    expect(fleet.status('files').instances[0]!.leases).toBe(1);
    expect(await hold!.call(call)).toEqual({ era: 'legacy', result: {} });
    hold!.release();
    hold!.release();
    await clock.pass(59_999);
    expect(runtime.last.isPaused).toBe(false);
    await clock.pass(1);
    expect(runtime.last.isPaused).toBe(true);
    await clock.pass(240_000);
    expect(runtime.running).toEqual([]);
    expect(clock.pending).toBe(0);
  });

  it('takes no place in the concurrency', async () => {
    const { fleet, runtime } = scriptedFleet([serverOf('files', { concurrency: 1 })]);
    const holds: Lease[] = [];
    for (let n = 0; n < 3; n += 1) {
      await fleet.call('files', call, { onLease: (lease) => holds.push(lease.hold()) });
    }
    holds.push(await fleet.lease('files', { purpose: 'hold' }));
    expect(await fleet.call('files', call)).toEqual({ era: 'legacy', result: {} });
    expect(runtime.instances).toHaveLength(1);
    for (const hold of holds) hold.release();
  });

  it('starts an instance where none runs, which then rests like any other', async () => {
    const { fleet, runtime, clock } = scriptedFleet([serverOf('files')]);
    const hold = await fleet.lease('files', { purpose: 'hold' });
    hold.release();
    await clock.pass(299_999);
    expect(runtime.running).toHaveLength(1);
    await clock.pass(1);
    expect(runtime.running).toEqual([]);
  });

  it('is not given up to make room', async () => {
    const { fleet, runtime, clock } = scriptedFleet([serverOf('a'), serverOf('b')], {
      gateway: { maxInstances: 1 },
    });
    const hold = await fleet.lease('a', { purpose: 'hold' });
    const waiting = fleet.call('b', call);
    await clock.pass(10_000);
    expect(runtime.running.map(({ server }) => server.name)).toEqual(['a']);
    hold.release();
    expect(await waiting).toEqual({ era: 'legacy', result: {} });
  });

  it('keeps a retired instance until it ends, and a drain within its bound only', async () => {
    const { fleet, runtime, clock } = scriptedFleet();
    const hold = await fleet.lease('files', { purpose: 'hold' });
    const drained = fleet.drain(30_000);
    await clock.pass(29_999);
    expect(runtime.running).toHaveLength(1);
    await clock.pass(1);
    await drained;
    expect(runtime.running).toEqual([]);
    hold.release();

    const other = scriptedFleet();
    const short = await other.fleet.lease('files', { purpose: 'hold' });
    const quick = other.fleet.drain(30_000);
    await other.clock.pass(1000);
    short.release();
    await quick;
    expect(other.clock.pending).toBe(0);
  });

  it('does not keep an instance that hangs, nor one that has died', async () => {
    const { fleet, runtime, clock } = scriptedFleet(undefined, { script: { onRequest() {} } });
    const hold = await fleet.lease('files', { purpose: 'hold' });
    await clock.pass(200_000);
    expect(runtime.running).toEqual([]);
    expect(fleet.status('files').lastError?.code).toBe('instance_crashed');
    expect(await hold.call(call).catch((error) => error.name)).toBe('NotWritten');
    hold.release();
    expect(() => hold.hold()).toThrow(/released/);
    await settle();
    expect(fleet.status('files').instances).toEqual([]);
  });

  it('is told of each attempt of a call that was not written', async () => {
    let deaths = 1;
    const { fleet, clock } = scriptedFleet(undefined, {
      script: {
        onSend(instance, message) {
          if (!('method' in message) || message.method !== 'tools/call' || deaths === 0) return;
          deaths -= 1;
          instance.dies();
        },
      },
    });
    const instances: string[] = [];
    const running = fleet.call('files', call, { onLease: ({ instance }) => instances.push(instance) });
    await clock.pass(10_000);
    await running;
    expect(instances).toEqual(['files-1', 'files-2']);
    const cancelled = AbortSignal.abort();
    expect((await rejection(fleet.call('files', call, { signal: cancelled }))).code).toBe('cancelled');
  });
});
