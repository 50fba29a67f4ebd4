/** `make down`: ends the gateway that holds this directory's state, lets it drain, and removes what is left of its containers. */
import { type ExecFileSyncOptionsWithStringEncoding, execFileSync } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { stateDirHolder } from '../src/base/state-dir.ts';
import { loadConfig } from '../src/config/load.ts';

const root = resolve(import.meta.dirname, '..');
const POLL_MS = 200;

const { stateDir, drainTimeoutMs } = await loadConfig({ mode: 'start' }).then(
  ({ gateway }) => gateway,
  // A servers.yaml that was broken since the start must not keep the gateway running.
  () => ({ stateDir: resolve(process.env.GATEWAY_STATE_DIR ?? join(root, 'state')), drainTimeoutMs: 30_000 }),
);

const isAlive = (pid: number) => {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
};

const pid = await stateDirHolder(stateDir);
if (pid === undefined) {
  console.log(`No gateway holds ${stateDir}.`);
} else if (pid === 0) {
  // It answers, but not who it is.
  console.error(`A gateway holds ${stateDir} and does not say its pid; stop it where it was started.`);
  process.exit(1);
} else {
  console.log(`Stopping the gateway (pid ${pid}); calls in flight get at most ${drainTimeoutMs / 1000} s …`);
  process.kill(pid, 'SIGTERM');
  const deadline = Date.now() + drainTimeoutMs + 10_000;
  while (isAlive(pid) && Date.now() < deadline) await sleep(POLL_MS);
  if (isAlive(pid)) {
    console.log('It is still there; ending it now.');
    process.kill(pid, 'SIGKILL');
  }
}

const id = (await readFile(join(stateDir, 'gateway-id'), 'utf8').catch(() => '')).trim();
const engine = (() => {
  try {
    const options: ExecFileSyncOptionsWithStringEncoding = {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
    };
    return execFileSync(join(root, 'scripts/ensure-docker.sh'), ['--find', '--print'], options).trim();
  } catch {
    return undefined;
  }
})();
if (id !== '' && engine !== undefined) {
  execFileSync(
    'node',
    [join(root, 'scripts/engine-api.mjs'), 'remove-containers', `mcp-gateway.gateway=${id}`],
    {
      env: { ...process.env, DOCKER_HOST: engine },
      stdio: 'inherit',
    },
  );
}
console.log('Down.');
