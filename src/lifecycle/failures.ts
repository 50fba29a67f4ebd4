import { Backoff, type Clock } from '../base/async.ts';
import { type ErrorCode, GatewayError } from '../base/errors.ts';
import type { ServerConfig } from '../config/schema.ts';
import { seconds } from './diagnosis.ts';

/** Failures in a row after which calls are refused until the next try. */
const breakerFailures = 3;
/** How long the try after them gets one call at a time, unless it answers sooner: one that lives on for so long is in no crash loop. */
export const trialMs = 5_000;

/** What went wrong last, for people. */
export interface LastError {
  code: ErrorCode;
  message: string;
  hint: string | undefined;
  atMs: number;
}

/** What is asked of an instance here: whether it ever worked. */
interface Tried {
  /** Calls that it has answered. */
  readonly answered: number;
  /** When it became ready, or its last call ended. */
  readonly idleSinceMs: number;
}

/** How a server has failed lately, and when it gets another try. */
export class Failures {
  readonly #server: string;
  readonly #clock: Clock;
  readonly #backoff = new Backoff();
  /** Ever counted; instances of one wave fail together and count once. */
  #waves = 0;
  readonly #bornAfter = new WeakMap<Tried, number>();
  #retryAtMs = 0;
  #last: LastError | undefined;

  constructor({ name, problem }: ServerConfig, clock: Clock) {
    this.#server = name;
    this.#clock = clock;
    if (problem) this.#last = { ...problem, atMs: clock.now() };
  }

  get last(): LastError | undefined {
    return this.#last;
  }

  /** undefined: it may be tried now. */
  get retryAtMs(): number | undefined {
    return this.#retryAtMs > this.#clock.now() ? this.#retryAtMs : undefined;
  }

  /** 0: it may be tried now. */
  get retryInMs(): number {
    return Math.max(0, this.#retryAtMs - this.#clock.now());
  }

  /** Whether it failed so often that nobody should wait for the next try. */
  get isBreakerOpen(): boolean {
    return this.#backoff.failures >= breakerFailures;
  }

  /** Whether an instance that is ready is the try after too many failures: it gets one call at a time. */
  isOnTrial({ answered, idleSinceMs }: Tried): boolean {
    return this.isBreakerOpen && answered === 0 && this.#clock.now() - idleSinceMs < trialMs;
  }

  /** What is shown of it; counts for nothing. */
  remember({ code, message, hint }: GatewayError): void {
    this.#last = { code, message, hint, atMs: this.#clock.now() };
  }

  /** A new instance: how it fares says something new. */
  began(instance: Tried): void {
    this.#bornAfter.set(instance, this.#waves);
  }

  /** Counts the failure of an instance, unless it was there already when the last one was counted. */
  count(instance: Tried, { isCrash }: { isCrash: boolean }): void {
    if (!this.#isOfThisWave(instance)) return;
    if (instance.answered > 0) this.#backoff.succeed();
    this.#waves += 1;
    const delayMs = this.#backoff.fail();
    // A crash alone must not make the next call wait.
    this.#retryAtMs = isCrash && this.#backoff.failures === 1 ? 0 : this.#clock.now() + delayMs;
  }

  /** An instance has ended a call: one that was started since the last failure and has answered makes up for it. */
  forgiveIfWell(instance: Tried): void {
    if (this.#backoff.failures > 0 && instance.answered > 0 && this.#isOfThisWave(instance)) this.forgive();
  }

  /** It may be tried at once, as if nothing had been. */
  forgive(): void {
    this.#backoff.succeed();
    this.#retryAtMs = 0;
  }

  /** What callers are told while the breaker is open. */
  refusal(): GatewayError {
    const { failures } = this.#backoff;
    const retryInMs = this.retryInMs;
    const last = this.#last;
    return new GatewayError(
      'server_failing',
      `Server ${this.#server} failed ${failures} times in a row and is tried again in ${seconds(retryInMs)}${last ? `. The last time: ${last.message}` : ''}`,
      {
        server: this.#server,
        hint: last?.hint,
        data: {
          retryInMs,
          retryAfterSeconds: Math.ceil(retryInMs / 1000),
          failures,
          ...(last && { reason: last.code }),
        },
      },
    );
  }

  #isOfThisWave(instance: Tried): boolean {
    return this.#bornAfter.get(instance) === this.#waves;
  }
}
