import { rm } from 'node:fs/promises';
import { Agent } from 'node:http';
import { join } from 'node:path';
import { containersOf, engine } from '../e2e/engine.ts';
import { type GatewayProcess, startGateway } from '../e2e/gateway-process.ts';
import { main, root, temporaryFolder } from '../programs.ts';
import { SoakClient, type World } from './clients.ts';
import { Draw } from './draw.ts';
import { drawFaults, type Fault, harm } from './faults.ts';
import { Ledger } from './ledger.ts';
import { configOf, type ServerName } from './servers.ts';
import { type Flatness, flatness, heldBy, type Vitals } from './vitals.ts';

export interface SoakOptions {
  minutes: number;
  /** Clients of both eras at a time: seven of ten have a session, the others need none. */
  clients: number;
  /** Calls a second of all of them. */
  rate: number;
  seed: string;
  /** Ends it early; nothing stays behind. */
  signal?: AbortSignal;
  /** Told where it stands, at least every 30 s. */
  onProgress?(progress: Progress): void;
}

/** Where a soak stands. */
export interface Progress {
  atMs: number;
  ledger: Ledger;
  vitals: Vitals | undefined;
  /** What was done on purpose so far, by kind. */
  faults: Record<string, number>;
}

/** What a soak found. */
export interface Verdict {
  ledger: Ledger;
  /** Containers that nobody knew, in words. */
  orphans: string[];
  flatness: Flatness[];
  /** Lines that the gateway logged as errors, and how it ended. */
  complaints: string[];
  /** How long `/health/live` took whenever it was asked: on a machine without time for the gateway, seconds. */
  healthMs: number[];
  isGood: boolean;
}

/** A container that a status does not show is starting or ending; for longer than this it is an orphan. */
const orphanMs = 30_000;
/** For what a killed gateway left, once the next one is ready, and for the end of the last one. */
const sweepMs = 15_000;
const sleep = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));

/** Rejects when the signal is aborted. */
const rejectionOf = (signal: AbortSignal | undefined) =>
  new Promise<never>((_, reject) => {
    signal?.addEventListener('abort', () => reject(signal.reason), { once: true });
  });

/** Runs a real gateway with real containers under faults and many clients, and judges every answer and everything that is left. */
export async function soak(options: SoakOptions): Promise<Verdict> {
  const totalMs = options.minutes * 60_000;
  const draw = new Draw(options.seed);
  const folder = await temporaryFolder();
  const run = new Run(options, folder, totalMs);
  try {
    return await run.toTheEnd(draw);
  } finally {
    await run.cleanUp();
    await rm(folder, { recursive: true, force: true });
  }
}

class Run {
  readonly #options: SoakOptions;
  readonly #folder: string;
  readonly #probePath: string;
  readonly #totalMs: number;
  readonly #agent = new Agent({ keepAlive: true, maxSockets: 512 });
  readonly #ledger: Ledger;
  readonly #samples: Vitals[] = [];
  readonly #orphans: string[] = [];
  readonly #complaints: string[] = [];
  readonly #faults: Record<string, number> = {};
  readonly #healthMs: number[] = [];
  /** When a container was first seen that no status shows, by id. */
  readonly #strangers = new Map<string, number>();
  #gateway!: GatewayProcess;
  #id = '';
  #port = 0;
  #startedAtMs = 0;
  #isOver = false;
  #up = Promise.resolve();

  constructor(options: SoakOptions, folder: string, totalMs: number) {
    this.#options = options;
    this.#folder = folder;
    this.#probePath = join(folder, 'probe.sock');
    this.#totalMs = totalMs;
    this.#ledger = new Ledger(() => this.#now());
  }

  async toTheEnd(draw: Draw): Promise<Verdict> {
    this.#gateway = await this.#start(true);
    this.#id = await this.#gateway.id();
    this.#port = Number(new URL(this.#gateway.url).port);
    this.#startedAtMs = performance.now();

    const clients = this.#clients(draw).map((client) => client.live());
    const faults = this.#harm(drawFaults(draw.of('faults'), this.#totalMs), draw.of('victims'));
    const watching = this.#watch();
    const telling = setInterval(() => this.#tell(), Math.min(30_000, this.#totalMs / 10));
    // They end only when the time is over, unless one of them fails.
    const all = Promise.all([...clients, faults, watching]);
    try {
      await Promise.race([all, sleep(this.#totalMs), rejectionOf(this.#options.signal)]);
    } finally {
      clearInterval(telling);
    }
    this.#tell();
    this.#isOver = true;
    await all;
    await this.#end();

    const flat = flatness(this.#samples, this.#totalMs);
    const { lostCount, crossedCount } = this.#ledger;
    const isGood =
      lostCount + crossedCount + this.#orphans.length + this.#complaints.length === 0 &&
      flat.every(({ isFlat }) => isFlat);
    return {
      ledger: this.#ledger,
      orphans: this.#orphans,
      flatness: flat,
      complaints: this.#complaints,
      healthMs: this.#healthMs,
      isGood,
    };
  }

  /** Whatever happened, nothing of it stays. */
  async cleanUp(): Promise<void> {
    this.#isOver = true;
    this.#agent.destroy();
    const child = this.#gateway?.process;
    if (child && child.exitCode === null && child.signalCode === null) await this.#gateway.end('SIGKILL');
    for (const name of this.#id ? await containersOf(this.#id) : [])
      await engine
        .getContainer(name)
        .remove({ force: true })
        .catch(() => {});
  }

  #now(): number {
    return performance.now() - this.#startedAtMs;
  }

  async #start(discovered: boolean): Promise<GatewayProcess> {
    const probe = join(root, 'test/soak/probe.ts');
    const gateway = await startGateway({
      config: configOf(this.#sessionTimeoutMs),
      folder: this.#folder,
      args: this.#port === 0 ? [] : ['--port', String(this.#port)],
      program: [process.execPath, '--import', probe, main],
      env: { SOAK_PROBE: this.#probePath, LOG_LEVEL: 'error' },
      discovered,
    });
    gateway.process.once('exit', (code, signal) => {
      if (signal === 'SIGKILL' || this.#isOver) return;
      this.#complaints.push(
        `the gateway ended by itself, ${signal ?? code}: ${gateway.output().slice(-2000)}`,
      );
    });
    return gateway;
  }

  /** Clients that think must keep their sessions, however long their answers take. */
  get #sessionTimeoutMs(): number {
    return Math.max(60_000, 6 * this.#thinkMs);
  }

  get #thinkMs(): number {
    return (this.#options.clients / this.#options.rate) * 1000;
  }

  #clients(draw: Draw): SoakClient[] {
    const windows = draw.of('windows');
    const open = new Map<string, boolean>();
    const isOpen = (server: ServerName) => {
      if (server === 'shared') return true;
      // Five seconds in which everybody calls it, or nobody.
      const key = `${server}/${Math.floor(this.#now() / 5000)}`;
      if (!open.has(key)) open.set(key, windows.of(key).chance(0.5));
      return open.get(key)!;
    };
    const world: World = {
      url: new URL('/mcp', this.#gateway.url),
      agent: this.#agent,
      ledger: this.#ledger,
      now: () => this.#now(),
      up: () => this.#up,
      isOpen,
      isOver: () => this.#isOver,
      sleep: (ms) => sleep(Math.max(0, Math.min(ms, this.#totalMs - this.#now()))),
      thinkMs: this.#thinkMs,
      // What belongs to sessions has become as much as it will long before the first third is over.
      renewal: Math.min(0.2, this.#thinkMs / (this.#totalMs / 15)),
    };
    return Array.from({ length: this.#options.clients }, (_, index) => {
      const era = index % 10 < 7 ? 'legacy' : 'modern';
      // A container each, so only some.
      const isNoteTaker = index < Math.min(14, this.#options.clients / 8);
      const isListener = index % 20 >= 18 || index % 20 === 5;
      return new SoakClient(world, `c${index}`, { era, isNoteTaker, isListener }, draw.of(`client ${index}`));
    });
  }

  async #harm(faults: Fault[], draw: Draw): Promise<void> {
    for (const fault of faults) {
      await sleep(Math.max(0, fault.atMs - this.#now()));
      if (this.#isOver) return;
      const isDone =
        fault.kind === 'restart' ? await this.#restart() : await harm(fault, this.#id, draw, this.#ledger);
      if (isDone) this.#faults[fault.kind] = (this.#faults[fault.kind] ?? 0) + 1;
    }
  }

  /** Killed in the middle of everything; what it left must be gone soon after the next one is there. */
  async #restart(): Promise<true> {
    let isUp = () => {};
    this.#up = new Promise((resolve) => {
      isUp = resolve;
    });
    const over = this.#ledger.fault(undefined);
    this.#keepComplaints();
    await this.#gateway.end('SIGKILL');
    const left = await this.#containerIds();
    this.#gateway = await this.#start(false);
    over();
    isUp();
    void this.#expectSwept(left);
    return true;
  }

  async #expectSwept(left: string[]): Promise<void> {
    await sleep(sweepMs);
    const still = (await this.#containerIds()).filter((id) => left.includes(id));
    if (still.length > 0) this.#orphans.push(`${sweepMs} ms after a restart ${await this.#describe(still)}`);
  }

  /** Looks at what the gateway holds, all the time. */
  async #watch(): Promise<void> {
    const everyMs = Math.min(5000, Math.max(500, this.#totalMs / 120));
    let tookMs = 0;
    while (!this.#isOver) {
      // To look stops the gateway for a moment: on a busy machine that must not become all that it does.
      await sleep(Math.max(everyMs, Math.min(20 * tookMs, this.#totalMs / 30)));
      await this.#up;
      const gateway = this.#gateway;
      const beganMs = this.#now();
      const vitals = await this.#look(gateway).catch((error) => {
        // It may have been killed in the meantime.
        if (gateway === this.#gateway && !this.#isOver && gateway.process.exitCode !== null)
          this.#complaints.push(`cannot look into the gateway: ${error}`);
        return undefined;
      });
      tookMs = this.#now() - beganMs;
      if (vitals) this.#samples.push(vitals);
    }
  }

  #tell(): void {
    const vitals = this.#samples.at(-1);
    this.#options.onProgress?.({ atMs: this.#now(), ledger: this.#ledger, vitals, faults: this.#faults });
  }

  async #look(gateway: GatewayProcess): Promise<Vitals> {
    const askedAtMs = performance.now();
    await (await fetch(`${gateway.url}/health/live`)).text();
    this.#healthMs.push(performance.now() - askedAtMs);
    const [held, containers] = await Promise.all([heldBy(this.#probePath), this.#findStrangers(gateway)]);
    return { atMs: this.#now(), ...held, containers };
  }

  /** Compares the engine's containers with what the gateway says; how many there are. */
  async #findStrangers(gateway: GatewayProcess): Promise<number> {
    const filters = { label: [`mcp-gateway.gateway=${this.#id}`] };
    const containers = await engine.listContainers({ all: true, filters });
    const status = await fetch(`${gateway.url}/servers`);
    const { servers } = (await status.json()) as { servers: { instances: { id: string }[] }[] };
    const known = new Set(servers.flatMap(({ instances }) => instances.map(({ id }) => id)));
    const now = this.#now();
    const ids = new Set(containers.map(({ Id }) => Id));
    for (const id of this.#strangers.keys()) if (!ids.has(id)) this.#strangers.delete(id);
    for (const { Id, Names, Labels, Status } of containers) {
      const name = Names[0]!.slice(1);
      if (known.has(name) || 'mcp-gateway.sandbox' in Labels) {
        this.#strangers.delete(Id);
        continue;
      }
      const since = this.#strangers.get(Id) ?? now;
      this.#strangers.set(Id, since);
      if (now - since < orphanMs) continue;
      this.#orphans.push(
        `${name} (${Status}) is in no status for ${orphanMs} ms, at ${Math.round(now / 1000)} s`,
      );
      this.#strangers.set(Id, Number.POSITIVE_INFINITY);
    }
    return containers.length;
  }

  /** A last kill with everything running, then an ordinary end: nothing may be left of either. */
  async #end(): Promise<void> {
    await this.#restart();
    await sleep(sweepMs + 1000);
    await this.#gateway.end();
    this.#keepComplaints();
    await sleep(1000);
    const left = await this.#containerIds();
    if (left.length > 0) this.#orphans.push(`after the end ${await this.#describe(left)}`);
  }

  #keepComplaints(): void {
    const lines = this.#gateway.output().split('\n');
    this.#complaints.push(...lines.filter((line) => /\berror\b/i.test(line)).slice(0, 20));
  }

  async #containerIds(): Promise<string[]> {
    const filters = { label: [`mcp-gateway.gateway=${this.#id}`] };
    return (await engine.listContainers({ all: true, filters })).map(({ Id }) => Id);
  }

  async #describe(ids: string[]): Promise<string> {
    const containers = await engine.listContainers({ all: true });
    const found = containers.filter(({ Id }) => ids.includes(Id));
    return `${found.length} containers are left: ${found.map(({ Names, Status }) => `${Names[0]} (${Status})`).join(', ')}`;
  }
}
