import { createHash } from 'node:crypto';
import { mkdir, rm, symlink, writeFile } from 'node:fs/promises';
import { connect, createServer, type Server } from 'node:net';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { root, run, temporaryFolder } from '../programs.ts';

const script = join(root, 'scripts/ensure-docker.sh');
const { DOCKER_HOST: _host, DOCKER_CONTEXT: _context, ...plain } = process.env;

let folder: string;
/** Where this machine's engine really is. */
let engineHost: string;
/** A second way to it, at a place of our choosing. */
let door: string;
let server: Server;

const ensure = (args: string[], env: NodeJS.ProcessEnv = {}) =>
  run(script, args, { env: { ...plain, ...env } });
const ask = (path: string) =>
  run('node', [
    '-e',
    `require('http').get({socketPath: ${JSON.stringify(path)}, path: '/info'}, (r) => r.pipe(process.stdout))`,
  ]);

beforeAll(async () => {
  folder = await temporaryFolder();
  const found = await ensure(['--print'], { DOCKER_HOST: process.env.DOCKER_HOST });
  engineHost = found.stdout.trim();
  expect(engineHost, found.stderr).toMatch(/^unix:\/\//);
  door = join(folder, 'engine.sock');
  server = createServer((client) => {
    const engine = connect(engineHost.slice('unix://'.length));
    client.pipe(engine).pipe(client);
    client.on('error', () => engine.destroy());
    engine.on('error', () => client.destroy());
  }).listen(door);
});

afterAll(async () => {
  server.close();
  await rm(folder, { recursive: true, force: true });
});

describe('ensure-docker.sh', () => {
  it('takes an engine that answers and leaves it as it is', async () => {
    const before = JSON.parse((await ask(engineHost.slice('unix://'.length))).stdout);
    const result = await ensure([]);
    const after = JSON.parse((await ask(engineHost.slice('unix://'.length))).stdout);
    expect(result.code).toBe(0);
    expect(result.stdout.trimEnd().split('\n').at(-1)).toBe(engineHost);
    expect(after.ID).toBe(before.ID);
    expect(result.stderr).not.toMatch(/Installing|Starting/);
  });

  it('prints the address alone with --print', async () => {
    expect(await ensure(['--print'])).toEqual({ code: 0, stdout: `${engineHost}\n`, stderr: '' });
  });

  it('takes the engine that DOCKER_HOST names', async () => {
    const result = await ensure(['--print'], { DOCKER_HOST: `unix://${door}` });
    expect(result).toMatchObject({ code: 0, stdout: `unix://${door}\n` });
  });

  it('takes the engine of the current docker context', async () => {
    const config = join(folder, 'docker-config');
    const meta = join(config, 'contexts/meta', createHash('sha256').update('elsewhere').digest('hex'));
    await mkdir(meta, { recursive: true });
    await writeFile(join(config, 'config.json'), JSON.stringify({ currentContext: 'elsewhere' }, null, 2));
    await writeFile(
      join(meta, 'meta.json'),
      JSON.stringify({
        Name: 'elsewhere',
        Metadata: {},
        Endpoints: { docker: { Host: `unix://${door}`, SkipTLSVerify: false } },
      }),
    );
    const result = await ensure(['--print', '--find'], { DOCKER_CONFIG: config });
    expect(result).toMatchObject({ code: 0, stdout: `unix://${door}\n` });
  });

  it('asks by Node where there is no curl', async () => {
    const bin = join(folder, 'bin');
    await mkdir(bin);
    for (const name of ['bash', 'env', 'dirname', 'node', 'id', 'uname', 'sed', 'head', 'cat']) {
      const { stdout } = await run('sh', ['-c', `command -v ${name}`]);
      await symlink(stdout.trim(), join(bin, name));
    }
    const result = await ensure(['--print', '--find'], { DOCKER_HOST: `unix://${door}`, PATH: bin });
    expect(result, result.stderr).toMatchObject({ code: 0, stdout: `unix://${door}\n` });
  });

  it('says so when DOCKER_HOST names a place where nothing answers, and looks nowhere else', async () => {
    for (const host of [`unix://${folder}/nothing.sock`, 'tcp://127.0.0.1:9', 'nonsense']) {
      const result = await ensure(['--print'], { DOCKER_HOST: host });
      expect(result).toMatchObject({ code: 1, stdout: '' });
      expect(result.stderr).toContain(`DOCKER_HOST is ${host}, where no engine answers`);
    }
  });

  it('may be run many times at once', async () => {
    const results = await Promise.all(Array.from({ length: 5 }, () => ensure(['--print'])));
    expect(new Set(results.map(({ stdout }) => stdout))).toEqual(new Set([`${engineHost}\n`]));
  });

  it('refuses an option that it does not know', async () => {
    expect(await ensure(['--instal'])).toMatchObject({ code: 2 });
  });
});
