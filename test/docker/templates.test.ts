import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { PrepareProgress } from '../../src/runtimes/runtime.ts';
import { engine, npmServer, TestRuntime } from './harness.ts';

let test: TestRuntime;
const volume = `mcp-test-template-${Math.random().toString(36).slice(2, 10)}`;

beforeAll(async () => {
  test = await TestRuntime.create();
});
afterAll(async () => {
  await test.dispose();
  await engine
    .getVolume(volume)
    .remove()
    .catch(() => {});
});

const memory = '@modelcontextprotocol/server-memory';
const version = '2026.8.31';

describe('template npm', () => {
  it('installs a pinned package with progress, once, and runs it locked', async () => {
    const server = npmServer('pinned', { package: memory, version });
    const progress: PrepareProgress[] = [];
    const { digest } = await test.runtime.prepare(server, { onProgress: (step) => progress.push(step) });
    if (progress.length > 0) {
      expect(progress[0]).toMatchObject({
        step: 'install',
        text: expect.stringContaining(`${memory} ${version}`),
      });
      expect(progress.at(-1)).toMatchObject({ step: 'install', fraction: 1 });
    }
    progress.length = 0;
    expect(await test.runtime.prepare(server, { onProgress: (step) => progress.push(step) })).toMatchObject({
      digest,
    });
    expect(progress).toEqual([]);

    const running = await test.start(server);
    const { Config, HostConfig, Image } = await running.inspect();
    expect(Image).toBe(digest);
    expect(Config.Entrypoint).toEqual(['node', '/app/server']);
    expect(HostConfig).toMatchObject({ ReadonlyRootfs: true });
    const tags = (await engine.getImage(digest).inspect()).RepoTags;
    expect(tags).toEqual([
      expect.stringMatching(
        /(?:^|\/)mcp-gateway-npm-modelcontextprotocol-server-memory:2026\.8\.31-[0-9a-f]{12}$/,
      ),
    ]);
    await running.handshake();
    expect(JSON.stringify(await running.request('tools/list'))).toContain('create_entities');
    await running.instance.stop({ graceMs: 2_000 });
  });

  it('bakes Node’s compile cache in, read-only, where the server’s user finds it', async () => {
    const running = await test.start(npmServer('cached', { package: memory, version }));
    await running.handshake();
    const { output } = await running.shell(
      'ls /app/.compile-cache/*-65534/ | wc -l; touch /app/.compile-cache/x',
    );
    expect(Number.parseInt(output, 10)).toBeGreaterThan(20);
    expect(output).toMatch(/read-only/i);
    const hits = await running.shell(
      'cd /app && NODE_DEBUG_NATIVE=COMPILE_CACHE timeout 5 node /app/server </dev/null 2>&1 | grep -c "was accepted"',
    );
    expect(Number(hits.output)).toBeGreaterThan(20);
    await running.instance.stop({ graceMs: 2_000 });
  });

  it('owns its named volumes, and what it wrote outlives it', async () => {
    const server = npmServer('memory', {
      package: memory,
      version,
      env: { MEMORY_FILE_PATH: '/data/memory.json' },
      volumes: [{ kind: 'volume', source: volume, target: '/data', readOnly: false }],
    });
    const one = await test.start(server);
    await one.handshake();
    const entities = [{ name: 'Ada', entityType: 'person', observations: ['wrote the first program'] }];
    await one.call('create_entities', { entities });
    await one.instance.stop({ graceMs: 5_000 });
    const two = await test.start(server);
    await two.handshake();
    expect(await two.call('read_graph')).toContain('wrote the first program');
    await two.instance.stop({ graceMs: 5_000 });
  });

  it('without a version takes the newest, once, and keeps it', async () => {
    const server = npmServer('newest', { package: memory });
    const { digest } = await test.runtime.prepare(server, {});
    const kept = JSON.parse(await readFile(path.join(test.stateDir, 'templates.json'), 'utf8'));
    expect(kept.npm[memory]).toMatch(/^\d+\.\d+\.\d+/);
    // Neither the version nor the image is asked for again.
    const offline = { ...process.env, npm_config_registry: 'http://127.0.0.1:1/' };
    const later = new TestRuntime(test.stateDir, { env: offline });
    expect(await later.runtime.prepare(server, {})).toMatchObject({ digest });
    await later.runtime.close();
    const elsewhere = await TestRuntime.create({ env: offline });
    await expect(elsewhere.runtime.prepare(server, {})).rejects.toMatchObject({
      code: 'image_missing',
      message: expect.stringContaining(memory),
      hint: expect.stringContaining('network'),
    });
    await elsewhere.dispose();
  });

  it('that is unknown to the registry, or unreachable, says which package and what to do', async () => {
    await expect(
      test.runtime.prepare(npmServer('nothing', { package: 'mcp-gateway-no-such-package-at-all' }), {}),
    ).rejects.toMatchObject({
      code: 'image_missing',
      message: expect.stringMatching(
        /mcp-gateway-no-such-package-at-all.*(?:could not be found|no such package)/,
      ),
      hint: expect.stringContaining('config.version'),
    });
    await expect(
      test.runtime.prepare(
        npmServer('nothing', { package: 'mcp-gateway-no-such-package-at-all', version: '1.0.0' }),
        {},
      ),
    ).rejects.toMatchObject({ code: 'build_failed', message: expect.stringContaining('npm install') });
  });

  it('with a package that has no command of that name lists those it has', async () => {
    await expect(
      test.runtime.prepare(npmServer('nobin', { package: memory, version, bin: 'nope' }), {}),
    ).rejects.toMatchObject({
      code: 'build_failed',
      hint: expect.stringMatching(/no command nope.*mcp-server-memory.*config\.bin/),
    });
  });

  it('takes no name or version that would be more than that', async () => {
    for (const bad of [
      { package: 'a; rm -rf /' },
      { package: '../etc' },
      { package: memory, version: 'latest' },
      { package: memory, version: '1.0.0 && true' },
    ]) {
      await expect(test.runtime.prepare(npmServer('bad', bad), {})).rejects.toMatchObject({
        code: 'config_invalid',
      });
    }
  });
});

describe('template pypi', () => {
  it('is refused, with another way', async () => {
    const server = npmServer('python', { template: 'pypi', package: 'mcp-server-time' });
    await expect(test.runtime.prepare(server, {})).rejects.toMatchObject({
      code: 'runtime_unavailable',
      message: expect.stringContaining('pypi'),
      hint: expect.stringContaining('Dockerfile'),
    });
  });
});
