import { readdirSync } from 'node:fs';
import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { RawClient } from './raw-client.ts';

const folder = join(import.meta.dirname, '../fixtures/servers');
const run = (program: string, options?: ConstructorParameters<typeof RawClient>[1]) =>
  new RawClient([process.execPath, join(folder, `${program}.mjs`)], options);

const modules = ['stdio', 'conformance', 'flood', 'http', 'modern', 'rpc-error', 'tasks'];
const programs = readdirSync(folder)
  .filter((file) => file.endsWith('.mjs'))
  .map((file) => file.slice(0, -'.mjs'.length))
  .filter((name) => !modules.includes(name));
const answering = programs.filter(
  (name) => !['never-ready', 'exits-at-once', 'needs-env', 'eperm'].includes(name),
);
const wellBehaved = answering.filter((name) => name !== 'ignores-sigterm');

describe('every fixture that answers', () => {
  it.each(answering)('%s completes the handshake and lists its tools with descriptions', async (program) => {
    await using server = run(program, { env: { START_DELAY_MS: '50' } });
    const { result } = await server.initialize();
    expect(result.capabilities.tools).toBeDefined();
    expect(result.serverInfo.name).toBe(program);
    const { tools } = (await server.request('tools/list')).result;
    expect(tools.length).toBeGreaterThan(0);
    for (const tool of tools) {
      expect(tool.description, tool.name).toBeTruthy();
      expect(tool.inputSchema.type).toBe('object');
    }
  });

  it.each(answering)('%s answers an unknown method with -32601 and lives on', async (program) => {
    await using server = run(program, { env: { START_DELAY_MS: '50' } });
    await server.initialize();
    expect((await server.request('no/such')).error?.code).toBe(-32601);
    expect((await server.request('ping')).result).toEqual({});
  });

  it.each(wellBehaved)('%s ends by itself when stdin ends', async (program) => {
    await using server = run(program, { env: { START_DELAY_MS: '50' } });
    await server.initialize();
    server.endInput();
    expect(await server.exited).toEqual({ code: 0, signal: null });
  });

  it.each(wellBehaved)('%s ends on SIGTERM', async (program) => {
    await using server = run(program, { env: { START_DELAY_MS: '50' } });
    await server.initialize();
    server.process.kill('SIGTERM');
    expect(await server.exited).toEqual({ code: 143, signal: null });
  });
});

describe('the handshake', () => {
  it('is required before anything but ping', async () => {
    await using server = run('everything');
    expect((await server.request('ping')).result).toEqual({});
    expect((await server.request('tools/list')).error?.code).toBe(-32600);
    await server.initialize();
    expect((await server.request('tools/list')).result.tools).toBeDefined();
  });

  it('is not done before initialized was sent', async () => {
    await using server = run('everything');
    await server.request('initialize', { protocolVersion: '2025-11-25', capabilities: {}, clientInfo: {} });
    expect((await server.request('tools/list')).error?.code).toBe(-32600);
  });

  it.each(['2024-11-05', '2025-03-26', '2025-06-18', '2025-11-25'])('agrees on %s', async (version) => {
    await using server = run('everything');
    expect((await server.initialize({}, version)).result.protocolVersion).toBe(version);
  });

  it('answers an unknown version with the newest it knows', async () => {
    await using server = run('everything');
    expect((await server.initialize({}, '1999-01-01')).result.protocolVersion).toBe('2025-11-25');
  });

  it('of slow-start takes its time', async () => {
    await using server = run('slow-start', { env: { START_DELAY_MS: '400' } });
    const began = performance.now();
    await server.initialize();
    expect(performance.now() - began).toBeGreaterThanOrEqual(390);
    expect(await server.callText('echo', { text: 'hi' })).toBe('hi');
  });

  it('of never-ready gets no answer while ping does', async () => {
    await using server = run('never-ready');
    const id = server.post('initialize', { protocolVersion: '2025-11-25', capabilities: {}, clientInfo: {} });
    expect((await server.request('ping')).result).toEqual({});
    expect(server.answers.has(id)).toBe(false);
  });

  it('of old-version names a version that nobody knows', async () => {
    await using server = run('old-version');
    expect((await server.initialize()).result.protocolVersion).toBe('0.1.0');
    expect(await server.callText('ok')).toBe('ok');
  });

  it('of initialize-first cannot be preceded by a probe', async () => {
    await using server = run('initialize-first');
    server.post('server/discover');
    expect((await server.exited).code).toBe(1);
    expect(server.stderr).toContain('expected initialize, got server/discover');
  });
});

describe('programs that end', () => {
  it('exits-at-once says why and exits with code 3', async () => {
    await using server = run('exits-at-once');
    expect((await server.exited).code).toBe(3);
    expect(server.stderr).toBe('exits-at-once: cannot find the configuration\n');
  });

  it('needs-env names the variable it misses, and serves with it', async () => {
    await using missing = run('needs-env');
    expect((await missing.exited).code).toBe(1);
    expect(missing.stderr).toContain('API_TOKEN is not set');
    await using server = run('needs-env', { env: { API_TOKEN: 'abc' } });
    await server.initialize();
    expect(await server.callText('token')).toBe('abc');
  });

  it('eperm says EACCES or EROFS where it may not write, and serves where it may', async () => {
    const place = await mkdtemp(join(tmpdir(), 'eperm-'));
    try {
      const file = join(place, 'state.json');
      await chmod(place, 0o555);
      const uid = process.getuid?.() === 0 ? 65534 : undefined;
      await using refused = run('eperm', { env: { STATE_FILE: file }, uid });
      expect((await refused.exited).code).toBe(1);
      expect(refused.stderr).toMatch(/EACCES|EROFS/);
      await chmod(place, 0o755);
      await using server = run('eperm', { env: { STATE_FILE: file } });
      await server.initialize();
      expect(await server.callText('ok')).toBe('ok');
    } finally {
      await rm(place, { recursive: true });
    }
  });

  it('crash-on-call works until crash, then exits with the code it was given', async () => {
    await using server = run('crash-on-call');
    await server.initialize();
    expect(await server.callText('ok')).toBe('ok');
    server.post('tools/call', { name: 'crash', arguments: { code: 42 } });
    expect((await server.exited).code).toBe(42);
    expect(server.stderr).toContain('fatal: the tool crash was called');
  });

  it('crash-on-call can die by a signal', async () => {
    await using server = run('crash-on-call');
    await server.initialize();
    server.post('tools/call', { name: 'crash', arguments: { signal: 'SIGKILL' } });
    expect((await server.exited).signal).toBe('SIGKILL');
  });

  it('ignores-sigterm outlives SIGTERM, SIGINT, SIGHUP and the end of stdin', async () => {
    await using server = run('ignores-sigterm');
    await server.initialize();
    for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) {
      server.process.kill(signal);
      await server.until(() => server.stderr.includes(`ignoring ${signal}`), signal);
    }
    expect(await server.callText('ok')).toBe('ok');
    server.endInput();
    await new Promise((resolve) => setTimeout(resolve, 1000));
    expect(server.process.exitCode).toBeNull();
  });

  it('out-of-memory stops at the megabytes it was given where nothing kills it', async () => {
    await using server = run('out-of-memory');
    await server.initialize();
    expect(await server.callText('eat', { megabytes: 64 })).toBe('survived 64 MB');
  });
});

describe('programs that write too much', () => {
  it.each(['stdout', 'stderr'] as const)('floods-%s floods and still answers', async (stream) => {
    await using server = run(`floods-${stream}`);
    await server.initialize();
    server.post('tools/call', { name: 'flood' });
    await server.until(() => server.bytes[stream] > 5_000_000, 'flood');
    expect(await server.callText('ok')).toBe('ok');
    if (stream === 'stdout') {
      expect(server.garbage).toContain('this line is not JSON');
      expect(server.messages.some((message) => message.method === 'notifications/message')).toBe(true);
    }
    server.endInput();
    await server.exited;
  });

  it.each(['stdout', 'stderr'] as const)('floods-%s can flood from the start', async (stream) => {
    await using server = run(`floods-${stream}`, { env: { FLOOD_AT_START: '1' } });
    expect((await server.initialize()).result.serverInfo.name).toBe(`floods-${stream}`);
  });

  it('endless-line writes as many bytes as asked for before its newline', async () => {
    await using server = run('endless-line');
    await server.initialize();
    const id = server.post('tools/call', { name: 'endless', arguments: { bytes: 10_000_000 } });
    expect((await server.answer(id)).result.content[0].text).toBe('wrote 10000000 bytes');
    expect(server.garbage.map((line) => line.length)).toEqual([10_000_000]);
  });

  it('endless-line reaches a gigabyte in bounded memory', async () => {
    await using server = run('endless-line', { raw: true });
    server.post('initialize', { protocolVersion: '2025-11-25', capabilities: {}, clientInfo: {} });
    await server.until(() => server.bytes.stdout > 0, 'answer');
    server.send({ method: 'notifications/initialized' });
    server.post('tools/call', { name: 'endless', arguments: {} });
    await server.until(() => server.bytes.stdout > 2 ** 30, 'gigabyte', 50_000);
  });

  it('garbage-lines answers among lines that are none', async () => {
    await using server = run('garbage-lines');
    await server.initialize();
    expect(await server.callText('echo', { text: 'still here' })).toBe('still here');
    expect(server.garbage).toContain('Server running on stdio');
    expect(server.garbage).toContain('{"half": ');
  });
});

describe('lists', () => {
  it('paginates gives every item once over many pages and refuses a foreign cursor', async () => {
    await using server = run('paginates');
    await server.initialize();
    for (const [method, key] of [
      ['tools/list', 'tools'],
      ['resources/list', 'resources'],
      ['resources/templates/list', 'resourceTemplates'],
      ['prompts/list', 'prompts'],
    ] as const) {
      const names = new Set<string>();
      let cursor: string | undefined;
      let pages = 0;
      do {
        const { result } = await server.request(method, { cursor });
        for (const item of result[key]) names.add(item.name);
        cursor = result.nextCursor;
        pages++;
      } while (cursor);
      expect([method, names.size, pages]).toEqual([method, 25, 9]);
      expect((await server.request(method, { cursor: 'nonsense' })).error?.code).toBe(-32602);
    }
    expect(await server.callText('tool_17')).toBe('17');
  });

  it('changes-tools announces what it adds and removes', async () => {
    await using server = run('changes-tools');
    await server.initialize();
    const names = async () =>
      (await server.request('tools/list')).result.tools.map((tool: { name: string }) => tool.name);
    expect(await server.callText('grow')).toBe('extra_1');
    await server.incoming('notifications/tools/list_changed');
    expect(await names()).toEqual(['grow', 'shrink', 'extra_1']);
    expect(await server.callText('extra_1')).toBe('I am extra_1');
    await server.callText('shrink');
    await server.incoming('notifications/tools/list_changed', 2);
    expect(await names()).toEqual(['grow', 'shrink']);
  });

  it('changes-tools can change by itself', async () => {
    await using server = run('changes-tools', { env: { CHANGE_AFTER_MS: '20' } });
    await server.initialize();
    await server.incoming('notifications/tools/list_changed');
  });

  it('stateful-notes remembers as long as it runs', async () => {
    await using server = run('stateful-notes');
    await server.initialize();
    await server.callText('add', { note: 'one' });
    await server.callText('add', { note: 'two' });
    expect((await server.call('list')).result.structuredContent).toEqual({ notes: ['one', 'two'] });
    await using fresh = run('stateful-notes');
    await fresh.initialize();
    expect((await fresh.call('list')).result.structuredContent).toEqual({ notes: [] });
  });
});

describe('asks-the-user', () => {
  it('asks by requests whose ids are its own, and returns what it was told', async () => {
    await using server = run('asks-the-user');
    await server.initialize();
    const call = server.post('tools/call', { name: 'ask', arguments: { question: 'Who?' } });
    const asked = await server.incoming('elicitation/create');
    expect(asked.id).toBe(0);
    expect(asked.params.message).toBe('Who?');
    server.send({ id: asked.id, result: { action: 'accept', content: { answer: 'Ada' } } });
    const { structuredContent } = (await server.answer(call)).result;
    expect(structuredContent.result).toEqual({ action: 'accept', content: { answer: 'Ada' } });
  });

  it('returns the error when the client refuses', async () => {
    await using server = run('asks-the-user');
    await server.initialize();
    const call = server.post('tools/call', { name: 'sample' });
    const asked = await server.incoming('sampling/createMessage');
    server.send({ id: asked.id, error: { code: -1, message: 'no' } });
    expect((await server.answer(call)).result.structuredContent).toEqual({
      error: { code: -1, message: 'no' },
    });
  });
});

describe('everything', () => {
  const start = async (capabilities: object = {}, env?: NodeJS.ProcessEnv) => {
    const server = run('everything', { env });
    await server.initialize(capabilities);
    return server;
  };

  it('answers in text, structure, image, resource, error', async () => {
    await using server = await start();
    expect(await server.callText('echo', { text: 'ä😀' })).toBe('ä😀');
    expect((await server.call('add', { a: 2, b: 3 })).result.structuredContent).toEqual({ sum: 5 });
    const image = (await server.call('image')).result.content[0];
    expect(Buffer.from(image.data, 'base64').subarray(1, 4).toString()).toBe('PNG');
    expect((await server.call('resource')).result.content.map((part: { type: string }) => part.type)).toEqual(
      ['resource', 'resource_link'],
    );
    expect((await server.call('fail', { message: 'no luck' })).result).toMatchObject({
      isError: true,
      content: [{ text: 'no luck' }],
    });
    expect(
      (await server.call('rpc_error', { code: -32077, message: 'own', data: { a: [1] } })).error,
    ).toEqual({
      code: -32077,
      message: 'own',
      data: { a: [1] },
    });
    expect((await server.call('echo')).result.isError).toBe(true);
    expect((await server.call('no_such_tool')).error?.code).toBe(-32602);
  });

  it('returns unknown fields and the _meta of the request', async () => {
    await using server = await start();
    const { result } = await server.call('unknown_fields', {}, { 'example.com/trace': [1, { deep: true }] });
    expect(result._meta['example.com/echo']).toEqual({ 'example.com/trace': [1, { deep: true }] });
    expect(result['x-top']).toEqual(['unknown', 1, true, null]);
    expect(result.content[1]).toEqual({ type: 'hologram', shape: { faces: 12 }, 'x-float': 1.5 });
  });

  it('returns a result of ten megabytes', async () => {
    await using server = await start();
    expect((await server.callText('big', { bytes: 10_000_000 })).length).toBe(10_000_000);
  });

  it('answers garbage and wrong shapes with JSON-RPC errors and lives on', async () => {
    await using server = await start();
    for (const [line, code] of [
      ['not json', -32700],
      ['[]', -32600],
      ['42', -32600],
      ['null', -32600],
      ['{"id":1}', -32600],
    ] as const) {
      server.answers.delete(null);
      server.write(`${line}\n`);
      const answer = await server.until(() => server.answers.get(null), `answer to ${line}`);
      expect([line, answer.error?.code]).toEqual([line, code]);
    }
    expect((await server.request('ping')).result).toEqual({});
  });

  it('reports progress to the token it was given, whatever its type, and to none otherwise', async () => {
    await using server = await start();
    for (const progressToken of ['a', 7, 0]) {
      await server.call('progress', { steps: 2, ms: 1 }, { progressToken });
    }
    await server.call('progress', { steps: 2, ms: 1 });
    const seen = server.messages.filter((message) => message.method === 'notifications/progress');
    expect(seen.map(({ params }) => [params.progressToken, params.progress, params.total])).toEqual([
      ['a', 1, 2],
      ['a', 2, 2],
      [7, 1, 2],
      [7, 2, 2],
      [0, 1, 2],
      [0, 2, 2],
    ]);
  });

  it('stops a cancelled call and never answers it', async () => {
    await using server = await start();
    const id = server.post('tools/call', { name: 'sleep', arguments: { ms: 600_000 } }, 'to-cancel');
    server.send({ method: 'notifications/cancelled', params: { requestId: id, reason: 'enough' } });
    const { cancelled } = (await server.call('cancellations')).result.structuredContent;
    expect(cancelled).toEqual([{ requestId: 'to-cancel', reason: 'enough' }]);
    expect(server.answers.has('to-cancel')).toBe(false);
  });

  it('logs at the level that was set', async () => {
    await using server = await start();
    await server.call('log', { level: 'debug', text: 'unseen' });
    await server.request('logging/setLevel', { level: 'debug' });
    await server.call('log', { level: 'debug', text: 'seen', count: 2 });
    await server.request('logging/setLevel', { level: 'error' });
    await server.call('log', { level: 'warning', text: 'unseen' });
    const lines = server.messages.filter((message) => message.method === 'notifications/message');
    expect(lines.map(({ params }) => [params.level, params.data])).toEqual([
      ['debug', 'seen'],
      ['debug', 'seen'],
    ]);
    expect((await server.request('logging/setLevel', { level: 'loud' })).error?.code).toBe(-32602);
  });

  it('asks the client only for what it declared, unless forced', async () => {
    await using server = await start({ elicitation: {} });
    expect((await server.call('ask_sampling')).result.isError).toBe(true);
    for (const [tool, method] of [
      ['ask_elicitation', 'elicitation/create'],
      ['ask_elicitation_url', 'elicitation/create'],
      ['list_roots', 'roots/list'],
      ['ask_sampling', 'sampling/createMessage'],
    ] as const) {
      const call = server.post('tools/call', { name: tool, arguments: { force: true } });
      const asked = await server.until(
        () => server.messages.find((message) => message.method === method && message.id !== undefined),
        method,
      );
      server.messages.splice(server.messages.indexOf(asked), 1);
      server.send({ id: asked.id, result: { told: tool } });
      expect((await server.answer(call)).result.structuredContent).toEqual({ result: { told: tool } });
    }
  });

  it('can ask when its call is long over', async () => {
    await using server = await start();
    await server.call('ask_later', { what: 'roots', ms: 10 });
    const asked = await server.incoming('roots/list');
    server.send({ id: asked.id, error: { code: -32601, message: 'no roots' } });
    expect((await server.call('last_answer')).result.structuredContent.lastAnswer.error.message).toBe(
      'no roots',
    );
  });

  it('tells what the process is and has', async () => {
    await using server = await start({}, { GREETING: 'hello' });
    expect(await server.callText('env', { name: 'GREETING' })).toBe('hello');
    expect((await server.call('env', { name: 'ABSENT' })).result.isError).toBe(true);
    expect((await server.call('env')).result.structuredContent.names).toContain('GREETING');
    const who = (await server.call('whoami')).result.structuredContent;
    expect(who.pid).toBe(server.process.pid);
    expect(await server.callText('pid')).toBe(String(server.process.pid));
    expect(who.instance).toMatch(/^[0-9a-f-]{36}$/);
    expect([await server.callText('counter'), await server.callText('counter')]).toEqual(['1', '2']);
    await server.call('stderr', { text: 'to the log' });
    await server.until(() => server.stderr.includes('to the log\n'), 'stderr');
  });

  it('lists resources on pages, reads them, their templates, and says which it does not have', async () => {
    await using server = await start();
    const first = (await server.request('resources/list')).result;
    expect(first.resources).toHaveLength(3);
    const second = (await server.request('resources/list', { cursor: first.nextCursor })).result;
    expect(second.resources.map((resource: { uri: string }) => resource.uri)).not.toContain(
      'test://static-text',
    );
    expect((await server.request('resources/list', { cursor: 'x' })).error?.code).toBe(-32602);
    const read = async (uri: string) => (await server.request('resources/read', { uri })).result.contents[0];
    expect((await read('test://static-binary')).blob).toBeTruthy();
    expect(JSON.parse((await read('test://template/7/data')).text).id).toBe('7');
    expect((await server.request('resources/read', { uri: 'test://none' })).error).toMatchObject({
      code: -32002,
      data: { uri: 'test://none' },
    });
  });

  it('tells subscribers, and them alone, that a resource changed', async () => {
    await using server = await start();
    const uri = 'test://watched-resource';
    expect((await server.call('touch_resource')).result.structuredContent.notified).toBe(false);
    await server.request('resources/subscribe', { uri });
    await server.call('touch_resource');
    expect((await server.incoming('notifications/resources/updated')).params).toEqual({ uri });
    await server.request('resources/unsubscribe', { uri });
    expect((await server.call('touch_resource')).result.structuredContent.notified).toBe(false);
    expect((await server.request('resources/read', { uri })).result.contents[0].text).toContain('version 3');
  });

  it('has prompts with arguments and completes them', async () => {
    await using server = await start();
    const prompt = await server.request('prompts/get', {
      name: 'test_prompt_with_arguments',
      arguments: { arg1: 'a', arg2: 'b' },
    });
    expect(prompt.result.messages[0].content.text).toBe("Prompt with arguments: arg1='a', arg2='b'");
    expect((await server.request('prompts/get', { name: 'test_prompt_with_arguments' })).error?.code).toBe(
      -32602,
    );
    expect((await server.request('prompts/get', { name: 'none' })).error?.code).toBe(-32602);
    const complete = async (ref: object, argument: object, context?: object) =>
      (await server.request('completion/complete', { ref, argument, context })).result?.completion.values;
    const ref = { type: 'ref/prompt', name: 'test_prompt_with_arguments' };
    expect(await complete(ref, { name: 'arg1', value: 'par' })).toEqual(['paris', 'park', 'party']);
    expect(await complete(ref, { name: 'arg2', value: '' }, { arguments: { arg1: 'paris' } })).toEqual([
      'after paris',
    ]);
    const template = { type: 'ref/resource', uri: 'test://template/{id}/data' };
    expect(await complete(template, { name: 'id', value: '12' })).toEqual(['12', '123']);
    expect(await complete({ type: 'ref/prompt', name: 'none' }, { name: 'x', value: '' })).toBeUndefined();
  });

  it('changes its lists on request and says so', async () => {
    await using server = await start();
    await server.call('add_tool', { name: 'brand_new' });
    await server.incoming('notifications/tools/list_changed');
    expect(await server.callText('brand_new')).toBe('I am brand_new');
    await server.call('remove_tool', { name: 'brand_new' });
    expect((await server.call('brand_new')).error?.code).toBe(-32602);
    await server.call('add_resource', { uri: 'test://new' });
    await server.incoming('notifications/resources/list_changed');
    await server.call('add_prompt', { name: 'new_prompt' });
    await server.incoming('notifications/prompts/list_changed');
  });
});

describe('everything in the modern era', () => {
  const ours = (name: string) => `io.modelcontextprotocol/${name}`;
  const tasks = { extensions: { [ours('tasks')]: {} } };
  const able = { sampling: {}, elicitation: { form: {}, url: {} }, roots: {} };
  const metaOf = (capabilities: object, more: object = {}) => ({
    [ours('protocolVersion')]: '2026-07-28',
    [ours('clientInfo')]: { name: 'raw-client', version: '1.0.0' },
    [ours('clientCapabilities')]: capabilities,
    ...more,
  });
  const start = (era = 'modern', capabilities: object = able) => {
    const server = run('everything', { env: { ERA: era } });
    const ask = (method: string, params: object = {}, meta: object = {}) =>
      server.request(method, { ...params, _meta: metaOf(capabilities, meta) });
    const call = (name: string, args: object = {}, more: object = {}) =>
      ask('tools/call', { name, arguments: args, ...more });
    return { server, ask, call };
  };
  const textOf = (answer: Awaited<ReturnType<RawClient['request']>>) => answer.result.content[0].text;
  const accepted = (content: object = {}) => ({ action: 'accept', content });

  it('discovers without a handshake and refuses one by naming what it speaks', async () => {
    const { server, ask } = start();
    await using _ = server;
    const { result } = await ask('server/discover');
    expect(result).toMatchObject({
      resultType: 'complete',
      supportedVersions: ['2026-07-28'],
      capabilities: { tools: { listChanged: true }, extensions: { [ours('tasks')]: {} } },
      _meta: { [ours('serverInfo')]: { name: 'everything' } },
    });
    expect(result.capabilities.tasks).toBeUndefined();
    expect((await server.initialize()).error).toMatchObject({
      code: -32022,
      data: { supported: ['2026-07-28'], requested: '2025-11-25' },
    });
  });

  it('wants to be told who asks, with every request', async () => {
    const { server } = start();
    await using _ = server;
    for (const missing of ['protocolVersion', 'clientCapabilities']) {
      const { [ours(missing)]: _gone, ...meta } = metaOf({}) as Record<string, unknown>;
      expect((await server.request('tools/list', { _meta: meta })).error?.code).toBe(-32602);
    }
    expect((await server.request('tools/list')).error?.code).toBe(-32602);
    const unknown = metaOf({}, { [ours('protocolVersion')]: '2099-01-01' });
    expect((await server.request('tools/list', { _meta: unknown })).error).toMatchObject({
      code: -32022,
      data: { supported: ['2026-07-28'], requested: '2099-01-01' },
    });
    const { [ours('clientInfo')]: _info, ...anonymous } = metaOf({}) as Record<string, unknown>;
    expect((await server.request('tools/list', { _meta: anonymous })).result.tools.length).toBeGreaterThan(0);
  });

  it('marks what may be cached, and knows no method of the legacy era', async () => {
    const { server, ask, call } = start();
    await using _ = server;
    for (const method of ['tools/list', 'prompts/list', 'resources/list', 'resources/templates/list']) {
      expect((await ask(method)).result).toMatchObject({ resultType: 'complete', cacheScope: 'public' });
    }
    expect((await ask('resources/read', { uri: 'test://static-text' })).result).toMatchObject({
      ttlMs: 0,
      cacheScope: 'private',
    });
    expect((await ask('resources/read', { uri: 'test://none' })).error?.code).toBe(-32602);
    for (const method of ['ping', 'logging/setLevel', 'resources/subscribe', 'tasks/list', 'tasks/result']) {
      expect([method, (await ask(method)).error?.code]).toEqual([method, -32601]);
    }
    const echoed = await call('echo', { text: 'hi' });
    expect(textOf(echoed)).toBe('hi');
    expect(echoed.result.ttlMs).toBeUndefined();
  });

  it('logs at the level of the request and not without one', async () => {
    const { server, ask } = start();
    await using _ = server;
    const log = (level: string, meta: object) =>
      ask('tools/call', { name: 'log', arguments: { level, text: level } }, meta);
    await log('emergency', {});
    await log('info', { [ours('logLevel')]: 'warning' });
    await log('error', { [ours('logLevel')]: 'warning' });
    const lines = server.messages.filter((message) => message.method === 'notifications/message');
    expect(lines.map(({ params }) => params.data)).toEqual(['error']);
  });

  it.each([
    ['ask_sampling', 'sampling/createMessage'],
    ['ask_elicitation', 'elicitation/create'],
    ['ask_elicitation_url', 'elicitation/create'],
    ['list_roots', 'roots/list'],
  ])('%s asks by its result and goes on with the retry', async (tool, method) => {
    const { server, call } = start();
    await using _ = server;
    const { result } = await call(tool);
    expect(result).toMatchObject({ resultType: 'input_required', inputRequests: { question: { method } } });
    expect(result.inputRequests.question.params?.elicitationId).toBeUndefined();
    const retry = { inputResponses: { question: { told: tool } }, requestState: result.requestState };
    const answer = await call(tool, {}, retry);
    expect(answer.result).toMatchObject({
      resultType: 'complete',
      structuredContent: { result: { told: tool } },
    });
    expect(server.messages.filter((message) => message.id !== undefined)).toEqual([]);
  });

  it('refuses a client that cannot be asked, unless forced', async () => {
    const { server, call } = start('modern', { elicitation: {} });
    await using _ = server;
    expect((await call('ask_sampling')).error).toMatchObject({
      code: -32021,
      data: { requiredCapabilities: { sampling: {} } },
    });
    expect((await call('ask_elicitation_url')).error?.data).toEqual({
      requiredCapabilities: { elicitation: { url: {} } },
    });
    expect((await call('ask_elicitation')).result.resultType).toBe('input_required');
    expect((await call('ask_sampling', { force: true })).result.resultType).toBe('input_required');
  });

  it('refuses a state that is not its own, of another call or malformed answers', async () => {
    const { server, call } = start();
    await using _ = server;
    const { requestState } = (await call('ask_elicitation', { message: 'one' })).result;
    const retry = (state: unknown, message = 'one', inputResponses: unknown = { question: accepted() }) =>
      call('ask_elicitation', { message }, { requestState: state, inputResponses });
    for (const state of [`${requestState}x`, `x${requestState}`, 'nonsense', 7]) {
      expect((await retry(state)).error?.code).toBe(-32602);
    }
    expect((await retry(requestState, 'another')).error?.code).toBe(-32602);
    expect((await retry(requestState, 'one', { question: 5 })).error?.code).toBe(-32602);
    expect((await retry(requestState, 'one', null)).error?.code).toBe(-32602);
    expect((await retry(requestState, 'one', { other: accepted() })).result.resultType).toBe(
      'input_required',
    );
    expect((await retry(requestState)).result.resultType).toBe('complete');
  });

  it('asks in rounds that the state remembers', async () => {
    const { server, call } = start();
    await using _ = server;
    const tool = 'test_input_required_result_multi_round';
    const first = (await call(tool)).result;
    const retry = (requestState: string, inputResponses: object) =>
      call(tool, {}, { requestState, inputResponses });
    const second = (await retry(first.requestState, { step1: accepted({ name: 'Ada' }) })).result;
    expect(Object.keys(second.inputRequests)).toEqual(['step2']);
    const third = await retry(second.requestState, { step2: accepted({ color: 'red' }) });
    expect(textOf(third)).toBe('Ada likes red');
  });

  it('opens a page by a question, where the legacy era has an error and a notification', async () => {
    const { server, call } = start();
    await using _ = server;
    const url = 'https://example.com/a';
    const { result } = await call('url_required', { url });
    expect(result.inputRequests.question.params).toMatchObject({ mode: 'url', url });
    const retry = { requestState: result.requestState, inputResponses: { question: { action: 'accept' } } };
    expect(textOf(await call('url_required', { url }, retry))).toBe(`opened ${url}`);

    await using legacy = run('everything');
    await legacy.initialize({ elicitation: { url: {} } });
    const { error } = await legacy.call('url_required', { url });
    expect(error).toMatchObject({ code: -32042, data: { elicitations: [{ mode: 'url', url }] } });
    const { elicitationId } = error!.data.elicitations[0];
    expect(legacy.messages).toEqual([]);
    await legacy.call('complete_url', { elicitationId });
    expect((await legacy.incoming('notifications/elicitation/complete')).params).toEqual({ elicitationId });
    expect(await legacy.callText('url_required', { url })).toBe(`opened ${url}`);
  });

  it('sends a subscription what it asked for, stamped, until it is cancelled', async () => {
    const { server, ask, call } = start();
    await using _ = server;
    const listen = (notifications: object) =>
      server.post('subscriptions/listen', { notifications, _meta: metaOf({}) });
    const uri = 'test://watched-resource';
    const first = listen({ toolsListChanged: true, resourceSubscriptions: [uri] });
    const acknowledged = await server.incoming('notifications/subscriptions/acknowledged');
    expect(acknowledged.params).toEqual({
      notifications: { toolsListChanged: true, resourceSubscriptions: [uri] },
      _meta: { [ours('subscriptionId')]: first },
    });
    await call('touch_resource');
    await call('add_prompt', { name: 'unasked' });
    await call('add_tool', { name: 'grown' });
    const told = () =>
      server.messages.slice(1).map(({ method, params }) => [method, params._meta[ours('subscriptionId')]]);
    expect(told()).toEqual([
      ['notifications/resources/updated', first],
      ['notifications/tools/list_changed', first],
    ]);
    server.send({ method: 'notifications/cancelled', params: { requestId: first } });
    await call('add_tool', { name: 'grown_more' });
    expect(told()).toHaveLength(2);
    expect(server.answers.has(first)).toBe(false);
    expect((await ask('subscriptions/listen')).error?.code).toBe(-32602);
  });

  it('runs tasks for clients that know them, and asks in them', async () => {
    const { server, ask, call } = start('modern', { ...able, ...tasks });
    await using _ = server;
    const created = (await call('confirm_delete', { filename: 'x' })).result;
    expect(created).toMatchObject({ resultType: 'task', status: 'working', ttlMs: expect.any(Number) });
    const { taskId } = created;
    const listening = server.post('subscriptions/listen', {
      notifications: { taskIds: [taskId] },
      _meta: metaOf(tasks),
    });
    const state = async () => (await ask('tasks/get', { taskId })).result;
    expect(await state()).toMatchObject({
      status: 'input_required',
      inputRequests: { confirm: { method: 'elicitation/create' } },
    });
    const update = { taskId, inputResponses: { confirm: accepted({ confirm: true }), unknown: {} } };
    expect((await ask('tasks/update', update)).result).toMatchObject({ resultType: 'complete' });
    expect(await state()).toMatchObject({
      resultType: 'complete',
      status: 'completed',
      result: { content: [{ text: 'deleted x' }] },
    });
    const last = await server.incoming('notifications/tasks', 2);
    expect(last.params).toMatchObject({
      taskId,
      status: 'completed',
      _meta: { [ours('subscriptionId')]: listening },
    });

    const slow = (await call('slow_compute', { seconds: 60 })).result.taskId;
    await ask('tasks/cancel', { taskId: slow });
    expect((await ask('tasks/get', { taskId: slow })).result.status).toBe('cancelled');
    expect((await ask('tasks/cancel', { taskId: slow })).error).toBeUndefined();
    expect((await ask('tasks/get', { taskId: 'none' })).error?.code).toBe(-32602);
  });

  it('runs no task for a client that does not know them', async () => {
    const { server, ask, call } = start();
    await using _ = server;
    const error = { code: -32021, data: { requiredCapabilities: tasks } };
    expect((await call('failing_job')).error).toMatchObject(error);
    expect((await ask('tasks/get', { taskId: 'any' })).error).toMatchObject(error);
    expect(textOf(await call('slow_compute', { seconds: 0, label: 'now' }))).toBe('now: done in 0 s');
  });

  it('serves both eras at once', async () => {
    const { server, call } = start('both');
    await using _ = server;
    await server.initialize({ elicitation: {} });
    expect(textOf(await call('echo', { text: 'modern' }))).toBe('modern');
    expect(await server.callText('echo', { text: 'legacy' })).toBe('legacy');
    expect((await call('ask_sampling')).result.resultType).toBe('input_required');
    await call('add_tool', { name: 'grown' });
    expect((await server.incoming('notifications/tools/list_changed')).params).toBeUndefined();
  });

  it('is asked for in vain where only the legacy era is spoken', async () => {
    const { server, ask } = start('legacy');
    await using _ = server;
    expect((await ask('server/discover')).error?.code).toBe(-32600);
    await server.initialize();
    expect((await ask('server/discover')).error?.code).toBe(-32601);
  });
});

describe('tasks of the legacy era', () => {
  it('are asked for by the client, watched, and give their result', async () => {
    await using server = run('everything');
    const { result } = await server.initialize({ elicitation: {} });
    expect(result.capabilities.tasks).toEqual({ list: {}, cancel: {}, requests: { tools: { call: {} } } });
    const create = async (name: string, args: object = {}) =>
      (await server.request('tools/call', { name, arguments: args, task: { ttl: 60_000 } })).result.task;
    const { taskId, ttl } = await create('confirm_delete', { filename: 'x' });
    expect(ttl).toBe(60_000);
    const asked = await server.incoming('elicitation/create');
    expect(asked.params._meta).toEqual({ 'io.modelcontextprotocol/related-task': { taskId } });
    expect((await server.request('tasks/get', { taskId })).result.status).toBe('input_required');
    const waiting = server.post('tasks/result', { taskId });
    server.send({ id: asked.id, result: { action: 'accept', content: { confirm: true } } });
    expect((await server.answer(waiting)).result).toMatchObject({
      content: [{ text: 'deleted x' }],
      _meta: { 'io.modelcontextprotocol/related-task': { taskId } },
    });
    const told = server.messages.filter(({ method }) => method === 'notifications/tasks/status');
    expect(told.map(({ params }) => params.status)).toEqual(['input_required', 'working', 'completed']);
    expect((await server.request('tasks/list')).result.tasks).toMatchObject([{ taskId }]);
  });

  it('are cancelled, fail, and are had only where the tool has them', async () => {
    await using server = run('everything');
    await server.initialize();
    const call = (name: string, more: object = {}) =>
      server.request('tools/call', { name, arguments: {}, ...more });
    const task = {};
    const slow = (
      await server.request('tools/call', { name: 'slow_compute', arguments: { seconds: 60 }, task })
    ).result.task.taskId;
    expect((await server.request('tasks/cancel', { taskId: slow })).result.status).toBe('cancelled');
    expect((await server.request('tasks/cancel', { taskId: slow })).error?.code).toBe(-32602);
    const broken = (await call('protocol_error_job', { task })).result.task.taskId;
    expect((await server.request('tasks/result', { taskId: broken })).error?.message).toBe('the job broke');
    expect((await server.request('tasks/get', { taskId: broken })).result.status).toBe('failed');
    expect((await call('failing_job')).error?.code).toBe(-32601);
    expect((await call('echo', { task })).result.isError).toBe(true);
    expect((await call('greet', { arguments: { name: 'x' }, task })).error?.code).toBe(-32601);
  });
});
