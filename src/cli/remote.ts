import { text } from 'node:stream/consumers';
import { GatewayError, messageOf } from '../base/errors.ts';
import { isObject } from '../protocol/jsonrpc.ts';
import { GatewayClient } from './client.ts';
import type { ConfigOptions, ExitCode } from './program.ts';
import { table } from './table.ts';

interface RemoteOptions extends ConfigOptions {
  json?: boolean;
}

interface ServerView {
  name: string;
  type: string;
  state: string;
  sandbox?: string;
  instances: { id: string; state: string; leases: number }[];
  tools?: number;
  last_error?: { message: string; hint?: string };
}

interface ToolView {
  name: string;
  title?: string;
  description?: string;
}

const print = (line: string) => process.stdout.write(`${line}\n`);
const json = (value: unknown) => print(JSON.stringify(value, null, 2));
const firstLine = (text = '') => {
  const line = text.split('\n')[0]!.trim();
  return line.length > 80 ? `${line.slice(0, 79)}…` : line;
};

/** `servers`: one row a server. */
export async function servers(options: RemoteOptions): Promise<ExitCode> {
  const client = await GatewayClient.find(options);
  const answer = await client.get<{ servers: ServerView[] }>('/servers');
  if (options.json) {
    json(answer);
    return 0;
  }
  const rows = answer.servers.map((server) => [
    server.name,
    server.type,
    server.state,
    server.sandbox ?? '-',
    String(server.instances.length),
    String(server.tools ?? '-'),
    firstLine(server.last_error?.message),
  ]);
  print(table(['SERVER', 'TYPE', 'STATE', 'SANDBOX', 'INSTANCES', 'TOOLS', 'LAST ERROR'], rows));
  return 0;
}

/** `tools [server]`: what can be called, by its native name. */
export async function tools(server: string | undefined, options: RemoteOptions): Promise<ExitCode> {
  const client = await GatewayClient.find(options);
  const names = server
    ? [server]
    : (await client.get<{ servers: ServerView[] }>('/servers')).servers
        .filter(({ state }) => state !== 'disabled')
        .map(({ name }) => name);
  const lists = await Promise.all(
    names.map(async (name) => {
      try {
        const { tools } = await client.get<{ tools: ToolView[] }>(`/${encodeURIComponent(name)}/tools`);
        return { server: name, tools };
      } catch (error) {
        // One server that cannot be read must not hide the others' tools.
        if (server) throw error;
        return { server: name, tools: [], error: messageOf(error) };
      }
    }),
  );
  if (options.json) {
    json(lists);
    return 0;
  }
  const rows = lists.flatMap(({ server, tools, error }) =>
    error
      ? [[server, '-', firstLine(error)]]
      : tools.map((tool) => [server, tool.name, firstLine(tool.description)]),
  );
  print(table(['SERVER', 'TOOL', 'DESCRIPTION'], rows));
  return 0;
}

/** `call <server> <tool> [json]`: prints the result's text; 1 when the tool says that it failed. */
export async function call(
  server: string,
  tool: string,
  argument: string,
  options: RemoteOptions,
): Promise<ExitCode> {
  const client = await GatewayClient.find(options);
  const body = parseArguments(argument === '-' ? await text(process.stdin) : argument);
  const result = await client.post<{ content?: { type: string; text?: string }[]; isError?: boolean }>(
    `/${encodeURIComponent(server)}/tools/${encodeURIComponent(tool)}`,
    body,
  );
  const blocks = result.content ?? [];
  if (options.json || blocks.length === 0) json(result);
  else for (const block of blocks) print(block.text ?? JSON.stringify(block));
  return result.isError ? 1 : 0;
}

function parseArguments(text: string): object {
  try {
    const value: unknown = JSON.parse(text);
    if (isObject(value)) return value;
  } catch {
    // falls through to the same error: what was given is no JSON object
  }
  throw new GatewayError(
    'config_invalid',
    `expected the tool's arguments as a JSON object, found: ${firstLine(text)}`,
    {
      hint: `For example: mcp-gateway call demo say_hello '{"name": "World"}'`,
    },
  );
}

/** `logs <server> [-f]`. */
export async function logs(
  server: string,
  options: RemoteOptions & { follow?: boolean; tail: number },
): Promise<ExitCode> {
  const client = await GatewayClient.find(options);
  const query = new URLSearchParams({
    tail: String(options.tail),
    ...(options.follow ? { follow: '1' } : {}),
  });
  const answer = await client.request(`/servers/${encodeURIComponent(server)}/logs?${query}`);
  if (options.json) {
    const lines = (await answer.text()).split('\n');
    json(lines.filter((line, index) => line !== '' || index < lines.length - 1));
    return 0;
  }
  const decoder = new TextDecoder();
  for await (const chunk of answer.body ?? []) process.stdout.write(decoder.decode(chunk, { stream: true }));
  return 0;
}
