import { createHash } from 'node:crypto';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { connectionOptions, engineAddresses, sharesOurFiles } from './discovery.ts';

let home: string;
beforeEach(async () => {
  home = await mkdtemp(path.join(os.tmpdir(), 'discovery-'));
});
afterEach(() => rm(home, { recursive: true, force: true }));

const context = async (name: string, host: string, tls = false) => {
  const id = createHash('sha256').update(name).digest('hex');
  const meta = path.join(home, '.docker/contexts/meta', id);
  await mkdir(meta, { recursive: true });
  await writeFile(
    path.join(meta, 'meta.json'),
    JSON.stringify({ Name: name, Endpoints: { docker: { Host: host } } }),
  );
  const certificates = path.join(home, '.docker/contexts/tls', id, 'docker');
  if (tls) {
    await mkdir(certificates, { recursive: true });
    for (const file of ['ca', 'cert', 'key']) await writeFile(path.join(certificates, `${file}.pem`), file);
  }
};
const urls = async (env: NodeJS.ProcessEnv) =>
  (await engineAddresses({ env, home, uid: 1000 })).map(({ url }) => url);

describe('where an engine is looked for', () => {
  it('is DOCKER_HOST and nowhere else when that is set', async () => {
    expect(await urls({ DOCKER_HOST: 'unix:///some/docker.sock' })).toEqual(['unix:///some/docker.sock']);
  });

  it('is, without it, the usual sockets: rootful, rootless, Desktop, Colima, Podman', async () => {
    expect(await urls({})).toEqual([
      'unix:///var/run/docker.sock',
      'unix:///run/user/1000/docker.sock',
      `unix://${home}/.docker/run/docker.sock`,
      `unix://${home}/.docker/desktop/docker.sock`,
      `unix://${home}/.colima/default/docker.sock`,
      `unix://${home}/.config/colima/default/docker.sock`,
      'unix:///run/user/1000/podman/podman.sock',
      'unix:///run/podman/podman.sock',
    ]);
    expect(await urls({ XDG_RUNTIME_DIR: '/somewhere' })).toContain('unix:///somewhere/docker.sock');
  });

  it('is first of all the current docker context, by its file or by DOCKER_CONTEXT', async () => {
    await context('colima', 'unix:///colima.sock');
    await context('remote', 'tcp://remote.example:2376', true);
    await writeFile(path.join(home, '.docker/config.json'), JSON.stringify({ currentContext: 'colima' }));
    expect((await urls({}))[0]).toBe('unix:///colima.sock');
    const [first] = await engineAddresses({ env: { DOCKER_CONTEXT: 'remote' }, home, uid: 1000 });
    expect(first).toMatchObject({ url: 'tcp://remote.example:2376', origin: 'docker context remote' });
    expect(await connectionOptions(first!)).toMatchObject({
      protocol: 'https',
      host: 'remote.example',
      port: '2376',
      ca: Buffer.from('ca'),
      cert: Buffer.from('cert'),
      key: Buffer.from('key'),
    });
    expect((await urls({ DOCKER_CONTEXT: 'default' }))[0]).toBe('unix:///var/run/docker.sock');
    expect((await urls({ DOCKER_CONTEXT: 'forgotten' }))[0]).toBe('unix:///var/run/docker.sock');
  });
});

describe('an address', () => {
  const options = (url: string, certificates?: string) =>
    connectionOptions({ url, origin: 'DOCKER_HOST', certificates });

  it('is read as the docker CLI reads it', async () => {
    expect(await options('unix:///x.sock')).toMatchObject({ socketPath: '/x.sock' });
    expect(await options('tcp://10.0.0.1:2375')).toMatchObject({
      protocol: 'http',
      host: '10.0.0.1',
      port: '2375',
    });
    expect(await options('10.0.0.1')).toMatchObject({ protocol: 'http', host: '10.0.0.1', port: 2375 });
    expect(await options('tcp://10.0.0.1:2376')).toMatchObject({ protocol: 'https' });
    expect(await options('tcp://10.0.0.1', home)).toMatchObject({ protocol: 'https', port: 2376 });
    expect(await options('ssh://me@host.example:2222')).toMatchObject({
      protocol: 'ssh',
      host: 'host.example',
      port: '2222',
      username: 'me',
    });
  });

  it('that is none says what was expected', async () => {
    await expect(options('tcp://')).rejects.toThrow(
      'expected unix:///path, tcp://host:port or ssh://user@host',
    );
  });

  it('of another machine does not share our files', () => {
    const shares = (url: string) => sharesOurFiles({ url, origin: '' });
    expect(['unix:///x', 'tcp://127.0.0.1:2375', 'tcp://localhost', 'tcp://[::1]:2375'].map(shares)).toEqual([
      true,
      true,
      true,
      true,
    ]);
    expect(
      ['tcp://remote:2375', 'ssh://me@localhost.example', 'tcp://localhost.example:1'].map(shares),
    ).toEqual([false, false, false]);
  });
});
