import { Sessions } from './access/sessions.ts';
import { type Clock, systemClock } from './base/async.ts';
import { GatewayError, messageOf } from './base/errors.ts';
import { FileStore } from './base/file-store.ts';
import { openStateDir } from './base/state-dir.ts';
import { Catalog } from './catalog/catalog.ts';
import type { Config, GatewayConfig, ServerConfig } from './config/schema.ts';
import { Gateway } from './gateway/gateway.ts';
import { HttpServer } from './http/server.ts';
import { Discovery } from './lifecycle/discovery.ts';
import { Fleet } from './lifecycle/fleet.ts';
import type { Events } from './observability/events.ts';
import type { Logger } from './observability/logger.ts';
import { DockerRuntime } from './runtimes/docker/docker-runtime.ts';
import { FallbackRuntime } from './runtimes/fallback.ts';
import { ProcessRuntime } from './runtimes/process.ts';
import type { Runtime, RuntimeDescription } from './runtimes/runtime.ts';
import { NpmVersions } from './runtimes/templates/npm.ts';

/** What a gateway is built with beside its configuration. */
export interface AppOptions {
  events: Events;
  logger: Logger;
  version: string;
  /** Permits an address beyond loopback although nothing checks who calls. */
  allowUnauthenticated: boolean;
  /** Runs servers that declare `fallback: process` without a container when no engine answers now. */
  fallback: boolean;
  clock?: Clock;
}

/** A whole gateway. */
export interface App extends AsyncDisposable {
  /** `http://127.0.0.1:8000`, once started. */
  readonly origin: string;
  readonly gatewayId: string;
  /** Its servers' instances. */
  readonly fleet: Fleet;
  /** Binds the port, removes what an earlier run left, and has unknown servers discovered in the background. */
  start(): Promise<void>;
  /** Resolves when every enabled server is known or has failed; undefined when the gateway ends before that. */
  discovered(): Promise<{ servers: number; tools: number; failed: string[] } | undefined>;
  /** For how long no client has been connected and nothing been asked for, but for its health. */
  unusedMs(): number;
  /** What a person should know of how servers run here, one sentence each. */
  notes(): string[];
  /** Finishes what runs within `gateway.drain_timeout`, then ends. */
  drain(): Promise<void>;
  /** Ends now. */
  kill(): Promise<void>;
}

/** Builds a gateway in a locked state folder. Throws `state_locked`, `unauthenticated_bind`. */
export async function createApp(config: Config, options: AppOptions): Promise<App> {
  if (!isLoopback(config.gateway.host) && !options.allowUnauthenticated) throw openToAll(config.gateway.host);
  const { events, logger, version, clock = systemClock } = options;

  const state = await openStateDir(config.gateway.stateDir);
  const { docker, processes, fallback } = createRuntimes(config.gateway, {
    gatewayId: state.id,
    stateDir: state.directory,
    events,
    clock,
  });
  const runtimes = [docker, fallback];
  let engine: RuntimeDescription | undefined;

  // The choice is made once, at start: an engine that goes away later never takes a server's sandbox with it.
  const fallsBack = (server: ServerConfig) =>
    engine?.reachable === false && 'fallback' in server && server.fallback === 'process';
  const runtimeFor = (server: ServerConfig): Runtime => {
    if (server.type === 'process') return processes;
    return fallsBack(server) ? fallback : docker;
  };
  const sandboxOf = (server: ServerConfig): string =>
    runtimeFor(server).kind === 'docker' ? 'container' : 'none';

  const store = new FileStore(state.path('store'), clock);
  const fleet = new Fleet({ config, runtimeFor, events, version, clock, store });
  const discovery = new Discovery({ fleet, clock });
  const catalog = new Catalog({ config, source: discovery, store, events, clock });
  let toldAtMs = Number.NEGATIVE_INFINITY;
  const sessions = new Sessions({
    store,
    key: state.key,
    gateway: config.gateway,
    clock,
    onStoreError: (error) => {
      // Once a minute says it; each session would say it again.
      if (clock.now() - toldAtMs < 60_000) return;
      toldAtMs = clock.now();
      logger.error('sessions could not be kept', { reason: messageOf(error) });
    },
  });
  const closing = new AbortController();
  const gateway = new Gateway({
    config,
    catalog,
    fleet,
    sessions,
    readSnapshot: (server, affinity) => discovery.read(server, closing.signal, { affinity, wake: false }),
    events,
    key: state.key,
    version,
    clock,
  });
  fleet.listen(gateway);
  const http = new HttpServer({
    config,
    gateway,
    sessions,
    fleet,
    catalog,
    sandboxOf,
    logs: (server, logOptions) => runtimeFor(server).logs(server, logOptions),
    events,
    version,
    clock,
  });

  let closed: Promise<void> | undefined;
  /** Finishes every step, also when one throws: what is not released here outlives the process. */
  const close = (endFleet: () => Promise<void>) => {
    closed ??= (async () => {
      const steps = [
        endFleet,
        () => http.close(),
        () => gateway.close(),
        () => closing.abort(new GatewayError('draining', 'The gateway is shutting down')),
        () => catalog.close(),
        () => sessions.close(),
        ...runtimes.map((runtime) => () => runtime.close()),
        () => state.release(),
      ];
      for (const step of steps) {
        try {
          await step();
        } catch (error) {
          logger.error('a step of the shutdown failed', { reason: messageOf(error) });
        }
      }
    })();
    return closed;
  };
  const enabled = [...config.servers.values()].filter((server) => server.enabled);
  /** When a server's lists are known or could not be read, however long its image takes to build. */
  const settled = (server: string) =>
    new Promise<void>((resolve) => {
      const isSettled = () => ['known', 'failed'].includes(catalog.status(server).state);
      const check = () => {
        if (!isSettled() && !closing.signal.aborted) return;
        for (const stop of listening) stop();
        resolve();
      };
      const listening = [
        events.on('discovery.finished', check),
        events.on('discovery.failed', check),
        () => closing.signal.removeEventListener('abort', check),
      ];
      closing.signal.addEventListener('abort', check);
      check();
    });
  let origin = '';

  return {
    get origin() {
      return origin;
    },
    gatewayId: state.id,
    fleet,
    async start() {
      if (options.fallback) engine = await docker.describe();
      ({ origin } = await http.listen());
      for (const runtime of runtimes) void sweep(runtime, logger);
      await catalog.start();
      // What was learnt in an earlier run holds from the first call on.
      for (const { name } of enabled) {
        if (catalog.isLearntInteractive(name)) fleet.markInteractive(name);
        const kept = catalog.keptEra(name);
        if (kept) fleet.rememberEra(name, kept.era, kept.digest);
      }
      fleet.start();
    },
    async discovered() {
      await Promise.all(enabled.map(({ name }) => settled(name)));
      if (closing.signal.aborted) return undefined;
      const statuses = enabled.map(({ name }) => ({ name, ...catalog.status(name) }));
      return {
        servers: statuses.filter(({ state }) => state === 'known').length,
        tools: statuses.reduce((sum, { tools }) => sum + tools, 0),
        failed: statuses.filter(({ state }) => state === 'failed').map(({ name }) => name),
      };
    },
    unusedMs: () => http.unusedMs(),
    notes: () => notesOf(enabled, engine, fallsBack),
    async drain() {
      const { drainTimeoutMs } = config.gateway;
      await close(async () => {
        // Nobody waits for what is only being discovered.
        await catalog.close();
        // New calls are refused from now on; those under way get their answers before connections close.
        await Promise.all([fleet.drain(drainTimeoutMs), http.drain(AbortSignal.timeout(drainTimeoutMs))]);
      });
    },
    async kill() {
      await fleet.kill();
      await close(() => Promise.resolve());
    },
    [Symbol.asyncDispose]: () => close(() => fleet.drain(0)),
  };
}

/** What can start servers on this machine. */
export function createRuntimes(
  gateway: GatewayConfig,
  options: { gatewayId: string; stateDir: string; events: Events; clock?: Clock },
): { docker: DockerRuntime; processes: ProcessRuntime; fallback: FallbackRuntime } {
  const { stateDir, clock } = options;
  const docker = new DockerRuntime({ gateway, ...options });
  const processes = new ProcessRuntime({ gateway, stateDir, clock });
  const versions = new NpmVersions({ stateDir, env: process.env });
  return { docker, processes, fallback: new FallbackRuntime({ processes, versions, stateDir, clock }) };
}

async function sweep(runtime: Runtime, logger: Logger): Promise<void> {
  try {
    const { removed } = await runtime.sweep();
    for (const instance of removed) logger.info('removed what an earlier run left', { instance });
  } catch (error) {
    // No engine: the runtime sweeps by itself when it is back.
    logger.debug('nothing swept', { runtime: runtime.kind, reason: messageOf(error) });
  }
}

function notesOf(
  servers: ServerConfig[],
  engine: RuntimeDescription | undefined,
  fallsBack: (server: ServerConfig) => boolean,
): string[] {
  const plain = servers.filter((server) => server.type === 'process' || fallsBack(server));
  const stranded = servers.filter(
    (server) => engine?.reachable === false && server.type !== 'process' && !fallsBack(server),
  );
  const names = (some: ServerConfig[]) => some.map(({ name }) => name).join(', ');
  return [
    ...(engine?.reachable === false ? [`${engine.text} ${engine.hint ?? ''}`.trim()] : []),
    ...(plain.length > 0 ? [`Without a sandbox, as plain processes: ${names(plain)}`] : []),
    ...(stranded.length > 0 ? [`Waiting for an engine: ${names(stranded)}`] : []),
  ];
}

const isLoopback = (host: string) => host === 'localhost' || host === '::1' || /^127\./.test(host);

const openToAll = (host: string) =>
  new GatewayError(
    'unauthenticated_bind',
    `gateway.host ${host} is not loopback, and nothing checks who calls.`,
    {
      hint: 'Bind 127.0.0.1, or pass --allow-unauthenticated if only trusted machines reach this port.',
    },
  );
