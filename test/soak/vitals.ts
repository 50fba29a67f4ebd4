import { connect } from 'node:net';
import { text } from 'node:stream/consumers';
import type { Held } from './probe.ts';

/** What there is at one moment. */
export interface Vitals extends Held {
  /** Since the soak began. */
  atMs: number;
  containers: number;
}

/** How much more may be there in the end, whichever is more. What leaked with every call, or with every start, would be far above. */
const tolerances: Record<Exclude<keyof Vitals, 'atMs'>, { share: number; atLeast: number; unit: string }> = {
  heapBytes: { share: 0.1, atLeast: 4 * 2 ** 20, unit: 'bytes of heap' },
  residentBytes: { share: 0.15, atLeast: 24 * 2 ** 20, unit: 'bytes resident' },
  timers: { share: 0.25, atLeast: 75, unit: 'timers' },
  sockets: { share: 0.15, atLeast: 20, unit: 'sockets' },
  descriptors: { share: 0.15, atLeast: 20, unit: 'file descriptors' },
  containers: { share: 0.15, atLeast: 8, unit: 'containers' },
};

/** The tolerances in words. */
export const toleranceInWords = Object.values(tolerances)
  .map(({ share, atLeast, unit }) => `${unit} ${share * 100} % or ${atLeast}`)
  .join(', ');

/** One line for each figure. */
export interface Flatness {
  figure: string;
  middle: number;
  last: number;
  isFlat: boolean;
}

/** Compares the median of the last third of the soak with that of the second third. */
export function flatness(samples: Vitals[], totalMs: number): Flatness[] {
  const third = (from: number) =>
    samples.filter(({ atMs }) => atMs >= (from * totalMs) / 3 && atMs < ((from + 1) * totalMs) / 3);
  const [middle, last] = [third(1), third(2)];
  return (Object.keys(tolerances) as (keyof typeof tolerances)[]).map((key) => {
    const { share, atLeast, unit } = tolerances[key];
    const before = medianOf(middle.map((sample) => sample[key]));
    const after = medianOf(last.map((sample) => sample[key]));
    const isFlat = after - before <= Math.max(before * share, atLeast);
    return { figure: unit, middle: before, last: after, isFlat };
  });
}

/** NaN, which is never flat, when there are none. */
function medianOf(values: number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? Number.NaN;
}

/** Asks the probe inside the gateway. */
export async function heldBy(probePath: string): Promise<Held> {
  const connection = connect(probePath);
  connection.setTimeout(10_000, () => connection.destroy(new Error('the probe did not answer within 10 s')));
  return JSON.parse(await text(connection)) as Held;
}
