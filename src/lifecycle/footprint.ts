import type { ServerConfig } from '../config/schema.ts';
import type { Member } from './member.ts';

/** What an instance is expected to use that has no limit and was never measured: the default of `limits.memory`. */
const unlimitedBytes = 512 * 1024 ** 2;

/** How much memory one instance of a server takes, as far as can be told before it is there. */
export class Footprint {
  readonly #server: ServerConfig;
  #lastBytes: number | undefined;

  constructor(server: ServerConfig) {
    this.#server = server;
  }

  /** Whether one was ever measured. */
  get isKnown(): boolean {
    return this.#lastBytes !== undefined;
  }

  /** What one may use. */
  get limit(): number {
    return 'limits' in this.#server ? this.#server.limits.memoryBytes : (this.#lastBytes ?? unlimitedBytes);
  }

  /** What one more will use: as much as the first of `members` that was measured, or the one that was measured last. */
  expected(members: readonly Member[]): number {
    const known = members.find(({ memoryBytes }) => memoryBytes !== undefined);
    this.#lastBytes = known?.memoryBytes ?? this.#lastBytes;
    return this.#lastBytes ?? this.limit;
  }
}

/** What instances hold, of those that nobody holds. */
export function heldBy(members: Iterable<Member>): { places: number; bytes: number } {
  const sum = { places: 0, bytes: 0 };
  for (const { leases, hasPlace, placeBytes } of members) {
    if (leases > 0 || !hasPlace) continue;
    sum.places += 1;
    sum.bytes += placeBytes;
  }
  return sum;
}
