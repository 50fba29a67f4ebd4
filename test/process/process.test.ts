import { type ChildProcess, spawn } from 'node:child_process';
import { chmod, mkdir, mkdtemp, readdir, readFile, rm, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { GatewayError } from '../../src/base/errors.ts';
import type { ProcessServer } from '../../src/config/schema.ts';
import { ProcessRuntime } from '../../src/runtimes/process.ts';
import { findProcess } from '../../src/runtimes/process-table.ts';
import { openGateway, Peer } from '../runtime-contract.ts';
import { subject } from './subject.ts';

let folder: string;
let gateway: Awaited<ReturnType<typeof openGateway>>;
const strangers: ChildProcess[] = [];

beforeEach(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'process-'));
  gateway = await openGateway(subject);
});
afterEach(async () => {
  for (const child of strangers.splice(0)) child.kill('SIGKILL');
  await gateway[Symbol.asyncDispose]();
  await rm(folder, { recursive: true, force: true });
});

const server = (command: string[], env: Record<string, string> = {}): ProcessServer => ({
  ...gateway.common('own', env),
  type: 'process',
  command,
  workingDir: folder,
});
const refusal = (command: string[]) =>
  gateway.start(server(command)).then(
    () => undefined,
    (error: GatewayError) => error,
  );
const notes = () => readdir(path.join(gateway.options.stateDir, 'processes')).catch(() => []);
const tiny = path.join(import.meta.dirname, '../fixtures/servers/tiny.mjs');
const stubborn = path.join(import.meta.dirname, '../fixtures/servers/ignores-sigterm.mjs');

describe('the group of a process', () => {
  it('ends as a whole: what a server starts does not outlive it', async () => {
    const script = `sleep 1000 & sleep 1000 & exec "${process.execPath}" "${tiny}"`;
    const peer = await gateway.start(server(['sh', '-c', script]));
    expect(await peer.call('echo', { text: 'x' })).toBe('x');
    await expect.poll(() => gateway.running()).toHaveLength(3);
    await peer.instance.stop({ graceMs: 5000 });
    await expect.poll(() => gateway.running()).toEqual([]);
  });

  it('ends when its first process ends by itself, though another still holds its output', async () => {
    const peer = await gateway.start(server(['sh', '-c', 'sleep 1000 & echo last words >&2; exit 4']));
    expect(await peer.instance.exited).toMatchObject({ code: 4 });
    expect(peer.instance.stderrTail()).toEqual(['last words']);
    await expect.poll(() => gateway.running()).toEqual([]);
  });

  it('is given up in bounded time when one has left it and holds its output', async () => {
    const peer = await gateway.start(server(['sh', '-c', 'setsid sleep 1000 & sleep 0.2; exit 4']));
    expect(await peer.instance.exited).toMatchObject({ code: 4 });
    for (const name of await gateway.running()) await subject.kill(name);
  });

  it('is frozen and measured as a whole', async () => {
    const script = `"${process.execPath}" -e 'for(;;);' & exec "${process.execPath}" "${tiny}"`;
    const peer = await gateway.start(server(['sh', '-c', script]));
    await peer.call('echo', { text: 'x' });
    await peer.instance.stats();
    await new Promise((resolve) => setTimeout(resolve, 500));
    expect((await peer.instance.stats()).cpuPercent).toBeGreaterThan(5);
    await peer.instance.pause();
    await peer.instance.stats();
    await new Promise((resolve) => setTimeout(resolve, 500));
    expect((await peer.instance.stats()).cpuPercent).toBeLessThan(2);
  });
});

describe('a process that cannot start', () => {
  it('names the path where nothing is', async () => {
    const error = await refusal(['./server.sh']);
    expect(error?.code).toBe('start_failed');
    expect(error?.message).toBe('Server own: command ./server.sh was not found');
    expect(error?.hint).toContain(path.join(folder, 'server.sh'));
  });

  it('names PATH for a bare command', async () => {
    const error = await refusal(['no-such-command']);
    expect(error?.hint).toContain(process.env.PATH);
  });

  it('says that a file is not executable', async () => {
    await writeFile(path.join(folder, 'server.sh'), '#!/bin/sh\n', { mode: 0o644 });
    const error = await refusal(['./server.sh']);
    expect(error?.message).toContain('./server.sh is not executable');
    expect(error?.hint).toContain('chmod +x ./server.sh');
  });

  it('says that the interpreter of a script is missing', async () => {
    await writeFile(path.join(folder, 'server.sh'), '#!/usr/bin/no-such-interpreter\n');
    await chmod(path.join(folder, 'server.sh'), 0o755);
    expect((await refusal(['./server.sh']))?.message).toContain('first line of ./server.sh');
  });

  it('names a working_dir that is no folder, not the command', async () => {
    const missing = { ...server([process.execPath, tiny]), workingDir: path.join(folder, 'none') };
    await expect(gateway.start(missing)).rejects.toThrow(
      `working_dir ${path.join(folder, 'none')} is no folder`,
    );
  });

  it('is told apart from arguments that no program can have', async () => {
    expect((await refusal([process.execPath, 'a\0b']))?.code).toBe('start_failed');
    expect((await refusal([process.execPath, 'x'.repeat(4_000_000)]))?.code).toBe('start_failed');
    expect(await gateway.running()).toEqual([]);
  });
});

describe('what is known of processes after a sudden death', () => {
  it('is on disk as long as they run', async () => {
    const peer = await gateway.start(server([process.execPath, tiny], { TOKEN: 'secret' }));
    const pid = Number(peer.instance.name.replace('pid ', ''));
    expect(await notes()).toEqual([`${pid}.json`]);
    const note = await readFile(path.join(gateway.options.stateDir, 'processes', `${pid}.json`), 'utf8');
    expect(note).not.toContain('secret');
    await peer.instance.stop({ graceMs: 5000 });
    expect(await notes()).toEqual([]);
  });

  it('never kills a process that was given the pid of another', async () => {
    const stranger = spawn('sleep', ['1000'], { detached: true, stdio: 'ignore' });
    strangers.push(stranger);
    const found = await findProcess(stranger.pid!);
    const directory = path.join(gateway.options.stateDir, 'processes');
    await mkdir(directory, { recursive: true });
    const file = path.join(directory, `${stranger.pid}.json`);
    for (const note of [
      { server: 'own', startedAt: `${found?.startedAt}0` },
      { server: 'own', startedAt: found?.startedAt.replace(/^./, (c) => (c === '0' ? '1' : '0')) },
      { server: 'own' },
      'damaged',
    ]) {
      await writeFile(file, typeof note === 'string' ? note : JSON.stringify(note));
      expect(await gateway.runtime.sweep()).toEqual({ removed: [] });
      expect(await notes()).toEqual([]);
    }
    expect(stranger.exitCode).toBeNull();
    expect((await findProcess(stranger.pid!))?.startedAt).toBe(found?.startedAt);
    await writeFile(file, JSON.stringify({ server: 'own', startedAt: found?.startedAt }));
    expect(await gateway.runtime.sweep()).toEqual({ removed: [`pid ${stranger.pid} (own)`] });
  });

  it('ends the whole group of a stubborn one', async () => {
    const script = `sleep 1000 & "${process.execPath}" "${stubborn}"; true`;
    const peer = await gateway.start(server(['sh', '-c', script]));
    await peer.request('ping');
    const later = new ProcessRuntime(gateway.options);
    expect((await later.sweep()).removed).toEqual([`${peer.instance.name} (own)`]);
    await expect.poll(() => gateway.running()).toEqual([]);
  });
});

describe('the digest', () => {
  const digest = async (command: string[], env?: Record<string, string>) =>
    (await gateway.runtime.prepare(server(command, env), {})).digest;

  it('changes with the command, and with the files that the command names', async () => {
    const file = path.join(folder, 'server.mjs');
    await writeFile(file, 'one');
    const first = await digest(['node', 'server.mjs']);
    expect(await digest(['node', 'server.mjs'])).toBe(first);
    expect(await digest(['node', 'server.mjs'], { KEY: 'of no matter to what runs' })).toBe(first);
    expect(await digest(['node', 'server.mjs', '--stdio'])).not.toBe(first);
    await utimes(file, 1000, 1000);
    expect(await digest(['node', 'server.mjs'])).not.toBe(first);
  });
});

describe('the environment', () => {
  it('has the proxy and the certificates of the gateway', async () => {
    const own = await openGateway(subject, { proxy: 'http://proxy:3128', ca_certificates: '/etc/ca.pem' });
    const everything = own.fixture('everything');
    const peer = await (await own.start(everything)).initialize();
    expect(await peer.call('env', { name: 'HTTPS_PROXY' })).toBe('http://proxy:3128');
    expect(await peer.call('env', { name: 'NODE_EXTRA_CA_CERTS' })).toBe('/etc/ca.pem');
    await own[Symbol.asyncDispose]();
  });

  it('may replace what is inherited', async () => {
    const runtime = new ProcessRuntime({
      ...gateway.options,
      environment: { PATH: '/nowhere', HOME: '/root' },
    });
    await expect(Peer.start(runtime, server(['sh', '-c', 'true']))).rejects.toThrow(
      'command sh was not found',
    );
    const peer = await Peer.start(
      runtime,
      server(['sh', '-c', 'echo "$PATH" >&2'], { PATH: '/usr/bin:/bin' }),
    );
    await peer.instance.exited;
    expect(peer.instance.stderrTail()).toEqual(['/usr/bin:/bin']);
  });
});
