import { rm } from 'node:fs/promises';
import { expect, it } from 'vitest';
import { temporaryFolder } from '../programs.ts';
import { eventually, until } from '../waiting.ts';
import { containersOf, engine, fixture } from './engine.ts';
import { startGateway } from './gateway-process.ts';
import { connect } from './mcp-client.ts';

const config = `servers:\n${fixture('one', 'everything.mjs', { sandbox: 'keep', idle_timeout: '2s' })}`;

/** Has the server called, stopped for idleness, and called again: now it runs in the network that was kept. */
async function secondRun(gateway: Awaited<ReturnType<typeof startGateway>>) {
  const id = await gateway.id();
  const client = await connect(gateway.url);
  await client.text('one__echo', { text: 'hello' });
  const label = [`mcp-gateway.gateway=${id}`, 'mcp-gateway.sandbox=one'];
  const sandbox = await until(
    async () => (await engine.listContainers({ filters: { label } }))[0]?.Id,
    'a sandbox is kept',
  );
  await eventually(
    () => containersOf(id, 'one'),
    (names) => names.length === 0,
  );
  await client.text('one__echo', { text: 'hello again' });
  const [name] = await containersOf(id, 'one');
  expect((await engine.getContainer(name!).inspect()).HostConfig.NetworkMode).toBe(`container:${sandbox}`);
  return { id, client };
}

it('gives a server in a kept network no way to its own gateway', async () => {
  await using gateway = await startGateway({ config, discovered: true });
  const { client } = await secondRun(gateway);
  const { port } = new URL(gateway.url);
  const network = await engine.getNetwork('mcp-network').inspect();
  const bridge = network.IPAM?.Config?.[0]?.Gateway as string;
  for (const host of ['localhost', '127.0.0.1', 'mcp-gateway', 'host.docker.internal', bridge]) {
    for (const forged of [undefined, `localhost:${port}`]) {
      const answer = await client.text('one__http_get', {
        url: `http://${host}:${port}/health`,
        host: forged,
      });
      expect(answer, `${host} as ${forged}`).not.toContain('"status":"ok"');
      expect(answer).toMatch(/E[A-Z]{4,}|timed? ?out/);
    }
  }
  await client.close();
});

it('leaves no kept network behind: not at the end, not after kill -9', async () => {
  const folder = await temporaryFolder();
  try {
    for (const signal of ['SIGKILL', 'SIGTERM'] as const) {
      const gateway = await startGateway({ folder, config, discovered: true });
      const { id, client } = await secondRun(gateway);
      await client.close().catch(() => {});
      await gateway.end(signal);
      await eventually(
        () => containersOf(id),
        (names) => names.length === 0,
        5000,
      );
    }
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
});
