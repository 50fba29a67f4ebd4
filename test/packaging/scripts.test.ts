import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { root, run, temporaryFolder } from '../programs.ts';

const scripts = (await readdir(join(root, 'scripts'), { recursive: true })).filter((name) =>
  name.endsWith('.sh'),
);
const hasShellcheck = (await run('sh', ['-c', 'command -v shellcheck'])).code === 0;

describe('scripts', () => {
  it.each(scripts)('%s is valid shell', async (name) => {
    const checked = await run('bash', ['-n', join(root, 'scripts', name)]);
    expect(checked, checked.stderr).toMatchObject({ code: 0 });
  });

  it.skipIf(!hasShellcheck)('pass shellcheck', async () => {
    const checked = await run(
      'shellcheck',
      scripts.map((name) => join(root, 'scripts', name)),
    );
    expect(checked, checked.stdout).toMatchObject({ code: 0 });
  });
});

describe('make', () => {
  it('lists targets that exist, each with what it does', async () => {
    const help = await run('make', ['help'], { cwd: root });
    const targets = help.stdout
      .trimEnd()
      .split('\n')
      .map((line) => /^ {2}([a-z-]+) +\S/.exec(line)?.[1]);
    expect(targets).toEqual(
      expect.arrayContaining(['up', 'down', 'status', 'engine', 'test', 'images', 'bench']),
    );
    for (const target of targets) {
      const planned = await run('make', ['--dry-run', target!], { cwd: root });
      expect(planned, `${target}: ${planned.stderr}`).toMatchObject({ code: 0 });
    }
  });

  it('installs nothing when the packages of the lock file are there', async () => {
    const installed = await run(join(root, 'scripts/install-packages.sh'), []);
    expect(installed).toEqual({ code: 0, stdout: '', stderr: '' });
  });
});

describe('the closing line of a test run', () => {
  const report = (files: object[], success: boolean) => JSON.stringify({ success, testResults: files });
  const file = (name: string, ...statuses: string[]) => ({
    name,
    status: statuses.includes('failed') ? 'failed' : 'passed',
    assertionResults: statuses.map((status, index) => ({ status, fullName: `test ${index}` })),
  });

  async function count(check: string, ...reports: string[]) {
    const folder = await temporaryFolder();
    const files = await Promise.all(
      reports.map(async (text, index) => {
        const path = join(folder, `${index}.json`);
        await writeFile(path, text);
        return path;
      }),
    );
    const counted = await run('node', [join(root, 'scripts/count-tests.mjs'), check, ...files]);
    return { code: counted.code, last: counted.stdout.trimEnd().split('\n').at(-1), all: counted.stdout };
  }

  it('counts every test, and the check as one', async () => {
    const result = await count(
      'passed',
      report([file('a', 'passed', 'passed'), file('b', 'pending', 'passed')], true),
    );
    expect(result).toMatchObject({ code: 0, last: '4 passed, 0 failed' });
    expect(result.all).toContain('1 skipped');
  });

  it('fails when a test, a file, the check or the run itself failed', async () => {
    expect(await count('passed', report([file('a', 'failed', 'passed')], false))).toMatchObject({
      code: 1,
      last: '2 passed, 1 failed',
    });
    expect(await count('failed', report([file('a', 'passed')], true))).toMatchObject({
      code: 1,
      last: '1 passed, 1 failed',
    });
    const unloadable = { ...file('a'), status: 'failed' };
    expect(await count('passed', report([unloadable], false))).toMatchObject({
      code: 1,
      last: '1 passed, 1 failed',
    });
    expect(await count('passed', report([file('a', 'passed')], false))).toMatchObject({
      code: 1,
      last: '2 passed, 1 failed',
    });
    const missing = await run('node', [
      join(root, 'scripts/count-tests.mjs'),
      'passed',
      '/nowhere/vitest.json',
    ]);
    expect(missing).toMatchObject({ code: 1 });
    expect(missing.stdout.trimEnd().split('\n').at(-1)).toBe('1 passed, 1 failed');
  });

  it('is what CI runs', async () => {
    expect(await readFile(join(root, '.ci/run'), 'utf8')).toContain('make test');
  });
});
