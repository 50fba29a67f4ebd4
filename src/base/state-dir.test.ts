import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { GatewayError } from './errors.ts';
import { openStateDir, stateDirHolder } from './state-dir.ts';

let folder: string;
const children: ChildProcess[] = [];

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'state-'));
});
afterEach(async () => {
  for (const child of children.splice(0)) child.kill('SIGKILL');
  await rm(folder, { recursive: true, force: true });
});

/** A process that opens the folder, says how that went, and holds it. */
async function otherGateway(directory: string) {
  const program = `
    import { openStateDir } from ${JSON.stringify(import.meta.resolve('./state-dir.ts'))};
    setInterval(() => {}, 1000);
    try {
      const state = await openStateDir(process.argv[1]);
      console.log(JSON.stringify({ id: state.id }));
    } catch (error) {
      console.log(JSON.stringify({ code: error.code, message: error.message, pid: error.data?.pid }));
    }`;
  const child = spawn(process.execPath, ['--input-type=module', '-e', program, directory], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  children.push(child);
  const [line] = await once(createInterface(child.stdout!), 'line');
  return {
    ...(JSON.parse(line) as { id?: string; code?: string; message?: string; pid?: number }),
    child,
    async kill(signal: NodeJS.Signals) {
      child.kill(signal);
      await once(child, 'exit');
    },
  };
}

const refusal = async (directory: string) =>
  openStateDir(directory).then(
    () => undefined,
    (error: GatewayError) => error,
  );

describe('openStateDir', () => {
  it('makes the folder and keeps id and key, for the owner alone', async () => {
    const directory = join(folder, 'a/b/state');
    const first = await openStateDir(directory);
    expect(first.id).toMatch(/^[0-9a-f]{12}$/);
    expect(first.key).toHaveLength(32);
    expect(first.path('logs', 'x.log')).toBe(join(directory, 'logs/x.log'));
    await first.release();
    const second = await openStateDir(directory);
    expect([second.id, second.key]).toEqual([first.id, first.key]);
    await second.release();

    expect((await stat(directory)).mode & 0o777).toBe(0o700);
    for (const name of ['gateway-id', 'signing-key']) {
      expect((await stat(join(directory, name))).mode & 0o777).toBe(0o600);
    }
    const other = await openStateDir(join(folder, 'other'));
    expect(other.id).not.toBe(first.id);
    expect(other.key).not.toEqual(first.key);
    await other.release();
  });

  it('replaces an id or key that is damaged', async () => {
    await writeFile(join(folder, 'gateway-id'), '');
    await writeFile(join(folder, 'signing-key'), 'short');
    await using state = await openStateDir(folder);
    expect(state.key).toHaveLength(32);
    expect(await readFile(join(folder, 'gateway-id'), 'utf8')).toBe(`${state.id}\n`);
  });

  it('is refused while another has it, naming its pid, and free after its release', async () => {
    const first = await openStateDir(folder);
    const error = await refusal(folder);
    expect(error?.code).toBe('state_locked');
    expect(error?.message).toContain(`pid ${process.pid}`);
    expect(await stateDirHolder(folder)).toBe(process.pid);
    await first.release();
    await first.release();
    expect(await stateDirHolder(folder)).toBeUndefined();
    await using again = await openStateDir(folder);
    expect(again.id).toBe(first.id);
  });

  it('is refused by another process, and taken over when that was killed', async () => {
    const other = await otherGateway(folder);
    expect(other.id).toBeDefined();
    const error = await refusal(folder);
    expect(error?.data).toEqual({ pid: other.child.pid });
    expect(error?.hint).toContain(`kill ${other.child.pid}`);
    await other.kill('SIGKILL');
    expect((await readdir(folder)).filter((name) => name.endsWith('.sock'))).toHaveLength(1);
    await using state = await openStateDir(folder);
    expect(state.id).toBe(other.id);
  });

  it('is not taken from a process that is stopped', async () => {
    const other = await otherGateway(folder);
    other.child.kill('SIGSTOP');
    const error = await refusal(folder);
    expect(error?.code).toBe('state_locked');
    expect(error?.message).toContain('does not answer');
  });

  it('has one winner of many that start at once over a dead lock', async () => {
    for (let round = 0; round < 3; round += 1) {
      const dead = await otherGateway(folder);
      expect(dead.code).toBeUndefined();
      await dead.kill('SIGKILL');
      const starters = await Promise.all(Array.from({ length: 6 }, () => otherGateway(folder)));
      const winners = starters.filter((starter) => starter.id !== undefined);
      expect(winners).toHaveLength(1);
      for (const loser of starters.filter((starter) => starter !== winners[0])) {
        expect(loser).toMatchObject({ code: 'state_locked', pid: winners[0]!.child.pid });
      }
      await Promise.all(starters.map((starter) => starter.kill('SIGKILL')));
    }
    await using _state = await openStateDir(folder);
    expect((await readdir(folder)).sort()).toEqual([
      'gateway-id',
      expect.stringMatching(/^lock\.\d+\.sock$/),
      'signing-key',
    ]);
  });

  it('has one winner of many in one process, again and again', async () => {
    for (let round = 0; round < 20; round += 1) {
      const outcomes = await Promise.allSettled(Array.from({ length: 10 }, () => openStateDir(folder)));
      const open = outcomes.filter((outcome) => outcome.status === 'fulfilled');
      expect(open).toHaveLength(1);
      await open[0]!.value.release();
    }
  });

  it('works in a folder whose path is longer than a socket address', async () => {
    const deep = join(
      folder,
      ...Array.from({ length: 6 }, (_, i) => `${i}-a-rather-long-name-of-a-folder-ü`),
    );
    expect(Buffer.byteLength(deep)).toBeGreaterThan(200);
    const other = await otherGateway(deep);
    expect(other.id).toBeDefined();
    expect((await refusal(deep))?.data).toEqual({ pid: other.child.pid });
    await other.kill('SIGKILL');
    await using state = await openStateDir(deep);
    expect(state.id).toBe(other.id);
    expect((await refusal(deep))?.data).toEqual({ pid: process.pid });
  });

  it('says what is wrong with a folder that cannot be made', async () => {
    await writeFile(join(folder, 'file'), '');
    const error = await refusal(join(folder, 'file/state'));
    expect(error?.code).toBe('config_invalid');
    expect(error?.message).toContain(join(folder, 'file/state'));
    expect(error?.hint).toContain('GATEWAY_STATE_DIR');
  });
});
