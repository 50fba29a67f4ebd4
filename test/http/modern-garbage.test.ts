import { once } from 'node:events';
import { Agent, type IncomingMessage, request } from 'node:http';
import fc from 'fast-check';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { WebSocket } from 'ws';
import { idKey, isId, parseMessage } from '../../src/protocol/jsonrpc.ts';
import { startGateway, type TestGateway } from '../harness.ts';
import { until } from '../waiting.ts';
import { RawHttpClient } from './clients.ts';
import { ModernClient, modernMeta } from './modern-client.ts';

// biome-ignore lint/suspicious/noExplicitAny: a test reads whatever came
type Any = any;

/*
 * What nobody should send: anything like a message, at the endpoints of a gateway with a server of each era. Whatever comes back must
 * be an answer, and the gateway as good as before. SEED repeats a run, RUNS makes it longer.
 */
const seed = Number(process.env.SEED ?? Date.now() % 2 ** 31);
const runs = Number(process.env.RUNS ?? 1);
const limits = { timeout: 60_000 * (1 + runs) };

let gateway: TestGateway;
/** Of a legacy session. */
let session: string;
const unhandled: unknown[] = [];
const onUnhandled = (reason: unknown) => unhandled.push(reason);

beforeAll(async () => {
  process.on('unhandledRejection', onUnhandled);
  gateway = await startGateway({
    servers: {
      legacy: { fixture: 'everything', env: { ERA: 'legacy' }, timeouts: { client: '1s' } },
      modern: { fixture: 'everything', env: { ERA: 'modern' } },
    },
    gateway: { max_body: '64k' },
  });
  await gateway.settled();
  const client = new RawHttpClient(gateway);
  await client.initialize();
  session = client.headers['mcp-session-id']!;
  console.log(`SEED=${seed}`);
});

afterAll(async () => {
  await gateway?.[Symbol.asyncDispose]();
  process.off('unhandledRejection', onUnhandled);
});

/** Ordinary most of the time, so that what is odd reaches far. */
const mostly = <T>(usual: fc.Arbitrary<T>, odd: fc.Arbitrary<unknown>) =>
  fc.oneof({ weight: 19, arbitrary: usual as fc.Arbitrary<unknown> }, { weight: 1, arbitrary: odd });
/** Left out sometimes. */
const maybe = (arbitrary: fc.Arbitrary<unknown>) =>
  fc.option(arbitrary, { nil: undefined, freq: 20 }) as fc.Arbitrary<unknown>;

const oddName = fc.constantFrom(
  '__proto__',
  'constructor',
  'toString',
  '',
  ' ',
  '\ud800',
  'größe',
  '\u0000',
  '../..',
);
const oddText = fc.oneof(
  oddName,
  fc.string(),
  fc.string({ unit: 'binary', maxLength: 30 }),
  fc.constant('x'.repeat(5000)),
);
const anything = fc.oneof(
  fc.json({ maxDepth: 4 }).map((text) => JSON.parse(text)),
  fc.constantFrom(null, true, 0, -1, 1.5, 1e21, [], {}, [[]], 'null'),
  oddText,
  fc.dictionary(oddName, fc.constantFrom(null, {}, 'x'), { maxKeys: 4 }).map((object) => {
    // As JSON.parse makes it: a member, not the prototype.
    return JSON.parse(`{"__proto__": {"a": 1}, ${JSON.stringify(object).slice(1)}`.replace(/, }$/, '}'));
  }),
);
const era = fc.constantFrom('legacy', 'modern');
const version = mostly(
  fc.constant('2026-07-28'),
  fc.oneof(fc.constantFrom('2025-11-25', '2099-01-01', '', '2026'), anything),
);
const id = mostly(
  fc.oneof(fc.integer(), fc.string({ maxLength: 8 })),
  fc.oneof(
    anything,
    fc.constantFrom('9007199254740993', '1e400', '-0', '12345678901234567890').map(asWritten),
  ),
);

/** A number that JavaScript cannot carry, as it would be written. */
function asWritten(digits: string): unknown {
  return (JSON as Any).rawJSON(digits);
}

const capabilities = mostly(
  fc.constantFrom({}, { elicitation: {} }, { sampling: {}, roots: {}, elicitation: { url: {}, form: {} } }),
  fc.oneof(
    anything,
    fc.constantFrom({ elicitation: true }, { sampling: [] }, [], { roots: 7, extensions: [] }),
  ),
);
const meta = mostly(
  fc
    .record({
      version,
      capabilities,
      info: mostly(fc.constant({ name: 'c', version: '1' }), anything),
      level: fc.option(mostly(fc.constantFrom('debug', 'error'), anything), { freq: 2 }),
      token: maybe(mostly(fc.constantFrom(1, 'p'), anything)),
      more: fc.dictionary(oddName, anything, { maxKeys: 2 }),
    })
    .map(({ version: said, capabilities: able, info, level, token, more }) => ({
      ...more,
      'io.modelcontextprotocol/protocolVersion': said,
      'io.modelcontextprotocol/clientCapabilities': able,
      'io.modelcontextprotocol/clientInfo': info,
      ...(level !== null && { 'io.modelcontextprotocol/logLevel': level }),
      progressToken: token,
    })),
  anything,
);
const tool = fc.constantFrom(
  'echo',
  'add',
  'ask_elicitation',
  'ask_sampling',
  'url_required',
  'test_x_mcp_header',
  'fail',
);
/** As they are called at the endpoint of all; `fitted` gives them the names that the endpoint of one has. */
const named = (names: fc.Arbitrary<string>) =>
  fc.tuple(era, names).map(([server, name]) => `${server}__${name}`);
const fitted = (text: string, path: string) =>
  path === '/mcp' ? text : text.replaceAll(/"(?:legacy|modern)__/g, '"');
const state = fc.option(
  fc.oneof(
    anything,
    fc.constantFrom('mcp-gateway.a.b.c', 'x'.repeat(40_000), `mcp-gateway.${'e30.'.repeat(3)}`),
  ),
  { freq: 3 },
);
const answers = fc.option(
  fc.oneof(anything, fc.dictionary(fc.constantFrom('question-1', '__proto__'), anything, { maxKeys: 3 })),
  { freq: 3 },
);
const retried = (params: fc.Arbitrary<object>) =>
  fc.tuple(params, state, answers).map(([one, requestState, inputResponses]) => ({
    ...one,
    ...(requestState !== null && { requestState }),
    ...(inputResponses !== null && { inputResponses }),
  }));
const uri = mostly(fc.constantFrom('test://static-text', 'test://template/1/data', 'file:///x'), oddText);
/** Methods with params that are nearly right. */
const asked = fc.oneof(
  retried(
    fc.record({
      name: mostly(named(tool), anything),
      arguments: mostly(
        fc.constantFrom(
          { text: 'x', message: 'm' },
          { region: 'eu', count: 5 },
          { count: asWritten('9007199254740993') },
        ),
        anything,
      ),
    }),
  ).map((params) => ['tools/call', params] as const),
  retried(fc.record({ name: mostly(named(fc.constant('test_simple_prompt')), anything) })).map(
    (params) => ['prompts/get', params] as const,
  ),
  retried(fc.record({ uri: mostly(uri, anything) })).map((params) => ['resources/read', params] as const),
  fc.record({ ref: anything, argument: anything }).map((params) => ['completion/complete', params] as const),
  fc
    .tuple(
      fc.constantFrom('tools/list', 'prompts/list', 'resources/list', 'resources/templates/list'),
      maybe(oddText),
    )
    .map(([method, cursor]) => [method, { cursor }] as const),
  fc
    .tuple(fc.constantFrom('tasks/get', 'tasks/update', 'tasks/cancel'), anything)
    .map(([method, taskId]) => [method, { taskId }] as const),
  fc
    .record({
      toolsListChanged: anything,
      resourceSubscriptions: mostly(fc.array(uri, { maxLength: 3 }), anything),
      taskIds: maybe(anything),
    })
    .map((notifications) => ['subscriptions/listen', { notifications }] as const),
  fc
    .tuple(
      fc.constantFrom(
        'server/discover',
        'ping',
        'initialize',
        'notifications/cancelled',
        'constructor',
        '__proto__',
      ),
      anything,
    )
    .map(([method, params]) => [method, params] as const),
);
const message = mostly(
  fc
    .record({
      jsonrpc: mostly(fc.constant('2.0'), anything),
      id: maybe(id),
      asked,
      meta: maybe(meta),
      more: maybe(anything),
    })
    .map(({ jsonrpc, id: ofIt, asked: [method, params], meta: ofParams, more }) => ({
      ...(typeof more === 'object' ? more : {}),
      jsonrpc,
      id: ofIt,
      method,
      params: typeof params === 'object' && params !== null ? { ...params, _meta: ofParams } : params,
    })),
  fc.oneof(anything, fc.array(anything, { maxLength: 3 })),
);
/** What is no JSON, or hardly. */
const oddBody = fc.oneof(
  fc.string({ unit: 'binary' }),
  fc.constantFrom(
    '',
    '{',
    '[]',
    '{}',
    `${'['.repeat(1500)}${']'.repeat(1500)}`,
    '{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}',
  ),
  fc
    .constantFrom(1, 70)
    .map((kilobytes) => JSON.stringify({ jsonrpc: '2.0', id: 1, method: 'x'.repeat(kilobytes * 1000) })),
);
const body = fc.oneof(
  { weight: 8, arbitrary: message.map((value) => JSON.stringify(value) ?? 'null') },
  { weight: 1, arbitrary: oddBody },
);

/** Stands for the legacy session's id. */
const aSession = 'a session';

/** Bytes that a header may have on the wire. */
const headerText = fc.string({
  unit: fc.integer({ min: 0x20, max: 0xff }).map((code) => String.fromCharCode(code === 0x7f ? 0x20 : code)),
});
type Header = [name: string, value: string | undefined];
/** Instead of what repeats the body; undefined: left out. */
const oddHeaders = mostly(
  fc.constant([]),
  fc.array(
    fc.oneof(
      fc.tuple(
        fc.constantFrom(
          'mcp-protocol-version',
          'mcp-method',
          'mcp-name',
          'mcp-session-id',
          'mcp-gateway-client',
          'last-event-id',
          'mcp-param-region',
        ),
        fc.oneof(
          headerText,
          fc.constantFrom(
            '2025-11-25',
            '2026-07-28',
            '=?base64?!?=',
            '=?base64?4pyT?=',
            aSession,
            '__proto__',
            undefined,
          ),
        ),
      ),
      fc.tuple(
        fc.constant('accept'),
        fc.oneof(headerText, fc.constantFrom('application/json', 'text/event-stream', '*/*', undefined)),
      ),
      fc.tuple(
        fc.constant('content-type'),
        fc.constantFrom('text/plain', 'application/json; charset=utf-8', '', 'application/json'),
      ),
    ) as fc.Arbitrary<Header>,
    { maxLength: 2 },
  ),
) as fc.Arbitrary<Header[]>;
const endpoint = fc.constantFrom('/mcp', '/legacy/mcp', '/modern/mcp');

/** The headers of a client that makes no mistake about them. */
function headersFor(text: string): Record<string, string> {
  let params: Any;
  let method: unknown;
  try {
    ({ params, method } = JSON.parse(text));
  } catch {}
  const said = params?._meta?.['io.modelcontextprotocol/protocolVersion'];
  const name = params?.name ?? params?.uri ?? params?.taskId;
  const encoded = (value: string) => `=?base64?${Buffer.from(value).toString('base64')}?=`;
  const isPlain = (value: unknown): value is string =>
    typeof value === 'string' && /^[!-~]{1,1000}$/.test(value);
  const [, count] = /"count":(\d+)/.exec(text) ?? [];
  return {
    accept: 'application/json, text/event-stream',
    ...(count !== undefined && { 'mcp-param-count': count }),
    ...(text.includes('"region":"eu"') && { 'mcp-param-region': 'eu' }),
    'content-type': 'application/json',
    ...(isPlain(said) && { 'mcp-protocol-version': said }),
    ...(isPlain(method) && { 'mcp-method': method }),
    ...(typeof name === 'string' &&
      name.length < 1000 && { 'mcp-name': isPlain(name) ? name : encoded(name) }),
  };
}

interface Answer {
  status: number;
  type: string;
  text: string;
}

/** One POST over the agent's connection; an answer that does not end is closed after its first event. */
function post(agent: Agent, path: string, text: string, headers: Record<string, string>): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const sent = request(
      gateway.url(path),
      { method: 'POST', agent, headers },
      (incoming: IncomingMessage) => {
        let read = '';
        const type = incoming.headers['content-type'] ?? '';
        const done = () => resolve({ status: incoming.statusCode!, type, text: read });
        incoming.on('data', (chunk) => {
          read += chunk;
          if (!read.includes('subscriptions/acknowledged')) return;
          done();
          sent.destroy();
        });
        incoming.on('end', done);
        incoming.on('error', reject);
      },
    );
    sent.on('error', reject);
    sent.end(text);
  });
}

const messagesOf = ({ type, text }: Pick<Answer, 'type' | 'text'>): Any[] => {
  if (!type.startsWith('text/event-stream')) return text === '' ? [] : [JSON.parse(text)].flat();
  return [...text.matchAll(/^data: (.+)$/gm)].map(([, data]) => JSON.parse(data!));
};

/** The id of a request, as a key that tells apart what no number carries; undefined where it has none that can be read. */
function idIn(text: string): string | undefined {
  try {
    const value = parseMessage(text) as Any;
    return Array.isArray(value) || !isId(value?.id) ? undefined : idKey(value.id);
  } catch {
    return undefined;
  }
}

/** What is wrong with an answer. */
function checkMessage(message: Any, sent: string): void {
  expect(message.jsonrpc).toBe('2.0');
  if ('method' in message) {
    expect(message.id).toBeUndefined();
    return;
  }
  expect('result' in message).toBe(!('error' in message));
  if (message.error === undefined) return;
  expect(typeof message.error.message).toBe('string');
  expect(Number.isInteger(message.error.code)).toBe(true);
  // Nothing that a client sends is a fault of ours.
  expect(message.error.data?.code, `${message.error.message} for ${sent}`).not.toBe('internal');
}

const statuses = [200, 202, 400, 404, 405, 406, 413, 415];

it('anything like a message over HTTP has a fitting answer', limits, async () => {
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  const seen = new Map<string, number>();
  const count = (key: string) => seen.set(key, (seen.get(key) ?? 0) + 1);
  await fc.assert(
    fc.asyncProperty(body, endpoint, oddHeaders, async (written, path, odd) => {
      const text = fitted(written, path);
      const headers = headersFor(text);
      for (const [name, value] of odd) {
        if (value === undefined) delete headers[name];
        else headers[name] = value === aSession ? session : value;
      }
      const answer = await post(agent, path, text, headers);
      expect(statuses, answer.text).toContain(answer.status);
      const messages = messagesOf(answer);
      for (const one of messages) checkMessage(one, text);
      if (answer.status === 202) expect(answer.text).toBe('');
      else expect(messages.length).toBeGreaterThan(0);
      const last = messages.at(-1);
      const replied = answer.type.startsWith('text/event-stream')
        ? answer.text.split('data: ').at(-1)!
        : answer.text;
      // null only where the message was not looked at.
      if (last?.id === null) expect(answer.status).toBeGreaterThanOrEqual(400);
      else if (last !== undefined && 'id' in last) expect(idIn(replied)).toBe(idIn(text));
      count(
        `${answer.status} ${last?.error ? last.error.code : last?.result ? last.result.resultType : '-'}`,
      );
    }),
    { seed, numRuns: 2000 * runs, endOnFailure: true },
  );
  agent.destroy();
  if (process.env.SHOW) console.log([...seen].sort());
  // The run has reached all the way to servers, and each kind of refusal.
  for (const kind of ['200 complete', '202 -', '400 -32020', '400 -32600', '400 -32602'])
    expect([...seen.keys()], JSON.stringify([...seen])).toContain(kind);
  await goesOn();
});

it('anything like a message over WebSocket is answered where it asks for an answer', limits, async () => {
  const frame = fc.oneof(
    { weight: 8, arbitrary: body },
    { weight: 1, arbitrary: fc.uint8Array({ maxLength: 40 }) },
  );
  await fc.assert(
    fc.asyncProperty(fc.array(frame, { minLength: 1, maxLength: 12 }), endpoint, async (frames, path) => {
      const socket = new WebSocket(gateway.url(path).href.replace(/^http/, 'ws'), 'mcp');
      const received: string[] = [];
      socket.on('message', (data) => received.push(String(data)));
      socket.on('error', () => {});
      await once(socket, 'open');
      const closed = once(socket, 'close').then(([code]) => code as number);
      for (const one of frames)
        socket.send(typeof one === 'string' ? fitted(one, path) : one, { binary: typeof one !== 'string' });
      const last = {
        jsonrpc: '2.0',
        id: 'the last',
        method: 'server/discover',
        params: { _meta: modernMeta() },
      };
      socket.send(JSON.stringify(last));
      const code = await Promise.race([
        closed,
        until(() => received.some((text) => text.includes('"the last"'))).then(() => undefined),
      ]);
      for (const text of received) for (const one of [JSON.parse(text)].flat()) checkMessage(one, text);
      // Binary frames and those that are too large end a connection, nothing else does.
      const isRefused = frames.some((one) => typeof one !== 'string' || Buffer.byteLength(one) > 64 * 1024);
      expect(code).toBe(isRefused ? (code ?? 1000) : undefined);
      if (code !== undefined) expect([1003, 1009]).toContain(code);
      socket.terminate();
      await closed;
    }),
    { seed, numRuns: 200 * runs, endOnFailure: true },
  );
  await goesOn();
});

/** Nothing is left of it: the next client is served, no call holds an instance, nothing has failed unseen. */
async function goesOn(): Promise<void> {
  for (const server of ['legacy', 'modern']) {
    const client = new ModernClient(gateway, `/${server}/mcp`);
    const { answer } = await client.call('echo', { text: 'still here' });
    expect(answer.result.content[0].text).toBe('still here');
    await until(() => gateway.app.fleet.status(server).instances.every(({ leases }) => leases === 0));
  }
  expect(unhandled).toEqual([]);
}
