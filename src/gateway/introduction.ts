import type { Snapshot } from '../catalog/snapshot.ts';
import type { Config } from '../config/schema.ts';
import { type Era, eraOf } from '../protocol/eras.ts';
import { isObject, type Params } from '../protocol/jsonrpc.ts';
import { tasksExtension } from '../protocol/modern.ts';
import { instructionsOf } from './instructions.ts';

/** What an endpoint says of itself, in `initialize` as in `server/discover`. */
export interface Introduction {
  capabilities: Params;
  serverInfo: Params;
  instructions?: string;
}

/** The endpoint of all servers: the gateway itself. What it declares does not depend on what is known so far. */
export function aboutGateway(
  config: Config,
  known: (server: string) => Snapshot | undefined,
  version: string,
  era: Era,
): Introduction {
  const instructions = instructionsOf(
    [...config.servers.values()]
      .filter(({ enabled }) => enabled)
      .map(({ name }) => ({ server: name, text: known(name)?.instructions })),
  );
  return {
    capabilities: {
      tools: { listChanged: true },
      resources: { subscribe: true, listChanged: true },
      prompts: { listChanged: true },
      completions: {},
      logging: {},
      ...(era === 'legacy'
        ? { tasks: { list: {}, cancel: {}, requests: { tools: { call: {} } } } }
        : { extensions: { [tasksExtension]: {} } }),
    },
    serverInfo: { name: 'mcp-gateway', title: 'MCP Gateway', version },
    ...(instructions && { instructions }),
  };
}

/** The endpoint of one server, for clients of an era: what the server says, without what does not reach over to the other era. */
export function aboutServer(
  { protocolVersion, capabilities, serverInfo, instructions }: Snapshot,
  era: Era,
): Introduction {
  const isBridged = eraOf(protocolVersion) !== era;
  // Tasks are one thing in the legacy era and another in the modern one.
  const { tasks, extensions, ...carried } = capabilities;
  if (!isBridged && tasks !== undefined) carried.tasks = tasks;
  if (isObject(extensions)) {
    const { [tasksExtension]: ours, ...others } = extensions;
    carried.extensions = isBridged || ours === undefined ? others : extensions;
  }
  for (const kind of ['tools', 'resources', 'prompts']) {
    // The catalog announces what it finds changed, whether the server does or not.
    if (isObject(carried[kind])) carried[kind] = { ...carried[kind], listChanged: true };
  }
  return { capabilities: carried, serverInfo, ...(instructions !== undefined && { instructions }) };
}
