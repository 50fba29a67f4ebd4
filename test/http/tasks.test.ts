import { ElicitRequestSchema } from '@modelcontextprotocol/sdk/types.js';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startGateway, type TestGateway } from '../harness.ts';
import { eventually, until } from '../waiting.ts';
import { connectV1, RawHttpClient } from './clients.ts';
import { ModernClient } from './modern-client.ts';

// biome-ignore lint/suspicious/noExplicitAny: a test reads whatever came
type Any = any;

const related = 'io.modelcontextprotocol/related-task';
const extension = { extensions: { 'io.modelcontextprotocol/tasks': {} } };
const capable = { ...extension, elicitation: { form: {} } };

let gateway: TestGateway;

const instances = (server: string) => gateway.app.fleet.status(server).instances;
const leases = (server: string) => instances(server).reduce((sum, one) => sum + one.leases, 0);
const released = (server: string) => until(() => leases(server) === 0, `nobody holds ${server}`);

async function session(endpoint = '/legacy/mcp', capabilities: object = {}) {
  const client = new RawHttpClient(gateway, endpoint);
  await client.initialize('2025-11-25', capabilities);
  return client;
}

/** Starts a task; its state. */
async function begun(client: RawHttpClient, name: string, args: object = {}, more: object = {}) {
  const { answer } = await client.request('tools/call', { name, arguments: args, task: {}, ...more });
  if (!answer.result?.task) throw new Error(JSON.stringify(answer));
  return answer.result.task;
}

const get = (client: RawHttpClient, taskId: unknown, method = 'tasks/get') =>
  client.request(method, { taskId }).then(({ answer }) => answer);

/** A task of a modern client; its state. */
async function started(client: ModernClient, name: string, args: object = {}) {
  const { answer } = await client.call(name, args);
  if (answer.result?.resultType !== 'task') throw new Error(JSON.stringify(answer));
  return answer.result;
}

const ask = (client: ModernClient, taskId: unknown, method = 'tasks/get', more: object = {}) =>
  client.request(method, { taskId, ...more });

const named = (name: string, endpoint = '/modern/mcp') =>
  new ModernClient(gateway, endpoint, capable, { 'mcp-gateway-client': name });

beforeAll(async () => {
  const legacy = { fixture: 'everything', env: { ERA: 'legacy' } };
  const modern = { fixture: 'everything', env: { ERA: 'modern' } };
  gateway = await startGateway({
    servers: {
      legacy,
      modern,
      brief: { ...legacy, idle_timeout: '200ms', timeouts: { call: '500ms' } },
      'brief-modern': { ...modern, idle_timeout: '200ms' },
      fragile: legacy,
      'fragile-modern': modern,
      own: { ...legacy, isolation: 'session' },
      ending: legacy,
      asking: legacy,
    },
  });
  await gateway.settled();
});

afterAll(async () => {
  await gateway[Symbol.asyncDispose]();
});

describe('a legacy task', () => {
  it('is declared by the gateway, and by a server that has tasks, to clients of its era alone', async () => {
    const tasks = { list: {}, cancel: {}, requests: { tools: { call: {} } } };
    for (const endpoint of ['/mcp', '/legacy/mcp']) {
      const answer = await new RawHttpClient(gateway, endpoint).initialize();
      expect(answer.result.capabilities.tasks).toEqual(tasks);
    }
    const bridged = await new RawHttpClient(gateway, '/modern/mcp').initialize();
    expect(bridged.result.capabilities).not.toHaveProperty('tasks');
    expect(bridged.result.capabilities.extensions).toEqual({});
  });

  it('goes from working to its result', async () => {
    const client = await session();
    const task = await begun(client, 'slow_compute', { seconds: 0.3, label: 'sum' });
    expect(task).toMatchObject({ status: 'working', ttl: 300_000, pollInterval: 100 });
    expect((await get(client, task.taskId)).result).toMatchObject({
      taskId: task.taskId,
      status: 'working',
    });
    const result = await get(client, task.taskId, 'tasks/result');
    expect(result.result).toEqual({
      content: [{ type: 'text', text: 'sum: done in 0.3 s' }],
      _meta: { [related]: { taskId: task.taskId } },
    });
    expect((await get(client, task.taskId)).result.status).toBe('completed');
    expect(await get(client, task.taskId, 'tasks/cancel')).toMatchObject({ error: { code: -32602 } });
    expect((await get(client, task.taskId, 'tasks/result')).result).toEqual(result.result);
  });

  it('fails with the error of its server', async () => {
    const client = await session('/mcp');
    const broken = await begun(client, 'legacy__protocol_error_job');
    expect(await get(client, broken.taskId, 'tasks/result')).toMatchObject({
      error: { code: -32603, message: 'the job broke' },
    });
    const failed = await begun(client, 'legacy__failing_job');
    expect((await get(client, failed.taskId, 'tasks/result')).result.isError).toBe(true);
    expect((await get(client, failed.taskId)).result.status).toBe('failed');
  });

  it('can be cancelled once', async () => {
    const client = await session();
    const { taskId } = await begun(client, 'slow_compute', { seconds: 60 });
    const waiting = get(client, taskId, 'tasks/result');
    expect((await get(client, taskId, 'tasks/cancel')).result).toMatchObject({ taskId, status: 'cancelled' });
    expect((await get(client, taskId)).result.status).toBe('cancelled');
    expect(await get(client, taskId, 'tasks/cancel')).toMatchObject({ error: { code: -32602 } });
    expect(await waiting).toMatchObject({ error: { code: -32602 } });
    await released('legacy');
  });

  it('is unknown to everybody but its session, as one that never was', async () => {
    const [owner, other] = [await session('/mcp'), await session('/mcp')];
    const { taskId } = await begun(owner, 'legacy__slow_compute', { seconds: 60 });
    const { error: unknown } = await get(owner, 'no-such-task');
    for (const method of ['tasks/get', 'tasks/result', 'tasks/cancel']) {
      const { error } = await get(other, taskId, method);
      expect(error).toMatchObject({ code: -32602, data: unknown.data });
      expect(error.message.replace(taskId, 'no-such-task')).toBe(unknown.message);
    }
    const modern = new ModernClient(gateway, '/mcp', capable);
    expect((await ask(modern, taskId)).answer.error.code).toBe(-32602);
    expect((await get(owner, taskId)).result.status).toBe('working');
    expect((await other.request('tasks/list')).answer.result).toEqual({ tasks: [] });
    await get(owner, taskId, 'tasks/cancel');
  });

  it('is listed to its session, page by page, as it is now, over all servers', async () => {
    const client = await session('/mcp');
    const ids: string[] = [];
    for (let count = 0; count < 60; count += 1) {
      const server = count % 2 === 0 ? 'legacy' : 'ending';
      ids.push((await begun(client, `${server}__slow_compute`, { seconds: 0 })).taskId);
    }
    const pages = async () => {
      const first = (await client.request('tasks/list')).answer.result;
      const second = (await client.request('tasks/list', { cursor: first.nextCursor })).answer.result;
      return [first, second];
    };
    const [first, second] = await eventually(pages, (both) =>
      both.every(({ tasks }) => tasks.every(({ status }: Any) => status === 'completed')),
    );
    expect(first.tasks).toHaveLength(50);
    expect(second).not.toHaveProperty('nextCursor');
    expect([...first.tasks, ...second.tasks].map(({ taskId }: Any) => taskId)).toEqual(ids);
    const bad = await client.request('tasks/list', { cursor: 'x' });
    expect(bad.answer.error.code).toBe(-32602);
  });

  it('tells its status to its session alone', async () => {
    const [owner, other] = [await session(), await session()];
    const [heard, overheard] = [await owner.listen(), await other.listen()];
    const { taskId } = await begun(owner, 'slow_compute', { seconds: 0.1 });
    const told = await until(() =>
      heard.messages.find(({ method }) => method === 'notifications/tasks/status'),
    );
    expect(told.params).toMatchObject({ taskId, status: 'completed' });
    expect(overheard.messages).toEqual([]);
    heard.close();
    overheard.close();
  });

  it('reports progress when the call that began it is long answered', async () => {
    const client = await session('/mcp');
    const listener = await client.listen();
    const meta = { _meta: { progressToken: 'mine' } };
    const { taskId } = await begun(client, 'legacy__slow_compute', { seconds: 0.2 }, meta);
    await get(client, taskId, 'tasks/result');
    const told = await until(() =>
      listener.messages.find(({ method }) => method === 'notifications/progress'),
    );
    expect(told.params).toEqual({ progressToken: 'mine', progress: 0.1, total: 0.2 });
    listener.close();
  });

  it.each(['/legacy/mcp', '/own/mcp'])(
    'asks its own client on %s, by the stream of the request for its result',
    async (endpoint) => {
      const clients = await Promise.all(
        ['one', 'two'].map(async (filename) => {
          const client = await connectV1(gateway, endpoint, { elicitation: { form: {} } });
          const asked: Any[] = [];
          client.setRequestHandler(ElicitRequestSchema, ({ params }: Any) => {
            asked.push(params);
            return { action: 'accept', content: { confirm: true } };
          });
          return { client, asked, filename };
        }),
      );
      await Promise.all(
        clients.map(async ({ client, asked, filename }) => {
          const params = { name: 'confirm_delete', arguments: { filename } };
          const ends: Any[] = [];
          let taskId: string | undefined;
          for await (const message of client.experimental.tasks.callToolStream(params, undefined, {
            task: { ttl: 60_000 },
          })) {
            if (message.type === 'taskCreated') taskId = message.task.taskId;
            if (message.type === 'result' || message.type === 'error') ends.push(message);
          }
          expect(ends).toMatchObject([
            { type: 'result', result: { content: [{ text: `deleted ${filename}` }] } },
          ]);
          expect(asked).toMatchObject([{ message: `Delete ${filename}?`, _meta: { [related]: { taskId } } }]);
          await client.close();
        }),
      );
    },
  );

  it('waits with its question until its client can be asked', async () => {
    const client = await session('/legacy/mcp', { elicitation: { form: {} } });
    const { taskId } = await begun(client, 'confirm_delete', { filename: 'it' });
    await eventually(
      () => get(client, taskId),
      ({ result }) => result.status === 'input_required',
    );
    const listener = await client.listen();
    const question = await until(() =>
      listener.messages.find(({ method }) => method === 'elicitation/create'),
    );
    await client.post({ jsonrpc: '2.0', id: question.id, result: { action: 'decline' } });
    const { result } = await get(client, taskId, 'tasks/result');
    expect(result.content[0].text).toBe('kept it');
    listener.close();
  });

  it('asks its own client while another’s is the only call', async () => {
    const owner = await session('/legacy/mcp', { elicitation: { form: {} } });
    const listener = await owner.listen();
    const other = await connectV1(gateway, '/legacy/mcp', { elicitation: { form: {} } });
    const asked: Any[] = [];
    other.setRequestHandler(ElicitRequestSchema, (question) => {
      asked.push(question);
      return { action: 'decline' };
    });
    const before = leases('legacy');
    const sleeping = other.callTool({ name: 'sleep', arguments: { ms: 500 } });
    await until(() => leases('legacy') > before);
    const { taskId } = await begun(owner, 'confirm_delete', { filename: 'it' });
    const question = await until(() =>
      listener.messages.find(({ method }) => method === 'elicitation/create'),
    );
    const result = { action: 'accept', content: { confirm: true } };
    await owner.post({ jsonrpc: '2.0', id: question.id, result });
    const { result: deleted } = await get(owner, taskId, 'tasks/result');
    expect(deleted.content[0].text).toBe('deleted it');
    await sleeping;
    expect(asked).toEqual([]);
    await other.close();
    listener.close();
  });

  it('leaves what others are asked meanwhile to them', async () => {
    const busy = await session();
    const { taskId } = await begun(busy, 'slow_compute', { seconds: 60 });
    const waiting = get(busy, taskId, 'tasks/result');
    const other = await connectV1(gateway, '/legacy/mcp', { elicitation: { form: {} } });
    other.setRequestHandler(ElicitRequestSchema, () => ({ action: 'accept', content: { answer: 'yes' } }));
    const { content } = (await other.callTool({ name: 'ask_elicitation' })) as Any;
    expect(content[0].text).toContain('"yes"');
    await other.close();
    await get(busy, taskId, 'tasks/cancel');
    await waiting;
  });

  it('keeps nobody from a server that asks its clients', async () => {
    const [owner, hasty, other] = [
      await session('/asking/mcp'),
      await session('/asking/mcp'),
      await session('/asking/mcp'),
    ];
    // From here on it is known to ask.
    await other.call('ask_elicitation', { force: true });
    const { taskId } = await begun(owner, 'slow_compute', { seconds: 60 });
    const [{ id }] = instances('asking') as [Any];
    const call = { name: 'sleep', arguments: { ms: 60_000 } };
    // The task alone: the lists have been read.
    await until(() => leases('asking') === 1);
    const given = hasty.request('tools/call', call, 'given-up');
    await until(() => leases('asking') === 2);
    const params = { requestId: 'given-up' };
    await hasty.post({ jsonrpc: '2.0', method: 'notifications/cancelled', params });
    await given.catch(() => {});
    // What was given up may still ask, so that this would get a fresh instance.
    expect((await other.call('echo', { text: 'served' })).result.content[0].text).toBe('served');
    expect(instances('asking')).toMatchObject([{ id, state: 'ready' }]);
    await get(owner, taskId, 'tasks/cancel');
  });

  it('may take longer than a call may be silent', async () => {
    const client = await session('/brief/mcp');
    const { taskId } = await begun(client, 'slow_compute', { seconds: 1.2 });
    const { result } = await get(client, taskId, 'tasks/result');
    expect(result.content[0].text).toContain('done in 1.2 s');
  });

  it('keeps its instance until it is over, and no longer', async () => {
    const client = await session('/brief/mcp');
    const { taskId } = await begun(client, 'slow_compute', { seconds: 1.5 });
    const [{ id }] = instances('brief') as [Any];
    await new Promise((resolve) => setTimeout(resolve, 1000));
    expect(instances('brief')).toMatchObject([{ id, leases: 1 }]);
    // It ends by itself, seen by nobody but the gateway; then its instance goes, and its result stays.
    await until(() => instances('brief').length === 0, 'the instance is stopped');
    expect((await get(client, taskId)).result).toMatchObject({ taskId, status: 'completed' });
    expect((await get(client, taskId, 'tasks/result')).result).toMatchObject({
      content: [{ text: 'work: done in 1.5 s' }],
      _meta: { [related]: { taskId } },
    });
    expect(instances('brief')).toEqual([]);
  });

  it('is lost with its instance, and its session is told why', async () => {
    const client = await session('/fragile/mcp');
    const { taskId } = await begun(client, 'slow_compute', { seconds: 60 });
    const waiting = get(client, taskId, 'tasks/result');
    const pid = Number((await client.call('pid')).result.content[0].text);
    process.kill(pid, 'SIGKILL');
    expect((await waiting).error.message).toMatch(/fragile/);
    const { error } = await get(client, taskId);
    expect(error.code).toBe(-32602);
    expect(error.message).toMatch(
      /is lost: the instance of server fragile that worked on it has (crashed|ended)/,
    );
    expect((await client.request('tasks/list')).answer.result).toEqual({ tasks: [] });
    await released('fragile');
    expect((await client.call('echo', { text: 'again' })).result.content[0].text).toBe('again');
  });

  it('is cancelled with its session', async () => {
    const client = await session('/ending/mcp');
    await begun(client, 'slow_compute', { seconds: 60 });
    expect(leases('ending')).toBe(1);
    await fetch(client.url, { method: 'DELETE', headers: client.headers });
    await released('ending');
  });

  it('is not for servers of the other era, and tools that need one say so to callers by REST', async () => {
    const client = await session('/mcp');
    const { answer } = await client.request('tools/call', {
      name: 'modern__slow_compute',
      arguments: { seconds: 0 },
      task: {},
    });
    expect(answer.error).toMatchObject({ code: -32601, data: { server: 'modern' } });
    const call = (server: string, tool: string) =>
      fetch(gateway.url(`/${server}/tools/${tool}`), {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({ seconds: 0 }),
      }).then((response) => response.json());
    for (const server of ['legacy', 'modern']) {
      expect(JSON.stringify(await call(server, 'slow_compute'))).toContain('done in 0 s');
      expect(JSON.stringify(await call(server, 'failing_job'))).toMatch(/task/i);
    }
  });
});

describe('a modern task', () => {
  it('is declared by the gateway, and by a server that has tasks, to clients of its era alone', async () => {
    for (const endpoint of ['/mcp', '/modern/mcp']) {
      const { answer } = await new ModernClient(gateway, endpoint).request('server/discover');
      expect(answer.result.capabilities.extensions).toEqual(extension.extensions);
      expect(answer.result.capabilities).not.toHaveProperty('tasks');
    }
    const { answer } = await new ModernClient(gateway, '/legacy/mcp').request('server/discover');
    expect(answer.result.capabilities).not.toHaveProperty('tasks');
    expect(answer.result.capabilities.extensions ?? {}).toEqual({});
  });

  it('goes from working to its result', async () => {
    const client = new ModernClient(gateway, '/mcp', capable);
    const { taskId } = await started(client, 'modern__slow_compute', { seconds: 0.2, label: 'sum' });
    expect((await ask(client, taskId)).answer.result).toMatchObject({
      resultType: 'complete',
      taskId,
      status: 'working',
      pollIntervalMs: 100,
    });
    const { answer } = await eventually(
      () => ask(client, taskId),
      ({ answer }) => answer.result.status === 'completed',
    );
    expect(answer.result.result.content).toEqual([{ type: 'text', text: 'sum: done in 0.2 s' }]);
    expect((await ask(client, taskId)).answer.result).toEqual(answer.result);
    expect((await ask(client, taskId, 'tasks/cancel')).answer.result).toEqual({ resultType: 'complete' });
    await released('modern');
  });

  it('asks by its state, and is answered by an update', async () => {
    const client = new ModernClient(gateway, '/modern/mcp', capable);
    const { taskId } = await started(client, 'confirm_delete', { filename: 'it' });
    const { answer } = await eventually(
      () => ask(client, taskId),
      ({ answer }) => answer.result.status === 'input_required',
    );
    expect(answer.result.inputRequests.confirm.params.message).toBe('Delete it?');
    const inputResponses = { confirm: { action: 'accept', content: { confirm: true } } };
    const updated = await ask(client, taskId, 'tasks/update', { inputResponses });
    expect(updated.answer.result.resultType).toBe('complete');
    const { answer: done } = await eventually(
      () => ask(client, taskId),
      ({ answer }) => answer.result.status === 'completed',
    );
    expect(done.result.result.content[0].text).toBe('deleted it');
  });

  it('is cancelled, and lets its instance go', async () => {
    const client = new ModernClient(gateway, '/modern/mcp', capable);
    const { taskId } = await started(client, 'slow_compute', { seconds: 60 });
    expect((await ask(client, taskId, 'tasks/cancel')).answer.result).toMatchObject({
      resultType: 'complete',
    });
    await released('modern');
    expect((await ask(client, taskId)).answer.result.status).toBe('cancelled');
  });

  it('is never given to a client that does not declare the extension', async () => {
    const client = new ModernClient(gateway, '/modern/mcp');
    expect((await client.call('slow_compute', { seconds: 0 })).answer.result.resultType).toBe('complete');
    const owner = new ModernClient(gateway, '/modern/mcp', capable);
    const { taskId } = await started(owner, 'slow_compute', { seconds: 60 });
    for (const method of ['tasks/get', 'tasks/update', 'tasks/cancel']) {
      expect(await ask(client, taskId, method, { inputResponses: {} })).toMatchObject({
        status: 400,
        answer: { error: { code: -32021, data: { requiredCapabilities: extension } } },
      });
    }
    expect(await client.call('failing_job')).toMatchObject({
      status: 400,
      answer: { error: { code: -32021, data: { requiredCapabilities: extension } } },
    });
    const listening = await client.request('subscriptions/listen', { notifications: { taskIds: [taskId] } });
    expect(listening).toMatchObject({ status: 400, answer: { error: { code: -32021 } } });
    for (const method of ['tasks/list', 'tasks/result']) {
      expect((await owner.request(method, { taskId })).answer.error.code).toBe(-32601);
    }
    expect((await ask(owner, taskId, 'tasks/cancel')).answer).toHaveProperty('result');
  });

  it('is unknown to clients with another name, or without one, and at other servers', async () => {
    const owner = named('one');
    const { taskId } = await started(owner, 'slow_compute', { seconds: 60 });
    const unknown = (await ask(owner, 'no-such-task')).answer.error;
    const others = [
      named('two'),
      new ModernClient(gateway, '/modern/mcp', capable),
      named('one', '/legacy/mcp'),
      named('one', '/fragile-modern/mcp'),
    ];
    for (const other of others) {
      for (const method of ['tasks/get', 'tasks/update', 'tasks/cancel']) {
        const { error } = (await ask(other, taskId, method, { inputResponses: {} })).answer;
        expect(error).toMatchObject({ code: -32602, data: unknown.data });
        expect(error.message.replace(taskId, 'no-such-task')).toBe(unknown.message);
      }
    }
    const raw = await session('/mcp');
    expect((await get(raw, taskId)).error.code).toBe(-32602);
    expect((await ask(named('one', '/mcp'), taskId)).answer.result.status).toBe('working');
    await ask(owner, taskId, 'tasks/cancel');
  });

  it('tells its changes to listeners that may have them and asked for them', async () => {
    const [owner, other] = [named('listener'), named('another')];
    const tasks = await Promise.all([
      started(owner, 'confirm_delete', { filename: 'it' }),
      started(owner, 'slow_compute', { seconds: 0 }),
    ]);
    const [{ taskId }, { taskId: unheard }] = tasks;
    const notifications = { taskIds: [taskId, 'no-such-task'] };
    const [heard, overheard] = [
      await owner.open('subscriptions/listen', { notifications }),
      await other.open('subscriptions/listen', {
        notifications: { ...notifications, toolsListChanged: true },
      }),
    ];
    const at = (status: string) =>
      until(() => heard.messages.find(({ params }) => params.status === status), status);
    const asking = await at('input_required');
    expect(heard.messages[0]).toMatchObject({
      method: 'notifications/subscriptions/acknowledged',
      params: { notifications: { taskIds: [taskId] } },
    });
    expect(asking).toMatchObject({
      method: 'notifications/tasks',
      params: {
        taskId,
        inputRequests: { confirm: { method: 'elicitation/create' } },
        _meta: { 'io.modelcontextprotocol/subscriptionId': heard.id },
      },
    });
    const inputResponses = { confirm: { action: 'decline' } };
    await ask(owner, taskId, 'tasks/update', { inputResponses });
    expect((await at('completed')).params.result.content[0].text).toBe('kept it');
    const states = heard.messages.slice(1).map(({ params }) => [params.taskId, params.status]);
    expect(new Set(states.map(String)).size).toBe(states.length);
    expect(states.flat()).not.toContain(unheard);
    expect(overheard.messages).toMatchObject([{ params: { notifications: { toolsListChanged: true } } }]);
    expect(overheard.messages[0].params.notifications).not.toHaveProperty('taskIds');
    heard.close();
    overheard.close();
  });

  it('keeps its instance until it is over, and no longer', async () => {
    const client = new ModernClient(gateway, '/brief-modern/mcp', capable);
    const { taskId } = await started(client, 'slow_compute', { seconds: 1.2 });
    const [{ id }] = instances('brief-modern') as [Any];
    await new Promise((resolve) => setTimeout(resolve, 1000));
    expect(instances('brief-modern')).toMatchObject([{ id, leases: 1 }]);
    const { answer } = await eventually(
      () => ask(client, taskId),
      ({ answer }) => answer.result.status === 'completed',
    );
    await until(() => instances('brief-modern').length === 0, 'the instance is stopped');
    expect((await ask(client, taskId)).answer.result).toEqual(answer.result);
    expect(instances('brief-modern')).toEqual([]);
  });

  it('is lost with its instance, and its client is told why', async () => {
    const client = new ModernClient(gateway, '/fragile-modern/mcp', capable);
    const { taskId } = await started(client, 'slow_compute', { seconds: 60 });
    const pid = Number((await client.call('pid')).answer.result.content[0].text);
    process.kill(pid, 'SIGKILL');
    const { answer } = await eventually(
      () => ask(client, taskId),
      // A request that was under way tells more than the end of the instance.
      ({ answer }) => answer.error?.code === -32602 && /crashed|unexpectedly/.test(answer.error.message),
    );
    expect(answer.error.message).toContain(
      'is lost: the instance of server fragile-modern that worked on it has',
    );
    await released('fragile-modern');
  });
});
