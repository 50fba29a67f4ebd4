import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { createConnection, createServer, type Server, type Socket } from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { until } from '../waiting.ts';
import { enginePath, exists, fixtureServer, TestRuntime } from './harness.ts';

/** A socket in front of the engine that a test can close, open and freeze. */
class Door {
  readonly path: string;
  readonly #sockets = new Set<Socket>();
  #server: Server | undefined;
  #isFrozen = false;

  constructor(socketPath: string) {
    this.path = socketPath;
  }

  async open(): Promise<void> {
    await rm(this.path, { force: true });
    this.#server = createServer((client) => {
      this.#sockets.add(client);
      client.on('close', () => this.#sockets.delete(client));
      client.on('error', () => {});
      if (this.#isFrozen) return;
      const engine = createConnection(enginePath);
      this.#sockets.add(engine);
      client.pipe(engine).pipe(client);
      engine.on('error', () => client.destroy());
      engine.on('close', () => {
        this.#sockets.delete(engine);
        client.destroy();
      });
      client.on('close', () => engine.destroy());
    });
    await new Promise<void>((resolve) => this.#server!.listen(this.path, resolve));
  }

  async close(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await new Promise((resolve) => this.#server?.close(resolve) ?? resolve(undefined));
  }

  /** As a stopped daemon: connections are taken, nothing is answered. */
  freeze(): void {
    this.#isFrozen = true;
    for (const socket of this.#sockets) socket.pause().unpipe();
  }
}

let folder: string;
let door: Door;
beforeEach(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), 'mcp-gateway-engine-'));
  door = new Door(path.join(folder, 'engine.sock'));
});
afterEach(async () => {
  await door.close();
  await rm(folder, { recursive: true, force: true });
});
const behindDoor = () => TestRuntime.create({ env: { ...process.env, DOCKER_HOST: `unix://${door.path}` } });

describe('an engine that does not answer', () => {
  it('is named with what was tried and how to start one, by every verb', async () => {
    const test = await behindDoor();
    const server = fixtureServer('nowhere');
    const expected = {
      code: 'engine_unreachable',
      message: expect.stringContaining(`unix://${door.path} (DOCKER_HOST: no such socket)`),
      hint: expect.stringContaining('make engine'),
    };
    await expect(test.runtime.prepare(server, {})).rejects.toMatchObject(expected);
    await expect(test.runtime.sweep()).rejects.toMatchObject(expected);
    expect(await test.runtime.describe()).toEqual({
      reachable: false,
      text: expected.message,
      hint: expected.hint,
      lacks: [],
    });
    const lines: string[] = [];
    for await (const line of test.runtime.logs(server, { tail: 5 })) lines.push(line);
    expect(lines).toEqual([]);
    await test.runtime.close();
  });

  it('because the socket is not ours to use says so', async ({ skip }) => {
    if (process.getuid?.() === 0) skip('root may use every socket');
    await door.open();
    await chmod(door.path, 0o000);
    const test = await behindDoor();
    await expect(test.runtime.prepare(fixtureServer('denied'), {})).rejects.toMatchObject({
      code: 'engine_unreachable',
      hint: expect.stringContaining('usermod'),
    });
    await test.runtime.close();
  });

  it('is found once it is there', async () => {
    const test = await behindDoor();
    expect((await test.runtime.describe()).reachable).toBe(false);
    await door.open();
    expect(await test.runtime.describe()).toMatchObject({
      reachable: true,
      text: expect.stringMatching(new RegExp(`^(Docker|Podman) \\S+ at unix://${door.path}$`)),
    });
    await test.dispose();
  });
});

describe('an engine that goes away', () => {
  it('ends its instances, is told on the bus, and is used again when it is back', async () => {
    await door.open();
    const test = await behindDoor();
    const told: string[] = [];
    test.events.on('engine.lost', () => told.push('lost'));
    test.events.on('engine.back', () => told.push('back'));
    const running = await test.start(fixtureServer('comes-and-goes'));
    await running.handshake();
    await new Promise((resolve) => setTimeout(resolve, 200));

    await door.close();
    await running.instance.ended;
    expect(await running.instance.exited).toMatchObject({ code: undefined, isHostLost: true });
    await until(() => told.includes('lost'), 'the loss is told');
    await expect(test.runtime.prepare(fixtureServer('comes-and-goes'), {})).rejects.toMatchObject({
      code: 'engine_unreachable',
      hint: expect.stringContaining('Start it'),
    });

    await door.open();
    await until(() => told.includes('back'), 'the return is told');
    expect(told).toEqual(['lost', 'back']);
    const again = await test.start(fixtureServer('comes-and-goes'));
    expect(await again.handshake()).toHaveProperty('result');
    await again.instance.stop({ graceMs: 2_000 });
    await test.dispose();
  });

  it('leaves a stubborn server behind, which is removed when it is back', async () => {
    await door.open();
    const test = await behindDoor();
    const stubborn = await test.start(fixtureServer('stays', { command: ['node', 'ignores-sigterm.mjs'] }));
    await stubborn.handshake();
    await new Promise((resolve) => setTimeout(resolve, 200));
    await door.close();
    await stubborn.instance.exited;
    expect(await exists(stubborn.name)).toBe(true);
    await door.open();
    await until(async () => !(await exists(stubborn.name)), 'it is removed');
    await test.dispose();
  });

  it('or freezes does not hold a caller longer than its signal', async () => {
    await door.open();
    const test = await behindDoor();
    const server = fixtureServer('frozen-engine', { network: 'mcp-network' });
    const prepared = await test.runtime.prepare(server, {});
    door.freeze();
    const options = { onMessage: () => {}, onNoise: () => {} };
    const startedMs = Date.now();
    const unknown = { ...server, network: 'mcp-never-asked-for' };
    await expect(test.runtime.prepare(unknown, { signal: AbortSignal.timeout(300) })).rejects.toMatchObject({
      name: 'TimeoutError',
    });
    await expect(
      test.runtime.start(server, prepared, { ...options, signal: AbortSignal.timeout(300) }),
    ).rejects.toMatchObject({ name: 'TimeoutError' });
    // The clean-up of a start has its own bound.
    expect(Date.now() - startedMs).toBeLessThan(15_000);
    await test.runtime.close();
    await test.dispose();
  });
});
