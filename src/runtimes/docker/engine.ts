import { stat } from 'node:fs/promises';
import http from 'node:http';
import https from 'node:https';
import type { Socket } from 'node:net';
import { inspect } from 'node:util';
import type Dockerode from 'dockerode';
import { abortable, SingleFlight } from '../../base/async.ts';
import { GatewayError, messageOf, systemCodeOf } from '../../base/errors.ts';
import {
  connectionOptions,
  type DiscoveryOptions,
  type EngineAddress,
  engineAddresses,
  sharesOurFiles,
} from './discovery.ts';
import { loadDockerode } from './dockerode.ts';

/** The newest API that every supported engine speaks: 20.10 up to 1.41, the current one from 1.40, Podman from 1.24. */
const apiVersion = 'v1.41';
const probeLimitMs = 5_000;
/**
 * A connection without a request is closed after this long, before whatever is in between (a proxy, a firewall) closes it or drops
 * what comes next. A new one to a local socket costs less than a millisecond.
 */
const idleConnectionMs = 4_000;
const pingLimitMs = 5_000;
const callLimitMs = 20_000;

/** What an engine answered instead of doing what was asked. */
export class EngineError extends Error {
  override readonly name = 'EngineError';
  /** The HTTP status. */
  readonly status: number;

  constructor(status: number, message: string, cause?: unknown) {
    super(message, { cause });
    this.status = status;
  }
}

/** What an engine is and can do, probed once per connection. */
export interface EngineFacts {
  product: 'Docker' | 'Podman';
  version: string;
  /** Go's names: `linux`, `amd64`. */
  os: string;
  architecture: string;
  rootless: boolean;
  /** Its default registry's key in the credentials of `docker login`, where it says. */
  indexServer: string | undefined;
  /** Limits that the engine refuses or ignores must not be asked for everywhere: some engines fail the create. */
  can: { memory: boolean; swap: boolean; pids: boolean; cpus: boolean };
  /** Hardenings it cannot give, a sentence each. */
  lacks: string[];
}

export interface CallOptions {
  signal?: AbortSignal;
  /** After this long the engine counts as unreachable. */
  limitMs?: number;
}

/** One engine that answered. Its errors are `EngineError`, or GatewayError `engine_unreachable`. */
export class Engine {
  readonly address: EngineAddress;
  readonly docker: Dockerode;
  facts: EngineFacts;
  /** Told when a question was not answered in time. */
  onSilence = () => {};
  readonly #agent: http.Agent | https.Agent;

  constructor(
    address: EngineAddress,
    docker: Dockerode,
    facts: EngineFacts,
    agent: http.Agent | https.Agent,
  ) {
    this.address = address;
    this.docker = docker;
    this.facts = facts;
    this.#agent = agent;
  }

  /** Whether this machine's paths are the engine's too; behind a container's mounts they are still to be translated. */
  get isLocal(): boolean {
    return sharesOurFiles(this.address);
  }

  get isPodman(): boolean {
    return this.facts.product === 'Podman';
  }

  /** Asks the engine, bounded in time. `work` passes the signal on to dockerode. */
  async call<T>(
    work: (docker: Dockerode, abortSignal: AbortSignal) => Promise<T>,
    options: CallOptions = {},
  ): Promise<T> {
    const { signal, limitMs = callLimitMs } = options;
    const limit = AbortSignal.timeout(limitMs);
    const either = signal ? AbortSignal.any([signal, limit]) : limit;
    try {
      either.throwIfAborted();
      return await abortable(work(this.docker, either), either);
    } catch (error) {
      signal?.throwIfAborted();
      if (limit.aborted) throw this.#silent(limitMs);
      throw this.translate(error);
    }
  }

  /** Rejects when it does not answer at once. */
  async ping(limitMs = pingLimitMs): Promise<void> {
    // Its typings do not know that it takes options.
    await this.call(
      (docker, abortSignal) => docker.ping({ abortSignal } as never) as unknown as Promise<unknown>,
      {
        limitMs,
      },
    );
  }

  /**
   * Opens a stream of the engine (events, logs, a build). `limitMs` bounds the wait for its head; the signal ends the
   * stream too. The signal is not for dockerode: it would take the limit's along and cut the stream off later.
   */
  async stream(
    work: (docker: Dockerode) => Promise<NodeJS.ReadableStream>,
    options: CallOptions = {},
  ): Promise<http.IncomingMessage> {
    const { signal } = options;
    signal?.throwIfAborted();
    const opened = work(this.docker) as Promise<http.IncomingMessage>;
    const stream = await this.#opened(opened, (late) => late.destroy(), options);
    const destroy = () => stream.destroy();
    signal?.addEventListener('abort', destroy, { once: true });
    stream.once('close', () => signal?.removeEventListener('abort', destroy));
    return stream;
  }

  /** A call whose outcome is already there: gone (404), as wanted (304), under way (409), Podman's word for these (500). */
  async ensure(
    work: (docker: Dockerode, abortSignal: AbortSignal) => Promise<unknown>,
    options: CallOptions = {},
  ): Promise<void> {
    try {
      await this.call(work, options);
    } catch (error) {
      if (!isAlreadyDone(error)) throw error;
    }
  }

  /**
   * Attaches to a container's three streams before it runs. dockerode's own attach repeats the options in a body,
   * which Podman hands to the server as its first input; hence a request of its own.
   */
  async attach(id: string, signal?: AbortSignal): Promise<Socket> {
    const query = { stream: 1, stdin: 1, stdout: 1, stderr: 1 };
    return this.#dial<Socket>(
      { path: `/containers/${id}/attach?`, options: { _query: query }, hijack: true },
      (socket) => socket.destroy(),
      signal,
    );
  }

  /**
   * Asks for a container's next exit before it is started: with AutoRemove a later question may find nothing, and Podman
   * answers 0. Resolves once the engine has taken the question; the inner promise brings the exit code, or undefined.
   */
  async nextExit(id: string, signal?: AbortSignal): Promise<{ code: Promise<number | undefined> }> {
    const response = await this.#dial<http.IncomingMessage>(
      { path: `/containers/${id}/wait?`, options: { _query: { condition: 'next-exit' } } },
      (late) => late.destroy(),
      signal,
    );
    return { code: readExitCode(response) };
  }

  /** Probes again what the engine is, after it was restarted. */
  async refreshFacts(): Promise<void> {
    this.facts = await this.call((docker) => probe(docker));
  }

  close(): void {
    this.#agent.destroy();
  }

  #dial<T>(
    request: {
      path: string;
      options: { _query: Record<string, string | number> };
      hijack?: boolean;
    },
    discard: (late: T) => void,
    signal: AbortSignal | undefined,
  ): Promise<T> {
    const answered = new Promise<T>((resolve, reject) => {
      this.docker.modem.dial(
        {
          ...request,
          method: 'POST',
          isStream: true,
          // An empty body of known length: a chunked one's end would reach the server as input.
          file: Buffer.alloc(0),
          headers: { 'Content-Type': 'text/plain' },
          statusCodes: { 101: true, 200: true },
        },
        (error, result) => (error ? reject(error) : resolve(result as T)),
      );
    });
    return this.#opened(answered, discard, { signal });
  }

  /** A stream, once its head is there; the limits are those of the head, and a late stream is discarded. */
  async #opened<T>(answered: Promise<T>, discard: (late: T) => void, options: CallOptions): Promise<T> {
    const { signal, limitMs = callLimitMs } = options;
    const limit = AbortSignal.timeout(limitMs);
    try {
      return await abortable(answered, signal ? AbortSignal.any([signal, limit]) : limit);
    } catch (error) {
      answered.then(discard, () => {});
      signal?.throwIfAborted();
      if (limit.aborted) throw this.#silent(limitMs);
      throw this.translate(error);
    }
  }

  #silent(limitMs: number): GatewayError {
    this.onSilence();
    return new GatewayError(
      'engine_unreachable',
      `The engine at ${this.address.url} did not answer in ${limitMs / 1000} s.`,
      {
        hint: 'It may be frozen or overloaded: look at `docker info` and the engine’s log, then restart it.',
      },
    );
  }

  /** A failure of dockerode or of one of its streams as `EngineError` or GatewayError; anything else as it is. */
  translate(error: unknown): unknown {
    const { statusCode, json, reason } = error as { statusCode?: unknown; json?: unknown; reason?: unknown };
    if (typeof statusCode === 'number') {
      const text = (json as { message?: unknown } | null)?.message;
      // dockerode repeats the status before the engine's own words.
      const said = String(text ?? messageOf(error)).replace(/^\(HTTP code \d+\) [^-]* - /, '');
      // Podman may say nothing but the status.
      return new EngineError(statusCode, said.trim() || String(reason ?? `HTTP ${statusCode}`), error);
    }
    if (error instanceof EngineError || error instanceof GatewayError) return error;
    if (systemCodeOf(error) || /socket hang up|aborted/i.test(messageOf(error))) {
      return unreachable([{ address: this.address, reason: reasonOf(error) }], error);
    }
    return error;
  }
}

/** True when the engine's refusal means that what was wanted is already so. */
export function isAlreadyDone(error: unknown): boolean {
  if (!(error instanceof EngineError)) return false;
  if ([304, 404, 409].includes(error.status)) return true;
  return (
    error.status === 500 &&
    /state improper|is not paused|already paused|is not running|no such container|no container with/i.test(
      error.message,
    )
  );
}

async function readExitCode(response: http.IncomingMessage): Promise<number | undefined> {
  try {
    const chunks: Buffer[] = [];
    for await (const chunk of response) chunks.push(chunk as Buffer);
    const answer = JSON.parse(Buffer.concat(chunks).toString()) as { StatusCode?: number };
    return typeof answer.StatusCode === 'number' && answer.StatusCode >= 0 ? answer.StatusCode : undefined;
  } catch {
    return undefined;
  }
}

/** Finds the engine when it is first needed, and stays with the one that answered. */
export class EngineConnection {
  readonly #options: DiscoveryOptions;
  readonly #flight = new SingleFlight<Engine>();
  #engine: Engine | undefined;

  constructor(options: DiscoveryOptions) {
    this.#options = options;
  }

  /** The engine, if one has answered before. */
  get known(): Engine | undefined {
    return this.#engine;
  }

  /** Throws GatewayError `engine_unreachable`, which names all that was tried. */
  get(signal?: AbortSignal): Promise<Engine> {
    if (this.#engine) return Promise.resolve(this.#engine);
    return abortable(
      this.#flight.run('', () => this.#find()),
      signal,
    );
  }

  async #find(): Promise<Engine> {
    const tried: Tried[] = [];
    for (const address of await engineAddresses(this.#options)) {
      try {
        this.#engine = await open(address);
        return this.#engine;
      } catch (error) {
        tried.push({ address, reason: reasonOf(error) });
      }
    }
    throw unreachable(tried);
  }

  close(): void {
    this.#engine?.close();
  }
}

async function open(address: EngineAddress): Promise<Engine> {
  const options = await connectionOptions(address);
  if (options.socketPath && !options.socketPath.startsWith('//')) await stat(options.socketPath);
  const kept = { keepAlive: true, timeout: idleConnectionMs };
  const agent = options.protocol === 'https' ? new https.Agent(kept) : new http.Agent(kept);
  // dockerode describes every request for its debug log, the agent with all its sockets included.
  Object.assign(agent, { [inspect.custom]: () => 'agent' });
  // The agent of an SSH connection is dockerode's own.
  const given = options.protocol === 'ssh' ? options : { ...options, agent };
  const docker = new (loadDockerode())({ ...given, version: apiVersion });
  const limit = AbortSignal.timeout(probeLimitMs);
  try {
    return new Engine(address, docker, await abortable(probe(docker), limit), agent);
  } catch (error) {
    agent.destroy();
    if (limit.aborted)
      throw new Error(`no answer in ${probeLimitMs / 1000} s; it may be frozen or overloaded`);
    throw error;
  }
}

/** The fields of `/info` that matter here and that the typings lack. */
interface Info {
  MemoryLimit?: boolean;
  SwapLimit?: boolean;
  PidsLimit?: boolean;
  CpuCfsQuota?: boolean;
  SecurityOptions?: string[] | null;
  OSType?: string;
  IndexServerAddress?: string;
}

async function probe(docker: Dockerode): Promise<EngineFacts> {
  const [version, info] = await Promise.all([docker.version(), docker.info() as Promise<Info>]);
  const components = (version.Components ?? []) as { Name: string; Version: string }[];
  const podman = components.find(({ Name }) => /podman/i.test(Name));
  const security = info.SecurityOptions ?? [];
  const has = (option: string) => security.some((entry) => entry.includes(`name=${option}`));
  const can = {
    memory: info.MemoryLimit !== false,
    swap: info.SwapLimit !== false,
    pids: info.PidsLimit !== false,
    cpus: info.CpuCfsQuota !== false,
  };
  const lacks: string[] = [];
  if (!can.memory) lacks.push('Memory cannot be limited (no memory cgroup).');
  else if (!can.swap)
    lacks.push('Swap cannot be limited: a server over its memory may swap before it is killed.');
  if (!can.pids) lacks.push('Processes cannot be counted (no pids cgroup): limits.pids is not enforced.');
  if (!can.cpus) lacks.push('CPU time cannot be limited (no CFS quota): limits.cpus is not enforced.');
  if (!has('seccomp')) lacks.push('System calls are not filtered (no seccomp profile).');
  return {
    product: podman ? 'Podman' : 'Docker',
    version: podman?.Version ?? version.Version,
    os: version.Os ?? info.OSType ?? 'linux',
    architecture: version.Arch,
    rootless: has('rootless'),
    indexServer: info.IndexServerAddress,
    can,
    lacks,
  };
}

interface Tried {
  address: EngineAddress;
  reason: string;
}

const reasons: Record<string, string> = {
  ENOENT: 'no such socket',
  ENOTDIR: 'no such socket',
  ECONNREFUSED: 'nothing listens there',
  EACCES: 'permission denied',
  EPERM: 'permission denied',
  ECONNRESET: 'the connection broke',
  EPIPE: 'the connection broke',
  ENOTFOUND: 'unknown host',
  ETIMEDOUT: 'no answer',
};

const reasonOf = (error: unknown) => reasons[systemCodeOf(error) ?? ''] ?? messageOf(error).trim();

/** The error for engines that do not answer: what was tried, and how to get one. */
function unreachable(tried: Tried[], cause?: unknown): GatewayError {
  // A forbidden or silent socket says more than the absence of all others.
  const present = tried.filter(({ reason }) => reason !== reasons.ENOENT);
  const named = (present.length > 0 ? present : tried).map(
    ({ address, reason }) => `${address.url} (${address.origin}: ${reason})`,
  );
  const absent = present.length > 0 ? tried.filter(({ reason }) => reason === reasons.ENOENT) : [];
  const others =
    absent.length > 0 ? `; no socket at ${absent.map(({ address }) => address.url).join(', ')}` : '';
  const forbidden = tried.some(({ reason }) => reason === reasons.EACCES);
  return new GatewayError(
    'engine_unreachable',
    `No Docker Engine answers. Tried ${named.join(', ')}${others}.`,
    {
      hint: forbidden
        ? 'This user may not use the socket: sudo usermod -aG docker $USER, then log in again; or set DOCKER_HOST to an engine of your own.'
        : 'Start it (make engine as root on Debian, sudo systemctl start docker, Docker Desktop or colima start), or set DOCKER_HOST to where one listens.',
      data: { tried: tried.map(({ address, reason }) => ({ url: address.url, reason })) },
      cause,
    },
  );
}

/** What the engine tells about a container or an image. */
export interface EngineEvent {
  type: string;
  /** In Docker's words: `die`, `destroy`, `oom`, `kill`. */
  action: string;
  id: string;
  attributes: Record<string, string>;
}

/** Podman's names of what Docker calls otherwise. */
const dockerActions: Record<string, string> = { died: 'die', remove: 'destroy', cleanup: 'cleanup' };

/** The engine's events about containers, images and networks, until the signal aborts or the engine goes. */
export async function* engineEvents(
  engine: Engine,
  signal: AbortSignal,
  onOpen: () => void,
): AsyncGenerator<EngineEvent> {
  // No labels: Podman joins them by or, and the images that others make carry none of ours.
  const filters: Dockerode.GetEventsOptions['filters'] = { type: ['container', 'image', 'network'] };
  const stream = await engine.stream((docker) => docker.getEvents({ filters }), { signal });
  try {
    onOpen();
    let rest = '';
    stream.setEncoding('utf8');
    for await (const chunk of stream) {
      const lines = (rest + chunk).split('\n');
      rest = lines.pop()!;
      for (const line of lines) {
        const event = parseEvent(line);
        if (event) yield event;
      }
    }
  } finally {
    stream.destroy();
  }
}

function parseEvent(line: string): EngineEvent | undefined {
  try {
    const event = JSON.parse(line) as {
      Type?: string;
      Action?: string;
      Actor?: { ID?: string; Attributes?: Record<string, string> };
    };
    const action = event.Action ?? '';
    return {
      type: event.Type ?? '',
      action: dockerActions[action] ?? action,
      id: event.Actor?.ID ?? '',
      attributes: event.Actor?.Attributes ?? {},
    };
  } catch {
    return undefined;
  }
}

/** Reads the beginning of a stream, at most `maxBytes`, and closes it. */
export async function readAtMost(stream: http.IncomingMessage, maxBytes: number): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of stream) {
    chunks.push(chunk as Buffer);
    bytes += (chunk as Buffer).length;
    if (bytes >= maxBytes) break;
  }
  stream.destroy();
  return Buffer.concat(chunks).subarray(0, maxBytes);
}
