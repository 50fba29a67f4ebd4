import { describe, expect, it } from 'vitest';
import type { CallOptions } from '../../src/lifecycle/lease.ts';
import type { Notification, Params, Request } from '../../src/protocol/jsonrpc.ts';
import { rejection, type ServerSettings, scriptedFleet, serverOf } from './fixtures.ts';
import { settle } from './held-clock.ts';
import type { Script } from './scripted-runtime.ts';

/* Instances of the modern era: what they are told of clients, and what they tell. */

const call = (params: Params = {}) => ({ method: 'tools/call', params });
const key = (name: string) => `io.modelcontextprotocol/${name}`;

/** A fleet with one modern server whose calls the test answers by hand. */
async function conversation(settings: ServerSettings = {}, script: Script = {}) {
  const heard: [affinity: string | undefined, Notification][] = [];
  const asked: string[] = [];
  const made = scriptedFleet([serverOf('files', settings)], {
    era: 'modern',
    script: { era: 'modern', onRequest() {}, ...script },
    listener: {
      onNotification: (_server, affinity, notification) => heard.push([affinity, notification]),
      onAsked: (server) => asked.push(server),
    },
  });
  return {
    ...made,
    heard,
    asked,
    async send(params: Params = {}, options: CallOptions & { affinity?: string } = {}) {
      const outcome = made.fleet.call('files', call(params), options);
      outcome.catch(() => {});
      await settle();
      return { outcome, request: made.runtime.last.open.at(-1)! };
    },
    get instance() {
      return made.runtime.last;
    },
    get listens() {
      return made.runtime.last.requests('subscriptions/listen');
    },
    cancelled: () =>
      made.runtime.last.notifications('notifications/cancelled').map(({ params }) => params!.requestId),
    async says(message: Parameters<typeof made.runtime.last.says>[0]) {
      made.runtime.last.says(message);
      await settle();
    },
  };
}

const logLine = (data: string): Notification => ({
  jsonrpc: '2.0',
  method: 'notifications/message',
  params: { level: 'info', data },
});

describe('a request to a modern server', () => {
  it('says who calls, beside what is in its _meta already', async () => {
    const c = await conversation();
    const client = {
      capabilities: { sampling: {} },
      info: { name: 'claude', version: '9' },
      logLevel: 'debug',
    };
    const { request } = await c.send(
      { name: 'x', _meta: { progressToken: 'p', traceparent: '00-aa-bb-01', 'acme.com/a': [1] } },
      { client },
    );
    expect(request.params).toEqual({
      name: 'x',
      _meta: {
        progressToken: request.id,
        traceparent: '00-aa-bb-01',
        'acme.com/a': [1],
        [key('protocolVersion')]: '2026-07-28',
        [key('clientInfo')]: { name: 'claude', version: '9' },
        [key('clientCapabilities')]: { sampling: {} },
        [key('logLevel')]: 'debug',
      },
    });
  });

  it('comes from the gateway itself where no client stands behind it', async () => {
    const c = await conversation();
    const lease = await c.fleet.lease('files', { purpose: 'upkeep' });
    void lease.call({ method: 'tools/list' }).catch(() => {});
    await settle();
    expect(c.instance.open[0]!.params).toEqual({
      _meta: {
        [key('protocolVersion')]: '2026-07-28',
        [key('clientInfo')]: { name: 'mcp-gateway', version: '0.0.0' },
        [key('clientCapabilities')]: {},
      },
    });
    await c.fleet.kill();
  });

  it('gives results and errors back as they came, with the era that answered', async () => {
    const c = await conversation();
    const asks = { resultType: 'input_required', inputRequests: { a: { method: 'roots/list' } } };
    const first = await c.send();
    c.instance.answer(first.request, asks);
    expect(await first.outcome).toEqual({ era: 'modern', result: asks });
    const second = await c.send();
    const error = { code: -32021, message: 'no', data: { requiredCapabilities: {} } };
    c.instance.refuses(second.request, error);
    expect(await second.outcome).toEqual({ era: 'modern', error });
  });

  it('is cancelled by its id', async () => {
    const c = await conversation();
    const abort = new AbortController();
    const { request, outcome } = await c.send({}, { signal: abort.signal });
    abort.abort();
    expect((await rejection(outcome)).code).toBe('cancelled');
    expect(c.cancelled()).toEqual([request.id]);
  });

  it('never asks for a log level by itself, nor for a subscription', async () => {
    const c = await conversation({}, { capabilities: { logging: {}, resources: { subscribe: true } } });
    c.fleet.setLogLevel('files', 's1', 'debug');
    using lease = await c.fleet.lease('files');
    c.fleet.setLogLevel('files', undefined, 'info');
    expect(await lease.call({ method: 'logging/setLevel', params: { level: 'debug' } })).toEqual({
      era: 'modern',
      result: {},
    });
    const subscribed = lease.call({ method: 'resources/subscribe', params: { uri: 'a:b' } });
    await c.clock.pass(20);
    expect(await subscribed).toEqual({ era: 'modern', result: {} });
    const methods = c.instance.received.map((message) => 'method' in message && message.method);
    expect(methods).toEqual(['server/discover', 'subscriptions/listen']);
  });
});

describe('what a modern server says', () => {
  it('is never a question: it is refused, and nobody hears of it', async () => {
    const c = await conversation({ isolation: 'session' });
    const questions: unknown[] = [];
    await c.send(
      {},
      { affinity: 's1', onRequest: async (...asked) => ({ result: { asked: questions.push(asked) } }) },
    );
    for (const method of ['elicitation/create', 'sampling/createMessage', 'roots/list', 'ping']) {
      await c.says({ jsonrpc: '2.0', id: method, method } as Request);
      expect(c.instance.answerTo(method)).toMatchObject({ error: { code: -32601 } });
    }
    expect(questions).toEqual([]);
    expect(c.asked).toEqual([]);
  });

  it('is logged to the one call that wants it, and to nobody where it may be another’s', async () => {
    const c = await conversation();
    const lines: string[] = [];
    const listenTo = (name: string, logLevel?: string) => ({
      client: { capabilities: {}, logLevel },
      onNotification: ({ params }: Notification) => void lines.push(`${name}: ${params!.data}`),
    });
    const abort = new AbortController();
    const silent = await c.send({}, listenTo('silent'));
    await c.says(logLine('nobody asked'));
    const one = await c.send({}, listenTo('one', 'info'));
    await c.says(logLine('for one'));
    await c.send({}, { ...listenTo('two', 'debug'), signal: abort.signal });
    await c.says(logLine('for one or two'));
    abort.abort();
    await settle();
    // The server may not have noticed yet.
    await c.says(logLine('for one or, late, for two'));
    await c.clock.pass(10_000);
    await c.says(logLine('for one again'));
    expect(lines).toEqual(['one: for one', 'one: for one again']);
    expect(c.heard).toEqual([]);
    for (const { request, outcome } of [silent, one]) {
      c.instance.answer(request, {});
      await outcome;
    }
  });

  it('is told as progress to its call, with the token of its client', async () => {
    const c = await conversation();
    const heard: Notification[] = [];
    const { request } = await c.send(
      { _meta: { progressToken: 'mine' } },
      { onNotification: (notification) => heard.push(notification) },
    );
    await c.says({
      jsonrpc: '2.0',
      method: 'notifications/progress',
      params: { progressToken: request.id, progress: 1 },
    });
    expect(heard.map(({ params }) => params)).toEqual([{ progressToken: 'mine', progress: 1 }]);
  });

  it('is a sign of life when it is asked for one', async () => {
    let isDeaf = false;
    const c = await conversation(
      {},
      {
        discover: (instance, request) => {
          if (!isDeaf) instance.discovered(request);
        },
        onRequest: (instance, request) => instance.answer(request, {}),
      },
    );
    await c.send();
    await c.clock.pass(60_000);
    expect(c.instance.requests('ping')).toEqual([]);
    const asked = c.instance.requests('server/discover').length;
    expect(asked).toBeGreaterThan(1);
    isDeaf = true;
    await c.clock.pass(120_000);
    expect(c.runtime.running).toEqual([]);
    expect(c.fleet.status('files').lastError?.code).toBe('instance_crashed');
  });
});

describe('calls of a modern server that asks', () => {
  it('are never one at a time: its questions are results of their calls', async () => {
    const c = await conversation({ interactive: true, isolation: 'shared', concurrency: 3 });
    for (let n = 0; n < 4; n += 1) await c.send({ n });
    expect(c.instance.open).toHaveLength(3);
    await c.fleet.kill();
  });

  it('do not take a given-up call for a reason to replace it', async () => {
    const c = await conversation({ interactive: true, isolation: 'shared' });
    const abort = new AbortController();
    await c.send({}, { affinity: 's1', signal: abort.signal });
    abort.abort();
    await settle();
    await c.send({}, { affinity: 's2' });
    expect(c.runtime.instances).toHaveLength(1);
  });
});

const everything = {
  tools: { listChanged: true },
  prompts: { listChanged: true },
  resources: { listChanged: true, subscribe: true },
};
const subscribe = (uri: string) => ({ method: 'resources/subscribe', params: { uri } });
const unsubscribe = (uri: string) => ({ method: 'resources/unsubscribe', params: { uri } });

describe('listening to a modern server', () => {
  it('asks it to tell what it offers to tell, and passes that on in legacy form', async () => {
    const c = await conversation({}, { capabilities: everything });
    await c.send();
    expect(c.listens.map(({ params }) => params!.notifications)).toEqual([
      { toolsListChanged: true, promptsListChanged: true, resourcesListChanged: true },
    ]);
    expect(c.listens[0]!.params!._meta).toMatchObject({ [key('protocolVersion')]: '2026-07-28' });
    c.instance.tells(c.listens[0]!, 'tools/list_changed');
    c.instance.tells(c.listens[0]!, 'resources/updated', { uri: 'a:b', title: 'odd' });
    await c.says({
      jsonrpc: '2.0',
      method: 'notifications/prompts/list_changed',
      params: { _meta: { [key('subscriptionId')]: c.listens[0]!.id, 'acme.com/x': 1 } },
    });
    expect(c.heard).toEqual([
      [undefined, { jsonrpc: '2.0', method: 'notifications/tools/list_changed' }],
      [
        undefined,
        { jsonrpc: '2.0', method: 'notifications/resources/updated', params: { uri: 'a:b', title: 'odd' } },
      ],
      [
        undefined,
        {
          jsonrpc: '2.0',
          method: 'notifications/prompts/list_changed',
          params: { _meta: { 'acme.com/x': 1 } },
        },
      ],
    ]);
  });

  it('asks nothing of one that offers nothing', async () => {
    const c = await conversation({}, { capabilities: { tools: {} } });
    await c.send();
    expect(c.listens).toEqual([]);
  });

  it('has what clients watch in its first listen, and one more for a burst of changes', async () => {
    const c = await conversation({}, { capabilities: everything });
    c.fleet.rememberSubscription('files', 's1', 'file:///a', true);
    c.fleet.rememberSubscription('files', 's2', 'file:///b', true);
    await c.send();
    expect(c.listens).toHaveLength(1);
    expect(c.listens[0]!.params!.notifications).toMatchObject({
      resourceSubscriptions: ['file:///a', 'file:///b'],
    });
    for (let n = 0; n < 50; n += 1) c.fleet.rememberSubscription('files', 's1', `file:///${n}`, true);
    c.fleet.rememberSubscription('files', 's1', 'file:///a', false);
    await c.clock.pass(100);
    expect(c.listens).toHaveLength(2);
    const watched = (c.listens[1]!.params!.notifications as { resourceSubscriptions: string[] })
      .resourceSubscriptions;
    expect(watched).toHaveLength(51);
    expect(watched).not.toContain('file:///a');
    // The new one first, then the end of the old one.
    expect(c.cancelled()).toEqual([c.listens[0]!.id]);
    const order = c.instance.received.map((message) => ('method' in message ? message.method : ''));
    expect(order.lastIndexOf('subscriptions/listen')).toBeLessThan(order.indexOf('notifications/cancelled'));
  });

  it('passes each notification on once while two listens overlap', async () => {
    const c = await conversation({}, { capabilities: everything, listen() {} });
    await c.send();
    const [first] = c.listens;
    c.instance.acknowledges(first!);
    c.fleet.rememberSubscription('files', 's1', 'a:1', true);
    await c.clock.pass(100);
    const second = c.listens[1]!;
    const tell = () => {
      c.instance.tells(first!, 'tools/list_changed');
      c.instance.tells(second, 'tools/list_changed');
    };
    tell();
    await settle();
    expect(c.heard).toHaveLength(1);
    expect(c.cancelled()).toEqual([]);
    c.instance.acknowledges(second);
    tell();
    await settle();
    expect(c.heard).toHaveLength(2);
    expect(c.cancelled()).toEqual([first!.id]);
  });

  it('answers a subscription when the server has agreed, or has not', async () => {
    const c = await conversation(
      {},
      {
        capabilities: everything,
        listen(instance, request) {
          const wanted = request.params!.notifications as { resourceSubscriptions?: string[] };
          const agreed = wanted.resourceSubscriptions?.filter((uri) => uri !== 'secret:');
          instance.acknowledges(request, { ...wanted, resourceSubscriptions: agreed });
        },
      },
    );
    using lease = await c.fleet.lease('files');
    const outcomes = Promise.all([lease.call(subscribe('a:1')), lease.call(subscribe('secret:'))]);
    await c.clock.pass(20);
    expect(await outcomes).toEqual([
      { era: 'modern', result: {} },
      { era: 'modern', error: { code: -32602, message: expect.stringContaining('secret:') } },
    ]);
    // What is watched already needs no further listen.
    const before = c.listens.length;
    expect(await lease.call(subscribe('a:1'))).toEqual({ era: 'modern', result: {} });
    await c.clock.pass(100);
    expect(c.listens).toHaveLength(before);
    expect(await lease.call(unsubscribe('a:1'))).toEqual({ era: 'modern', result: {} });
    await c.clock.pass(100);
    expect(c.listens.at(-1)!.params!.notifications).not.toHaveProperty('resourceSubscriptions');
    expect(c.instance.requests('resources/subscribe')).toEqual([]);
  });

  it('says of a server without subscriptions that it has none', async () => {
    const c = await conversation({}, { capabilities: { resources: {} } });
    using lease = await c.fleet.lease('files');
    expect(await lease.call(subscribe('a:1'))).toMatchObject({ error: { code: -32601 } });
    expect(c.listens).toEqual([]);
  });

  it.each(['result', 'cancelled'] as const)('listens again when the server ends it by %s', async (how) => {
    const c = await conversation({}, { capabilities: everything });
    await c.send();
    const [first] = c.listens;
    if (how === 'result') c.instance.answer(first!, { resultType: 'complete' });
    else {
      await c.says({
        jsonrpc: '2.0',
        method: 'notifications/cancelled',
        params: { requestId: first!.id, reason: 'restarting' },
      });
    }
    await c.clock.pass(999);
    expect(c.listens).toHaveLength(1);
    await c.clock.pass(1);
    expect(c.listens).toHaveLength(2);
    // What changed in between is unknown, so that the lists are read again.
    expect(c.heard.map(([, { method }]) => method)).toEqual([
      'notifications/tools/list_changed',
      'notifications/prompts/list_changed',
      'notifications/resources/list_changed',
    ]);
    c.instance.answer(c.listens[1]!, {});
    await c.clock.pass(1999);
    expect(c.listens).toHaveLength(2);
    await c.clock.pass(1);
    expect(c.listens).toHaveLength(3);
    await c.clock.pass(60_000);
    c.instance.answer(c.listens[2]!, {});
    await c.clock.pass(1000);
    expect(c.listens).toHaveLength(4);
  });

  it('does not go on asking a server that does not know the method', async () => {
    const c = await conversation(
      {},
      {
        capabilities: everything,
        listen: (instance, request) => instance.refuses(request),
      },
    );
    await c.send();
    await c.clock.pass(120_000);
    expect(c.listens).toHaveLength(1);
    using lease = await c.fleet.lease('files');
    const subscribed = lease.call(subscribe('a:1'));
    await c.clock.pass(20);
    expect(await subscribed).toMatchObject({ error: { code: -32601 } });
  });

  it('gives up on an acknowledgement that does not come, and asks again later', async () => {
    const c = await conversation({}, { capabilities: everything, listen() {} });
    using lease = await c.fleet.lease('files');
    const subscribed = rejection(lease.call(subscribe('a:1')));
    await c.clock.pass(10_000);
    expect((await subscribed).code).toBe('call_timeout');
    expect(c.cancelled()).toEqual([c.listens[0]!.id]);
    await c.clock.pass(1000);
    expect(c.listens).toHaveLength(2);
    expect(c.listens[1]!.params!.notifications).not.toHaveProperty('resourceSubscriptions');
  });

  it('holds nothing: the instance rests, is frozen and thawed as any other', async () => {
    const c = await conversation(
      { pauseAfterMs: 60_000 },
      { capabilities: everything, onRequest: (instance, request) => instance.answer(request, {}) },
    );
    await c.send();
    await c.clock.pass(60_000);
    expect(c.instance.isPaused).toBe(true);
    c.fleet.rememberSubscription('files', 's1', 'a:1', true);
    await c.clock.pass(30_000);
    expect(c.listens).toHaveLength(1);
    await c.send();
    expect(c.listens).toHaveLength(2);
    expect(c.fleet.status('files').instances[0]!.leases).toBe(0);
    await c.clock.pass(300_000);
    expect(c.runtime.running).toEqual([]);
    expect(c.runtime.violations).toEqual([]);
    expect(c.clock.pending).toBe(0);
  });

  it('does not write to a frozen instance that has not acknowledged its listen', async () => {
    const c = await conversation(
      { pauseAfterMs: 1000 },
      {
        capabilities: everything,
        listen() {},
        onRequest: (instance, request) => instance.answer(request, {}),
      },
    );
    await c.send();
    await c.clock.pass(60_000);
    expect(c.instance.isPaused).toBe(true);
    expect(c.runtime.violations).toEqual([]);
    await c.clock.pass(300_000);
    expect(c.clock.pending).toBe(0);
  });

  it('leaves no one waiting who subscribes just when it ends', async () => {
    const c = await conversation({}, { capabilities: everything });
    const lease = await c.fleet.lease('files');
    const subscribed = lease.call(subscribe('a:1')).then(
      () => 'agreed',
      (error) => error.name,
    );
    c.instance.dies();
    await c.clock.pass(100);
    expect(await subscribed).toBe('NotWritten');
    lease.release();
    expect(c.clock.pending).toBe(0);
  });
});
