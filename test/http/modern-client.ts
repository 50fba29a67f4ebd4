import type { TestGateway } from '../harness.ts';

// biome-ignore lint/suspicious/noExplicitAny: a test reads whatever came
type Any = any;

const key = (name: string) => `io.modelcontextprotocol/${name}`;

/** The `_meta` that every modern request carries. */
export function modernMeta(capabilities: object = {}, more: object = {}) {
  return {
    [key('protocolVersion')]: '2026-07-28',
    [key('clientInfo')]: { name: 'test-client', version: '1.2.3' },
    [key('clientCapabilities')]: capabilities,
    ...more,
  };
}

/** What came of one modern request. */
export interface ModernAnswer {
  status: number;
  type: string;
  /** The answer, and what came before it. */
  answer: Any;
  before: Any[];
}

/** A modern client without any library: every header and byte as a test wants it. */
export class ModernClient {
  readonly url: URL;
  capabilities: object;
  headers: Record<string, string>;
  #nextId = 1;

  constructor(
    gateway: TestGateway,
    endpoint = '/mcp',
    capabilities: object = {},
    headers: Record<string, string> = {},
  ) {
    this.url = gateway.url(endpoint);
    this.capabilities = capabilities;
    this.headers = headers;
  }

  /** The request as it would be sent; `meta` is added to what it must carry. */
  message(method: string, params: Any = {}, meta: object = {}) {
    return {
      jsonrpc: '2.0',
      id: this.#nextId++,
      method,
      params: { ...params, _meta: modernMeta(this.capabilities, meta) },
    };
  }

  /** Sends a message as it is; headers repeat it unless given, an empty one is left out. */
  async send(message: Any, headers: Record<string, string> = {}, signal?: AbortSignal): Promise<Response> {
    const { method, params } = message;
    const name = params?.name ?? params?.uri ?? params?.taskId;
    const all: Record<string, string> = {
      'content-type': 'application/json',
      accept: 'application/json, text/event-stream',
      'mcp-protocol-version': '2026-07-28',
      ...(method && { 'mcp-method': method }),
      ...(typeof name === 'string' && { 'mcp-name': name }),
      ...this.headers,
      ...headers,
    };
    for (const [header, value] of Object.entries(all)) if (value === '') delete all[header];
    return fetch(this.url, { method: 'POST', headers: all, body: JSON.stringify(message), signal });
  }

  async post(message: Any, headers?: Record<string, string>): Promise<ModernAnswer> {
    const response = await this.send(message, headers);
    const text = await response.text();
    const type = response.headers.get('content-type') ?? '';
    const messages = type.startsWith('text/event-stream') ? eventsOf(text) : text ? [JSON.parse(text)] : [];
    return { status: response.status, type, answer: messages.at(-1), before: messages.slice(0, -1) };
  }

  request(method: string, params?: Any, meta?: object): Promise<ModernAnswer> {
    return this.post(this.message(method, params, meta));
  }

  call(name: string, args: object = {}, more: Any = {}, meta?: object): Promise<ModernAnswer> {
    return this.request('tools/call', { name, arguments: args, ...more }, meta);
  }

  /** Opens a stream and reads on; `messages` grows. */
  async open(method: string, params: Any = {}, meta: object = {}) {
    const abort = new AbortController();
    const message = this.message(method, params, meta);
    const response = await this.send(message, {}, abort.signal);
    const messages: Any[] = [];
    const read = async () => {
      let rest = '';
      const decoder = new TextDecoder();
      for await (const chunk of response.body!) {
        const events = (rest + decoder.decode(chunk, { stream: true })).split('\n\n');
        rest = events.pop()!;
        for (const event of events) messages.push(...eventsOf(event));
      }
    };
    const ended = read().catch(() => {});
    return { id: message.id, status: response.status, messages, ended, close: () => abort.abort() };
  }
}

function eventsOf(text: string): Any[] {
  return text
    .split('\n\n')
    .map((event) => /^data: (.+)$/m.exec(event)?.[1])
    .filter((data) => data !== undefined)
    .map((data) => JSON.parse(data));
}
