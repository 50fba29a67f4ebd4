import { GatewayError } from '../../base/errors.ts';
import type { ContainerServer } from '../../config/schema.ts';
import type { ChosenUser } from './create-options.ts';
import { type Engine, EngineError, readAtMost } from './engine.ts';

const passwdBytes = 65_536;

/** Whose volumes are tried. */
export interface VolumeCheck {
  /** Created, not yet started: the engine has filled fresh volumes by then. */
  containerId: string;
  user: ChosenUser;
  volumes: { name: string; target: string }[];
  /** Whether the gateway makes the image, and so its mount points. */
  isOurs: boolean;
  signal?: AbortSignal;
}

/** Throws GatewayError `volume_unusable` for a named volume that the server's user cannot write. */
export async function checkVolumes(
  engine: Engine,
  server: ContainerServer,
  check: VolumeCheck,
): Promise<void> {
  const ids = await numericUser(engine, check);
  // Root without capabilities still owns what root owns; unknown names are left to the server's own errors.
  if (!ids) return;
  for (const { name, target } of check.volumes) {
    const found = await firstEntry(engine, check, target, 512);
    if (!found) continue;
    const { mode, uid, gid } = header(found);
    const bits = uid === ids.uid ? mode >> 6 : gid === ids.gid ? mode >> 3 : mode;
    if ((bits & 0o3) === 0o3) continue;
    const owner = `${ids.uid}:${ids.gid}`;
    throw new GatewayError(
      'volume_unusable',
      `Server ${server.name}: the volume ${name} at ${target} belongs to ${uid}:${gid} (mode ${(mode & 0o777).toString(8)}); the server runs as ${check.user.text} and cannot write it.`,
      {
        server: server.name,
        hint:
          `Give it to that user (docker run --rm -u 0 -v ${name}:/v <an image with a shell> chown -R ${owner} /v), or set user: "${uid}:${gid}"` +
          (check.isOurs
            ? '.'
            : `; in an image of your own: RUN mkdir -p ${target} && chown ${owner} ${target}.`),
      },
    );
  }
}

async function numericUser(
  engine: Engine,
  check: VolumeCheck,
): Promise<{ uid: number; gid: number } | undefined> {
  const { uid, gid, text } = check.user;
  if (uid !== undefined) return { uid, gid: gid ?? 0 };
  const name = text.split(':')[0];
  const file = await firstEntry(engine, check, '/etc/passwd', passwdBytes);
  const line = file
    ?.subarray(512)
    .toString('utf8')
    .split('\n')
    .find((entry) => entry.startsWith(`${name}:`));
  const fields = line?.split(':');
  return fields && { uid: Number(fields[2]), gid: Number(fields[3]) };
}

/** The beginning of a path's tar, its header first; undefined where the engine has no such path. */
async function firstEntry(
  engine: Engine,
  { containerId, signal }: VolumeCheck,
  path: string,
  bytes: number,
): Promise<Buffer | undefined> {
  try {
    const stream = await engine.stream((docker) => docker.getContainer(containerId).getArchive({ path }), {
      signal,
    });
    const found = await readAtMost(stream, bytes);
    return found.length >= 512 ? found : undefined;
  } catch (error) {
    if (error instanceof EngineError) return undefined;
    throw error;
  }
}

/** The owner and mode in a tar header (POSIX ustar): octal text at fixed places. */
function header(block: Buffer): { mode: number; uid: number; gid: number } {
  const octal = (start: number, length: number) =>
    Number.parseInt(
      block
        .toString('latin1', start, start + length)
        .replace(/\0.*$/, '')
        .trim() || '0',
      8,
    );
  return { mode: octal(100, 8), uid: octal(108, 8), gid: octal(116, 8) };
}
