import { readdir, readFile } from 'node:fs/promises';
import { Agent } from 'node:http';
import { Events } from '../../src/observability/events.ts';
import type { TestGateway } from '../harness.ts';
import { until } from '../waiting.ts';
import { Exchange } from './exchange.ts';
import { modernMeta } from './modern-client.ts';

/*
 * Clients of both eras on one shared instance, and what each of them must see. Whatever a client causes carries its marker, so that
 * a message that reaches another one is seen as such; every request is answered once, unless its client gave it up.
 */

// biome-ignore lint/suspicious/noExplicitAny: a test reads whatever came
type Any = any;

/** What the client does with a question. */
export type Reply = 'accept' | 'decline' | 'error' | 'never';

/** What becomes of a call: it is waited for; cancelled; or its connection is lost, for good or until the client comes back. */
export type Fate =
  | { kind: 'stay' }
  | { kind: 'cancel'; afterMs: number }
  | { kind: 'leave'; afterMs: number; awayMs: number | null };

export type Action =
  | { do: 'echo'; fate: Fate }
  | { do: 'progress'; steps: number; ms: number; fate: Fate }
  | { do: 'log'; level: string; wanted: string | null; count: number; ms: number; fate: Fate }
  | { do: 'ask' | 'sample'; reply: Reply; thinkMs: number; fate: Fate }
  | { do: 'touch'; whose: number }
  | { do: 'level'; level: string }
  | { do: 'relisten'; comesBack: boolean }
  | { do: 'forge' }
  | { do: 'crash' };

export interface Step {
  who: number;
  /** Since the step before. */
  gapMs: number;
  action: Action;
}

export interface Schedule {
  /** Of each client. */
  eras: ('legacy' | 'modern')[];
  /** At which each legacy client begins; null: it never says. */
  levels?: (string | null)[];
  steps: Step[];
}

export interface WorldOptions {
  gateway: TestGateway;
  server: Setup;
  schedule: Schedule;
  /** Changes what reaches a client, as a faulty gateway would. */
  tamper?: Tamper;
  /** What the gateway did lately, for the report of a fault. */
  trace?: Trace;
  /** At its end the server's tools change. Not to be done often: lists that change all the time are read ever more rarely. */
  changesLists?: boolean;
}

/** Returns who gets which message; undefined loses it. */
export type Tamper = (client: number, message: Any) => { client: number; message: Any } | undefined;

/** A server of the configuration under test. */
export interface Setup {
  name: string;
  /** One of the modern era answers calls side by side and asks in its results. */
  era: 'legacy' | 'modern';
  /** Its programs' names of what the model does; what is not there is not done. */
  tools: Partial<Record<'echo' | 'progress' | 'log' | 'ask' | 'sample' | 'touch' | 'add', string>>;
  /** In the environment of its instances, to find them. */
  mark: string;
}

/** `timeouts.client` of the servers under test. */
export const clientMs = 1500;
const hangMs = 30_000;
const everyLevel = ['debug', 'info', 'notice', 'warning', 'error', 'critical', 'alert', 'emergency'];
const crashCodes = [
  'instance_crashed',
  'start_failed',
  'handshake_failed',
  'handshake_timeout',
  'server_failing',
];
const markers = /@(\d+)\/\d+@/g;
const subscription = 'io.modelcontextprotocol/subscriptionId';

const ownUri = (client: number) => `test://template/own${client}/data`;
const pause = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));
const now = () => performance.now();

const everything = {
  echo: 'echo',
  progress: 'progress',
  log: 'log',
  ask: 'ask_elicitation',
  sample: 'ask_sampling',
  touch: 'touch_resource',
  add: 'add_tool',
};
const common = { idle_timeout: '1h', timeouts: { client: `${clientMs}ms` }, concurrency: 64 };

/** The servers under test, as servers.yaml has them. */
export const servers = {
  learnt: { ...common, fixture: 'everything', env: { MODEL: 'learnt' } },
  declared: {
    ...common,
    fixture: 'everything',
    interactive: true,
    isolation: 'shared',
    env: { MODEL: 'declared' },
  },
  asks: { ...common, fixture: 'asks-the-user', env: { MODEL: 'asks' } },
  modern: { ...common, fixture: 'everything', env: { ERA: 'modern', MODEL: 'modern' } },
  other: { ...common, fixture: 'tiny' },
};

export const setups: Record<'learnt' | 'declared' | 'asks' | 'modern', Setup> = {
  learnt: { name: 'learnt', era: 'legacy', tools: everything, mark: 'MODEL=learnt' },
  declared: { name: 'declared', era: 'legacy', tools: everything, mark: 'MODEL=declared' },
  asks: {
    name: 'asks',
    era: 'legacy',
    tools: { echo: 'ok', ask: 'ask', sample: 'sample' },
    mark: 'MODEL=asks',
  },
  modern: { name: 'modern', era: 'modern', tools: everything, mark: 'MODEL=modern' },
};

/** Has the gateway learn that its servers ask, as it does from the first question to a call that is alone. */
export async function learnAsking(gateway: TestGateway): Promise<void> {
  for (const server of [setups.learnt, setups.asks]) {
    const steps: Step[] = [
      {
        who: 0,
        gapMs: 0,
        action: { do: 'ask', reply: 'accept', thinkMs: 0, fate: { kind: 'stay' } },
      },
    ];
    await runSchedule({ gateway, server, schedule: { eras: ['legacy'], steps } });
  }
}

/** Remembers the latest of what the gateway does. */
export class Trace {
  readonly events = new Events();
  readonly #lines: string[] = [];

  constructor() {
    const names = [
      'instance.started',
      'instance.stopped',
      'discovery.started',
      'discovery.finished',
    ] as const;
    for (const name of [...names, 'discovery.failed', 'catalog.changed', 'call.finished'] as const) {
      this.events.on(name, (payload) => this.note(name, payload));
    }
  }

  note(what: string, payload: unknown): void {
    this.#lines.push(`${Math.round(now())} ${what} ${JSON.stringify(payload)}`);
    if (this.#lines.length > 100) this.#lines.shift();
  }

  toString(): string {
    return this.#lines.join('\n');
  }
}

/** Runs a schedule to its end; rejects with all that was wrong. */
export async function runSchedule(options: WorldOptions): Promise<void> {
  await using world = new World(options);
  await world.run();
}

interface Call {
  readonly id: number;
  readonly marker: string;
  readonly action: Exclude<Action, { do: 'level' | 'relisten' | 'forge' | 'crash' }>;
  readonly startedMs: number;
  endedMs: number | undefined;
  readonly exchanges: Exchange[];
  readonly answers: Any[];
  readonly steps: string[];
  lastProgress: number | undefined;
  lines: number;
  readonly questions: Any[];
  /** An answer was so late that the question may have been declined by then. */
  wasLate: boolean;
  /** Its client does not wait for its answer any more. */
  isGivenUp: boolean;
}

class World implements AsyncDisposable {
  readonly gateway: TestGateway;
  readonly server: Setup;
  readonly faults: string[] = [];
  readonly clients: ModelClient[];
  readonly crashes: number[] = [];
  readonly touches: { of: number; isSure: boolean }[] = [];
  readonly schedule: Schedule;
  readonly #tamper: Tamper | undefined;
  readonly #trace: Trace | undefined;
  readonly #changesLists: boolean;
  readonly #work: Promise<void>[] = [];
  #stranger: Exchange | undefined;
  #strangerSession = '';

  constructor({ gateway, server, schedule, tamper, trace, changesLists = false }: WorldOptions) {
    this.#changesLists = changesLists;
    this.#trace = trace;
    this.gateway = gateway;
    this.server = server;
    this.schedule = schedule;
    this.#tamper = tamper;
    this.clients = schedule.eras.map((era, index) =>
      era === 'legacy' ? new LegacyClient(this, index) : new ModernModelClient(this, index),
    );
  }

  async run(): Promise<void> {
    await this.#openStranger();
    await Promise.all(this.clients.map((client) => client.open()));
    this.#trace?.note('schedule', '');
    for (const { who, gapMs, action } of this.schedule.steps) {
      await pause(gapMs);
      this.#work.push(this.#do(this.clients[who]!, action));
    }
    await Promise.all(this.#work);
    await this.#settle();
    for (const client of this.clients) client.judge();
    if (this.#stranger!.messages.length > 0)
      this.fault(`a client of another server got ${JSON.stringify(this.#stranger!.messages)}`);
    this.#throwFaults();
  }

  fault(text: string): void {
    this.faults.push(`${Math.round(now())} ${text}`);
  }

  /** Hands a message to whom the gateway sent it. */
  deliver(client: ModelClient, message: Any, take: (client: ModelClient, message: Any) => void): void {
    const to = this.#tamper ? this.#tamper(client.index, message) : { client: client.index, message };
    if (to) take(this.clients[to.client]!, to.message);
  }

  wasHitByCrash({ startedMs, endedMs = now() }: Pick<Call, 'startedMs' | 'endedMs'>): boolean {
    return this.crashes.some((atMs) => startedMs < atMs + 1000 && endedMs > atMs);
  }

  /** Waits for what must come; a fault when it does not. */
  async within(work: Promise<unknown>, what: string, limitMs = hangMs): Promise<boolean> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<false>((resolve) => {
      timer = setTimeout(() => resolve(false), limitMs);
    });
    const isDone = await Promise.race([work.then(() => true as const), late]);
    clearTimeout(timer);
    if (!isDone) this.fault(`hangs: ${what}`);
    return isDone;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.clients.map((client) => client.close()));
    this.#stranger?.drop();
    if (this.#strangerSession) {
      await new Exchange(this.gateway.url('/other/mcp'), {
        method: 'DELETE',
        headers: { 'mcp-session-id': this.#strangerSession },
      }).ended;
    }
  }

  #do(client: ModelClient, action: Action): Promise<void> {
    switch (action.do) {
      case 'crash':
        return this.#crash();
      case 'forge':
        return client.forge();
      case 'level':
        return client.setLevel(action.level);
      case 'relisten':
        return client.relisten(action.comesBack);
      default:
        return client.call(action);
    }
  }

  /** Ends the instance, as a bug in it would. */
  async #crash(): Promise<void> {
    const pid = await instanceOf(this.server.mark);
    if (pid === undefined) return;
    this.crashes.push(now());
    this.#trace?.note('killed', pid);
    try {
      process.kill(pid, 'SIGKILL');
    } catch {
      // It was being replaced.
    }
  }

  /** Nothing is held once everybody has what they wait for, and everybody goes on. */
  async #settle(): Promise<void> {
    const { name } = this.server;
    const { fleet } = this.gateway.app;
    const isQuiet = () => {
      const { instances, waiting } = fleet.status(name);
      return waiting === 0 && instances.every(({ leases }) => leases === 0);
    };
    await until(isQuiet, 'quiet', clientMs + 10_000).catch(() =>
      this.fault(`is not quiet: ${JSON.stringify(fleet.status(name))}`),
    );
    await Promise.all(this.clients.map((client) => client.call({ do: 'echo', fate: { kind: 'stay' } })));
    const { add } = this.server.tools;
    if (!add || !this.#changesLists) return;
    const tool = `extra_${Math.round(now())}`;
    const first = this.clients[0]!;
    const heard = this.clients.map((client) => client.listChanges);
    await first.plain(add, { name: tool });
    for (const [index, client] of this.clients.entries()) {
      if (!client.hearsListChanges) continue;
      await until(() => client.listChanges > heard[index]!, 'list_changed', 10_000).catch(() =>
        this.fault(
          `${client.name} was not told that the tools changed: ${this.clients.map(({ listChanges }, at) => listChanges - heard[at]!)}`,
        ),
      );
    }
  }

  async #openStranger(): Promise<void> {
    const url = this.gateway.url('/other/mcp');
    const begun = new Exchange(url, { body: initialize({}) });
    await begun.ended;
    this.#strangerSession = String(begun.headers['mcp-session-id']);
    this.#stranger = new Exchange(url, {
      method: 'GET',
      headers: { 'mcp-session-id': this.#strangerSession },
    });
    await this.#stranger.begun;
  }

  #throwFaults(): void {
    if (this.faults.length > 0)
      throw new Error(`${this.server.name}:\n${this.faults.join('\n')}\nThe gateway:\n${this.#trace ?? ''}`);
  }
}

abstract class ModelClient {
  readonly world: World;
  readonly index: number;
  readonly url: URL;
  readonly agent = new Agent({ keepAlive: true });
  readonly calls: Call[] = [];
  readonly updates: string[] = [];
  /** Ids of questions that it was asked. */
  readonly questionIds: unknown[] = [];
  listChanges = 0;
  /** Whether it hears what belongs to no request, and has done so all the time. */
  hearsAll = true;
  protected nextId = 1;

  constructor(world: World, index: number) {
    this.world = world;
    this.index = index;
    this.url = world.gateway.url(`/${world.server.name}/mcp`);
  }

  abstract readonly era: 'legacy' | 'modern';
  abstract readonly hearsListChanges: boolean;
  abstract open(): Promise<void>;
  abstract close(): Promise<void>;
  abstract setLevel(level: string): Promise<void>;
  abstract relisten(comesBack: boolean): Promise<void>;
  abstract forge(): Promise<void>;
  abstract plain(tool: string, args: object): Promise<void>;
  protected abstract work(call: Call, params: Any): Promise<void>;
  /** Lines of this call that its client wants; a set, where the level was changed meanwhile. */
  protected abstract linesOf(call: Call): number[];
  protected abstract answersOf(call: Call): Any[];

  get name(): string {
    return `${this.era} client ${this.index}`;
  }

  /** Some clients cannot sample. */
  get canSample(): boolean {
    return this.index % 5 !== 4;
  }

  get capabilities() {
    return { elicitation: {}, ...(this.canSample && { sampling: {} }) };
  }

  async call(action: Call['action']): Promise<void> {
    const params = this.#paramsOf(action);
    if (!params) return;
    const id = this.nextId++;
    const marker = `@${this.index}/${id}@`;
    const call: Call = {
      id,
      marker,
      action,
      startedMs: now(),
      endedMs: undefined,
      exchanges: [],
      answers: [],
      steps: [],
      lastProgress: undefined,
      lines: 0,
      questions: [],
      wasLate: false,
      isGivenUp: false,
    };
    this.calls.push(call);
    const touch = action.do === 'touch' ? { of: action.whose, isSure: false } : undefined;
    if (touch) this.world.touches.push(touch);
    await this.world.within(this.work(call, params(marker)), `${this.name}: ${JSON.stringify(action)}`);
    call.endedMs = now();
    if (touch) touch.isSure = !this.world.wasHitByCrash(call) && 'result' in (call.answers[0] ?? {});
    for (const exchange of call.exchanges) if (!exchange.isOver) exchange.drop();
  }

  /** Takes what came on an exchange of a call, or (`during` undefined) on a stream of no call. */
  take(message: Any, exchange: Exchange, during: Call | undefined): void {
    const text = JSON.stringify(message);
    for (const [marker, index] of text.matchAll(markers)) {
      if (Number(index) !== this.index) this.#fault(`got what belongs to ${marker}: ${text}`);
      else if (during && marker !== during.marker && !this.#hasGivenUp(marker))
        this.#fault(`got ${marker} in ${during.marker}: ${text}`);
    }
    if (text.includes('forged')) this.#fault(`got a forged answer: ${text}`);
    const { method, params } = message;
    if (method === undefined) {
      if (!during || message.id !== during.id) this.#fault(`got an answer that it did not wait for: ${text}`);
      else during.answers.push(message);
    } else if (message.id !== undefined) this.#takeQuestion(message, during);
    else if (method === 'notifications/progress') this.#takeProgress(params, during, text);
    else if (method === 'notifications/message') {
      // A client that has lost the stream of its call may have the lines on its other one.
      const call = during ?? this.calls.find(({ marker, isGivenUp }) => isGivenUp && marker === params.data);
      if (call?.action.do !== 'log' || params.data !== call.marker)
        this.#fault(`got a line that is not of its call: ${text}`);
      else call.lines += 1;
    } else if (method === 'notifications/resources/updated') {
      this.updates.push(params.uri);
      if (params.uri !== ownUri(this.index)) this.#fault(`got an update that it did not ask for: ${text}`);
      this.checkUnasked(message, exchange);
    } else if (method.endsWith('/list_changed')) {
      this.listChanges += 1;
      if (!this.hearsListChanges) this.#fault(`got a list change that it did not ask for: ${text}`);
      this.checkUnasked(message, exchange);
    } else if (method !== 'notifications/cancelled' && !method.endsWith('/acknowledged'))
      this.#fault(`got what it cannot know: ${text}`);
  }

  /** Looks at a notification of no request. */
  protected checkUnasked(_message: Any, _exchange: Exchange): void {}

  /** What the client says to a question of this call; undefined: nothing, ever. */
  protected replyTo(call: Call): { result: Any } | { error: Any } | undefined {
    if (call.action.do !== 'ask' && call.action.do !== 'sample') return { result: {} };
    const { reply } = call.action;
    if (reply === 'never') return undefined;
    if (reply === 'error') return { error: { code: -42, message: call.marker } };
    if (call.action.do === 'sample') {
      const said = reply === 'accept' ? call.marker : 'no';
      return {
        result: { role: 'assistant', content: { type: 'text', text: said }, model: 'm' },
      };
    }
    return {
      result: reply === 'accept' ? { action: 'accept', content: { answer: call.marker } } : { action: reply },
    };
  }

  /** Puts a legacy client's answer on its way. */
  protected answer(_question: Any, _call: Call): void {
    this.#fault('was asked outside of a result');
  }

  /** Judges all that came, when nothing more comes. */
  judge(): void {
    for (const call of this.calls) this.#judgeCall(call);
    this.#judgeUpdates();
  }

  #judgeCall(call: Call): void {
    const fault = this.#wrongWith(call);
    if (fault === undefined) return;
    const { marker, action, answers } = call;
    const about = `${this.name}, ${marker} ${JSON.stringify(action)}`;
    this.world.fault(`${about}: ${fault}; answers ${JSON.stringify(answers)}`);
  }

  #wrongWith(call: Call): string | undefined {
    const { action, answers, exchanges } = call;
    const ids = exchanges.flatMap(({ eventIds }) => eventIds);
    // The event that opens a stream again repeats the id that its client came with.
    if (new Set(ids).size < ids.length - (exchanges.length - 1)) return `the same event twice: ${ids}`;
    if (answers.length > 1) return 'more than one answer';
    if (answers.length === 0) return call.isGivenUp ? undefined : 'no answer';
    const [answer] = answers;
    if (this.world.wasHitByCrash(call) && isOfCrash(answer, this.world.server)) return undefined;
    if (call.wasLate) return undefined;
    const wanted = this.answersOf(call);
    if (!wanted.some((one) => isLike(answer, one))) return `expected ${JSON.stringify(wanted)}`;
    if (call.isGivenUp) return undefined;
    if (action.do === 'progress') {
      const steps = Array.from({ length: action.steps }, (_, at) => `step ${at + 1} of ${action.steps}`);
      const seen = call.steps.filter((text) => text.startsWith('step '));
      if (JSON.stringify(seen) !== JSON.stringify(steps)) return `progress ${JSON.stringify(call.steps)}`;
    }
    if (action.do === 'log' && !this.linesOf(call).includes(call.lines)) {
      return `${call.lines} lines instead of ${this.linesOf(call)}`;
    }
    return undefined;
  }

  #judgeUpdates(): void {
    const { world } = this;
    const touches = world.touches.filter(({ of }) => of === this.index);
    if (this.updates.length > touches.length)
      this.#fault(`got ${this.updates.length} updates of ${touches.length}`);
    // An instance that was just started may change before it knows who wants to hear of it.
    if (world.crashes.length > 0) return;
    const sure = touches.filter(({ isSure }) => isSure).length;
    // What a legacy client has missed waits for it; for a modern one nothing does.
    const expected = this.hearsAll ? sure : this.era === 'legacy' ? Math.min(sure, 1) : 0;
    if (this.updates.length < expected)
      this.#fault(`got ${this.updates.length} updates, at least ${expected} were to come`);
  }

  #takeQuestion(question: Any, during: Call | undefined): void {
    this.questionIds.push(question.id);
    const [marker] = JSON.stringify(question.params ?? {}).match(markers) ?? [];
    const call = this.calls.find((one) => one.marker === marker);
    // A server may ask before it has read that its call was cancelled, when the same client has the next one.
    if (!call || (during && during !== call && !call.isGivenUp)) {
      this.#fault(`was asked for no call of its own: ${JSON.stringify(question)}`);
      return;
    }
    if (call.questions.some(({ id }) => id === question.id))
      this.#fault(`was asked twice: ${JSON.stringify(question)}`);
    call.questions.push(question);
    this.answer(question, call);
  }

  #hasGivenUp(marker: string): boolean {
    return this.calls.some((call) => call.marker === marker && call.isGivenUp);
  }

  #takeProgress(params: Any, during: Call | undefined, text: string): void {
    if (during?.action.do !== 'progress' || params.progressToken !== during.marker) {
      this.#fault(`got progress that is not of its call: ${text}`);
      return;
    }
    if (during.lastProgress !== undefined && !(params.progress > during.lastProgress))
      this.#fault(`got progress that does not rise: ${text}`);
    during.lastProgress = params.progress;
    during.steps.push(String(params.message));
  }

  #paramsOf(action: Call['action']): ((marker: string) => Any) | undefined {
    const { tools, era } = this.world.server;
    const name = tools[action.do];
    // A shared legacy server is not told what each client can do: it is the gateway that declines.
    const force = era === 'legacy';
    if (name === undefined) return undefined;
    return (marker) => {
      switch (action.do) {
        case 'echo':
          return { name, arguments: { text: marker } };
        case 'progress':
          return {
            name,
            arguments: { steps: action.steps, ms: action.ms },
            _meta: { progressToken: marker },
          };
        case 'log':
          return {
            name,
            arguments: { level: action.level, text: marker, count: action.count, ms: action.ms },
          };
        case 'ask':
          return { name, arguments: { message: marker, question: marker, force } };
        case 'sample':
          return { name, arguments: { prompt: marker, force } };
        case 'touch':
          return { name, arguments: { uri: ownUri(action.whose % this.world.clients.length) } };
      }
    };
  }

  #fault(text: string): void {
    this.world.fault(`${this.name} ${text}`);
  }
}

class LegacyClient extends ModelClient {
  readonly era = 'legacy';
  readonly hearsListChanges = true;
  #session = '';
  #listening: Exchange | undefined;
  /** The levels that held, and from when to when they may have. */
  readonly #levels: { level: string; fromMs: number; untilMs: number }[] = [
    { level: 'info', fromMs: 0, untilMs: Number.POSITIVE_INFINITY },
  ];

  async open(): Promise<void> {
    const begun = this.#exchange({ body: initialize(this.capabilities) });
    await begun.ended;
    this.#session = String(begun.headers['mcp-session-id']);
    await this.#exchange({ body: { jsonrpc: '2.0', method: 'notifications/initialized' } }).ended;
    await this.#listen();
    const level = this.world.schedule.levels?.[this.index] ?? null;
    if (level !== null) await this.setLevel(level);
    if (this.world.server.tools.touch) {
      await this.#request('resources/subscribe', { uri: ownUri(this.index) });
    }
  }

  async close(): Promise<void> {
    this.#listening?.drop();
    if (this.#session) await this.#exchange({ method: 'DELETE' }).ended;
    this.agent.destroy();
  }

  async setLevel(level: string): Promise<void> {
    if (!this.world.server.tools.log) return;
    const fromMs = now();
    const entry = { level, fromMs, untilMs: Number.POSITIVE_INFINITY };
    const before = [...this.#levels];
    this.#levels.push(entry);
    const sent = this.#request('logging/setLevel', { level });
    await this.world.within(sent, `${this.name}: setLevel`);
    for (const one of before) one.untilMs = Math.min(one.untilMs, now());
  }

  async relisten(comesBack: boolean): Promise<void> {
    const last = this.#listening?.lastEventId;
    this.#listening?.drop();
    this.hearsAll = false;
    await pause(5);
    await this.#listen(comesBack ? last : undefined);
  }

  /** Answers what others were asked. */
  async forge(): Promise<void> {
    const ids = this.world.clients.flatMap((client) => (client === this ? [] : client.questionIds));
    await Promise.all(
      ids.slice(-3).map((id) => {
        const body = {
          jsonrpc: '2.0',
          id,
          result: { action: 'accept', content: { answer: 'forged' }, role: 'assistant', model: 'forged' },
        };
        return this.#exchange({ body }).ended;
      }),
    );
  }

  async plain(tool: string, args: object): Promise<void> {
    await this.#request('tools/call', { name: tool, arguments: args });
  }

  protected async work(call: Call, params: Any): Promise<void> {
    const { action } = call;
    const fate: Fate = action.do === 'touch' ? { kind: 'stay' } : action.fate;
    const body = { jsonrpc: '2.0', id: call.id, method: 'tools/call', params };
    let exchange = this.#exchange({ body }, call);
    if (fate.kind !== 'stay') await Promise.race([exchange.ended, pause(fate.afterMs)]);
    if (fate.kind === 'cancel' && !exchange.isOver) {
      call.isGivenUp = true;
      const { id: requestId } = call;
      await this.#exchange({
        body: {
          jsonrpc: '2.0',
          method: 'notifications/cancelled',
          params: { requestId },
        },
      }).ended;
    }
    if (fate.kind === 'leave' && !exchange.isOver) {
      const { lastEventId } = exchange;
      exchange.drop();
      if (fate.awayMs === null || lastEventId === undefined) {
        call.isGivenUp = true;
        return;
      }
      await pause(fate.awayMs);
      exchange = this.#exchange({ method: 'GET', headers: { 'last-event-id': lastEventId } }, call);
      await exchange.ended;
      if (exchange.status !== 200) this.world.fault(`${this.name}: coming back was ${exchange.status}`);
    }
    await exchange.ended;
  }

  protected override answer({ id }: Any, call: Call): void {
    const answer = this.replyTo(call);
    if (!answer) return;
    const askedMs = now();
    const thinkMs = 'thinkMs' in call.action ? call.action.thinkMs : 0;
    void pause(thinkMs).then(() => {
      const sent = this.#exchange({ body: { jsonrpc: '2.0', id, ...answer } });
      return sent.ended.then(() => {
        if (now() - askedMs > clientMs * 0.8) call.wasLate = true;
      });
    });
  }

  protected linesOf(call: Call): number[] {
    const { action, startedMs, endedMs = now() } = call;
    if (action.do !== 'log') return [];
    const isUncertain = this.world.server.era === 'modern';
    if (isUncertain) return upTo(action.count);
    const held = this.#levels.filter(({ fromMs, untilMs }) => fromMs <= endedMs && untilMs >= startedMs);
    const counts = held.map(({ level }) => (isWanted(action.level, level) ? action.count : 0));
    return new Set(counts).size > 1 ? upTo(action.count) : counts;
  }

  protected answersOf(call: Call): Any[] {
    const { action } = call;
    if (action.do !== 'ask' && action.do !== 'sample') return plainAnswers(call, this.world.server);
    const isModernServer = this.world.server.era === 'modern';
    const told = (value: object) => resultOf(JSON.stringify(value));
    const sampleDeclined = isModernServer
      ? { error: { code: -1 } }
      : { resultText: /^\{"error":\{"code":-1,/ };
    const declined = action.do === 'ask' ? told({ result: { action: 'decline' } }) : sampleDeclined;
    if (action.do === 'sample' && !this.canSample) {
      // A modern server knows what its client cannot do.
      return [sampleDeclined, { error: { code: -32021 } }];
    }
    const answer = this.replyTo(call);
    // A client that is away when it is asked, and has no other stream, cannot be asked.
    const mayMissIt = action.fate.kind === 'leave' ? [declined] : [];
    if (!answer) return [declined];
    if ('error' in answer && isModernServer) return [answer, ...mayMissIt];
    return [told(answer), ...mayMissIt];
  }

  async #listen(lastEventId?: string): Promise<void> {
    this.#listening = this.#exchange(
      { method: 'GET', headers: lastEventId === undefined ? {} : { 'last-event-id': lastEventId } },
      'listening',
    );
    await this.#listening.begun;
  }

  #exchange(
    options: { method?: 'GET' | 'DELETE'; body?: unknown; headers?: Record<string, string> },
    during?: Call | 'listening',
  ): Exchange {
    const { world, agent } = this;
    const call = during === 'listening' ? undefined : during;
    const exchange: Exchange = new Exchange(this.url, {
      ...options,
      agent,
      headers: { ...(this.#session && { 'mcp-session-id': this.#session }), ...options.headers },
      onMessage: (message, on) => {
        if (during === undefined) return;
        world.deliver(this, message, (client, delivered) => client.take(delivered, on, call));
      },
    });
    call?.exchanges.push(exchange);
    return exchange;
  }

  async #request(method: string, params: object): Promise<void> {
    const exchange = this.#exchange({ body: { jsonrpc: '2.0', id: this.nextId++, method, params } });
    await exchange.ended;
    const { error } = exchange.messages.at(-1) ?? { error: 'no answer' };
    if (error && this.world.crashes.length === 0)
      this.world.fault(`${this.name}: ${method} was refused: ${JSON.stringify(error)}`);
  }
}

class ModernModelClient extends ModelClient {
  readonly era = 'modern';
  #listening: Exchange | undefined;
  #listenId = 0;

  /** Every second one opts in. */
  get hearsListChanges(): boolean {
    return this.index % 4 !== 3;
  }

  async open(): Promise<void> {
    await this.relisten();
    this.hearsAll = true;
  }

  async close(): Promise<void> {
    this.#listening?.drop();
    this.agent.destroy();
  }

  /** The level is said with each request. */
  async setLevel(): Promise<void> {}

  async forge(): Promise<void> {}

  async relisten(): Promise<void> {
    this.#listening?.drop();
    // What happens while it does not listen is never told.
    this.hearsAll = false;
    const id = this.nextId++;
    this.#listenId = id;
    const hasResources = this.world.server.tools.touch !== undefined;
    const exchange = this.#exchange(
      id,
      'subscriptions/listen',
      {
        notifications: {
          ...(this.hearsListChanges && { toolsListChanged: true }),
          ...(hasResources && { resourceSubscriptions: [ownUri(this.index)] }),
        },
      },
      'listening',
    );
    this.#listening = exchange;
    // It may be listening anew already.
    const acknowledged = until(() => exchange.messages.length > 0 || exchange.isOver, 'acknowledged', hangMs);
    await this.world.within(
      acknowledged.catch(() => {}),
      `${this.name}: listen`,
    );
  }

  async plain(tool: string, args: object): Promise<void> {
    await this.#exchange(this.nextId++, 'tools/call', { name: tool, arguments: args }).ended;
  }

  protected async work(call: Call, params: Any): Promise<void> {
    const { action } = call;
    const fate: Fate = action.do === 'touch' ? { kind: 'stay' } : action.fate;
    let exchange: Exchange | undefined;
    let more: Any = {};
    // Whoever cancels or loses the connection has closed the stream; between two tries there is none.
    const timer =
      fate.kind === 'stay'
        ? undefined
        : setTimeout(() => {
            call.isGivenUp = true;
            exchange?.drop();
          }, fate.afterMs);
    const wanted = action.do === 'log' ? action.wanted : null;
    while (!call.isGivenUp) {
      exchange = this.#exchange(call.id, 'tools/call', { ...params, ...more }, call, wanted);
      await exchange.ended;
      const asked = call.answers.at(-1)?.result;
      if (asked?.resultType !== 'input_required') break;
      call.answers.pop();
      const askedMs = now();
      const answers: [string, Any][] = [];
      for (const [key, question] of Object.entries<Any>(asked.inputRequests)) {
        call.questions.push(question);
        answers.push([key, this.#responseTo(call)]);
      }
      if (answers.some(([, answer]) => answer === undefined)) {
        call.isGivenUp = true;
        break;
      }
      await pause('thinkMs' in action ? action.thinkMs : 0);
      if (now() - askedMs > clientMs * 0.8) call.wasLate = true;
      more = { requestState: asked.requestState, inputResponses: Object.fromEntries(answers) };
    }
    clearTimeout(timer);
  }

  protected override checkUnasked({ params }: Any, exchange: Exchange): void {
    if (params?._meta?.[subscription] !== this.#listenId && exchange === this.#listening)
      this.world.fault(`${this.name}: a notification without its stamp: ${JSON.stringify(params)}`);
  }

  protected linesOf({ action }: Call): number[] {
    if (action.do !== 'log') return [];
    if (action.wanted === null || !isWanted(action.level, action.wanted)) return [0];
    return this.world.server.era === 'modern' ? upTo(action.count) : [action.count];
  }

  protected answersOf(call: Call): Any[] {
    const { action } = call;
    if (action.do !== 'ask' && action.do !== 'sample') return plainAnswers(call, this.world.server);
    if (action.do === 'sample' && !this.canSample) {
      return [{ error: { code: -32021 } }];
    }
    return [resultOf(JSON.stringify({ result: this.#responseTo(call) }))];
  }

  /** There is no way to answer with an error in this era. */
  #responseTo(call: Call): Any {
    const reply = this.replyTo(call);
    if (!reply) return undefined;
    if ('result' in reply) return reply.result;
    return call.action.do === 'ask'
      ? { action: 'cancel' }
      : { role: 'assistant', content: { type: 'text', text: 'no' }, model: 'm' };
  }

  #exchange(
    id: number,
    method: string,
    params: Any,
    during?: Call | 'listening',
    logLevel: string | null = null,
  ): Exchange {
    const { world, agent } = this;
    const call = during === 'listening' ? undefined : during;
    const meta = modernMeta(this.capabilities, {
      ...params._meta,
      ...(logLevel !== null && { 'io.modelcontextprotocol/logLevel': logLevel }),
    });
    const exchange = new Exchange(this.url, {
      agent,
      headers: {
        'mcp-protocol-version': '2026-07-28',
        'mcp-method': method,
        ...(params.name && { 'mcp-name': params.name }),
      },
      body: { jsonrpc: '2.0', id, method, params: { ...params, _meta: meta } },
      onMessage: (message, on) => {
        if (during === undefined) return;
        world.deliver(this, message, (client, delivered) => client.take(delivered, on, call));
      },
    });
    call?.exchanges.push(exchange);
    return exchange;
  }
}

const initialize = (capabilities: object) => ({
  jsonrpc: '2.0',
  id: 0,
  method: 'initialize',
  params: { protocolVersion: '2025-11-25', capabilities, clientInfo: { name: 'model', version: '1' } },
});

const resultOf = (text: string) => ({ result: { content: [{ type: 'text', text }] } });
const upTo = (count: number) => Array.from({ length: count + 1 }, (_, lines) => lines);
const isWanted = (level: string, threshold: string) =>
  everyLevel.indexOf(level) >= everyLevel.indexOf(threshold);

function plainAnswers({ action, marker }: Call, { tools }: Setup): Any[] {
  switch (action.do) {
    case 'echo':
      return [resultOf(tools.echo === 'ok' ? 'ok' : marker)];
    case 'progress':
      return [resultOf(`${action.steps} steps`)];
    case 'log':
      return [resultOf(`${action.count} lines`)];
    default:
      return [{ result: {} }];
  }
}

/** Whether an answer is what a call may get whose instance died. */
function isOfCrash({ error }: Any, { name, era }: Setup): boolean {
  if (!error) return false;
  if (error.data?.server === name && crashCodes.includes(error.data.code)) return true;
  // What a modern server has given out dies with it.
  return era === 'modern' && error.code === -32602 && /requestState/.test(error.message);
}

/** Whether `value` has all that `wanted` has. */
function isLike(value: Any, wanted: Any): boolean {
  if (wanted?.resultText) return wanted.resultText.test(value?.result?.content?.[0]?.text ?? '');
  if (typeof wanted !== 'object' || wanted === null) return value === wanted;
  if (typeof value !== 'object' || value === null) return false;
  return Object.entries(wanted).every(([key, one]) => isLike(value[key], one));
}

/** The process of a server's instance, by what is in its environment. */
async function instanceOf(mark: string): Promise<number | undefined> {
  for (const pid of await readdir('/proc')) {
    if (!/^\d+$/.test(pid)) continue;
    const environment = await readFile(`/proc/${pid}/environ`, 'latin1').catch(() => '');
    if (!environment.split('\0').includes(mark)) continue;
    // Only one of ours.
    const parent = /^PPid:\s*(\d+)/m.exec(await readFile(`/proc/${pid}/status`, 'utf8').catch(() => ''))?.[1];
    if (Number(parent) === process.pid) return Number(pid);
  }
  return undefined;
}
