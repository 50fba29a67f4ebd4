/**
 * Clients of both eras that go away: while their container boots, while they queue, while their call runs, with a question open; and
 * legacy ones that come back. In waves, the server started anew for each; nothing of them may be left.
 *
 * `node --expose-gc test/soak/drops.ts [clients of each kind, 10000] [of them in a wave, 100]` prints its figures, and exits with 1
 * when something is left.
 */
import { readdirSync } from 'node:fs';
import { Agent, ServerResponse } from 'node:http';
import v8 from 'node:v8';
import vm from 'node:vm';
import { Session } from '../../src/access/sessions.ts';
import { Conversation } from '../../src/gateway/conversation.ts';
import { OpenCall } from '../../src/gateway/open-call.ts';
import { EventStream } from '../../src/http/replay.ts';
import { PostStream } from '../../src/http/replies.ts';
import { startGateway, type TestGateway } from '../harness.ts';
import { Exchange } from '../http/exchange.ts';
import { modernMeta } from '../http/modern-client.ts';
import { until } from '../waiting.ts';

/** What is there when nobody is. */
export interface Remains {
  clients: number;
  heapBytes: number;
  timers: number;
  files: number;
  /** Objects that belong to one client or one call, by class, where there are any. */
  objects: Record<string, number>;
}

export interface SoakOptions {
  /** Of each kind. */
  clients: number;
  perWave: number;
  /** Looks at what is left after this many waves. */
  wavesPerLook: number;
  kinds?: readonly Kind[];
  onLook?(remains: Remains): void;
}

const sessionTimeoutMs = 1000;
const clientMs = 20;
/** Longer than anything of a client that is gone may stay: a session, the time between two keep-alives. */
const settleMs = 20_000;
const server = (more: object) => ({ idle_timeout: '30ms', ...more });

const servers = {
  slow: server({ fixture: 'slow-start', env: { START_DELAY_MS: '100' }, concurrency: 64 }),
  // Eight at a time: the others queue.
  busy: server({ fixture: 'everything', concurrency: 8 }),
  asks: server({
    fixture: 'asks-the-user',
    interactive: true,
    isolation: 'shared',
    timeouts: { client: `${clientMs}ms` },
  }),
};

type ServerName = keyof typeof servers;
type Visit = (client: Client) => Promise<void>;

/** One client of the soak, with connections of its own. */
interface Client {
  readonly index: number;
  modern(tool: string, args: object, capabilities?: object): Exchange;
  legacy(body: object | undefined, headers?: Record<string, string>): Exchange;
}

const pause = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));

/** Goes when it likes, as far as it has not been answered. */
async function dropAfter(exchange: Exchange, ms: number): Promise<void> {
  await Promise.race([exchange.ended, pause(ms)]);
  exchange.drop();
  await exchange.ended;
}

async function legacyCall(client: Client, name: string, args: object): Promise<[Exchange, string]> {
  const begun = client.legacy({
    id: 0,
    method: 'initialize',
    params: { protocolVersion: '2025-11-25', capabilities: {}, clientInfo: { name: 'soak', version: '1' } },
  });
  await begun.ended;
  const session = String(begun.headers['mcp-session-id']);
  const headers = { 'mcp-session-id': session };
  await client.legacy({ method: 'notifications/initialized' }, headers).ended;
  const params = { name, arguments: args, _meta: { progressToken: client.index } };
  return [client.legacy({ id: 1, method: 'tools/call', params }, headers), session];
}

const visits = {
  /** A modern client goes while the container boots. */
  modernBooting: [
    'slow',
    (client) => dropAfter(client.modern('echo', { text: 'x' }), (client.index * 7) % 150),
  ],
  /** A modern client goes while its call runs, or while it queues for it. */
  modernRunning: [
    'busy',
    (client) => dropAfter(client.modern('sleep', { ms: 60_000 }), 50 + (client.index % 200)),
  ],
  /** A modern client is asked, and never comes back. */
  modernAsked: [
    'asks',
    async (client) => {
      const exchange = client.modern('ask', { question: 'x' }, { elicitation: {} });
      await exchange.ended;
      const { result } = exchange.messages.at(-1) ?? {};
      if (result?.resultType !== 'input_required')
        throw new Error(`was not asked: ${JSON.stringify(exchange.messages)}`);
    },
  ],
  /** A legacy client goes and never comes back; its call runs on. */
  legacyGone: [
    'slow',
    async (client) => {
      const [exchange] = await legacyCall(client, 'echo', { text: 'x' });
      await dropAfter(exchange, (client.index * 7) % 150);
    },
  ],
  /** A legacy client goes and comes back for its answer. */
  legacyBack: [
    'slow',
    async (client) => {
      const [exchange, session] = await legacyCall(client, 'echo', { text: `of ${client.index}` });
      const lastEventId = await until(
        () => exchange.lastEventId ?? (exchange.isOver ? null : undefined),
        'an event',
      );
      exchange.drop();
      if (lastEventId === null || exchange.messages.at(-1)?.result) return;
      const headers = { 'mcp-session-id': session, 'last-event-id': lastEventId };
      await pause((client.index * 7) % 150);
      const back = client.legacy(undefined, headers);
      await back.ended;
      const text = back.messages.at(-1)?.result?.content?.[0]?.text;
      if (text !== `of ${client.index}`)
        throw new Error(
          `came back for ${back.status} ${lastEventId} ${JSON.stringify(back.messages)} ${back.eventIds}`,
        );
    },
  ],
} as const satisfies Record<string, readonly [ServerName, Visit]>;

export type Kind = keyof typeof visits;
export const kinds = Object.keys(visits) as Kind[];

/** Runs all waves, of each kind after the other; what was left whenever it was looked. */
export async function soak(options: SoakOptions): Promise<Remains[]> {
  const { clients, perWave, wavesPerLook, onLook } = options;
  const looks: Remains[] = [];
  const others = countObjects(perClient);
  await using gateway = await startGateway({
    servers,
    gateway: { session_timeout: `${sessionTimeoutMs}ms`, max_sessions: 20_000 },
  });
  await gateway.settled();
  for (let done = perWave, wave = 1; done <= clients; done += perWave, wave += 1) {
    for (const kind of options.kinds ?? kinds) {
      const [name, visit] = visits[kind];
      await runWave(gateway, name, visit, perWave);
    }
    if (wave % wavesPerLook !== 0) continue;
    const remains = await look(done, others);
    looks.push(remains);
    onLook?.(remains);
  }
  return looks;
}

async function runWave(gateway: TestGateway, name: ServerName, visit: Visit, count: number): Promise<void> {
  const agent = new Agent({ keepAlive: true });
  const url = gateway.url(`/${name}/mcp`);
  await Promise.all(
    Array.from({ length: count }, (_, index) =>
      visit({
        index,
        modern: (tool, args, capabilities) =>
          new Exchange(url, {
            agent,
            headers: { 'mcp-protocol-version': '2026-07-28', 'mcp-method': 'tools/call', 'mcp-name': tool },
            body: {
              jsonrpc: '2.0',
              id: 1,
              method: 'tools/call',
              params: {
                name: tool,
                arguments: args,
                _meta: modernMeta(capabilities, { progressToken: index }),
              },
            },
          }),
        legacy: (body, headers) =>
          new Exchange(url, {
            agent,
            method: body ? 'POST' : 'GET',
            headers,
            ...(body && { body: { jsonrpc: '2.0', ...body } }),
          }),
      }),
    ),
  );
  agent.destroy();
  const { fleet } = gateway.app;
  await until(() => {
    const { instances, waiting } = fleet.status(name);
    // Nobody holds it, so its idle time ends it: the next wave boots again.
    return waiting === 0 && instances.length === 0;
  }, `${name} at rest`).catch((error) => {
    throw new Error(`${error}: ${JSON.stringify(fleet.status(name))}`);
  });
}

/** Those that do not keep the process alive are in no list of Node's. */
const Timer = clearedTimer().constructor;
const perClient = { Session, Conversation, OpenCall, EventStream, PostStream, ServerResponse };

function clearedTimer(): NodeJS.Timeout {
  const timer = setTimeout(() => {}, 0);
  clearTimeout(timer);
  return timer;
}

/** `others` is what was there before, of somebody else. */
async function look(clients: number, others: Record<string, number>): Promise<Remains> {
  // Sessions expire, and who has gone without a word is noticed.
  let objects = leftBeside(others);
  const untilMs = performance.now() + settleMs;
  while (Object.keys(objects).length > 0 && performance.now() < untilMs) {
    await pause(500);
    objects = leftBeside(others);
  }
  collectGarbage();
  return {
    clients,
    heapBytes: process.memoryUsage().heapUsed,
    timers: countObjects({ Timer }).Timer!,
    files: readdirSync('/proc/self/fd').length,
    objects,
  };
}

function leftBeside(others: Record<string, number>): Record<string, number> {
  const left = Object.entries(countObjects(perClient)).map(
    ([name, count]) => [name, count - others[name]!] as const,
  );
  return Object.fromEntries(left.filter(([, count]) => count > 0));
}

/** Collects garbage first. */
function countObjects(classes: Record<string, unknown>): Record<string, number> {
  const count = (one: unknown) => v8.queryObjects(one as never, { format: 'count' }) as number;
  return Object.fromEntries(Object.entries(classes).map(([name, one]) => [name, count(one)]));
}

function collectGarbage(): void {
  v8.setFlagsFromString('--expose-gc');
  vm.runInNewContext('gc')();
}

/** What is left of clients that are gone: objects, and growth from the second look to the last. */
export function leaks(looks: Remains[], heapSlackBytes: number): string[] {
  const last = looks.at(-1)!;
  const early = looks[Math.min(1, looks.length - 1)]!;
  const found = Object.entries(last.objects).map(([name, left]) => `${left} ${name}`);
  const grown = last.heapBytes - early.heapBytes;
  if (grown > heapSlackBytes) found.push(`${grown} bytes of heap`);
  if (last.timers > early.timers + 2) found.push(`${last.timers - early.timers} timers`);
  if (last.files > early.files + 2) found.push(`${last.files - early.files} open files`);
  return found;
}

if (import.meta.main) {
  const [clients = 10_000, perWave = 100] = process.argv.slice(2).map(Number);
  const startedMs = performance.now();
  const looks = await soak({
    clients,
    perWave,
    wavesPerLook: Math.max(1, Math.floor(clients / perWave / 10)),
    onLook: ({ clients: so, heapBytes, timers, files, objects }) => {
      const heap = `${(heapBytes / 2 ** 20).toFixed(2)} MiB`;
      const left = JSON.stringify(objects);
      console.log(`${so} clients of each kind: heap ${heap}, timers ${timers}, files ${files}, left ${left}`);
    },
  });
  const found = leaks(looks, 2 * 2 ** 20);
  const seconds = Math.round((performance.now() - startedMs) / 1000);
  console.log(`${found.length === 0 ? 'nothing left' : `left: ${found.join(', ')}`} after ${seconds} s`);
  process.exitCode = found.length === 0 ? 0 : 1;
}
