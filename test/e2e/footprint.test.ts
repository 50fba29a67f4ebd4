import { join } from 'node:path';
import { expect, it } from 'vitest';
import { main, root, run } from '../programs.ts';
import { eventually } from '../waiting.ts';
import { fixture } from './engine.ts';
import { type GatewayProcess, startGateway } from './gateway-process.ts';
import { connect } from './mcp-client.ts';

const probed = [process.execPath, '--import', join(root, 'test/e2e/footprint-probe.mjs')] as const;
const program: [string, ...string[]] = [...probed, main];
const loadedBy = (gateway: GatewayProcess) =>
  [...gateway.output().matchAll(/^loads (\S+)$/gm)].map(([, name]) => name!);

/** What is loaded when it is first needed: SSH engines, BuildKit's sessions, bars, tables, WebSockets, the npm registry. */
const deferred = [
  /^ssh2$/,
  /^@grpc\//,
  /^protobufjs$/,
  /^cli-progress$/,
  /^cli-table3$/,
  /^ws$/,
  /^package-json$/,
  /^registry-url$/,
];

it('has loaded nothing that a gateway on a local engine does without', async () => {
  await using gateway = await startGateway({
    config: `servers:\n${fixture('one', 'tiny.mjs')}`,
    program,
    discovered: true,
  });
  await using client = await connect(gateway.url);
  expect(await client.text('one__echo', { text: 'x' })).toBe('x');

  const loaded = loadedBy(gateway);
  expect(loaded).toEqual(expect.arrayContaining(['commander', 'zod', 'hono', 'winston', 'dockerode']));
  expect(loaded.filter((name) => deferred.some((pattern) => pattern.test(name)))).toEqual([]);
});

it('keeps its young generation small until the first call, and lets it grow from there', async () => {
  await using gateway = await startGateway({
    config: `servers:\n${fixture('one', 'everything.mjs')}`,
    program,
    discovered: true,
  });
  let seen = 0;
  const youngMegabytes = async () => {
    gateway.process.kill('SIGUSR2');
    const told = await eventually(
      async () => [...gateway.output().matchAll(/^young (\S+)$/gm)],
      ({ length }) => length > seen,
    );
    seen = told.length;
    return Number(told.at(-1)![1]);
  };
  expect(await youngMegabytes()).toBeLessThanOrEqual(4);

  await using client = await connect(gateway.url);
  await eventually(
    async () => {
      const text = 'x'.repeat(1000);
      await Promise.all(Array.from({ length: 500 }, () => client.text('one__echo', { text })));
      return youngMegabytes();
    },
    (megabytes) => megabytes > 4,
  );
});

it('strips the types of a checkout once', async () => {
  const [node, ...probe] = probed;
  const version = () => run(node, [...probe, join(root, 'bin/mcp-gateway.js'), '--version']);
  await version();
  expect((await version()).stderr).toContain('strips types: false');
});
