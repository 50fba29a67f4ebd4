import type { Clock } from '../../src/base/async.ts';

/** Time that passes only when a test says so. */
export class HeldClock implements Clock {
  #now = 1_000_000;
  #next = 0;
  readonly #timers = new Map<number, { atMs: number; task: () => void }>();

  now(): number {
    return this.#now;
  }

  schedule(task: () => void, delayMs: number): () => void {
    const key = this.#next++;
    this.#timers.set(key, { atMs: this.#now + Math.max(0, delayMs), task });
    return () => void this.#timers.delete(key);
  }

  /** Timers that have not fired. */
  get pending(): number {
    return this.#timers.size;
  }

  /** Lets time pass, timer by timer, and everything that they set off settle. */
  async pass(durationMs: number): Promise<void> {
    const untilMs = this.#now + durationMs;
    do await settle();
    while (this.#fireNext(untilMs));
    this.#now = untilMs;
    await settle();
  }

  /** Lets time pass without letting anything else happen. */
  fire(durationMs: number): void {
    const untilMs = this.#now + durationMs;
    while (this.#fireNext(untilMs));
    this.#now = untilMs;
  }

  /** Runs the earliest timer that is due by then; false when none is. */
  #fireNext(untilMs: number): boolean {
    let next: [number, { atMs: number; task: () => void }] | undefined;
    for (const entry of this.#timers) if (!next || entry[1].atMs < next[1].atMs) next = entry;
    if (!next || next[1].atMs > untilMs) return false;
    this.#timers.delete(next[0]);
    this.#now = Math.max(this.#now, next[1].atMs);
    next[1].task();
    return true;
  }
}

/** Everything that is only waiting for its turn has had it. */
export async function settle(): Promise<void> {
  for (let round = 0; round < 3; round += 1) await new Promise((resolve) => setImmediate(resolve));
}
