import type { Clock } from '../base/async.ts';

/** What can be measured. */
interface Measurable {
  readonly memoryBytes: number | undefined;
  measure(): Promise<void>;
}

export interface MeterOptions {
  /** Those whose use of memory decides something, and may have changed. */
  instances(): Iterable<Measurable>;
  clock: Clock;
  onMeasured(): void;
}

/** Asked at a time: an old engine takes a second for each. */
const atOnce = 4;
const firstAfterMs = 250;
const againAfterMs = 1000;
const everyMs = 5000;

/** Knows how much memory instances use, by asking at a bounded pace and beside all calls. */
export class Meter {
  readonly #options: MeterOptions;
  #isMeasuring = false;
  #cancelTimer: (() => void) | undefined;
  #dueAtMs = Number.POSITIVE_INFINITY;
  #isClosed = false;

  constructor(options: MeterOptions) {
    this.#options = options;
  }

  /** An instance is there that was not before, or is frozen: what it uses is asked soon. */
  look(inMs = firstAfterMs): void {
    const { clock } = this.#options;
    const dueAtMs = clock.now() + inMs;
    if (this.#isClosed || this.#isMeasuring || dueAtMs >= this.#dueAtMs) return;
    this.#cancelTimer?.();
    this.#dueAtMs = dueAtMs;
    this.#cancelTimer = clock.schedule(() => {
      this.#cancelTimer = undefined;
      this.#dueAtMs = Number.POSITIVE_INFINITY;
      void this.#measure();
    }, inMs);
  }

  close(): void {
    this.#isClosed = true;
    this.#cancelTimer?.();
    this.#cancelTimer = undefined;
  }

  async #measure(): Promise<void> {
    const { instances, onMeasured } = this.#options;
    const todo = [...instances()];
    // Who was never measured counts with more than it may use.
    todo.sort(
      (one, other) => Number(one.memoryBytes !== undefined) - Number(other.memoryBytes !== undefined),
    );
    this.#isMeasuring = true;
    const next = async () => {
      for (let one = todo.shift(); one && !this.#isClosed; one = todo.shift()) await one.measure();
    };
    await Promise.all(Array.from({ length: atOnce }, next));
    this.#isMeasuring = false;
    if (this.#isClosed) return;
    onMeasured();
    const all = [...instances()];
    const hasNew = all.some(({ memoryBytes }) => memoryBytes === undefined);
    if (all.length > 0) this.look(hasNew ? againAfterMs : everyMs);
  }
}
