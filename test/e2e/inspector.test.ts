import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { root, run } from '../programs.ts';
import { fixture } from './engine.ts';
import { type GatewayProcess, startGateway } from './gateway-process.ts';

let gateway: GatewayProcess;
beforeAll(async () => {
  gateway = await startGateway({ config: `servers:\n${fixture('one', 'everything.mjs')}`, discovered: true });
});
afterAll(() => gateway?.[Symbol.asyncDispose]());

async function inspector(path: string, ...args: string[]) {
  const program = join(root, 'node_modules/.bin/mcp-inspector');
  const { code, stdout, stderr } = await run(program, [
    '--cli',
    gateway.url + path,
    '--transport',
    'http',
    ...args,
  ]);
  expect(code, stderr).toBe(0);
  return JSON.parse(stdout);
}

it.each([
  ['/mcp', 'one__add'],
  ['/one/mcp', 'add'],
])('MCP Inspector lists and calls through %s', async (path, tool) => {
  const { tools } = await inspector(path, '--method', 'tools/list');
  expect(tools.map(({ name }: { name: string }) => name)).toContain(tool);
  const args = ['--method', 'tools/call', '--tool-name', tool, '--tool-arg', 'a=2', '--tool-arg', 'b=40'];
  expect(await inspector(path, ...args)).toMatchObject({ structuredContent: { sum: 42 } });
});
