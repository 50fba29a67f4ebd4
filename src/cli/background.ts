import { spawn } from 'node:child_process';
import { mkdir, open, readFile, rename, rm } from 'node:fs/promises';
import type { IncomingMessage } from 'node:http';
import { join } from 'node:path';
import { WebSocket } from 'ws';
import { sleep } from '../base/async.ts';
import { GatewayError, systemCodeOf } from '../base/errors.ts';
import { stateDirHolder } from '../base/state-dir.ts';
import type { GatewayConfig } from '../config/schema.ts';
import { isObject } from '../protocol/jsonrpc.ts';

/** What is needed to reach a gateway, and to start one where none answers. */
export interface ReachOptions {
  /** Of the WebSocket. */
  url: URL;
  headers: Record<string, string>;
  maxMessageBytes: number;
  /** Of `mcp-gateway start`. */
  startArguments: string[];
  /** Throws what is wrong with the configuration that a gateway would be started with. */
  gatewayConfig(): Pick<GatewayConfig, 'stateDir'>;
  /** What a person may want to know. */
  tell(text: string): void;
}

/** Answers of a gateway that is coming or going are asked for this often. */
const pollMs = 100;
/** The same while nobody waits for it. */
const idlePollMs = 1000;
/** A gateway that has gone may be brought back by whoever runs it; only then one is started in its place. */
const returnGraceMs = 2000;
/** For a gateway to serve after its start, and for another that holds the state folder to answer. */
const startLimitMs = 60_000;
const holderLimitMs = 15_000;
/** A gateway that is ending answers so until it has gone. */
const drainLimitMs = 120_000;
/** Starts that may fail, as two that are started at once do, before that is an answer. */
const maxStarts = 3;
/** Of an answer that refuses a connection. */
const answerLimitMs = 5000;
const maxAnswerLength = 65_536;
const maxLogBytes = 10 * 1024 * 1024;

/** Finds the running gateway and connects to it, and starts one in the background where there is none. */
export class BackgroundGateway {
  readonly #options: ReachOptions;
  #wasReached = false;

  constructor(options: ReachOptions) {
    this.#options = options;
  }

  /**
   * An open WebSocket. While `isWanted` says no, none is started: it is only waited for. Rejects with the signal's reason, or with
   * why there is none: `config_invalid`, `gateway_unreachable`, or what the gateway itself says.
   */
  async connect(isWanted: () => boolean, signal: AbortSignal): Promise<WebSocket> {
    const since = Date.now();
    const graceMs = this.#wasReached ? returnGraceMs : 0;
    let started: Started | undefined;
    let starts = 0;
    let heldSince: number | undefined;
    for (;;) {
      signal.throwIfAborted();
      const found = await this.#try();
      if (found instanceof WebSocket) {
        this.#wasReached = true;
        return found;
      }
      if (found === 'draining') {
        if (Date.now() - since > drainLimitMs) throw unreachable(this.#options.url, 'it is shutting down');
      } else if (started) {
        if (started.exitCode !== undefined) {
          if (started.exitCode === 2 || starts >= maxStarts) throw await started.failure();
          started = undefined;
        } else if (Date.now() - started.atMs > startLimitMs) throw await started.failure();
      } else if (isWanted() && Date.now() - since >= graceMs) {
        const { stateDir } = this.#options.gatewayConfig();
        const holder = await stateDirHolder(stateDir);
        if (holder === undefined) {
          heldSince = undefined;
          starts += 1;
          started = await start(stateDir, this.#options);
        } else {
          heldSince ??= Date.now();
          if (Date.now() - heldSince > holderLimitMs) throw elsewhere(this.#options.url, stateDir, holder);
        }
      }
      await sleep(isWanted() || started ? pollMs : idlePollMs, { signal });
    }
  }

  /** Throws what will not change by waiting. */
  #try(): Promise<WebSocket | 'absent' | 'draining'> {
    const { url, headers, maxMessageBytes } = this.#options;
    return new Promise((resolve, reject) => {
      const socket = new WebSocket(url, 'mcp', {
        headers,
        perMessageDeflate: false,
        maxPayload: maxMessageBytes,
        handshakeTimeout: 10_000,
      });
      socket.once('open', () => {
        socket.off('error', onError);
        resolve(socket);
      });
      const onError = (error: Error) => {
        if (systemCodeOf(error) === undefined && !/hang up|closed before|timed out/.test(error.message)) {
          reject(unreachable(url, error.message, error));
        } else resolve('absent');
      };
      socket.on('error', onError);
      socket.once('unexpected-response', (request, answer) => {
        problemIn(answer)
          .then((problem) => {
            if (problem?.data.code === 'draining') return resolve('draining');
            if (problem)
              return reject(new GatewayError('upstream_error', problem.message, { data: problem.data }));
            reject(unreachable(url, `what answers there is no MCP Gateway (status ${answer.statusCode})`));
          })
          .finally(() => request.destroy());
      });
    });
  }
}

/** A gateway that was started, on its way or gone again. */
interface Started {
  readonly atMs: number;
  exitCode: number | undefined;
  failure(): Promise<GatewayError>;
}

/** Starts one that outlives this process; what it prints goes to a file in its state folder. */
async function start(stateDir: string, { startArguments, tell }: ReachOptions): Promise<Started> {
  await mkdir(stateDir, { recursive: true, mode: 0o700 });
  const logFile = join(stateDir, 'gateway.log');
  let log = await open(logFile, 'a', 0o600);
  if ((await log.stat()).size > maxLogBytes) {
    await log.close();
    await rm(`${logFile}.1`, { force: true });
    await rename(logFile, `${logFile}.1`);
    log = await open(logFile, 'a', 0o600);
  }
  const { size } = await log.stat();
  tell(`no gateway answers; starting one in the background (its log: ${logFile})`);
  const child = spawn(process.execPath, [...process.execArgv, process.argv[1]!, 'start', ...startArguments], {
    detached: true,
    stdio: ['ignore', log.fd, log.fd],
  });
  child.unref();
  const started: Started = {
    atMs: Date.now(),
    exitCode: undefined,
    async failure() {
      const printed = (await readFile(logFile)).subarray(size).toString('utf8');
      const reason = /^error: (.*)$/m.exec(printed)?.[1] ?? 'it did not answer in time';
      const hint = /^hint: (.*)$/m.exec(printed)?.[1] ?? `See ${logFile}.`;
      return new GatewayError(
        started.exitCode === 2 ? 'config_invalid' : 'gateway_unreachable',
        `No gateway could be started: ${reason}`,
        { hint },
      );
    },
  };
  child.once('exit', (code) => {
    started.exitCode = code ?? 1;
  });
  child.once('error', () => {
    started.exitCode = 1;
  });
  await log.close();
  return started;
}

/** The error in an answer, where that is a gateway's. */
async function problemIn(
  answer: IncomingMessage,
): Promise<{ message: string; data: Record<string, unknown> } | undefined> {
  if (!answer.headers['content-type']?.startsWith('application/json')) return undefined;
  answer.setTimeout(answerLimitMs, () => answer.destroy());
  try {
    let text = '';
    for await (const chunk of answer) {
      text += chunk;
      if (text.length > maxAnswerLength) return undefined;
    }
    const { error } = JSON.parse(text);
    if (typeof error?.message === 'string' && isObject(error.data)) return error;
  } catch {
    // no whole answer, or none of a gateway
  }
  return undefined;
}

function unreachable(url: URL, reason: string, cause?: unknown): GatewayError {
  return new GatewayError('gateway_unreachable', `No gateway answers at ${url.host}: ${reason}.`, {
    hint: 'Look at what listens there, or name another address with --host and --port.',
    cause,
  });
}

function elsewhere({ host }: URL, stateDir: string, pid: number): GatewayError {
  const who = pid === 0 ? 'A gateway' : `The gateway with pid ${pid}`;
  return new GatewayError('gateway_unreachable', `${who} uses ${stateDir}, and does not answer at ${host}.`, {
    hint: 'Name the address that it listens on with --host and --port, or end it.',
    data: { pid },
  });
}
