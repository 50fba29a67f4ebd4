import type { Socket } from 'node:net';
import { type Clock, deferred, sleep } from '../../base/async.ts';
import { messageOf } from '../../base/errors.ts';
import type { ContainerServer } from '../../config/schema.ts';
import type { Message } from '../../protocol/jsonrpc.ts';
import type { Exit, Instance, StartOptions } from '../runtime.ts';
import { MessageReader, MessageWriter, StderrTail } from '../stdio.ts';
import { Demultiplexer } from './demux.ts';
import type { Engine } from './engine.ts';
import { exitHint, heapExhausted } from './exit-hints.ts';
import type { EngineWatch } from './watch.ts';

const pauseLimitMs = 10_000;
/** What Engine 20.10 says under load of a container that it has frozen a moment ago; asked again, it thaws it. */
const stillFreezing = /cannot resume a running process/i;
/** On a busy machine runc gives up before all of a container's processes are frozen. */
const busyToFreeze = /unable to freeze/i;
const maxTries = 20;
const againMs = 10;
/** Engine 20.10 takes a second. */
const statsLimitMs = 5_000;
/** Between two samples that tell how busy it is. */
const shortestSampleMs = 100;
/** How long an engine may take to show that it is there, where calls wait for the reason of a death. */
const hostLimitMs = 50;
const forceLimitMs = 10_000;
const lookUpMs = 250;
const lookUpEveryMs = 10;
/** A well-behaved server ends at the end of its stdin; it gets this long before it is sent a signal. */
const endOfInputMs = 1_000;
/** An attached stream that ended while the container runs on leaves it deaf: it is removed after this long. */
const deafMs = 2_000;

/** Exit codes above 128 are signals (POSIX shells' convention, which engines keep). */
const signals: Record<number, string> = {
  129: 'SIGHUP',
  130: 'SIGINT',
  131: 'SIGQUIT',
  132: 'SIGILL',
  134: 'SIGABRT',
  135: 'SIGBUS',
  136: 'SIGFPE',
  137: 'SIGKILL',
  139: 'SIGSEGV',
  141: 'SIGPIPE',
  143: 'SIGTERM',
};

/** What an instance is made of. */
export interface ContainerParts {
  engine: Engine;
  watch: EngineWatch;
  clock: Clock;
  server: ContainerServer;
  id: string;
  name: string;
  /** The attached stream. */
  socket: Socket;
  /** From `nextExit`. */
  exitCode: Promise<number | undefined>;
  maxMessageBytes: number;
  imageEntrypoint: string[];
  stopSignal: string;
  /** As whom it runs, for a person. */
  user: string;
  options: StartOptions;
}

/** A container with its three streams attached. */
export class ContainerInstance implements Instance {
  readonly name: string;
  readonly id: string;
  readonly server: ContainerServer;
  readonly ended: Promise<void>;
  readonly exited: Promise<Exit>;
  readonly stderr = new StderrTail();
  startedAtMs: number;

  readonly #parts: ContainerParts;
  readonly #writer: MessageWriter;
  readonly #reader: MessageReader;
  readonly #died = deferred<void>();
  /** A thaw that messages wait for. */
  #thawing: Promise<void> | undefined;
  #isPaused = false;
  #isStopping = false;
  #stopped: Promise<void> | undefined;
  #lastCpu: { totalNs: number; atMs: number; percent: number } | undefined;
  #measuring: Promise<{ memoryBytes: number; cpuPercent: number }> | undefined;

  constructor(parts: ContainerParts) {
    const { socket, clock, options } = parts;
    this.#parts = parts;
    this.name = parts.name;
    this.id = parts.id;
    this.server = parts.server;
    this.startedAtMs = clock.now();
    // The engine is in between: what it took may or may not have reached the server.
    this.#writer = new MessageWriter(socket, { wholeBytes: 0 });
    this.#reader = new MessageReader({
      maxBytes: parts.maxMessageBytes,
      onMessage: options.onMessage,
      onNoise: options.onNoise,
      onOverflow: options.onOverflow,
      pause: () => socket.pause(),
      resume: () => socket.resume(),
    });
    const demultiplexer = new Demultiplexer({
      onStdout: (part) => this.#reader.push(part),
      onStderr: (part) => this.stderr.push(part),
      onBroken: () => socket.destroy(),
    });
    socket.on('data', (chunk: Buffer) => demultiplexer.push(chunk));
    for (const event of ['end', 'error', 'close']) socket.on(event, () => this.#reader.end());
    this.ended = this.#reader.ended.then(() => {
      this.stderr.end();
      this.#writer.close();
    });
    this.exited = this.#exit();
    void parts.exitCode.then(() => this.#died.resolve());
  }

  send(message: Message): Promise<void> {
    const { watch, id } = this.#parts;
    // Somebody else has frozen it, by `docker pause`: it would take the message and answer never.
    if (!this.#thawing && !this.#isPaused && watch.isFrozen(id)) {
      this.#thawing = this.resume().finally(() => {
        // After those that wait have gone out, in their order.
        setImmediate(() => {
          this.#thawing = undefined;
        });
      });
    }
    return this.#thawing ? this.#thawing.then(() => this.#writer.send(message)) : this.#writer.send(message);
  }

  get isFrozen(): boolean | undefined {
    const { watch, id } = this.#parts;
    return watch.isOpen ? watch.isFrozen(id) : undefined;
  }

  stderrTail(): string[] {
    return this.stderr.lines();
  }

  /** Joins a question under way. */
  stats(): Promise<{ memoryBytes: number; cpuPercent: number }> {
    this.#measuring ??= this.#measure().finally(() => {
      this.#measuring = undefined;
    });
    return this.#measuring;
  }

  async #measure(): Promise<{ memoryBytes: number; cpuPercent: number }> {
    const { engine, id } = this.#parts;
    const stats = (await engine.call(
      (docker) => docker.getContainer(id).stats({ stream: false, 'one-shot': true }),
      { limitMs: statsLimitMs },
    )) as EngineStats;
    const memory = stats.memory_stats;
    // What an engine says of a container that does not run.
    if (!memory?.usage) throw new Error(`The engine has no figures of ${this.name}`);
    // Pages that the kernel takes back when they are needed are not the server's.
    const cache = memory.stats?.total_inactive_file ?? memory.stats?.inactive_file ?? 0;
    return { memoryBytes: Math.max(memory.usage - cache, 0), cpuPercent: this.#cpuSince(stats) };
  }

  /** Between this sample and the one before, by the engine's own clock. */
  #cpuSince({ read, cpu_stats }: EngineStats): number {
    const totalNs = cpu_stats?.cpu_usage?.total_usage ?? 0;
    const atMs = Date.parse(read ?? '') || this.#parts.clock.now();
    const before = this.#lastCpu;
    // The first says how busy it was since its start.
    const elapsedMs = before ? atMs - before.atMs : this.#parts.clock.now() - this.startedAtMs;
    // Engines repeat a sample to those who ask soon again.
    if (before && !(elapsedMs >= shortestSampleMs)) return before.percent;
    const percent = Math.max(((totalNs - (before?.totalNs ?? 0)) / 1e6 / Math.max(elapsedMs, 1)) * 100, 0);
    this.#lastCpu = { totalNs, atMs, percent };
    return percent;
  }

  async pause(): Promise<void> {
    const { engine, id } = this.#parts;
    await this.#again(busyToFreeze, () =>
      engine.ensure((docker, abortSignal) => docker.getContainer(id).pause({ abortSignal }), {
        limitMs: pauseLimitMs,
      }),
    );
    this.#isPaused = true;
  }

  async resume(): Promise<void> {
    const { engine, watch, id } = this.#parts;
    await this.#again(stillFreezing, () =>
      engine.ensure((docker, abortSignal) => docker.getContainer(id).unpause({ abortSignal }), {
        limitMs: pauseLimitMs,
      }),
    );
    this.#isPaused = false;
    watch.thawed(id);
  }

  /** What the engine refuses for a reason that passes is asked of it again. */
  async #again(passing: RegExp, ask: () => Promise<unknown>): Promise<void> {
    for (let tries = 1; ; tries += 1) {
      try {
        await ask();
        return;
      } catch (error) {
        if (tries === maxTries || !passing.test(messageOf(error))) throw error;
        await sleep(againMs, { clock: this.#parts.clock });
      }
    }
  }

  stop({ graceMs }: { graceMs: number }): Promise<void> {
    if (!this.#stopped) {
      this.#isStopping = true;
      this.#stopped = this.#stop(graceMs).catch((error: unknown) => {
        // An engine that did not answer may do so next time.
        this.#stopped = undefined;
        throw error;
      });
      return this.#stopped;
    }
    // A later, more impatient caller forces what an earlier one waits for.
    void sleep(graceMs, { clock: this.#parts.clock }).then(() => this.#kill('SIGKILL').catch(() => {}));
    return this.#stopped;
  }

  /** It was to be stopped, and the engine has not done it. */
  get isAbandoned(): boolean {
    return this.#isStopping && this.#stopped === undefined;
  }

  async #stop(graceMs: number): Promise<void> {
    const deadline = this.#parts.clock.now() + graceMs;
    if (this.#isPaused) await this.resume();
    this.#writer.close();
    if (graceMs > 0 && !(await this.#diesWithin(Math.min(graceMs / 2, endOfInputMs)))) {
      await this.#kill(this.#parts.stopSignal);
      await this.#diesWithin(deadline - this.#parts.clock.now());
    }
    // What is left is removed by force.
    await removeContainer(this.#parts.engine, this.id);
  }

  async #diesWithin(limitMs: number): Promise<boolean> {
    const over = new AbortController();
    const waited = sleep(Math.max(limitMs, 0), { clock: this.#parts.clock, signal: over.signal });
    const died = await Promise.race([
      this.#died.promise.then(() => true),
      waited.then(
        () => false,
        () => false,
      ),
    ]);
    over.abort();
    return died;
  }

  async #kill(signal: string): Promise<void> {
    const { engine, id } = this.#parts;
    await engine.ensure((docker, abortSignal) => docker.getContainer(id).kill({ signal, abortSignal }), {
      limitMs: forceLimitMs,
    });
  }

  /** Resolves when the engine has removed the container. */
  async removed(): Promise<void> {
    await awaitRemoval(this.#parts.engine, this.id);
  }

  async #exit(): Promise<Exit> {
    const { engine, watch, clock, server, id, exitCode } = this.#parts;
    await this.ended;
    // Asked now: whoever sees the end may tidy up by `stop`, which does not make the end a wanted one.
    const wasWanted = this.#isStopping;
    const aliveMs = clock.now() - this.startedAtMs;
    const code = await this.#exitCodeOrRemoval(engine.isPodman ? this.#lookedUp(exitCode) : exitCode);
    const stderr = this.stderr.lines();
    const isFailure = code !== undefined && code !== 0;
    const outOfMemory =
      isFailure &&
      !wasWanted &&
      (stderr.some((line) => heapExhausted.test(line)) || (await watch.ranOutOfMemory(id, code)));
    watch.forget(id);
    const exit: Exit = { code };
    if (code === undefined && !wasWanted && (await this.#isEngineGone())) exit.isHostLost = true;
    const signal = code === undefined ? undefined : signals[code];
    if (signal) exit.signal = signal;
    if (outOfMemory) exit.outOfMemory = true;
    if (wasWanted) return exit;
    const hint = exitHint(server, {
      code,
      outOfMemory,
      stderr,
      aliveMs,
      imageEntrypoint: this.#parts.imageEntrypoint,
      user: this.#parts.user,
    });
    if (hint) exit.hint = hint;
    if (code === undefined) void removeContainer(engine, id).catch(() => {});
    return exit;
  }

  /** One that is only slow to answer is there. */
  #isEngineGone(): Promise<boolean> {
    const { engine, clock } = this.#parts;
    const isGone = engine.ping().then(
      () => false,
      () => true,
    );
    return Promise.race([isGone, sleep(hostLimitMs, { clock }).then(() => false)]);
  }

  /** The exit code as Podman's records have it, where that is sooner: its `wait` looks there four times a second. */
  async #lookedUp(exitCode: Promise<number | undefined>): Promise<number | undefined> {
    const { engine, id, clock } = this.#parts;
    let isKnown = false;
    void exitCode.then(() => {
      isKnown = true;
    });
    const endMs = clock.now() + lookUpMs;
    while (!isKnown && clock.now() < endMs) {
      const state = await engine
        .call(async (docker, abortSignal) => (await docker.getContainer(id).inspect({ abortSignal })).State)
        .catch(() => undefined);
      if (!state) break;
      if (/^(stopped|exited)$/.test(state.Status)) return state.ExitCode;
      await sleep(lookUpEveryMs, { clock });
    }
    return exitCode;
  }

  /** The exit code; a container that outlives its attached stream has lost its stdin for good and is removed. */
  async #exitCodeOrRemoval(exitCode: Promise<number | undefined>): Promise<number | undefined> {
    const { engine, id, clock } = this.#parts;
    const cancel = clock.schedule(() => {
      if (!this.#isStopping) void removeContainer(engine, id).catch(() => {});
    }, deafMs);
    try {
      return await exitCode;
    } finally {
      cancel();
    }
  }
}

/** The figures of an engine's answer that are used here. */
interface EngineStats {
  /** When the sample was taken. */
  read?: string;
  memory_stats?: { usage?: number; stats?: { inactive_file?: number; total_inactive_file?: number } };
  cpu_stats?: { cpu_usage?: { total_usage?: number } };
}

/** Removes a container by force and waits until it is gone. One that is gone is done. */
export async function removeContainer(engine: Engine, id: string, signal?: AbortSignal): Promise<void> {
  await engine.ensure(
    (docker, abortSignal) => docker.getContainer(id).remove({ force: true, v: true, abortSignal }),
    { limitMs: forceLimitMs, signal },
  );
  await awaitRemoval(engine, id, signal);
}

async function awaitRemoval(engine: Engine, id: string, signal?: AbortSignal): Promise<void> {
  await engine.ensure(
    (docker, abortSignal) => docker.getContainer(id).wait({ condition: 'removed', abortSignal }),
    { limitMs: forceLimitMs, signal },
  );
}
