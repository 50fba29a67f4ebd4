import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { sleep } from '../../base/async.ts';
import { EngineConnection } from './engine.ts';

/** An engine as far as connections go: it keeps them open for ever, and answers `wait` after six seconds. */
let server: Server;
let connection: EngineConnection;
const connections = () =>
  new Promise<number>((resolve) => server.getConnections((_, count) => resolve(count)));

beforeEach(async () => {
  server = createServer({ keepAliveTimeout: 0 }, async (request, response) => {
    if (request.url?.endsWith('/wait')) await sleep(6_000);
    response.setHeader('Content-Type', 'application/json');
    response.end(JSON.stringify({ Version: '20.10.24', Os: 'linux', Arch: 'amd64', StatusCode: 3 }));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  connection = new EngineConnection({ env: { DOCKER_HOST: `tcp://127.0.0.1:${port}` } });
});
afterEach(() => {
  connection.close();
  server.closeAllConnections();
  server.close();
});

describe('connections to an engine', () => {
  it('are used again at once, closed when they rest, and never under a request', async () => {
    const engine = await connection.get();
    await engine.call((docker) => docker.version());
    await engine.call((docker) => docker.version());
    // One for each of the two questions that were asked at once in the beginning.
    expect(await connections()).toBe(2);
    const waited = engine.call((docker) => docker.getContainer('any').wait());
    await sleep(5_500);
    expect(await connections()).toBe(1);
    expect(await waited).toEqual(expect.objectContaining({ StatusCode: 3 }));
  });
});
