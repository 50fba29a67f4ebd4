import type { z } from 'zod';
import { GatewayError } from '../base/errors.ts';
import { nearest } from '../base/nearest.ts';
import type { ConfigProblem } from './document.ts';
import { at, formatPlace, type Located, type Path, type Place, placeAt } from './located.ts';

/** A configuration that cannot be used: everything that is wrong with it at once, in the order of the file. */
export class ConfigError extends GatewayError {
  readonly problems: ConfigProblem[];

  constructor(problems: ConfigProblem[]) {
    const sorted = inOrder(problems);
    super('config_invalid', sorted.map(formatProblem).join('\n'));
    this.problems = sorted;
  }
}

/** `file:line:column: message; hint` */
export function formatProblem(problem: ConfigProblem): string {
  const { message, hint } = problem;
  return `${formatPlace(problem)}: ${message}${hint ? `; ${hint}` : ''}`;
}

function inOrder(problems: ConfigProblem[]): ConfigProblem[] {
  const files = [...new Set(problems.map(({ file }) => file))];
  return problems.toSorted(
    (a, b) => files.indexOf(a.file) - files.indexOf(b.file) || a.line - b.line || a.column - b.column,
  );
}

/**
 * Gathers problems. What stands in one place of the file is said once, although several servers may inherit it
 * (`defaults`, an anchor).
 */
export class Problems {
  readonly #list: ConfigProblem[] = [];
  readonly #seen = new Set<string>();

  /** `path` says whose problem it is, the rest what is wrong. */
  add(place: Place, path: Path, message: string, hint?: string): void {
    const { file, line, column } = place;
    const key = JSON.stringify([file, line, column, message]);
    if (this.#seen.has(key)) return;
    this.#seen.add(key);
    const subject = path.length > 0 ? `${formatPath(path)}: ` : '';
    this.#list.push({ file, line, column, message: `${subject}${message}`, ...(hint ? { hint } : {}) });
  }

  addAll(problems: ConfigProblem[]): void {
    for (const { message, hint, ...place } of problems) this.add(place, [], message, hint);
  }

  get isEmpty(): boolean {
    return this.#list.length === 0;
  }

  /** In the order of the file. */
  list(): ConfigProblem[] {
    return inOrder(this.#list);
  }
}

/** `servers.context7.volumes[0]` */
export function formatPath(path: Path): string {
  let text = '';
  for (const key of path) {
    if (typeof key === 'number') text += `[${key}]`;
    else
      text += `${text ? '.' : ''}${/^[\w$-]+$/.test(String(key)) ? String(key) : JSON.stringify(String(key))}`;
  }
  return text;
}

/** A hint that proposes another word. */
export const didYouMean = (word: string) => `did you mean ${JSON.stringify(word)}?`;

/** Keys whose values may be secrets even where they are written out. */
const secretKeys = new Set<PropertyKey>(['env', 'headers', 'args', 'endpoints', 'proxy']);

const isHidden = (path: Path) => path.some((key) => secretKeys.has(key));

/** What a user reads for the value that was found; never a secret. */
export function describeFound(node: Located, path: Path): string {
  if (node.kind !== 'scalar') return node.kind === 'map' ? 'a map' : 'a list';
  if (node.variables.length > 0) return `the value of ${node.variables.join(' and ')}`;
  if (node.value === null) return 'nothing';
  if (isHidden(path)) return typeof node.value === 'string' ? 'a string' : `a ${typeof node.value}`;
  if (typeof node.value !== 'string') return node.source;
  return JSON.stringify(node.value.length > 60 ? `${node.value.slice(0, 57)}…` : node.value);
}

type Issue = z.core.$ZodIssue;

/** What one of a schema's complaints comes to. */
export interface Complaint {
  path: Path;
  kind: 'value' | 'key' | 'missing';
  /** What a text from outside would have to be read as to fit. */
  coercible?: 'number' | 'boolean';
  /** It is about several values together. */
  isRelation?: boolean;
  message: string;
  hint?: string;
}

/** What the issues are about. */
export interface Subject {
  tree: Located;
  schema: z.ZodType;
  /** Where the tree stands in the document. */
  path: Path;
  /** Why a key that is known elsewhere is not known here. */
  explainKey?(key: string): string | undefined;
}

/** Says a schema's issues as sentences. */
export function explain(issues: readonly Issue[], subject: Subject, prefix: Path = []): Complaint[] {
  return issues.flatMap((issue) => explainOne(issue, subject, prefix));
}

function explainOne(issue: Issue, subject: Subject, prefix: Path): Complaint[] {
  const path = [...prefix, ...issue.path];
  const node = at(subject.tree, path);
  const fullPath = [...subject.path, ...path];
  if (issue.code === 'unrecognized_keys') {
    const keys = keysAt(subject.schema, path);
    const say = (key: string) =>
      (path.length === 0 && misplacedKey(key, subject)) || unknownKey(key, keys, fullPath);
    return issue.keys.map((key) => ({ path: [...path, key], kind: 'key', ...say(key) }));
  }
  if (!node) return [{ path, kind: 'missing', message: `is missing, expected ${expectation(issue)}` }];
  if (issue.code === 'invalid_key') {
    const reason = issue.issues[0]?.message.replace(/^expected /, '') ?? 'another name';
    return [{ path, kind: 'key', message: `found this name, expected ${reason}` }];
  }
  if (issue.code === 'invalid_union' && !issue.message.startsWith('expected ')) {
    const fitting = issue.errors.filter((branch) => !branch.some(isWrongKind));
    if (fitting.length === 1) {
      return explain(fitting[0]!, subject, path);
    }
  }
  const found = describeFound(node, fullPath);
  return [
    {
      path,
      kind: 'value',
      coercible: coercibleTo(issue),
      isRelation: issue.code === 'custom',
      message: `found ${found}, expected ${expectation(issue)}`,
      hint: hintFor(issue, node, path),
    },
  ];
}

/** The branch of a union was not meant: the value is of another kind altogether. */
function isWrongKind(issue: Issue): boolean {
  return issue.code === 'invalid_type' && issue.path.length === 0;
}

function coercibleTo(issue: Issue): 'number' | 'boolean' | undefined {
  if (issue.code !== 'invalid_type') return undefined;
  if (issue.expected === 'number' || issue.expected === 'int') return 'number';
  return issue.expected === 'boolean' ? 'boolean' : undefined;
}

const kinds: Record<string, string> = {
  string: 'a string',
  number: 'a number',
  int: 'a whole number',
  boolean: 'true or false',
  array: 'a list',
  object: 'a map',
  record: 'a map of names and values',
};

function expectation(issue: Issue): string {
  if (issue.message.startsWith('expected ')) return issue.message.slice('expected '.length);
  switch (issue.code) {
    case 'invalid_type':
      return kinds[issue.expected] ?? issue.expected;
    case 'invalid_value':
      return oneOf(issue.values.map(String));
    case 'invalid_union':
      return oneOf(
        issue.errors.map((branch) => {
          const [first] = branch;
          return first ? expectation(first) : 'something else';
        }),
      );
    case 'too_small':
      if (issue.origin === 'string') return 'some text';
      if (issue.origin === 'array') return 'at least one entry';
      return issue.inclusive ? `${issue.minimum} or more` : `more than ${issue.minimum}`;
    case 'too_big':
      return `${issue.maximum} or less`;
    case 'invalid_format':
      return issue.format === 'url' ? 'a URL that starts with http:// or https://' : issue.message;
    default:
      return issue.message;
  }
}

function oneOf(words: string[]): string {
  return words.length > 1 ? `${words.slice(0, -1).join(', ')} or ${words.at(-1)}` : words.join('');
}

function hintFor(issue: Issue, node: Located, path: Path): string | undefined {
  if (node.kind === 'scalar' && node.variables.length > 0) return undefined;
  if (issue.code === 'invalid_value' && node.kind === 'scalar') {
    if (path.at(-1) === 'isolation' && node.value === 'principal')
      return 'principal is reserved for a later version';
    const near = nearest(String(node.value), issue.values.map(String));
    return near === undefined ? undefined : didYouMean(near);
  }
  if (issue.code === 'invalid_type') return hintForKind(issue.expected, node, path);
  const isEmpty = node.kind === 'scalar' && node.value === null;
  if (issue.code === 'invalid_union' && path.at(-2) === 'env' && isEmpty) {
    return `write "" for an empty value, or "\${${String(path.at(-1))}}" to pass on the gateway's own`;
  }
  return undefined;
}

function hintForKind(expected: string, node: Located, path: Path): string | undefined {
  if (expected === 'record') return node.kind === 'list' ? 'write NAME: value' : undefined;
  if (node.kind !== 'scalar' || node.value === null || isHidden(path)) return undefined;
  if (expected === 'string') return `put it in quotes: ${JSON.stringify(node.source)}`;
  if (expected !== 'array' || typeof node.value !== 'string' || node.value.includes('"')) return undefined;
  return `write it as a list: [${node.value.trim().split(/\s+/).map(listItem).join(', ')}]`;
}

/** A word as it may stand in a YAML list. */
function listItem(word: string): string {
  return /^[\w./-][\w./:@-]*$/.test(word) ? word : JSON.stringify(word);
}

/** What other tools call our keys. */
const synonyms = new Map(
  Object.entries({
    args: 'command',
    cmd: 'command',
    cpu: 'limits.cpus',
    cpus: 'limits.cpus',
    cwd: 'working_dir',
    disabled: 'enabled: false',
    env_vars: 'env',
    environment: 'env',
    health_check_interval: 'health_check.interval',
    instances: 'pool.max',
    mem_limit: 'limits.memory',
    memory: 'limits.memory',
    mounts: 'volumes',
    package: 'config.package',
    pids_limit: 'limits.pids',
    pool_size: 'pool.max',
    reload_registry: 'reload',
    replicas: 'pool.max',
    template_name: 'template',
    timeout: 'timeouts.call',
    uri: 'endpoints',
    url: 'endpoints',
    workdir: 'working_dir',
  }),
);

const noHostAccess = 'it would open the host to the server';

/** What cannot be had, and why. */
const refusedKeys = new Map(
  Object.entries({
    privileged: noHostAccess,
    pid: noHostAccess,
    ipc: noHostAccess,
    uts: noHostAccess,
    userns_mode: noHostAccess,
    cgroup: noHostAccess,
    cgroup_parent: noHostAccess,
    devices: noHostAccess,
    device_cgroup_rules: noHostAccess,
    security_opt: 'every container runs with no-new-privileges and the seccomp profile of the engine',
    cap_drop: 'all capabilities are dropped; cap_add names the exceptions',
    ports: 'no ports are published; the gateway talks to the server over stdin and stdout',
    expose: 'no ports are published; the gateway talks to the server over stdin and stdout',
    network_mode: '`network` takes none or the name of a network; the host’s network is not for servers',
    restart: 'servers are started when they are called',
    env_file: 'name each variable in `env`; ${NAME} reads .env beside the file',
  }),
);

function misplacedKey(key: string, subject: Subject): { message: string; hint: string } | undefined {
  const reason = subject.explainKey?.(key);
  return reason === undefined
    ? undefined
    : { message: `found the key ${JSON.stringify(key)}: ${reason}`, hint: 'remove it' };
}

/** What to say of a key that nothing knows; `path`: of the map that has it, `keys`: those that are possible there. */
export function unknownKey(key: string, keys: string[], path: Path): { message: string; hint: string } {
  const name = JSON.stringify(key);
  const isServer = path[0] === 'servers' || path[0] === 'defaults';
  const within = path[0] === 'servers' ? path.slice(2) : path;
  const owner = path.length === 0 ? 'the document' : within.length === 0 ? 'a server' : formatPath(within);
  const refusal = isServer ? refusedKeys.get(key) : undefined;
  if (refusal) return { message: `the key ${name} is refused: ${refusal}`, hint: 'remove it' };
  const near = nearest(key, keys);
  const synonym = synonyms.get(key);
  const known = synonym !== undefined && keys.includes(synonym.split(/[.:]/)[0]!) ? synonym : undefined;
  const meant = known ?? near;
  return {
    message: `found the unknown key ${name}, expected a key of ${owner}`,
    hint: meant === undefined ? `known keys: ${keys.join(', ')}` : didYouMean(meant),
  };
}

/** The keys that a schema's object knows at a path; empty when there is none. */
export function keysAt(schema: z.ZodType, path: Path): string[] {
  const open = (inner: z.ZodType): z.ZodType[] => {
    const { def } = inner._zod as unknown as { def: Record<string, unknown> & { type: string } };
    if (def.innerType) return open(def.innerType as z.ZodType);
    if (def.type === 'pipe') return open(def.in as z.ZodType);
    if (def.type === 'union') return (def.options as z.ZodType[]).flatMap(open);
    return [inner];
  };
  let here = open(schema);
  for (const key of path) {
    here = here.flatMap((inner) => {
      const { def } = inner._zod as unknown as { def: Record<string, unknown> & { type: string } };
      if (def.type === 'object') {
        const child = (def.shape as Record<string, z.ZodType>)[String(key)];
        return child ? open(child) : [];
      }
      if (def.type === 'record') return open(def.valueType as z.ZodType);
      if (def.type === 'array') return open(def.element as z.ZodType);
      return [];
    });
  }
  return here.flatMap((inner) => {
    const { def } = inner._zod as unknown as { def: { type: string; shape?: Record<string, unknown> } };
    return def.type === 'object' ? Object.keys(def.shape ?? {}) : [];
  });
}

/** Where a complaint points: at the key when that is what is wrong, else at the value. */
export function placeOfComplaint(tree: Located, { path, kind }: Complaint): Place {
  return placeAt(tree, path, kind === 'value' ? 'value' : 'key');
}
