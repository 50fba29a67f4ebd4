import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Session, Sessions } from '../access/sessions.ts';
import { type Clock, systemClock } from '../base/async.ts';
import { asGatewayError, GatewayError } from '../base/errors.ts';
import type { Stream } from '../gateway/conversation.ts';
import { failureOf } from '../gateway/failure.ts';
import type { Gateway, Reply, Scope } from '../gateway/gateway.ts';
import {
  type Era,
  hasBatches,
  isLegacyVersion,
  isModernMessage,
  isModernVersion,
  legacyVersions,
} from '../protocol/eras.ts';
import {
  type Classified,
  classify,
  failure,
  type Id,
  type Json,
  type Message,
  parseMessage,
  type Request,
} from '../protocol/jsonrpc.ts';
import { isJson, readBody } from './body.ts';
import { ModernEndpoint } from './modern.ts';
import { type EventStream, Replays } from './replay.ts';
import { type Accepted, acceptedOf, answer, type Edge, GetStream, PostStream, Silence } from './replies.ts';
import type { StreamKeeper } from './sse.ts';

/** What an endpoint works with. */
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
  readonly #edge: Edge;
  readonly #modern: ModernEndpoint;
  /** The GET streams that are open. */
  readonly #listening = new Set<Stream>();

  constructor(options: McpOptions) {
    this.#options = options;
    const { keeper, sessions, clock = systemClock } = options;
    const replays = new Replays({ keeper, clock });
    sessions.observe({ onEnd: (session) => replays.forget(session) });
    this.#edge = { keeper, silence: new Silence(clock), replays };
    this.#modern = new ModernEndpoint({
      gateway: options.gateway,
      edge: this.#edge,
      checkAccepting: () => this.#checkAccepting(),
    });
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

  /** Ends the streams that stay open; clients open new ones when the gateway is back. */
  endStreams(): void {
    this.#options.gateway.endStreams();
    for (const stream of this.#listening) stream.end();
  }

  async #post(incoming: IncomingMessage, outgoing: ServerResponse, scope: Scope): Promise<void> {
    const { maxBodyBytes } = this.#options;
    if (!isJson(incoming)) {
      throw new GatewayError(
        'media_type_unsupported',
        incoming.headers['content-encoding'] === undefined
          ? `Content-Type ${JSON.stringify(incoming.headers['content-type'] ?? '')} is not supported.`
          : `Content-Encoding ${JSON.stringify(incoming.headers['content-encoding'])} is not supported.`,
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
    if (Array.isArray(value) && isModernRequest(incoming)) throw noBatches();
    if (Array.isArray(value)) return this.#batch(incoming, outgoing, scope, value, accepted);

    const classified = classify(value);
    if (classified.kind === 'invalid') return answer(outgoing, 400, failure(classified.id, classified.error));
    try {
      await this.#single(incoming, outgoing, scope, classified, accepted);
    } catch (error) {
      const id = classified.kind === 'request' ? classified.message.id : null;
      this.#refuse(outgoing, error, id, isModern(incoming, classified.message) ? 'modern' : 'legacy');
    }
  }

  async #single(
    incoming: IncomingMessage,
    outgoing: ServerResponse,
    scope: Scope,
    classified: Exclude<Classified, { kind: 'invalid' }>,
    accepted: Accepted,
  ): Promise<void> {
    // Decided for each request by itself (specification 2026-07-28, "Versioning").
    if (isModern(incoming, classified.message)) {
      return this.#modern.post(incoming, outgoing, scope, classified, accepted);
    }
    if (classified.kind === 'request' && classified.message.method === 'initialize') {
      return this.#initialize(outgoing, classified.message, scope);
    }
    // The session's lookup waits only for one that is not in memory.
    const found = this.#sessionOf(incoming, scope);
    const session = found instanceof Promise ? await found : found;
    if (classified.kind === 'request') {
      this.#checkAccepting();
      const stream = new PostStream(outgoing, accepted, session, this.#edge);
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
    if (parts.some((part) => part.kind !== 'invalid' && isModernMessage(part.message))) throw noBatches();
    for (const part of parts)
      if (part.kind !== 'request' && part.kind !== 'invalid') this.#take(session, part);
    const asked = parts.filter((part) => part.kind === 'request' || part.kind === 'invalid');
    if (asked.length === 0) {
      outgoing.writeHead(202).end();
      return;
    }
    this.#checkAccepting();
    const stream = new PostStream(outgoing, accepted, session, this.#edge);
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
    if (isModernRequest(incoming)) throw legacyMethod(incoming, outgoing);
    const session = await this.#sessionOf(incoming, scope);
    this.#checkAccepting();
    if (outgoing.destroyed) return;
    const events = this.#resume(incoming, outgoing, session);
    if (events?.kind !== 'get' || events.isFinished) return;
    const stream = new GetStream(events, outgoing);
    const closed = this.#options.gateway.listen(session, stream);
    this.#listening.add(stream);
    outgoing.on('close', () => {
      this.#listening.delete(stream);
      closed();
    });
  }

  /** The stream that the client comes back to, connected, or a new one; undefined when there is nothing to come. */
  #resume(incoming: IncomingMessage, outgoing: ServerResponse, session: Session): EventStream | undefined {
    const { replays } = this.#edge;
    const lastEventId = incoming.headers['last-event-id'];
    const found = lastEventId === undefined ? 'new' : replays.find(session, String(lastEventId));
    if (found === 'new') return replays.open(session, 'get', outgoing);
    if (found === 'over') {
      outgoing.writeHead(204).end();
      return undefined;
    }
    found.stream.connect(outgoing, found.after);
    return found.stream;
  }

  async #delete(incoming: IncomingMessage, outgoing: ServerResponse, scope: Scope): Promise<void> {
    if (isModernRequest(incoming)) throw legacyMethod(incoming, outgoing);
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
  #refuse(outgoing: ServerResponse, thrown: unknown, id: Id | null = null, era: Era = 'legacy'): void {
    if (outgoing.headersSent || outgoing.destroyed) {
      outgoing.destroy();
      return;
    }
    answer(outgoing, asGatewayError(thrown).httpStatus, failureOf(id, thrown, era));
  }
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

/** Whether its headers say that a request is of the modern era. */
function isModernRequest({ headers }: IncomingMessage): boolean {
  const version = headers[versionHeader];
  return typeof version === 'string' && isModernVersion(version);
}

/** Whether a POST is of the modern era, by what its message or its headers say. */
function isModern(incoming: IncomingMessage, message: Message): boolean {
  return isModernMessage(message) || isModernRequest(incoming);
}

/** The modern era has POST alone (specification 2026-07-28, "Earlier Streamable HTTP Revisions"). */
function legacyMethod({ method }: IncomingMessage, outgoing: ServerResponse): GatewayError {
  outgoing.setHeader('allow', 'POST');
  return new GatewayError('method_not_allowed', `Protocol version 2026-07-28 has no ${method}.`, {
    hint: 'It has no sessions; POST subscriptions/listen to hear of changes.',
  });
}

function noBatches(): GatewayError {
  return new GatewayError('invalid_request', 'Protocol version 2026-07-28 has no batches.', {
    hint: 'Send each message in a request of its own.',
  });
}
