import { readFile, realpath, stat } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { GatewayError, systemCodeOf } from '../../base/errors.ts';
import type { ContainerServer } from '../../config/schema.ts';
import { type Engine, EngineError } from './engine.ts';

/** A mount as `HostConfig.Mounts` takes it. */
export interface Mount {
  Type: 'bind' | 'volume';
  Source: string;
  Target: string;
  ReadOnly: boolean;
  VolumeOptions?: { Labels: Record<string, string> };
}

/** A server's mounts, checked, and what their owner says about the user to run as. */
export interface MountPlan {
  mounts: Mount[];
  /** Owner of the first bind mount that the server may write. */
  writableOwner?: { uid: number; gid: number };
  /** Named volumes that the server may write, by the path they are seen at. */
  volumes: { name: string; target: string }[];
}

/** What mounts are judged by. */
export interface MountRules {
  engine: Engine;
  /** The gateway's own mounts, where it runs in a container of this engine. */
  own: OwnContainer | undefined;
  allowUnsafe: boolean;
  /** Labels of the volumes that come into being. */
  labels: Record<string, string>;
}

/** Checks a server's volumes and translates their paths for the engine. Throws GatewayError `volume_unusable`. */
export async function planMounts(server: ContainerServer, rules: MountRules): Promise<MountPlan> {
  const plan: MountPlan = { mounts: [], volumes: [] };
  for (const { kind, source, target, readOnly } of server.volumes) {
    if (kind === 'volume') {
      plan.mounts.push({
        Type: 'volume',
        Source: source,
        Target: target,
        ReadOnly: readOnly,
        VolumeOptions: { Labels: rules.labels },
      });
      if (!readOnly) plan.volumes.push({ name: source, target });
      continue;
    }
    if (!rules.allowUnsafe) await refuseSocket(server, source, rules.engine);
    const mount = await bind(server, source, rules);
    plan.mounts.push({ Type: 'bind', Source: mount.source, Target: target, ReadOnly: readOnly });
    if (!readOnly) plan.writableOwner ??= mount.owner;
  }
  return plan;
}

/** Where a bind mount is for the engine, and whose it is. */
export async function bind(
  server: { name: string },
  source: string,
  { engine, own }: Pick<MountRules, 'engine' | 'own'>,
): Promise<{ source: string; owner?: { uid: number; gid: number } }> {
  // Another machine's files cannot be looked at from here.
  if (!engine.isLocal) return { source };
  // First, because a path that no mount covers does not exist in here either.
  const onHost = own ? own.toHost(server.name, source) : source;
  const found = await stat(source).catch((error: unknown) => {
    const reason =
      systemCodeOf(error) === 'ENOENT' ? 'does not exist' : `cannot be read (${systemCodeOf(error)})`;
    throw new GatewayError(
      'volume_unusable',
      `Server ${server.name}: the bind mount's source ${source} ${reason}.`,
      {
        server: server.name,
        hint: `Create it (mkdir -p ${source}), or correct \`volumes\` in servers.yaml; a bare name without a slash is a named volume.`,
        cause: error,
      },
    );
  });
  return {
    source: onHost,
    owner: { uid: found.uid, gid: found.gid },
  };
}

/** Whoever holds the engine's socket is root on its host. */
async function refuseSocket(server: { name: string }, source: string, engine: Engine): Promise<void> {
  const sockets = ['/var/run/docker.sock', '/run/podman/podman.sock'];
  if (engine.address.url.startsWith('unix://')) sockets.push(engine.address.url.slice('unix://'.length));
  const real = await realpath(source).catch(() => source);
  for (const socket of sockets) {
    const realSocket = await realpath(socket).catch(() => socket);
    for (const candidate of [socket, realSocket]) {
      const inside = path.relative(real, candidate);
      if (inside.startsWith('..')) continue;
      throw new GatewayError(
        'volume_unusable',
        `Server ${server.name}: the bind mount ${source} would hand it the engine's socket ${socket}, and with it the host.`,
        {
          server: server.name,
          hint: 'Mount a folder that does not hold the socket; gateway.allow_unsafe: true permits it all the same.',
        },
      );
    }
  }
}

/** The container that the gateway itself runs in. */
export class OwnContainer {
  readonly id: string;
  readonly #mounts: { destination: string; source: string }[];

  constructor(id: string, mounts: { Destination: string; Source: string }[]) {
    this.id = id;
    this.#mounts = mounts
      .map(({ Destination, Source }) => ({ destination: Destination, source: Source }))
      .sort((a, b) => b.destination.length - a.destination.length);
  }

  /** The host's path of one of ours. Throws GatewayError `volume_unusable` where no mount covers it. */
  toHost(server: string, source: string): string {
    for (const mount of this.#mounts) {
      const inside = path.relative(mount.destination, source);
      if (inside.startsWith('..') || path.isAbsolute(inside)) continue;
      return inside === '' ? mount.source : path.join(mount.source, inside);
    }
    throw new GatewayError(
      'volume_unusable',
      `Server ${server}: the gateway runs in a container itself, and no mount of that container covers ${source}.`,
      {
        server,
        hint: `Add a mount to the gateway's service in docker-compose.yml, for example \`- ${source}:${source}\`, and start it anew.`,
      },
    );
  }
}

/** What tells whether the gateway itself runs in a container; the system’s own files unless given. */
export interface OwnContainerClues {
  /** Present inside containers: Docker's and Podman's marks. */
  marks?: string[];
  mountinfo?: string;
  hostname?: string;
}

/** The container that the gateway runs in, if it does and this engine knows it. */
export async function findOwnContainer(
  engine: Engine,
  clues: OwnContainerClues = {},
): Promise<OwnContainer | undefined> {
  const { marks = ['/.dockerenv', '/run/.containerenv'], mountinfo = '/proc/self/mountinfo' } = clues;
  const present = await Promise.all(marks.map((mark) => stat(mark).catch(() => undefined)));
  if (!present.some(Boolean)) return undefined;
  for (const id of [
    idFromMounts(await readFile(mountinfo, 'utf8').catch(() => '')),
    clues.hostname ?? os.hostname(),
  ]) {
    if (!id) continue;
    try {
      const found = await engine.call((docker, abortSignal) =>
        docker.getContainer(id).inspect({ abortSignal }),
      );
      return new OwnContainer(found.Id, found.Mounts as { Destination: string; Source: string }[]);
    } catch (error) {
      // Another engine's container, or one whose host name was set.
      if (!(error instanceof EngineError)) throw error;
    }
  }
  return undefined;
}

/** The engine binds /etc/hostname and the like from a folder that is named for the container. */
function idFromMounts(mountinfo: string): string | undefined {
  return /\/(?:containers|overlay-containers)\/([0-9a-f]{64})\/\S*(?:hostname|hosts|resolv\.conf)\b/.exec(
    mountinfo,
  )?.[1];
}
