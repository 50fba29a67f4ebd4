import type { Clock } from '../base/async.ts';
import type { Capacity } from './capacity.ts';
import type { Member } from './member.ts';
import type { Spares } from './spares.ts';

/** A server as far as its spares are concerned. */
export interface StandbyServer {
  readonly spares: Spares;
  /** When a call last found no instance that was ready; 0: never. */
  readonly neededAtMs: number;
  /** How many spares it is to have: `pool.standby`, or 0 while it cannot run. */
  readonly wanted: number;
  /** What one more would use, as far as can be told. */
  readonly expectedBytes: number;
  /** Until one more may be made; 0: now. Infinity: until something happens. */
  readonly spareInMs: number;
}

export interface StandbyOptions {
  servers(): Iterable<StandbyServer>;
  capacity: Capacity;
  /** `gateway.standby_memory`. */
  limitBytes: number;
  clock: Clock;
}

/** After something has happened: a call that took a spare is answered first, and many changes are looked at once. */
const lookAfterMs = 250;
/** How soon spares of an image that was replaced go. */
const renewEveryMs = 30_000;

/**
 * Which servers have spares: those that were needed last come first, within `gateway.standby_memory` and whatever room calls leave.
 * Everything is decided in one look; what cannot be done now is looked at again when something has changed.
 */
export class Standby {
  readonly #options: StandbyOptions;
  #cancelLook: (() => void) | undefined;
  #lookAtMs = Number.POSITIVE_INFINITY;
  #cancelRenewal: (() => void) | undefined;
  #isClosed = false;

  constructor(options: StandbyOptions) {
    this.#options = options;
  }

  /** What all spares use, those that are being stopped included. */
  get bytes(): number {
    let bytes = 0;
    for (const server of this.#options.servers()) bytes += bytesOf(server);
    return bytes;
  }

  /** Something has changed that spares may depend on. */
  look(inMs = lookAfterMs): void {
    const { clock } = this.#options;
    const atMs = clock.now() + inMs;
    if (this.#isClosed || atMs >= this.#lookAtMs) return;
    this.#cancelLook?.();
    this.#lookAtMs = atMs;
    this.#cancelLook = clock.schedule(() => {
      this.#cancelLook = undefined;
      this.#lookAtMs = Number.POSITIVE_INFINITY;
      this.#decide();
    }, inMs);
  }

  /** Ends the spare of the server that was not needed for longest; false when there is none. */
  evict(): boolean {
    let last: StandbyServer | undefined;
    for (const server of this.#options.servers()) {
      if (server.spares.present.length > 0 && (!last || server.neededAtMs <= last.neededAtMs)) last = server;
    }
    last?.spares.drop();
    return last !== undefined;
  }

  close(): void {
    this.#isClosed = true;
    this.#cancelLook?.();
    this.#cancelLook = undefined;
    this.#cancelRenewal?.();
    this.#cancelRenewal = undefined;
  }

  #decide(): void {
    const { limitBytes, capacity } = this.#options;
    // The order of the file where they were needed equally long ago.
    const servers = [...this.#options.servers()].sort((one, other) => other.neededAtMs - one.neededAtMs);
    const begin: StandbyServer[] = [];
    let left = limitBytes;
    let nextInMs = Number.POSITIVE_INFINITY;
    for (const server of servers) {
      const { spares, wanted, expectedBytes } = server;
      let kept = 0;
      for (const spare of spares.present) {
        const bytes = bytesOfSpare(spare, expectedBytes);
        if (kept === wanted || bytes > left) break;
        left -= bytes;
        kept += 1;
      }
      const surplus = spares.present.length - kept;
      for (let one = 0; one < surplus; one += 1) spares.drop();
      const missing = surplus > 0 ? 0 : wanted - kept;
      const inMs = missing > 0 ? server.spareInMs : Number.POSITIVE_INFINITY;
      // Nobody's spare goes for one that could not be made now.
      if (inMs > 0 || !capacity.hasRoomFor(expectedBytes)) {
        nextInMs = Math.min(nextInMs, inMs || Number.POSITIVE_INFINITY);
        continue;
      }
      for (let one = 0; one < missing && expectedBytes <= left; one += 1) {
        left -= expectedBytes;
        begin.push(server);
      }
    }
    for (const server of begin) {
      const { expectedBytes, spares } = server;
      // What was ended for it is there until it is gone; then there is another look.
      if (this.bytes + expectedBytes > limitBytes || !capacity.hasRoomFor(expectedBytes)) continue;
      spares.start();
    }
    if (nextInMs !== Number.POSITIVE_INFINITY) this.look(Math.max(nextInMs, lookAfterMs));
    this.#renewLater();
  }

  #renewLater(): void {
    if (this.#cancelRenewal) return;
    const servers = [...this.#options.servers()].filter(({ spares }) => spares.present.length > 0);
    if (servers.length === 0) return;
    this.#cancelRenewal = this.#options.clock.schedule(() => {
      this.#cancelRenewal = undefined;
      for (const { spares } of servers) void spares.renew();
      if (!this.#isClosed) this.#renewLater();
    }, renewEveryMs);
  }
}

function bytesOf({ spares, expectedBytes }: StandbyServer): number {
  let bytes = 0;
  for (const spare of spares.present) bytes += bytesOfSpare(spare, expectedBytes);
  for (const spare of spares.leaving) bytes += bytesOfSpare(spare, expectedBytes);
  return bytes;
}

const bytesOfSpare = ({ memoryBytes }: Member, expectedBytes: number) => memoryBytes ?? expectedBytes;
