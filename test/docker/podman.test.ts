import { mkdtemp, rm } from 'node:fs/promises';
import http from 'node:http';
import os from 'node:os';
import path from 'node:path';
import { expect, it } from 'vitest';
import { engine, enginePath, exists, fixtureServer, isPodman, TestRuntime } from './harness.ts';

/**
 * Podman as it answers while it has removed a container by half: no question about networks, and none that this container could
 * be an answer to. For real it comes about by chance, when another joins the network of one that is just being removed.
 */
class HalfRemoved implements AsyncDisposable {
  readonly #id: string;
  readonly #socketPath: string;
  readonly #server: http.Server;
  isRemoved = false;

  static async create(id: string): Promise<HalfRemoved> {
    const folder = await mkdtemp(path.join(os.tmpdir(), 'mcp-gateway-podman-'));
    const half = new HalfRemoved(id, path.join(folder, 'podman.sock'));
    await new Promise<void>((resolve) => half.#server.listen(half.#socketPath, resolve));
    return half;
  }

  private constructor(id: string, socketPath: string) {
    this.#id = id;
    this.#socketPath = socketPath;
    this.#server = http.createServer((request, response) => {
      const { method, url = '', headers } = request;
      if (method === 'DELETE' && url.includes(id)) this.isRemoved = true;
      if (!this.isRemoved && method === 'GET' && /\/networks|\/containers\/json/.test(url)) {
        const message = `getting container from store "${this.#id}": container not known`;
        response.writeHead(500, { 'Content-Type': 'application/json' });
        response.end(JSON.stringify({ cause: 'container not known', message, response: 500 }));
        return;
      }
      const asked = http.request({ socketPath: enginePath, method, path: url, headers }, (answer) => {
        response.writeHead(answer.statusCode!, answer.headers);
        answer.pipe(response);
      });
      asked.on('error', () => response.destroy());
      response.on('close', () => asked.destroy());
      request.pipe(asked);
    });
  }

  get dockerHost(): string {
    return `unix://${this.#socketPath}`;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
    await rm(path.dirname(this.#socketPath), { recursive: true, force: true });
  }
}

it.runIf(isPodman)(
  'while Podman has removed a container by half, servers start, and the sweep ends that state',
  async () => {
    const before = await TestRuntime.create();
    const left = await before.start(fixtureServer('left', { network: 'mcp-network' }));
    const { Id } = await left.inspect();
    await using half = await HalfRemoved.create(Id);
    const env = { ...process.env, DOCKER_HOST: half.dockerHost };
    const test = await TestRuntime.create({ gatewayId: before.gatewayId, env });
    try {
      await test.runtime.prepare(fixtureServer('other', { network: 'mcp-network' }), {});
      expect(half.isRemoved).toBe(false);
      await test.runtime.sweep();
      expect(half.isRemoved).toBe(true);
      expect(await exists(left.name)).toBe(false);
    } finally {
      await test.dispose();
      await before.dispose();
    }
  },
);

it.runIf(isPodman)('on Podman, sandbox: keep has no effect, and it is said', async () => {
  const test = await TestRuntime.create();
  const { lacks } = await test.runtime.describe();
  expect(lacks).toContainEqual(expect.stringContaining('sandbox: keep'));
  const server = fixtureServer('ordinary', { sandbox: 'keep' });
  for (let round = 0; round < 2; round += 1) {
    const running = await test.start(server);
    await running.handshake();
    await running.instance.stop({ graceMs: 2_000 });
    await new Promise((resolve) => setTimeout(resolve, 1500));
    const label = [`mcp-gateway.gateway=${test.gatewayId}`];
    expect(await engine.listContainers({ all: true, filters: { label } })).toEqual([]);
  }
  await test.dispose();
});
