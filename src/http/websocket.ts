import { type IncomingMessage, STATUS_CODES } from 'node:http';
import type { Duplex } from 'node:stream';
import type { RawData, WebSocket, WebSocketServer } from 'ws';
import { type Clock, sleep, systemClock } from '../base/async.ts';
import { asGatewayError, GatewayError } from '../base/errors.ts';
import { failureOf } from '../gateway/failure.ts';
import type { Origin, Scope } from '../gateway/gateway.ts';
import type { Events } from '../observability/events.ts';
import { parseMessage } from '../protocol/jsonrpc.ts';
import type { Channel, Channels } from './channel.ts';
import { originOf } from './modern.ts';

/** What the endpoint works with. */
export interface WebSocketOptions {
  channels: Channels;
  maxBodyBytes: number;
  /** Throws what is wrong with an endpoint's server (`server_unknown`). */
  checkScope(scope: Scope): void;
  events: Events;
  clock?: Clock;
  maxUnreadBytes?: number;
}

/** The subprotocol that MCP clients ask for. */
const subprotocol = 'mcp';
const keepAliveMs = 15_000;
/** A peer that says and reads nothing for this many keep-alives is gone. */
const maxSilentRounds = 3;
/** Bytes that may wait for a reader, beside the message being written. One that is further behind is dropped. */
const maxBacklogBytes = 8 * 1024 * 1024;
/** Bytes that may wait for all readers together. When they are more, those that are furthest behind lose their connections. */
const maxUnreadBytes = 256 * 1024 * 1024;
/** Less is not worth a look at all the others. */
const weighedBytes = 64 * 1024;
/** For the other side to agree that the connection ends. */
const closeTimeoutMs = 2_000;

/** Why a connection ends, as its close frame says it (RFC 6455, section 7.4.1). */
const closeCodes = { goingAway: 1001, unsupportedData: 1003, tryAgainLater: 1013 } as const;

interface Watched {
  channel: Channel;
  silentRounds: number;
  unreadBytes: number;
}

/** MCP over WebSocket: one JSON-RPC message a text frame, both ways, both eras. */
export class WebSocketEndpoint {
  readonly #options: WebSocketOptions;
  readonly #clock: Clock;
  readonly #sockets = new Map<WebSocket, Watched>();
  #server: Promise<WebSocketServer> | undefined;
  #cancelRound: (() => void) | undefined;

  constructor(options: WebSocketOptions) {
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
  }

  get size(): number {
    return this.#sockets.size;
  }

  /** Makes a WebSocket of a request that asks for one, or refuses it. Never rejects. */
  async upgrade(incoming: IncomingMessage, socket: Duplex, head: Buffer, scope: Scope): Promise<void> {
    const onError = () => socket.destroy();
    socket.on('error', onError);
    try {
      this.#options.checkScope(scope);
      this.#options.channels.checkRoom();
      const origin = originOf(incoming, scope);
      this.#server ??= this.#load();
      const server = await this.#server;
      server.handleUpgrade(incoming, socket, head, (webSocket) => {
        socket.off('error', onError);
        this.#serve(webSocket, origin);
      });
    } catch (error) {
      refuseUpgrade(socket, asGatewayError(error));
    }
  }

  /** Closes every connection; those that do not agree in time are cut. */
  async close(): Promise<void> {
    this.#cancelRound?.();
    this.#cancelRound = undefined;
    for (const { channel } of this.#sockets.values()) channel.end('The gateway is shutting down');
    const deadline = this.#clock.now() + closeTimeoutMs;
    while (this.#sockets.size > 0 && this.#clock.now() < deadline) await sleep(10, { clock: this.#clock });
    for (const socket of this.#sockets.keys()) socket.terminate();
  }

  /** Loaded when the first client wants it: most speak HTTP. */
  async #load(): Promise<WebSocketServer> {
    const { WebSocketServer: Server } = await import('ws');
    const server = new Server({
      noServer: true,
      clientTracking: false,
      maxPayload: this.#options.maxBodyBytes,
      perMessageDeflate: false,
      handleProtocols: (offered) => offered.has(subprotocol) && subprotocol,
    });
    server.on('wsClientError', (error, socket) => refuseUpgrade(socket, noHandshake(error)));
    return server;
  }

  #serve(socket: WebSocket, origin: Origin): void {
    const channel = this.#options.channels.open(origin, {
      write: (text) => this.#write(socket, text),
      end: (reason) => this.#shut(socket, closeCodes.goingAway, reason),
    });
    const watched: Watched = { channel, silentRounds: 0, unreadBytes: 0 };
    this.#sockets.set(socket, watched);
    const onSign = () => {
      watched.silentRounds = 0;
    };
    socket.on('pong', onSign);
    socket.on('ping', onSign);
    socket.on('message', (data, isBinary) => {
      onSign();
      if (isBinary) {
        channel.close();
        this.#shut(socket, closeCodes.unsupportedData, 'Messages are text frames');
      } else {
        void this.#take(socket, channel, data);
      }
    });
    // What is wrong with a frame is in the close frame that is sent for it.
    socket.on('error', () => {});
    socket.on('close', () => {
      this.#sockets.delete(socket);
      channel.close();
    });
    this.#cancelRound ??= this.#clock.schedule(() => this.#round(), keepAliveMs);
  }

  async #take(socket: WebSocket, channel: Channel, data: RawData): Promise<void> {
    try {
      const refusal = await channel.take(parseMessage(data as Buffer));
      if (refusal && !refusal.isUnasked) this.#write(socket, JSON.stringify(refusal.message));
    } catch (error) {
      this.#write(socket, JSON.stringify(failureOf(null, error)));
    }
  }

  #write(socket: WebSocket, text: string): boolean {
    if (socket.readyState !== socket.OPEN) return false;
    if (socket.bufferedAmount > maxBacklogBytes) {
      this.#drop(socket, 'The client reads too slowly');
      return false;
    }
    socket.send(text);
    if (socket.bufferedAmount > weighedBytes) this.#weigh();
    return socket.readyState === socket.OPEN;
  }

  /** Drops readers where all of them together are too far behind. */
  #weigh(): void {
    const { maxUnreadBytes: limit = maxUnreadBytes } = this.#options;
    let sum = 0;
    for (const socket of this.#sockets.keys()) sum += socket.bufferedAmount;
    if (sum <= limit) return;
    const slowest = [...this.#sockets.keys()].sort((a, b) => b.bufferedAmount - a.bufferedAmount);
    for (const socket of slowest) {
      if (sum <= limit) return;
      sum -= socket.bufferedAmount;
      this.#drop(socket, 'The clients together read too slowly');
      socket.terminate();
    }
  }

  #drop(socket: WebSocket, reason: string): void {
    const channel = this.#sockets.get(socket)?.channel;
    this.#options.events.emit('client.dropped', {
      transport: 'websocket',
      session: channel?.sessionId,
      reason,
      bytes: socket.bufferedAmount,
    });
    channel?.close();
    this.#shut(socket, closeCodes.tryAgainLater, reason);
  }

  /** Says goodbye, and does not wait for the answer for ever. */
  #shut(socket: WebSocket, code: number, reason: string): void {
    if (socket.readyState !== socket.OPEN) return;
    socket.close(code, reason);
    const cancel = this.#clock.schedule(() => socket.terminate(), closeTimeoutMs);
    socket.once('close', cancel);
  }

  #round(): void {
    this.#cancelRound = undefined;
    for (const [socket, watched] of this.#sockets) {
      const { bufferedAmount } = socket;
      // The answer to a ping comes after everything that is still to be read.
      const isReading = bufferedAmount > 0 && bufferedAmount < watched.unreadBytes;
      watched.silentRounds = isReading ? 0 : watched.silentRounds + 1;
      watched.unreadBytes = bufferedAmount;
      if (watched.silentRounds > maxSilentRounds) {
        this.#drop(socket, 'The client does not answer');
        socket.terminate();
      } else if (socket.readyState === socket.OPEN) socket.ping();
    }
    if (this.#sockets.size > 0) this.#cancelRound = this.#clock.schedule(() => this.#round(), keepAliveMs);
  }
}

/** Answers a request to upgrade with an error instead; `text` unless it is to be a JSON-RPC message. */
export function refuseUpgrade(
  socket: Duplex,
  error: GatewayError,
  { type, text } = { type: 'application/json', text: JSON.stringify(failureOf(null, error)) },
): void {
  if (socket.destroyed || !socket.writable) return;
  socket.on('error', () => socket.destroy());
  socket.once('finish', () => socket.destroy());
  socket.end(
    [
      `HTTP/1.1 ${error.httpStatus} ${STATUS_CODES[error.httpStatus] ?? ''}`,
      `content-type: ${type}`,
      `content-length: ${Buffer.byteLength(text)}`,
      'connection: close',
      '',
      text,
    ].join('\r\n'),
  );
}

const noHandshake = (error: Error) =>
  new GatewayError('invalid_request', `This is no WebSocket handshake: ${error.message}.`, {
    hint: 'Send a GET with Connection: Upgrade, Upgrade: websocket, Sec-WebSocket-Key and Sec-WebSocket-Version: 13.',
  });
