import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import type { CallToolResult } from '@modelcontextprotocol/sdk/types.js';

/** A real client (SDK v1) of a gateway's endpoint. */
export async function connect(url: string, path = '/mcp') {
  const client = new Client({ name: 'test', version: '1' });
  await client.connect(new StreamableHTTPClientTransport(new URL(path, url)));
  return Object.assign(client, {
    /** The text of a tool's first content block. */
    async text(name: string, args: Record<string, unknown> = {}): Promise<string> {
      const result = (await client.callTool({ name, arguments: args })) as CallToolResult;
      const [block] = result.content;
      return block?.type === 'text' ? block.text : JSON.stringify(result);
    },
    [Symbol.asyncDispose]: () => client.close(),
  });
}

/** What a promise was rejected with; fails the test when it was not. */
export async function rejection(
  promise: Promise<unknown>,
): Promise<Error & { code?: number; data?: unknown }> {
  let value: unknown;
  try {
    value = await promise;
  } catch (error) {
    return error as Error;
  }
  throw new Error(`expected a rejection, got ${JSON.stringify(value)?.slice(0, 300)}`);
}
