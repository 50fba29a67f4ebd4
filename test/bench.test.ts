import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Goal, isReached, wordsOf } from '../bench/goals.ts';
import { fixtures } from './harness.ts';
import { root, run } from './programs.ts';

const bench = (...args: string[]) => run(process.execPath, [join(root, 'bench/run.ts'), ...args]);

describe('the goals of the bench', () => {
  const goal: Goal = { unit: 'ms', value: { atMost: 25 }, ratio: { atMost: 3 }, engine: /^20\.10\./ };

  it('hold when the figure itself and what it is by its floor are within their limits', () => {
    expect(isReached(goal, { value: 25, ratio: 3 }, '20.10.24')).toBe(true);
    expect(isReached(goal, { value: 26, ratio: 3 }, '20.10.24')).toBe(false);
    expect(isReached(goal, { value: 25, ratio: 3.1 }, '20.10.24')).toBe(false);
    expect(isReached(goal, { value: 25, ratio: undefined }, '20.10.24')).toBe(false);
    expect(isReached({ unit: '1/s', ratio: { atLeast: 0.8 } }, { value: 9, ratio: 0.79 }, '')).toBe(false);
  });

  it('promise nothing on other engines, or where there is no limit', () => {
    expect(isReached(goal, { value: 99, ratio: 9 }, '29.0.1')).toBeUndefined();
    expect(isReached({ unit: 'ms' }, { value: 99, ratio: undefined }, '20.10.24')).toBeUndefined();
    expect(wordsOf(goal, '29.0.1')).toBe('–');
    expect(wordsOf(goal, '20.10.24')).toBe('≤ 25 ms and ≤ 3 × floor');
  });
});

describe('npm run bench -- --against', () => {
  const server = spawn(process.execPath, [`${fixtures}everything.mjs`, '--http', '0'], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const website = createServer((_, response) => response.end('<!doctype html><p>Hello'));
  let url = '';
  let websiteUrl = '';

  beforeAll(async () => {
    const [line] = await once(server.stdout, 'data');
    url = /http:\S+/.exec(String(line))![0];
    website.listen(0, '127.0.0.1');
    await once(website, 'listening');
    websiteUrl = `http://127.0.0.1:${(website.address() as AddressInfo).port}/mcp`;
  });

  afterAll(() => {
    server.kill();
    website.close();
  });

  it('measures an endpoint in each era that it speaks', async () => {
    const { code, stdout } = await bench('--against', url);
    expect(code, stdout).toBe(0);
    expect(stdout).toMatch(/^era +modern, 2026-07-28 +legacy, 2025-11-25$/m);
    expect(stdout).toMatch(/^tools\/list, p50 +[\d.]+ ms \(\d+ tools\) +[\d.]+ ms \(\d+ tools\)$/m);
    expect(stdout).toMatch(/^tool +echo +echo$/m);
    expect(stdout).toMatch(/^warm call, p50 +[\d.]+ ms +[\d.]+ ms$/m);
    expect(stdout).toMatch(/^calls\/s, 32 at once +\d+ +\d+$/m);
  });

  it('says what is wrong in one line, and exits with 1', async () => {
    const wrong: [args: string[], line: RegExp][] = [
      [['--against', 'nowhere'], /--against is "nowhere"; expected a URL/],
      [['--against', 'http://127.0.0.1:1/mcp'], /No MCP endpoint at .*ECONNREFUSED/],
      [['--against', websiteUrl], /No MCP endpoint at .*doctype/],
      [['--against', url, '--tool', 'nothing'], /The tool nothing failed: .*Unknown tool/],
      [['--against', url, '--tool', 'fail'], /The tool fail failed: .*"isError":true/],
      [['--against', url, '--args', '{'], /--args is "{"; expected JSON/],
    ];
    for (const [args, line] of wrong) {
      const { code, stderr } = await bench(...args);
      expect(stderr).toMatch(line);
      expect(stderr.trim().split('\n')).toHaveLength(1);
      expect(code).toBe(1);
    }
  });
});
