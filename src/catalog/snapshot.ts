import type { Params } from '../protocol/jsonrpc.ts';

/** A tool, prompt, resource or resource template as its server described it, unknown fields and all. */
export type Entry = Params;

/** How long a list may be kept, and by whom, as a modern server says (specification 2026-07-28, server utilities, caching). */
export interface Caching {
  ttlMs: number;
  /** `public`: the same for everybody. */
  cacheScope: 'public' | 'private';
}

/** All that one server offers, read at one time. */
export interface Snapshot {
  protocolVersion: string;
  capabilities: Params;
  serverInfo: Params;
  instructions?: string;
  tools: Entry[];
  resources: Entry[];
  resourceTemplates: Entry[];
  prompts: Entry[];
  /** Of each list, where its server says it. */
  caching?: Partial<Record<'tools' | 'prompts' | 'resources' | 'resourceTemplates', Caching>>;
}

/** Where snapshots come from. */
export interface SnapshotSource {
  /** What would run now; part of the key under which a snapshot is kept. Does not start anything. */
  digest(server: string, signal: AbortSignal): Promise<string>;
  /** Reads every page of every list. undefined: it was not to be woken, and nothing runs. Throws GatewayError. */
  read(server: string, signal: AbortSignal, options: ReadOptions): Promise<Snapshot | undefined>;
}

export interface ReadOptions {
  /** Whether the server is started when it does not run. */
  wake: boolean;
  /**
   * Whether the server has announced a change since this was last asked. Asked before the instance is let go: what has changed
   * meanwhile is read again from the same one.
   */
  hasChanged(): boolean;
}
