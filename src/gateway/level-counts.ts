/** RFC 5424 severities as MCP names them, least severe first. */
export const logLevels = [
  'debug',
  'info',
  'notice',
  'warning',
  'error',
  'critical',
  'alert',
  'emergency',
] as const;
export type LogLevel = (typeof logLevels)[number];

/** What a client gets that never set a level. */
export const defaultLogLevel: LogLevel = 'info';

export function isLogLevel(value: unknown): value is LogLevel {
  return logLevels.includes(value as LogLevel);
}

/** Whether a log line of `level` is wanted by who asked for `threshold`. A level that MCP does not know passes. */
export function isLogged(level: unknown, threshold: string | undefined): boolean {
  const severity = logLevels.indexOf(level as LogLevel);
  return severity === -1 || severity >= logLevels.indexOf((threshold ?? defaultLogLevel) as LogLevel);
}

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
