import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { Sessions } from '../src/access/sessions.ts';
import { FileStore } from '../src/base/file-store.ts';
import { openStateDir } from '../src/base/state-dir.ts';
import { Catalog } from '../src/catalog/catalog.ts';
import { loadConfig } from '../src/config/load.ts';
import type { Config } from '../src/config/schema.ts';
import { Gateway } from '../src/gateway/gateway.ts';
import { HttpServer } from '../src/http/server.ts';
import { Discovery } from '../src/lifecycle/discovery.ts';
import { Fleet } from '../src/lifecycle/fleet.ts';
import { Events } from '../src/observability/events.ts';
import { ProcessRuntime } from '../src/runtimes/process.ts';

export const fixtures = fileURLToPath(new URL('fixtures/servers/', import.meta.url));

/** A server of the configuration, as it would be written: a fixture program run as a process. */
export interface FixtureServer {
  /** The program, without `.mjs`; the server's name unless given. */
  fixture?: string;
  [setting: string]: unknown;
}

/** A whole gateway in this process, made of the real parts, in front of fixture servers that run as processes. */
export interface TestGateway extends AsyncDisposable {
  readonly origin: string;
  readonly config: Config;
  readonly fleet: Fleet;
  readonly catalog: Catalog;
  readonly sessions: Sessions;
  readonly gateway: Gateway;
  readonly http: HttpServer;
  readonly events: Events;
  readonly folder: string;
  url(endpoint: string): URL;
  /** Stops it; its folder stays, for `startGateway({ folder })`. */
  stop(): Promise<void>;
  /** Resolves when every server's lists are known or could not be read. */
  settled(): Promise<void>;
}

export interface TestGatewayOptions {
  servers: Record<string, FixtureServer>;
  gateway?: Record<string, unknown>;
  /** Of an earlier gateway: its state is taken up. */
  folder?: string;
}

export async function startGateway(options: TestGatewayOptions): Promise<TestGateway> {
  const folder = options.folder ?? (await mkdtemp(path.join(tmpdir(), 'gateway test-')));
  await mkdir(folder, { recursive: true });
  const servers = Object.fromEntries(
    Object.entries(options.servers).map(([name, { fixture = name, ...settings }]) => [
      name,
      { type: 'process', command: [process.execPath, `${fixtures}${fixture}.mjs`], ...settings },
    ]),
  );
  const file = path.join(folder, 'servers.yaml');
  // JSON is YAML.
  await writeFile(file, JSON.stringify({ gateway: { port: 0, ...options.gateway }, servers }));
  const config = await loadConfig({ file, mode: 'start', env: {}, cwd: folder, homeDir: folder });

  const state = await openStateDir(config.gateway.stateDir);
  const store = new FileStore(state.path('store'));
  const events = new Events();
  const runtime = new ProcessRuntime({ gateway: config.gateway, stateDir: state.directory });
  await runtime.sweep();
  const fleet = new Fleet({ config, runtimeFor: () => runtime, events, version: '0.0.0-test', store });
  const discovery = new Discovery({ fleet });
  const catalog = new Catalog({ config, source: discovery, store, events });
  const sessions = new Sessions({ store, key: state.key, gateway: config.gateway });
  const gateway = new Gateway({
    config,
    catalog,
    fleet,
    sessions,
    readSnapshot: (server, affinity) =>
      discovery.read(server, new AbortController().signal, { affinity, wake: false }),
    events,
    version: '0.0.0-test',
  });
  fleet.listen(gateway);
  const http = new HttpServer({
    config,
    gateway,
    sessions,
    fleet,
    catalog,
    logs: (server, { tail, follow, signal }) => runtime.logs(server, { tail, follow, signal }),
    version: '0.0.0-test',
  });
  await catalog.start();
  for (const name of config.servers.keys()) {
    if (catalog.isLearntInteractive(name)) fleet.markInteractive(name);
  }
  const { origin } = await http.listen();
  let isStopped = false;
  const stop = async () => {
    if (isStopped) return;
    isStopped = true;
    await http.close();
    gateway.close();
    await catalog.close();
    await fleet.drain(0);
    await sessions.close();
    await runtime.close();
    await state.release();
  };
  return {
    origin,
    config,
    fleet,
    catalog,
    sessions,
    gateway,
    http,
    events,
    folder,
    url: (endpoint) => new URL(endpoint, origin),
    stop,
    settled: async () => {
      for (const name of config.servers.keys()) await catalog.about(name).catch(() => {});
    },
    [Symbol.asyncDispose]: async () => {
      await stop();
      await rm(folder, { recursive: true, force: true });
    },
  };
}
