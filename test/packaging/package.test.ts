import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { stateDirHolder } from '../../src/base/state-dir.ts';
import { startGateway } from '../e2e/gateway-process.ts';
import { root, run, temporaryFolder } from '../programs.ts';
import { until } from '../waiting.ts';
import { freePort } from './free-port.ts';

/** The oldest Node that the package promises to run on. */
const oldestNode = 'node@22';

describe('the published package', () => {
  let folder: string;
  let node: string;
  let bin: string;

  beforeAll(async () => {
    folder = await temporaryFolder();
    const packed = await run('npm', ['pack', '--pack-destination', folder, '--silent'], { cwd: root });
    expect(packed.code, packed.stderr).toBe(0);
    const tarball = (await readdir(folder)).find((name) => name.endsWith('.tgz'))!;
    await mkdir(join(folder, 'user'));
    await writeFile(
      join(folder, 'user/package.json'),
      '{ "private": true, "allowScripts": { "node": true } }',
    );
    const installed = await run('npm', ['install', '--no-save', `../${tarball}`, oldestNode], {
      cwd: join(folder, 'user'),
      limitMs: 300_000,
    });
    expect(installed.code, installed.stderr).toBe(0);
    node = join(folder, 'user/node_modules/node/bin/node');
    bin = join(folder, 'user/node_modules/.bin/mcp-gateway');
  }, 400_000);
  afterAll(() => rm(folder, { recursive: true, force: true }));

  const gateway = (...args: string[]) => run(node, [bin, ...args], { cwd: folder });

  it('runs on the oldest Node that it promises', async () => {
    expect((await run(node, ['--version'])).stdout).toMatch(/^v22\./);
    expect(await gateway('--version')).toMatchObject({
      code: 0,
      stdout: expect.stringMatching(/^\d+\.\d+\.\d+\n$/),
    });
  });

  it('writes an example and validates it', async () => {
    expect((await gateway('example', '--output', 'servers.yaml')).code).toBe(0);
    const { code, stdout } = await gateway('validate');
    expect(stdout).toContain('is valid');
    expect(code).toBe(0);
  });

  it('serves a tool', async () => {
    const program = join(root, 'test/fixtures/servers/tiny.mjs');
    const config = JSON.stringify({ servers: { tiny: { type: 'process', command: [node, program] } } });
    await using running = await startGateway({ config, program: [node, bin], discovered: true });
    const { port } = new URL(running.url);
    expect(await gateway('call', 'tiny', 'echo', '{"text": "packed"}', '--port', port)).toMatchObject({
      code: 0,
      stdout: 'packed\n',
    });
  });

  it('is an MCP server on stdin and stdout', async () => {
    const program = join(root, 'test/fixtures/servers/tiny.mjs');
    const servers = { tiny: { type: 'process', command: [node, program] } };
    const home = await mkdtemp(join(folder, 'stdio '));
    const config = join(home, 'servers.yaml');
    await writeFile(config, JSON.stringify({ gateway: { port: await freePort() }, servers }));
    const requests = [
      { id: 1, method: 'initialize', params: { protocolVersion: '2025-11-25', capabilities: {} } },
      { id: 2, method: 'tools/call', params: { name: 'tiny__echo', arguments: { text: 'packed' } } },
    ];
    const { code, stdout, stderr } = await run(
      node,
      [bin, 'stdio', '--config', config, '--end-when-unused', '1s'],
      { input: requests.map((request) => `${JSON.stringify({ jsonrpc: '2.0', ...request })}\n`).join('') },
    );
    expect(code, stderr).toBe(0);
    expect(stdout).toContain('"text":"packed"');
    const holder = () => stateDirHolder(join(home, 'state'));
    await until(async () => (await holder()) === undefined, 'the gateway ends');
  });
});
