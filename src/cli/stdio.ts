import { randomUUID } from 'node:crypto';
import type { RawData, WebSocket } from 'ws';
import { sleep } from '../base/async.ts';
import { GatewayError, messageOf } from '../base/errors.ts';
import type { GatewayConfig } from '../config/schema.ts';
import { failureOf } from '../gateway/failure.ts';
import { LineFramer } from '../protocol/framing.ts';
import {
  type Id,
  idKey,
  isId,
  isObject,
  type Json,
  type Message,
  type Notification,
  type Params,
  parseMessage,
} from '../protocol/jsonrpc.ts';
import { metaKeys } from '../protocol/modern.ts';
import { BackgroundGateway } from './background.ts';
import { locate } from './client.ts';
import type { ConfigOptions, ExitCode } from './program.ts';

interface StdioOptions extends ConfigOptions {
  server?: string;
  logLevel?: string;
  allowUnauthenticated?: boolean;
  fallback?: boolean;
  endWhenUnused: string;
}

/** What gateways take and give where their configuration is not at hand. */
const defaults: Pick<GatewayConfig, 'maxBodyBytes' | 'maxMessageBytes' | 'drainTimeoutMs'> = {
  maxBodyBytes: 4 * 1024 * 1024,
  maxMessageBytes: 64 * 1024 * 1024,
  drainTimeoutMs: 30_000,
};

/** `stdio`: an MCP server on stdin and stdout, by way of the running gateway or of one that it starts. */
export async function stdio(options: StdioOptions): Promise<ExitCode> {
  const { base, config, problem } = await locate(options);
  if (base.port === '0') {
    throw new GatewayError(
      'config_invalid',
      'gateway.port is 0: nobody can know where the gateway listens.',
      {
        hint: 'Choose a port with --port or gateway.port.',
      },
    );
  }
  const { maxBodyBytes, maxMessageBytes, drainTimeoutMs } = config?.gateway ?? defaults;
  const url = new URL(options.server ? `/${encodeURIComponent(options.server)}/mcp` : '/mcp', base);
  url.protocol = 'ws:';
  const tell = (text: string) => void process.stderr.write(`mcp-gateway: ${text}\n`);
  const gateway = new BackgroundGateway({
    url,
    // Its instances of servers that are not shared are its own.
    headers: { 'mcp-gateway-client': `stdio-${randomUUID()}` },
    // A list has the results of many servers.
    maxMessageBytes: maxMessageBytes * 4,
    startArguments: startArguments(options),
    gatewayConfig() {
      if (!config) throw problem;
      return config.gateway;
    },
    tell,
  });
  const proxy = new StdioProxy({ gateway, maxBodyBytes, drainTimeoutMs, tell });
  // Nothing else may keep the process alive while it waits for a gateway.
  const alive = setInterval(() => {}, 60_000);
  let signals = 0;
  const onSignal = () => {
    signals += 1;
    if (signals === 1) proxy.end();
    else proxy.abort();
  };
  process.on('SIGTERM', onSignal);
  process.on('SIGINT', onSignal);
  try {
    const framer = new LineFramer({
      maxBytes: Math.max(maxMessageBytes, maxBodyBytes),
      onLine: (line) => proxy.takeLine(line.toString('utf8')),
      onOversize: (bytes) => proxy.refuse(null, tooLarge(bytes, maxBodyBytes)),
    });
    process.stdout.on('error', () => proxy.abort());
    void read(framer, proxy);
    await proxy.run();
    await new Promise((flushed) => process.stdout.write('', flushed));
    return 0;
  } finally {
    clearInterval(alive);
    process.off('SIGTERM', onSignal);
    process.off('SIGINT', onSignal);
    process.stdin.destroy();
  }
}

/** Takes what the client writes, no faster than it can be passed on. */
async function read(framer: LineFramer, proxy: StdioProxy): Promise<void> {
  try {
    for await (const chunk of process.stdin) {
      for (let rest: Buffer = chunk; rest.length > 0; ) rest = rest.subarray(framer.push(rest));
      while (proxy.isFull) await sleep(10);
    }
    framer.end();
  } catch {
    // stdin was closed from this side: there is nothing more to read
  }
  proxy.end();
}

function startArguments(options: StdioOptions): string[] {
  const file = options.config ?? options.registry;
  return [
    ...(file === undefined ? [] : ['--config', file]),
    ...(options.host === undefined ? [] : ['--host', options.host]),
    ...(options.port === undefined ? [] : ['--port', String(options.port)]),
    ...(options.logLevel === undefined ? [] : ['--log-level', options.logLevel]),
    ...(options.allowUnauthenticated ? ['--allow-unauthenticated'] : []),
    ...(options.fallback ? ['--fallback'] : []),
    '--end-when-unused',
    options.endWhenUnused,
  ];
}

/** A request of the client that has no answer yet. */
interface InFlight {
  id: Id;
  method: string;
  params: Params;
  /** As it came; only of what is sent again when the gateway is another one. */
  text: string | undefined;
  /** `lost`: the gateway that had it has gone, and the next one is to have it. */
  state: 'waiting' | 'sent' | 'lost';
  /** A listen stream whose client knows what was agreed to. */
  isAcknowledged: boolean;
}

const listenMethod = 'subscriptions/listen';
const lists = ['tools', 'resources', 'prompts'];
/** Requests that a client waits for as long as it lives, or that begin everything: sent again, not failed. */
const isLasting = (method: string) => method === 'initialize' || method === listenMethod;
/** What waits for the gateway, or for it to read, before the client is made to wait. */
const maxWaitingBytes = 16 * 1024 * 1024;
/** Of requests that are our own. */
const replayPrefix = 'stdio-replay-';

/**
 * Passes messages between one client and the gateway, line by line and as they are. When the gateway goes away it connects to the
 * next one and begins the client's session there anew, so that the conversation goes on.
 */
class StdioProxy {
  readonly #gateway: BackgroundGateway;
  readonly #maxBodyBytes: number;
  readonly #drainTimeoutMs: number;
  readonly #tell: (text: string) => void;
  #socket: WebSocket | undefined;
  /** What the client sent while no gateway was there. */
  #waiting: string[] = [];
  #waitingBytes = 0;
  readonly #inFlight = new Map<string, InFlight>();
  /** The gateway's questions to the client. */
  readonly #questions = new Map<string, Id>();
  /** What makes a session of the next gateway the same as this one, by what it is about; texts of requests. */
  readonly #session = new Map<string, { method: string; params: Params }>();
  #isInitialized = false;
  /** Answers to requests that are our own. */
  readonly #replays = new Map<string, (message: Message) => void>();
  #nextReplay = 1;
  #isEnding = false;
  readonly #aborted = new AbortController();

  constructor(options: {
    gateway: BackgroundGateway;
    maxBodyBytes: number;
    drainTimeoutMs: number;
    tell(text: string): void;
  }) {
    this.#gateway = options.gateway;
    this.#maxBodyBytes = options.maxBodyBytes;
    this.#drainTimeoutMs = options.drainTimeoutMs;
    this.#tell = options.tell;
  }

  /** Whether so much waits that the client has to. */
  get isFull(): boolean {
    if (this.#aborted.signal.aborted) return false;
    return this.#waitingBytes + (this.#socket?.bufferedAmount ?? 0) > maxWaitingBytes;
  }

  /** Runs until the client has gone. Rejects with why no gateway can be reached. */
  async run(): Promise<void> {
    const { signal } = this.#aborted;
    for (let isFirst = true; !this.#isOver; isFirst = false) {
      let socket: WebSocket;
      try {
        socket = await this.#gateway.connect(() => isFirst || this.#waiting.length > 0, signal);
      } catch (error) {
        if (signal.aborted) return;
        this.#failAll(error);
        throw error;
      }
      this.#tell(
        `${isFirst ? 'connected' : 'connected again'} to the gateway at ${new URL(socket.url).host}`,
      );
      await this.#converse(socket, isFirst);
    }
    this.#socket?.close(1000);
  }

  /** The client says nothing more: it gets what it still waits for, within a bound. */
  end(): void {
    if (this.#isEnding) return;
    this.#isEnding = true;
    void sleep(this.#drainTimeoutMs, { signal: this.#aborted.signal })
      .then(() => this.abort())
      .catch(() => {});
    this.#endIfOver();
  }

  /** Ends now. */
  abort(): void {
    this.#aborted.abort(new Error('stdio has ended'));
    this.#socket?.terminate();
  }

  /** Answers a request in the gateway's place. */
  refuse(id: Id | null, error: unknown): void {
    this.#write(JSON.stringify(failureOf(id, error)));
  }

  /** Takes a line of the client. */
  takeLine(text: string): void {
    const messages = messagesIn(text);
    const bytes = Buffer.byteLength(text);
    if (bytes > this.#maxBodyBytes) {
      const requests = messages.filter((message) => 'method' in message && 'id' in message);
      const [first] = requests as { id: Id }[];
      this.refuse(
        requests.length === 1 && isId(first!.id) ? first!.id : null,
        tooLarge(bytes, this.#maxBodyBytes),
      );
      return;
    }
    for (const message of messages) this.#noteOutgoing(message, text);
    this.#send(text);
  }

  get #isOver(): boolean {
    if (this.#aborted.signal.aborted) return true;
    if (!this.#isEnding || this.#waiting.length > 0) return false;
    return [...this.#inFlight.values()].every(({ method }) => method === listenMethod);
  }

  #endIfOver(): void {
    if (!this.#isOver) return;
    // One that is waited for without anybody wanting it would be waited for for ever.
    if (this.#socket) this.#socket.close(1000);
    else this.abort();
  }

  #noteOutgoing(message: Message, text: string): void {
    if (!('method' in message)) {
      if (isId(message.id)) this.#questions.delete(idKey(message.id));
      return;
    }
    const { method } = message;
    // What is wrong with it is the gateway's to say.
    if (typeof method !== 'string') return;
    const params = isObject(message.params) ? message.params : {};
    if ('id' in message) {
      if (!isId(message.id)) return;
      const kept = isLasting(method) ? text : undefined;
      this.#inFlight.set(idKey(message.id), {
        id: message.id,
        method,
        params,
        text: kept,
        state: this.#isOpen ? 'sent' : 'waiting',
        isAcknowledged: false,
      });
    } else if (method === 'notifications/initialized') {
      this.#isInitialized = true;
    } else if (method === 'notifications/cancelled' && isId(params.requestId)) {
      this.#inFlight.delete(idKey(params.requestId));
    }
  }

  /** Whether the client is to see what came from the gateway. */
  #noteIncoming(message: Message): boolean {
    if ('method' in message) {
      const { method, params = {} } = message;
      if ('id' in message) this.#questions.set(idKey(message.id), message.id);
      else if (method === 'notifications/cancelled' && isId(params.requestId))
        this.#questions.delete(idKey(params.requestId));
      else if (method === 'notifications/subscriptions/acknowledged') return !this.#isReopened(params);
      return true;
    }
    if (!isId(message.id)) return true;
    const key = idKey(message.id);
    const replayed = this.#replays.get(key);
    if (replayed) {
      this.#replays.delete(key);
      replayed(message);
      return false;
    }
    const request = this.#inFlight.get(key);
    if (!request) return true;
    // The gateway ends a listen stream only when it ends itself; the next one opens it again.
    if (request.method === listenMethod && 'result' in message) return false;
    this.#inFlight.delete(key);
    if ('result' in message) this.#remember(request);
    return true;
  }

  /** A listen stream of the client goes on at another gateway, whose lists may be others. */
  #isReopened({ _meta, notifications }: Params): boolean {
    const id = isObject(_meta) ? _meta[metaKeys.subscriptionId] : undefined;
    const request = isId(id) ? this.#inFlight.get(idKey(id)) : undefined;
    if (!request?.isAcknowledged) {
      if (request) request.isAcknowledged = true;
      return false;
    }
    const agreed = isObject(notifications) ? notifications : {};
    for (const list of lists)
      if (agreed[`${list}ListChanged`] === true) this.#notifyListChanged(list, { _meta });
    return true;
  }

  #remember({ method, params }: InFlight): void {
    if (method === 'initialize') {
      this.#session.clear();
      this.#session.set(method, { method, params });
    } else if (method === 'logging/setLevel') this.#session.set(method, { method, params });
    else if (method === 'resources/subscribe') this.#session.set(`${params.uri}`, { method, params });
    else if (method === 'resources/unsubscribe') this.#session.delete(`${params.uri}`);
  }

  get #isOpen(): boolean {
    return this.#socket?.readyState === this.#socket?.OPEN && this.#socket !== undefined;
  }

  #send(text: string): void {
    if (this.#isOpen) {
      this.#socket!.send(text);
      return;
    }
    this.#waiting.push(text);
    this.#waitingBytes += text.length;
  }

  /** Passes messages on until the connection ends. */
  async #converse(socket: WebSocket, isFirst: boolean): Promise<void> {
    if (this.#aborted.signal.aborted) socket.terminate();
    const closed = new Promise<void>((resolve) => {
      socket.once('close', (code, reason) => {
        if (!this.#isOver) {
          const why = String(reason) || `code ${code}`;
          this.#tell(`the gateway has gone (${why}); its next answer comes from the next one`);
        }
        resolve();
      });
    });
    socket.on('error', (error) => this.#tell(`the connection failed: ${messageOf(error)}`));
    socket.on('message', (data) => this.#takeMessage(socket, data));
    try {
      if (!isFirst) await Promise.race([this.#resume(socket), closed]);
      if (socket.readyState === socket.OPEN) {
        this.#socket = socket;
        const waiting = this.#waiting;
        this.#waiting = [];
        this.#waitingBytes = 0;
        for (const { state, text } of this.#inFlight.values()) if (state === 'lost') socket.send(text!);
        for (const text of waiting) socket.send(text);
        for (const request of this.#inFlight.values()) request.state = 'sent';
        this.#endIfOver();
      }
      await closed;
    } finally {
      this.#socket = undefined;
      this.#replays.clear();
      this.#lose();
    }
  }

  #takeMessage(socket: WebSocket, data: RawData): void {
    const text = String(data);
    const messages = messagesIn(text);
    // Of a batch the client sees all: nothing of ours is in one.
    const isSeen = messages.map((message) => this.#noteIncoming(message)).every(Boolean);
    if (isSeen && !this.#write(text) && !socket.isPaused) {
      socket.pause();
      process.stdout.once('drain', () => socket.resume());
    }
    if (this.#isEnding) this.#endIfOver();
  }

  /** Begins the client's session again, so that the new gateway knows what the old one knew. */
  async #resume(socket: WebSocket): Promise<void> {
    const ask = (method: string, params: Params) =>
      new Promise<Message>((resolve) => {
        const id = `${replayPrefix}${this.#nextReplay++}`;
        this.#replays.set(idKey(id), resolve);
        socket.send(JSON.stringify({ jsonrpc: '2.0', id, method, params }));
      });
    let capabilities: Params = {};
    for (const { method, params } of [...this.#session.values()]) {
      const answer = await ask(method, params);
      if ('error' in answer) this.#tell(`${method} could not be repeated: ${answer.error.message}`);
      else if (method === 'initialize') {
        const { result } = answer as { result: Params };
        if (isObject(result.capabilities)) capabilities = result.capabilities;
        if (this.#isInitialized)
          socket.send(JSON.stringify({ jsonrpc: '2.0', method: 'notifications/initialized' }));
      }
    }
    // Its lists may be others.
    if (!this.#isInitialized) return;
    for (const list of lists) {
      const offered = capabilities[list];
      if (isObject(offered) && offered.listChanged === true) this.#notifyListChanged(list);
    }
  }

  /** What was under way at a gateway that has gone: lasting requests wait for the next, the others are over. */
  #lose(): void {
    for (const [key, request] of this.#inFlight) {
      const { id, method, text, state } = request;
      if (state !== 'sent') continue;
      if (text === undefined) {
        this.#inFlight.delete(key);
        this.refuse(id, lost());
      } else if (method === listenMethod) {
        // Nobody asks anew for it, so that it is no reason to start a gateway which somebody has ended on purpose.
        request.state = 'lost';
      } else {
        request.state = 'waiting';
        this.#waiting.unshift(text);
        this.#waitingBytes += text.length;
      }
    }
    for (const id of this.#questions.values()) {
      const params = { requestId: id, reason: 'The gateway that asked has gone' };
      this.#notify({ jsonrpc: '2.0', method: 'notifications/cancelled', params });
    }
    this.#questions.clear();
  }

  #failAll(error: unknown): void {
    for (const { id } of this.#inFlight.values()) this.refuse(id, error);
    this.#inFlight.clear();
  }

  #notifyListChanged(list: string, params?: Params): void {
    this.#notify({ jsonrpc: '2.0', method: `notifications/${list}/list_changed`, ...(params && { params }) });
  }

  #notify(notification: Notification): void {
    this.#write(JSON.stringify(notification));
  }

  /** False when the client has to read first. */
  #write(text: string): boolean {
    return process.stdout.write(`${text}\n`);
  }
}

/** The messages in a text: one, those of a batch, or none that can be told. Nothing of them is checked: the other side does. */
function messagesIn(text: string): Message[] {
  try {
    const value: Json = parseMessage(text);
    return (Array.isArray(value) ? value : [value]).filter(isObject) as unknown as Message[];
  } catch {
    return [];
  }
}

const tooLarge = (bytes: number, maxBytes: number) =>
  new GatewayError('body_too_large', `The message has ${bytes} bytes, more than ${maxBytes}.`, {
    hint: 'Send less, or raise gateway.max_body.',
  });

const lost = () =>
  new GatewayError('gateway_unreachable', 'The gateway went away before it answered.', {
    hint: 'It may have been done all the same: look, then send it again. The next request finds or starts a gateway.',
  });
