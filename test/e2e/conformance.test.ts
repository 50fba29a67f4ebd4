import { describe, expect, it } from 'vitest';
import { runAll } from '../../conformance/conformance.ts';
import { unexplained } from '../../conformance/document.ts';
import { readResults } from '../../conformance/report.ts';

describe('the public conformance suite', () => {
  it('passes through the gateway what it passes without it', { timeout: 300_000 }, async () => {
    const lines: string[] = [];
    const { results, problems } = await runAll((line) => lines.push(line));
    expect(problems, lines.join('\n')).toEqual([]);
    // What docs/conformance.md says is what is so: `npm run conformance && npm run generate` writes it anew.
    expect(results).toEqual(await readResults());
    expect(results.flatMap(unexplained)).toEqual([]);
  });
});
