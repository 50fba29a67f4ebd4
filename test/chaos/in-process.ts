import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { startGateway, type TestGateway } from '../harness.ts';
import { freePort } from '../packaging/free-port.ts';
import { until } from '../waiting.ts';
import { cast, gatewayOf, serversOf } from './cast.ts';
import type { Model } from './model.ts';
import type { ServerName, Setup } from './schedule.ts';
import { type Bug, markName, Watch } from './seam.ts';
import type { Running, Stage } from './stage.ts';

const endMs = 20_000;
let stages = 0;

/** A whole gateway in this process, its servers processes; every start, stop and write of it is seen. */
export async function openInProcess(setup: Setup, model: Model, bug?: Bug): Promise<Stage> {
  const stage = new InProcess(setup, model, bug);
  await stage.open();
  return stage;
}

class InProcess implements Stage {
  readonly #setup: Setup;
  readonly #model: Model;
  readonly #watch: Watch;
  /** What a child of this process is, once it has said so. */
  readonly #known = new Map<number, ServerName | 'other'>();
  #gateway!: TestGateway;
  #folder = '';
  #port = 0;
  #hasEnded = false;

  constructor(setup: Setup, model: Model, bug?: Bug) {
    this.#setup = setup;
    this.#model = model;
    stages += 1;
    this.#watch = new Watch(`${process.pid}-${stages}`, model, bug);
  }

  async open(): Promise<void> {
    this.#folder = await mkdtemp(path.join(tmpdir(), 'gateway chaos-'));
    this.#port = await freePort();
    await this.#start();
  }

  url(endpoint: string): URL {
    return this.#gateway.url(endpoint);
  }

  settled(): Promise<void> {
    return this.#gateway.settled();
  }

  async restart(how: 'kill' | 'drain'): Promise<void> {
    this.#watch.isEnding = true;
    const { app } = this.#gateway;
    await this.#within(how === 'kill' ? app.kill() : app.drain(), `the gateway’s ${how}`);
    await this.#expectNothing(`after a ${how}`);
    await this.#start();
    this.#watch.isEnding = false;
  }

  async kill(server: ServerName): Promise<boolean> {
    const [pid] = await this.#pidsOf(server);
    return pid !== undefined && signal(pid, 'SIGKILL');
  }

  async freeze(server: ServerName, ms: number): Promise<void> {
    const [pid] = await this.#pidsOf(server);
    if (pid === undefined || !signal(pid, 'SIGSTOP')) return;
    await new Promise((resolve) => setTimeout(resolve, ms));
    signal(pid, 'SIGCONT');
  }

  async trouble(): Promise<void> {}

  async running(): Promise<Running[]> {
    const children = await this.#children();
    return [...children].map(([pid, server]) => {
      const name = `pid ${pid}`;
      return { name, server, isLeaving: this.#watch.isLeaving(name) };
    });
  }

  async end(): Promise<void> {
    if (this.#hasEnded) return;
    this.#hasEnded = true;
    this.#watch.isEnding = true;
    await this.#within(this.#gateway.stop(), 'the gateway’s end');
    await this.#expectNothing('after the end');
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.end();
    for (const pid of (await this.#children()).keys()) signal(pid, 'SIGKILL');
    this.#watch[Symbol.dispose]();
    await rm(this.#folder, { recursive: true, force: true, maxRetries: 5 });
  }

  async #start(): Promise<void> {
    const servers = Object.fromEntries(
      Object.entries(serversOf(this.#setup)).map(([name, { env, ...entry }]) => [
        name,
        {
          ...entry,
          fixture: cast[name as ServerName].program,
          env: { ...(env as object), [markName]: `${this.#watch.id}/${name}` },
        },
      ]),
    );
    const gateway = { ...gatewayOf(this.#setup), port: this.#port };
    this.#gateway = await startGateway({ servers, gateway, folder: this.#folder });
  }

  async #within(work: Promise<void>, what: string): Promise<void> {
    let isDone = false;
    await Promise.race([
      work.then(() => {
        isDone = true;
      }),
      new Promise((resolve) => setTimeout(resolve, endMs).unref()),
    ]);
    if (!isDone) this.#model.breach('bounded', `${what} took more than ${endMs} ms`);
  }

  async #expectNothing(when: string): Promise<void> {
    const left = async () => [...(await this.#children())].map(([pid, server]) => `${server} (pid ${pid})`);
    await until(async () => (await left()).length === 0, 'nothing left', 5000).catch(async () =>
      this.#model.breach('noOrphans', `${when} there are ${(await left()).join(', ')}`),
    );
  }

  async #pidsOf(server: ServerName): Promise<number[]> {
    return [...(await this.#children())].flatMap(([pid, name]) => (name === server ? [pid] : []));
  }

  /** The processes that its gateways have started and that are alive. */
  async #children(): Promise<Map<number, ServerName>> {
    const alive = new Map<number, ServerName>();
    for (const pid of await childrenOfThis()) {
      let known = this.#known.get(pid);
      if (known === undefined) {
        // Before it has become what it is to be, it has what this process has.
        const environment = await readFile(`/proc/${pid}/environ`, 'latin1').catch(() => '');
        const mark = environment.split('\0').find((line) => line.startsWith(`${markName}=`));
        if (mark === undefined) continue;
        const [id, name] = mark.slice(markName.length + 1).split('/');
        known = id === this.#watch.id ? (name as ServerName) : 'other';
        this.#known.set(pid, known);
      }
      if (known !== 'other' && !(await isDead(pid))) alive.set(pid, known);
    }
    return alive;
  }
}

async function childrenOfThis(): Promise<number[]> {
  const tasks = await readdir('/proc/self/task');
  const lists = await Promise.all(
    tasks.map((task) => readFile(`/proc/self/task/${task}/children`, 'utf8').catch(() => '')),
  );
  return lists.flatMap((list) => list.split(' ').filter(Boolean).map(Number));
}

async function isDead(pid: number): Promise<boolean> {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => ') X');
  return /\) [ZX]/.test(stat.slice(stat.lastIndexOf(')')));
}

function signal(pid: number, name: NodeJS.Signals): boolean {
  try {
    process.kill(pid, name);
    return true;
  } catch {
    // It has ended in the meantime.
    return false;
  }
}
