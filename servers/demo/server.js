// @ts-check
import { McpServer } from '@modelcontextprotocol/server';
import { serveStdio } from '@modelcontextprotocol/server/stdio';
import { z } from 'zod';

const helloFrom = process.env.HELLO_FROM || 'MCP Gateway';

serveStdio(() => {
  const server = new McpServer(
    { name: 'demo', title: 'Demo', version: '1.0.0' },
    { instructions: 'Says hello: a first tool to try a gateway with.' },
  );
  server.registerTool(
    'say_hello',
    {
      title: 'Say hello',
      description: 'Greets somebody by name and says whom the greeting is from.',
      inputSchema: z.object({
        name: z.string().trim().min(1).max(200).default('World').describe('Who is greeted'),
      }),
      outputSchema: z.object({ greeting: z.string(), hello_from: z.string() }),
      annotations: { title: 'Say hello', readOnlyHint: true, idempotentHint: true, openWorldHint: false },
    },
    ({ name }) => {
      const greeting = `Hello ${name}! Greetings from ${helloFrom}!`;
      return {
        content: [{ type: 'text', text: greeting }],
        structuredContent: { greeting, hello_from: helloFrom },
      };
    },
  );
  return server;
});

// As a container's first process Node would not end on SIGTERM by itself.
process.on('SIGTERM', () => process.exit(143));
console.error(`demo is ready; greetings are from ${helloFrom}`);
