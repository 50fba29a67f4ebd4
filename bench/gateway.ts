import { cp, readFile, rm, symlink } from 'node:fs/promises';
import { join } from 'node:path';
import { type GatewayProcess, startGateway } from '../test/e2e/gateway-process.ts';
import { root, run, temporaryFolder } from '../test/programs.ts';
import { eventually } from '../test/waiting.ts';
import { engine } from './floor.ts';
import { LoadClient } from './load.ts';

/** What Node is told to run. */
export type Program = [command: string, ...args: string[]];

export const fromCheckout: Program = [process.execPath, join(root, 'bin/mcp-gateway.js')];

/** A build that nobody else's build replaces while it is measured. */
export interface Build extends AsyncDisposable {
  program: Program;
}

/** The gateway as it is shipped. */
export async function shipped(): Promise<Build> {
  const folder = await temporaryFolder();
  await build(root);
  await cp(join(root, 'dist'), join(folder, 'dist'), { recursive: true });
  await cp(join(root, 'package.json'), join(folder, 'package.json'));
  await symlink(join(root, 'node_modules'), join(folder, 'node_modules'));
  return {
    program: [process.execPath, join(folder, 'dist/main.js')],
    [Symbol.asyncDispose]: () => rm(folder, { recursive: true, force: true }),
  };
}

/** The gateway as it was at a commit, built with the packages of now. */
export async function shippedAt(commit: string): Promise<Build> {
  const folder = join(await temporaryFolder(), 'earlier');
  const git = async (...args: string[]) => {
    const { code, stderr } = await run('git', args, { cwd: root });
    if (code !== 0) throw new Error(stderr);
  };
  await git('worktree', 'add', '--detach', folder, commit);
  await symlink(join(root, 'node_modules'), join(folder, 'node_modules'));
  await build(folder);
  return {
    program: [process.execPath, join(folder, 'dist/main.js')],
    [Symbol.asyncDispose]: () => git('worktree', 'remove', '--force', folder),
  };
}

async function build(folder: string): Promise<void> {
  const { code, stdout, stderr } = await run('npm', ['run', '--silent', 'build'], { cwd: folder });
  if (code !== 0) throw new Error(stdout + stderr);
}

/** Runs a gateway while `measure` runs, with every server discovered. */
export async function withGateway(
  program: Program,
  config: string,
  measure: (gateway: GatewayProcess, client: LoadClient) => Promise<void>,
): Promise<void> {
  await using gateway = await startGateway({ config, program, discovered: true, env: { LOG_LEVEL: 'warn' } });
  const client = await LoadClient.connect(`${gateway.url}/mcp`);
  try {
    await measure(gateway, client);
  } finally {
    client.close();
  }
}

/** Parameters of a call of a fixture's tool `echo`, through the gateway. */
export const echo = (server: string) => ({ name: `${server}__echo`, arguments: { text: 'x' } });
/** The same for the server itself. */
export const rawEcho = { name: 'echo', arguments: { text: 'x' } };

/** States of a server's containers as the engine gives them, joined. */
export async function containerStates(gatewayId: string, server: string): Promise<string> {
  const label = [`mcp-gateway.gateway=${gatewayId}`, `mcp-gateway.server=${server}`];
  const containers = await engine.listContainers({ all: true, filters: { label } });
  return containers.map(({ State }) => State).join();
}

/** Resolves when a server has no instance and nothing of it is being removed any more. */
export async function stopped(gateway: GatewayProcess, server: string): Promise<void> {
  const id = await gateway.id();
  const isAtRest = async () => {
    const status = await fetch(`${gateway.url}/servers/${server}`);
    const { instances } = (await status.json()) as { instances: unknown[] };
    return instances.length === 0 && !/removing|exited|dead/.test(await containerStates(id, server));
  };
  await eventually(isAtRest, (atRest) => atRest);
}

/** Resident memory of a process in MB. */
export async function residentMegabytes(pid: number): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8');
  return Number(/VmRSS:\s+(\d+) kB/.exec(status)![1]) / 1024;
}

/** CPU time of a process so far, user and system, in microseconds. */
export async function cpuMicroseconds(pid: number): Promise<number> {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8');
  // The program's name, in parentheses, may hold anything.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  const ticks = Number(fields[11]) + Number(fields[12]);
  return ticks * 10_000;
}
