/**
 * Small key-value state with expiry: catalog cache, sessions, counters. Values are JSON.
 * Keys are `<kind>/<name>`; a name may hold any characters. A shared store (Redis) must fit behind this port.
 */
export interface Store {
  /** The value, or undefined when there is none or it has expired. */
  get<T>(key: string): Promise<T | undefined>;
  /** Keeps the value, atomically: a reader sees the old or the new one. `ttlMs` undefined: until deleted. */
  set<T>(key: string, value: T, ttlMs?: number): Promise<void>;
  delete(key: string): Promise<void>;
  /** Every live entry of a kind. */
  entries<T>(kind: string): AsyncIterable<[name: string, value: T]>;
}
