import { createHash } from 'node:crypto';
import { readFile, stat } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import type Dockerode from 'dockerode';
import { messageOf, systemCodeOf } from '../../base/errors.ts';

/** Where an engine may answer. */
export interface EngineAddress {
  /** As in DOCKER_HOST: `unix:///var/run/docker.sock`, `tcp://host:2376`, `ssh://user@host`. */
  url: string;
  /** Who says so, for a person. */
  origin: string;
  /** Folder with ca.pem, cert.pem and key.pem. */
  certificates?: string;
}

export interface DiscoveryOptions {
  env: NodeJS.ProcessEnv;
  home?: string;
  uid?: number;
}

const rootfulSocket = '/var/run/docker.sock';

/** Where to look, in order: DOCKER_HOST alone when it is set, else the current docker context, then the usual sockets. */
export async function engineAddresses(options: DiscoveryOptions): Promise<EngineAddress[]> {
  const { env, home = os.homedir(), uid = process.getuid?.() ?? 0 } = options;
  const certificates = tlsWanted(env) ? (env.DOCKER_CERT_PATH ?? path.join(home, '.docker')) : undefined;
  if (env.DOCKER_HOST) return [{ url: env.DOCKER_HOST, origin: 'DOCKER_HOST', certificates }];

  const context = await currentContext(env, home);
  const runtimeDir = env.XDG_RUNTIME_DIR ?? `/run/user/${uid}`;
  const sockets = [
    rootfulSocket,
    path.join(runtimeDir, 'docker.sock'),
    path.join(home, '.docker/run/docker.sock'),
    path.join(home, '.docker/desktop/docker.sock'),
    path.join(home, '.colima/default/docker.sock'),
    path.join(home, '.config/colima/default/docker.sock'),
    path.join(runtimeDir, 'podman/podman.sock'),
    '/run/podman/podman.sock',
  ];
  const usual = sockets.map((socket) => ({ url: `unix://${socket}`, origin: 'usual socket' }));
  return context ? [context, ...usual.filter(({ url }) => url !== context.url)] : usual;
}

/** The endpoint of the docker CLI's current context, where that is not its default one. */
async function currentContext(env: NodeJS.ProcessEnv, home: string): Promise<EngineAddress | undefined> {
  const folder = env.DOCKER_CONFIG ?? path.join(home, '.docker');
  const name =
    env.DOCKER_CONTEXT ||
    (await readJson<{ currentContext?: string }>(folder, 'config.json'))?.currentContext;
  if (!name || name === 'default') return undefined;
  // The CLI names a context's folder by the digest of its name.
  const id = createHash('sha256').update(name).digest('hex');
  const meta = await readJson<{ Endpoints?: { docker?: { Host?: string } } }>(
    folder,
    'contexts/meta',
    id,
    'meta.json',
  );
  const url = meta?.Endpoints?.docker?.Host;
  if (!url) return undefined;
  const tls = path.join(folder, 'contexts/tls', id, 'docker');
  const certificates = (await stat(tls).catch(() => undefined)) ? tls : undefined;
  return { url, origin: `docker context ${name}`, certificates };
}

async function readJson<T>(...segments: string[]): Promise<T | undefined> {
  try {
    return JSON.parse(await readFile(path.join(...segments), 'utf8')) as T;
  } catch {
    return undefined;
  }
}

const tlsWanted = (env: NodeJS.ProcessEnv) => Boolean(env.DOCKER_TLS_VERIFY || env.DOCKER_CERT_PATH);

/** dockerode's options for an address. Throws Error when the address or its certificates cannot be read. */
export async function connectionOptions(address: EngineAddress): Promise<Dockerode.DockerOptions> {
  // dockerode reads DOCKER_HOST itself and lets it win over what is left out here.
  const base = { host: undefined, port: undefined, protocol: 'http', username: undefined } as const;
  if (address.url.startsWith('unix://')) {
    return { ...base, socketPath: address.url.slice('unix://'.length) || rootfulSocket };
  }
  if (address.url.startsWith('/')) return { ...base, socketPath: address.url };
  if (address.url.startsWith('npipe://')) {
    return { ...base, socketPath: address.url.slice('npipe://'.length) };
  }
  const withScheme = address.url.includes('://') ? address.url : `tcp://${address.url}`;
  const url = URL.parse(withScheme.replace(/^tcp:/, 'http:'));
  if (!url?.hostname) {
    throw new Error('expected unix:///path, tcp://host:port or ssh://user@host');
  }
  if (url.protocol === 'ssh:') {
    return {
      ...base,
      protocol: 'ssh',
      host: url.hostname,
      port: url.port || 22,
      username: url.username || os.userInfo().username,
      sshOptions: { agent: process.env.SSH_AUTH_SOCK },
    };
  }
  const tls = url.protocol === 'https:' || address.certificates !== undefined || url.port === '2376';
  const certificates: Partial<Record<'ca' | 'cert' | 'key', Buffer>> = {};
  for (const name of ['ca', 'cert', 'key'] as const) {
    if (!tls || !address.certificates) continue;
    try {
      certificates[name] = await readFile(path.join(address.certificates, `${name}.pem`));
    } catch (error) {
      if (systemCodeOf(error) !== 'ENOENT') throw new Error(messageOf(error), { cause: error });
    }
  }
  return {
    ...base,
    protocol: tls ? 'https' : 'http',
    host: url.hostname,
    port: url.port || (tls ? 2376 : 2375),
    ...certificates,
  };
}

/** Whether paths of this machine mean the same to the engine at that address. */
export function sharesOurFiles({ url }: EngineAddress): boolean {
  if (/^(unix|npipe):|^\//.test(url)) return true;
  return /^(?:\w+:\/\/)?(localhost|127\.\d+\.\d+\.\d+|\[::1\])(:|\/|$)/.test(url);
}
