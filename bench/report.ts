import { readFile, writeFile } from 'node:fs/promises';
import { cpus, loadavg, release, totalmem } from 'node:os';
import { join } from 'node:path';
import { type FigureName, type Goal, goals, isReached, wordsOf } from './goals.ts';
import { type Spread, spread } from './load.ts';

/** A line of bench/results.json. `value` and `floor` are medians of the same run in the same unit; `ratio` is one by the other. */
export interface Figure {
  figure: FigureName;
  unit: string;
  value: number;
  spread: Spread;
  floor: number | undefined;
  ratio: number | undefined;
  goal: string;
  /** undefined: nothing is promised. */
  holds: boolean | undefined;
  rounds: number;
  /** The machine's load average when it was measured. */
  load: number;
}

/** Collects what one run measures. */
export class Report {
  readonly #figures: Figure[] = [];
  readonly #missing: FigureName[] = [];
  readonly #engineVersion: string;

  constructor(engineVersion: string) {
    this.#engineVersion = engineVersion;
  }

  /** `values` and `floors` are one number a round. */
  record(figure: FigureName, values: number[], floors?: number[]): void {
    const goal: Goal = goals[figure];
    const value = spread(values);
    const floor = floors && spread(floors).median;
    const ratio = floor && value.median / floor;
    const holds = isReached(goal, { value: value.median, ratio }, this.#engineVersion);
    const words = wordsOf(goal, this.#engineVersion);
    this.#figures.push({
      figure,
      unit: goal.unit,
      value: value.median,
      spread: value,
      floor,
      ratio,
      goal: words,
      holds,
      rounds: values.length,
      load: loadavg()[0]!,
    });
    const from = `${short(value.low)}–${short(value.high)}`;
    const beside = ratio === undefined ? '' : `, ${short(ratio)} × the floor's ${short(floor!)}`;
    console.log(
      `${marks(holds)} ${figure}: ${short(value.median)} ${goal.unit} (${from})${beside}; goal ${words}`,
    );
  }

  /** A figure that could not be measured does not reach its goal. */
  missing(figure: FigureName, why: string): void {
    this.#missing.push(figure);
    console.log(`no  ${figure}: not measured, ${why}`);
  }

  /** Says which goals hold; true when all that were measured do. */
  conclude(): boolean {
    const judged = this.#figures.filter(({ holds }) => holds !== undefined);
    const failed = [
      ...judged.filter(({ holds }) => !holds).map(({ figure }) => figure),
      ...this.#missing.filter((figure) => wordsOf(goals[figure], this.#engineVersion) !== '–'),
    ];
    const held = judged.length - judged.filter(({ holds }) => !holds).length;
    console.log(`\n${held} of ${held + failed.length} goals hold.`);
    if (failed.length > 0) console.log(`These do not:\n${failed.map((figure) => `  ${figure}`).join('\n')}`);
    return failed.length === 0;
  }

  /** Writes results.json, keeping figures that this run did not measure, and results.md from it. */
  async write(folder: string): Promise<void> {
    const file = join(folder, 'results.json');
    const before = JSON.parse(await readFile(file, 'utf8').catch(() => '[]')) as Figure[];
    const all = (Object.keys(goals) as FigureName[]).flatMap((name) => {
      const found =
        this.#figures.find(({ figure }) => figure === name) ?? before.find(({ figure }) => figure === name);
      return found ? [{ ...found, ...rounded(found) }] : [];
    });
    await writeFile(file, `${JSON.stringify(all, null, 2)}\n`);

    const [cpu] = cpus();
    const rows = all.map(
      ({ figure, unit, value, spread: { low, high }, floor, ratio, goal, holds, load }) =>
        `| ${figure} | ${value} ${unit} | ${low}–${high} | ${floor ?? '–'} | ${ratio ?? '–'} | ${goal} | ${marks(holds).trim()} | ${load ?? '–'} |`,
    );
    await writeFile(
      join(folder, 'results.md'),
      `# Bench results

Written by \`npm run bench\` from \`results.json\`. A floor is the same work without the gateway, in the same run, in interleaved rounds;
times on a small shared machine mean little by themselves, their ratios do. The load is the machine's load average when the figure was
measured, the bench's own included.

Machine: ${cpus().length} × ${cpu?.model.trim()}, ${Math.round(totalmem() / 1024 ** 3)} GiB, Linux ${release().split('-')[0]}, Node ${process.versions.node},
Docker Engine ${this.#engineVersion}.

| figure | median | lowest–highest | floor | ratio | goal | holds | load |
|---|---|---|---|---|---|---|---|
${rows.join('\n')}
`,
    );
  }
}

const marks = (holds: boolean | undefined) => (holds === undefined ? '–  ' : holds ? 'yes' : 'no ');

/** Two decimals: more would be noise. */
const round = (number: number) => Math.round(number * 100) / 100;
const short = (number: number) => String(round(number));

function rounded({ value, spread: { median, low, high }, floor, ratio, load }: Figure) {
  return {
    value: round(value),
    spread: { median: round(median), low: round(low), high: round(high) },
    floor: floor === undefined ? undefined : round(floor),
    ratio: ratio === undefined ? undefined : round(ratio),
    load: load === undefined ? undefined : round(load),
  };
}
