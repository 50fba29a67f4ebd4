import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { until } from '../waiting.ts';
import { engine, fixtureServer, isPodman, type TestInstance, TestRuntime } from './harness.ts';

let test: TestRuntime;
beforeAll(async () => {
  test = await TestRuntime.create();
});
afterAll(() => test.dispose());

describe('a server that says nothing about its container', () => {
  let running: TestInstance;
  beforeAll(async () => {
    running = await test.start(fixtureServer('hardened', { network: 'mcp-network' }));
  });
  afterAll(() => running.instance.stop({ graceMs: 2_000 }));

  it.skipIf(isPodman)('is created locked, labelled and without anything published', async () => {
    const { HostConfig: host, Config: config, Name } = await running.inspect();
    expect(Name).toMatch(/^\/mcp-hardened-(?:[0-9a-f]{8}-)?1$/);
    expect(config.Labels).toMatchObject({
      'mcp-gateway.managed': 'true',
      'mcp-gateway.server': 'hardened',
      'mcp-gateway.gateway': test.gatewayId,
      'mcp-gateway.config': expect.stringMatching(/^[0-9a-f]{16}$/),
    });
    expect(config).toMatchObject({ OpenStdin: true, StdinOnce: true, Tty: false, User: '65534:65534' });
    expect(host).toMatchObject({
      AutoRemove: true,
      CapDrop: ['ALL'],
      SecurityOpt: ['no-new-privileges'],
      ReadonlyRootfs: true,
      Privileged: false,
      Memory: 512 * 1024 ** 2,
      MemorySwap: 512 * 1024 ** 2,
      NanoCpus: 1e9,
      PidsLimit: 128,
      NetworkMode: 'mcp-network',
      PublishAllPorts: false,
      LogConfig: { Type: 'local', Config: { 'max-size': '10m', 'max-file': '3' } },
    });
    expect(host.PortBindings ?? {}).toEqual({});
    expect(host.Binds ?? []).toEqual([]);
  });

  it('runs as nobody, without capabilities and without a way to more', async () => {
    expect((await running.shell('id -u; id -g')).output.split(/\s+/)).toEqual(['65534', '65534']);
    const status = (await running.shell('cat /proc/1/status')).output;
    expect(status).toMatch(/CapEff:\s+0{16}/);
    expect(status).toMatch(/CapBnd:\s+0{16}/);
    expect(status).toMatch(/NoNewPrivs:\s+1/);
    expect(status).toMatch(/Seccomp:\s+2/);
  });

  it('cannot write its root, but /tmp, which is its HOME', async () => {
    expect((await running.shell('touch /x')).output).toMatch(/read-only file system/i);
    expect((await running.shell('touch /app/x')).output).toMatch(/read-only file system/i);
    expect(await running.shell('echo kept > $HOME/file && cat /tmp/file')).toEqual({
      code: 0,
      output: 'kept',
    });
    expect((await running.shell('cat /proc/mounts')).output).toMatch(/ \/tmp tmpfs rw,nosuid,nodev,noexec/);
  });

  it('cannot fork past its limit', async () => {
    const { output } = await running.shell(
      'i=0; while [ $i -lt 200 ]; do sleep 20 & i=$((i+1)); done; echo through',
    );
    expect(output).toMatch(/fork|resource temporarily unavailable/i);
  });

  it.skipIf(isPodman)('gets no variables but those of its entry, its image and HOME', async () => {
    const image = await engine.getImage('mcp-fixtures').inspect();
    const { Env } = (await running.inspect()).Config;
    expect(new Set(Env)).toEqual(new Set([...image.Config.Env, 'HOME=/tmp']));
  });

  it.skipIf(isPodman)(
    'lives on a bridge of the gateway’s where containers do not see each other',
    async () => {
      const network = await engine.getNetwork('mcp-network').inspect();
      expect(network.Driver).toBe('bridge');
      expect(network.Options).toMatchObject({ 'com.docker.network.bridge.enable_icc': 'false' });
      expect(network.Labels).toMatchObject({ 'mcp-gateway.managed': 'true' });
      const listener = "require('node:net').createServer((s) => s.end('reached')).listen(7000)";
      const other = await test.start(
        fixtureServer('neighbour', { network: 'mcp-network', command: ['node', '-e', listener] }),
      );
      try {
        const { IPAddress } = (await other.inspect()).NetworkSettings.Networks['mcp-network']!;
        const probe = `node -e 'const s=require("net").connect(7000,"${IPAddress}");s.on("data",d=>{console.log(String(d));process.exit()});s.on("error",e=>{console.log(e.code);process.exit()});setTimeout(()=>{console.log("silence");process.exit()},1500)'`;
        await until(async () => (await other.shell(probe)).output === 'reached', 'it listens');
        expect((await running.shell(probe)).output).not.toBe('reached');
      } finally {
        await other.instance.stop({ graceMs: 2_000 });
      }
    },
  );
});

describe('what an entry loosens or tightens', () => {
  const inspected = async (changes: Parameters<typeof fixtureServer>[1]) => {
    const running = await test.start(fixtureServer('loosened', changes));
    const details = await running.inspect();
    return { running, details, stop: () => running.instance.stop({ graceMs: 2_000 }) };
  };

  it('network none: there is no interface but loopback', async () => {
    const { running, stop } = await inspected({ network: 'none' });
    expect((await running.shell('ls /sys/class/net')).output).toBe('lo');
    await stop();
  });

  it.skipIf(isPodman)(
    'read_only false: the root can be written by whom it belongs to, HOME is the image’s',
    async () => {
      const { details, running, stop } = await inspected({ readOnly: false, user: '0:0' });
      expect(details.HostConfig.ReadonlyRootfs).toBe(false);
      expect((await running.shell('touch /x && echo written')).output).toBe('written');
      expect(details.Config.Env.filter((entry) => entry.startsWith('HOME='))).toEqual([]);
      await stop();
    },
  );

  it('logs off: nothing of it is kept by the engine', async () => {
    const { details, stop } = await inspected({ logs: 'off' });
    expect(details.HostConfig.LogConfig?.Type).toBe('none');
    await stop();
  });

  it.skipIf(isPodman)('limits, tmpfs, init, hosts, names, variables and capabilities arrive', async () => {
    const { details, running, stop } = await inspected({
      limits: { memoryBytes: 256 * 1024 ** 2, cpus: 0.5, pids: 64 },
      tmpfs: ['/cache', '/small:size=1m'],
      init: true,
      shmSizeBytes: 8 * 1024 ** 2,
      extraHosts: ['somewhere:192.0.2.1'],
      dns: ['192.0.2.53'],
      capAdd: ['NET_BIND_SERVICE'],
      env: { GREETING: 'hello there' },
      workingDir: '/tmp',
      command: ['node', '/app/tiny.mjs'],
      network: 'mcp-network',
    });
    expect(details.HostConfig).toMatchObject({
      Memory: 256 * 1024 ** 2,
      NanoCpus: 5e8,
      PidsLimit: 64,
      Init: true,
      ShmSize: 8 * 1024 ** 2,
      ExtraHosts: ['somewhere:192.0.2.1'],
      Dns: ['192.0.2.53'],
      CapDrop: ['ALL'],
      CapAdd: [expect.stringContaining('NET_BIND_SERVICE')],
    });
    expect(await running.shell('touch /cache/x /small/x && echo $GREETING && pwd')).toEqual({
      code: 0,
      output: 'hello there\r\n/tmp',
    });
    await stop();
  });

  it('values of variables are in no label', async () => {
    const one = await inspected({ env: { TOKEN: 'first-secret' } });
    const two = await inspected({ env: { TOKEN: 'second-secret' } });
    const three = await inspected({ env: { OTHER: 'second-secret' } });
    const label = (found: typeof one) => found.details.Config.Labels['mcp-gateway.config'];
    expect(label(one)).toBe(label(two));
    expect(label(one)).not.toBe(label(three));
    for (const found of [one, two, three]) {
      expect(JSON.stringify(found.details.Config.Labels)).not.toContain('secret');
      await found.stop();
    }
  });

  it('the host’s network is refused unless allow_unsafe says otherwise', async () => {
    await expect(test.start(fixtureServer('unsafe', { network: 'host' }))).rejects.toMatchObject({
      code: 'network_missing',
      hint: expect.stringContaining('allow_unsafe'),
    });
    const unsafe = await TestRuntime.create({ gateway: { allowUnsafe: true } });
    try {
      const running = await unsafe.start(fixtureServer('unsafe', { network: 'host' }));
      expect((await running.inspect()).HostConfig.NetworkMode).toBe('host');
    } finally {
      await unsafe.dispose();
    }
  });

  it.skipIf(isPodman)(
    'runtime: the OCI runtime that runs it; one that the engine does not know is named',
    async () => {
      const { details, stop } = await inspected({ ociRuntime: 'runc' });
      expect(details.HostConfig.Runtime).toBe('runc');
      await stop();
      await expect(test.start(fixtureServer('odd', { ociRuntime: 'no-such-runtime' }))).rejects.toMatchObject(
        {
          code: 'start_failed',
          message: expect.stringContaining('has no OCI runtime no-such-runtime'),
          hint: expect.stringContaining('docker info lists its runtimes'),
        },
      );
    },
  );

  it('a network that goes is noticed by the next start, which says so', async () => {
    const name = `mcp-test-${process.pid}`;
    const network = await engine.createNetwork({ Name: name });
    try {
      const server = fixtureServer('moved', { network: name });
      await (await test.start(server)).instance.stop({ graceMs: 2_000 });
      await (await test.start(server)).instance.stop({ graceMs: 2_000 });
      await network.remove();
      await until(
        () =>
          test.runtime.prepare(server, {}).then(
            () => false,
            (error) => error.code === 'network_missing',
          ),
        'the network is missed',
      );
    } finally {
      await network.remove().catch(() => {});
    }
  });

  it('a network that is not there is named', async () => {
    await expect(
      test.start(fixtureServer('elsewhere', { network: 'no-such-network' })),
    ).rejects.toMatchObject({
      code: 'network_missing',
      message: expect.stringContaining('no-such-network'),
      hint: expect.stringContaining('docker network create no-such-network'),
    });
  });

  it('gateway.proxy and TZ reach every container, an entry’s own values win', async () => {
    const proxied = await TestRuntime.create({
      gateway: { proxy: 'http://proxy.example:3128' },
      env: { ...process.env, TZ: 'Europe/Paris' },
    });
    try {
      const running = await proxied.start(fixtureServer('proxied', { env: { NO_PROXY: 'mine.example' } }));
      const { Env } = (await running.inspect()).Config;
      expect(Env).toEqual(
        expect.arrayContaining([
          'HTTPS_PROXY=http://proxy.example:3128',
          'http_proxy=http://proxy.example:3128',
          'NO_PROXY=mine.example',
          'TZ=Europe/Paris',
        ]),
      );
    } finally {
      await proxied.dispose();
    }
  });
});
