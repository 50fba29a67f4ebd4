import { readFile } from 'node:fs/promises';

import { type Clock, sleep, systemClock } from '../../base/async.ts';
import { GatewayError, messageOf } from '../../base/errors.ts';
import { printable } from '../../base/printable.ts';
import type {
  ContainerServer,
  DockerServer,
  GatewayConfig,
  ServerConfig,
  TemplateServer,
} from '../../config/schema.ts';
import type { Events } from '../../observability/events.ts';
import type {
  Instance,
  LogOptions,
  Prepared,
  PrepareOptions,
  Runtime,
  RuntimeDescription,
  StartOptions,
} from '../runtime.ts';
import { ServerLogs } from '../server-logs.ts';
import { NpmVersions, npmRecipe } from '../templates/npm.ts';
import { packedDockerfile, packInMemory } from './build-context.ts';
import { ContainerInstance, removeContainer } from './container.ts';
import { type ChosenUser, chooseUser, createOptions, labels } from './create-options.ts';
import { Demultiplexer } from './demux.ts';
import { type Engine, EngineConnection, EngineError } from './engine.ts';
import { type ImageFacts, Images } from './images.ts';
import { bind, findOwnContainer, type MountPlan, type OwnContainer, planMounts } from './mounts.ts';
import { Networks, networkLacks } from './network.ts';
import { Sandboxes, type Stay, sandboxLacks } from './sandboxes.ts';
import { startError } from './start-errors.ts';
import { checkVolumes } from './volume-check.ts';
import { EngineWatch } from './watch.ts';

/** Giving up on a start is not to last longer than this. */
const cleanUpLimitMs = 5_000;
const maxNames = 10_000;
const halfRemoved = /container from store "([0-9a-f]{64})": container not known/;

export interface DockerRuntimeOptions {
  gateway: GatewayConfig;
  gatewayId: string;
  stateDir: string;
  events: Events;
  clock?: Clock;
  /** DOCKER_HOST, NODE_IMAGE, TZ and the like. */
  env?: NodeJS.ProcessEnv;
}

/** What `prepare` found out, for the start that follows. */
interface DockerPrepared extends Prepared {
  engine: Engine;
  image: ImageFacts;
  user: ChosenUser;
  plan: MountPlan;
  caSource: string | undefined;
  /** Whether the gateway made the image, volumes' mount points included. */
  isOurs: boolean;
}

/** Runs servers as containers of a Docker-compatible engine. */
export class DockerRuntime implements Runtime {
  readonly kind = 'docker';
  readonly #options: DockerRuntimeOptions;
  readonly #env: NodeJS.ProcessEnv;
  readonly #clock: Clock;
  readonly #connection: EngineConnection;
  readonly #images: Images;
  readonly #networks: Networks;
  readonly #sandboxes: Sandboxes;
  readonly #npmVersions: NpmVersions;
  readonly #logs: ServerLogs<ContainerInstance>;
  readonly #closed = new AbortController();
  readonly #live = new Map<string, ContainerInstance>();
  readonly #names = new Set<string>();
  /** Names of containers whose create has not been answered yet. */
  readonly #creating = new Set<string>();
  readonly #starting = new Set<string>();
  readonly #checkedVolumes = new Set<string>();
  #watch: EngineWatch | undefined;
  #own: Promise<OwnContainer | undefined> | undefined;

  constructor(options: DockerRuntimeOptions) {
    this.#options = options;
    this.#env = options.env ?? process.env;
    this.#clock = options.clock ?? systemClock;
    this.#connection = new EngineConnection({ env: this.#env });
    this.#images = new Images({
      gateway: options.gateway,
      stateDir: options.stateDir,
      env: this.#env,
      clock: this.#clock,
      closed: this.#closed.signal,
      isWatched: () => this.#watch?.isOpen ?? false,
    });
    this.#networks = new Networks({
      gatewayId: options.gatewayId,
      allowUnsafe: options.gateway.allowUnsafe,
      isWatched: () => this.#watch?.isOpen ?? false,
    });
    this.#sandboxes = new Sandboxes({
      gatewayId: options.gatewayId,
      images: this.#images,
      clock: this.#clock,
      onProblem: (server, reason) => {
        const text = `its network cannot be kept: ${reason}`;
        options.events.emit('prepare.progress', { server, step: 'sandbox', text });
      },
    });
    this.#npmVersions = new NpmVersions({ stateDir: options.stateDir, env: this.#env });
    this.#logs = new ServerLogs(options.stateDir);
  }

  async prepare(server: ServerConfig, options: PrepareOptions): Promise<Prepared> {
    const container = containerServer(server);
    try {
      return await this.#prepare(container, options);
    } catch (error) {
      throw startError(container, undefined, error);
    }
  }

  async #prepare(server: DockerServer | TemplateServer, options: PrepareOptions): Promise<DockerPrepared> {
    const { signal } = options;
    const { gateway } = this.#options;
    const engine = await this.#engine(signal);
    const own = await this.#ownContainer(engine);
    const rules = {
      engine,
      own,
      allowUnsafe: gateway.allowUnsafe,
      labels: { [labels.managed]: 'true', [labels.server]: server.name },
    };
    // Independent questions, asked at once: this runs before every start.
    const [plan, caSource, found] = await Promise.all([
      planMounts(server, rules),
      gateway.caCertificates ? bind(server, gateway.caCertificates, rules) : undefined,
      server.type === 'docker' ? this.#images.ensure(engine, server, options) : undefined,
      this.#networks.ensure(engine, server, signal),
    ]);
    const choose = (imageUser: string) =>
      chooseUser(server.user, imageUser, plan.writableOwner, {
        rootless: engine.facts.rootless,
        ownUid: process.getuid?.() ?? 0,
      });
    const targets = plan.volumes.map(({ target }) => target).sort();
    let image = found;
    let user = choose(found?.user ?? '');
    if (!image) {
      image = await this.#template(engine, server as TemplateServer, user, targets, options);
    } else if (server.type === 'docker') {
      image = await this.#layered(engine, server, image, user, targets, options);
    }
    if (user.spec === undefined) user = choose(image.user);
    return {
      digest: image.id,
      engine,
      image,
      user,
      plan,
      caSource: caSource?.source,
      isOurs: server.type === 'template' || server.build !== undefined,
    };
  }

  /** A docker server's image with what its entry and its volumes want on top. */
  async #layered(
    engine: Engine,
    server: DockerServer,
    facts: ImageFacts,
    user: ChosenUser,
    volumeTargets: string[],
    options: PrepareOptions,
  ): Promise<ImageFacts> {
    let image = { tag: server.image ?? `mcp-${server.name}`, facts };
    if (server.compileCache) {
      image = await this.#images.withCompileCache(engine, server, image, user, options);
    }
    if (volumeTargets.length === 0 || !server.build) return image.facts;
    return this.#images.withMountPoints(engine, server, image, user, volumeTargets, options);
  }

  async #template(
    engine: Engine,
    server: TemplateServer,
    user: ChosenUser,
    volumeTargets: string[],
    options: PrepareOptions,
  ): Promise<ImageFacts> {
    if (server.template !== 'npm') {
      throw new GatewayError(
        'runtime_unavailable',
        `Server ${server.name}: template ${server.template} cannot be built yet; npm can.`,
        {
          server: server.name,
          hint: `Write a Dockerfile that installs ${server.package} and name its folder with \`build\`.`,
        },
      );
    }
    if (server.version === undefined) {
      options.onProgress?.({ step: 'resolve', text: `looking up the newest ${server.package}` });
    }
    const version = await this.#npmVersions.resolve(server, options.signal);
    const { caCertificates } = this.#options.gateway;
    const recipe = npmRecipe(
      { package: server.package, version, bin: server.bin },
      {
        user: user.text,
        volumeTargets,
        caCertificates: caCertificates && (await readFile(caCertificates, 'utf8')),
      },
    );
    const nodeImage = this.#env.NODE_IMAGE;
    const image = await this.#images.built(
      engine,
      server,
      {
        tag: recipe.tag,
        digest: `${recipe.tag} ${nodeImage ?? ''} ${server.platform ?? ''}`,
        pack: () => packInMemory(recipe.dockerfile, recipe.files),
        dockerfile: packedDockerfile,
        args: {
          npm_config_registry: await this.#npmVersions.registry(),
          ...(nodeImage && { NODE_IMAGE: nodeImage }),
        },
        step: 'install',
        origin: `${server.package} ${version}`,
      },
      options,
    );
    return this.#images.checked(engine, server, image, recipe.tag);
  }

  async start(config: ServerConfig, prepared: Prepared, options: StartOptions): Promise<Instance> {
    const server = containerServer(config);
    const { signal } = options;
    signal?.throwIfAborted();
    let known = 'engine' in prepared ? (prepared as DockerPrepared) : await this.#prepare(server, { signal });
    const stay = this.#sandboxes.enter(known.engine, server);
    try {
      try {
        return await this.#startAt(stay, server, known, options);
      } catch (error) {
        if (signal?.aborted) throw error;
        if (isImageMissing(error)) {
          // It went after it was looked up.
          this.#images.forget();
          known = await this.#prepare(server, { signal });
        } else if (!stay?.wasLost(error)) throw error;
        return await this.#startAt(stay, server, known, options);
      }
    } catch (error) {
      stay?.leave();
      throw error;
    }
  }

  async #startAt(
    stay: Stay | undefined,
    server: ContainerServer,
    known: DockerPrepared,
    options: StartOptions,
  ): Promise<Instance> {
    const { engine, image, user, plan } = known;
    const { signal } = options;
    const { id, name } = await this.#create(server, known, stay?.sandboxId, signal);
    const watch = this.#watching(engine);
    watch.remember(id);
    try {
      if (plan.volumes.length > 0) await this.#checkVolumes(server, known, id, signal);
      const [socket, { code }] = await Promise.all([engine.attach(id, signal), engine.nextExit(id, signal)]);
      const instance = new ContainerInstance({
        engine,
        watch,
        clock: this.#clock,
        server,
        id,
        name,
        socket,
        exitCode: Promise.race([code, watch.exitCode(id)]),
        maxMessageBytes: this.#options.gateway.maxMessageBytes,
        imageEntrypoint: image.entrypoint,
        stopSignal: image.stopSignal,
        user: user.text,
        options,
      });
      this.#adopt(instance);
      try {
        await engine.call((docker, abortSignal) => docker.getContainer(id).start({ abortSignal }), {
          signal,
          limitMs: server.timeouts.startMs,
        });
      } catch (error) {
        socket.destroy();
        throw error;
      }
      instance.startedAtMs = this.#clock.now();
      if (stay) this.#settle(instance, stay, engine);
      return instance;
    } catch (error) {
      await this.#discard(engine, id, name);
      watch.forget(id);
      throw startError(server, image, error);
    } finally {
      this.#starting.delete(id);
    }
  }

  #settle(instance: ContainerInstance, stay: Stay, engine: Engine): void {
    stay.started();
    // It would run on, and wonder why it cannot reach anything.
    stay.whenLost(() => void removeContainer(engine, instance.id).catch(() => {}));
    void instance.exited.then(() => stay.leave());
  }

  /** Creates the container under the first free name. */
  async #create(
    server: ContainerServer,
    prepared: DockerPrepared,
    sandboxId: string | undefined,
    signal: AbortSignal | undefined,
  ): Promise<{ id: string; name: string }> {
    const { engine, image, user, plan, caSource } = prepared;
    const { gateway, gatewayId } = this.#options;
    const body = createOptions({
      server,
      gateway,
      gatewayId,
      facts: engine.facts,
      imageId: image.id,
      user,
      mounts: plan.mounts,
      caSource,
      timeZone: this.#env.TZ || undefined,
      sandboxId,
    });
    // Ours are known; a name that is taken all the same belongs to another gateway, or to an earlier run.
    let prefix = `mcp-${server.name}`;
    for (let number = 1; number < maxNames; number += 1) {
      const name = `${prefix}-${number}`;
      if (this.#names.has(name)) continue;
      this.#names.add(name);
      try {
        return { id: await this.#createNamed(engine, server, name, body, signal), name };
      } catch (error) {
        this.#names.delete(name);
        if (!isNameTaken(error)) throw startError(server, image, error);
        const withId = `mcp-${server.name}-${gatewayId.slice(0, 8)}`;
        if (prefix !== withId) {
          prefix = withId;
          number = 0;
        }
      }
    }
    throw new GatewayError('start_failed', `Server ${server.name}: no container name is free.`, {
      server: server.name,
      hint: 'docker ps -a shows who holds them.',
    });
  }

  /** Creates a container; when the caller gives up meanwhile, what comes into being all the same is removed. */
  async #createNamed(
    engine: Engine,
    server: ContainerServer,
    name: string,
    body: object,
    signal: AbortSignal | undefined,
  ): Promise<string> {
    const query = { name, ...(server.platform && { platform: server.platform }) };
    // Split up, or dockerode repeats the whole body, variables included, in the URL.
    let answer: Promise<{ id: string }> | undefined;
    const creating = engine.call(
      (docker) => {
        answer = docker.createContainer({ _query: query, _body: body } as never);
        return answer;
      },
      { limitMs: server.timeouts.startMs },
    );
    const aborted = abortion(signal);
    this.#creating.add(name);
    const answered = () => this.#creating.delete(name);
    try {
      const { id } = await Promise.race([creating, aborted.promise]);
      this.#starting.add(id);
      answered();
      return id;
    } catch (error) {
      creating.catch(() => {});
      // The engine may get to it all the same, long after its time.
      const cleaned = answer?.then(({ id }) => this.#discard(engine, id, name)).catch(() => {});
      void cleaned?.finally(answered);
      if (!answer) answered();
      if (signal?.aborted) await Promise.race([cleaned, sleep(cleanUpLimitMs, { clock: this.#clock })]);
      throw error;
    } finally {
      aborted.release();
    }
  }

  async #discard(engine: Engine, id: string, name: string): Promise<void> {
    const removed = removeContainer(engine, id).then(
      () => this.#names.delete(name),
      () => {},
    );
    await Promise.race([removed, sleep(cleanUpLimitMs, { clock: this.#clock })]);
    this.#starting.delete(id);
  }

  #adopt(instance: ContainerInstance): void {
    const { name, id } = instance;
    this.#live.set(id, instance);
    this.#logs.add(instance);
    void instance.ended.then(() => {
      this.#live.delete(id);
      void this.#logs.keep(instance);
    });
    // The engine frees the name a little after the exit.
    const free = () => this.#names.delete(name);
    void instance.exited.then(() => instance.removed()).then(free, free);
  }

  /** A volume that the server cannot write is found before its first start rather than in its errors. */
  async #checkVolumes(
    server: ContainerServer,
    { engine, image, user, plan, isOurs }: DockerPrepared,
    id: string,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    const key = JSON.stringify([image.id, user.text, plan.volumes]);
    if (this.#checkedVolumes.has(key)) return;
    await checkVolumes(engine, server, { containerId: id, user, volumes: plan.volumes, isOurs, signal });
    this.#checkedVolumes.add(key);
  }

  async sweep(): Promise<{ removed: string[] }> {
    const engine = await this.#engine();
    return this.#sweep(engine);
  }

  async #sweep(engine: Engine): Promise<{ removed: string[] }> {
    const removed: string[] = [];
    await Promise.all(
      (await this.#containers(engine)).map(async ({ Id, Names }) => {
        const name = Names[0]?.replace(/^\//, '') ?? Id;
        const live = this.#live.get(Id);
        if (live ? !live.isAbandoned : this.#starting.has(Id) || this.#creating.has(name)) return;
        if (this.#sandboxes.owns(name)) return;
        await removeContainer(engine, Id);
        removed.push(name);
      }),
    );
    return { removed: removed.sort() };
  }

  /** This gateway's containers as the engine has them, running or not. */
  async #containers(engine: Engine) {
    const list = () =>
      engine.call((docker, abortSignal) =>
        // One label, the rest is looked at here: Podman joins several by or.
        docker.listContainers({ all: true, filters: { label: [`${labels.managed}=true`] }, abortSignal }),
      );
    const containers = await list().catch(async (error: unknown) => {
      // Podman lists none while it has removed one by half.
      const half = engine.isPodman && halfRemoved.exec(messageOf(error));
      if (!half) throw error;
      await removeContainer(engine, half[1]!);
      return list();
    });
    return containers.filter(
      ({ Labels }) =>
        Labels?.[labels.managed] === 'true' && Labels[labels.gateway] === this.#options.gatewayId,
    );
  }

  logs(config: ServerConfig, options: LogOptions): AsyncIterable<string> {
    const { name } = containerServer(config);
    return this.#logs.read(name, options, (instance) => this.#recentLog(instance, options.tail));
  }

  /** What the engine kept of an instance's stderr, which is more than we do; ours where it keeps nothing. */
  async #recentLog(instance: ContainerInstance, tail: number): Promise<string[]> {
    const kept = instance.stderrTail();
    const engine = this.#connection.known;
    if (!engine || tail <= kept.length || instance.server.logs === 'off') return kept;
    try {
      const bytes = await engine.call((docker) =>
        docker.getContainer(instance.id).logs({ stdout: false, stderr: true, follow: false, tail }),
      );
      const text: Buffer[] = [];
      const demultiplexer = new Demultiplexer({
        onStdout: () => {},
        onStderr: (part) => text.push(part),
        onBroken: () => {},
      });
      demultiplexer.push(bytes);
      const lines = Buffer.concat(text).toString('utf8').split('\n');
      return lines.map((line) => printable(line, 2_000)).filter((line) => line.trim() !== '');
    } catch {
      return kept;
    }
  }

  /** Whether the engine has an image of this name. Rejects with `engine_unreachable`. */
  async hasImage(name: string): Promise<boolean> {
    return (await this.#images.inspect(await this.#engine(), name)) !== undefined;
  }

  async describe(): Promise<RuntimeDescription> {
    let engine: Engine;
    try {
      engine = await this.#engine();
      await engine.refreshFacts();
    } catch (error) {
      return {
        reachable: false,
        text: messageOf(error),
        lacks: [],
        hint: error instanceof GatewayError ? error.hint : undefined,
      };
    }
    const { product, version, rootless, lacks } = engine.facts;
    return {
      reachable: true,
      text: `${product} ${version}${rootless ? ' (rootless)' : ''} at ${engine.address.url}`,
      lacks: [...lacks, ...(await networkLacks(engine)), ...sandboxLacks(engine)],
    };
  }

  async close(): Promise<void> {
    this.#closed.abort(new GatewayError('draining', 'The gateway is shutting down.'));
    await this.#sandboxes.close();
    this.#watch?.close();
    this.#connection.close();
  }

  async #engine(signal?: AbortSignal): Promise<Engine> {
    const engine = await this.#connection.get(signal);
    // Or a watch would be made that nobody closes.
    this.#closed.signal.throwIfAborted();
    this.#watching(engine);
    return engine;
  }

  #watching(engine: Engine): EngineWatch {
    const { events } = this.#options;
    this.#watch ??= new EngineWatch({
      engine,
      clock: this.#clock,
      onImagesChanged: () => this.#images.forget(),
      onNetworksChanged: () => this.#networks.forget(),
      onLost: (reason) => events.emit('engine.lost', { runtime: 'docker', reason }),
      onBack: () => events.emit('engine.back', { runtime: 'docker' }),
      // What lost its streams while the engine was away cannot be used again, and what was to be stopped may still run.
      onAwake: () => void this.#sweep(engine).catch(() => {}),
      list: async () =>
        (await this.#containers(engine)).map(({ Id, State }) => ({ id: Id, isFrozen: State === 'paused' })),
    });
    return this.#watch;
  }

  #ownContainer(engine: Engine): Promise<OwnContainer | undefined> {
    this.#own ??= findOwnContainer(engine).catch((error) => {
      this.#own = undefined;
      throw error;
    });
    return this.#own;
  }
}

function containerServer(server: ServerConfig): DockerServer | TemplateServer {
  if (server.type === 'docker' || server.type === 'template') return server;
  throw new GatewayError(
    'internal',
    `Server ${server.name} of type ${server.type} is not for the docker runtime.`,
  );
}

const isImageMissing = (error: unknown) => error instanceof GatewayError && error.code === 'image_missing';

const isNameTaken = (error: unknown) =>
  error instanceof EngineError &&
  (error.status === 409 || error.status === 500) &&
  /name .*(?:already in use|is in use)/i.test(error.message);

/** A promise that rejects when the signal aborts, and can be let go. */
function abortion(signal: AbortSignal | undefined): { promise: Promise<never>; release(): void } {
  let onAbort = () => {};
  const promise = new Promise<never>((_, reject) => {
    onAbort = () => reject(signal!.reason);
    if (signal?.aborted) onAbort();
    else signal?.addEventListener('abort', onAbort, { once: true });
  });
  promise.catch(() => {});
  return { promise, release: () => signal?.removeEventListener('abort', onAbort) };
}
