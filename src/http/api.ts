import type { IncomingMessage, ServerResponse } from 'node:http';
import { Readable } from 'node:stream';
import { type Handler, Hono } from 'hono';
import { GatewayError } from '../base/errors.ts';
import { nearest } from '../base/nearest.ts';
import type { CatalogStatus } from '../catalog/catalog.ts';
import type { Entry } from '../catalog/snapshot.ts';
import type { Config, ServerConfig } from '../config/schema.ts';
import type { PoolStatus } from '../lifecycle/fleet.ts';
import type { Outcome } from '../lifecycle/lease.ts';
import { isObject, type Params, parseMessage } from '../protocol/jsonrpc.ts';
import { isJson, readBody } from './body.ts';
import { problemOf, problemType, retryAfter } from './problem.ts';

/** What the REST routes need of the fleet. */
export interface ApiFleet {
  /** What is true now; never waits. */
  status(server: string): PoolStatus;
  /** Reads what a server's instances use; `status` has it then. */
  measure(server: string): Promise<void>;
  /** What all spares use, as far as that is known. */
  readonly standbyBytes: number;
}

/** What the REST routes need of the catalog. */
export interface ApiCatalog {
  list(kind: 'tools', scope: string, signal?: AbortSignal): Promise<readonly Entry[]>;
  /** Waits as a list does; throws why a server cannot be known. */
  about(server: string): Promise<unknown>;
  status(server: string): CatalogStatus;
}

/** What the REST routes need of the gateway. */
export interface ApiGateway {
  callTool(server: string, tool: string, args: Params, signal: AbortSignal): Promise<Outcome>;
}

export interface ApiOptions {
  config: Config;
  fleet: ApiFleet;
  catalog: ApiCatalog;
  gateway: ApiGateway;
  /** A server's recent output, newest last. */
  logs(server: ServerConfig, options: LogOptions): AsyncIterable<string>;
  /** What keeps a server from the host, and what that lacks; for people. */
  sandboxOf?(server: ServerConfig): string | undefined;
  version: string;
  startedAtMs: number;
  now(): number;
  /** False until the port is bound, and while the gateway drains. */
  isReady(): boolean;
}

export interface LogOptions {
  /** Lines from the end. */
  tail: number;
  follow: boolean;
  signal: AbortSignal;
}

/** Node's own objects, which hono carries along. */
export interface Env {
  Bindings: { incoming: IncomingMessage; outgoing: ServerResponse };
}

const defaultTail = 100;
const maxTail = 10_000;

/** The plain HTTP routes: what runs, what it can do, its logs, and tools without an MCP client. */
export function createApi(options: ApiOptions): Hono<Env> {
  const { config, fleet, catalog, gateway, version } = options;
  const api = new Hono<Env>();
  const serverOf = (name: string) => {
    const server = config.servers.get(name);
    if (!server) throw serverUnknown(name, config.servers.keys());
    return server;
  };
  const describe = async (server: ServerConfig) => {
    // A slow engine leaves the figures of the last time; everything else is known at once.
    await Promise.race([fleet.measure(server.name).catch(() => {}), soon()]);
    return viewOf(
      server,
      options.sandboxOf?.(server),
      fleet.status(server.name),
      catalog.status(server.name),
    );
  };

  api.get('/', (c) =>
    c.json({
      name: 'mcp-gateway',
      version,
      servers: [...config.servers.keys()],
      mcp: '/mcp',
      health: '/health',
    }),
  );
  api.get('/health', (c) => {
    const servers: Record<string, number> = {};
    for (const name of config.servers.keys()) {
      const { state } = fleet.status(name);
      servers[state] = (servers[state] ?? 0) + 1;
    }
    const status = options.isReady() ? 'ok' : 'draining';
    return c.json({ status, uptime: (options.now() - options.startedAtMs) / 1000, servers });
  });
  api.get('/health/live', (c) => c.json({ status: 'ok' }));
  api.get('/health/ready', (c) =>
    options.isReady() ? c.json({ status: 'ok' }) : c.json({ status: 'draining' }, 503),
  );
  api.get('/servers', async (c) => {
    const servers = await Promise.all([...config.servers.values()].map(describe));
    return c.json({ servers, standby_memory: fleet.standbyBytes });
  });
  api.get('/servers/:server', async (c) => c.json(await describe(serverOf(c.req.param('server')))));
  api.get('/servers/:server/logs', async (c) => {
    const server = serverOf(c.req.param('server'));
    const tail = tailOf(c.req.query('tail'));
    const follow = ['1', 'true', ''].includes(c.req.query('follow') ?? 'no');
    const abort = new AbortController();
    c.env.outgoing.on('close', () => abort.abort(new GatewayError('cancelled', 'The client went away.')));
    const lines = options.logs(server, { tail, follow, signal: abort.signal });
    if (!follow && c.req.header('accept')?.includes('application/json')) {
      const all: string[] = [];
      for await (const line of lines) all.push(line);
      return c.json({ lines: all });
    }
    const iterator = lines[Symbol.asyncIterator]();
    // What is wrong shows with the first line, while the status can still say it; a follower must not wait for one.
    const first = iterator.next();
    await (follow ? Promise.race([first, soon()]) : first);
    const body = Readable.toWeb(Readable.from(linesOf(first, iterator))) as ReadableStream;
    return c.body(body, 200, { 'content-type': 'text/plain; charset=utf-8', 'x-accel-buffering': 'no' });
  });
  api.get('/:server/tools', async (c) => {
    const { name } = serverOf(c.req.param('server'));
    // Says why they cannot be known; an empty list would say that there are none.
    await catalog.about(name);
    return c.json({ tools: await catalog.list('tools', name) });
  });

  api.post('/:server/tools/:tool', async (c) => {
    const { name } = serverOf(c.req.param('server'));
    const { incoming, outgoing } = c.env;
    const args = await argumentsOf(incoming, config.gateway.maxBodyBytes);
    const abort = new AbortController();
    // Nobody could fetch the result later, so the call ends with its caller.
    outgoing.on('close', () => {
      if (!outgoing.writableFinished) abort.abort('The client went away');
    });
    const outcome = await gateway.callTool(name, c.req.param('tool'), args, abort.signal);
    if ('error' in outcome) throw rpcFailure(name, outcome.error);
    return c.body(JSON.stringify(outcome.result), 200, { 'content-type': 'application/json' });
  });
  const readOnly = [
    '/',
    '/health',
    '/health/live',
    '/health/ready',
    '/servers',
    '/servers/:server',
    '/servers/:server/logs',
    '/:server/tools',
  ];
  for (const path of readOnly) api.all(path, methodNotAllowed('GET, HEAD'));
  api.all('/:server/tools/:tool', methodNotAllowed('POST'));

  api.notFound((c) => {
    const [, first = ''] = c.req.path.split('/');
    const isServer = config.servers.has(first);
    const hint = isServer
      ? `A server has /${first}/mcp, /${first}/tools and /${first}/tools/<tool>.`
      : 'See /servers for what there is; MCP clients connect to /mcp.';
    return problem(new GatewayError('route_unknown', `There is nothing at ${c.req.path}.`, { hint }));
  });
  api.onError((error) => problem(error));
  return api;
}

/** The error for a name that is no server, with the one that was probably meant. */
export function serverUnknown(name: string, names: Iterable<string>): GatewayError {
  const near = nearest(name, names);
  return new GatewayError('server_unknown', `There is no server ${JSON.stringify(name.slice(0, 100))}.`, {
    hint: near ? `Did you mean ${near}?` : 'See /servers for the servers that there are.',
  });
}

/** An error as a response of a REST route. */
export function problem(error: unknown, headers: Record<string, string> = {}): Response {
  const body = problemOf(error);
  return new Response(JSON.stringify(body), {
    status: body.status,
    headers: { 'content-type': problemType, ...retryAfter(body), ...headers },
  });
}

const methodNotAllowed =
  (allow: string): Handler<Env> =>
  (c) =>
    problem(
      new GatewayError('method_not_allowed', `${c.req.method} is not possible on ${c.req.path}.`, {
        hint: `Use ${allow}.`,
      }),
      {
        allow,
      },
    );

function viewOf(server: ServerConfig, sandbox: string | undefined, pool: PoolStatus, status: CatalogStatus) {
  const lastError = pool.lastError ?? status.lastError;
  const retryAtMs = pool.retryAtMs ?? status.retryAtMs;
  const isFailed = pool.state === 'stopped' && (status.state === 'failed' || server.problem !== undefined);
  return {
    name: server.name,
    description: server.description,
    type: server.type,
    state: isFailed ? 'failed' : pool.state,
    endpoint: `/${server.name}/mcp`,
    isolation: server.isolation,
    interactive: server.interactive ?? status.isLearntInteractive,
    sandbox,
    instances: pool.instances.map((instance) => ({
      id: instance.id,
      state: instance.state,
      leases: instance.leases,
      started_at: new Date(instance.startedAtMs).toISOString(),
      memory: instance.memoryBytes,
      // Of one CPU, in percent.
      cpu: instance.cpuPercent === undefined ? undefined : Math.round(instance.cpuPercent * 10) / 10,
      standby: instance.isStandby || undefined,
    })),
    waiting: pool.waiting,
    catalog: status.state,
    tools: status.tools,
    prompts: status.prompts,
    resources: status.resources,
    resource_templates: status.resourceTemplates,
    warnings: status.warnings,
    retry_at: retryAtMs === undefined ? undefined : new Date(retryAtMs).toISOString(),
    last_error: lastError && {
      code: lastError.code,
      message: lastError.message,
      hint: lastError.hint,
      at: new Date(lastError.atMs).toISOString(),
    },
  };
}

function tailOf(query: string | undefined): number {
  if (query === undefined) return defaultTail;
  const tail = Number(query);
  if (Number.isInteger(tail) && tail >= 0) return Math.min(tail, maxTail);
  throw new GatewayError('invalid_params', `tail is ${JSON.stringify(query.slice(0, 40))}.`, {
    hint: 'Give the number of lines from the end.',
  });
}

async function argumentsOf(incoming: IncomingMessage, maxBytes: number): Promise<Params> {
  const body = await readBody(incoming, maxBytes);
  if (body.length === 0) return {};
  if (!isJson(incoming)) {
    throw new GatewayError('media_type_unsupported', 'The arguments are not declared as JSON.', {
      hint: 'Send Content-Type: application/json.',
    });
  }
  const args = parseMessage(body);
  if (isObject(args)) return args;
  throw new GatewayError('invalid_params', 'The body is not a JSON object.', {
    hint: 'Send the tool’s arguments as one object.',
  });
}

/** A server's own JSON-RPC error, kept whole. */
function rpcFailure(server: string, error: { code: number; message: string; data?: unknown }): GatewayError {
  const isCallers = error.code === -32602;
  return new GatewayError(isCallers ? 'invalid_params' : 'upstream_error', `${server}: ${error.message}`, {
    server,
    data: { error },
  });
}

const soon = () => new Promise<void>((resolve) => setTimeout(resolve, 200));

async function* linesOf(
  first: Promise<IteratorResult<string>>,
  iterator: AsyncIterator<string>,
): AsyncGenerator<string> {
  for (let next = await first; !next.done; next = await iterator.next()) yield `${next.value}\n`;
}
