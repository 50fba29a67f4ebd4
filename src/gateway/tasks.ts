import { randomBytes } from 'node:crypto';
import { abortable, type Clock, type Deferred, deferred, sleep, within } from '../base/async.ts';
import { GatewayError, messageOf } from '../base/errors.ts';
import type { Scope } from '../catalog/catalog.ts';
import type { Snapshot } from '../catalog/snapshot.ts';
import type { FleetCallOptions } from '../lifecycle/fleet.ts';
import type { CallOptions, Lease, Outcome, OutgoingRequest } from '../lifecycle/lease.ts';
import type { Events, GatewayEvents } from '../observability/events.ts';
import { type Era, eraOf } from '../protocol/eras.ts';
import { isObject, type Notification, type Request } from '../protocol/jsonrpc.ts';
import type { ClientContext } from '../protocol/modern.ts';
import {
  createdTask,
  declaresTasks,
  isOver,
  isTask,
  pollIntervalMsOf,
  relatedTaskOf,
  relatedTo,
  requiredForTasks,
  stateKeyOf,
  type TaskState,
  ttlMsOf,
} from '../protocol/tasks.ts';
import type { Stream } from './conversation.ts';
import { withExposedUris } from './exposed-uris.ts';
import type { Target } from './relay.ts';

/** Whose a task is: a session's, or that of a principal's modern client. */
export interface TaskOwner {
  readonly id: string;
  /** Servers that are not in it have no tasks there. */
  readonly scope: Scope;
}

/** A call that may be answered with a task. */
export interface Prospect {
  readonly owner: TaskOwner;
  readonly target: Target;
  /** The era whose tasks its client can follow; undefined: none. A legacy client can where it has asked for a task. */
  readonly follows: Era | undefined;
  /** As a modern server is told of it. */
  readonly client?: ClientContext;
  /** Aborts when nobody waits for the answer any more. */
  readonly signal: AbortSignal;
}

export interface TasksOptions {
  clock: Clock;
  events: Events;
  /** What is known of a server; undefined: nothing yet. */
  known(server: string): Snapshot | undefined;
  /** Tells a session. */
  notify(owner: string, notification: Notification): void;
}

/** What a call that may be answered with a task is made with beside its own. */
export type TaskCallOptions = Pick<FleetCallOptions, 'onLease' | 'lasting'>;

type Tell = (notification: Notification) => void;

interface Task {
  /** In the order of creation. */
  readonly serial: number;
  readonly owner: string;
  readonly server: string;
  readonly instance: string;
  readonly era: Era;
  /** What clients call it. */
  readonly id: string;
  /** What its server calls it. */
  readonly native: string;
  readonly expose: Target['expose'];
  readonly client: ClientContext;
  readonly createdAtMs: number;
  /** Its state as its server told it last, under the id that clients have. */
  state: TaskState;
  /** When its server was asked for it last. */
  askedAtMs: number;
  /** Its hold on the instance; undefined: nothing need be asked of the instance any more. */
  lease: Lease | undefined;
  /** Aborts when no more progress can come. */
  readonly progress: AbortController;
  /** When it was seen to be over, or lost. */
  endedAtMs: number | undefined;
  /** Whether its owner has heard of its end. */
  isEndTold: boolean;
  /** Its owner has cancelled it and may not ask again. */
  isUnwanted: boolean;
  /** What a legacy client is answered that asks for its result, once it is over. */
  answer: Outcome | undefined;
  keptLength: number;
  /** Why it can no longer be asked for. */
  lost: GatewayError | undefined;
  isLossExplained: boolean;
  /** Streams of its owner's requests for its result, the latest last. */
  readonly streams: Set<Stream>;
  /** Questions that wait for a way to its owner. */
  readonly waiting: Set<() => void>;
  readonly listeners: Set<Tell>;
  /** Aborts when it is forgotten. */
  readonly forgotten: AbortController;
  cancelTimer: (() => void) | undefined;
}

const maxTasksPerOwner = 1000;
const maxTasks = 10_000;
const tasksPerPage = 50;
/** How long one that is over can still be asked for. */
const keptMs = 5 * 60_000;
/** Characters of results that are kept here, of one task and of all; a larger one stays at its instance. */
const maxKeptLength = 2 ** 20;
const maxKeptLengthInAll = 2 ** 26;
/** A task that nobody asks for is asked for this seldom, unless its server wants to be asked less. */
const slowPollMs = 30_000;
const minPollMs = 100;
const maxPollMs = 600_000;
const defaultPollMs = 1000;
/** How long a list waits for states; older ones are shown for those that take longer. */
const refreshLimitMs = 2000;
/** How long an instance is held for a cancellation to be answered. */
const cancelLimitMs = 10_000;
/** A server may speak of a task before the answer that names it has come. */
const arrivalLimitMs = 2000;

const invalidParams = -32602;
/** What the gateway itself declares when it asks on behalf of nobody. */
const itself: ClientContext = { capabilities: requiredForTasks };
/** Where a question goes that no open request is for. */
const noStream: Stream = { send: () => false, end: () => {} };
const deadly = new Set(['instance_crashed', 'out_of_memory', 'flooded', 'draining']);

/**
 * The tasks of all clients, of either era: whose each one is, and where it lives. A task is asked for at the instance that works on
 * it, which is held until it is over; then its result is kept here for a while, so that the instance may go. They are in memory: a
 * gateway that starts anew has started its instances anew, too.
 */
export class Tasks {
  readonly #options: TasksOptions;
  readonly #clock: Clock;
  /** By the id that clients have. */
  readonly #tasks = new Map<string, Task>();
  readonly #byOwner = new Map<string, Set<Task>>();
  /** By instance and the server's own id; a server may give one task to two clients. */
  readonly #byNative = new Map<string, Set<Task>>();
  /** Those who wait for a task to become known. */
  readonly #arrivals = new Map<string, Deferred<void>>();
  readonly #unsubscribe: () => void;
  #nextSerial = 1;
  #keptLength = 0;
  #isClosed = false;

  constructor(options: TasksOptions) {
    this.#options = options;
    this.#clock = options.clock;
    this.#unsubscribe = options.events.on('instance.stopped', ({ instance, reason }) => {
      for (const task of this.#tasks.values()) {
        if (task.instance === instance) this.#lose(task, stopReasons[reason]);
      }
    });
  }

  get size(): number {
    return this.#tasks.size;
  }

  // Creation

  /**
   * Makes a call, and remembers the task that it is answered with. Throws `capability_missing` or `upstream_error` for a task that its
   * client cannot follow, and `queue_full`; that task is cancelled.
   */
  call(prospect: Prospect, make: (options?: TaskCallOptions) => Promise<Outcome>): Promise<Outcome> {
    return this.#mayBecomeTask(prospect) ? this.#follow(prospect, make) : make();
  }

  #mayBecomeTask({ target: { server, request }, follows }: Prospect): boolean {
    if (request.method !== 'tools/call') return false;
    if (follows !== undefined) return true;
    const known = this.#options.known(server);
    return (
      known !== undefined && eraOf(known.protocolVersion) === 'modern' && declaresTasks(known.capabilities)
    );
  }

  async #follow(prospect: Prospect, make: (options: TaskCallOptions) => Promise<Outcome>): Promise<Outcome> {
    const { owner, target, follows, client = itself, signal } = prospect;
    if (follows === 'legacy') this.#makeRoom(owner.id);
    const progress = new AbortController();
    let hold: Lease | undefined;
    let task: Task | undefined;
    try {
      const outcome = await make({
        onLease: (lease) => {
          hold?.release();
          hold = lease.hold();
        },
        // That of the modern era's tasks is in their state.
        ...(follows === 'legacy' && { lasting: progress.signal }),
      });
      if ('error' in outcome) return outcome;
      const created = createdTask(outcome, follows === 'legacy');
      if (!created) return outcome;
      const lease = hold!;
      const { era = 'legacy' } = outcome;
      hold = undefined;
      if (this.#isClosed) {
        lease.release();
        return outcome;
      }
      if (signal.aborted) {
        this.#cancelAt(lease, created.taskId, client);
        return outcome;
      }
      if (follows !== era) {
        this.#cancelAt(lease, created.taskId, itself);
        throw cannotFollow(target, follows === undefined && prospect.client !== undefined);
      }
      task = this.#remember(prospect, era, created, lease, progress);
      const { result } = outcome;
      const shown = task.id === task.native ? created : { ...created, taskId: task.id };
      if (era === 'modern') return { era, result: shown };
      return { era, result: relatedTo({ ...result, task: shown }, task.id) };
    } finally {
      hold?.release();
      if (task?.progress !== progress) progress.abort();
    }
  }

  #remember(prospect: Prospect, era: Era, created: TaskState, lease: Lease, progress: AbortController): Task {
    const { owner, target, client = itself } = prospect;
    const { server, expose } = target;
    const { instance } = lease;
    const native = created.taskId;
    const key = nativeKey(instance, native);
    const twins = this.#byNative.get(key) ?? new Set();
    for (const twin of twins) {
      if (twin.owner !== owner.id || twin.lost) continue;
      // Its server has given the same one again.
      lease.release();
      return twin;
    }
    try {
      this.#makeRoom(owner.id);
    } catch (error) {
      this.#cancelAt(lease, native, client);
      throw error;
    }
    const id = this.#tasks.has(native)
      ? `${server}/${randomBytes(9).toString('base64url')}/${native}`
      : native;
    const now = this.#clock.now();
    const task: Task = {
      serial: this.#nextSerial++,
      owner: owner.id,
      server,
      instance,
      era,
      id,
      native,
      expose,
      // Nobody is there to read what is logged meanwhile.
      client: { ...client, logLevel: undefined },
      createdAtMs: now,
      state: id === native ? created : { ...created, taskId: id },
      askedAtMs: now,
      lease,
      progress,
      endedAtMs: undefined,
      isEndTold: false,
      isUnwanted: false,
      answer: undefined,
      keptLength: 0,
      lost: undefined,
      isLossExplained: false,
      streams: new Set(),
      waiting: new Set(),
      listeners: new Set(),
      forgotten: new AbortController(),
      cancelTimer: undefined,
    };
    this.#tasks.set(id, task);
    const own = this.#byOwner.get(owner.id) ?? new Set();
    this.#byOwner.set(owner.id, own.add(task));
    this.#byNative.set(key, twins.add(task));
    this.#arrivals.get(key)?.resolve();
    if (isOver(created)) {
      task.isEndTold = true;
      // Its state as it is asked for may say more.
      void this.#refresh(task);
    }
    this.#schedule(task);
    return task;
  }

  /** Forgets what is over where there are too many. Throws `queue_full` when all of them run. */
  #makeRoom(owner: string): void {
    const own = this.#byOwner.get(owner);
    const isFull = (own?.size ?? 0) >= maxTasksPerOwner;
    if (!isFull && this.#tasks.size < maxTasks) return;
    for (const task of isFull ? own! : this.#tasks.values()) {
      if (task.endedAtMs === undefined) continue;
      this.#forget(task);
      return;
    }
    throw new GatewayError(
      'queue_full',
      isFull ? `This client has ${maxTasksPerOwner} tasks running` : `All ${maxTasks} tasks are in use`,
      { hint: 'Wait until some of them are over, or cancel them.' },
    );
  }

  // Requests of owners

  /**
   * `tasks/get`, `tasks/result`, `tasks/cancel` or `tasks/update` of the task that `params` name. Throws `invalid_params` where there is
   * no such task of this owner, or it is lost.
   */
  async ask(
    owner: TaskOwner,
    { method, params = {} }: OutgoingRequest,
    { stream, signal, ...options }: CallOptions & { stream: Stream; signal: AbortSignal },
  ): Promise<Outcome> {
    const task = this.#find(owner, params.taskId);
    if (!task) throw unknownTask(params.taskId);
    if (task.lost) throw task.lost;
    if (!task.lease) return fromMemory(task, method);
    const hold = task.lease.hold();
    const isBlocking = method === 'tasks/result';
    if (isBlocking) this.#openStream(task, stream);
    if (method === 'tasks/get') task.askedAtMs = this.#clock.now();
    try {
      const outcome = await hold.call(
        { method, params: relatedTo({ ...params, taskId: task.native }, task.native) },
        {
          ...options,
          signal: isBlocking ? AbortSignal.any([signal, task.forgotten.signal]) : signal,
          // It is answered when the task is over; that its server is well is seen by asking for the state.
          ...(isBlocking && { silenceLimitMs: Number.POSITIVE_INFINITY }),
        },
      );
      const shown = exposed(task, method, outcome);
      // After the answer to this request, which may be all that was asked.
      task.streams.delete(stream);
      this.#heard(task, method, shown);
      return shown;
    } catch (error) {
      task.streams.delete(stream);
      if (isBlocking && task.endedAtMs !== undefined) this.#settle(task);
      if (task.forgotten.signal.aborted && !signal.aborted) throw unknownTask(task.id);
      throw this.#failed(task, error);
    } finally {
      hold.release();
    }
  }

  /** A page of the owner's tasks, in the order of their creation. Throws `invalid_params` for a bad cursor. */
  async list(owner: TaskOwner, cursor: unknown): Promise<Outcome> {
    const after = cursor === undefined || cursor === null ? 0 : positionOf(cursor);
    const own = [...(this.#byOwner.get(owner.id) ?? [])].filter(
      (task) => task.serial > after && !task.lost && isIn(owner.scope, task),
    );
    const page = own.slice(0, tasksPerPage);
    // Their instances run anyway; a server's own list would be of all its clients.
    await Promise.all(
      page.map((task) => within(this.#refresh(task), refreshLimitMs, late, this.#clock).catch(() => {})),
    );
    const tasks = page.filter((task) => this.#tasks.get(task.id) === task && !task.lost);
    for (const task of tasks) if (task.endedAtMs !== undefined) task.isEndTold = true;
    const last = own.length > page.length ? page.at(-1) : undefined;
    return {
      result: { tasks: tasks.map(({ state }) => state), ...(last && { nextCursor: cursorOf(last.serial) }) },
    };
  }

  /** Tells of changes of those tasks that are this owner's, of its modern client. */
  listen(owner: TaskOwner, ids: readonly string[], tell: Tell): { agreed: string[]; stop(): void } {
    const tasks = [...new Set(ids)].flatMap((id) => {
      const task = this.#find(owner, id);
      return task && !task.lost ? [task] : [];
    });
    for (const task of tasks) {
      task.listeners.add(tell);
      if (task.endedAtMs === undefined) this.#poll(task);
      else if (!task.isEndTold) this.#tell(task);
    }
    return {
      agreed: tasks.map(({ id }) => id),
      stop: () => {
        for (const task of tasks) {
          task.listeners.delete(tell);
          this.#schedule(task);
        }
      },
    };
  }

  /** The owner is gone: what runs is cancelled. */
  endOwner(owner: string): void {
    for (const task of [...(this.#byOwner.get(owner) ?? [])]) {
      if (task.lease && task.endedAtMs === undefined) {
        this.#cancelAt(task.lease.hold(), task.native, task.client);
      }
      this.#forget(task);
    }
  }

  /** Nobody can come back for any of them. */
  close(): void {
    this.#isClosed = true;
    this.#unsubscribe();
    for (const task of [...this.#tasks.values()]) this.#forget(task);
  }

  // What servers say by themselves

  /** `notifications/tasks/status`, or another notification that names its task; false when it names none. */
  told(instance: string, notification: Notification): boolean {
    const { method, params = {} } = notification;
    const isStatus = method === 'notifications/tasks/status';
    const native = isStatus ? isTask(params) && params.taskId : relatedTaskOf(params);
    if (typeof native !== 'string') return false;
    const tell = () => {
      const tasks = this.#byNative.get(nativeKey(instance, native)) ?? [];
      for (const task of tasks) {
        const isSame = task.id === native;
        if (!isStatus) {
          this.#options.notify(task.owner, { ...notification, params: relatedTo(params, task.id) });
          continue;
        }
        const state = (isSame ? params : { ...params, taskId: task.id }) as TaskState;
        this.#observe(task, state);
        if (isOver(state)) task.isEndTold = true;
        this.#options.notify(task.owner, isSame ? notification : { ...notification, params: state });
      }
    };
    if (this.#byNative.has(nativeKey(instance, native))) tell();
    // Perhaps it came together with the answer that names the task, which is being worked on.
    else setImmediate(tell);
    return true;
  }

  /**
   * Puts a question that names its task to the task's owner, as soon as there is a way to it: by the stream of a request for the
   * task's result, or any other if `isReachable`. undefined when the task is nobody's, or not of one alone.
   */
  async put(
    instance: string,
    question: Request,
    signal: AbortSignal,
    ask: {
      isReachable(owner: string): boolean;
      by(owner: string, stream: Stream, question: Request): Promise<Outcome>;
    },
  ): Promise<Outcome | undefined> {
    const [task, other] = await this.#named(instance, relatedTaskOf(question.params)!, signal);
    if (!task || other) return undefined;
    while (task.streams.size === 0 && !ask.isReachable(task.owner)) {
      const way = deferred<void>();
      task.waiting.add(way.resolve);
      try {
        await abortable(way.promise, AbortSignal.any([signal, task.forgotten.signal]));
      } finally {
        task.waiting.delete(way.resolve);
      }
    }
    const stream = [...task.streams].at(-1) ?? noStream;
    const shown = { ...question, params: relatedTo(question.params!, task.id) };
    const outcome = await ask.by(task.owner, stream, shown);
    return 'error' in outcome ? outcome : { ...outcome, result: relatedTo(outcome.result, task.native) };
  }

  /** There is a way to the owner now. */
  reachable(owner: string): void {
    for (const task of this.#byOwner.get(owner) ?? []) for (const wake of [...task.waiting]) wake();
  }

  async #named(instance: string, native: string, signal: AbortSignal): Promise<Task[]> {
    const key = nativeKey(instance, native);
    if (!this.#byNative.has(key)) {
      const arrival = this.#arrivals.get(key) ?? deferred<void>();
      this.#arrivals.set(key, arrival);
      const given = new AbortController();
      try {
        const end = AbortSignal.any([signal, given.signal]);
        await Promise.race([arrival.promise, sleep(arrivalLimitMs, { clock: this.#clock, signal: end })]);
      } finally {
        given.abort();
        this.#arrivals.delete(key);
      }
    }
    return [...(this.#byNative.get(key) ?? [])];
  }

  #openStream(task: Task, stream: Stream): void {
    task.streams.add(stream);
    for (const wake of [...task.waiting]) wake();
  }

  // The state of a task

  /** Takes what an answer to the owner tells. */
  #heard(task: Task, method: string, outcome: Outcome): void {
    if (this.#tasks.get(task.id) !== task) return;
    if (method === 'tasks/result') {
      this.#answered(task, outcome);
      return;
    }
    if ('error' in outcome) {
      // Perhaps its server knows it no more.
      if (method === 'tasks/get') this.#poll(task);
      return;
    }
    if (method === 'tasks/cancel') task.isUnwanted = true;
    if (isTask(outcome.result)) {
      this.#observe(task, outcome.result);
      if (isOver(outcome.result)) task.isEndTold = true;
    }
    this.#schedule(task);
  }

  #observe(task: Task, state: TaskState): void {
    if (task.endedAtMs !== undefined || this.#tasks.get(task.id) !== task) return;
    const isNews = stateKeyOf(state) !== stateKeyOf(task.state);
    task.state = state;
    if (isNews && task.listeners.size > 0) this.#tell(task);
    if (isOver(state)) this.#end(task);
    this.#schedule(task);
  }

  #tell(task: Task): void {
    const { resultType: _, _meta: __, ...params } = task.state;
    if (isOver(task.state)) task.isEndTold = true;
    for (const tell of task.listeners) tell({ jsonrpc: '2.0', method: 'notifications/tasks', params });
  }

  #end(task: Task): void {
    task.endedAtMs = this.#clock.now();
    if (task.era === 'modern') {
      if (this.#keeps(task, task.state)) this.#release(task);
      else task.state = withoutResult(task.state);
    } else this.#settle(task);
  }

  /** A legacy task is over: its instance may go once its result is here. */
  #settle(task: Task): void {
    if (!task.lease) return;
    if (task.isUnwanted || task.state.status === 'cancelled') this.#release(task);
    else if (task.answer) {
      if (this.#keeps(task, task.answer)) this.#release(task);
      else task.answer = undefined;
    } else if (task.streams.size === 0) void this.#fetchResult(task);
    // Else a request for the result is under way, and brings it.
  }

  async #fetchResult(task: Task): Promise<void> {
    try {
      const request = { method: 'tasks/result', params: { taskId: task.native } };
      const outcome = await task.lease!.call(request, { signal: task.forgotten.signal });
      this.#answered(task, exposed(task, request.method, outcome));
    } catch (error) {
      this.#failed(task, error);
      // It has been silent for as long as it may be.
      this.#release(task);
    }
  }

  /** A request for the result of a legacy task was answered: it is over. */
  #answered(task: Task, outcome: Outcome): void {
    task.answer = outcome;
    if (task.endedAtMs !== undefined) this.#settle(task);
    else {
      void this.#refresh(task).finally(() => {
        if (task.endedAtMs === undefined) task.answer = undefined;
      });
    }
  }

  /** Whether there is room for what is to be kept of a task. */
  #keeps(task: Task, kept: object): boolean {
    const { length } = JSON.stringify(kept);
    if (length > maxKeptLength || this.#keptLength + length > maxKeptLengthInAll) return false;
    task.keptLength = length;
    this.#keptLength += length;
    return true;
  }

  /** Asks for the state. Never rejects. */
  async #refresh(task: Task): Promise<void> {
    const { lease, native, client } = task;
    if (!lease || task.endedAtMs !== undefined) return;
    task.askedAtMs = this.#clock.now();
    const request = { method: 'tasks/get', params: { taskId: native } };
    try {
      const outcome = exposed(task, request.method, await lease.call(request, { client }));
      if ('error' in outcome && outcome.error.code === invalidParams) this.#forget(task);
      else if ('result' in outcome && isTask(outcome.result)) this.#observe(task, outcome.result);
    } catch (error) {
      this.#failed(task, error);
    }
  }

  /** Asks for the state, and again when it is time. */
  #poll(task: Task): void {
    void this.#refresh(task).finally(() => this.#schedule(task));
  }

  /** What a failed request is rejected with. One that its instance did not survive has lost the task. */
  #failed(task: Task, error: unknown): unknown {
    if (!(error instanceof GatewayError)) {
      // Nothing could be written; why, is told in a moment.
      this.#lose(task, undefined);
      return task.lost ?? error;
    }
    if (deadly.has(error.code)) this.#lose(task, `has ended: ${messageOf(error)}`);
    return error;
  }

  /** Its instance is gone. What became of it is not known, and so not told. */
  #lose(task: Task, why: string | undefined): void {
    if (!task.lease && (!task.lost || task.isLossExplained)) return;
    const { server, id } = task;
    task.isLossExplained = why !== undefined;
    task.lost = new GatewayError(
      'invalid_params',
      `Task ${JSON.stringify(id)} is lost: the instance of server ${server} that worked on it ${why ?? 'has ended'}`,
      { server, hint: `Call the tool again; mcp-gateway logs ${server} shows what it wrote.` },
    );
    task.endedAtMs ??= this.#clock.now();
    this.#release(task);
    this.#schedule(task);
  }

  #release(task: Task): void {
    task.progress.abort();
    task.lease?.release();
    task.lease = undefined;
  }

  #forget(task: Task): void {
    this.#release(task);
    task.cancelTimer?.();
    task.cancelTimer = undefined;
    task.endedAtMs ??= this.#clock.now();
    this.#keptLength -= task.keptLength;
    task.keptLength = 0;
    if (this.#tasks.get(task.id) === task) this.#tasks.delete(task.id);
    remove(this.#byOwner, task.owner, task);
    remove(this.#byNative, nativeKey(task.instance, task.native), task);
    task.forgotten.abort(new GatewayError('cancelled', 'The task is over'));
  }

  // Time: one timer for each task, for whatever comes first

  #schedule(task: Task): void {
    task.cancelTimer?.();
    task.cancelTimer = undefined;
    if (this.#tasks.get(task.id) !== task) return;
    const { endedAtMs, askedAtMs } = task;
    const expiresAtMs = task.createdAtMs + ttlMsOf(task.state);
    const forgetAtMs = endedAtMs === undefined ? expiresAtMs : Math.min(expiresAtMs, endedAtMs + keptMs);
    const askAtMs = endedAtMs === undefined ? askedAtMs + pollMsOf(task) : Number.POSITIVE_INFINITY;
    const isLast = forgetAtMs <= askAtMs;
    task.cancelTimer = this.#clock.schedule(
      () => {
        task.cancelTimer = undefined;
        if (isLast) this.#forget(task);
        else this.#poll(task);
      },
      Math.max(0, Math.min(forgetAtMs, askAtMs) - this.#clock.now()),
    );
  }

  /** Has a task cancelled at its instance, which is released when that is done. */
  #cancelAt(lease: Lease, native: string, client: ClientContext): void {
    const work = lease.call({ method: 'tasks/cancel', params: { taskId: native } }, { client });
    within(work, cancelLimitMs, late, this.#clock)
      .catch(() => {})
      .finally(() => lease.release());
  }

  #find({ id: owner, scope }: TaskOwner, taskId: unknown): Task | undefined {
    const task = typeof taskId === 'string' ? this.#tasks.get(taskId) : undefined;
    return task?.owner === owner && isIn(scope, task) ? task : undefined;
  }
}

/** Refuses a task's method to a modern client that does not declare the extension. */
export function requireTasks({ capabilities }: ClientContext, what: string): void {
  if (declaresTasks(capabilities)) return;
  throw missingCapability(`${what} is for clients that support tasks`);
}

const stopReasons: Record<GatewayEvents['instance.stopped']['reason'], string> = {
  crash: 'has crashed',
  idle: 'was stopped',
  drain: 'was replaced',
  request: 'was stopped on request',
  session: 'was stopped with its session',
};

/** An outcome as the owner of the task reads it. */
function exposed(task: Task, method: string, outcome: Outcome): Outcome {
  if ('error' in outcome) return outcome;
  let { result } = outcome;
  if (method === 'tasks/result') result = relatedTo(result, task.id);
  else if (isTask(result) && task.id !== task.native) result = { ...result, taskId: task.id };
  if (task.expose && method === 'tasks/result') result = withExposedUris(result, task.expose);
  else if (task.expose && isObject(result.result)) {
    const inner = withExposedUris(result.result, task.expose);
    if (inner !== result.result) result = { ...result, result: inner };
  }
  return result === outcome.result ? outcome : { ...outcome, result };
}

/** The answer for a task that is over and whose instance need not be there any more. */
function fromMemory({ id, era, state, answer }: Task, method: string): Outcome {
  if (method === 'tasks/get') return { era, result: state };
  if (era === 'modern') return { era, result: { resultType: 'complete' } };
  if (method === 'tasks/result' && answer) return answer;
  const what = method === 'tasks/cancel' ? 'Cannot cancel the task' : 'There is no result of the task';
  return {
    era,
    error: { code: invalidParams, message: `${what} ${JSON.stringify(id)}: it is over (${state.status}).` },
  };
}

function pollMsOf({ state, listeners, isUnwanted }: Task): number {
  const wantedMs = pollIntervalMsOf(state) ?? defaultPollMs;
  const isWatched = listeners.size > 0 || isUnwanted;
  return Math.min(Math.max(wantedMs, isWatched ? minPollMs : slowPollMs), maxPollMs);
}

function cannotFollow({ server, name }: Target, isModern: boolean): GatewayError {
  const message = `Server ${server} works on ${name} as a task`;
  if (isModern) return missingCapability(message, server);
  return new GatewayError('upstream_error', `${message}, which this client cannot follow`, {
    server,
    hint: 'Call it from a client of protocol version 2026-07-28 that supports tasks.',
  });
}

const missingCapability = (message: string, server?: string) =>
  new GatewayError('capability_missing', message, {
    server,
    hint: 'Declare the extension io.modelcontextprotocol/tasks.',
    data: { requiredCapabilities: requiredForTasks },
  });

const unknownTask = (taskId: unknown) =>
  new GatewayError('invalid_params', `Task not found: ${JSON.stringify(taskId)?.slice(0, 200)}`, {
    hint: 'A task can be asked for by the client that started it, until its ttl has passed or some minutes after its end.',
  });

function withoutResult({ result: _, ...state }: TaskState): TaskState {
  return state as TaskState;
}

function remove(index: Map<string, Set<Task>>, key: string, task: Task): void {
  const tasks = index.get(key);
  if (tasks?.delete(task) && tasks.size === 0) index.delete(key);
}

const isIn = (scope: Scope, { server }: Task) => scope === undefined || scope === server;
const nativeKey = (instance: string, native: string) => `${instance} ${native}`;
const cursorOf = (serial: number) => Buffer.from(`task ${serial}`).toString('base64url');
const late = () => new Error('It takes too long');

function positionOf(cursor: unknown): number {
  const serial =
    typeof cursor === 'string'
      ? Number(/^task (\d{1,15})$/.exec(Buffer.from(cursor, 'base64url').toString())?.[1])
      : Number.NaN;
  if (!Number.isSafeInteger(serial)) {
    throw new GatewayError('invalid_params', 'tasks/list: this cursor is none of ours.', {
      hint: 'Begin without a cursor.',
    });
  }
  return serial;
}
