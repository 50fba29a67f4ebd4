// Adds up what the suites of a test run said; the last line is `N passed, N failed`.
//   node count-tests.mjs <check: passed|failed> <vitest's JSON report>...
import { existsSync, readFileSync } from 'node:fs';

const [, , check, ...reports] = process.argv;
const failures = check === 'passed' ? [] : ['npm run check'];
let passed = check === 'passed' ? 1 : 0;
let skipped = 0;

for (const file of reports) {
  if (!existsSync(file)) {
    failures.push('vitest ended without a report');
    continue;
  }
  const report = JSON.parse(readFileSync(file, 'utf8'));
  for (const { name, status, assertionResults } of report.testResults) {
    const failed = assertionResults.filter((test) => test.status === 'failed');
    passed += assertionResults.filter((test) => test.status === 'passed').length;
    skipped += assertionResults.filter((test) => !['passed', 'failed'].includes(test.status)).length;
    failures.push(...failed.map((test) => `${name}: ${test.fullName}`));
    // A file that cannot be loaded, or whose hooks fail, has no failed test to show for it.
    if (status === 'failed' && failed.length === 0) failures.push(name);
  }
  // Unhandled errors fail a run in which every test passed.
  if (!report.success && failures.length === 0) failures.push('vitest: an error outside of any test');
}

for (const failure of failures) process.stdout.write(`FAILED ${failure}\n`);
if (skipped > 0) process.stdout.write(`${skipped} skipped\n`);
process.stdout.write(`${passed} passed, ${failures.length} failed\n`);
process.exitCode = failures.length === 0 ? 0 : 1;
