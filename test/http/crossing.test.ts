import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startGateway, type TestGateway } from '../harness.ts';
import { until } from '../waiting.ts';
import { connectV1, RawHttpClient } from './clients.ts';

let gateway: TestGateway;

beforeAll(async () => {
  gateway = await startGateway({
    servers: {
      everything: { concurrency: 64 },
      asks: { fixture: 'asks-the-user' },
      crashes: { fixture: 'crash-on-call' },
    },
  });
  await gateway.settled();
});
afterAll(() => gateway?.[Symbol.asyncDispose]());

async function clients(count: number, endpoint = '/everything/mcp', capabilities = {}) {
  return Promise.all(
    Array.from({ length: count }, async () => {
      const client = new RawHttpClient(gateway, endpoint);
      await client.initialize('2025-11-25', capabilities);
      return client;
    }),
  );
}

describe('many clients on one instance', () => {
  it('20 × 200 calls with equal ids: each gets its own answer and its own progress', async () => {
    const all = await clients(20);
    // Running, or the first ones would be told of the start.
    await all[0]!.call('echo', { text: 'warm' });
    await Promise.all(
      all.map(async (client, who) => {
        const calls = Array.from({ length: 200 }, (_, id) => async () => {
          const text = `${who}/${id}`;
          if (id % 10 === 0) {
            const steps = 1 + ((who + id) % 3);
            const { before, answer } = await client.request(
              'tools/call',
              { name: 'progress', arguments: { steps, ms: 1 }, _meta: { progressToken: id } },
              id,
            );
            expect(answer).toMatchObject({ id, result: { content: [{ text: `${steps} steps` }] } });
            expect(before.map(({ params }) => [params.progressToken, params.progress, params.total])).toEqual(
              Array.from({ length: steps }, (_, step) => [id, step + 1, steps]),
            );
          } else {
            const { answer, before } = await client.request(
              'tools/call',
              { name: 'echo', arguments: { text } },
              id,
            );
            expect(answer).toEqual({ jsonrpc: '2.0', id, result: { content: [{ type: 'text', text }] } });
            expect(before).toEqual([]);
          }
        });
        // Ten at a time from each, so that 200 are on the way at once.
        await Promise.all(
          Array.from({ length: 10 }, async () => {
            for (let next = calls.shift(); next; next = calls.shift()) await next();
          }),
        );
      }),
    );
    expect(gateway.app.fleet.status('everything').instances).toHaveLength(1);
  });

  it('no log line reaches another client than the one whose call wrote it', async () => {
    const all = await clients(10);
    const streams = await Promise.all(all.map((client) => client.listen()));
    await Promise.all(
      all.map(async (client, who) => {
        for (let round = 0; round < 5; round++) {
          const { before } = await client.request('tools/call', {
            name: 'log',
            arguments: { text: `line of ${who}`, count: 3, ms: 2 },
          });
          for (const { params } of before) expect(params.data).toBe(`line of ${who}`);
        }
      }),
    );
    // Alone on the instance, a call gets its lines.
    const { before } = await all[0]!.request('tools/call', {
      name: 'log',
      arguments: { text: 'alone', count: 2 },
    });
    expect(before.map(({ params }) => params.data)).toEqual(['alone', 'alone']);
    for (const stream of streams) {
      expect(stream.messages).toEqual([]);
      stream.close();
    }
  });

  it('questions of interleaved calls reach the client that caused them, and no other', async () => {
    const answered: string[] = [];
    const all = await Promise.all(
      Array.from({ length: 8 }, async (_, who) => {
        const client = await connectV1(gateway, '/asks/mcp', { elicitation: {} });
        const { ElicitRequestSchema } = await import('@modelcontextprotocol/sdk/types.js');
        client.setRequestHandler(ElicitRequestSchema, ({ params }) => {
          answered.push(`${who}: ${params.message}`);
          return { action: 'accept', content: { answer: `${who}` } };
        });
        return client;
      }),
    );
    // The first question tells the gateway that the server asks; from then on it gets one call at a time.
    await all[0]!.callTool({ name: 'ask', arguments: { question: 'first' } });
    await Promise.all(
      all.map(async (client, who) => {
        for (let round = 0; round < 4; round++) {
          const result = await client.callTool({ name: 'ask', arguments: { question: `${who} ${round}` } });
          const [block] = result.content as { text: string }[];
          expect(JSON.parse(block!.text)).toEqual({
            result: { action: 'accept', content: { answer: `${who}` } },
          });
        }
      }),
    );
    for (const line of answered.slice(1)) expect(line).toMatch(/^(\d): \1 \d$/);
    expect(answered).toHaveLength(1 + 8 * 4);
    await Promise.all(all.map((client) => client.close()));
  });

  it('a crash answers all calls on the instance, each under its own id, and the next call works', async () => {
    const all = await clients(10, '/crashes/mcp');
    const outcomes = await Promise.all(
      all.map((client, who) => client.request('tools/call', { name: 'crash', arguments: { code: 7 } }, who)),
    );
    for (const [who, { answer, status }] of outcomes.entries()) {
      expect([status, answer.id]).toEqual([200, who]);
      expect(answer.error.data).toMatchObject({ server: 'crashes' });
      expect(answer.error.message).toContain('crashes');
    }
    const messages = outcomes.map(({ answer }) => answer.error.message);
    expect(messages.some((message) => /exit code 7|code 7/.test(message))).toBe(true);
    // A server that keeps crashing is in back-off for a moment.
    let works = false;
    await until(async () => {
      const { answer } = await all[0]!.request('tools/call', { name: 'ok' });
      works = answer.result !== undefined;
      return works;
    });
    expect(works).toBe(true);
  });
});

describe('garbage', () => {
  const json = fc.jsonValue({ maxDepth: 4 });
  const almostMessage = fc.record(
    {
      jsonrpc: fc.constantFrom('2.0', '1.0', 2, null),
      id: fc.oneof(fc.integer(), fc.string(), json),
      method: fc.oneof(
        fc.constantFrom(
          'tools/call',
          'tools/list',
          'resources/read',
          'prompts/get',
          'completion/complete',
          'ping',
        ),
        fc.constantFrom(
          'notifications/cancelled',
          'notifications/progress',
          'logging/setLevel',
          'initialize',
        ),
        fc.string(),
        json,
      ),
      params: fc.oneof(
        fc.record(
          { name: fc.oneof(fc.constant('echo'), json), arguments: json, _meta: json },
          { requiredKeys: [] },
        ),
        fc.record(
          { uri: json, ref: json, argument: json, level: json, requestId: json, cursor: json },
          { requiredKeys: [] },
        ),
        json,
      ),
      result: json,
      error: json,
    },
    { requiredKeys: [] },
  );
  const body = fc.oneof(
    fc.string({ unit: 'binary' }),
    fc.json(),
    almostMessage.map((message) => JSON.stringify(message)),
    fc.array(almostMessage, { maxLength: 4 }).map((messages) => JSON.stringify(messages)),
  );
  // What Node's client lets out; the rest it refuses itself.
  const headerText = fc
    .string({ unit: fc.constantFrom(...'abcXYZ012 ,;=*/."\\-_{}%é'), maxLength: 60 })
    .map((text) => text.trim());

  it('in bodies gets an answer in JSON-RPC, and everybody else’s calls go on', async () => {
    const [target, other] = await clients(2);
    await fc.assert(
      fc.asyncProperty(body, async (text) => {
        const { status, messages } = await target!.post(text);
        expect([200, 202, 400, 204]).toContain(status);
        for (const message of messages) {
          expect(message.jsonrpc).toBe('2.0');
          if (message.error) expect(Number.isInteger(message.error.code)).toBe(true);
        }
        expect((await other!.call('echo', { text })).result.content[0].text).toBe(text.toWellFormed());
      }),
      { numRuns: 300, endOnFailure: true },
    );
    expect((await target!.request('ping')).answer.result).toEqual({});
  });

  it('in headers gets a status that says what is wrong, never a crash or a hang', async () => {
    const [client] = await clients(1);
    const names = [
      'accept',
      'content-type',
      'mcp-session-id',
      'mcp-protocol-version',
      'origin',
      'last-event-id',
    ];
    await fc.assert(
      fc.asyncProperty(
        fc.dictionary(fc.constantFrom(...names), headerText, { maxKeys: 3 }),
        fc.constantFrom('GET', 'POST', 'DELETE', 'PUT', 'OPTIONS', 'PATCH'),
        fc.constantFrom(
          '/mcp',
          '/everything/mcp',
          '/%ff/mcp',
          '/everything/tools/%',
          '/a/b/c?d=%',
          '/servers/..%2f',
        ),
        async (headers, method, path) => {
          const abort = new AbortController();
          const response = await fetch(new URL(path, gateway.origin), {
            method,
            headers: { 'content-type': 'application/json', ...headers },
            body: method === 'GET' ? undefined : '{"jsonrpc":"2.0","id":1,"method":"ping"}',
            signal: abort.signal,
          }).catch((error) => {
            // Node's own client refuses some values.
            if (String(error.cause ?? error).includes('invalid')) return undefined;
            throw error;
          });
          if (!response) return;
          expect(response.status).toBeGreaterThanOrEqual(200);
          expect(response.status).toBeLessThan(500);
          abort.abort();
        },
      ),
      { numRuns: 300, endOnFailure: true },
    );
    expect((await client!.request('ping')).answer.result).toEqual({});
    expect((await fetch(gateway.url('/health/ready'))).status).toBe(200);
  });
});
