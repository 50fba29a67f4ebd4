import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startGateway, type TestGateway } from '../harness.ts';
import { until } from '../waiting.ts';
import { ModernClient } from './modern-client.ts';

const elicitation = { elicitation: { form: {}, url: {} } };
const all = { ...elicitation, sampling: {}, roots: {} };
const serverInfo = 'io.modelcontextprotocol/serverInfo';

let gateway: TestGateway;

/** How many calls the server was told to stop. */
const cancellations = async (client: ModernClient): Promise<number> =>
  (await client.call('cancellations')).answer.result.structuredContent.cancelled.length;

const toolsOf = async (client: ModernClient): Promise<Set<string>> => {
  const { answer } = await client.request('tools/list');
  return new Set(answer.result.tools.map(({ name }: { name: string }) => name));
};

beforeAll(async () => {
  gateway = await startGateway({
    servers: {
      // A call that waits for its client keeps a shared server that asks from everybody else.
      everything: { env: { ERA: 'legacy' }, timeouts: { client: '2s' } },
      modern: { fixture: 'everything', env: { ERA: 'modern' } },
      plain: { fixture: 'everything', env: { ERA: 'legacy' } },
      own: {
        fixture: 'everything',
        env: { ERA: 'legacy' },
        isolation: 'session',
        timeouts: { client: '2s' },
      },
    },
  });
  await gateway.settled();
});

afterAll(async () => {
  await gateway[Symbol.asyncDispose]();
});

describe('a modern request', () => {
  it('is answered without any handshake, by the gateway as a whole', async () => {
    const client = new ModernClient(gateway);
    const { status, type, answer } = await client.request('server/discover');
    expect([status, type]).toEqual([200, 'application/json']);
    expect(answer.result).toMatchObject({
      resultType: 'complete',
      supportedVersions: ['2026-07-28', '2025-11-25', '2025-06-18', '2025-03-26', '2024-11-05'],
      capabilities: { tools: { listChanged: true }, resources: { subscribe: true, listChanged: true } },
      ttlMs: 0,
      cacheScope: 'private',
      _meta: { [serverInfo]: { name: 'mcp-gateway' } },
    });
    const { answer: listed } = await client.request('tools/list');
    expect(listed.result).toMatchObject({ resultType: 'complete', ttlMs: 0, cacheScope: 'private' });
    expect(listed.result.tools.map(({ name }: { name: string }) => name)).toContain('everything__echo');
    const { answer: echoed } = await client.call('everything__echo', { text: 'hello' });
    expect(echoed.result).toEqual({
      resultType: 'complete',
      content: [{ type: 'text', text: 'hello' }],
      _meta: { [serverInfo]: { name: 'everything', version: '1.0.0' } },
    });
  });

  it('reaches one server under its bare names, and a modern one untouched', async () => {
    for (const server of ['everything', 'modern']) {
      const client = new ModernClient(gateway, `/${server}/mcp`);
      const { answer } = await client.request('server/discover');
      expect(answer.result._meta[serverInfo].name).toBe('everything');
      const { answer: echoed } = await client.call('echo', { text: server });
      expect(echoed.result).toMatchObject({ resultType: 'complete', content: [{ text: server }] });
    }
  });

  it.each([
    ['no _meta', { jsonrpc: '2.0', id: 7, method: 'tools/list', params: {} }, {}, 400, -32602],
    ['no params', { jsonrpc: '2.0', id: 7, method: 'tools/list' }, {}, 400, -32602],
  ])('with %s is refused', async (_, message, headers, status, code) => {
    const refused = await new ModernClient(gateway).post(message, headers);
    expect([refused.status, refused.answer.id, refused.answer.error.code]).toEqual([status, 7, code]);
  });

  it('without capabilities, or of another version, is refused, and told what there is', async () => {
    const client = new ModernClient(gateway);
    const message = client.message('tools/list');
    delete message.params._meta['io.modelcontextprotocol/clientCapabilities'];
    expect(await client.post(message)).toMatchObject({ status: 400, answer: { error: { code: -32602 } } });
    const future = client.message(
      'tools/list',
      {},
      { 'io.modelcontextprotocol/protocolVersion': '2099-01-01' },
    );
    expect(await client.post(future, { 'mcp-protocol-version': '2099-01-01' })).toMatchObject({
      status: 400,
      answer: {
        id: future.id,
        error: {
          code: -32022,
          data: { requested: '2099-01-01', supported: expect.arrayContaining(['2026-07-28']) },
        },
      },
    });
    const level = client.message('tools/list', {}, { 'io.modelcontextprotocol/logLevel': 'loud' });
    expect(await client.post(level)).toMatchObject({ status: 400, answer: { error: { code: -32602 } } });
  });

  it.each([
    ['another version', { 'mcp-protocol-version': '2025-11-25' }],
    ['no version', { 'mcp-protocol-version': '' }],
    ['another method', { 'mcp-method': 'prompts/get' }],
    ['no method', { 'mcp-method': '' }],
    ['a method in other letters', { 'mcp-method': 'TOOLS/CALL' }],
    ['another name', { 'mcp-name': 'everything__add' }],
    ['no name', { 'mcp-name': '' }],
    ['a name that is no base64', { 'mcp-name': '=?base64?*?=' }],
  ])('whose headers have %s is refused', async (_, headers) => {
    const client = new ModernClient(gateway);
    const message = client.message('tools/call', { name: 'everything__echo', arguments: { text: 'x' } });
    expect(await client.post(message, headers)).toMatchObject({
      status: 400,
      answer: { id: message.id, error: { code: -32020 } },
    });
  });

  it('may have its name in base64', async () => {
    const client = new ModernClient(gateway);
    const message = client.message('tools/call', { name: 'everything__echo', arguments: { text: 'x' } });
    const name = `=?base64?${Buffer.from('everything__echo').toString('base64')}?=`;
    expect(await client.post(message, { 'mcp-name': name })).toMatchObject({ status: 200 });
  });

  it('with a method that this era has not is 404', async () => {
    const client = new ModernClient(gateway);
    for (const method of ['initialize', 'ping', 'logging/setLevel', 'resources/subscribe', 'no/such']) {
      expect(await client.request(method)).toMatchObject({
        status: 404,
        answer: { error: { code: -32601 } },
      });
    }
  });

  it('that names no tool or resource is -32602', async () => {
    const client = new ModernClient(gateway);
    expect(await client.call('nothing')).toMatchObject({ status: 200, answer: { error: { code: -32602 } } });
    expect(await client.request('resources/read', { uri: 'test://none' })).toMatchObject({
      answer: { error: { code: -32602 } },
    });
    expect(await client.request('tools/list', { cursor: 'x' })).toMatchObject({
      answer: { error: { code: -32602 } },
    });
  });

  it('has no other HTTP method than POST', async () => {
    const headers = { 'mcp-protocol-version': '2026-07-28', accept: 'text/event-stream' };
    for (const method of ['GET', 'DELETE']) {
      const response = await fetch(gateway.url('/mcp'), { method, headers });
      expect([response.status, response.headers.get('allow')]).toEqual([405, 'POST']);
      expect(await response.json()).toMatchObject({ error: { data: { code: 'method_not_allowed' } } });
    }
  });

  it('is refused in the words of its era while the gateway drains', async () => {
    await using draining = await startGateway({ servers: { everything: {} } });
    await draining.settled();
    const client = new ModernClient(draining, '/everything/mcp');
    const running = client.call('sleep', { ms: 1000 });
    await until(() => draining.app.fleet.status('everything').instances.some(({ leases }) => leases > 0));
    const drained = draining.app.drain();
    expect(await client.request('tools/list')).toMatchObject({
      status: 503,
      answer: { error: { code: -32603, data: { code: 'draining' } } },
    });
    expect((await running).answer).toHaveProperty('result');
    await drained;
  });

  it('is no batch and no response; a notification is taken', async () => {
    const client = new ModernClient(gateway);
    const batch = await client.post([client.message('tools/list')], { 'mcp-method': '' });
    expect(batch).toMatchObject({ status: 400, answer: { error: { code: -32600 } } });
    const response = { jsonrpc: '2.0', id: 1, result: {} };
    expect(await client.post(response)).toMatchObject({ status: 400, answer: { error: { code: -32600 } } });
    const notification = { jsonrpc: '2.0', method: 'notifications/cancelled', params: { requestId: 1 } };
    expect(await client.post(notification)).toMatchObject({ status: 202 });
  });

  it('gets progress and the log lines that it asks for, on its own stream', async () => {
    for (const server of ['everything', 'modern']) {
      const client = new ModernClient(gateway, `/${server}/mcp`);
      const { type, answer, before } = await client.call(
        'progress',
        { steps: 3, ms: 1 },
        {},
        { progressToken: 'p' },
      );
      expect(type).toBe('text/event-stream');
      expect(answer.result.resultType).toBe('complete');
      const progress = before.map(({ params }) => params.progress);
      expect(progress.length).toBeGreaterThanOrEqual(3);
      expect(progress).toEqual([...new Set(progress)].sort((a, b) => a - b));
      expect(before.every(({ params }) => params.progressToken === 'p')).toBe(true);
      const silent = await client.call('log', { level: 'error', text: 'unwanted' });
      expect(silent.before).toEqual([]);
      const logged = await client.call(
        'log',
        { level: 'debug', text: 'wanted' },
        {},
        {
          'io.modelcontextprotocol/logLevel': 'debug',
        },
      );
      expect(logged.before.map(({ params }) => params.data)).toEqual(['wanted']);
    }
  });

  it('is cancelled by closing its connection', async () => {
    for (const server of ['plain', 'modern']) {
      const client = new ModernClient(gateway, `/${server}/mcp`);
      const count = () => cancellations(client);
      const before = await count();
      const progress = { name: 'progress', arguments: { steps: 1000, ms: 50 } };
      const call = await client.open('tools/call', progress, { progressToken: 1 });
      await until(() => call.messages.length > 0);
      call.close();
      await until(async () => (await count()) > before);
      await until(() => gateway.app.fleet.status(server).instances.every(({ leases }) => leases === 0));
    }
  });
});

describe('a legacy server that asks a modern client', () => {
  it('has its call parked until the retry brings the answer', async () => {
    const client = new ModernClient(gateway, '/everything/mcp', all);
    const asked = await client.call('ask_elicitation', { message: 'Who?' });
    const { resultType, inputRequests, requestState } = asked.answer.result;
    expect(resultType).toBe('input_required');
    const [id] = Object.keys(inputRequests);
    expect(inputRequests[id!]).toMatchObject({ method: 'elicitation/create', params: { message: 'Who?' } });
    const answered = {
      inputResponses: { [id!]: { action: 'accept', content: { name: 'Ada' } } },
      requestState,
    };
    const { answer } = await client.call('ask_elicitation', { message: 'Who?' }, answered);
    expect(JSON.parse(answer.result.content[0].text)).toEqual({
      result: { action: 'accept', content: { name: 'Ada' } },
    });
    expect(answer.result.resultType).toBe('complete');
    // It was worth something once.
    expect(await client.call('ask_elicitation', { message: 'Who?' }, answered)).toMatchObject({
      status: 400,
      answer: { error: { code: -32602 } },
    });
  });

  it('is asked again for what a retry leaves out', async () => {
    const client = new ModernClient(gateway, '/everything/mcp', all);
    const first = await client.call('ask_sampling', { prompt: 'p' });
    const { requestState } = first.answer.result;
    const second = await client.call('ask_sampling', { prompt: 'p' }, { requestState });
    expect(second.answer.result.resultType).toBe('input_required');
    expect(second.answer.result.inputRequests).toEqual(first.answer.result.inputRequests);
    expect(second.answer.result.requestState).not.toBe(requestState);
    const [id] = Object.keys(second.answer.result.inputRequests);
    const response = { role: 'assistant', content: { type: 'text', text: 'yes' }, model: 'm' };
    const third = await client.call(
      'ask_sampling',
      { prompt: 'p' },
      {
        requestState: second.answer.result.requestState,
        inputResponses: { [id!]: response },
      },
    );
    expect(JSON.parse(third.answer.result.content[0].text)).toEqual({ result: response });
  });

  it('takes no state that is forged, of another request, or of another endpoint', async () => {
    const client = new ModernClient(gateway, '/everything/mcp', all);
    const { answer } = await client.call('ask_elicitation', { message: 'a' });
    const { requestState } = answer.result;
    const refused = { status: 400, answer: { error: { code: -32602 } } };
    const forged = `${requestState.slice(0, -2)}AA`;
    expect(await client.call('ask_elicitation', { message: 'a' }, { requestState: forged })).toMatchObject(
      refused,
    );
    expect(await client.call('ask_elicitation', { message: 'a' }, { requestState: 'x' })).toMatchObject(
      refused,
    );
    expect(await client.call('ask_elicitation', { message: 'b' }, { requestState })).toMatchObject(refused);
    expect(await client.call('echo', { text: 'a' }, { requestState })).toMatchObject(refused);
    const elsewhere = new ModernClient(gateway, '/mcp', all);
    const moved = await elsewhere.call('everything__ask_elicitation', { message: 'a' }, { requestState });
    expect(moved).toMatchObject(refused);
  });

  it('has its questions declined when their client does not come back', async () => {
    const client = new ModernClient(gateway, '/own/mcp', all, { 'mcp-gateway-client': 'eve' });
    const { requestState } = (await client.call('ask_elicitation', { message: 'a' })).answer.result;
    await until(() => gateway.app.fleet.status('own').instances.every(({ leases }) => leases === 0));
    expect(await cancellations(client)).toBe(0);
    expect(await client.call('ask_elicitation', { message: 'a' }, { requestState })).toMatchObject({
      status: 400,
      answer: { error: { code: -32602, data: { code: 'state_refused' } } },
    });
  });

  it('does not keep the gateway from ending', { timeout: 20_000 }, async () => {
    await using draining = await startGateway({
      servers: { everything: { env: { ERA: 'legacy' } } },
      gateway: { drain_timeout: '10m' },
    });
    await draining.settled();
    const client = new ModernClient(draining, '/everything/mcp', all);
    const { answer } = await client.call('ask_elicitation', { message: 'Who?' });
    expect(answer.result.resultType).toBe('input_required');
    await draining.app.drain();
  });

  it('is declined what the client cannot do, and the client told what is missing', async () => {
    const client = new ModernClient(gateway, '/everything/mcp');
    expect(await client.call('ask_elicitation', { message: 'Who?' })).toMatchObject({
      status: 400,
      answer: { error: { code: -32021, data: { requiredCapabilities: { elicitation: {} } } } },
    });
    await until(() => gateway.app.fleet.status('everything').instances.every(({ leases }) => leases === 0));
  });

  it('may send it to a page: the retry makes the call again', async () => {
    const client = new ModernClient(gateway, '/everything/mcp', all);
    const first = await client.call('url_required', { url: 'https://example.com/login' });
    expect(first.answer.result).toMatchObject({
      resultType: 'input_required',
      inputRequests: {
        'url-1': { method: 'elicitation/create', params: { mode: 'url', url: 'https://example.com/login' } },
      },
    });
    expect(first.answer.result.inputRequests['url-1'].params.elicitationId).toBeUndefined();
    const { requestState } = first.answer.result;
    const retry = (action: string) =>
      client.call(
        'url_required',
        { url: 'https://example.com/login' },
        { requestState, inputResponses: { 'url-1': { action } } },
      );
    // Whoever does not open the page is not asked for it again and again.
    for (const action of ['cancel', 'decline'])
      expect((await retry(action)).answer.error.data).toMatchObject({
        code: 'upstream_error',
        server: 'everything',
      });
    expect((await retry('accept')).answer.result.content[0].text).toBe('opened https://example.com/login');
  });

  it('asks for roots where the client has an instance of its own', async () => {
    const client = new ModernClient(gateway, '/own/mcp', all, { 'mcp-gateway-client': 'ada' });
    const { answer } = await client.call('list_roots');
    const { inputRequests, requestState } = answer.result;
    const [id] = Object.keys(inputRequests);
    expect(inputRequests[id!].method).toBe('roots/list');
    const roots = { roots: [{ uri: 'file:///home' }] };
    const retry = await client.call('list_roots', {}, { requestState, inputResponses: { [id!]: roots } });
    expect(JSON.parse(retry.answer.result.content[0].text)).toEqual({ result: roots });
    const [pid, same, other] = await Promise.all(
      ['ada', 'ada', 'bob'].map(async (name) => {
        const own = new ModernClient(gateway, '/own/mcp', {}, { 'mcp-gateway-client': name });
        return (await own.call('pid')).answer.result.content[0].text;
      }),
    );
    expect([same === pid, other === pid]).toEqual([true, false]);
  });
});

describe('a listen stream', () => {
  it('counts from the moment it is asked for, also while its server is not known yet', async () => {
    await using booting = await startGateway({
      servers: { slow: { fixture: 'slow-start', env: { START_DELAY_MS: '1500' } } },
      gateway: { max_sessions: 2 },
    });
    const client = new ModernClient(booting, '/slow/mcp');
    const streams = [1, 2, 3].map(() => client.open('subscriptions/listen', { notifications: {} }));
    const opened = await Promise.all(streams);
    const acknowledged = () =>
      opened.filter(({ messages }) => messages[0]?.method === 'notifications/subscriptions/acknowledged');
    // The third one's answer is its end.
    await Promise.any(opened.map(({ ended }) => ended));
    await until(() => acknowledged().length === 2);
    for (const { close } of opened) close();
  });

  it('is refused to a client that reads none', async () => {
    const client = new ModernClient(gateway);
    const listen = client.message('subscriptions/listen', { notifications: {} });
    expect(await client.post(listen, { accept: 'application/json' })).toMatchObject({
      status: 406,
      answer: { id: listen.id, error: { code: -32600, data: { code: 'not_acceptable' } } },
    });
  });

  it('has what it opted in to, stamped, after the acknowledgement', async () => {
    for (const server of ['everything', 'modern']) {
      const client = new ModernClient(gateway, `/${server}/mcp`);
      const uri = 'test://static-text';
      const tools = await client.open('subscriptions/listen', {
        notifications: { toolsListChanged: true, resourceSubscriptions: [uri, 'nonsense://'] },
      });
      const prompts = await client.open('subscriptions/listen', {
        notifications: { promptsListChanged: true },
      });
      await until(() => tools.messages.length > 0 && prompts.messages.length > 0);
      expect(tools.messages[0]).toMatchObject({
        method: 'notifications/subscriptions/acknowledged',
        params: {
          notifications: { toolsListChanged: true, resourceSubscriptions: expect.arrayContaining([uri]) },
          _meta: { 'io.modelcontextprotocol/subscriptionId': tools.id },
        },
      });
      await client.call('add_tool', { name: `new_${server}` });
      await client.call('touch_resource', { uri });
      await until(() => tools.messages.length >= 3);
      expect(
        tools.messages
          .slice(1)
          .map(({ method }) => method)
          .toSorted(),
      ).toEqual(['notifications/resources/updated', 'notifications/tools/list_changed']);
      for (const { params } of tools.messages) {
        expect(params._meta['io.modelcontextprotocol/subscriptionId']).toBe(tools.id);
      }
      expect(prompts.messages).toHaveLength(1);
      tools.close();
      prompts.close();
      await Promise.all([tools.ended, prompts.ended]);
    }
  });

  it('of a client with an instance of its own has its changes, and nobody else has them', async () => {
    const named = (name: string) => new ModernClient(gateway, '/own/mcp', {}, { 'mcp-gateway-client': name });
    const [ada, bob] = [named('ada'), named('bob')];
    const listen = (client: ModernClient) =>
      client.open('subscriptions/listen', { notifications: { toolsListChanged: true } });
    const [adas, bobs] = [await listen(ada), await listen(bob)];
    await until(() => adas.messages.length === 1 && bobs.messages.length === 1);
    await ada.call('add_tool', { name: 'for_ada' });
    await until(() => adas.messages.length === 2);
    expect((await toolsOf(ada)).has('for_ada')).toBe(true);
    expect((await ada.call('for_ada')).answer.result.isError).not.toBe(true);
    expect((await toolsOf(bob)).has('for_ada')).toBe(false);
    expect(bobs.messages).toHaveLength(1);
    // What an instance alone has offered is gone with it.
    const own = gateway.app.fleet;
    await own.stop('own');
    await until(() => adas.messages.length === 3);
    expect((await toolsOf(ada)).has('for_ada')).toBe(false);
    adas.close();
    bobs.close();
  });

  it('goes on with the next instance of a client, and of a shared server', async () => {
    const uri = 'test://static-text';
    for (const [server, headers] of [
      ['own', { 'mcp-gateway-client': 'carl' }],
      ['plain', {}],
      ['modern', {}],
    ] as const) {
      const client = new ModernClient(gateway, `/${server}/mcp`, {}, headers);
      const { messages, close } = await client.open('subscriptions/listen', {
        notifications: { resourceSubscriptions: [uri] },
      });
      await until(() => messages.length === 1);
      await client.call('touch_resource', { uri });
      await until(() => messages.length === 2);
      await gateway.app.fleet.stop(server);
      await until(async () => {
        await client.call('touch_resource', { uri });
        return messages.length > 2;
      });
      close();
    }
  });
});
