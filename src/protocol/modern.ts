import { versionMetaKey } from './eras.ts';
import type { Params } from './jsonrpc.ts';

/*
 * The modern era's words (specification 2026-07-28, basic): what a request says of its client, and what a result says of itself.
 */

/** Keys of `_meta` that the protocol has taken for itself. */
export const metaKeys = {
  version: versionMetaKey,
  clientInfo: 'io.modelcontextprotocol/clientInfo',
  clientCapabilities: 'io.modelcontextprotocol/clientCapabilities',
  logLevel: 'io.modelcontextprotocol/logLevel',
  subscriptionId: 'io.modelcontextprotocol/subscriptionId',
  serverInfo: 'io.modelcontextprotocol/serverInfo',
} as const;

/** What a modern request says of its client; what a modern server is told of a legacy one. */
export interface ClientContext {
  capabilities: Params;
  info?: Params;
  /** Without one nothing may be logged to the client. */
  logLevel?: string;
}

/** The extension that carries tasks. */
export const tasksExtension = 'io.modelcontextprotocol/tasks';
