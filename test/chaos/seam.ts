import type { ServerConfig } from '../../src/config/schema.ts';
import type { Message } from '../../src/protocol/jsonrpc.ts';
import { ProcessRuntime } from '../../src/runtimes/process.ts';
import { type Exit, type Instance, NotWritten, type StartOptions } from '../../src/runtimes/runtime.ts';
import { cast } from './cast.ts';
import type { Model } from './model.ts';
import type { ServerName } from './schedule.ts';

/** A bug, put between the fleet and its instances. */
export interface Bug {
  /** Instead of one ordinary start. */
  start?(startOne: (options: StartOptions) => Promise<Instance>, options: StartOptions): Promise<Instance>;
  /** After a call has been written to an instance. */
  onCall?(instance: Instance): void;
}

/** The variable that says whose a process is: `<watch>/<server>`. */
export const markName = 'CHAOS';
const called = ['tools/call', 'resources/read'];
const markers = /@\d+-\d+@/;

const watches = new Map<string, Watch>();
let isLaid = false;

/** Lays the seam, once: the port between fleet and runtime as every process runtime of this process has it. */
function lay(): void {
  if (isLaid) return;
  isLaid = true;
  const start = ProcessRuntime.prototype.start;
  ProcessRuntime.prototype.start = async function (server, prepared, options) {
    const [id = '', name] = server.env[markName]?.split('/') ?? [];
    const startOne = (with_: StartOptions) => start.call(this, server, prepared, with_);
    const watch = watches.get(id);
    return watch ? watch.start(server, name as ServerName, startOne, options) : startOne(options);
  };
}

/** Sees every instance that a gateway of this process starts, and everything that is asked of it. */
export class Watch implements Disposable {
  readonly id: string;
  readonly model: Model;
  /** A gateway that ends takes its instances with it, calls or not. */
  isEnding = false;
  readonly #bug: Bug;
  readonly #seen = new Set<Seen>();
  readonly #written = new Map<string, number>();

  constructor(id: string, model: Model, bug: Bug = {}) {
    lay();
    this.id = id;
    this.model = model;
    this.#bug = bug;
    watches.set(id, this);
  }

  [Symbol.dispose](): void {
    watches.delete(this.id);
  }

  /** Whether an instance is on its way out, or frozen by the gateway, so that another one may take its place. */
  isLeaving(name: string): boolean {
    return [...this.#seen].some((one) => one.name === name && (one.isLeaving || one.isPaused));
  }

  async start(
    config: ServerConfig,
    server: ServerName,
    startOne: (options: StartOptions) => Promise<Instance>,
    options: StartOptions,
  ): Promise<Instance> {
    const open = new Map<unknown, string>();
    const seen: StartOptions = {
      ...options,
      onMessage: (message) => {
        if (!('method' in message)) open.delete(message.id);
        options.onMessage(message);
      },
    };
    const instance = await (this.#bug.start ?? ((plain, with_) => plain(with_)))(startOne, seen);
    const one = new Seen(this, instance, config.name as ServerName, server, open);
    this.#seen.add(one);
    return one;
  }

  /** A call with this marker was written; `round` tells the retries of a call that its client was asked for. */
  wrote(instance: Seen, marker: string, round: string): void {
    const key = `${marker} ${round}`;
    const times = (this.#written.get(key) ?? 0) + 1;
    this.#written.set(key, times);
    if (times > 1)
      this.model.breach('noSilentRetry', `${marker} was written to ${instance.server} ${times} times`);
    this.#bug.onCall?.(instance);
  }
}

class Seen implements Instance {
  readonly server: ServerName;
  isLeaving = false;
  isPaused = false;
  readonly #watch: Watch;
  readonly #instance: Instance;
  readonly #mark: ServerName;
  readonly #open: Map<unknown, string>;

  constructor(
    watch: Watch,
    instance: Instance,
    server: ServerName,
    mark: ServerName,
    open: Map<unknown, string>,
  ) {
    this.#watch = watch;
    this.#instance = instance;
    this.server = server;
    this.#mark = mark;
    this.#open = open;
    void instance.ended.then(() => {
      this.isLeaving = true;
    });
  }

  get name(): string {
    return this.#instance.name;
  }
  get startedAtMs(): number {
    return this.#instance.startedAtMs;
  }
  get ended(): Promise<void> {
    return this.#instance.ended;
  }
  get exited(): Promise<Exit> {
    return this.#instance.exited;
  }
  get isFrozen(): boolean | undefined {
    return this.#instance.isFrozen;
  }

  async send(message: Message): Promise<void> {
    const isCall = 'method' in message && 'id' in message && called.includes(message.method);
    if ('method' in message && message.method === 'notifications/cancelled')
      this.#open.delete(message.params?.requestId);
    if (!isCall) return this.#instance.send(message);
    const text = JSON.stringify(message.params);
    this.#open.set(message.id, `${message.method} ${text.slice(0, 200)}`);
    try {
      await this.#instance.send(message);
    } catch (error) {
      this.#open.delete(message.id);
      if (error instanceof NotWritten) throw error;
      this.#note(message.params ?? {});
      throw error;
    }
    this.#note(message.params ?? {});
  }

  #note(params: Record<string, unknown>): void {
    const marker = markers.exec(JSON.stringify(params))?.[0];
    if (marker !== undefined) this.#watch.wrote(this, marker, String(params.requestState ?? ''));
  }

  stderrTail(): string[] {
    return this.#instance.stderrTail();
  }

  stats() {
    return this.#instance.stats();
  }

  async pause(): Promise<void> {
    if (this.#open.size > 0 && !this.#isExcused) this.#breach('frozen');
    this.isPaused = true;
    await this.#instance.pause();
  }

  async resume(): Promise<void> {
    await this.#instance.resume();
    this.isPaused = false;
  }

  stop(options: { graceMs: number }): Promise<void> {
    if (this.#open.size > 0 && !this.isLeaving && !this.#isExcused) this.#breach('stopped');
    this.isLeaving = true;
    return this.#instance.stop(options);
  }

  /** What was done to it on purpose, or it did to itself. */
  get #isExcused(): boolean {
    const { model, isEnding } = this.#watch;
    if (isEnding || cast[this.#mark].isHopeless || model.wasWrecked(this.#mark)) return true;
    return model.wasHit(this.#mark, performance.now(), 'kill', 'gateway');
  }

  #breach(what: string): void {
    const calls = [...this.#open.values()].join(', ');
    this.#watch.model.breach(
      'neverStopUnderALease',
      `${this.server} (${this.name}) was ${what} under ${calls}`,
    );
  }
}
