import { logLevels } from '../protocol/log-levels.ts';

/** Stands for those who ask without a session. */
type Asker = string | undefined;

/**
 * What clients want of a server beyond single calls: a log level, resources to watch. Kept so that an instance that is
 * started later is told of it.
 */
export class DesiredState {
  readonly #levels = new Map<Asker, string>();
  readonly #watchers = new Map<string, Set<Asker>>();

  /** `level` undefined takes the wish back. */
  setLevel(asker: Asker, level: string | undefined): void {
    if (level === undefined) this.#levels.delete(asker);
    else this.#levels.set(asker, level);
  }

  /** The most verbose level that anybody wants, or what `only` wants; undefined: the server's own choice. */
  level(only?: { asker: Asker }): string | undefined {
    if (only) return this.#levels.get(only.asker);
    const wanted = new Set(this.#levels.values());
    return logLevels.find((level) => wanted.has(level));
  }

  watch(asker: Asker, uri: string): void {
    let askers = this.#watchers.get(uri);
    if (!askers) {
      askers = new Set();
      this.#watchers.set(uri, askers);
    }
    askers.add(asker);
  }

  /** True when nobody watches it any more. */
  unwatch(asker: Asker, uri: string): boolean {
    const askers = this.#watchers.get(uri);
    if (!askers?.delete(asker) || askers.size > 0) return false;
    return this.#watchers.delete(uri);
  }

  /** What anybody watches, or what `only` does. */
  watched(only?: { asker: Asker }): string[] {
    const entries = [...this.#watchers];
    return entries.filter(([, askers]) => !only || askers.has(only.asker)).map(([uri]) => uri);
  }

  /** A session is over. Returns the resources that nobody watches any more. */
  forget(asker: string): string[] {
    this.#levels.delete(asker);
    return [...this.#watchers.keys()].filter((uri) => this.unwatch(asker, uri));
  }
}
