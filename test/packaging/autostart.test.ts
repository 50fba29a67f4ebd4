import { existsSync } from 'node:fs';
import { cp, mkdir, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { userInfo } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { root, run, temporaryFolder } from '../programs.ts';

const UNIT = 'etc/systemd/system/mcp-gateway.service';
const canVerify = (await run('sh', ['-c', 'command -v systemd-analyze'])).code === 0;

/** A checkout in a path that systemd's, the shell's and the URL's quoting all have an opinion on. */
let checkout: string;
let folder: string;

beforeAll(async () => {
  folder = await temporaryFolder();
  checkout = join(folder, 'mcp & gateway 100% $HOME');
  await mkdir(checkout);
  for (const name of [
    'scripts',
    'systemd',
    'bin',
    'src',
    'package.json',
    'package-lock.json',
    'servers.yaml',
  ]) {
    await cp(join(root, name), join(checkout, name), { recursive: true });
  }
  await symlink(join(root, 'node_modules'), join(checkout, 'node_modules'));
});

afterAll(() => rm(folder, { recursive: true, force: true }));

const install = (...args: string[]) => run(join(checkout, 'scripts/install-autostart.sh'), args);
const uninstall = (...args: string[]) => run(join(checkout, 'scripts/uninstall-autostart.sh'), args);
const tree = async (directory: string) => (await readdir(directory, { recursive: true })).sort();

describe('install-autostart.sh and uninstall-autostart.sh', () => {
  it('install once or twice alike, and leave nothing behind', async () => {
    const destination = join(folder, 'destination dir');
    const first = await install('--destdir', destination);
    expect(first, first.stderr).toMatchObject({ code: 0 });
    const once = { files: await tree(destination), unit: await readFile(join(destination, UNIT), 'utf8') };
    expect(once.files).toContain(`etc/systemd/system/multi-user.target.wants/mcp-gateway.service`);

    expect(await install('--destdir', destination)).toMatchObject({ code: 0 });
    expect({ files: await tree(destination), unit: await readFile(join(destination, UNIT), 'utf8') }).toEqual(
      once,
    );

    expect(await uninstall('--destdir', destination)).toMatchObject({ code: 0 });
    expect(await tree(destination)).toEqual([]);
    const again = await uninstall('--destdir', destination);
    expect(again).toMatchObject({ code: 0 });
    expect(again.stdout).toContain('Nothing to remove');
  });

  it.skipIf(!canVerify)('writes a unit that systemd accepts, from a path with spaces', async () => {
    const destination = join(folder, 'verified');
    await install('--destdir', destination);
    const verified = await run('systemd-analyze', ['verify', join(destination, UNIT)]);
    expect(verified.stderr.split('\n').filter((line) => line.includes('mcp-gateway'))).toEqual([]);
    expect(verified.code).toBe(0);
  });

  it.skipIf(!canVerify)('would be told by systemd about a program that is not there', async () => {
    const destination = join(folder, 'broken');
    await install('--destdir', destination);
    const unit = join(destination, UNIT);
    await writeFile(unit, (await readFile(unit, 'utf8')).replace('bin/node"', 'bin/nowhere"'));
    const verified = await run('systemd-analyze', ['verify', unit]);
    expect(verified.stderr).toContain('nowhere');
  });

  it('drains before systemd kills, restarts failures but not wrong configurations, and gives privileges up', async () => {
    const destination = join(folder, 'read');
    await install('--destdir', destination);
    const unit = await readFile(join(destination, UNIT), 'utf8');
    const value = (key: string) => new RegExp(`^${key}=(.*)$`, 'm').exec(unit)?.[1];
    expect(Number(value('TimeoutStopSec'))).toBeGreaterThan(30);
    expect(value('User')).toBe(process.env.SUDO_USER ?? userInfo().username);
    expect(value('NoNewPrivileges')).toBe('yes');
    expect(value('RestartPreventExitStatus')).toBe('2');
    expect(value('After')).toContain('docker.service');
    expect(value('EnvironmentFile')).toMatch(/^-.*\/\.env$/);
    expect(value('ExecStart')).toContain('node_modules/node/bin/node');
    expect(unit).not.toMatch(/@[A-Z]+@/);
  });

  it('leaves the units of others alone', async () => {
    const destination = join(folder, 'shared');
    await mkdir(join(destination, 'etc/systemd/system'), { recursive: true });
    await writeFile(
      join(destination, 'etc/systemd/system/other.service'),
      '[Service]\nExecStart=/bin/true\n',
    );
    await install('--destdir', destination);
    await uninstall('--destdir', destination);
    expect(await tree(join(destination, 'etc/systemd/system'))).toEqual(['other.service']);
  });

  it.skipIf(existsSync('/run/systemd/system'))('say what to do where systemd is not running', async () => {
    const result = await install();
    expect(result.code).toBe(1);
    expect(result.stderr).toContain('--destdir');
    expect(existsSync('/etc/systemd/system/mcp-gateway.service')).toBe(false);
  });

  it('name a user or a servers.yaml that does not exist, and write nothing', async () => {
    const destination = join(folder, 'refused');
    const noUser = await install('--destdir', destination, '--user', 'nobody-of-that-name');
    expect(noUser).toMatchObject({ code: 1 });
    expect(noUser.stderr).toContain('nobody-of-that-name');
    const noConfig = await install('--destdir', destination, '--config', join(folder, 'none.yaml'));
    expect(noConfig).toMatchObject({ code: 1 });
    expect(noConfig.stderr).toContain('none.yaml');
    expect(existsSync(destination)).toBe(false);
  });
});
