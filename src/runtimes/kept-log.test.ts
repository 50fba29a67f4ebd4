import { mkdtemp, rm, stat } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { KeptLog } from './kept-log.ts';

let stateDir: string;
beforeEach(async () => {
  stateDir = await mkdtemp(path.join(os.tmpdir(), 'kept-log-'));
});
afterEach(() => rm(stateDir, { recursive: true, force: true }));

describe('KeptLog', () => {
  it('keeps the order of what came at once, for each server by itself, and outlives its process', async () => {
    const log = new KeptLog(stateDir);
    expect(await log.read('a', 5)).toEqual([]);
    await Promise.all([log.append('a', ['1', '2']), log.append('b', ['other']), log.append('a', ['3'])]);
    expect(await new KeptLog(stateDir).read('a', 2)).toEqual(['2', '3']);
    expect(await log.read('a', 10)).toEqual(['1', '2', '3']);
    expect(await log.read('a', 0)).toEqual([]);
    expect(await log.read('b', 10)).toEqual(['other']);
  });

  it('is bounded: the oldest whole lines go, and nobody else may read it', async () => {
    const log = new KeptLog(stateDir);
    for (let round = 0; round < 20; round += 1) {
      await log.append(
        'a',
        Array.from({ length: 100 }, (_, line) => `round ${round} line ${line} ${'x'.repeat(80)}`),
      );
    }
    const file = path.join(stateDir, 'logs/a.log');
    const { size, mode } = await stat(file);
    expect(size).toBeLessThanOrEqual(65_536);
    expect(size).toBeGreaterThan(60_000);
    expect(mode & 0o777).toBe(0o600);
    const lines = await log.read('a', 10_000);
    expect(lines[0]).toMatch(/^round \d+ line \d+ x{80}$/);
    expect(lines.at(-1)).toMatch(/^round 19 line 99 /);
  });
});
