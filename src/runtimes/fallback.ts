import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { abortable, type Clock, SingleFlight, systemClock } from '../base/async.ts';
import { GatewayError, messageOf, systemCodeOf } from '../base/errors.ts';
import type {
  ContainerServer,
  DockerServer,
  ProcessServer,
  ServerConfig,
  TemplateServer,
} from '../config/schema.ts';
import { inherited, type ProcessRuntime } from './process.ts';
import type {
  Instance,
  LogOptions,
  Prepared,
  PrepareOptions,
  Runtime,
  RuntimeDescription,
  StartOptions,
} from './runtime.ts';
import { StderrTail } from './stdio.ts';
import type { NpmVersions } from './templates/npm.ts';

export interface FallbackRuntimeOptions {
  processes: ProcessRuntime;
  versions: NpmVersions;
  stateDir: string;
  clock?: Clock;
  /** The gateway's own environment. */
  environment?: Record<string, string | undefined>;
}

/** What npm needs of the gateway's environment beside `inherited`: the way to its registry. */
const forInstalls = [
  'HTTP_PROXY',
  'HTTPS_PROXY',
  'NO_PROXY',
  'http_proxy',
  'https_proxy',
  'no_proxy',
  'npm_config_registry',
  'NPM_CONFIG_REGISTRY',
] as const;

/**
 * Runs container servers that declare `fallback: process` as plain processes, where there is no engine: `build`'s folder after
 * its `npm ci`, a template by npx. Servers of type process pass through.
 */
export class FallbackRuntime implements Runtime {
  readonly kind = 'process';
  readonly #processes: ProcessRuntime;
  readonly #versions: NpmVersions;
  readonly #folder: string;
  readonly #clock: Clock;
  readonly #environment: Record<string, string | undefined>;
  readonly #installs = new SingleFlight<void>();
  /** Packages that npx has fetched in this run. */
  readonly #fetched = new Set<string>();
  readonly #closing = new AbortController();

  constructor(options: FallbackRuntimeOptions) {
    const { processes, versions, stateDir, clock = systemClock, environment = process.env } = options;
    this.#processes = processes;
    this.#versions = versions;
    this.#folder = path.join(stateDir, 'fallback');
    this.#clock = clock;
    this.#environment = environment;
  }

  async prepare(server: ServerConfig, options: PrepareOptions): Promise<Prepared> {
    const plain = await this.#asProcess(server, options.signal);
    let installed = '';
    if (server.type === 'docker') {
      const { build } = server;
      installed = await this.#install(server, build!.context, options);
    } else if (server.type === 'template') {
      await this.#fetch(server, plain, options);
    }
    const { digest } = await this.#processes.prepare(plain);
    return { digest: installed === '' ? digest : `${digest}+${installed}` };
  }

  async start(server: ServerConfig, prepared: Prepared, options: StartOptions): Promise<Instance> {
    const plain = await this.#asProcess(server, options.signal);
    return this.#processes.start(plain, prepared, options);
  }

  sweep(): Promise<{ removed: string[] }> {
    return this.#processes.sweep();
  }

  logs(server: ServerConfig, options: LogOptions): AsyncIterable<string> {
    return this.#processes.logs(server, options);
  }

  describe(): Promise<RuntimeDescription> {
    return this.#processes.describe();
  }

  /** Ends installs that are under way too. */
  async close(): Promise<void> {
    this.#closing.abort(new Error('the gateway is closing'));
    await this.#processes.close();
  }

  async #asProcess(server: ServerConfig, signal: AbortSignal | undefined): Promise<ProcessServer> {
    switch (server.type) {
      case 'process':
        return server;
      case 'docker':
        return this.#buildAsProcess(server);
      case 'template':
        return this.#templateAsProcess(server, signal);
      case 'http':
        throw new GatewayError(
          'runtime_unavailable',
          `Server ${server.name}: an http server has no process`,
          {
            server: server.name,
          },
        );
    }
  }

  async #buildAsProcess(server: DockerServer): Promise<ProcessServer> {
    const { build } = server;
    if (!build) {
      throw new GatewayError(
        'runtime_unavailable',
        `Server ${server.name}: image ${server.image} needs a container engine`,
        {
          server: server.name,
          hint: 'Start one, or give the server a `build` folder that can run as a process.',
        },
      );
    }
    const dockerfile = await readFile(path.resolve(build.context, build.dockerfile), 'utf8').catch(() => '');
    const command = commandOf(server, dockerfile);
    if (command.length === 0) {
      throw new GatewayError(
        'runtime_unavailable',
        `Server ${server.name}: what to run as a process is not known`,
        {
          server: server.name,
          hint: `Give it a \`command\`; ${path.join(build.context, build.dockerfile)} has neither CMD nor ENTRYPOINT.`,
        },
      );
    }
    return this.#plain(server, command, build.context);
  }

  async #templateAsProcess(server: TemplateServer, signal: AbortSignal | undefined): Promise<ProcessServer> {
    if (server.template !== 'npm') {
      throw new GatewayError(
        'runtime_unavailable',
        `Server ${server.name}: a template of ${server.template} needs a container engine`,
        { server: server.name, hint: 'Start one, or run the package as a server of type process.' },
      );
    }
    const spec = `${server.package}@${await this.#versions.resolve(server, signal)}`;
    // A folder of its own, because npx prefers what is installed where it is called.
    const workingDir = path.join(this.#folder, server.name);
    await mkdir(workingDir, { recursive: true, mode: 0o700 });
    const what = server.bin ? [`--package=${spec}`, '--', server.bin] : ['--', spec];
    const command = ['npx', ...(await this.#npxOptions()), ...what, ...(server.command ?? [])];
    return this.#plain(server, command, workingDir);
  }

  #plain(server: ContainerServer, command: string[], workingDir: string): ProcessServer {
    return { ...server, type: 'process', command, workingDir, env: { PATH: this.#path(), ...server.env } };
  }

  /** The same at the fetch and at the start: what npx has kept is found under the address of its registry only. */
  async #npxOptions(): Promise<string[]> {
    return [
      '-y',
      '--prefer-offline',
      '--no-update-notifier',
      `--registry=${await this.#versions.registry()}`,
    ];
  }

  /** The gateway's Node comes last: it is there where PATH has none. */
  #path(): string {
    return [this.#environment.PATH, path.dirname(process.execPath)].filter(Boolean).join(path.delimiter);
  }

  /** `npm ci`, unless the lockfile is that of the last one. Returns a hash of what is installed, '' where there is nothing. */
  async #install(server: DockerServer, folder: string, options: PrepareOptions): Promise<string> {
    const lock = await readFile(path.join(folder, 'package-lock.json')).catch(() => undefined);
    const manifest = lock ?? (await readFile(path.join(folder, 'package.json')).catch(() => undefined));
    if (!manifest) return '';
    const hash = createHash('sha256').update(manifest).digest('hex');
    // Inside what it vouches for: whoever removes the packages removes it too.
    const mark = path.join(folder, 'node_modules', '.mcp-gateway-installed');
    const isCurrent = async () => (await readFile(mark, 'utf8').catch(() => '')) === hash;
    if (await isCurrent()) return hash;
    const install = this.#installs.run(folder, async () => {
      if (await isCurrent()) return;
      const args = lock ? ['ci'] : ['install', '--no-package-lock'];
      await this.#npm(
        'npm',
        [...args, '--no-audit', '--no-fund', '--no-update-notifier'],
        folder,
        server,
        options,
      );
      await mkdir(path.dirname(mark), { recursive: true });
      await writeFile(mark, hash);
    });
    await abortable(install, options.signal);
    return hash;
  }

  /** Lets npx fetch the package ahead, so that a start need not wait for the registry. */
  async #fetch(server: TemplateServer, plain: ProcessServer, options: PrepareOptions): Promise<void> {
    const spec = `${server.package}@${await this.#versions.resolve(server, options.signal)}`;
    if (this.#fetched.has(spec)) return;
    const fetch = this.#installs.run(spec, async () => {
      const args = [...(await this.#npxOptions()), `--package=${spec}`, '--', 'node', '-e', '0'];
      await this.#npm('npx', args, plain.workingDir, server, options);
      this.#fetched.add(spec);
    });
    await abortable(fetch, options.signal);
  }

  async #npm(
    program: 'npm' | 'npx',
    args: string[],
    folder: string,
    server: ContainerServer,
    { onProgress }: PrepareOptions,
  ): Promise<void> {
    const shown =
      program === 'npm'
        ? `npm ${args[0]} in ${folder}`
        : `npx ${args.find((arg) => arg.startsWith('--package='))?.slice(10)}`;
    onProgress?.({ step: 'install', text: shown });
    const env: Record<string, string> = {};
    for (const name of [...inherited, ...forInstalls]) {
      const value = this.#environment[name];
      if (value !== undefined) env[name] = value;
    }
    env.PATH = this.#path();
    const tail = new StderrTail();
    tail.follow((text) => onProgress?.({ step: 'install', text }));
    const failed = (reason: string, hint: string, cause?: unknown) =>
      new GatewayError('build_failed', `Server ${server.name}: ${shown} ${reason}`, {
        server: server.name,
        hint,
        cause,
      });

    const child = spawn(program, args, {
      cwd: folder,
      env,
      detached: true,
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    const end = () => {
      try {
        if (child.pid !== undefined) process.kill(-child.pid, 'SIGKILL');
      } catch {
        // It has ended by itself.
      }
    };
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk: Buffer) => tail.push(chunk));
    let isLate = false;
    const cancelLimit = this.#clock.schedule(() => {
      isLate = true;
      end();
    }, server.timeouts.buildMs);
    this.#closing.signal.addEventListener('abort', end, { once: true });
    if (this.#closing.signal.aborted) end();
    try {
      const [code] = (await once(child, 'close')) as [number | null];
      if (code === 0) return;
    } catch (error) {
      const isMissing = systemCodeOf(error) === 'ENOENT';
      const hint = isMissing ? `Install Node.js with npm, or start a container engine.` : 'See the cause.';
      throw failed(
        isMissing ? `needs ${program}, which was not found` : `did not start: ${messageOf(error)}`,
        hint,
        error,
      );
    } finally {
      cancelLimit();
      this.#closing.signal.removeEventListener('abort', end);
    }
    this.#closing.signal.throwIfAborted();
    if (isLate) {
      throw failed(
        `took longer than ${server.timeouts.buildMs / 1000} s`,
        'Check the network, or raise timeouts.build.',
      );
    }
    const words = tail
      .lines()
      .filter((line) => /npm err/i.test(line))
      .slice(0, 4)
      .join('; ');
    throw failed(
      `failed: ${words || tail.lines().at(-1) || 'it said nothing'}`,
      'Run it by hand there to see more; it needs its registry.',
    );
  }
}

/**
 * What a container of the entry would run: `entrypoint` and `command` where it has them, else the Dockerfile's last ENTRYPOINT and
 * CMD (Dockerfile reference, "Understand how CMD and ENTRYPOINT interact"); an `entrypoint` of the entry drops the CMD.
 */
function commandOf(server: DockerServer, dockerfile: string): string[] {
  const instructions = dockerfile.replace(/\\\r?\n/g, ' ').split(/\r?\n/);
  const last = (keyword: string): string[] => {
    const lines = instructions.filter((line) => new RegExp(`^\\s*${keyword}\\s`, 'i').test(line));
    const text = lines.at(-1)?.trim().slice(keyword.length).trim();
    if (!text) return [];
    try {
      const words: unknown = JSON.parse(text);
      if (Array.isArray(words) && words.every((word) => typeof word === 'string')) return words;
    } catch {
      // The shell form.
    }
    return ['sh', '-c', text];
  };
  const entrypoint = server.entrypoint ?? last('ENTRYPOINT');
  const command = server.command ?? (server.entrypoint ? [] : last('CMD'));
  return [...entrypoint, ...command];
}
