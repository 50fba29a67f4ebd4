import { readdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import type { ProcessServer } from '../../src/config/schema.ts';
import { inherited, ProcessRuntime } from '../../src/runtimes/process.ts';
import { gatewayVariable, type Subject } from '../runtime-contract.ts';

const programs = path.join(import.meta.dirname, '../fixtures/servers');

/** The process runtime as the contract suite sees it. */
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
      if (environment.split('\0').includes(mark)) names.push(`pid ${pid}`);
    }
    return names;
  },
  async kill(instance) {
    process.kill(Number(instance.replace('pid ', '')), 'SIGKILL');
  },
  standardVariables: inherited,
};
