import { type ChildProcess, spawn } from 'node:child_process';
import { readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { main, temporaryFolder } from '../programs.ts';

/** A `mcp-gateway start` that runs. */
export interface GatewayProcess extends AsyncDisposable {
  /** `http://127.0.0.1:<port>` */
  url: string;
  folder: string;
  stateDir: string;
  process: ChildProcess;
  /** Everything that it printed so far. */
  output(): string;
  /** The id on its containers' labels. */
  id(): Promise<string>;
  /** Resolves when it has printed something that matches. */
  printed(pattern: RegExp, limitMs?: number): Promise<void>;
  /** Sends a signal and waits for the end; the exit code, or the signal's name. */
  end(signal?: NodeJS.Signals): Promise<number | string>;
}

/** What to start. */
export interface GatewayProcessOptions {
  /** The text of servers.yaml. */
  config: string;
  /** Kept by the caller across restarts; otherwise made, and removed at the end. */
  folder?: string;
  args?: string[];
  env?: Record<string, string>;
  /** What to run; this checkout unless given. */
  program?: [command: string, ...args: string[]];
  /** Wait for the banner, when every server has been discovered or has failed; else only for the bound port. */
  discovered?: boolean;
}

/** Runs the real `mcp-gateway start` on a free port of loopback. */
export async function startGateway(options: GatewayProcessOptions): Promise<GatewayProcess> {
  const folder = options.folder ?? (await temporaryFolder());
  await writeFile(join(folder, 'servers.yaml'), options.config);
  const [command, ...first] = options.program ?? [process.execPath, main];
  const config = join(folder, 'servers.yaml');
  const args = [...first, 'start', '--config', config, '--port', '0', ...(options.args ?? [])];
  const child = spawn(command, args, {
    cwd: folder,
    env: { ...process.env, LOG_LEVEL: 'debug', ...options.env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let output = '';
  const listeners = new Set<() => void>();
  const collect = (chunk: Buffer) => {
    output += chunk;
    for (const listener of listeners) listener();
  };
  child.stdout.on('data', collect);
  child.stderr.on('data', collect);
  const ended = new Promise<number | string>((resolve) =>
    child.once('close', (code, signal) => {
      for (const listener of listeners) listener();
      resolve(code ?? signal!);
    }),
  );

  const printed = (pattern: RegExp, limitMs = 60_000) =>
    new Promise<void>((resolve, reject) => {
      const fail = (why: string) => finish(() => reject(new Error(`${why} before ${pattern}:\n${output}`)));
      const timer = setTimeout(() => fail(`${limitMs} ms passed`), limitMs);
      const finish = (settle: () => void) => {
        clearTimeout(timer);
        listeners.delete(check);
        settle();
      };
      const check = () => {
        if (pattern.test(output)) finish(resolve);
        else if (child.exitCode !== null || child.signalCode !== null) fail('the gateway ended');
      };
      listeners.add(check);
      check();
    });

  const gateway: GatewayProcess = {
    url: '',
    folder,
    stateDir: join(folder, 'state'),
    process: child,
    output: () => output,
    id: async () => (await readFile(join(folder, 'state', 'gateway-id'), 'utf8')).trim(),
    printed,
    end(signal = 'SIGTERM') {
      child.kill(signal);
      return ended;
    },
    async [Symbol.asyncDispose]() {
      if (child.exitCode === null && child.signalCode === null) await gateway.end();
      if (!options.folder) await rm(folder, { recursive: true, force: true });
    },
  };
  try {
    await printed(/Listening on (\S+)/);
    gateway.url = /Listening on (\S+)/.exec(output)![1]!;
    if (options.discovered) await printed(/^Ready: /m, 300_000);
    return gateway;
  } catch (error) {
    await gateway[Symbol.asyncDispose]();
    throw error;
  }
}
