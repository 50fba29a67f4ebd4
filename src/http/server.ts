import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { getRequestListener } from '@hono/node-server';
import type { Sessions } from '../access/sessions.ts';
import { type Clock, sleep, systemClock } from '../base/async.ts';
import { GatewayError, systemCodeOf } from '../base/errors.ts';
import type { Config } from '../config/schema.ts';
import { failureOf } from '../gateway/failure.ts';
import type { Gateway } from '../gateway/gateway.ts';
import { type ApiOptions, createApi, problem, serverUnknown } from './api.ts';
import { Guard } from './guard.ts';
import { McpEndpoint } from './mcp.ts';
import { problemOf, problemType } from './problem.ts';
import { StreamKeeper } from './sse.ts';

export interface HttpServerOptions
  extends Pick<ApiOptions, 'config' | 'fleet' | 'catalog' | 'logs' | 'sandboxOf' | 'version'> {
  gateway: Gateway;
  sessions: Sessions;
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

/** The HTTP edge: checks every request, then hands it to the MCP endpoints or the plain routes. */
export class HttpServer {
  readonly #config: Config;
  readonly #server: Server;
  readonly #endpoint: McpEndpoint;
  readonly #keeper: StreamKeeper;
  readonly #clock: Clock;
  #isListening = false;
  #isDraining = false;
  /** Requests under way, GET streams excluded. */
  #active = 0;

  constructor(options: HttpServerOptions) {
    const { config, gateway, sessions, clock = systemClock } = options;
    this.#config = config;
    this.#clock = clock;
    this.#keeper = new StreamKeeper(clock);
    this.#endpoint = new McpEndpoint({
      gateway,
      sessions,
      keeper: this.#keeper,
      maxBodyBytes: config.gateway.maxBodyBytes,
      checkScope: (scope) => {
        if (scope !== undefined && !config.servers.has(scope))
          throw serverUnknown(scope, config.servers.keys());
      },
      isAccepting: () => !this.#isDraining,
      clock,
    });
    const app = createApi({
      ...options,
      startedAtMs: clock.now(),
      now: () => clock.now(),
      isReady: () => this.isReady,
    });
    const guard = new Guard(config.gateway);
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
      },
      (incoming, outgoing) => {
        const objection = guard.objection(incoming);
        if (objection) return refuse(incoming, outgoing, objection);
        if (guard.allowCrossOrigin(incoming, outgoing)) return;
        // The hot path takes Node's own objects past the router: it would cost a tenth of a call.
        const endpoint = mcpPath.exec(incoming.url ?? '');
        if (endpoint) void this.#endpoint.handle(incoming, outgoing, endpoint[1]);
        else void route(incoming, outgoing);
      },
    );
    this.#server.on('request', (incoming, outgoing) => {
      if (incoming.method === 'GET') return;
      this.#active += 1;
      outgoing.on('close', () => {
        this.#active -= 1;
      });
    });
  }

  /** Whether requests are served: the port is bound and the gateway does not drain. */
  get isReady(): boolean {
    return this.#isListening && !this.#isDraining;
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
    while (this.#active > 0 && !signal?.aborted)
      await sleep(20, { clock: this.#clock, signal }).catch(() => {});
  }

  /** Closes the port and every connection. */
  async close(): Promise<void> {
    this.#isDraining = true;
    this.#endpoint.endStreams();
    this.#keeper.close();
    if (!this.#isListening) return;
    this.#isListening = false;
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    this.#server.closeAllConnections();
    await closed;
  }
}

/** Answers before any route is chosen, in the form that the route's callers read. */
function refuse(incoming: IncomingMessage, outgoing: ServerResponse, error: GatewayError): void {
  const isMcp = mcpPath.test(incoming.url ?? '');
  const text = JSON.stringify(isMcp ? failureOf(null, error) : problemOf(error));
  outgoing.writeHead(error.httpStatus, {
    'content-type': isMcp ? 'application/json' : problemType,
    'content-length': Buffer.byteLength(text),
  });
  outgoing.end(text);
}

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
