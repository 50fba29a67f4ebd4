import { randomBytes } from 'node:crypto';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { asGatewayError, GatewayError } from '../base/errors.ts';
import { failureOf } from '../gateway/failure.ts';
import type { Scope } from '../gateway/gateway.ts';
import { parseMessage } from '../protocol/jsonrpc.ts';
import { checkJson, readBody } from './body.ts';
import type { Channel, Channels } from './channel.ts';
import { originOf } from './modern.ts';
import { acceptedOf, answer } from './replies.ts';
import { type StreamKeeper, sseHeaders } from './sse.ts';

/** What the pair works with. */
export interface SsePairOptions {
  channels: Channels;
  keeper: StreamKeeper;
  maxBodyBytes: number;
  /** Throws what is wrong with an endpoint's server (`server_unknown`). */
  checkScope(scope: Scope): void;
}

/**
 * HTTP+SSE, the transport of clients from 2024-11-05 (specification 2024-11-05, basic/transports): GET opens the stream on
 * which everything comes, and whose first event names the address that messages are posted to.
 */
export class SsePair {
  readonly #options: SsePairOptions;
  /** By the id in that address, which is all that a POST proves itself with. */
  readonly #streams = new Map<string, { channel: Channel; scope: Scope }>();

  constructor(options: SsePairOptions) {
    this.#options = options;
  }

  /** Answers a request to one half of the pair. Never rejects. */
  async handle(
    incoming: IncomingMessage,
    outgoing: ServerResponse,
    scope: Scope,
    half: 'sse' | 'messages',
  ): Promise<void> {
    try {
      this.#options.checkScope(scope);
      const method = half === 'sse' ? 'GET' : 'POST';
      if (incoming.method !== method) {
        outgoing.setHeader('allow', method);
        throw new GatewayError('method_not_allowed', `${incoming.method} is no method of /${half}.`, {
          hint: 'Clients of HTTP+SSE use GET /sse and POST /messages; Streamable HTTP is at /mcp.',
        });
      }
      if (half === 'sse') this.#open(incoming, outgoing, scope);
      else await this.#take(incoming, outgoing, scope);
    } catch (error) {
      if (outgoing.headersSent || outgoing.destroyed) outgoing.destroy();
      else answer(outgoing, asGatewayError(error).httpStatus, failureOf(null, error));
    }
  }

  #open(incoming: IncomingMessage, outgoing: ServerResponse, scope: Scope): void {
    const { channels, keeper } = this.#options;
    const { accept } = incoming.headers;
    if (!acceptedOf(accept).sse) {
      throw new GatewayError('not_acceptable', `Accept ${JSON.stringify(accept)} cannot be met.`, {
        hint: 'Accept text/event-stream.',
      });
    }
    channels.checkRoom();
    const channel = channels.open(originOf(incoming, scope), {
      write: (text) => keeper.write(outgoing, `event: message\ndata: ${text}\n\n`),
      end: () => keeper.end(outgoing),
    });
    const id = randomBytes(24).toString('base64url');
    this.#streams.set(id, { channel, scope });
    outgoing.on('close', () => {
      this.#streams.delete(id);
      channel.close();
    });
    outgoing.writeHead(200, sseHeaders);
    const address = `${scope === undefined ? '' : `/${scope}`}/messages?sessionId=${id}`;
    keeper.write(outgoing, `event: endpoint\ndata: ${address}\n\n`);
    keeper.keep(outgoing, ': keep-alive\n\n');
  }

  async #take(incoming: IncomingMessage, outgoing: ServerResponse, scope: Scope): Promise<void> {
    const id = new URL(incoming.url ?? '', 'http://localhost').searchParams.get('sessionId');
    if (id === null) {
      throw new GatewayError('session_missing', 'This address has no sessionId.', {
        hint: 'Open GET /sse first, and post to the address that its first event names.',
      });
    }
    this.#channelOf(id, scope);
    checkJson(incoming);
    const value = parseMessage(await readBody(incoming, this.#options.maxBodyBytes));
    // The stream may have been closed while the body came.
    const refusal = await this.#channelOf(id, scope).take(value);
    if (refusal) answer(outgoing, refusal.status, refusal.message);
    else outgoing.writeHead(202).end();
  }

  #channelOf(id: string, scope: Scope): Channel {
    const stream = this.#streams.get(id);
    if (stream && stream.scope === scope) return stream.channel;
    throw new GatewayError('session_unknown', 'The stream of this sessionId does not exist, or was closed.', {
      hint: 'Connect again: open GET /sse and post to the address that its first event names.',
    });
  }
}
