import { describe, expect, it } from 'vitest';
import type { CallOptions, Outcome } from '../../src/lifecycle/lease.ts';
import type { Notification, Params, Request } from '../../src/protocol/jsonrpc.ts';
import { rejection, type ServerSettings, scriptedFleet, serverOf } from './fixtures.ts';
import { settle } from './held-clock.ts';

const call = (params: Params = {}) => ({ method: 'tools/call', params });

/** A fleet with one server whose requests the test answers by hand. */
async function conversation(settings: ServerSettings = {}, more: Parameters<typeof scriptedFleet>[1] = {}) {
  const made = scriptedFleet([serverOf('files', settings)], {
    ...more,
    script: { onRequest() {}, ...more.script },
  });
  return {
    ...made,
    /** Sends a call and lets it arrive. */
    async send(params: Params = {}, options: CallOptions & { affinity?: string } = {}) {
      const outcome = made.fleet.call('files', call(params), options);
      outcome.catch(() => {});
      await settle();
      return { outcome, request: made.runtime.last.open.at(-1)! };
    },
    get instance() {
      return made.runtime.last;
    },
    async says(message: Parameters<typeof made.runtime.last.says>[0]) {
      made.runtime.last.says(message);
      await settle();
    },
  };
}

const asks = (id: string | number, method = 'elicitation/create'): Request => ({
  jsonrpc: '2.0',
  id,
  method,
  params: { message: 'Sure?' },
});
const logLine = (data: string): Notification => ({
  jsonrpc: '2.0',
  method: 'notifications/message',
  params: { level: 'info', data },
});

describe('the handshake', () => {
  it('tells the server its client’s fixed capabilities, and is done before anything else is written', async () => {
    const c = await conversation({ clientCapabilities: ['sampling', 'elicitation', 'roots'] });
    await c.send();
    const [first, second, third] = c.instance.received as Request[];
    expect(first).toMatchObject({
      method: 'initialize',
      params: {
        protocolVersion: '2025-11-25',
        clientInfo: { name: 'mcp-gateway', version: '0.0.0' },
        // Roots are one client's folders; this instance is shared.
        capabilities: { sampling: { tools: {}, context: {} }, elicitation: { form: {}, url: {} } },
      },
    });
    expect(Object.keys(first!.params!.capabilities as object)).toEqual(['sampling', 'elicitation']);
    expect(second!.method).toBe('notifications/initialized');
    expect(third!.method).toBe('tools/call');
  });

  it('declares roots to an instance that belongs to one session', async () => {
    const c = await conversation({ isolation: 'session' });
    await c.send({}, { affinity: 's1' });
    expect((c.instance.received[0] as Request).params!.capabilities).toMatchObject({
      roots: { listChanged: true },
    });
  });

  it.each([null, 42, []])('refuses %j as an answer, in words', async (result) => {
    const { fleet } = scriptedFleet(undefined, {
      script: {
        initialize: (instance, request) =>
          instance.says({ jsonrpc: '2.0', id: request.id, result: result as unknown as Params }),
      },
    });
    const error = await rejection(fleet.call('files', call()));
    expect(error).toMatchObject({ code: 'handshake_failed', server: 'files' });
    expect(error.message).toBe(
      `Server files answered initialize with ${JSON.stringify(result)}, expected an object`,
    );
  });

  it('takes whatever version is answered', async () => {
    const { fleet } = scriptedFleet(undefined, {
      script: {
        initialize: (instance, request) =>
          instance.ready(request, { protocolVersion: '0.1.0', instructions: 'be nice' }),
      },
    });
    using lease = await fleet.lease('files');
    expect(lease.handshake).toMatchObject({
      protocolVersion: '0.1.0',
      instructions: 'be nice',
      serverInfo: { name: 'files' },
    });
  });

  it('explains a refusal, and an end before the answer', async () => {
    const refusing = scriptedFleet(undefined, {
      script: {
        initialize: (instance, request) =>
          instance.says({
            jsonrpc: '2.0',
            id: request.id,
            error: { code: -32602, message: 'Unsupported version' },
          }),
      },
    });
    const refused = await rejection(refusing.fleet.call('files', call()));
    expect(refused.code).toBe('handshake_failed');
    expect(refused.message).toMatch(/files.*Unsupported version/);
    expect(refusing.runtime.running).toEqual([]);

    const ending = scriptedFleet(undefined, {
      script: {
        initialize(instance) {
          instance.stderr.push('Error: Cannot find module');
          instance.dies({ code: 3, hint: 'npm ci is missing' });
        },
      },
    });
    const ended = await rejection(ending.fleet.call('files', call()));
    expect(ended).toMatchObject({ code: 'start_failed', hint: 'npm ci is missing', data: { exitCode: 3 } });
    expect(ended.message).toMatch(/ended before it answered initialize.*exit code 3.*Cannot find module/s);
  });

  it('explains an instance that is gone before the handshake is written', async () => {
    const { fleet } = scriptedFleet(undefined, {
      script: {
        onSend(instance) {
          instance.dies({ code: 4 });
        },
      },
    });
    const error = await rejection(fleet.call('files', call()));
    expect(error).toMatchObject({ code: 'start_failed', data: { exitCode: 4 } });
  });
});

describe('calls', () => {
  it('have ids of their own, whatever order they are answered in', async () => {
    const c = await conversation({ concurrency: 50 });
    const calls = await Promise.all(Array.from({ length: 20 }, (_, n) => c.send({ n })));
    for (const request of [...c.instance.open].reverse())
      c.instance.answer(request, { n: request.params!.n });
    const outcomes = await Promise.all(calls.map(({ outcome }) => outcome));
    expect(outcomes).toEqual(calls.map((_, n) => ({ era: 'legacy', result: { n } })));
    expect(new Set(c.instance.received.map((message) => (message as Request).id)).size).toBeGreaterThan(20);
  });

  it('pass errors on as they came', async () => {
    const c = await conversation();
    const { outcome, request } = await c.send();
    const error = { code: -32042, message: 'URL needed', data: { elicitations: [{ elicitationId: 'e' }] } };
    await c.says({ jsonrpc: '2.0', id: request.id, error });
    expect(await outcome).toEqual({ era: 'legacy', error });
  });

  it('get their own progress under their own token, with its type', async () => {
    const c = await conversation();
    const heard: Record<string, unknown[]> = { a: [], b: [] };
    const params = { name: 'x', _meta: { progressToken: 7, keep: { me: true } } };
    const frozen = JSON.stringify(params);
    const a = await c.send(params, { onNotification: ({ params }) => heard.a!.push(params) });
    const b = await c.send(
      { _meta: { progressToken: '7' } },
      { onNotification: ({ params }) => heard.b!.push(params) },
    );
    const tokenOf = ({ params }: Request) => (params!._meta as Params).progressToken as number;
    expect((a.request.params!._meta as Params).keep).toBe(params._meta.keep);
    expect(tokenOf(a.request)).not.toBe(tokenOf(b.request));
    const progress = (progressToken: number, progress: number): Notification => ({
      jsonrpc: '2.0',
      method: 'notifications/progress',
      params: { progressToken, progress, message: 'm' },
    });
    await c.says(progress(tokenOf(b.request), 1));
    await c.says(progress(tokenOf(a.request), 2));
    c.instance.answer(a.request, {});
    await c.says(progress(tokenOf(a.request), 3));
    expect(heard).toEqual({
      a: [{ progressToken: 7, progress: 2, message: 'm' }],
      b: [{ progressToken: '7', progress: 1, message: 'm' }],
    });
    expect(JSON.stringify(params)).toBe(frozen);
  });

  it('are cancelled at the server by its own id, and a late answer is nobody’s', async () => {
    const c = await conversation();
    const abort = new AbortController();
    const { outcome, request } = await c.send({}, { signal: abort.signal });
    const other = await c.send();
    abort.abort('changed my mind');
    expect((await rejection(outcome)).code).toBe('cancelled');
    expect(c.instance.notifications('notifications/cancelled')).toMatchObject([
      { params: { requestId: request.id, reason: 'changed my mind' } },
    ]);
    c.instance.answer(request, { late: true });
    c.instance.answer(other.request, { mine: true });
    expect(await other.outcome).toEqual({ era: 'legacy', result: { mine: true } });
  });

  it('time out without progress, and only then', async () => {
    const c = await conversation({ timeouts: { callMs: 1000 } });
    const slow = await c.send({ _meta: { progressToken: 1 } });
    const silent = await c.send();
    await c.clock.pass(900);
    await c.says({
      jsonrpc: '2.0',
      method: 'notifications/progress',
      params: { progressToken: (slow.request.params!._meta as Params).progressToken, progress: 1 },
    });
    await c.clock.pass(100);
    const error = await rejection(silent.outcome);
    expect(error.code).toBe('call_timeout');
    expect(error.message).toMatch(/files.*1 s/);
    expect(c.instance.notifications('notifications/cancelled')).toMatchObject([
      { params: { requestId: silent.request.id } },
    ]);
    expect(c.instance.open).toContain(slow.request);
    await c.clock.pass(900);
    expect((await rejection(slow.outcome)).code).toBe('call_timeout');
    // Nothing is left that could fire.
    await c.fleet.close();
    expect(c.clock.pending).toBe(0);
  });

  it('that are given up before they are written are not written', async () => {
    const c = await conversation();
    await c.send();
    using lease = await c.fleet.lease('files');
    const before = c.instance.received.length;
    expect((await rejection(lease.call(call(), { signal: AbortSignal.abort() }))).code).toBe('cancelled');
    expect(c.instance.received).toHaveLength(before);
  });
});

describe('questions of the server', () => {
  const accept = (text: string) => async (): Promise<Outcome> => ({
    result: { action: 'accept', content: { text } },
  });

  it('answers ping itself, and refuses what it does not know', async () => {
    const c = await conversation();
    await c.send();
    await c.says({ jsonrpc: '2.0', id: 'p', method: 'ping' });
    await c.says({ jsonrpc: '2.0', id: 0, method: 'tasks/get' });
    expect(c.instance.answerTo('p')).toEqual({ jsonrpc: '2.0', id: 'p', result: {} });
    expect(c.instance.answerTo(0)).toMatchObject({ error: { code: -32601 } });
  });

  it('go to the one call in flight, with ids of any kind', async () => {
    const seen: Request[] = [];
    const c = await conversation();
    await c.send(
      {},
      {
        onRequest: async (request) => {
          seen.push(request);
          return { result: { action: 'accept' } };
        },
      },
    );
    await c.says(asks(0));
    await c.says(asks('0', 'sampling/createMessage'));
    expect(seen.map(({ id, method }) => [id, method])).toEqual([
      [0, 'elicitation/create'],
      ['0', 'sampling/createMessage'],
    ]);
    expect(c.instance.answerTo(0)).toEqual({ jsonrpc: '2.0', id: 0, result: { action: 'accept' } });
    expect(c.instance.answerTo('0')).toEqual({ jsonrpc: '2.0', id: '0', result: { action: 'accept' } });
  });

  it('that may be either of two clients’ go to neither; from then on the server gets one call at a time', async () => {
    const learnt: string[] = [];
    const c = await conversation({}, { listener: { onAsked: (server) => learnt.push(server) } });
    let asked = 0;
    const onRequest = async (): Promise<Outcome> => {
      asked += 1;
      return { result: {} };
    };
    const a = await c.send({ a: 1 }, { onRequest });
    const b = await c.send({ b: 1 }, { onRequest });
    await c.says(asks(1));
    expect(asked).toBe(0);
    expect(c.instance.answerTo(1)).toMatchObject({ error: { code: -32000 } });
    expect(learnt).toEqual(['files']);

    const third = c.fleet.call('files', call({ c: 1 }), { onRequest });
    await settle();
    expect(c.instance.open).toEqual([a.request, b.request]);
    c.instance.answer(a.request, {});
    await settle();
    expect(c.instance.open).toEqual([b.request]);
    c.instance.answer(b.request, {});
    await settle();
    await c.says(asks(2));
    expect(asked).toBe(1);
    c.instance.answer(c.instance.open[0]!, {});
    await third;
    expect(learnt).toEqual(['files']);
  });

  it('are never brought to another client than that of a call which was cancelled and may still run', async () => {
    const c = await conversation({ interactive: false });
    const abort = new AbortController();
    let asked = 0;
    const onRequest = async (): Promise<Outcome> => {
      asked += 1;
      return { result: { action: 'accept' } };
    };
    await c.send({}, { signal: abort.signal, onRequest, affinity: 's1' });
    abort.abort();
    await settle();
    const mine = await c.send({}, { onRequest, affinity: 's1' });
    await c.says(asks(1));
    expect(asked).toBe(1);
    c.instance.answer(mine.request, {});
    await settle();

    const lines: unknown[] = [];
    const other = await c.send({}, { onRequest, onNotification: (line) => lines.push(line), affinity: 's2' });
    const first = c.instance;
    await c.says(logLine('secret of s1'));
    await c.says(asks(2));
    expect(asked).toBe(1);
    expect(lines).toEqual([]);
    expect(first.answerTo(2)).toMatchObject({ error: { code: -32000 } });
    // The next call is not held back by it: it gets an instance without a past.
    const next = c.fleet.call('files', call(), { onRequest, affinity: 's2' });
    await settle();
    first.answer(other.request, {});
    await settle();
    expect(c.instance).not.toBe(first);
    await c.says(asks(3));
    expect(asked).toBe(2);
    c.instance.answer(c.instance.open[0]!, {});
    expect(await next).toEqual({ era: 'legacy', result: {} });
    expect(c.runtime.violations).toEqual([]);
  });

  it('of a server that is known to ask reach the client after one who gave up: its call gets a fresh instance', async () => {
    const c = await conversation();
    c.fleet.markInteractive('files');
    let asked = 0;
    const onRequest = async (): Promise<Outcome> => {
      asked += 1;
      return { result: { action: 'accept' } };
    };
    const abort = new AbortController();
    await c.send({}, { signal: abort.signal, onRequest, affinity: 's1' });
    const first = c.instance;
    abort.abort();
    await settle();
    const mine = await c.send({}, { onRequest, affinity: 's1' });
    expect(c.instance).toBe(first);
    first.answer(mine.request, {});
    await settle();

    const lines: unknown[] = [];
    const other = await c.send({}, { onRequest, onNotification: (line) => lines.push(line), affinity: 's2' });
    expect(c.instance).not.toBe(first);
    await c.says(logLine('for s2'));
    await c.says(asks(1));
    expect(asked).toBe(1);
    expect(lines).toHaveLength(1);
    c.instance.answer(other.request, {});
    expect(await other.outcome).toEqual({ era: 'legacy', result: {} });
    expect(c.runtime.running).toEqual([c.instance]);
    expect(c.runtime.violations).toEqual([]);
  });

  it('of a server whose memory matters are refused rather than that it is replaced', async () => {
    const c = await conversation({ stateful: true, isolation: 'shared' });
    c.fleet.markInteractive('files');
    const abort = new AbortController();
    await c.send({}, { signal: abort.signal, affinity: 's1' });
    const first = c.instance;
    abort.abort();
    await settle();
    await c.send({}, { affinity: 's2' });
    expect(c.instance).toBe(first);
    await c.says(asks(1));
    expect(first.answerTo(1)).toMatchObject({ error: { code: -32000 } });
  });

  it('of a session’s own instance reach the session without a call, or with several', async () => {
    const heard: unknown[] = [];
    const c = await conversation(
      { isolation: 'session' },
      {
        listener: {
          async onRequest(server, affinity, { id }) {
            heard.push([server, affinity, id]);
            return { result: { roots: [] } };
          },
          onAsked: () => heard.push('asked'),
        },
      },
    );
    const a = await c.send({}, { affinity: 's1' });
    const b = await c.send({}, { affinity: 's1' });
    await c.says(asks(1, 'roots/list'));
    c.instance.answer(a.request, {});
    c.instance.answer(b.request, {});
    await settle();
    await c.says(asks(2, 'roots/list'));
    expect(heard).toEqual([
      ['files', 's1', 1],
      ['files', 's1', 2],
    ]);
    expect(c.instance.answerTo(2)).toMatchObject({ result: { roots: [] } });
  });

  it('are declined where the client cannot be asked', async () => {
    const c = await conversation();
    await c.send();
    await c.says(asks(1));
    await c.says(asks(2, 'sampling/createMessage'));
    await c.says(asks(3, 'roots/list'));
    expect(c.instance.answerTo(1)).toMatchObject({ result: { action: 'decline' } });
    expect(c.instance.answerTo(2)).toMatchObject({ error: { code: -1 } });
    expect(c.instance.answerTo(3)).toMatchObject({ error: { code: -32601 } });
  });

  it('are declined when nobody answers in time, and the time of the call stands still meanwhile', async () => {
    const c = await conversation({ timeouts: { callMs: 1000, clientMs: 5000 } });
    let signal: AbortSignal | undefined;
    const { outcome, request } = await c.send(
      {},
      {
        onRequest: (_request, given) => {
          signal = given;
          return new Promise(() => {});
        },
      },
    );
    await c.clock.pass(900);
    await c.says(asks(1));
    await c.clock.pass(4999);
    expect(c.instance.answerTo(1)).toBeUndefined();
    await c.clock.pass(1);
    expect(c.instance.answerTo(1)).toMatchObject({ result: { action: 'decline' } });
    expect(signal?.aborted).toBe(true);
    await c.clock.pass(999);
    c.instance.answer(request, { ok: true });
    expect(await outcome).toEqual({ era: 'legacy', result: { ok: true } });
  });

  it('end with their call, and with the server’s own cancellation', async () => {
    const c = await conversation();
    const signals: AbortSignal[] = [];
    const onRequest = (_request: Request, signal: AbortSignal) => {
      signals.push(signal);
      return new Promise<Outcome>(() => {});
    };
    const { request } = await c.send({}, { onRequest });
    await c.says(asks('q'));
    await c.says({ jsonrpc: '2.0', method: 'notifications/cancelled', params: { requestId: 'q' } });
    expect(signals[0]!.aborted).toBe(true);
    expect(c.instance.answerTo('q')).toBeUndefined();
    await c.says(asks('r'));
    c.instance.answer(request, {});
    await settle();
    expect(signals[1]!.aborted).toBe(true);
    await c.send({}, { onRequest });
    await c.says(asks('s'));
    c.instance.dies();
    await settle();
    expect(signals[2]!.aborted).toBe(true);
  });

  it('that fail at the client are declined', async () => {
    const c = await conversation();
    await c.send({}, { onRequest: () => Promise.reject(new Error('gone')) });
    await c.says(asks(1));
    expect(c.instance.answerTo(1)).toMatchObject({ result: { action: 'decline' } });
    await c.send({}, { onRequest: accept('x') });
  });
});

describe('what the server says by itself', () => {
  it('a log line belongs to the only call, to its session, or to nobody', async () => {
    const outside: unknown[] = [];
    const listener = { onNotification: (...heard: unknown[]) => outside.push(heard) };
    const c = await conversation({}, { listener });
    const lines: unknown[] = [];
    const a = await c.send({}, { onNotification: ({ params }) => lines.push(params!.data) });
    await c.says(logLine('one'));
    await c.send();
    await c.says(logLine('whose'));
    expect(lines).toEqual(['one']);
    expect(outside).toEqual([]);
    c.instance.answer(a.request, {});

    const s = await conversation({ isolation: 'session' }, { listener });
    const b = await s.send({}, { affinity: 's1' });
    s.instance.answer(b.request, {});
    await settle();
    await s.says(logLine('mine'));
    expect(outside).toEqual([['files', 's1', logLine('mine'), 'files-1']]);
  });

  it('passes list changes and updates on, with their session', async () => {
    const outside: unknown[] = [];
    const c = await conversation(
      {},
      {
        listener: {
          onNotification: (server, affinity, { method }) => outside.push([server, affinity, method]),
        },
      },
    );
    await c.send();
    await c.says({ jsonrpc: '2.0', method: 'notifications/tools/list_changed' });
    await c.says({ jsonrpc: '2.0', method: 'notifications/resources/updated', params: { uri: 'a:b' } });
    expect(outside).toEqual([
      ['files', undefined, 'notifications/tools/list_changed'],
      ['files', undefined, 'notifications/resources/updated'],
    ]);
  });

  it('keeps the most verbose log level that anybody wants, also for an instance that starts later', async () => {
    const { fleet, runtime } = scriptedFleet(undefined, { script: { capabilities: { logging: {} } } });
    const levels = () =>
      runtime.last.received.flatMap((message) =>
        'method' in message && message.method === 'logging/setLevel' ? [message.params!.level] : [],
      );
    fleet.setLogLevel('files', 's1', 'warning');
    await fleet.call('files', call());
    expect(levels()).toEqual(['warning']);
    fleet.setLogLevel('files', 's2', 'debug');
    fleet.setLogLevel('files', 's3', 'error');
    fleet.endSession('s2');
    await settle();
    expect(levels()).toEqual(['warning', 'debug', 'warning']);
    runtime.last.dies();
    await settle();
    await fleet.call('files', call());
    expect(levels()).toEqual(['warning']);
  });

  it('watches resources again after a restart, once per resource, until nobody wants them', async () => {
    const { fleet, runtime } = scriptedFleet(undefined, {
      script: { capabilities: { resources: { subscribe: true } } },
    });
    const asked = () =>
      runtime.last.received.flatMap((message) =>
        'method' in message && message.method.startsWith('resources/')
          ? [[message.method, message.params!.uri]]
          : [],
      );
    await fleet.call(
      'files',
      { method: 'resources/subscribe', params: { uri: 'file:///a' } },
      { affinity: 's1' },
    );
    fleet.rememberSubscription('files', 's1', 'file:///a', true);
    fleet.rememberSubscription('files', 's2', 'file:///a', true);
    await settle();
    expect(asked()).toEqual([['resources/subscribe', 'file:///a']]);
    runtime.last.dies();
    await settle();
    await fleet.call('files', call());
    expect(asked()).toEqual([['resources/subscribe', 'file:///a']]);
    fleet.rememberSubscription('files', 's1', 'file:///a', false);
    await settle();
    expect(asked()).toHaveLength(1);
    fleet.endSession('s2');
    await settle();
    expect(asked().at(-1)).toEqual(['resources/unsubscribe', 'file:///a']);
  });

  it('does not undo a subscription that is just being made', async () => {
    const { fleet, runtime } = scriptedFleet(undefined, {
      script: { capabilities: { resources: { subscribe: true } }, onRequest() {} },
    });
    const subscribe = { method: 'resources/subscribe', params: { uri: 'file:///a' } };
    const subscribed = fleet.call('files', subscribe, { affinity: 's1' });
    await settle();
    fleet.rememberSubscription('files', 's2', 'file:///b', true);
    fleet.rememberSubscription('files', 's2', 'file:///b', false);
    fleet.endSession('s2');
    runtime.last.answer(runtime.last.open[0]!, {});
    await subscribed;
    fleet.rememberSubscription('files', 's1', 'file:///a', true);
    await settle();
    const unsubscribed = runtime.last.received.flatMap((message) =>
      'method' in message && message.method === 'resources/unsubscribe' ? [message.params!.uri] : [],
    );
    expect(unsubscribed).toEqual(['file:///b']);
  });

  it('tells a frozen instance what changed when it is thawed', async () => {
    const { fleet, runtime, clock } = scriptedFleet([serverOf('files', { pauseAfterMs: 1000 })], {
      script: { capabilities: { resources: { subscribe: true }, logging: {} } },
    });
    await fleet.call('files', call());
    fleet.rememberSubscription('files', 's1', 'file:///old', true);
    await clock.pass(1000);
    expect(runtime.last.isPaused).toBe(true);
    const before = runtime.last.received.length;
    fleet.setLogLevel('files', undefined, 'debug');
    fleet.rememberSubscription('files', 's1', 'file:///old', false);
    fleet.rememberSubscription('files', 's1', 'file:///new', true);
    expect(runtime.last.received).toHaveLength(before);
    await fleet.call('files', call());
    const told = runtime.last.received.slice(before) as Request[];
    expect(told.map(({ method, params }) => [method, params?.uri ?? params?.level])).toEqual([
      ['logging/setLevel', 'debug'],
      ['resources/subscribe', 'file:///new'],
      ['resources/unsubscribe', 'file:///old'],
      ['tools/call', undefined],
    ]);
    expect(runtime.violations).toEqual([]);
  });

  it('says once for whom a list should be read again after a start', async () => {
    const ready: unknown[] = [];
    const { fleet } = scriptedFleet(undefined, { listener: { onReady: (...told) => ready.push(told) } });
    await fleet.call('files', call());
    await fleet.call('files', call());
    expect(ready).toEqual([['files', undefined, 'call']]);
  });
});

describe('a server that writes too much', () => {
  it('is stopped when it floods, and its calls say so', async () => {
    const c = await conversation();
    const { outcome } = await c.send();
    const first = c.instance;
    first.writesNoise('Listening on port 3000');
    for (let n = 0; n < 25_000; n += 1) first.says(logLine('again'));
    const error = await rejection(outcome);
    expect(error.code).toBe('flooded');
    expect(error.message).toMatch(/files.*20001 lines.*Listening on port 3000/);
    expect(error.hint).toBeTruthy();
    await settle();
    expect(first.isRunning).toBe(false);
    expect(c.fleet.status('files').instances).toEqual([]);
    expect((await c.send()).request.method).toBe('tools/call');
  });

  it('may write two thousand lines a second for ever', async () => {
    const c = await conversation();
    await c.send();
    for (let second = 0; second < 60; second += 1) {
      for (let n = 0; n < 2000; n += 1) c.instance.says(logLine('again'));
      await c.clock.pass(1000);
    }
    expect(c.instance.isRunning).toBe(true);
    expect(c.instance.open).toHaveLength(1);
  });

  it('fails the call whose answer is broken at once, and no other', async () => {
    const c = await conversation();
    const a = await c.send();
    const b = await c.send();
    c.instance.writesNoise('{"jsonrpc":"2.0","id":2}', 24, 'garbage', a.request.id as number);
    expect(await rejection(a.outcome)).toMatchObject({
      code: 'upstream_error',
      server: 'files',
      message: 'Server files answered tools/call with what is no JSON-RPC response: {"jsonrpc":"2.0","id":2}',
    });
    c.instance.answer(b.request, { fine: true });
    expect(await b.outcome).toEqual({ era: 'legacy', result: { fine: true } });
  });

  it('pays for huge garbage by its size', async () => {
    const c = await conversation();
    const { outcome } = await c.send();
    for (let n = 0; n < 3; n += 1) c.instance.writesNoise('xxxx', 60_000_000);
    expect((await rejection(outcome)).code).toBe('flooded');
  });

  it('fails the call whose answer was too long, and no other', async () => {
    const c = await conversation();
    const [a, b] = [await c.send({ n: 'a' }), await c.send({ n: 'b' })];
    c.instance.writesNoise('{"jsonrpc"', 100_000_000, 'oversize', a.request.id as number);
    const error = await rejection(a.outcome);
    expect(error.code).toBe('message_too_large');
    expect(error.message).toMatch(/files.*64 MiB.*95 MiB/);
    c.instance.answer(b.request, { ok: true });
    expect(await b.outcome).toEqual({ era: 'legacy', result: { ok: true } });
  });

  it('fails the only call in flight as soon as the line is too long, however long it goes on', async () => {
    const c = await conversation();
    const { outcome, request } = await c.send();
    c.instance.overflows('xxxxxxxx');
    expect((await rejection(outcome)).code).toBe('message_too_large');
    c.instance.writesNoise('xxxxxxxx', 1e8, 'oversize');
    c.instance.answer(request, {});
    const next = await c.send();
    c.instance.answer(next.request, { ok: true });
    expect(await next.outcome).toEqual({ era: 'legacy', result: { ok: true } });
  });

  it('gives a call that comes while the line goes on to a fresh instance', async () => {
    const c = await conversation();
    const { outcome } = await c.send();
    const first = c.instance;
    first.overflows('xxxxxxxx');
    await rejection(outcome);
    const next = await c.send();
    expect(c.instance).not.toBe(first);
    c.instance.answer(next.request, { ok: true });
    expect(await next.outcome).toEqual({ era: 'legacy', result: { ok: true } });
  });

  it('waits for the end of the line where it is no answer, or may be that of several calls', async () => {
    const c = await conversation();
    const a = await c.send();
    c.instance.overflows('{"jsonrpc":"2.0","method":"notifications/message","params":{"data":"');
    c.instance.writesNoise('{"jsonrpc":"2.0","method":"notifications/message"', 1e8, 'oversize');
    const b = await c.send();
    c.instance.overflows('{"result":');
    c.instance.writesNoise('{"result":', 1e8, 'oversize', b.request.id as number);
    expect((await rejection(b.outcome)).code).toBe('message_too_large');
    c.instance.answer(a.request, { ok: true });
    expect(await a.outcome).toEqual({ era: 'legacy', result: { ok: true } });
  });

  it('finds the victim by elimination when the line does not tell', async () => {
    const c = await conversation();
    const [a, b, d] = [await c.send(), await c.send(), await c.send()];
    c.instance.writesNoise('{"result":{"content"', 100_000_000, 'oversize');
    const later = await c.send();
    c.instance.answer(b.request, {});
    c.instance.answer(a.request, {});
    expect((await rejection(d.outcome)).code).toBe('message_too_large');
    c.instance.answer(later.request, {});
    expect(await Promise.all([a.outcome, b.outcome, later.outcome])).toHaveLength(3);
  });

  it('suspects no upkeep while a client waits', async () => {
    const c = await conversation();
    using upkeep = await c.fleet.lease('files', { purpose: 'upkeep' });
    const list = upkeep.call({ method: 'tools/list' });
    const { outcome } = await c.send();
    c.instance.writesNoise('xxxx', 100_000_000, 'oversize');
    expect((await rejection(outcome)).code).toBe('message_too_large');
    c.instance.answer(c.instance.open[0]!, { tools: [] });
    expect(await list).toEqual({ era: 'legacy', result: { tools: [] } });
  });

  it('loses no call to a notification that was too long', async () => {
    const c = await conversation();
    const { outcome, request } = await c.send();
    c.instance.writesNoise(
      '{"jsonrpc":"2.0","method":"notifications/message","params":{"data":"',
      1e8,
      'oversize',
    );
    c.instance.answer(request, {});
    expect(await outcome).toEqual({ era: 'legacy', result: {} });
  });

  it('is replaced when nothing comes after the long line, and kept when something does', async () => {
    const c = await conversation();
    await c.send();
    const first = c.instance;
    first.writesNoise('{"result":', 1e9, 'oversize');
    await c.clock.pass(5000);
    const { outcome } = await c.send();
    await c.clock.pass(5000);
    expect((await rejection(outcome)).code).toBe('message_too_large');
    expect(first.isRunning).toBe(false);

    await c.send();
    const second = c.instance;
    second.writesNoise('{"result":', 1e9, 'oversize');
    await c.clock.pass(5000);
    second.says(logLine('phew'));
    await c.clock.pass(20_000);
    expect(second.isRunning).toBe(true);
  });
});

describe('secrets', () => {
  it('that a server prints when it dies do not reach the client', async () => {
    const c = await conversation({ env: { API_TOKEN: 'hunter22', MODE: 'verbose' } });
    const { outcome } = await c.send();
    c.instance.stderr.push('401 for token hunter22 in mode verbose \u001b[31mred');
    c.instance.dies();
    const error = await rejection(outcome);
    expect(JSON.stringify([error.message, error.data])).not.toMatch(/hunter22|\\u001b/);
    expect(error.message).toMatch(/401 for token \*\*\* in mode verbose/);
  });

  it('that a server prints where its messages belong do not reach the client', async () => {
    const c = await conversation({ env: { API_TOKEN: 'hunter22' } });
    const { outcome, request } = await c.send();
    c.instance.writesNoise('{"jsonrpc":"2.0","token":"hunter22"}', 36, 'garbage', request.id as number);
    const error = await rejection(outcome);
    expect(error.message).toMatch(/no JSON-RPC response: .*"token":"\*\*\*"/);

    const next = await c.send();
    for (let n = 0; n < 30_000; n++) c.instance.writesNoise('hunter22');
    expect(await rejection(next.outcome)).toMatchObject({
      code: 'flooded',
      message: expect.not.stringContaining('hunter22'),
    });
  });
});
