import { existsSync, realpathSync } from 'node:fs';
import path from 'node:path';
import type { z } from 'zod';
import { at, formatPlace, type Located, type Path, placeAt } from './located.ts';
import { describeFound, didYouMean, type Problems } from './problems.ts';
import {
  type ClientCapability,
  type CommonServer,
  type Config,
  type ContainerServer,
  type GatewayConfig,
  type ServerConfig,
  type ServerProblem,
  type serverSchemas,
  type Volume,
  withoutEffect,
} from './schema.ts';

type Written = { [Type in keyof typeof serverSchemas]: z.output<(typeof serverSchemas)[Type]> };
/** An entry as its schema gives it. */
export type WrittenServer = Written[keyof Written];

/** What a configuration's values are read against. */
export interface Surroundings {
  /** Where relative paths start: the folder of the configuration's file. */
  folder: string;
  homeDir: string;
  environment: Record<string, string | undefined>;
  problems: Problems;
  warnings: Problems;
}

/** `~`, relative and absolute paths as absolute ones. */
export function absolutePath(
  written: string,
  { folder, homeDir }: Pick<Surroundings, 'folder' | 'homeDir'>,
): string {
  if (written === '~' || written.startsWith('~/')) return path.join(homeDir, written.slice(1));
  return path.resolve(folder, written);
}

/** The `gateway:` section with absolute paths. */
export function resolveGateway(
  written: GatewayConfig,
  tree: Located,
  surroundings: Surroundings,
): GatewayConfig {
  warnOfKeysWithoutEffect('gateway', tree, ['gateway'], surroundings);
  return {
    ...written,
    stateDir: absolutePath(written.stateDir, surroundings),
    caCertificates:
      written.caCertificates === undefined ? undefined : absolutePath(written.caCertificates, surroundings),
  };
}

/** Whose server it is and what it is made from. */
export interface ServerContext extends Surroundings {
  name: string;
  gateway: GatewayConfig;
  /** The entry with `defaults` merged in, for the places of what is said about it. */
  tree: Located;
  problem: ServerProblem | undefined;
}

/** One entry as the rest of the gateway knows it, with everything that the schema alone cannot check. */
export function resolveServer(written: WrittenServer, context: ServerContext): ServerConfig {
  const common = resolveCommon(written, context);
  switch (written.type) {
    case 'docker':
      return {
        ...common,
        ...resolveContainer(written, common, context),
        type: 'docker',
        image: written.image,
        build: resolveBuild(written.build, context),
        compileCache: written.compile_cache,
      };
    case 'template':
      return {
        ...common,
        ...resolveContainer(written, common, context),
        type: 'template',
        template: written.template,
        package: written.config.package,
        version: written.config.version,
        bin: written.config.bin,
        ...(written.template === 'npm' ? {} : unsupported('template pypi', ['template'], context)),
      };
    case 'process':
      return {
        ...common,
        type: 'process',
        command: written.command,
        workingDir: absolutePath(written.working_dir, context),
      };
    case 'http':
      return {
        ...common,
        type: 'http',
        endpoints: written.endpoints,
        headers: written.headers,
        ...unsupported('type http', ['type'], context),
      };
  }
}

function resolveCommon(written: WrittenServer, context: ServerContext): CommonServer {
  const { name, tree, gateway, problems, warnings } = context;
  const own: Path = ['servers', name];
  const isolation = written.isolation ?? (written.stateful || written.interactive ? 'session' : 'shared');
  const standard: ClientCapability[] = ['sampling', 'elicitation'];
  if (isolation === 'session') standard.push('roots');
  const asked = written.client_capabilities;
  if (isolation === 'shared' && asked?.includes('roots')) {
    const where: Path = ['client_capabilities', asked.indexOf('roots')];
    problems.add(
      placeAt(tree, where, 'value'),
      [...own, ...where],
      'found roots on a server whose instances clients share: it could open one client’s folders to another',
      'set isolation: session',
    );
  }
  if (isolation === 'session' && at(tree, ['pool', 'max']) && written.pool.max > 1) {
    warnings.add(
      placeAt(tree, ['pool', 'max'], 'key'),
      [...own, 'pool', 'max'],
      'has no effect with isolation: session, where each client session has an instance of its own',
    );
  }
  warnOfKeysWithoutEffect('servers', tree, own, context);
  return {
    name,
    description: written.description,
    enabled: written.enabled,
    problem: context.problem,
    env: written.env,
    idleTimeoutMs: written.idle_timeout ?? gateway.defaultIdleTimeoutMs,
    pauseAfterMs: written.pause_after ?? Number.POSITIVE_INFINITY,
    tools: { ...written.tools, allow: written.tools.allow },
    prefix: written.prefix,
    isolation,
    stateful: written.stateful,
    interactive: written.interactive,
    clientCapabilities: asked ?? standard,
    pool: written.pool,
    concurrency: written.concurrency,
    loadBalancing: written.load_balancing,
    timeouts: written.timeouts,
    healthCheck: { intervalMs: written.health_check.intervalMs, path: written.health_check.path },
    retry: written.retry,
  };
}

function resolveContainer(
  written: Written['docker'] | Written['template'],
  common: CommonServer,
  context: ServerContext,
): ContainerServer {
  const { name, tree, gateway, problems, warnings } = context;
  const own: Path = ['servers', name];
  const refuse = (where: Path, what: string) => {
    if (gateway.allowUnsafe) {
      warnings.add(
        placeAt(tree, where, 'value'),
        [...own, ...where],
        `UNSAFE: ${what}; gateway.allow_unsafe permits it`,
      );
    } else {
      const hint = 'remove it, or set gateway.allow_unsafe: true if the server may be root on this machine';
      problems.add(placeAt(tree, where, 'value'), [...own, ...where], `refused: ${what}`, hint);
    }
  };
  if (written.fallback && written.volumes.length > 0) {
    problems.add(
      placeAt(tree, ['fallback'], 'key'),
      [...own, 'fallback'],
      'found fallback together with volumes: a plain process would not see them',
      'remove one of the two',
    );
  }
  if (written.network === 'host') refuse(['network'], 'the network of the host');
  else if (!isUnresolved(tree, ['network']) && !/^[A-Za-z0-9][\w.-]*$/.test(written.network)) {
    const found = describeFound(at(tree, ['network'])!, ['network']);
    problems.add(
      placeAt(tree, ['network'], 'value'),
      [...own, 'network'],
      `found ${found}, expected none or the name of a network`,
    );
  }
  for (const [index, capability] of written.cap_add.entries()) {
    if (/^(CAP_)?ALL$/i.test(capability)) refuse(['cap_add', index], 'all capabilities at once');
  }
  return {
    ...common,
    command: written.command,
    entrypoint: written.entrypoint,
    workingDir: written.working_dir,
    volumes: resolveVolumes(written.volumes, context, refuse),
    limits: written.limits,
    network: written.network,
    user: written.user,
    readOnly: written.read_only,
    fallback: written.fallback,
    pull: written.pull,
    platform: written.platform,
    init: written.init,
    tmpfs: written.tmpfs,
    shmSizeBytes: written.shm_size,
    extraHosts: written.extra_hosts,
    dns: written.dns,
    capAdd: written.cap_add,
    logs: written.logs,
    ociRuntime: written.runtime,
    sandbox: resolveSandbox(written, context),
  };
}

/** OCI runtimes that use a network as they find it and leave it so; one with a network stack of its own takes it apart. */
const sandboxRuntimes = ['runc', 'crun', 'youki'];

function resolveSandbox(
  { sandbox, runtime }: Written['docker'] | Written['template'],
  { tree, name, warnings }: ServerContext,
) {
  if (!sandbox || !runtime || sandboxRuntimes.includes(runtime)) return sandbox;
  warnings.add(
    placeAt(tree, ['sandbox'], 'key'),
    ['servers', name, 'sandbox'],
    `has no effect with runtime ${runtime}; ${sandboxRuntimes.join(', ')} can keep a network`,
  );
  return undefined;
}

function resolveBuild(build: Written['docker']['build'], context: ServerContext) {
  if (!build) return undefined;
  const { tree, name, problems } = context;
  const where: Path = at(tree, ['build', 'context']) ? ['build', 'context'] : ['build'];
  if (/^(\w+:\/\/|git@)/.test(build.context)) {
    const found = describeFound(at(tree, where) ?? tree, where);
    problems.add(
      placeAt(tree, where, 'value'),
      ['servers', name, ...where],
      `found ${found}, expected a folder of this machine`,
    );
  }
  return { ...build, context: absolutePath(build.context, context) };
}

function resolveVolumes(
  written: string[],
  context: ServerContext,
  refuse: (where: Path, what: string) => void,
): Volume[] {
  const { tree, name, problems } = context;
  const targets = new Map<string, number>();
  return written.flatMap((text, index): Volume[] => {
    const where: Path = ['volumes', index];
    const node = at(tree, where);
    if (!node || isUnresolved(tree, where)) return [];
    const complain = (expected: string, hint?: string) =>
      problems.add(
        node.place,
        ['servers', name, ...where],
        `found ${describeFound(node, where)}, expected ${expected}`,
        isSecret(node) ? undefined : hint,
      );
    const [source = '', target, mode, ...more] = text.split(':');
    if (target === undefined || more.length > 0 || source === '') {
      complain('./folder:/path, name:/path, or one of them with :ro at its end');
      return [];
    }
    if (mode !== undefined && mode !== 'ro' && mode !== 'rw') {
      complain('ro or rw after the second colon');
      return [];
    }
    if (!target.startsWith('/') || path.posix.normalize(target) === '/') {
      complain('an absolute path of the container after the first colon', `for example ${source}:/data`);
      return [];
    }
    const place = path.posix.resolve('/', target);
    const first = targets.get(place);
    if (first !== undefined) {
      complain(`a path that volumes[${first}] does not have already`);
      return [];
    }
    targets.set(place, index);
    const readOnly = mode === 'ro';
    if (/^(\.|\/|~\/|~$)/.test(source)) {
      const folder = absolutePath(source, context);
      const socket = engineSocketIn(folder, context);
      if (socket !== undefined) refuse(where, `the engine’s socket ${socket} as a volume`);
      return [{ kind: 'bind', source: folder, target, readOnly }];
    }
    if (!/^[A-Za-z0-9][\w.-]+$/.test(source)) {
      const hint = source.includes('/') ? didYouMean(`./${text}`) : 'a folder starts with ./, / or ~/';
      complain('the name of a volume (two or more of letters, digits, _, . and -) or a folder', hint);
      return [];
    }
    return [{ kind: 'volume', source, target, readOnly }];
  });
}

/** The engine's socket that a folder is or holds; who reaches it is root on the host. */
function engineSocketIn(folder: string, { environment, homeDir }: Surroundings): string | undefined {
  const host = /^unix:\/\/(.+)$/.exec(environment.DOCKER_HOST ?? '')?.[1];
  const runtimeDir = environment.XDG_RUNTIME_DIR;
  const certain = [
    '/var/run/docker.sock',
    '/run/docker.sock',
    '/run/podman/podman.sock',
    '/run/containerd/containerd.sock',
    '/var/run/containerd/containerd.sock',
    ...(host === undefined ? [] : [host]),
  ];
  const possible = [
    ...(runtimeDir ? [`${runtimeDir}/docker.sock`, `${runtimeDir}/podman/podman.sock`] : []),
    `${homeDir}/.docker/run/docker.sock`,
    `${homeDir}/.docker/desktop/docker.sock`,
    `${homeDir}/.colima/default/docker.sock`,
  ];
  const sockets = [...certain, ...possible.filter((socket) => existsSync(socket))];
  const places = new Set([path.normalize(folder), realPath(folder)]);
  for (const place of places) {
    if (/^(docker|podman|containerd)\.sock$/.test(path.basename(place))) return place;
    const held = sockets.find((socket) => `${socket}/`.startsWith(place.endsWith('/') ? place : `${place}/`));
    if (held !== undefined) return held;
  }
  return undefined;
}

function realPath(file: string): string {
  try {
    return realpathSync(file);
  } catch {
    return file;
  }
}

function isUnresolved(tree: Located, where: Path): boolean {
  const node = at(tree, where);
  return node?.kind === 'scalar' && node.unresolved;
}

function isSecret(node: Located): boolean {
  return node.kind === 'scalar' && node.variables.length > 0;
}

function warnOfKeysWithoutEffect(
  section: 'gateway' | 'servers',
  tree: Located,
  own: Path,
  { warnings }: Surroundings,
): void {
  for (const { key, unless } of withoutEffect.filter((entry) => entry.section === section)) {
    const where = key.split('.');
    const node = at(tree, where);
    if (!node || (node.kind === 'scalar' && node.value === unless)) continue;
    warnings.add(placeAt(tree, where, 'key'), [...own, ...where], 'has no effect in this version');
  }
}

function unsupported(what: string, where: Path, context: ServerContext): { problem?: ServerProblem } {
  const { tree, name, warnings, problem } = context;
  const place = placeAt(tree, where, 'value');
  warnings.add(
    place,
    ['servers', name, ...where],
    `servers of ${what} are not started by this version; calls to it fail`,
  );
  if (problem) return {};
  return {
    problem: {
      code: 'config_invalid',
      message: `${formatPlace(place)}: server ${name}: servers of ${what} are not started by this version`,
      hint: 'Run it as a docker, process or npm template server, or disable it with enabled: false.',
    },
  };
}

/** Servers whose tools would get the same names. */
export function warnOfSharedPrefixes(
  servers: Config['servers'],
  trees: Map<string, Located>,
  warnings: Problems,
): void {
  const owners = new Map<string, string>();
  for (const { name, enabled, prefix = name } of servers.values()) {
    if (!enabled) continue;
    const owner = owners.get(prefix);
    const tree = trees.get(name);
    if (owner === undefined) owners.set(prefix, name);
    else if (tree) {
      const place = placeAt(tree, ['prefix'], 'value');
      const message = `has the same prefix as the server ${owner}: names that collide get this server’s name in front`;
      warnings.add(place, ['servers', name], message, 'give one of them another prefix');
    }
  }
}
