import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Duplex } from 'node:stream';
import { getRequestListener } from '@hono/node-server';
import type { Sessions } from '../access/sessions.ts';
import { type Clock, sleep, systemClock } from '../base/async.ts';
import { GatewayError, systemCodeOf } from '../base/errors.ts';
import type { Config } from '../config/schema.ts';
import { failureOf } from '../gateway/failure.ts';
import type { Gateway, Scope } from '../gateway/gateway.ts';
import type { Events } from '../observability/events.ts';
import { type ApiOptions, createApi, problem, serverUnknown } from './api.ts';
import { Channels } from './channel.ts';
import { Guard } from './guard.ts';
import { McpEndpoint } from './mcp.ts';
import { problemOf, problemType } from './problem.ts';
import { StreamKeeper } from './sse.ts';
import { SsePair } from './sse-pair.ts';
import { refuseUpgrade, WebSocketEndpoint } from './websocket.ts';

export interface HttpServerOptions
  extends Pick<ApiOptions, 'config' | 'fleet' | 'catalog' | 'logs' | 'sandboxOf' | 'version'> {
  gateway: Gateway;
  sessions: Sessions;
  events: Events;
  clock?: Clock;
}

/** Longer than the pause between two calls of a client, so that it does not write into a connection that is just closing. */
const keepAliveTimeoutMs = 75_000;
const headersTimeoutMs = 30_000;
/** For a whole request to arrive; answers may take as long as they need. */
const requestTimeoutMs = 120_000;
const maxHeaderBytes = 16 * 1024;
/** After this, a peer that has silently gone is looked for. */
const tcpKeepAliveMs = 60_000;

/** `/mcp` for all servers, `/{server}/mcp` for one; proxies send the whole address (RFC 9112, section 3.2.2). */
const mcpPath = /^(?:https?:\/\/[^/?]+)?(?:\/([^/?]+))?\/mcp(?:\?|$)/;
/** The same for the two halves of HTTP+SSE. */
const pairPath = /^(?:https?:\/\/[^/?]+)?(?:\/([^/?]+))?\/(sse|messages)(?:\?|$)/;

/** The HTTP edge: checks every request, then hands it to the MCP endpoints or the plain routes. */
export class HttpServer {
  readonly #config: Config;
  readonly #server: Server;
  readonly #endpoint: McpEndpoint;
  readonly #pair: SsePair;
  readonly #sockets: WebSocketEndpoint;
  readonly #channels: Channels;
  readonly #keeper: StreamKeeper;
  readonly #guard: Guard;
  readonly #clock: Clock;
  #isListening = false;
  #isDraining = false;
  /** Requests under way, GET streams excluded. */
  #active = 0;
  /** The same with GET streams, but without those that ask for the gateway's health: watching it is no use of it. */
  #inUse = 0;
  #lastUseMs: number;

  constructor(options: HttpServerOptions) {
    const { config, gateway, sessions, events, clock = systemClock } = options;
    const { maxBodyBytes } = config.gateway;
    this.#config = config;
    this.#clock = clock;
    this.#keeper = new StreamKeeper({
      clock,
      onDropped: (dropped) => events.emit('client.dropped', { transport: 'http', ...dropped }),
    });
    const isAccepting = () => !this.#isDraining;
    const checkScope = (scope: Scope) => {
      if (scope !== undefined && !config.servers.has(scope))
        throw serverUnknown(scope, config.servers.keys());
    };
    this.#endpoint = new McpEndpoint({
      gateway,
      sessions,
      keeper: this.#keeper,
      maxBodyBytes,
      checkScope,
      isAccepting,
      clock,
    });
    const channels = new Channels({
      gateway,
      sessions,
      maxChannels: config.gateway.maxSessions,
      isAccepting,
    });
    this.#channels = channels;
    this.#pair = new SsePair({ channels, keeper: this.#keeper, maxBodyBytes, checkScope });
    this.#sockets = new WebSocketEndpoint({ channels, maxBodyBytes, checkScope, events, clock });
    const app = createApi({
      ...options,
      startedAtMs: clock.now(),
      now: () => clock.now(),
      isReady: () => this.isReady,
    });
    const guard = new Guard(config.gateway);
    this.#guard = guard;
    const route = getRequestListener((request, env) => app.fetch(request, env), {
      // The rest of the process keeps Node's own Request and Response.
      overrideGlobalObjects: false,
      errorHandler: () =>
        problem(
          new GatewayError('invalid_request', 'The request’s address cannot be read.', {
            hint: 'Check the URL.',
          }),
        ),
    });
    this.#server = createServer(
      {
        keepAlive: true,
        keepAliveInitialDelay: tcpKeepAliveMs,
        keepAliveTimeout: keepAliveTimeoutMs,
        headersTimeout: headersTimeoutMs,
        requestTimeout: requestTimeoutMs,
        maxHeaderSize: maxHeaderBytes,
        // Clients that would rather speak HTTP/2 (h2c) ask for that with each request; they are answered in HTTP/1.1.
        shouldUpgradeCallback: ({ headers }) => headers.upgrade?.toLowerCase() === 'websocket',
      },
      (incoming, outgoing) => {
        const objection = guard.objection(incoming);
        if (objection) return refuse(incoming, outgoing, objection);
        if (guard.allowCrossOrigin(incoming, outgoing)) return;
        // The hot path takes Node's own objects past the router: it would cost a tenth of a call.
        const endpoint = mcpPath.exec(incoming.url ?? '');
        if (endpoint) return void this.#endpoint.handle(incoming, outgoing, endpoint[1]);
        const pair = pairPath.exec(incoming.url ?? '');
        if (pair) void this.#pair.handle(incoming, outgoing, pair[1], pair[2] as 'sse' | 'messages');
        else void route(incoming, outgoing);
      },
    );
    this.#server.on('upgrade', (incoming, socket, head) => this.#upgrade(incoming, socket, head));
    this.#lastUseMs = clock.now();
    this.#server.on('request', ({ method, url }, outgoing) => {
      if (url?.startsWith('/health')) return;
      const active = method === 'GET' ? 0 : 1;
      this.#active += active;
      this.#inUse += 1;
      outgoing.on('close', () => {
        this.#active -= active;
        this.#inUse -= 1;
        this.#lastUseMs = clock.now();
      });
    });
  }

  /** Whether requests are served: the port is bound and the gateway does not drain. */
  get isReady(): boolean {
    return this.#isListening && !this.#isDraining;
  }

  /** How long ago the last client went away or had its answer; 0 while there is one. */
  unusedMs(): number {
    if (this.#inUse > 0 || this.#sockets.size > 0) this.#lastUseMs = this.#clock.now();
    return this.#clock.now() - this.#lastUseMs;
  }

  /** Binds the configured address. Throws `port_in_use`. */
  async listen(): Promise<{ host: string; port: number; origin: string }> {
    const { host, port } = this.#config.gateway;
    await new Promise<void>((resolve, reject) => {
      this.#server.once('error', (error) => reject(cannotBind(error, host, port)));
      this.#server.listen(port, host, resolve);
    });
    this.#isListening = true;
    const address = this.#server.address() as AddressInfo;
    const name = address.family === 'IPv6' ? `[${address.address}]` : address.address;
    return { host: address.address, port: address.port, origin: `http://${name}:${address.port}` };
  }

  /** From now on nothing new is begun, and `/health/ready` says so. Resolves when what was under way is answered. */
  async drain(signal?: AbortSignal): Promise<void> {
    this.#isDraining = true;
    this.#endpoint.endStreams();
    this.#channels.drain();
    while ((this.#active > 0 || this.#channels.inFlight > 0) && !signal?.aborted)
      await sleep(20, { clock: this.#clock, signal }).catch(() => {});
  }

  /** Closes the port and every connection. */
  async close(): Promise<void> {
    this.#isDraining = true;
    this.#endpoint.endStreams();
    this.#channels.close();
    await this.#sockets.close();
    this.#keeper.close();
    if (!this.#isListening) return;
    this.#isListening = false;
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    this.#server.closeAllConnections();
    await closed;
  }

  #upgrade(incoming: IncomingMessage, socket: Duplex, head: Buffer): void {
    socket.once('close', () => {
      this.#lastUseMs = this.#clock.now();
    });
    const objection = this.#guard.objection(incoming);
    const endpoint = mcpPath.exec(incoming.url ?? '');
    if (endpoint && !objection) void this.#sockets.upgrade(incoming, socket, head, endpoint[1]);
    else refuseUpgrade(socket, ...refusalOf(incoming, objection ?? noWebSocketHere(incoming)));
  }
}

/** Answers before any route is chosen. */
function refuse(incoming: IncomingMessage, outgoing: ServerResponse, error: GatewayError): void {
  const { type, text } = refusalOf(incoming, error)[1];
  outgoing.writeHead(error.httpStatus, { 'content-type': type, 'content-length': Buffer.byteLength(text) });
  outgoing.end(text);
}

/** The error in the form that the callers of its route read. */
function refusalOf(
  { url = '' }: IncomingMessage,
  error: GatewayError,
): [error: GatewayError, body: { type: string; text: string }] {
  const isMcp = mcpPath.test(url) || pairPath.test(url);
  return [
    error,
    {
      type: isMcp ? 'application/json' : problemType,
      text: JSON.stringify(isMcp ? failureOf(null, error) : problemOf(error)),
    },
  ];
}

const noWebSocketHere = ({ url = '' }: IncomingMessage) =>
  new GatewayError('route_unknown', `There is no WebSocket at ${url.slice(0, 200)}.`, {
    hint: 'MCP is at /mcp, and at /<server>/mcp for one server.',
  });

function cannotBind(error: Error, host: string, port: number): GatewayError {
  switch (systemCodeOf(error)) {
    case 'EADDRINUSE':
      return new GatewayError('port_in_use', `Port ${port} on ${host} is in use by another program.`, {
        hint: 'Stop that program, or choose another port with --port or gateway.port.',
        cause: error,
      });
    case 'EACCES':
      return new GatewayError('port_in_use', `Port ${port} on ${host} may not be bound by this user.`, {
        hint: 'Choose a port above 1023.',
        cause: error,
      });
    default:
      return new GatewayError('config_invalid', `${host}:${port} cannot be bound: ${error.message}.`, {
        hint: 'Check gateway.host.',
        cause: error,
      });
  }
}
