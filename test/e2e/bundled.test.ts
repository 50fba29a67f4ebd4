import { readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { root, temporaryFolder } from '../programs.ts';
import { eventually } from '../waiting.ts';
import { containersOf, engine, fixture } from './engine.ts';
import { type GatewayProcess, startGateway } from './gateway-process.ts';
import { connect } from './mcp-client.ts';

describe('the servers.yaml that comes along', () => {
  let folder: string;
  let gateway: GatewayProcess;
  let client: Awaited<ReturnType<typeof connect>>;
  const volume = `mcp-gateway-test-${process.pid}`;

  beforeAll(async () => {
    folder = await temporaryFolder();
    const config = (await readFile(join(root, 'servers.yaml'), 'utf8'))
      .replaceAll('./servers/', `${root}servers/`)
      .replace('memory:/data', `${volume}:/data`)
      .replace('default_idle_timeout: 300s', 'default_idle_timeout: 1s');
    gateway = await startGateway({ folder, config, env: { WORKSPACE: folder }, discovered: true });
    client = await connect(gateway.url);
  }, 400_000);
  afterAll(async () => {
    await client?.close();
    await gateway?.[Symbol.asyncDispose]();
    await engine
      .getVolume(volume)
      .remove()
      .catch(() => {});
    await rm(folder, { recursive: true, force: true });
  });

  it('has every tool of every server', async () => {
    const { tools } = await client.listTools();
    const counts: Record<string, number> = {};
    for (const { name } of tools) {
      const server = name.split('__')[0]!;
      counts[server] = (counts[server] ?? 0) + 1;
    }
    expect(Object.keys(counts).sort()).toEqual(['context7', 'demo', 'everything', 'filesystem', 'memory']);
    expect(tools.map(({ name }) => name)).toEqual(
      expect.arrayContaining([
        'context7__get_documentation',
        'context7__search_code_examples',
        'demo__say_hello',
      ]),
    );
  });

  it('greets', async () => {
    expect(await client.text('demo__say_hello', { name: 'World' })).toBe(
      'Hello World! Greetings from Gateway!',
    );
  });

  it('reads a file of the folder that it was given, and none beside it', async () => {
    await writeFile(join(folder, 'note.txt'), 'from the host');
    expect(await client.text('filesystem__read_text_file', { path: '/workspace/note.txt' })).toBe(
      'from the host',
    );
    expect(await client.text('filesystem__read_text_file', { path: '/etc/passwd' })).toMatch(/denied/i);
  });

  it('remembers what was written before its container was stopped for idleness', async () => {
    await client.callTool({
      name: 'memory__create_entities',
      arguments: { entities: [{ name: 'Ada', entityType: 'person', observations: ['likes engines'] }] },
    });
    const id = await gateway.id();
    await eventually(
      () => containersOf(id, 'memory'),
      (names) => names.length === 0,
    );
    expect(await client.text('memory__read_graph')).toContain('likes engines');
  });
});

it('gives a server no way to its own gateway: not by name, not by the bridge, not with a forged Host', async () => {
  await using gateway = await startGateway({
    config: `servers:\n${fixture('one', 'everything.mjs')}`,
    discovered: true,
  });
  await using client = await connect(gateway.url);
  const { port } = new URL(gateway.url);
  const network = await engine.getNetwork('mcp-network').inspect();
  const bridge = network.IPAM?.Config?.[0]?.Gateway as string;
  for (const host of ['localhost', '127.0.0.1', 'mcp-gateway', 'host.docker.internal', bridge]) {
    for (const forged of [undefined, `localhost:${port}`]) {
      const answer = await client.text('one__http_get', {
        url: `http://${host}:${port}/health`,
        host: forged,
      });
      expect(answer, `${host} as ${forged}`).not.toContain('"status":"ok"');
      expect(answer).toMatch(/E[A-Z]{4,}|timed? ?out/);
    }
  }
});
