import type { IncomingMessage, ServerResponse } from 'node:http';
import { asGatewayError, GatewayError } from '../base/errors.ts';
import { failureOf } from '../gateway/failure.ts';
import type { Gateway, Origin, Reply, Scope } from '../gateway/gateway.ts';
import { checkHeaders, checkMirrored } from '../protocol/headers.ts';
import type { Classified, Request } from '../protocol/jsonrpc.ts';
import { modernCodes } from '../protocol/modern.ts';
import { type Accepted, type Edge, PostStream } from './replies.ts';

export interface ModernEndpointOptions {
  gateway: Gateway;
  edge: Edge;
  /** Throws while nothing new is begun. */
  checkAccepting(): void;
}

/** What a client calls itself, so that servers with an instance for each client know it again. */
const clientHeader = 'mcp-gateway-client';
const maxClientLength = 200;
const methodNotFound = -32601;
const principal = 'anonymous';

/** Streamable HTTP of the modern era (specification 2026-07-28, basic/transports): one request, one answer, and no session. */
export class ModernEndpoint {
  readonly #options: ModernEndpointOptions;

  constructor(options: ModernEndpointOptions) {
    this.#options = options;
  }

  /** Answers a POST whose message is of the modern era. Rejects with what is wrong with it. */
  async post(
    incoming: IncomingMessage,
    outgoing: ServerResponse,
    scope: Scope,
    classified: Exclude<Classified, { kind: 'invalid' }>,
    accepted: Accepted,
  ): Promise<void> {
    if (classified.kind === 'notification') {
      // None is defined: a stream is cancelled by closing it.
      outgoing.writeHead(202).end();
      return;
    }
    if (classified.kind === 'response') {
      throw new GatewayError('invalid_request', 'Clients of this protocol version send no responses.', {
        hint: 'Answer a server’s questions by inputResponses, in the request made again.',
      });
    }
    this.#options.checkAccepting();
    await this.#request(incoming, outgoing, scope, classified.message, accepted);
  }

  async #request(
    incoming: IncomingMessage,
    outgoing: ServerResponse,
    scope: Scope,
    request: Request,
    accepted: Accepted,
  ): Promise<void> {
    const { gateway, edge } = this.#options;
    const origin = originOf(incoming, scope);
    checkHeaders(incoming.headers, request);
    if (request.method === 'subscriptions/listen' && !accepted.sse) {
      throw new GatewayError('not_acceptable', 'The answer to subscriptions/listen is a stream of events.', {
        hint: 'Accept application/json and text/event-stream.',
      });
    }
    // Closing the stream is how a client cancels.
    const gone = new AbortController();
    const onClose = () => gone.abort('The client has gone');
    outgoing.on('close', onClose);
    const stream = new PostStream(outgoing, accepted, undefined, edge);
    try {
      if (request.method === 'tools/call') {
        const found = gateway.mirroredParams(request.params?.name, origin, gone.signal);
        const mirrored = found instanceof Promise ? await found : found;
        if (mirrored.length > 0) checkMirrored(incoming.headers, mirrored, request.params?.arguments);
      }
      const reply = await gateway.modern(request, origin, stream, gone);
      stream.finish(reply === undefined ? [] : [reply], false, reply && statusOf(reply));
    } catch (error) {
      stream.finish([failureOf(request.id, error, 'modern')], false, asGatewayError(error).httpStatus);
    } finally {
      outgoing.off('close', onClose);
    }
  }
}

/** The HTTP status of a reply that is sent as JSON; 200 but for what the specification names. */
function statusOf(reply: Reply): number {
  if (!('error' in reply)) return 200;
  const { code } = reply.error;
  if (code === methodNotFound) return 404;
  return Object.values<number>(modernCodes).includes(code) ? 400 : 200;
}

/** Who sends a request of the modern era. */
export function originOf({ headers }: IncomingMessage, scope: Scope): Origin {
  const client = headers[clientHeader];
  if (client === undefined) return { scope, principal };
  if (typeof client !== 'string' || client.length > maxClientLength) {
    throw new GatewayError(
      'invalid_request',
      `Mcp-Gateway-Client is longer than ${maxClientLength} characters.`,
    );
  }
  return { scope, principal, client };
}
