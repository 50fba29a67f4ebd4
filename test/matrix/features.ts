import { expect } from 'vitest';
import { until } from '../waiting.ts';
import type { Any, Era, List, MatrixClient } from './clients.ts';

/** What a feature is tried on, beside the client. */
export interface Ground {
  /** The era of the server. */
  readonly server: Era;
  readonly isolation: 'shared' | 'session';
  /** The server's name in the configuration. */
  readonly name: string;
  /** A word that no other cell uses. */
  readonly word: string;
}

/** Uses a feature as a user of the client would, and fails where it does not do what it does without a gateway. */
export type Feature = (client: MatrixClient, ground: Ground) => Promise<void>;

export const textOf = (result: Any) => result.content[0].text;
export const toldAs = (client: MatrixClient, method: string) =>
  client.heard.filter((one) => one.method === `notifications/${method}`);
const namesOf = async (client: MatrixClient, list: List) => (await client.list(list)).map(({ name }) => name);
const errorOf = (promise: Promise<Any>): Promise<Any> =>
  promise.then(
    (result) => expect.fail(`Expected an error, found ${JSON.stringify(result)}`),
    (error) => error,
  );

const tools: Feature = async (client, { word }) => {
  const listed = await client.list('tools');
  expect(listed.find(({ name }) => name === 'add')).toMatchObject({
    title: 'Addition',
    inputSchema: { properties: { a: { type: 'number' } }, required: ['a', 'b'] },
    annotations: { readOnlyHint: true, idempotentHint: true, openWorldHint: false },
    icons: [{ mimeType: 'image/png', sizes: ['1x1'] }],
    _meta: { 'example.com/kind': 'arithmetic' },
  });
  expect((await client.call('echo', { text: word })).content).toEqual([{ type: 'text', text: word }]);
  expect(await client.call('fail', { message: word })).toMatchObject({
    isError: true,
    content: [{ type: 'text', text: word }],
  });
  expect(await errorOf(client.call(`no_${word}`))).toMatchObject({ code: -32602 });
};

const structuredOutput: Feature = async (client) => {
  // The SDKs check results against the schema once they know it.
  const listed = await client.list('tools');
  expect(listed.find(({ name }) => name === 'add').outputSchema).toEqual({
    type: 'object',
    properties: { sum: { type: 'number' } },
    required: ['sum'],
  });
  const result = await client.call('add', { a: 2, b: 3 });
  expect(result.structuredContent).toEqual({ sum: 5 });
  expect(JSON.parse(textOf(result))).toEqual({ sum: 5 });
};

const progress: Feature = async (client) => {
  // An instance that has yet to start reports its start as well.
  await client.call('echo', { text: 'start' });
  const steps: Any[] = [];
  const result = await client.call(
    'progress',
    { steps: 3, ms: 10 },
    { onProgress: (step) => steps.push(step) },
  );
  expect(textOf(result)).toBe('3 steps');
  expect(steps).toEqual(
    [1, 2, 3].map((step) => ({ progress: step, total: 3, message: `step ${step} of 3` })),
  );
};

const cancel: Feature = async (client) => {
  const count = async () => (await client.call('cancellations')).structuredContent.cancelled.length;
  const before = await count();
  const abort = new AbortController();
  const call = client.call(
    'progress',
    { steps: 100_000, ms: 10 },
    { signal: abort.signal, onProgress: () => abort.abort('no longer wanted') },
  );
  await errorOf(call);
  await until(async () => (await count()) === before + 1, 'the server is told of the cancellation');
};

const logging: Feature = async (client, { word }) => {
  await client.call('log', { level: 'debug', text: `${word} is too little` }, { logLevel: 'warning' });
  await client.call('log', { level: 'info', text: `${word} is too little` }, { logLevel: 'warning' });
  await client.call('log', { level: 'error', text: word }, { logLevel: 'warning' });
  await client.call('log', { level: 'debug', text: `${word}, all` }, { logLevel: 'debug' });
  await until(() => toldAs(client, 'message').length >= 2, 'two log lines');
  expect(toldAs(client, 'message').map(({ params }) => params)).toEqual([
    { level: 'error', logger: 'everything', data: word },
    { level: 'debug', logger: 'everything', data: `${word}, all` },
  ]);
};

const loggingWithoutLevel: Feature = async (client, { word }) => {
  await client.call('log', { level: 'debug', text: `${word} is too little` });
  await client.call('log', { level: 'info', text: word });
  await until(() => toldAs(client, 'message').length > 0, 'a log line');
  expect(toldAs(client, 'message')).toMatchObject([{ params: { level: 'info', data: word } }]);
};

const sampling: Feature = async (client, { word }) => {
  const answered = JSON.parse(textOf(await client.call('ask_sampling', { prompt: word })));
  expect(answered.result).toMatchObject({
    role: 'assistant',
    model: 'a-model',
    stopReason: 'endTurn',
    content: { type: 'text', text: `you said: ${word}` },
  });
  expect(client.asked).toMatchObject([
    {
      method: 'sampling/createMessage',
      params: { messages: [{ role: 'user', content: { type: 'text', text: word } }], maxTokens: 100 },
    },
  ]);
};

const elicitationForm: Feature = async (client, { word }) => {
  const accepted = JSON.parse(textOf(await client.call('ask_elicitation', { message: word })));
  expect(accepted.result).toEqual({ action: 'accept', content: { answer: `answer of ${word}` } });
  const declined = JSON.parse(textOf(await client.call('ask_elicitation', { message: `decline ${word}` })));
  expect(declined.result).toEqual({ action: 'decline' });
  const { messages } = await client.prompt('test_input_required_result_prompt');
  expect(messages[0].content.text).toBe('Context: context of What context should the prompt use?');
  expect(client.asked.map(({ params }) => params.message)).toEqual([
    word,
    `decline ${word}`,
    'What context should the prompt use?',
  ]);
  expect(client.asked[0].params.requestedSchema).toMatchObject({
    properties: { answer: { type: 'string', title: 'Answer' } },
    required: ['answer'],
  });
};

const elicitationUrl: Feature = async (client, { word }) => {
  const url = `https://example.com/${word}`;
  const answered = JSON.parse(textOf(await client.call('ask_elicitation_url', { message: word, url })));
  expect(answered.result).toEqual({ action: 'accept' });
  expect(client.asked).toMatchObject([{ params: { mode: 'url', message: word, url } }]);
  // Each page has an id in the legacy era, which the modern one has given up.
  expect(typeof client.asked[0].params.elicitationId).toBe(client.era === 'legacy' ? 'string' : 'undefined');
};

/** A call that is refused until a page was opened works once it was, by whatever way the client's era has. */
const elicitationUrlRequired: Feature = async (client, { server, word }) => {
  const url = `https://example.com/${word}`;
  if (client.era === 'legacy' && server === 'legacy') {
    const refused = await errorOf(client.call('url_required', { url }));
    expect(refused).toMatchObject({ code: -32042, data: { elicitations: [{ mode: 'url', url }] } });
    const { elicitationId } = refused.data.elicitations[0];
    await client.call('complete_url', { elicitationId });
  }
  expect(textOf(await client.call('url_required', { url }))).toBe(`opened ${url}`);
  if (client.era === 'modern' || server === 'modern') {
    expect(client.asked).toMatchObject([{ method: 'elicitation/create', params: { mode: 'url', url } }]);
  }
};

const elicitationUrlCompletion: Feature = async (client, { word }) => {
  const refused = await errorOf(client.call('url_required', { url: `https://example.com/${word}` }));
  const { elicitationId } = refused.data.elicitations[0];
  await client.call('complete_url', { elicitationId });
  const told = await until(() => toldAs(client, 'elicitation/complete')[0], 'the page was opened');
  expect(told.params).toEqual({ elicitationId });
};

const roots: Feature = async (client) => {
  const answered = JSON.parse(textOf(await client.call('list_roots')));
  expect(answered.result).toMatchObject({ roots: [{ uri: 'file:///home/ada/project', name: 'project' }] });
};

const resources: Feature = async (client, { server, word }) => {
  const listed = await client.list('resources');
  const uris = listed.map(({ uri }) => uri);
  expect(uris).toEqual([...new Set(uris)]);
  expect(uris).toEqual(
    expect.arrayContaining(['test://static-text', 'test://static-binary', 'test://watched-resource']),
  );
  expect(listed.find(({ uri }) => uri === 'test://static/a')).toMatchObject({
    name: 'static-a',
    mimeType: 'text/plain',
    annotations: { audience: ['assistant'], priority: 0.1 },
  });
  expect((await client.read('test://static-text')).contents).toEqual([
    {
      uri: 'test://static-text',
      mimeType: 'text/plain',
      text: 'This is the content of the static text resource.',
    },
  ]);
  await errorOf(client.read(`test://${word}`));
  // Each era has a code of its own for it, which the SDK v2 hides; a server's own code stays as it is for older clients.
  const { error } = await client.raw('resources/read', { uri: `test://${word}` });
  expect(error.code).toBe(client.era === 'legacy' && server === 'legacy' ? -32002 : -32602);
};

const resourceTemplates: Feature = async (client, { word }) => {
  expect(await client.list('resourceTemplates')).toMatchObject([
    { uriTemplate: 'test://template/{id}/data', name: 'template', mimeType: 'application/json' },
  ]);
  const uri = `test://template/${word}/data`;
  const { contents } = await client.read(uri);
  expect(contents).toMatchObject([{ uri, mimeType: 'application/json' }]);
  expect(JSON.parse(contents[0].text)).toMatchObject({ id: word });
};

const resourceSubscriptions: Feature = async (client, { word }) => {
  const uri = `test://template/${word}/data`;
  const touch = async () => (await client.call('touch_resource', { uri })).structuredContent;
  const unwatch = await client.watch(uri);
  expect((await touch()).notified).toBe(true);
  const told = await until(() => toldAs(client, 'resources/updated')[0], 'an update');
  expect(told.params).toMatchObject({ uri });
  await unwatch();
  await until(async () => !(await touch()).subscribed.includes(uri), 'the server is told of the end');
  client.heard.length = 0;
  expect((await touch()).notified).toBe(false);
  expect(client.heard).toEqual([]);
};

const prompts: Feature = async (client, { word }) => {
  const listed = await client.list('prompts');
  expect(listed.find(({ name }) => name === 'test_prompt_with_arguments')).toMatchObject({
    arguments: [
      { name: 'arg1', required: true },
      { name: 'arg2', required: true },
    ],
  });
  const { messages } = await client.prompt('test_prompt_with_arguments', { arg1: word, arg2: 'b' });
  expect(messages).toEqual([
    {
      role: 'user',
      content: { type: 'text', text: `Prompt with arguments: arg1='${word}', arg2='b'` },
    },
  ]);
  expect(await errorOf(client.prompt(`no_${word}`))).toMatchObject({ code: -32602 });
};

const completion: Feature = async (client) => {
  const prompt = { type: 'ref/prompt', name: 'test_prompt_with_arguments' };
  const first = await client.complete({ ref: prompt, argument: { name: 'arg1', value: 'par' } });
  expect(first.completion).toEqual({ values: ['paris', 'park', 'party'], total: 3, hasMore: false });
  const second = await client.complete({
    ref: prompt,
    argument: { name: 'arg2', value: '' },
    context: { arguments: { arg1: 'park' } },
  });
  expect(second.completion.values).toEqual(['after park']);
  const template = { type: 'ref/resource', uri: 'test://template/{id}/data' };
  const third = await client.complete({ ref: template, argument: { name: 'id', value: '12' } });
  expect(third.completion.values).toEqual(['12', '123']);
};

const listChanged: Feature = async (client, { word }) => {
  await client.hearOfLists();
  const change = async (list: 'tools' | 'resources' | 'prompts', tool: string, args: object) => {
    const before = toldAs(client, `${list}/list_changed`).length;
    await client.call(tool, args);
    await until(
      () => toldAs(client, `${list}/list_changed`).length > before,
      `${tool}: the list has changed`,
    );
  };
  const uri = `test://${word}`;
  await change('tools', 'add_tool', { name: word });
  expect(await namesOf(client, 'tools')).toContain(word);
  expect(textOf(await client.call(word))).toBe(`I am ${word}`);
  await change('resources', 'add_resource', { uri });
  expect((await client.list('resources')).map((one) => one.uri)).toContain(uri);
  expect((await client.read(uri)).contents[0].text).toBe(`I am ${uri}`);
  await change('prompts', 'add_prompt', { name: word });
  expect(await namesOf(client, 'prompts')).toContain(word);
  await change('tools', 'remove_tool', { name: word });
  expect(await namesOf(client, 'tools')).not.toContain(word);
};

/** On a server with 1,100 of everything, more than a page of ours takes. */
const pagination: Feature = async (client) => {
  const total = 1100;
  for (const list of ['tools', 'prompts', 'resources', 'resourceTemplates'] as const) {
    const entries = await client.list(list);
    const keys = entries.map(({ name, uri, uriTemplate }) => uri ?? uriTemplate ?? name);
    expect([list, keys.length, new Set(keys).size]).toEqual([list, total, total]);
    expect([list, (await errorOf(client.page(list, 'no-cursor-of-ours'))).code]).toEqual([list, -32602]);
  }
  expect(textOf(await client.call('tool_1100'))).toBe('1100');
};

const binaryContent: Feature = async (client) => {
  const { contents } = await client.read('test://static-binary');
  expect(contents).toMatchObject([{ uri: 'test://static-binary', mimeType: 'image/png' }]);
  const { blob } = contents[0];
  expect(Buffer.from(blob, 'base64').subarray(1, 4).toString()).toBe('PNG');
  expect((await client.call('image')).content).toEqual([
    {
      type: 'image',
      data: blob,
      mimeType: 'image/png',
      annotations: { audience: ['user'], priority: 0.5 },
    },
  ]);
  const [sound] = (await client.call('test_audio_content')).content;
  expect([sound.type, sound.mimeType]).toEqual(['audio', 'audio/wav']);
  expect(Buffer.from(sound.data, 'base64').subarray(0, 4).toString()).toBe('RIFF');
};

const embeddedContent: Feature = async (client) => {
  const { content } = await client.call('resource');
  expect(content).toMatchObject([
    { type: 'resource', resource: { uri: 'test://static-binary', mimeType: 'image/png' } },
    { type: 'resource_link', uri: 'test://static-text', name: 'static-text', mimeType: 'text/plain' },
  ]);
  const { contents } = await client.read('test://static-binary');
  expect(content[0].resource.blob).toBe(contents[0].blob);
  const { messages } = await client.prompt('test_prompt_with_embedded_resource', {
    resourceUri: 'test://static-text',
  });
  expect(messages[0].content).toMatchObject({ type: 'resource', resource: { uri: 'test://static-text' } });
  const [picture] = (await client.prompt('test_prompt_with_image')).messages;
  expect(picture.content).toMatchObject({ type: 'image', mimeType: 'image/png' });
};

const errorData: Feature = async (client, { word }) => {
  const data = { reason: word, nested: [1, null, { deep: true }] };
  const error = await errorOf(client.call('rpc_error', { code: -32077, message: word, data }));
  expect(error).toMatchObject({ code: -32077, data });
  expect(error.message).toContain(word);
};

/** Without an SDK: these show their user only what their schemas know. */
const unknownFields: Feature = async (client, { word }) => {
  const { result } = await client.raw('tools/call', {
    name: 'unknown_fields',
    arguments: {},
    _meta: { 'example.com/word': word, 'example.com/deep': { list: [null, 1, true] } },
  });
  expect(result.content).toEqual([
    {
      type: 'text',
      text: 'known',
      'x-field': { deep: [1, { null: null }] },
      _meta: { 'example.com/part': 1 },
    },
    { type: 'hologram', shape: { faces: 12 }, 'x-float': 1.5 },
  ]);
  expect(result['x-top']).toEqual(['unknown', 1, true, null]);
  expect(result._meta['example.com/echo']).toMatchObject({
    'example.com/word': word,
    'example.com/deep': { list: [null, 1, true] },
  });
  // What one era alone has does not reach the other.
  expect(result.resultType).toBe(client.era === 'modern' ? 'complete' : undefined);
};

/** Without an SDK: v1 has tasks as an experiment, v2 has none. Each era has tasks of its own kind. */
const tasks: Feature = async (client, { word }) => {
  const call = { name: 'slow_compute', arguments: { seconds: 0.1, label: word } };
  const done = { content: [{ type: 'text', text: `${word}: done in 0.1 s` }] };
  if (client.era === 'legacy') {
    const { result } = await client.raw('tools/call', { ...call, task: {} });
    const { taskId } = result.task;
    expect((await client.raw('tasks/result', { taskId })).result).toMatchObject(done);
    expect((await client.raw('tasks/get', { taskId })).result).toMatchObject({ taskId, status: 'completed' });
    return;
  }
  const { result: task } = await client.raw('tools/call', call);
  expect(task).toMatchObject({ resultType: 'task', status: 'working' });
  const get = async () => (await client.raw('tasks/get', { taskId: task.taskId })).result;
  const completed = await until(async () => {
    const state = await get();
    return state.status !== 'working' && state;
  }, 'the task is over');
  expect(completed).toMatchObject({ status: 'completed', result: done });
};

/** On `/mcp`, where all servers are: by names that begin with the server's. */
const amongAllServers: Feature = async (client, { name, word }) => {
  expect(await namesOf(client, 'tools')).toContain(`${name}__echo`);
  expect(textOf(await client.call(`${name}__echo`, { text: word }))).toBe(word);
  const asked = JSON.parse(textOf(await client.call(`${name}__ask_elicitation`, { message: word })));
  expect(asked.result).toEqual({ action: 'accept', content: { answer: `answer of ${word}` } });
  const { messages } = await client.prompt(`${name}__test_simple_prompt`);
  expect(messages[0].content.text).toBe('This is a simple prompt for testing.');
  // Two servers that have the same URI are told apart by it; what a server gives out leads back to it.
  const [embedded] = (await client.call(`${name}__resource`)).content;
  const { contents } = await client.read(embedded.resource.uri);
  expect(contents).toMatchObject([{ uri: embedded.resource.uri, blob: embedded.resource.blob }]);
};

/**
 * What is tried in each cell, and where: `own` has a server that no other cell uses, as a call that was given up and lists that have
 * just changed are felt for some seconds; `paginates` has a server with many entries; `all` is the endpoint of all servers.
 */
export const features: Record<string, { at?: 'own' | 'paginates' | 'all'; run: Feature }> = {
  tools: { run: tools },
  'structured output': { run: structuredOutput },
  progress: { run: progress },
  cancel: { at: 'own', run: cancel },
  logging: { run: logging },
  'logging, no level set': { run: loggingWithoutLevel },
  sampling: { run: sampling },
  'elicitation by form': { run: elicitationForm },
  'elicitation by URL': { run: elicitationUrl },
  'refused until a URL was opened': { run: elicitationUrlRequired },
  'told that the URL was opened': { run: elicitationUrlCompletion },
  roots: { run: roots },
  resources: { run: resources },
  'resource templates': { run: resourceTemplates },
  'resource subscriptions': { run: resourceSubscriptions },
  prompts: { run: prompts },
  completion: { run: completion },
  list_changed: { at: 'own', run: listChanged },
  pagination: { at: 'paginates', run: pagination },
  'binary content': { run: binaryContent },
  'embedded content': { run: embeddedContent },
  'error data': { run: errorData },
  'unknown fields and _meta': { run: unknownFields },
  tasks: { run: tasks },
  'all servers at /mcp': { at: 'all', run: amongAllServers },
};
