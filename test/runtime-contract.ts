import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { GatewayError } from '../src/base/errors.ts';
import {
  type CommonServer,
  type GatewayConfig,
  gatewaySchema,
  type ServerConfig,
} from '../src/config/schema.ts';
import type { Failure, Message, Params, Success } from '../src/protocol/jsonrpc.ts';
import { type Instance, type Noise, NotWritten, type Runtime } from '../src/runtimes/runtime.ts';
import { commonServer } from './configured.ts';

/** What the suite needs to know of a runtime; a module that exports one as `subject` is loaded by a second process too. */
export interface Subject {
  name: string;
  /** Once, before everything: images and the like. */
  setUp?(): Promise<void>;
  makeRuntime(options: RuntimeOptions): Runtime;
  /** A server that runs `test/fixtures/servers/<program>.mjs`. */
  fixture(program: string, common: CommonServer): ServerConfig;
  /** A server whose command `no-such-command` does not exist. */
  missingCommand(common: CommonServer): ServerConfig;
  /** The names of everything that runs for a gateway, asked from outside. */
  running(gatewayId: string): Promise<string[]>;
  /** Ends an instance from outside, at once. */
  kill(instance: string): Promise<void>;
  /** Variables that every server has beside its own. */
  standardVariables: readonly string[];
}

export interface RuntimeOptions {
  gateway: GatewayConfig;
  gatewayId: string;
  stateDir: string;
}

/** The variable by which an instance's gateway is known where there are no labels. */
export const gatewayVariable = 'CONTRACT_GATEWAY';

/** A gateway of its own: a runtime, its state folder, and what it started. */
export async function openGateway(subject: Subject, gateway: Record<string, unknown> = {}) {
  const gatewayId = randomBytes(6).toString('hex');
  const stateDir = await mkdtemp(path.join(tmpdir(), 'contract-'));
  const options: RuntimeOptions = { gateway: gatewaySchema.parse(gateway), gatewayId, stateDir };
  const runtime = subject.makeRuntime(options);
  const peers: Peer[] = [];
  const common = (name: string, env?: Record<string, string>) =>
    commonServer(name, { ...env, [gatewayVariable]: gatewayId });
  return {
    options,
    runtime,
    common,
    running: () => subject.running(gatewayId),
    fixture: (program: string, { env, name }: { env?: Record<string, string>; name?: string } = {}) =>
      subject.fixture(program, common(name ?? program, env)),
    async start(server: ServerConfig, signal?: AbortSignal): Promise<Peer> {
      const peer = await Peer.start(runtime, server, signal);
      peers.push(peer);
      return peer;
    },
    async [Symbol.asyncDispose]() {
      await Promise.all(peers.map(({ instance }) => instance.stop({ graceMs: 0 })));
      await runtime.close();
      await rm(stateDir, { recursive: true, force: true });
    },
  };
}

/** The smallest client: it speaks to an instance directly. */
export class Peer {
  readonly messages: Message[] = [];
  readonly noise: Noise[] = [];
  instance!: Instance;
  #nextId = 1;
  readonly #waiting = new Map<unknown, (message: Success | Failure) => void>();

  static async start(runtime: Runtime, server: ServerConfig, signal?: AbortSignal): Promise<Peer> {
    const peer = new Peer();
    const prepared = await runtime.prepare(server, { signal });
    peer.instance = await runtime.start(server, prepared, {
      signal,
      onMessage: (message) => {
        peer.messages.push(message);
        if ('id' in message && !('method' in message)) peer.#waiting.get(message.id)?.(message);
      },
      onNoise: (noise) => void peer.noise.push(noise),
    });
    return peer;
  }

  async request(method: string, params: Params = {}): Promise<Params> {
    const id = this.#nextId++;
    const answer = new Promise<Success | Failure>((resolve) => this.#waiting.set(id, resolve));
    await this.instance.send({ jsonrpc: '2.0', id, method, params });
    const gone = this.instance.exited.then((exit) => {
      throw new Error(`ended: ${JSON.stringify(exit)} ${this.instance.stderrTail().join('\n')}`);
    });
    const message = await Promise.race([answer, gone]);
    if ('error' in message) throw new Error(`${method}: ${message.error.message}`);
    return message.result;
  }

  async initialize(): Promise<this> {
    await this.request('initialize', {
      protocolVersion: '2025-11-25',
      capabilities: {},
      clientInfo: { name: 'contract', version: '1' },
    });
    await this.instance.send({ jsonrpc: '2.0', method: 'notifications/initialized' });
    return this;
  }

  /** The text of a tool's first content. */
  async call(tool: string, args: Params = {}): Promise<string> {
    const { content } = await this.request('tools/call', { name: tool, arguments: args });
    return (content as { text: string }[])[0]!.text;
  }
}

const settled = (promise: Promise<unknown>) =>
  promise.then(
    (value) => value,
    (error: unknown) => error,
  );

/** The one contract that every runtime keeps; `subjectUrl` is the module that exports the subject. */
export function runtimeContract(subject: Subject, subjectUrl: string): void {
  describe(`the ${subject.name} runtime`, () => {
    let gateway: Awaited<ReturnType<typeof openGateway>>;
    beforeAll(async () => {
      await subject.setUp?.();
    });
    beforeEach(async () => {
      gateway = await openGateway(subject, { max_message: '16m' });
    });
    afterEach(() => gateway[Symbol.asyncDispose]());
    const start = async (program: string, env?: Record<string, string>) =>
      gateway.start(gateway.fixture(program, { env }));

    describe('messages', () => {
      it('make the round trip', async () => {
        const peer = await start('tiny');
        expect(await peer.call('echo', { text: 'hello' })).toBe('hello');
        expect(peer.instance.name).toBeTruthy();
        expect(await gateway.running()).toHaveLength(1);
      });

      it('arrive in the order in which they were sent', async () => {
        const peer = await start('tiny');
        const texts = Array.from({ length: 500 }, (_, i) => `text ${i}`);
        const answers = await Promise.all(texts.map((text) => peer.call('echo', { text })));
        expect(answers).toEqual(texts);
        expect(peer.messages.map((message) => 'id' in message && message.id)).toEqual(
          texts.map((_, i) => i + 1),
        );
      });

      it('of 10 MB pass both ways, every character of them', async () => {
        const peer = await (await start('everything')).initialize();
        const text = 'aé你👩‍💻\n"\\'.repeat(10_000_000 / 20);
        expect(Buffer.byteLength(text)).toBeGreaterThan(9_900_000);
        expect((await peer.call('echo', { text })) === text).toBe(true);
        expect(await peer.call('echo', { text: 'after' })).toBe('after');
        expect(peer.noise).toEqual([]);
      });

      it('survive lines of garbage, which are reported', async () => {
        const peer = await (await start('garbage-lines')).initialize();
        expect(await peer.call('echo', { text: 'clear' })).toBe('clear');
        const texts = peer.noise.map(({ text }) => text);
        expect(texts).toEqual(
          expect.arrayContaining(['Server running on stdio', '✔ ready', '{"half": ', '42']),
        );
        expect(new Set(peer.noise.map(({ kind }) => kind))).toEqual(new Set(['garbage']));
      });

      it('over the bound are dropped, with bounded memory, and the next one arrives', async () => {
        const peer = await (await start('endless-line')).initialize();
        const bytes = 200_000_000;
        const before = process.memoryUsage();
        let peak = 0;
        const sampling = setInterval(() => {
          const { arrayBuffers, heapUsed } = process.memoryUsage();
          peak = Math.max(peak, arrayBuffers + heapUsed - before.arrayBuffers - before.heapUsed);
        }, 10);
        expect(await peer.call('endless', { bytes })).toBe(`wrote ${bytes} bytes`);
        clearInterval(sampling);
        expect(peer.noise).toEqual([{ kind: 'oversize', text: 'x'.repeat(200), bytes, id: undefined }]);
        expect(peak).toBeLessThan(100_000_000);
        expect(await peer.call('ok')).toBe('ok');
      });

      it('of a server that floods leave the others their turn', async () => {
        const flooding = await start('floods-stdout', { FLOOD_AT_START: '1' });
        const peer = await start('tiny');
        await expect.poll(() => flooding.messages.length, { timeout: 30_000 }).toBeGreaterThan(1000);
        for (let i = 0; i < 50; i += 1) {
          expect(await peer.call('echo', { text: String(i) })).toBe(String(i));
        }
        const seen = flooding.messages.length;
        await expect.poll(() => flooding.messages.length, { timeout: 30_000 }).toBeGreaterThan(seen);
        flooding.messages.length = 0;
      });
    });

    describe('stderr', () => {
      it('is kept', async () => {
        const peer = await (await start('everything')).initialize();
        await peer.call('stderr', { text: 'first line\n\u001b[31msecond\u001b[0m line' });
        await expect
          .poll(() => peer.instance.stderrTail(), { timeout: 10_000 })
          .toEqual(['first line', 'second line']);
      });

      it('is bounded when a server floods it, and the server keeps answering', async () => {
        const peer = await (await start('floods-stderr', { FLOOD_AT_START: '1' })).initialize();
        for (let i = 0; i < 20; i += 1) expect(await peer.call('ok')).toBe('ok');
        const tail = peer.instance.stderrTail();
        expect(tail.length).toBeGreaterThan(10);
        expect(tail.length).toBeLessThanOrEqual(101);
        expect(tail.join('\n').length).toBeLessThanOrEqual(34_000);
      });

      it('can be read and followed while the server runs, and read when it has ended', async () => {
        const peer = await (await start('everything')).initialize();
        const server = gateway.fixture('everything');
        const read = async (tail = 10) => {
          const lines: string[] = [];
          for await (const line of gateway.runtime.logs(server, { tail })) lines.push(line);
          return lines;
        };
        await peer.call('stderr', { text: 'one' });
        await expect.poll(() => read(), { timeout: 10_000 }).toContainEqual(expect.stringContaining('one'));

        const abort = new AbortController();
        const followed: string[] = [];
        const following = (async () => {
          const options = { tail: 10, follow: true, signal: abort.signal };
          for await (const line of gateway.runtime.logs(server, options)) followed.push(line);
        })();
        await expect.poll(() => followed, { timeout: 10_000 }).toContainEqual(expect.stringContaining('one'));
        await peer.call('stderr', { text: 'two' });
        await expect.poll(() => followed, { timeout: 10_000 }).toContainEqual(expect.stringContaining('two'));
        abort.abort();
        await following;

        await peer.instance.stop({ graceMs: 5000 });
        await expect.poll(() => read(1), { timeout: 10_000 }).toEqual([expect.stringContaining('two')]);
        const later = subject.makeRuntime(gateway.options);
        const kept: string[] = [];
        for await (const line of later.logs(server, { tail: 10 })) kept.push(line);
        expect(kept).toEqual([expect.stringContaining('one'), expect.stringContaining('two')]);
        await later.close();
      });
    });

    describe('the end', () => {
      const order = (peer: Peer) => {
        const seen: string[] = [];
        void peer.instance.ended.then(() => seen.push('ended'));
        void peer.instance.exited.then(() => seen.push('exited'));
        return seen;
      };

      it('of a server that gives up has its exit code and its last words', async () => {
        const peer = await start('exits-at-once');
        const seen = order(peer);
        expect(await peer.instance.exited).toMatchObject({ code: 3 });
        expect(seen[0]).toBe('ended');
        expect(peer.instance.stderrTail()).toEqual(['exits-at-once: cannot find the configuration']);
        await expect.poll(() => gateway.running(), { timeout: 10_000 }).toEqual([]);
      });

      it('by a crash has its code and its last words once the output has ended', async () => {
        const peer = await (await start('crash-on-call')).initialize();
        const call = settled(peer.call('crash', { code: 7 }));
        await peer.instance.ended;
        expect(peer.instance.stderrTail()).toEqual(['about to crash', 'fatal: the tool crash was called']);
        expect(await peer.instance.exited).toMatchObject({ code: 7 });
        expect(await call).toBeInstanceOf(Error);
      });

      it('by a kill from outside is noticed, and nothing is written after it', async () => {
        const peer = await start('tiny');
        await peer.call('echo', { text: 'alive' });
        const seen = order(peer);
        await subject.kill(peer.instance.name);
        const exit = await peer.instance.exited;
        expect(exit.signal ?? exit.code).toBe(exit.signal ? 'SIGKILL' : 137);
        expect(seen[0]).toBe('ended');
        for (let i = 0; i < 3; i += 1) {
          expect(await settled(peer.instance.send({ jsonrpc: '2.0', method: 'm' }))).toBeInstanceOf(
            NotWritten,
          );
        }
        await peer.instance.stop({ graceMs: 1000 });
        await peer.instance.pause();
        await peer.instance.resume();
      });

      it('says what to do where stderr tells it', async () => {
        const peer = await start('eperm', { STATE_FILE: '/sys/state.json' });
        const exit = await peer.instance.exited;
        expect(exit.code).toBe(1);
        expect(exit.hint).toContain('/sys/state.json');
      });
    });

    describe('stop', () => {
      it('lets a server end by itself', async () => {
        const peer = await start('tiny');
        await peer.call('echo', { text: 'x' });
        const startedMs = performance.now();
        await peer.instance.stop({ graceMs: 20_000 });
        expect(performance.now() - startedMs).toBeLessThan(15_000);
        expect(await gateway.running()).toEqual([]);
        expect((await peer.instance.exited).signal).not.toBe('SIGKILL');
      });

      it('forces one that ignores SIGTERM and the end of its input, after the grace and not before', async () => {
        const peer = await (await start('ignores-sigterm')).initialize();
        const startedMs = performance.now();
        await peer.instance.stop({ graceMs: 2500 });
        expect(performance.now() - startedMs).toBeGreaterThanOrEqual(2450);
        expect(await gateway.running()).toEqual([]);
        expect(peer.instance.stderrTail()).toContain('ignoring SIGTERM');
      });

      it('forces at once with no grace', async () => {
        const peer = await (await start('ignores-sigterm')).initialize();
        await peer.instance.stop({ graceMs: 0 });
        expect(await gateway.running()).toEqual([]);
        expect(peer.instance.stderrTail()).not.toContain('ignoring SIGTERM');
      });

      it('twice is once, and of what is gone is done', async () => {
        const peer = await start('tiny');
        await Promise.all([peer.instance.stop({ graceMs: 5000 }), peer.instance.stop({ graceMs: 5000 })]);
        await peer.instance.stop({ graceMs: 5000 });
        expect(await gateway.running()).toEqual([]);
      });

      it('ends a paused one too', async () => {
        const peer = await start('tiny');
        await peer.call('echo', { text: 'x' });
        await peer.instance.pause();
        await peer.instance.stop({ graceMs: 5000 });
        expect(await gateway.running()).toEqual([]);
      });
    });

    describe('pause', () => {
      it('freezes, once and for all, until resume', async () => {
        const peer = await start('tiny');
        await peer.call('echo', { text: 'x' });
        await peer.instance.pause();
        await peer.instance.pause();
        const call = peer.call('echo', { text: 'thawed' });
        expect(await Promise.race([call, delay(500, 'frozen')])).toBe('frozen');
        await peer.instance.resume();
        expect(await call).toBe('thawed');
        await peer.instance.resume();
        await peer.instance.pause();
        await peer.instance.resume();
        expect(await peer.call('echo', { text: 'again' })).toBe('again');
      });
    });

    describe('start', () => {
      it('says which command is missing, and leaves nothing', async () => {
        const server = subject.missingCommand(gateway.common('broken'));
        const error = (await settled(gateway.start(server))) as GatewayError;
        expect(error).toBeInstanceOf(GatewayError);
        expect(error.code).toBe('start_failed');
        expect(error.server).toBe('broken');
        expect(error.message).toContain('no-such-command');
        expect(error.hint).toBeTruthy();
        expect(await gateway.running()).toEqual([]);
      });

      it('leaves nothing when it is aborted, whenever that is', async () => {
        const server = gateway.fixture('tiny');
        const prepared = await gateway.runtime.prepare(server, {});
        for (const afterMs of [undefined, 0, 1, 3, 10, 30, 100]) {
          const abort = new AbortController();
          if (afterMs === undefined) abort.abort(new Error('not wanted'));
          const options = { signal: abort.signal, onMessage: () => {}, onNoise: () => {} };
          const outcome = settled(gateway.runtime.start(server, prepared, options));
          if (afterMs !== undefined) await delay(afterMs);
          abort.abort(new Error('not wanted'));
          const result = await outcome;
          if (result instanceof Error) expect(result.message).toBe('not wanted');
          else await (result as Instance).stop({ graceMs: 0 });
          await expect.poll(() => gateway.running(), { timeout: 10_000 }).toEqual([]);
        }
      });

      it('gives a server the variables of its entry and none of the gateway', async () => {
        process.env.SECRET_OF_THE_GATEWAY = 'secret';
        try {
          const peer = await (await start('everything', { OWN: 'value of its own', EMPTY: '' })).initialize();
          expect(await peer.call('env', { name: 'OWN' })).toBe('value of its own');
          const { names } = JSON.parse(await peer.call('env')) as { names: string[] };
          expect(names).toEqual(expect.arrayContaining(['OWN', 'EMPTY', 'PATH', 'HOME']));
          const allowed = new Set(['OWN', 'EMPTY', gatewayVariable, ...subject.standardVariables]);
          expect(names.filter((name) => !allowed.has(name))).toEqual([]);
        } finally {
          delete process.env.SECRET_OF_THE_GATEWAY;
        }
      });

      it('runs several at once, each on its own', async () => {
        const peers = await Promise.all([1, 2, 3].map(() => start('tiny')));
        expect(new Set(peers.map(({ instance }) => instance.name)).size).toBe(3);
        await peers[1]!.instance.stop({ graceMs: 5000 });
        expect(await peers[0]!.call('echo', { text: 'a' })).toBe('a');
        expect(await peers[2]!.call('echo', { text: 'b' })).toBe('b');
        expect(await gateway.running()).toHaveLength(2);
      });
    });

    it('measures memory and processor time', async () => {
      const peer = await start('tiny');
      await peer.call('echo', { text: 'x' });
      await peer.instance.stats();
      const { memoryBytes, cpuPercent } = await peer.instance.stats();
      expect(memoryBytes).toBeGreaterThan(4_000_000);
      expect(memoryBytes).toBeLessThan(1_000_000_000);
      expect(cpuPercent).toBeGreaterThanOrEqual(0);
      expect(cpuPercent).toBeLessThan(1000);
    });

    it('has a digest that stays while nothing changes', async () => {
      const digest = async (server: ServerConfig) => (await gateway.runtime.prepare(server, {})).digest;
      const tiny = await digest(gateway.fixture('tiny'));
      expect(tiny).toBeTruthy();
      expect(await digest(gateway.fixture('tiny'))).toBe(tiny);
    });

    it('describes what it runs on', async () => {
      const { reachable, text } = await gateway.runtime.describe();
      expect(reachable).toBe(true);
      expect(text).toBeTruthy();
    });

    describe('after the sudden death of the gateway', () => {
      let other: typeof gateway;
      let stranger: Peer;
      beforeAll(async () => {
        other = await openGateway(subject);
        stranger = await other.start(other.fixture('tiny'));
      });
      afterAll(() => other[Symbol.asyncDispose]());

      it('only what cannot notice it lives on, until the next start sweeps that and nothing else', async () => {
        const program = `
          import { subject } from ${JSON.stringify(subjectUrl)};
          import { Peer } from ${JSON.stringify(import.meta.url)};
          const { options, servers } = JSON.parse(process.argv[1]);
          const runtime = subject.makeRuntime(options);
          for (const server of servers) {
            const peer = await Peer.start(runtime, server);
            await peer.request('ping');
            if (server.name === 'frozen') await peer.instance.pause();
          }
          console.log('ready');
          setInterval(() => {}, 1000);`;
        const servers = [
          ...['one', 'two', 'three'].map((name) => gateway.fixture('tiny', { name })),
          gateway.fixture('ignores-sigterm', { name: 'stubborn' }),
          gateway.fixture('tiny', { name: 'frozen' }),
        ];
        const argument = JSON.stringify({ options: gateway.options, servers });
        const child = spawn(process.execPath, ['--input-type=module', '-e', program, argument], {
          stdio: ['ignore', 'pipe', 'inherit'],
        });
        const [line] = await once(createInterface(child.stdout), 'line');
        expect(line).toBe('ready');
        expect(await gateway.running()).toHaveLength(5);
        child.kill('SIGKILL');
        await once(child, 'exit');
        await expect.poll(() => gateway.running(), { timeout: 5000 }).toHaveLength(2);

        const { removed } = await gateway.runtime.sweep();
        expect(removed).toHaveLength(2);
        expect(await gateway.running()).toEqual([]);
        expect(await gateway.runtime.sweep()).toEqual({ removed: [] });
        expect(await stranger.call('echo', { text: 'still here' })).toBe('still here');
      });

      it('a sweep leaves what this run has started', async () => {
        const peer = await start('tiny');
        expect(await gateway.runtime.sweep()).toEqual({ removed: [] });
        expect(await peer.call('echo', { text: 'x' })).toBe('x');
      });
    });
  });
}
