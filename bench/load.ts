import { Agent, request } from 'node:http';

/** A bare MCP client over HTTP: little enough that what is measured is the other side. */
export class LoadClient {
  readonly #url: URL;
  readonly #agent = new Agent({ keepAlive: true, maxSockets: 256 });
  readonly #headers: Record<string, string> = {
    'content-type': 'application/json',
    accept: 'application/json, text/event-stream',
  };
  #isModern = false;
  #nextId = 1;

  constructor(url: string) {
    this.#url = new URL(url);
  }

  /** A client of the modern era: no session, every request says all. */
  static modern(url: string): LoadClient {
    const client = new LoadClient(url);
    client.#isModern = true;
    return client;
  }

  /** A client with a session of its own. */
  static async connect(url: string): Promise<LoadClient> {
    const client = new LoadClient(url);
    const { headers } = await client.#post({
      jsonrpc: '2.0',
      id: 0,
      method: 'initialize',
      params: {
        protocolVersion: '2025-11-25',
        capabilities: {},
        clientInfo: { name: 'bench', version: '1' },
      },
    });
    client.#headers['mcp-session-id'] = String(headers['mcp-session-id']);
    client.#headers['mcp-protocol-version'] = '2025-11-25';
    await client.#post({ jsonrpc: '2.0', method: 'notifications/initialized' });
    return client;
  }

  /** The text of the answer's JSON; throws when it is not the answer to this request, or an error. */
  async call(method: string, params: object): Promise<string> {
    const id = this.#nextId++;
    const message = { jsonrpc: '2.0', id, method, params };
    const { text } = await (this.#isModern ? this.#postModern(message) : this.#post(message));
    if (!text.includes(`"id":${id}`) || text.includes('"error":{'))
      throw new Error(`unexpected: ${text.slice(0, 300)}`);
    return text;
  }

  close(): void {
    this.#agent.destroy();
  }

  #postModern({ params, ...message }: { method: string; params: { name?: string } }) {
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

  #post(
    message: object,
    more: Record<string, string> = {},
  ): Promise<{ text: string; headers: NodeJS.Dict<string | string[]> }> {
    const body = JSON.stringify(message);
    return new Promise((resolve, reject) => {
      const outgoing = request(this.#url, {
        method: 'POST',
        agent: this.#agent,
        headers: { ...this.#headers, ...more, 'content-length': Buffer.byteLength(body) },
      });
      outgoing.on('error', reject);
      outgoing.on('response', (incoming) => {
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

/** Calls a second with `workers` at once, `total` calls in all. */
export async function throughput(
  workers: number,
  total: number,
  work: () => Promise<unknown>,
): Promise<number> {
  let left = total;
  const worker = async () => {
    while (left-- > 0) await work();
  };
  const ms = await time(() => Promise.all(Array.from({ length: workers }, worker)));
  return (total / ms) * 1000;
}
