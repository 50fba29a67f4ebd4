import type { ServerConfig } from '../config/schema.ts';

/** An instance as the balancer sees it. */
export interface Candidate {
  /** Grows with each instance of a server; never used twice. */
  readonly serial: number;
  /** Open leases of calls. */
  readonly calls: number;
}

/** Chooses which instance takes the next call. */
export interface Balancer {
  /** One of `candidates`, which are in the order of their serials and never empty. */
  pick<T extends Candidate>(candidates: readonly T[]): T;
}

/** `random` returns numbers from 0 to 1, 1 excluded. */
export function createBalancer(
  kind: ServerConfig['loadBalancing'],
  random: () => number = Math.random,
): Balancer {
  if (kind === 'random') {
    return { pick: (candidates) => candidates[Math.floor(random() * candidates.length)]! };
  }
  return kind === 'round_robin' ? new RoundRobin() : leastConnections;
}

const leastConnections: Balancer = {
  pick(candidates) {
    let least = candidates[0]!;
    for (const candidate of candidates) if (candidate.calls < least.calls) least = candidate;
    return least;
  },
};

/** Goes by serial, not by position, so that an instance that comes, goes or is full does not disturb the turn of the others. */
class RoundRobin implements Balancer {
  #last = -1;

  pick<T extends Candidate>(candidates: readonly T[]): T {
    const next = candidates.find(({ serial }) => serial > this.#last) ?? candidates[0]!;
    this.#last = next.serial;
    return next;
  }
}
