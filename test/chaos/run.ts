/**
 * `npm run chaos`: drawn schedules of calls and faults against a model of what each client must see: most with a gateway in this
 * process and servers that are processes, the others with a real gateway and containers. Prints the seed, the steps and the shortest
 * schedule that still fails; exits with 1 then.
 *
 * `-- --schedules 950 --containers 50 --seed 7 --parallel 3` are 190, 10, a drawn seed and 3 unless given.
 */
import { parseArgs } from 'node:util';
import { type Level, report, runSuite } from './suite.ts';

const { values: flags } = parseArgs({
  options: {
    schedules: { type: 'string', default: '190' },
    containers: { type: 'string', default: '10' },
    seed: { type: 'string', default: String(Math.floor(Math.random() * 1e9)) },
    parallel: { type: 'string', default: '3' },
  },
});
const numberOf = (name: keyof typeof flags) => {
  const number = Number(flags[name]);
  if (Number.isInteger(number) && number >= 0) return number;
  console.error(`--${name} is ${flags[name]}; expected a whole number`);
  process.exit(1);
};

async function playAll(level: Level, count: number): Promise<boolean> {
  const startedMs = performance.now();
  let played = 0;
  const found = await runSuite({
    level,
    seed: numberOf('seed'),
    count,
    parallel: Math.max(1, numberOf('parallel')),
    shrinkMs: level === 'processes' ? 300_000 : 0,
    onPlayed: () => {
      played += 1;
      if (played % 25 !== 0 && played !== count) return;
      const seconds = Math.round((performance.now() - startedMs) / 1000);
      console.log(`${level}: ${played} of ${count} played after ${seconds} s`);
    },
  });
  if (found) console.error(report(level, found));
  return found === undefined;
}

console.log(`--seed ${flags.seed}`);
const isGood =
  (await playAll('processes', numberOf('schedules'))) &&
  (await playAll('containers', numberOf('containers')));
console.log(isGood ? 'Every promise was kept.' : 'FAILED');
process.exit(isGood ? 0 : 1);
