import { type Clock, type Deferred, deferred } from '../base/async.ts';
import { asGatewayError, GatewayError } from '../base/errors.ts';
import type { ClientCapability, ServerConfig } from '../config/schema.ts';
import type { Events } from '../observability/events.ts';
import { type Era, eraOf } from '../protocol/eras.ts';
import type { Notification, Params, Request } from '../protocol/jsonrpc.ts';
import type { Noise, Prepared, PrepareProgress, Runtime } from '../runtimes/runtime.ts';
import type { Candidate } from './balancer.ts';
import type { Capacity, Place } from './capacity.ts';
import type { Ask } from './client-questions.ts';
import { Connection } from './connection.ts';
import { seconds } from './diagnosis.ts';
import type { KnownEra } from './era.ts';
import { Gauge } from './gauge.ts';
import { HealthCheck, isHostWell } from './health.ts';
import { Launch, settledWithin, stopSlackMs } from './launch.ts';
import {
  type Handshake,
  isSessionAffinity,
  type Lease,
  type Outcome,
  type OutgoingRequest,
  type Purpose,
} from './lease.ts';
import { Listening } from './listening.ts';
import { MemberLease } from './member-lease.ts';
import { prepare, type StartContext, type StartSlots } from './readiness.ts';
import { judgeIdle } from './reaper.ts';

/** Why an instance ended. */
export type StopReason = 'idle' | 'drain' | 'request' | 'session' | 'crash';

/**
 * `starting` → `ready` ⇄ `paused`, then `draining` until it is stopped, then `gone`. A member that died is `gone` at once. `pausing` and `resuming` are waits
 * for the engine.
 */
export type MemberState = 'starting' | 'ready' | 'pausing' | 'paused' | 'resuming' | 'draining' | 'gone';

/** What a start is doing: waiting for its turn, or working within bounds of its own. */
export type StartPhase = 'waiting' | 'working';

/** What a member tells its pool; all at once, never inside a wait of the pool's. */
export interface MemberOwner {
  onPhase(member: Member): void;
  onProgress(member: Member, text: string): void;
  onReady(member: Member): void;
  /** `isFault`: it is the server that failed, not somebody who ended the start. */
  onStartFailed(member: Member, error: GatewayError, isFault: boolean): void;
  /** It can take a call more than before. */
  onFree(member: Member): void;
  /** It is `ready` again. */
  onThawed(member: Member): void;
  /** The thaw takes unusually long: those who wait may be served otherwise. */
  onSlowThaw(member: Member): void;
  /** It takes no new lease from now on. */
  onLeaving(member: Member, reason: StopReason): void;
  /** It died by itself; its calls learn why in a moment, and so does `onCrash`. */
  onDied(member: Member): void;
  onCrash(member: Member, error: GatewayError): void;
  /** Nothing of it is left. */
  onGone(member: Member): void;
  onIdle(member: Member): void;
  onStateChange(): void;
  onAsked(): void;
  onNotification(member: Member, notification: Notification): void;
  onRequest(member: Member, request: Request, signal: AbortSignal): Promise<Outcome>;
  /** Whether something else than a call holds it: its live session, a minimum of the pool. */
  mustStay(member: Member): boolean;
}

export interface MemberOptions {
  server: ServerConfig;
  runtime: Runtime;
  serial: number;
  /** The session, or the modern client, that it belongs to, undefined for a shared one. */
  affinity: string | undefined;
  /** Kept frozen for whoever needs an instance next. */
  isSpare: boolean;
  /** Whether it belongs, or will belong, to one client, whose folders (roots) it may know of. */
  isPersonal: boolean;
  /** Of its server; found out by the first member that is started. */
  era: KnownEra;
  startedFor: Purpose;
  capacity: Capacity;
  /** What it may come to use. */
  expectedBytes: number;
  slots: StartSlots;
  maxMessageBytes: number;
  version: string;
  clock: Clock;
  events: Events;
  owner: MemberOwner;
}

/** Engines freeze and thaw in milliseconds; one that does not answer for this long has failed to. */
const freezeLimitMs = 10_000;
const overdue = new GatewayError(
  'internal',
  `The engine took longer than ${seconds(freezeLimitMs)} to freeze or thaw`,
);
/** A thaw takes some ten milliseconds; after this long those who wait for it are served otherwise, if they can be. */
const slowThawMs = 1000;
/** What an adopted spare runs is no longer what would be started now. */
const outdated = new GatewayError('draining', 'What it runs from has changed');
const noiseEventsAtOnce = 20;

/** One instance from its start to its end: who holds it, when it rests, and when it must go. */
export class Member implements Candidate {
  readonly serial: number;
  /** That of the session or client that has adopted it, where it was a spare. */
  affinity: string | undefined;
  readonly startedFor: Purpose;
  /** Resolves when nothing of it is left. */
  readonly gone: Promise<void>;
  /** Resources that it was asked to watch. */
  readonly watched = new Set<string>();
  /** The log level that it was asked for. */
  level: string | undefined;
  state: MemberState = 'starting';
  phase: StartPhase = 'waiting';
  isSpare: boolean;
  /** Its thaw is overdue. */
  isSlow = false;
  /** Something else would be started now. */
  isOutdated = false;
  /** Open leases of calls. */
  calls = 0;
  /** Open leases beside calls, which take no place: they hold it, and count as use. */
  holds = 0;
  /** Open leases of upkeep: they hold it, and do not count as use. */
  upkeep = 0;
  /** When the last call ended, or when it became ready. */
  idleSinceMs = 0;
  /** Whether a call ever held it. */
  wasCalled = false;
  /** For servers whose memory matters: the sessions that hold it now, with the number of their leases. */
  readonly holders: Map<string, number> | undefined;
  handshake: Handshake | undefined;
  /** Of its handshake; legacy until then. */
  era: Era = 'legacy';
  /** What it runs from, once that is known. */
  digest: string | undefined;

  readonly #createdAtMs: number;
  readonly #options: MemberOptions;
  readonly #launch: Launch;
  readonly #health: HealthCheck;
  readonly #gauge: Gauge;
  readonly #abort = new AbortController();
  readonly #gone: Deferred<void> = deferred();
  #owner: MemberOwner;
  /** Of an instance of the modern era. */
  #listening: Listening | undefined;
  #place: Place | undefined;
  #isStopping = false;
  #stopReason: StopReason = 'idle';
  /** How long one that did not become ready gets to end. */
  #failedGraceMs: number;
  /** It was a spare, and what it runs from may have changed since its start. */
  #mayBeOutdated = false;
  /** The freeze or thaw under way: a stop waits for it. */
  #transition: Promise<void> | undefined;
  #cannotPause = false;
  #cancelLook: (() => void) | undefined;
  #noiseEvents = 0;

  constructor(options: MemberOptions) {
    this.#options = options;
    this.#owner = options.owner;
    this.isSpare = options.isSpare;
    this.#gauge = new Gauge(options.clock);
    this.serial = options.serial;
    this.affinity = options.affinity;
    this.startedFor = options.startedFor;
    this.#failedGraceMs = options.server.timeouts.stopMs;
    this.#createdAtMs = options.clock.now();
    this.holders = options.server.stateful ? new Map() : undefined;
    this.gone = this.#gone.promise;
    this.#health = new HealthCheck(
      {
        isAskable: () => this.state === 'ready' && this.#atWork === 0,
        heard: () => this.#connection.heard,
        ask: () => this.#connection.askForLife(),
        isHostWell: () => isHostWell(this.#instance!),
        // One that has got a call meanwhile shows by that whether it works.
        onSilence: () => (this.#atWork === 0 ? this.#connection.giveUp() : this.#health.start()),
      },
      { intervalMs: options.server.healthCheck.intervalMs, clock: options.clock },
    );
    const { server, era, slots, clock } = options;
    this.#launch = new Launch({
      server,
      era,
      slots,
      clock,
      connect: () => this.#connect(),
      onPhase: (phase) => this.#setPhase(phase),
    });
  }

  get #connection(): Connection {
    return this.#launch.connection;
  }

  get #instance(): Launch['instance'] {
    return this.#launch.instance;
  }

  /** A connection for one instance. */
  #connect(): Connection {
    const { server, isPersonal, maxMessageBytes, version, clock } = this.#options;
    const ask: Ask = (request, signal) => this.#owner.onRequest(this, request, signal);
    // What a spare asks for its client to come is declined by its owner.
    const hasClient = () => this.#isOfSession || (isPersonal && this.isSpare);
    return new Connection({
      server,
      capabilities: capabilitiesFor(server, isPersonal),
      maxMessageBytes,
      version,
      clock,
      owner: {
        onEnded: () => this.#onEnded(),
        onCrash: (error) => this.#onCrash(error),
        // While it starts, the report of its end tells more.
        onUnwritable: () => {
          if (this.state !== 'starting') this.retire('crash');
        },
        onCondemned: (error) => this.#onCondemned(error),
        onAmbiguous: (isUsable) => {
          // Nobody else is served while it drains, which may take long.
          if (!isUsable || this.holds === 0) this.retire('drain');
        },
        onAsked: () => this.#owner.onAsked(),
        onNoise: (noise) => this.#onNoise(noise),
        onNotification: (notification) => {
          if (this.#listening) this.#listening.take(notification);
          else this.#owner.onNotification(this, notification);
        },
        // A modern client has no stream of its own: it is asked during its calls, as clients of a shared instance are.
        get onRequest() {
          return hasClient() ? ask : undefined;
        },
        onTaskRequest: ask,
      },
    });
  }

  get #isOfSession(): boolean {
    return this.affinity !== undefined && isSessionAffinity(this.affinity);
  }

  get name(): string {
    return this.#instance?.name ?? `${this.#options.server.name}-${this.serial}`;
  }

  /** When it began to run, or was asked for. */
  get startedAtMs(): number {
    return this.#instance?.startedAtMs ?? this.#createdAtMs;
  }

  get leases(): number {
    return this.calls + this.holds + this.upkeep;
  }

  /** Of the host's memory what is set aside for it; 0 without a place among the instances. */
  get placeBytes(): number {
    return this.#place?.bytes ?? 0;
  }

  get hasPlace(): boolean {
    return this.#place !== undefined;
  }

  /** What the engine says of one that is `ready` or `paused`; undefined: nothing. */
  get isFrozen(): boolean | undefined {
    return this.#instance?.isFrozen;
  }

  /** Leases that show by themselves whether it works. */
  get #atWork(): number {
    return this.calls + this.upkeep;
  }

  /** Calls of clients that it has answered. */
  get answered(): number {
    return this.#connection.answered;
  }

  /** Whether what it asks or logs during a call of this caller could be about another's that was given up. */
  mayActForOthers(caller: string | undefined): boolean {
    return this.#connection.mayActForOthers(caller);
  }

  /** Starts it; how that ends is told to the owner. */
  async start(): Promise<void> {
    const { server, runtime, clock, events, capacity, expectedBytes } = this.#options;
    const context: StartContext = { server, runtime, clock, signal: this.#abort.signal };
    try {
      this.#place = await capacity.acquire(expectedBytes, this.#abort.signal);
      this.#setPhase('working');
      const prepared: Prepared = await prepare(context, (progress) => this.#onPrepareProgress(progress));
      this.digest = prepared.digest;
      this.handshake = await this.#launch.begin(context, prepared);
      this.#abort.signal.throwIfAborted();
    } catch (error) {
      this.#onStartFailed(asGatewayError(error, server.name));
      return;
    }
    this.state = 'ready';
    this.era = eraOf(this.handshake.protocolVersion);
    if (this.era === 'modern') this.#listening = this.#listen(this.handshake);
    this.#health.start();
    this.idleSinceMs = clock.now();
    events.emit('instance.started', {
      server: server.name,
      instance: this.name,
      durationMs: this.idleSinceMs - this.#createdAtMs,
    });
    this.#owner.onReady(this);
    this.#owner.onStateChange();
    this.#listening?.look();
    // Those who asked for it may be gone.
    if (this.leases === 0 && this.state === 'ready') this.#becomeIdle();
  }

  /** A spare that is needed: it belongs to another owner from now on, and to one session or client where it is personal. */
  adopt(owner: MemberOwner, affinity: string | undefined): void {
    this.#owner = owner;
    this.affinity = affinity;
    this.isSpare = false;
    this.#mayBeOutdated = this.state !== 'starting';
    this.idleSinceMs = this.#options.clock.now();
  }

  #listen({ capabilities }: Handshake): Listening {
    const { server, clock } = this.#options;
    return new Listening({
      server: server.name,
      capabilities,
      watched: this.watched,
      clock,
      acknowledgeLimitMs: server.timeouts.handshakeMs,
      open: (notifications) => this.#connection.listen(notifications),
      isAwake: () => this.state === 'ready' || this.state === 'draining',
      onNotification: (notification) => this.#owner.onNotification(this, notification),
    });
  }

  /** Opens a lease. Only for a member that is `ready`, or where another lease holds it. */
  grant(purpose: Purpose, caller: string | undefined): Lease {
    if (purpose === 'call') {
      this.calls += 1;
      this.wasCalled = true;
    } else if (purpose === 'hold') {
      this.holds += 1;
      this.wasCalled = true;
    } else this.upkeep += 1;
    if (this.holders && caller !== undefined) this.holders.set(caller, (this.holders.get(caller) ?? 0) + 1);
    return new MemberLease(this, this.#connection, purpose, caller);
  }

  /** Closes a lease that `grant` opened; `MemberLease` sees to it that this is done once. */
  release(purpose: Purpose, caller: string | undefined): void {
    const { clock, server } = this.#options;
    if (this.holders && caller !== undefined) {
      const held = this.holders.get(caller)! - 1;
      if (held === 0) this.holders.delete(caller);
      else this.holders.set(caller, held);
    }
    if (purpose === 'upkeep') this.upkeep -= 1;
    else {
      if (purpose === 'call') this.calls -= 1;
      else this.holds -= 1;
      // The time of the last use's end, read only when it can matter.
      if (this.calls + this.holds === 0) this.idleSinceMs = clock.now();
    }

    if (this.state === 'draining') {
      if (this.leases === 0) void this.#stop(server.timeouts.stopMs);
      return;
    }
    if (this.state === 'gone') return;
    this.#owner.onFree(this);
    if (this.leases === 0 && this.state === 'ready') this.#becomeIdle();
  }

  /** Sends a notification, if it runs; it is not worth waiting for. */
  tell(notification: { method: string; params?: Params }): void {
    if (this.state === 'ready') this.#connection.notify(notification).catch(() => {});
  }

  /**
   * The answer to a request that an instance of the modern era has other means for: what is watched is told by its listen, a log
   * level with each call. undefined: it is to be asked.
   */
  standIn({ method, params }: OutgoingRequest): Promise<Outcome> | undefined {
    const listening = this.#listening;
    if (!listening) {
      if (method === 'resources/subscribe') this.watched.add(String(params?.uri));
      return undefined;
    }
    const uri = String(params?.uri);
    if (method === 'resources/subscribe') {
      this.watched.add(uri);
      return listening.watch(uri);
    }
    if (method === 'resources/unsubscribe') {
      if (this.watched.delete(uri)) listening.changed();
    } else if (method !== 'logging/setLevel') return undefined;
    return Promise.resolve({ era: 'modern', result: {} });
  }

  /** Sends a request of the gateway's own whose answer does not matter. */
  ask(method: string, params: Params): void {
    if (this.state !== 'ready') return;
    if (this.#listening) {
      if (method === 'resources/unsubscribe') this.#listening.changed();
      else if (method === 'resources/subscribe') this.#listening.watch(String(params.uri)).catch(() => {});
      return;
    }
    this.#connection.ask(method, params, this.#options.server.timeouts.callMs).catch(() => {});
  }

  /** Takes no lease from now on, and stops when the last one is closed. */
  retire(reason: StopReason): void {
    if (this.state === 'draining' || this.state === 'gone') return;
    if (this.state === 'starting') {
      this.abortStart(
        new GatewayError('draining', `Server ${this.#options.server.name} was stopped while it started`),
      );
      return;
    }
    this.#leave(reason);
    if (this.leases === 0) void this.#stop(this.#options.server.timeouts.stopMs);
  }

  /** Stops it now; calls in flight fail with `error`. */
  kill(reason: StopReason, error: GatewayError, graceMs: number): void {
    if (this.state === 'gone') return;
    if (this.state === 'starting') {
      this.#failedGraceMs = graceMs;
      this.abortStart(error);
      return;
    }
    // A start that is being undone has nothing to kill yet.
    if (!this.#instance) return;
    if (this.state !== 'draining') this.#leave(reason);
    this.#connection.close(error);
    void this.#stop(graceMs);
  }

  /** Ends a start that is under way. */
  abortStart(error: GatewayError): void {
    this.#abort.abort(error);
  }

  /** Thaws it, whoever has frozen it; calls wait in the pool meanwhile. One that does not come back is replaced. */
  resume(): void {
    if (this.state !== 'paused' && this.state !== 'ready') return;
    const { clock, events, server } = this.#options;
    const beganAtMs = clock.now();
    const isFrozen = this.state === 'paused' || this.isFrozen === true;
    this.state = 'resuming';
    this.#gauge.thawed();
    this.#health.stop();
    this.#cancelLook?.();
    this.#cancelLook = undefined;
    const cancelTimer = clock.schedule(() => {
      this.isSlow = true;
      this.#owner.onSlowThaw(this);
    }, slowThawMs);
    const thaw = isFrozen ? this.#instance!.resume() : Promise.resolve();
    // Asked at the same time: a spare that would not be started like this any more is as good as none.
    const work = this.#mayBeOutdated ? Promise.all([thaw, this.#checkDigest()]).then(() => {}) : thaw;
    this.#transition = this.#withinLimit(work).then(
      () => {
        cancelTimer();
        this.isSlow = false;
        if (this.state !== 'resuming') return;
        this.state = 'ready';
        this.#health.start();
        events.emit('instance.resumed', {
          server: server.name,
          instance: this.name,
          durationMs: clock.now() - beganAtMs,
        });
        const wasSpare = this.#mayBeOutdated;
        this.#mayBeOutdated = false;
        if (wasSpare) this.#meetClient();
        this.#owner.onThawed(this);
        this.#owner.onStateChange();
        if (wasSpare) this.#owner.onReady(this);
        this.#listening?.look();
        if (this.leases === 0 && this.state === 'ready') this.#rest();
      },
      (error) => {
        cancelTimer();
        this.isSlow = false;
        if (this.state === 'resuming') this.#replace(error);
      },
    );
  }

  /** Gives up on a thaw: others do the work. */
  giveUpThaw(): void {
    if (this.state === 'resuming') this.#replace(overdue);
  }

  /** Rejects when something else would be started now. An engine that cannot say leaves the spare as it is. */
  async #checkDigest(): Promise<void> {
    if (!(await this.isCurrent())) throw outdated;
  }

  /** Whether the same would be started now. */
  async isCurrent(): Promise<boolean> {
    const { server, runtime, clock } = this.#options;
    const context: StartContext = { server, runtime, clock, signal: this.#abort.signal };
    return prepare(context).then(
      ({ digest }) => digest === this.digest,
      () => true,
    );
  }

  /** As a spare it had nobody to ask: the folders of the session that it belongs to now are news to it. */
  #meetClient(): void {
    const { server, isPersonal } = this.#options;
    if (!this.#isOfSession || this.era === 'modern') return;
    if (!capabilitiesFor(server, isPersonal).includes('roots')) return;
    this.tell({ method: 'notifications/roots/list_changed' });
  }

  /** Decides now whether it rests, and when to look again. */
  look(): void {
    this.#cancelLook?.();
    this.#cancelLook = undefined;
    if (this.state !== 'ready' && this.state !== 'paused') return;
    const { clock, server } = this.#options;
    const pauseAfterMs = this.isSpare ? 0 : server.pauseAfterMs;
    const verdict = judgeIdle({
      state: this.state,
      openLeases: this.leases,
      idleForMs: clock.now() - this.idleSinceMs,
      pauseAfterMs: this.#cannotPause ? Number.POSITIVE_INFINITY : pauseAfterMs,
      idleTimeoutMs: this.#owner.mustStay(this) ? Number.POSITIVE_INFINITY : server.idleTimeoutMs,
    });
    if (verdict.action === 'stop') {
      this.retire('idle');
      return;
    }
    if (verdict.action === 'pause') {
      this.#pause();
      return;
    }
    if (verdict.lookAgainInMs !== Number.POSITIVE_INFINITY) {
      this.#cancelLook = clock.schedule(() => {
        this.#cancelLook = undefined;
        this.look();
      }, verdict.lookAgainInMs);
    }
  }

  /** As last measured. */
  get memoryBytes(): number | undefined {
    return this.#gauge.memoryBytes;
  }

  /** Of one CPU, between the last two measurements. */
  get cpuPercent(): number | undefined {
    return this.#gauge.cpuPercent;
  }

  /** Whether what it uses may be another than what is known. */
  get isMeasurable(): boolean {
    return (this.state === 'ready' || this.state === 'paused') && this.#gauge.isOpen;
  }

  /** Asks the engine what it uses. */
  async measure(): Promise<void> {
    if (!this.isMeasurable) return;
    await this.#gauge.measure(this.#instance!, () => this.state === 'paused');
    if (this.memoryBytes !== undefined) this.#place?.measured(this.memoryBytes);
  }

  #becomeIdle(): void {
    if (this.startedFor === 'upkeep' && !this.wasCalled && !this.#owner.mustStay(this)) this.retire('idle');
    else this.#rest();
  }

  /** Nobody holds it: others may have its place, else time decides. */
  #rest(): void {
    this.#owner.onIdle(this);
    // A look that is scheduled comes early enough: idleness only begins later.
    if (!this.#cancelLook) this.look();
  }

  #pause(): void {
    const { events, server } = this.#options;
    this.state = 'pausing';
    this.#health.stop();
    this.#transition = this.#withinLimit(this.#instance!.pause()).then(
      () => {
        if (this.state !== 'pausing') return;
        this.state = 'paused';
        events.emit('instance.paused', { server: server.name, instance: this.name });
        // A call that came meanwhile has it thawed.
        this.#owner.onFree(this);
        this.#owner.onStateChange();
        if (this.state === 'paused') this.#rest();
      },
      (error) => {
        if (this.state !== 'pausing') return;
        if (error === overdue) {
          // It may freeze at any moment from now on.
          this.#replace(error);
          return;
        }
        // An engine that cannot freeze is not asked again; the instance is well.
        this.#cannotPause = true;
        this.state = 'ready';
        this.#health.start();
        this.#owner.onFree(this);
        if (this.leases === 0 && this.state === 'ready') this.#rest();
      },
    );
  }

  /** Goes without a word, unless calls are in flight on it, which only time can end. */
  #replace(error: unknown): void {
    this.isOutdated = error === outdated;
    this.#leave(this.isOutdated ? 'drain' : 'crash');
    if (this.leases > 0) return;
    this.#connection.close(asGatewayError(error, this.#options.server.name));
    void this.#stop(0);
  }

  #withinLimit(work: Promise<void>): Promise<void> {
    return new Promise((resolve, reject) => {
      const cancelTimer = this.#options.clock.schedule(() => reject(overdue), freezeLimitMs);
      work.then(resolve, reject).finally(cancelTimer);
    });
  }

  #setPhase(phase: StartPhase): void {
    if (this.phase === phase || this.state !== 'starting') return;
    this.phase = phase;
    this.#owner.onPhase(this);
  }

  #onPrepareProgress({ step, text, fraction }: PrepareProgress): void {
    const { server, events } = this.#options;
    events.emit('prepare.progress', { server: server.name, step, text, fraction });
    this.#owner.onProgress(this, text);
  }

  #onStartFailed(error: GatewayError): void {
    const { instance, overrun } = this.#launch;
    this.state = instance || overrun ? 'draining' : 'gone';
    this.#connection.close(error);
    // Told before the remains are cleared away: that may take as long as a stop.
    this.#owner.onStartFailed(this, error, !this.#abort.signal.aborted);
    this.#owner.onStateChange();
    if (instance) void this.#stop(this.#failedGraceMs);
    else if (overrun) {
      void settledWithin(overrun, stopSlackMs, this.#options.clock).then(() => this.#finish());
    } else this.#finish();
  }

  #onEnded(): void {
    // A start that fails tells its own story, and a stop under way ends as it will.
    if (this.state === 'starting' || this.state === 'gone' || this.#isStopping) return;
    const wasDraining = this.state === 'draining';
    this.state = 'gone';
    if (!wasDraining) this.#owner.onDied(this);
    this.#owner.onStateChange();
    this.#stopReason = 'crash';
    void this.#stop(0);
  }

  #onCrash(error: GatewayError): void {
    // The end that a stop brings about is no crash.
    const wasWanted = this.#isStopping && this.#stopReason !== 'crash';
    if (this.handshake && !wasWanted) this.#owner.onCrash(this, error);
  }

  #onCondemned(error: GatewayError): void {
    // While it starts, the handshake has been told.
    if (this.state === 'starting' || this.state === 'gone') return;
    const wasDraining = this.state === 'draining';
    this.state = 'gone';
    if (!wasDraining) this.#owner.onDied(this);
    this.#owner.onCrash(this, error);
    this.#owner.onStateChange();
    this.#stopReason = 'crash';
    void this.#stop(0);
  }

  #onNoise({ kind, text, bytes }: Noise): void {
    // Enough to see what it writes; a flood must not become one of events.
    if (this.#noiseEvents >= noiseEventsAtOnce && kind === 'garbage') return;
    this.#noiseEvents += 1;
    this.#options.events.emit('instance.noise', {
      server: this.#options.server.name,
      instance: this.name,
      kind,
      text,
      bytes,
    });
  }

  #leave(reason: StopReason): void {
    this.state = 'draining';
    this.#stopReason = reason;
    this.#owner.onLeaving(this, reason);
    this.#owner.onStateChange();
  }

  /** Ends the instance and clears up, whatever throws on the way. A second, harder stop overtakes the first. */
  async #stop(graceMs: number): Promise<void> {
    const isFirst = !this.#isStopping;
    this.#isStopping = true;
    this.#health.stop();
    this.#listening?.close();
    this.#cancelLook?.();
    this.#cancelLook = undefined;
    const instance = this.#instance!;
    if (!isFirst) {
      if (graceMs === 0) instance.stop({ graceMs }).catch(() => {});
      return;
    }
    // A stop that cannot wait does not wait for an engine that is slow to freeze.
    if (graceMs > 0) await this.#transition;
    await settledWithin(instance.stop({ graceMs }), graceMs + stopSlackMs, this.#options.clock);
    this.#finish();
  }

  #finish(): void {
    const { events, server } = this.#options;
    const wasRunning = this.handshake !== undefined;
    this.state = 'gone';
    this.#cancelLook?.();
    this.#cancelLook = undefined;
    this.#connection.close(
      new GatewayError('draining', `Server ${server.name} was stopped`, { server: server.name }),
    );
    if (wasRunning) {
      events.emit('instance.stopped', { server: server.name, instance: this.name, reason: this.#stopReason });
    }
    const place = this.#place;
    this.#place = undefined;
    place?.release();
    this.#owner.onGone(this);
    this.#owner.onStateChange();
    this.#gone.resolve();
  }
}

/** Roots are one client's folders: only an instance that belongs to one session or client may know of them. */
function capabilitiesFor(server: ServerConfig, isPersonal: boolean): ClientCapability[] {
  return server.clientCapabilities.filter((capability) => capability !== 'roots' || isPersonal);
}
