import type { Clock } from '../base/async.ts';

const maxRemembered = 10_000;
/** A server that was told to stop working on a call has done so by then. Most never answer such a call, as the specification asks. */
const forgottenAfterMs = 10_000;

/** Calls of clients that were given up and not answered since: their server may still act for them. */
export class GivenUpCalls {
  readonly #clock: Clock;
  readonly #calls = new Map<number, { caller: string | undefined; untilMs: number }>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  add(id: number, caller: string | undefined): void {
    if (this.#calls.size >= maxRemembered) this.#calls.delete(this.#calls.keys().next().value!);
    this.#calls.set(id, { caller, untilMs: this.#clock.now() + forgottenAfterMs });
  }

  /** It was answered after all. */
  answered(id: number): void {
    this.#calls.delete(id);
  }

  /** Whether there is one that is not this caller's. */
  anyOfOthers(caller: string | undefined): boolean {
    if (this.#calls.size === 0) return false;
    const now = this.#clock.now();
    for (const [id, call] of this.#calls) {
      if (call.untilMs <= now) this.#calls.delete(id);
      else if (caller === undefined || call.caller !== caller) return true;
    }
    return false;
  }

  clear(): void {
    this.#calls.clear();
  }
}
