import type { ServerResponse } from 'node:http';
import type { Session } from '../access/sessions.ts';
import type { Clock } from '../base/async.ts';
import type { Stream } from '../gateway/conversation.ts';
import { failureOf } from '../gateway/failure.ts';
import type { Reply } from '../gateway/gateway.ts';
import { type Message, serialise } from '../protocol/jsonrpc.ts';
import { retryAfter } from './problem.ts';
import type { EventStream, Replays } from './replay.ts';
import { type StreamKeeper, sseHeaders } from './sse.ts';

/** An answer opens as a stream when it takes longer; clients give up on a connection that shows no headers. */
const silenceMs = 5_000;

/** What waits in a `Silence`. */
interface Waiting {
  previous: Waiting | undefined;
  next: Waiting | undefined;
  sinceMs: number;
  /** Shows the client that its request is worked on. */
  openEarly(): void;
}

/**
 * Breaks the silence of answers that take long, with one timer for all of them: a call must not cost one. A linked list,
 * because a Map that is filled and emptied all the time keeps what was in it from the garbage collector for a while.
 */
export class Silence {
  readonly #clock: Clock;
  #oldest: Waiting | undefined;
  #newest: Waiting | undefined;
  #isWatching = false;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  begin(waiting: Waiting): void {
    waiting.sinceMs = this.#clock.now();
    waiting.previous = this.#newest;
    if (this.#newest) this.#newest.next = waiting;
    else this.#oldest = waiting;
    this.#newest = waiting;
    if (!this.#isWatching) this.#watch(silenceMs);
  }

  /** Doing it twice is done once. */
  end(waiting: Waiting): void {
    const { previous, next } = waiting;
    if (previous) previous.next = next;
    else if (this.#oldest === waiting) this.#oldest = next;
    if (next) next.previous = previous;
    else if (this.#newest === waiting) this.#newest = previous;
    waiting.previous = undefined;
    waiting.next = undefined;
  }

  #watch(delayMs: number): void {
    this.#isWatching = true;
    this.#clock.schedule(() => this.#look(), delayMs);
  }

  #look(): void {
    this.#isWatching = false;
    const now = this.#clock.now();
    for (let oldest = this.#oldest; oldest; oldest = this.#oldest) {
      const leftMs = oldest.sinceMs + silenceMs - now;
      if (leftMs > 0) {
        this.#watch(leftMs);
        return;
      }
      this.end(oldest);
      oldest.openEarly();
    }
  }
}

/** What the answers of an endpoint share. */
export interface Edge {
  keeper: StreamKeeper;
  silence: Silence;
  replays: Replays;
}

/** The answer to a POST: plain JSON if nothing but the result is to be sent in time, else a stream of events. */
export class PostStream implements Stream, Waiting {
  previous: Waiting | undefined = undefined;
  next: Waiting | undefined = undefined;
  sinceMs = 0;
  /**
   * Until it is answered, or a stream of events: what came later has nowhere to go, and who still refers to this stream must
   * not keep a whole connection from the garbage collector.
   */
  #outgoing: ServerResponse | undefined;
  #events: EventStream | undefined;
  readonly #accepted: Accepted;
  readonly #session: Session | undefined;
  readonly #edge: Edge;

  /** Without a session a stream of events cannot be resumed. */
  constructor(outgoing: ServerResponse, accepted: Accepted, session: Session | undefined, edge: Edge) {
    this.#outgoing = outgoing;
    this.#accepted = accepted;
    this.#session = session;
    this.#edge = edge;
    edge.silence.begin(this);
  }

  /** True also when the client is gone and can come back for it. */
  send(message: Message): boolean {
    const events = this.#events ?? this.#open();
    if (!events) return false;
    const text = textOf(message);
    return events.deliver(text) || events.keep(text);
  }

  end(): void {
    this.finish([]);
  }

  /**
   * The last messages: one, those of a batch, or none because the client cancelled its request. `status` is that of a plain
   * answer; a stream has begun with 200.
   */
  finish(replies: Reply[], isBatch = false, status = 200): void {
    const { silence, keeper } = this.#edge;
    const { json, sse } = this.#accepted;
    silence.end(this);
    const events = this.#events ?? (json || replies.length === 0 ? undefined : this.#open());
    const outgoing = this.#outgoing;
    this.#events = undefined;
    this.#outgoing = undefined;
    events?.finish(replies.map(textOf));
    if (!outgoing || outgoing.destroyed) return;
    if (replies.length === 0) {
      // For a client that reads JSON alone: an empty answer, as nothing of it is read any more.
      if (sse) outgoing.writeHead(200, sseHeaders);
      else if (!outgoing.headersSent) outgoing.writeHead(204);
      keeper.end(outgoing);
      return;
    }
    const body = isBatch ? `[${replies.map(textOf).join(',')}]` : bodyOf(replies[0]!);
    if (!outgoing.headersSent) writeJsonHead(outgoing, status, body, isBatch ? undefined : replies[0]);
    keeper.end(outgoing, body, this.#session?.id);
  }

  openEarly(): void {
    const outgoing = this.#outgoing;
    // It may have been refused.
    if (!outgoing || outgoing.destroyed || outgoing.headersSent) return;
    if (this.#accepted.sse) {
      this.#open();
      return;
    }
    const { keeper } = this.#edge;
    // JSON may begin with white space, so a client that knows nothing else is kept waiting as well.
    outgoing.writeHead(200, { 'content-type': 'application/json' });
    keeper.write(outgoing, ' ');
    keeper.keep(outgoing, ' ', { session: this.#session?.id });
  }

  /** A client that was gone before cannot be told where to come back to. */
  #open(): EventStream | undefined {
    const outgoing = this.#outgoing;
    if (!outgoing || outgoing.destroyed || !this.#accepted.sse) return undefined;
    this.#outgoing = undefined;
    this.#events = this.#edge.replays.open(this.#session, 'post', outgoing);
    return this.#events;
  }
}

/** One connection of the stream that a GET opens, for what belongs to no request. */
export class GetStream implements Stream {
  readonly #events: EventStream;
  readonly #outgoing: ServerResponse;

  constructor(events: EventStream, outgoing: ServerResponse) {
    this.#events = events;
    this.#outgoing = outgoing;
  }

  send(message: Message): boolean {
    return this.#events.deliver(textOf(message));
  }

  keep(message: Message): boolean {
    return this.#events.keep(textOf(message));
  }

  end(): void {
    this.#events.endFor(this.#outgoing);
  }
}

/** What a client reads. */
export interface Accepted {
  json: boolean;
  sse: boolean;
}

const both: Accepted = { json: true, sse: true };

/** What an Accept header lets us answer with. Without one: everything (RFC 9110, section 12.5.1). */
export function acceptedOf(accept: string | undefined): Accepted {
  if (!accept || accept === 'application/json, text/event-stream') return both;
  const accepted = { json: false, sse: false };
  for (const range of accept.toLowerCase().split(',')) {
    const [type = '', ...parameters] = range.split(';').map((part) => part.trim());
    if (parameters.some((parameter) => /^q=0(?:\.0*)?$/.test(parameter))) continue;
    if (type === '*/*' || type === 'application/*' || type === 'application/json') accepted.json = true;
    if (type === '*/*' || type === 'text/*' || type === 'text/event-stream') accepted.sse = true;
  }
  return accepted;
}

/** The text of a reply or message; an error where a server's result cannot be written. */
export function textOf(reply: Reply | Message): string {
  if ('resultJson' in reply) return bodyOf(reply).toString();
  try {
    return serialise(reply);
  } catch (error) {
    return serialise(failureOf('id' in reply ? reply.id : null, error));
  }
}

/** The same, where it goes out as it is: what is kept as bytes is copied, not written anew. */
function bodyOf(reply: Reply): string | Buffer {
  if (!('resultJson' in reply)) return textOf(reply);
  const head = Buffer.from(`{"jsonrpc":"2.0","id":${JSON.stringify(reply.id)},"result":`);
  return Buffer.concat([head, reply.resultJson, closingBrace]);
}

const closingBrace = Buffer.from('}');

function writeJsonHead(outgoing: ServerResponse, status: number, body: string | Buffer, reply?: Reply): void {
  const headers = {
    'content-type': 'application/json',
    'content-length': Buffer.byteLength(body),
  };
  const isError = reply !== undefined && 'error' in reply;
  outgoing.writeHead(status, isError ? { ...headers, ...retryAfter(reply.error.data) } : headers);
}

/** Answers at once, with one JSON message. */
export function answer(outgoing: ServerResponse, status: number, message: Reply): void {
  const body = bodyOf(message);
  writeJsonHead(outgoing, status, body, message);
  outgoing.end(body);
}
