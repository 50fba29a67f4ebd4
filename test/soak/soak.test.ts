import { describe, expect, it } from 'vitest';
import { Draw } from './draw.ts';
import { drawFaults } from './faults.ts';
import { Ledger } from './ledger.ts';
import { soak } from './soak.ts';
import { flatness, type Vitals } from './vitals.ts';

describe('the verdict of the soak', () => {
  const vitals = (atMs: number, more: Partial<Vitals> = {}): Vitals => ({
    atMs,
    heapBytes: 30 * 2 ** 20,
    residentBytes: 140 * 2 ** 20,
    timers: 300,
    sockets: 40,
    descriptors: 60,
    containers: 20,
    ...more,
  });
  const notFlat = (growth: (atMs: number) => Partial<Vitals>) => {
    const samples = Array.from({ length: 90 }, (_, second) => vitals(second * 1000, growth(second * 1000)));
    return flatness(samples, 90_000)
      .filter(({ isFlat }) => !isFlat)
      .map(({ figure }) => figure);
  };

  it('sees what grows from the second third to the last, and no peaks', () => {
    expect(notFlat(() => ({}))).toEqual([]);
    expect(notFlat((atMs) => (atMs === 70_000 ? { heapBytes: 2 ** 30, descriptors: 900 } : {}))).toEqual([]);
    expect(notFlat((atMs) => ({ heapBytes: (20 + atMs / 4000) * 2 ** 20 }))).toEqual(['bytes of heap']);
    expect(notFlat((atMs) => ({ descriptors: 60 + atMs / 800, sockets: 40 + atMs / 800 }))).toEqual([
      'sockets',
      'file descriptors',
    ]);
  });

  it('finds nothing flat of which nothing was seen', () => {
    expect(flatness([], 90_000).some(({ isFlat }) => isFlat)).toBe(false);
  });

  it('excuses a call that a fault met only when it was told so', () => {
    let nowMs = 0;
    const ledger = new Ledger(() => nowMs);
    const call = (server = 'a') => ({ server, what: 'echo', startedAtMs: nowMs });
    const crash = { kind: 'error', code: 'instance_crashed', message: 'Server a stopped' } as const;
    const before = call();
    nowMs = 100;
    const over = ledger.fault('a');
    nowMs = 200;
    over();
    ledger.failed(before, crash);
    expect([ledger.excused, ledger.lostCount]).toEqual([1, 0]);

    ledger.failed(before, { kind: 'dropped' });
    ledger.failed(before, { kind: 'unanswered' });
    ledger.failed(before, { ...crash, message: 'Something went wrong' });
    ledger.failed({ ...before, server: 'b' }, { ...crash, message: 'Server b stopped' });
    nowMs = 5000;
    ledger.failed(call(), crash);
    expect([ledger.excused, ledger.lostCount]).toEqual([1, 5]);

    ledger.failed(call(), { kind: 'error', code: 'server_failing', message: 'Server a failed 3 times' });
    ledger.fault(undefined);
    ledger.failed(call(), { kind: 'dropped' });
    expect([ledger.excused, ledger.lostCount]).toEqual([3, 5]);
  });

  it('draws the same faults for the same seed, restarts in the first third', () => {
    const faults = drawFaults(new Draw('x'), 1_200_000);
    expect(drawFaults(new Draw('x'), 1_200_000)).toEqual(faults);
    expect(drawFaults(new Draw('y'), 1_200_000)).not.toEqual(faults);
    const restarts = faults.filter(({ kind }) => kind === 'restart');
    expect(restarts).toHaveLength(4);
    expect(restarts.every(({ atMs }) => atMs < 400_000)).toBe(true);
  });
});

describe('a short soak', () => {
  it('loses, crosses and leaves nothing', async ({ annotate }) => {
    const seed = process.env.SOAK_SEED ?? Math.random().toString(36).slice(2, 10);
    await annotate(`SOAK_SEED=${seed}`);
    const { ledger, orphans, complaints, flatness } = await soak({
      minutes: 1.5,
      clients: 60,
      rate: 30,
      seed,
    });
    const inTheProcess = ['bytes of heap', 'bytes resident', 'timers'];
    expect({
      seed,
      lost: ledger.lost,
      crossed: ledger.crossed,
      orphans,
      complaints,
      // Containers, and sockets with them, are still becoming more in so short a time.
      notFlat: flatness.filter(({ figure, isFlat }) => !isFlat && inTheProcess.includes(figure)),
    }).toEqual({ seed, lost: [], crossed: [], orphans: [], complaints: [], notFlat: [] });
    expect(ledger.answered).toBeGreaterThan(200);
  }, 240_000);
});
