import { readdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import type { ProcessServer } from '../../src/config/schema.ts';
import { inherited, ProcessRuntime } from '../../src/runtimes/process.ts';
import { gatewayVariable, type Subject } from '../runtime-contract.ts';

const programs = path.join(import.meta.dirname, '../fixtures/servers');

/** The process runtime as the contract suite sees it. */
/** Processes that were seen with a gateway's mark. */
const marked = new Set<string>();

const isAlive = async (pid: string) =>
  /^\d+ \(.*\) [^ZX]/s.test(await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => ''));

export const subject: Subject = {
  name: 'process',
  makeRuntime: ({ gateway, stateDir }) => new ProcessRuntime({ gateway, stateDir }),
  fixture: (program, common): ProcessServer => ({
    ...common,
    type: 'process',
    command: [process.execPath, `${program}.mjs`],
    workingDir: programs,
  }),
  missingCommand: (common): ProcessServer => ({
    ...common,
    type: 'process',
    command: ['no-such-command', 'serve'],
    workingDir: programs,
  }),
  async running(gatewayId) {
    const mark = `${gatewayVariable}=${gatewayId}`;
    const names: string[] = [];
    for (const pid of await readdir('/proc')) {
      const environment = await readFile(`/proc/${pid}/environ`, 'utf8').catch(() => '');
      if (environment.split('\0').includes(mark)) marked.add(pid);
      // One that is just ending has lost its environment already, and is not gone before it has a state no more.
      else if (environment !== '' || !(await isAlive(pid))) marked.delete(pid);
      if (marked.has(pid)) names.push(`pid ${pid}`);
    }
    return names;
  },
  async kill(instance) {
    process.kill(Number(instance.replace('pid ', '')), 'SIGKILL');
  },
  standardVariables: inherited,
};
