import type { Clock } from '../base/async.ts';
import { GatewayError } from '../base/errors.ts';
import type { ClientCapability, ServerConfig } from '../config/schema.ts';
import type { Era } from '../protocol/eras.ts';
import {
  failure,
  type Id,
  type Message,
  type Notification,
  type Params,
  type Request,
  type Response,
  success,
} from '../protocol/jsonrpc.ts';
import type { ClientContext } from '../protocol/modern.ts';
import { relatedTaskOf } from '../protocol/tasks.ts';
import { type Exit, type Instance, type Noise, NotWritten } from '../runtimes/runtime.ts';
import { type Ask, ClientQuestions, capabilityFor, declined } from './client-questions.ts';
import {
  crashed,
  endedBeforeReady,
  neverReady,
  type Remains,
  seconds,
  sizeText,
  withoutSecrets,
} from './diagnosis.ts';
import { addressed, discover, handshakeFrom, initialize, lifeSign, listen, opening } from './dialect.ts';
import { FloodGuard } from './flood-guard.ts';
import { GivenUpCalls } from './given-up-calls.ts';
import { isHostWell } from './health.ts';
import type { CallOptions, Handshake, Outcome, OutgoingRequest, Purpose } from './lease.ts';
import { Suspects } from './suspects.ts';

/** What a connection tells the one who made it. All are called at once, outside of any wait. */
export interface ConnectionOwner {
  /** The instance's output has ended; calls in flight fail as soon as the reason is known. */
  onEnded(): void;
  /** What the calls were told, once per connection that ended by itself. */
  onCrash(error: GatewayError): void;
  /** It takes no more calls but may still answer those in flight. */
  onUnwritable(): void;
  /** It is of no more use and must be killed; its calls have been told why. */
  onCondemned(error: GatewayError): void;
  /** What it says can no longer be told apart, a question or an answer (then it takes no more calls): it is to be replaced when its calls are over. */
  onAmbiguous(isUsable: boolean): void;
  /** A shared instance asked its client for something. */
  onAsked(): void;
  onNoise(noise: Noise): void;
  /** What belongs to no call. */
  onNotification(notification: Notification): void;
  /** Asks the session that the instance belongs to; undefined for a shared instance. */
  onRequest: Ask | undefined;
  /** Asks whoever has the task that a question names. */
  onTaskRequest: Ask;
}

export interface ConnectionOptions {
  server: ServerConfig;
  /** What the server is told that its client can do. */
  capabilities: readonly ClientCapability[];
  /** Longest line that the runtime delivers, for messages. */
  maxMessageBytes: number;
  /** The gateway's own version, for the handshake. */
  version: string;
  clock: Clock;
  owner: ConnectionOwner;
}

/**
 * `call` is a client's; `hold` is about something that goes on by itself, which is named in whatever the server says of it, so that
 * nothing without that name belongs to it; `upkeep` and `own` are the gateway's, which have no client to ask.
 */
export type CallKind = Purpose | 'own';

/** How long the reason of a death is waited for, so that calls fail within 100 ms of it. */
const exitWaitMs = 80;
/** The same where no call waits on the instance: the reason is worth more than the time. */
const calmExitWaitMs = 1_000;
/** Lines that answer no call: far above what a chatty server writes, far below what hurts. */
const floodCapacity = 20_000;
const floodPerSecond = 2000;
const floodLineBytes = 4096;
/** Messages between the start of an instance and the moment when it can be written to. */
const maxEarlyMessages = 1000;

/** A listen of the gateway's own at a modern server. */
export interface OpenListen {
  /** Stamped on its notifications. */
  readonly id: number;
  /** Resolves when the server has ended it, rejects as a call does. */
  readonly over: Promise<Outcome>;
  cancel(): void;
}

/** A request that waits for its answer. Its id on this connection is also its progress token there. */
interface Pending {
  readonly id: number;
  readonly method: string;
  readonly kind: CallKind;
  readonly timeoutMs: number;
  options: CallOptions | undefined;
  /** The session that the call came from; undefined is nobody's in particular. */
  readonly caller: string | undefined;
  /** The client's own progress token, as it came. */
  readonly token: Id | undefined;
  readonly resolve: (outcome: Outcome) => void;
  readonly reject: (error: unknown) => void;
  deadlineMs: number;
  /** Questions that its client is being asked; the time of the call stands still meanwhile. */
  questions: number;
  onAbort: (() => void) | undefined;
  /** Its way into the instance. */
  sent: Promise<void> | undefined;
}

/**
 * JSON-RPC with one instance: ids and progress tokens of its own, so that calls of many clients never mix; each call's
 * time; the server's questions, brought to the call that they belong to or to nobody; and one clear error for all calls
 * when the instance dies.
 */
export class Connection {
  readonly #options: ConnectionOptions;
  readonly #server: ServerConfig;
  readonly #clock: Clock;
  readonly #owner: ConnectionOwner;
  /** Who a modern server is told is asking when it is the gateway itself. */
  readonly #self: ClientContext;
  readonly #flood: FloodGuard;
  readonly #pending = new Map<number, Pending>();
  /** What takes the progress of calls that were answered and go on all the same, by their ids. */
  readonly #lasting = new Map<number, (progress: Notification) => void>();
  readonly #questions: ClientQuestions;
  readonly #givenUp: GivenUpCalls;
  /** Calls one of which a dropped line has answered. */
  readonly #suspects = new Suspects<Pending>();
  /** The line that is being dropped has failed its call already. */
  #isOverflowTold = false;
  #instance: Instance | undefined;
  #early: Message[] = [];
  #nextId = 1;
  #calls = 0;
  #answered = 0;
  #heard = 0;
  /** undefined: it is just being found out. */
  #era: Era | undefined;
  #isReady = false;
  #isUnwritable = false;
  #isClosed = false;
  #firstGarbage: string | undefined;
  #alarmAtMs = Number.POSITIVE_INFINITY;
  #cancelAlarm: (() => void) | undefined;

  constructor(options: ConnectionOptions) {
    this.#options = options;
    this.#server = options.server;
    this.#clock = options.clock;
    this.#owner = options.owner;
    this.#self = { capabilities: {}, info: { name: 'mcp-gateway', version: options.version } };
    this.#givenUp = new GivenUpCalls(options.clock);
    this.#questions = new ClientQuestions({
      clientTimeoutMs: options.server.timeouts.clientMs,
      clock: options.clock,
      tell: (message) => this.#tell(message),
      onAnswered: (call) => {
        for (const pending of this.#pending.values()) {
          if (call === undefined || pending === call) this.#restartTime(pending);
        }
      },
    });
    this.#flood = new FloodGuard({
      capacity: floodCapacity,
      perSecond: floodPerSecond,
      clock: options.clock,
    });
  }

  /** Calls of clients that were answered, by a result or an error. */
  get answered(): number {
    return this.#answered;
  }

  /** Messages of the instance so far. */
  get heard(): number {
    return this.#heard;
  }

  /** The first line on stdout that was no message. */
  get firstGarbage(): string | undefined {
    return this.#firstGarbage;
  }

  /** Whether a call that was given up, and is not this caller's, may still be worked on. */
  mayActForOthers(caller: string | undefined): boolean {
    return !this.#owner.onRequest && this.#givenUp.anyOfOthers(caller);
  }

  /** Takes the instance whose messages have been given to `receive` since its start. */
  attach(instance: Instance): void {
    this.#instance = instance;
    void instance.ended.then(() => this.#end());
    const early = this.#early;
    this.#early = [];
    for (const message of early) this.receive(message);
  }

  /**
   * Opens the conversation with a server of a known era. Rejects with `handshake_failed` when the server answers with an error,
   * `handshake_timeout`, or as a call does when it dies.
   */
  async handshake(era: Era): Promise<Handshake> {
    this.#era = era;
    return this.settle(era, await this.open(era, this.#server.timeouts.handshakeMs));
  }

  /** Sends the first request of an era. Until `settle` what the server says by itself reaches nobody. */
  open(era: Era, timeoutMs: number): Promise<Outcome> {
    const { capabilities } = this.#options;
    const { method, params = {} } = opening(era, { capabilities, self: this.#self });
    return this.ask(method, params, timeoutMs);
  }

  /** Takes the answer to `open`: from here on the conversation is of this era. Throws `handshake_failed`. */
  settle(era: Era, outcome: Outcome): Handshake {
    const handshake = handshakeFrom(era, this.#server, outcome);
    this.#era = era;
    this.#isReady = true;
    if (era === 'legacy') this.#tell({ jsonrpc: '2.0', method: 'notifications/initialized' });
    return handshake;
  }

  /** A request of a client, of the session `caller` if it has one, or of upkeep. Errors: see `CallOptions`. */
  call(
    request: OutgoingRequest,
    options: CallOptions | undefined,
    kind: CallKind,
    caller: string | undefined,
  ): Promise<Outcome> {
    const timeoutMs = options?.silenceLimitMs ?? this.#server.timeouts.callMs;
    return this.#request(request, options, kind, caller, timeoutMs);
  }

  /** A request of the gateway itself. */
  ask(method: string, params: Params, timeoutMs: number): Promise<Outcome> {
    return this.#request({ method, params }, undefined, 'own', undefined, timeoutMs);
  }

  /** Asks for a sign of life. An error is one, too. */
  askForLife(): Promise<Outcome> {
    return this.ask(lifeSign[this.#era ?? 'legacy'], {}, this.#server.timeouts.handshakeMs);
  }

  /** Asks a modern server to tell what changes; it has no deadline and is no call. */
  listen(notifications: Params): OpenListen {
    const abort = new AbortController();
    const id = this.#nextId;
    const over = this.#request(
      { method: listen, params: { notifications } },
      { signal: abort.signal },
      'own',
      undefined,
      Number.POSITIVE_INFINITY,
    );
    return { id, over, cancel: () => abort.abort('no longer needed') };
  }

  /** Rejects with `NotWritten` when the instance is gone. */
  notify(notification: { method: string; params?: Params }): Promise<void> {
    if (this.#isClosed || this.#isUnwritable) return Promise.reject(this.#notWritten());
    const { method, params } = notification;
    return this.#write(
      params === undefined ? { jsonrpc: '2.0', method } : { jsonrpc: '2.0', method, params },
    );
  }

  /** Takes one message of the instance. */
  receive(message: Message): void {
    if (this.#isClosed) return;
    if (!this.#instance) {
      // The instance was started and is not yet in our hands.
      if (this.#early.length < maxEarlyMessages) this.#early.push(message);
      return;
    }
    this.#heard += 1;
    if (!('method' in message)) this.#takeResponse(message);
    else if (!this.#flood.spend()) this.#flooded();
    else if ('id' in message) this.#takeRequest(message);
    else this.#takeNotification(message);
  }

  /** Takes a line of the instance that is no message. */
  noise(noise: Noise): void {
    if (this.#isClosed) return;
    this.#owner.onNoise(noise);
    if (noise.kind === 'oversize') {
      this.#takeOversize(noise);
      return;
    }
    this.#firstGarbage ??= withoutSecrets(this.#server, noise.text);
    if (noise.id !== undefined) this.#takeBrokenAnswer(noise.id, noise.text);
    if (!this.#flood.spend(1 + Math.floor(noise.bytes / floodLineBytes))) this.#flooded();
  }

  /** A line is too long already. With one call in flight it is that call's, which need not wait for the line's end. */
  overflow(bytes: number, head: string): void {
    if (this.#isClosed || isNoAnswer(head)) return;
    const [pending, other] = this.#likelyAnswered();
    if (!pending || other) return;
    this.#isOverflowTold = true;
    this.#giveUp(pending, this.#tooLarge(bytes));
    this.#checkLife(this.#tooLarge(bytes));
  }

  /** The instance hangs: its calls are told so, and its owner is to kill it. */
  giveUp(): void {
    this.#condemn(this.#hanging());
  }

  /** Ends the connection from this side: all that waits fails with `error`. Doing it twice is done once. */
  close(error: GatewayError): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#settleAll(error);
  }

  // Requests to the server

  #request(
    request: OutgoingRequest,
    options: CallOptions | undefined,
    kind: CallKind,
    caller: string | undefined,
    timeoutMs: number,
  ): Promise<Outcome> {
    if (this.#isOverflowTold && kind === 'call' && !this.#isUnwritable) {
      // Its answer would drown in the line that still goes on.
      this.#isUnwritable = true;
      this.#owner.onAmbiguous(false);
    }
    if (this.#isClosed || this.#isUnwritable) return Promise.reject(this.#notWritten());
    const signal = options?.signal;
    if (signal?.aborted) return Promise.reject(cancelled(this.#server.name, request.method));

    const id = this.#nextId++;
    const { method } = request;
    let { params } = request;
    let token: Id | undefined;
    const meta = params?._meta as Params | undefined;
    if (meta?.progressToken !== undefined) {
      token = meta.progressToken as Id;
      params = { ...params, _meta: { ...meta, progressToken: id } };
    }
    if (this.#era === 'modern') params = addressed(params, options?.client, this.#self);
    return new Promise((resolve, reject) => {
      const deadlineMs = this.#clock.now() + timeoutMs;
      const pending: Pending = {
        id,
        method,
        kind,
        timeoutMs,
        options,
        caller,
        token,
        resolve,
        reject,
        deadlineMs,
        questions: 0,
        onAbort: undefined,
        sent: undefined,
      };
      this.#pending.set(id, pending);
      if (kind === 'call') this.#calls += 1;
      if (signal) {
        pending.onAbort = () => this.#giveUp(pending, cancelled(this.#server.name, method), signal.reason);
        signal.addEventListener('abort', pending.onAbort, { once: true });
      }
      if (deadlineMs < this.#alarmAtMs) this.#setAlarm(deadlineMs);
      const message: Request =
        params === undefined ? { jsonrpc: '2.0', id, method } : { jsonrpc: '2.0', id, method, params };
      pending.sent = this.#write(message);
      pending.sent.catch((error) => this.#notSent(pending, error));
    });
  }

  #takeResponse(response: Response): void {
    const pending = this.#pending.get(response.id as number);
    if (!pending) {
      // An answer that comes after its call was given up, or that nobody asked for.
      this.#givenUp.answered(response.id as number);
      if (!this.#flood.spend()) this.#flooded();
      return;
    }
    this.#keepProgress(pending);
    this.#remove(pending);
    if (pending.kind === 'call') this.#answered += 1;
    const era = this.#era;
    pending.resolve('error' in response ? { era, error: response.error } : { era, result: response.result });
    if (!this.#suspects.isEmpty) this.#judgeSuspects();
  }

  #keepProgress({ id, token, options }: Pending): void {
    const { lasting, onNotification } = options ?? {};
    if (token === undefined || !lasting || lasting.aborted || !onNotification) return;
    this.#lasting.set(id, (progress) => onNotification(withToken(progress, token)));
    lasting.addEventListener('abort', () => this.#lasting.delete(id), { once: true });
  }

  /** An answer that cannot be used: its call need not wait for a better one. */
  #takeBrokenAnswer(id: Id, text: string): void {
    this.#givenUp.answered(id as number);
    const pending = this.#pending.get(id as number);
    if (!pending) return;
    const { name } = this.#server;
    this.#remove(pending);
    pending.reject(
      new GatewayError(
        this.#isOpening(pending) ? 'handshake_failed' : 'upstream_error',
        `Server ${name} answered ${pending.method} with what is no JSON-RPC response: ${withoutSecrets(this.#server, text)}`,
        {
          server: name,
          hint: 'A response has jsonrpc "2.0", the request’s id, and either result or an error object; the server’s author can mend that.',
        },
      ),
    );
    if (!this.#suspects.isEmpty) this.#judgeSuspects();
  }

  /** Takes it from everything that knows it; the caller settles it. */
  #remove(pending: Pending): void {
    this.#pending.delete(pending.id);
    if (pending.kind === 'call') this.#calls -= 1;
    if (pending.onAbort) pending.options!.signal!.removeEventListener('abort', pending.onAbort);
    this.#questions.endOf(pending);
    this.#suspects.acquit(pending);
    // What it was for must not be kept by what is left of it.
    pending.options = undefined;
    pending.onAbort = undefined;
  }

  /** Nobody waits for this answer any more; the server is told. */
  #giveUp(pending: Pending, error: GatewayError, reason?: unknown): void {
    if (!this.#pending.has(pending.id)) return;
    const isLogged = pending.options?.client?.logLevel !== undefined;
    this.#remove(pending);
    if (pending.kind === 'call' && (this.#era !== 'modern' || isLogged)) {
      this.#givenUp.add(pending.id, pending.caller);
    }
    // To cancel the handshake is forbidden (specification 2025-11-25, basic, utilities, cancellation).
    if (!this.#isOpening(pending)) {
      const text = typeof reason === 'string' ? reason : error.message;
      this.#tell({
        jsonrpc: '2.0',
        method: 'notifications/cancelled',
        params: { requestId: pending.id, reason: text },
      });
    }
    pending.reject(error);
    if (!this.#suspects.isEmpty) this.#judgeSuspects();
  }

  #notSent(pending: Pending, error: unknown): void {
    if (error instanceof NotWritten) {
      if (!this.#isUnwritable) {
        this.#isUnwritable = true;
        if (!this.#isClosed) this.#owner.onUnwritable();
      }
      // The handshake of a server that ended at once waits for the report of its end.
      if (!this.#pending.has(pending.id) || this.#isOpening(pending)) return;
      this.#remove(pending);
      pending.reject(error);
      return;
    }
    if (this.#isClosed || !this.#pending.has(pending.id)) return;
    if (error instanceof GatewayError) {
      // The message itself cannot be written; the instance is well.
      this.#remove(pending);
      pending.reject(error);
      return;
    }
    // A part may have arrived, so nothing may be replayed. Its end is near; without one it is given up all the same.
    this.#clock.schedule(() => this.#end(error), exitWaitMs);
  }

  // Time: one alarm for all calls, never later than the earliest deadline, so that a call sets a timer only rarely

  #setAlarm(atMs: number): void {
    this.#cancelAlarm?.();
    this.#alarmAtMs = atMs;
    this.#cancelAlarm = this.#clock.schedule(() => this.#onAlarm(), Math.max(0, atMs - this.#clock.now()));
  }

  #onAlarm(): void {
    this.#cancelAlarm = undefined;
    this.#alarmAtMs = Number.POSITIVE_INFINITY;
    const now = this.#clock.now();
    let next = Number.POSITIVE_INFINITY;
    for (const pending of [...this.#pending.values()]) {
      if (this.#isAsking(pending)) continue;
      if (pending.deadlineMs <= now) this.#timeOut(pending);
      else next = Math.min(next, pending.deadlineMs);
    }
    if (next < this.#alarmAtMs) this.#setAlarm(next);
  }

  #timeOut(pending: Pending): void {
    const { name } = this.#server;
    if (this.#suspects.has(pending)) {
      this.#giveUp(pending, this.#tooLarge());
      return;
    }
    if (this.#isOpening(pending)) {
      this.#giveUp(pending, neverReady(this.#remains(undefined), pending.method, this.#firstGarbage));
      return;
    }
    this.#giveUp(
      pending,
      new GatewayError(
        'call_timeout',
        `Server ${name} did not answer ${pending.method} within ${seconds(pending.timeoutMs)} and reported no progress`,
        { server: name, hint: `Raise timeouts.call of ${name} if it needs longer; the call was cancelled.` },
      ),
    );
    if (pending.kind === 'own') return;
    // One that hangs would let every later call wait as long.
    this.#checkLife(this.#hanging());
  }

  /** Whether it is the first request, which an instance must answer to be ready. */
  #isOpening({ method }: Pending): boolean {
    return !this.#isReady && (method === initialize || method === discover);
  }

  #isAsking(pending: Pending): boolean {
    return pending.questions > 0 || (this.#questions.concernAll && pending.kind === 'call');
  }

  #restartTime(pending: Pending): void {
    pending.deadlineMs = this.#clock.now() + pending.timeoutMs;
    if (pending.deadlineMs < this.#alarmAtMs) this.#setAlarm(pending.deadlineMs);
  }

  // What the server says by itself

  #takeNotification(notification: Notification): void {
    const { method, params } = notification;
    if (method === 'notifications/progress') {
      const id = params?.progressToken as number;
      const pending = this.#pending.get(id);
      if (!pending) {
        this.#lasting.get(id)?.(notification);
        return;
      }
      this.#restartTime(pending);
      if (pending.token === undefined) return;
      pending.options?.onNotification?.(withToken(notification, pending.token));
      return;
    }
    if (method === 'notifications/cancelled') {
      if (this.#era === 'modern') this.#takeEndOfListen(params?.requestId as number);
      else this.#questions.withdraw(params?.requestId as Id);
      return;
    }
    // It may be thrown away yet.
    if (!this.#era) return;
    if (method === 'notifications/message' && this.#era === 'modern') {
      this.#soleLogged()?.options?.onNotification?.(notification);
      return;
    }
    if (method === 'notifications/message' && relatedTaskOf(params) === undefined) {
      const call = this.#soleCall();
      if (call?.options?.onNotification) call.options.onNotification(notification);
      else if (this.#owner.onRequest) this.#owner.onNotification(notification);
      // Else it may be anybody's: it belongs to no client.
      return;
    }
    this.#owner.onNotification(notification);
  }

  /** The server has ended a listen of ours; it asks nothing that it could take back. */
  #takeEndOfListen(id: number): void {
    const pending = this.#pending.get(id);
    if (pending?.method !== listen) return;
    this.#remove(pending);
    pending.resolve({ era: 'modern', result: {} });
  }

  /** The one call that a modern server may log for: none that nobody asked to be told of, and no line that may be another's. */
  #soleLogged(): Pending | undefined {
    let sole: Pending | undefined;
    for (const pending of this.#pending.values()) {
      if (pending.options?.client?.logLevel === undefined) continue;
      if (sole) return undefined;
      sole = pending;
    }
    return sole && !this.#givenUp.anyOfOthers(sole.caller) ? sole : undefined;
  }

  /** The one call that can be meant, undefined when there is none or another client's may be. */
  #soleCall(): Pending | undefined {
    if (this.#calls !== 1) return undefined;
    for (const pending of this.#pending.values()) {
      if (pending.kind === 'call') return this.mayActForOthers(pending.caller) ? undefined : pending;
    }
    return undefined;
  }

  #takeRequest(request: Request): void {
    const { id, method } = request;
    if (method === 'ping' && this.#era !== 'modern') {
      this.#tell(success(id, {}));
      return;
    }
    // The modern era has no requests of servers; one that has not told its era yet may be thrown away.
    const capability = this.#era === 'legacy' ? capabilityFor(method) : undefined;
    if (!capability) {
      this.#tell(failure(id, { code: -32601, message: `Method not found: ${method}` }));
      return;
    }
    if (!this.#options.capabilities.includes(capability)) {
      this.#tell(declined(id, capability));
      return;
    }
    if (relatedTaskOf(request.params) !== undefined) {
      this.#questions.put(request, capability, { questions: 0 }, this.#owner.onTaskRequest);
      return;
    }
    const askSession = this.#owner.onRequest;
    if (!askSession) this.#owner.onAsked();
    const call = this.#soleCall();
    if (!call && !askSession) {
      this.#tell(
        failure(id, {
          code: -32000,
          message: `${method} does not say which call it belongs to: declare interactive: true, or isolation: session`,
        }),
      );
      if (this.#calls === 1) this.#owner.onAmbiguous(true);
      return;
    }
    const ask = call?.options?.onRequest ?? askSession;
    if (!ask) {
      this.#tell(declined(id, capability));
      return;
    }
    this.#questions.put(request, capability, call, ask, call?.options?.questionLimitMs);
  }

  // A server that writes too much

  /** One answer was too long and was dropped. Whose it was is known by its id, or by elimination; no other call suffers. */
  #takeOversize(noise: Noise): void {
    if (noise.isEndless) {
      this.#condemn(this.#tooLarge(noise.bytes));
      return;
    }
    if (this.#isOverflowTold) {
      this.#isOverflowTold = false;
      return;
    }
    const named = noise.id === undefined ? undefined : this.#pending.get(noise.id as number);
    if (named) {
      this.#remove(named);
      named.reject(this.#tooLarge(noise.bytes));
    } else if (noise.id === undefined && !isNoAnswer(noise.text)) {
      this.#suspects.add(this.#likelyAnswered());
    }
    this.#judgeSuspects(noise.bytes);
    // It may be a line that never ends.
    if (this.#isReady) this.#checkLife(this.#tooLarge(noise.bytes));
  }

  /** Requests that a line too long may answer: clients' calls; without any, those of upkeep, whose answers are lists. */
  #likelyAnswered(): Pending[] {
    const all = [...this.#pending.values()];
    const calls = all.filter(({ kind }) => kind === 'call' || kind === 'hold');
    return calls.length > 0 ? calls : all.filter(({ kind }) => kind === 'upkeep');
  }

  #judgeSuspects(bytes?: number): void {
    for (const pending of this.#suspects.convict()) {
      this.#remove(pending);
      pending.reject(this.#tooLarge(bytes));
    }
  }

  /** Asks for a sign of life: an instance that says nothing at all is given up. */
  #checkLife(verdict: GatewayError): void {
    const heard = this.#heard;
    this.askForLife().catch(async () => {
      if (this.#heard !== heard || !(await isHostWell(this.#instance!))) return;
      if (this.#heard === heard) this.#condemn(verdict);
    });
  }

  #hanging(): GatewayError {
    const { name } = this.#server;
    return new GatewayError('instance_crashed', `Server ${name} answered nothing any more and was stopped`, {
      server: name,
      hint: `The next call starts it again; mcp-gateway logs ${name} shows what it wrote.`,
    });
  }

  #tooLarge(bytes?: number): GatewayError {
    const { name } = this.#server;
    const limit = sizeText(this.#options.maxMessageBytes);
    const size = bytes === undefined ? '' : ` (${sizeText(bytes)} so far)`;
    return new GatewayError(
      'message_too_large',
      `Server ${name} wrote a line longer than ${limit}${size}; its answer was dropped`,
      { server: name, hint: 'Ask it for less at a time, or raise gateway.max_message.' },
    );
  }

  #flooded(): void {
    const { name } = this.#server;
    const sample = this.#firstGarbage === undefined ? '' : ` One of them: "${this.#firstGarbage}".`;
    this.#condemn(
      new GatewayError(
        'flooded',
        `Server ${name} wrote ${this.#flood.spent} lines that answer nothing (${floodCapacity} at once and ${floodPerSecond} a second are allowed) and was stopped.${sample}`,
        { server: name, hint: 'Make it write its logs to stderr, and fewer notifications.' },
      ),
    );
  }

  #condemn(error: GatewayError): void {
    if (this.#isClosed) return;
    this.close(error);
    this.#owner.onCondemned(error);
  }

  // The end

  #end(cause?: unknown): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#owner.onEnded();
    const instance = this.#instance!;
    let isReported = false;
    let exit: Exit | undefined;
    const report = () => {
      if (isReported) return;
      isReported = true;
      cancelTimer();
      const remains = this.#remains(exit, cause);
      const error = this.#isReady
        ? crashed(remains)
        : endedBeforeReady(remains, this.#era === 'modern' ? discover : initialize);
      this.#settleAll(error);
      this.#owner.onCrash(error);
    };
    const isAwaited = [...this.#pending.values()].some(({ kind }) => kind === 'call');
    const cancelTimer = this.#clock.schedule(report, isAwaited ? exitWaitMs : calmExitWaitMs);
    const exited = instance.exited.then((known) => {
      exit = known;
    });
    // A message that was on its way may turn out not to have been written: its call can go elsewhere.
    const sent = [...this.#pending.values()].map((pending) => pending.sent);
    void Promise.allSettled([exited, ...sent]).then(report);
  }

  #remains(exit: Exit | undefined, cause?: unknown): Remains {
    const instance = this.#instance!;
    return { server: this.#server, instance: instance.name, exit, stderr: instance.stderrTail(), cause };
  }

  #settleAll(error: GatewayError): void {
    this.#suspects.clear();
    this.#lasting.clear();
    for (const pending of [...this.#pending.values()]) {
      this.#remove(pending);
      pending.reject(error);
    }
    this.#questions.endAll(error);
    this.#givenUp.clear();
    // Last, because the end of a question sets it.
    this.#cancelAlarm?.();
    this.#cancelAlarm = undefined;
  }

  /** Writes what needs no answer. A dead instance shows itself elsewhere. */
  #tell(message: Message): void {
    if (this.#instance) this.#write(message).catch(() => {});
  }

  /** A message that cannot be put into JSON is a rejection like any other. */
  #write(message: Message): Promise<void> {
    try {
      return this.#instance!.send(message);
    } catch (error) {
      return Promise.reject(error);
    }
  }

  #notWritten(): NotWritten {
    return new NotWritten(`${this.#instance?.name ?? this.#server.name} takes no more messages`);
  }
}

/** Progress under the token that the client knows. */
const withToken = (progress: Notification, progressToken: Id): Notification => ({
  ...progress,
  params: { ...progress.params, progressToken },
});

/** The error of a call whose caller gave up. */
export function cancelled(server: string, what: string): GatewayError {
  return new GatewayError('cancelled', `The caller cancelled ${what} on server ${server}`, { server });
}

/** Whether a dropped line was a request or a notification: those name their method early, an answer has none. */
function isNoAnswer(beginning: string): boolean {
  return /^\s*\{\s*(?:"jsonrpc"\s*:\s*"2\.0"\s*,\s*)?(?:"id"\s*:\s*(?:-?\d+|"[^"]*")\s*,\s*)?"method"/.test(
    beginning,
  );
}
