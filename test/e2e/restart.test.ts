import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { temporaryFolder } from '../programs.ts';
import { eventually } from '../waiting.ts';
import { containersOf, engine, fixture } from './engine.ts';
import { EngineProxy } from './engine-proxy.ts';
import { startGateway } from './gateway-process.ts';
import { connect, rejection } from './mcp-client.ts';

const config = `servers:\n${fixture('one', 'everything.mjs')}${fixture('two', 'paginates.mjs')}`;

it('answers lists from the kept catalog after a restart, without starting anything', async () => {
  const folder = await temporaryFolder();
  try {
    await using first = await startGateway({ folder, config, discovered: true });
    await using before = await connect(first.url);
    const { tools } = await before.listTools();
    const { prompts } = await before.listPrompts();
    await first.end();

    const started: string[] = [];
    const events = await engine.getEvents({ filters: { type: ['container'], event: ['create'] } });
    events.on('data', (chunk) => started.push(String(chunk)));
    await using second = await startGateway({ folder, config });
    await using after = await connect(second.url);
    expect((await after.listTools()).tools).toEqual(tools);
    expect((await after.listPrompts()).prompts).toEqual(prompts);
    await second.printed(/^Ready: /m);
    (events as unknown as { destroy(): void }).destroy();
    const id = await second.id();
    expect(started.filter((event) => event.includes(id))).toEqual([]);
    expect(await containersOf(id)).toEqual([]);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
});

it('ends when it is told to while it is just meeting the engine', async () => {
  await using gateway = await startGateway({ config });
  expect(await gateway.end()).toBe(0);
});

it('serves lists while the engine is away, says what to do, and recovers by itself', async () => {
  const folder = await temporaryFolder();
  const proxy = new EngineProxy(join(folder, 'engine.sock'));
  await proxy.up();
  try {
    await using gateway = await startGateway({
      folder,
      config,
      env: { DOCKER_HOST: proxy.dockerHost },
      discovered: true,
    });
    await using client = await connect(gateway.url);
    expect(await client.text('one__echo', { text: 'before' })).toBe('before');

    await proxy.down();
    expect((await client.listTools()).tools.length).toBeGreaterThan(10);
    const error = await rejection(client.callTool({ name: 'two__tool_01', arguments: {} }));
    expect(error.message).toMatch(/engine/i);
    expect(error.data).toMatchObject({ code: 'engine_unreachable', hint: expect.any(String) });
    expect((await fetch(`${gateway.url}/health`)).status).toBe(200);

    await proxy.up();
    await eventually(
      () => client.text('one__echo', { text: 'after' }).catch(String),
      (text) => text === 'after',
      70_000,
    );
  } finally {
    await proxy.down().catch(() => {});
    await rm(folder, { recursive: true, force: true });
  }
});
