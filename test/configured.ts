import { parseConfig } from '../src/config/load.ts';
import type {
  CommonServer,
  ContainerServer,
  DockerServer,
  ProcessServer,
  ServerConfig,
} from '../src/config/schema.ts';

/** What servers.yaml makes of an entry, under whatever name a test likes. */
function configured(name: string, entry: Record<string, unknown>): ServerConfig {
  const { servers } = parseConfig(JSON.stringify({ servers: { any: entry } }), {
    file: '/srv/servers.yaml',
    shownFile: 'servers.yaml',
    environment: {},
    homeDir: '/root',
    mode: 'start',
    overrides: {},
  });
  return { ...servers.get('any')!, name };
}

/** A server of type process with every default. */
export function processServer(name: string): ProcessServer {
  return configured(name, { type: 'process', command: ['node', 'server.js'] }) as ProcessServer;
}

/** What every server has, with its defaults. */
export function commonServer(name: string, env: Record<string, string> = {}): CommonServer {
  const { type: _, command: __, workingDir: ___, ...common } = processServer(name);
  return { ...common, env };
}

/** What every server that runs in a container has, with its defaults. */
export function containerServer(name: string): ContainerServer {
  const { type: _, image: __, build: ___, ...container } = configured(name, { image: 'any' }) as DockerServer;
  return container;
}
