import { readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { root, run, temporaryFolder } from '../test/programs.ts';

/** A part of the public suite, `@modelcontextprotocol/conformance`, that is run and counted by itself. */
export interface Suite {
  name: string;
  revision: string;
  /** The package's folder in node_modules and what it is called with, without the URL. */
  package: string;
  args: string[];
}

/** What one run of a suite found; `passed` and `failed` are the suite's own total. */
export interface Outcome {
  passed: number;
  failed: number;
  checks: Check[];
}

/** One check: `name` tells it from every other of its run. */
export interface Check {
  scenario: string;
  name: string;
  status: 'SUCCESS' | 'FAILURE' | 'WARNING' | 'INFO' | 'SKIPPED';
  error?: string;
}

/** The scenarios of an extension, which a server may lack: the suite runs them and says so below its total. */
const extensionLine = /^\s+[✓✗] (\S+) \(extension\)/gm;

/** Runs a suite against a URL; the outcome of what every server must have, and that of extensions. */
export async function runSuite(suite: Suite, url: string): Promise<{ core: Outcome; extensions: Outcome }> {
  const folder = await temporaryFolder();
  try {
    const program = join(root, 'node_modules', suite.package, 'dist/index.js');
    const args = [program, 'server', '--url', url, '-o', folder, ...suite.args];
    const { stdout, stderr } = await run(process.execPath, args, { limitMs: 300_000 });
    const total = /^Total: (\d+) passed, (\d+) failed/m.exec(stdout);
    if (!total) throw new Error(`${suite.name} against ${url} ended without a total:\n${stdout}\n${stderr}`);
    const checks = await readChecks(folder, scenariosOf(stdout));
    const all = count(checks);
    if (all.passed !== Number(total[1]) || all.failed !== Number(total[2])) {
      throw new Error(`${suite.name}: ${all.passed}/${all.failed} in its files, but it says ${total[0]}`);
    }
    const ofExtensions = new Set([...stdout.matchAll(extensionLine)].map(([, scenario]) => scenario));
    return {
      core: count(checks.filter(({ scenario }) => !ofExtensions.has(scenario))),
      extensions: count(checks.filter(({ scenario }) => ofExtensions.has(scenario))),
    };
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

const count = (checks: Check[]): Outcome => ({
  passed: checks.filter(({ status }) => status === 'SUCCESS').length,
  failed: checks.filter(({ status }) => status === 'FAILURE').length,
  checks,
});

const scenariosOf = (stdout: string) =>
  [...stdout.matchAll(/^[✓✗] (\S+): \d+ passed, \d+ failed/gm)].map(([, scenario]) => scenario!);

/** Each scenario's checks are in a folder of its own, named for it and the time. */
async function readChecks(folder: string, scenarios: string[]): Promise<Check[]> {
  const folders = await readdir(folder);
  const perScenario = await Promise.all(
    scenarios.map(async (scenario) => {
      const own = folders.find((name) => new RegExp(`^server-${scenario}-\\d{4}-`).test(name));
      if (!own) throw new Error(`No results of the scenario ${scenario} in ${folders.join(', ')}`);
      const written = JSON.parse(await readFile(join(folder, own, 'checks.json'), 'utf8')) as {
        id: string;
        name: string;
        status: Check['status'];
        errorMessage?: string;
      }[];
      const seen = new Map<string, number>();
      return written.map(({ id, name, status, errorMessage }) => {
        const label = `${scenario}: ${name} (${id})`;
        const nth = (seen.get(label) ?? 0) + 1;
        seen.set(label, nth);
        return {
          scenario,
          name: nth === 1 ? label : `${label} #${nth}`,
          status,
          ...(errorMessage && { error: errorMessage }),
        };
      });
    }),
  );
  return perScenario.flat();
}
