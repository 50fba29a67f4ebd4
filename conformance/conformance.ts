import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fixture } from '../test/e2e/engine.ts';
import { type GatewayProcess, startGateway } from '../test/e2e/gateway-process.ts';
import { root } from '../test/programs.ts';
import { compare, type Goal, type Result, shortfalls } from './report.ts';
import { type Outcome, runSuite, type Suite } from './suite.ts';

/** What is run, in this order, against the fixture directly and against it in a container behind the gateway, in both eras. */
const suites = {
  stable: {
    name: '0.1.16 active',
    revision: '2025-11-25',
    package: '@modelcontextprotocol/conformance',
    args: ['--suite', 'active'],
  },
  legacy: {
    name: '0.2.0-alpha.12',
    revision: '2025-11-25',
    package: 'conformance-next',
    args: ['--requirements', '2025-11-25'],
  },
  modern: {
    name: '0.2.0-alpha.12',
    revision: '2026-07-28',
    package: 'conformance-next',
    args: ['--requirements', '2026-07-28'],
  },
} satisfies Record<string, Suite>;

type Key = keyof typeof suites;
const keys = Object.keys(suites) as Key[];
const fixtures = ['legacy', 'modern'] as const;

/** A legacy server behind a modern client is held to its count; everything else to what passes directly too. */
const goals: Record<Key, Record<(typeof fixtures)[number], Goal>> = {
  stable: {
    legacy: { passed: 39, failed: 0, asDirect: true },
    modern: { passed: 39, failed: 0, asDirect: true },
  },
  legacy: {
    legacy: { passed: 82, failed: 0, asDirect: true },
    modern: { passed: 82, failed: 0, asDirect: true },
  },
  modern: {
    legacy: { passed: 148, failed: 2, asDirect: false },
    modern: { passed: 152, failed: 0, asDirect: true },
  },
};

/** A legacy server has no extensions; what one of them would say is reported and held to nothing. */
const extensionGoals: Record<(typeof fixtures)[number], Goal | undefined> = {
  legacy: undefined,
  modern: { passed: 44, failed: 0, asDirect: true },
};

type Outcomes = Record<Key, Awaited<ReturnType<typeof runSuite>>>;

/** Runs every suite against every target: the targets side by side, the suites of each one after the other. */
export async function runAll(
  progress: (line: string) => void,
): Promise<{ results: Result[]; problems: string[] }> {
  await using direct = await startFixture();
  await using gateway = await startBehindGateway();
  const against = async (target: string, url: string) => {
    const outcomes: Partial<Outcomes> = {};
    for (const key of keys) {
      const outcome = await runSuite(suites[key], url);
      outcomes[key] = outcome;
      const { core, extensions } = outcome;
      progress(`${target}: ${suites[key].name} ${suites[key].revision}: ${countOf(core)}`);
      if (extensions.checks.length > 0) progress(`${target}: extensions: ${countOf(extensions)}`);
      for (const { name, status, error } of [...core.checks, ...extensions.checks]) {
        if (status === 'FAILURE' || status === 'WARNING') progress(`  ${status} ${name}: ${error}`);
      }
    }
    return outcomes as Outcomes;
  };
  const [directly, legacy, modern] = await Promise.all([
    against('direct', direct.url),
    against('gateway, legacy fixture', `${gateway.url}/legacy/mcp`),
    against('gateway, modern fixture', `${gateway.url}/modern/mcp`),
  ]);
  const through = { legacy, modern };

  const results: Result[] = [];
  const problems: string[] = [];
  const add = (
    of: Pick<Result, 'suite' | 'revision' | 'fixture'>,
    pair: [direct: Outcome, gateway: Outcome],
    goal: Goal | undefined,
  ) => {
    const result = compare(of, ...pair);
    results.push(result);
    problems.push(...shortfalls(result, goal, pair[0]));
  };
  for (const key of keys) {
    for (const fixture of fixtures) {
      const { name: suite, revision } = suites[key];
      const pair = [directly[key], through[fixture][key]] as const;
      add({ suite, revision, fixture }, [pair[0].core, pair[1].core], goals[key][fixture]);
      if (pair[0].extensions.checks.length === 0) continue;
      add(
        { suite: `${suite}, tasks extension`, revision, fixture },
        [pair[0].extensions, pair[1].extensions],
        extensionGoals[fixture],
      );
    }
  }
  return { results, problems };
}

const countOf = ({ passed, failed }: Outcome) => `${passed} passed, ${failed} failed`;

/** The fixture over HTTP, without a gateway. */
async function startFixture(): Promise<AsyncDisposable & { url: string }> {
  const program = join(root, 'test/fixtures/servers/everything.mjs');
  const child = spawn(process.execPath, [program, '--http'], { stdio: ['ignore', 'pipe', 'inherit'] });
  const [url] = (await once(createInterface(child.stdout), 'line')) as [string];
  return {
    url,
    async [Symbol.asyncDispose]() {
      child.kill();
      await once(child, 'close');
    },
  };
}

/** A real gateway with the fixture in containers, once for each era. */
function startBehindGateway(): Promise<GatewayProcess> {
  const servers = fixtures.map((era) =>
    fixture(era, 'everything.mjs', {
      env: { ERA: era },
      idle_timeout: 'never',
      // The suite walks away from many a question, and a legacy server waits for the answer.
      ...(era === 'legacy' && { timeouts: { client: '250ms' } }),
    }),
  );
  return startGateway({
    config: `servers:\n${servers.join('')}`,
    discovered: true,
    env: { LOG_LEVEL: 'info' },
  });
}
