import { execFile } from 'node:child_process';
import { readdir, readFile } from 'node:fs/promises';
import { promisify } from 'node:util';

/** What the operating system says of a process. */
export interface ProcessRow {
  pid: number;
  /** The process group: that of its leader's pid. */
  group: number;
  /** It is dead and waits for its parent to notice. */
  isZombie: boolean;
  residentBytes: number;
  /** Processor time used so far. */
  cpuMs: number;
  /** Tells it from an earlier or later process with the same pid. */
  startedAt: string;
}

/** Linux counts processor time and start times in this unit, whatever the kernel's own tick (`getconf CLK_TCK`). */
const ticksPerSecond = 100;

/** Every process of this machine, or of this container, that can be seen. */
export async function listProcesses(): Promise<ProcessRow[]> {
  return process.platform === 'linux' ? listFromProc() : listFromPs();
}

/** One process, undefined when there is none with this pid. */
export async function findProcess(pid: number): Promise<ProcessRow | undefined> {
  if (process.platform !== 'linux') return (await listFromPs()).find((row) => row.pid === pid);
  return rowFromProc(String(pid), await bootId());
}

async function listFromProc(): Promise<ProcessRow[]> {
  const boot = await bootId();
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name));
  const rows = await Promise.all(pids.map((pid) => rowFromProc(pid, boot)));
  return rows.filter((row) => row !== undefined);
}

/** Fields as in proc_pid_stat(5); the second, the name, may hold spaces and parentheses. */
async function rowFromProc(pid: string, boot: string): Promise<ProcessRow | undefined> {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => undefined);
  if (stat === undefined) return undefined;
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  const field = (number: number) => fields[number - 3] ?? '';
  // Not from `statm` or `stat`, which count in pages of a size that differs between machines.
  const status = await readFile(`/proc/${pid}/status`, 'utf8').catch(() => '');
  return {
    pid: Number(pid),
    group: Number(field(5)),
    isZombie: field(3) === 'Z' || field(3) === 'X',
    residentBytes: Number(/^VmRSS:\s*(\d+) kB$/m.exec(status)?.[1] ?? 0) * 1024,
    cpuMs: ((Number(field(14)) + Number(field(15))) * 1000) / ticksPerSecond,
    startedAt: `${boot} ${field(22)}`,
  };
}

async function bootId(): Promise<string> {
  return (await readFile('/proc/sys/kernel/random/boot_id', 'utf8').catch(() => '')).trim();
}

async function listFromPs(): Promise<ProcessRow[]> {
  const columns = ['pid=', 'pgid=', 'state=', 'rss=', 'time=', 'lstart='].flatMap((name) => ['-o', name]);
  const { stdout } = await promisify(execFile)('ps', ['-A', ...columns], {
    env: { ...process.env, LC_ALL: 'C' },
    maxBuffer: 16 << 20,
  });
  return stdout.split('\n').flatMap((line) => {
    const match = /^\s*(\d+)\s+(\d+)\s+(\S+)\s+(\d+)\s+(?:(\d+)-)?([\d:.]+)\s+(.+?)\s*$/.exec(line);
    if (!match) return [];
    const [, pid, group, state, kibibytes, days = '0', time, startedAt] = match;
    const seconds = time!.split(':').reduce((sum, part) => sum * 60 + Number(part), 0);
    return {
      pid: Number(pid),
      group: Number(group),
      isZombie: state!.startsWith('Z'),
      residentBytes: Number(kibibytes) * 1024,
      cpuMs: (Number(days) * 86_400 + seconds) * 1000,
      startedAt: startedAt!,
    };
  });
}
