import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { cp, mkdir, rm, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { containersOf } from '../e2e/engine.ts';
import { root, run, temporaryFolder } from '../programs.ts';
import { eventually } from '../waiting.ts';
import { freePort } from './free-port.ts';

const CONFIG = `
servers:
  demo: { image: mcp-demo, build: ./servers/demo, network: none, fallback: process }
  boxed: { image: mcp-demo, build: ./servers/demo, network: none }
`;

describe('make up, status and down', () => {
  let folder: string;
  let checkout: string;
  let port: number;
  let up: ChildProcess | undefined;
  let output = '';

  const make = (target: string, env: NodeJS.ProcessEnv = {}) =>
    run('make', [target], { cwd: checkout, env: { ...process.env, GATEWAY_PORT: String(port), ...env } });
  const startUp = (env: NodeJS.ProcessEnv = {}) => {
    output = '';
    up = spawn('make', ['up'], {
      cwd: checkout,
      env: { ...process.env, GATEWAY_PORT: String(port), ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    for (const stream of [up.stdout!, up.stderr!]) stream.on('data', (chunk) => (output += chunk));
  };
  const printed = (pattern: RegExp) =>
    eventually(
      async () => output,
      (text) => pattern.test(text),
      240_000,
    );
  const sayHello = async (server: string) => {
    const answer = await fetch(`http://127.0.0.1:${port}/${server}/tools/say_hello`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ name: 'Make' }),
    });
    return `${answer.status} ${await answer.text()}`;
  };

  beforeAll(async () => {
    folder = await temporaryFolder();
    checkout = join(folder, 'a checkout');
    await mkdir(checkout);
    for (const name of [
      'scripts',
      'bin',
      'src',
      'servers',
      'Makefile',
      'package.json',
      'package-lock.json',
    ]) {
      await cp(join(root, name), join(checkout, name), {
        recursive: true,
        filter: (source) => !source.endsWith('/node_modules'),
      });
    }
    await symlink(join(root, 'node_modules'), join(checkout, 'node_modules'));
    await writeFile(join(checkout, 'servers.yaml'), CONFIG);
    port = await freePort();
  });

  afterEach(async () => {
    if (up?.exitCode === null) {
      up.kill('SIGTERM');
      await once(up, 'close');
    }
  });

  afterAll(() => rm(folder, { recursive: true, force: true }));

  it('set up, serve, say how it goes, and end with nothing left', { timeout: 300_000 }, async () => {
    startUp();
    await printed(/^Ready: /m);
    expect(output).toContain(`claude mcp add --transport http mcp-gateway http://localhost:${port}/mcp`);
    expect(await sayHello('demo')).toMatch(/^200 .*Make/);
    const status = await make('status');
    expect(status).toMatchObject({ code: 0 });
    expect(status.stdout).toMatch(/^demo +\S+ +ready/m);

    const id = (await run('cat', [join(checkout, 'state/gateway-id')])).stdout.trim();
    expect(await containersOf(id)).not.toEqual([]);
    const down = await make('down');
    expect(down, down.stderr).toMatchObject({ code: 0 });
    if (up!.exitCode === null) await once(up!, 'close');
    expect(up!.exitCode).toBe(0);
    expect(await containersOf(id)).toEqual([]);
    expect(await make('status')).toMatchObject({ code: 2 });
  });

  it('down says so when nothing runs', async () => {
    const down = await make('down');
    expect(down).toMatchObject({ code: 0 });
    expect(down.stdout).toContain('No gateway holds');
  });

  it('run without an engine what may be run without, and say what may not', {
    timeout: 300_000,
  }, async () => {
    startUp({ DOCKER_HOST: `unix://${folder}/no-engine.sock` });
    await printed(/^Ready: /m);
    expect(output).toMatch(/no(-| )engine/i);
    expect(output).toMatch(/without a sandbox[^\n]*demo/i);
    expect(await sayHello('demo')).toMatch(/^200 .*Make/);
    expect(await sayHello('boxed')).not.toMatch(/^200/);
    expect(await make('down', { DOCKER_HOST: `unix://${folder}/no-engine.sock` })).toMatchObject({ code: 0 });
  });
});
