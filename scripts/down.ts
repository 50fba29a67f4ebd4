/** `make down`: ends the gateway that holds this directory's state, lets it drain, and removes what is left of its containers. */
import { type ExecFileSyncOptionsWithStringEncoding, execFileSync } from 'node:child_process';
import { readdir, readFile, stat } from 'node:fs/promises';
import { createConnection } from 'node:net';
import { join, resolve } from 'node:path';
import { text } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import { loadConfig } from '../src/config/load.ts';

const root = resolve(import.meta.dirname, '..');
const ANSWER_TIMEOUT_MS = 2_000;
const POLL_MS = 200;

const { stateDir, drainTimeoutMs } = await loadConfig({ mode: 'start' }).then(
  ({ gateway }) => gateway,
  // A servers.yaml that was broken since the start must not keep the gateway running.
  () => ({ stateDir: resolve(process.env.GATEWAY_STATE_DIR ?? join(root, 'state')), drainTimeoutMs: 30_000 }),
);

/** The pid that the lock in the state folder answers; undefined when no gateway holds it. */
async function holder(): Promise<number | undefined> {
  for (const name of await readdir(stateDir).catch(() => [])) {
    const path = join(stateDir, name);
    if (!(await stat(path)).isSocket()) continue;
    const socket = createConnection(path);
    socket.setTimeout(ANSWER_TIMEOUT_MS, () => socket.destroy());
    const pid = Number.parseInt(await text(socket).catch(() => ''), 10);
    if (pid > 0) return pid;
  }
  return undefined;
}

const isAlive = (pid: number) => {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
};

const pid = await holder();
if (pid === undefined) {
  console.log(`No gateway holds ${stateDir}.`);
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

const id = (await readFile(join(stateDir, 'id'), 'utf8').catch(() => '')).trim();
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
