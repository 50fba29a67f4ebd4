import { createHash } from 'node:crypto';
import { mkdir, readFile } from 'node:fs/promises';
import type { IncomingMessage } from 'node:http';
import path from 'node:path';
import type { Readable } from 'node:stream';
import type Dockerode from 'dockerode';
import { abortable, type Clock } from '../../base/async.ts';
import { GatewayError } from '../../base/errors.ts';
import { printable } from '../../base/printable.ts';
import { replaceFile } from '../../base/replace-file.ts';
import type { ContainerServer, DockerServer, GatewayConfig } from '../../config/schema.ts';
import type { PrepareOptions, PrepareProgress } from '../runtime.ts';
import { warmUpArgument, warmUpScript } from '../templates/warm-up.ts';
import { BuildContexts, packedDockerfile, packInMemory } from './build-context.ts';
import { type ChosenUser, labels, proxyVariables } from './create-options.ts';
import { type Engine, EngineError } from './engine.ts';
import { registryCredentials } from './registry-auth.ts';
import { diskFull, diskFullHint } from './start-errors.ts';

const dayMs = 86_400_000;
const outputLines = 15;
/** Sent to every build whose Dockerfile may name them. */
const baseImageVariables = ['NODE_IMAGE', 'PYTHON_IMAGE'];

/** What an image says about itself. */
export interface ImageFacts {
  id: string;
  /** `USER`, empty for root. */
  user: string;
  entrypoint: string[];
  command: string[];
  stopSignal: string;
  os: string;
  architecture: string;
  labels: Record<string, string>;
}

/** An image and one of its names. */
export interface NamedImage {
  tag: string;
  facts: ImageFacts;
}

/** Something to be built. */
export interface Recipe {
  tag: string;
  /** Kept as an image label: another digest means another image. */
  digest: string;
  pack(): Promise<Readable>;
  /** The Dockerfile's name in what is packed. */
  dockerfile: string;
  args: Record<string, string>;
  /** Unless it is the engine's own. */
  network?: 'none';
  step: PrepareProgress['step'];
  /** Where it comes from, for a person. */
  origin: string;
}

export interface ImagesOptions {
  gateway: Pick<GatewayConfig, 'proxy'>;
  stateDir: string;
  env: NodeJS.ProcessEnv;
  clock: Clock;
  /** Ends every pull and build. */
  closed: AbortSignal;
  /** Whether `forget` is called at every change of an image: only then is anything remembered. */
  isWatched(): boolean;
}

type Progress = (progress: PrepareProgress) => void;

/** The images that servers run: looked up, pulled or built, each once however many ask. */
export class Images {
  readonly #options: ImagesOptions;
  readonly #contexts: BuildContexts;
  readonly #known = new Map<string, ImageFacts>();
  #changes = 0;
  readonly #running = new Map<string, { done: Promise<void>; listeners: Set<Progress> }>();

  constructor(options: ImagesOptions) {
    this.#options = options;
    this.#contexts = new BuildContexts(options.clock);
  }

  /** The image of a docker server. Throws GatewayError `image_missing`, `image_unusable`, `build_failed`. */
  async ensure(engine: Engine, server: DockerServer, options: PrepareOptions): Promise<ImageFacts> {
    const { build } = server;
    if (build) {
      const tag = server.image ?? `mcp-${server.name}`;
      const sources = await this.#contexts.read(server.name, build);
      const args = { ...this.#baseImages(), ...build.args };
      const digest = digestOf([sources.digest, args, server.platform]);
      const recipe = {
        tag,
        digest,
        pack: sources.pack,
        dockerfile: sources.dockerfile,
        args,
        step: 'build',
        origin: build.context,
      } as const;
      return this.checked(engine, server, await this.built(engine, server, recipe, options), tag);
    }
    return this.checked(engine, server, await this.#pulled(engine, server, options), server.image!);
  }

  /** The image of a recipe, built when it is missing or was made by another one. */
  async built(
    engine: Engine,
    server: ContainerServer,
    recipe: Recipe,
    options: PrepareOptions,
  ): Promise<ImageFacts> {
    const { tag, digest } = recipe;
    const found = await this.inspect(engine, tag, options.signal);
    if (found?.labels[labels.sources] === digest) return found;
    await this.#once(`build ${engine.address.url} ${tag} ${digest}`, options, (onProgress) =>
      this.#build(engine, server, recipe, onProgress),
    );
    const made = await this.inspect(engine, tag, options.signal);
    // Ours and without a name now; one that still runs stays.
    if (made && found?.labels[labels.sources] && found.id !== made.id) {
      await engine.ensure((docker) => docker.getImage(found.id).remove()).catch(() => {});
    }
    if (made) return made;
    throw new GatewayError(
      'build_failed',
      `Server ${server.name}: the image ${tag} was built and is gone again.`,
      {
        server: server.name,
        hint: 'Somebody removed it at the same time (docker image prune?); the next call builds it anew.',
      },
    );
  }

  /**
   * The same image with what Node compiles of the server's program, which nobody can write. It is run for that, so it gets no network
   * and none of its variables.
   */
  async withCompileCache(
    engine: Engine,
    server: DockerServer,
    image: NamedImage,
    user: ChosenUser,
    options: PrepareOptions,
  ): Promise<NamedImage> {
    const { entrypoint, command, user: imageUser } = image.facts;
    const folder = '/.mcp-gateway';
    const cache = `${folder}/compile-cache`;
    const program = server.entrypoint
      ? [...server.entrypoint, ...(server.command ?? [])]
      : [...entrypoint, ...(server.command ?? command)];
    const argument = warmUpArgument({ user: user.text, command: program, folder: server.workingDir, cache });
    const files = [{ name: 'warm-up.cjs', content: warmUpScript }];
    const lines = [
      `FROM ${image.tag}`,
      'USER 0',
      `COPY warm-up.cjs ${folder}/`,
      // Without a shell: not every image has one.
      `RUN ${JSON.stringify(['node', `${folder}/warm-up.cjs`, argument])}`,
      `ENV NODE_COMPILE_CACHE=${cache}`,
      `USER ${imageUser || '0'}`,
    ];
    const digest = digestOf([image.facts.id, lines, files]);
    const tag = `mcp-gateway-compiled:${digest.slice(0, 16)}`;
    const recipe: Recipe = {
      tag,
      digest,
      pack: () => packInMemory(`${lines.join('\n')}\n`, files),
      dockerfile: packedDockerfile,
      args: {},
      network: 'none',
      step: 'build',
      origin: `${image.tag} with Node’s compile cache`,
    };
    return { tag, facts: await this.built(engine, server, recipe, options) };
  }

  /** The same image with the mount points of named volumes, owned by the server's user: a fresh volume takes them over. */
  async withMountPoints(
    engine: Engine,
    server: ContainerServer,
    image: NamedImage,
    user: ChosenUser,
    targets: string[],
    options: PrepareOptions,
  ): Promise<ImageFacts> {
    const owner = /^\d+$/.test(user.text) ? `${user.text}:0` : user.text;
    const lines = [`FROM ${image.tag}`];
    const files: { name: string; isDirectory: true }[] = [];
    // COPY, not RUN: it works in images without a shell, and whatever USER says. From the folder above, because COPY leaves the
    // owner of its destination as it is when the image has that already.
    for (const [index, target] of targets.entries()) {
      const mount = `mount-${index}`;
      files.push(
        { name: mount, isDirectory: true },
        { name: `${mount}/${path.posix.basename(target)}`, isDirectory: true },
      );
      const above = path.posix.dirname(target.replace(/\/*$/, '')).replace(/\/*$/, '/');
      lines.push(`COPY --chown=${owner} ["${mount}/", "${above}"]`);
    }
    const digest = digestOf([image.facts.id, lines, files]);
    const recipe: Recipe = {
      tag: `mcp-gateway-volumes:${digest.slice(0, 16)}`,
      digest,
      pack: () => packInMemory(`${lines.join('\n')}\n`, files),
      dockerfile: packedDockerfile,
      args: {},
      step: 'build',
      origin: `${image.tag} with mount points`,
    };
    return this.built(engine, server, recipe, options);
  }

  /** Images have changed: what was known of them no longer counts. */
  forget(): void {
    this.#changes += 1;
    this.#known.clear();
  }

  /**
   * What an image says, or undefined when the engine has none of that name. Remembered while changes are told: it is asked
   * before every start, and an engine with a containerd store takes 13 ms to answer.
   */
  async inspect(engine: Engine, name: string, signal?: AbortSignal): Promise<ImageFacts | undefined> {
    const { isWatched } = this.#options;
    const known = isWatched() ? this.#known.get(name) : undefined;
    if (known) return known;
    const changes = this.#changes;
    const found = await this.#inspect(engine, name, signal);
    if (found && isWatched() && changes === this.#changes) this.#known.set(name, found);
    return found;
  }

  async #inspect(engine: Engine, name: string, signal?: AbortSignal): Promise<ImageFacts | undefined> {
    try {
      const found = await engine.call((docker) => docker.getImage(name).inspect(), {
        signal,
      });
      const config = (found.Config ?? {}) as Partial<typeof found.Config> & { StopSignal?: string };
      return {
        id: found.Id,
        user: config.User ?? '',
        entrypoint: [config.Entrypoint ?? []].flat(),
        command: config.Cmd ?? [],
        stopSignal: config.StopSignal || 'SIGTERM',
        os: found.Os,
        architecture: found.Architecture,
        labels: config.Labels ?? {},
      };
    } catch (error) {
      if (error instanceof EngineError && error.status === 404) return undefined;
      // Podman's word for it.
      if (error instanceof EngineError && /no such image|image not known/i.test(error.message))
        return undefined;
      throw error;
    }
  }

  /** The image, unless it is made for another machine. */
  checked(engine: Engine, server: ContainerServer, image: ImageFacts, name: string): ImageFacts {
    const { os, architecture } = engine.facts;
    const isForeign =
      (image.architecture !== '' && image.architecture !== architecture) ||
      (image.os !== '' && image.os !== os);
    if (!isForeign || server.platform) return image;
    throw new GatewayError(
      'image_unusable',
      `Server ${server.name}: the image ${name} is made for ${image.os}/${image.architecture}, the engine runs ${os}/${architecture}.`,
      {
        server: server.name,
        hint: `Pull or build it for ${os}/${architecture} (docker pull --platform ${os}/${architecture} ${name}), or set platform: ${image.os}/${image.architecture} if this engine emulates that.`,
      },
    );
  }

  #baseImages(): Record<string, string> {
    const { env } = this.#options;
    return Object.fromEntries(baseImageVariables.flatMap((name) => (env[name] ? [[name, env[name]]] : [])));
  }

  async #pulled(engine: Engine, server: DockerServer, options: PrepareOptions): Promise<ImageFacts> {
    const name = server.image!;
    const found = await this.inspect(engine, name, options.signal);
    const isRight = found && (!server.platform || server.platform.split('/')[1] === found.architecture);
    if (found && isRight && !(await this.#isStale(server))) return found;
    if (server.pull === 'never') {
      throw new GatewayError(
        'image_missing',
        `Server ${server.name}: the engine has no image ${name}, and pull is never.`,
        {
          server: server.name,
          hint: `Load or build it (docker build -t ${name} …), or set pull: missing.`,
        },
      );
    }
    try {
      await this.#once(`pull ${engine.address.url} ${name} ${server.platform ?? ''}`, options, (onProgress) =>
        this.#pull(engine, server, onProgress),
      );
    } catch (error) {
      // What is there is good enough for another day.
      if (found && isRight && server.pull === 'daily' && !options.signal?.aborted) return found;
      throw error;
    }
    const made = await this.inspect(engine, name, options.signal);
    if (made) return made;
    throw new GatewayError(
      'image_missing',
      `Server ${server.name}: the image ${name} was pulled and is gone again.`,
      {
        server: server.name,
        hint: 'Somebody removed it at the same time (docker image prune?); the next call pulls it anew.',
      },
    );
  }

  async #isStale(server: DockerServer): Promise<boolean> {
    if (server.pull === 'always') return true;
    if (server.pull !== 'daily') return false;
    const pulls = await this.#readPulls();
    return this.#options.clock.now() - (pulls[server.image!] ?? 0) > dayMs;
  }

  async #readPulls(): Promise<Record<string, number>> {
    try {
      return JSON.parse(await readFile(this.#pullsFile, 'utf8')) as Record<string, number>;
    } catch {
      return {};
    }
  }

  async #notePull(name: string): Promise<void> {
    const pulls = { ...(await this.#readPulls()), [name]: this.#options.clock.now() };
    await mkdir(this.#options.stateDir, { recursive: true });
    await replaceFile(this.#pullsFile, JSON.stringify(pulls));
  }

  get #pullsFile(): string {
    return path.join(this.#options.stateDir, 'pulls.json');
  }

  /** Joins work that is under way; everyone who waits sees its progress, and nobody's abort ends it for the others. */
  async #once(
    key: string,
    options: PrepareOptions,
    work: (onProgress: Progress) => Promise<void>,
  ): Promise<void> {
    const { onProgress } = options;
    const running = this.#running.get(key) ?? this.#begin(key, work, onProgress);
    if (onProgress) running.listeners.add(onProgress);
    try {
      await abortable(running.done, options.signal);
    } finally {
      this.forget();
      if (onProgress) running.listeners.delete(onProgress);
    }
  }

  #begin(
    key: string,
    work: (onProgress: Progress) => Promise<void>,
    first: Progress | undefined,
  ): { done: Promise<void>; listeners: Set<Progress> } {
    const listeners = new Set(first ? [first] : []);
    const done = work((progress) => {
      for (const listener of listeners) listener(progress);
    }).finally(() => this.#running.delete(key));
    done.catch(() => {});
    const running = { done, listeners };
    this.#running.set(key, running);
    return running;
  }

  async #build(engine: Engine, server: ContainerServer, recipe: Recipe, onProgress: Progress): Promise<void> {
    const { tag, origin, step } = recipe;
    const { gateway, closed } = this.#options;
    onProgress({ step, text: `building ${tag} from ${origin}`, fraction: 0 });
    const limit = AbortSignal.timeout(server.timeouts.buildMs);
    const proxy = gateway.proxy ? proxyVariables(gateway.proxy) : {};
    delete proxy.NODE_USE_ENV_PROXY;
    const output: string[] = [];
    let current = '';
    const failed = (message: string, hint: string, cause?: unknown) =>
      new GatewayError(
        diskFull.test(message) ? 'disk_full' : 'build_failed',
        `Server ${server.name}: building ${tag} failed${current}: ${message}`,
        {
          server: server.name,
          hint,
          data: { output },
          cause,
        },
      );
    try {
      const options: Dockerode.ImageBuildOptions = {
        t: tag,
        dockerfile: recipe.dockerfile,
        buildargs: { ...proxy, ...recipe.args },
        labels: { [labels.managed]: 'true', [labels.sources]: recipe.digest },
        rm: true,
        forcerm: true,
        ...(recipe.network && { networkmode: recipe.network }),
        ...(server.platform && { platform: server.platform }),
      };
      const context = await recipe.pack();
      const stream = await engine.stream((docker) => docker.buildImage(context, options), {
        signal: AbortSignal.any([closed, limit]),
        limitMs: server.timeouts.buildMs,
      });
      for await (const message of messages(stream)) {
        const text = printable((message.stream ?? message.status ?? '').trimEnd(), 500);
        if (text.trim() !== '') {
          output.push(text);
          if (output.length > outputLines) output.shift();
          const at = /^Step (\d+)\/(\d+) ?: (.*)/i.exec(text);
          if (at) {
            current = ` at step ${at[1]} of ${at[2]} (${printable(at[3]!, 120)})`;
            const text = `step ${at[1]} of ${at[2]}: ${printable(at[3]!, 120)}`;
            onProgress({ step, text, fraction: (Number(at[1]) - 1) / Number(at[2]) });
          }
        }
        if (message.error) throw new BuildError(message.error);
      }
      onProgress({ step, text: `${tag} is built`, fraction: 1 });
    } catch (error) {
      if (closed.aborted) throw closed.reason;
      if (limit.aborted) {
        throw failed(
          `it did not finish in ${server.timeouts.buildMs / 1000} s`,
          'Raise timeouts.build.',
          error,
        );
      }
      if (!(error instanceof BuildError || error instanceof EngineError)) throw engine.translate(error);
      throw failed(printable(error.message, 500), buildHint(error.message, current, output), error);
    }
  }

  async #pull(engine: Engine, server: DockerServer, onProgress: Progress): Promise<void> {
    const name = server.image!;
    const { env, closed } = this.#options;
    onProgress({ step: 'pull', text: `pulling ${name}`, fraction: 0 });
    const limit = AbortSignal.timeout(server.timeouts.buildMs);
    const fail = (cause: string, hint: string, error?: unknown) =>
      new GatewayError(
        diskFull.test(cause) ? 'disk_full' : 'image_missing',
        `Server ${server.name}: the image ${name} cannot be pulled: ${cause}`,
        {
          server: server.name,
          hint,
          cause: error,
        },
      );
    try {
      const authconfig = await registryCredentials(name, env, engine.facts.indexServer);
      const options = {
        fromImage: name.includes('@') || tagOf(name) ? name : `${name}:latest`,
        ...(server.platform && { platform: server.platform }),
      };
      const stream = await engine.stream((docker) => docker.createImage(authconfig ?? {}, options), {
        signal: AbortSignal.any([closed, limit]),
        limitMs: server.timeouts.buildMs,
      });
      const layers = new Map<string, number>();
      let shown = 0;
      for await (const message of messages(stream)) {
        if (message.error) throw new BuildError(message.error);
        const { current = 0, total = 0 } = message.progressDetail ?? {};
        if (!message.id || total === 0 || message.status !== 'Downloading') continue;
        layers.set(message.id, current / total);
        const fraction = [...layers.values()].reduce((sum, part) => sum + part, 0) / layers.size;
        if (fraction < shown + 0.01) continue;
        shown = fraction;
        onProgress({ step: 'pull', text: `pulling ${name}`, fraction });
      }
      // Without the note it is pulled again sooner; the image is there all the same.
      await this.#notePull(name).catch(() => {});
      onProgress({ step: 'pull', text: `${name} is pulled`, fraction: 1 });
    } catch (error) {
      if (closed.aborted) throw closed.reason;
      if (limit.aborted) {
        throw fail(`not finished in ${server.timeouts.buildMs / 1000} s`, 'Raise timeouts.build.', error);
      }
      if (!(error instanceof BuildError || error instanceof EngineError)) throw engine.translate(error);
      const text = printable(error.message, 400);
      throw fail(text, pullHint(name, text), error);
    }
  }
}

/** What a build or a pull reported as its own failure. */
class BuildError extends Error {}

interface EngineMessage {
  stream?: string;
  status?: string;
  id?: string;
  error?: string;
  progressDetail?: { current?: number; total?: number };
}

/** The engine's progress: a JSON object on each line. */
async function* messages(stream: IncomingMessage): AsyncGenerator<EngineMessage> {
  let rest = '';
  stream.setEncoding('utf8');
  for await (const chunk of stream) {
    const lines = (rest + chunk).split('\n');
    rest = lines.pop()!;
    for (const line of lines) if (line.trim() !== '') yield JSON.parse(line) as EngineMessage;
  }
  if (rest.trim() !== '') yield JSON.parse(rest) as EngineMessage;
}

const noRegistry =
  /no such host|connection refused|i\/o timeout|network is unreachable|tls|x509|certificate|timeout|deadline|dial tcp|EOF|server misbehaving/i;
const notThere = /not found|denied|manifest unknown|unauthorized|does not exist|no such image|not known/i;

function pullHint(name: string, cause: string): string {
  if (diskFull.test(cause)) return `Make room for it. ${diskFullHint}`;
  if (noRegistry.test(cause)) {
    return `Its registry does not answer: check the network, build the image here (\`build\` in servers.yaml), or docker load it.`;
  }
  if (notThere.test(cause)) {
    return `Check the name (docker pull ${name}); a private one needs docker login, one of your own needs \`build\` in servers.yaml.`;
  }
  return `Try docker pull ${name} by hand.`;
}

function buildHint(message: string, current: string, output: string[]): string {
  if (diskFull.test(message)) return `Make room for it. ${diskFullHint}`;
  if (/\(FROM /i.test(current) && (noRegistry.test(message) || notThere.test(message))) {
    return 'Its base image is neither here nor in a registry that answers: make images (or scripts/base-images.sh) makes local ones; NODE_IMAGE and PYTHON_IMAGE name others.';
  }
  if (
    /requires BuildKit|unknown flag: mount|--mount|unknown instruction: .*(<<|EOF)|heredoc/i.test(message)
  ) {
    return 'This Dockerfile needs BuildKit: build it with `docker build -t <image> <folder>` and leave `build` out of servers.yaml, or write it without BuildKit’s extensions.';
  }
  // Podman says what it was in its output alone.
  const hasNoNode = [message, ...output].some((text) => /node\W*: executable file not found/i.test(text));
  if (hasNoNode && /warm-up\.cjs/.test(current)) {
    return 'compile_cache is for images that have Node in their PATH: leave it out.';
  }
  const last = output.filter((line) => !/^(Step |\s*--->|-->|Removing intermediate)/i.test(line)).slice(-3);
  return last.length > 0
    ? `The build’s last words: ${last.join(' | ')}`
    : 'Build it by hand to see more: docker build <folder>.';
}

/** Whether a reference names a tag; a colon before the last slash is a port. */
const tagOf = (name: string) => name.lastIndexOf(':') > name.lastIndexOf('/');

const digestOf = (parts: unknown[]) => createHash('sha256').update(JSON.stringify(parts)).digest('hex');
