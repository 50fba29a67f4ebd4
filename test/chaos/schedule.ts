import fc from 'fast-check';

/*
 * What is drawn: a configuration, clients, and a list of steps: what clients do, and faults. Everything that a run decides follows from
 * it, so that a seed is a run.
 */

/** The servers that may take part; what they are is in `cast.ts`. */
export const serverNames = [
  'plain',
  'modern',
  'asks',
  'own',
  'garbage',
  'stubborn',
  'crash',
  'flood',
  'endless',
  'silent',
  'exits',
] as const;
export type ServerName = (typeof serverNames)[number];

/** How a server is set; null: as servers.yaml has it without a word. */
export interface Settings {
  idleMs: number | null;
  pauseMs: number | null;
  min: number;
  max: number;
  standby: number;
  concurrency: number;
  balancing: 'least_connections' | 'round_robin' | 'random';
  healthMs: number | null;
}

export interface Setup {
  /** Of each client. */
  eras: ('legacy' | 'modern')[];
  /** `plain` is always there. */
  servers: Partial<Record<ServerName, Settings>>;
  maxInstances: number;
  maxQueue: number;
  parallelStarts: number;
  /** Whether clients wait until every server is known, or come at once. */
  waitsForLists: boolean;
}

/** What a client asks of a server; one that cannot do it is asked for the simplest that it can. */
export type Wish =
  | { kind: 'echo' | 'read' }
  | { kind: 'sleep'; ms: number }
  | { kind: 'progress'; steps: number; ms: number }
  | { kind: 'log'; count: number }
  | { kind: 'big'; bytes: number }
  | { kind: 'ask' | 'sample'; accepts: boolean; thinkMs: number };

/** What becomes of a call: it is waited for; cancelled; or its connection is lost, for good or until the client comes back. */
export type Fate =
  | { kind: 'stay' }
  | { kind: 'cancel'; afterMs: number }
  | { kind: 'leave'; afterMs: number; awayMs: number | null };

export type Action =
  // What clients do.
  | { do: 'call'; who: number; server: ServerName; wish: Wish; fate: Fate; direct: boolean }
  | { do: 'note'; who: number; lists: boolean }
  | { do: 'list'; who: number }
  | { do: 'stampede'; who: number; server: ServerName; count: number }
  | { do: 'relisten'; who: number }
  // What bad clients do.
  | { do: 'garbage'; kind: 'text' | 'array' | 'half' | 'large' | 'deep' | 'headers' }
  | { do: 'slowReader'; ms: number }
  // What goes wrong.
  | { do: 'wreck'; who: number; server: 'flood' | 'endless' | 'crash' }
  | { do: 'kill' | 'remove'; server: ServerName }
  | { do: 'freeze'; server: ServerName; ms: number }
  | { do: 'restart'; how: 'kill' | 'drain'; awayMs: number }
  | { do: 'engine'; how: EngineTrouble; ms: number };

/** The engine's socket breaks, says nothing, is slow, or answers everything by an error. */
export type EngineTrouble = 'cut' | 'frozen' | 'slow' | 'broken';

export type Step = Action & {
  /** Since the step before. */
  gapMs: number;
};

export interface Schedule {
  setup: Setup;
  steps: Step[];
}

const settings: fc.Arbitrary<Settings> = fc.record({
  idleMs: fc.constantFrom(null, 100, 200, 300),
  pauseMs: fc.constantFrom(null, null, 30, 80),
  min: fc.constantFrom(0, 0, 0, 1),
  max: fc.constantFrom(1, 2),
  standby: fc.constantFrom(0, 0, 1),
  concurrency: fc.constantFrom(1, 2, 8),
  balancing: fc.constantFrom('least_connections', 'round_robin', 'random'),
  healthMs: fc.constantFrom(null, null, 200),
});

const setup: fc.Arbitrary<Setup> = fc.record({
  eras: fc.array(fc.constantFrom('legacy' as const, 'modern' as const), { minLength: 2, maxLength: 4 }),
  servers: fc
    .record({
      chosen: fc.subarray([...serverNames], { minLength: 1, maxLength: 5 }),
      of: fc.array(settings, { minLength: 6, maxLength: 6 }),
    })
    .map(({ chosen, of }) => {
      const names = new Set<ServerName>(['plain', ...chosen]);
      return Object.fromEntries([...names].map((name, index) => [name, of[index % of.length]!]));
    }),
  maxInstances: fc.constantFrom(50, 50, 50, 3, 2, 1),
  maxQueue: fc.constantFrom(2000, 2000, 3),
  parallelStarts: fc.constantFrom(4, 2, 1),
  waitsForLists: fc.constantFrom(true, true, false),
});

const ms = (max: number) => fc.integer({ min: 0, max });
const wish: fc.Arbitrary<Wish> = fc.oneof(
  { weight: 4, arbitrary: fc.constantFrom<Wish>({ kind: 'echo' }, { kind: 'read' }) },
  {
    weight: 3,
    arbitrary: fc.record({ kind: fc.constant('sleep' as const), ms: fc.integer({ min: 10, max: 300 }) }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant('progress' as const),
      steps: fc.integer({ min: 1, max: 4 }),
      ms: ms(60),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({ kind: fc.constant('log' as const), count: fc.integer({ min: 1, max: 4 }) }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: fc.constant('big' as const),
      bytes: fc.integer({ min: 1000, max: 400_000 }),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constantFrom('ask' as const, 'sample' as const),
      accepts: fc.boolean(),
      thinkMs: ms(80),
    }),
  },
);
const fate: fc.Arbitrary<Fate> = fc.oneof(
  { weight: 6, arbitrary: fc.constant<Fate>({ kind: 'stay' }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('cancel' as const), afterMs: ms(200) }) },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant('leave' as const),
      afterMs: ms(200),
      awayMs: fc.option(ms(300), { freq: 4 }),
    }),
  },
);

function actions({ eras, servers }: Setup, level: 'processes' | 'containers'): fc.Arbitrary<Action> {
  const who = fc.nat(eras.length - 1);
  const names = Object.keys(servers) as ServerName[];
  const server = fc.constantFrom(...names);
  const wrecks = (['flood', 'endless', 'crash'] as const).filter((name) => name in servers);
  const isReal = level === 'containers';
  const one = <Do extends Action['do'], Rest extends object>(
    what: fc.Arbitrary<Do>,
    rest: { [Key in keyof Rest]: fc.Arbitrary<Rest[Key]> },
  ) => fc.record({ do: what, ...rest }) as unknown as fc.Arbitrary<Action>;
  const choices: { weight: number; arbitrary: fc.Arbitrary<Action> }[] = [
    { weight: 14, arbitrary: one(fc.constant('call'), { who, server, wish, fate, direct: fc.boolean() }) },
    { weight: 2, arbitrary: one(fc.constant('list'), { who }) },
    {
      weight: 2,
      arbitrary: one(fc.constant('stampede'), { who, server, count: fc.integer({ min: 3, max: 25 }) }),
    },
    { weight: 1, arbitrary: one(fc.constant('relisten'), { who }) },
    {
      weight: 1,
      arbitrary: one(fc.constant('garbage'), {
        kind: fc.constantFrom('text', 'array', 'half', 'large', 'deep', 'headers'),
      }),
    },
    { weight: 1, arbitrary: one(fc.constant('slowReader'), { ms: ms(400) }) },
    { weight: 4, arbitrary: one(fc.constant('kill'), { server }) },
    { weight: 2, arbitrary: one(fc.constant('freeze'), { server, ms: fc.integer({ min: 20, max: 1200 }) }) },
    {
      weight: 1,
      arbitrary: one(fc.constant('restart'), {
        how: fc.constantFrom('kill', 'kill', 'drain'),
        awayMs: isReal ? fc.constantFrom(0, 0, 6000) : fc.constant(0),
      }),
    },
  ];
  if ('own' in servers)
    choices.push({ weight: 4, arbitrary: one(fc.constant('note'), { who, lists: fc.boolean() }) });
  if (wrecks.length > 0)
    choices.push({
      weight: 3,
      arbitrary: one(fc.constant('wreck'), { who, server: fc.constantFrom(...wrecks) }),
    });
  if (isReal) {
    choices.push({ weight: 2, arbitrary: one(fc.constant('remove'), { server }) });
    choices.push({
      weight: 2,
      arbitrary: one(fc.constant('engine'), {
        how: fc.constantFrom('cut', 'frozen', 'slow', 'broken'),
        ms: fc.integer({ min: 50, max: 2000 }),
      }),
    });
  }
  return fc.oneof(...choices);
}

/** Schedules for gateways whose servers are processes, or containers. */
export function schedules(level: 'processes' | 'containers'): fc.Arbitrary<Schedule> {
  return setup.chain((drawn) =>
    fc.record({
      setup: fc.constant(drawn),
      steps: fc.array(
        fc
          .record({ action: actions(drawn, level), gapMs: fc.oneof(ms(20), ms(20), ms(400)) })
          .map(({ action, gapMs }): Step => ({ ...action, gapMs })),
        { minLength: 4, maxLength: level === 'containers' ? 24 : 20 },
      ),
    }),
  );
}

/** A schedule for people, a step a line. */
export function inWords({ setup: { servers, ...rest }, steps }: Schedule): string {
  return [
    JSON.stringify(rest),
    ...Object.entries(servers).map(([name, one]) => `  ${name} ${JSON.stringify(one)}`),
    ...steps.map((step, index) => `  ${index + 1}. ${JSON.stringify(step)}`),
  ].join('\n');
}
