import { mkdtemp, rm } from 'node:fs/promises';
import { createConnection, createServer } from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { expect, it } from 'vitest';
import { enginePath, fixtureServer, TestRuntime } from './harness.ts';

it('an engine that takes a frozen container for running is asked again', async () => {
  const folder = await mkdtemp(path.join(os.tmpdir(), 'mcp-gateway-thaw-'));
  const socket = path.join(folder, 'engine.sock');
  const said = JSON.stringify({
    message: 'Cannot unpause container x: cannot resume a running process: unknown',
  });
  let refusals = 3;
  const proxy = createServer((client) => {
    const upstream = createConnection(enginePath);
    client.on('data', (chunk: Buffer) => {
      if (refusals > 0 && /^POST \S+\/unpause/.test(chunk.toString('latin1'))) {
        refusals -= 1;
        client.write(
          `HTTP/1.1 500 Internal Server Error\r\ncontent-type: application/json\r\ncontent-length: ${said.length}\r\n\r\n${said}`,
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
    expect(refusals).toBe(0);
    expect((await running.inspect()).State.Paused).toBe(false);
    expect(await running.call('echo', { text: 'awake' })).toBe('awake');
    await running.instance.stop({ graceMs: 5000 });
  } finally {
    await test.dispose();
    proxy.close();
    await rm(folder, { recursive: true, force: true });
  }
});
