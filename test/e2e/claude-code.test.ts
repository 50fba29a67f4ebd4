import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { root, run, temporaryFolder } from '../programs.ts';
import { eventually } from '../waiting.ts';
import { containersOf, engine, fixture } from './engine.ts';
import { type GatewayProcess, startGateway } from './gateway-process.ts';
import { scriptedModel } from './scripted-model.ts';

const claudeCode = join(root, 'node_modules/.bin/claude');

describe('Claude Code', () => {
  let gateway: GatewayProcess;
  let home: string;
  let id: string;

  const claude = (args: string[], env: Record<string, string> = {}) =>
    run(claudeCode, args, {
      cwd: home,
      env: {
        ...process.env,
        HOME: home,
        ANTHROPIC_API_KEY: 'none',
        CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC: '1',
        ...env,
      },
      limitMs: 240_000,
    });

  /** One whole turn of the agent, in which the model asks for this tool. */
  async function turn(tool: string, input: object) {
    await using model = await scriptedModel({ name: `mcp__mcp-gateway__${tool}`, input });
    const { stdout, stderr } = await claude(
      ['-p', 'Use the tool.', '--allowedTools', `mcp__mcp-gateway__${tool}`, '--max-turns', '3'],
      { ANTHROPIC_BASE_URL: model.url },
    );
    return { answer: stdout + stderr, toolResults: model.toolResults };
  }

  beforeAll(async () => {
    home = await temporaryFolder();
    gateway = await startGateway({
      config: `servers:\n${fixture('fixture', 'everything.mjs', { idle_timeout: '3s', env: { BOOT_NOTE: 'fixture is up' } })}`,
      discovered: true,
    });
    id = await gateway.id();
    // Discovery's own instance goes by itself; the tests begin with nothing running.
    await eventually(
      () => containersOf(id),
      (names) => names.length === 0,
    );
  }, 300_000);

  afterAll(async () => {
    await gateway?.[Symbol.asyncDispose]();
    await rm(home, { recursive: true, force: true });
  });

  it('connects, and nothing is started by that or by listing', async () => {
    const url = gateway.url.replace('127.0.0.1', 'localhost');
    const added = await claude(['mcp', 'add', '--transport', 'http', 'mcp-gateway', `${url}/mcp`]);
    expect(added.code, added.stderr).toBe(0);
    expect((await claude(['mcp', 'list'])).stdout).toMatch(/mcp-gateway: .* Connected/);

    const client = new Client({ name: 'test', version: '1' });
    await client.connect(new StreamableHTTPClientTransport(new URL(`${gateway.url}/mcp`)));
    const { tools } = await client.listTools();
    await client.close();
    expect(tools.map(({ name }) => name)).toContain('fixture__echo');
    expect(await containersOf(id)).toEqual([]);
  });

  it('calls a tool in a container that was not running, and the container goes when it is idle', async () => {
    const { answer, toolResults } = await turn('fixture__stderr', { text: 'a line for the logs' });
    expect(toolResults).toHaveLength(1);
    expect(answer).toContain('The tool said:');

    const [name, ...others] = await containersOf(id);
    expect(name).toBe('mcp-fixture-1');
    expect(others).toEqual([]);
    const logs = await engine.getContainer(name!).logs({ stderr: true });
    expect(logs.toString()).toContain('a line for the logs');

    await eventually(
      () => containersOf(id),
      (names) => names.length === 0,
    );
  });

  it('shows the agent why a call failed and what to do next', async () => {
    const { toolResults } = await turn('fixture__rpc_error', {
      code: -32050,
      message: 'the teapot is empty',
    });
    expect(JSON.stringify(toolResults)).toContain('the teapot is empty');
  });

  it.runIf(process.env.NIGHTLY)(
    'waits for a tool that is silent for 90 s',
    { timeout: 240_000 },
    async () => {
      const { toolResults, answer } = await turn('fixture__sleep', { ms: 90_000 });
      expect(toolResults, answer).toHaveLength(1);
      expect(JSON.stringify(toolResults)).not.toContain('is_error":true');
    },
  );
});
