import { type Clock, Semaphore, systemClock } from '../base/async.ts';
import { asGatewayError, GatewayError } from '../base/errors.ts';
import type { Store } from '../base/store.ts';
import type { Config, ServerConfig } from '../config/schema.ts';
import type { Events } from '../observability/events.ts';
import type { Era } from '../protocol/eras.ts';
import type { Notification, Params } from '../protocol/jsonrpc.ts';
import { NotWritten, type Runtime } from '../runtimes/runtime.ts';
import { Capacity } from './capacity.ts';
import type {
  CallOptions,
  InstanceListener,
  Lease,
  LeaseOptions,
  Outcome,
  OutgoingRequest,
} from './lease.ts';
import type { Member } from './member.ts';
import { Meter } from './meter.ts';
import { Pool, sessionEnded } from './pool.ts';
import type { PoolStatus } from './pool-status.ts';
import { Standby } from './standby.ts';

export type { InstanceStatus, PoolStatus } from './pool-status.ts';

export interface FleetOptions {
  config: Config;
  /** Which runtime starts a server; throws GatewayError where none can. */
  runtimeFor(server: ServerConfig): Runtime;
  events: Events;
  /** The gateway's own version, told to servers. */
  version: string;
  clock?: Clock;
  /** Remembers over a restart which sessions have state in stateful servers. */
  store?: Store;
}

export interface FleetCallOptions extends LeaseOptions, CallOptions {
  /** The call does no harm when it is done twice (`readOnlyHint`, `idempotentHint`): replayed where `retry: annotated` says so. */
  isReplayable?: boolean;
  /** Told the lease of each attempt before the call is made on it; what outlives the call needs a hold of its own. */
  onLease?(lease: Lease): void;
}

/** A call that no instance took is tried on another one this often. */
const unwrittenRetries = 2;
/** Sessions that ended lately: a call that comes too late must not make an instance that nobody will end. */
const maxEndedSessions = 10_000;

const noListener: InstanceListener = {
  onNotification() {},
  onRequest: () => Promise.reject(new Error('nobody listens')),
  onReady() {},
  onAsked() {},
  onEnded() {},
};

/** All servers: leases on their instances, which exist only while they are needed. */
export class Fleet {
  readonly #options: FleetOptions;
  readonly #clock: Clock;
  readonly #capacity: Capacity;
  readonly #slots: Semaphore;
  readonly #standby: Standby;
  readonly #meter: Meter;
  readonly #pools = new Map<string, Pool>();
  readonly #hasStandby: boolean;
  readonly #ended = new Set<string>();
  readonly #unsubscribe: () => void;
  #listener = noListener;
  #refusal: GatewayError | undefined;
  #drained: Promise<void> | undefined;
  #endDrain: (() => void) | undefined;

  constructor(options: FleetOptions) {
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
    const { gateway } = options.config;
    this.#slots = new Semaphore(gateway.parallelStarts);
    const { maxMemoryBytes = Number.POSITIVE_INFINITY } = gateway;
    this.#capacity = new Capacity(
      { places: gateway.maxInstances, bytes: maxMemoryBytes },
      { leaving: () => this.#leaving(), evict: () => this.#standby.evict() || this.#evict() },
    );
    this.#standby = new Standby({
      servers: () => this.#pools.values(),
      capacity: this.#capacity,
      limitBytes: gateway.standbyMemoryBytes,
      clock: this.#clock,
    });
    this.#meter = new Meter({
      instances: () => this.#measurable(),
      clock: this.#clock,
      onMeasured: () => this.#standby.look(),
    });
    const servers = [...options.config.servers.values()];
    this.#hasStandby = servers.some(({ pool }) => pool.standby > 0);
    for (const server of servers) this.#pools.set(server.name, this.#createPool(server));
    this.#unsubscribe = options.events.on('engine.back', ({ runtime }) => {
      for (const pool of this.#pools.values()) if (pool.runtimeKind === runtime) pool.forgive();
    });
  }

  /** Who is told what instances say outside of calls; to be set before the first lease. */
  listen(listener: InstanceListener): void {
    this.#listener = listener;
  }

  /** Starts what `pool.min` asks for. */
  start(): void {
    for (const pool of this.#pools.values()) pool.keepMinimum();
    this.#lookAtSpares();
  }

  /** A hold on an instance that is ready, started if need be. Rejects with GatewayError. */
  lease(server: string, options: LeaseOptions = {}): Promise<Lease> {
    const pool = this.#pools.get(server);
    if (!pool) return Promise.reject(unknownServer(server));
    if (this.#refusal) return Promise.reject(this.#refusal);
    const { affinity } = options;
    if (affinity !== undefined && this.#ended.has(affinity)) {
      return Promise.reject(sessionEnded());
    }
    return pool.lease(options);
  }

  /** Lease, call, release. What was not written is tried on another instance; what was written, never, unless the server permits it. */
  async call(server: string, request: OutgoingRequest, options: FleetCallOptions = {}): Promise<Outcome> {
    for (let unwritten = 0, replays = 0; ; ) {
      const lease = await this.lease(server, options);
      try {
        options.onLease?.(lease);
        return await lease.call(request, options);
      } catch (error) {
        if (error instanceof NotWritten) {
          unwritten += 1;
          // A fresh instance does not know what this session told the old one: that must not go unnoticed.
          if (this.#hasMemoryOf(server, options)) throw memoryLost(server, error);
          if (unwritten <= unwrittenRetries) continue;
          throw new GatewayError(
            'instance_crashed',
            `Server ${server} ended before ${request.method} could be written to it, ${unwritten} times in a row`,
            { server, hint: `mcp-gateway logs ${server} shows what it wrote.`, cause: error },
          );
        }
        if (replays === 0 && options.isReplayable && this.#isReplayed(server, error)) {
          replays += 1;
          continue;
        }
        throw asGatewayError(error, server);
      } finally {
        lease.release();
      }
    }
  }

  /** The session is over: its instances stop, what it wished is forgotten, its later calls are refused. */
  endSession(affinity: string): void {
    if (this.#ended.size >= maxEndedSessions) this.#ended.delete(this.#ended.keys().next().value!);
    this.#ended.add(affinity);
    for (const pool of this.#pools.values()) pool.endSession(affinity);
  }

  /** The log level that a session (undefined: everybody) wants of a server; level undefined takes it back. */
  setLogLevel(server: string, affinity: string | undefined, level: string | undefined): void {
    this.#pools.get(server)?.setLogLevel(affinity, level);
  }

  /**
   * Remembers that a session watches a resource, so that an instance that is started later is asked for it, or that it no longer
   * does: running instances are told when it was the last one.
   */
  rememberSubscription(server: string, affinity: string | undefined, uri: string, on: boolean): void {
    this.#pools.get(server)?.rememberSubscription(affinity, uri, on);
  }

  /** Tells the running instances that belong to a session (`notifications/roots/list_changed`). */
  notifySession(affinity: string, notification: { method: string; params?: Params }): void {
    for (const pool of this.#pools.values()) pool.notifySession(affinity, notification);
  }

  /** The server is known to ask its clients: while it is shared it gets one call at a time. */
  markInteractive(server: string): void {
    this.#pools.get(server)?.markInteractive();
  }

  /** The era in which a server spoke in an earlier run, and the digest of what ran then: it need not be found out again. */
  rememberEra(server: string, era: Era, digest: string): void {
    this.#pools.get(server)?.rememberEra(era, digest);
  }

  /** The configuration of every server, in the order of the file. */
  servers(): ServerConfig[] {
    return [...this.#pools.values()].map((pool) => pool.server);
  }

  /** What is true now; never waits. Throws `server_unknown`. */
  status(server: string): PoolStatus {
    return this.#poolOf(server).status();
  }

  /** What all spares use, as far as that is known. */
  get standbyBytes(): number {
    return this.#standby.bytes;
  }

  /** Whether an instance runs that could answer at once; a session's own, where sessions have their own. */
  isReady(server: string, affinity?: string): boolean {
    return this.#poolOf(server).isReady(affinity);
  }

  /** Reads what a server's instances use; `status` has it then. */
  async measure(server: string): Promise<void> {
    await this.#poolOf(server).measure();
  }

  /** What would run now. Builds or pulls what is missing, starts nothing. Rejects with GatewayError. */
  async digest(server: string, signal: AbortSignal): Promise<string> {
    return this.#poolOf(server).digest(signal);
  }

  /** Starts an instance, if none runs, and leaves it to its idle time. */
  async startServer(server: string, signal?: AbortSignal): Promise<void> {
    const lease = await this.lease(server, { signal });
    lease.release();
  }

  /** Stops a server's instances as soon as their calls are done, at the latest after the drain bound. A later call starts it again. */
  async stop(server: string): Promise<void> {
    await this.#poolOf(server).stop(this.#options.config.gateway.drainTimeoutMs);
  }

  /** `stop`, then `startServer`. */
  async restart(server: string, signal?: AbortSignal): Promise<void> {
    await this.stop(server);
    await this.startServer(server, signal);
  }

  /** Refuses new leases, waits for the open ones at most `timeoutMs`, and stops everything. Doing it twice is done once. */
  drain(timeoutMs: number): Promise<void> {
    this.#drained ??= this.#drain(timeoutMs);
    return this.#drained;
  }

  /** Ends at once: no grace for calls or instances; also while a drain is under way. */
  async kill(): Promise<void> {
    const error = shuttingDown();
    this.#refusal ??= error;
    this.#endBackground();
    const closed = this.#closePools(error, true);
    this.#endDrain?.();
    await closed;
    await this.#drained;
    this.#unsubscribe();
  }

  /** Stops everything without waiting for calls. */
  async close(): Promise<void> {
    await this.drain(0);
  }

  async #drain(timeoutMs: number): Promise<void> {
    const error = shuttingDown();
    this.#refusal ??= error;
    this.#endBackground();
    if (timeoutMs > 0 && !this.#isQuiet()) {
      await new Promise<void>((resolve) => {
        const cancelTimer = this.#clock.schedule(resolve, timeoutMs);
        this.#endDrain = () => {
          cancelTimer();
          resolve();
        };
      });
      this.#endDrain = undefined;
    }
    await this.#closePools(error, false);
    this.#unsubscribe();
  }

  async #closePools(error: GatewayError, isHard: boolean): Promise<void> {
    await Promise.all([...this.#pools.values()].map((pool) => pool.close(error, { isHard })));
  }

  #isQuiet(): boolean {
    return [...this.#pools.values()].every((pool) => pool.isQuiet);
  }

  #createPool(server: ServerConfig): Pool {
    const { config, runtimeFor, events, version, store } = this.#options;
    // Told through the fleet, because the listener comes later.
    const listener: InstanceListener = {
      onNotification: (name, affinity, notification: Notification, instance) =>
        this.#listener.onNotification(name, affinity, notification, instance),
      onRequest: (name, affinity, request, signal, instance) =>
        this.#listener.onRequest(name, affinity, request, signal, instance),
      onReady: (name, affinity, startedFor) => this.#listener.onReady(name, affinity, startedFor),
      onAsked: (name) => this.#listener.onAsked(name),
      onEnded: (name, affinity) => this.#listener.onEnded(name, affinity),
    };
    return new Pool({
      server,
      gateway: config.gateway,
      runtimeFor,
      capacity: this.#capacity,
      slots: this.#slots,
      listener,
      events,
      clock: this.#clock,
      version,
      store,
      isEnded: (affinity) => this.#ended.has(affinity),
      onChange: () => {
        if (this.#endDrain && this.#isQuiet()) this.#endDrain();
      },
      onSparesDue: () => this.#lookAtSpares(),
    });
  }

  /** Something has come or gone that spares, or the use of memory, depend on. */
  #lookAtSpares(): void {
    const { maxMemoryBytes } = this.#options.config.gateway;
    if (this.#hasStandby) this.#standby.look();
    if (this.#hasStandby || maxMemoryBytes !== undefined) this.#meter.look();
  }

  *#measurable(): Iterable<Member> {
    const isAll = this.#options.config.gateway.maxMemoryBytes !== undefined;
    for (const pool of this.#pools.values()) yield* pool.measurable(isAll);
  }

  #endBackground(): void {
    this.#standby.close();
    this.#meter.close();
  }

  #leaving(): { places: number; bytes: number } {
    const sum = { places: 0, bytes: 0 };
    for (const pool of this.#pools.values()) {
      const { places, bytes } = pool.leaving();
      sum.places += places;
      sum.bytes += bytes;
    }
    return sum;
  }

  /** Stops the instance that was not used for longest. */
  #evict(): boolean {
    let oldest: Member | undefined;
    for (const pool of this.#pools.values()) {
      for (const member of pool.evictable()) {
        if (!oldest || member.idleSinceMs < oldest.idleSinceMs) oldest = member;
      }
    }
    oldest?.retire('idle');
    return oldest !== undefined;
  }

  #isReplayed(server: string, error: unknown): boolean {
    return (
      this.#pools.get(server)?.server.retry === 'annotated' &&
      error instanceof GatewayError &&
      error.code === 'instance_crashed'
    );
  }

  #hasMemoryOf(server: string, { affinity }: FleetCallOptions): boolean {
    return affinity !== undefined && this.#pools.get(server)?.server.stateful === true;
  }

  #poolOf(server: string): Pool {
    const pool = this.#pools.get(server);
    if (!pool) throw unknownServer(server);
    return pool;
  }
}

function unknownServer(server: string): GatewayError {
  return new GatewayError('server_unknown', `There is no server ${server}`, {
    server,
    hint: 'mcp-gateway servers lists those that there are.',
  });
}

const memoryLost = (server: string, cause: NotWritten) =>
  new GatewayError(
    'instance_crashed',
    `Server ${server} ended before this call reached it. What it kept in memory is lost`,
    { server, hint: 'Call again: it goes on with a fresh instance.', cause },
  );

const shuttingDown = () =>
  new GatewayError('draining', 'The gateway is shutting down', { hint: 'Try again when it is back.' });
