import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFile, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { join } from 'node:path';
import { Client as ClientV2 } from '@modelcontextprotocol/client';
import { StdioClientTransport as TransportV2 } from '@modelcontextprotocol/client/stdio';
import { Client, type ClientOptions } from '@modelcontextprotocol/sdk/client/index.js';
import { StdioClientTransport } from '@modelcontextprotocol/sdk/client/stdio.js';
import {
  CreateMessageRequestSchema,
  LoggingMessageNotificationSchema,
  ResourceUpdatedNotificationSchema,
} from '@modelcontextprotocol/sdk/types.js';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { stateDirHolder } from '../../src/base/state-dir.ts';
import { freePort } from '../packaging/free-port.ts';
import { cli, main, root, run, temporaryFolder } from '../programs.ts';
import { until } from '../waiting.ts';
import { startGateway } from './gateway-process.ts';
import { rejection } from './mcp-client.ts';
import { scriptedModel } from './scripted-model.ts';

const info = { name: 'test-client', version: '1.2.3' };
const fixture = (name: string, more: object = {}) => ({
  type: 'process',
  command: [process.execPath, join(root, `test/fixtures/servers/${name}.mjs`)],
  ...more,
});
const initialize = {
  jsonrpc: '2.0',
  id: 'init',
  method: 'initialize',
  params: { protocolVersion: '2025-11-25', capabilities: {}, clientInfo: info },
};
const lines = (...messages: unknown[]) =>
  `${messages.map((message) => JSON.stringify(message)).join('\n')}\n`;

let folder: string;
let config: string;
let port: number;
const children = new Set<ChildProcess>();

/** The pid of the gateway that runs in the background, if one does. */
const running = () => stateDirHolder(join(folder, 'state'));
const log = () => readFile(join(folder, 'state/gateway.log'), 'utf8');

beforeEach(async () => {
  folder = await temporaryFolder();
  port = await freePort();
  config = join(folder, 'servers.yaml');
  const servers = { everything: fixture('everything', { env: { ERA: 'legacy' } }), tiny: fixture('tiny') };
  await writeFile(config, JSON.stringify({ gateway: { port }, servers }));
});

afterEach(async () => {
  for (const child of children) child.kill('SIGKILL');
  children.clear();
  await until(async () => {
    const pid = await running();
    if (pid) process.kill(pid, 'SIGTERM');
    return pid === undefined;
  }, 'the gateway ends');
  await rm(folder, { recursive: true, force: true });
});

const argumentsOf = (more: string[] = []) => [main, 'stdio', '--config', config, ...more];

/** The SDK v1 client of `mcp-gateway stdio`. */
async function connected(args: string[] = [], capabilities: ClientOptions['capabilities'] = {}) {
  const client = new Client(info, { capabilities });
  const transport = new StdioClientTransport({
    command: process.execPath,
    args: argumentsOf(args),
    stderr: 'pipe',
  });
  let told = '';
  transport.stderr!.on('data', (chunk) => (told += chunk));
  await client.connect(transport);
  return Object.assign(client, { told: () => told });
}

/** `mcp-gateway stdio` without any client. */
function raw(args: string[] = []) {
  const child = spawn(process.execPath, argumentsOf(args), { stdio: ['pipe', 'pipe', 'pipe'] });
  children.add(child);
  let stdout = '';
  let stderr = '';
  child.stdout.on('data', (chunk) => (stdout += chunk));
  child.stderr.on('data', (chunk) => (stderr += chunk));
  child.stdin.on('error', () => {});
  const ended = once(child, 'close').then(([code]) => code as number);
  // biome-ignore lint/suspicious/noExplicitAny: a test reads whatever came
  const messages = (): any[] =>
    stdout
      .split('\n')
      .slice(0, -1)
      .map((line) => JSON.parse(line));
  return {
    child,
    ended,
    messages,
    stderr: () => stderr,
    send: (...sent: unknown[]) => child.stdin.write(lines(...sent)),
    answered: (id: unknown) =>
      until(() => messages().find((message) => message.id === id), `answer to ${id}`),
  };
}

describe('mcp-gateway stdio', () => {
  it('connects to the gateway that runs, and starts none', async () => {
    await using gateway = await startGateway({
      config: JSON.stringify({ servers: { tiny: fixture('tiny') } }),
    });
    const client = await connected(['--port', new URL(gateway.url).port, '--server', 'tiny']);
    expect((await client.listTools()).tools.map(({ name }) => name)).toEqual(['echo']);
    await client.close();
    expect(client.told()).toContain('connected to the gateway');
    expect(await running()).toBeUndefined();
  });

  it('starts a gateway where none runs, which ends after its last client', async () => {
    const client = await connected(['--end-when-unused', '1s'], { sampling: {} });
    client.setRequestHandler(CreateMessageRequestSchema, () => ({
      model: 'none',
      role: 'assistant' as const,
      content: { type: 'text' as const, text: 'from the client' },
    }));
    const pid = await running();
    expect(pid).toBeGreaterThan(0);
    expect(client.getServerVersion()).toMatchObject({ name: 'mcp-gateway' });
    const asked = await client.callTool({ name: 'everything__ask_sampling', arguments: { prompt: 'say' } });
    expect(JSON.stringify(asked.content)).toContain('from the client');
    // As long as its client is there it stays, whatever that does.
    await new Promise((resolve) => setTimeout(resolve, 2500));
    expect(await running()).toBe(pid);
    await client.close();
    await until(async () => (await running()) === undefined, 'the gateway ends');
    expect(await log()).toContain('No client is left');
  });

  it('started twice at once starts one gateway', async () => {
    const clients = await Promise.all([connected(), connected(), connected(['--server', 'tiny'])]);
    for (const client of clients.slice(0, 2)) {
      const result = await client.callTool({ name: 'tiny__echo', arguments: { text: 'both' } });
      expect(result.content).toEqual([{ type: 'text', text: 'both' }]);
    }
    expect((await log()).match(/Listening on/g)).toHaveLength(1);
    await Promise.all(clients.map((client) => client.close()));
  });

  it('speaks the modern era with a client that does', async () => {
    const client = new ClientV2(info, { versionNegotiation: { mode: 'auto' } });
    const changed: unknown[] = [];
    client.setNotificationHandler('notifications/tools/list_changed', (notification) => {
      changed.push(notification);
    });
    await client.connect(
      new TransportV2({ command: process.execPath, args: argumentsOf(), stderr: 'ignore' }),
    );
    expect(client.getNegotiatedProtocolVersion()).toBe('2026-07-28');
    const result = await client.callTool({ name: 'tiny__echo', arguments: { text: 'modern' } });
    expect(result.content).toEqual([{ type: 'text', text: 'modern' }]);

    const listening = await client.listen({ toolsListChanged: true });
    await client.callTool({ name: 'everything__add_tool', arguments: { name: 'one' } });
    await until(() => changed.length > 0, 'the change is told');
    changed.length = 0;

    for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
      process.kill((await running())!, signal);
      await until(async () => (await running()) === undefined, 'the gateway ends');
      const again = await client.callTool({ name: 'tiny__echo', arguments: { text: signal } });
      expect(again.content).toEqual([{ type: 'text', text: signal }]);
      await until(() => changed.length > 0, 'its lists may be others');
      changed.length = 0;
      await client.callTool({ name: 'everything__add_tool', arguments: { name: signal } });
      await until(() => changed.length > 0, 'the change is told by the next gateway');
    }
    await listening.close();
    expect(await listening.closed).toBe('local');
    await client.close();
  });

  it('goes on when the gateway is killed in the middle of a call', async () => {
    const client = await connected();
    const seen: string[] = [];
    client.setNotificationHandler(LoggingMessageNotificationSchema, ({ params }) => {
      seen.push(`log ${params.data}`);
    });
    client.setNotificationHandler(ResourceUpdatedNotificationSchema, ({ params }) => {
      seen.push(`updated ${params.uri}`);
    });
    await client.setLoggingLevel('info');
    await client.subscribeResource({ uri: 'test://watched-resource' });
    const sleeping = client.callTool({ name: 'everything__sleep', arguments: { ms: 60_000 } });
    const failed = rejection(sleeping);
    await until(async () => {
      const answer = await fetch(`http://127.0.0.1:${port}/servers/everything`);
      return ((await answer.json()) as { instances: { leases: number }[] }).instances[0]?.leases === 1;
    }, 'the call runs');
    const killed = (await running())!;
    process.kill(killed, 'SIGKILL');

    const error = await failed;
    expect(error.message).toContain('went away');
    expect(error.message).toContain('send it again');
    const answer = await client.callTool({
      name: 'everything__log',
      arguments: { level: 'info', text: 'a line' },
    });
    expect(answer.isError).toBeFalsy();
    expect(await running()).not.toBe(killed);
    await client.callTool({ name: 'everything__touch_resource', arguments: {} });
    for (const expected of ['log a line', 'updated test://watched-resource'])
      await until(() => seen.includes(expected), expected);
    expect(client.told()).toContain('the gateway has gone');
    expect(client.told()).toContain('connected again');
    await client.close();
  });

  it('passes large results, and many at once', async () => {
    const client = await connected(['--server', 'everything']);
    const calls = Array.from({ length: 100 }, (_, number) =>
      client.callTool({ name: 'echo', arguments: { text: `number ${number}` } }),
    );
    const big = await client.callTool({ name: 'big', arguments: { bytes: 8_000_000 } });
    expect((big.content as { text: string }[])[0]!.text).toHaveLength(8_000_000);
    const answers = await Promise.all(calls);
    expect(answers.map(({ content }) => (content as { text: string }[])[0]!.text)).toEqual(
      calls.map((_, number) => `number ${number}`),
    );
    await client.close();
  });
});

describe('the lines of mcp-gateway stdio', () => {
  it('are answered before it ends, when its input has ended', async () => {
    const call = {
      name: 'everything__progress',
      arguments: { steps: 3, ms: 200 },
      _meta: { progressToken: 'steps' },
    };
    const { code, stdout, stderr } = await run(process.execPath, argumentsOf(), {
      input: lines(
        initialize,
        { jsonrpc: '2.0', method: 'notifications/initialized' },
        { jsonrpc: '2.0', id: 1, method: 'tools/call', params: call },
      ),
    });
    expect(code, stderr).toBe(0);
    const seen = stdout
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line))
      .filter(({ id, params }) => id !== undefined || params?.progressToken === 'steps');
    expect(seen[0].id).toBe('init');
    expect(seen.at(-1)).toMatchObject({ id: 1, result: { content: [{ text: '3 steps' }] } });
    // Steps of the boot come first.
    expect(seen.slice(1, -1).length).toBeGreaterThanOrEqual(3);
  });

  it('are refused one by one', async () => {
    const stdio = raw();
    stdio.child.stdin!.write('no json\n\n{"jsonrpc":"2.0"}\r\n');
    stdio.send(initialize, { jsonrpc: '2.0', id: 2, method: 'ping', params: { x: 'x'.repeat(5_000_000) } });
    stdio.send({ jsonrpc: '2.0', id: 3, method: 'ping' });
    expect(await stdio.answered(3)).toEqual({ jsonrpc: '2.0', id: 3, result: {} });
    const errors = stdio.messages().filter(({ error }) => error);
    expect(errors.map(({ id, error }) => [id, error.code])).toEqual(
      expect.arrayContaining([
        [null, -32700],
        [null, -32600],
        [2, -32600],
      ]),
    );
    expect(errors).toHaveLength(3);
    stdio.child.kill('SIGTERM');
    expect(await stdio.ended).toBe(0);
  });

  it('may have any shape, and the conversation goes on', async () => {
    const stdio = raw();
    stdio.send(initialize);
    await stdio.answered('init');
    const odd = [undefined, null, true, 7, 'text', ['list'], { requestId: null }, { requestId: {} }];
    for (const params of odd) {
      for (const method of [
        'notifications/cancelled',
        'notifications/initialized',
        'constructor',
        null,
        7,
        {},
      ]) {
        stdio.send({ jsonrpc: '2.0', method, params }, { jsonrpc: '2.0', id: {}, method, params }, [
          { method, params },
        ]);
      }
    }
    stdio.send(...odd.slice(1), { jsonrpc: '2.0', id: 'last', method: 'ping' });
    expect(await stdio.answered('last')).toEqual({ jsonrpc: '2.0', id: 'last', result: {} });
    stdio.child.kill('SIGTERM');
    expect(await stdio.ended).toBe(0);
  });

  it('say why there is no gateway, and so does the exit code', async () => {
    const unknown = raw(['--server', 'nobody']);
    unknown.send(initialize);
    expect(await unknown.ended).toBe(1);
    expect(unknown.messages()).toMatchObject([
      { id: 'init', error: { message: expect.stringContaining('nobody') } },
    ]);

    await writeFile(config, 'servers: { tiny: { imgae: x } }');
    const wrong = await cli(['stdio', '--config', config]);
    expect(wrong).toMatchObject({ code: 2, stdout: '' });
    expect(wrong.stderr).toContain('imgae');

    const nothing = await cli(['stdio', '--port', String(await freePort())], {
      cwd: join(folder, 'state'),
      env: { HOME: folder },
      input: lines(initialize),
    });
    expect(nothing.code).toBe(2);
    expect(JSON.parse(nothing.stdout)).toMatchObject({
      id: 'init',
      error: { data: { code: 'config_invalid' } },
    });
    const portless = await cli(['stdio', '--port', '0']);
    expect(portless).toMatchObject({ code: 2, stdout: '' });
  });

  it('say so where something else has the port', async () => {
    const server = createServer((_request, response) => response.end('hello')).listen(port, '127.0.0.1');
    server.on('upgrade', (_request, socket) => socket.end('HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n'));
    await once(server, 'listening');
    const stdio = raw();
    stdio.send(initialize);
    expect(await stdio.ended).toBe(1);
    expect(stdio.messages()[0].error.message).toContain(`127.0.0.1:${port}`);
    expect(stdio.stderr()).toContain('no MCP Gateway');
    server.close();
  });
});

describe('Claude Code', () => {
  it('connects by stdio, and calls a tool', async () => {
    const claude = (args: string[], env: Record<string, string> = {}) =>
      run(join(root, 'node_modules/.bin/claude'), args, {
        cwd: folder,
        env: {
          ...process.env,
          HOME: folder,
          ANTHROPIC_API_KEY: 'none',
          CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC: '1',
          ...env,
        },
        limitMs: 120_000,
      });
    const added = await claude(['mcp', 'add', 'gw', '--', process.execPath, ...argumentsOf()]);
    expect(added.code, added.stderr).toBe(0);
    expect((await claude(['mcp', 'list'])).stdout).toMatch(/gw: .* Connected/);
    const name = 'mcp__gw__tiny__echo';
    await using model = await scriptedModel({ name, input: { text: 'by stdio' } });
    const { stdout, stderr } = await claude(
      ['-p', 'Use the tool.', '--allowedTools', name, '--max-turns', '3'],
      { ANTHROPIC_BASE_URL: model.url },
    );
    expect(model.toolResults, stdout + stderr).toHaveLength(1);
    expect(JSON.stringify(model.toolResults)).toContain('by stdio');
  });
});
