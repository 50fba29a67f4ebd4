import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import Table from 'cli-table3';
import { root } from '../test/programs.ts';
import type { Outcome } from './suite.ts';

/** An entry of conformance/results.json: one suite, directly and through the gateway. */
export interface Result {
  suite: string;
  revision: string;
  /** The era in which the fixture behind the gateway is driven; directly it speaks the suite's own. */
  fixture: 'legacy' | 'modern';
  direct: Count;
  gateway: Count;
  /** The checks that failed through the gateway. */
  failures: string[];
  /** The checks that passed directly, and through the gateway were only warned of. */
  warnings: string[];
}

interface Count {
  passed: number;
  failed: number;
}

/** What a result is held to: at least so many passed, at most so many failed. */
export interface Goal {
  passed: number;
  failed: number;
  /** A failure is one too many though the count would allow it, unless it fails directly too. */
  asDirect: boolean;
}

export const resultsFile = join(root, 'conformance/results.json');

/** One suite's outcomes, beside each other. */
export function compare(
  of: Pick<Result, 'suite' | 'revision' | 'fixture'>,
  direct: Outcome,
  gateway: Outcome,
): Result {
  const passedDirectly = new Set(
    direct.checks.filter(({ status }) => status === 'SUCCESS').map(({ name }) => name),
  );
  const named = (status: string) => gateway.checks.filter((check) => check.status === status);
  return {
    ...of,
    direct: { passed: direct.passed, failed: direct.failed },
    gateway: { passed: gateway.passed, failed: gateway.failed },
    failures: named('FAILURE').map(({ name }) => name),
    warnings: named('WARNING')
      .filter(({ name }) => passedDirectly.has(name))
      .map(({ name }) => name),
  };
}

/** What is wrong with a result, in words; empty when it is as good as it must be. */
export function shortfalls(result: Result, goal: Goal | undefined, direct: Outcome): string[] {
  const of = `${result.suite}, ${result.revision}, ${result.fixture} fixture`;
  const problems: string[] = [];
  if (result.direct.failed > 0)
    problems.push(`${of}: ${result.direct.failed} failed directly: the fixture is wrong`);
  if (!goal) return problems;
  const { passed, failed } = result.gateway;
  if (passed < goal.passed) problems.push(`${of}: ${passed} passed, at least ${goal.passed} must`);
  if (failed > goal.failed) problems.push(`${of}: ${failed} failed, at most ${goal.failed} may`);
  if (goal.asDirect) {
    const failing = new Set(
      direct.checks.filter(({ status }) => status === 'FAILURE').map(({ name }) => name),
    );
    const worse = [...result.failures, ...result.warnings].filter((name) => !failing.has(name));
    problems.push(...worse.map((name) => `${of}: passes directly and not through the gateway: ${name}`));
  }
  return problems;
}

const cell = ({ passed, failed }: Count) => `${passed} / ${failed}`;
const rowOf = ({ suite, revision, fixture, direct, gateway }: Result) => [
  suite,
  revision,
  fixture,
  cell(direct),
  cell(gateway),
];
const head = ['suite', 'revision', 'fixture', 'direct', 'through the gateway'];

/** The results as a table for a terminal; counts are passed / failed. */
export function terminalTable(results: Result[]): string {
  const table = new Table({ head, style: { head: [], border: [] } });
  table.push(...results.map(rowOf));
  return table.toString();
}

/** The same as Markdown. */
export function markdownTable(results: Result[]): string {
  return [head, head.map(() => '---'), ...results.map(rowOf)]
    .map((cells) => `| ${cells.join(' | ')} |`)
    .join('\n');
}

export const readResults = async () => JSON.parse(await readFile(resultsFile, 'utf8')) as Result[];

export const writeResults = (results: Result[]) =>
  writeFile(resultsFile, `${JSON.stringify(results, null, 2)}\n`);
