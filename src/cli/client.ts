import { GatewayError, systemCodeOf } from '../base/errors.ts';
import { loadConfig } from '../config/load.ts';
import type { Config } from '../config/schema.ts';
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
    return new GatewayClient((await locate(options)).base);
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

/** Where the gateway listens, and its configuration where that can be read; else the problem with it. */
export async function locate(
  options: ConfigOptions,
): Promise<{ base: URL; config?: Config; problem?: unknown }> {
  try {
    const config = await loadConfig({
      file: options.config ?? options.registry,
      overrides: options,
      mode: 'start',
    });
    return { base: baseOf(config.gateway), config };
  } catch (problem) {
    if (options.config ?? options.registry) throw problem;
    // Without a servers.yaml the flags, the environment and the defaults still say where to look.
    const host = options.host ?? process.env.GATEWAY_HOST ?? '127.0.0.1';
    const port = options.port ?? portFrom(process.env.GATEWAY_PORT || '8000');
    return { base: baseOf({ host, port }), problem };
  }
}

function baseOf({ host, port }: { host: string; port: number }): URL {
  const reachable = host === '0.0.0.0' ? '127.0.0.1' : host === '::' ? '::1' : host;
  return new URL(`http://${reachable.includes(':') ? `[${reachable}]` : reachable}:${port}`);
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
