import { readFile, writeFile } from 'node:fs/promises';
import { cpus, release, totalmem } from 'node:os';
import { join } from 'node:path';
import { engine } from './floor.ts';
import type { Spread } from './load.ts';

/** A line of bench/results.json. `value` and `floor` are medians of the same run in the same unit; `ratio` is one by the other. */
export interface Figure {
  figure: string;
  unit: string;
  value: number;
  spread: Spread;
  floor: number | undefined;
  ratio: number | undefined;
  goal: string;
  rounds: number;
}

/** Writes results.json, keeping figures that this run did not measure, and results.md from it. */
export async function report(figures: Figure[], folder: string): Promise<void> {
  const file = join(folder, 'results.json');
  const before = JSON.parse(await readFile(file, 'utf8').catch(() => '[]')) as Figure[];
  const measured = new Map(figures.map((figure) => [figure.figure, figure]));
  const kept = before.map((figure) => measured.get(figure.figure) ?? figure);
  const added = figures.filter(({ figure }) => !before.some((old) => old.figure === figure));
  const all = [...kept, ...added].map((figure) => ({ ...figure, ...rounded(figure) }));
  await writeFile(file, `${JSON.stringify(all, null, 2)}\n`);

  const { Version } = await engine.version();
  const [cpu] = cpus();
  const number = (value: number | undefined) => (value === undefined ? '–' : String(value));
  const rows = all.map(
    ({ figure, unit, value, spread, floor, ratio, goal }) =>
      `| ${figure} | ${number(value)} ${unit} | ${spread.low}–${spread.high} | ${number(floor)} | ${number(ratio)} | ${goal} |`,
  );
  await writeFile(
    join(folder, 'results.md'),
    `# Bench results

Written by \`npm run bench\` from \`results.json\`. A floor is the same work without the gateway, in the same run, in interleaved rounds;
times on a small shared machine mean little by themselves, their ratios do.

Machine: ${cpus().length} × ${cpu?.model.trim()}, ${Math.round(totalmem() / 1024 ** 3)} GiB, Linux ${release().split('-')[0]}, Node ${process.versions.node},
Docker Engine ${Version}.

| figure | median | lowest–highest | floor | ratio | goal |
|---|---|---|---|---|---|
${rows.join('\n')}
`,
  );
}

/** Two decimals: more would be noise. */
function rounded({
  value,
  spread,
  floor,
  ratio,
}: Figure): Pick<Figure, 'value' | 'spread' | 'floor' | 'ratio'> {
  const round = (number: number) => Math.round(number * 100) / 100;
  return {
    value: round(value),
    spread: { median: round(spread.median), low: round(spread.low), high: round(spread.high) },
    floor: floor === undefined ? undefined : round(floor),
    ratio: ratio === undefined ? undefined : round(ratio),
  };
}
