import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Session, Sessions } from '../access/sessions.ts';
import { type Clock, systemClock } from '../base/async.ts';
import { asGatewayError, GatewayError } from '../base/errors.ts';
import type { Stream } from '../gateway/conversation.ts';
import { failureOf } from '../gateway/failure.ts';
import type { Gateway, Reply, Scope } from '../gateway/gateway.ts';
import { hasBatches, isLegacyVersion, isModernMessage, legacyVersions } from '../protocol/eras.ts';
import {
  type Classified,
  classify,
  failure,
  type Json,
  type Message,
  parseMessage,
  type Request,
  serialise,
} from '../protocol/jsonrpc.ts';
import { isJson, readBody } from './body.ts';
import { type StreamKeeper, sseHeaders } from './sse.ts';

export interface McpOptions {
  gateway: Gateway;
  sessions: Sessions;
  keeper: StreamKeeper;
  maxBodyBytes: number;
  /** Throws what is wrong with an endpoint's server (`server_unknown`). */
  checkScope(scope: Scope): void;
  /** False while the gateway drains: what runs is finished, nothing new is begun. */
  isAccepting(): boolean;
  clock?: Clock;
}

/** An answer opens as a stream when it takes longer; clients give up on a connection that shows no headers. */
const silenceMs = 5_000;
/** Messages in one batch. */
const maxBatch = 100;
const versionHeader = 'mcp-protocol-version';
const sessionHeader = 'mcp-session-id';

/**
 * An MCP endpoint over Streamable HTTP (specification 2025-11-25, basic/transports), for all servers or for one. Works on
 * Node's own request and response: this is the hot path.
 */
export class McpEndpoint {
  readonly #options: McpOptions;
  readonly #silence: Silence;
  /** The GET streams that are open. */
  readonly #listening = new Set<Stream>();

  constructor(options: McpOptions) {
    this.#options = options;
    this.#silence = new Silence(options.clock ?? systemClock);
  }

  /** Answers one HTTP request completely. Never rejects. */
  async handle(incoming: IncomingMessage, outgoing: ServerResponse, scope: Scope): Promise<void> {
    try {
      this.#options.checkScope(scope);
      switch (incoming.method) {
        case 'POST':
          return await this.#post(incoming, outgoing, scope);
        case 'GET':
          return await this.#get(incoming, outgoing, scope);
        case 'DELETE':
          return await this.#delete(incoming, outgoing, scope);
        default:
          outgoing.setHeader('allow', 'GET, POST, DELETE');
          throw new GatewayError(
            'method_not_allowed',
            `${incoming.method} is no method of an MCP endpoint.`,
            {
              hint: 'MCP clients use POST, GET and DELETE.',
            },
          );
      }
    } catch (error) {
      this.#refuse(outgoing, error);
    }
  }

  /** Ends the GET streams; clients open new ones when the gateway is back. */
  endStreams(): void {
    for (const stream of this.#listening) stream.end();
  }

  async #post(incoming: IncomingMessage, outgoing: ServerResponse, scope: Scope): Promise<void> {
    const { maxBodyBytes } = this.#options;
    if (!isJson(incoming)) {
      throw new GatewayError(
        'media_type_unsupported',
        `Content-Type ${JSON.stringify(incoming.headers['content-type'] ?? '')} is not supported.`,
        { hint: 'Send application/json, uncompressed.' },
      );
    }
    const accepted = acceptedOf(incoming.headers.accept);
    if (!accepted.json && !accepted.sse) {
      throw new GatewayError(
        'not_acceptable',
        `Accept ${JSON.stringify(incoming.headers.accept)} cannot be met.`,
        {
          hint: 'Accept application/json and text/event-stream.',
        },
      );
    }
    const value = parseMessage(await readBody(incoming, maxBodyBytes));
    if (Array.isArray(value)) return this.#batch(incoming, outgoing, scope, value, accepted);

    const classified = classify(value);
    if (classified.kind === 'invalid') return answer(outgoing, 400, failure(classified.id, classified.error));
    if (isModernMessage(classified.message)) throw modernUnsupported();
    if (classified.kind === 'request' && classified.message.method === 'initialize') {
      return this.#initialize(outgoing, classified.message, scope);
    }
    // The session's lookup waits only for one that is not in memory.
    const found = this.#sessionOf(incoming, scope);
    const session = found instanceof Promise ? await found : found;
    if (classified.kind === 'request') {
      this.#checkAccepting();
      const stream = new PostStream(outgoing, accepted, this.#options.keeper, this.#silence);
      const reply = await this.#options.gateway.request(session, classified.message, stream);
      stream.finish(reply === undefined ? [] : [reply]);
      return;
    }
    this.#take(session, classified);
    outgoing.writeHead(202).end();
  }

  async #initialize(outgoing: ServerResponse, request: Request, scope: Scope): Promise<void> {
    this.#checkAccepting();
    const { response, session } = await this.#options.gateway.initialize(request, scope);
    if (session) outgoing.setHeader(sessionHeader, session.token);
    answer(outgoing, 200, response);
  }

  async #batch(
    incoming: IncomingMessage,
    outgoing: ServerResponse,
    scope: Scope,
    values: Json[],
    accepted: Accepted,
  ): Promise<void> {
    const session = await this.#sessionOf(incoming, scope);
    if (!hasBatches(session.client.protocolVersion)) {
      throw new GatewayError(
        'invalid_request',
        'Batches are not part of the protocol version of this session.',
        {
          hint: 'Send each message in a request of its own.',
        },
      );
    }
    if (values.length === 0 || values.length > maxBatch) {
      throw new GatewayError(
        'invalid_request',
        `A batch has 1 to ${maxBatch} messages, this one has ${values.length}.`,
      );
    }
    const parts = values.map(classify);
    if (parts.some((part) => part.kind !== 'invalid' && isModernMessage(part.message)))
      throw modernUnsupported();
    for (const part of parts)
      if (part.kind !== 'request' && part.kind !== 'invalid') this.#take(session, part);
    const asked = parts.filter((part) => part.kind === 'request' || part.kind === 'invalid');
    if (asked.length === 0) {
      outgoing.writeHead(202).end();
      return;
    }
    this.#checkAccepting();
    const stream = new PostStream(outgoing, accepted, this.#options.keeper, this.#silence);
    const replies = await Promise.all(
      asked.map((part): Reply | undefined | Promise<Reply | undefined> => {
        if (part.kind === 'invalid') return failure(part.id, part.error);
        if (part.message.method !== 'initialize')
          return this.#options.gateway.request(session, part.message, stream);
        return failureOf(
          part.message.id,
          new GatewayError('invalid_request', 'initialize cannot be part of a batch.'),
        );
      }),
    );
    stream.finish(
      replies.filter((reply) => reply !== undefined),
      true,
    );
  }

  /** Takes what has no answer. */
  #take(session: Session, classified: Exclude<Classified, { kind: 'invalid' | 'request' }>): void {
    const { gateway } = this.#options;
    if (classified.kind === 'notification') gateway.notification(session, classified.message);
    else gateway.response(session, classified.message);
  }

  async #get(incoming: IncomingMessage, outgoing: ServerResponse, scope: Scope): Promise<void> {
    const { accept } = incoming.headers;
    const hasSession = incoming.headers[sessionHeader] !== undefined;
    // `*/*` from a client with a session is a client; from one without it is a person with curl.
    const wantsStream = hasSession ? acceptedOf(accept).sse : accept?.includes('text/event-stream');
    if (!wantsStream) return explain(incoming, outgoing);
    const session = await this.#sessionOf(incoming, scope);
    this.#checkAccepting();
    const stream = new GetStream(outgoing, this.#options.keeper);
    const closed = this.#options.gateway.listen(session, stream);
    this.#listening.add(stream);
    outgoing.on('close', () => {
      this.#listening.delete(stream);
      closed();
    });
  }

  async #delete(incoming: IncomingMessage, outgoing: ServerResponse, scope: Scope): Promise<void> {
    const session = await this.#sessionOf(incoming, scope);
    this.#options.sessions.end(session);
    outgoing.writeHead(204).end();
  }

  #sessionOf({ headers }: IncomingMessage, scope: Scope): Session | Promise<Session> {
    const version = headers[versionHeader];
    if (version !== undefined && !isLegacyVersion(version)) throw versionUnsupported(String(version));
    const token = headers[sessionHeader];
    if (token === undefined) {
      throw new GatewayError('session_missing', 'This request has no Mcp-Session-Id header.', {
        hint: 'Send initialize first, and its answer’s Mcp-Session-Id with every request after it.',
      });
    }
    return this.#options.sessions.find(String(token), scope);
  }

  #checkAccepting(): void {
    if (this.#options.isAccepting()) return;
    throw new GatewayError('draining', 'The gateway is shutting down.', {
      hint: 'Try again when it is back.',
    });
  }

  /** Answers with an error that is about the HTTP request or the message's envelope. */
  #refuse(outgoing: ServerResponse, thrown: unknown): void {
    if (outgoing.headersSent || outgoing.destroyed) {
      outgoing.destroy();
      return;
    }
    answer(outgoing, asGatewayError(thrown).httpStatus, failureOf(null, thrown));
  }
}

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
class Silence {
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
class PostStream implements Stream, Waiting {
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

class GetStream implements Stream {
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

interface Accepted {
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

/** The text of a reply; an error where a server's result cannot be written. */
function textOf(reply: Reply | Message): string {
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

function answer(outgoing: ServerResponse, status: number, message: Reply): void {
  const text = textOf(message);
  writeJsonHead(outgoing, status, text);
  outgoing.end(text);
}

/** For a person who looks at the endpoint with curl or a browser. */
function explain(incoming: IncomingMessage, outgoing: ServerResponse): void {
  const url = `http://${incoming.headers.host}${incoming.url}`;
  const text = [
    'This is an MCP endpoint of MCP Gateway. It speaks JSON-RPC to MCP clients (Streamable HTTP), not to browsers.',
    '',
    'Connect Claude Code:',
    `  claude mcp add --transport http mcp-gateway ${url}`,
    '',
    'Look around without a client:',
    `  curl http://${incoming.headers.host}/servers`,
    `  curl http://${incoming.headers.host}/<server>/tools`,
    `  curl -X POST http://${incoming.headers.host}/<server>/tools/<tool> -H 'content-type: application/json' -d '{}'`,
    '',
  ].join('\n');
  outgoing.writeHead(406, {
    'content-type': 'text/plain; charset=utf-8',
    'content-length': Buffer.byteLength(text),
  });
  outgoing.end(text);
}

function versionUnsupported(version: string): GatewayError {
  return new GatewayError(
    'version_unsupported',
    `Protocol version ${JSON.stringify(version)} is not supported.`,
    {
      hint: `Supported are ${legacyVersions.join(', ')}.`,
      data: { supported: legacyVersions },
    },
  );
}

function modernUnsupported(): GatewayError {
  return new GatewayError(
    'version_unsupported',
    'Requests of protocol version 2026-07-28 are not supported yet.',
    {
      hint: `Send initialize; supported are ${legacyVersions.join(', ')}.`,
      data: { supported: legacyVersions },
    },
  );
}
