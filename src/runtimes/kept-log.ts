import { mkdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import { replaceFile } from '../base/replace-file.ts';

const maxBytes = 65_536;

/** The last stderr of stopped instances, a file for each server in `<state_dir>/logs`. */
export class KeptLog {
  readonly #folder: string;
  readonly #writes = new Map<string, Promise<void>>();

  constructor(stateDir: string) {
    this.#folder = path.join(stateDir, 'logs');
  }

  /** Appends lines; the file keeps its last 64 KiB. */
  append(server: string, lines: string[]): Promise<void> {
    if (lines.length === 0) return Promise.resolve();
    const write = (this.#writes.get(server) ?? Promise.resolve()).then(() => this.#append(server, lines));
    const settled = write.catch(() => {});
    this.#writes.set(server, settled);
    return write;
  }

  /** The last lines, oldest first; none when nothing was kept. */
  async read(server: string, tail: number): Promise<string[]> {
    await this.#writes.get(server);
    const text = await readFile(this.#file(server), 'utf8').catch(() => '');
    const lines = text.split('\n').slice(0, -1);
    return tail > 0 ? lines.slice(-tail) : [];
  }

  async #append(server: string, lines: string[]): Promise<void> {
    const file = this.#file(server);
    await mkdir(this.#folder, { recursive: true, mode: 0o700 });
    const before = await readFile(file).catch(() => Buffer.alloc(0));
    let all = Buffer.concat([before, Buffer.from(`${lines.join('\n')}\n`)]);
    if (all.length > maxBytes) {
      const cut = all.indexOf(0x0a, all.length - maxBytes);
      all = all.subarray(cut + 1);
    }
    await replaceFile(file, all);
  }

  #file(server: string): string {
    return path.join(this.#folder, `${server}.log`);
  }
}
