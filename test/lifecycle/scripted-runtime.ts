import { type Deferred, deferred } from '../../src/base/async.ts';
import type { ServerConfig } from '../../src/config/schema.ts';
import type { Era } from '../../src/protocol/eras.ts';
import type { Message, Notification, Request, Response } from '../../src/protocol/jsonrpc.ts';
import {
  type Exit,
  type Instance,
  NotWritten,
  type Prepared,
  type PrepareOptions,
  type Runtime,
  type StartOptions,
} from '../../src/runtimes/runtime.ts';

/** What an instance does when it is asked; whatever is left out goes well at once. */
export interface Script {
  prepare?(server: ServerConfig, options: PrepareOptions): Promise<void>;
  start?(server: ServerConfig, options: StartOptions): Promise<void>;
  /** Whether and when the handshake is answered. */
  initialize?(instance: ScriptedInstance, request: Request): void | Promise<void>;
  /** Whether and when `server/discover` is answered. */
  discover?(instance: ScriptedInstance, request: Request): void | Promise<void>;
  /** A modern server's listens; acknowledged as they come unless given. */
  listen?(instance: ScriptedInstance, request: Request): void;
  /** What its instances speak; legacy unless given. */
  era?: Era;
  /** A request beside those; answers `{}` unless given. */
  onRequest?(instance: ScriptedInstance, request: Request): void;
  /** Called before a message is taken; may throw NotWritten or wait. */
  onSend?(instance: ScriptedInstance, message: Message): Promise<void> | void;
  pause?(instance: ScriptedInstance): Promise<void>;
  resume?(instance: ScriptedInstance): Promise<void>;
  stop?(instance: ScriptedInstance, graceMs: number): Promise<void>;
  /** What an instance uses; 1 kB unless given. */
  memoryBytes?(instance: ScriptedInstance): number;
  /** What the handshake is answered with. */
  capabilities?: Record<string, unknown>;
}

/** A runtime without an engine, in which a test decides what happens when. It notes what a real one could not permit. */
export class ScriptedRuntime implements Runtime {
  readonly kind = 'process';
  readonly instances: ScriptedInstance[] = [];
  /** Broken promises of the fleet: stopped under a lease, written after the end, … */
  readonly violations: string[] = [];
  script: Script;
  digest = 'sha256:0';
  starting = 0;
  mostStarting = 0;
  mostRunning = 0;
  prepared = 0;

  constructor(script: Script = {}) {
    this.script = script;
  }

  get running(): ScriptedInstance[] {
    return this.instances.filter((instance) => instance.isRunning);
  }

  /** The instance that was started last. */
  get last(): ScriptedInstance {
    return this.instances.at(-1)!;
  }

  async prepare(server: ServerConfig, options: PrepareOptions): Promise<Prepared> {
    this.prepared += 1;
    await this.script.prepare?.(server, options);
    return { digest: this.digest };
  }

  async start(server: ServerConfig, _prepared: Prepared, options: StartOptions): Promise<Instance> {
    this.starting += 1;
    this.mostStarting = Math.max(this.mostStarting, this.starting);
    try {
      await this.script.start?.(server, options);
      options.signal?.throwIfAborted();
    } finally {
      this.starting -= 1;
    }
    const instance = new ScriptedInstance(
      this,
      `${server.name}-${this.instances.length + 1}`,
      server,
      options,
    );
    this.instances.push(instance);
    this.mostRunning = Math.max(this.mostRunning, this.running.length);
    return instance;
  }

  async sweep() {
    return { removed: [] };
  }

  async *logs(): AsyncIterable<string> {}

  async describe() {
    return { reachable: true, text: 'scripted', lacks: [] };
  }

  async close() {}
}

/** Requests of the gateway's own, which are no calls. */
const ownMethods = ['initialize', 'ping', 'server/discover', 'subscriptions/listen'];

export class ScriptedInstance implements Instance {
  readonly name: string;
  readonly server: ServerConfig;
  readonly startedAtMs = 0;
  readonly received: Message[] = [];
  readonly stderr: string[] = [];
  isRunning = true;
  isPaused = false;
  isPausing = false;
  wasStopped = false;
  /** What the engine says, where it says it. */
  isFrozen: boolean | undefined;
  /** How often it was asked what it uses. */
  measured = 0;
  readonly #runtime: ScriptedRuntime;
  readonly #options: StartOptions;
  readonly #ended: Deferred<void> = deferred();
  readonly #exited: Deferred<Exit> = deferred();

  constructor(runtime: ScriptedRuntime, name: string, server: ServerConfig, options: StartOptions) {
    this.#runtime = runtime;
    this.name = name;
    this.server = server;
    this.#options = options;
  }

  get ended(): Promise<void> {
    return this.#ended.promise;
  }

  get exited(): Promise<Exit> {
    return this.#exited.promise;
  }

  /** Requests that wait for an answer, beside the gateway's own. */
  get open(): Request[] {
    const requests = this.received.filter((message) => 'method' in message && 'id' in message) as Request[];
    const cancelled = new Set(
      this.notifications('notifications/cancelled').map(({ params }) => params!.requestId),
    );
    return requests.filter(
      ({ id, method }) => !this.answered.has(id) && !cancelled.has(id) && !ownMethods.includes(method),
    );
  }

  readonly answered = new Set<unknown>();

  notifications(method: string): Notification[] {
    return this.received.filter(
      (message) => 'method' in message && !('id' in message) && message.method === method,
    ) as Notification[];
  }

  /** What the gateway answered to a question. */
  answerTo(id: unknown): Response | undefined {
    return this.received.find((message) => !('method' in message) && message.id === id) as
      | Response
      | undefined;
  }

  async send(message: Message): Promise<void> {
    if (!this.isRunning) throw new NotWritten('it is gone');
    if (this.isPaused) this.#runtime.violations.push(`${this.name} was written to while it was paused`);
    await this.#runtime.script.onSend?.(this, message);
    if (!this.isRunning) throw new NotWritten('it is gone');
    this.received.push(message);
    if (!('method' in message) || !('id' in message)) return;
    const { initialize, discover, listen, era = 'legacy', onRequest } = this.#runtime.script;
    if (message.method === 'initialize') {
      if (initialize) void initialize(this, message);
      else if (era === 'legacy') this.ready(message);
      else this.refuses(message);
    } else if (message.method === 'server/discover') {
      if (discover) void discover(this, message);
      else if (era === 'modern') this.discovered(message);
      else this.refuses(message);
    } else if (message.method === 'subscriptions/listen' && era === 'modern') {
      if (listen) listen(this, message);
      else this.acknowledges(message);
    } else if (onRequest) onRequest(this, message);
    else this.answer(message, {});
  }

  /** Answers the handshake. */
  ready(request: Request, result: Record<string, unknown> = {}): void {
    this.answer(request, {
      protocolVersion: '2025-11-25',
      capabilities: this.#runtime.script.capabilities ?? { tools: {} },
      serverInfo: { name: this.server.name, version: '1' },
      ...result,
    });
  }

  /** Answers `server/discover` as a modern server does. */
  discovered(request: Request, result: Record<string, unknown> = {}): void {
    this.answer(request, {
      resultType: 'complete',
      supportedVersions: ['2026-07-28'],
      capabilities: this.#runtime.script.capabilities ?? { tools: {} },
      _meta: { 'io.modelcontextprotocol/serverInfo': { name: this.server.name, version: '2' } },
      ...result,
    });
  }

  /** Agrees to a listen, or to a part of it. */
  acknowledges(request: Request, notifications = request.params!.notifications): void {
    this.tells(request, 'subscriptions/acknowledged', { notifications });
  }

  /** Writes a notification on a listen. */
  tells({ id }: Request, what: string, params: Record<string, unknown> = {}): void {
    const _meta = { 'io.modelcontextprotocol/subscriptionId': id };
    this.says({ jsonrpc: '2.0', method: `notifications/${what}`, params: { ...params, _meta } });
  }

  /** Does not know the method. */
  refuses(request: Request, error = { code: -32601, message: `Method not found: ${request.method}` }): void {
    this.answered.add(request.id);
    this.says({ jsonrpc: '2.0', id: request.id, error });
  }

  /** Requests of a method, in the order in which they came. */
  requests(method: string): Request[] {
    return this.received.filter(
      (message) => 'method' in message && 'id' in message && message.method === method,
    ) as Request[];
  }

  answer(request: Request, result: Record<string, unknown>): void {
    this.answered.add(request.id);
    this.says({ jsonrpc: '2.0', id: request.id, result });
  }

  /** Writes a message. */
  says(message: Message): void {
    if (this.isRunning) this.#options.onMessage(message);
  }

  writesNoise(
    text: string,
    bytes = text.length,
    kind: 'garbage' | 'oversize' = 'garbage',
    id?: number,
  ): void {
    if (this.isRunning) this.#options.onNoise({ kind, text, bytes, id });
  }

  /** Goes on with a line that is too long already. */
  overflows(head: string, bytes = 70_000_000): void {
    if (this.isRunning) this.#options.onOverflow?.(bytes, head);
  }

  /** Dies; the engine may never say why. */
  dies(exit: Exit | 'unsaid' = { code: 1 }): void {
    if (!this.isRunning) return;
    this.isRunning = false;
    this.#ended.resolve();
    if (exit !== 'unsaid') this.explains(exit);
  }

  /** The engine says why it died. */
  explains(exit: Exit): void {
    this.#exited.resolve(exit);
  }

  stderrTail(): string[] {
    return this.stderr;
  }

  async stats() {
    this.measured += 1;
    return { memoryBytes: this.#runtime.script.memoryBytes?.(this) ?? 1024, cpuPercent: 12.34 };
  }

  async pause(): Promise<void> {
    if (this.open.length > 0) this.#runtime.violations.push(`${this.name} was paused under a call`);
    this.isPausing = true;
    try {
      await this.#runtime.script.pause?.(this);
      this.isPaused = true;
    } finally {
      this.isPausing = false;
    }
  }

  async resume(): Promise<void> {
    await this.#runtime.script.resume?.(this);
    this.isPaused = false;
    if (this.isFrozen) this.isFrozen = false;
  }

  async stop({ graceMs }: { graceMs: number }): Promise<void> {
    this.wasStopped = true;
    if (this.isRunning && this.open.length > 0) {
      this.#runtime.violations.push(`${this.name} was stopped under ${this.open.length} calls`);
    }
    await this.#runtime.script.stop?.(this, graceMs);
    this.dies({ code: 0 });
  }
}
