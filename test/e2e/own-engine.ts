import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { accessSync, constants } from 'node:fs';
import { mkdtemp, open, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import Docker from 'dockerode';
import { run } from '../programs.ts';
import { eventually, until } from '../waiting.ts';
import { fixtureImage } from './engine.ts';

/** Whether this machine lets a test have an engine of its own: root, and the programs are there. */
export const canHaveOwnEngine =
  process.getuid?.() === 0 && ['dockerd', 'containerd', 'ip', 'nsenter', 'mount'].every(isProgram);

function isProgram(name: string): boolean {
  return (process.env.PATH ?? '').split(':').some((folder) => {
    try {
      accessSync(join(folder, name), constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

async function must(command: string, ...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await run(command, args);
  if (code !== 0) throw new Error(`${command} ${args.join(' ')}: ${stderr || stdout}`);
  return stdout;
}

/** Of the disk that its data lies on, in memory: enough for a few images. */
const diskMiB = 1500;

/**
 * A whole dockerd for one test, which it may stop, kill, freeze and starve: with its own data, socket and network namespace,
 * so that the engine of the machine does not notice. It has the fixtures' image.
 */
export class OwnEngine implements AsyncDisposable {
  readonly docker: Docker;
  readonly #folder: string;
  readonly #namespace = `mcp-test-${randomBytes(4).toString('hex')}`;
  #process: ChildProcess | undefined;

  static async create(): Promise<OwnEngine> {
    const engine = new OwnEngine(await mkdtemp(join(tmpdir(), 'mcp-engine-')));
    try {
      await engine.#prepare();
      await engine.start();
      await engine.load(fixtureImage);
    } catch (error) {
      await engine[Symbol.asyncDispose]();
      throw error;
    }
    return engine;
  }

  private constructor(folder: string) {
    this.#folder = folder;
    this.docker = new Docker({ socketPath: this.socket });
  }

  get socket(): string {
    return join(this.#folder, 'docker.sock');
  }

  get dockerHost(): string {
    return `unix://${this.socket}`;
  }

  get #execRoot(): string {
    return join(this.#folder, 'exec');
  }

  /** Where its images and containers lie. */
  get dataRoot(): string {
    return join(this.#folder, 'data');
  }

  /** Its process, which is the daemon itself. */
  get pid(): number {
    return this.#process!.pid!;
  }

  async #prepare(): Promise<void> {
    await must('ip', 'netns', 'add', this.#namespace);
    await must('ip', '-n', this.#namespace, 'link', 'set', 'lo', 'up');
    await must('mkdir', '-p', this.dataRoot);
    await must('mount', '-t', 'tmpfs', '-o', `size=${diskMiB}m`, 'tmpfs', this.dataRoot);
    await writeFile(join(this.#folder, 'daemon.json'), '{}');
  }

  /** Starts the daemon and waits until it answers. With `liveRestore` its containers will outlive it. */
  async start({ liveRestore = false } = {}): Promise<void> {
    const log = await open(join(this.#folder, 'log'), 'a');
    const args = [
      `--net=/run/netns/${this.#namespace}`,
      'dockerd',
      `--config-file=${join(this.#folder, 'daemon.json')}`,
      `--data-root=${this.dataRoot}`,
      `--exec-root=${this.#execRoot}`,
      `--pidfile=${join(this.#folder, 'pid')}`,
      `--host=${this.dockerHost}`,
      '--userland-proxy=false',
      ...(liveRestore ? ['--live-restore'] : []),
    ];
    this.#process = spawn('nsenter', args, { stdio: ['ignore', log.fd, log.fd] });
    await log.close();
    await until(
      () =>
        this.docker.ping().then(
          () => true,
          () => this.#ended && Promise.reject(new Error('dockerd ended')),
        ),
      'the engine answers',
      60_000,
    ).catch(async (error) => {
      const text = await readFile(join(this.#folder, 'log'), 'utf8');
      throw new Error(`${error}\n${text.slice(-3000)}`);
    });
  }

  /** Sends a signal to the daemon. */
  signal(signal: NodeJS.Signals): void {
    this.#process?.kill(signal);
  }

  /** Ends the daemon and waits for that. */
  async end(signal: 'SIGTERM' | 'SIGKILL'): Promise<void> {
    if (!this.#process || this.#ended) return;
    const over = new Promise((resolve) => this.#process!.once('exit', resolve));
    this.signal(signal);
    await over;
    // Its containerd dies with it; where nobody reaps that, the next daemon would take it for alive.
    if (signal === 'SIGKILL') await rm(join(this.#execRoot, 'containerd/containerd.pid'), { force: true });
  }

  /** Leaves not a byte on its disk. */
  async fillDisk(): Promise<void> {
    await run('dd', ['if=/dev/zero', `of=${this.#filler}`, 'bs=64k']);
    await run('sh', ['-c', `cat /dev/zero >>${this.#filler}`]);
  }

  async emptyDisk(): Promise<void> {
    await rm(this.#filler);
  }

  get #filler(): string {
    return join(this.dataRoot, 'filler');
  }

  /** Copies an image over from the engine of the machine. */
  async load(image: string): Promise<void> {
    const file = join(this.#folder, 'image.tar');
    await must('docker', 'save', '-o', file, image);
    await must('docker', '-H', this.dockerHost, 'load', '-q', '-i', file);
    await rm(file);
  }

  /** Names of its containers, running or not, without the leading slash. */
  async containers(): Promise<string[]> {
    const all = await this.docker.listContainers({ all: true });
    return all.map(({ Names }) => Names[0]!.slice(1)).sort();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#process) {
      this.signal('SIGCONT');
      // A killed one has left containers behind.
      if (this.#ended) await this.start().catch(() => {});
      for (const { Id } of await this.docker.listContainers({ all: true }).catch(() => [])) {
        await this.docker
          .getContainer(Id)
          .remove({ force: true })
          .catch(() => {});
      }
      await this.end('SIGTERM');
    }
    // Its containerd, and what a killed daemon left running, end a moment later.
    await run('sh', [
      '-c',
      `for pid in $(grep -lsF ${this.#folder} /proc/[0-9]*/cmdline | cut -d/ -f3); do [ $pid = $$ ] || kill -9 $pid; done`,
    ]);
    await run('sh', ['-c', `grep -o ' ${this.#folder}[^ ]*' /proc/mounts | sort -r | xargs -r umount -l`]);
    await run('ip', ['netns', 'del', this.#namespace]);
    await eventually(
      () =>
        rm(this.#folder, { recursive: true, force: true }).then(
          () => true,
          () => false,
        ),
      (isGone) => isGone,
    );
  }

  get #ended(): boolean {
    return this.#process!.exitCode !== null || this.#process!.signalCode !== null;
  }
}
