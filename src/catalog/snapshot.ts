import type { Params } from '../protocol/jsonrpc.ts';

/** A tool, prompt, resource or resource template as its server described it, unknown fields and all. */
export type Entry = Params;

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
}

/** Where snapshots come from. */
export interface SnapshotSource {
  /** What would run now; part of the key under which a snapshot is kept. Does not start anything. */
  digest(server: string, signal: AbortSignal): Promise<string>;
  /** Reads every page of every list, starting the server when it does not run. Throws GatewayError. */
  read(server: string, signal: AbortSignal): Promise<Snapshot>;
}
