import { LoadClient, type LoadClientOptions, spread, throughput, time } from './load.ts';

/** What is called, and how, when it is not to be found out. */
export interface AgainstOptions {
  tool?: string | undefined;
  /** JSON. */
  args?: string | undefined;
  /** `Name: value`, each. */
  header?: string[] | undefined;
}

interface Call {
  name: string;
  arguments: Record<string, unknown>;
}

interface Tool {
  name: string;
  inputSchema?: { properties?: Record<string, { type?: unknown }>; required?: string[] };
}

/** An era in which the endpoint answers. */
interface Side {
  era: string;
  server: string;
  /** A client of its own. */
  connect(): Promise<LoadClient>;
  /** How long it takes until a new client knows the server, in milliseconds. */
  introduce(): Promise<number>;
}

/** A wrong URL, nothing there, a tool that fails: for the user to mend. */
class Unmeasurable extends Error {}

/** Far slower endpoints than ours are measured by fewer calls, in no more time than this for each figure. */
const figureMs = 10_000;
const timeoutMs = 30_000;

/** Measures any MCP endpoint of either era, in the eras that it speaks, and prints a table; the exit code. */
export async function against(url: string, options: AgainstOptions): Promise<number> {
  try {
    const clientOptions = { timeoutMs, headers: headersOf(options.header ?? []) };
    const sides = await sidesOf(endpointOf(url), clientOptions);
    const columns: Record<string, string>[] = [];
    for (const side of sides) columns.push(await measure(side, options, columns.length === 0));
    print(columns);
    if (!columns.some((column) => 'tool' in column))
      console.log(
        '\nNo tool was called: none is an echo. Give --tool <name>, and --args <json> if it needs any.',
      );
    return 0;
  } catch (error) {
    if (!(error instanceof Unmeasurable)) throw error;
    console.error(error.message);
    return 1;
  }
}

/** `isCold`: nothing was called before. */
async function measure(
  side: Side,
  options: AgainstOptions,
  isCold: boolean,
): Promise<Record<string, string>> {
  const client = await side.connect();
  try {
    const introductions = await repeat(20, side.introduce);
    const { tools } = resultOf(await client.call('tools/list', {})) as { tools: Tool[] };
    const lists = await repeat(200, () => time(() => client.call('tools/list', {})));
    const figures: Record<string, string> = {
      era: side.era,
      server: side.server,
      'initialize or discover, p50': milliseconds(introductions),
      'tools/list, p50': `${milliseconds(lists)} (${tools.length} tools)`,
    };
    const call = callOf(tools, options);
    if (!call) return figures;

    const work = () => client.call('tools/call', call);
    let answer = '';
    const firstMs = await time(async () => {
      answer = await work().catch((error) => {
        throw new Unmeasurable(`The tool ${call.name} failed: ${error.message}`);
      });
    });
    const result = resultOf(answer) as { isError?: boolean };
    if (result.isError)
      throw new Unmeasurable(`The tool ${call.name} failed: ${JSON.stringify(result).slice(0, 300)}`);
    await throughput(8, 200, work, figureMs / 2);
    const calls = await repeat(1000, () => time(work));
    const perSecond = await throughput(32, 10_000, work, figureMs);
    const slowest = [...calls].sort((a, b) => a - b)[Math.floor(calls.length * 0.99)]!;
    return {
      ...figures,
      tool: call.name,
      ...(isCold && { 'first call': `${firstMs.toFixed(2)} ms` }),
      'warm call, p50': milliseconds(calls),
      'warm call, p99': `${slowest.toFixed(2)} ms`,
      'calls/s, 32 at once': perSecond.toFixed(0),
    };
  } finally {
    await client.end();
  }
}

/** The eras that are answered; throws when there is no MCP at all. */
async function sidesOf(url: string, options: LoadClientOptions): Promise<Side[]> {
  const sides: Side[] = [];
  const failures: string[] = [];
  const modern = LoadClient.modern(url, options);
  try {
    const result = resultOf(await modern.call('server/discover', {})) as { supportedVersions?: string[] };
    if (!result.supportedVersions?.includes('2026-07-28')) throw new Error('2026-07-28 is not supported');
    sides.push({
      era: 'modern, 2026-07-28',
      server: serverIn(result),
      connect: async () => LoadClient.modern(url, options),
      introduce: () => time(() => modern.call('server/discover', {})),
    });
  } catch (error) {
    failures.push(`server/discover: ${reasonOf(error)}`);
  }
  try {
    const client = await LoadClient.connect(url, options);
    const result = resultOf(client.introduction) as { protocolVersion: string };
    await client.end();
    sides.push({
      era: `legacy, ${result.protocolVersion}`,
      server: serverIn(result),
      connect: () => LoadClient.connect(url, options),
      introduce: async () => {
        const startedAt = performance.now();
        const newcomer = await LoadClient.connect(url, options);
        const ms = performance.now() - startedAt;
        await newcomer.end();
        return ms;
      },
    });
  } catch (error) {
    failures.push(`initialize: ${reasonOf(error)}`);
  }
  if (sides.length > 0) return sides;
  const reasons = [...new Set(failures.map((failure) => failure.replace(/\s+/g, ' ').slice(0, 160)))];
  throw new Unmeasurable(`No MCP endpoint at ${url}: ${reasons.join('; ')}`);
}

function endpointOf(url: string): string {
  if (!URL.canParse(url) || !/^https?:$/.test(new URL(url).protocol))
    throw new Unmeasurable(
      `--against is ${JSON.stringify(url)}; expected a URL such as http://127.0.0.1:8000/mcp`,
    );
  return url;
}

function headersOf(lines: string[]): Record<string, string> {
  return Object.fromEntries(
    lines.map((line) => {
      const [, name, value] = /^([\w-]+):\s*(.*)$/.exec(line) ?? [];
      if (!name) throw new Unmeasurable(`--header is ${JSON.stringify(line)}; expected Name: value`);
      return [name.toLowerCase(), value!];
    }),
  );
}

/** The tool that was named, else one that does nothing but answer. */
function callOf(tools: Tool[], { tool, args }: AgainstOptions): Call | undefined {
  const found =
    tool === undefined
      ? tools.find(({ name }) => /(^|[_.-])echo$/i.test(name))
      : (tools.find(({ name }) => name === tool) ?? { name: tool });
  if (!found) return undefined;
  if (args === undefined) return { name: found.name, arguments: textArguments(found) };
  try {
    return { name: found.name, arguments: JSON.parse(args) };
  } catch {
    throw new Unmeasurable(`--args is ${JSON.stringify(args)}; expected JSON such as '{"text": "x"}'`);
  }
}

function textArguments({ inputSchema }: Tool): Record<string, string> {
  const strings = Object.entries(inputSchema?.properties ?? {}).filter(([, { type }]) => type === 'string');
  const wanted = strings.filter(([name]) => inputSchema?.required?.includes(name));
  return Object.fromEntries(wanted.map(([name]) => [name, 'x']));
}

/** The result in an answer's JSON, or in the last event of its stream. */
function resultOf(text: string): object {
  const events = text.startsWith('{')
    ? [text]
    : [...text.matchAll(/^data: ?(.+)$/gm)].map(([, data]) => data!);
  for (const event of events.reverse()) {
    const { result } = JSON.parse(event) as { result?: object };
    if (result) return result;
  }
  throw new Error(`no result in ${text.slice(0, 100)}`);
}

function serverIn(result: object): string {
  const { serverInfo, _meta } = result as { serverInfo?: object; _meta?: Record<string, object> };
  const info = serverInfo ?? _meta?.['io.modelcontextprotocol/serverInfo'] ?? {};
  const { name = '–', version = '' } = info as { name?: string; version?: string };
  return `${name} ${version}`.trim();
}

/** What `count` measurements gave, or as many as fit into the time of a figure. */
async function repeat(count: number, measure: () => Promise<number>): Promise<number[]> {
  const taken: number[] = [];
  const startedAt = performance.now();
  while (taken.length < count && (taken.length === 0 || performance.now() - startedAt < figureMs))
    taken.push(await measure());
  return taken;
}

const milliseconds = (values: number[]) => `${spread(values).median.toFixed(2)} ms`;
const reasonOf = (error: unknown) => (error instanceof Error ? error.message : String(error));

function print(columns: Record<string, string>[]): void {
  const rows = [...new Set(columns.flatMap((column) => Object.keys(column)))].map((label) => [
    label,
    ...columns.map((column) => column[label] ?? '–'),
  ]);
  const widths = rows[0]!.map((_, index) => Math.max(...rows.map((row) => row[index]!.length)));
  for (const row of rows)
    console.log(
      row
        .map((cell, index) => cell.padEnd(widths[index]!))
        .join('  ')
        .trimEnd(),
    );
}
