import { defaultLogLevel, type LogLevel, logLevels } from '../protocol/log-levels.ts';

/**
 * The level at which a shared server must log so that every session gets what it asked for: the lowest of those who can
 * reach it. Counts, so that ten thousand sessions cost no more than ten.
 */
export class LevelCounts {
  /** By scope (undefined: all servers), how many sessions are at each level. */
  readonly #counts = new Map<string | undefined, number[]>();
  #explicit = 0;

  add(scope: string | undefined, level: string | undefined): void {
    this.#change(scope, level, 1);
  }

  remove(scope: string | undefined, level: string | undefined): void {
    this.#change(scope, level, -1);
  }

  /** undefined while nobody has set a level: the server's own choice stands. */
  lowestFor(server: string): LogLevel | undefined {
    if (this.#explicit === 0) return undefined;
    const all = this.#counts.get(undefined);
    const own = this.#counts.get(server);
    return logLevels.find((_, index) => (all?.[index] ?? 0) > 0 || (own?.[index] ?? 0) > 0);
  }

  #change(scope: string | undefined, level: string | undefined, by: 1 | -1): void {
    if (level !== undefined) this.#explicit += by;
    let counts = this.#counts.get(scope);
    if (!counts) {
      counts = logLevels.map(() => 0);
      this.#counts.set(scope, counts);
    }
    counts[logLevels.indexOf((level ?? defaultLogLevel) as LogLevel)]! += by;
    if (by < 0 && counts.every((count) => count === 0)) this.#counts.delete(scope);
  }
}
