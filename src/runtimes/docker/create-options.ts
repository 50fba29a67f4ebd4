import { createHash } from 'node:crypto';
import type Dockerode from 'dockerode';
import type { ContainerServer, GatewayConfig } from '../../config/schema.ts';
import type { EngineFacts } from './engine.ts';
import type { Mount } from './mounts.ts';

/** Marks what a gateway made, on containers, networks, volumes and images. */
export const labels = {
  managed: 'mcp-gateway.managed',
  server: 'mcp-gateway.server',
  gateway: 'mcp-gateway.gateway',
  /** Digest of what a container was created with, values of variables left out. */
  config: 'mcp-gateway.config',
  /** On a container that keeps the network of a server: the server's name. */
  sandbox: 'mcp-gateway.sandbox',
  /** Digest of the sources that an image was built from. */
  sources: 'mcp-gateway.sources',
} as const;

/** The network of servers that name none. */
export const defaultNetwork = 'mcp-network';
const noUser = '65534:65534';
const caTarget = '/etc/mcp-gateway/ca-certificates.pem';

/** Who a server runs as. */
export interface ChosenUser {
  /** As the engine takes it; undefined: the image's own. */
  spec: string | undefined;
  /** For people, and for `chown` in images. */
  text: string;
  /** Known when it is written as a number. */
  uid?: number;
  gid?: number;
}

/** Resolves `user`: for `auto` the owner of a writable bind mount, else the image's user, else 65534 (0 on rootless engines). */
export function chooseUser(
  user: string,
  imageUser: string,
  writableOwner: { uid: number; gid: number } | undefined,
  { rootless, ownUid }: { rootless: boolean; ownUid: number },
): ChosenUser {
  if (user !== 'auto') return numbered(user);
  if (writableOwner) {
    // A rootless engine shows its own user's files as root's inside.
    if (rootless) return numbered(writableOwner.uid === ownUid ? '0:0' : noUser);
    return numbered(`${writableOwner.uid}:${writableOwner.gid}`);
  }
  if (imageUser !== '' && !/^(?:root|0)(?::|$)/.test(imageUser))
    return { ...numbered(imageUser), spec: undefined };
  return numbered(rootless ? '0:0' : noUser);
}

function numbered(spec: string): ChosenUser {
  const match = /^(\d+)(?::(\d+))?$/.exec(spec);
  if (!match) return { spec, text: spec };
  const uid = Number(match[1]);
  return { spec, text: spec, uid, gid: Number(match[2] ?? 0) };
}

/** Everything that decides how a container is made. */
export interface CreateInput {
  server: ContainerServer;
  gateway: Pick<GatewayConfig, 'proxy' | 'caCertificates'>;
  gatewayId: string;
  facts: EngineFacts;
  imageId: string;
  user: ChosenUser;
  mounts: Mount[];
  /** Where the engine finds `gateway.ca_certificates`. */
  caSource: string | undefined;
  /** The gateway's own TZ. */
  timeZone: string | undefined;
  /** The container whose network it joins instead of one of its own. */
  sandboxId: string | undefined;
}

/** What a server's container is created with: locked, unless its entry loosens it by name. */
export function createOptions(input: CreateInput): Dockerode.ContainerCreateOptions {
  const { server, facts, user } = input;
  const podman = facts.product === 'Podman';
  const { memoryBytes, cpus, pids } = server.limits;
  const mounts: Mount[] = [...input.mounts];
  if (input.caSource) mounts.push({ Type: 'bind', Source: input.caSource, Target: caTarget, ReadOnly: true });
  const hostConfig: Dockerode.HostConfig = {
    AutoRemove: true,
    CapDrop: ['ALL'],
    CapAdd: server.capAdd.length > 0 ? server.capAdd : undefined,
    SecurityOpt: ['no-new-privileges'],
    ReadonlyRootfs: server.readOnly,
    Tmpfs: tmpfs(server, user, podman),
    Mounts: mounts as Dockerode.MountSettings[],
    NetworkMode: server.network,
    ...(facts.can.memory && { Memory: memoryBytes }),
    // Equal to memory: no swap on top.
    ...(facts.can.memory && facts.can.swap && { MemorySwap: memoryBytes }),
    ...(facts.can.cpus && { NanoCpus: Math.round(cpus * 1e9) }),
    ...(facts.can.pids && { PidsLimit: pids }),
    LogConfig: logConfig(server, podman),
    RestartPolicy: { Name: 'no' },
    Init: server.init || undefined,
    ShmSize: server.shmSizeBytes,
    ExtraHosts: server.extraHosts.length > 0 ? server.extraHosts : undefined,
    Dns: server.dns.length > 0 ? server.dns : undefined,
    Runtime: server.ociRuntime,
  };
  const options: Dockerode.ContainerCreateOptions = {
    Image: input.imageId,
    Cmd: server.command,
    Entrypoint: server.entrypoint,
    WorkingDir: server.workingDir,
    User: user.spec,
    Env: environment(input, input.caSource !== undefined),
    OpenStdin: true,
    StdinOnce: true,
    AttachStdin: true,
    AttachStdout: true,
    AttachStderr: true,
    Tty: false,
    // A health check would start a process inside every few seconds and tells us nothing that the handshake does not.
    Healthcheck: { Test: ['NONE'] },
    HostConfig: hostConfig,
  };
  options.Labels = {
    [labels.managed]: 'true',
    [labels.server]: server.name,
    [labels.gateway]: input.gatewayId,
    [labels.config]: digestOf(options),
  };
  // Names are looked up as that container does: engines refuse them here.
  if (input.sandboxId) {
    options.HostConfig = {
      ...hostConfig,
      NetworkMode: `container:${input.sandboxId}`,
      ExtraHosts: undefined,
      Dns: undefined,
    };
  }
  return options;
}

function tmpfs(server: ContainerServer, user: ChosenUser, podman: boolean): Record<string, string> {
  const mounts: Record<string, string> = {};
  const half = Math.floor(server.limits.memoryBytes / 2);
  if (server.readOnly) {
    // The engine gives a tmpfs the mode of the image's own /tmp whatever is asked, so that an image with a closed /tmp
    // needs the owner set; Podman refuses the owner, and takes the mode.
    const owner = !podman && user.uid !== undefined ? `,uid=${user.uid},gid=${user.gid}` : '';
    // A full /tmp is an error for the server; without a size it would be killed for memory.
    mounts['/tmp'] = `rw,nosuid,nodev,noexec,mode=1777,size=${half}${owner}`;
    // Podman adds these two, writable, to every read-only root.
    if (podman) Object.assign(mounts, { '/run': 'ro', '/var/tmp': 'ro' });
  }
  for (const entry of server.tmpfs) {
    const [target, ...rest] = entry.split(':');
    const given = rest.join(':');
    const owner = !podman && user.uid !== undefined ? `uid=${user.uid},gid=${user.gid},` : '';
    mounts[target!] = given || `rw,nosuid,nodev,${owner}mode=1777,size=${half}`;
  }
  for (const { target } of server.volumes) delete mounts[target];
  return mounts;
}

function logConfig(server: ContainerServer, podman: boolean): Dockerode.HostConfig['LogConfig'] {
  if (server.logs === 'off') return { Type: 'none', Config: {} };
  // Podman knows no `local`, and its json-file takes no number of files.
  if (podman) return { Type: 'json-file', Config: { 'max-size': '30m' } };
  return { Type: 'local', Config: { 'max-size': '10m', 'max-file': '3' } };
}

function environment(input: CreateInput, hasCa: boolean): string[] {
  const { server, gateway, timeZone } = input;
  const variables: Record<string, string> = {};
  if (server.readOnly) variables.HOME = '/tmp';
  if (timeZone) variables.TZ = timeZone;
  if (gateway.proxy) Object.assign(variables, proxyVariables(gateway.proxy));
  if (hasCa) {
    for (const name of ['NODE_EXTRA_CA_CERTS', 'SSL_CERT_FILE', 'REQUESTS_CA_BUNDLE', 'CURL_CA_BUNDLE']) {
      variables[name] = caTarget;
    }
  }
  Object.assign(variables, server.env);
  return Object.entries(variables).map(([name, value]) => `${name}=${value}`);
}

/** How programs of all kinds are told of an HTTP proxy. */
export function proxyVariables(proxy: string): Record<string, string> {
  const variables: Record<string, string> = { NODE_USE_ENV_PROXY: '1' };
  for (const name of ['HTTP_PROXY', 'HTTPS_PROXY']) {
    variables[name] = proxy;
    variables[name.toLowerCase()] = proxy;
  }
  for (const name of ['NO_PROXY', 'no_proxy']) variables[name] = 'localhost,127.0.0.1,::1';
  return variables;
}

function digestOf(options: Dockerode.ContainerCreateOptions): string {
  const names = options.Env?.map((entry) => entry.split('=', 1)[0]);
  return createHash('sha256')
    .update(JSON.stringify({ ...options, Env: names }))
    .digest('hex')
    .slice(0, 16);
}
