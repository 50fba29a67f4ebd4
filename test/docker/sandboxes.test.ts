import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type Clock, systemClock } from '../../src/base/async.ts';
import type { DockerServer } from '../../src/config/schema.ts';
import { until } from '../waiting.ts';
import { engine, exists, fixtureServer, isPodman, type TestInstance, TestRuntime } from './harness.ts';

const hourMs = 3_600_000;

/** The real clock, but for hours: those pass when a test says so. */
class HourGlass implements Clock {
  readonly #waiting = new Set<() => void>();

  now(): number {
    return systemClock.now();
  }

  schedule(task: () => void, delayMs: number): () => void {
    if (delayMs < hourMs) return systemClock.schedule(task, delayMs);
    this.#waiting.add(task);
    return () => this.#waiting.delete(task);
  }

  turn(): void {
    for (const task of this.#waiting) task();
    this.#waiting.clear();
  }
}

let glass: HourGlass;
let test: TestRuntime;
beforeEach(async () => {
  glass = new HourGlass();
  test = await TestRuntime.create({ clock: glass });
});
afterEach(() => test.dispose());

const kept = (name: string, changes: Partial<DockerServer> = {}) =>
  fixtureServer(name, { sandbox: 'keep', network: 'mcp-network', ...changes });

/** The containers that keep networks of this test's servers. */
async function sandboxes(server?: string): Promise<string[]> {
  const label = [`mcp-gateway.gateway=${test.gatewayId}`, `mcp-gateway.sandbox${server ? `=${server}` : ''}`];
  const containers = await engine.listContainers({ filters: { label } });
  return containers.map(({ Id }) => Id);
}
const sandboxOf = (server: string) =>
  until(async () => (await sandboxes(server))[0], `${server} has a sandbox`);

async function networkOf(running: TestInstance): Promise<string> {
  return (await running.inspect()).HostConfig.NetworkMode!;
}

async function runOnce(server: DockerServer): Promise<string> {
  const running = await test.start(server);
  await running.handshake();
  const network = await networkOf(running);
  await running.instance.stop({ graceMs: 2_000 });
  return network;
}

// It has no effect on Podman.
describe.skipIf(isPodman)('sandbox: keep', () => {
  it('has each run but the first join the network of the one before', async () => {
    const server = kept('lodger');
    expect(await runOnce(server)).toBe('mcp-network');
    const sandbox = await sandboxOf('lodger');
    expect(await runOnce(server)).toBe(`container:${sandbox}`);
    expect(await runOnce(server)).toBe(`container:${sandbox}`);
    expect(await sandboxes()).toEqual([sandbox]);
  });

  it('is for one instance at a time, and for no other server', async () => {
    const server = kept('first');
    await runOnce(server);
    const sandbox = await sandboxOf('first');
    const one = await test.start(server);
    const two = await test.start(server);
    const other = await test.start(kept('second'));
    expect(await networkOf(one)).toBe(`container:${sandbox}`);
    expect(await networkOf(two)).toBe('mcp-network');
    expect(await networkOf(other)).toBe('mcp-network');
    await Promise.all([one, two, other].map(({ instance }) => instance.stop({ graceMs: 2_000 })));
    expect(await runOnce(server)).toBe(`container:${sandbox}`);
  });

  it('is as locked as its server', async () => {
    await runOnce(kept('locked', { env: { TOKEN: 'a-secret' } }));
    const details = await engine.getContainer(await sandboxOf('locked')).inspect();
    expect(JSON.stringify(details)).not.toContain('a-secret');
    const { Config, HostConfig } = details;
    expect(Config.User).toBe('65534:65534');
    expect(HostConfig).toMatchObject({
      AutoRemove: true,
      CapDrop: ['ALL'],
      SecurityOpt: ['no-new-privileges'],
      ReadonlyRootfs: true,
      NetworkMode: 'mcp-network',
      PidsLimit: expect.any(Number),
    });
    expect(HostConfig.Memory).toBeGreaterThan(0);
    expect(HostConfig.Binds ?? []).toEqual([]);
  });

  it('lets no other server in', async () => {
    const listener = "require('node:net').createServer((s) => s.end('reached')).listen(7000)";
    const server = kept('guarded', { command: ['node', '-e', listener] });
    const first = await test.start(server);
    const sandbox = await sandboxOf('guarded');
    await first.instance.stop({ graceMs: 2_000 });
    const guarded = await test.start(server);
    expect(await networkOf(guarded)).toBe(`container:${sandbox}`);
    const { IPAddress } = (await engine.getContainer(sandbox).inspect()).NetworkSettings.Networks[
      'mcp-network'
    ]!;
    const probe = `node -e 'const s=require("net").connect(7000,"${IPAddress}");s.on("data",d=>{console.log(String(d));process.exit()});s.on("error",e=>{console.log(e.code);process.exit()});setTimeout(()=>{console.log("silence");process.exit()},1500)'`;
    await until(async () => (await guarded.shell(probe)).output === 'reached', 'it listens');
    const other = await test.start(kept('curious'));
    expect((await other.shell(probe)).output).not.toBe('reached');
    await Promise.all([guarded, other].map(({ instance }) => instance.stop({ graceMs: 1_000 })));
  });

  it('keeps nothing but loopback for network: none', async () => {
    const server = kept('alone', { network: 'none' });
    await runOnce(server);
    await sandboxOf('alone');
    const running = await test.start(server);
    expect(await networkOf(running)).toMatch(/^container:/);
    expect((await running.shell('ls /sys/class/net')).output).toBe('lo');
    await running.instance.stop({ graceMs: 2_000 });
  });

  it('looks up names as the entry says, and another entry gets another network', async () => {
    const server = kept('named', { extraHosts: ['somewhere:192.0.2.1'], dns: ['192.0.2.53'] });
    await runOnce(server);
    const sandbox = await sandboxOf('named');
    const running = await test.start(server);
    expect(await networkOf(running)).toBe(`container:${sandbox}`);
    const { output } = await running.shell('cat /etc/hosts');
    expect(output).toMatch(/192\.0\.2\.1\s+somewhere/);
    await running.instance.stop({ graceMs: 2_000 });

    expect(await runOnce({ ...server, extraHosts: ['somewhere:192.0.2.2'] })).toBe('mcp-network');
    await until(async () => !(await exists(sandbox)), 'the old one is gone');
    expect(await sandboxOf('named')).not.toBe(sandbox);
  });

  it('ends an hour after the last use of its server, and not before', async () => {
    const server = kept('forgotten');
    const running = await test.start(server);
    const sandbox = await sandboxOf('forgotten');
    glass.turn();
    expect(await exists(sandbox)).toBe(true);
    await running.instance.stop({ graceMs: 2_000 });
    await running.instance.exited;
    expect(await exists(sandbox)).toBe(true);
    glass.turn();
    await until(async () => !(await exists(sandbox)), 'it is gone');
    expect(await runOnce(server)).toBe('mcp-network');
  });

  it('that somebody removes takes its instance along, and the next start does without', async () => {
    const server = kept('evicted');
    await runOnce(server);
    const sandbox = await sandboxOf('evicted');
    const running = await test.start(server);
    expect(await networkOf(running)).toBe(`container:${sandbox}`);
    await engine.getContainer(sandbox).remove({ force: true });
    await running.instance.ended;
    await until(async () => !(await exists(running.name)), 'its container is gone');
    expect(await runOnce(server)).toBe('mcp-network');
    expect(await sandboxOf('evicted')).not.toBe(sandbox);
  });

  it('that goes while a start is on its way is done without', async () => {
    const server = kept('raced');
    await runOnce(server);
    const sandbox = await sandboxOf('raced');
    // Its end is not told before the start has chosen it.
    const prepared = await test.runtime.prepare(server, {});
    const removed = engine.getContainer(sandbox).kill();
    const instance = await test.runtime.start(server, prepared, { onMessage() {}, onNoise() {} });
    await removed;
    await instance.stop({ graceMs: 2_000 });
    expect(await runOnce(server)).toBe('mcp-network');
  });

  it('is swept when an earlier run left it, not while it is in use', async () => {
    await runOnce(kept('left'));
    const sandbox = await sandboxOf('left');
    expect((await test.runtime.sweep()).removed).toEqual([]);
    const next = await TestRuntime.create({ gatewayId: test.gatewayId });
    try {
      expect((await next.runtime.sweep()).removed).toEqual([expect.stringContaining('mcp-left-sandbox-')]);
      expect(await exists(sandbox)).toBe(false);
    } finally {
      await next.dispose();
    }
  });

  it('is gone when the runtime is closed', async () => {
    const running = await test.start(kept('closed'));
    const sandbox = await sandboxOf('closed');
    await running.instance.stop({ graceMs: 2_000 });
    await test.runtime.close();
    expect(await exists(sandbox)).toBe(false);
  });
});
