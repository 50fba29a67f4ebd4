import { type Clock, systemClock } from './async.ts';
import type { Store } from './store.ts';

/** A Store that ends with the process. Values are kept as JSON, so that it behaves like every other one. */
export class MemoryStore implements Store {
  readonly #clock: Clock;
  readonly #entries = new Map<string, { json: string; expiresAtMs: number }>();
  #sweepAtSize = 1024;

  constructor(clock: Clock = systemClock) {
    this.#clock = clock;
  }

  async get<T>(key: string): Promise<T | undefined> {
    const entry = this.#live(key);
    return entry && (JSON.parse(entry.json) as T);
  }

  async set<T>(key: string, value: T, ttlMs = Number.POSITIVE_INFINITY): Promise<void> {
    this.#entries.set(key, { json: JSON.stringify(value), expiresAtMs: this.#clock.now() + ttlMs });
    if (this.#entries.size < this.#sweepAtSize) return;
    for (const each of [...this.#entries.keys()]) this.#live(each);
    this.#sweepAtSize = Math.max(1024, this.#entries.size * 2);
  }

  async delete(key: string): Promise<void> {
    this.#entries.delete(key);
  }

  async *entries<T>(kind: string): AsyncIterable<[name: string, value: T]> {
    for (const key of [...this.#entries.keys()]) {
      if (!key.startsWith(`${kind}/`)) continue;
      const entry = this.#live(key);
      if (entry) yield [key.slice(kind.length + 1), JSON.parse(entry.json) as T];
    }
  }

  #live(key: string): { json: string } | undefined {
    const entry = this.#entries.get(key);
    if (entry && entry.expiresAtMs <= this.#clock.now()) {
      this.#entries.delete(key);
      return undefined;
    }
    return entry;
  }
}
