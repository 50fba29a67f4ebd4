import { GatewayError } from '../../base/errors.ts';
import { printable } from '../../base/printable.ts';
import type { ContainerServer } from '../../config/schema.ts';
import { EngineError } from './engine.ts';
import type { ImageFacts } from './images.ts';

/** What engines and the tools in their builds say of a full disk. */
export const diskFull = /no space left on device|ENOSPC|disk quota exceeded/i;
export const diskFullHint =
  'docker system df shows what fills it; docker image prune and docker builder prune free what nobody uses.';

/** What the engine said when a container could not be prepared, created or started, as an error that names the next step. */
export function startError(server: ContainerServer, image: ImageFacts | undefined, error: unknown): unknown {
  if (!(error instanceof EngineError)) return error;
  const text = printable(error.message, 600);
  const details = (hint: string) => ({ server: server.name, hint, cause: error });
  const command = (server.entrypoint ?? server.command ?? image?.entrypoint)?.[0];
  if (diskFull.test(text)) {
    return new GatewayError(
      'disk_full',
      `Server ${server.name}: the engine’s disk is full: ${text}`,
      details(`Make room, then call again. ${diskFullHint}`),
    );
  }
  if (/OOM-killed|memory limit too low/i.test(text)) {
    return new GatewayError(
      'out_of_memory',
      `Server ${server.name}: its memory does not even suffice to start it: ${text}`,
      details(`Raise limits.memory of ${server.name} in servers.yaml.`),
    );
  }
  if (/exec format error/i.test(text)) {
    return new GatewayError(
      'image_unusable',
      `Server ${server.name}: its program is made for another architecture than this engine: ${text}`,
      details('Build or pull the image for this engine, or set `platform` if the engine emulates that one.'),
    );
  }
  if (
    /executable file not found|no such file or directory.*exec|exec:.*no such file|exec.*not found/i.test(
      text,
    )
  ) {
    const missing = /exec:? "([^"]+)"/.exec(text)?.[1] ?? command ?? 'its command';
    return new GatewayError(
      'start_failed',
      `Server ${server.name}: the image has no program ${missing}: ${text}`,
      details('Correct `command` (arguments after the image’s ENTRYPOINT) or `entrypoint` (in its place).'),
    );
  }
  if (/exec:? .*permission denied/i.test(text)) {
    return new GatewayError(
      'start_failed',
      `Server ${server.name}: its program may not be run: ${text}`,
      details('chmod +x it in the image, name its interpreter in `command`, or set `user`.'),
    );
  }
  if (/container-init binary not found/i.test(text)) {
    return new GatewayError(
      'start_failed',
      `Server ${server.name}: ${text}`,
      details('Podman needs the program catatonit for `init: true`: install it, or leave `init` out.'),
    );
  }
  if (error.status === 404 && /no such image|image not known/i.test(text)) {
    return new GatewayError(
      'image_missing',
      `Server ${server.name}: its image was removed while it started: ${text}`,
      details('The next call looks for the image again.'),
    );
  }
  if (/network .*(?:not found|ambiguous)|could not find network|unable to find network/i.test(text)) {
    return new GatewayError(
      'network_missing',
      `Server ${server.name}: ${text}`,
      details(`Look at docker network ls; the next call makes ${server.network} anew where it may.`),
    );
  }
  if (
    /bind source path|invalid mount|mount(?:ing)? .*(?:failed|denied)|error while mounting|no such volume/i.test(
      text,
    )
  ) {
    return new GatewayError(
      'volume_unusable',
      `Server ${server.name}: ${text}`,
      details(
        'Correct `volumes` in servers.yaml. On Docker Desktop the folder must be shared with its machine.',
      ),
    );
  }
  if (/unable to find user|no matching entries in passwd|invalid user/i.test(text)) {
    return new GatewayError(
      'start_failed',
      `Server ${server.name}: the image knows no such user: ${text}`,
      details('Set `user` to a number such as 1000:1000, or leave it out.'),
    );
  }
  if (/unknown (?:or invalid )?runtime|runtime name/i.test(text)) {
    return new GatewayError(
      'start_failed',
      `Server ${server.name}: the engine has no OCI runtime ${server.ociRuntime}: ${text}`,
      details('docker info lists its runtimes; correct `runtime` or leave it out.'),
    );
  }
  return new GatewayError(
    'start_failed',
    `Server ${server.name}: the engine refused to start it: ${text}`,
    details('docker info and the engine’s log say more.'),
  );
}
