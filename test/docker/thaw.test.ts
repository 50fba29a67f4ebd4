import { mkdtemp, rm } from 'node:fs/promises';
import { createConnection, createServer } from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { expect, it } from 'vitest';
import { until } from '../waiting.ts';
import { engine, enginePath, fixtureServer, TestRuntime } from './harness.ts';

it('an engine that cannot freeze or thaw at the moment is asked again', async () => {
  const folder = await mkdtemp(path.join(os.tmpdir(), 'mcp-gateway-thaw-'));
  const socket = path.join(folder, 'engine.sock');
  const refused = (message: string) => ({ left: 3, said: JSON.stringify({ message }) });
  const refusals = {
    unpause: refused('Cannot unpause container x: cannot resume a running process: unknown'),
    pause: refused('Cannot pause container x: OCI runtime pause failed: unable to freeze: unknown'),
  };
  const proxy = createServer((client) => {
    const upstream = createConnection(enginePath);
    client.on('data', (chunk: Buffer) => {
      const [, verb] = /^POST \S+\/(pause|unpause)/.exec(chunk.toString('latin1')) ?? [];
      const refusal = verb && refusals[verb as keyof typeof refusals];
      if (refusal && refusal.left > 0) {
        refusal.left -= 1;
        client.write(
          `HTTP/1.1 500 Internal Server Error\r\ncontent-type: application/json\r\ncontent-length: ${refusal.said.length}\r\n\r\n${refusal.said}`,
        );
      } else upstream.write(chunk);
    });
    upstream.pipe(client);
    client.on('close', () => upstream.destroy());
    client.on('error', () => {});
    upstream.on('error', () => client.destroy());
  });
  await new Promise<void>((resolve) => proxy.listen(socket, resolve));
  const test = await TestRuntime.create({ env: { ...process.env, DOCKER_HOST: `unix://${socket}` } });
  try {
    const running = await test.start(fixtureServer('thaws'));
    await running.handshake();
    await running.instance.pause();
    await running.instance.resume();
    expect([refusals.pause.left, refusals.unpause.left]).toEqual([0, 0]);
    expect((await running.inspect()).State.Paused).toBe(false);
    expect(await running.call('echo', { text: 'awake' })).toBe('awake');
    await running.instance.stop({ graceMs: 5000 });
  } finally {
    await test.dispose();
    proxy.close();
    await rm(folder, { recursive: true, force: true });
  }
});

it('messages keep their order around the thaw of a container that somebody has frozen', async () => {
  const folder = await mkdtemp(path.join(os.tmpdir(), 'mcp-gateway-thaw-'));
  const socket = path.join(folder, 'engine.sock');
  // The engine's event comes before its answer.
  const proxy = createServer((client) => {
    const upstream = createConnection(enginePath);
    let delayMs = 0;
    client.on('data', (chunk: Buffer) => {
      if (/^POST \S+\/unpause/.test(chunk.toString('latin1'))) delayMs = 500;
      upstream.write(chunk);
    });
    upstream.on('data', (chunk: Buffer) => {
      if (delayMs === 0) client.write(chunk);
      else setTimeout(() => client.write(chunk), delayMs);
    });
    upstream.on('end', () => client.end());
    client.on('close', () => upstream.destroy());
    client.on('error', () => {});
    upstream.on('error', () => client.destroy());
  });
  await new Promise<void>((resolve) => proxy.listen(socket, resolve));
  const test = await TestRuntime.create({ env: { ...process.env, DOCKER_HOST: `unix://${socket}` } });
  try {
    const running = await test.start(fixtureServer('order'));
    await running.handshake();
    await engine.getContainer(running.name).pause();
    await until(() => running.instance.isFrozen === true);
    const answered: string[] = [];
    const call = async (text: string) => answered.push(await running.call('echo', { text }));
    const first = call('first');
    await until(() => running.instance.isFrozen === false);
    await Promise.all([first, call('second')]);
    expect(answered).toEqual(['first', 'second']);
    await running.instance.stop({ graceMs: 5000 });
  } finally {
    await test.dispose();
    proxy.close();
    await rm(folder, { recursive: true, force: true });
  }
});
