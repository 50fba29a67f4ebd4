import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { engine, fixture } from '../e2e/engine.ts';
import { type GatewayProcess, startGateway } from '../e2e/gateway-process.ts';
import { freePort } from '../packaging/free-port.ts';
import { temporaryFolder } from '../programs.ts';
import { until } from '../waiting.ts';
import { cast, gatewayOf, serversOf } from './cast.ts';
import type { Model } from './model.ts';
import type { EngineTrouble, ServerName, Setup } from './schedule.ts';
import type { Running, Stage } from './stage.ts';
import { TroubledEngine } from './troubled-engine.ts';

const sweepMs = 20_000;
const endMs = 30_000;
const serverLabel = 'mcp-gateway.server';

/** A real gateway, its servers containers, and an engine that can be troubled in between. */
export async function openContainers(setup: Setup, model: Model): Promise<Stage> {
  const stage = new Containers(setup, model, await temporaryFolder());
  await stage.open();
  return stage;
}

class Containers implements Stage {
  readonly #model: Model;
  readonly #folder: string;
  readonly #engine: TroubledEngine;
  readonly #config: string;
  #gateway!: GatewayProcess;
  #port = 0;
  #id = '';
  #hasEnded = false;

  constructor(setup: Setup, model: Model, folder: string) {
    this.#model = model;
    this.#folder = folder;
    this.#engine = new TroubledEngine(join(folder, 'engine.sock'));
    const servers = Object.entries(serversOf(setup)).map(([name, entry]) =>
      fixture(name, `${cast[name as ServerName].program}.mjs`, { network: 'none', ...entry }),
    );
    this.#config = `gateway: ${JSON.stringify(gatewayOf(setup))}\nservers:\n${servers.join('')}`;
  }

  async open(): Promise<void> {
    await this.#engine.up();
    this.#port = await freePort();
    await this.#start();
    this.#id = await this.#gateway.id();
  }

  url(endpoint: string): URL {
    return new URL(endpoint, `http://127.0.0.1:${this.#port}`);
  }

  settled(): Promise<void> {
    return this.#gateway.printed(/^Ready: /m);
  }

  async restart(how: 'kill' | 'drain', awayMs: number): Promise<void> {
    await this.#end(how === 'kill' ? 'SIGKILL' : 'SIGTERM');
    const left = new Set((await this.#list()).map(({ Id }) => Id));
    if (awayMs > 0) {
      await new Promise((resolve) => setTimeout(resolve, awayMs));
      const stays = (await this.#list()).filter(
        ({ State, Labels }) => State === 'running' && Labels[serverLabel] !== 'stubborn',
      );
      if (stays.length > 0)
        this.#model.breach('noOrphans', `${awayMs} ms after a ${how} there are ${namesOf(stays)}`);
    }
    await this.#start();
    void this.#expectSwept(left, how);
  }

  async kill(server: ServerName, how: 'kill' | 'remove'): Promise<boolean> {
    const [container] = await this.#list(server);
    if (!container) return false;
    const one = engine.getContainer(container.Id);
    return (how === 'kill' ? one.kill() : one.remove({ force: true })).then(
      () => true,
      () => false,
    );
  }

  async freeze(server: ServerName, ms: number): Promise<void> {
    const container = (await this.#list(server)).find(({ State }) => State === 'running');
    if (!container) return;
    const one = engine.getContainer(container.Id);
    // It may be gone, or in another state, by the time it is asked for.
    await one.pause().catch(() => {});
    await new Promise((resolve) => setTimeout(resolve, ms));
    await one.unpause().catch(() => {});
  }

  trouble(how: EngineTrouble, ms: number): Promise<void> {
    return this.#engine.suffer(how, ms);
  }

  async running(): Promise<Running[]> {
    const response = await fetch(this.url('/servers')).catch(() => undefined);
    const { servers = [] } = ((await response?.json().catch(() => undefined)) ?? {}) as {
      servers?: { instances: { id: string; state: string }[] }[];
    };
    const leaving = new Set(
      servers.flatMap(({ instances }) =>
        instances.filter(({ state }) => state !== 'ready').map(({ id }) => id),
      ),
    );
    return (await this.#list()).map(({ Names, Labels }) => {
      const name = Names[0]!.slice(1);
      return { name, server: Labels[serverLabel] as ServerName, isLeaving: leaving.has(name) };
    });
  }

  async end(): Promise<void> {
    if (this.#hasEnded) return;
    this.#hasEnded = true;
    await this.#end('SIGTERM');
    const isGone = async () => (await this.#list()).length === 0;
    await until(isGone, 'nothing left', sweepMs).catch(async () =>
      this.#model.breach('noOrphans', `after the end there are ${namesOf(await this.#list())}`),
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.end();
    for (const { Id } of await this.#list())
      await engine
        .getContainer(Id)
        .remove({ force: true })
        .catch(() => {});
    await this.#engine.down();
    await rm(this.#folder, { recursive: true, force: true });
  }

  async #start(): Promise<void> {
    this.#gateway = await startGateway({
      config: this.#config,
      folder: this.#folder,
      args: ['--port', String(this.#port)],
      env: { DOCKER_HOST: this.#engine.dockerHost },
    });
  }

  async #end(signal: NodeJS.Signals): Promise<void> {
    const { process: child } = this.#gateway;
    if (child.exitCode !== null || child.signalCode !== null) {
      this.#model.breach('bounded', `the gateway ended by itself: ${this.#gateway.output().slice(-2000)}`);
      return;
    }
    const timer = setTimeout(() => {
      this.#model.breach('bounded', `the gateway did not end within ${endMs} ms of ${signal}`);
      child.kill('SIGKILL');
    }, endMs);
    await this.#gateway.end(signal);
    clearTimeout(timer);
  }

  async #expectSwept(left: Set<string>, how: string): Promise<void> {
    const still = async () => (await this.#list()).filter(({ Id }) => left.has(Id));
    await until(async () => (await still()).length === 0, 'swept', sweepMs).catch(async () => {
      const found = await still();
      if (found.length > 0 && !this.#hasEnded)
        this.#model.breach(
          'noOrphans',
          `${sweepMs} ms after a ${how} and a new start there are ${namesOf(found)}`,
        );
    });
  }

  /** Containers of its servers that are not gone: one that has ended is on its way out. */
  async #list(server?: ServerName) {
    const label = [`mcp-gateway.gateway=${this.#id}`, server ? `${serverLabel}=${server}` : serverLabel];
    if (this.#id === '') return [];
    return engine.listContainers({ filters: { label, status: ['running', 'paused', 'created'] } });
  }
}

const namesOf = (containers: { Names: string[]; Status: string }[]) =>
  containers.map(({ Names, Status }) => `${Names[0]} (${Status})`).join(', ');
