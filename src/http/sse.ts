import type { ServerResponse } from 'node:http';
import { type Clock, systemClock } from '../base/async.ts';

/** Proxies and clients drop a stream that says nothing. */
const keepAliveMs = 15_000;
/** Bytes that may wait for a reader, beside the message being written. One that is further behind is dropped. */
const maxBacklogBytes = 8 * 1024 * 1024;
/** What is left of an answer that needs no watching. */
const unwatchedBytes = 64 * 1024;
/** A reader that takes nothing for this many keep-alives is dropped. */
const maxStalledRounds = 8;

/** Of an answer that is a stream of events. */
export const sseHeaders = {
  'content-type': 'text/event-stream',
  'cache-control': 'no-cache, no-transform',
  // nginx would gather what has to arrive at once.
  'x-accel-buffering': 'no',
} as const;

interface Watched {
  outgoing: ServerResponse;
  /** What is written to keep it alive; undefined: it is only waited for to be read. */
  comment: string | undefined;
  stalledRounds: number;
  unreadBytes: number;
}

/** Writes to readers that may be slow or gone: keeps idle streams alive, and drops those that fall behind. */
export class StreamKeeper {
  readonly #clock: Clock;
  readonly #watched = new Map<ServerResponse, Watched>();
  #cancelRound: (() => void) | undefined;

  constructor(clock: Clock = systemClock) {
    this.#clock = clock;
  }

  get size(): number {
    return this.#watched.size;
  }

  /** Keeps an open answer alive by writing `comment` now and then. */
  keep(outgoing: ServerResponse, comment: string): void {
    this.#watch(outgoing, comment);
  }

  /** Writes a part of an open answer. False when its reader is gone, or so far behind that it was dropped now. */
  write(outgoing: ServerResponse, text: string): boolean {
    if (outgoing.destroyed || outgoing.writableEnded) return false;
    if (outgoing.writableLength > maxBacklogBytes) {
      outgoing.destroy();
      return false;
    }
    outgoing.write(text);
    return true;
  }

  /** Ends an answer; a reader that does not take what is left of it is dropped in time. */
  end(outgoing: ServerResponse, text?: string): void {
    if (outgoing.destroyed || outgoing.writableEnded) return;
    outgoing.end(text);
    this.#watched.delete(outgoing);
    // Less than this the system takes at once; to hold on to every answer would keep it from the garbage collector.
    if (outgoing.writableLength <= unwatchedBytes) return;
    this.#watch(outgoing, undefined);
    outgoing.once('finish', () => this.#watched.delete(outgoing));
  }

  close(): void {
    this.#cancelRound?.();
    this.#cancelRound = undefined;
  }

  #watch(outgoing: ServerResponse, comment: string | undefined): void {
    this.#watched.set(outgoing, { outgoing, comment, stalledRounds: 0, unreadBytes: 0 });
    this.#cancelRound ??= this.#clock.schedule(() => this.#round(), keepAliveMs);
  }

  #round(): void {
    this.#cancelRound = undefined;
    for (const watched of this.#watched.values()) {
      const { outgoing, comment } = watched;
      if (outgoing.destroyed || outgoing.writableFinished) {
        this.#watched.delete(outgoing);
        continue;
      }
      const unreadBytes = outgoing.writableLength;
      const isStalled = unreadBytes > 0 && unreadBytes >= watched.unreadBytes;
      watched.stalledRounds = isStalled ? watched.stalledRounds + 1 : 0;
      watched.unreadBytes = unreadBytes;
      if (watched.stalledRounds > maxStalledRounds) {
        this.#watched.delete(outgoing);
        outgoing.destroy();
      } else if (comment !== undefined && unreadBytes === 0) {
        outgoing.write(comment);
      }
    }
    if (this.#watched.size > 0) this.#cancelRound = this.#clock.schedule(() => this.#round(), keepAliveMs);
  }
}
