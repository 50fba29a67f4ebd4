import { readFileSync, statSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import path from 'node:path';
import { parse as parseDotenv } from 'dotenv';
import type { z } from 'zod';
import { messageOf, systemCodeOf } from '../base/errors.ts';
import { nearest } from '../base/nearest.ts';
import { parseLocated } from './document.ts';
import { type Fault, interpolate, type Sources } from './interpolate.ts';
import {
  at,
  formatPlace,
  type Located,
  type LocatedMap,
  type LocatedScalar,
  mapScalars,
  merged,
  type Path,
  type Place,
  textScalar,
  toPlain,
  withAt,
} from './located.ts';
import {
  type Complaint,
  ConfigError,
  describeFound,
  didYouMean,
  explain,
  formatProblem,
  Problems,
  placeOfComplaint,
  type Subject,
  unknownKey,
} from './problems.ts';
import {
  absolutePath,
  resolveGateway,
  resolveServer,
  type Surroundings,
  type WrittenServer,
  warnOfSharedPrefixes,
} from './resolve.ts';
import {
  type Config,
  defaultsSchema,
  documentSchema,
  extensionPattern,
  type GatewayConfig,
  gatewaySchema,
  reservedNames,
  type ServerProblem,
  type ServerType,
  serverNamePattern,
  serverSchemas,
} from './schema.ts';

export { ConfigError } from './problems.ts';

/** Flags of the command line; they win over the environment, which wins over the file. */
export interface GatewayOverrides {
  host?: string;
  port?: number | string;
  logLevel?: string;
}

export interface LoadOptions {
  /** `--config` or `--registry`; without it MCP_REGISTRY, ./servers.yaml, ~/.config/mcp-gateway/servers.yaml. */
  file?: string;
  overrides?: GatewayOverrides;
  /** `validate`: a missing variable is an error. `start`: it is the problem of its server alone. */
  mode: 'validate' | 'start';
  /** Default: the process's own. */
  env?: Record<string, string | undefined>;
  homeDir?: string;
  cwd?: string;
}

const maxFileBytes = 4 * 1024 * 1024;
const maxSecretBytes = 1024 * 1024;

/**
 * Finds, reads and checks the configuration. Throws `ConfigError` with everything that is wrong, each with its
 * position; says nothing that came from a variable.
 */
export async function loadConfig(options: LoadOptions): Promise<Config> {
  const env = options.env ?? process.env;
  const homeDir = options.homeDir ?? homedir();
  const cwd = options.cwd ?? process.cwd();
  const { file, text } = await readFirst(options.file, { env, homeDir, cwd });
  const folder = path.dirname(file);
  return parseConfig(text, {
    file,
    shownFile: shown(file, cwd),
    environment: { ...(await readDotenv(folder, cwd)), ...withoutUnset(env) },
    homeDir,
    mode: options.mode,
    overrides: options.overrides ?? {},
  });
}

interface Found {
  file: string;
  text: string;
}

async function readFirst(
  named: string | undefined,
  { env, homeDir, cwd }: { env: Record<string, string | undefined>; homeDir: string; cwd: string },
): Promise<Found> {
  const chosen = named ?? (env.MCP_REGISTRY || undefined);
  if (chosen !== undefined) {
    const file = path.resolve(cwd, chosen);
    const text = await readConfigText(file, shown(file, cwd));
    if (text !== undefined) return { file, text };
    const by = named === undefined ? 'MCP_REGISTRY names it' : 'it was named on the command line';
    throw new ConfigError([
      {
        ...nowhere(shown(file, cwd)),
        message: `there is no such file; ${by}`,
        hint: `make one: mcp-gateway example --output ${chosen}`,
      },
    ]);
  }
  const tried = [
    path.join(cwd, 'servers.yaml'),
    path.join(homeDir, '.config', 'mcp-gateway', 'servers.yaml'),
  ];
  for (const file of tried) {
    const text = await readConfigText(file, shown(file, cwd));
    if (text !== undefined) return { file, text };
  }
  throw new ConfigError([
    {
      ...nowhere('servers.yaml'),
      message: `there is no configuration: tried --config, MCP_REGISTRY, ${tried.join(' and ')}`,
      hint: 'make one: mcp-gateway example --output servers.yaml',
    },
  ]);
}

/** undefined: there is no such file. */
async function readConfigText(file: string, shownFile: string): Promise<string | undefined> {
  const fail = (message: string, hint?: string) =>
    new ConfigError([{ ...nowhere(shownFile), message, hint }]);
  let bytes: Buffer;
  try {
    const { size } = statSync(file);
    if (size > maxFileBytes) throw fail(`found a file of ${size} bytes, expected at most ${maxFileBytes}`);
    bytes = await readFile(file);
  } catch (error) {
    if (error instanceof ConfigError) throw error;
    const code = systemCodeOf(error);
    if (code === 'ENOENT' || code === 'ENOTDIR') return undefined;
    throw fail(`cannot be read: ${reasons[code ?? ''] ?? code ?? messageOf(error)}`);
  }
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch {
    throw fail('found bytes that are not UTF-8 text', 'save the file as UTF-8');
  }
}

const reasons: Record<string, string> = {
  ENOENT: 'there is no such file',
  ENOTDIR: 'a part of its path is no folder',
  EISDIR: 'it is a folder',
  EACCES: 'this user may not read it',
  EPERM: 'this user may not read it',
};

function withoutUnset(env: Record<string, string | undefined>): Record<string, string | undefined> {
  return Object.fromEntries(Object.entries(env).filter(([, value]) => value !== undefined));
}

async function readDotenv(folder: string, cwd: string): Promise<Record<string, string>> {
  const file = path.join(folder, '.env');
  try {
    return parseDotenv(await readFile(file));
  } catch (error) {
    const code = systemCodeOf(error);
    if (code === 'ENOENT' || code === 'ENOTDIR' || code === 'EISDIR') return {};
    throw new ConfigError([
      { ...nowhere(shown(file, cwd)), message: `cannot be read: ${reasons[code ?? ''] ?? code}` },
    ]);
  }
}

function nowhere(file: string): Place {
  return { file, line: 0, column: 0 };
}

/** Short where that is still clear. */
function shown(file: string, cwd: string): string {
  const relative = path.relative(cwd, file);
  return relative.startsWith('..') || path.isAbsolute(relative) ? file : relative;
}

export interface ParseOptions {
  /** Absolute. */
  file: string;
  /** As messages name it. */
  shownFile: string;
  /** With what .env says. */
  environment: Record<string, string | undefined>;
  homeDir: string;
  mode: LoadOptions['mode'];
  overrides: GatewayOverrides;
}

/** The part of `loadConfig` after the file was read. Throws ConfigError only. */
export function parseConfig(text: string, options: ParseOptions): Config {
  return new Loading(options).run(text);
}

const sections = Object.keys(documentSchema.shape);

class Loading {
  readonly #options: ParseOptions;
  readonly #problems = new Problems();
  readonly #warnings = new Problems();
  readonly #surroundings: Surroundings;
  readonly #sources: Sources;

  constructor(options: ParseOptions) {
    this.#options = options;
    this.#surroundings = {
      folder: path.dirname(options.file),
      homeDir: options.homeDir,
      environment: options.environment,
      problems: this.#problems,
      warnings: this.#warnings,
    };
    this.#sources = {
      variable: (name) => (Object.hasOwn(options.environment, name) ? options.environment[name] : undefined),
      file: (written) => readSecret(absolutePath(written, this.#surroundings)),
    };
  }

  run(text: string): Config {
    const start: Place = { file: this.#options.shownFile, line: 1, column: 1 };
    const { root, problems, duplicates } = parseLocated(text, this.#options.shownFile);
    this.#problems.addAll(problems);
    this.#throwProblems();
    if (root?.kind !== 'map') {
      const found = root ? describeFound(root, []) : 'an empty file';
      const hint = 'mcp-gateway example prints one to begin with';
      this.#problems.add(
        root?.place ?? start,
        [],
        `found ${found}, expected a map with the key servers`,
        hint,
      );
      this.#throwProblems();
    }
    const document = root as LocatedMap;
    const serversPlace = document.entries.get('servers')?.value.place;
    for (const { name, place, first, map } of duplicates) {
      const isServer = map.line === serversPlace?.line && map.column === serversPlace.column;
      const what = isServer
        ? `two servers are named ${name}`
        : `the key ${JSON.stringify(name)} is there twice`;
      this.#problems.add(
        place,
        [],
        `${what}: the first is at ${formatPlace(first)}`,
        isServer ? 'rename one' : 'remove one',
      );
    }
    this.#checkSections(document);

    const gateway = this.#gateway(document);
    const defaults = this.#section(document, 'defaults');
    const inherited = defaults && asWritten(this.#interpolated(defaults, ['defaults']));
    if (inherited) this.#check({ schema: defaultsSchema, tree: inherited, path: ['defaults'] });
    const servers = this.#servers(document, inherited, gateway);
    this.#throwProblems();
    return {
      file: this.#options.file,
      gateway: gateway!,
      servers,
      warnings: this.#warnings.list().map(formatProblem),
    };
  }

  #throwProblems(): void {
    if (!this.#problems.isEmpty) throw new ConfigError(this.#problems.list());
  }

  #checkSections(document: LocatedMap): void {
    for (const [name, { keyPlace }] of document.entries) {
      if (sections.includes(name) || extensionPattern.test(name)) continue;
      const near = this.#meant(name);
      this.#problems.add(
        keyPlace,
        [],
        `found the unknown key ${JSON.stringify(name)}, expected gateway, defaults or servers`,
        near === undefined ? 'a key that starts with x- is free for anchors' : didYouMean(near),
      );
    }
  }

  #meant(section: string): string | undefined {
    return section === 'mcpServers' ? 'servers' : nearest(section, sections);
  }

  /** undefined: it is not there, or was reported as something else than a map. */
  #section(document: LocatedMap, name: string): LocatedMap | undefined {
    const node = document.entries.get(name)?.value;
    if (!node || (node.kind === 'scalar' && node.value === null)) return undefined;
    if (node.kind === 'map') return node;
    this.#problems.add(node.place, [name], `found ${describeFound(node, [name])}, expected a map`);
    return undefined;
  }

  #gateway(document: LocatedMap): GatewayConfig | undefined {
    const section = this.#section(document, 'gateway');
    const empty: LocatedMap = { kind: 'map', place: document.place, entries: new Map() };
    const written = section ? this.#interpolated(section, ['gateway']) : empty;
    // First the file alone, so that an override does not hide what is wrong there.
    this.#check({ schema: gatewaySchema, tree: written, path: ['gateway'] });
    const { output } = this.#check({
      schema: gatewaySchema,
      tree: this.#overridden(written),
      path: ['gateway'],
    });
    return output && resolveGateway(output, written, this.#surroundings);
  }

  #overridden(gateway: Located): Located {
    const { environment, overrides } = this.#options;
    const outside: [key: string, variable: string, flag: string, value: string | number | undefined][] = [
      ['host', 'GATEWAY_HOST', '--host', overrides.host],
      ['port', 'GATEWAY_PORT', '--port', overrides.port],
      ['log_level', 'LOG_LEVEL', '--log-level', overrides.logLevel],
      ['default_idle_timeout', 'DEFAULT_IDLE_TIMEOUT', '', undefined],
      ['state_dir', 'GATEWAY_STATE_DIR', '', undefined],
    ];
    let tree = gateway;
    for (const [key, variable, flag, value] of outside) {
      const fromEnvironment = environment[variable];
      if (value !== undefined) tree = withAt(tree, [key], textScalar(String(value), nowhere(flag)));
      else if (fromEnvironment) {
        tree = withAt(
          tree,
          [key],
          textScalar(fromEnvironment, nowhere(`the environment variable ${variable}`)),
        );
      }
    }
    return tree;
  }

  #servers(
    document: LocatedMap,
    defaults: Located | undefined,
    gateway: GatewayConfig | undefined,
  ): Config['servers'] {
    const section = document.entries.get('servers');
    const servers: Config['servers'] = new Map();
    const trees = new Map<string, Located>();
    if (!section) {
      const isMisspelt = [...document.entries.keys()].some((name) => this.#meant(name) === 'servers');
      const hint = 'servers: {} is a gateway without servers';
      if (!isMisspelt) this.#problems.add(document.place, [], 'the key servers is missing', hint);
      return servers;
    }
    const map = this.#section(document, 'servers');
    if (!map || map.entries.size === 0) {
      if (this.#problems.isEmpty) this.#warnings.add(section.keyPlace, [], 'there are no servers');
      return servers;
    }
    for (const [name, { keyPlace, value }] of map.entries) {
      this.#checkName(name, keyPlace);
      const server = this.#server(name, keyPlace, value, defaults);
      if (!server) continue;
      trees.set(name, server.tree);
      // Even where the gateway's own section is wrong, everything about the servers is said.
      const usable = gateway ?? gatewaySchema.parse({});
      const { output, tree, problem } = server;
      const quiet = output.enabled ? {} : { warnings: new Problems() };
      servers.set(
        name,
        resolveServer(output, { ...this.#surroundings, ...quiet, name, gateway: usable, tree, problem }),
      );
    }
    warnOfSharedPrefixes(servers, trees, this.#warnings);
    return servers;
  }

  #checkName(name: string, place: Place): void {
    if (reservedNames.includes(name)) {
      const message = `the name ${name} is reserved for a route of the gateway`;
      this.#problems.add(place, ['servers'], message, `rename it, for example ${name}-server`);
    } else if (!serverNamePattern.test(name)) {
      const proposal = name
        .toLowerCase()
        .replace(/[^a-z0-9-]+/g, '-')
        .replace(/^-+|-+$/g, '');
      const message = `found the name ${JSON.stringify(name)}, expected a to z, 0 to 9 and -, not first`;
      const usable = proposal !== '' && !reservedNames.includes(proposal);
      this.#problems.add(place, ['servers'], message, usable ? didYouMean(proposal) : undefined);
    }
  }

  #server(
    name: string,
    keyPlace: Place,
    own: Located,
    defaults: Located | undefined,
  ): { output: WrittenServer; tree: Located; problem: ServerProblem | undefined } | undefined {
    const where: Path = ['servers', name];
    if (own.kind !== 'map') {
      const message = `found ${describeFound(own, where)}, expected a map with image, build or type`;
      this.#problems.add(own.place, where, message);
      return undefined;
    }
    const type = this.#typeOf(own, where, keyPlace);
    if (type === undefined) return undefined;
    const schema = serverSchemas[type];
    const known = Object.keys(schema.shape);
    const inherited = defaults?.kind === 'map' ? only(defaults, known) : undefined;
    const raw = merged(inherited, withAt(asWritten(own), ['type'], typeScalar(type, own, keyPlace)));

    // Whether it is enabled decides whether its variables are read at all.
    const faults: LocatedFault[] = [];
    const enabled = this.#interpolatedEnabled(raw, faults);
    const isDisabled = enabled !== undefined && String(enabled.value).toLowerCase() === 'false';
    const withEnabled = enabled ? withAt(raw, ['enabled'], enabled) : raw;
    const tree = isDisabled
      ? mapScalars(withEnabled, (scalar) => ({ ...scalar, unresolved: hasExpression(scalar) }))
      : this.#interpolate(withEnabled, faults);
    const missing = this.#reported(faults, where);

    if (type === 'docker' && !at(own, ['image']) && !at(own, ['build'])) {
      const message = 'neither image nor build is there, and a docker server needs one of them';
      this.#problems.add(keyPlace, where, message, 'for a program of this machine write type: process');
    }
    const subject: Subject = {
      schema,
      tree,
      path: where,
      explainKey: (key) => explainMisplaced(key, type, known),
    };
    const checked = this.#check(subject, { substitutes: substitutes[type], missingAt: keyPlace });
    if (!checked.output) return undefined;
    return {
      output: checked.output as WrittenServer,
      tree: checked.tree,
      problem: missing.length > 0 ? problemOf(missing) : undefined,
    };
  }

  #typeOf(own: LocatedMap, where: Path, keyPlace: Place): ServerType | undefined {
    const types = Object.keys(serverSchemas) as ServerType[];
    const has = (key: string) => own.entries.has(key);
    const guess: ServerType | undefined =
      has('image') || has('build')
        ? 'docker'
        : has('template')
          ? 'template'
          : has('endpoints')
            ? 'http'
            : undefined;
    const node = at(own, ['type']);
    if (!node) {
      if (guess === 'docker') return guess;
      const explain = (message: string, hint: string) => this.#problems.add(keyPlace, where, message, hint);
      if (guess)
        explain(
          `type is missing, and ${guess === 'http' ? 'endpoints belong' : 'template belongs'} to one`,
          `write type: ${guess}`,
        );
      else if (has('url'))
        explain('type is missing', 'a server that runs elsewhere has type: http and endpoints');
      else if (has('command')) {
        explain(
          'type is missing, and command alone does not tell it',
          'write type: process, or add the image to run it in',
        );
        return 'process';
      } else {
        explain('image, build and type are missing', 'one of them says what to run');
        for (const [key, { keyPlace: place }] of own.entries) {
          if (keysOfServers.includes(key)) continue;
          const { message, hint } = unknownKey(key, keysOfServers, where);
          this.#problems.add(place, where, message, hint);
        }
      }
      return guess;
    }
    if (node.kind === 'scalar' && hasExpression(node)) {
      this.#problems.add(
        node.place,
        [...where, 'type'],
        'found a variable, expected the type itself',
        'the type cannot vary',
      );
      return guess;
    }
    const value = node.kind === 'scalar' ? node.value : undefined;
    const type = types.find((candidate) => candidate === value);
    if (type) return type;
    const word = typeof value === 'string' ? value : '';
    const meant = aliasesOfTypes.get(word) ?? nearest(word, types);
    const found = describeFound(node, [...where, 'type']);
    this.#problems.add(
      node.place,
      [...where, 'type'],
      `found ${found}, expected docker, process, template or http`,
      meant === undefined ? undefined : didYouMean(meant),
    );
    return guess ?? types.find((candidate) => candidate === meant);
  }

  #interpolatedEnabled(server: Located, faults: LocatedFault[]): LocatedScalar | undefined {
    const node = at(server, ['enabled']);
    return node?.kind === 'scalar' ? this.#interpolateScalar(node, faults) : undefined;
  }

  /** For sections that every server depends on: what has no value is an error of the whole. */
  #interpolated(tree: Located, where: Path): Located {
    const faults: LocatedFault[] = [];
    const result = this.#interpolate(tree, faults);
    for (const { place, message, hint } of faults) this.#problems.add(place, where, message, hint);
    return result;
  }

  #interpolate(tree: Located, faults: LocatedFault[]): Located {
    return mapScalars(tree, (scalar) => this.#interpolateScalar(scalar, faults));
  }

  #interpolateScalar(scalar: LocatedScalar, faults: LocatedFault[]): LocatedScalar {
    if (!hasExpression(scalar) || scalar.isText || scalar.unresolved) return scalar;
    const value = scalar.value as string;
    const result = interpolate(value, this.#sources);
    for (const fault of result.faults) {
      const opened = value.slice(0, fault.offset).split('${').length - 1;
      faults.push({ ...fault, place: scalar.expressionPlaces[opened] ?? scalar.place });
    }
    if (result.faults.length > 0) return { ...scalar, variables: result.used, unresolved: true };
    const isText = result.used.length > 0;
    return { ...scalar, value: result.text, source: result.text, variables: result.used, isText };
  }

  /** Reports what is an error of the whole; returns what is the problem of its server alone. */
  #reported(faults: LocatedFault[], where: Path): LocatedFault[] {
    return faults.filter((fault) => {
      if (fault.kind === 'missing' && this.#options.mode === 'start') return true;
      this.#problems.add(fault.place, where, fault.message, fault.hint);
      return false;
    });
  }

  /**
   * Runs a schema and reports every complaint. What was complained about is taken out and the rest is checked again, so
   * that one mistake hides no other; nothing is said about values that are waiting for a variable, nor about what only
   * follows from an earlier complaint. `substitutes` stand in for required keys that are not usable.
   */
  #check<T>(
    subject: Omit<Subject, 'schema'> & { schema: z.ZodType<T> },
    { substitutes = {}, missingAt }: { substitutes?: Record<string, unknown>; missingAt?: Place } = {},
  ): { output: T | undefined; tree: Located } {
    let { tree } = subject;
    const takenOut: Path[] = [];
    for (let round = 0; round < 10; round += 1) {
      const result = subject.schema.safeParse(toPlain(tree));
      if (result.success) return { output: result.data, tree };
      const wrong: Path[] = [];
      let next = tree;
      for (const complaint of explain(result.error.issues, { ...subject, tree })) {
        const { path: where, kind, message, hint } = complaint;
        const node = at(tree, where);
        const value = node && coerced(node, complaint.coercible);
        if (value) {
          next = withAt(next, where, value);
          continue;
        }
        const isWaiting = node?.kind === 'scalar' && node.unresolved;
        if (!isWaiting && !takenOut.some((other) => follows(complaint, other))) {
          const isTop = kind === 'missing' && where.length === 1;
          const place = (isTop ? missingAt : undefined) ?? placeOfComplaint(tree, complaint);
          const isKey = kind === 'key';
          this.#problems.add(
            place,
            [...subject.path, ...(isKey ? where.slice(0, -1) : where)],
            message,
            hint,
          );
        }
        const [key] = where;
        if (where.length === 1 && kind !== 'key' && Object.hasOwn(substitutes, String(key))) {
          next = withAt(next, where, locate(substitutes[String(key)], tree.place));
          takenOut.push(where);
        } else wrong.push(node ? where : where.slice(0, -1));
      }
      // The last entry of a list first, so that the others keep their numbers.
      for (const where of wrong.toSorted((a, b) => comparePaths(b, a))) {
        if (where.length === 0) continue;
        next = withAt(next, where, undefined);
        takenOut.push(where);
      }
      tree = next;
    }
    // Nothing may be left out silently.
    if (this.#problems.isEmpty)
      this.#problems.add(subject.tree.place, subject.path, 'this cannot be used as it stands');
    return { output: undefined, tree };
  }
}

interface LocatedFault extends Fault {
  place: Place;
}

/** What stands in for a required key that cannot be used, so that the rest of the entry can be checked. */
const substitutes: Record<ServerType, Record<string, unknown>> = {
  docker: {},
  process: { command: ['unset'] },
  template: { template: 'npm', config: { package: 'unset' } },
  http: { endpoints: ['http://unset.invalid/'] },
};

/** What other tools call our types. */
const aliasesOfTypes = new Map<string, ServerType>(
  Object.entries({
    container: 'docker',
    image: 'docker',
    local: 'process',
    stdio: 'process',
    npm: 'template',
    npx: 'template',
    pypi: 'template',
    uvx: 'template',
    remote: 'http',
    sse: 'http',
    'streamable-http': 'http',
  } as const),
);

function hasExpression({ value }: LocatedScalar): boolean {
  return typeof value === 'string' && value.includes('${');
}

/** Relative paths inside start where the file stands; the reason of a failure names no content. */
function readSecret(file: string): string {
  try {
    const stat = statSync(file);
    if (!stat.isFile()) throw new Error('it is no regular file');
    if (stat.size > maxSecretBytes) throw new Error(`it has more than ${maxSecretBytes} bytes`);
    return readFileSync(file, 'utf8');
  } catch (error) {
    const code = systemCodeOf(error);
    throw code === undefined ? error : new Error(reasons[code] ?? code);
  }
}

/** Values that become strings anyway, as they are written: `1.10` is not `1.1`. */
function asWritten(entry: Located): Located {
  let tree = entry;
  for (const where of [['env'], ['headers'], ['build', 'args']]) {
    const node = at(tree, where);
    if (node?.kind !== 'map') continue;
    for (const [name, { value }] of node.entries) {
      const isNumberOrBoolean =
        value.kind === 'scalar' && value.value !== null && typeof value.value !== 'string';
      if (isNumberOrBoolean) tree = withAt(tree, [...where, name], { ...value, value: value.source });
    }
  }
  return tree;
}

/** Of every type. */
const keysOfServers = [
  ...new Set(Object.values(serverSchemas).flatMap((schema) => Object.keys(schema.shape))),
];

/** `type` as the entry implies it. */
function typeScalar(type: ServerType, own: LocatedMap, keyPlace: Place): LocatedScalar {
  return { ...textScalar(type, at(own, ['type'])?.place ?? keyPlace), isText: false };
}

function only(map: LocatedMap, keys: string[]): LocatedMap {
  return { ...map, entries: new Map([...map.entries].filter(([key]) => keys.includes(key))) };
}

function explainMisplaced(key: string, type: ServerType, known: string[]): string | undefined {
  if (known.includes(key)) return undefined;
  const others = Object.entries(serverSchemas).filter(([, schema]) => Object.hasOwn(schema.shape, key));
  if (others.length === 0) return undefined;
  return `only servers of type ${others.map(([name]) => name).join(' and ')} have it, and this one is of type ${type}`;
}

function problemOf(missing: LocatedFault[]): ServerProblem {
  const [first] = missing;
  return {
    code: 'variable_missing',
    message: missing.map(({ place, message }) => `${formatPlace(place)}: ${message}`).join('; '),
    hint:
      missing.length === 1
        ? `${first!.hint}; then start the gateway again`
        : 'set them in the environment or in .env beside the file; then start the gateway again',
  };
}

/** A text from outside read as what is expected; undefined when it is not one. */
function coerced(node: Located, to: 'number' | 'boolean' | undefined): LocatedScalar | undefined {
  if (node.kind !== 'scalar' || !node.isText || to === undefined) return undefined;
  const text = String(node.value).trim();
  if (to === 'number' && /^-?\d+(\.\d+)?$/.test(text)) return { ...node, value: Number(text), isText: false };
  if (to === 'boolean' && /^(true|false)$/i.test(text)) {
    return { ...node, value: text.toLowerCase() === 'true', isText: false };
  }
  return undefined;
}

/** Whether a complaint comes only from an earlier one about `other`. */
function follows({ path: where, isRelation }: Complaint, other: Path): boolean {
  const isPrefix = (a: Path, b: Path) => a.every((key, index) => b[index] === key);
  if (isPrefix(where, other) || isPrefix(other, where)) return true;
  return isRelation === true && isPrefix(where.slice(0, -1), other);
}

function comparePaths(a: Path, b: Path): number {
  for (let index = 0; index < Math.min(a.length, b.length); index += 1) {
    const [left, right] = [a[index]!, b[index]!];
    if (left === right) continue;
    if (typeof left === 'number' && typeof right === 'number') return left - right;
    return String(left) < String(right) ? -1 : 1;
  }
  return a.length - b.length;
}

/** A value of ours as if it had been written at `place`. */
function locate(value: unknown, place: Place): Located {
  if (Array.isArray(value)) return { kind: 'list', place, items: value.map((item) => locate(item, place)) };
  if (typeof value === 'object' && value !== null) {
    const entries = Object.entries(value).map(
      ([key, inner]) => [key, { keyPlace: place, value: locate(inner, place) }] as const,
    );
    return { kind: 'map', place, entries: new Map(entries) };
  }
  return { ...textScalar(String(value), place), isText: false };
}
