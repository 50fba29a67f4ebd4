import { describe, expect, it } from 'vitest';
import { crossedReply, doubleStart, stopUnderALease } from './bugs.ts';
import type { PromiseName } from './promises.ts';
import type { Bug } from './seam.ts';
import { report, runSuite, scheduleOf } from './suite.ts';

/*
 * CHAOS_SEED=… plays the schedules from that seed on, the one that a failure printed first; CHAOS_COUNT=1 it alone. `npm run chaos`
 * plays many.
 */
const { CHAOS_SEED, CHAOS_COUNT = '44' } = process.env;
const seed = CHAOS_SEED === undefined ? Math.floor(Math.random() * 1e9) : Number(CHAOS_SEED);

describe('whatever is drawn', () => {
  it(`every promise is kept, from seed ${seed} on`, async () => {
    const found = await runSuite({
      level: 'processes',
      seed,
      count: Number(CHAOS_COUNT),
      parallel: 3,
      shrinkMs: 120_000,
    });
    if (found) throw new Error(report('processes', found));
  }, 1_800_000);

  it('a seed is a schedule', () => {
    expect(scheduleOf('processes', 7)).toEqual(scheduleOf('processes', 7));
    expect(scheduleOf('processes', 7)).not.toEqual(scheduleOf('processes', 8));
  });
});

describe('the model finds', () => {
  it.each<[string, Bug, PromiseName]>([
    ['a crossed reply', crossedReply, 'eachItsOwn'],
    ['a double start', doubleStart, 'singleFlight'],
    ['a stop under a lease', stopUnderALease, 'neverStopUnderALease'],
  ])(
    '%s, within a few schedules',
    async (_, bug, promise) => {
      const found = await runSuite({
        level: 'processes',
        seed: 1,
        count: 10,
        parallel: 2,
        bug,
        isAimedAt: promise,
      });
      expect(found?.breaches.map((breach) => breach.promise)).toContain(promise);
    },
    600_000,
  );
});
