import type { Clock } from '../base/async.ts';

export interface FloodGuardOptions {
  /** Lines that may come at once. */
  capacity: number;
  /** Lines per second that may come for ever. */
  perSecond: number;
  clock: Clock;
}

/** Counts the lines of an instance that answer no call, and says when they are too many. */
export class FloodGuard {
  readonly #options: FloodGuardOptions;
  #tokens: number;
  #filledAtMs: number;
  #spent = 0;

  constructor(options: FloodGuardOptions) {
    this.#options = options;
    this.#tokens = options.capacity;
    this.#filledAtMs = options.clock.now();
  }

  /** Lines counted so far, large ones by their size. */
  get spent(): number {
    return this.#spent;
  }

  /** False when the instance has to be given up. `cost` is 1 for a short line. */
  spend(cost = 1): boolean {
    this.#spent += cost;
    this.#tokens -= cost;
    if (this.#tokens >= 0) return true;
    // Only an empty bucket looks at the clock: a line must cost next to nothing.
    const { capacity, perSecond, clock } = this.#options;
    const now = clock.now();
    this.#tokens = Math.min(capacity, this.#tokens + ((now - this.#filledAtMs) / 1000) * perSecond);
    this.#filledAtMs = now;
    return this.#tokens >= 0;
  }
}
