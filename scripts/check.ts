/** `npm run check`: lint, format, types, layering and stale documents, side by side. Prints only what failed. */
import { spawn } from 'node:child_process';

const checks: Record<string, string[]> = {
  'lint and format': ['biome', 'check', '--error-on-warnings', '.'],
  types: ['tsc', '--noEmit', '-p', '.'],
  layering: ['vitest', 'run', '--reporter=dot', 'test/architecture.test.ts'],
  'generated documents': ['node', 'scripts/generate.ts', '--check'],
};

function run([command, ...args]: string[]): Promise<{ ok: boolean; output: string }> {
  return new Promise((resolve) => {
    const child = spawn(command!, args, { stdio: ['ignore', 'pipe', 'pipe'] });
    let output = '';
    child.stdout.on('data', (chunk) => (output += chunk));
    child.stderr.on('data', (chunk) => (output += chunk));
    child.on('error', (error) => resolve({ ok: false, output: `${error.message}: run npm ci first` }));
    child.on('close', (code) => resolve({ ok: code === 0, output }));
  });
}

const results = await Promise.all(
  Object.entries(checks).map(async ([name, command]) => {
    const startedAt = performance.now();
    const { ok, output } = await run(command);
    const seconds = ((performance.now() - startedAt) / 1000).toFixed(1);
    console.log(`${ok ? 'ok    ' : 'FAILED'} ${name} (${seconds} s)`);
    if (!ok) console.log(output.trimEnd());
    return ok;
  }),
);
process.exitCode = results.every(Boolean) ? 0 : 1;
