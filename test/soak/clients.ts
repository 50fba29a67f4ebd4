import type { Agent } from 'node:http';
import { Exchange } from '../http/exchange.ts';
import { modernMeta } from '../http/modern-client.ts';
import type { Draw } from './draw.ts';
import type { Attempt, Ledger } from './ledger.ts';
import { common, type ServerName } from './servers.ts';

// biome-ignore lint/suspicious/noExplicitAny: a test reads whatever came
type Any = any;

/** What all clients share. */
export interface World {
  url: URL;
  agent: Agent;
  ledger: Ledger;
  now(): number;
  /** While the gateway is away, nobody calls. */
  up(): Promise<void>;
  /** Whether a server is called at all just now: they need quiet times to come to rest. */
  isOpen(server: ServerName): boolean;
  isOver(): boolean;
  sleep(ms: number): Promise<void>;
  /** Between two calls of a client, on average. */
  thinkMs: number;
  /** How likely a client begins anew, in place of a call. */
  renewal: number;
}

/** How often a client is what it is, and calls what. */
interface Character {
  era: 'legacy' | 'modern';
  /** Has notes of its own in `own`. */
  isNoteTaker: boolean;
  /** Holds a stream of notifications open. */
  isListener: boolean;
}

interface Call {
  name: string;
  args: object;
  /** What is wrong with the result; undefined: it is this call's own. */
  judge(result: Any): string | undefined;
  /** The client goes away after so long. */
  leaveAfterMs?: number;
  /** The call is to be answered by an error; what is wrong with this one, undefined: nothing, false: it is about something else. */
  judgeError?(error: Any): string | undefined | false;
}

/** Longer than everything that the gateway bounds: start, handshake, queue and call. */
const answerLimitMs = 60_000;
/** How long a gateway that was killed may take to know a session: it writes it at once, but not before it answers. */
const sessionWrittenMs = 1000;

const text = (result: Any) => String(result?.content?.[0]?.text);
const isText = (wanted: string) => (result: Any) =>
  text(result) === wanted ? undefined : `${wanted} was answered by ${JSON.stringify(result)}`;

/** One client for as long as the soak lasts: it calls, thinks, leaves in the middle, and begins anew. */
export class SoakClient {
  readonly #world: World;
  readonly #draw: Draw;
  readonly #character: Character;
  readonly #name: string;
  #session: string | undefined;
  #sessionBeganMs = 0;
  #calls = 0;
  #notes: string[] = [];
  #lastNoteMs = 0;
  #stream: Exchange | undefined;

  constructor(world: World, name: string, character: Character, draw: Draw) {
    this.#world = world;
    this.#name = name;
    this.#character = character;
    this.#draw = draw;
  }

  /** Resolves when the soak is over and the last call has ended. */
  async live(): Promise<void> {
    const { thinkMs, sleep, isOver, up } = this.#world;
    await sleep(this.#draw.between(0, 2 * thinkMs));
    while (!isOver()) {
      await up();
      if (this.#character.era === 'legacy' && this.#session === undefined) await this.#begin();
      if (this.#character.era === 'modern' || this.#session !== undefined) {
        if (this.#character.isListener && (this.#stream?.isOver ?? true)) this.#listen();
        await this.#act();
      }
      await sleep(this.#draw.between(0.2 * thinkMs, 1.8 * thinkMs));
    }
    this.#stream?.drop();
  }

  async #act(): Promise<void> {
    if (this.#draw.chance(this.#world.renewal)) return this.#renew();
    if (this.#draw.chance(0.05)) return this.#list();
    if (this.#character.isNoteTaker && this.#draw.chance(0.7)) return this.#takeNote();
    if (this.#draw.chance(0.01)) return this.#crash();
    const server = this.#draw.pick(common.filter((name) => this.#world.isOpen(name)));
    if (server !== undefined) await this.#call(server, this.#drawCall());
  }

  #drawCall(): Call {
    const marker = this.#marker();
    const kind = this.#draw.weighted({ echo: 70, sleep: 8, progress: 8, big: 3, error: 5, leave: 6 });
    switch (kind) {
      case 'sleep': {
        const ms = this.#draw.whole(10, 1500);
        return { name: 'sleep', args: { ms }, judge: isText(`slept ${ms} ms`) };
      }
      case 'progress': {
        const steps = this.#draw.whole(2, 9);
        return { name: 'progress', args: { steps, ms: 20 }, judge: isText(`${steps} steps`) };
      }
      case 'big': {
        const bytes = this.#draw.whole(1000, 300_000);
        const judge = (result: Any) =>
          text(result).length === bytes
            ? undefined
            : `${text(result).length} bytes came in place of ${bytes}`;
        return { name: 'big', args: { bytes }, judge };
      }
      case 'error':
        return {
          name: 'rpc_error',
          args: { message: marker },
          judge: () => 'no error',
          judgeError: ({ message }) => (String(message).includes(marker) ? undefined : false),
        };
      case 'leave': {
        const leaveAfterMs = this.#draw.whole(1, 1500);
        return { name: 'sleep', args: { ms: 1000 }, leaveAfterMs, judge: isText('slept 1000 ms') };
      }
      default:
        return { name: 'echo', args: { text: marker }, judge: isText(marker) };
    }
  }

  /** Adds a note, or compares what is there: whatever was lost must have been said. */
  async #takeNote(): Promise<void> {
    const note = this.#marker();
    const isFirst = this.#notes.length === 0;
    const began = this.#world.now();
    const lose = () => {
      this.#notes = [];
    };
    if (isFirst || this.#draw.chance(0.5)) {
      const count = this.#notes.length + 1;
      const judge = (result: Any) => this.#judgeNotes(text(result), `${count} notes`);
      const isAnswered = await this.#call('own', { name: 'add', args: { note }, judge }, lose);
      if (isAnswered) this.#notes.push(note);
    } else {
      const judge = (result: Any) => this.#judgeNotes(text(result), JSON.stringify({ notes: this.#notes }));
      await this.#call('own', { name: 'list', args: {}, judge }, lose);
    }
    this.#lastNoteMs = began;
  }

  #judgeNotes(found: string, expected: string): string | undefined {
    if (found.replace(/\s/g, '') === expected.replace(/\s/g, '')) return undefined;
    const since = `last used at ${(this.#lastNoteMs / 1000).toFixed(2)} s`;
    // Once is enough: it goes on in a session of its own.
    this.#session = undefined;
    this.#notes = [];
    return `notes of ${this.#name}, ${since}: expected ${expected}, found ${found}`;
  }

  /** Takes the server down, and must be told so. */
  async #crash(): Promise<void> {
    const over = this.#world.ledger.fault('crash');
    const judgeError = ({ message, data }: Any) =>
      data?.code === 'instance_crashed' && /Server crash .*the tool crash was called/s.test(message)
        ? undefined
        : false;
    const judge = () => 'answered a crash';
    await this.#call('crash', { name: 'crash', args: { code: this.#draw.whole(1, 120) }, judge, judgeError });
    over();
  }

  /** Every list is the same at all times. */
  async #list(): Promise<void> {
    const attempt = this.#attempt('gateway', 'tools/list');
    const exchange = await this.#exchange('tools/list', {}, attempt);
    const message = exchange && this.#answerOf(exchange, attempt);
    if (!message?.result) return;
    const names = new Set(message.result.tools.map((tool: Any) => tool.name));
    const missing = [...common.map((server) => `${server}__echo`), 'own__add', 'crash__crash'].filter(
      (name) => !names.has(name),
    );
    if (missing.length > 0) this.#world.ledger.isLost(attempt, `the list lacks ${missing.join(', ')}`);
    else this.#world.ledger.answered += 1;
  }

  /** True when it was answered as it should be. `onLoss` when the answer says that memory was lost. */
  async #call(server: ServerName, call: Call, onLoss = () => {}): Promise<boolean> {
    const { ledger } = this.#world;
    const attempt = this.#attempt(server, `${call.name} of ${this.#name}`);
    const params = { name: `${server}__${call.name}`, arguments: call.args };
    const exchange = await this.#exchange('tools/call', params, attempt, call.leaveAfterMs);
    if (!exchange) return false;
    const message = this.#answerOf(exchange, attempt, call.judgeError, onLoss);
    if (!message) return false;
    const wrong = message.error ? call.judgeError?.(message.error) : call.judge(message.result);
    if (wrong) ledger.isCrossed(attempt, wrong);
    else ledger.answered += 1;
    return !wrong;
  }

  /** The answer, unless there is none or it is an error that was not to come; then the ledger has it. */
  #answerOf(exchange: Exchange, attempt: Attempt, judgeError?: Call['judgeError'], onLoss = () => {}): Any {
    const { ledger } = this.#world;
    const last = exchange.messages.at(-1);
    const isAnswer = last !== undefined && (last.result !== undefined || last.error !== undefined);
    if (!isAnswer) {
      const { status } = exchange;
      const isRefused = status !== undefined && status >= 300;
      ledger.failed(
        attempt,
        isRefused ? { kind: 'error', code: undefined, message: `status ${status}` } : { kind: 'dropped' },
      );
      return undefined;
    }
    if (last.error === undefined) return last;
    const { message, data } = last.error;
    if (judgeError && judgeError(last.error) !== false) return last;
    if (/memory.* is lost/.test(message)) {
      onLoss();
      // Told once, at the next call, however long after the fault that is.
      if (ledger.wasFaulty(attempt.server, this.#lastNoteMs)) {
        ledger.excused += 1;
        return undefined;
      }
    }
    if (data?.code === 'session_unknown') {
      const isNew = this.#sessionBeganMs + sessionWrittenMs > attempt.startedAtMs;
      this.#session = undefined;
      this.#notes = [];
      if (isNew && ledger.wasFaulty(attempt.server, this.#sessionBeganMs)) {
        ledger.excused += 1;
        return undefined;
      }
    }
    ledger.failed(attempt, { kind: 'error', code: data?.code, message: String(message) });
    return undefined;
  }

  /** undefined: there is nothing to judge. */
  async #exchange(
    method: string,
    params: object,
    attempt: Attempt,
    leaveAfterMs?: number,
  ): Promise<Exchange | undefined> {
    const { ledger, sleep } = this.#world;
    const id = ++this.#calls;
    const token = `${this.#name}-${id}`;
    const exchange = this.#post(method, params, id, token, (message) => {
      const isOwn = message.method
        ? message.params?.progressToken === token || /list_changed$/.test(message.method)
        : message.id === id || message.id === null;
      if (!isOwn) ledger.isCrossed(attempt, `request ${token} received ${JSON.stringify(message)}`);
    });
    if (leaveAfterMs !== undefined) {
      await Promise.race([exchange.ended, sleep(leaveAfterMs)]);
      if (!exchange.isOver) {
        exchange.drop();
        ledger.left += 1;
        return undefined;
      }
    }
    let timer: NodeJS.Timeout | undefined;
    const limit = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, answerLimitMs);
    });
    await Promise.race([exchange.ended, limit]);
    clearTimeout(timer);
    if (exchange.isOver) return exchange;
    exchange.drop();
    ledger.failed(attempt, { kind: 'unanswered' });
    return undefined;
  }

  #post(
    method: string,
    params: object,
    id: number,
    token: string,
    onMessage: (message: Any) => void,
  ): Exchange {
    const { url, agent } = this.#world;
    const isModern = this.#character.era === 'modern';
    const _meta = isModern ? modernMeta({}, { progressToken: token }) : { progressToken: token };
    const name = (params as { name?: string }).name;
    const headers: Record<string, string> = isModern
      ? {
          'mcp-protocol-version': '2026-07-28',
          'mcp-method': method,
          'mcp-gateway-client': this.#name,
          ...(name !== undefined && { 'mcp-name': name }),
        }
      : this.#sessionHeaders();
    const body = { jsonrpc: '2.0', id, method, params: { ...params, _meta } };
    return new Exchange(url, { agent, headers, body, onMessage });
  }

  /** What the server says on its own: nothing that belongs to a call of anybody may be there. */
  #listen(): void {
    const { url, agent, ledger } = this.#world;
    const attempt = this.#attempt('gateway', `stream of ${this.#name}`);
    const judge = (message: Any) => {
      if (message.error) {
        const { code } = message.error.data ?? {};
        if (code === 'session_unknown') this.#session = undefined;
        ledger.failed(attempt, { kind: 'error', code, message: String(message.error.message) });
        return;
      }
      const isFine =
        message.id !== undefined
          ? message.id === id
          : /^notifications\/(tools|prompts|resources|subscriptions)\//.test(message.method);
      if (!isFine) ledger.isCrossed(attempt, JSON.stringify(message));
    };
    const id = ++this.#calls;
    this.#stream =
      this.#character.era === 'modern'
        ? this.#post(
            'subscriptions/listen',
            { notifications: { toolsListChanged: true } },
            id,
            `${id}`,
            judge,
          )
        : new Exchange(url, { method: 'GET', agent, headers: this.#sessionHeaders(), onMessage: judge });
  }

  /** Ends its session, or only forgets it, and goes on as somebody new. */
  async #renew(): Promise<void> {
    this.#stream?.drop();
    this.#stream = undefined;
    if (this.#session === undefined) return;
    if (this.#draw.chance(0.5)) {
      const { url, agent } = this.#world;
      await new Exchange(url, { method: 'DELETE', agent, headers: this.#sessionHeaders() }).ended;
    }
    this.#session = undefined;
    this.#notes = [];
  }

  async #begin(): Promise<void> {
    const { url, agent, ledger, now } = this.#world;
    const attempt = this.#attempt('gateway', 'initialize');
    const params = {
      protocolVersion: '2025-11-25',
      capabilities: {},
      clientInfo: { name: this.#name, version: '1' },
    };
    const began = new Exchange(url, { agent, body: { jsonrpc: '2.0', id: 0, method: 'initialize', params } });
    await began.ended;
    if (!this.#answerOf(began, attempt)?.result) return;
    ledger.answered += 1;
    this.#session = String(began.headers['mcp-session-id']);
    this.#sessionBeganMs = now();
    const body = { jsonrpc: '2.0', method: 'notifications/initialized' };
    await new Exchange(url, { agent, headers: this.#sessionHeaders(), body }).ended;
  }

  #sessionHeaders(): Record<string, string> {
    return { 'mcp-session-id': this.#session!, 'mcp-protocol-version': '2025-11-25' };
  }

  #marker(): string {
    return `${this.#name}:${this.#calls + 1}:${this.#draw.whole(0, 1e9)}`;
  }

  #attempt(server: ServerName | 'gateway', what: string): Attempt {
    return { server, what, startedAtMs: this.#world.now() };
  }
}
