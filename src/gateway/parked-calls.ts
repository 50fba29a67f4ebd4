import { randomBytes } from 'node:crypto';
import { type RequestStates, refused, type StateBinding } from '../access/request-states.ts';
import type { Clock } from '../base/async.ts';
import { GatewayError } from '../base/errors.ts';
import type { OpenCall } from './open-call.ts';

/** Calls that may wait for their clients; each holds a lease. */
const maxParked = 1000;

const nothingWaits = 'again';

interface Parked {
  call: OpenCall;
  cancelExpiry(): void;
}

/**
 * Calls whose client has been told what the server wants to know, and has yet to come back with it. Each waits under a signed state
 * that expires; then it is cancelled at its server.
 */
export class ParkedCalls {
  readonly #states: RequestStates;
  readonly #clock: Clock;
  readonly #parked = new Map<string, Parked>();
  #isClosed = false;

  constructor({ states, clock }: { states: RequestStates; clock: Clock }) {
    this.#states = states;
    this.#clock = clock;
  }

  get size(): number {
    return this.#parked.size;
  }

  /** Whether another call could wait. */
  get hasRoom(): boolean {
    return !this.#isClosed && this.#parked.size < maxParked;
  }

  /**
   * Parks a call for `limitMs`. Resolves with the state that brings it back, once. Where `signal` has aborted there is nobody to give
   * it to, and the call is given up. Throws `draining`.
   */
  async park(call: OpenCall, limitMs: number, binding: StateBinding, signal: AbortSignal): Promise<string> {
    const id = randomBytes(12).toString('base64url');
    call.waitsUntilMs ??= this.#clock.now() + limitMs;
    const leftMs = call.waitsUntilMs - this.#clock.now();
    const state = await this.#states.sign(id, leftMs, binding);
    if (signal.aborted) {
      call.giveUp(signal.reason);
      return state;
    }
    if (this.#isClosed) {
      call.abandon(shuttingDown);
      throw new GatewayError('draining', shuttingDown, { hint: 'Call again when it is back.' });
    }
    const cancelExpiry = this.#clock.schedule(() => {
      this.#parked.delete(id);
      call.abandon('The client did not come back');
    }, leftMs);
    this.#parked.set(id, { call, cancelExpiry });
    return state;
  }

  /** A state for a request that is simply to be made again: nothing waits. */
  again(limitMs: number, binding: StateBinding): Promise<string> {
    return this.#states.sign(nothingWaits, limitMs, binding);
  }

  /** The call behind a state, which is worth nothing from now on; undefined where nothing waits. Throws `state_refused`. */
  async resume(state: unknown, binding: StateBinding): Promise<OpenCall | undefined> {
    const id = await this.#states.verify(state, binding);
    if (id === nothingWaits) return undefined;
    const parked = this.#parked.get(id);
    if (!parked) throw refused('was used before, or its call has ended');
    this.#parked.delete(id);
    parked.cancelExpiry();
    return parked.call;
  }

  /** From now on no client can come back: the servers may finish what waits, if that is soon. Doing it twice is done once. */
  close(): void {
    this.#isClosed = true;
    for (const { call, cancelExpiry } of this.#parked.values()) {
      cancelExpiry();
      call.abandon(shuttingDown);
    }
    this.#parked.clear();
  }
}

const shuttingDown = 'The gateway is shutting down';
