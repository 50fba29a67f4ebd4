import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { lstat, readdir, readFile, readlink } from 'node:fs/promises';
import path from 'node:path';
import type { Readable } from 'node:stream';
import dockerignoreModule from '@balena/dockerignore';
import type { PackOptions } from 'tar-fs';
import type { Clock } from '../../base/async.ts';
import { GatewayError, systemCodeOf } from '../../base/errors.ts';
import type { DockerServer } from '../../config/schema.ts';

/** The name in the tar of a Dockerfile that lies outside of its context, or is made up. */
export const packedDockerfile = '.mcp-gateway.Dockerfile';

/** What an image is built from, as it is on disk now. */
export interface BuildSources {
  /** Digest of the Dockerfile and of every file that `.dockerignore` lets through. */
  digest: string;
  /** The Dockerfile's name in the tar. */
  dockerfile: string;
  /** The context as a tar. */
  pack(): Promise<Readable>;
}

interface Entry {
  /** With slashes, from the context. */
  name: string;
  kind: 'file' | 'directory' | 'symlink';
  isExecutable: boolean;
  stamp: string;
}

type Build = NonNullable<DockerServer['build']>;

/** From this many files on a context is looked through only every so often: it is asked for before every start. */
const manyEntries = 2_000;
const manyEntriesMs = 10_000;

interface Known {
  stamps: string;
  digest: string;
  entries: Entry[];
  walkedAtMs: number;
}

/** Reads build contexts, and their contents only when a file's size or times changed. */
export class BuildContexts {
  readonly #known = new Map<string, Known>();
  readonly #clock: Clock;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Throws GatewayError `build_failed` when the context or its Dockerfile is missing. */
  async read(server: string, build: Build): Promise<BuildSources> {
    const dockerfile = path.resolve(build.context, build.dockerfile);
    const { digest, entries } = await this.#look(server, build.context, dockerfile);
    const inside = path.relative(build.context, dockerfile).split(path.sep).join('/');
    const isOutside = inside.startsWith('../') || path.isAbsolute(inside);
    return {
      digest,
      dockerfile: isOutside ? packedDockerfile : inside,
      pack: () => pack(build.context, isOutside ? { outside: dockerfile } : { inside }, entries),
    };
  }

  async #look(server: string, context: string, dockerfile: string): Promise<Known> {
    const key = `${context}\0${dockerfile}`;
    const known = this.#known.get(key);
    const now = this.#clock.now();
    if (known && known.entries.length >= manyEntries && now - known.walkedAtMs < manyEntriesMs) return known;
    const [entries, dockerfileStamp] = await Promise.all([
      walk(context).catch((error) => {
        throw unreadable(server, context, error, 'the build context');
      }),
      lstat(dockerfile).then(stampOf, (error) => {
        throw unreadable(server, dockerfile, error, 'its Dockerfile');
      }),
    ]);
    const stamps = JSON.stringify([dockerfileStamp, entries]);
    const digest = known?.stamps === stamps ? known.digest : await digestOf(context, dockerfile, entries);
    const found = { stamps, digest, entries, walkedAtMs: now };
    this.#known.set(key, found);
    return found;
  }
}

function unreadable(server: string, file: string, cause: unknown, what: string): GatewayError {
  const reason =
    systemCodeOf(cause) === 'ENOENT' ? 'does not exist' : `cannot be read (${systemCodeOf(cause)})`;
  return new GatewayError('build_failed', `Server ${server}: ${what} ${file} ${reason}.`, {
    server,
    hint: 'Correct `build` in servers.yaml: the folder that holds the Dockerfile, relative to servers.yaml.',
    cause,
  });
}

/** What `.dockerignore` lets through, sorted by name. */
async function walk(context: string): Promise<Entry[]> {
  const text = await readFile(path.join(context, '.dockerignore'), 'utf8').catch(() => '');
  const rules = dockerignoreModule.default().add(text);
  const reincluded = text
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line.startsWith('!'))
    .map((line) => line.slice(1).replace(/^\.?\//, ''));
  const entries: Entry[] = [];
  const visit = async (folder: string): Promise<void> => {
    const children = await readdir(path.join(context, folder), { withFileTypes: true });
    await Promise.all(
      children.map(async (child) => {
        const name = folder === '' ? child.name : `${folder}/${child.name}`;
        const isIgnored = rules.ignores(name);
        if (child.isDirectory()) {
          // Unlike git, Docker takes back in what lies below an ignored folder.
          const mayHold = reincluded.some((rule) => rule.startsWith(`${name}/`) || rule.startsWith('*'));
          if (isIgnored && !mayHold) return;
          if (!isIgnored) entries.push({ name, kind: 'directory', isExecutable: true, stamp: '' });
          return visit(name);
        }
        if (isIgnored || !(child.isFile() || child.isSymbolicLink())) return;
        const stats = await lstat(path.join(context, name));
        entries.push({
          name,
          kind: stats.isSymbolicLink() ? 'symlink' : 'file',
          isExecutable: (stats.mode & 0o100) !== 0,
          stamp: stampOf(stats),
        });
      }),
    );
  };
  await visit('');
  return entries.sort((a, b) => (a.name < b.name ? -1 : 1));
}

const stampOf = (stats: { size: number; mtimeMs: number; ctimeMs: number; mode: number }) =>
  [stats.size, stats.mtimeMs, stats.ctimeMs, stats.mode].join(' ');

async function digestOf(context: string, dockerfile: string, entries: Entry[]): Promise<string> {
  const hash = createHash('sha256');
  hash.update(await readFile(dockerfile));
  for (const { name, kind, isExecutable } of entries) {
    hash.update(`\0${name}\0${kind}\0${isExecutable}\0`);
    const file = path.join(context, name);
    if (kind === 'symlink') hash.update(await readlink(file));
    if (kind === 'file') for await (const chunk of createReadStream(file)) hash.update(chunk as Buffer);
  }
  return hash.digest('hex');
}

const ignoreFile = '.dockerignore';

async function pack(
  context: string,
  dockerfile: { inside?: string; outside?: string },
  entries: Entry[],
): Promise<Readable> {
  const { default: tar } = await import('tar-fs');
  const included = new Set(entries.map(({ name }) => name));
  // The engine needs both, and leaves them out of the image itself where they are ignored.
  if (dockerfile.inside) included.add(dockerfile.inside).add(ignoreFile);
  else included.delete(ignoreFile);
  // Folders that are ignored themselves, but on the way to a file that is not.
  for (const name of [...included]) {
    for (let folder = path.posix.dirname(name); folder !== '.'; folder = path.posix.dirname(folder)) {
      included.add(folder);
    }
  }
  const foreign = dockerfile.outside && (await readFile(dockerfile.outside));
  const rules = await readFile(path.join(context, ignoreFile), 'utf8').catch(() => `${ignoreFile}\n`);
  const options: PackOptions & { umask: number; sort: boolean } = {
    ignore: (file) => !included.has(path.relative(context, file).split(path.sep).join('/')),
    // As root's and readable by all, whatever the umask of the checkout: the server runs as somebody else.
    map: (header) => ({ ...header, uid: 0, gid: 0 }),
    readable: true,
    umask: 0,
    sort: true,
    finalize: false,
    finish: (packing) => {
      if (foreign) {
        packing.entry({ name: packedDockerfile }, foreign);
        packing.entry({ name: ignoreFile }, `${rules}\n${packedDockerfile}\n`);
      }
      packing.finalize();
    },
  };
  return tar.pack(context, options) as unknown as Readable;
}

/** A small file, or an empty folder. */
export interface PackedFile {
  name: string;
  content?: string | Buffer;
  isExecutable?: boolean;
  isDirectory?: boolean;
}

/** A context of a Dockerfile and a few small files, made in memory. */
export async function packInMemory(dockerfile: string, files: PackedFile[] = []): Promise<Readable> {
  const { default: tar } = await import('tar-fs');
  // tar-fs gives its packer only to `finish`, over a context that is empty here.
  return tar.pack('/', {
    entries: [],
    finalize: false,
    finish: (packing) => {
      for (const { name, content, isExecutable, isDirectory } of files) {
        if (isDirectory) packing.entry({ name, type: 'directory', mode: 0o755 }, '');
        else packing.entry({ name, mode: isExecutable ? 0o755 : 0o644 }, content ?? '');
      }
      packing.entry({ name: packedDockerfile }, dockerfile);
      packing.finalize();
    },
  }) as unknown as Readable;
}
