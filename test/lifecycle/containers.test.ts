import { afterEach, beforeAll, describe, expect, it } from 'vitest';
import type { DockerServer } from '../../src/config/schema.ts';
import { Fleet } from '../../src/lifecycle/fleet.ts';
import type { Outcome } from '../../src/lifecycle/lease.ts';
import { engine, fixtureServer, isPodman, knowsExitsAtOnce, TestRuntime } from '../docker/harness.ts';
import { until } from '../waiting.ts';
import { configOf, rejection } from './fixtures.ts';

/* The promises of the lifecycle where only a real engine can break them. */

let test: TestRuntime;
let fleet: Fleet;
const program = (file: string, changes: Partial<DockerServer> = {}) => ({
  command: ['node', `${file}.mjs`],
  ...changes,
});

async function containerFleet(...servers: DockerServer[]) {
  test = await TestRuntime.create();
  const config = configOf(servers as never);
  fleet = new Fleet({ config, runtimeFor: () => test.runtime, events: test.events, version: '0.0.0' });
  const tool = async (server: string, name: string, args: object = {}) =>
    fleet.call(server, { method: 'tools/call', params: { name, arguments: args } });
  return { tool };
}

/** This test's containers as the engine has them. */
const containers = () =>
  engine.listContainers({ all: true, filters: { label: [`mcp-gateway.gateway=${test.gatewayId}`] } });

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

describe('in containers', () => {
  it('a hundred simultaneous first calls start one, which is gone after its idle time', async () => {
    const { tool } = await containerFleet(
      fixtureServer('crowd', program('everything', { idleTimeoutMs: 1000 })),
    );
    const hosts = await Promise.all(Array.from({ length: 100 }, () => tool('crowd', 'whoami').then(textOf)));
    expect(new Set(hosts).size).toBe(1);
    expect(await containers()).toHaveLength(1);
    await until(async () => (await containers()).length === 0, 'the container is gone');
    await until(() => fleet.status('crowd').state === 'stopped', 'the status says so');
    expect(fleet.status('crowd')).toMatchObject({ instances: [], lastError: undefined });
  });

  it('an idle one is frozen, a call thaws it, and what the status says is what the engine says', async () => {
    const { tool } = await containerFleet(
      fixtureServer('frosty', program('stateful-notes', { pauseAfterMs: 300 })),
    );
    await tool('frosty', 'add', { note: 'kept' });
    await until(() => fleet.status('frosty').state === 'paused', 'it is frozen');
    expect(await containers()).toMatchObject([
      { State: 'paused', Names: [`/${fleet.status('frosty').instances[0]!.id}`] },
    ]);
    expect(textOf(await tool('frosty', 'list'))).toContain('kept');
    await until(() => fleet.status('frosty').state === 'paused', 'it is frozen again');

    await engine.getContainer(fleet.status('frosty').instances[0]!.id).remove({ force: true });
    await until(() => fleet.status('frosty').instances.length === 0, 'the removal is noticed');
    expect(textOf(await tool('frosty', 'list'))).not.toContain('kept');
  });

  it('a call that comes while one is stopped gets a fresh one, and never do two run', async () => {
    const { tool } = await containerFleet(
      fixtureServer(
        'stubborn',
        program('ignores-sigterm', {
          idleTimeoutMs: 50,
          timeouts: { ...fixtureServer('x').timeouts, stopMs: 1000 },
        }),
      ),
    );
    await tool('stubborn', 'ok');
    await until(() => fleet.status('stubborn').state === 'draining', 'it drains');
    let most = 0;
    let isOver = false;
    const watching = (async () => {
      while (!isOver)
        most = Math.max(most, (await containers()).filter(({ State }) => State === 'running').length);
    })();
    expect(textOf(await tool('stubborn', 'ok'))).toBe('ok');
    isOver = true;
    await watching;
    expect(most).toBe(1);
  });

  it('removed during its calls, it is an answer to all of them, and the next call works', async () => {
    const { tool } = await containerFleet(fixtureServer('removed', program('everything')));
    await tool('removed', 'echo', { text: 'x' });
    const calls = Array.from({ length: 4 }, () => rejection(tool('removed', 'sleep', { ms: 60_000 })));
    await until(() => fleet.status('removed').instances[0]?.leases === 4, 'the calls run');
    await engine.getContainer(fleet.status('removed').instances[0]!.id).remove({ force: true });
    // On Podman it looks as if the memory had run out.
    const code = isPodman ? expect.stringMatching(/instance_crashed|out_of_memory/) : 'instance_crashed';
    for (const error of await Promise.all(calls)) {
      expect(error).toMatchObject({ code, server: 'removed', hint: expect.any(String) });
    }
    expect(fleet.status('removed').instances).toEqual([]);
    expect(textOf(await tool('removed', 'echo', { text: 'again' }))).toBe('again');
  });

  it('out of memory is said, with the limit', { retry: knowsExitsAtOnce ? 0 : 5 }, async () => {
    const { tool } = await containerFleet(
      fixtureServer(
        'hungry',
        program('out-of-memory', { limits: { memoryBytes: 64 * 1024 ** 2, cpus: 1, pids: 128 } }),
      ),
    );
    const error = await rejection(tool('hungry', 'eat', { megabytes: 512 }));
    expect(error.code).toBe('out_of_memory');
    expect(error.hint).toMatch(/limits\.memory/);
    expect(textOf(await tool('hungry', 'ok'))).toBe('ok');
  });

  it('nothing is left of a start that is given up, whatever it was doing', async () => {
    const { tool } = await containerFleet(fixtureServer('hasty', program('never-ready')));
    for (const afterMs of [0, 20, 60, 150, 400]) {
      const call = rejection(tool('hasty', 'ok'));
      await new Promise((resolve) => setTimeout(resolve, afterMs));
      await fleet.kill();
      await call;
      await until(async () => (await containers()).length === 0, 'nothing is left');
      const { gatewayId } = test;
      await test.dispose();
      await containerFleet(fixtureServer('hasty', program('never-ready')));
      expect(test.gatewayId).not.toBe(gatewayId);
    }
  });
});
