import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { PassThrough, Readable } from 'node:stream';
import Docker from 'dockerode';
import tar from 'tar-fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parse } from 'yaml';

const root = join(import.meta.dirname, '../..');
const bundled = readdirSync(join(root, 'servers'));
const read = (...path: string[]) => readFileSync(join(root, ...path), 'utf8');

describe.each(bundled)('servers/%s', (name) => {
  it('pins its dependencies, by a lock file that names no registry', () => {
    const manifest = JSON.parse(read('servers', name, 'package.json'));
    const lock = JSON.parse(read('servers', name, 'package-lock.json'));
    expect(lock.packages[''].dependencies).toEqual(manifest.dependencies);
    for (const version of Object.values(manifest.dependencies)) expect(version).toMatch(/^\d+\.\d+\.\d+$/);
    const packages = Object.entries<Record<string, string>>(lock.packages).filter(([path]) => path !== '');
    expect(packages.length).toBeGreaterThan(0);
    for (const [path, entry] of packages) {
      expect([path, entry.resolved]).toEqual([path, undefined]);
      expect(entry.integrity, path).toMatch(/^sha512-/);
    }
  });
});

describe('servers.yaml', () => {
  const { servers } = parse(read('servers.yaml'));

  it('has every bundled server, and templates of one pinned version', () => {
    expect(Object.keys(servers)).toEqual([...bundled, 'filesystem', 'memory', 'everything']);
    for (const name of bundled) {
      expect(servers[name]).toMatchObject({
        image: `mcp-${name}`,
        build: `./servers/${name}`,
        fallback: 'process',
      });
    }
    for (const name of ['filesystem', 'memory', 'everything']) {
      expect(servers[name].config.version).toMatch(/^\d+\.\d+\.\d+$/);
    }
  });
});

describe('the images', () => {
  const engine = new Docker();
  const images: string[] = [];

  beforeAll(async () => {
    for (const name of bundled) {
      const image = `mcp-${name}-test`;
      const context = tar.pack(join(root, 'servers', name), {
        ignore: (path) => path.includes('node_modules'),
      });
      const stream = await engine.buildImage(Readable.from(context), { t: image });
      await new Promise<void>((resolve, reject) => {
        engine.modem.followProgress(stream, (error, lines) => {
          const failure = error ?? lines.find((line: { error?: string }) => line.error);
          if (failure) reject(new Error(failure.message ?? failure.error));
          else resolve();
        });
      });
      images.push(image);
    }
  }, 300_000);

  afterAll(async () => {
    for (const image of images) await engine.getImage(image).remove({ force: true });
  });

  /** Runs an image as the gateway does, locked down; returns its stdout once `done` is in it, and its stderr. */
  async function run(image: string, user: string, lines: object[], done: string, env: string[] = []) {
    const container = await engine.createContainer({
      Image: image,
      User: user,
      Env: env,
      OpenStdin: true,
      StdinOnce: true,
      HostConfig: {
        AutoRemove: true,
        ReadonlyRootfs: true,
        NetworkMode: 'none',
        CapDrop: ['ALL'],
        SecurityOpt: ['no-new-privileges'],
        Memory: 512 * 2 ** 20,
        PidsLimit: 128,
      },
    });
    const stream = await container.attach({
      stream: true,
      hijack: true,
      stdin: true,
      stdout: true,
      stderr: true,
    });
    const [out, err] = [new PassThrough(), new PassThrough()];
    const texts = { stdout: '', stderr: '' };
    engine.modem.demuxStream(stream, out, err);
    err.on('data', (chunk) => {
      texts.stderr += chunk;
    });
    const answered = new Promise<void>((resolve, reject) => {
      out.on('data', (chunk) => {
        texts.stdout += chunk;
        if (texts.stdout.includes(done)) resolve();
      });
      stream.on('end', () => reject(new Error(`ended: ${texts.stdout}${texts.stderr}`)));
    });
    await container.start();
    for (const line of lines) stream.write(`${JSON.stringify({ jsonrpc: '2.0', ...line })}\n`);
    await answered;
    const gone = container.wait({ condition: 'removed' });
    stream.end();
    await gone;
    return texts;
  }

  const handshake = [
    {
      id: 1,
      method: 'initialize',
      params: {
        protocolVersion: '2025-11-25',
        capabilities: {},
        clientInfo: { name: 'test', version: '1.0.0' },
      },
    },
    { method: 'notifications/initialized' },
  ];
  const call = (name: string, args: object) => ({
    id: 'call',
    method: 'tools/call',
    params: { name, arguments: args },
  });

  it('of context7 says that it has no network, as a result', async () => {
    const ask = call('get_documentation', { library: 'react' });
    const { stdout } = await run('mcp-context7-test', '65534', [...handshake, ask], '"id":"call"');
    expect(stdout).toContain('Cannot reach Context7 at context7.com');
    expect(stdout).toContain('"isError":true');
  });

  it('of demo greets', async () => {
    const ask = call('say_hello', { name: 'World' });
    const { stdout } = await run('mcp-demo-test', '65534', [...handshake, ask], '"id":"call"', [
      'HELLO_FROM=Docker',
    ]);
    expect(stdout).toContain('Hello World! Greetings from Docker!');
  });

  it.each(bundled.flatMap((name) => ['0', '1000', '65534'].map((user) => [name, user] as const)))(
    'of %s boots from the compile cache of its build as user %s',
    async (name, user) => {
      const debug = ['NODE_DEBUG_NATIVE=COMPILE_CACHE'];
      const { stderr } = await run(`mcp-${name}-test`, user, handshake, '"id":1', debug);
      expect(stderr).toMatch(/cache for ESM file:\/\/\/app\/server\.js was accepted/);
      expect(stderr.match(/was rejected/g)).toBeNull();
    },
  );
});
