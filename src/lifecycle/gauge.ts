import type { Clock } from '../base/async.ts';
import type { Instance } from '../runtimes/runtime.ts';

/** Figures that are younger are not asked for again. */
const intervalMs = 1000;

/** What one instance uses, as its engine measured it last. */
export class Gauge {
  readonly #clock: Clock;
  memoryBytes: number | undefined;
  /** Of one CPU, between the last two measurements. */
  cpuPercent: number | undefined;
  /** Frozen, it goes on using what it uses. */
  #isOfFrozen = false;
  #atMs = Number.NEGATIVE_INFINITY;
  #measuring: Promise<void> | undefined;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Whether another measurement could say anything new. */
  get isOpen(): boolean {
    return !this.#isOfFrozen;
  }

  /** It works again. */
  thawed(): void {
    this.#isOfFrozen = false;
  }

  /** Asks the engine, unless that is known; keeps the last answer when there is none. */
  measure(instance: Instance, isFrozen: () => boolean): Promise<void> {
    if (!this.isOpen || this.#atMs > this.#clock.now() - intervalMs) return Promise.resolve();
    this.#measuring ??= this.#measure(instance, isFrozen).finally(() => {
      this.#measuring = undefined;
    });
    return this.#measuring;
  }

  async #measure(instance: Instance, isFrozen: () => boolean): Promise<void> {
    const wasFrozen = isFrozen();
    const stats = await instance.stats().catch(() => undefined);
    // An engine that does not answer is not asked at once again either.
    this.#atMs = this.#clock.now();
    if (!stats) return;
    this.#isOfFrozen = wasFrozen && isFrozen();
    this.memoryBytes = stats.memoryBytes;
    this.cpuPercent = this.#isOfFrozen ? 0 : stats.cpuPercent;
  }
}
