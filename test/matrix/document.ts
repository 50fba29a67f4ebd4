import { readFile } from 'node:fs/promises';

/** One cell of the matrix, as results.json has it; `outcome` is `works`, or why it cannot. */
export interface Result {
  client: string;
  server: string;
  isolation: string;
  feature: string;
  outcome: string;
}

const begin = '<!-- Generated from test/matrix/results.json by `npm run generate`. -->';
const end = '<!-- End of what is generated. -->';
const page = new URL('../../docs/protocol.md', import.meta.url);

/** docs/protocol.md with the table that the last recorded run gives it. */
export async function protocolDocument(): Promise<string> {
  const text = await readFile(page, 'utf8');
  const results = JSON.parse(await readFile(new URL('results.json', import.meta.url), 'utf8')) as Result[];
  const [before, rest] = text.split(begin);
  const after = rest?.split(end)[1];
  if (after === undefined) throw new Error(`docs/protocol.md: expected "${begin}" and "${end}"`);
  return `${before}${begin}\n\n${tableOf(results)}\n\n${end}${after}`;
}

/** A row for each feature, a column for each client on each server, and below it why something cannot be. */
export function tableOf(results: Result[]): string {
  const columns = unique(results.map(({ client, server }) => `${client} → ${server}`));
  const reasons = unique(results.map(({ outcome }) => outcome)).filter((outcome) => outcome !== 'works');
  const note = (outcome: string) => `[${reasons.indexOf(outcome) + 1}]`;
  const cell = (feature: string, column: string) => {
    const here = results.filter(
      (one) => one.feature === feature && `${one.client} → ${one.server}` === column,
    );
    const failing = here.filter(({ outcome }) => outcome !== 'works');
    const notes = unique(failing.map(({ outcome }) => note(outcome))).join(' ');
    if (failing.length === 0) return 'yes';
    if (failing.length === here.length) return `no ${notes}`;
    return `${here
      .filter(({ outcome }) => outcome === 'works')
      .map(({ isolation }) => isolation)
      .join(', ')} ${notes}`;
  };
  const rows = [
    ['', ...columns],
    columns.map(() => '---').concat('---'),
    ...unique(results.map(({ feature }) => feature)).map((feature) => [
      feature,
      ...columns.map((column) => cell(feature, column)),
    ]),
  ];
  return [
    rows.map((cells) => `| ${cells.join(' | ')} |`).join('\n'),
    reasons.map((reason, index) => `${index + 1}. ${reason}`).join('\n'),
  ].join('\n\n');
}

const unique = <T>(values: T[]) => [...new Set(values)];
