import type { ServerResponse } from 'node:http';
import type { Clock } from '../base/async.ts';
import type { Stream } from '../gateway/conversation.ts';
import { failureOf } from '../gateway/failure.ts';
import type { Reply } from '../gateway/gateway.ts';
import { type Message, serialise } from '../protocol/jsonrpc.ts';
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

/** The answer to a POST: plain JSON if nothing but the result is to be sent in time, else a stream of events. */
export class PostStream implements Stream, Waiting {
  previous: Waiting | undefined = undefined;
  next: Waiting | undefined = undefined;
  sinceMs = 0;
  /**
   * undefined once it is answered: what came later has nowhere to go, and who still refers to this stream must not keep a
   * whole connection from the garbage collector.
   */
  #outgoing: ServerResponse | undefined;
  readonly #accepted: Accepted;
  readonly #keeper: StreamKeeper;
  readonly #silence: Silence;
  #isOpen = false;

  constructor(outgoing: ServerResponse, accepted: Accepted, keeper: StreamKeeper, silence: Silence) {
    this.#outgoing = outgoing;
    this.#accepted = accepted;
    this.#keeper = keeper;
    this.#silence = silence;
    silence.begin(this);
  }

  send(message: Message): boolean {
    const outgoing = this.#outgoing;
    if (!outgoing || outgoing.destroyed || !this.#accepted.sse) return false;
    if (!this.#isOpen) this.#open(outgoing);
    return this.#keeper.write(outgoing, eventOf(textOf(message)));
  }

  end(): void {
    this.finish([]);
  }

  /** The last messages: one, those of a batch, or none because the client cancelled its request. */
  finish(replies: Reply[], isBatch = false): void {
    const outgoing = this.#outgoing;
    this.#outgoing = undefined;
    this.#silence.end(this);
    if (!outgoing || outgoing.destroyed) return;
    const { json, sse } = this.#accepted;
    if (this.#isOpen || !json || (sse && replies.length === 0)) {
      if (!this.#isOpen) this.#open(outgoing);
      this.#keeper.end(outgoing, replies.map((reply) => eventOf(textOf(reply))).join(''));
      return;
    }
    if (replies.length === 0) {
      // For a client that reads JSON alone: an empty answer, as nothing of it is read any more.
      if (!outgoing.headersSent) outgoing.writeHead(204);
      this.#keeper.end(outgoing);
      return;
    }
    const text = isBatch ? `[${replies.map(textOf).join(',')}]` : textOf(replies[0]!);
    if (!outgoing.headersSent) writeJsonHead(outgoing, 200, text);
    this.#keeper.end(outgoing, text);
  }

  openEarly(): void {
    const outgoing = this.#outgoing;
    if (!outgoing || this.#isOpen || outgoing.destroyed) return;
    if (this.#accepted.sse) {
      this.#open(outgoing);
      this.#keeper.write(outgoing, ': working\n\n');
      return;
    }
    // JSON may begin with white space, so a client that knows nothing else is kept waiting as well.
    outgoing.writeHead(200, { 'content-type': 'application/json' });
    this.#keeper.write(outgoing, ' ');
    this.#keeper.keep(outgoing, ' ');
  }

  #open(outgoing: ServerResponse): void {
    this.#isOpen = true;
    outgoing.writeHead(200, sseHeaders);
    outgoing.flushHeaders();
    this.#keeper.keep(outgoing, ': keep-alive\n\n');
  }
}

/** The stream that a GET opens, for what belongs to no request. */
export class GetStream implements Stream {
  readonly #outgoing: ServerResponse;
  readonly #keeper: StreamKeeper;

  constructor(outgoing: ServerResponse, keeper: StreamKeeper) {
    this.#outgoing = outgoing;
    this.#keeper = keeper;
    outgoing.writeHead(200, sseHeaders);
    outgoing.flushHeaders();
    keeper.write(outgoing, ': listening\n\n');
    keeper.keep(outgoing, ': keep-alive\n\n');
  }

  send(message: Message): boolean {
    return this.#keeper.write(this.#outgoing, eventOf(textOf(message)));
  }

  end(): void {
    this.#keeper.end(this.#outgoing);
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

const eventOf = (text: string) => `event: message\ndata: ${text}\n\n`;

/** The text of a reply or message; an error where a server's result cannot be written. */
export function textOf(reply: Reply | Message): string {
  if ('resultJson' in reply)
    return `{"jsonrpc":"2.0","id":${JSON.stringify(reply.id)},"result":${reply.resultJson}}`;
  try {
    return serialise(reply);
  } catch (error) {
    return serialise(failureOf('id' in reply ? reply.id : null, error));
  }
}

function writeJsonHead(outgoing: ServerResponse, status: number, text: string): void {
  outgoing.writeHead(status, {
    'content-type': 'application/json',
    'content-length': Buffer.byteLength(text),
  });
}

/** Answers at once, with one JSON message. */
export function answer(outgoing: ServerResponse, status: number, message: Reply): void {
  const text = textOf(message);
  writeJsonHead(outgoing, status, text);
  outgoing.end(text);
}
