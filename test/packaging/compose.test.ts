import { chmod, cp, mkdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { engine } from '../e2e/engine.ts';
import { root, run, temporaryFolder } from '../programs.ts';
import { eventually } from '../waiting.ts';
import { freePort } from './free-port.ts';

/** docker-compose 1.29, or what COMPOSE names (`docker compose`, a binary's path). */
const [composeProgram, ...composeArgs] = (process.env.COMPOSE ?? 'docker-compose').split(' ');
const hasCompose = (await run('sh', ['-c', `command -v ${composeProgram}`])).code === 0;
const BASE_IMAGE = 'node:26-bookworm-slim';

const CONFIG = `
gateway: { default_idle_timeout: 300s }
servers:
  demo: { image: mcp-demo, build: ./servers/demo, network: none }
  files:
    type: template
    template: npm
    config: { package: "@modelcontextprotocol/server-filesystem", version: 2026.8.31 }
    command: [/data]
    volumes: ["./data:/data:ro"]
  elsewhere: { image: mcp-demo, build: ./servers/demo, volumes: ["/opt:/data:ro"] }
`;

describe.skipIf(!hasCompose)('docker compose up', () => {
  let folder: string;
  let port: number;
  let url: string;

  const compose = (...args: string[]) =>
    run(composeProgram!, [...composeArgs, '--project-name', 'mcp-gateway-compose-test', ...args], {
      cwd: folder,
      env: { ...process.env, GATEWAY_PORT: String(port) },
      limitMs: 240_000,
    });
  const gateway = () => engine.getContainer('mcp-gateway').inspect();
  const callTool = (server: string, tool: string, body: object) =>
    fetch(`${url}/${server}/tools/${tool}`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(body),
    });

  beforeAll(async () => {
    folder = await temporaryFolder();
    port = await freePort();
    url = `http://127.0.0.1:${port}`;
    await chmod(folder, 0o755);
    await cp(join(root, 'docker-compose.yml'), join(folder, 'docker-compose.yml'));
    await cp(join(root, 'servers'), join(folder, 'servers'), {
      recursive: true,
      filter: (source) => !source.includes('node_modules'),
    });
    await mkdir(join(folder, 'data'), { mode: 0o755 });
    await writeFile(join(folder, 'data/note.txt'), 'from beside servers.yaml', { mode: 0o644 });
    await writeFile(join(folder, 'servers.yaml'), CONFIG, { mode: 0o644 });
    // Where no registry answers, this comes first.
    const images = await run(`${root}scripts/images.sh`, [], { limitMs: 300_000 });
    expect(images.code, images.stderr).toBe(0);
    const up = await compose('up', '--detach');
    expect(up.code, up.stderr).toBe(0);
  }, 600_000);

  afterAll(async () => {
    await compose('down', '--volumes');
    await rm(folder, { recursive: true, force: true });
  }, 120_000);

  it('turns healthy', { timeout: 120_000 }, async () => {
    await eventually(
      async () => (await gateway()).State.Health?.Status,
      (status) => status === 'healthy',
      100_000,
    );
    expect((await fetch(`${url}/health/ready`)).status).toBe(200);
  });

  it('is published on loopback only, drains before it is killed, and comes back', async () => {
    const { HostConfig, Config, NetworkSettings } = await gateway();
    expect(HostConfig.PortBindings).toEqual({
      '8000/tcp': [{ HostIp: '127.0.0.1', HostPort: String(port) }],
    });
    expect(HostConfig.RestartPolicy?.Name).toBe('unless-stopped');
    expect((Config as { StopTimeout?: number }).StopTimeout).toBeGreaterThan(30);
    expect(Object.keys(NetworkSettings.Networks)).toEqual(['mcp-gateway-compose-test_edge']);
  });

  it('runs the gateway without root', async () => {
    const { stdout } = await run('docker', ['top', 'mcp-gateway', '-eo', 'pid,uid,args']);
    const uids = [...stdout.matchAll(/^\s*\d+\s+(\d+)\s+\S*node \/app\/bin\/mcp-gateway\.js/gm)].map(
      ([, uid]) => uid,
    );
    expect(uids, stdout).toEqual(['1000']);
  });

  it('starts servers beside itself on the same engine', { timeout: 240_000 }, async () => {
    const answer = await callTool('demo', 'say_hello', { name: 'Compose' });
    const body = await answer.text();
    expect(answer.status, body).toBe(200);
    expect(body).toContain('Compose');
    const containers = await engine.listContainers({ filters: { label: ['mcp-gateway.server=demo'] } });
    expect(containers).not.toEqual([]);
  });

  it('translates a relative volume to where it is on the host', { timeout: 300_000 }, async () => {
    const answer = await callTool('files', 'read_text_file', { path: '/data/note.txt' });
    const body = await answer.text();
    expect(answer.status, body).toBe(200);
    expect(body).toContain('from beside servers.yaml');
  });

  it('says which mount is missing for a volume that no mount covers', { timeout: 120_000 }, async () => {
    const answer = await callTool('elsewhere', 'say_hello', { name: 'x' });
    const body = await answer.text();
    expect(body).toContain('/opt');
    expect(body).toMatch(/mount/i);
  });

  it('cannot be reached by a server', { timeout: 120_000 }, async () => {
    const { NetworkSettings } = await gateway();
    const own = Object.values(NetworkSettings.Networks)[0]!;
    const servers = await engine.getNetwork('mcp-network').inspect();
    const bridge = servers.IPAM!.Config![0]!.Gateway;
    const addresses = [
      'mcp-gateway:8000',
      `${own.IPAddress}:8000`,
      `${own.Gateway}:8000`,
      `${own.Gateway}:${port}`,
      `${bridge}:8000`,
      `${bridge}:${port}`,
    ];
    const probed = await probe('mcp-network', addresses);
    expect(probed.split('\n')).toHaveLength(addresses.length);
    expect(probed).not.toContain('ANSWERED');
    // The same question on the gateway's own network is answered: the probe is no blind one.
    expect(await probe('mcp-gateway-compose-test_edge', [`${own.IPAddress}:8000`])).toContain(
      'ANSWERED HTTP/1.1 200',
    );
  });

  it('ends its servers when it goes down', { timeout: 120_000 }, async () => {
    const { stdout: id } = await run('docker', ['exec', 'mcp-gateway', 'cat', '/state/gateway-id']);
    const servers = () =>
      engine.listContainers({ all: true, filters: { label: [`mcp-gateway.gateway=${id.trim()}`] } });
    expect(await servers()).not.toEqual([]);
    const down = await compose('down', '--volumes');
    expect(down.code, down.stderr).toBe(0);
    expect(await servers()).toEqual([]);
  });
});

/** Asks each address for /health with a forged Host, from a container on that network; a line for each. */
async function probe(network: string, addresses: string[]): Promise<string> {
  // Plain sockets, because fetch does not let the Host header be forged.
  const program = `
    const net = require('net');
    const ask = (address) => new Promise((resolve) => {
      const [host, port] = address.split(':');
      const socket = net.connect({ host, port: Number(port), timeout: 3000 });
      socket.once('connect', () => socket.write('GET /health HTTP/1.1\\r\\nHost: localhost:8000\\r\\nConnection: close\\r\\n\\r\\n'));
      socket.once('data', (data) => resolve(address + ' ANSWERED ' + String(data).split('\\r\\n')[0]));
      socket.once('timeout', () => { socket.destroy(); resolve(address + ' timeout'); });
      socket.once('error', (error) => resolve(address + ' ' + error.code));
      socket.once('close', () => resolve(address + ' closed'));
    });
    Promise.all(process.argv.slice(1).map(ask)).then((lines) => console.log(lines.join('\\n')));`;
  const options = ['--rm', '--network', network, '--entrypoint', 'node'];
  const probed = await run('docker', ['run', ...options, BASE_IMAGE, '-e', program, ...addresses]);
  expect(probed.code, probed.stderr).toBe(0);
  return probed.stdout.trim();
}
