import { createHash } from 'node:crypto';
import { mkdir, mkdtemp, readdir, rm, symlink, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import type { PrepareProgress } from '../../src/runtimes/runtime.ts';
import { until } from '../waiting.ts';
import { buildImage, engine, fixtureServer, isPodman, removeImage, TestRuntime } from './harness.ts';

let test: TestRuntime;
let folder: string;
const tag = 'mcp-test-images';

beforeAll(async () => {
  test = await TestRuntime.create();
  // The base of what is built here.
  await test.runtime.prepare(fixtureServer('base'), {});
});
afterAll(() => test.dispose());
beforeEach(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), 'mcp-gateway-build-'));
  await removeImage(tag);
});
afterEach(async () => {
  await removeImage(tag);
  await rm(folder, { recursive: true, force: true });
});

const write = async (files: Record<string, string>) => {
  for (const [name, text] of Object.entries(files)) {
    await mkdir(path.dirname(path.join(folder, name)), { recursive: true });
    await writeFile(path.join(folder, name), text);
  }
};
const built = (changes: Parameters<typeof fixtureServer>[1] = {}) =>
  fixtureServer('built', {
    image: tag,
    build: { context: folder, dockerfile: 'Dockerfile', args: {} },
    command: ['node', 'server.mjs'],
    ...changes,
  });
const dockerfile = 'FROM mcp-fixtures\nCOPY . /app/\n';
const prepare = async (server: ReturnType<typeof built>) => {
  const progress: PrepareProgress[] = [];
  const { digest } = await test.runtime.prepare(server, { onProgress: (step) => progress.push(step) });
  return { digest, progress };
};

describe('an image with `build`', () => {
  it('is built when it is missing, with progress, and not again while nothing changed', async () => {
    await write({ Dockerfile: dockerfile, 'server.mjs': "import './tiny.mjs';\n" });
    const first = await prepare(built());
    expect(first.progress[0]).toEqual({ step: 'build', text: `building ${tag} from ${folder}`, fraction: 0 });
    expect(first.progress.at(-1)).toEqual({ step: 'build', text: `${tag} is built`, fraction: 1 });
    const fractions = first.progress.map(({ fraction }) => fraction!);
    expect(fractions).toEqual([...fractions].sort((a, b) => a - b));
    expect((await engine.getImage(tag).inspect()).Id).toBe(first.digest);
    expect(await prepare(built())).toEqual({ digest: first.digest, progress: [] });

    const running = await test.start(built());
    expect(await running.handshake()).toHaveProperty('result');
    await running.instance.stop({ graceMs: 1_000 });
  });

  it('is not built again by a gateway that starts later, nor because times changed', async () => {
    await write({ Dockerfile: dockerfile, 'server.mjs': '' });
    const { digest } = await prepare(built());
    await write({ Dockerfile: dockerfile, 'server.mjs': '' });
    const later = await TestRuntime.create();
    const progress: PrepareProgress[] = [];
    expect(await later.runtime.prepare(built(), { onProgress: (step) => progress.push(step) })).toMatchObject(
      { digest },
    );
    expect(progress).toEqual([]);
    await later.dispose();
  });

  it('is built again when a source, the Dockerfile or an argument changed, or somebody removed it', async () => {
    await write({ Dockerfile: dockerfile, 'server.mjs': '1' });
    const digests = [(await prepare(built())).digest];
    await write({ 'server.mjs': '2' });
    digests.push((await prepare(built())).digest);
    await write({ 'lib/more.mjs': '' });
    digests.push((await prepare(built())).digest);
    await write({ Dockerfile: `${dockerfile}ENV X=1\n` });
    digests.push((await prepare(built())).digest);
    const args = { build: { context: folder, dockerfile: 'Dockerfile', args: { A: '1' } } };
    digests.push((await prepare(built(args))).digest);
    expect(new Set(digests).size).toBe(5);
    const left = await engine.listImages({ all: true });
    expect(left.filter(({ Id }) => digests.includes(Id)).map(({ Id }) => Id)).toEqual([digests.at(-1)]);
    await removeImage(tag);
    await until(async () => (await prepare(built(args))).progress.length > 0, 'it is missed');
  });

  it('contains what .dockerignore lets through, by Docker’s rules, readable by all', async () => {
    await write({
      Dockerfile: 'FROM mcp-fixtures\nCOPY . /copied/\n',
      '.dockerignore':
        '# comment\n*.md\n!README.md\nnode_modules\n/secret\n**/*.tmp\nout/*\n!out/kept\nDockerfile\n',
      'server.mjs': '',
      'README.md': '',
      'NOTES.md': '',
      'docs/deep.md': '',
      'node_modules/a/index.js': '',
      'nested/node_modules/b.js': '',
      'secret/key': '',
      'nested/x.tmp': '',
      'out/dropped': '',
      'out/kept': '',
    });
    await symlink('server.mjs', path.join(folder, 'link.mjs'));
    const umask = process.umask(0o077);
    await write({ private: '' });
    process.umask(umask);
    const running = await test.start(built({ command: ['node', '/app/tiny.mjs'] }));
    const { output } = await running.shell('cd /copied && find . -type f -o -type l | sort');
    expect(output.split('\r\n')).toEqual(
      [
        './.dockerignore',
        './README.md',
        './docs/deep.md',
        './link.mjs',
        './nested/node_modules/b.js',
        './out/kept',
        './private',
        './server.mjs',
      ].sort(),
    );
    expect((await running.shell('cat /copied/private && ls -l /copied/private')).output).toContain(
      '-rw-r--r--',
    );
    await running.instance.stop({ graceMs: 1_000 });
  });

  it('may have its Dockerfile under another name, or outside of its folder', async () => {
    await write({ 'context/server.mjs': '', 'other/My.Dockerfile': 'FROM mcp-fixtures\nCOPY . /copied/\n' });
    const context = path.join(folder, 'context');
    const running = await test.start(
      built({
        build: { context, dockerfile: '../other/My.Dockerfile', args: {} },
        command: ['node', '/app/tiny.mjs'],
      }),
    );
    expect((await running.shell('ls -A /copied')).output).toBe('server.mjs');
    await running.instance.stop({ graceMs: 1_000 });
  });

  it('takes arguments, and NODE_IMAGE from the gateway’s environment', async () => {
    await engine.getImage('mcp-fixtures').tag({ repo: 'mcp-test-base', tag: 'latest' });
    const other = await TestRuntime.create({ env: { ...process.env, NODE_IMAGE: 'mcp-test-base' } });
    try {
      await write({
        Dockerfile: 'ARG NODE_IMAGE=no-such-image\nFROM ${NODE_IMAGE}\nARG COLOUR\nENV COLOUR=${COLOUR}\n',
      });
      const server = built({
        build: { context: folder, dockerfile: 'Dockerfile', args: { COLOUR: 'green' } },
      });
      await other.runtime.prepare(server, {});
      expect((await engine.getImage(tag).inspect()).Config.Env).toContain('COLOUR=green');
    } finally {
      await other.dispose();
      await removeImage('mcp-test-base');
    }
  });

  it('asked for a hundred times at once is built once, and all see its progress', async () => {
    await write({ Dockerfile: `${dockerfile}RUN sleep 1\n`, 'server.mjs': String(Math.random()) });
    const results = await Promise.all(Array.from({ length: 100 }, () => prepare(built())));
    expect(new Set(results.map(({ digest }) => digest)).size).toBe(1);
    const steps = results.map(
      ({ progress }) => progress.filter(({ text }) => text.includes('RUN sleep')).length,
    );
    expect(new Set(steps)).toEqual(new Set([1]));
  });

  it('goes on for the others when one of them gives up', async () => {
    await write({ Dockerfile: `${dockerfile}RUN sleep 1\n`, 'server.mjs': String(Math.random()) });
    const abort = new AbortController();
    const impatient = test.runtime.prepare(built(), { signal: abort.signal });
    const patient = prepare(built());
    abort.abort(new Error('gave up'));
    await expect(impatient).rejects.toThrow('gave up');
    expect((await patient).digest).toMatch(/^sha256:/);
  });

  it('that fails names the step and its last words', async () => {
    await write({ Dockerfile: `${dockerfile}RUN echo "this is why" && exit 7\n` });
    await expect(prepare(built())).rejects.toMatchObject({
      code: 'build_failed',
      server: 'built',
      message: expect.stringMatching(/step 3 of \d+ \(RUN echo.*(?:code: 7|exit status 7)/),
      hint: expect.stringContaining('this is why'),
      data: { output: expect.arrayContaining(['this is why']) },
    });
  });

  it('whose base image is nowhere says how to make one', async () => {
    await write({ Dockerfile: 'FROM mcp-gateway-test.invalid/nothing:1\n' });
    await expect(prepare(built())).rejects.toMatchObject({
      code: 'build_failed',
      hint: expect.stringContaining('make images'),
    });
  });

  it.skipIf(isPodman)('that needs BuildKit says so', async () => {
    await write({ Dockerfile: `${dockerfile}RUN --mount=type=cache,target=/x true\n` });
    await expect(prepare(built())).rejects.toMatchObject({
      code: 'build_failed',
      hint: expect.stringContaining('BuildKit'),
    });
  });

  it('that takes too long is given up', async () => {
    await write({ Dockerfile: `${dockerfile}RUN sleep 60\n` });
    const server = built();
    server.timeouts = { ...server.timeouts, buildMs: 1_500 };
    await expect(prepare(server)).rejects.toMatchObject({
      code: 'build_failed',
      message: expect.stringContaining('did not finish in 1.5 s'),
    });
  });

  it('without a Dockerfile or without its folder names what is missing', async () => {
    await expect(prepare(built())).rejects.toMatchObject({
      code: 'build_failed',
      message: expect.stringContaining(path.join(folder, 'Dockerfile')),
    });
    const gone = path.join(folder, 'gone');
    const server = built({ build: { context: gone, dockerfile: 'Dockerfile', args: {} } });
    await expect(prepare(server)).rejects.toMatchObject({
      code: 'build_failed',
      message: expect.stringContaining(gone),
    });
  });

  it('leaves no containers of its steps behind', async () => {
    const before = (await engine.listContainers({ all: true })).map(({ Image }) => Image);
    await write({ Dockerfile: `${dockerfile}RUN exit 1\n` });
    await expect(prepare(built())).rejects.toThrow();
    const after = await engine.listContainers({ all: true });
    expect(after.filter(({ Command }) => Command.includes('exit 1'))).toEqual([]);
    expect(before).toBeDefined();
    expect(await readdir(folder)).toEqual(['Dockerfile']);
  });
});

/** An image of one empty layer that says it is made for that architecture. */
async function loadForeign(name: string, architecture: string): Promise<void> {
  const { packInMemory } = await import('../../src/runtimes/docker/build-context.ts');
  const layer = '\0'.repeat(1024);
  const diff = createHash('sha256').update(layer).digest('hex');
  const config = {
    architecture,
    os: 'linux',
    config: {},
    rootfs: { type: 'layers', diff_ids: [`sha256:${diff}`] },
  };
  const archive = await packInMemory('', [
    { name: 'config.json', content: JSON.stringify(config) },
    { name: 'layer.tar', content: layer },
    {
      name: 'manifest.json',
      content: JSON.stringify([
        { Config: 'config.json', RepoTags: [`${name}:latest`], Layers: ['layer.tar'] },
      ]),
    },
  ]);
  const stream = await engine.loadImage(archive);
  await new Promise((resolve) => engine.modem.followProgress(stream, resolve));
}

describe('compile_cache', () => {
  const derived = async () =>
    (await engine.listImages({ filters: { reference: ['mcp-gateway-compiled'] } })).map(({ Id }) => Id);
  let before: string[];

  beforeAll(async () => {
    before = await derived();
  });

  // They would keep the images that they are made from, whose removal other tests look for.
  afterAll(async () => {
    for (const id of await derived()) if (!before.includes(id)) await removeImage(id);
  });

  /** A server of two modules. */
  const files = {
    'lib.mjs': `export const answer = (id) => ({ jsonrpc: '2.0', id, result: { tools: [] } });\n`,
    'server.mjs': `import { createInterface } from 'node:readline';
import { answer } from './lib.mjs';
for await (const line of createInterface({ input: process.stdin })) {
  const { id } = JSON.parse(line);
  if (id !== undefined) console.log(JSON.stringify(answer(id)));
}
`,
  };
  const hits = 'NODE_DEBUG_NATIVE=COMPILE_CACHE node server.mjs </dev/null 2>&1 | grep -c "was accepted"';

  async function compiled(name: string, changes: Parameters<typeof fixtureServer>[1] = {}) {
    await write({
      ...files,
      Dockerfile: `FROM mcp-fixtures\nWORKDIR /srv\nCOPY *.mjs ./\nENTRYPOINT []\nCMD ["node", "server.mjs"]\n`,
    });
    const server = built({ name, command: undefined, compileCache: true, ...changes });
    return { server, running: await test.start(server) };
  }

  it('is filled by one run at build time, found by the server, and closed to it', async () => {
    const { server, running } = await compiled('compiled');
    expect((await running.shell(hits)).output).toBe('2');
    const { output } = await running.shell('ls -ld /.mcp-gateway/compile-cache; id -u');
    expect(output).toMatch(/^dr-xr-xr-x .* root .*\s65534$/s);
    await running.handshake();
    await running.instance.stop({ graceMs: 2_000 });

    const { digest } = await test.runtime.prepare(server, {});
    await write({ 'lib.mjs': `${files['lib.mjs']}export const more = 1;\n` });
    expect((await test.runtime.prepare(server, {})).digest).not.toBe(digest);
    const changed = await test.start(server);
    expect((await changed.shell(hits)).output).toBe('2');
    await changed.instance.stop({ graceMs: 2_000 });
  });

  it('cannot be written by a server that is root on a writable root either', async () => {
    const { running } = await compiled('root', { user: '0:0', readOnly: false });
    expect((await running.shell(hits)).output).toBe('2');
    const cache = '/.mcp-gateway/compile-cache';
    expect((await running.shell(`touch ${cache}/x || chmod 777 ${cache} || echo no`)).output).toMatch(/no$/);
    await running.instance.stop({ graceMs: 2_000 });
  });

  it('of a server that does not run without its variables is no reason to refuse it', async () => {
    const needy = "if (!process.env.TOKEN) process.exit(1); await import('/srv/server.mjs')";
    const { running } = await compiled('needy', {
      command: ['node', '-e', needy],
      env: { TOKEN: 'given' },
    });
    expect(await running.handshake()).toMatchObject({ result: {} });
    await running.instance.stop({ graceMs: 2_000 });
  });

  it('of an image without Node says so', async () => {
    await write({ Dockerfile: 'FROM scratch\nCOPY Dockerfile /\n' });
    await expect(
      test.runtime.prepare(built({ name: 'other', command: ['/x'], compileCache: true }), {}),
    ).rejects.toMatchObject({
      code: 'build_failed',
      hint: expect.stringContaining('leave it out'),
    });
  });
});

describe('an image without `build`', () => {
  it('that is neither here nor in a registry says why and what to do', async () => {
    const server = fixtureServer('absent', { image: 'mcp-gateway-test.invalid/absent:1', build: undefined });
    await expect(prepare(server)).rejects.toMatchObject({
      code: 'image_missing',
      message: expect.stringMatching(
        /absent: the image mcp-gateway-test\.invalid\/absent:1 cannot be pulled/,
      ),
      hint: expect.stringMatching(/registry|docker pull/),
    });
  });

  it('is not pulled where pull is never', async () => {
    const server = fixtureServer('absent', { image: 'no-such-image', build: undefined, pull: 'never' });
    await expect(prepare(server)).rejects.toMatchObject({
      code: 'image_missing',
      message: expect.stringContaining('pull is never'),
    });
  });

  it('that is here stays in use where a daily pull fails, and fails where every start is to pull', async () => {
    await prepare(fixtureServer('any'));
    await engine.getImage('mcp-fixtures').tag({ repo: 'mcp-gateway-test.invalid/kept', tag: '1' });
    const server = fixtureServer('kept', { image: 'mcp-gateway-test.invalid/kept:1', build: undefined });
    try {
      expect((await prepare({ ...server, pull: 'daily' })).digest).toMatch(/^sha256:/);
      await expect(prepare({ ...server, pull: 'always' })).rejects.toMatchObject({ code: 'image_missing' });
    } finally {
      await removeImage('mcp-gateway-test.invalid/kept:1');
    }
  });

  it('for another architecture is named, with both', async () => {
    const foreign = 'mcp-test-foreign';
    const theirs = (await engine.version()).Arch === 'arm64' ? 'amd64' : 'arm64';
    await loadForeign(foreign, theirs);
    try {
      expect((await engine.getImage(foreign).inspect()).Architecture).toBe(theirs);
      const server = fixtureServer('foreign', { image: foreign, build: undefined });
      await expect(prepare(server)).rejects.toMatchObject({
        code: 'image_unusable',
        message: expect.stringMatching(new RegExp(`linux/${theirs}.*linux/`)),
        hint: expect.stringContaining('--platform'),
      });
    } finally {
      await removeImage(foreign);
    }
  });

  it('removed between prepare and start is built again', async () => {
    await write({ Dockerfile: dockerfile, 'server.mjs': "import './tiny.mjs';\n" });
    const prepared = await test.runtime.prepare(built(), {});
    await removeImage(tag);
    const answered = Promise.withResolvers<unknown>();
    const options = { onMessage: answered.resolve, onNoise: () => {} };
    const instance = await test.runtime.start(built(), prepared, options);
    await instance.send({ jsonrpc: '2.0', id: 1, method: 'ping' });
    expect(await answered.promise).toMatchObject({ id: 1, result: {} });
    await instance.stop({ graceMs: 1_000 });
  });

  it('named anew is taken up', async () => {
    await prepare(fixtureServer('any'));
    const server = fixtureServer('named', { image: 'mcp-test-renamed', build: undefined, pull: 'never' });
    try {
      await engine.getImage('mcp-fixtures').tag({ repo: 'mcp-test-renamed', tag: 'latest' });
      const before = (await prepare(server)).digest;
      await buildImage('mcp-test-renamed', 'FROM mcp-fixtures\nENV OTHER=1\n');
      await until(async () => (await prepare(server)).digest !== before, 'the other image');
      expect((await engine.getImage('mcp-test-renamed').inspect()).Id).toBe((await prepare(server)).digest);
    } finally {
      await removeImage('mcp-test-renamed');
    }
  });

  it('removed between two starts is missed', async () => {
    await prepare(fixtureServer('any'));
    await engine.getImage('mcp-fixtures').tag({ repo: 'mcp-test-brief', tag: 'latest' });
    const server = fixtureServer('brief', { image: 'mcp-test-brief', build: undefined, pull: 'never' });
    expect((await prepare(server)).digest).toMatch(/^sha256:/);
    await engine.getImage('mcp-test-brief').remove();
    const outcome = () =>
      prepare(server).then(
        () => 'there',
        (error) => error.code,
      );
    await until(async () => (await outcome()) === 'image_missing', 'it is missed');
  });
});
