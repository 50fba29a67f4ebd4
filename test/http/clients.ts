import {
  Client as ClientV2,
  StreamableHTTPClientTransport as TransportV2,
} from '@modelcontextprotocol/client';
import { Client, type ClientOptions } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import type { TestGateway } from '../harness.ts';

const info = { name: 'test-client', version: '1.2.3' };

/** The SDK v1 client, connected. */
export async function connectV1(
  gateway: TestGateway,
  endpoint = '/mcp',
  capabilities: ClientOptions['capabilities'] = {},
) {
  const client = new Client(info, { capabilities });
  await client.connect(new StreamableHTTPClientTransport(gateway.url(endpoint)));
  return client;
}

/** The SDK v2 client in its legacy mode, connected. */
export async function connectV2(
  gateway: TestGateway,
  endpoint = '/mcp',
  capabilities: Record<string, unknown> = {},
) {
  const client = new ClientV2(info, { capabilities });
  await client.connect(new TransportV2(gateway.url(endpoint)));
  return client;
}

/** A client without any library: one session, every byte visible. */
export class RawHttpClient {
  readonly url: URL;
  headers: Record<string, string> = {};
  #nextId = 1;

  constructor(gateway: TestGateway, endpoint = '/mcp') {
    this.url = gateway.url(endpoint);
  }

  /** Sends any body; the answer's JSON-RPC messages in `messages`, whether it came as JSON or as a stream. */
  async post(body: unknown, headers: Record<string, string> = {}) {
    const response = await fetch(this.url, {
      method: 'POST',
      headers: {
        'content-type': 'application/json',
        accept: 'application/json, text/event-stream',
        ...this.headers,
        ...headers,
      },
      body: typeof body === 'string' ? body : JSON.stringify(body),
    });
    const text = await response.text();
    const type = response.headers.get('content-type') ?? '';
    const messages = type.startsWith('text/event-stream')
      ? eventsOf(text)
      : text === ''
        ? []
        : [JSON.parse(text)].flat();
    return { status: response.status, type, headers: response.headers, text, messages };
  }

  async initialize(protocolVersion = '2025-11-25', capabilities: object = {}) {
    const answer = await this.post({
      jsonrpc: '2.0',
      id: 'init',
      method: 'initialize',
      params: { protocolVersion, capabilities, clientInfo: info },
    });
    this.headers['mcp-session-id'] = answer.headers.get('mcp-session-id') ?? '';
    await this.post({ jsonrpc: '2.0', method: 'notifications/initialized' });
    return answer.messages[0];
  }

  /** A request; its answer, and what came before it. */
  async request(method: string, params?: object, id: unknown = this.#nextId++) {
    const { messages, status } = await this.post({ jsonrpc: '2.0', id, method, ...(params && { params }) });
    return { answer: messages.at(-1), before: messages.slice(0, -1), status };
  }

  async call(name: string, args: object = {}, meta?: object) {
    return (await this.request('tools/call', { name, arguments: args, ...(meta && { _meta: meta }) })).answer;
  }

  /** Opens the GET stream. */
  async listen(): Promise<Listener> {
    const abort = new AbortController();
    const response = await fetch(this.url, {
      headers: { accept: 'text/event-stream', ...this.headers },
      signal: abort.signal,
    });
    return new Listener(response, abort);
  }
}

/** A GET stream and what has come on it. */
export class Listener {
  readonly status: number;
  // biome-ignore lint/suspicious/noExplicitAny: a test reads whatever came
  readonly messages: any[] = [];
  readonly ended: Promise<void>;
  readonly #abort: AbortController;

  constructor(response: Response, abort: AbortController) {
    this.status = response.status;
    this.#abort = abort;
    this.ended = this.#read(response).catch(() => {});
  }

  close(): void {
    this.#abort.abort();
  }

  async #read(response: Response): Promise<void> {
    let rest = '';
    const decoder = new TextDecoder();
    for await (const chunk of response.body!) {
      const events = (rest + decoder.decode(chunk, { stream: true })).split('\n\n');
      rest = events.pop()!;
      for (const event of events) this.messages.push(...eventsOf(event));
    }
  }
}

// biome-ignore lint/suspicious/noExplicitAny: a test reads whatever came
function eventsOf(text: string): any[] {
  return text
    .split('\n\n')
    .map((event) => /^data: (.+)$/m.exec(event)?.[1])
    .filter((data) => data !== undefined)
    .map((data) => JSON.parse(data));
}
