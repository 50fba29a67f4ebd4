import Table from 'cli-table3';

/** Rows under headings, without lines: pleasant to read, easy to cut. */
export function table(headings: string[], rows: string[][]): string {
  const edges =
    'top top-mid top-left top-right bottom bottom-mid bottom-left bottom-right left left-mid mid mid-mid right right-mid';
  const output = new Table({
    head: headings,
    chars: { ...Object.fromEntries(edges.split(' ').map((edge) => [edge, ''])), middle: '  ' },
    style: { 'padding-left': 0, 'padding-right': 0, head: [], border: [] },
  });
  output.push(...rows);
  return output
    .toString()
    .split('\n')
    .map((line) => line.trimEnd())
    .join('\n');
}
