/**
 * `npm run soak`: a real gateway in front of real containers, under 1,000 clients of both eras, idle stops, pauses, crashes, kills and
 * restarts. Checks that no answer is lost or crossed, no container is left, and that what the gateway holds stays flat. Prints its
 * figures every 30 s; exits with 1 when something was not as it must be.
 *
 * `-- --minutes 5 --clients 200 --rate 100 --seed x` are 20, 1000, 150 calls a second and a drawn one unless given.
 */
import { parseArgs } from 'node:util';
import { type Progress, soak, type Verdict } from './soak.ts';
import { toleranceInWords } from './vitals.ts';

const { values: flags } = parseArgs({
  options: {
    minutes: { type: 'string', default: '20' },
    clients: { type: 'string', default: '1000' },
    rate: { type: 'string', default: '150' },
    seed: { type: 'string', default: Math.random().toString(36).slice(2, 10) },
  },
});
const numberOf = (name: 'minutes' | 'clients' | 'rate') => {
  const number = Number(flags[name]);
  if (number > 0) return number;
  console.error(`--${name} is ${flags[name]}; expected a number above 0`);
  process.exit(1);
};

const mib = (bytes: number) => (bytes / 2 ** 20).toFixed(1);
const columns = [
  'time',
  'answered',
  'left',
  'excused',
  'lost',
  'crossed',
  'heap MiB',
  'rss MiB',
  'fds',
  'sockets',
  'timers',
  'containers',
  'faults',
];
const row = (cells: (string | number)[]) =>
  cells.map((cell, index) => String(cell).padStart(columns[index]!.length)).join('  ');

function show({ atMs, ledger, vitals, faults }: Progress): void {
  const minutes = Math.floor(atMs / 60_000);
  const seconds = String(Math.floor((atMs % 60_000) / 1000)).padStart(2, '0');
  const { answered, left, excused, lostCount, crossedCount } = ledger;
  const done = Object.entries(faults)
    .map(([kind, count]) => `${count} ${kind}`)
    .join(', ');
  const held = vitals
    ? [
        mib(vitals.heapBytes),
        mib(vitals.residentBytes),
        vitals.descriptors,
        vitals.sockets,
        vitals.timers,
        vitals.containers,
      ]
    : ['', '', '', '', '', ''];
  console.log(
    row([`${minutes}:${seconds}`, answered, left, excused, lostCount, crossedCount, ...held, done]),
  );
}

function conclude({ ledger, orphans, flatness, complaints, healthMs, isGood }: Verdict): void {
  const list = (title: string, count: number, lines: string[]) => {
    console.log(`${title}: ${count}`);
    for (const line of lines) console.log(`  ${line}`);
  };
  console.log('');
  list('lost', ledger.lostCount, ledger.lost);
  list('crossed', ledger.crossedCount, ledger.crossed);
  list('orphans', orphans.length, orphans);
  list('errors in the log', complaints.length, complaints);
  for (const { figure, middle, last, isFlat } of flatness)
    console.log(
      `${isFlat ? 'flat    ' : 'NOT FLAT'} ${figure}: ${middle} in the second third, ${last} in the last`,
    );
  const sorted = [...healthMs].sort((a, b) => a - b);
  const [median = 0, slowest = 0] = [sorted[Math.floor(sorted.length / 2)], sorted.at(-1)];
  console.log(
    `/health/live answered in ${median.toFixed(0)} ms (median), ${slowest.toFixed(0)} ms (slowest of ${sorted.length}).`,
  );
  console.log(`Tolerated, whichever is more: ${toleranceInWords}.`);
  console.log(
    isGood ? 'Nothing lost, crossed or left; all is flat.' : `FAILED; again with --seed ${flags.seed}`,
  );
}

const options = { minutes: numberOf('minutes'), clients: numberOf('clients'), rate: numberOf('rate') };
console.log(
  `${options.minutes} minutes, ${options.clients} clients, ${options.rate} calls/s, --seed ${flags.seed}`,
);
console.log(row(columns));
const stopping = new AbortController();
for (const signal of ['SIGINT', 'SIGTERM'] as const)
  process.once(signal, () => stopping.abort(new Error(`ended by ${signal}`)));
const verdict = await soak({ ...options, seed: flags.seed, signal: stopping.signal, onProgress: show });
conclude(verdict);
process.exit(verdict.isGood ? 0 : 1);
