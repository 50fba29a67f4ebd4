import { createHash, randomUUID } from 'node:crypto';
import { mkdir, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type Clock, SingleFlight, systemClock } from './async.ts';
import { systemCodeOf } from './errors.ts';
import type { Store } from './store.ts';

interface Entry {
  name: string;
  /** Milliseconds since the epoch; missing: kept until deleted. */
  expiresAtMs?: number;
  value: unknown;
}

const unfinished = '.tmp';
const sweepIntervalMs = 600_000;

/**
 * A Store in a folder of its own, which no other process writes: a folder for each kind, a file for each entry, readable
 * by the owner alone. An entry that cannot be read (a crash, a full disk, a careless hand) counts as absent.
 */
export class FileStore implements Store {
  readonly #directory: string;
  readonly #clock: Clock;
  /** The last piece of work on each file, so that what concerns one key happens in the order in which it was asked for. */
  readonly #last = new Map<string, Promise<unknown>>();
  readonly #sweptAtMs = new Map<string, number>();
  readonly #sweeps = new SingleFlight<void>();

  constructor(directory: string, clock: Clock = systemClock) {
    this.#directory = directory;
    this.#clock = clock;
  }

  async get<T>(key: string): Promise<T | undefined> {
    const file = this.#fileOf(key);
    return this.#inOrder(file, async () => {
      const entry = await this.#read(file);
      return entry?.value as T | undefined;
    });
  }

  async set<T>(key: string, value: T, ttlMs?: number): Promise<void> {
    const [kind, name] = split(key);
    const expiresAtMs =
      ttlMs === undefined || ttlMs === Number.POSITIVE_INFINITY ? undefined : this.#clock.now() + ttlMs;
    // Written out at once: what the caller does to the value later is not meant.
    const text = JSON.stringify({ name, expiresAtMs, value } satisfies Entry);
    const file = this.#fileOf(key);
    await this.#inOrder(file, async () => {
      await this.#sweepWhenDue(kind);
      const temporary = `${file}.${randomUUID()}${unfinished}`;
      try {
        await writeFile(temporary, text, { mode: 0o600, flag: 'wx' });
        await rename(temporary, file);
      } catch (error) {
        await rm(temporary, { force: true });
        throw error;
      }
    });
  }

  async delete(key: string): Promise<void> {
    const file = this.#fileOf(key);
    await this.#inOrder(file, () => rm(file, { force: true }));
  }

  async *entries<T>(kind: string): AsyncIterable<[name: string, value: T]> {
    const folder = this.#folderOf(kind);
    for (const name of await list(folder)) {
      if (name.endsWith(unfinished)) continue;
      const file = join(folder, name);
      const entry = await this.#inOrder(file, () => this.#read(file));
      if (entry) yield [entry.name, entry.value as T];
    }
  }

  async #read(file: string): Promise<Entry | undefined> {
    let text: string;
    try {
      text = await readFile(file, 'utf8');
    } catch (error) {
      if (systemCodeOf(error) === 'ENOENT') return undefined;
      throw error;
    }
    const entry = parseEntry(text);
    if (entry && (entry.expiresAtMs ?? Number.POSITIVE_INFINITY) > this.#clock.now()) return entry;
    await rm(file, { force: true });
    return undefined;
  }

  #inOrder<T>(file: string, work: () => Promise<T>): Promise<T> {
    const before = this.#last.get(file);
    const now = before ? before.then(work, work) : work();
    this.#last.set(file, now);
    const forget = () => {
      if (this.#last.get(file) === now) this.#last.delete(file);
    };
    now.then(forget, forget);
    return now;
  }

  /** Makes the kind's folder; now and then removes what has expired, and what a crash left half written. */
  async #sweepWhenDue(kind: string): Promise<void> {
    const sweptAtMs = this.#sweptAtMs.get(kind);
    if (sweptAtMs !== undefined && this.#clock.now() - sweptAtMs < sweepIntervalMs) return;
    if (sweptAtMs === undefined) await this.#sweeps.run(kind, () => this.#open(kind));
    this.#sweptAtMs.set(kind, this.#clock.now());
    void this.#removeExpired(kind).catch(() => {});
  }

  async #open(kind: string): Promise<void> {
    const folder = this.#folderOf(kind);
    await mkdir(folder, { recursive: true, mode: 0o700 });
    for (const name of await list(folder)) {
      if (name.endsWith(unfinished)) await rm(join(folder, name), { force: true });
    }
    // Before anybody goes on: a second look would find the files that they are writing.
    this.#sweptAtMs.set(kind, this.#clock.now());
  }

  async #removeExpired(kind: string): Promise<void> {
    for await (const _ of this.entries(kind));
  }

  #folderOf(kind: string): string {
    return join(this.#directory, fileNameOf(kind));
  }

  #fileOf(key: string): string {
    const [kind, name] = split(key);
    return join(this.#folderOf(kind), `${fileNameOf(name)}.json`);
  }
}

function split(key: string): [kind: string, name: string] {
  const slash = key.indexOf('/');
  return [key.slice(0, slash), key.slice(slash + 1)];
}

/**
 * Plain names are kept; any other becomes what is legible of it and a hash, so that names that a file system refuses, cuts
 * or takes for the same stay apart.
 */
function fileNameOf(name: string): string {
  if (/^[a-z0-9][a-z0-9_-]{0,63}$/.test(name)) return name;
  const legible = name
    .toLowerCase()
    .replace(/[^a-z0-9_-]+/g, '-')
    .slice(0, 40);
  return `${legible}.${createHash('sha256').update(name).digest('hex').slice(0, 32)}`;
}

async function list(folder: string): Promise<string[]> {
  try {
    return await readdir(folder);
  } catch (error) {
    if (systemCodeOf(error) === 'ENOENT') return [];
    throw error;
  }
}

function parseEntry(text: string): Entry | undefined {
  try {
    const entry = JSON.parse(text) as Partial<Entry> | null;
    return typeof entry?.name === 'string' && 'value' in entry ? (entry as Entry) : undefined;
  } catch {
    return undefined;
  }
}
