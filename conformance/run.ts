/**
 * `npm run conformance`: the public conformance suite against our fixture server, directly and through the gateway, with the fixture
 * driven in either era. Writes conformance/results.json; exits with 1 when the gateway is worse than no gateway.
 */
import { runAll } from './conformance.ts';
import { terminalTable, writeResults } from './report.ts';

const { results, problems } = await runAll(console.log);
await writeResults(results);
console.log(`\npassed / failed\n${terminalTable(results)}`);
for (const problem of problems) console.error(problem);
process.exitCode = problems.length === 0 ? 0 : 1;
