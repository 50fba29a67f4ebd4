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
/** Bytes that may wait for all readers together. When they are more, those that take the least lose their connections. */
const maxUnreadBytes = 256 * 1024 * 1024;

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
  session?: string;
  bytesAtOnce?: number;
  stalledRounds: number;
  /** What it had not read in the last round. */
  stalledAtBytes: number;
  /** What it had not read when it was last looked at. */
  unreadBytes: number;
}

/** Of an answer that is kept alive. */
export interface KeepOptions {
  session?: string;
  /** What it is sent when it opens; to have that unread is not to be behind. */
  bytesAtOnce?: number;
}

/** A reader that lost its connection. */
export interface Dropped {
  session?: string;
  reason: string;
  /** What it had not read. */
  bytes: number;
}

/** What the keeper of streams works with. */
export interface StreamKeeperOptions {
  clock?: Clock;
  onDropped?(dropped: Dropped): void;
  maxUnreadBytes?: number;
}

/** Writes to readers that may be slow or gone: keeps idle streams alive, and drops those that fall behind. */
export class StreamKeeper {
  readonly #clock: Clock;
  readonly #onDropped: (dropped: Dropped) => void;
  readonly #maxUnreadBytes: number;
  readonly #watched = new Map<ServerResponse, Watched>();
  /** What all of them had not read when each was last looked at; they may have read of it since. */
  #unreadBytes = 0;
  #cancelRound: (() => void) | undefined;

  constructor(options: StreamKeeperOptions = {}) {
    this.#clock = options.clock ?? systemClock;
    this.#onDropped = options.onDropped ?? (() => {});
    this.#maxUnreadBytes = options.maxUnreadBytes ?? maxUnreadBytes;
  }

  get size(): number {
    return this.#watched.size;
  }

  /** Keeps an open answer alive by writing `comment` now and then. */
  keep(outgoing: ServerResponse, comment: string, options: KeepOptions = {}): void {
    this.#watch(outgoing, comment, options);
  }

  /** Writes a part of an open answer. False when its reader is gone, or so far behind that it was dropped now. */
  write(outgoing: ServerResponse, text: string): boolean {
    if (outgoing.destroyed || outgoing.writableEnded) return false;
    const unread = outgoing.writableLength;
    if (unread > maxBacklogBytes && unread > maxBacklogBytes + this.#sentAtOnce(outgoing)) {
      this.#drop(outgoing, 'It was too far behind');
      return false;
    }
    outgoing.write(text);
    if (outgoing.writableLength > unwatchedBytes) this.#weigh(outgoing);
    return !outgoing.destroyed;
  }

  /** Ends an answer; a reader that does not take what is left of it is dropped in time. */
  end(outgoing: ServerResponse, body?: string | Buffer, session?: string): void {
    if (outgoing.destroyed || outgoing.writableEnded) return;
    outgoing.end(body);
    const known = this.#forget(outgoing);
    // Less than this the system takes at once; to hold on to every answer would keep it from the garbage collector.
    if (outgoing.writableLength <= unwatchedBytes) return;
    this.#watch(outgoing, undefined, { session: known?.session ?? session });
    outgoing.once('finish', () => this.#forget(outgoing));
    this.#weigh(outgoing);
  }

  close(): void {
    this.#cancelRound?.();
    this.#cancelRound = undefined;
  }

  #watch(outgoing: ServerResponse, comment: string | undefined, options: KeepOptions): void {
    // A reader that has gone is let go at once: a connection is much to hold on to.
    if (!this.#watched.has(outgoing)) outgoing.once('close', () => this.#forget(outgoing));
    this.#forget(outgoing);
    this.#watched.set(outgoing, {
      outgoing,
      comment,
      ...options,
      stalledRounds: 0,
      stalledAtBytes: 0,
      unreadBytes: 0,
    });
    this.#cancelRound ??= this.#clock.schedule(() => this.#round(), keepAliveMs);
  }

  #forget(outgoing: ServerResponse): Watched | undefined {
    const watched = this.#watched.get(outgoing);
    if (!watched) return undefined;
    this.#watched.delete(outgoing);
    this.#unreadBytes -= watched.unreadBytes;
    return watched;
  }

  #sentAtOnce(outgoing: ServerResponse): number {
    return this.#watched.get(outgoing)?.bytesAtOnce ?? 0;
  }

  #drop(outgoing: ServerResponse, reason: string): void {
    const session = this.#forget(outgoing)?.session;
    const bytes = outgoing.writableLength;
    outgoing.destroy();
    this.#onDropped({ ...(session !== undefined && { session }), reason, bytes });
  }

  /** Counts what a reader has not read, and drops readers where that is too much in sum. */
  #weigh(outgoing: ServerResponse): void {
    const watched = this.#watched.get(outgoing);
    if (!watched) return;
    this.#look(watched);
    if (this.#unreadBytes <= this.#maxUnreadBytes) return;
    for (const one of this.#watched.values()) this.#look(one);
    if (this.#unreadBytes <= this.#maxUnreadBytes) return;
    const slowest = [...this.#watched.values()].sort(
      (a, b) => b.stalledRounds - a.stalledRounds || b.unreadBytes - a.unreadBytes,
    );
    // Some more than needed, so that the next one does not begin anew.
    const enough = this.#maxUnreadBytes * 0.75;
    for (const one of slowest) {
      if (this.#unreadBytes <= enough) return;
      if (one.unreadBytes > 0) this.#drop(one.outgoing, 'All clients together were too far behind');
    }
  }

  #look(watched: Watched): void {
    const { outgoing } = watched;
    const unreadBytes = outgoing.destroyed ? 0 : outgoing.writableLength;
    this.#unreadBytes += unreadBytes - watched.unreadBytes;
    watched.unreadBytes = unreadBytes;
  }

  #round(): void {
    this.#cancelRound = undefined;
    for (const watched of this.#watched.values()) {
      const { outgoing, comment } = watched;
      if (outgoing.destroyed || outgoing.writableFinished) {
        this.#forget(outgoing);
        continue;
      }
      const isStalled = outgoing.writableLength > 0 && outgoing.writableLength >= watched.stalledAtBytes;
      watched.stalledAtBytes = outgoing.writableLength;
      watched.stalledRounds = isStalled ? watched.stalledRounds + 1 : 0;
      this.#look(watched);
      if (watched.stalledRounds > maxStalledRounds) this.#drop(outgoing, 'It read nothing for two minutes');
      else if (comment !== undefined && watched.unreadBytes === 0) outgoing.write(comment);
    }
    if (this.#watched.size > 0) this.#cancelRound = this.#clock.schedule(() => this.#round(), keepAliveMs);
  }
}
