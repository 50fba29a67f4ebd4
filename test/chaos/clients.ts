import { Agent } from 'node:http';
import { Exchange } from '../http/exchange.ts';
import { modernMeta } from '../http/modern-client.ts';
import { cast, type Request, requestOf, silenceMs, wreckOf } from './cast.ts';
import type { Call, Model, Outcome } from './model.ts';
import type { Fate, ServerName, Wish } from './schedule.ts';

// biome-ignore lint/suspicious/noExplicitAny: a test reads whatever came
type Any = any;

/** What a client lives in. */
export interface ClientWorld {
  readonly model: Model;
  readonly servers: readonly ServerName[];
  /** Of the gateway as it is now. */
  url(endpoint: string): URL;
  /** When no gateway is being replaced. */
  up(): Promise<void>;
}

const markers = /@\d+-\d+@/g;
const pause = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));

/** A client of either era; everything that comes to it is looked at in the moment in which it comes. */
export abstract class ChaosClient {
  abstract readonly era: 'legacy' | 'modern';
  protected readonly world: ClientWorld;
  protected readonly index: number;
  protected agent = new Agent({ keepAlive: true });
  #nextId = 1;
  #notes: string[] = [];
  #lastNoteMs = 0;
  #noteTaking = Promise.resolve();

  constructor(world: ClientWorld, index: number) {
    this.world = world;
    this.index = index;
  }

  /** Opens its stream of what belongs to no request, anew if it has one. */
  abstract listen(): Promise<void>;
  /** The lists of all servers; the answer, or nothing where there was none. */
  abstract list(): Promise<Any>;
  /** Sends it, and again where the protocol wants that; the last message that came in answer. */
  protected abstract send(call: Sent, endpoint: string, fate: Fate): Promise<void>;

  close(): void {
    this.agent.destroy();
  }

  /** The gateway that it was connected to is gone. */
  reconnect(): void {
    this.agent.destroy();
    this.agent = new Agent({ keepAlive: true });
  }

  call(server: ServerName, wish: Wish, { fate, direct }: { fate: Fate; direct: boolean }): Promise<Outcome> {
    return this.#perform(server, wish.kind, (marker) => requestOf(server, wish, marker), fate, direct);
  }

  /** Ruins the instance that takes the call. */
  async wreck(server: 'flood' | 'endless' | 'crash'): Promise<void> {
    const over = this.world.model.fault('wreck', server);
    const make = (marker: string) => wreckOf(server, marker);
    await this.#perform(server, 'wreck', make, { kind: 'stay' }, false).finally(over);
  }

  /** Adds a note to its own, or compares them: what is not there must have been told. One at a time, so that their order is known. */
  note(lists: boolean): Promise<void> {
    this.#noteTaking = this.#noteTaking.then(() => this.#takeNote(lists));
    return this.#noteTaking;
  }

  async #takeNote(lists: boolean): Promise<void> {
    const { model } = this.world;
    const sinceMs = this.#lastNoteMs || performance.now();
    const expected = JSON.stringify({ notes: this.#notes });
    const count = this.#notes.length + 1;
    let note = '';
    const make = (marker: string): Request => {
      note = marker;
      const text = (result: Any) => result?.content?.[0]?.text;
      return {
        method: 'tools/call',
        params: { name: lists ? 'list' : 'add', arguments: { note: marker } },
        judge: (result) => {
          const wanted = lists ? expected : `${count} notes`;
          if (text(result) !== wanted)
            model.breach(
              'stateNotLostSilently',
              `client ${this.index} has ${text(result)} instead of ${wanted}`,
            );
          return undefined;
        },
      };
    };
    const outcome = await this.#perform(
      'own',
      lists ? 'list of notes' : 'note',
      make,
      { kind: 'stay' },
      true,
      sinceMs,
    );
    this.#lastNoteMs = performance.now();
    if (outcome.kind === 'result') {
      if (!lists) this.#notes.push(note);
    } else if (outcome.kind === 'error') {
      // Told; and whatever else it was, an instance died of it.
      this.#notes = [];
    } else await this.#learnNotes();
  }

  /** Nobody said what became of the last one. */
  async #learnNotes(): Promise<void> {
    let found: string[] | undefined;
    const make = (): Request => ({
      method: 'tools/call',
      params: { name: 'list', arguments: {} },
      judge: (result) => {
        found = JSON.parse(result.content[0].text).notes;
        return undefined;
      },
    });
    for (let tries = 0; found === undefined && tries < 3; tries += 1) {
      await this.world.up();
      await this.#perform('own', 'list of notes', make, { kind: 'stay' }, true, 0);
    }
    this.#notes = found ?? [];
  }

  async #perform(
    server: ServerName,
    what: string,
    make: (marker: string) => Request,
    fate: Fate,
    direct: boolean,
    memorySinceMs?: number,
  ): Promise<Outcome> {
    const { model } = this.world;
    const id = this.#nextId++;
    const marker = `@${this.index}-${id}@`;
    const request = make(marker);
    // Only what has a prefix finds its server among all.
    const isDirect = direct || request.method === 'resources/read';
    const params = isDirect
      ? request.params
      : { ...request.params, name: `${server}__${request.params.name}` };
    const call = model.begin({ client: this.index, server, marker, what, isWreck: what === 'wreck' });
    const sent = new Sent(id, call, { ...request, params });
    const work = this.send(sent, isDirect ? `/${server}/mcp` : '/mcp', fate);
    let timer: NodeJS.Timeout | undefined;
    const silence = new Promise<'silence'>((resolve) => {
      timer = setTimeout(() => resolve('silence'), silenceMs);
    });
    const isSilent = (await Promise.race([work, silence])) === 'silence';
    clearTimeout(timer);
    for (const exchange of sent.exchanges) if (!exchange.isOver) exchange.drop();
    const outcome = isSilent ? { kind: 'silence' as const } : this.#outcomeOf(sent);
    if (outcome.kind === 'error' && this.#isToldLoss(outcome.error, memorySinceMs))
      call.endedMs = performance.now();
    else model.end(call, outcome);
    return outcome;
  }

  /** A loss of memory is told at the next call, however long after its cause that is. */
  #isToldLoss(error: Any, sinceMs: number | undefined): boolean {
    if (sinceMs === undefined || !/memory.* is lost/.test(error?.message)) return false;
    // Nobody says when a client without a session is over: its idle time does.
    if (this.era === 'modern') return true;
    return this.world.model.wasHit('own', sinceMs, 'kill', 'gateway', 'engine');
  }

  #outcomeOf({ call, request, answers }: Sent): Outcome {
    const { model } = this.world;
    if (answers.length > 1)
      model.breach(
        'answeredOnce',
        `${call.marker} has ${answers.length} answers: ${JSON.stringify(answers).slice(0, 500)}`,
      );
    const [answer] = answers;
    if (!answer) return call.isGivenUp ? { kind: 'givenUp' } : { kind: 'dropped' };
    if (answer.error) return { kind: 'error', error: answer.error };
    return { kind: 'result', wrong: request.judge(answer.result) };
  }

  /** Looks at a message on an exchange of a call; true when it is its answer. */
  protected take(message: Any, sent: Sent): void {
    const { call } = sent;
    this.#lookForStrangers(message, call.marker);
    if (message.method === undefined) {
      // What could not be read as a request is answered without an id.
      if (message.id !== sent.id && message.id !== null)
        this.#crossed(`the call ${call.marker} got the answer ${JSON.stringify(message)}`);
      else sent.answers.push(message);
    } else if (message.id !== undefined) this.#takeQuestion(message, call);
    else if (message.method === 'notifications/progress') {
      const { progressToken, progress } = message.params;
      if (progressToken !== call.marker)
        this.#crossed(`the call ${call.marker} got ${JSON.stringify(message)}`);
      else if (!(progress > sent.progress))
        this.#crossed(`progress of ${call.marker} fell from ${sent.progress} to ${progress}`);
      sent.progress = progress;
    }
  }

  /** Looks at a message on a stream of no call. */
  protected takeUnasked(message: Any): void {
    this.#lookForStrangers(message, undefined);
    if (message.id !== undefined && message.method !== undefined) this.#takeQuestion(message, undefined);
  }

  /** The answer of one that was asked outside of a result. */
  protected reply(_id: unknown, _result: Any): void {
    this.#crossed('it was asked outside of a result');
  }

  #takeQuestion(message: Any, during: Call | undefined): void {
    const [marker] = JSON.stringify(message.params ?? {}).match(markers) ?? [];
    const asking =
      marker === undefined ? during : this.world.model.calls.find((one) => one.marker === marker);
    if (!asking || asking.client !== this.index) {
      this.#crossed(`it was asked ${JSON.stringify(message)}`);
      return;
    }
    const result = this.#replies.get(asking);
    if (result) this.reply(message.id, result);
  }

  readonly #replies = new Map<Call, Any>();

  /** What it says when it is asked for this call. */
  protected willSay(call: Call, result: Any): void {
    this.#replies.set(call, result);
  }

  /** Nothing with another's marker may come, and on a call's own stream nothing of another call of its client. */
  #lookForStrangers(message: Any, own: string | undefined): void {
    const found = JSON.stringify(message).match(markers) ?? [];
    const isStrange = (marker: string) =>
      own === undefined ? !marker.startsWith(`@${this.index}-`) : marker !== own;
    // A server may ask, or say a line, when its call was given up and its client has the next one; and has notes of all its calls.
    const isFromBefore = (marker: string) =>
      marker.startsWith(`@${this.index}-`) &&
      (message.result !== undefined ||
        this.world.model.calls.some((call) => call.marker === marker && call.isGivenUp));
    const isNotes = message.result !== undefined && JSON.stringify(message.result).includes('notes');
    const stranger = found.find(
      (marker) => isStrange(marker) && !(isFromBefore(marker) && (isNotes || message.method !== undefined)),
    );
    if (stranger)
      this.#crossed(`${own ?? 'its stream'} got ${stranger}: ${JSON.stringify(message).slice(0, 400)}`);
  }

  #crossed(what: string): void {
    this.world.model.breach('eachItsOwn', `client ${this.index} (${this.era}): ${what}`);
  }

  protected breach(promise: Parameters<Model['breach']>[0], what: string): void {
    this.world.model.breach(promise, `client ${this.index} (${this.era}): ${what}`);
  }

  protected nextId(): number {
    return this.#nextId++;
  }

  /** Whether a list has every server that works; what it lacks. */
  missingIn(answer: Any): ServerName[] {
    const names: string[] = (answer?.result?.tools ?? []).map(({ name }: Any) => String(name));
    return this.world.servers.filter(
      (server) => !cast[server].isHopeless && !names.some((name) => name.startsWith(`${server}__`)),
    );
  }
}

/** A request on its way. */
export class Sent {
  readonly id: number;
  readonly call: Call;
  readonly request: Request;
  readonly exchanges: Exchange[] = [];
  readonly answers: Any[] = [];
  progress = Number.NEGATIVE_INFINITY;

  constructor(id: number, call: Call, request: Request) {
    this.id = id;
    this.call = call;
    this.request = request;
  }
}

/** A session, or why there is none; neither: the gateway went away meanwhile. */
interface Begun {
  session?: string;
  error?: Any;
}

class LegacyChaosClient extends ChaosClient {
  readonly era = 'legacy';
  readonly #sessions = new Map<string, Promise<Begun>>();
  #stream: Exchange | undefined;

  override close(): void {
    this.#stream?.drop();
    super.close();
  }

  async listen(): Promise<void> {
    const last = this.#stream?.lastEventId;
    this.#stream?.drop();
    const { session } = await this.#begun('/mcp');
    if (session === undefined) return;
    const headers = { 'mcp-session-id': session, ...(last !== undefined && { 'last-event-id': last }) };
    this.#stream = this.#exchange('/mcp', {
      method: 'GET',
      headers,
      onMessage: (message) => this.takeUnasked(message),
    });
    await this.#stream.begun;
  }

  async list(): Promise<Any> {
    const { session } = await this.#begun('/mcp');
    if (session === undefined) return undefined;
    const id = this.nextId();
    const exchange = this.#exchange('/mcp', {
      headers: { 'mcp-session-id': session },
      body: { jsonrpc: '2.0', id, method: 'tools/list' },
    });
    await exchange.ended;
    return exchange.messages.find((message) => message.id === id);
  }

  protected async send(sent: Sent, endpoint: string, fate: Fate): Promise<void> {
    const { id, call, request } = sent;
    const { session, error } = await this.#begun(endpoint);
    // An endpoint of one server that could not be read yet has nothing to introduce.
    if (error) sent.answers.push({ error });
    if (session === undefined) return;
    if (request.reply) this.willSay(call, { ...request.reply, endpoint });
    const headers = { 'mcp-session-id': session };
    const onMessage = (message: Any) => this.take(message, sent);
    const params = { ...request.params, _meta: { progressToken: call.marker } };
    let exchange = this.#exchange(endpoint, {
      headers,
      body: { jsonrpc: '2.0', id, method: request.method, params },
      onMessage,
    });
    sent.exchanges.push(exchange);
    if (fate.kind !== 'stay') await Promise.race([exchange.ended, pause(fate.afterMs)]);
    if (fate.kind === 'cancel' && !exchange.isOver) {
      call.isGivenUp = true;
      const body = { jsonrpc: '2.0', method: 'notifications/cancelled', params: { requestId: id } };
      await this.#exchange(endpoint, { headers, body }).ended;
    }
    if (fate.kind === 'leave' && !exchange.isOver) {
      const { lastEventId } = exchange;
      exchange.drop();
      if (fate.awayMs === null || lastEventId === undefined) {
        call.isGivenUp = true;
        return;
      }
      await pause(fate.awayMs);
      exchange = this.#exchange(endpoint, {
        method: 'GET',
        headers: { ...headers, 'last-event-id': lastEventId },
        onMessage,
      });
      sent.exchanges.push(exchange);
      await exchange.ended;
      // A client that has no stream when it is asked cannot be asked: its question is declined.
      if (request.reply) call.isGivenUp = true;
      const ids = sent.exchanges.flatMap(({ eventIds }) => eventIds);
      // The event that opens a stream again repeats the id that its client came with.
      if (new Set(ids).size < ids.length - 1)
        this.breach('answeredOnce', `${call.marker}: the same event twice: ${ids}`);
    }
    await exchange.ended;
  }

  protected override reply(id: unknown, { result, thinkMs, endpoint }: Any): void {
    void pause(thinkMs).then(async () => {
      const { session } = await this.#begun(endpoint);
      if (session === undefined) return;
      this.#exchange(endpoint, {
        headers: { 'mcp-session-id': session },
        body: { jsonrpc: '2.0', id, result },
      });
    });
  }

  /** Done once for each endpoint, if it goes well. */
  #begun(endpoint: string): Promise<Begun> {
    let begun = this.#sessions.get(endpoint);
    if (!begun) {
      begun = this.#begin(endpoint);
      this.#sessions.set(endpoint, begun);
      void begun.then(({ session }) => session === undefined && this.#sessions.delete(endpoint));
    }
    return begun;
  }

  async #begin(endpoint: string): Promise<Begun> {
    await this.world.up();
    const startedMs = performance.now();
    const exchange = this.#exchange(endpoint, {
      body: {
        jsonrpc: '2.0',
        id: 0,
        method: 'initialize',
        params: {
          protocolVersion: '2025-11-25',
          capabilities: { elicitation: {}, sampling: {} },
          clientInfo: { name: `chaos ${this.index}`, version: '1' },
        },
      },
    });
    await exchange.ended;
    const session = exchange.headers['mcp-session-id'];
    if (session === undefined) {
      const error = exchange.messages.at(-1)?.error;
      const isExplained = error !== undefined && endpoint !== '/mcp';
      if (!isExplained && !this.world.model.wasHit('plain', startedMs, 'gateway'))
        this.breach(
          'answeredOnce',
          `initialize at ${endpoint}: ${exchange.status} ${JSON.stringify(exchange.messages)}`,
        );
      return { error };
    }
    const headers = { 'mcp-session-id': String(session) };
    await this.#exchange(endpoint, { headers, body: { jsonrpc: '2.0', method: 'notifications/initialized' } })
      .ended;
    return { session: String(session) };
  }

  #exchange(endpoint: string, options: ConstructorParameters<typeof Exchange>[1]): Exchange {
    return new Exchange(this.world.url(endpoint), { agent: this.agent, ...options });
  }
}

class ModernChaosClient extends ChaosClient {
  readonly era = 'modern';
  #stream: Exchange | undefined;

  override close(): void {
    this.#stream?.drop();
    super.close();
  }

  async listen(): Promise<void> {
    this.#stream?.drop();
    this.#stream = this.#exchange(
      '/mcp',
      this.nextId(),
      'subscriptions/listen',
      {
        notifications: { toolsListChanged: true },
      },
      (message) => this.takeUnasked(message),
    );
    await this.#stream.begun;
  }

  async list(): Promise<Any> {
    const id = this.nextId();
    const exchange = this.#exchange('/mcp', id, 'tools/list', {});
    await exchange.ended;
    return exchange.messages.find((message) => message.id === id);
  }

  protected async send(sent: Sent, endpoint: string, fate: Fate): Promise<void> {
    const { id, call, request } = sent;
    let exchange: Exchange | undefined;
    let more: Any = {};
    // To close the stream is to cancel; there is no coming back.
    const timer =
      fate.kind === 'stay'
        ? undefined
        : setTimeout(() => {
            call.isGivenUp = true;
            exchange?.drop();
          }, fate.afterMs);
    while (!call.isGivenUp) {
      exchange = this.#exchange(
        endpoint,
        id,
        request.method,
        { ...request.params, ...more, _meta: { progressToken: call.marker } },
        (message) => this.take(message, sent),
      );
      sent.exchanges.push(exchange);
      await exchange.ended;
      const asked = sent.answers.at(-1)?.result;
      if (asked?.resultType !== 'input_required') break;
      sent.answers.pop();
      sent.progress = Number.NEGATIVE_INFINITY;
      const keys = Object.keys(asked.inputRequests ?? {});
      if (!request.reply) this.breach('eachItsOwn', `${call.marker} was asked ${JSON.stringify(asked)}`);
      await pause(request.reply?.thinkMs ?? 0);
      const inputResponses = Object.fromEntries(
        keys.map((key) => [key, request.reply?.result ?? { action: 'decline' }]),
      );
      more = { requestState: asked.requestState, inputResponses };
    }
    clearTimeout(timer);
  }

  #exchange(
    endpoint: string,
    id: number,
    method: string,
    params: Any,
    onMessage?: (message: Any) => void,
  ): Exchange {
    const name = params.name ?? params.uri;
    return new Exchange(this.world.url(endpoint), {
      agent: this.agent,
      headers: {
        'mcp-protocol-version': '2026-07-28',
        'mcp-method': method,
        'mcp-gateway-client': `chaos-${this.index}`,
        ...(name !== undefined && { 'mcp-name': name }),
      },
      body: {
        jsonrpc: '2.0',
        id,
        method,
        params: { ...params, _meta: modernMeta({ elicitation: {}, sampling: {} }, params._meta) },
      },
      onMessage,
    });
  }
}

/** The clients of a schedule. */
export function createClient(world: ClientWorld, era: 'legacy' | 'modern', index: number): ChaosClient {
  return era === 'legacy' ? new LegacyChaosClient(world, index) : new ModernChaosClient(world, index);
}
