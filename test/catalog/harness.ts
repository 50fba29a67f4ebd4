import { MemoryStore } from '../../src/base/memory-store.ts';
import type { Store } from '../../src/base/store.ts';
import { Catalog, type CatalogOptions } from '../../src/catalog/catalog.ts';
import type { Entry, ReadOptions, Snapshot, SnapshotSource } from '../../src/catalog/snapshot.ts';
import { type Config, gatewaySchema, type ProcessServer } from '../../src/config/schema.ts';
import { Events, type GatewayEvents } from '../../src/observability/events.ts';
import { processServer } from '../configured.ts';

/** A server of the configuration; what is not given is as it would be by default. */
export function serverNamed(name: string, settings: Partial<ProcessServer> = {}): ProcessServer {
  const server = { ...processServer(name), command: ['node', `${name}.mjs`] };
  return { ...server, ...settings, tools: { ...server.tools, ...settings.tools } };
}

export function configOf(servers: ProcessServer[], gateway: Record<string, unknown> = {}): Config {
  return {
    file: '/srv/servers.yaml',
    gateway: gatewaySchema.parse(gateway),
    servers: new Map(servers.map((server) => [server.name, server])),
    warnings: [],
  };
}

export const tool = (name: string, more: Entry = {}): Entry => ({
  name,
  description: `Does ${name}`,
  inputSchema: { type: 'object', properties: {} },
  ...more,
});

export function snapshotOf(parts: Partial<Snapshot> & { toolNames?: string[] } = {}): Snapshot {
  const { toolNames = [], ...rest } = parts;
  return {
    protocolVersion: '2025-11-25',
    capabilities: {},
    serverInfo: { name: 'scripted', version: '1.0.0' },
    tools: toolNames.map((name) => tool(name)),
    resources: [],
    resourceTemplates: [],
    prompts: [],
    ...rest,
  };
}

/** Stands in for the fleet where the test must decide when, and how, each read ends. */
export class ScriptedSource implements SnapshotSource {
  /** What each server answers now: a snapshot, an error, or a promise of one. */
  readonly answers = new Map<string, Snapshot | Error | Promise<Snapshot>>();
  readonly digests = new Map<string, string | Error>();
  readonly reads: string[] = [];
  readonly digestsAsked: string[] = [];
  reading = 0;
  mostReading = 0;

  async digest(server: string): Promise<string> {
    this.digestsAsked.push(server);
    const digest = this.digests.get(server) ?? 'sha256:one';
    if (digest instanceof Error) throw digest;
    return digest;
  }

  async read(server: string, signal: AbortSignal, _options: ReadOptions): Promise<Snapshot | undefined> {
    this.reads.push(server);
    this.reading += 1;
    this.mostReading = Math.max(this.mostReading, this.reading);
    try {
      const answer = await this.answers.get(server);
      signal.throwIfAborted();
      if (answer instanceof Error) throw answer;
      return answer ?? snapshotOf();
    } finally {
      this.reading -= 1;
    }
  }
}

/** Outlives a catalog, as a restart has it. */
export class CountingStore extends MemoryStore {
  writes = 0;

  override set<T>(key: string, value: T, ttlMs?: number): Promise<void> {
    this.writes += 1;
    return super.set(key, value, ttlMs);
  }
}

export interface Bench<S extends Store = CountingStore> {
  catalog: Catalog;
  source: ScriptedSource;
  store: S;
  events: Events;
  changes: GatewayEvents['catalog.changed'][];
  failures: GatewayEvents['discovery.failed'][];
}

/** A catalog over a scripted source; started by the test. */
export function catalogOf<S extends Store = CountingStore>(
  servers: ProcessServer[],
  options: Partial<CatalogOptions> & { source?: ScriptedSource; store?: S } = {},
  gateway: Record<string, unknown> = {},
): Bench<S> {
  const source = options.source ?? new ScriptedSource();
  const store = options.store ?? (new CountingStore() as unknown as S);
  const events = new Events();
  const changes: Bench<S>['changes'] = [];
  const failures: Bench<S>['failures'] = [];
  events.on('catalog.changed', (change) => changes.push(change));
  events.on('discovery.failed', (failure) => failures.push(failure));
  const catalog = new Catalog({ config: configOf(servers, gateway), events, ...options, source, store });
  return { catalog, source, store, events, changes, failures };
}

export const namesOf = (entries: readonly Entry[]) => entries.map(({ name }) => name as string);
