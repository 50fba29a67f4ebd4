import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import type { GatewayConfig } from '../../src/config/schema.ts';
import { Discovery } from '../../src/lifecycle/discovery.ts';
import { Fleet, type FleetCallOptions } from '../../src/lifecycle/fleet.ts';
import type { InstanceListener, Outcome } from '../../src/lifecycle/lease.ts';
import { Events } from '../../src/observability/events.ts';
import type { Notification } from '../../src/protocol/jsonrpc.ts';
import { ProcessRuntime } from '../../src/runtimes/process.ts';
import { until } from '../waiting.ts';
import { configOf, rejection, type ServerSettings, serverOf } from './fixtures.ts';

/* The promises of the lifecycle, each tried against real processes. */

const fixtures = path.join(import.meta.dirname, '../fixtures/servers');
const program = (name: string, settings: ServerSettings = {}) => ({
  command: [process.execPath, path.join(fixtures, `${name}.mjs`)],
  workingDir: fixtures,
  ...settings,
});
const cleanups: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

async function processFleet(
  servers: Record<string, ServerSettings>,
  {
    gateway = {},
    listener = {},
  }: { gateway?: Partial<GatewayConfig>; listener?: Partial<InstanceListener> } = {},
) {
  const stateDir = await mkdtemp(path.join(tmpdir(), 'lifecycle-'));
  const config = configOf(
    Object.entries(servers).map(([name, settings]) => serverOf(name, settings)),
    gateway,
  );
  const runtime = new ProcessRuntime({ gateway: config.gateway, stateDir });
  const events = new Events();
  const started: string[] = [];
  const stopped: string[] = [];
  events.on('instance.started', ({ server }) => started.push(server));
  events.on('instance.stopped', ({ server }) => stopped.push(server));
  const fleet = new Fleet({ config, runtimeFor: () => runtime, events, version: '0.0.0' });
  fleet.listen({
    onNotification() {},
    onRequest: async () => ({ error: { code: -32601, message: 'nobody' } }),
    onReady() {},
    onAsked() {},
    onEnded() {},
    ...listener,
  });
  cleanups.push(
    () => rm(stateDir, { recursive: true, force: true }),
    () => fleet.kill(),
  );
  const tool = (server: string, name: string, args: object = {}, options: FleetCallOptions = {}) =>
    fleet.call(server, { method: 'tools/call', params: { name, arguments: args } }, options);
  return { fleet, events, started, stopped, tool };
}

function textOf(outcome: Outcome): string {
  if ('error' in outcome) throw new Error(outcome.error.message);
  return (outcome.result.content as { text: string }[])[0]!.text;
}

const isAlive = (pid: number) => {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
};

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

describe('on real processes', () => {
  it('a hundred simultaneous first calls start one instance', async () => {
    const { tool, started } = await processFleet({
      all: program('everything'),
      slow: program('slow-start', { env: { START_DELAY_MS: '300' } }),
    });
    const pids = await Promise.all(Array.from({ length: 100 }, () => tool('all', 'pid').then(textOf)));
    expect(new Set(pids).size).toBe(1);
    const echoes = await Promise.all(
      Array.from({ length: 100 }, (_, n) => tool('slow', 'echo', { text: `${n}` }).then(textOf)),
    );
    expect(echoes).toEqual(Array.from({ length: 100 }, (_, n) => `${n}`));
    expect(started).toEqual(['all', 'slow']);
  });

  it('an instance is never stopped under a call, and a call during a drain gets a fresh one', async () => {
    const { fleet, tool, started } = await processFleet({
      all: program('everything', { idleTimeoutMs: 200 }),
      // Only SIGKILL ends it, so its drain takes as long as its grace.
      stubborn: program('ignores-sigterm', { idleTimeoutMs: 50, timeouts: { stopMs: 1500 } }),
    });
    const pid = Number(textOf(await tool('all', 'pid')));
    expect(textOf(await tool('all', 'sleep', { ms: 1000 }))).toBeTruthy();
    expect(isAlive(pid)).toBe(true);
    await until(() => fleet.status('all').state === 'stopped');
    expect(isAlive(pid)).toBe(false);

    await tool('stubborn', 'ok');
    await until(() => fleet.status('stubborn').state === 'draining');
    expect(textOf(await tool('stubborn', 'ok'))).toBe('ok');
    expect(started.filter((name) => name === 'stubborn')).toHaveLength(2);
  });

  it('calls that come just when the idle time ends are all answered', async () => {
    const { tool, started } = await processFleet({ tiny: program('tiny', { idleTimeoutMs: 20 }) });
    for (let n = 0; n < 25; n += 1) {
      expect(textOf(await tool('tiny', 'echo', { text: `${n}` }))).toBe(`${n}`);
      await pause(18 + (n % 5));
    }
    expect(started.length).toBeGreaterThan(1);
  });

  it('a death is an answer that says why, what was written is not replayed, and the next call works', async () => {
    const { tool, started, fleet } = await processFleet({
      crash: program('crash-on-call'),
      all: program('everything'),
    });
    const error = await rejection(tool('crash', 'crash', { code: 42 }));
    expect(error).toMatchObject({ code: 'instance_crashed', server: 'crash', data: { exitCode: 42 } });
    expect(error.message).toMatch(/exit code 42.*Last lines of stderr:\n {2}\S/s);
    expect(error.hint).toBeTruthy();
    expect(started).toEqual(['crash']);
    expect(textOf(await tool('crash', 'ok'))).toBe('ok');
    expect(started).toEqual(['crash', 'crash']);

    // Several calls at once, and a death from outside.
    const pid = Number(textOf(await tool('all', 'pid')));
    const sleeping = Array.from({ length: 5 }, () => rejection(tool('all', 'sleep', { ms: 60_000 })));
    await until(() => fleet.status('all').instances[0]?.leases === 5);
    await pause(50);
    process.kill(pid, 'SIGKILL');
    await until(() => !isAlive(pid) || fleet.status('all').instances.length === 0);
    const deadMs = performance.now();
    for (const told of await Promise.all(sleeping)) {
      expect(told).toMatchObject({ code: 'instance_crashed', data: { signal: 'SIGKILL' } });
    }
    // 100 ms is the promise; the rest is for a machine that is busy with other tests.
    expect(performance.now() - deadMs).toBeLessThan(1000);
    expect(fleet.status('all')).toMatchObject({
      state: 'stopped',
      instances: [],
      lastError: { code: 'instance_crashed' },
    });
    expect(textOf(await tool('all', 'echo', { text: 'again' }))).toBe('again');
  });

  it('nothing is left when the fleet has been drained, calls in flight were answered', async () => {
    const { fleet, tool } = await processFleet({ all: program('everything'), tiny: program('tiny') });
    const pid = Number(textOf(await tool('all', 'pid')));
    await tool('tiny', 'echo', { text: 'x' });
    const inFlight = tool('all', 'sleep', { ms: 500 });
    await pause(50);
    const drained = fleet.drain(30_000);
    expect((await rejection(tool('tiny', 'echo', {}))).code).toBe('draining');
    expect('result' in (await inFlight)).toBe(true);
    await drained;
    expect(isAlive(pid)).toBe(false);
    expect(fleet.status('tiny').instances).toEqual([]);
  });

  it('to look at a server starts nothing; to read its lists starts it, and stops it again', async () => {
    const { fleet, started } = await processFleet({
      pages: program('paginates'),
      odd: program('old-version'),
    });
    const discovery = new Discovery({ fleet });
    const { signal } = new AbortController();
    expect(fleet.servers().map(({ name }) => fleet.status(name).state)).toEqual(['stopped', 'stopped']);
    const digest = await discovery.digest('pages', signal);
    expect(digest).toMatch(/^sha256:/);
    expect(started).toEqual([]);
    const read = await discovery.read('pages', signal);
    expect([
      read.tools.length,
      read.resources.length,
      read.resourceTemplates.length,
      read.prompts.length,
    ]).toEqual([25, 25, 25, 25]);
    await until(() => fleet.status('pages').state === 'stopped');
    expect(await discovery.read('odd', signal)).toMatchObject({
      protocolVersion: '0.1.0',
      resources: [],
      prompts: [],
    });
    expect(started).toEqual(['pages', 'odd']);
  });

  it('one bad server harms nobody', async () => {
    const patience = { timeouts: { handshakeMs: 1500, stopMs: 500 } };
    const { fleet, tool } = await processFleet(
      {
        good: program('tiny'),
        silent: program('never-ready', patience),
        flood: program('floods-stdout', patience),
        floodAtStart: program('floods-stdout', { ...patience, env: { FLOOD_AT_START: '1' } }),
        shouts: program('floods-stderr', { ...patience, env: { FLOOD_AT_START: '1' } }),
        leaves: program('exits-at-once', patience),
        garbage: program('garbage-lines', patience),
        endless: program('endless-line', patience),
        stubborn: program('ignores-sigterm', { ...patience, idleTimeoutMs: 50 }),
      },
      { gateway: { maxMessageBytes: 1024 * 1024, parallelStarts: 2 } },
    );
    const rssBefore = process.memoryUsage().rss;
    await tool('good', 'echo', { text: 'warm' });
    const bad = Promise.all([
      rejection(tool('silent', 'ok')),
      rejection(tool('flood', 'flood')),
      rejection(tool('leaves', 'ok')),
      rejection(tool('endless', 'endless', { bytes: 200_000_000 })),
    ]);
    // It may answer before it is stopped, or not.
    const floodAtStart = tool('floodAtStart', 'ok').then(
      () => 'answered',
      ({ code }) => code,
    );
    const fine = Promise.all([
      tool('shouts', 'ok').then(textOf),
      tool('garbage', 'echo', { text: 'x' }).then(textOf),
      tool('stubborn', 'ok').then(textOf),
    ]);
    let isOver = false;
    const over = () => {
      isOver = true;
    };
    bad.then(over, over);
    const tookMs: number[] = [];
    while (!isOver || tookMs.length < 50) {
      const beganMs = performance.now();
      expect(textOf(await tool('good', 'echo', { text: `${tookMs.length}` }))).toBe(`${tookMs.length}`);
      tookMs.push(performance.now() - beganMs);
      await pause(5);
    }
    const errors = await bad;
    expect(errors.map(({ code }) => code)).toEqual([
      'handshake_timeout',
      'flooded',
      'start_failed',
      'message_too_large',
    ]);
    for (const error of errors) expect(`${error.server}: ${error.hint}`).not.toMatch(/undefined/);
    expect(errors[2]!.message).toMatch(/exit code 3/);
    expect(await floodAtStart).toMatch(/^(answered|flooded|handshake_timeout)$/);
    await until(() => fleet.status('floodAtStart').instances.length === 0);
    expect(fleet.status('floodAtStart').lastError?.code).toMatch(/flooded|handshake_timeout/);
    expect(await fine).toEqual(['ok', 'x', 'ok']);
    // A median of milliseconds on a quiet machine; the bound is for one that runs other tests beside four floods.
    tookMs.sort((a, b) => a - b);
    expect(tookMs[Math.floor(tookMs.length / 2)]).toBeLessThan(150);
    expect(process.memoryUsage().rss - rssBefore).toBeLessThan(300 * 1024 * 1024);
    expect(fleet.status('good').state).toBe('ready');
    expect(textOf(await tool('endless', 'ok'))).toBe('ok');
  });

  it('the status is what is true', async () => {
    const { fleet, tool } = await processFleet({ all: program('everything', { pauseAfterMs: 100 }) });
    expect(fleet.status('all').state).toBe('stopped');
    const pid = Number(textOf(await tool('all', 'pid')));
    expect(fleet.status('all')).toMatchObject({
      state: 'ready',
      instances: [{ id: expect.stringContaining(`${pid}`), leases: 0 }],
    });
    await fleet.measure('all');
    expect(fleet.status('all').instances[0]!.memoryBytes).toBeGreaterThan(1_000_000);
    await until(() => fleet.status('all').state === 'paused');
    expect(textOf(await tool('all', 'pid'))).toBe(`${pid}`);
    process.kill(pid, 'SIGKILL');
    await until(() => fleet.status('all').instances.length === 0);
    expect(fleet.status('all').state).toBe('stopped');
    // Dead while it was frozen.
    const next = Number(textOf(await tool('all', 'pid')));
    await until(() => fleet.status('all').state === 'paused');
    process.kill(next, 'SIGKILL');
    await until(() => fleet.status('all').instances.length === 0);
    expect(textOf(await tool('all', 'echo', { text: 'here' }))).toBe('here');
  });

  it('twenty clients on one instance get their own answers, progress and questions, and nobody else’s', async () => {
    const { fleet, tool, started } = await processFleet({ all: program('everything', { concurrency: 50 }) });
    const clients = Array.from({ length: 20 }, async (_, client) => {
      for (let n = 0; n < 10; n += 1) {
        const text = `client ${client} call ${n}`;
        expect(textOf(await tool('all', 'echo', { text }, { affinity: `s${client}` }))).toBe(text);
        const heard: unknown[] = [];
        const progress = {
          method: 'tools/call',
          params: { name: 'progress', arguments: { steps: 3, ms: 1 }, _meta: { progressToken: `${client}` } },
        };
        await fleet.call('all', progress, {
          onNotification: ({ params }) => heard.push(params!.progressToken),
        });
        expect(heard).toEqual([`${client}`, `${client}`, `${client}`]);
      }
    });
    await Promise.all(clients);
    expect(started).toEqual(['all']);
  });

  it('a shared server that asks is learnt, and then each question reaches its own client', async () => {
    const learnt: string[] = [];
    const { tool } = await processFleet(
      { asks: program('asks-the-user') },
      { listener: { onAsked: (server) => learnt.push(server) } },
    );
    const ask = (client: number) =>
      tool(
        'asks',
        'ask',
        { question: `for ${client}` },
        {
          affinity: `s${client}`,
          onRequest: async ({ params }) => ({
            result: { action: 'accept', content: { answer: `${client} was asked: ${params!.message}` } },
          }),
        },
      ).then(textOf);
    expect(await ask(0)).toContain('0 was asked: for 0');
    const answers = await Promise.all(Array.from({ length: 20 }, (_, client) => ask(client)));
    for (const [client, answer] of answers.entries())
      expect(answer).toContain(`${client} was asked: for ${client}`);
    expect(learnt).toEqual(['asks']);
  });

  it('sessions with their own instances share no memory, and lose it with notice', async () => {
    const { fleet, tool } = await processFleet({
      notes: program('stateful-notes', { stateful: true, idleTimeoutMs: 50 }),
    });
    const add = (affinity: string, note: string) => tool('notes', 'add', { note }, { affinity });
    const list = (affinity: string) => tool('notes', 'list', {}, { affinity }).then(textOf);
    await Promise.all([add('a', 'of a'), add('b', 'of b')]);
    await pause(300);
    expect(await list('a')).toContain('of a');
    expect(await list('a')).not.toContain('of b');
    await fleet.stop('notes');
    expect((await rejection(list('a'))).message).toMatch(/lost/);
    expect(await list('a')).not.toContain('of a');
    fleet.endSession('a');
    fleet.endSession('b');
    await until(() => fleet.status('notes').instances.length === 0);
  });
});

describe('on real processes of either era', () => {
  it.each(['modern', 'both'])(
    'a server that speaks %s is spoken to in the modern era, by one instance',
    async (ERA) => {
      const { fleet, tool, started } = await processFleet({ all: program('everything', { env: { ERA } }) });
      const pids = await Promise.all(Array.from({ length: 100 }, () => tool('all', 'pid')));
      expect(new Set(pids.map(textOf)).size).toBe(1);
      expect(pids.map(({ era }) => era)).toEqual(pids.map(() => 'modern'));
      expect(started).toEqual(['all']);
      const reading = await new Discovery({ fleet }).read('all', new AbortController().signal);
      expect(reading.protocolVersion).toBe('2026-07-28');
      expect(reading.serverInfo).toMatchObject({ name: 'everything' });
      expect(reading.tools.length).toBeGreaterThan(20);
      expect(Object.keys(reading.caching!).sort()).toEqual([
        'prompts',
        'resourceTemplates',
        'resources',
        'tools',
      ]);
    },
  );

  it('a modern server tells progress, log lines and changes, and is cancelled', async () => {
    const heard: Notification[] = [];
    const { fleet, tool } = await processFleet(
      { all: program('everything', { env: { ERA: 'modern' } }) },
      { listener: { onNotification: (_server, _affinity, notification) => heard.push(notification) } },
    );
    const own: Notification[] = [];
    const options = (logLevel?: string): FleetCallOptions => ({
      client: { capabilities: {}, logLevel },
      onNotification: (notification) => own.push(notification),
    });
    const progress = {
      method: 'tools/call',
      params: { name: 'progress', arguments: { steps: 3, ms: 1 }, _meta: { progressToken: 'p' } },
    };
    await fleet.call('all', progress, options());
    expect(own.map(({ params }) => params!.progressToken)).toEqual(['p', 'p', 'p']);
    own.length = 0;
    await tool('all', 'log', { level: 'info', text: 'hello' }, options('debug'));
    await tool('all', 'log', { level: 'info', text: 'unwanted' }, options());
    expect(own.map(({ params }) => params!.data)).toEqual(['hello']);

    const subscribe = { method: 'resources/subscribe', params: { uri: 'test://watched' } };
    await tool('all', 'add_resource', { uri: 'test://watched' });
    expect(await fleet.call('all', subscribe)).toEqual({ era: 'modern', result: {} });
    await tool('all', 'touch_resource', { uri: 'test://watched' });
    await tool('all', 'add_tool', { name: 'late' });
    const changes = () => heard.filter(({ method }) => /tools|updated/.test(method));
    await until(() => changes().length >= 2);
    expect(changes()).toEqual([
      {
        jsonrpc: '2.0',
        method: 'notifications/resources/updated',
        params: expect.objectContaining({ uri: 'test://watched' }),
      },
      { jsonrpc: '2.0', method: 'notifications/tools/list_changed' },
    ]);

    const abort = new AbortController();
    const sleeping = rejection(tool('all', 'sleep', { ms: 60_000 }, { signal: abort.signal }));
    await pause(50);
    abort.abort();
    expect((await sleeping).code).toBe('cancelled');
    await until(async () => Number(textOf(await tool('all', 'cancellations')).replace(/\D/g, '')) > 0);
  });

  it('a legacy server that dies of any other first message works', async () => {
    const { fleet, tool, started } = await processFleet({ first: program('initialize-first') });
    expect(textOf(await tool('first', 'ok'))).toBe('ok');
    expect(started).toEqual(['first']);
    expect(fleet.status('first').lastError).toBeUndefined();
  });

  it('a server that answers nothing is started once and waited for once', async () => {
    const { tool, started } = await processFleet({
      silent: program('never-ready', { timeouts: { handshakeMs: 400 } }),
    });
    expect((await rejection(tool('silent', 'ok'))).code).toBe('handshake_timeout');
    expect(started).toEqual([]);
  });

  it('ten modern clients watch, leave and come back, and each change is told once', async () => {
    const heard: unknown[] = [];
    const { fleet, tool } = await processFleet(
      { all: program('everything', { env: { ERA: 'modern' } }) },
      {
        listener: {
          onNotification: (_server, _affinity, { method, params }) => {
            if (method === 'notifications/resources/updated') heard.push(params!.uri);
          },
        },
      },
    );
    const uris = Array.from({ length: 10 }, (_, n) => `test://${n}`);
    for (const uri of uris) await tool('all', 'add_resource', { uri });
    await Promise.all(
      uris.map((uri) => fleet.call('all', { method: 'resources/subscribe', params: { uri } })),
    );
    const touched: string[] = [];
    for (let round = 0; round < 5; round += 1) {
      // Each round changes what is watched while updates come in.
      const extra = `test://extra/${round}`;
      const changing = fleet.call('all', { method: 'resources/subscribe', params: { uri: extra } });
      for (const uri of uris) {
        await tool('all', 'touch_resource', { uri });
        touched.push(uri);
      }
      await changing;
    }
    await until(() => heard.length >= touched.length);
    expect(heard).toEqual(touched);
  });
});
