import { afterEach, beforeAll, describe, expect, it } from 'vitest';
import type { DockerServer, GatewayConfig } from '../../src/config/schema.ts';
import { Fleet } from '../../src/lifecycle/fleet.ts';
import type { Outcome } from '../../src/lifecycle/lease.ts';
import { engine, fixtureServer, TestRuntime } from '../docker/harness.ts';
import { until } from '../waiting.ts';
import { configOf } from './fixtures.ts';

/* Spares where only a real engine can break their promises. */

let test: TestRuntime;
let fleet: Fleet;

async function containerFleet(servers: DockerServer[], gateway: Partial<GatewayConfig> = {}) {
  test = await TestRuntime.create();
  fleet = new Fleet({
    config: configOf(servers as never, gateway),
    runtimeFor: () => test.runtime,
    events: test.events,
    version: '0.0.0',
  });
  for (const server of servers) {
    const { digest } = await test.runtime.prepare(server, {});
    fleet.rememberEra(server.name, 'legacy', digest);
  }
  fleet.start();
  return async (server: string, name = 'whoami', args: object = {}) =>
    textOf(await fleet.call(server, { method: 'tools/call', params: { name, arguments: args } }));
}

const spared = (name: string, changes: Partial<DockerServer> = {}) =>
  fixtureServer(name, {
    command: ['node', 'everything.mjs'],
    pool: { min: 0, max: 1, standby: 1 },
    ...changes,
  });

/** This test's containers as the engine has them. */
const containers = () =>
  engine.listContainers({ all: true, filters: { label: [`mcp-gateway.gateway=${test.gatewayId}`] } });
const states = async () => (await containers()).map(({ State }) => State).sort();
const spares = (name: string) =>
  fleet.status(name).instances.filter(({ isStandby, state }) => isStandby && state === 'paused');

function textOf(outcome: Outcome): string {
  if ('error' in outcome) throw new Error(outcome.error.message);
  return (outcome.result.content as { text: string }[])[0]!.text;
}

beforeAll(async () => {
  const runtime = await TestRuntime.create();
  await runtime.runtime.prepare(fixtureServer('any'), {});
  await runtime.dispose();
});
afterEach(async () => {
  await fleet.kill();
  expect(await containers()).toEqual([]);
  await test.dispose();
});

describe('in containers, a spare', () => {
  it('is frozen, is measured, answers the first call, and is made anew', async () => {
    const tool = await containerFleet([spared('quick')]);
    await until(() => spares('quick')[0]?.memoryBytes !== undefined, 'the spare is measured');
    expect(await states()).toEqual(['paused']);
    const [spare] = spares('quick');
    expect(spare!.memoryBytes).toBeGreaterThan(1024 ** 2);
    expect(fleet.standbyBytes).toBe(spare!.memoryBytes);
    await tool('quick');
    expect(fleet.status('quick').instances).toMatchObject([
      { id: spare!.id, state: 'ready', isStandby: false },
    ]);
    await until(() => spares('quick').length === 1, 'there is another one');
    expect(await states()).toEqual(['paused', 'running']);
  });

  it('is replaced after a person removed it, and calls go on', async () => {
    const tool = await containerFleet([spared('removed')]);
    await until(() => spares('removed').length === 1, 'the spare is there');
    const { id } = spares('removed')[0]!;
    await engine.getContainer(id).remove({ force: true });
    await until(() => spares('removed').every((spare) => spare.id !== id), 'it is noticed');
    await tool('removed');
    await until(() => spares('removed').length === 1, 'there is another one');
  });

  it('yields to a call of another server when all places are taken', async () => {
    const tool = await containerFleet(
      [spared('a'), fixtureServer('b', { command: ['node', 'everything.mjs'] })],
      {
        maxInstances: 1,
      },
    );
    await until(() => spares('a').length === 1, 'the spare is there');
    await tool('b');
    expect(fleet.status('a').instances).toEqual([]);
    expect(await states()).toEqual(['running']);
  });

  it('of a server with an instance for each session is the next session’s', async () => {
    const server = spared('own', {
      isolation: 'session',
      clientCapabilities: ['sampling', 'elicitation', 'roots'],
    });
    await containerFleet([server]);
    await until(() => spares('own').length === 1, 'the spare is there');
    const [spare] = spares('own');
    const who = async (affinity: string) => {
      using lease = await fleet.lease('own', { affinity });
      return lease.instance;
    };
    expect(await who('s1')).toBe(spare!.id);
    await until(() => spares('own').length === 1, 'there is another one');
    expect(await who('s2')).not.toBe(spare!.id);
    expect(await who('s1')).toBe(spare!.id);
  });
});

describe('in containers, an instance that a person froze', () => {
  it('is shown as frozen, and thawed by the next call', async () => {
    const tool = await containerFleet([fixtureServer('held', { command: ['node', 'everything.mjs'] })]);
    const host = await tool('held');
    const { id } = fleet.status('held').instances[0]!;
    await engine.getContainer(id).pause();
    await until(() => fleet.status('held').state === 'paused', 'the status says so');
    expect(fleet.status('held').instances).toMatchObject([{ id, state: 'paused' }]);
    expect(await tool('held')).toBe(host);
    expect(fleet.status('held').state).toBe('ready');
  });
});
