import { readFile } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { knowsExitsAtOnce } from '../docker/harness.ts';
import { eventually } from '../waiting.ts';
import { containersOf, engine, fixture } from './engine.ts';
import { type GatewayProcess, startGateway } from './gateway-process.ts';
import { connect, rejection } from './mcp-client.ts';

const eatAtOnce = 'const all = []; setInterval(() => all.push(Buffer.alloc(16 << 20, 1)), 5)';
/** Works, and dies for its memory half a second after its first call, when nobody calls it. */
const eatLater = `import { createServer, text } from '/app/stdio.mjs';
  createServer({ name: 'later' }).tool('go', { description: 'Goes' }, () => {
    setTimeout(() => { ${eatAtOnce} }, 500);
    return text('gone soon');
  }).start()`;

describe('servers that fail', () => {
  let gateway: GatewayProcess;
  let client: Awaited<ReturnType<typeof connect>>;

  beforeAll(async () => {
    gateway = await startGateway({
      config: `servers:
${fixture('good', 'everything.mjs')}${fixture('silent', 'never-ready.mjs', { timeouts: { handshake: '2s' } })}\
${fixture('flood', 'floods-stdout.mjs')}${fixture('endless', 'endless-line.mjs')}${fixture('exits', 'exits-at-once.mjs')}\
${fixture('hungry', 'out-of-memory.mjs', { limits: { memory: '64m' } })}${fixture('crash', 'crash-on-call.mjs')}
${fixture('greedy', 'unused', { command: ['node', '-e', eatAtOnce], limits: { memory: '64m' } })}\
${fixture('cramped', 'everything.mjs', { limits: { memory: '6m' } })}\
${fixture('later', 'unused', { command: ['node', '--input-type=module', '-e', eatLater], limits: { memory: '64m' } })}
  absent: { image: "mcp-no-such-image", pull: never }
  keyless: { image: mcp-fixtures, env: { KEY: "\${MCP_TEST_KEY_THAT_NOBODY_SETS}" } }
`,
      discovered: true,
    });
    client = await connect(gateway.url);
  }, 300_000);
  afterAll(async () => {
    await client?.close();
    await gateway?.[Symbol.asyncDispose]();
  });

  const residentBytes = async () => {
    const status = await readFile(`/proc/${gateway.process.pid}/status`, 'utf8');
    return Number(/VmRSS:\s+(\d+) kB/.exec(status)![1]) * 1024;
  };

  it('lists every tool of the servers that work', async () => {
    const { tools } = await client.listTools();
    const servers = new Set(tools.map(({ name }) => name.split('__')[0]));
    expect([...servers].sort()).toEqual(['crash', 'endless', 'flood', 'good', 'hungry', 'later']);
  });

  it.each([
    ['silent__anything', /silent.*initialize.*2 s/s],
    ['exits__anything', /exits.*code 3/s],
    ['absent__anything', /mcp-no-such-image/],
    ['keyless__anything', /servers\.yaml:\d+:\d+: .*MCP_TEST_KEY_THAT_NOBODY_SETS/],
  ])('answers %s with its cause', async (name, cause) => {
    const error = await rejection(client.callTool({ name, arguments: {} }));
    expect(error.message).toMatch(cause);
    expect(error.data).toMatchObject({ server: name.split('__')[0], hint: expect.any(String) });
  });

  it('answers a call whose container was removed, within 100 ms of the end of its stream, and the next call works', async () => {
    const id = await gateway.id();
    const call = rejection(client.callTool({ name: 'good__sleep', arguments: { ms: 60_000 } })).then(
      (error) => ({ error, atMs: Date.now() }),
    );
    const [name] = await eventually(
      () => containersOf(id, 'good'),
      (names) => names.length === 1,
    );
    await delay(500);
    // A second reader of the same stream sees its end when the gateway does.
    const stream = await engine.getContainer(name!).attach({ stream: true, stdout: true });
    const ended = new Promise<number>((resolve) =>
      stream
        .on('close', () => resolve(Date.now()))
        .on('end', () => resolve(Date.now()))
        .resume(),
    );
    await engine.getContainer(name!).remove({ force: true });
    const { error, atMs } = await call;
    expect(error.message).toContain('good');
    expect(atMs - (await ended)).toBeLessThan(250);
    expect(await client.text('good__echo', { text: 'back' })).toBe('back');
  });

  /** The engine knew of the exit too late for the answer, which then goes without, as it should. */
  const wasLate = ({ data }: { data?: unknown }) =>
    !knowsExitsAtOnce && (data as { exitCode?: number }).exitCode === undefined;

  it('names the exit code and the last lines of stderr of a crash', async () => {
    const error = await rejection(client.callTool({ name: 'crash__crash', arguments: { code: 7 } }));
    expect(error.message).toMatch(/crash.*the tool crash was called/s);
    if (!wasLate(error)) expect(error.message).toMatch(/exit code 7/);
    expect(await client.text('crash__ok')).toBeTruthy();
  });

  it('says so when a server ran out of memory', async () => {
    const error = await rejection(client.callTool({ name: 'hungry__eat', arguments: {} }));
    expect(error.message).toContain('hungry');
    if (wasLate(error)) return;
    expect(error.message).toMatch(/hungry.*memory/s);
    expect(error.data).toMatchObject({ code: 'out_of_memory', hint: expect.stringContaining('limits') });
  });

  it.each(['greedy', 'cramped'])(
    'says so when the memory of %s does not suffice for its start',
    async (name) => {
      const error = await rejection(client.callTool({ name: `${name}__anything`, arguments: {} }));
      expect(error.message).toMatch(new RegExp(`${name}.*out of memory`, 's'));
      // Behind the breaker that it has opened by now, or not.
      expect(error.data).toMatchObject({ server: name, hint: expect.stringContaining('limits.memory') });
      const data = error.data as { code: string; reason?: string };
      expect(data.reason ?? data.code).toBe('out_of_memory');
    },
  );

  it('shows it where an instance ran out of memory while nobody called it, and the next call works', async () => {
    expect(await client.text('later__go')).toBe('gone soon');
    const shown = await eventually(
      async () =>
        (await (await fetch(`${gateway.url}/servers/later`)).json()) as {
          state: string;
          instances: unknown[];
          last_error?: { code: string; hint: string };
        },
      ({ last_error }) => last_error !== undefined,
    );
    expect(shown).toMatchObject({
      state: 'stopped',
      instances: [],
      last_error: { code: 'out_of_memory', hint: expect.stringContaining('limits.memory') },
    });
    expect(await client.text('later__go')).toBe('gone soon');
  });

  it('bounds a flood and an endless line while others are served as before', async () => {
    await client.text('good__echo', { text: 'warm' });
    const before = await residentBytes();
    const bad = Promise.all([
      rejection(client.callTool({ name: 'flood__flood', arguments: {} })),
      rejection(client.callTool({ name: 'endless__endless', arguments: {} })),
    ]);
    let settled = false;
    void bad.finally(() => {
      settled = true;
    });
    let served = 0;
    let most = before;
    while (!settled) {
      expect(await client.text('good__echo', { text: 'x' })).toBe('x');
      expect((await fetch(`${gateway.url}/health`)).status).toBe(200);
      most = Math.max(most, await residentBytes());
      served += 1;
    }
    const [flood, endless] = await bad;
    expect(flood.message).toContain('flood');
    expect(endless.message).toMatch(/endless.*64/s);
    expect(served).toBeGreaterThan(20);
    expect(most - before).toBeLessThan(400 * 1024 * 1024);
  });

  it('shows what fails and why in /servers and /health', async () => {
    type Shown = { name: string; state: string; last_error?: { message: string } };
    const bad = ['silent', 'exits', 'absent', 'keyless'];
    const ask = async () => {
      const { servers } = (await (await fetch(`${gateway.url}/servers`)).json()) as { servers: Shown[] };
      return bad.map((name) => servers.find((server) => server.name === name)!);
    };
    // One that is just being tried again is starting.
    const shown = await eventually(ask, (servers) => servers.every(({ state }) => state === 'failed'));
    for (const server of shown) expect(server).toMatchObject({ last_error: { message: expect.any(String) } });
    await eventually(
      async () =>
        (await (await fetch(`${gateway.url}/health`)).json()) as { servers: Record<string, number> },
      ({ servers }) => servers.failed! >= bad.length,
    );
  });
});
