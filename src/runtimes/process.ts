import { type ChildProcessByStdio, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { accessSync, constants } from 'node:fs';
import { mkdir, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import path from 'node:path';
import type { Readable, Writable } from 'node:stream';
import { type Clock, deferred, sleep, systemClock } from '../base/async.ts';
import { GatewayError, messageOf, systemCodeOf } from '../base/errors.ts';
import type { GatewayConfig, ProcessServer, ServerConfig } from '../config/schema.ts';
import type { Message } from '../protocol/jsonrpc.ts';
import { findProcess, listProcesses } from './process-table.ts';
import {
  type Exit,
  type Instance,
  type LogOptions,
  NotWritten,
  type Prepared,
  type Runtime,
  type RuntimeDescription,
  type StartOptions,
} from './runtime.ts';
import { ServerLogs } from './server-logs.ts';
import { MessageWriter, readMessages, readStderr, StderrTail } from './stdio.ts';

export interface ProcessRuntimeOptions {
  gateway: GatewayConfig;
  /** The gateway's state folder, locked by it: the processes noted there are ours. */
  stateDir: string;
  clock?: Clock;
  /** The gateway's own environment; servers get no more of it than `inherited`. */
  environment?: Record<string, string | undefined>;
}

/** What a program needs to run at all and to trust whom this machine trusts. All else, every secret included, stays here. */
export const inherited = [
  'PATH',
  'HOME',
  'USER',
  'LOGNAME',
  'TMPDIR',
  'LANG',
  'LC_ALL',
  'LC_CTYPE',
  'TZ',
  'NODE_EXTRA_CA_CERTS',
  'SSL_CERT_FILE',
  'SSL_CERT_DIR',
] as const;

/** A well-behaved server ends at the end of its stdin; it gets this long before it is sent a signal. */
const endOfInputMs = 1000;
/** How long a killed group may take to be gone; only the kernel can delay it. */
const killedMs = 5000;
/** What was written to stderr comes with the end of stdout, or not at all. */
const lastWordsMs = 50;
/** Output that outlives its process is held by one that left the group. */
const strayOutputMs = 1000;
/** Linux takes a write of this size to a child's stdin, a socket of its own, whole or not at all. */
const wholeBytes = process.platform === 'linux' ? 65_536 : 0;

/** Runs servers as plain processes, each in a process group of its own: no sandbox, the rights of the gateway's user. */
export class ProcessRuntime implements Runtime {
  readonly kind = 'process';
  readonly #gateway: GatewayConfig;
  readonly #clock: Clock;
  readonly #environment: Record<string, string | undefined>;
  readonly #notes: string;
  readonly #logs: ServerLogs<ProcessInstance>;
  readonly #running = new Set<ProcessInstance>();

  constructor({ gateway, stateDir, clock = systemClock, environment = process.env }: ProcessRuntimeOptions) {
    this.#gateway = gateway;
    this.#clock = clock;
    this.#environment = environment;
    this.#notes = path.join(stateDir, 'processes');
    this.#logs = new ServerLogs(stateDir);
  }

  /**
   * Nothing is made. The digest is that of the command, its folder, and size and time of the files that the command names
   * (`server.js`): what a process loads beyond those cannot be known without running it, and every start reads its lists again.
   */
  async prepare(server: ServerConfig): Promise<Prepared> {
    const { command, workingDir } = ofProcess(server);
    const files = await Promise.all(
      command.map(async (word) => {
        const found = await stat(path.resolve(workingDir, word)).catch(() => undefined);
        return found?.isFile() ? `${found.size} ${found.mtimeMs}` : '';
      }),
    );
    const digest = createHash('sha256')
      .update(JSON.stringify([command, workingDir, files]))
      .digest('hex');
    return { digest: `sha256:${digest}` };
  }

  async start(config: ServerConfig, _prepared: Prepared, options: StartOptions): Promise<Instance> {
    const server = ofProcess(config);
    const { signal } = options;
    signal?.throwIfAborted();
    const env = this.#environmentOf(server);
    const [program = '', ...args] = server.command;
    const isFolder = await stat(server.workingDir).then(
      (found) => found.isDirectory(),
      () => false,
    );
    if (!isFolder) {
      // Said here, because the system's own error blames the command.
      throw new GatewayError(
        'start_failed',
        `Server ${server.name}: working_dir ${server.workingDir} is no folder`,
        {
          server: server.name,
          hint: 'Make it, or correct working_dir in servers.yaml; it starts at the folder of that file.',
        },
      );
    }
    signal?.throwIfAborted();

    const child = (() => {
      try {
        return spawn(program, args, {
          cwd: server.workingDir,
          env,
          // Its own group, so that what it starts ends with it, and a Ctrl-C in the gateway's terminal is the gateway's alone.
          detached: true,
          stdio: ['pipe', 'pipe', 'pipe'],
        });
      } catch (error) {
        throw cannotStart(server, env, error);
      }
    })();
    const instance = new ProcessInstance(child, server, options, this.#gateway.maxMessageBytes, this.#clock);
    const abort = () => instance.kill('SIGKILL');
    signal?.addEventListener('abort', abort, { once: true });
    try {
      await once(child, 'spawn');
      await this.#note(instance);
      if (signal?.aborted) {
        await instance.stop({ graceMs: 0 });
        await this.#forget(instance);
        signal.throwIfAborted();
      }
    } catch (error) {
      if (child.pid === undefined) throw cannotStart(server, env, error);
      await instance.stop({ graceMs: 0 });
      await this.#forget(instance);
      throw error;
    } finally {
      signal?.removeEventListener('abort', abort);
    }
    this.#track(instance);
    return instance;
  }

  /** Ends processes that an earlier run noted and that still are the same: a pid that was given to another is left alone. */
  async sweep(): Promise<{ removed: string[] }> {
    const own = new Set([...this.#running].map(({ pid }) => pid));
    const names = await readdir(this.#notes).catch(() => []);
    const removed = await Promise.all(
      names.map(async (name) => {
        const pid = Number(/^(\d+)\.json$/.exec(name)?.[1]);
        if (own.has(pid)) return undefined;
        const note = await readNote(path.join(this.#notes, name));
        const found = note && (await findProcess(pid));
        const isOurs = found !== undefined && !found.isZombie && found.startedAt === note?.startedAt;
        if (isOurs) await killGroup(pid, this.#clock);
        await rm(path.join(this.#notes, name), { force: true });
        return isOurs ? `pid ${pid} (${note?.server})` : undefined;
      }),
    );
    return { removed: removed.filter((name) => name !== undefined) };
  }

  logs(server: ServerConfig, options: LogOptions): AsyncIterable<string> {
    return this.#logs.read(server.name, options);
  }

  async describe(): Promise<RuntimeDescription> {
    return {
      reachable: true,
      text: 'plain processes of this machine',
      lacks: [
        'Servers run without a sandbox: with the rights of the gateway’s user, its files and its network, without limits of memory, CPU or processes.',
      ],
    };
  }

  async close(): Promise<void> {}

  #environmentOf(server: ProcessServer): Record<string, string> {
    const env: Record<string, string> = {};
    for (const name of inherited) {
      const value = this.#environment[name];
      if (value !== undefined) env[name] = value;
    }
    const { proxy, caCertificates } = this.#gateway;
    if (proxy)
      Object.assign(env, { HTTP_PROXY: proxy, HTTPS_PROXY: proxy, http_proxy: proxy, https_proxy: proxy });
    if (caCertificates)
      Object.assign(env, { NODE_EXTRA_CA_CERTS: caCertificates, SSL_CERT_FILE: caCertificates });
    return { ...env, ...server.env };
  }

  #track(instance: ProcessInstance): void {
    this.#running.add(instance);
    this.#logs.add(instance);
    instance.whenGone(async () => {
      await this.#logs.keep(instance);
      this.#running.delete(instance);
      await this.#forget(instance);
    });
  }

  /**
   * Kept on disk before the instance is used, for the sweep after a sudden death. A full disk keeps no server from running: one that
   * is well-behaved ends with its stdin, swept or not.
   */
  async #note({ pid, server }: ProcessInstance): Promise<void> {
    const found = await findProcess(pid);
    if (!found) return;
    const note: Note = { server: server.name, startedAt: found.startedAt };
    try {
      await mkdir(this.#notes, { recursive: true, mode: 0o700 });
      await writeFile(path.join(this.#notes, `${pid}.json`), JSON.stringify(note), { mode: 0o600 });
    } catch (error) {
      if (!unwritable.has(systemCodeOf(error) ?? '')) throw error;
    }
  }

  async #forget({ pid }: ProcessInstance): Promise<void> {
    await rm(path.join(this.#notes, `${pid}.json`), { force: true });
  }
}

const unwritable = new Set(['ENOSPC', 'EDQUOT', 'EROFS']);

interface Note {
  server: string;
  startedAt: string;
}

async function readNote(file: string): Promise<Note | undefined> {
  try {
    const note = JSON.parse(await readFile(file, 'utf8')) as Note | null;
    return typeof note?.startedAt === 'string' ? note : undefined;
  } catch {
    return undefined;
  }
}

/** Kills a group and waits until nothing of it is left. */
async function killGroup(group: number, clock: Clock): Promise<void> {
  const untilMs = clock.now() + killedMs;
  do {
    signalGroup(group, 'SIGKILL');
    const left = (await listProcesses()).some((row) => row.group === group && !row.isZombie);
    if (!left) return;
    await sleep(20, { clock });
  } while (clock.now() < untilMs);
}

function signalGroup(group: number, signal: NodeJS.Signals): void {
  try {
    process.kill(-group, signal);
  } catch (error) {
    // ESRCH: it is gone. EPERM (macOS): only zombies are left.
    if (systemCodeOf(error) !== 'ESRCH' && systemCodeOf(error) !== 'EPERM') throw error;
  }
}

class ProcessInstance implements Instance {
  readonly server: ProcessServer;
  readonly startedAtMs: number;
  readonly stderr = new StderrTail();
  readonly ended: Promise<void>;
  readonly exited: Promise<Exit>;
  readonly #child: ChildProcessByStdio<Writable, Readable, Readable>;
  readonly #clock: Clock;
  readonly #writer: MessageWriter;
  #hasExited = false;
  #isPaused = false;
  #stopping: Promise<void> | undefined;
  #gone: Promise<unknown>;
  #cpu = { usedMs: 0, atMs: 0 };

  constructor(
    child: ChildProcessByStdio<Writable, Readable, Readable>,
    server: ProcessServer,
    options: StartOptions,
    maxMessageBytes: number,
    clock: Clock,
  ) {
    this.#child = child;
    this.server = server;
    this.#clock = clock;
    this.startedAtMs = clock.now();
    this.#cpu.atMs = this.startedAtMs;
    this.#writer = new MessageWriter(child.stdin, { wholeBytes });
    const reader = readMessages(child.stdout, {
      maxBytes: maxMessageBytes,
      onMessage: options.onMessage,
      onNoise: options.onNoise,
      onOverflow: options.onOverflow,
    });
    const stderrEnded = readStderr(child.stderr, this.stderr);

    const exited = deferred<{ code: number | null; signal: NodeJS.Signals | null }>();
    child.once('exit', (code, signal) => {
      this.#hasExited = true;
      exited.resolve({ code, signal });
      // What the server started must not outlive it, and would keep its output open.
      this.kill('SIGKILL');
      clock.schedule(() => {
        child.stdout.destroy();
        child.stderr.destroy();
      }, strayOutputMs);
    });
    child.on('error', () => {
      // It never ran; later errors concern signals that came too late.
      if (child.pid === undefined) exited.resolve({ code: null, signal: null });
    });

    this.ended = reader.ended.then(async () => {
      this.#writer.close();
      await Promise.race([stderrEnded, sleep(lastWordsMs, { clock }).then(readOnce)]);
      this.stderr.end();
    });
    this.exited = Promise.all([exited.promise, this.ended]).then(([{ code, signal }]) => {
      const stderr = this.stderrTail();
      const outOfMemory = stderr.some((line) => line.includes('JavaScript heap out of memory'));
      return {
        ...(code !== null && { code }),
        ...(signal !== null && { signal }),
        ...(outOfMemory && { outOfMemory }),
        hint: exitHint(server, code, stderr),
      };
    });
    this.#gone = this.exited;
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  get name(): string {
    return `pid ${this.pid}`;
  }

  async send(message: Message): Promise<void> {
    if (this.#hasExited) throw new NotWritten(`${this.server.name} (${this.name}) has ended`);
    await this.#writer.send(message);
  }

  stderrTail(): string[] {
    return this.stderr.lines();
  }

  async stats(): Promise<{ memoryBytes: number; cpuPercent: number }> {
    const rows = (await listProcesses()).filter((row) => row.group === this.pid && !row.isZombie);
    const usedMs = rows.reduce((sum, row) => sum + row.cpuMs, 0);
    const atMs = this.#clock.now();
    const before = this.#cpu;
    this.#cpu = { usedMs, atMs };
    // A member that ended takes its time along; less than nothing was not used.
    const percent = atMs > before.atMs ? ((usedMs - before.usedMs) / (atMs - before.atMs)) * 100 : 0;
    return {
      memoryBytes: rows.reduce((sum, row) => sum + row.residentBytes, 0),
      cpuPercent: Math.max(0, percent),
    };
  }

  async pause(): Promise<void> {
    if (this.#hasExited || this.#stopping) return;
    this.#isPaused = true;
    this.kill('SIGSTOP');
  }

  async resume(): Promise<void> {
    if (!this.#isPaused) return;
    this.#isPaused = false;
    this.kill('SIGCONT');
  }

  stop({ graceMs }: { graceMs: number }): Promise<void> {
    this.#stopping ??= this.#stop(graceMs);
    return this.#stopping;
  }

  /** Runs `task` once it is gone; a stop waits for that too. The task must not throw. */
  whenGone(task: () => Promise<void>): void {
    this.#gone = this.exited.then(task);
  }

  /** Signals the whole group. */
  kill(signal: NodeJS.Signals): void {
    if (this.pid !== 0) signalGroup(this.pid, signal);
  }

  async #stop(graceMs: number): Promise<void> {
    if (this.pid === 0) return;
    const isGone = this.#gone.then(() => true);
    const goneWithin = (delayMs: number) =>
      Promise.race([isGone, sleep(delayMs, { clock: this.#clock }).then(() => false)]);
    this.#writer.close();
    if (graceMs > 0) {
      // Frozen it could hear neither.
      await this.resume();
      const askMs = Math.min(endOfInputMs, graceMs / 2);
      if (await goneWithin(askMs)) return;
      this.kill('SIGTERM');
      if (await goneWithin(graceMs - askMs)) return;
    }
    this.kill('SIGKILL');
    await goneWithin(killedMs);
  }
}

/** Lets what has arrived be read: on a busy machine a timer may be due before anybody looked. */
async function readOnce(): Promise<void> {
  for (let i = 0; i < 2; i += 1) await new Promise(setImmediate);
}

function ofProcess(server: ServerConfig): ProcessServer {
  if (server.type === 'process') return server;
  throw new GatewayError(
    'runtime_unavailable',
    `Server ${server.name}: a ${server.type} server cannot run as a process`,
    {
      server: server.name,
    },
  );
}

function cannotStart(server: ProcessServer, env: Record<string, string>, cause: unknown): GatewayError {
  const program = server.command[0] ?? '';
  const isPath = program.includes('/');
  const { message, hint } = (() => {
    switch (systemCodeOf(cause)) {
      case 'ENOENT':
        if (isPath && isExecutable(path.resolve(server.workingDir, program))) {
          return {
            message: `the interpreter that the first line of ${program} names was not found`,
            hint: 'Install it, or correct the first line of that file.',
          };
        }
        return {
          message: `command ${program} was not found`,
          hint: isPath
            ? `Expected a program at ${path.resolve(server.workingDir, program)}.`
            : `Install it, or give its full path; looked for in PATH=${env.PATH ?? '(not set)'}.`,
        };
      case 'EACCES':
        return {
          message: `command ${program} is not executable for the gateway's user`,
          hint: isPath
            ? `chmod +x ${program}, or name its interpreter in command.`
            : 'Give its full path in command.',
        };
      default:
        return { message: `command ${program} did not start: ${messageOf(cause)}`, hint: undefined };
    }
  })();
  return new GatewayError('start_failed', `Server ${server.name}: ${message}`, {
    server: server.name,
    hint,
    cause,
  });
}

function isExecutable(file: string): boolean {
  try {
    accessSync(file, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

/** What stderr and the exit code tell an experienced reader, as a next step. */
function exitHint(server: ProcessServer, code: number | null, stderr: string[]): string | undefined {
  const text = stderr.join('\n');
  if (text.includes('JavaScript heap out of memory')) {
    return 'It used up Node’s heap: raise it with NODE_OPTIONS: --max-old-space-size=<megabytes> in its env.';
  }
  const missing = /Cannot find (?:module|package) '([^']+)'|No module named '?([\w.]+)/.exec(text);
  if (missing)
    return `${missing[1] ?? missing[2]} is missing: install the dependencies in ${server.workingDir}.`;
  const denied =
    /(?:EACCES|EPERM|EROFS)[^'\n]*'([^']+)'|(?:Permission denied|Read-only file system):? '?([^'\n]+)'?/i.exec(
      text,
    );
  if (denied)
    return `The gateway’s user may not use ${denied[1] ?? denied[2]}: change its owner or mode, or the path.`;
  if (/EADDRINUSE/.test(text))
    return 'It opens a port that is taken: a stdio server needs none, check its command.';
  if (code === 127) return 'A program that its command starts was not found: check PATH and command.';
  return undefined;
}
