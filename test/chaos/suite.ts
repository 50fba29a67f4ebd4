import fc from 'fast-check';
import { openInProcess } from './in-process.ts';
import { play } from './play.ts';
import { type Breach, type PromiseName, promises } from './promises.ts';
import { inWords, type Schedule, schedules } from './schedule.ts';
import type { Bug } from './seam.ts';

export type Level = 'processes' | 'containers';

export interface SuiteOptions {
  level: Level;
  /** The first; each schedule has the next one. */
  seed: number;
  count: number;
  /** At the same time. */
  parallel?: number;
  /** For how long a schedule that fails is made shorter; 0: not at all. */
  shrinkMs?: number;
  bug?: Bug;
  /** Only a breach of this promise ends it. */
  isAimedAt?: PromiseName;
  /** Told after each schedule. */
  onPlayed?(seed: number, breaches: Breach[]): void;
}

/** A schedule that broke a promise. */
export interface Found {
  seed: number;
  breaches: Breach[];
  schedule: Schedule;
  /** The same as short as it could be made, and what it broke. */
  shortest?: { schedule: Schedule; breaches: Breach[] };
}

/** The schedule of a seed: always the same one. */
export function scheduleOf(level: Level, seed: number): Schedule {
  return fc.sample(schedules(level), { seed, numRuns: 1 })[0]!;
}

/** Plays the schedules of as many seeds; ends at the first that breaks a promise and returns it. */
export async function runSuite(options: SuiteOptions): Promise<Found | undefined> {
  const { level, seed, count, parallel = 1, bug } = options;
  let next = seed;
  let found: Found | undefined;
  const work = async () => {
    while (!found && next < seed + count) {
      const own = next++;
      const schedule = scheduleOf(level, own);
      const breaches = await playAt(level, schedule, bug);
      options.onPlayed?.(own, breaches);
      const { isAimedAt } = options;
      const isHit = isAimedAt ? breaches.some(({ promise }) => promise === isAimedAt) : breaches.length > 0;
      if (isHit) found ??= { seed: own, breaches, schedule };
    }
  };
  await Promise.all(Array.from({ length: parallel }, work));
  if (found && options.shrinkMs) found.shortest = await shorten(level, found, options.shrinkMs, bug);
  return found;
}

export async function playAt(level: Level, schedule: Schedule, bug?: Bug): Promise<Breach[]> {
  const open =
    level === 'processes'
      ? (await import('./in-process.ts')).openInProcess
      : (await import('./containers.ts')).openContainers;
  return play(schedule, (model) => open(schedule.setup, model, bug));
}

/** Leaves out what the breach does not need; what came of it last. */
async function shorten(
  level: Level,
  { seed }: Found,
  limitMs: number,
  bug?: Bug,
): Promise<Found['shortest']> {
  let shortest: Found['shortest'];
  const property = fc.asyncProperty(schedules(level), async (schedule) => {
    const breaches = await playAt(level, schedule, bug);
    if (breaches.length > 0) shortest = { schedule, breaches };
    return breaches.length === 0;
  });
  await fc.check(property, {
    seed,
    numRuns: 1,
    interruptAfterTimeLimit: limitMs,
    markInterruptAsFailure: true,
  });
  return shortest;
}

const again: Record<Level, string> = {
  processes: 'CHAOS_COUNT=1 npx vitest run test/chaos/chaos.test.ts',
  containers: 'CHAOS_CONTAINERS=1 npx vitest run test/chaos/containers.test.ts',
};

/** What a person needs to see it again. */
export function report(level: Level, found: Found): string {
  const list = (breaches: Breach[]) =>
    breaches
      .map(({ promise, what, atMs }) => `- ${promise} (${promises[promise]}), at ${atMs} ms: ${what}`)
      .join('\n');
  const { seed, breaches, schedule, shortest } = found;
  return [
    `A promise was broken. Again: CHAOS_SEED=${seed} ${again[level]}`,
    list(breaches),
    'The schedule:',
    inWords(schedule),
    ...(shortest
      ? ['The shortest that still does:', inWords(shortest.schedule), list(shortest.breaches)]
      : []),
  ].join('\n');
}

export { openInProcess };
