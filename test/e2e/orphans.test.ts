import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { cli, temporaryFolder } from '../programs.ts';
import { eventually } from '../waiting.ts';
import { containersOf, engine, fixture } from './engine.ts';
import { type GatewayProcess, startGateway } from './gateway-process.ts';
import { connect } from './mcp-client.ts';

const config = `servers:
${fixture('one', 'tiny.mjs')}${fixture('two', 'tiny.mjs')}${fixture('three', 'tiny.mjs')}\
${fixture('stubborn', 'ignores-sigterm.mjs', { timeouts: { stop: '1s' } })}\
${fixture('frozen', 'tiny.mjs', { pause_after: '1s' })}${fixture('spared', 'tiny.mjs', { pool: { standby: 1 } })}`;

describe('after kill -9 of the gateway', () => {
  let folder: string;
  let other: GatewayProcess;
  let othersContainers: string[];

  beforeAll(async () => {
    folder = await temporaryFolder();
    other = await startGateway({ config: `servers:\n${fixture('one', 'tiny.mjs')}`, discovered: true });
    await using client = await connect(other.url);
    await client.text('one__echo', { text: 'hello' });
    othersContainers = await containersOf(await other.id());
    expect(othersContainers).toHaveLength(1);
  });
  afterAll(() => other?.[Symbol.asyncDispose]());

  it('leaves only what cannot notice it, and the next start removes that and nothing else', async () => {
    const first = await startGateway({ folder, config, discovered: true });
    const id = await first.id();
    await using client = await connect(first.url);
    for (const tool of ['one__echo', 'two__echo', 'three__echo', 'stubborn__ok', 'frozen__echo']) {
      await client.text(tool, { text: 'hello' });
    }
    await eventually(
      async () =>
        (await engine.listContainers({ all: true, filters: { label: [`mcp-gateway.gateway=${id}`] } })).map(
          (c) => c.State,
        ),
      (states) => states.length === 6 && states.filter((state) => state === 'paused').length === 2,
    );

    await first.end('SIGKILL');
    await delay(5000);
    expect(await containersOf(id)).toEqual(
      ['frozen', 'spared', 'stubborn'].map((name) => expect.stringContaining(name)),
    );

    // A spare of its own would look like what was left.
    const withoutSpares = config.replace('"standby":1', '"standby":0');
    await using second = await startGateway({ folder, config: withoutSpares });
    await eventually(
      () => containersOf(id),
      (names) => names.length === 0,
      15_000,
    );
    expect(await containersOf(await other.id())).toEqual(othersContainers);
    expect(await second.id()).toBe(id);
  });
});

it('refuses a second start on the same state_dir, naming the pid of the first, and sweeps nothing', async () => {
  await using first = await startGateway({
    config: `servers:\n${fixture('one', 'tiny.mjs')}`,
    discovered: true,
  });
  await using client = await connect(first.url);
  await client.text('one__echo', { text: 'hello' });
  const before = await containersOf(await first.id());

  const second = await cli(['start', '--config', `${first.folder}/servers.yaml`, '--port', '0']);
  expect(second.code).toBe(1);
  expect(second.stderr).toContain(String(first.process.pid));
  expect(await containersOf(await first.id())).toEqual(before);
  expect(await client.text('one__echo', { text: 'still here' })).toBe('still here');
});

it('ends what runs within its bound at SIGTERM, and at once at the second', async () => {
  const gateway = await startGateway({
    config: `servers:\n${fixture('one', 'everything.mjs')}`,
    discovered: true,
  });
  const id = await gateway.id();
  const client = await connect(gateway.url);
  const call = client.text('one__sleep', { ms: 2000 });
  await eventually(
    () => containersOf(id),
    (names) => names.length === 1,
  );
  const end = gateway.end('SIGTERM');
  expect(await call).toBeTruthy();
  expect(await end).toBe(0);
  expect(await containersOf(id)).toEqual([]);

  const again = await startGateway({
    folder: gateway.folder,
    config: `servers:\n${fixture('one', 'everything.mjs')}`,
  });
  const impatient = await connect(again.url);
  const lost = impatient.text('one__sleep', { ms: 60_000 }).catch((error: Error) => error);
  await eventually(
    () => containersOf(id),
    (names) => names.length === 1,
  );
  const startedAt = Date.now();
  void again.end('SIGTERM');
  await again.printed(/again to end now/);
  await again.end('SIGTERM');
  expect(Date.now() - startedAt).toBeLessThan(10_000);
  expect(await lost).toBeInstanceOf(Error);
  expect(await containersOf(id)).toEqual([]);
});
