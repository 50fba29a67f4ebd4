import { createHash } from 'node:crypto';
import type { Socket } from 'node:net';
import type Dockerode from 'dockerode';
import { type Clock, sleep } from '../../base/async.ts';
import { messageOf } from '../../base/errors.ts';
import type { ContainerServer } from '../../config/schema.ts';
import { packedDockerfile, packInMemory } from './build-context.ts';
import { removeContainer } from './container.ts';
import { labels } from './create-options.ts';
import type { Engine } from './engine.ts';
import type { Images } from './images.ts';
import { waiterProgram } from './waiter-program.ts';

const holderMemoryBytes = 32 * 1024 ** 2;
/** Made when the start that asks for it is over, so that the two do not slow each other down. */
const makeAfterMs = 1_000;
/** Kept this long after its server's last use. */
const keptMs = 3_600_000;
const startLimitMs = 30_000;
const closeLimitMs = 5_000;

export interface SandboxesOptions {
  gatewayId: string;
  images: Images;
  clock: Clock;
  onProblem(server: string, reason: string): void;
}

/**
 * The networks of servers with `sandbox: keep`, between their runs: each is that of a container with a program that does nothing,
 * which the server's next container joins. Making a network takes the engine longer than all else in a start. One serves a single
 * instance at a time, so that two never meet on its loopback, and is never another server's.
 */
export class Sandboxes {
  readonly #options: SandboxesOptions;
  readonly #users = new Map<string, ServerUse>();
  readonly #making = new Set<Promise<void>>();
  #isClosed = false;

  constructor(options: SandboxesOptions) {
    this.#options = options;
  }

  /** Where a start is to be: in the kept network if that is free, else in one of its own. To be left when all is over. */
  enter(engine: Engine, server: ContainerServer): Stay | undefined {
    if (!canKeep(engine, server) || this.#isClosed) return undefined;
    let use = this.#users.get(server.name);
    if (!use) {
      use = new ServerUse();
      this.#users.set(server.name, use);
    }
    use.instances += 1;
    use.cancelEnd?.();
    const key = keyOf(server);
    const free = use.sandbox?.stay ? undefined : use.sandbox;
    if (free && free.key !== key) void this.#drop(use);
    return new Stay(free?.key === key ? free : undefined, {
      onStarted: () => this.#makeLater(engine, server, use),
      onLeft: () => this.#leave(server, use),
    });
  }

  /** Whether the container of this name is one of these, or about to be. */
  owns(name: string): boolean {
    for (const [server, { sandbox, isMaking }] of this.#users) {
      if ((sandbox || isMaking) && nameOf(server, this.#options.gatewayId) === name) return true;
    }
    return false;
  }

  /** Ends them all; resolves when they are gone, or after a few seconds. */
  async close(): Promise<void> {
    this.#isClosed = true;
    const ends = [...this.#making];
    for (const use of this.#users.values()) {
      use.cancelEnd?.();
      ends.push(this.#drop(use));
    }
    await Promise.race([Promise.all(ends), sleep(closeLimitMs, { clock: this.#options.clock })]);
  }

  #leave({ name }: ContainerServer, use: ServerUse): void {
    use.instances -= 1;
    if (use.instances > 0 || this.#isClosed) return;
    use.cancelEnd = this.#options.clock.schedule(() => {
      this.#users.delete(name);
      void this.#drop(use);
    }, keptMs);
  }

  #makeLater(engine: Engine, server: ContainerServer, use: ServerUse): void {
    if (use.sandbox || use.isMaking) return;
    use.isMaking = true;
    this.#options.clock.schedule(() => {
      const making = this.#make(engine, server, use)
        .catch((error: unknown) => {
          if (!this.#isClosed) this.#options.onProblem(server.name, messageOf(error));
        })
        .finally(() => {
          use.isMaking = false;
          this.#making.delete(making);
        });
      this.#making.add(making);
    }, makeAfterMs);
  }

  async #make(engine: Engine, server: ContainerServer, use: ServerUse): Promise<void> {
    if (this.#isClosed) return;
    const { images, gatewayId } = this.#options;
    // It runs natively, whatever the server is emulated as.
    const image = await images.built(engine, { ...server, platform: undefined }, recipe(engine), {});
    const { id } = await engine.call(
      (docker) => docker.createContainer(holderOptions(engine, server, gatewayId, image.id)),
      { limitMs: startLimitMs },
    );
    let socket: Socket | undefined;
    try {
      // It ends with its input, and so with this process.
      socket = await engine.attach(id);
      socket.on('error', () => {});
      socket.resume();
      await engine.call((docker, abortSignal) => docker.getContainer(id).start({ abortSignal }), {
        limitMs: startLimitMs,
      });
      if (this.#isClosed) throw new Error('The gateway is shutting down.');
    } catch (error) {
      socket?.destroy();
      await removeContainer(engine, id).catch(() => {});
      throw error;
    }
    const sandbox: Sandbox = { id, key: keyOf(server), engine, socket, stay: undefined };
    use.sandbox = sandbox;
    socket.once('close', () => this.#lost(use, sandbox));
  }

  /** Somebody has removed it, or the engine went: whoever is in it has no network any more. */
  #lost(use: ServerUse, sandbox: Sandbox): void {
    if (use.sandbox !== sandbox) return;
    use.sandbox = undefined;
    sandbox.stay?.lose();
    void removeContainer(sandbox.engine, sandbox.id).catch(() => {});
  }

  async #drop(use: ServerUse): Promise<void> {
    const { sandbox } = use;
    use.sandbox = undefined;
    if (!sandbox) return;
    sandbox.socket.destroy();
    await removeContainer(sandbox.engine, sandbox.id).catch(() => {});
  }
}

/** A server that keeps its network. */
class ServerUse {
  /** Those that start or run, wherever. */
  instances = 0;
  sandbox: Sandbox | undefined;
  isMaking = false;
  cancelEnd: (() => void) | undefined;
}

interface Sandbox {
  readonly id: string;
  /** Of what it was made for. */
  readonly key: string;
  readonly engine: Engine;
  readonly socket: Socket;
  /** Who is in it. */
  stay: Stay | undefined;
}

/** Where one instance's network is. */
export class Stay {
  #sandbox: Sandbox | undefined;
  readonly #listener: { onStarted(): void; onLeft(): void };
  #onLost: (() => void) | undefined;
  #isLost = false;
  #isLeft = false;

  constructor(sandbox: Sandbox | undefined, listener: { onStarted(): void; onLeft(): void }) {
    this.#sandbox = sandbox;
    this.#listener = listener;
    if (sandbox) sandbox.stay = this;
  }

  /** The container whose network it is; undefined: one of its own. */
  get sandboxId(): string | undefined {
    return this.#sandbox?.id;
  }

  /** Whether a start failed because the sandbox went; the stay goes on outside of it. */
  wasLost(error: unknown): boolean {
    // The engine may say so before the sandbox's own end is noticed, and the other way round.
    const id = this.#sandbox?.id;
    const isLost = this.#isLost || (id !== undefined && messageOf(error).includes(id));
    this.#isLost = false;
    if (isLost) this.#exit();
    return isLost;
  }

  /** The instance runs: there should be a sandbox for the next one. */
  started(): void {
    this.#listener.onStarted();
  }

  /** `listener` is called when the network goes away under the instance. */
  whenLost(listener: () => void): void {
    this.#onLost = listener;
    if (this.#isLost) listener();
  }

  lose(): void {
    this.#sandbox = undefined;
    this.#isLost = true;
    this.#onLost?.();
  }

  /** Nothing is in it any more. Doing it twice is done once. */
  leave(): void {
    if (this.#isLeft) return;
    this.#isLeft = true;
    this.#exit();
    this.#listener.onLeft();
  }

  #exit(): void {
    if (this.#sandbox?.stay === this) this.#sandbox.stay = undefined;
    this.#sandbox = undefined;
  }
}

const nameOf = (server: string, gatewayId: string) => `mcp-${server}-sandbox-${gatewayId.slice(0, 8)}`;

/** What a sandbox is made from: another key means another one. */
const keyOf = ({ network, dns, extraHosts }: ContainerServer) => JSON.stringify([network, dns, extraHosts]);

/**
 * Podman does not remove a container while another is in its network: one that ends then is removed by half, and neither it nor a
 * list of all containers can be had any more.
 */
function canKeep(engine: Engine, server: ContainerServer): boolean {
  return (
    server.sandbox === 'keep' &&
    !engine.isPodman &&
    server.network !== 'host' &&
    !/^(container|ns):/.test(server.network) &&
    waiterProgram(engine.facts.architecture) !== undefined
  );
}

/** What this engine cannot do about it, for a person. */
export function sandboxLacks({ facts, isPodman }: Engine): string[] {
  if (isPodman) return ['Networks cannot be kept between runs on Podman: sandbox: keep has no effect.'];
  if (waiterProgram(facts.architecture)) return [];
  return [`Networks cannot be kept between runs on ${facts.architecture}: sandbox: keep has no effect.`];
}

const waiterFile = 'wait';

function recipe(engine: Engine) {
  const { architecture } = engine.facts;
  const program = waiterProgram(architecture)!;
  const dockerfile = `FROM scratch\nCOPY ${waiterFile} /${waiterFile}\nENTRYPOINT ["/${waiterFile}"]\n`;
  const digest = createHash('sha256').update(dockerfile).update(program).digest('hex');
  return {
    tag: `mcp-gateway-sandbox:${architecture}-${digest.slice(0, 12)}`,
    digest,
    pack: () => packInMemory(dockerfile, [{ name: waiterFile, content: program, isExecutable: true }]),
    dockerfile: packedDockerfile,
    args: {},
    step: 'build',
    origin: 'a program that waits',
  } as const;
}

/** As locked as a server, and with less of everything. */
function holderOptions(
  engine: Engine,
  { name, network, dns, extraHosts }: ContainerServer,
  gatewayId: string,
  imageId: string,
): Dockerode.ContainerCreateOptions {
  const { can } = engine.facts;
  return {
    name: nameOf(name, gatewayId),
    Image: imageId,
    User: '65534:65534',
    OpenStdin: true,
    StdinOnce: true,
    AttachStdin: true,
    AttachStdout: true,
    AttachStderr: true,
    Healthcheck: { Test: ['NONE'] },
    // Without the label of an instance: it is none.
    Labels: { [labels.managed]: 'true', [labels.sandbox]: name, [labels.gateway]: gatewayId },
    HostConfig: {
      AutoRemove: true,
      CapDrop: ['ALL'],
      SecurityOpt: ['no-new-privileges'],
      ReadonlyRootfs: true,
      NetworkMode: network,
      Dns: dns.length > 0 ? dns : undefined,
      ExtraHosts: extraHosts.length > 0 ? extraHosts : undefined,
      LogConfig: { Type: 'none', Config: {} },
      RestartPolicy: { Name: 'no' },
      // What an OCI runtime needs to get it going; the program itself takes a page.
      ...(can.memory && { Memory: holderMemoryBytes }),
      ...(can.memory && can.swap && { MemorySwap: holderMemoryBytes }),
      ...(can.pids && { PidsLimit: 16 }),
    },
  };
}
