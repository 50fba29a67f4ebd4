import type { Clock, Semaphore } from '../base/async.ts';
import { asGatewayError, GatewayError } from '../base/errors.ts';
import type { Store } from '../base/store.ts';
import type { GatewayConfig, ServerConfig } from '../config/schema.ts';
import type { Events, ServerState } from '../observability/events.ts';
import type { Era } from '../protocol/eras.ts';
import type { Notification } from '../protocol/jsonrpc.ts';
import type { Runtime } from '../runtimes/runtime.ts';
import { type Balancer, createBalancer } from './balancer.ts';
import type { Capacity } from './capacity.ts';
import { cancelled } from './connection.ts';
import { DesiredState, type Only } from './desired-state.ts';
import { seconds } from './diagnosis.ts';
import { KnownEra } from './era.ts';
import { Failures, type LastError } from './failures.ts';
import {
  type InstanceListener,
  isSessionAffinity,
  type Lease,
  type LeaseOptions,
  type Purpose,
} from './lease.ts';
import { Member, type MemberOwner, type StopReason } from './member.ts';
import { prepare } from './readiness.ts';
import { SessionMemory } from './session-memory.ts';
import { WaitingLine, type WaitingLineOptions } from './waiting-line.ts';

/** One instance as `/servers` shows it. */
export interface InstanceStatus {
  id: string;
  state: 'starting' | 'ready' | 'paused' | 'draining';
  leases: number;
  startedAtMs: number;
  /** As last measured. */
  memoryBytes: number | undefined;
}

/** A server as `/servers` shows it, as far as the fleet knows. */
export interface PoolStatus {
  name: string;
  type: ServerConfig['type'];
  state: ServerState;
  instances: InstanceStatus[];
  /** Calls that wait for an instance. */
  waiting: number;
  lastError: LastError | undefined;
  /** While it is in back-off. */
  retryAtMs: number | undefined;
}

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
}

/** How often a minimum of instances is tried again when the engine is away. */
const keepRetryMs = 5000;

/** The instances that may serve the same callers: all of a shared server, or those of one session or of one modern client. */
class Group {
  readonly affinity: string | undefined;
  /** Whether it lives as long as a session, whose questions can be asked outside of calls too. */
  readonly isSession: boolean;
  readonly max: number;
  /** Those that are or will be of use, oldest first. */
  readonly members: Member[] = [];
  /** Those that are being stopped or cleared away; their place is not free yet. */
  readonly leaving = new Set<Member>();
  readonly line: WaitingLine;

  constructor(affinity: string | undefined, max: number, line: Omit<WaitingLineOptions, 'isStarting'>) {
    this.affinity = affinity;
    this.isSession = affinity !== undefined && isSessionAffinity(affinity);
    this.max = max;
    this.line = new WaitingLine({
      ...line,
      isStarting: () => this.members.some(({ state, phase }) => state === 'starting' && phase === 'working'),
    });
  }

  get isEmpty(): boolean {
    return this.members.length === 0 && this.leaving.size === 0 && this.line.size === 0;
  }
}

/**
 * The instances of one server: who gets a lease, when one is started, and when the server is given a rest. Every decision is made at
 * one moment from what is known then; only starts, stops, freezes and thaws are waited for, and each of them comes back here.
 */
export class Pool {
  readonly #options: PoolOptions;
  readonly #server: ServerConfig;
  readonly #clock: Clock;
  readonly #balancer: Balancer;
  readonly #failures: Failures;
  readonly #desired = new DesiredState();
  readonly #groups = new Map<string | undefined, Group>();
  readonly #memory: SessionMemory;
  readonly #era = new KnownEra();
  #asks: boolean;
  #nextSerial = 1;
  #waiting = 0;
  #cancelRetry: (() => void) | undefined;
  #cancelKeep: (() => void) | undefined;
  #startFailed = false;
  #shownState: ServerState = 'stopped';
  #isClosed = false;

  constructor(options: PoolOptions) {
    this.#options = options;
    this.#server = options.server;
    this.#clock = options.clock;
    this.#balancer = createBalancer(options.server.loadBalancing);
    this.#memory = new SessionMemory(options.server, options.store);
    this.#failures = new Failures(options.server, options.clock);
    this.#asks = options.server.interactive === true;
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
    if (purpose !== 'call' || group.line.calls.size === 0) {
      const member = this.#available(group, purpose, options.affinity);
      if (member) return Promise.resolve(member.grant(purpose, options.affinity));
    }
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
    while (group.members.length < min && group.members.length + group.leaving.size < group.max) {
      const { retryInMs } = this.#failures;
      if (retryInMs > 0) {
        this.#keepLater(retryInMs);
        return;
      }
      this.#start(group, 'call');
    }
  }

  /** The engine is there again: what failed may work now. */
  forgive(): void {
    this.#failures.forgive();
    this.#cancelKeep?.();
    this.#cancelKeep = undefined;
    this.keepMinimum();
    for (const group of [...this.#groups.values()]) this.#serve(group);
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

  /** Instances that will give back their place without anybody's help. */
  get leaving(): number {
    let count = 0;
    for (const group of this.#groups.values()) {
      for (const member of group.leaving) if (member.leases === 0) count += 1;
    }
    return count;
  }

  /** Members that nobody holds and that may be stopped to make room. */
  evictable(): Member[] {
    return this.#everyone().filter(
      (member) =>
        member.leases === 0 &&
        (member.state === 'ready' || member.state === 'paused') &&
        !this.#isKept(member) &&
        !this.#memory.isHeldIn(member.affinity),
    );
  }

  status(): PoolStatus {
    const shown: Partial<Record<Member['state'], InstanceStatus['state']>> = {
      starting: 'starting',
      ready: 'ready',
      pausing: 'ready',
      paused: 'paused',
      resuming: 'paused',
      draining: 'draining',
    };
    const instances = this.#everyone().flatMap((member) => {
      const state = shown[member.state];
      if (!state) return [];
      const { name: id, leases, startedAtMs, memoryBytes } = member;
      return [{ id, state, leases, startedAtMs, memoryBytes }];
    });
    const { name, type } = this.#server;
    return {
      name,
      type,
      state: this.#state(),
      instances,
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
      return Promise.reject(
        new GatewayError('queue_full', `Server ${name} has ${maxQueue} calls waiting and takes no more`, {
          server: name,
          hint: `Try again later; more concurrency or a higher pool.max of ${name} lets more calls run at a time.`,
        }),
      );
    }
    return group.line.join(options, () => this.#serve(group));
  }

  /** Gives waiting callers what there is, in order, and sees to it that more comes. */
  #serve(group: Group): void {
    if (group.line.size === 0) return;
    for (const waiter of group.line.placeless) {
      const member = this.#available(group, waiter.purpose, waiter.caller);
      if (!member) break;
      waiter.grant(member.grant(waiter.purpose, waiter.caller));
    }
    for (const waiter of group.line.calls) {
      const member = this.#available(group, 'call', waiter.caller);
      if (!member) break;
      waiter.grant(member.grant('call', waiter.caller));
    }
    if (group.line.size === 0) this.#dropUnwanted(group);
    else if (!this.#isClosed) this.#provide(group);
  }

  /** Thaws and starts as many instances as those who wait can fill. */
  #provide(group: Group): void {
    const perMember = this.#concurrency(group, this.#era.latest);
    let coming = 0;
    for (const { state } of group.members) {
      if (state === 'starting' || state === 'resuming' || state === 'pausing') coming += perMember;
    }
    const isShort = () => coming < group.line.calls.size || (coming === 0 && group.line.placeless.size > 0);
    for (const member of group.members) {
      if (member.state !== 'paused' || !isShort()) continue;
      member.resume();
      coming += perMember;
    }
    // One that is being stopped still counts: copies may run side by side only as far as `max` says.
    while (isShort() && group.members.length + group.leaving.size < group.max) {
      if (!this.#mayStart(group)) return;
      const isForUse = group.line.calls.size > 0 || group.line.holdsWait;
      this.#start(group, isForUse ? 'call' : 'upkeep');
      coming += perMember;
    }
    if (coming === 0 && group.leaving.size > 0 && group.line.note === undefined) {
      group.line.say(`waiting for the last instance of ${this.#server.name} to end`);
    }
  }

  #available(group: Group, purpose: Purpose, caller: string | undefined): Member | undefined {
    const { members } = group;
    if (purpose !== 'call') return members.find(({ state }) => state === 'ready');
    this.#replaceAmbiguous(group, caller);
    if (members.length === 1) {
      const only = members[0]!;
      return only.state === 'ready' && only.calls < this.#concurrency(group, only.era) ? only : undefined;
    }
    const candidates = members.filter(
      ({ state, calls, era }) => state === 'ready' && calls < this.#concurrency(group, era),
    );
    return candidates.length === 0 ? undefined : this.#balancer.pick(candidates);
  }

  /**
   * An instance that may still ask on behalf of a call that was given up could only be refused its questions for another caller: that one
   * gets a fresh instance. Where memory matters it stays.
   */
  #replaceAmbiguous(group: Group, caller: string | undefined): void {
    if (!this.#asks || group.affinity !== undefined || this.#server.stateful) return;
    for (const member of [...group.members]) {
      // Nothing else may run beside one that is held for long.
      const isInUse = member.calls + member.holds > 0;
      if (member.state !== 'ready' || isInUse || member.era === 'modern') continue;
      if (member.mayActForOthers(caller)) member.retire('drain');
    }
  }

  /**
   * A server that asks its clients during their calls gets one call at a time, so that each question has one possible addressee.
   * One of the modern era asks in its results, which belong to their calls.
   */
  #concurrency(group: Group, era: Era | undefined): number {
    return this.#asks && !group.isSession && era !== 'modern' ? 1 : this.#server.concurrency;
  }

  #queueHint(group: Group): string {
    const { name } = this.#server;
    if (group.members.some(({ state }) => state === 'starting')) {
      return 'All places for instances are taken: raise gateway.max_instances, or stop a server.';
    }
    if (this.#asks && !group.isSession && this.#era.latest !== 'modern') {
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
    const { capacity, slots, gateway, version, clock, events } = this.#options;
    const member = new Member({
      server: this.#server,
      runtime: this.#runtime(),
      serial: this.#nextSerial++,
      affinity: group.affinity,
      era: this.#era,
      startedFor,
      capacity,
      slots,
      maxMessageBytes: gateway.maxMessageBytes,
      version,
      clock,
      events,
      owner: this.#ownerFor(group),
    });
    this.#failures.began(member);
    group.members.push(member);
    group.line.say(`starting ${this.#server.name}`);
    void member.start();
    this.#showState();
  }

  /** Whether the server is given another try now; if not, those who wait are told, or wait for the next one. */
  #mayStart(group: Group): boolean {
    const { retryInMs, isBreakerOpen } = this.#failures;
    if (retryInMs === 0) return true;
    if (isBreakerOpen && group.members.length === 0) {
      group.line.refuseAll(this.#failures.refusal());
    } else {
      this.#cancelRetry ??= this.#clock.schedule(() => {
        this.#cancelRetry = undefined;
        for (const waiting of [...this.#groups.values()]) this.#serve(waiting);
      }, retryInMs);
    }
    return false;
  }

  #ownerFor(group: Group): MemberOwner {
    const { listener, onChange } = this.#options;
    const { name } = this.#server;
    const remove = (member: Member) => {
      const index = group.members.indexOf(member);
      if (index !== -1) group.members.splice(index, 1);
      group.leaving.add(member);
    };
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
        this.#desired.applyTo(member, this.#only(group));
        this.#serve(group);
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
        if (group.members.length > 0 || !isFault) this.#serve(group);
        else group.line.refuseAll(error);
        onChange();
      },
      onFree: (member) => {
        this.#failures.forgiveIfWell(member);
        if (group.line.size > 0) this.#serve(group);
        onChange();
      },
      onThawed: (member) => {
        this.#desired.applyTo(member, this.#only(group));
        this.#desired.unwatchUnwantedOn(member, this.#only(group));
        if (group.line.size > 0) this.#serve(group);
      },
      onIdle: () => this.#makeRoom(),
      onLeaving: (member, reason) => {
        remove(member);
        if (reason === 'crash') this.#failures.count(member, { isCrash: true });
        if (this.#server.stateful) this.#loseState(member, reason);
        this.#serve(group);
      },
      onDied: (member) => {
        remove(member);
        this.#failures.count(member, { isCrash: true });
        if (this.#server.stateful) this.#loseState(member, 'crash');
        this.#serve(group);
      },
      onCrash: (_member, error) => {
        this.#failures.remember(error);
        this.#showState();
      },
      onGone: (member) => {
        remove(member);
        group.leaving.delete(member);
        this.#serve(group);
        this.keepMinimum();
        if (group.affinity !== undefined && group.members.length + group.leaving.size === 0) {
          listener.onEnded(name, group.affinity);
        }
        this.#dropIfEmpty(group);
        onChange();
      },
      onStateChange: () => this.#showState(),
      onAsked: () => {
        if (this.#asks || this.#server.interactive !== undefined) return;
        this.#asks = true;
        listener.onAsked(name);
      },
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
    const group = new Group(affinity, isolation === 'session' ? 1 : pool.max, {
      server: name,
      queueTimeoutMs: timeouts.queueMs,
      clock: this.#clock,
      overdue: () =>
        new GatewayError(
          'queue_timeout',
          `No instance of server ${name} became free within ${seconds(timeouts.queueMs)}`,
          { server: name, hint: this.#queueHint(group) },
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
    this.#desired.forget(group.affinity);
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

  #everyone(): Member[] {
    const all: Member[] = [];
    for (const group of this.#groups.values()) all.push(...group.members, ...group.leaving);
    return all;
  }

  /** That of the most available instance. */
  #state(): ServerState {
    const { enabled, problem } = this.#server;
    if (!enabled) return 'disabled';
    const states = new Set(this.#everyone().map(({ state }) => state));
    if (states.has('ready') || states.has('pausing')) return 'ready';
    if (states.has('paused') || states.has('resuming')) return 'paused';
    if (states.has('starting')) return 'starting';
    if (problem || this.#startFailed || this.#failures.retryInMs > 0) return 'failed';
    return states.has('draining') ? 'draining' : 'stopped';
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
