import type { Client as ClientV2 } from '@modelcontextprotocol/client';
import type { Client } from '@modelcontextprotocol/sdk/client/index.js';
import {
  CreateMessageRequestSchema,
  ElicitRequestSchema,
  ListRootsRequestSchema,
  LoggingMessageNotificationSchema,
  ResourceUpdatedNotificationSchema,
  ToolListChangedNotificationSchema,
} from '@modelcontextprotocol/sdk/types.js';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startGateway, type TestGateway } from '../harness.ts';
import { until } from '../waiting.ts';
import { connectV1, connectV2 } from './clients.ts';

// biome-ignore lint/suspicious/noExplicitAny: what a fixture answered
type Any = any;

/** What both SDK generations do alike, so that every behaviour is tried with both. */
interface AnyClient {
  name: string;
  tools(): Promise<{ name: string }[]>;
  call(
    name: string,
    args?: object,
    options?: { onprogress?: (progress: Any) => void; signal?: AbortSignal },
  ): Promise<Any>;
  on(method: string, handler: (params: Any) => void): void;
  answer(method: string, handler: (params: Any) => Any): void;
  client: Client | ClientV2;
  close(): Promise<void>;
}

const requestSchemas = {
  'sampling/createMessage': CreateMessageRequestSchema,
  'elicitation/create': ElicitRequestSchema,
  'roots/list': ListRootsRequestSchema,
};
const notificationSchemas = {
  'notifications/message': LoggingMessageNotificationSchema,
  'notifications/resources/updated': ResourceUpdatedNotificationSchema,
  'notifications/tools/list_changed': ToolListChangedNotificationSchema,
};

async function v1(gateway: TestGateway, endpoint: string, capabilities: object = {}): Promise<AnyClient> {
  const client = await connectV1(gateway, endpoint, capabilities);
  return {
    name: 'SDK v1',
    client,
    tools: async () => (await client.listTools()).tools,
    call: (name, args = {}, options) => client.callTool({ name, arguments: args as Any }, undefined, options),
    on: (method, handler) =>
      client.setNotificationHandler(
        notificationSchemas[method as keyof typeof notificationSchemas],
        ({ params }: Any) => handler(params),
      ),
    answer: (method, handler) =>
      client.setRequestHandler(requestSchemas[method as keyof typeof requestSchemas], ({ params }: Any) =>
        handler(params),
      ),
    close: () => client.close(),
  };
}

async function v2(gateway: TestGateway, endpoint: string, capabilities: object = {}): Promise<AnyClient> {
  const client = await connectV2(gateway, endpoint, capabilities as Record<string, unknown>);
  return {
    name: 'SDK v2',
    client,
    tools: async () => (await client.listTools()).tools,
    call: (name, args = {}, options) => client.callTool({ name, arguments: args as Any }, options),
    on: (method, handler) =>
      client.setNotificationHandler(method as Any, ({ params }: Any) => handler(params)),
    answer: (method, handler) =>
      client.setRequestHandler(method as Any, ({ params }: Any) => handler(params)),
    close: () => client.close(),
  };
}

let gateway: TestGateway;

beforeAll(async () => {
  gateway = await startGateway({
    servers: {
      everything: {},
      // Apart, because log lines and questions are nobody's while a call that was given up may still be worked on.
      sleepy: { fixture: 'everything' },
      asks: { fixture: 'asks-the-user' },
      own: { fixture: 'everything', isolation: 'session', env: { NAME: 'own' } },
      slow: { fixture: 'slow-start', env: { START_DELAY_MS: '300' }, idle_timeout: '1s' },
      shifty: { fixture: 'changes-tools' },
      off: { fixture: 'tiny', enabled: false },
    },
  });
  await gateway.settled();
});
afterAll(() => gateway?.[Symbol.asyncDispose]());

const textOf = (result: Any) => result.content[0].text;
const jsonOf = (result: Any) => JSON.parse(textOf(result));

describe.each([
  ['SDK v1', v1],
  ['SDK v2, legacy', v2],
] as const)('%s', (_name, connect) => {
  it('sees the gateway, all tools under their prefixes, and calls one', async () => {
    const client = await connect(gateway, '/mcp');
    expect(client.client.getServerVersion()).toMatchObject({ name: 'mcp-gateway', version: '0.0.0-test' });
    expect(client.client.getServerCapabilities()).toEqual({
      tools: { listChanged: true },
      resources: { subscribe: true, listChanged: true },
      prompts: { listChanged: true },
      completions: {},
      logging: {},
      tasks: { list: {}, cancel: {}, requests: { tools: { call: {} } } },
    });
    expect(client.client.getInstructions()).toContain(
      '## everything\n\nA server for tests: every tool does what its name says and nothing else.',
    );
    const names = (await client.tools()).map(({ name }) => name);
    expect(names).toEqual(
      expect.arrayContaining(['everything__echo', 'asks__ask', 'own__echo', 'slow__echo']),
    );
    expect(textOf(await client.call('everything__echo', { text: 'grüß 𝒢ott' }))).toBe('grüß 𝒢ott');
    await client.close();
  });

  it('sees one server as it is on that server’s own endpoint', async () => {
    const client = await connect(gateway, '/everything/mcp');
    expect(client.client.getServerVersion()).toMatchObject({ name: 'everything' });
    expect(client.client.getServerCapabilities()).toMatchObject({ completions: {}, logging: {} });
    expect(client.client.getInstructions()).toMatch(/^A server for tests/);
    const names = (await client.tools()).map(({ name }) => name);
    expect(names).toContain('echo');
    expect(names.some((name) => name.includes('__'))).toBe(false);
    expect((await client.call('add', { a: 2, b: 3 })).structuredContent).toEqual({ sum: 5 });
    await client.close();
  });

  it('gets progress as it comes, in order', async () => {
    const client = await connect(gateway, '/mcp');
    const seen: Any[] = [];
    const result = await client.call(
      'everything__progress',
      { steps: 4, ms: 20 },
      { onprogress: (p) => seen.push(p) },
    );
    expect(textOf(result)).toBe('4 steps');
    expect(seen.map(({ progress, total }) => [progress, total])).toEqual(
      [1, 2, 3, 4].map((step) => [step, 4]),
    );
    await client.close();
  });

  it('is told that the server starts, and progress goes on increasing after that', async () => {
    await gateway.app.fleet.stop('everything');
    const client = await connect(gateway, '/mcp');
    const seen: Any[] = [];
    await client.call('everything__progress', { steps: 2, ms: 20 }, { onprogress: (p) => seen.push(p) });
    expect(seen[0].message).toContain('everything');
    const steps = seen.map(({ progress }) => progress);
    expect(steps).toEqual([...steps].sort((a, b) => a - b));
    expect(new Set(steps).size).toBe(steps.length);
    expect(seen.at(-1)).toMatchObject({ message: 'step 2 of 2' });
    expect(seen.at(-1).total).toBe(seen.at(-1).progress);
    await client.close();
  });

  it('cancels a call, and the server learns of it with the reason', async () => {
    const client = await connect(gateway, '/sleepy/mcp');
    const abort = new AbortController();
    // The server's own first progress says that it works on it.
    const call = client.call(
      'progress',
      { steps: 3000, ms: 20 },
      {
        signal: abort.signal,
        onprogress: ({ message }) => message.startsWith('step') && abort.abort('changed my mind'),
      },
    );
    await expect(call).rejects.toThrow();
    const cancelled = await until(async () => {
      const { cancelled } = jsonOf(await client.call('cancellations'));
      return cancelled.find((one: Any) => String(one.reason).includes('changed my mind'));
    });
    expect(cancelled).toBeDefined();
    await client.close();
  });

  it('answers sampling and elicitation of a shared server', async () => {
    const client = await connect(gateway, '/mcp', { sampling: {}, elicitation: {} });
    client.answer('sampling/createMessage', (params) => ({
      model: 'test-model',
      role: 'assistant',
      content: { type: 'text', text: `you said: ${params.messages[0].content.text}` },
    }));
    client.answer('elicitation/create', (params) => ({
      action: 'accept',
      content: { answer: `to ${params.message}` },
    }));
    const sampled = jsonOf(await client.call('asks__sample', { prompt: 'hello' }));
    expect(sampled.result.content.text).toBe('you said: hello');
    const elicited = jsonOf(await client.call('asks__ask', { question: 'Who?' }));
    expect(elicited.result).toMatchObject({ action: 'accept', content: { answer: 'to Who?' } });
    await client.close();
  });

  it('without those capabilities is never asked, and the server gets the decline it is prepared for', async () => {
    const client = await connect(gateway, '/mcp');
    expect(jsonOf(await client.call('asks__ask')).result).toEqual({ action: 'decline' });
    expect(jsonOf(await client.call('asks__sample')).error).toMatchObject({ code: -1 });
    await client.close();
  });

  it('gets log lines from its level on', async () => {
    const client = await connect(gateway, '/everything/mcp');
    const lines: Any[] = [];
    client.on('notifications/message', (params) => lines.push(params));
    await client.client.setLoggingLevel('warning');
    await client.call('log', { level: 'info', text: 'too quiet' });
    await client.call('log', { level: 'error', text: 'loud enough' });
    await until(() => lines.length > 0, 'log line');
    expect(lines.map(({ data }) => data)).toEqual(['loud enough']);
    await client.close();
  });

  it('is told when a resource that it watches changes, and no longer once it does not', async () => {
    const client = await connect(gateway, '/everything/mcp');
    const other = await connect(gateway, '/everything/mcp');
    const [updates, others]: [Any[], Any[]] = [[], []];
    client.on('notifications/resources/updated', (params) => updates.push(params));
    other.on('notifications/resources/updated', (params) => others.push(params));
    const uri = 'test://watched-resource';
    await client.client.subscribeResource({ uri });
    await other.call('touch_resource', { uri });
    await until(() => updates.length === 1, 'update');
    expect(updates).toEqual([{ uri }]);
    await client.client.unsubscribeResource({ uri });
    await until(async () => !jsonOf(await other.call('touch_resource', { uri })).notified);
    expect(others).toEqual([]);
    await client.close();
    await other.close();
  });

  it('reads resources, templates, prompts and completions', async () => {
    const client = await connect(gateway, '/mcp');
    const { resources } = await client.client.listResources();
    expect(resources.map(({ uri }: Any) => uri)).toEqual(
      expect.arrayContaining(['test://static/a', 'test://static/d', 'test://watched-resource']),
    );
    const read: Any = await client.client.readResource({ uri: 'test://static/c' });
    expect(read.contents[0]).toMatchObject({ uri: 'test://static/c', text: 'c' });
    const { resourceTemplates } = await client.client.listResourceTemplates();
    expect(resourceTemplates.length).toBeGreaterThan(0);
    const { prompts } = await client.client.listPrompts();
    const prompt = prompts.find(({ name }: Any) => name === 'everything__test_prompt_with_arguments');
    expect(prompt).toBeDefined();
    const got: Any = await client.client.getPrompt({
      name: prompt!.name,
      arguments: { arg1: 'x', arg2: 'y' },
    });
    expect(got.messages.length).toBeGreaterThan(0);
    const completed = await client.client.complete({
      ref: { type: 'ref/prompt', name: prompt!.name },
      argument: { name: 'arg1', value: 'par' },
    });
    expect(completed.completion.values).toEqual(['paris', 'park', 'party']);
    await client.close();
  });

  it('is told when tools come and go, and sees them in the next list', async () => {
    const client = await connect(gateway, '/mcp');
    let changes = 0;
    client.on('notifications/tools/list_changed', () => {
      changes += 1;
    });
    await until(async () => listening(client));
    const added = textOf(await client.call('shifty__grow'));
    await until(() => changes > 0, 'list_changed');
    await until(async () => (await client.tools()).some(({ name }) => name === `shifty__${added}`));
    const before = changes;
    await client.call('shifty__shrink');
    await until(() => changes > before, 'second list_changed');
    await until(async () => !(await client.tools()).some(({ name }) => name === `shifty__${added}`));
    await client.close();
  });

  it('has an instance of its own with isolation: session, with its roots and its own lists', async () => {
    const roots = (name: string) => ({ roots: [{ uri: `file:///${name}`, name }] });
    const one = await connect(gateway, '/mcp', { roots: { listChanged: true } });
    const two = await connect(gateway, '/mcp', { roots: {} });
    one.answer('roots/list', () => roots('one'));
    two.answer('roots/list', () => roots('two'));
    expect(jsonOf(await one.call('own__list_roots')).result).toEqual(roots('one'));
    expect(jsonOf(await two.call('own__list_roots')).result).toEqual(roots('two'));
    expect(textOf(await one.call('own__counter'))).toBe('1');
    expect(textOf(await one.call('own__counter'))).toBe('2');
    expect(textOf(await two.call('own__counter'))).toBe('1');
    await one.call('own__add_tool', { name: 'mine' });
    await until(async () => (await one.tools()).some(({ name }) => name === 'own__mine'));
    expect((await two.tools()).some(({ name }) => name === 'own__mine')).toBe(false);
    expect(textOf(await one.call('own__mine'))).toBe('I am mine');
    await one.close();
    await two.close();
  });

  it('learns what is wrong and what to do next', async () => {
    const client = await connect(gateway, '/mcp');
    await expect(client.call('everything__ecko', {})).rejects.toThrow(
      /everything__ecko.*Did you mean.*everything__echo/,
    );
    await expect(client.call('off__echo', {})).rejects.toThrow(/off is disabled.*enabled: true/);
    await client.close();
    await expect(connect(gateway, '/everthing/mcp')).rejects.toThrow(/everthing.*Did you mean everything/);
    await expect(connect(gateway, '/off/mcp')).rejects.toThrow(/off is disabled/);
  });
});

/** Gives the client the time to open its GET stream; what comes earlier is kept for it. */
async function listening(_client: AnyClient): Promise<boolean> {
  await new Promise((resolve) => setTimeout(resolve, 100));
  return true;
}
