import { mkdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { temporaryFolder } from '../programs.ts';
import { eventually } from '../waiting.ts';
import { containersOf, engine, fixture } from './engine.ts';
import { EngineProxy } from './engine-proxy.ts';
import { type GatewayProcess, startGateway } from './gateway-process.ts';
import { connect, rejection } from './mcp-client.ts';
import { canHaveOwnEngine, OwnEngine } from './own-engine.ts';

/*
 * What a user of the gateway sees when the engine itself fails: a whole dockerd of these tests' own. NIGHTLY=1 freezes it for longer,
 * and restarts it in both of its ways.
 */

const isNightly = process.env.NIGHTLY === '1';
const frozenMs = isNightly ? 30_000 : 12_000;

let own: OwnEngine;
beforeAll(async () => {
  if (canHaveOwnEngine) own = await OwnEngine.create();
});
afterAll(() => own?.[Symbol.asyncDispose]());

interface Shown {
  name: string;
  state: string;
  instances: { id: string; state: string; leases: number; memory?: number }[];
  last_error?: { code: string; message: string; hint?: string };
}

/** A gateway in front of that engine, and a client. */
class Scene implements AsyncDisposable {
  readonly gateway: GatewayProcess;
  readonly client: Awaited<ReturnType<typeof connect>>;

  static async create(servers: string): Promise<Scene> {
    const folder = await temporaryFolder();
    await mkdir(join(folder, 'built'));
    await writeFile(join(folder, 'built', 'Dockerfile'), 'FROM mcp-fixtures\nCOPY Dockerfile /made-of\n');
    const gateway = await startGateway({
      folder,
      config: `servers:\n${servers}`,
      env: { DOCKER_HOST: own.dockerHost },
      discovered: true,
    });
    return new Scene(gateway, await connect(gateway.url));
  }

  constructor(gateway: GatewayProcess, client: Scene['client']) {
    this.gateway = gateway;
    this.client = client;
  }

  call(name: string, args: Record<string, unknown> = {}): Promise<string> {
    return this.client.text(name, args);
  }

  refused(name: string, args: Record<string, unknown> = {}) {
    return rejection(this.client.callTool({ name, arguments: args }));
  }

  async servers(): Promise<Record<string, Shown>> {
    const { servers } = (await (await fetch(`${this.gateway.url}/servers`)).json()) as { servers: Shown[] };
    return Object.fromEntries(servers.map((server) => [server.name, server]));
  }

  /** Waits until `/servers` and the engine tell of the same containers, and returns them. */
  async agreed(limitMs?: number): Promise<string[]> {
    const [shown] = await eventually(
      async () => {
        const servers = Object.values(await this.servers());
        const ids = servers.flatMap(({ instances }) => instances.map(({ id }) => id)).sort();
        return [ids, await own.containers()] as const;
      },
      ([ids, containers]) => JSON.stringify(ids) === JSON.stringify(containers),
      limitMs,
    );
    return shown;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.client.close();
    await this.gateway[Symbol.asyncDispose]();
    await rm(this.gateway.folder, { recursive: true, force: true });
    expect(await own.containers()).toEqual([]);
  }
}

/** A server of the fixtures' image. */
function server(name: string, program: string, extra: Record<string, unknown> = {}): string {
  const image = 'build' in extra ? {} : { image: 'mcp-fixtures', pull: 'never' };
  const entry = { ...image, command: ['node', program], ...extra };
  return `  ${name}: ${JSON.stringify(entry)}\n`;
}

/** A server whose image the gateway makes, from the fixtures' one. */
const built = { image: 'mcp-built', build: './built' };

/** What a request takes. */
async function timed<T>(work: () => Promise<T>): Promise<{ value: T; ms: number }> {
  const beganMs = performance.now();
  const value = await work();
  return { value, ms: performance.now() - beganMs };
}

describe.skipIf(!canHaveOwnEngine)('an engine that is restarted', () => {
  describe.each([
    { liveRestore: false, how: 'and takes its containers along' },
    ...(isNightly ? [{ liveRestore: true, how: 'and leaves its containers running (live-restore)' }] : []),
  ])('$how', ({ liveRestore }) => {
    let scene: Scene;
    beforeAll(async () => {
      if (liveRestore) {
        await own.end('SIGTERM');
        await own.start({ liveRestore });
      }
      scene = await Scene.create(
        server('one', 'everything.mjs') +
          server('resting', 'stateful-notes.mjs', { pause_after: '1s' }) +
          // Dockerd gives each ten seconds to end.
          server('other', liveRestore ? 'ignores-sigterm.mjs' : 'tiny.mjs', { timeouts: { stop: '2s' } }),
      );
    });
    afterAll(() => scene?.[Symbol.asyncDispose]());

    it.runIf(!liveRestore)(
      'has one network for all servers, also where they all start at once for the first time',
      async () => {
        expect(scene.gateway.output()).toMatch(/^Ready: \d+ tools of 3 servers$/m);
        const networks = await own.docker.listNetworks({ filters: { name: ['mcp-network'] } });
        expect(networks).toHaveLength(1);
      },
    );

    it.each(['SIGTERM', 'SIGKILL'] as const)(
      'by %s: the call in flight is told, lists are answered, the next call works, and nothing is left over',
      async (signal) => {
        await scene.call('resting__list');
        await scene.call(liveRestore ? 'other__ok' : 'other__echo', { text: 'x' });
        await eventually(
          () => scene.servers(),
          ({ resting }) => resting!.state === 'paused',
        );
        const inFlight = scene.refused('one__sleep', { ms: 120_000 });
        await eventually(
          () => scene.servers(),
          ({ one }) => one!.instances[0]?.leases === 1,
        );
        await own.end(signal);

        const lost = await inFlight;
        expect(lost.message).toMatch(
          signal === 'SIGKILL' || liveRestore
            ? /Server one stopped unexpectedly \(mcp-one-\d+: the connection to its engine broke\)/
            : /Server one stopped unexpectedly \(mcp-one-\d+: killed by SIGTERM\)/,
        );
        expect(lost.data).toMatchObject({ code: 'instance_crashed', hint: expect.any(String) });
        await eventually(
          () => scene.servers(),
          (servers) => Object.values(servers).every(({ instances }) => instances.length === 0),
          5000,
        );
        expect((await scene.client.listTools()).tools.length).toBeGreaterThan(10);
        const away = await scene.refused(liveRestore ? 'other__ok' : 'other__echo', { text: 'x' });
        expect(away.message).toMatch(/No Docker Engine answers/);
        expect(away.data).toMatchObject({
          code: 'engine_unreachable',
          hint: expect.stringContaining('Start it'),
        });

        await own.start({ liveRestore });
        await eventually(
          () => scene.servers(),
          (servers) => Object.values(servers).every(({ state }) => state === 'stopped'),
          10_000,
        );
        expect(await scene.agreed(10_000)).toEqual([]);
        expect(await scene.call('one__echo', { text: 'back' })).toBe('back');
        expect(await scene.call('resting__list')).toBe('{"notes":[]}');
        expect((await scene.agreed()).length).toBe(2);
      },
    );
  });
});

describe.skipIf(!canHaveOwnEngine)(`an engine that is frozen for ${frozenMs / 1000} s`, () => {
  it('leaves status and lists at once, bounds every call, and all is well when it goes on', {
    timeout: 120_000,
  }, async () => {
    await using scene = await Scene.create(
      server('busy', 'everything.mjs', { timeouts: { call: '4s', handshake: '3s' } }) +
        server('stateful', 'stateful-notes.mjs', {
          timeouts: { handshake: '3s' },
          health_check: { interval: '1s' },
        }) +
        server('paused', 'stateful-notes.mjs', { pause_after: '500ms', timeouts: { start: '60s' } }) +
        server('pausing', 'tiny.mjs', { pause_after: '3s' }) +
        server('stopping', 'tiny.mjs', { idle_timeout: '3s' }) +
        server('asleep', 'tiny.mjs', { timeouts: { start: '5s' } }) +
        server('kept', 'tiny.mjs', { pool: { min: 1 } }),
    );
    await scene.call('stateful__add', { note: 'kept' });
    await scene.call('paused__list');
    await scene.call('busy__echo', { text: 'x' });
    await eventually(
      () => scene.servers(),
      ({ paused }) => paused!.state === 'paused',
    );
    await scene.call('pausing__echo', { text: 'x' });
    await scene.call('stopping__echo', { text: 'x' });
    const before = await scene.servers();
    own.signal('SIGSTOP');
    const thawAtMs = Date.now() + frozenMs;

    const onRunning = timed(() => scene.refused('busy__echo', { text: 'x' }));
    const onStopped = timed(() => scene.refused('asleep__echo', { text: 'x' }));
    const onPaused = scene.call('paused__list');
    let shown: Record<string, Shown> = {};
    while (Date.now() < thawAtMs) {
      const asked = await timed(async () => {
        await fetch(`${scene.gateway.url}/health`);
        await scene.client.listTools();
        return scene.servers();
      });
      shown = asked.value;
      // The bound of a question to the engine that is not answered is 5 s; this is none.
      expect(asked.ms).toBeLessThan(2000);
      expect(shown.stateful!.instances).toEqual(before.stateful!.instances);
      await delay(1000);
    }
    const { value: running, ms: runningMs } = await onRunning;
    expect(running.message).toMatch(/busy did not answer tools\/call within 4 s/);
    expect(runningMs).toBeLessThan(10_000);
    const { value: stopped, ms: stoppedMs } = await onStopped;
    expect(stopped.message).toMatch(/asleep was not running within 5 s|engine .* did not answer/i);
    expect(stopped.data).toMatchObject({ hint: expect.stringMatching(/engine/i) });
    expect(stoppedMs).toBeLessThan(12_000);
    expect(scene.gateway.output()).toMatch(/engine lost/);

    own.signal('SIGCONT');
    expect(await onPaused).toBe('{"notes":[]}');
    await eventually(
      async () => scene.gateway.output(),
      (text) => /engine back/.test(text),
      10_000,
    );
    // Nobody was blamed for the engine's silence.
    expect(await scene.call('stateful__list')).toContain('kept');
    for (const name of ['busy', 'asleep', 'pausing', 'stopping', 'kept']) {
      expect(await scene.call(`${name}__echo`, { text: name })).toBe(name);
    }
    await scene.agreed(20_000);
    await delay(3000);
    await scene.agreed(20_000);
  });
});

describe.skipIf(!canHaveOwnEngine)('an engine whose disk is full', () => {
  it('is named with what frees it, others are served, and all is well when there is room', {
    timeout: 120_000,
  }, async () => {
    await using scene = await Scene.create(
      server('running', 'everything.mjs') +
        server('stopped', 'tiny.mjs') +
        server('built', 'tiny.mjs', built),
    );
    await scene.call('running__echo', { text: 'x' });
    await own.docker.getImage('mcp-built').remove({ force: true });
    await own.fillDisk();

    const full = await scene.refused('stopped__echo', { text: 'x' });
    expect(full.message).toMatch(/Server stopped: the engine’s disk is full: .*no space left on device/is);
    expect(full.data).toMatchObject({ code: 'disk_full', hint: expect.stringContaining('docker system df') });
    // A burst of calls does not become a burst of starts.
    for (let n = 0; n < 2; n += 1) await scene.refused('stopped__echo', { text: 'x' });
    const unbuilt = await scene.refused('built__echo', { text: 'x' });
    expect(unbuilt.message).toMatch(/Server built: building mcp-built failed.*no space left on device/s);
    expect(unbuilt.data).toMatchObject({
      code: 'disk_full',
      hint: expect.stringContaining('docker system df'),
    });
    const failing = await scene.refused('stopped__echo', { text: 'x' });
    expect(failing.data).toMatchObject({ code: 'server_failing', reason: 'disk_full' });
    expect((await scene.servers()).stopped).toMatchObject({
      state: 'failed',
      last_error: { code: 'disk_full', hint: expect.stringContaining('docker system df') },
    });
    expect(await scene.call('running__echo', { text: 'still' })).toBe('still');

    await own.emptyDisk();
    for (const name of ['stopped', 'built']) {
      await eventually(
        () => scene.call(`${name}__echo`, { text: 'room' }).catch(String),
        (text) => text === 'room',
      );
    }
    await scene.agreed();
  });
});

describe.skipIf(!canHaveOwnEngine)('an image that is removed', () => {
  it('is made again where the gateway can, is missed by name where it cannot, and the lists stay', async () => {
    await own.docker.getImage('mcp-fixtures').tag({ repo: 'mcp-running' });
    await using scene = await Scene.create(
      server('loaded', 'tiny.mjs') +
        server('running', 'everything.mjs', { image: 'mcp-running' }) +
        server('built', 'tiny.mjs', built),
    );
    expect(await scene.call('running__echo', { text: 'x' })).toBe('x');
    await own.docker.getImage('mcp-built').remove({ force: true });
    expect(await scene.call('built__echo', { text: 'anew' })).toBe('anew');
    await own.docker.getImage('mcp-running').remove({ force: true });
    await own.docker.getImage('mcp-fixtures').remove({ force: true });

    // What runs has all that it needs.
    expect(await scene.call('running__echo', { text: 'on' })).toBe('on');
    const missing = await scene.refused('loaded__echo', { text: 'x' });
    expect(missing.message).toMatch(/the engine has no image mcp-fixtures, and pull is never/);
    expect(missing.data).toMatchObject({
      code: 'image_missing',
      hint: expect.stringContaining('docker build'),
    });
    const names = (await scene.client.listTools()).tools.map(({ name }) => name);
    expect(names).toContain('loaded__echo');
    expect(names).toContain('running__echo');
    expect((await scene.servers()).loaded).toMatchObject({
      state: 'failed',
      last_error: { code: 'image_missing' },
    });

    await own.load('mcp-fixtures');
    await eventually(
      () => scene.call('loaded__echo', { text: 'back' }).catch(String),
      (text) => text === 'back',
    );
  });
});

describe('a stream of the engine’s events that breaks', () => {
  it('is opened again, and what happened meanwhile is looked up: nobody else notices', async () => {
    const folder = await temporaryFolder();
    const proxy = new EngineProxy(join(folder, 'engine.sock'));
    await proxy.up();
    try {
      await using gateway = await startGateway({
        folder,
        config: `servers:\n${fixture('watched', 'everything.mjs')}${fixture('crash', 'crash-on-call.mjs')}`,
        env: { DOCKER_HOST: proxy.dockerHost },
        discovered: true,
      });
      await using client = await connect(gateway.url);
      expect(await client.text('watched__echo', { text: 'x' })).toBe('x');
      const [name] = await containersOf(await gateway.id(), 'watched');

      proxy.areEventsBlocked = true;
      proxy.cutEvents();
      await delay(300);
      // Nobody hears of it.
      await engine.getContainer(name!).pause();
      proxy.areEventsBlocked = false;
      await delay(1500);
      expect(await client.text('watched__echo', { text: 'thawed' })).toBe('thawed');

      proxy.cutEvents();
      await delay(1000);
      const error = await rejection(client.callTool({ name: 'crash__crash', arguments: { code: 3 } }));
      expect(error.message).toMatch(/crash .*exit code 3/);
      expect(gateway.output()).not.toMatch(/engine lost/);
    } finally {
      await proxy.down().catch(() => {});
      await rm(folder, { recursive: true, force: true });
    }
  });
});
