import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { cp, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { GatewayError } from '../../src/base/errors.ts';
import {
  type DockerServer,
  gatewaySchema,
  type ServerConfig,
  type TemplateServer,
} from '../../src/config/schema.ts';
import { FallbackRuntime } from '../../src/runtimes/fallback.ts';
import { ProcessRuntime } from '../../src/runtimes/process.ts';
import type { PrepareProgress } from '../../src/runtimes/runtime.ts';
import { NpmVersions } from '../../src/runtimes/templates/npm.ts';
import { containerServer } from '../configured.ts';
import { Peer } from '../runtime-contract.ts';

const run = promisify(execFile);
const fixtures = path.join(import.meta.dirname, '../fixtures/servers');

let folder: string;
let environment: Record<string, string>;
let runtime: FallbackRuntime;
const peers: Peer[] = [];

beforeEach(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'fallback-'));
  // A home of its own, so that npm finds neither settings nor a filled cache.
  environment = { PATH: process.env.PATH!, HOME: path.join(folder, 'home') };
  await mkdir(environment.HOME!);
  runtime = makeRuntime();
});
afterEach(async () => {
  for (const { instance } of peers.splice(0)) await instance.stop({ graceMs: 0 });
  await runtime.close();
  await rm(folder, { recursive: true, force: true });
});

function makeRuntime() {
  const stateDir = path.join(folder, 'state');
  const processes = new ProcessRuntime({ gateway: gatewaySchema.parse({}), stateDir, environment });
  const versions = new NpmVersions({ stateDir, env: environment });
  return new FallbackRuntime({ processes, versions, stateDir, environment });
}

const docker = (name: string, overrides: Partial<DockerServer> = {}): DockerServer => ({
  ...containerServer(name),
  compileCache: false,
  env: { GREETING: 'hello' },
  workingDir: '/app',
  fallback: 'process',
  type: 'docker',
  image: `mcp-${name}`,
  command: undefined,
  build: { context: path.join(folder, name), dockerfile: 'Dockerfile', args: {} },
  ...overrides,
});
const template = (overrides: Partial<TemplateServer> = {}): TemplateServer => ({
  ...containerServer('packaged'),
  workingDir: '/app',
  fallback: 'process',
  type: 'template',
  template: 'npm',
  package: 'tiny-mcp-server',
  version: '1.2.3',
  bin: undefined,
  command: undefined,
  ...overrides,
});

async function start(server: ServerConfig) {
  const peer = await Peer.start(runtime, server);
  peers.push(peer);
  return peer;
}
const failure = (server: ServerConfig) =>
  runtime.prepare(server, {}).then(
    () => undefined,
    (error: GatewayError) => error,
  );

/** A build folder with a dependency that lies beside it, so that npm needs no registry. */
async function buildFolder(name: string, dockerfile: string) {
  const build = path.join(folder, name);
  await mkdir(path.join(build, 'dependency'), { recursive: true });
  await cp(path.join(fixtures, 'tiny.mjs'), path.join(build, 'dependency/index.mjs'));
  const manifest = (file: string, content: unknown) =>
    writeFile(path.join(build, file), JSON.stringify(content));
  await manifest('dependency/package.json', { name: 'dependency', version: '1.0.0', exports: './index.mjs' });
  await manifest('package.json', {
    name,
    version: '1.0.0',
    dependencies: { dependency: 'file:./dependency' },
  });
  await writeFile(
    path.join(build, 'server.mjs'),
    "import 'dependency';\nprocess.stderr.write(process.env.GREETING + '\\n');\n",
  );
  await writeFile(path.join(build, 'Dockerfile'), dockerfile);
  await run('npm', ['install', '--package-lock-only', '--offline', '--no-audit'], {
    cwd: build,
    env: environment,
  });
  return build;
}

describe('a server with a build folder', () => {
  it('runs there as the Dockerfile says, after npm ci, once for each lockfile', async () => {
    const build = await buildFolder(
      'own',
      'FROM node\nCMD ["wrong"]\nENTRYPOINT ["node"]\nCMD [ "server.mjs" ]\n',
    );
    const progress: PrepareProgress[] = [];
    const onProgress = (step: PrepareProgress) => void progress.push(step);
    const both = await Promise.all([
      runtime.prepare(docker('own'), { onProgress }),
      runtime.prepare(docker('own', { name: 'twin' }), { onProgress }),
    ]);
    expect(both[0].digest).toBeTruthy();
    expect(progress.filter(({ text }) => text.includes('npm ci'))).toEqual([
      { step: 'install', text: expect.stringMatching(/^npm ci in .*own$/) },
    ]);
    const peer = await start(docker('own'));
    expect(await peer.call('echo', { text: 'from a process' })).toBe('from a process');
    expect(peer.instance.stderrTail()).toEqual(['hello']);

    progress.length = 0;
    const again = makeRuntime();
    expect(await again.prepare(docker('own'), { onProgress })).toEqual(both[0]);
    expect(progress).toEqual([]);
    const lock = path.join(build, 'package-lock.json');
    await writeFile(lock, `${await readFile(lock, 'utf8')}\n`);
    const changed = await again.prepare(docker('own'), { onProgress });
    expect(changed.digest).not.toBe(both[0].digest);
    expect(progress).not.toEqual([]);

    await rm(path.join(build, 'node_modules'), { recursive: true });
    await again.prepare(docker('own'), {});
    expect(await readdir(path.join(build, 'node_modules'))).toContain('dependency');
  });

  it('runs its own command where the entry has one', async () => {
    await buildFolder('own', 'FROM node\nENTRYPOINT ["node"]\nCMD ["wrong.mjs"]\n');
    const peer = await start(docker('own', { command: ['server.mjs'] }));
    expect(await peer.call('echo', { text: 'x' })).toBe('x');
    const other = await start(docker('own', { entrypoint: ['sh', '-c'], command: ['exec node server.mjs'] }));
    expect(await other.call('echo', { text: 'y' })).toBe('y');
  });

  it('runs the shell form, and without any packages', async () => {
    await mkdir(path.join(folder, 'bare'));
    await cp(path.join(fixtures, 'tiny.mjs'), path.join(folder, 'bare/tiny.mjs'));
    await writeFile(path.join(folder, 'bare/Dockerfile'), 'FROM node\nCMD exec \\\n  node tiny.mjs\n');
    const progress: PrepareProgress[] = [];
    await runtime.prepare(docker('bare'), { onProgress: (step) => void progress.push(step) });
    expect(progress).toEqual([]);
    const peer = await start(docker('bare'));
    expect(await peer.call('echo', { text: 'x' })).toBe('x');
  });

  it('says what is missing where it cannot run', async () => {
    const imageOnly = await failure(docker('own', { build: undefined }));
    expect(imageOnly).toMatchObject({ code: 'runtime_unavailable', server: 'own' });
    expect(imageOnly?.message).toContain('mcp-own');
    await mkdir(path.join(folder, 'own'));
    await writeFile(path.join(folder, 'own/Dockerfile'), 'FROM node\n');
    expect((await failure(docker('own')))?.hint).toContain('`command`');
  });

  it('says why npm ci failed, and tries again', async () => {
    const build = await buildFolder('own', 'FROM node\nCMD ["node", "server.mjs"]\n');
    const manifest = path.join(build, 'package.json');
    const good = await readFile(manifest, 'utf8');
    await writeFile(manifest, good.replace('file:./dependency', 'file:./other'));
    const error = await failure(docker('own'));
    expect(error).toMatchObject({ code: 'build_failed', server: 'own' });
    expect(error?.message).toMatch(/npm ci in .* failed: npm err/i);
    await writeFile(manifest, good);
    expect(await failure(docker('own'))).toBeUndefined();
  });

  it('says that npm is missing', async () => {
    await buildFolder('own', 'FROM node\nCMD ["node", "server.mjs"]\n');
    environment = { ...environment, PATH: '/nowhere' };
    runtime = makeRuntime();
    const error = await failure(docker('own'));
    expect(error?.code).toBe('build_failed');
    expect(error?.message).toContain('npm, which was not found');
  });

  it('bounds npm ci in time and leaves nothing of it', async () => {
    const build = await buildFolder('own', 'FROM node\nCMD ["node", "server.mjs"]\n');
    const manifest = path.join(build, 'package.json');
    const slow = { ...JSON.parse(await readFile(manifest, 'utf8')), scripts: { postinstall: 'sleep 1000' } };
    await writeFile(manifest, JSON.stringify(slow));
    const timeouts = { ...docker('own').timeouts, buildMs: 5000 };
    const error = await failure(docker('own', { timeouts }));
    expect(error?.message).toContain('took longer than 5 s');
    await expect.poll(async () => (await run('ps', ['-eo', 'args'])).stdout).not.toContain(`${build}/`);
  });

  it('gives the installs no secret of the gateway', async () => {
    environment = { ...environment, SECRET: 'of the gateway' };
    runtime = makeRuntime();
    const build = await buildFolder('own', 'FROM node\nCMD ["node", "server.mjs"]\n');
    const manifest = path.join(build, 'package.json');
    const nosy = { ...JSON.parse(await readFile(manifest, 'utf8')), scripts: { postinstall: 'env > seen' } };
    await writeFile(manifest, JSON.stringify(nosy));
    expect(await failure(docker('own'))).toBeUndefined();
    expect(await readFile(path.join(build, 'seen'), 'utf8')).not.toContain('of the gateway');
  });
});

describe('an npm template', () => {
  let registry: Server;
  let requests: string[];

  /** A registry of one package, as npm speaks to any. */
  beforeEach(async () => {
    const source = path.join(folder, 'package');
    await mkdir(source);
    const tiny = await readFile(path.join(fixtures, 'tiny.mjs'), 'utf8');
    await writeFile(path.join(source, 'server.mjs'), `#!/usr/bin/env node\n${tiny}`);
    await writeFile(
      path.join(source, 'args.mjs'),
      `#!/usr/bin/env node\nconsole.error(process.argv.slice(2).join(' '));\n${tiny}`,
    );
    const manifest = {
      name: 'tiny-mcp-server',
      version: '1.2.3',
      bin: { 'tiny-mcp-server': 'server.mjs', 'with-args': 'args.mjs' },
    };
    await writeFile(path.join(source, 'package.json'), JSON.stringify(manifest));
    // Not at home: npm would pack its own log while it writes it.
    await run('npm', ['pack', '--pack-destination', folder], {
      cwd: source,
      env: { ...environment, HOME: path.join(folder, 'packer') },
    });
    const tarball = await readFile(path.join(folder, 'tiny-mcp-server-1.2.3.tgz'));
    const integrity = `sha512-${createHash('sha512').update(tarball).digest('base64')}`;
    requests = [];
    registry = createServer((request, response) => {
      requests.push(request.url!);
      const origin = `http://127.0.0.1:${(registry.address() as AddressInfo).port}`;
      const version = { ...manifest, dist: { tarball: `${origin}/tiny.tgz`, integrity } };
      if (request.url === '/tiny.tgz') return response.end(tarball);
      response.setHeader('content-type', 'application/json');
      if (request.url !== '/tiny-mcp-server') {
        response.statusCode = 404;
        return response.end('{}');
      }
      return response.end(
        JSON.stringify({
          name: manifest.name,
          'dist-tags': { latest: '1.2.3' },
          versions: { '1.2.3': version },
        }),
      );
    });
    await new Promise<void>((resolve) => registry.listen(0, '127.0.0.1', resolve));
    environment = {
      ...environment,
      npm_config_registry: `http://127.0.0.1:${(registry.address() as AddressInfo).port}/`,
    };
    runtime = makeRuntime();
  });
  afterEach(() => {
    registry.closeAllConnections();
    registry.close();
  });

  it('is fetched once, ahead of its start, which needs no registry', async () => {
    const progress: PrepareProgress[] = [];
    await runtime.prepare(template(), { onProgress: (step) => void progress.push(step) });
    expect(progress[0]).toEqual({ step: 'install', text: 'npx tiny-mcp-server@1.2.3' });
    expect(requests).toContain('/tiny.tgz');
    requests.length = 0;
    const peer = await start(template());
    expect(await peer.call('echo', { text: 'packaged' })).toBe('packaged');
    expect(requests).toEqual([]);
    await peer.instance.stop({ graceMs: 10_000 });
  });

  it('runs the command that is asked for, with arguments, at the newest version', async () => {
    const server = template({ version: undefined, bin: 'with-args', command: ['--root', 'a b'] });
    const peer = await start(server);
    expect(await peer.call('echo', { text: 'x' })).toBe('x');
    expect(peer.instance.stderrTail()).toContain('--root a b');
    expect(requests).toContain('/tiny-mcp-server');
  });

  it('says that the registry does not have it', async () => {
    const error = await failure(template({ package: 'no-such-package' }));
    expect(error?.code).toBe('build_failed');
    expect(error?.message).toMatch(/npx no-such-package@1\.2\.3 failed: npm err.*404/i);
  });

  it('of Python needs an engine', async () => {
    const error = await failure(template({ template: 'pypi' }));
    expect(error).toMatchObject({ code: 'runtime_unavailable', server: 'packaged' });
  });
});
