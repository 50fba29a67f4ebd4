import { join } from 'node:path';
import { Client as ModernClient } from '@modelcontextprotocol/client';
import { StdioClientTransport as ModernTransport } from '@modelcontextprotocol/client/stdio';
import { Client as LegacyClient } from '@modelcontextprotocol/sdk/client/index.js';
import { StdioClientTransport as LegacyTransport } from '@modelcontextprotocol/sdk/client/stdio.js';
import { describe, expect, it } from 'vitest';
import { RawClient } from './raw-client.ts';

const program = join(import.meta.dirname, '../../servers/demo/server.js');
const run = (env: Record<string, string> = {}) => ({
  command: process.execPath,
  args: [program],
  env: { PATH: process.env.PATH ?? '', ...env },
});
const info = { name: 'test', version: '1.0.0' };

const eras = {
  'the v1 client': async (env?: Record<string, string>) => {
    const client = new LegacyClient(info);
    await client.connect(new LegacyTransport(run(env)));
    return client;
  },
  'the v2 client in the legacy era': async (env?: Record<string, string>) => {
    const client = new ModernClient(info, { versionNegotiation: { mode: 'legacy' } });
    await client.connect(new ModernTransport(run(env)));
    expect(client.getNegotiatedProtocolVersion()).toBe('2025-11-25');
    return client;
  },
  'the v2 client in the modern era': async (env?: Record<string, string>) => {
    const client = new ModernClient(info, { versionNegotiation: { mode: { pin: '2026-07-28' } } });
    await client.connect(new ModernTransport(run(env)));
    expect(client.getNegotiatedProtocolVersion()).toBe('2026-07-28');
    return client;
  },
};

describe.each(Object.entries(eras))('by %s', (_name, connect) => {
  it('say_hello is listed with schemas and greets', async () => {
    const client = await connect({ HELLO_FROM: 'Gateway' });
    try {
      const { tools } = await client.listTools();
      expect(tools.map((tool) => tool.name)).toEqual(['say_hello']);
      expect(tools[0]).toMatchObject({
        inputSchema: { properties: { name: { type: 'string' } } },
        outputSchema: { required: ['greeting', 'hello_from'] },
        annotations: { readOnlyHint: true },
      });
      const result = await client.callTool({ name: 'say_hello', arguments: { name: 'World' } });
      expect(result.content).toEqual([{ type: 'text', text: 'Hello World! Greetings from Gateway!' }]);
      expect(result.structuredContent).toEqual({
        greeting: 'Hello World! Greetings from Gateway!',
        hello_from: 'Gateway',
      });
    } finally {
      await client.close();
    }
  });

  it('greets the world from the gateway when it is told nothing', async () => {
    const client = await connect();
    try {
      const result = await client.callTool({ name: 'say_hello', arguments: {} });
      expect(result.content).toEqual([{ type: 'text', text: 'Hello World! Greetings from MCP Gateway!' }]);
      const wrong = await client.callTool({ name: 'say_hello', arguments: { name: 7 } });
      expect(wrong.isError).toBe(true);
    } finally {
      await client.close();
    }
  });
});

describe('the process', () => {
  it.each(['stdin', 'SIGTERM'] as const)('ends by %s', async (how) => {
    await using server = new RawClient([process.execPath, program]);
    await server.initialize();
    if (how === 'stdin') server.endInput();
    else server.process.kill('SIGTERM');
    expect(await server.exited).toEqual({ code: how === 'stdin' ? 0 : 143, signal: null });
  });
});
