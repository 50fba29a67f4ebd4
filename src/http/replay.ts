import { randomBytes } from 'node:crypto';
import type { ServerResponse } from 'node:http';
import type { Session } from '../access/sessions.ts';
import { type Clock, systemClock } from '../base/async.ts';
import { type StreamKeeper, sseHeaders } from './sse.ts';

/** How much of what was sent is kept for clients that come back. */
export interface ReplayBounds {
  /** Of one session. Its newest event is kept beside them, whatever its size: it may be an answer. */
  sessionEvents: number;
  sessionBytes: number;
  /** Of all sessions. */
  totalBytes: number;
  /** How long a client may stay away from a stream on which nothing more comes. */
  absenceMs: number;
}

const defaultBounds: ReplayBounds = {
  sessionEvents: 1000,
  sessionBytes: 8 * 1024 * 1024,
  totalBytes: 128 * 1024 * 1024,
  absenceMs: 5 * 60_000,
};
/** What an event and a stream cost beside the text. */
const eventOverheadBytes = 64;
const streamOverheadBytes = 512;
/** When a client comes back. SDK clients try twice by default: the second time must find a gateway that was restarted. */
const retryMs = 2000;
/** `<session's prefix>-<g or p><stream>-<position>`. */
const eventIdShape = /^([0-9a-f]{8})-([gp]\d{1,9})-(\d{1,9})$/;

/**
 * What a GET with `Last-Event-ID` leads to: a stream and the position in it; `new`, as without that header; or `over`:
 * nothing is to come, now or later.
 */
export type Resumption = { stream: EventStream; after: number } | 'new' | 'over';

interface KeptEvent {
  text: string;
  bytes: number;
}

/** The streams of one session to which its client may come back. */
interface Shelf {
  readonly session: Session;
  /** Random, so that an id of another session, or of an earlier run, names nothing here. */
  readonly prefix: string;
  /** By the name in their ids; those that were written last come last. */
  readonly streams: Map<string, EventStream>;
  opened: number;
  events: number;
  bytes: number;
}

/**
 * Resumable streams (specification 2025-11-25, basic/transports, "Resumability and Redelivery"): what was sent to legacy
 * clients on streams of events is kept within bounds, so that one who lost its connection can have the rest. In memory
 * only: after a restart the sessions live on, and their streams begin anew.
 */
export class Replays {
  readonly keeper: StreamKeeper;
  readonly #clock: Clock;
  readonly #bounds: ReplayBounds;
  /** By session id; only sessions with something kept. */
  readonly #shelves = new Map<string, Shelf>();
  /** Streams on which more may come, those that were written last at the end. */
  readonly #open = new Set<EventStream>();
  /** Streams on which nothing more comes unless their client comes back, by when that began. */
  readonly #over = new Map<EventStream, number>();
  #bytes = 0;
  #cancelSweep: (() => void) | undefined;

  constructor(options: { keeper: StreamKeeper; clock?: Clock; bounds?: Partial<ReplayBounds> }) {
    this.keeper = options.keeper;
    this.#clock = options.clock ?? systemClock;
    this.#bounds = { ...defaultBounds, ...options.bounds };
  }

  /** What is kept of all sessions. */
  get usage(): { sessions: number; streams: number; bytes: number } {
    return {
      sessions: this.#shelves.size,
      streams: this.#open.size + this.#over.size,
      bytes: this.#bytes,
    };
  }

  /** Opens a stream of events on `outgoing`. Without a session nobody can come back to it, and nothing is kept. */
  open(session: Session | undefined, kind: StreamKind, outgoing: ServerResponse): EventStream {
    let stream: EventStream;
    if (session && !session.ended) {
      const shelf = this.#shelfOf(session);
      stream = new EventStream(this, kind, shelf, `${kind === 'get' ? 'g' : 'p'}${++shelf.opened}`);
      shelf.streams.set(stream.name, stream);
      this.#open.add(stream);
      this.#count(shelf, 0, streamOverheadBytes);
    } else {
      stream = new EventStream(this, kind, undefined, '');
    }
    stream.connect(outgoing);
    return stream;
  }

  /**
   * The stream that an event id of this session belongs to. Unknown ids never are an error, which clients take for the end
   * of more than this stream:
   * - The GET stream is what a client without a stream needs, so an id that cannot be understood, or is of a GET stream that
   *   is not known any more (the gateway was restarted, the client was away for long), opens a new one.
   * - A POST's stream that is not known any more has no answer to come, and one whose answer the client has seen has nothing
   *   to come. To open a GET stream for it would take the place of the one that the client has: clients then reconnect each
   *   of the two for ever. Nothing (204) is how a client of such streams is told to stop (HTML, "Server-sent events").
   * Where some of what came after the id is not kept any more, the rest is sent all the same: the answer is in it.
   */
  find(session: Session, lastEventId: string): Resumption {
    const [, prefix, name = '', position] = eventIdShape.exec(lastEventId) ?? [];
    const shelf = this.#shelves.get(session.id);
    const isOurs = shelf !== undefined && shelf.prefix === prefix;
    const stream = isOurs ? shelf.streams.get(name) : undefined;
    const after = Number(position);
    if (stream && after <= stream.position && !(stream.isFinished && after === stream.position))
      return { stream, after };
    if (name.startsWith('p')) return 'over';
    // Another one has replaced it; it must not take that one's place while that is read.
    return isOurs && isListening(shelf) ? 'over' : 'new';
  }

  /** The session has ended. */
  forget(session: Session): void {
    for (const stream of this.#shelves.get(session.id)?.streams.values() ?? []) this.discard(stream);
  }

  // For the streams

  keep(stream: EventStream, event: KeptEvent): void {
    const { shelf, kept } = stream;
    if (!shelf) return;
    kept.push(event);
    this.#count(shelf, 1, event.bytes);
    shelf.streams.delete(stream.name);
    shelf.streams.set(stream.name, stream);
    if (this.#open.delete(stream)) this.#open.add(stream);
    const { sessionEvents, sessionBytes, totalBytes } = this.#bounds;
    const isShelfFull = () => shelf.events > sessionEvents || shelf.bytes - event.bytes > sessionBytes;
    if (isShelfFull()) this.#makeRoom(inOrderOfLoss(shelf), isShelfFull);
    if (this.#bytes <= totalBytes) return;
    // Some more than needed, so that the next event does not begin anew.
    const isFull = () => this.#bytes > totalBytes * 0.9;
    this.#makeRoom(this.#over.keys(), isFull);
    this.#makeRoom(this.#open, isFull);
  }

  /** Somebody reads it, so it is not left. */
  resume(stream: EventStream): void {
    if (this.#over.delete(stream)) this.#open.add(stream);
  }

  /** Nothing more comes on it, unless its client comes back. */
  leave(stream: EventStream): void {
    if (!stream.shelf) return;
    this.#open.delete(stream);
    this.#over.delete(stream);
    this.#over.set(stream, this.#clock.now());
    this.#cancelSweep ??= this.#clock.schedule(() => this.#sweep(), this.#bounds.absenceMs);
  }

  #sweep(): void {
    this.#cancelSweep = undefined;
    const now = this.#clock.now();
    for (const [stream, sinceMs] of this.#over) {
      const leftMs = sinceMs + this.#bounds.absenceMs - now;
      if (leftMs > 0) {
        this.#cancelSweep = this.#clock.schedule(() => this.#sweep(), leftMs);
        return;
      }
      this.discard(stream);
    }
  }

  /** Streams lose what they have in their order: those that are finished as a whole, the others event by event. */
  #makeRoom(streams: Iterable<EventStream>, isFull: () => boolean): void {
    for (const stream of streams) {
      if (!isFull()) return;
      if (stream.isFinished) {
        this.discard(stream);
        continue;
      }
      let lost = 0;
      for (; lost < stream.kept.length && isFull(); lost += 1)
        this.#count(stream.shelf!, -1, -stream.kept[lost]!.bytes);
      stream.kept.splice(0, lost);
    }
  }

  discard(stream: EventStream): void {
    const { shelf, kept } = stream;
    if (!shelf) return;
    stream.shelf = undefined;
    this.#open.delete(stream);
    this.#over.delete(stream);
    shelf.streams.delete(stream.name);
    const bytes = kept.reduce((sum, event) => sum + event.bytes, streamOverheadBytes);
    this.#count(shelf, -kept.length, -bytes);
    kept.length = 0;
    if (shelf.streams.size === 0) this.#shelves.delete(shelf.session.id);
  }

  #count(shelf: Shelf, events: number, bytes: number): void {
    shelf.events += events;
    shelf.bytes += bytes;
    this.#bytes += bytes;
  }

  #shelfOf(session: Session): Shelf {
    let shelf = this.#shelves.get(session.id);
    if (!shelf) {
      const prefix = randomBytes(4).toString('hex');
      shelf = { session, prefix, streams: new Map(), opened: 0, events: 0, bytes: 0 };
      this.#shelves.set(session.id, shelf);
    }
    return shelf;
  }
}

function isListening({ streams }: Shelf): boolean {
  for (const stream of streams.values()) if (stream.kind === 'get' && stream.isRead) return true;
  return false;
}

/** The answer to a POST, or the stream that a GET opened. */
export type StreamKind = 'post' | 'get';

/**
 * One stream of events: whoever reads it now, and what it has sent. A client's connection may go, and another one take its
 * place; the stream is the same.
 */
export class EventStream {
  readonly kind: StreamKind;
  readonly name: string;
  /** undefined when nothing is kept (any more). */
  shelf: Shelf | undefined;
  /** The last of what was sent; the positions before are without a gap. */
  readonly kept: KeptEvent[] = [];
  /** Of the last event, from 1 on. */
  position = 0;
  /** Nothing more is sent. */
  isFinished = false;
  readonly #replays: Replays;
  readonly #session: Session | undefined;
  readonly #prefix: string;
  #reader: ServerResponse | undefined;

  constructor(replays: Replays, kind: StreamKind, shelf: Shelf | undefined, name: string) {
    this.#replays = replays;
    this.kind = kind;
    this.shelf = shelf;
    this.#session = shelf?.session;
    this.#prefix = shelf ? `${shelf.prefix}-${name}-` : '';
    this.name = name;
  }

  get isRead(): boolean {
    return this.#reader !== undefined && !this.#reader.destroyed;
  }

  /** Sends to `outgoing` from now on, in place of an earlier reader; first what was sent after position `after`. */
  connect(outgoing: ServerResponse, after?: number): void {
    const { keeper } = this.#replays;
    const previous = this.#reader;
    this.#reader = outgoing;
    // What it has not read is sent again.
    if (previous && previous.writableLength > 0) previous.destroy();
    else if (previous) keeper.end(previous);

    outgoing.writeHead(200, sseHeaders);
    const firstKept = this.position - this.kept.length + 1;
    const missed = after === undefined ? [] : this.kept.slice(Math.max(0, after + 1 - firstKept));
    const text = this.#opening(after ?? 0) + missed.map((event) => event.text).join('');
    if (this.isFinished) {
      this.#reader = undefined;
      keeper.end(outgoing, text, this.#session?.id);
      return;
    }
    keeper.keep(outgoing, ': keep-alive\n\n', { session: this.#session?.id, bytesAtOnce: text.length });
    keeper.write(outgoing, text);
    this.#replays.resume(this);
    outgoing.once('close', () => this.#disconnected(outgoing));
  }

  /** Sends to the client if it is connected. */
  deliver(data: string): boolean {
    const reader = this.#reader;
    if (!reader || this.isFinished) return false;
    const event = this.#eventOf(data);
    if (!this.#replays.keeper.write(reader, event)) return false;
    this.#keep(event);
    return true;
  }

  /** Takes what a client that is not connected will be sent when it comes back. False when it has no event id to come back with. */
  keep(data: string): boolean {
    if (!this.shelf || this.isFinished || !this.#canComeBack) return false;
    this.#keep(this.#eventOf(data));
    return true;
  }

  /** Sends the last of it and ends the stream. A POST's without a last message was cancelled: nobody waits for it. */
  finish(last: string[] = []): void {
    if (this.isFinished) return;
    const reader = this.#reader;
    this.#reader = undefined;
    let text = '';
    if (reader || this.#canComeBack) {
      for (const data of last) {
        const event = this.#eventOf(data);
        this.#keep(event);
        text += event;
      }
    }
    this.isFinished = true;
    if (reader) this.#replays.keeper.end(reader, text, this.#session?.id);
    const hasMore = this.kept.length > 0 && (last.length > 0 || this.kind === 'get');
    if (hasMore) this.#replays.leave(this);
    else this.#replays.discard(this);
  }

  /** Ends the stream, unless another connection than `reader` has it now. */
  endFor(reader: ServerResponse): void {
    if (this.#reader === undefined || this.#reader === reader) this.finish();
  }

  get #canComeBack(): boolean {
    return this.position > 0 || this.#isPrimed;
  }

  /** Older clients choke on an event without data (SEP-1699). */
  get #isPrimed(): boolean {
    return this.#session !== undefined && this.#session.client.protocolVersion >= '2025-11-25';
  }

  /** An event that says nothing but where to come back to; a comment for clients that cannot read it. */
  #opening(position: number): string {
    if (this.#isPrimed) return `id: ${this.#prefix}${position}\nretry: ${retryMs}\ndata: \n\n`;
    return this.kind === 'get' ? ': listening\n\n' : ': working\n\n';
  }

  #eventOf(data: string): string {
    const id = this.#prefix === '' ? '' : `id: ${this.#prefix}${this.position + 1}\n`;
    return `${id}event: message\ndata: ${data}\n\n`;
  }

  #keep(text: string): void {
    this.position += 1;
    this.#replays.keep(this, { text, bytes: Buffer.byteLength(text) + eventOverheadBytes });
  }

  #disconnected(reader: ServerResponse): void {
    if (this.#reader !== reader) return;
    this.#reader = undefined;
    // The answer to a POST is still to come; a GET stream has nothing of its own to wait for.
    if (this.kind === 'get') this.#replays.leave(this);
  }
}

function* inOrderOfLoss({ streams }: Shelf): Iterable<EventStream> {
  for (const stream of streams.values()) if (stream.isFinished) yield stream;
  for (const stream of streams.values()) if (!stream.isFinished) yield stream;
}
