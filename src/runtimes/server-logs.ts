import { deferred } from '../base/async.ts';
import { KeptLog } from './kept-log.ts';
import type { LogOptions } from './runtime.ts';
import type { StderrTail } from './stdio.ts';

/** Lines that wait for a slow reader. */
const maxWaiting = 1000;

/** An instance whose stderr this process reads. */
interface Writer {
  readonly server: { readonly name: string };
  readonly stderr: StderrTail;
}

/** The output of a runtime's servers: of the instances that run, and what was kept of those that ended. */
export class ServerLogs<I extends Writer> {
  readonly #kept: KeptLog;
  readonly #running = new Map<string, Set<I>>();
  readonly #followers = new Map<string, Set<(instance: I) => void>>();

  constructor(stateDir: string) {
    this.#kept = new KeptLog(stateDir);
  }

  /** Begins with an instance; who follows its server hears it too. */
  add(instance: I): void {
    const { name } = instance.server;
    memberSet(this.#running, name).add(instance);
    for (const follower of this.#followers.get(name) ?? []) follower(instance);
  }

  /** The instance has ended: its last lines are kept. Never rejects; what cannot be written is lost. */
  async keep(instance: I): Promise<void> {
    const { name } = instance.server;
    this.#running.get(name)?.delete(instance);
    await this.#kept.append(name, instance.stderr.lines()).catch(() => {});
  }

  /** The lines of a server, as `Runtime.logs` gives them. `recentOf` asks where more may be known than is in memory. */
  async *read(
    server: string,
    { tail, follow, signal }: LogOptions,
    recentOf: (instance: I) => string[] | Promise<string[]> = ({ stderr }) => stderr.lines(),
  ): AsyncIterable<string> {
    const running = [...(this.#running.get(server) ?? [])];
    const waiting: string[] = [];
    let wake = deferred<void>();
    const leave: (() => void)[] = [];
    if (follow) {
      const listen = ({ stderr }: I) => {
        const stop = stderr.follow((line) => {
          // A reader that is too slow loses lines, not the gateway its memory.
          if (waiting.push(line) > maxWaiting) waiting.shift();
          wake.resolve();
        });
        leave.push(stop);
      };
      for (const instance of running) listen(instance);
      const followers = memberSet(this.#followers, server).add(listen);
      const onAbort = () => wake.resolve();
      signal?.addEventListener('abort', onAbort, { once: true });
      leave.push(
        () => followers.delete(listen),
        () => signal?.removeEventListener('abort', onAbort),
      );
    }
    try {
      const recent =
        running.length > 0
          ? (await Promise.all(running.map(recentOf))).flat()
          : await this.#kept.read(server, tail);
      if (tail > 0) yield* recent.slice(-tail);
      while (follow && !signal?.aborted) {
        await wake.promise;
        wake = deferred();
        while (waiting.length > 0 && !signal?.aborted) yield waiting.shift()!;
      }
    } finally {
      for (const stop of leave) stop();
    }
  }
}

function memberSet<T>(sets: Map<string, Set<T>>, key: string): Set<T> {
  const set = sets.get(key) ?? new Set();
  sets.set(key, set);
  return set;
}
