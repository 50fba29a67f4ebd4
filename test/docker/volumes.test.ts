import { chown, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Volume } from '../../src/config/schema.ts';
import { EngineConnection } from '../../src/runtimes/docker/engine.ts';
import { findOwnContainer } from '../../src/runtimes/docker/mounts.ts';
import { buildImage, engine, fixtureServer, isPodman, removeImage, TestRuntime } from './harness.ts';

let test: TestRuntime;
let folder: string;
const volume = `mcp-test-${Math.random().toString(36).slice(2, 10)}`;
const freshVolumes: string[] = [];

beforeAll(async () => {
  test = await TestRuntime.create();
  folder = await mkdtemp(path.join(os.tmpdir(), 'mcp-gateway-volumes-'));
  await test.runtime.prepare(fixtureServer('any'), {});
});
afterAll(async () => {
  await test.dispose();
  await rm(folder, { recursive: true, force: true });
  for (const name of [volume, ...freshVolumes])
    await engine
      .getVolume(name)
      .remove()
      .catch(() => {});
});

const bound = (source: string, readOnly = false): Volume => ({
  kind: 'bind',
  source,
  target: '/data',
  readOnly,
});
const named = (source: string, target = '/kept', readOnly = false): Volume => ({
  kind: 'volume',
  source,
  target,
  readOnly,
});
const fresh = () => {
  const name = `${volume}-${freshVolumes.length}`;
  freshVolumes.push(name);
  return name;
};

describe('a bind mount', () => {
  it('is written by its owner, whom the server runs as', async () => {
    const source = path.join(folder, 'mine');
    await mkdir(source);
    if (process.getuid?.() === 0) await chown(source, 4711, 4712);
    const running = await test.start(fixtureServer('binds', { volumes: [bound(source)] }));
    const { uid, gid } = await import('node:fs/promises').then(({ stat }) => stat(source));
    expect((await running.inspect()).Config.User).toBe(`${uid}:${gid}`);
    expect((await running.shell('touch /data/x && echo written')).output).toBe('written');
    await running.instance.stop({ graceMs: 1_000 });
  });

  it('that is read-only is read, and changes nothing about the user', async () => {
    const source = path.join(folder, 'read');
    await mkdir(source);
    await writeFile(path.join(source, 'file'), 'content');
    const running = await test.start(fixtureServer('reads', { volumes: [bound(source, true)] }));
    expect((await running.inspect()).Config.User).toBe('65534:65534');
    expect((await running.shell('cat /data/file')).output).toBe('content');
    expect((await running.shell('touch /data/x')).output).toMatch(/read-only/i);
    await running.instance.stop({ graceMs: 1_000 });
  });

  it('whose source does not exist is named, and nothing is made in its place', async () => {
    const source = path.join(folder, 'missing');
    await expect(test.start(fixtureServer('missing', { volumes: [bound(source)] }))).rejects.toMatchObject({
      code: 'volume_unusable',
      server: 'missing',
      message: expect.stringContaining(source),
      hint: expect.stringContaining('mkdir -p'),
    });
    await expect(import('node:fs/promises').then(({ stat }) => stat(source))).rejects.toThrow();
  });

  it('that would hand out the engine’s socket is refused, also by a folder above it', async () => {
    for (const source of ['/var/run/docker.sock', '/run', '/']) {
      await expect(
        test.start(fixtureServer('greedy', { volumes: [bound(source, true)] })),
      ).rejects.toMatchObject({
        code: 'volume_unusable',
        message: expect.stringContaining('socket'),
        hint: expect.stringContaining('allow_unsafe'),
      });
    }
  });
});

describe('a named volume', () => {
  it('of an image that the gateway builds is written by nobody, and keeps what was written', async () => {
    const server = fixtureServer('keeps', { volumes: [named(volume)] });
    const one = await test.start(server);
    expect((await one.inspect()).Config.User).toBe('65534:65534');
    expect((await one.shell('echo remembered > /kept/file && ls -ldn /kept')).output).toContain('65534');
    await one.instance.stop({ graceMs: 1_000 });
    const two = await test.start(server);
    expect((await two.shell('cat /kept/file')).output).toBe('remembered');
    await two.instance.stop({ graceMs: 1_000 });
    const { Labels } = await engine.getVolume(volume).inspect();
    if (!isPodman)
      expect(Labels).toMatchObject({ 'mcp-gateway.managed': 'true', 'mcp-gateway.server': 'keeps' });
  });

  it('works in images without a shell and with a user of their own', async () => {
    await buildImage('mcp-test-user', 'FROM mcp-fixtures\nUSER node\n');
    const context = path.join(folder, 'user');
    await mkdir(context);
    await writeFile(path.join(context, 'Dockerfile'), 'FROM mcp-test-user\nRUN rm -f /app/none\n');
    try {
      const running = await test.start(
        fixtureServer('user', {
          image: 'mcp-test-user-built',
          build: { context, dockerfile: 'Dockerfile', args: {} },
          volumes: [named(fresh(), '/deep/er/data')],
        }),
      );
      expect((await running.inspect()).Config.User).toBe('node');
      expect((await running.shell('id -un && touch /deep/er/data/x && echo written')).output).toBe(
        'node\r\nwritten',
      );
      await running.instance.stop({ graceMs: 1_000 });
    } finally {
      await removeImage('mcp-test-user-built');
      await removeImage('mcp-test-user');
    }
  });

  it.each([
    ['made by root', 'RUN mkdir -p /kept/inside && touch /kept/seed'],
    ['declared', 'VOLUME /kept'],
  ])(
    'whose mount point was %s in an image that the gateway builds is written by its user',
    async (_, line) => {
      const context = await mkdtemp(path.join(folder, 'rooted-'));
      await writeFile(path.join(context, 'Dockerfile'), `FROM mcp-fixtures\n${line}\n`);
      try {
        const running = await test.start(
          fixtureServer('rooted', {
            image: 'mcp-test-rooted',
            build: { context, dockerfile: 'Dockerfile', args: {} },
            volumes: [named(fresh())],
          }),
        );
        expect((await running.inspect()).Config.User).toBe('65534:65534');
        expect((await running.shell('touch /kept/x && echo written')).output).toBe('written');
        await running.instance.stop({ graceMs: 1_000 });
      } finally {
        await removeImage('mcp-test-rooted');
      }
    },
  );

  // Podman gives a fresh volume to whoever mounts it first.
  it.skipIf(isPodman)(
    'that another image’s user cannot write is named with its mend, and leaves no container',
    async () => {
      for (const [image, dockerfile] of [
        ['mcp-test-foreign-root', 'FROM mcp-fixtures\nENV X=1\n'],
        ['mcp-test-foreign-user', 'FROM mcp-fixtures\nUSER node\n'],
      ] as const) {
        await buildImage(image, dockerfile);
        const server = fixtureServer('foreign', { image, build: undefined, volumes: [named(fresh())] });
        try {
          await expect(test.start(server)).rejects.toMatchObject({
            code: 'volume_unusable',
            message: expect.stringMatching(/volume mcp-test-\S+ at \/kept belongs to 0:0 \(mode 755\)/),
            hint: expect.stringMatching(/chown.*RUN mkdir -p \/kept && chown (65534:65534|1000:1000) \/kept/),
          });
          const left = await engine.listContainers({
            all: true,
            filters: { label: [`mcp-gateway.gateway=${test.gatewayId}`, 'mcp-gateway.server=foreign'] },
          });
          expect(left).toEqual([]);
          const asRoot = await test.start({ ...server, user: '0:0' });
          expect((await asRoot.shell('touch /kept/x && echo written')).output).toBe('written');
          await asRoot.instance.stop({ graceMs: 1_000 });
        } finally {
          await removeImage(image);
        }
      }
    },
  );

  it('in another image that made its mount point is used as it is', async () => {
    const image = 'mcp-test-own-mount';
    await buildImage(image, 'FROM mcp-fixtures\nRUN mkdir /kept && chown 65534:65534 /kept\n');
    try {
      const server = fixtureServer('own', { image, build: undefined, volumes: [named(fresh())] });
      const running = await test.start(server);
      expect((await running.shell('touch /kept/x && echo written')).output).toBe('written');
      await running.instance.stop({ graceMs: 1_000 });
    } finally {
      await removeImage(image);
    }
  });
});

describe('a gateway in a container', () => {
  it('finds itself and translates paths through its own mounts; an uncovered one says what to mount', async () => {
    const connection = new EngineConnection({ env: process.env });
    const own = await engine.createContainer({
      Image: 'mcp-fixtures',
      HostConfig: {
        Mounts: [
          { Type: 'bind', Source: folder, Target: '/config' },
          { Type: 'bind', Source: os.tmpdir(), Target: '/config/tmp' },
          { Type: 'volume', Source: volume, Target: '/state' },
        ],
      },
    });
    try {
      const found = await findOwnContainer(await connection.get(), {
        marks: [folder],
        mountinfo: '/dev/null',
        hostname: own.id.slice(0, 12),
      });
      expect(found?.id).toBe(own.id);
      expect(found!.toHost('x', '/config/data')).toBe(path.join(folder, 'data'));
      expect(found!.toHost('x', '/config')).toBe(folder);
      expect(found!.toHost('x', '/config/tmp/y')).toBe(path.join(os.tmpdir(), 'y'));
      expect(found!.toHost('x', '/state/z')).toMatch(new RegExp(`${volume}/_data/z$`));
      expect(() => found!.toHost('files', '/elsewhere/data')).toThrow(
        expect.objectContaining({
          code: 'volume_unusable',
          message: expect.stringContaining('/elsewhere/data'),
          hint: expect.stringContaining('/elsewhere/data:/elsewhere/data'),
        }),
      );
    } finally {
      await own.remove({ force: true });
      connection.close();
    }
  });

  it('outside of one nothing is translated', async () => {
    const connection = new EngineConnection({ env: process.env });
    expect(await findOwnContainer(await connection.get(), { marks: ['/no/such/mark'] })).toBeUndefined();
    connection.close();
  });

  it('is told from its mounts when its host name was set', async () => {
    const connection = new EngineConnection({ env: process.env });
    const own = await engine.createContainer({ Image: 'mcp-fixtures' });
    const mountinfo = path.join(folder, 'mountinfo');
    await writeFile(
      mountinfo,
      `712 690 254:1 /var/lib/docker/containers/${own.id}/hostname /etc/hostname rw,relatime - ext4 /dev/vda1 rw\n`,
    );
    try {
      const found = await findOwnContainer(await connection.get(), {
        marks: [folder],
        mountinfo,
        hostname: 'my-gateway',
      });
      expect(found?.id).toBe(own.id);
    } finally {
      await own.remove({ force: true });
      connection.close();
    }
  });
});
