import type { Clock } from '../base/async.ts';

/** What is asked whether it is well. */
export interface Patient {
  /** Whether it may be asked now: it runs, and no call shows already whether it works. */
  isAskable(): boolean;
  /** Messages that it has written so far: who speaks need not be asked. */
  heard(): number;
  /** Rejects when there is no answer in time; an error is an answer. */
  ask(): Promise<unknown>;
  /** It did not answer several times in a row. Nothing is asked after that. */
  onSilence(): void;
}

const silencesUntilGivenUp = 3;

/** Asks a running instance at intervals whether it is well, so that a hanging one is replaced before a call finds out. */
export class HealthCheck {
  readonly #patient: Patient;
  readonly #intervalMs: number;
  readonly #clock: Clock;
  #silences = 0;
  #heard = 0;
  #cancelTimer: (() => void) | undefined;

  /** `intervalMs` 0 or Infinity: never. */
  constructor(patient: Patient, options: { intervalMs: number; clock: Clock }) {
    this.#patient = patient;
    this.#intervalMs = options.intervalMs;
    this.#clock = options.clock;
  }

  /** Doing it twice is done once. */
  start(): void {
    if (this.#cancelTimer || this.#intervalMs === 0 || this.#intervalMs === Number.POSITIVE_INFINITY) return;
    this.#cancelTimer = this.#clock.schedule(() => void this.#look(), this.#intervalMs);
  }

  stop(): void {
    this.#cancelTimer?.();
    this.#cancelTimer = undefined;
  }

  async #look(): Promise<void> {
    const timer = this.#cancelTimer;
    const heard = this.#patient.heard();
    if (heard !== this.#heard) this.#silences = 0;
    else if (this.#patient.isAskable()) {
      this.#silences = await this.#patient.ask().then(
        () => 0,
        () => this.#silences + 1,
      );
    }
    this.#heard = this.#patient.heard();
    // Stopped, or started anew, while it was asked.
    if (this.#cancelTimer !== timer) return;
    this.#cancelTimer = undefined;
    if (this.#silences >= silencesUntilGivenUp) this.#patient.onSilence();
    else this.start();
  }
}
