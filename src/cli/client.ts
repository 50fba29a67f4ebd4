import { GatewayError, systemCodeOf } from '../base/errors.ts';
import { loadConfig } from '../config/load.ts';
import type { ConfigOptions } from './program.ts';

/** What the gateway answers when it cannot do what was asked (RFC 9457). */
interface Problem extends Record<string, unknown> {
  title?: string;
  detail?: string;
  hint?: string;
}

/** The running gateway's REST interface, found at its host and port. */
export class GatewayClient {
  readonly #base: URL;

  constructor(base: URL) {
    this.#base = base;
  }

  /** Where the flags, the environment and servers.yaml say that the gateway listens. */
  static async find(options: ConfigOptions): Promise<GatewayClient> {
    const { host, port } = await address(options);
    const reachable = host === '0.0.0.0' ? '127.0.0.1' : host === '::' ? '::1' : host;
    return new GatewayClient(
      new URL(`http://${reachable.includes(':') ? `[${reachable}]` : reachable}:${port}`),
    );
  }

  async get<T>(path: string): Promise<T> {
    return (await (await this.request(path)).json()) as T;
  }

  async post<T>(path: string, body: unknown): Promise<T> {
    const answer = await this.request(path, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(body),
    });
    return (await answer.json()) as T;
  }

  /** Throws the gateway's own problem as a GatewayError, and `gateway_unreachable` when nobody listens. */
  async request(path: string, init?: RequestInit): Promise<Response> {
    let answer: Response;
    try {
      answer = await fetch(new URL(path, this.#base), init);
    } catch (error) {
      const reason =
        systemCodeOf((error as { cause?: unknown }).cause) ?? systemCodeOf(error) ?? String(error);
      throw new GatewayError(
        'gateway_unreachable',
        `No gateway answers at ${this.#base.origin} (${reason}).`,
        {
          hint: 'Start one with `mcp-gateway start`, or name another with --host and --port.',
          cause: error,
        },
      );
    }
    if (answer.ok) return answer;
    const problem = (await answer.json().catch(() => ({}))) as Problem;
    throw new GatewayError(
      'upstream_error',
      problem.detail ?? problem.title ?? `The gateway at ${this.#base.origin} answered ${answer.status}.`,
      { hint: problem.hint, data: problem },
    );
  }
}

/** Without a servers.yaml the flags, the environment and the defaults still say where to look. */
async function address(options: ConfigOptions): Promise<{ host: string; port: number }> {
  try {
    return (await loadConfig({ file: options.config ?? options.registry, overrides: options, mode: 'start' }))
      .gateway;
  } catch (error) {
    if (options.config ?? options.registry) throw error;
    return {
      host: options.host ?? process.env.GATEWAY_HOST ?? '127.0.0.1',
      port: options.port ?? portFrom(process.env.GATEWAY_PORT || '8000'),
    };
  }
}

function portFrom(text: string): number {
  const port = Number(text);
  if (Number.isInteger(port) && port >= 0 && port <= 65_535) return port;
  throw new GatewayError(
    'config_invalid',
    `the environment variable GATEWAY_PORT: found "${text}", expected a port from 0 to 65535`,
    { hint: 'Correct it, or pass --port.' },
  );
}
