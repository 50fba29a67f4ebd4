import { describe, expect, it } from 'vitest';
import { deferred } from '../../src/base/async.ts';
import { GatewayError } from '../../src/base/errors.ts';
import type { Request } from '../../src/protocol/jsonrpc.ts';
import { rejection, type ServerSettings, scriptedFleet, serverOf } from './fixtures.ts';
import { settle } from './held-clock.ts';
import type { Script, ScriptedInstance } from './scripted-runtime.ts';

const call = { method: 'tools/call', params: { name: 'echo' } };

/** A fleet with one server whose era is to be found out. */
const unknownFleet = (
  script: Script,
  settings: ServerSettings = {},
  more: Parameters<typeof scriptedFleet>[1] = {},
) => scriptedFleet([serverOf('files', settings)], { era: undefined, script, ...more });

const requestsOf = (instance: ScriptedInstance) =>
  instance.received.flatMap((message) => ('method' in message ? [message.method] : []));

describe('finding out the era of a server', () => {
  it('asks a modern server once, and goes on with the instance that has answered', async () => {
    const { fleet, runtime } = unknownFleet({ era: 'modern' });
    using lease = await fleet.lease('files');
    expect(lease.handshake).toEqual({
      protocolVersion: '2026-07-28',
      capabilities: { tools: {} },
      serverInfo: { name: 'files', version: '2' },
    });
    expect(await lease.call(call)).toEqual({ era: 'modern', result: {} });
    expect(runtime.instances).toHaveLength(1);
    expect(requestsOf(runtime.last)).toEqual(['server/discover', 'tools/call']);
    expect((runtime.last.received[0] as Request).params).toEqual({
      _meta: {
        'io.modelcontextprotocol/protocolVersion': '2026-07-28',
        'io.modelcontextprotocol/clientInfo': { name: 'mcp-gateway', version: '0.0.0' },
        'io.modelcontextprotocol/clientCapabilities': {},
      },
    });
  });

  it('asks a legacy server in an instance that is thrown away, once for all starts', async () => {
    const { fleet, runtime, clock, events } = unknownFleet({});
    const told: string[] = [];
    for (const event of ['instance.started', 'instance.stopped'] as const) {
      events.on(event, ({ instance }) => told.push(`${event} ${instance}`));
    }
    expect(await fleet.call('files', call)).toEqual({ era: 'legacy', result: {} });
    expect(runtime.instances.map(requestsOf)).toEqual([
      ['server/discover'],
      ['initialize', 'notifications/initialized', 'tools/call'],
    ]);
    expect(runtime.mostRunning).toBe(1);
    await clock.pass(300_000);
    await fleet.call('files', call);
    expect(runtime.instances).toHaveLength(3);
    expect(requestsOf(runtime.last)[0]).toBe('initialize');
    // What was only tried out is no instance to anybody.
    expect(told).toEqual([
      'instance.started files-2',
      'instance.stopped files-2',
      'instance.started files-3',
    ]);
  });

  it.each([
    ['a result without versions', {}],
    ['versions that are not ours', { supportedVersions: ['2025-11-25', '2030-01-01'] }],
  ])('takes %s for legacy', async (_what, result) => {
    const { fleet, runtime } = unknownFleet({
      discover: (instance, request) => instance.answer(request, result),
    });
    expect(await fleet.call('files', call)).toEqual({ era: 'legacy', result: {} });
    expect(runtime.instances).toHaveLength(2);
  });

  it('takes a version error that names ours for modern, and asks a fresh instance', async () => {
    const { fleet, runtime } = unknownFleet({
      discover: (instance, request) =>
        runtime.instances.length === 1
          ? instance.refuses(request, {
              code: -32022,
              message: 'Unsupported protocol version',
              data: { supported: ['2026-07-28'], requested: 'x' },
            } as never)
          : instance.discovered(request),
    });
    expect(await fleet.call('files', call)).toEqual({ era: 'modern', result: {} });
    expect(runtime.instances.map(requestsOf)).toEqual([
      ['server/discover'],
      ['server/discover', 'tools/call'],
    ]);
  });

  it('gives a server that dies when it is asked its real start, and its own diagnosis when it dies again', async () => {
    const { fleet, runtime } = unknownFleet({
      discover: (instance) => instance.dies({ code: 1 }),
    });
    expect(await fleet.call('files', call)).toEqual({ era: 'legacy', result: {} });
    expect(runtime.instances).toHaveLength(2);

    const dying = unknownFleet({
      onSend(instance) {
        instance.stderr.push('needs a token');
        instance.dies({ code: 3 });
      },
    });
    const error = await rejection(dying.fleet.call('files', call));
    expect(error).toMatchObject({ code: 'start_failed', data: { exitCode: 3 } });
    expect(error.message).toMatch(/ended before it answered initialize.*needs a token/s);
    expect(dying.runtime.instances).toHaveLength(2);
    expect(dying.runtime.running).toEqual([]);
  });

  it('asks a silent server as a legacy one too after a second', async () => {
    const { fleet, runtime, clock } = unknownFleet({ discover() {} });
    const answer = fleet.call('files', call);
    await clock.pass(999);
    expect(runtime.instances.map(requestsOf)).toEqual([['server/discover']]);
    await clock.pass(1);
    expect(await answer).toEqual({ era: 'legacy', result: {} });
    // It was asked for what it may not know: another one is used.
    expect(runtime.instances.map((instance) => requestsOf(instance)[0])).toEqual([
      'server/discover',
      'initialize',
    ]);
  });

  it('uses no instance that was asked both ways', async () => {
    const { fleet, runtime, clock } = unknownFleet({
      era: 'modern',
      discover(instance, request) {
        if (runtime.instances.length > 1) instance.discovered(request);
      },
      initialize(instance, request) {
        instance.refuses(request);
        instance.discovered(instance.requests('server/discover')[0]!);
      },
    });
    const answer = fleet.call('files', call);
    await clock.pass(1000);
    expect(await answer).toEqual({ era: 'modern', result: {} });
    expect(runtime.instances.map(requestsOf)).toEqual([
      ['server/discover', 'initialize'],
      ['server/discover', 'tools/call'],
    ]);
  });

  it('does not wait twice for a server that answers nothing', async () => {
    const { fleet, runtime, clock } = unknownFleet({ discover() {}, initialize() {} });
    const answer = rejection(fleet.call('files', call));
    await clock.pass(9999);
    runtime.last.stderr.push('still thinking');
    await clock.pass(1);
    const error = await answer;
    expect(error.code).toBe('handshake_timeout');
    expect(error.message).toMatch(/did not answer initialize within 10 s.*still thinking/s);
    await settle();
    expect(runtime.instances).toHaveLength(1);
    expect(runtime.running).toEqual([]);
    expect(clock.pending).toBe(0);
  });

  it('says what a server answers to initialize when that is all that it answers', async () => {
    const { fleet, runtime, clock } = unknownFleet({
      discover() {},
      initialize: (instance, request) => instance.refuses(request, { code: -32603, message: 'no licence' }),
    });
    const answer = rejection(fleet.call('files', call));
    await clock.pass(10_000);
    expect(await answer).toMatchObject({ code: 'handshake_failed' });
    expect((await answer).message).toMatch(/answered initialize with an error: no licence/);
    expect(runtime.running).toEqual([]);
  });

  it('lets nothing that a tried-out instance says reach anybody', async () => {
    const heard: unknown[] = [];
    const { fleet, runtime } = unknownFleet(
      {
        discover(instance, request) {
          instance.says({ jsonrpc: '2.0', method: 'notifications/tools/list_changed' });
          instance.says({ jsonrpc: '2.0', method: 'notifications/message', params: { data: 'hello' } });
          instance.says({ jsonrpc: '2.0', id: 'q', method: 'elicitation/create' });
          instance.says({ jsonrpc: '2.0', id: 'p', method: 'ping' });
          instance.refuses(request);
        },
      },
      { isolation: 'session' },
      {
        listener: {
          onNotification: (...told) => heard.push(told),
          onRequest: async (...asked) => {
            heard.push(asked);
            return { result: {} };
          },
        },
      },
    );
    await fleet.call('files', call, { affinity: 's1' });
    expect(heard).toEqual([]);
    expect(runtime.instances[0]!.answerTo('q')).toMatchObject({ error: { code: -32601 } });
    expect(runtime.instances[0]!.answerTo('p')).toMatchObject({ result: {} });
  });
});

describe('many who find out at once', () => {
  it('make one instance that is thrown away and one that serves', async () => {
    const gate = deferred<void>();
    const { fleet, runtime } = unknownFleet({ start: () => gate.promise });
    const calls = Array.from({ length: 100 }, () => fleet.call('files', call));
    await settle();
    gate.resolve();
    await Promise.all(calls);
    expect(runtime.instances).toHaveLength(2);
    expect(runtime.mostRunning).toBe(1);
  });

  it('wait for the first of them, also where each gets an instance of its own', async () => {
    const asked = deferred<void>();
    const { fleet, runtime } = unknownFleet(
      { discover: (instance, request) => asked.promise.then(() => instance.refuses(request)) },
      { isolation: 'session' },
    );
    const calls = [1, 2, 3].map((n) => fleet.call('files', call, { affinity: `s${n}` }));
    await settle();
    expect(runtime.instances).toHaveLength(1);
    asked.resolve();
    await Promise.all(calls);
    expect(runtime.instances.map((instance) => requestsOf(instance)[0])).toEqual([
      'server/discover',
      'initialize',
      'initialize',
      'initialize',
    ]);
  });

  it('share its failure, and try again later', async () => {
    let isBroken = true;
    const { fleet, runtime, clock } = unknownFleet(
      {
        start: () => (isBroken ? Promise.reject(new GatewayError('start_failed', 'no')) : Promise.resolve()),
      },
      { isolation: 'session' },
    );
    const errors = await Promise.all(
      [1, 2, 3].map((n) => rejection(fleet.call('files', call, { affinity: `s${n}` }))),
    );
    expect(errors.map(({ message }) => message)).toEqual(['no', 'no', 'no']);
    expect(fleet.status('files').retryAtMs).toBe(clock.now() + 1000);
    isBroken = false;
    await clock.pass(1000);
    expect(await fleet.call('files', call, { affinity: 's1' })).toEqual({ era: 'legacy', result: {} });
    expect(runtime.running).toHaveLength(1);
  });

  it('go on without the first when it is given up', async () => {
    const { fleet, runtime, clock } = unknownFleet(
      {
        discover(instance, request) {
          if (runtime.instances.length > 1) instance.refuses(request);
        },
        initialize(instance, request) {
          if (runtime.instances.length > 1) instance.ready(request);
        },
      },
      { isolation: 'session' },
    );
    const first = rejection(fleet.call('files', call, { affinity: 's1' }));
    const second = fleet.call('files', call, { affinity: 's2' });
    await settle();
    expect(runtime.instances).toHaveLength(1);
    fleet.endSession('s1');
    await clock.pass(0);
    expect((await first).code).toBe('session_unknown');
    expect(await second).toEqual({ era: 'legacy', result: {} });
    expect(runtime.instances).toHaveLength(3);
    expect(runtime.running).toHaveLength(1);
  });

  it('leave the host’s start slots and places as any start does', async () => {
    const servers = ['a', 'b', 'c'].map((name) => serverOf(name));
    const { fleet, runtime, clock } = scriptedFleet(servers, {
      era: undefined,
      gateway: { maxInstances: 1, parallelStarts: 1 },
    });
    const calls = servers.map(({ name }) => fleet.call(name, call));
    await clock.pass(10_000);
    await Promise.all(calls);
    expect(runtime.mostRunning).toBe(1);
    expect(runtime.mostStarting).toBe(1);
    expect(runtime.instances).toHaveLength(6);
  });
});

describe('an end in the middle of it', () => {
  it.each(['start', 'discover', 'stop'] as const)('leaves nothing while it waits for %s', async (step) => {
    const never = new Promise<void>(() => {});
    let isOver = false;
    const { fleet, runtime, clock } = unknownFleet({
      start: (_server, { signal }) =>
        step === 'start'
          ? new Promise((_, reject) => signal!.addEventListener('abort', () => reject(signal!.reason)))
          : Promise.resolve(),
      discover: (instance, request) => {
        if (step !== 'discover') instance.refuses(request);
      },
      stop: (_instance, graceMs) => (step === 'stop' && graceMs > 0 && !isOver ? never : Promise.resolve()),
    });
    const answer = rejection(fleet.call('files', call));
    await settle();
    isOver = true;
    const killed = fleet.kill();
    await clock.pass(20_000);
    await killed;
    expect((await answer).code).toBe('draining');
    expect(runtime.running).toEqual([]);
    expect(runtime.instances.length).toBeLessThanOrEqual(1);
    expect(clock.pending).toBe(0);
    expect(fleet.status('files').instances).toEqual([]);
  });
});

describe('what is known of an era', () => {
  it('comes from an earlier run, for what ran then', async () => {
    const { fleet, runtime } = unknownFleet({ era: 'modern' });
    fleet.rememberEra('files', 'modern', runtime.digest);
    await fleet.call('files', call);
    expect(runtime.instances).toHaveLength(1);

    const other = unknownFleet({});
    other.fleet.rememberEra('files', 'modern', 'sha256:another');
    expect(await other.fleet.call('files', call)).toEqual({ era: 'legacy', result: {} });
    expect(other.runtime.instances.map((instance) => requestsOf(instance)[0])).toEqual([
      'server/discover',
      'initialize',
    ]);
  });

  it('ends with the image that it was learnt of', async () => {
    const { fleet, runtime, clock } = unknownFleet({});
    await fleet.call('files', call);
    await clock.pass(300_000);
    runtime.digest = 'sha256:1';
    runtime.script = { era: 'modern' };
    expect(await fleet.call('files', call)).toEqual({ era: 'modern', result: {} });
    expect(runtime.instances).toHaveLength(3);
  });

  it.each(['legacy', 'modern'] as const)('ends when a server proves to be no longer %s', async (era) => {
    const other = era === 'legacy' ? 'modern' : 'legacy';
    const { fleet, runtime, clock } = unknownFleet({ era: other });
    fleet.rememberEra('files', era, runtime.digest);
    expect((await rejection(fleet.call('files', call))).code).toBe('handshake_failed');
    await clock.pass(1000);
    expect(await fleet.call('files', call)).toEqual({ era: other, result: {} });
    expect(requestsOf(runtime.instances[1]!)[0]).toBe('server/discover');
  });

  it('is not what a death suggested, when the real start dies too', async () => {
    let isBroken = true;
    const { fleet, runtime, clock } = unknownFleet({
      era: 'modern',
      onSend(instance) {
        if (isBroken) instance.dies();
      },
    });
    await rejection(fleet.call('files', call));
    isBroken = false;
    await clock.pass(1000);
    expect(await fleet.call('files', call)).toEqual({ era: 'modern', result: {} });
    expect(runtime.instances).toHaveLength(3);
  });
});
