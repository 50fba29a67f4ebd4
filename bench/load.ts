import { Agent, type ClientRequest, type IncomingMessage, request } from 'node:http';
import { Agent as SecureAgent, request as secureRequest } from 'node:https';

interface Reply {
  text: string;
  headers: NodeJS.Dict<string | string[]>;
}

/** How a client differs from the usual one. */
export interface LoadClientOptions {
  headers?: Record<string, string>;
  /** Without a byte for so long, a request fails. */
  timeoutMs?: number;
}

/** A bare MCP client over HTTP: little enough that what is measured is the other side. */
export class LoadClient {
  readonly #url: URL;
  readonly #send: typeof request;
  readonly #agent: Agent;
  readonly #timeoutMs: number;
  readonly #headers: Record<string, string>;
  #isModern = false;
  #nextId = 1;
  #introduction = '';

  constructor(url: string, { headers = {}, timeoutMs = 120_000 }: LoadClientOptions = {}) {
    this.#url = new URL(url);
    const isSecure = this.#url.protocol === 'https:';
    this.#send = isSecure ? secureRequest : request;
    this.#agent = new (isSecure ? SecureAgent : Agent)({ keepAlive: true, maxSockets: 256 });
    this.#timeoutMs = timeoutMs;
    this.#headers = {
      'content-type': 'application/json',
      accept: 'application/json, text/event-stream',
      ...headers,
    };
  }

  /** A client of the modern era: no session, every request says all. */
  static modern(url: string, options?: LoadClientOptions): LoadClient {
    const client = new LoadClient(url, options);
    client.#isModern = true;
    return client;
  }

  /** A client with a session of its own, where the server gives one. */
  static async connect(url: string, options?: LoadClientOptions): Promise<LoadClient> {
    const client = new LoadClient(url, options);
    try {
      await client.#initialize();
    } catch (error) {
      client.close();
      throw error;
    }
    return client;
  }

  /** What the server answered to `initialize`. */
  get introduction(): string {
    return this.#introduction;
  }

  /** The text of the answer; throws when it is not the answer to this request, or an error. */
  async call(method: string, params: object): Promise<string> {
    const id = this.#nextId++;
    const message = { jsonrpc: '2.0', id, method, params };
    const { text } = await (this.#isModern ? this.#postModern(message) : this.#post(message));
    const isAnswer = text.includes(`"id":${id}`) || text.includes(`"id": ${id}`);
    if (!isAnswer || text.includes('"error":{') || text.includes('"error": {'))
      throw new Error(`unexpected: ${text.slice(0, 300)}`);
    return text;
  }

  /** Ends the session. */
  async end(): Promise<void> {
    if (this.#headers['mcp-session-id']) await this.#exchange('DELETE', '', {}).catch(() => {});
    this.close();
  }

  close(): void {
    this.#agent.destroy();
  }

  async #initialize(): Promise<void> {
    const { text, headers } = await this.#post({
      jsonrpc: '2.0',
      id: 0,
      method: 'initialize',
      params: {
        protocolVersion: '2025-11-25',
        capabilities: {},
        clientInfo: { name: 'bench', version: '1' },
      },
    });
    const version = /"protocolVersion":\s*"([\d-]+)"/.exec(text)?.[1];
    if (!version) throw new Error(`unexpected: ${text.slice(0, 300)}`);
    this.#introduction = text;
    const session = headers['mcp-session-id'];
    if (session !== undefined) this.#headers['mcp-session-id'] = String(session);
    this.#headers['mcp-protocol-version'] = version;
    await this.#post({ jsonrpc: '2.0', method: 'notifications/initialized' });
  }

  #postModern({ params, ...message }: { method: string; params: { name?: string } }): Promise<Reply> {
    const _meta = {
      'io.modelcontextprotocol/protocolVersion': '2026-07-28',
      'io.modelcontextprotocol/clientInfo': { name: 'bench', version: '1' },
      'io.modelcontextprotocol/clientCapabilities': {},
    };
    return this.#post(
      { ...message, params: { ...params, _meta } },
      {
        'mcp-protocol-version': '2026-07-28',
        'mcp-method': message.method,
        ...(params.name !== undefined && { 'mcp-name': params.name }),
      },
    );
  }

  #post(message: object, more: Record<string, string> = {}): Promise<Reply> {
    return this.#exchange('POST', JSON.stringify(message), more);
  }

  #exchange(method: string, body: string, more: Record<string, string>): Promise<Reply> {
    return new Promise((resolve, reject) => {
      const outgoing: ClientRequest = this.#send(this.#url, {
        method,
        agent: this.#agent,
        timeout: this.#timeoutMs,
        headers: { ...this.#headers, ...more, 'content-length': Buffer.byteLength(body) },
      });
      outgoing.on('error', reject);
      outgoing.on('timeout', () =>
        outgoing.destroy(new Error(`no answer within ${this.#timeoutMs / 1000} s`)),
      );
      outgoing.on('response', (incoming: IncomingMessage) => {
        const chunks: Buffer[] = [];
        incoming.on('error', reject);
        incoming.on('data', (chunk: Buffer) => chunks.push(chunk));
        incoming.on('end', () => {
          const text = Buffer.concat(chunks).toString();
          const status = incoming.statusCode!;
          if (status >= 300) reject(new Error(`${status}: ${text.slice(0, 300)}`));
          else resolve({ text, headers: incoming.headers });
        });
      });
      outgoing.end(body);
    });
  }
}

export interface Spread {
  median: number;
  /** Lowest and highest. */
  low: number;
  high: number;
}

export function spread(values: number[]): Spread {
  const sorted = [...values].sort((a, b) => a - b);
  return { median: sorted[Math.floor(sorted.length / 2)]!, low: sorted[0]!, high: sorted.at(-1)! };
}

/** Milliseconds that `work` takes. */
export async function time(work: () => Promise<unknown>): Promise<number> {
  const startedAt = performance.now();
  await work();
  return performance.now() - startedAt;
}

/** Calls a second with `workers` at once, `total` calls in all, or as many as begin within `limitMs`. */
export async function throughput(
  workers: number,
  total: number,
  work: () => Promise<unknown>,
  limitMs = Number.POSITIVE_INFINITY,
): Promise<number> {
  let begun = 0;
  const startedAt = performance.now();
  const worker = async () => {
    while (begun < total && performance.now() - startedAt < limitMs) {
      begun += 1;
      await work();
    }
  };
  await Promise.all(Array.from({ length: workers }, worker));
  return (begun / (performance.now() - startedAt)) * 1000;
}

/** What every side took in every round. All sides run once a round; every other round begins at the other end. */
export async function interleaved(
  rounds: number,
  sides: readonly (() => Promise<number>)[],
): Promise<number[][]> {
  const taken: number[][] = sides.map(() => []);
  for (let round = 0; round < rounds; round += 1) {
    const order = [...sides.entries()];
    if (round % 2 === 1) order.reverse();
    for (const [index, side] of order) taken[index]!.push(await side());
  }
  return taken;
}
