/**
 * `npm run bench`: every figure beside its floor, measured in the same run, in interleaved rounds, and which goals hold. Writes
 * bench/results.json and, from it, bench/results.md.
 *
 * `-- --only cold,warm` measures some of the figures and leaves the others as they were; `--rounds 5` is quicker; `--check` exits with 1
 * when a goal does not hold. `--before <commit>` puts the gateway of another commit beside this one (`eras`). `--against <url>`
 * measures any other MCP endpoint in place of this gateway.
 */
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { root } from '../test/programs.ts';
import { against } from './against.ts';
import { compileCache, starts } from './figures/experiments.ts';
import { cold, resumed } from './figures/first-call.ts';
import { large } from './figures/large.ts';
import { crowd, fifty, hundred } from './figures/many.ts';
import { eras, warm } from './figures/warm.ts';
import { engine } from './floor.ts';
import { type Program, shipped } from './gateway.ts';
import { Report } from './report.ts';

/** What a group of figures is measured with. */
export interface Bench {
  /** The gateway as it is shipped. */
  program: Program;
  rounds: number;
  report: Report;
  /** A commit to compare with. */
  before: string | undefined;
}

const groups = {
  cold,
  starts,
  compile: compileCache,
  paused: resumed,
  warm,
  eras,
  large,
  fifty,
  hundred,
  crowd,
};

const options = {
  only: { type: 'string' },
  rounds: { type: 'string', default: '15' },
  before: { type: 'string' },
  check: { type: 'boolean' },
  against: { type: 'string' },
  tool: { type: 'string' },
  args: { type: 'string' },
  header: { type: 'string', multiple: true },
} as const;

async function main(): Promise<number> {
  const { values: flags } = parseArgs({ options });
  if (flags.against !== undefined) return against(flags.against, flags);

  const rounds = Number(flags.rounds);
  if (!(rounds >= 1)) throw new Error(`--rounds is ${flags.rounds}; expected a number from 1`);
  const chosen = flags.only?.split(',') ?? Object.keys(groups);
  const unknown = chosen.find((name) => !(name in groups));
  if (unknown)
    throw new Error(`unknown figure ${unknown}; expected some of ${Object.keys(groups).join(', ')}`);

  const startedAt = performance.now();
  await using build = await shipped();
  const report = new Report((await engine.version()).Version);
  for (const name of chosen) {
    await groups[name as keyof typeof groups]({
      program: build.program,
      rounds,
      report,
      before: flags.before,
    });
  }
  await report.write(join(root, 'bench'));
  const isAllReached = report.conclude();
  console.log(`Measured in ${((performance.now() - startedAt) / 60_000).toFixed(1)} minutes.`);
  return flags.check && !isAllReached ? 1 : 0;
}

try {
  process.exitCode = await main();
} catch (error) {
  console.error(error);
  process.exitCode = 1;
}
