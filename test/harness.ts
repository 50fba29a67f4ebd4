import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { type App, createApp } from '../src/app.ts';
import { loadConfig } from '../src/config/load.ts';
import { Events } from '../src/observability/events.ts';
import { createLogger } from '../src/observability/logger.ts';

/** Where the fixture programs are, with a slash at the end. */
export const fixtures = fileURLToPath(new URL('fixtures/servers/', import.meta.url));

/** A server of the configuration, as it would be written: a fixture program run as a process. */
export interface FixtureServer {
  /** The program, without `.mjs`; the server's name unless given. */
  fixture?: string;
  [setting: string]: unknown;
}

/** A whole gateway in this process, in front of fixture servers that run as processes. */
export interface TestGateway extends AsyncDisposable {
  readonly app: App;
  readonly origin: string;
  readonly folder: string;
  url(endpoint: string): URL;
  /** Stops it; its folder stays, for `startGateway({ folder })`. */
  stop(): Promise<void>;
  /** Resolves when every server's lists are known or could not be read. */
  settled(): Promise<void>;
}

/** What to run, as servers.yaml would say it. */
export interface TestGatewayOptions {
  servers: Record<string, FixtureServer>;
  gateway?: Record<string, unknown>;
  /** Of an earlier gateway: its state is taken up. */
  folder?: string;
  /** To hear what happens. */
  events?: Events;
}

/** Starts the real composition on a free port. */
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

  const app = await createApp(config, {
    events: options.events ?? new Events(),
    logger: createLogger('error'),
    version: '0.0.0-test',
    allowUnauthenticated: false,
    fallback: false,
  });
  await app.start();
  const stop = async () => {
    await app[Symbol.asyncDispose]();
  };
  return {
    app,
    origin: app.origin,
    folder,
    url: (endpoint) => new URL(endpoint, app.origin),
    stop,
    async settled() {
      await app.discovered();
    },
    async [Symbol.asyncDispose]() {
      await stop();
      await rm(folder, { recursive: true, force: true });
    },
  };
}
