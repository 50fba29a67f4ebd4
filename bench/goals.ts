/** What is promised of a figure's median: of itself, or of what it is by its floor's. */
export interface Goal {
  unit: string;
  value?: Limit;
  ratio?: Limit;
  /** Engines that it is promised on, by version; all unless given. */
  engine?: RegExp;
}

interface Limit {
  atMost?: number;
  atLeast?: number;
}

const resumed: Goal = { unit: 'ms', value: { atMost: 25 }, ratio: { atMost: 3 } };
const latency: Goal = { unit: 'ms', ratio: { atMost: 1.25 } };
const rate: Goal = { unit: '1/s', ratio: { atLeast: 0.8 } };
const cpu: Goal = { unit: 'µs', ratio: { atMost: 1.25 } };
const large: Goal = { unit: 'ms', ratio: { atMost: 3 } };
const none: Goal = { unit: 'calls', value: { atMost: 0 } };

/** Every figure there is, in the order of the report, and what it must reach. */
export const goals = {
  'cold first call': { unit: 'ms', ratio: { atMost: 1.1 } },
  // Its floor is a container with the configuration of a server that keeps nothing.
  'cold first call, sandbox kept': { unit: 'ms', ratio: { atMost: 0.65 }, engine: /^20\.10\./ },
  'start, container created ahead': { unit: 'ms' },
  'start, network kept': { unit: 'ms' },
  'start, network none kept': { unit: 'ms' },
  'start, initialize written before it': { unit: 'ms' },
  'start, a connection for each request': { unit: 'ms' },
  'start, OCI runtime crun': { unit: 'ms' },
  'start of an SDK-based server, compile cache': { unit: 'ms' },
  'first call, paused': resumed,
  'first call, standby': resumed,
  'warm call p50': latency,
  'warm call p50, modern client': latency,
  'calls/s at 32': rate,
  'calls/s at 32, modern client': rate,
  'CPU per call': cpu,
  'CPU per call, modern client': cpu,
  'warm call p50, legacy client, ÷ earlier': { unit: 'ms', ratio: { atMost: 1.05 } },
  'warm call p50, modern client, ÷ earlier': { unit: 'ms', ratio: { atMost: 1.05 } },
  'calls/s at 32, legacy client, ÷ earlier': { unit: '1/s', ratio: { atLeast: 0.95 } },
  'calls/s at 32, modern client, ÷ earlier': { unit: '1/s', ratio: { atLeast: 0.95 } },
  '1 MB result': large,
  '10 MB result': large,
  '30 MB result': large,
  // Above 1 a byte of a large result costs more than one of a small one.
  'ms per MB, 30 MB ÷ 1 MB': { unit: '×', value: { atMost: 1.5 } },
  'tools/list, 50 × 20 tools': { unit: 'ms', value: { atMost: 1 } },
  'ready, 50 servers, as shipped': { unit: 'ms', value: { atMost: 500 } },
  'memory, 50 servers idle, as shipped': { unit: 'MB', value: { atMost: 110 } },
  'ready, 50 servers, from a checkout': { unit: 'ms' },
  'memory, 50 servers idle, from a checkout': { unit: 'MB', value: { atMost: 130 } },
  '100 servers at once: answered': { unit: 'calls', value: { atLeast: 100 } },
  '100 servers at once': { unit: 's', ratio: { atMost: 1.2 } },
  '1,000 sessions, 100,000 calls: lost': none,
  '1,000 sessions, 100,000 calls: crossed': none,
  '1,000 sessions, 100,000 calls: rate': { unit: '1/s' },
  '1,000 sessions, 100,000 calls: p99 ÷ p50': { unit: '×', value: { atMost: 10 } },
} as const satisfies Record<string, Goal>;

export type FigureName = keyof typeof goals;

/** The goal in words; a dash where nothing is promised. */
export function wordsOf(goal: Goal, engineVersion: string): string {
  if (!isPromisedOn(goal, engineVersion)) return '–';
  const own = limitInWords(goal.value, ` ${goal.unit}`);
  const relative = limitInWords(goal.ratio, ' × floor');
  return [own, relative].filter(Boolean).join(' and ') || '–';
}

/** Whether it is reached; undefined where nothing is promised. */
export function isReached(
  goal: Goal,
  measured: { value: number; ratio: number | undefined },
  engineVersion: string,
): boolean | undefined {
  if (!isPromisedOn(goal, engineVersion) || !(goal.value ?? goal.ratio)) return undefined;
  return isWithin(goal.value, measured.value) && isWithin(goal.ratio, measured.ratio);
}

const isPromisedOn = ({ engine }: Goal, version: string) => engine?.test(version) ?? true;

function isWithin(limit: Limit | undefined, number: number | undefined): boolean {
  if (!limit) return true;
  const { atMost = Number.POSITIVE_INFINITY, atLeast = Number.NEGATIVE_INFINITY } = limit;
  return number !== undefined && number <= atMost && number >= atLeast;
}

function limitInWords(limit: Limit | undefined, unit: string): string {
  if (limit?.atMost !== undefined) return `≤ ${limit.atMost}${unit}`;
  return limit?.atLeast === undefined ? '' : `≥ ${limit.atLeast}${unit}`;
}
