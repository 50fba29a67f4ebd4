import type { ServerName, Settings, Setup, Wish } from './schedule.ts';

// biome-ignore lint/suspicious/noExplicitAny: a test reads whatever came
type Any = any;

/** A server that takes part. */
export interface Role {
  /** The fixture's program, without `.mjs`. */
  program: string;
  /** What it can do of what clients wish, beside its simplest tool. */
  can: readonly Wish['kind'][];
  simplest: 'echo' | 'ok';
  /** It never works. */
  isHopeless?: boolean;
  /** What is set for it whatever is drawn. */
  fixed?: Record<string, unknown>;
}

const everything = ['echo', 'read', 'sleep', 'progress', 'log', 'big'] as const;

/** Who takes part: some that work, among them rude ones, and some that ruin themselves on order or never work. */
export const cast: Record<ServerName, Role> = {
  plain: { program: 'everything', can: everything, simplest: 'echo' },
  modern: {
    program: 'everything',
    can: [...everything, 'ask', 'sample'],
    simplest: 'echo',
    fixed: { env: { ERA: 'modern' } },
  },
  asks: {
    program: 'everything',
    can: [...everything, 'ask', 'sample'],
    simplest: 'echo',
    fixed: { interactive: true, isolation: 'shared' },
  },
  own: {
    program: 'stateful-notes',
    can: [],
    simplest: 'ok',
    fixed: { isolation: 'session', stateful: true },
  },
  garbage: { program: 'garbage-lines', can: ['echo'], simplest: 'echo' },
  stubborn: { program: 'ignores-sigterm', can: [], simplest: 'ok' },
  crash: { program: 'crash-on-call', can: [], simplest: 'ok' },
  flood: { program: 'floods-stdout', can: [], simplest: 'ok' },
  endless: { program: 'endless-line', can: [], simplest: 'ok' },
  silent: { program: 'never-ready', can: [], simplest: 'ok', isHopeless: true },
  exits: { program: 'exits-at-once', can: [], simplest: 'ok', isHopeless: true },
};

/** Longer than any drawn wait of a server under load; what takes longer than all of them together is silence. */
const timeouts = { start: '30s', handshake: '20s', call: '30s', client: '20s', queue: '40s', stop: '1s' };
/** In which every request has its answer: a wait for a place, a start, a handshake and a call, none of them hopeless. */
export const silenceMs = 75_000;
export const maxMessage = '1m';
/** An end that is waited for takes at most so long. */
export const drainMs = 1000;

/** Places for instances are scarce: then none is kept, and no session has its own. */
export const isTight = ({ maxInstances }: Setup) => maxInstances < 20;

/** Who takes part in a schedule. */
export function namesOf(setup: Setup): ServerName[] {
  const names = Object.keys(setup.servers) as ServerName[];
  return isTight(setup) ? names.filter((name) => name !== 'own') : names;
}

/** Instances of a server at most, spares included: not counted those that are on their way out. */
export function limitOf(setup: Setup, name: ServerName): number {
  const { max, standby } = setup.servers[name]!;
  // Each client's, and that in which its lists are read.
  return (name === 'own' ? setup.eras.length + 1 : max) + standby;
}

/** Instances that a server keeps when nobody calls. */
export function keptOf(setup: Setup, name: ServerName): { least: number; most: number } {
  const { idleMs, standby } = setup.servers[name]!;
  const min = minOf(setup, name);
  const isForgotten = idleMs !== null && name !== 'own';
  return { least: 0, most: isForgotten ? min + standby : limitOf(setup, name) };
}

const minOf = (setup: Setup, name: ServerName) => {
  const { min, max } = setup.servers[name]!;
  return isTight(setup) || cast[name].isHopeless ? 0 : Math.min(min, max);
};

/** What servers.yaml says of the gateway. */
export function gatewayOf({ maxInstances, maxQueue, parallelStarts }: Setup): Record<string, unknown> {
  return {
    max_instances: maxInstances,
    max_queue: maxQueue,
    parallel_starts: parallelStarts,
    max_message: maxMessage,
    drain_timeout: `${drainMs}ms`,
  };
}

/** What servers.yaml says of each server, beside what runs it. */
export function serversOf(setup: Setup): Record<string, Record<string, unknown>> {
  return Object.fromEntries(namesOf(setup).map((name) => [name, entryOf(setup, name, setup.servers[name]!)]));
}

function entryOf(setup: Setup, name: ServerName, settings: Settings): Record<string, unknown> {
  const { idleMs, pauseMs, max, standby, concurrency, balancing, healthMs } = settings;
  return {
    idle_timeout: idleMs === null ? '1h' : `${idleMs}ms`,
    ...(pauseMs !== null && { pause_after: `${pauseMs}ms` }),
    ...(healthMs !== null && { health_check: { interval: `${healthMs}ms` } }),
    pool: { min: minOf(setup, name), max, standby },
    concurrency,
    load_balancing: balancing,
    timeouts: {
      ...timeouts,
      ...(name === 'silent' && { handshake: '500ms' }),
      // An answer that it writes into the endless line is lost.
      ...(name === 'endless' && { call: '4s' }),
    },
    ...cast[name].fixed,
  };
}

/** A request as it is sent, and what its answer must be. */
export interface Request {
  method: 'tools/call' | 'resources/read';
  params: Any;
  /** What is wrong with the result; undefined: it is the right one. */
  judge(result: Any): string | undefined;
  /** What its client says when it is asked, after a while. */
  reply?: { result: Any; thinkMs: number };
}

const textOf = (result: Any) => String(result?.content?.[0]?.text);
const isText = (wanted: string) => (result: Any) =>
  textOf(result) === wanted
    ? undefined
    : `${wanted} was to come and not ${JSON.stringify(result)}`.slice(0, 500);

/** A wish as a request to a server, with the caller's marker in it wherever the server keeps it. */
export function requestOf(name: ServerName, wish: Wish, marker: string): Request {
  const { can, simplest } = cast[name];
  const kind = can.includes(wish.kind) ? wish.kind : simplest;
  // What the tools do not know they ignore; it tells the calls of one client apart on their way.
  const call = (tool: string, args: object, wanted: string | Request['judge']): Request => ({
    method: 'tools/call',
    params: { name: tool, arguments: { ...args, marker } },
    judge: typeof wanted === 'string' ? isText(wanted) : wanted,
  });
  switch (kind) {
    case 'ok':
      return call('ok', {}, 'ok');
    case 'read': {
      const uri = `test://template/${marker}/data`;
      return {
        method: 'resources/read',
        params: { uri },
        judge: (result) =>
          result?.contents?.[0]?.text?.includes(marker)
            ? undefined
            : `${uri} was to come and not ${JSON.stringify(result)}`,
      };
    }
    case 'sleep': {
      const { ms } = wish as Wish & { kind: 'sleep' };
      return call('sleep', { ms }, `slept ${ms} ms`);
    }
    case 'progress': {
      const { steps, ms } = wish as Wish & { kind: 'progress' };
      return call('progress', { steps, ms }, `${steps} steps`);
    }
    case 'log': {
      const { count } = wish as Wish & { kind: 'log' };
      return call('log', { level: 'error', text: marker, count }, `${count} lines`);
    }
    case 'big': {
      const { bytes } = wish as Wish & { kind: 'big' };
      return call('big', { bytes }, (result) =>
        textOf(result).length === bytes
          ? undefined
          : `${bytes} bytes were to come and not ${textOf(result).length}`,
      );
    }
    case 'ask':
    case 'sample': {
      const { accepts, thinkMs } = wish as Wish & { kind: 'ask' };
      const result =
        kind === 'sample'
          ? { role: 'assistant', content: { type: 'text', text: accepts ? marker : 'no' }, model: 'm' }
          : accepts
            ? { action: 'accept', content: { answer: marker } }
            : { action: 'decline' };
      const tool = kind === 'ask' ? 'ask_elicitation' : 'ask_sampling';
      const request = call(tool, { message: marker, prompt: marker }, JSON.stringify({ result }));
      return { ...request, reply: { result, thinkMs } };
    }
    default:
      return call('echo', { text: marker }, marker);
  }
}

/** A call that ruins the instance that takes it. */
export function wreckOf(name: 'flood' | 'endless' | 'crash', marker: string): Request {
  const args: { bytes?: number; code?: number } = {
    flood: {},
    endless: { bytes: 4 << 20 },
    crash: { code: 7 },
  }[name];
  return {
    method: 'tools/call',
    params: { name, arguments: { ...args, marker } },
    judge: (result) => {
      const text = textOf(result);
      // Beside others, nobody knows whose line it is that was dropped.
      if (name === 'endless' && text === `wrote ${args.bytes} bytes`) return undefined;
      return `an error was to come and not ${text.slice(0, 200)}`;
    },
  };
}
