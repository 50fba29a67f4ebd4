import { abortable, type Clock, type Deferred, deferred, type Semaphore } from '../base/async.ts';
import { asGatewayError, GatewayError } from '../base/errors.ts';
import type { ClientCapability, ServerConfig } from '../config/schema.ts';
import type { Events } from '../observability/events.ts';
import { type Era, eraOf } from '../protocol/eras.ts';
import type { Notification, Params, Request } from '../protocol/jsonrpc.ts';
import type { Instance, Noise, Prepared, PrepareProgress, Runtime } from '../runtimes/runtime.ts';
import type { Candidate } from './balancer.ts';
import type { Capacity } from './capacity.ts';
import type { Ask } from './client-questions.ts';
import { Connection } from './connection.ts';
import { seconds } from './diagnosis.ts';
import { type Finding, findEra, type KnownEra } from './era.ts';
import { HealthCheck } from './health.ts';
import {
  type CallOptions,
  type Handshake,
  isSessionAffinity,
  type Lease,
  type Outcome,
  type OutgoingRequest,
  type Purpose,
} from './lease.ts';
import { Listening } from './listening.ts';
import { becomeReady, prepare, type StartContext, start } from './readiness.ts';
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
  /** Of its server; found out by the first member that is started. */
  era: KnownEra;
  startedFor: Purpose;
  capacity: Capacity;
  slots: Semaphore;
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
/** What was started only to be asked has nothing to finish. */
const triedOutGraceMs = 2000;
/** How long a stop may take beyond its grace before it is left behind. */
const stopSlackMs = 15_000;
const noiseEventsAtOnce = 20;

/** One instance from its start to its end: who holds it, when it rests, and when it must go. */
export class Member implements Candidate {
  readonly serial: number;
  readonly affinity: string | undefined;
  readonly startedFor: Purpose;
  /** Resolves when nothing of it is left. */
  readonly gone: Promise<void>;
  /** Resources that it was asked to watch. */
  readonly watched = new Set<string>();
  /** The log level that it was asked for. */
  level: string | undefined;
  state: MemberState = 'starting';
  phase: StartPhase = 'waiting';
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
  memoryBytes: number | undefined;

  readonly #createdAtMs: number;
  readonly #options: MemberOptions;
  /** That of its instance, or of one that is tried out before. */
  #connection: Connection;
  readonly #health: HealthCheck;
  readonly #abort = new AbortController();
  readonly #gone: Deferred<void> = deferred();
  #instance: Instance | undefined;
  /** Of an instance of the modern era. */
  #listening: Listening | undefined;
  #releasePlace: (() => void) | undefined;
  #isStopping = false;
  #stopReason: StopReason = 'idle';
  /** How long one that did not become ready gets to end. */
  #failedGraceMs: number;
  /** A start that was given up and that the runtime has yet to undo. */
  #overrun: Promise<void> | undefined;
  /** The freeze or thaw under way: a stop waits for it. */
  #transition: Promise<void> | undefined;
  #cannotPause = false;
  #cancelLook: (() => void) | undefined;
  #noiseEvents = 0;

  constructor(options: MemberOptions) {
    this.#options = options;
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
        // One that has got a call meanwhile shows by that whether it works.
        onSilence: () => (this.#atWork === 0 ? this.#connection.giveUp() : this.#health.start()),
      },
      { intervalMs: options.server.healthCheck.intervalMs, clock: options.clock },
    );
    this.#connection = this.#connect();
  }

  /** A connection for one instance. */
  #connect(): Connection {
    const { owner, affinity, server, maxMessageBytes, version, clock } = this.#options;
    // A modern client has no stream of its own: it is asked during its calls, as clients of a shared instance are.
    const isSession = affinity !== undefined && isSessionAffinity(affinity);
    const ask: Ask = (request, signal) => owner.onRequest(this, request, signal);
    return new Connection({
      server,
      capabilities: capabilitiesFor(server, affinity),
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
        onAsked: () => owner.onAsked(),
        onNoise: (noise) => this.#onNoise(noise),
        onNotification: (notification) => {
          if (this.#listening) this.#listening.take(notification);
          else owner.onNotification(this, notification);
        },
        onRequest: isSession ? ask : undefined,
        onTaskRequest: ask,
      },
    });
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
    const { server, runtime, clock, events, capacity, owner } = this.#options;
    const context: StartContext = { server, runtime, clock, signal: this.#abort.signal };
    try {
      this.#releasePlace = await capacity.acquire(this.#abort.signal);
      this.#setPhase('working');
      const prepared: Prepared = await prepare(context, (progress) => this.#onPrepareProgress(progress));
      this.handshake = await this.#begin(context, prepared);
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
    owner.onReady(this);
    owner.onStateChange();
    this.#listening?.look();
    // Those who asked for it may be gone.
    if (this.leases === 0 && this.state === 'ready') this.#becomeIdle();
  }

  /** From what is prepared to an instance that is ready. */
  async #begin(context: StartContext, prepared: Prepared): Promise<Handshake> {
    const { digest } = prepared;
    const { era: known, clock, server } = this.#options;
    const { handshakeMs } = server.timeouts;
    let usable: Handshake | undefined;
    const tryOut = async (): Promise<Finding> => {
      const finding = await this.#launch(context, prepared, () =>
        findEra(this.#connection, { handshakeMs, clock }),
      );
      usable = finding.handshake;
      if (!usable) await this.#clearAway(this.#instance!);
      return finding;
    };
    const era = known.of(digest) ?? (await known.learn(digest, this.#abort.signal, tryOut));
    if (usable) return usable;
    try {
      const handshake = await this.#launch(context, prepared, () => this.#connection.handshake(era));
      known.remember(digest, era);
      return handshake;
    } catch (error) {
      if (this.#instance && !this.#abort.signal.aborted) known.doubt(digest, error);
      throw error;
    }
  }

  /** Starts an instance and waits for the answer to the first question that is put to it. */
  async #launch<T>(context: StartContext, prepared: Prepared, ask: () => Promise<T>): Promise<T> {
    const connection = this.#connect();
    this.#connection = connection;
    this.#setPhase('waiting');
    this.#instance = await start(context, prepared, {
      slots: this.#options.slots,
      connection,
      onSlot: () => this.#setPhase('working'),
      onOverrun: (cleared) => {
        this.#overrun = cleared;
      },
    });
    return becomeReady(context, this.#instance, connection, ask);
  }

  /** Ends an instance that was only tried out. Two copies do not run side by side, so the next one waits for that. */
  async #clearAway(instance: Instance): Promise<void> {
    const { server } = this.#options;
    const { signal } = this.#abort;
    const graceMs = Math.min(server.timeouts.stopMs, triedOutGraceMs);
    const force = () => void instance.stop({ graceMs: 0 }).catch(() => {});
    this.#connection.close(
      new GatewayError('draining', `Server ${server.name} is started anew`, { server: server.name }),
    );
    signal.addEventListener('abort', force, { once: true });
    await this.#within(instance.stop({ graceMs }), graceMs + stopSlackMs);
    signal.removeEventListener('abort', force);
    this.#instance = undefined;
    signal.throwIfAborted();
  }

  #listen({ capabilities }: Handshake): Listening {
    const { server, clock, owner } = this.#options;
    return new Listening({
      server: server.name,
      capabilities,
      watched: this.watched,
      clock,
      acknowledgeLimitMs: server.timeouts.handshakeMs,
      open: (notifications) => this.#connection.listen(notifications),
      isAwake: () => this.state === 'ready' || this.state === 'draining',
      onNotification: (notification) => owner.onNotification(this, notification),
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
    const { owner, clock, server } = this.#options;
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
    owner.onFree(this);
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

  /** Thaws it; calls wait in the pool meanwhile. One that does not come back is replaced. */
  resume(): void {
    if (this.state !== 'paused') return;
    const { owner, clock, events, server } = this.#options;
    const beganAtMs = clock.now();
    this.state = 'resuming';
    this.#cancelLook?.();
    this.#cancelLook = undefined;
    this.#transition = this.#withinLimit(this.#instance!.resume()).then(
      () => {
        if (this.state !== 'resuming') return;
        this.state = 'ready';
        this.#health.start();
        events.emit('instance.resumed', {
          server: server.name,
          instance: this.name,
          durationMs: clock.now() - beganAtMs,
        });
        owner.onThawed(this);
        owner.onStateChange();
        this.#listening?.look();
        if (this.leases === 0) this.#rest();
      },
      (error) => {
        if (this.state === 'resuming') this.#replace(error);
      },
    );
  }

  /** Decides now whether it rests, and when to look again. */
  look(): void {
    this.#cancelLook?.();
    this.#cancelLook = undefined;
    if (this.state !== 'ready' && this.state !== 'paused') return;
    const { owner, clock, server } = this.#options;
    const verdict = judgeIdle({
      state: this.state,
      openLeases: this.leases,
      idleForMs: clock.now() - this.idleSinceMs,
      pauseAfterMs: this.#cannotPause ? Number.POSITIVE_INFINITY : server.pauseAfterMs,
      idleTimeoutMs: owner.mustStay(this) ? Number.POSITIVE_INFINITY : server.idleTimeoutMs,
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

  /** Asks the engine what it uses; keeps the last answer when there is none. */
  async measure(): Promise<void> {
    if (this.state !== 'ready' && this.state !== 'paused') return;
    await this.#instance!.stats().then(
      ({ memoryBytes }) => {
        this.memoryBytes = memoryBytes;
      },
      () => {},
    );
  }

  #becomeIdle(): void {
    const { owner } = this.#options;
    if (this.startedFor === 'upkeep' && !this.wasCalled && !owner.mustStay(this)) this.retire('idle');
    else this.#rest();
  }

  /** Nobody holds it: others may have its place, else time decides. */
  #rest(): void {
    this.#options.owner.onIdle(this);
    // A look that is scheduled comes early enough: idleness only begins later.
    if (!this.#cancelLook) this.look();
  }

  #pause(): void {
    const { owner, events, server } = this.#options;
    this.state = 'pausing';
    this.#health.stop();
    this.#transition = this.#withinLimit(this.#instance!.pause()).then(
      () => {
        if (this.state !== 'pausing') return;
        this.state = 'paused';
        events.emit('instance.paused', { server: server.name, instance: this.name });
        // A call that came meanwhile has it thawed.
        owner.onFree(this);
        owner.onStateChange();
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
        owner.onFree(this);
        if (this.leases === 0) this.#rest();
      },
    );
  }

  /** Goes without a word: nobody has a lease on it. */
  #replace(error: unknown): void {
    this.#leave('crash');
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
    this.#options.owner.onPhase(this);
  }

  #onPrepareProgress({ step, text, fraction }: PrepareProgress): void {
    const { server, events, owner } = this.#options;
    events.emit('prepare.progress', { server: server.name, step, text, fraction });
    owner.onProgress(this, text);
  }

  #onStartFailed(error: GatewayError): void {
    const { owner } = this.#options;
    this.state = this.#instance || this.#overrun ? 'draining' : 'gone';
    this.#connection.close(error);
    // Told before the remains are cleared away: that may take as long as a stop.
    owner.onStartFailed(this, error, !this.#abort.signal.aborted);
    owner.onStateChange();
    if (this.#instance) void this.#stop(this.#failedGraceMs);
    else if (this.#overrun) void this.#within(this.#overrun, stopSlackMs).then(() => this.#finish());
    else this.#finish();
  }

  #onEnded(): void {
    // A start that fails tells its own story, and a stop under way ends as it will.
    if (this.state === 'starting' || this.state === 'gone' || this.#isStopping) return;
    const wasDraining = this.state === 'draining';
    this.state = 'gone';
    if (!wasDraining) this.#options.owner.onDied(this);
    this.#options.owner.onStateChange();
    this.#stopReason = 'crash';
    void this.#stop(0);
  }

  #onCrash(error: GatewayError): void {
    // The end that a stop brings about is no crash.
    const wasWanted = this.#isStopping && this.#stopReason !== 'crash';
    if (this.handshake && !wasWanted) this.#options.owner.onCrash(this, error);
  }

  #onCondemned(error: GatewayError): void {
    // While it starts, the handshake has been told.
    if (this.state === 'starting' || this.state === 'gone') return;
    const wasDraining = this.state === 'draining';
    this.state = 'gone';
    if (!wasDraining) this.#options.owner.onDied(this);
    this.#options.owner.onCrash(this, error);
    this.#options.owner.onStateChange();
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
    this.#options.owner.onLeaving(this, reason);
    this.#options.owner.onStateChange();
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
    await this.#within(instance.stop({ graceMs }), graceMs + stopSlackMs);
    this.#finish();
  }

  /** Resolves when the work has ended, well or not, or its time is over. */
  #within(work: Promise<void>, limitMs: number): Promise<void> {
    return new Promise((resolve) => {
      const cancelTimer = this.#options.clock.schedule(resolve, limitMs);
      work
        .catch(() => {})
        .finally(() => {
          cancelTimer();
          resolve();
        });
    });
  }

  #finish(): void {
    const { owner, events, server } = this.#options;
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
    this.#releasePlace?.();
    owner.onGone(this);
    owner.onStateChange();
    this.#gone.resolve();
  }
}

/** Roots are one client's folders: only an instance that belongs to one session or client may know of them. */
function capabilitiesFor(server: ServerConfig, affinity: string | undefined): ClientCapability[] {
  return server.clientCapabilities.filter((capability) => capability !== 'roots' || affinity !== undefined);
}

class MemberLease implements Lease {
  readonly #member: Member;
  readonly #connection: Connection;
  readonly #purpose: Purpose;
  readonly #caller: string | undefined;
  #isReleased = false;

  constructor(member: Member, connection: Connection, purpose: Purpose, caller: string | undefined) {
    this.#member = member;
    this.#connection = connection;
    this.#purpose = purpose;
    this.#caller = caller;
  }

  get instance(): string {
    return this.#member.name;
  }

  get handshake(): Handshake {
    return this.#member.handshake!;
  }

  call(request: OutgoingRequest, options?: CallOptions): Promise<Outcome> {
    if (this.#isReleased) return Promise.reject(released());
    const answer = this.#member.standIn(request);
    if (answer) return abortable(answer, options?.signal);
    return this.#connection.call(request, options, this.#purpose, this.#caller);
  }

  notify(notification: { method: string; params?: Params }): Promise<void> {
    if (this.#isReleased) return Promise.reject(released());
    return this.#connection.notify(notification);
  }

  hold(): Lease {
    if (this.#isReleased) throw released();
    return this.#member.grant('hold', this.#caller);
  }

  release(): void {
    if (this.#isReleased) return;
    this.#isReleased = true;
    this.#member.release(this.#purpose, this.#caller);
  }

  [Symbol.dispose](): void {
    this.release();
  }
}

const released = () => new Error('The lease was released');
