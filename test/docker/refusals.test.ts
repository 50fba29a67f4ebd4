import { mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { expect, it } from 'vitest';
import { TroubledEngine } from '../chaos/troubled-engine.ts';
import { fixtureServer, TestRuntime } from './harness.ts';

it('an engine that answers by errors is quoted, before a start as in it', async () => {
  const folder = await mkdtemp(path.join(os.tmpdir(), 'mcp-gateway-engine-'));
  const engine = new TroubledEngine(path.join(folder, 'engine.sock'));
  await engine.up();
  const test = await TestRuntime.create({ env: { ...process.env, DOCKER_HOST: engine.dockerHost } });
  const server = fixtureServer('refused');
  expect(await test.runtime.describe()).toMatchObject({ reachable: true });
  const isOver = engine.suffer('broken', 1000);
  await expect(test.runtime.prepare(server, {})).rejects.toMatchObject({
    code: 'start_failed',
    message: expect.stringMatching(/refused.*the engine has been told to fail/),
    hint: expect.stringContaining('docker info'),
  });
  await isOver;
  await test.runtime.prepare(server, {});
  await test.dispose();
  await engine.down();
  await rm(folder, { recursive: true });
});
