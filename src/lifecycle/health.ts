import type { Clock } from '../base/async.ts';
import { GatewayError } from '../base/errors.ts';
import type { Instance } from '../runtimes/runtime.ts';

/** What is asked whether it is well. */
export interface Patient {
  /** Whether it may be asked now: it runs, and no call shows already whether it works. */
  isAskable(): boolean;
  /** Messages that it has written so far: who speaks need not be asked. */
  heard(): number;
  /** Rejects when there is no answer in time; an error is an answer. */
  ask(): Promise<unknown>;
  /** Whether what it runs on answers: if not, its silence says nothing about it. */
  isHostWell(): Promise<boolean>;
  /** It did not answer several times in a row. Nothing is asked after that. */
  onSilence(): void;
}

/** Asked in a row; the second and the third time at once, so that a call seldom finds out first. */
const silencesUntilGivenUp = 3;

/** Whether what an instance runs on answers. */
export function isHostWell(instance: Pick<Instance, 'stats'>): Promise<boolean> {
  return instance.stats().then(
    () => true,
    (error) => !(error instanceof GatewayError && error.code === 'engine_unreachable'),
  );
}

/** Asks a running instance at intervals whether it is well, so that a hanging one is replaced before a call finds out. */
export class HealthCheck {
  readonly #patient: Patient;
  readonly #intervalMs: number;
  readonly #clock: Clock;
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
    const isSilent = await this.#isSilent();
    this.#heard = this.#patient.heard();
    // Stopped, or started anew, while it was asked.
    if (this.#cancelTimer !== timer) return;
    this.#cancelTimer = undefined;
    if (isSilent) this.#patient.onSilence();
    else this.start();
  }

  async #isSilent(): Promise<boolean> {
    const patient = this.#patient;
    for (let silences = 0; silences < silencesUntilGivenUp; silences += 1) {
      if (patient.heard() !== this.#heard || !patient.isAskable()) return false;
      const hasAnswered = await patient.ask().then(
        () => true,
        () => false,
      );
      if (hasAnswered || !(await patient.isHostWell())) return false;
    }
    return patient.heard() === this.#heard;
  }
}
