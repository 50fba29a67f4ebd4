import { createHash } from 'node:crypto';
import { messageOf } from '../base/errors.ts';
import type { Store } from '../base/store.ts';
import type { ServerConfig } from '../config/schema.ts';
import { forEachKind, type ListKind } from './listing.ts';
import type { NameClaim } from './naming.ts';
import type { Snapshot } from './snapshot.ts';

/** What outlives the gateway's process, for one server. */
export interface KeptServer {
  /** Of the configuration that the snapshot was read with. */
  configHash?: string;
  /** Of what ran when the snapshot was read. */
  digest?: string;
  snapshot?: Snapshot;
  /** Learnt: it asks its client. */
  isInteractive?: boolean;
  /** Native name, wanted name, exposed name: decisions that clients have seen. */
  names: Record<ListKind, [native: string, wanted: string, exposed: string][]>;
  /** When the server was last in the configuration. */
  seenAtMs: number;
}

const kind = 'catalog';
const format = 2;
/** Its snapshots do not tell which of two eras their server prefers: they are shown until they have been read anew. */
const formatWithoutEra = 1;
const dayMs = 24 * 3_600_000;
/** How long a server that has left the file finds its names free when it returns. */
const absenceMs = 30 * dayMs;

/** The catalog's part of the store: one record for each server, written in the background. */
export class Kept {
  readonly #store: Store;
  readonly #queued = new Map<string, KeptServer>();
  readonly #writing = new Map<string, Promise<void>>();
  readonly #problems = new Map<string, string>();

  constructor(store: Store) {
    this.#store = store;
  }

  /** Everything that is kept; records of servers that have long left the configuration are dropped. */
  async load(isConfigured: (server: string) => boolean, nowMs: number): Promise<Map<string, KeptServer>> {
    const records = new Map<string, KeptServer>();
    for await (const [server, value] of this.#store.entries<KeptServer & { format: number }>(kind)) {
      if (value?.format !== format && value?.format !== formatWithoutEra) continue;
      const { format: kept, ...record } = value;
      if (kept === formatWithoutEra) delete record.configHash;
      const ageMs = nowMs - record.seenAtMs;
      if (!isConfigured(server) && ageMs > absenceMs) {
        await this.#store.delete(`${kind}/${server}`);
        continue;
      }
      if (isConfigured(server) && ageMs > dayMs)
        this.write(server, Object.assign(record, { seenAtMs: nowMs }));
      records.set(server, record);
    }
    return records;
  }

  /** Never fails: what cannot be written is told by `problem`. Of several writes under way only the last counts. */
  write(server: string, record: KeptServer): void {
    this.#queued.set(server, record);
    if (!this.#writing.has(server)) {
      this.#writing.set(
        server,
        this.#drain(server).finally(() => this.#writing.delete(server)),
      );
    }
  }

  problem(server: string): string | undefined {
    return this.#problems.get(server);
  }

  /** Resolves when all is written. */
  async flush(): Promise<void> {
    await Promise.all(this.#writing.values());
  }

  async #drain(server: string): Promise<void> {
    for (let record = this.#queued.get(server); record; record = this.#queued.get(server)) {
      this.#queued.delete(server);
      try {
        await this.#store.set(`${kind}/${server}`, { format, ...record });
        this.#problems.delete(server);
      } catch (error) {
        this.#problems.set(server, `Its lists could not be kept for the next start: ${messageOf(error)}`);
      }
    }
  }
}

/** Of a server that was never seen. */
export function emptyRecord(nowMs: number): KeptServer {
  return { names: forEachKind(() => []), seenAtMs: nowMs };
}

/** A server's kept names as its claims on one list. */
export function claimsOf(record: KeptServer, list: ListKind): Map<string, NameClaim> {
  return new Map(record.names[list].map(([native, wanted, exposed]) => [native, { wanted, exposed }]));
}

/** Settings that do not change what a server answers to a list request; what is new counts until it is named here. */
const irrelevant = new Set<string>([
  'name',
  'description',
  'enabled',
  'problem',
  'idleTimeoutMs',
  'pauseAfterMs',
  'tools',
  'prefix',
  'pool',
  'concurrency',
  'loadBalancing',
  'timeouts',
  'healthCheck',
  'retry',
  'limits',
  'logs',
  'proxy',
  'interactive',
] satisfies (keyof ServerConfig | 'limits' | 'logs' | 'proxy')[]);

/** Changes when a server's lists may: a hash, which gives none of the values away. */
export function configHashOf(server: ServerConfig): string {
  const relevant = Object.entries(server).filter(([setting]) => !irrelevant.has(setting));
  return createHash('sha256')
    .update(canonicalJson(Object.fromEntries(relevant)))
    .digest('hex');
}

/** JSON with the keys in order, so that their order in the file does not matter. */
function canonicalJson(value: unknown): string {
  return JSON.stringify(value, (_, part: unknown) =>
    part !== null && typeof part === 'object' && !Array.isArray(part)
      ? Object.fromEntries(Object.entries(part).sort(([a], [b]) => (a < b ? -1 : 1)))
      : part,
  );
}
