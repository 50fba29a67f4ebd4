// What the tests said on each engine, as a table; then the names of what failed, and of what was left out and why.
//   node table.mjs <folder> <engine>...    reads <folder>/<engine>/vitest.json and <folder>/<engine>/name
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';

const [, , folder, ...engines] = process.argv;
const read = (engine, file) => {
  const place = path.join(folder, engine, file);
  return existsSync(place) ? readFileSync(place, 'utf8') : undefined;
};
const shown = (file) => path.relative(process.cwd(), file);

const rows = engines.map((engine) => {
  const name = read(engine, 'name')?.trim() ?? engine;
  const json = read(engine, 'vitest.json');
  const row = { name, passed: 0, failed: [], skipped: [] };
  if (json === undefined) {
    row.failed.push('the suites did not run to their end');
    return row;
  }
  const report = JSON.parse(json);
  for (const { name: file, status, assertionResults } of report.testResults) {
    const names = (wanted) =>
      assertionResults.filter(wanted).map(({ fullName }) => `${shown(file)}: ${fullName}`);
    const failed = names((test) => test.status === 'failed');
    row.passed += assertionResults.filter((test) => test.status === 'passed').length;
    row.failed.push(...failed);
    row.skipped.push(...names((test) => !['passed', 'failed'].includes(test.status)));
    // A file that cannot be loaded, or whose hooks fail, has no failed test to show for it.
    if (status === 'failed' && failed.length === 0) row.failed.push(shown(file));
  }
  if (!report.success && row.failed.length === 0) row.failed.push('an error outside of any test');
  return row;
});

const line = (...cells) =>
  `${cells[0].padEnd(28)}${cells
    .slice(1)
    .map((cell) => String(cell).padStart(9))
    .join('')}\n`;
for (const { name, failed, skipped } of rows) {
  for (const test of skipped) process.stdout.write(`skipped on ${name}: ${test}\n`);
  for (const test of failed) process.stdout.write(`FAILED on ${name}: ${test}\n`);
}
process.stdout.write(`\n${line('engine', 'passed', 'failed', 'skipped')}`);
for (const { name, passed, failed, skipped } of rows) {
  process.stdout.write(line(name, passed, failed.length, skipped.length));
}
process.exitCode = rows.every(({ failed }) => failed.length === 0) ? 0 : 1;
