import { type Agent, type ClientRequest, type IncomingMessage, request } from 'node:http';

// biome-ignore lint/suspicious/noExplicitAny: a test reads whatever came
type Any = any;

export interface ExchangeOptions {
  method?: 'POST' | 'GET' | 'DELETE';
  headers?: Record<string, string>;
  body?: unknown;
  agent?: Agent;
  /** Told each JSON-RPC message in the moment in which it comes. */
  onMessage?(message: Any, exchange: Exchange): void;
}

/** One HTTP request and its answer, message by message, which can be dropped in the middle like a lost connection. */
export class Exchange {
  readonly url: URL;
  readonly messages: Any[] = [];
  /** The ids of events, in the order in which they came. */
  readonly eventIds: string[] = [];
  status: number | undefined;
  headers: IncomingMessage['headers'] = {};
  isDropped = false;
  isOver = false;
  /** Resolves when the answer has begun, or will not. */
  readonly begun: Promise<void>;
  /** Resolves when nothing more comes, however that came about. */
  readonly ended: Promise<void>;
  readonly #request: ClientRequest;
  readonly #onMessage: ExchangeOptions['onMessage'];

  constructor(url: URL, { method = 'POST', headers = {}, body, agent, onMessage }: ExchangeOptions) {
    this.url = url;
    this.#onMessage = onMessage;
    const all = {
      accept: method === 'GET' ? 'text/event-stream' : 'application/json, text/event-stream',
      ...(body !== undefined && { 'content-type': 'application/json' }),
      ...headers,
    };
    const sent = request(url, { method, headers: all, agent });
    this.#request = sent;
    const response = new Promise<IncomingMessage | undefined>((resolve) => {
      sent.once('response', resolve);
      sent.on('error', () => resolve(undefined));
      sent.once('close', () => resolve(undefined));
    });
    this.begun = response.then(() => {});
    this.ended = response
      .then((incoming) => incoming && this.#read(incoming))
      .catch(() => {})
      .then(() => {
        this.isOver = true;
      });
    sent.end(body === undefined ? undefined : JSON.stringify(body));
  }

  get lastEventId(): string | undefined {
    return this.eventIds.at(-1);
  }

  /** What is on the way is lost. */
  drop(): void {
    this.isDropped = true;
    this.#request.destroy();
  }

  async #read(incoming: IncomingMessage): Promise<void> {
    this.status = incoming.statusCode;
    this.headers = incoming.headers;
    incoming.setEncoding('utf8');
    const isStream = incoming.headers['content-type']?.startsWith('text/event-stream');
    let rest = '';
    for await (const chunk of incoming) {
      rest += chunk;
      if (!isStream) continue;
      const events = rest.split('\n\n');
      rest = events.pop()!;
      for (const event of events) this.#takeEvent(event);
    }
    if (!isStream && rest.trim() !== '') for (const message of [JSON.parse(rest)].flat()) this.#take(message);
  }

  #takeEvent(event: string): void {
    if (this.isDropped) return;
    const id = /^id: (.+)$/m.exec(event)?.[1];
    if (id !== undefined) this.eventIds.push(id);
    const data = /^data: (.+)$/m.exec(event)?.[1];
    if (data !== undefined) this.#take(JSON.parse(data));
  }

  #take(message: Any): void {
    if (this.isDropped) return;
    this.messages.push(message);
    this.#onMessage?.(message, this);
  }
}
