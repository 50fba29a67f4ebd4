import { readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { cli, temporaryFolder } from '../programs.ts';
import { fixture } from './engine.ts';
import { type GatewayProcess, startGateway } from './gateway-process.ts';

describe('the command line beside a running gateway', () => {
  let gateway: GatewayProcess;
  let where: string[];

  beforeAll(async () => {
    gateway = await startGateway({
      config: `servers:\n${fixture('one', 'everything.mjs')}${fixture('asks', 'asks-the-user.mjs')}  off: { image: none, enabled: false }\n  broken: { image: mcp-no-such-image, pull: never }\n`,
      discovered: true,
    });
    const { port } = new URL(gateway.url);
    where = ['--config', join(gateway.folder, 'servers.yaml'), '--port', port];
  });
  afterAll(() => gateway?.[Symbol.asyncDispose]());

  it('shows the servers as a table and as JSON', async () => {
    const { code, stdout } = await cli(['servers', ...where]);
    expect(code).toBe(0);
    expect(stdout).toMatch(/^SERVER +TYPE +STATE/);
    expect(stdout).toMatch(/^one +docker +\w+/m);
    expect(stdout).toMatch(/^off +docker +disabled/m);
    const { servers } = JSON.parse((await cli(['servers', '--json', ...where])).stdout);
    expect(servers.map(({ name }: { name: string }) => name)).toEqual(['one', 'asks', 'off', 'broken']);
  });

  it('lists tools of one server and of all', async () => {
    expect((await cli(['tools', 'one', ...where])).stdout).toMatch(/^one +echo +\S/m);
    expect((await cli(['tools', ...where])).stdout).toMatch(/^one +echo +\S/m);
  });

  it('calls a tool, also with arguments from standard input', async () => {
    expect(await cli(['call', 'one', 'echo', '{"text": "hello"}', ...where])).toMatchObject({
      code: 0,
      stdout: 'hello\n',
    });
    const piped = await cli(['call', 'one', 'echo', '-', ...where], { input: '{"text": "piped"}' });
    expect(piped).toMatchObject({ code: 0, stdout: 'piped\n' });
    const { stdout } = await cli(['call', 'one', 'echo', '{"text": "raw"}', '--json', ...where]);
    expect(JSON.parse(stdout)).toMatchObject({ content: [{ type: 'text', text: 'raw' }] });
  });

  it('ends with 1 when a tool or a server fails, and names the nearest name', async () => {
    expect((await cli(['call', 'one', 'fail', ...where])).code).toBe(1);
    const tool = await cli(['call', 'one', 'ecko', ...where]);
    expect(tool).toMatchObject({ code: 1, stderr: expect.stringContaining('echo') });
    const server = await cli(['tools', 'onne', ...where]);
    expect(server).toMatchObject({ code: 1, stderr: expect.stringContaining('one') });
  });

  it('doctor proposes an instance for each client where a server was seen to ask them', async () => {
    const env = { ...process.env, GATEWAY_PORT: where.at(-1) };
    const doctor = async () => (await cli(['doctor', '--config', where[1]!], { env })).stdout;
    expect(await doctor()).toContain('a gateway');
    expect(await doctor()).not.toContain('server asks');
    await cli(['call', 'asks', 'ask', ...where]);
    expect(await doctor()).toMatch(/server asks: isolation: session/);
  });

  it('gives programs the error as JSON, with the code and data that the server gave', async () => {
    const args = [
      'call',
      'one',
      'rpc_error',
      '{"code": -32050, "message": "the teapot is empty", "data": {"tea": 0}}',
    ];
    const answer = await cli([...args, '--json', ...where]);
    expect(answer).toMatchObject({ code: 1, stderr: expect.stringContaining('the teapot is empty') });
    expect(JSON.stringify(JSON.parse(answer.stdout))).toMatch(/-32050.*"tea":0/);
  });

  it('says why the tools of a server cannot be known, instead of showing none', async () => {
    const answer = await cli(['tools', 'broken', ...where]);
    expect(answer).toMatchObject({ code: 1, stderr: expect.stringContaining('mcp-no-such-image') });
    expect((await cli(['tools', ...where])).stdout).toMatch(/^broken +- +\S/m);
  });

  it('prints what a server wrote to stderr', async () => {
    await cli(['call', 'one', 'stderr', '{"text": "seen in the logs"}', ...where]);
    expect((await cli(['logs', 'one', ...where])).stdout).toContain('seen in the logs');
    expect(JSON.parse((await cli(['logs', 'one', '--json', ...where])).stdout)).toEqual(
      expect.arrayContaining([expect.stringContaining('seen in the logs')]),
    );
  });
});

describe('the command line alone', () => {
  let folder: string;
  beforeAll(async () => {
    folder = await temporaryFolder();
  });
  afterAll(() => rm(folder, { recursive: true, force: true }));

  it('names every problem of a file with its position, and ends with 2', async () => {
    const file = join(folder, 'servers.yaml');
    await writeFile(
      file,
      'gateway: { prot: 8000 }\nservers:\n  demo: { image: a, idle_timeout: soon }\n  mcp: { image: b }\n  demo: { image: c }\n',
    );
    const { code, stdout } = await cli(['validate', file]);
    expect(code).toBe(2);
    expect(stdout).toMatch(/servers\.yaml:1:12: .*prot.*port/);
    expect(stdout).toMatch(/servers\.yaml:3:\d+: .*soon|servers\.yaml:3:\d+: .*duration/);
    expect(stdout).toMatch(/servers\.yaml:4:3: .*mcp.*reserved/);
    expect(stdout).toMatch(/servers\.yaml:5:3: .*demo/);
    const { problems } = JSON.parse((await cli(['validate', file, '--json'])).stdout);
    expect(problems).toContainEqual(expect.objectContaining({ line: 1, column: 12 }));
  });

  it('writes an example that is valid, and overwrites nothing', async () => {
    const file = join(folder, 'example.yaml');
    expect((await cli(['example', '--output', file])).code).toBe(0);
    expect(await cli(['validate', file])).toMatchObject({ code: 0 });
    expect((await cli(['example', '--output', file])).code).not.toBe(0);
    expect((await cli(['example'])).stdout).toBe(await readFile(file, 'utf8'));
  });

  it('ends with 2 on wrong usage and says how to find help', async () => {
    expect(await cli(['strat'])).toMatchObject({
      code: 2,
      stderr: expect.stringMatching(/start[\s\S]*--help/),
    });
    expect((await cli(['start', '--port', 'eighty'])).code).toBe(2);
    expect((await cli(['call', 'demo'])).code).toBe(2);
    const env = { ...process.env, GATEWAY_PORT: 'eighty' };
    expect(await cli(['servers'], { env, cwd: folder })).toMatchObject({
      code: 2,
      stderr: expect.stringMatching(/^error: the environment variable GATEWAY_PORT: found "eighty"/),
    });
  });

  it('ends with 1 where no gateway answers and says how to start one', async () => {
    const answer = await cli(['servers', '--port', '1']);
    expect(answer).toMatchObject({ code: 1, stderr: expect.stringContaining('mcp-gateway start') });
  });

  it('refuses an address beyond loopback unless told that nobody checks who calls', async () => {
    const file = join(folder, 'empty.yaml');
    await writeFile(file, 'servers: {}\n');
    const answer = await cli(['start', '--config', file, '--host', '0.0.0.0', '--port', '0']);
    expect(answer).toMatchObject({ code: 2, stderr: expect.stringContaining('--allow-unauthenticated') });
  });

  it('doctor finds the engine, and names what is wrong', async () => {
    const file = join(folder, 'doctor.yaml');
    await writeFile(
      file,
      'gateway: { port: 18273 }\nservers: { a: { image: x, env: { K: "${MCP_TEST_UNSET}" } }, gone: { image: mcp-no-such-image, pull: never } }\n',
    );
    const { code, stdout } = await cli(['doctor', '--config', file]);
    expect(stdout).toMatch(/engine +Docker/);
    expect(stdout).toContain('MCP_TEST_UNSET');
    expect(stdout).toMatch(/✗ +image of gone +mcp-no-such-image is missing/);
    expect(code).toBe(1);
    const away = await cli(['doctor', '--config', file], {
      env: { ...process.env, DOCKER_HOST: `unix://${folder}/none.sock`, MCP_TEST_UNSET: 'x' },
    });
    expect(away).toMatchObject({ code: 1, stdout: expect.stringContaining(`${folder}/none.sock`) });
  });
});
