import { randomBytes } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import Docker from 'dockerode';
import type { Clock } from '../../src/base/async.ts';
import {
  type DockerServer,
  type GatewayConfig,
  gatewaySchema,
  type TemplateServer,
} from '../../src/config/schema.ts';
import { Events } from '../../src/observability/events.ts';
import type { Message, Request, Response } from '../../src/protocol/jsonrpc.ts';
import { DockerRuntime } from '../../src/runtimes/docker/docker-runtime.ts';
import type { Instance, Noise } from '../../src/runtimes/runtime.ts';
import { containerServer } from '../configured.ts';

/** The engine, asked beside the runtime to see what is really there. */
export const engine = new Docker();

/** Its socket, for a test that puts itself in front of it. */
export const enginePath = (process.env.DOCKER_HOST ?? 'unix:///var/run/docker.sock').replace('unix://', '');

const version = await engine.version();

/** Podman behind its Docker-compatible socket: what it lacks is documented, and not tested. */
export const isPodman = JSON.stringify(version.Components).includes('Podman');

/**
 * Docker 20.10 knows the reason of an exit when the output ends. The others clean up first, and a busy machine may take longer for
 * that than an answer waits.
 */
export const knowsExitsAtOnce = version.ApiVersion === '1.41' && !isPodman;

const fixtures = fileURLToPath(new URL('../fixtures/servers', import.meta.url));

/** A docker server of our fixture image, changed as a test needs it. */
export function fixtureServer(name: string, changes: Partial<DockerServer> = {}): DockerServer {
  return {
    type: 'docker',
    image: 'mcp-fixtures',
    build: { context: fixtures, dockerfile: 'Dockerfile', args: {} },
    compileCache: false,
    ...containerServer(name),
    command: ['node', 'tiny.mjs'],
    network: 'none',
    ...changes,
  };
}

/** An npm package as a server. */
export function npmServer(
  name: string,
  changes: Partial<TemplateServer> & { package: string },
): TemplateServer {
  return {
    type: 'template',
    template: 'npm',
    version: undefined,
    bin: undefined,
    ...containerServer(name),
    network: 'none',
    ...changes,
  };
}

export interface TestRuntimeOptions {
  gateway?: Partial<GatewayConfig>;
  env?: NodeJS.ProcessEnv;
  gatewayId?: string;
  clock?: Clock;
}

/** A gateway's docker runtime with a state folder of its own; everything that it made is gone after `dispose`. */
export class TestRuntime {
  readonly gatewayId: string;
  readonly stateDir: string;
  readonly events = new Events();
  readonly runtime: DockerRuntime;

  static async create(options: TestRuntimeOptions = {}): Promise<TestRuntime> {
    const stateDir = await mkdtemp(path.join(os.tmpdir(), 'mcp-gateway-docker-'));
    return new TestRuntime(stateDir, options);
  }

  constructor(stateDir: string, options: TestRuntimeOptions) {
    this.stateDir = stateDir;
    this.gatewayId = options.gatewayId ?? randomBytes(8).toString('hex');
    this.runtime = new DockerRuntime({
      gateway: { ...gatewaySchema.parse({}), ...options.gateway },
      gatewayId: this.gatewayId,
      stateDir,
      events: this.events,
      env: options.env ?? process.env,
      clock: options.clock,
    });
  }

  /** prepare and start. */
  async start(server: DockerServer | TemplateServer): Promise<TestInstance> {
    const prepared = await this.runtime.prepare(server, {});
    const received: Message[] = [];
    const noise: Noise[] = [];
    const waiting = new Map<unknown, (message: Response) => void>();
    const instance = await this.runtime.start(server, prepared, {
      onMessage(message) {
        received.push(message);
        if ('id' in message && !('method' in message)) waiting.get(message.id)?.(message);
      },
      onNoise: (line) => noise.push(line),
    });
    return new TestInstance(instance, received, noise, waiting);
  }

  async dispose(): Promise<void> {
    await this.runtime.close();
    const containers = await engine.listContainers({
      all: true,
      filters: { label: [`mcp-gateway.gateway=${this.gatewayId}`] },
    });
    await Promise.all(
      containers.map(({ Id }) =>
        engine
          .getContainer(Id)
          .remove({ force: true, v: true })
          .catch(() => {}),
      ),
    );
    await rm(this.stateDir, { recursive: true, force: true });
  }
}

export class TestInstance {
  readonly instance: Instance;
  readonly received: Message[];
  readonly noise: Noise[];
  readonly #waiting: Map<unknown, (message: Response) => void>;
  #nextId = 1;

  constructor(
    instance: Instance,
    received: Message[],
    noise: Noise[],
    waiting: Map<unknown, (message: Response) => void>,
  ) {
    this.instance = instance;
    this.received = received;
    this.noise = noise;
    this.#waiting = waiting;
  }

  get name(): string {
    return this.instance.name;
  }

  async request(method: string, params: Record<string, unknown> = {}): Promise<Response> {
    const id = this.#nextId++;
    const answer = new Promise<Response>((resolve) => this.#waiting.set(id, resolve));
    const request: Request = { jsonrpc: '2.0', id, method, params };
    await this.instance.send(request);
    return answer;
  }

  async handshake(): Promise<Response> {
    const answer = await this.request('initialize', {
      protocolVersion: '2025-11-25',
      capabilities: {},
      clientInfo: { name: 'test', version: '1' },
    });
    await this.instance.send({ jsonrpc: '2.0', method: 'notifications/initialized' });
    return answer;
  }

  /** The text of a tool's result. */
  async call(tool: string, args: Record<string, unknown> = {}): Promise<string> {
    const answer = await this.request('tools/call', { name: tool, arguments: args });
    if (!('result' in answer)) throw new Error(answer.error.message);
    return (answer.result.content as { text: string }[])[0]!.text;
  }

  inspect(): Promise<Docker.ContainerInspectInfo> {
    return engine.getContainer(this.name).inspect();
  }

  /** What a shell command in the container prints, and its exit code. */
  async shell(command: string): Promise<{ code: number; output: string }> {
    const exec = await engine
      .getContainer(this.name)
      .exec({ Cmd: ['sh', '-c', command], AttachStdout: true, AttachStderr: true, Tty: true });
    const stream = await exec.start({ Tty: true });
    let output = '';
    for await (const chunk of stream) output += chunk;
    const { ExitCode } = await exec.inspect();
    return { code: ExitCode ?? -1, output: output.trim() };
  }
}

/** Whether a container of that name exists. */
export async function exists(name: string): Promise<boolean> {
  return engine
    .getContainer(name)
    .inspect()
    .then(
      () => true,
      () => false,
    );
}

/** A small image with a Dockerfile of its own, built beside the runtime. */
export async function buildImage(tag: string, dockerfile: string): Promise<void> {
  const { packInMemory } = await import('../../src/runtimes/docker/build-context.ts');
  const stream = await engine.buildImage(await packInMemory(dockerfile), {
    t: tag,
    dockerfile: '.mcp-gateway.Dockerfile',
  });
  await new Promise<void>((resolve, reject) => {
    engine.modem.followProgress(stream, (error, output: { error?: string }[]) => {
      const failed = error?.message ?? output.find((line) => line.error)?.error;
      if (failed) reject(new Error(failed));
      else resolve();
    });
  });
}

export async function removeImage(tag: string): Promise<void> {
  await engine
    .getImage(tag)
    .remove({ force: true })
    .catch(() => {});
}
