import { eraOf } from '../protocol/eras.ts';
import { defaultLogLevel, logLevels } from '../protocol/log-levels.ts';
import type { Handshake } from './lease.ts';

/** Stands for those who ask without a session. */
type Asker = string | undefined;

/** Whose wishes count; without it, everybody's. */
export interface Only {
  asker: Asker;
}

/** An instance as far as wishes concern it. */
interface Instructed {
  readonly state: string;
  readonly handshake: Handshake | undefined;
  /** Resources that it was asked to watch. */
  readonly watched: Set<string>;
  /** The log level that it was asked for. */
  level: string | undefined;
  /** Sends a request whose answer does not matter. */
  ask(method: string, params: Record<string, unknown>): void;
}

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
  level(only?: Only): string | undefined {
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
  watched(only?: Only): string[] {
    const entries = [...this.#watchers];
    return entries.filter(([, askers]) => !only || askers.has(only.asker)).map(([uri]) => uri);
  }

  /** A session is over. Returns the resources that nobody watches any more. */
  forget(asker: string): string[] {
    this.#levels.delete(asker);
    return [...this.#watchers.keys()].filter((uri) => this.unwatch(asker, uri));
  }

  /** Tells an instance that is ready everything that is wanted of it. */
  applyTo(instance: Instructed, only?: Only): void {
    this.applyLevelTo(instance, only);
    for (const uri of this.watched(only)) this.watchOn(instance, uri);
  }

  applyLevelTo(instance: Instructed, only?: Only): void {
    // Who was told a level that nobody wants any more goes back to what clients have that want none.
    const level = this.level(only) ?? (instance.level && defaultLogLevel);
    if (instance.state !== 'ready' || level === undefined || instance.level === level) return;
    const { capabilities, protocolVersion } = instance.handshake!;
    // A modern server is told the level with each request.
    if (!capabilities.logging || eraOf(protocolVersion) === 'modern') return;
    instance.level = level;
    instance.ask('logging/setLevel', { level });
  }

  watchOn(instance: Instructed, uri: string): void {
    const { resources } = instance.handshake?.capabilities ?? {};
    if (instance.state !== 'ready' || instance.watched.has(uri)) return;
    if (!(resources as { subscribe?: unknown } | undefined)?.subscribe) return;
    instance.watched.add(uri);
    instance.ask('resources/subscribe', { uri });
  }

  /** Only for what nobody wants any more: a subscription that is just being made is nobody's wish yet. */
  unwatchOn(instance: Instructed, uri: string): void {
    if (instance.state === 'ready' && instance.watched.delete(uri)) {
      instance.ask('resources/unsubscribe', { uri });
    }
  }

  /** Has an instance forget what nobody wants any more, after a time in which it could not be told. */
  unwatchUnwantedOn(instance: Instructed, only?: Only): void {
    const wanted = new Set(this.watched(only));
    for (const uri of [...instance.watched]) if (!wanted.has(uri)) this.unwatchOn(instance, uri);
  }
}
