import type { Session, Sessions } from '../access/sessions.ts';
import { asGatewayError, GatewayError } from '../base/errors.ts';
import type { Stream } from '../gateway/conversation.ts';
import { failureOf } from '../gateway/failure.ts';
import type { Gateway, Origin, Reply } from '../gateway/gateway.ts';
import { type Era, hasBatches, isModernMessage } from '../protocol/eras.ts';
import {
  type Classified,
  classify,
  type Failure,
  failure,
  type Id,
  idKey,
  isId,
  type Json,
  type Notification,
  type Request,
} from '../protocol/jsonrpc.ts';
import { textOf } from './replies.ts';

/** What carries a channel's messages to its client. */
export interface Carrier {
  /** Sends one text, a message or a batch. False when the client is gone. */
  write(text: string): boolean;
  /** Ends the connection from this side; doing it twice is done once. */
  end(reason: string): void;
}

/** What a channel needs of the gateway. */
export type ChannelGateway = Pick<
  Gateway,
  'initialize' | 'request' | 'notification' | 'response' | 'listen' | 'modern'
>;

/** What channels work with. */
export interface ChannelsOptions {
  gateway: ChannelGateway;
  sessions: Pick<Sessions, 'hold' | 'end'>;
  /** Channels that may be open at the same time. */
  maxChannels: number;
  /** False while the gateway drains: what runs is finished, nothing new is begun. */
  isAccepting(): boolean;
}

/** Why a message was not taken: the answer to it, and the status that says the same over HTTP. */
export interface Refusal {
  status: number;
  message: Failure;
  /** It asked for no answer; where there is no status to say it with, nothing is said. */
  isUnasked: boolean;
}

/** Messages in one batch. */
const maxBatch = 100;
/** Modern requests of one channel that may be worked on at a time, and messages that may wait for its `initialize`. */
const maxInFlight = 1000;

/** The channels that are open. */
export class Channels {
  readonly #options: ChannelsOptions;
  readonly #open = new Set<Channel>();

  constructor(options: ChannelsOptions) {
    this.#options = options;
  }

  get size(): number {
    return this.#open.size;
  }

  /** Requests that are being worked on. */
  get inFlight(): number {
    let sum = 0;
    for (const channel of this.#open) sum += channel.inFlight;
    return sum;
  }

  /** Throws why no channel may be opened now: `draining`, `session_limit`. */
  checkRoom(): void {
    checkAccepting(this.#options);
    const { maxChannels } = this.#options;
    if (this.#open.size < maxChannels) return;
    throw new GatewayError('session_limit', `All ${maxChannels} connections for sessions are in use.`, {
      hint: 'Close a client, or raise gateway.max_sessions.',
    });
  }

  open(origin: Origin, carrier: Carrier): Channel {
    const channel = new Channel(this.#options, origin, carrier, () => this.#open.delete(channel));
    this.#open.add(channel);
    return channel;
  }

  /** Ends each channel as soon as nothing is in flight on it. */
  drain(): void {
    for (const channel of this.#open) channel.drain();
  }

  /** Ends all of them now. */
  close(): void {
    for (const channel of this.#open) channel.end(shuttingDown);
  }
}

/**
 * One connection over which messages go both ways, whatever carries them. Legacy: `initialize` begins the session that
 * belongs to the connection, and ends with it. Modern: each request stands for itself. The era is decided for each message.
 */
export class Channel {
  readonly #options: ChannelsOptions;
  readonly #origin: Origin;
  readonly #carrier: Carrier;
  readonly #onClose: () => void;
  #session: Session | undefined;
  /** `initialize` is being answered; messages that come meanwhile wait for it, in order. */
  #opening: Promise<Session | undefined> | undefined;
  #waiting = 0;
  /** Undoes what holds the session, in order. */
  readonly #releases: (() => void)[] = [];
  #isListening = false;
  /** Modern requests that are being worked on, with the keys of their ids: a client may use an id twice. */
  readonly #modern = new Map<AbortController, string>();
  #inFlight = 0;
  #isDraining = false;
  #isClosed = false;

  constructor(options: ChannelsOptions, origin: Origin, carrier: Carrier, onClose: () => void) {
    this.#options = options;
    this.#origin = origin;
    this.#carrier = carrier;
    this.#onClose = onClose;
  }

  /** Requests that are being worked on. */
  get inFlight(): number {
    return this.#inFlight;
  }

  /** Of the legacy session, once there is one. */
  get sessionId(): string | undefined {
    return this.#session?.id;
  }

  /** Takes what the client sent. Resolves when it is taken, not when it is answered; answers go to the carrier. Never rejects. */
  async take(value: Json): Promise<Refusal | undefined> {
    if (this.#isClosed) return undefined;
    try {
      if (Array.isArray(value)) return await this.#takeBatch(value);
    } catch (error) {
      return refusalOf(null, error);
    }
    const classified = classify(value);
    if (classified.kind === 'invalid')
      return { status: 400, message: failure(classified.id, classified.error), isUnasked: false };
    try {
      await this.#takeSingle(classified);
      return undefined;
    } catch (error) {
      return classified.kind === 'request'
        ? refusalOf(classified.message.id, error, isModernMessage(classified.message) ? 'modern' : 'legacy')
        : { ...refusalOf(null, error), isUnasked: true };
    }
  }

  /** Ends the connection from this side. */
  end(reason: string): void {
    this.#carrier.end(reason);
    this.close();
  }

  /** Ends the connection when what is in flight has been answered; new requests are refused by then. */
  drain(): void {
    this.#isDraining = true;
    this.#endIfDrained();
  }

  /** The connection is gone: its calls are cancelled, its session ends. */
  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    for (const abort of this.#modern.keys()) abort.abort('The client went away');
    for (const release of this.#releases) release();
    if (this.#session) this.#options.sessions.end(this.#session);
    this.#onClose();
  }

  async #takeSingle(classified: Exclude<Classified, { kind: 'invalid' }>): Promise<void> {
    const { message } = classified;
    if (isModernMessage(message)) {
      if (classified.kind === 'request') this.#takeModern(classified.message);
      else if (classified.kind === 'notification') this.#cancelModern(classified.message);
      return;
    }
    if (classified.kind === 'request' && classified.message.method === 'initialize') {
      this.#initialize(classified.message);
      return;
    }
    if (classified.kind === 'notification' && this.#cancelModern(classified.message)) return;
    // Only while there is something to wait for: what comes later must not overtake.
    const session = this.#opening ? await this.#afterOpening(this.#opening) : this.#session;
    if (this.#isClosed) return;
    if (!session) throw notInitialized();
    this.#listen(session);
    this.#takeLegacy(session, classified);
  }

  #takeLegacy(session: Session, classified: Exclude<Classified, { kind: 'invalid' }>): void {
    const { gateway } = this.#options;
    if (classified.kind === 'notification') gateway.notification(session, classified.message);
    else if (classified.kind === 'response') gateway.response(session, classified.message);
    else {
      const { message } = classified;
      checkAccepting(this.#options);
      void this.#answer((stream) => replyTo(message.id, gateway.request(session, message, stream)));
    }
  }

  async #takeBatch(values: Json[]): Promise<Refusal | undefined> {
    const session = this.#opening ? await this.#afterOpening(this.#opening) : this.#session;
    if (this.#isClosed) return undefined;
    if (!session) throw notInitialized();
    if (!hasBatches(session.client.protocolVersion)) {
      throw new GatewayError(
        'invalid_request',
        'Batches are not part of the protocol version of this session.',
        { hint: 'Send each message by itself.' },
      );
    }
    if (values.length === 0 || values.length > maxBatch) {
      throw new GatewayError(
        'invalid_request',
        `A batch has 1 to ${maxBatch} messages, this one has ${values.length}.`,
      );
    }
    const parts = values.map(classify);
    const asked = parts.filter((part) => part.kind === 'request' || part.kind === 'invalid');
    if (asked.length > 0) checkAccepting(this.#options);
    this.#listen(session);
    for (const part of parts)
      if (part.kind !== 'request' && part.kind !== 'invalid') this.#takeLegacy(session, part);
    if (asked.length === 0) return undefined;
    void this.#answer((stream) =>
      Promise.all(
        asked.map((part) => {
          if (part.kind === 'invalid') return failure(part.id, part.error);
          const { message } = part;
          if (message.method !== 'initialize' && !isModernMessage(message))
            return replyTo(message.id, this.#options.gateway.request(session, message, stream));
          return failureOf(
            message.id,
            new GatewayError('invalid_request', 'This message cannot be part of a batch.', {
              hint: 'Send it by itself.',
            }),
          );
        }),
      ),
    );
    return undefined;
  }

  #initialize(request: Request): void {
    checkAccepting(this.#options);
    if (this.#session ?? this.#opening) {
      throw new GatewayError('invalid_request', 'This connection has its session already.', {
        hint: 'Open another connection for another session.',
      });
    }
    const { scope, principal } = this.#origin;
    let session: Session | undefined;
    this.#opening = this.#answer(async () => {
      const begun = await this.#options.gateway.initialize(request, scope, principal);
      session = begun.session;
      return begun.response;
    }).then(() => {
      this.#opening = undefined;
      if (!session) return undefined;
      if (this.#isClosed) {
        this.#options.sessions.end(session);
        return undefined;
      }
      this.#session = session;
      this.#releases.push(this.#options.sessions.hold(session));
      return session;
    });
  }

  async #afterOpening(opening: Promise<Session | undefined>): Promise<Session | undefined> {
    if (this.#waiting >= maxInFlight) throw tooMany();
    this.#waiting += 1;
    try {
      return await opening;
    } finally {
      this.#waiting -= 1;
    }
  }

  /** What belongs to no request comes here from the client's first message on: before it, nothing may be sent. */
  #listen(session: Session): void {
    if (this.#isListening) return;
    this.#isListening = true;
    const stream: Stream = {
      send: (message) => this.#write(textOf(message)),
      end: () => this.end('The session has ended'),
    };
    this.#releases.push(this.#options.gateway.listen(session, stream));
  }

  #takeModern(request: Request): void {
    const { gateway } = this.#options;
    checkAccepting(this.#options);
    if (this.#modern.size >= maxInFlight) throw tooMany();
    const abort = new AbortController();
    const { signal } = abort;
    this.#modern.set(abort, idKey(request.id));
    void this.#answer(async (stream) => {
      const reply = await replyTo(request.id, gateway.modern(request, this.#origin, stream, abort), 'modern');
      this.#modern.delete(abort);
      return signal.aborted ? undefined : reply;
    });
  }

  /** Whether it was about a modern request. */
  #cancelModern({ method, params }: Notification): boolean {
    if (method !== 'notifications/cancelled' || !isId(params?.requestId)) return false;
    const cancelled = idKey(params.requestId);
    let isFound = false;
    for (const [abort, key] of this.#modern) {
      if (key !== cancelled) continue;
      abort.abort(params.reason ?? 'The client cancelled it');
      isFound = true;
    }
    return isFound;
  }

  /** Sends what `work` gives. Its stream goes silent with it: what comes later belongs to no request. */
  async #answer(work: (stream: Stream) => Promise<Reply | (Reply | undefined)[] | undefined>): Promise<void> {
    this.#inFlight += 1;
    let isOpen = true;
    const stream: Stream = {
      send: (message) => isOpen && this.#write(textOf(message)),
      end: () => {
        isOpen = false;
      },
    };
    const answer = await work(stream);
    isOpen = false;
    const replies = Array.isArray(answer) ? answer.filter((reply) => reply !== undefined) : answer;
    if (Array.isArray(replies)) {
      if (replies.length > 0) this.#write(`[${replies.map(textOf).join(',')}]`);
    } else if (replies) this.#write(textOf(replies));
    this.#inFlight -= 1;
    this.#endIfDrained();
  }

  #write(text: string): boolean {
    return !this.#isClosed && this.#carrier.write(text);
  }

  #endIfDrained(): void {
    if (this.#isDraining && this.#inFlight === 0 && !this.#isClosed) this.end(shuttingDown);
  }
}

const shuttingDown = 'The gateway is shutting down';

/** The reply, or the error that came in its place. */
async function replyTo(
  id: Id,
  reply: Promise<Reply | undefined>,
  era: Era = 'legacy',
): Promise<Reply | undefined> {
  try {
    return await reply;
  } catch (error) {
    return failureOf(id, error, era);
  }
}

function refusalOf(id: Id | null, thrown: unknown, era: Era = 'legacy'): Refusal {
  const { httpStatus } = asGatewayError(thrown);
  return { status: httpStatus, message: failureOf(id, thrown, era), isUnasked: false };
}

function checkAccepting({ isAccepting }: Pick<ChannelsOptions, 'isAccepting'>): void {
  if (isAccepting()) return;
  throw new GatewayError('draining', 'The gateway is shutting down.', { hint: 'Try again when it is back.' });
}

const notInitialized = () =>
  new GatewayError('session_missing', 'This connection has no session yet.', {
    hint: 'Send initialize first.',
  });

const tooMany = () =>
  new GatewayError('queue_full', `This connection has ${maxInFlight} messages waiting.`, {
    hint: 'Wait for some of them to be answered.',
  });
