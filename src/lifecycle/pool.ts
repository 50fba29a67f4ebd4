import type { Clock, Semaphore } from '../base/async.ts';
import { asGatewayError, GatewayError } from '../base/errors.ts';
import type { Store } from '../base/store.ts';
import type { GatewayConfig, ServerConfig } from '../config/schema.ts';
import type { Events, ServerState } from '../observability/events.ts';
import type { Era } from '../protocol/eras.ts';
import type { Notification } from '../protocol/jsonrpc.ts';
import type { Runtime } from '../runtimes/runtime.ts';
import { createBalancer } from './balancer.ts';
import type { Capacity } from './capacity.ts';
import { cancelled } from './connection.ts';
import { DesiredState, type Only } from './desired-state.ts';
import { seconds } from './diagnosis.ts';
import { KnownEra } from './era.ts';
import { Failures, trialMs } from './failures.ts';
import { Footprint, heldBy } from './footprint.ts';
import { Group, type GroupRules } from './group.ts';
import {
  type InstanceListener,
  isSessionAffinity,
  type Lease,
  type LeaseOptions,
  type Purpose,
} from './lease.ts';
import { Member, type MemberOptions, type MemberOwner, type MemberState, type StopReason } from './member.ts';
import { instanceStatus, mostAvailable, type PoolStatus, shownState } from './pool-status.ts';
import { prepare } from './readiness.ts';
import { SessionMemory } from './session-memory.ts';
import { Spares } from './spares.ts';
import type { StandbyServer } from './standby.ts';
import { makePlace, retryAfterSeconds, type WaitingLine } from './waiting-line.ts';

export interface PoolOptions {
  server: ServerConfig;
  gateway: GatewayConfig;
  /** Throws GatewayError where no runtime can start the server. */
  runtimeFor(server: ServerConfig): Runtime;
  capacity: Capacity;
  slots: Semaphore;
  listener: InstanceListener;
  events: Events;
  clock: Clock;
  version: string;
  /** Where it is noted which sessions have state in a stateful server, so that its loss in a restart is told too. */
  store: Store | undefined;
  /** Whether a session is over. */
  isEnded(affinity: string): boolean;
  /** Called after a change that somebody who waits for quiet may wait for. */
  onChange(): void;
  /** Spares may be wanted or possible now that were not before. */
  onSparesDue(): void;
}

/** How often a minimum of instances is tried again when the engine is away. */
const keepRetryMs = 5000;

/**
 * The instances of one server: who gets a lease, when one is started, and when the server is given a rest. Every decision is made at
 * one moment from what is known then; only starts, stops, freezes and thaws are waited for, and each of them comes back here.
 */
export class Pool implements StandbyServer {
  readonly #options: PoolOptions;
  readonly #server: ServerConfig;
  readonly #clock: Clock;
  readonly #rules: GroupRules;
  readonly #failures: Failures;
  readonly #desired = new DesiredState();
  readonly #groups = new Map<string | undefined, Group>();
  readonly #memory: SessionMemory;
  readonly #era = new KnownEra();
  readonly spares: Spares;
  readonly #footprint: Footprint;
  #asks: boolean;
  #nextSerial = 1;
  #waiting = 0;
  #cancelRetry: (() => void) | undefined;
  #retryAtMs = 0;
  #cancelKeep: (() => void) | undefined;
  #startFailed = false;
  #shownState: ServerState = 'stopped';
  #isClosed = false;
  #neededAtMs = 0;

  constructor(options: PoolOptions) {
    this.#options = options;
    this.#server = options.server;
    this.#clock = options.clock;
    this.#rules = {
      server: options.server,
      balancer: createBalancer(options.server.loadBalancing),
      asks: () => this.#asks,
      era: () => this.#era.latest,
      isClosed: () => this.#isClosed,
      isOnTrial: (member) => this.#failures.isOnTrial(member),
      mayStart: (group) => this.#mayStart(group),
      add: (group, isForUse) => {
        const spare = isForUse ? this.#takeSpare(group) : undefined;
        if (!spare) this.#start(group, isForUse ? 'call' : 'upkeep');
      },
      onNeed: () => {
        this.#neededAtMs = options.clock.now();
      },
      onUnwanted: (group) => this.#dropUnwanted(group),
    };
    this.#memory = new SessionMemory(options.server, options.store);
    this.#failures = new Failures(options.server, options.clock);
    this.#asks = options.server.interactive === true;
    this.#footprint = new Footprint(options.server);
    this.spares = new Spares({
      clock: options.clock,
      create: (owner) =>
        this.#createMember({ owner, affinity: undefined, startedFor: 'call', isSpare: true }),
      onFault: (error) => this.#failures.remember(error),
      onAsked: () => this.#learnAsking(),
      onStateChange: () => this.#showState(),
      onChange: () => {
        options.onSparesDue();
        options.onChange();
      },
    });
    this.#shownState = this.#state();
  }

  get server(): ServerConfig {
    return this.#server;
  }

  /** What kind of runtime starts it, undefined: none can. */
  get runtimeKind(): Runtime['kind'] | undefined {
    try {
      return this.#runtime().kind;
    } catch {
      return undefined;
    }
  }

  /** What would run now; makes it first if need be. Rejects with GatewayError. */
  async digest(signal: AbortSignal): Promise<string> {
    const refusal = this.#refusal();
    if (refusal) throw refusal;
    const { name } = this.#server;
    const { events } = this.#options;
    const context = { server: this.#server, runtime: this.#runtime(), clock: this.#clock, signal };
    const prepared = await prepare(context, ({ step, text, fraction }) => {
      events.emit('prepare.progress', { server: name, step, text, fraction });
    });
    return prepared.digest;
  }

  /** Whether an instance could answer at once. */
  isReady(affinity: string | undefined): boolean {
    const group = this.#groups.get(this.#server.isolation === 'session' ? affinity : undefined);
    return group?.members.some(({ state }) => state === 'ready') ?? false;
  }

  /** Rejects with GatewayError. */
  lease(options: LeaseOptions): Promise<Lease> {
    const refusal = this.#refusal();
    if (refusal) return Promise.reject(refusal);
    const { affinity: caller, signal, purpose = 'call' } = options;
    if (signal?.aborted) return Promise.reject(cancelled(this.#server.name, 'the wait for an instance'));
    const affinity = this.#server.isolation === 'session' ? caller : undefined;
    if (this.#server.stateful && caller !== undefined && purpose === 'call') {
      return this.#leaseWithState(affinity, caller, options);
    }
    return this.#leaseFrom(this.#groupOf(affinity), purpose, options);
  }

  #leaseFrom(group: Group, purpose: Purpose, options: LeaseOptions): Promise<Lease> {
    const now = group.grantNow(purpose, options.affinity);
    if (now) return Promise.resolve(now);
    const lease = this.#enqueue(group, options);
    // Nobody says when a modern client is over.
    if (!group.isSession) lease.catch(() => this.#dropIfEmpty(group));
    return lease;
  }

  /** A session whose state is gone is told so once; then it goes on with a fresh instance. */
  async #leaseWithState(affinity: string | undefined, caller: string, options: LeaseOptions): Promise<Lease> {
    await this.#memory.lookUp(caller);
    if (this.#options.isEnded(caller)) throw sessionEnded();
    const loss = this.#memory.takeLoss(caller);
    if (loss) throw loss;
    const lease = await this.#leaseFrom(this.#groupOf(affinity), 'call', options);
    const lossMeanwhile = this.#memory.takeLoss(caller);
    if (lossMeanwhile) {
      lease.release();
      throw lossMeanwhile;
    }
    if (!this.#options.isEnded(caller)) this.#memory.hold(caller);
    return lease;
  }

  /** The session is over: its instance stops, its wishes are forgotten. */
  endSession(affinity: string): void {
    const unwatched = this.#desired.forget(affinity);
    this.#memory.forget(affinity);
    const group = this.#groups.get(affinity);
    if (group) {
      group.line.refuseAll(sessionEnded());
      for (const member of [...group.members]) member.retire('session');
      this.#dropIfEmpty(group);
    }
    const shared = this.#groups.get(undefined);
    if (!shared) return;
    for (const member of [...shared.members]) {
      this.#desired.applyLevelTo(member, this.#only(shared));
      for (const uri of unwatched) this.#desired.unwatchOn(member, uri);
      member.look();
    }
    this.#makeRoom();
  }

  setLogLevel(affinity: string | undefined, level: string | undefined): void {
    this.#desired.setLevel(affinity, level);
    for (const group of this.#groups.values())
      for (const member of group.members) this.#desired.applyLevelTo(member, this.#only(group));
  }

  /** Remembers that a session watches a resource, or no longer does; running instances are told. */
  rememberSubscription(affinity: string | undefined, uri: string, on: boolean): void {
    if (on) this.#desired.watch(affinity, uri);
    else if (!this.#desired.unwatch(affinity, uri)) return;
    const group = this.#groups.get(this.#server.isolation === 'session' ? affinity : undefined);
    for (const member of group?.members ?? []) {
      if (on) this.#desired.watchOn(member, uri);
      else this.#desired.unwatchOn(member, uri);
    }
  }

  /** Tells a session's own instance, if it runs. */
  notifySession(affinity: string, notification: { method: string; params?: Record<string, unknown> }): void {
    for (const member of this.#groups.get(affinity)?.members ?? []) member.tell(notification);
  }

  /** From now on a shared instance gets one call at a time. */
  markInteractive(): void {
    if (this.#server.interactive === undefined) this.#asks = true;
  }

  /** The era that was learnt in an earlier run, of what ran then. */
  rememberEra(era: Era, digest: string): void {
    if (this.#era.latest === undefined) this.#era.remember(digest, era);
  }

  /** Starts what `pool.min` asks for. */
  keepMinimum(): void {
    const { min } = this.#server.pool;
    if (
      min === 0 ||
      this.#cancelKeep ||
      this.#refusal() ||
      !this.runtimeKind ||
      this.#server.isolation === 'session'
    )
      return;
    const group = this.#groupOf(undefined);
    while (group.members.length < min && group.hasRoom) {
      const { retryInMs } = this.#failures;
      if (retryInMs > 0) {
        this.#keepLater(retryInMs);
        return;
      }
      if (this.#isTrying()) return;
      this.#takeSpare(group) ?? this.#start(group, 'call');
    }
  }

  /** The engine is there again: what failed may work now. */
  forgive(): void {
    this.#failures.forgive();
    this.spares.forgive();
    this.#startFailed = false;
    this.#cancelKeep?.();
    this.#cancelKeep = undefined;
    this.keepMinimum();
    for (const group of [...this.#groups.values()]) group.serve();
    this.#options.onSparesDue();
    this.#showState();
  }

  /** Stops all instances when their leases are closed, at the latest after `limitMs`. Calls that come later start a fresh one. */
  async stop(limitMs: number): Promise<void> {
    const members = this.#everyone();
    for (const member of members) member.retire('request');
    const cancelTimer = this.#clock.schedule(() => {
      const { name, timeouts } = this.#server;
      const error = new GatewayError('draining', `Server ${name} was stopped on request`, { server: name });
      for (const member of members) member.kill('request', error, timeouts.stopMs);
    }, limitMs);
    await Promise.all(members.map((member) => member.gone));
    cancelTimer();
  }

  /** Takes nothing more; what is there is stopped at once, what waits or runs fails with `error`. */
  async close(error: GatewayError, options: { isHard: boolean }): Promise<void> {
    this.#isClosed = true;
    this.#cancelRetry?.();
    this.#cancelKeep?.();
    for (const group of this.#groups.values()) {
      group.line.close();
      group.line.refuseAll(error);
    }
    const members = this.#everyone();
    for (const member of members) {
      member.kill('drain', error, options.isHard ? 0 : this.#server.timeouts.stopMs);
    }
    await Promise.all(members.map((member) => member.gone));
  }

  /** Whether nothing waits and nothing is held. */
  get isQuiet(): boolean {
    return this.#waiting === 0 && this.#everyone().every((member) => member.leases === 0);
  }

  /** What instances will give back without anybody's help. */
  leaving(): { places: number; bytes: number } {
    return heldBy(this.#departing());
  }

  get neededAtMs(): number {
    return this.#neededAtMs;
  }

  /** How many spares it is to have. */
  get wanted(): number {
    return this.#refusal() ? 0 : this.#server.pool.standby;
  }

  /** What a spare uses, as far as that was ever measured, else what it may use. */
  get expectedBytes(): number {
    return this.#footprint.expected([...this.spares.present, ...this.#members()]);
  }

  /** Until a spare may be made; a start or a build that calls wait for comes first. */
  get spareInMs(): number {
    const isStarting = this.#members().some(({ state }) => state === 'starting');
    if (isStarting || this.#era.latest === undefined || !this.runtimeKind) return Number.POSITIVE_INFINITY;
    return Math.max(this.#failures.retryInMs, this.spares.retryInMs);
  }

  /** Instances whose use of memory is worth asking for: all, or those that spares are judged by. */
  measurable(isAll: boolean): Member[] {
    const hasSpares = this.#server.pool.standby > 0;
    if (!isAll && !hasSpares) return [];
    const isCounted = isAll || !this.#footprint.isKnown;
    const members = isCounted ? this.#members() : [];
    return [...this.spares.present, ...members].filter(({ isMeasurable }) => isMeasurable);
  }

  /** Members that nobody holds and that may be stopped to make room. */
  evictable(): Member[] {
    return this.#members().filter(
      (member) =>
        member.leases === 0 &&
        (member.state === 'ready' || member.state === 'paused') &&
        !this.#isKept(member) &&
        !this.#memory.isHeldIn(member.affinity),
    );
  }

  status(): PoolStatus {
    const { name, type } = this.#server;
    return {
      name,
      type,
      state: this.#state(shownState),
      instances: this.#everyone().flatMap((member) => instanceStatus(member) ?? []),
      waiting: this.#waiting,
      lastError: this.#failures.last,
      retryAtMs: this.#failures.retryAtMs,
    };
  }

  /** Asks the runtime what the instances use; bounded by the runtime's own patience. */
  async measure(): Promise<void> {
    await Promise.all(this.#everyone().map((member) => member.measure()));
  }

  // Waiting and handing out

  #enqueue(group: Group, options: LeaseOptions): Promise<Lease> {
    const { name } = this.#server;
    const { maxQueue } = this.#options.gateway;
    try {
      this.#runtime();
    } catch (error) {
      return Promise.reject(asGatewayError(error, name));
    }
    if (this.#waiting >= maxQueue) {
      const full = new GatewayError(
        'queue_full',
        `Server ${name} has ${maxQueue} calls waiting and takes no more`,
        {
          server: name,
          hint: `Try again later; more concurrency or a higher pool.max of ${name} lets more calls run at a time.`,
          data: { retryAfterSeconds: retryAfterSeconds(this.#lines()) },
        },
      );
      if (!makePlace(this.#lines(), group.line.callsOf(options.affinity), full)) return Promise.reject(full);
    }
    return group.line.join(options, () => group.serve());
  }

  #queueHint(group: Group): string {
    const { name } = this.#server;
    if (group.members.some(({ state }) => state === 'starting')) {
      return 'All places for instances are taken: raise gateway.max_instances (or max_memory, if that is set), or stop a server.';
    }
    if (group.isOneAtATime(this.#era.latest)) {
      return `${name} asks its clients and so gets one call at a time: isolation: session gives each client its own instance.`;
    }
    return `Raise concurrency or pool.max of ${name}, or try again later.`;
  }

  /** Starts that wait for their turn and that nobody waits for any more. */
  #dropUnwanted(group: Group): void {
    for (const member of [...group.members]) {
      if (member.state === 'starting' && member.phase === 'waiting' && !this.#isKept(member)) {
        member.abortStart(cancelled(this.#server.name, 'the start'));
      }
    }
  }

  // Starting and failing

  #start(group: Group, startedFor: Purpose): void {
    const member = this.#createMember({
      owner: this.#ownerFor(group),
      affinity: group.affinity,
      startedFor,
      isSpare: false,
    });
    this.#failures.began(member);
    group.members.push(member);
    group.line.say(`starting ${this.#server.name}`);
    void member.start();
    this.#showState();
  }

  #createMember(of: Pick<MemberOptions, 'owner' | 'affinity' | 'startedFor' | 'isSpare'>): Member {
    const { capacity, slots, gateway, version, clock, events } = this.#options;
    const server = this.#server;
    return new Member({
      ...of,
      // A spare of a server whose clients have instances of their own will be one client's, too.
      isPersonal: of.isSpare ? server.isolation === 'session' : of.affinity !== undefined,
      server,
      runtime: this.#runtime(),
      serial: this.#nextSerial++,
      era: this.#era,
      capacity,
      expectedBytes: of.isSpare ? this.expectedBytes : this.#footprint.limit,
      slots: of.isSpare ? slots.background : slots,
      maxMessageBytes: gateway.maxMessageBytes,
      version,
      clock,
      events,
    });
  }

  /** Makes a spare one of the group's; undefined where there is none that it could have. */
  #takeSpare(group: Group): Member | undefined {
    const { isolation, clientCapabilities } = this.#server;
    // It may have been told of folders that those without a name have none of.
    if (isolation === 'session' && group.affinity === undefined && clientCapabilities.includes('roots')) {
      return undefined;
    }
    const spare = this.spares.take(this.#ownerFor(group), group.affinity);
    if (!spare) return undefined;
    this.#failures.began(spare);
    group.members.push(spare);
    group.members.sort((one, other) => one.serial - other.serial);
    if (spare.state === 'starting') group.line.say(`starting ${this.#server.name}`);
    else spare.resume();
    this.#showState();
    return spare;
  }

  /** Whether the server is given another try now; if not, those who wait are told, or wait for the next one. */
  #mayStart(group: Group): boolean {
    const { retryInMs, isBreakerOpen } = this.#failures;
    // While one is tried out, the others wait for what becomes of it.
    if (retryInMs === 0) return !this.#isTrying();
    if (isBreakerOpen && group.members.length === 0) {
      group.line.refuseAll(this.#failures.refusal());
    } else {
      this.#serveAllIn(retryInMs);
    }
    return false;
  }

  /** Whether the server is just given one more try, after failing too often. */
  #isTrying(): boolean {
    if (!this.#failures.isBreakerOpen) return false;
    return this.#members().some(
      (member) => member.state === 'starting' || (member.calls > 0 && this.#failures.isOnTrial(member)),
    );
  }

  /** Something has become of a try: so it is told to all who waited for that. */
  #serveAll(): void {
    for (const waiting of [...this.#groups.values()]) waiting.serve();
    this.keepMinimum();
  }

  #serveAllIn(delayMs: number): void {
    const atMs = this.#clock.now() + delayMs;
    if (this.#cancelRetry && this.#retryAtMs <= atMs) return;
    this.#cancelRetry?.();
    this.#retryAtMs = atMs;
    this.#cancelRetry = this.#clock.schedule(() => {
      this.#cancelRetry = undefined;
      this.#serveAll();
    }, delayMs);
  }

  #ownerFor(group: Group): MemberOwner {
    const { listener, onChange, onSparesDue } = this.#options;
    const { name } = this.#server;
    const remove = (member: Member) => group.remove(member);
    return {
      onPhase: (member) => {
        if (member.phase === 'working') return;
        group.line.startEnded();
      },
      onProgress: (_member, text) => group.line.say(`preparing ${name}: ${text}`),
      onReady: (member) => {
        group.line.startEnded();
        group.line.forgetNote();
        this.#startFailed = false;
        for (const other of [...group.members]) if (other.isSlow) other.giveUpThaw();
        this.#desired.applyTo(member, this.#only(group));
        group.serve();
        if (this.#failures.isBreakerOpen) {
          this.#serveAllIn(trialMs);
          this.keepMinimum();
        }
        onSparesDue();
        for (const other of [...group.members]) if (other !== member) other.look();
        listener.onReady(name, group.affinity, member.startedFor);
      },
      onStartFailed: (member, error, isFault) => {
        remove(member);
        group.line.startEnded();
        group.line.forgetNote();
        if (isFault) {
          this.#failures.remember(error);
          this.#startFailed = true;
          // An engine that is away says nothing about the server, and to ask it again costs nothing.
          if (error.code !== 'engine_unreachable') this.#failures.count(member, { isCrash: false });
          this.#keepLater(Math.max(keepRetryMs, this.#failures.retryInMs));
        }
        if (group.members.length > 0 || !isFault) group.serve();
        else group.line.refuseAll(error);
        if (this.#failures.isBreakerOpen) this.#serveAll();
        onSparesDue();
        onChange();
      },
      onFree: (member) => {
        const wasBreakerOpen = this.#failures.isBreakerOpen;
        this.#failures.forgiveIfWell(member);
        if (wasBreakerOpen) this.#serveAll();
        else if (group.line.size > 0) group.serve();
        onChange();
      },
      onThawed: (member) => {
        this.#desired.applyTo(member, this.#only(group));
        this.#desired.unwatchUnwantedOn(member, this.#only(group));
        for (const other of group.surplus) other.retire('drain');
        if (group.line.size > 0) group.serve();
      },
      onSlowThaw: (member) => {
        // What matters in its memory cannot be replaced.
        if (this.#server.stateful && member.wasCalled) return;
        group.serve();
      },
      onIdle: () => this.#makeRoom(),
      onLeaving: (member, reason) => {
        remove(member);
        if (member.isOutdated) this.spares.dropLike(member);
        if (reason === 'crash') this.#failures.count(member, { isCrash: true });
        if (this.#server.stateful) this.#loseState(member, reason);
        group.serve();
      },
      onDied: (member) => {
        remove(member);
        this.#failures.count(member, { isCrash: true });
        if (this.#server.stateful) this.#loseState(member, 'crash');
        group.serve();
        if (this.#failures.isBreakerOpen) this.#serveAll();
      },
      onCrash: (_member, error) => {
        this.#failures.remember(error);
        this.#showState();
      },
      onGone: (member) => {
        remove(member);
        group.leaving.delete(member);
        group.serve();
        this.keepMinimum();
        onSparesDue();
        if (group.affinity !== undefined && group.members.length + group.leaving.size === 0) {
          listener.onEnded(name, group.affinity);
        }
        this.#dropIfEmpty(group);
        onChange();
      },
      onStateChange: () => this.#showState(),
      onAsked: () => this.#learnAsking(),
      onNotification: (member, notification: Notification) => {
        listener.onNotification(name, group.affinity, notification, member.name);
      },
      onRequest: (member, request, signal) =>
        listener.onRequest(name, group.isSession ? group.affinity : undefined, request, signal, member.name),
      mustStay: (member) => {
        if (this.#isClosed) return false;
        return (
          (group.isSession && this.#groups.get(group.affinity) === group) ||
          this.#isKept(member) ||
          this.#memory.isHeldBySessionIn(member.affinity)
        );
      },
    };
  }

  #learnAsking(): void {
    if (this.#asks || this.#server.interactive !== undefined) return;
    this.#asks = true;
    this.#options.listener.onAsked(this.#server.name);
  }

  #keepLater(delayMs: number): void {
    if (this.#server.pool.min === 0 || this.#isClosed) return;
    this.#cancelKeep ??= this.#clock.schedule(() => {
      this.#cancelKeep = undefined;
      this.keepMinimum();
    }, delayMs);
  }

  /** An instance goes, and with it what it kept for sessions that still live. */
  #loseState(member: Member, reason: StopReason): void {
    const why: Record<StopReason, string> = {
      crash: 'its instance stopped unexpectedly',
      idle:
        member.affinity !== undefined && isSessionAffinity(member.affinity)
          ? 'its instance was stopped to make room'
          : 'its instance was idle and was stopped',
      drain: 'its instance was replaced',
      request: 'it was stopped on request',
      session: 'the session ended',
    };
    this.#memory.lose(member.affinity, why[reason], member.holders);
  }

  /** Whose wishes count for a group: everybody's for a shared server, else the session's or client's own. */
  #only(group: Group): Only | undefined {
    return this.#server.isolation === 'session' ? { asker: group.affinity } : undefined;
  }

  // The rest

  #refusal(): GatewayError | undefined {
    const { name, enabled, problem } = this.#server;
    if (!enabled) {
      return new GatewayError('server_disabled', `Server ${name} is disabled`, {
        server: name,
        hint: `Set enabled: true for ${name} in servers.yaml.`,
      });
    }
    if (problem) {
      return new GatewayError(problem.code, problem.message, { server: name, hint: problem.hint });
    }
    if (this.#isClosed) {
      return new GatewayError('draining', `Server ${name} is being shut down`, { server: name });
    }
    return undefined;
  }

  #runtime(): Runtime {
    return this.#options.runtimeFor(this.#server);
  }

  #groupOf(affinity: string | undefined): Group {
    let group = this.#groups.get(affinity);
    if (!group) {
      group = this.#createGroup(affinity);
      this.#groups.set(affinity, group);
    }
    return group;
  }

  #createGroup(affinity: string | undefined): Group {
    const { name, isolation, pool, timeouts } = this.#server;
    const group = new Group(affinity, isolation === 'session' ? 1 : pool.max, this.#rules, {
      server: name,
      queueTimeoutMs: timeouts.queueMs,
      clock: this.#clock,
      overdue: () =>
        new GatewayError(
          'queue_timeout',
          `No instance of server ${name} became free within ${seconds(timeouts.queueMs)}`,
          {
            server: name,
            hint: this.#queueHint(group),
            data: { retryAfterSeconds: retryAfterSeconds(this.#lines()) },
          },
        ),
      onCount: (change) => {
        this.#waiting += change;
      },
      onGivenUp: () => {
        if (group.line.size === 0) this.#dropUnwanted(group);
        this.#options.onChange();
      },
    });
    return group;
  }

  #dropIfEmpty(group: Group): void {
    if (!group.isEmpty || this.#groups.get(group.affinity) !== group) return;
    group.line.close();
    this.#groups.delete(group.affinity);
    if (group.affinity === undefined || group.isSession) return;
    // What it watches is taken back by the listen stream that asked for it, and may outlive the instance.
    this.#desired.setLevel(group.affinity, undefined);
    this.#memory.dismiss(group.affinity);
  }

  /** Whether `pool.min` needs it. */
  #isKept(member: Member): boolean {
    const { pool, isolation } = this.#server;
    if (pool.min === 0 || isolation === 'session') return false;
    return (this.#groups.get(member.affinity)?.members.length ?? 0) <= pool.min;
  }

  #makeRoom(): void {
    const { capacity } = this.#options;
    if (capacity.isWanted) capacity.makeRoom();
  }

  #lines(): WaitingLine[] {
    return [...this.#groups.values()].map(({ line }) => line);
  }

  /** Those that are or will be of use to somebody. */
  #members(): Member[] {
    return [...this.#groups.values()].flatMap(({ members }) => members);
  }

  *#departing(): Iterable<Member> {
    yield* this.spares.leaving;
    for (const group of this.#groups.values()) yield* group.leaving;
  }

  /** Spares included. */
  #everyone(): Member[] {
    return [...this.#members(), ...this.spares.present, ...this.#departing()];
  }

  /** That of the most available instance. */
  #state(stateOf: (member: Member) => MemberState = ({ state }) => state): ServerState {
    const { enabled, problem } = this.#server;
    if (!enabled) return 'disabled';
    const hasFailed = problem !== undefined || this.#startFailed || this.#failures.retryInMs > 0;
    return mostAvailable(new Set(this.#everyone().map(stateOf)), hasFailed);
  }

  #showState(): void {
    const state = this.#state();
    if (state === this.#shownState) return;
    this.#shownState = state;
    const { last } = this.#failures;
    this.#options.events.emit('server.state', {
      server: this.#server.name,
      state,
      ...(state === 'failed' && last ? { reason: last.message } : {}),
    });
  }
}

/** The error of calls that come when their session is over. */
export const sessionEnded = () => new GatewayError('session_unknown', 'The session has ended');
