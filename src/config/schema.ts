import { z } from 'zod';

/*
 * What a user may write in servers.yaml: types, defaults and documentation in one place. The JSON schema and the reference
 * page are generated from it. Parsing turns the file's snake_case and human units into the camelCase and
 * milliseconds or bytes that the code works with.
 */

const durationUnitsMs: Record<string, number> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 };
const sizeUnits: Record<string, number> = { '': 1, b: 1, k: 1024, m: 1024 ** 2, g: 1024 ** 3, t: 1024 ** 4 };

/** `300`, `"300"`, `300s`, `5m`, `500ms` as milliseconds; undefined when it is none of these. Plain numbers are seconds. */
export function parseDurationMs(value: string | number): number | undefined {
  const match = /^(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?$/.exec(String(value).trim());
  return match ? Math.round(Number(match[1]) * durationUnitsMs[match[2] ?? 's']!) : undefined;
}

/** `512m`, `1g`, `64MiB`, `4096` as bytes; undefined when it is none of these. */
export function parseSizeBytes(value: string | number): number | undefined {
  const match = /^(\d+(?:\.\d+)?)\s*([bkmgt]?)(?:i?b)?$/i.exec(String(value).trim());
  return match ? Math.round(Number(match[1]) * sizeUnits[match[2]!.toLowerCase()]!) : undefined;
}

const durationPattern = String.raw`^\s*\d+(\.\d+)?\s*(ms|s|m|h|d)?\s*$`;
const sizePattern = String.raw`^\s*\d+(\.\d+)?\s*[bBkKmMgGtT]?([iI]?[bB])?\s*$`;

/** A number or a string with a unit. `pattern` tells editors what `parse` takes. */
const quantity = (
  kind: string,
  parse: (value: string | number) => number | undefined,
  expected: string,
  pattern: string,
) =>
  z
    .union([z.number(), z.string()], { error: `expected ${expected}` })
    .transform((value, context) => {
      const parsed = parse(value);
      if (parsed !== undefined) return parsed;
      context.addIssue({ code: 'custom', message: `expected ${expected}` });
      return z.NEVER;
    })
    .meta({ kind, pattern });

/** A duration, or a word that stands for one that never passes. */
const durationOr = (word: string) =>
  quantity(
    `duration or ${word}`,
    (value) => (value === word ? Number.POSITIVE_INFINITY : parseDurationMs(value)),
    `a duration such as 300, 300s or 5m, or ${word}`,
    `${durationPattern}|^${word}$`,
  );

const duration = () =>
  quantity('duration', parseDurationMs, 'a duration such as 300, 300s or 5m', durationPattern);
const size = () => quantity('size', parseSizeBytes, 'a size such as 512m or 1g', sizePattern);

/** For limits that nothing could keep to if they were 0. */
const someDuration = () =>
  quantity(
    'duration',
    (value) => parseDurationMs(value) || undefined,
    'a duration above 0, such as 300, 300s or 5m',
    durationPattern,
  );
const someSize = () =>
  quantity(
    'size',
    (value) => parseSizeBytes(value) || undefined,
    'a size above 0, such as 512m or 1g',
    sizePattern,
  );
const text = () => z.string().min(1);

/**
 * The grammar of the engines: `[registry[:port]/]name[/name…][:tag][@digest]`, lower case but for the tag; or a variable,
 * which stays as it is in a disabled server.
 */
const imageReference =
  /^(?:[A-Za-z0-9.-]+(?::\d+)?\/|\[[0-9A-Fa-f:]+\](?::\d+)?\/)?[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:\/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*(?::\w[\w.-]{0,127})?(?:@[A-Za-z0-9+._-]+:[0-9A-Fa-f]{32,})?$|\$\{/;
const count = (min: number) => z.int().min(min);
const command = () => z.array(z.string()).min(1);

/** Values of `env`, `headers` and `args`: YAML scalars, which all become strings. */
const scalars = () =>
  z.record(
    z.string().regex(/^[^=\0]+$/, { error: 'expected a name without =' }),
    z
      .union([z.string(), z.number(), z.boolean()], { error: 'expected a string, a number or a boolean' })
      .transform(String),
  );

/** A server's name, also its URL segment and container name. */
export const serverNamePattern = /^[a-z0-9][a-z0-9-]*$/;

/** Names that are routes of the gateway and so cannot be servers. */
export const reservedNames: readonly string[] = (
  'mcp sse messages servers health metrics events docs dashboard api config reload backup restore token login oauth ' +
  'callback admin assets static'
).split(' ');

const toolsSchema = z
  .union([
    z.array(z.string()),
    z.strictObject({
      allow: z.array(z.string()).optional().meta({ description: 'Native names to expose; without it, all.' }),
      deny: z.array(z.string()).default([]).meta({ description: 'Native names to hide.' }),
      rename: z
        .record(z.string(), z.string())
        .default({})
        .meta({ description: 'Native name: exposed name.' }),
      describe: z
        .record(z.string(), z.string())
        .default({})
        .meta({ description: 'Native name: a description in place of the server’s own.' }),
    }),
  ])
  .transform((tools) =>
    Array.isArray(tools) ? { allow: tools, deny: [], rename: {}, describe: {} } : tools,
  );

/** A pattern for a word in any case; JSON schema knows no flags. */
const anyCase = (word: string) => word.replace(/[a-z]/g, (letter) => `[${letter}${letter.toUpperCase()}]`);

const logLevels = ['error', 'warn', 'info', 'debug'] as const;

const capabilities = ['sampling', 'elicitation', 'roots'] as const;

const limitsSchema = z
  .strictObject({
    memory: someSize().prefault('512m').meta({ description: 'Memory, without swap.' }),
    cpus: z.number().positive().default(1).meta({ description: 'CPUs.' }),
    pids: count(1).default(128).meta({ description: 'Processes and threads.' }),
  })
  .transform(({ memory, cpus, pids }) => ({ memoryBytes: memory, cpus, pids }));

const poolKeys = z.strictObject({
  min: count(0).default(0).meta({ description: 'Instances kept running.' }),
  max: count(1)
    .default(1)
    .meta({ description: 'Instances at most; above 1 declares that copies may run side by side.' }),
  standby: count(0).default(0).meta({
    description:
      'Spares, started and frozen, that a call takes which finds no instance ready. They are beyond `max` and work for nobody; one that is taken counts.',
  }),
});

const poolSchema = poolKeys.refine(({ min, max }) => min <= max, {
  path: ['min'],
  error: 'expected at most pool.max',
});

const timeoutsSchema = z
  .strictObject({
    start: someDuration().prefault('30s').meta({ description: 'From create to running.' }),
    build: someDuration().prefault('600s').meta({ description: 'A pull or a build.' }),
    handshake: someDuration()
      .prefault('10s')
      .meta({ description: 'From running to the answer of initialize.' }),
    call: someDuration()
      .prefault('300s')
      .meta({ description: 'A call without progress, counted from its write.' }),
    client: someDuration()
      .prefault('300s')
      .meta({ description: 'A question to the client; then it is declined.' }),
    queue: someDuration().prefault('60s').meta({ description: 'Waiting for a free instance.' }),
    stop: duration().prefault('10s').meta({ description: 'From asking an instance to end to forcing it.' }),
  })
  .transform((t) => ({
    startMs: t.start,
    buildMs: t.build,
    handshakeMs: t.handshake,
    callMs: t.call,
    clientMs: t.client,
    queueMs: t.queue,
    stopMs: t.stop,
  }));

const common = {
  description: z.string().optional().meta({ description: 'Shown in /servers and the dashboard.' }),
  enabled: z
    .boolean()
    .default(true)
    .meta({ description: 'false: listed, never started, its variables not read.' }),
  env: scalars()
    .default({})
    .meta({ description: 'The server’s environment, names and values; it gets no other variables.' }),
  idle_timeout: durationOr('never')
    .optional()
    .meta({ description: 'Stop after this long without a call; gateway.default_idle_timeout unless set.' }),
  pause_after: durationOr('off')
    .optional()
    .meta({ description: 'Freeze after this long without a call, before it is stopped; off unless set.' }),
  tools: toolsSchema.prefault({}).meta({
    description:
      'Native names to expose (an allow-list), or `allow`, `deny`, `rename`, `describe`; all unless set.',
  }),
  prefix: z
    .string()
    .regex(/^[A-Za-z0-9_.-]*$/, { error: 'expected letters, digits, _, - or . (or "" for bare names)' })
    .optional()
    .meta({ description: 'Of exposed names, `<prefix>__<name>`; the server’s name unless set.' }),
  isolation: z.enum(['shared', 'session']).optional().meta({
    description:
      'shared unless stateful or interactive; session: an instance for each client session. Clients of 2026-07-28 have no session: each name in the header Mcp-Gateway-Client has an instance, those without one share theirs.',
  }),
  stateful: z
    .boolean()
    .default(false)
    .meta({ description: 'Its memory matters: no idle stop while its session lives.' }),
  interactive: z
    .boolean()
    .optional()
    .meta({ description: 'It asks the client (sampling, elicitation); learnt unless set.' }),
  client_capabilities: z
    .array(z.enum(capabilities))
    .optional()
    .meta({ description: 'What the server is told that its client can do.' }),
  pool: poolSchema.prefault({}).meta({ description: 'How many instances share the calls.' }),
  concurrency: count(1).default(8).meta({ description: 'Calls in flight on one instance.' }),
  load_balancing: z
    .enum(['least_connections', 'round_robin', 'random'])
    .default('least_connections')
    .meta({ description: 'Which instance of its pool takes a call.' }),
  timeouts: timeoutsSchema.prefault({}).meta({ description: 'How long each step may take.' }),
  health_check: z
    .strictObject({
      interval: duration()
        .prefault('30s')
        .meta({ description: 'Between two pings of an instance without calls.' }),
      path: z.string().optional().meta({ description: 'For http servers.' }),
    })
    .transform(({ interval, path }) => ({ intervalMs: interval, path }))
    .prefault({})
    .meta({ description: 'How instances are asked whether they are well.' }),
  retry: z.enum(['never', 'annotated']).default('never').meta({
    description: 'annotated: replay a tool that is read-only or idempotent when its instance dies.',
  }),
};

const container = {
  entrypoint: command().optional().meta({ description: 'Replaces the image’s ENTRYPOINT.' }),
  volumes: z
    .array(z.string())
    .default([])
    .meta({ description: '`./folder:/path[:ro]` binds a folder that exists, `name:/path` a named volume.' }),
  limits: limitsSchema.prefault({}).meta({ description: 'What one instance may use.' }),
  network: text().default('mcp-network').meta({ description: '`none`, or an existing network by name.' }),
  user: z
    .union([z.string(), z.int()])
    .transform(String)
    .prefault('auto')
    .meta({ description: 'auto: owner of a writable bind mount, else the image’s user, else 65534.' }),
  read_only: z.boolean().default(true).meta({ description: 'A read-only root file system.' }),
  fallback: z
    .literal('process')
    .optional()
    .meta({ description: 'Run as a plain process where `start --fallback` finds no engine.' }),
  pull: z
    .enum(['missing', 'always', 'daily', 'never'])
    .default('missing')
    .meta({ description: 'When the image is pulled.' }),
  platform: z.string().optional().meta({ description: '`linux/amd64`, `linux/arm64`.' }),
  init: z.boolean().default(false).meta({ description: 'Run a tiny init as process 1.' }),
  tmpfs: z.array(z.string()).default([]).meta({ description: '`/path[:options]` beside /tmp.' }),
  shm_size: size().optional().meta({ description: 'Size of /dev/shm; the engine’s default unless set.' }),
  extra_hosts: z.array(z.string()).default([]).meta({ description: '`name:address`.' }),
  dns: z.array(z.string()).default([]).meta({ description: 'Addresses of DNS servers.' }),
  cap_add: z
    .array(z.string())
    .default([])
    .meta({ description: 'Capabilities; all are dropped unless named.' }),
  logs: z.enum(['on', 'off']).default('on').meta({ description: 'off: nothing of it in docker logs.' }),
  runtime: z.string().optional().meta({ description: 'An OCI runtime that the engine knows.' }),
  sandbox: z.enum(['keep']).optional().meta({
    description:
      'keep: its network outlives its container by up to an hour, so that the next start need not make one. For one instance at a time.',
  }),
};

const buildSchema = z
  .union([
    text(),
    z.strictObject({
      context: text().meta({ description: 'The folder; starts at the folder of servers.yaml.' }),
      dockerfile: text().default('Dockerfile').meta({ description: 'Its Dockerfile, inside that folder.' }),
      args: scalars().default({}).meta({ description: 'Values of the Dockerfile’s ARGs.' }),
    }),
  ])
  .transform((build) =>
    typeof build === 'string'
      ? { context: build, dockerfile: 'Dockerfile', args: {} as Record<string, string> }
      : build,
  );

/** An entry of type docker, as written. */
export const dockerServerSchema = z.strictObject({
  type: z.literal('docker').default('docker').meta({ description: 'Implied by `image` or `build`.' }),
  image: z
    .string()
    .regex(imageReference, { error: 'expected an image such as node:26 or ghcr.io/owner/name:1.2' })
    .optional()
    .meta({ description: 'The image to run; built from `build` when it is missing.' }),
  build: buildSchema.optional().meta({
    description: 'Folder with a Dockerfile; built when the image is missing or the sources changed.',
  }),
  command: command().optional().meta({ description: 'Arguments after the image’s ENTRYPOINT.' }),
  working_dir: text().optional().meta({ description: 'Inside the container; the image’s own unless set.' }),
  compile_cache: z.boolean().default(false).meta({
    description:
      'For programs of Node: run once, without its variables and without a network, to bake what Node compiles into a layer on top of the image.',
  }),
  ...common,
  ...container,
});

/** An entry of type process, as written. */
export const processServerSchema = z.strictObject({
  type: z.literal('process').meta({ description: 'A plain process of this machine, without a sandbox.' }),
  command: command().meta({ description: 'The program and its arguments.' }),
  working_dir: text().default('.').meta({ description: 'Starts at the folder of servers.yaml.' }),
  ...common,
});

/** An entry of type template, as written. */
export const templateServerSchema = z.strictObject({
  type: z
    .literal('template')
    .meta({ description: 'A package of a registry, installed into an image of its own.' }),
  template: z.enum(['npm', 'pypi']).meta({ description: 'Which registry.' }),
  config: z
    .strictObject({
      package: text().meta({ description: 'The package’s name in its registry.' }),
      version: text()
        .optional()
        .meta({ description: 'Pinned; without it the newest, resolved once and kept in state_dir.' }),
      bin: text().optional().meta({ description: 'Which of the package’s commands, where it has several.' }),
    })
    .meta({ description: 'What to install.' }),
  command: command().optional().meta({ description: 'Arguments for the package’s command.' }),
  working_dir: text().optional().meta({ description: 'Inside the container.' }),
  ...common,
  ...container,
});

/** An entry of type http, as written. */
export const httpServerSchema = z.strictObject({
  type: z.literal('http').meta({ description: 'A server that runs elsewhere.' }),
  endpoints: z
    .array(z.url({ protocol: /^https?$/ }))
    .min(1)
    .meta({ description: 'Its MCP URLs.' }),
  headers: scalars().default({}).meta({ description: 'Sent with every request to it.' }),
  proxy: z
    .strictObject({ paths: z.array(z.string()).meta({ description: 'Paths to pass on.' }) })
    .optional()
    .meta({ description: 'Plain HTTP paths that are passed on to it.' }),
  ...common,
});

export const serverSchemas = {
  docker: dockerServerSchema,
  process: processServerSchema,
  template: templateServerSchema,
  http: httpServerSchema,
} as const;

/** The `defaults:` section, as written: what is merged into each server whose type knows the key. */
export const defaultsSchema = z.strictObject({
  ...common,
  ...container,
  // min and max may come from different places; their order is checked where they meet.
  pool: poolKeys.prefault({}).meta({ description: 'How many instances share the calls.' }),
});

/** The `gateway:` section, as written. */
export const gatewaySchema = z
  .strictObject({
    host: text().default('127.0.0.1').meta({ description: 'Address to bind. Environment: GATEWAY_HOST.' }),
    port: z
      .int()
      .min(0)
      .max(65535)
      .default(8000)
      .meta({ description: 'Port to bind. Environment: GATEWAY_PORT.' }),
    log_level: z
      .string()
      .meta({
        kind: logLevels.map((level) => `\`${level}\``).join(', '),
        pattern: `^(?:${logLevels.map(anyCase).join('|')})$`,
      })
      .transform((level) => level.toLowerCase())
      .pipe(z.enum(logLevels))
      .prefault('info')
      .meta({ description: 'In any case. Environment: LOG_LEVEL.' }),
    default_idle_timeout: durationOr('never').prefault('300s').meta({
      description: 'Stop an instance after this long without a call. Environment: DEFAULT_IDLE_TIMEOUT.',
    }),
    state_dir: text().default('./state').meta({
      description:
        'Gateway id and lock, catalog, sessions, keys, stderr of stopped instances. Environment: GATEWAY_STATE_DIR.',
    }),
    max_instances: count(1).default(50).meta({
      description:
        'Of all servers together, spares included. Beyond it spares go first, then what was idle for longest; calls wait.',
    }),
    max_memory: someSize().optional().meta({
      description:
        'Of all instances together, as measured, or their `limits.memory` until then; the same happens beyond it. Off unless set.',
    }),
    standby_memory: size().prefault('1g').meta({
      description: 'Of all spares together; servers that were needed last have theirs first.',
    }),
    reload: z.boolean().default(true).meta({ description: 'Take up changes of servers.yaml while running.' }),
    max_name_length: z.int().min(16).max(128).default(46).meta({ description: 'Of exposed names.' }),
    max_body: someSize().prefault('4m').meta({ description: 'Of a request.' }),
    max_message: someSize().prefault('64m').meta({ description: 'One line from a server.' }),
    max_queue: count(1).default(2000).meta({ description: 'Calls waiting, per server.' }),
    max_sessions: count(1).default(10_000).meta({ description: 'Client sessions at the same time.' }),
    session_timeout: someDuration()
      .prefault('30m')
      .meta({ description: 'After its last request, with no stream open.' }),
    parallel_starts: count(1).default(4).meta({ description: 'Instances that start at the same time.' }),
    drain_timeout: duration()
      .prefault('30s')
      .meta({ description: 'For the calls in flight, when the gateway is told to end.' }),
    allowed_hosts: z
      .array(z.string())
      .default([])
      .meta({ description: 'Host headers beside localhost, 127.0.0.1 and [::1]; ports are not compared.' }),
    allowed_origins: z
      .array(z.string())
      .default([])
      .meta({ description: 'Origins that browsers may call from.' }),
    allow_unsafe: z
      .boolean()
      .default(false)
      .meta({ description: 'Permit what is refused outright otherwise.' }),
    discover_labels: z
      .boolean()
      .default(false)
      .meta({ description: 'Take up containers and images labelled mcp-gateway.enable=true.' }),
    proxy: text().optional().meta({ description: 'HTTP proxy, given to every container.' }),
    ca_certificates: text().optional().meta({ description: 'PEM file, given to every container.' }),
  })
  .transform((g) => ({
    host: g.host,
    port: g.port,
    logLevel: g.log_level,
    defaultIdleTimeoutMs: g.default_idle_timeout,
    stateDir: g.state_dir,
    maxInstances: g.max_instances,
    maxMemoryBytes: g.max_memory,
    standbyMemoryBytes: g.standby_memory,
    reload: g.reload,
    maxNameLength: g.max_name_length,
    maxBodyBytes: g.max_body,
    maxMessageBytes: g.max_message,
    maxQueue: g.max_queue,
    maxSessions: g.max_sessions,
    sessionTimeoutMs: g.session_timeout,
    parallelStarts: g.parallel_starts,
    drainTimeoutMs: g.drain_timeout,
    allowedHosts: g.allowed_hosts,
    allowedOrigins: g.allowed_origins,
    allowUnsafe: g.allow_unsafe,
    proxy: g.proxy,
    caCertificates: g.ca_certificates,
  }));

/** Names of top-level keys that are free: a place for anchors. */
export const extensionPattern = /^x-/;

/**
 * Keys that are taken, because the file's format is settled, and not acted on yet; `unless` is the value that asks for
 * nothing. Loading warns of them and the reference says so.
 */
export const withoutEffect: readonly { section: 'gateway' | 'servers'; key: string; unless?: unknown }[] = [
  { section: 'gateway', key: 'discover_labels', unless: false },
  { section: 'gateway', key: 'reload', unless: false },
  { section: 'servers', key: 'health_check.path' },
  { section: 'servers', key: 'retry', unless: 'never' },
  { section: 'servers', key: 'proxy' },
];

/** The whole document, as written. Only for what is generated: loading checks section by section. */
export const documentSchema = z.strictObject({
  $schema: z.string().optional().meta({ description: 'Where editors find the schema of a JSON file.' }),
  gateway: gatewaySchema.optional().meta({ description: 'The gateway itself.' }),
  defaults: defaultsSchema.optional().meta({
    description: 'Merged into each server whose type knows the key: maps deep, the server’s own wins.',
  }),
  servers: z
    .record(
      z.string().regex(serverNamePattern),
      z.union([dockerServerSchema, templateServerSchema, processServerSchema, httpServerSchema]),
    )
    .meta({ description: 'The servers by name.' }),
});

export type GatewayConfig = z.output<typeof gatewaySchema>;
export type ServerType = keyof typeof serverSchemas;
export type Timeouts = z.output<typeof timeoutsSchema>;
export type Pool = z.output<typeof poolSchema>;
export type Limits = z.output<typeof limitsSchema>;
export type ClientCapability = (typeof capabilities)[number];

/** What every server has, whatever runs it. Durations are milliseconds; Infinity means never. */
export interface CommonServer {
  name: string;
  description: string | undefined;
  enabled: boolean;
  /** Why this server alone cannot start (a missing variable, with its position); its calls fail with it. */
  problem: ServerProblem | undefined;
  env: Record<string, string>;
  idleTimeoutMs: number;
  /** Infinity: never. */
  pauseAfterMs: number;
  tools: {
    allow: string[] | undefined;
    deny: string[];
    rename: Record<string, string>;
    describe: Record<string, string>;
  };
  /** undefined: the server's name. */
  prefix: string | undefined;
  isolation: 'shared' | 'session';
  stateful: boolean;
  /** undefined: learnt. */
  interactive: boolean | undefined;
  clientCapabilities: ClientCapability[];
  pool: Pool;
  concurrency: number;
  loadBalancing: 'least_connections' | 'round_robin' | 'random';
  timeouts: Timeouts;
  healthCheck: { intervalMs: number; path: string | undefined };
  retry: 'never' | 'annotated';
}

export interface ServerProblem {
  code: 'variable_missing' | 'config_invalid';
  message: string;
  hint: string;
}

/** A bind mount or a named volume of a container. */
export type Volume =
  /** `source` is an absolute path as the gateway itself sees it. */
  | { kind: 'bind'; source: string; target: string; readOnly: boolean }
  | { kind: 'volume'; source: string; target: string; readOnly: boolean };

/** What every server that runs in a container has. */
export interface ContainerServer extends CommonServer {
  command: string[] | undefined;
  entrypoint: string[] | undefined;
  workingDir: string | undefined;
  volumes: Volume[];
  limits: Limits;
  network: string;
  user: string;
  readOnly: boolean;
  fallback: 'process' | undefined;
  pull: 'missing' | 'always' | 'daily' | 'never';
  platform: string | undefined;
  init: boolean;
  tmpfs: string[];
  shmSizeBytes: number | undefined;
  extraHosts: string[];
  dns: string[];
  capAdd: string[];
  logs: 'on' | 'off';
  ociRuntime: string | undefined;
  /** Keep the network for the next run. */
  sandbox: 'keep' | undefined;
}

export interface DockerServer extends ContainerServer {
  type: 'docker';
  /** At least one of image and build is there. */
  image: string | undefined;
  /** `context` is an absolute path. */
  build: { context: string; dockerfile: string; args: Record<string, string> } | undefined;
  compileCache: boolean;
}

export interface TemplateServer extends ContainerServer {
  type: 'template';
  template: 'npm' | 'pypi';
  package: string;
  /** undefined: the newest, resolved once and kept. */
  version: string | undefined;
  bin: string | undefined;
}

export interface ProcessServer extends CommonServer {
  type: 'process';
  command: string[];
  /** Absolute. */
  workingDir: string;
}

export interface HttpServer extends CommonServer {
  type: 'http';
  endpoints: string[];
  headers: Record<string, string>;
}

export type ServerConfig = DockerServer | TemplateServer | ProcessServer | HttpServer;

/** A whole configuration, validated, interpolated and with absolute paths. */
export interface Config {
  /** Absolute path of the file that it came from. */
  file: string;
  gateway: GatewayConfig;
  servers: Map<string, ServerConfig>;
  /** What works but deserves a look, one sentence each, with position. */
  warnings: string[];
}
