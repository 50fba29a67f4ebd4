import { randomBytes, randomUUID } from 'node:crypto';
import { link, mkdir, mkdtemp, readdir, readFile, rm, stat, symlink } from 'node:fs/promises';
import { connect, createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { GatewayError, messageOf, systemCodeOf } from './errors.ts';
import { replaceFile } from './replace-file.ts';

/** The gateway's folder for what outlives it. While it is open no other gateway can open it. */
export interface StateDir extends AsyncDisposable {
  readonly directory: string;
  /** This gateway's own id: random, kept; the mark on everything it creates. Not in any backup. */
  readonly id: string;
  /** 32 random bytes, kept; signs sessions. */
  readonly key: Buffer;
  /** The path of a file or folder in it. */
  path(...names: string[]): string;
  /** Lets the next one in. Doing it twice is done once. */
  release(): Promise<void>;
}

/**
 * Opens the folder, making it (for the owner alone) where it is missing. Throws GatewayError: `state_locked`, naming the
 * holder's pid, or `config_invalid` when it cannot be written.
 */
export async function openStateDir(folder: string): Promise<StateDir> {
  const directory = resolve(folder);
  try {
    await mkdir(directory, { recursive: true, mode: 0o700 });
    const lock = await acquire(directory);
    try {
      const id = await keep(join(directory, 'gateway-id'), /^[0-9a-f]{12}$/, () =>
        randomBytes(6).toString('hex'),
      );
      const key = await keep(join(directory, 'signing-key'), /^[0-9a-f]{64}$/, () =>
        randomBytes(32).toString('hex'),
      );
      const release = () => close(lock);
      return {
        directory,
        id,
        key: Buffer.from(key, 'hex'),
        path: (...names) => join(directory, ...names),
        release,
        [Symbol.asyncDispose]: release,
      };
    } catch (error) {
      await close(lock);
      throw error;
    }
  } catch (error) {
    if (error instanceof GatewayError) throw error;
    throw new GatewayError(
      'config_invalid',
      `The state folder ${directory} cannot be used: ${messageOf(error)}`,
      {
        hint: 'Make it writable for the user who runs the gateway, or name another with gateway.state_dir or GATEWAY_STATE_DIR.',
        cause: error,
      },
    );
  }
}

/** The pid of the gateway that has the folder open, if one has; 0 when it does not say. */
export async function stateDirHolder(folder: string): Promise<number | undefined> {
  const directory = resolve(folder);
  const newest = (await generations(directory)).at(-1);
  return newest === undefined ? undefined : holderOf(directory, newest);
}

/*
 * The lock is a listening Unix socket, because the kernel ends it with its process, whatever ends that. Its file stays
 * behind then. Removing a dead one and putting one's own in its place cannot be one step, so nobody replaces a file: each
 * holder takes the next number, the highest number counts, and a file is made by `link`, which two cannot both do.
 */
const lockFile = /^lock\.(\d+)\.sock$/;
const lockName = (generation: number) => `lock.${generation}.sock`;

async function generations(directory: string): Promise<number[]> {
  let names: string[];
  try {
    names = await readdir(directory);
  } catch (error) {
    if (systemCodeOf(error) === 'ENOENT') return [];
    throw error;
  }
  return names
    .map((name) => Number(lockFile.exec(name)?.[1]))
    .filter((generation) => !Number.isNaN(generation))
    .sort((a, b) => a - b);
}

async function acquire(directory: string): Promise<Server> {
  const ownName = `lock.${process.pid}.${randomUUID().slice(0, 8)}.new`;
  const server = await listen(directory, ownName);
  try {
    for (;;) {
      const newest = (await generations(directory)).at(-1) ?? 0;
      const holder = newest === 0 ? undefined : await holderOf(directory, newest);
      if (holder !== undefined) throw locked(directory, holder);
      const own = newest + 1;
      try {
        await link(join(directory, ownName), join(directory, lockName(own)));
      } catch (error) {
        if (systemCodeOf(error) === 'EEXIST') continue;
        throw error;
      }
      // Whoever was faster may have removed the file whose successor we are, and with it the trace of their own start.
      const all = await generations(directory);
      if (all.at(-1) !== own) {
        await rm(join(directory, lockName(own)), { force: true });
        continue;
      }
      for (const older of all.slice(0, -1)) await rm(join(directory, lockName(older)), { force: true });
      await removeAbandoned(directory);
      return server;
    }
  } catch (error) {
    await close(server);
    throw error;
  } finally {
    await rm(join(directory, ownName), { force: true });
  }
}

/** What starts left that were killed before they had the lock; a start under way is not that old. */
async function removeAbandoned(directory: string): Promise<void> {
  for (const name of await readdir(directory)) {
    if (!/^lock\..*\.new$/.test(name)) continue;
    const file = join(directory, name);
    const found = await stat(file).catch(() => undefined);
    if (found && Date.now() - found.mtimeMs > 60_000) await rm(file, { force: true });
  }
}

function locked(directory: string, pid: number): GatewayError {
  const who = pid === 0 ? 'a gateway that does not answer' : `the gateway with pid ${pid}`;
  return new GatewayError('state_locked', `The state folder ${directory} is in use by ${who}`, {
    hint:
      pid === 0
        ? 'End it, or give this one another folder with gateway.state_dir or GATEWAY_STATE_DIR.'
        : `End it (kill ${pid}), or give this one another folder with gateway.state_dir or GATEWAY_STATE_DIR.`,
    data: { pid },
  });
}

const holderOf = (directory: string, generation: number) => ask(directory, lockName(generation));

/** The pid that answers on a socket; 0 when somebody listens and does not say; undefined when nobody listens. */
async function ask(directory: string, name: string): Promise<number | undefined> {
  return withShortPath(directory, name, (path) => {
    return new Promise((answered, reject) => {
      const socket = connect(path);
      let answer = '';
      const settle = () => {
        socket.destroy();
        answered(Number(/^\{"pid":(\d+)\}/.exec(answer)?.[1] ?? 0));
      };
      // Connected but silent: stopped, or very busy. It lives, so the folder is not free.
      socket.setTimeout(2000, settle);
      socket.setEncoding('utf8').on('data', (text) => {
        answer += text;
      });
      socket.on('end', settle);
      socket.on('error', (error) => {
        const code = systemCodeOf(error);
        if (code === 'ECONNREFUSED' || code === 'ENOENT') answered(undefined);
        // Its queue is full (EAGAIN) or it died while it answered; only the former can last.
        else if (code === 'EAGAIN' || code === 'ECONNRESET' || code === 'EPIPE') answered(0);
        else reject(error);
      });
    });
  });
}

async function listen(directory: string, name: string): Promise<Server> {
  const server = createServer((socket) => {
    socket.on('error', () => {});
    socket.setTimeout(2000, () => socket.destroy());
    socket.end(`{"pid":${process.pid}}\n`);
  });
  await withShortPath(directory, name, (path) => {
    return new Promise<void>((listening, reject) => {
      server.once('error', reject);
      server.listen(path, listening);
    });
  });
  server.unref();
  return server;
}

async function close(server: Server): Promise<void> {
  // It stops listening at once; who is still being answered need not be waited for.
  server.close();
}

/** Socket addresses hold 103 bytes on macOS, 107 on Linux: a longer path is reached by a link in a private folder. */
async function withShortPath<T>(
  directory: string,
  name: string,
  use: (path: string) => Promise<T>,
): Promise<T> {
  const path = join(directory, name);
  if (Buffer.byteLength(path) <= 103) return use(path);
  const folder = await mkdtemp(join(tmpdir(), 'mcp-'));
  try {
    await symlink(directory, join(folder, 'd'), 'dir');
    return await use(join(folder, 'd', name));
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** The file's content, or, where it is missing or damaged, a new one. */
async function keep(path: string, shape: RegExp, make: () => string): Promise<string> {
  try {
    const kept = (await readFile(path, 'utf8')).trim();
    if (shape.test(kept)) return kept;
  } catch (error) {
    if (systemCodeOf(error) !== 'ENOENT') throw error;
  }
  const made = make();
  await replaceFile(path, `${made}\n`);
  return made;
}
