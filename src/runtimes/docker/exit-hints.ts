import path from 'node:path';
import type { ContainerServer } from '../../config/schema.ts';

export interface ExitClues {
  code?: number;
  outOfMemory?: boolean;
  stderr: string[];
  /** How long it ran. */
  aliveMs: number;
  /** The image's own ENTRYPOINT. */
  imageEntrypoint: string[];
  /** As whom it ran, for a person. */
  user: string;
}

/** V8 gives up by itself when the heap that it took from the container's memory is full. */
export const heapExhausted = /JavaScript heap out of memory/;
const programs = /^(?:.*\/)?(?:node|npx|npm|python[\d.]*|uvx?|deno|bun|java|sh|bash)$/;
/** Entry points that run their arguments as a command. */
const passingOn = /(?:docker-entrypoint|entrypoint\.sh|tini|dumb-init|docker-init|\benv$|\bexec\b)/;
const soonMs = 5_000;

/** What stderr and the exit code tell an experienced reader, as a next step; undefined where they tell nothing. */
export function exitHint(server: ContainerServer, clues: ExitClues): string | undefined {
  const { code, stderr, imageEntrypoint } = clues;
  const text = stderr.join('\n');
  if (clues.outOfMemory) {
    return `Raise limits.memory (now ${mebibytes(server.limits.memoryBytes)}) of server ${server.name}.`;
  }
  const readOnly = /EROFS|read-only file system/i.exec(text);
  if (readOnly) {
    const file = pathNear(text, readOnly.index);
    const folder = file ? path.posix.dirname(file) : undefined;
    return (
      `It writes ${file ?? 'a file'} on its read-only root: give it a volume or a tmpfs there ` +
      `(tmpfs: [${folder && folder !== '/' ? folder : '/data'}]), point it at /tmp, or set read_only: false.`
    );
  }
  const denied = /EACCES|permission denied/i.exec(text);
  if (denied) {
    const file = pathNear(text, denied.index);
    const volume =
      file && server.volumes.find(({ target }) => file === target || file.startsWith(`${target}/`));
    if (volume) {
      return `User ${clues.user} may not use ${file}: give ${volume.source} to that user (chown), or set user: to its owner's uid:gid.`;
    }
    return (
      `User ${clues.user} may not use ${file ?? 'a file'}: make it readable in the image, point the server at /tmp, ` +
      'or set user: to one who may.'
    );
  }
  if (/exec format error/i.test(text)) {
    return 'Its program is made for another architecture than this engine: build or pull the image for this one (platform:).';
  }
  const isSoon = clues.aliveMs < soonMs;
  if ((code !== 0 || isSoon) && swallows(server, imageEntrypoint)) {
    return (
      `The image's ENTRYPOINT ${JSON.stringify(imageEntrypoint)} took \`command\` as its arguments: ` +
      'leave the program out of `command`, or put all of it into `entrypoint`.'
    );
  }
  const missing = /Cannot find (?:module|package) '([^']+)'|No module named '?([\w.]+)/.exec(text);
  if (missing) {
    return `The image has no ${missing[1] ?? missing[2]}: check \`command\`, or build the image anew with that dependency.`;
  }
  if (code === 127) return 'Its command was not found in the image: check `command` and `entrypoint`.';
  if (code === 126)
    return 'Its command is not executable: chmod +x it in the image, or name its interpreter in `command`.';
  if (code === 0 && isSoon) {
    return 'It ended by itself without an error; a server over stdio stays until its stdin closes. Check `command`: some need an argument such as `stdio`.';
  }
  return undefined;
}

/** Whether `command` names a program that the image's ENTRYPOINT takes for an argument. */
function swallows(server: ContainerServer, imageEntrypoint: string[]): boolean {
  const first = server.command?.[0];
  if (!first || server.entrypoint || imageEntrypoint.length === 0) return false;
  return programs.test(first) && !imageEntrypoint.some((word) => passingOn.test(word));
}

/** The first absolute path after a position, or the last one before it in the same line. */
function pathNear(text: string, index: number): string | undefined {
  const lineStart = text.lastIndexOf('\n', index) + 1;
  const lineEnd = text.indexOf('\n', index);
  const line = text.slice(lineStart, lineEnd === -1 ? undefined : lineEnd);
  const paths = [...line.matchAll(/(?<![\w.:/])\/[^\s'":,)]+/g)];
  const after = paths.find((match) => match.index >= index - lineStart);
  return (after ?? paths.at(-1))?.[0];
}

const mebibytes = (bytes: number) => `${Math.round(bytes / 1024 ** 2)}m`;
