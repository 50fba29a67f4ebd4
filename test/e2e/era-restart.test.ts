import { rm } from 'node:fs/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Exchange } from '../http/exchange.ts';
import { modernMeta } from '../http/modern-client.ts';
import { root, temporaryFolder } from '../programs.ts';
import { until } from '../waiting.ts';
import { type GatewayProcess, startGateway } from './gateway-process.ts';

/* A gateway that is killed, and its clients go on with the one that comes after it. */

const program = `${root}test/fixtures/servers/everything.mjs`;
const entry = (more: object = {}) => ({ type: 'process', command: [process.execPath, program], ...more });
const config = JSON.stringify({
  gateway: { session_timeout: '1h' },
  servers: {
    one: entry({ interactive: true, isolation: 'shared' }),
    two: entry(),
    modern: entry({ env: { ERA: 'modern' } }),
  },
});
const uri = 'test://watched-resource';
const form = { action: 'accept', content: { answer: 'Ada' } };

const initialize = {
  jsonrpc: '2.0',
  id: 1,
  method: 'initialize',
  params: {
    protocolVersion: '2025-11-25',
    capabilities: { elicitation: {} },
    clientInfo: { name: 'raw', version: '1' },
  },
};

let folder: string;
let gateway: GatewayProcess;

beforeAll(async () => {
  folder = await temporaryFolder();
  gateway = await startGateway({ folder, config, discovered: true });
});
afterAll(async () => {
  await gateway?.end('SIGKILL');
  await rm(folder, { recursive: true, force: true });
});

/** As a crash or the machine would; what comes after it listens elsewhere. */
async function killAndRestart(settings = config): Promise<void> {
  await gateway.end('SIGKILL');
  gateway = await startGateway({ folder, config: settings });
}

async function begin(endpoint: string, of = gateway) {
  const begun = legacy(endpoint, '', initialize, of);
  await begun.ended;
  const session = String(begun.headers['mcp-session-id']);
  await legacy(endpoint, session, { method: 'notifications/initialized' }, of).ended;
  return session;
}

function legacy(endpoint: string, session: string, message: object | 'listen', of = gateway): Exchange {
  const headers: Record<string, string> = session ? { 'mcp-session-id': session } : {};
  const url = new URL(endpoint, of.url);
  if (message === 'listen') return new Exchange(url, { method: 'GET', headers });
  const isRequest = !('method' in message && String(message.method).startsWith('notifications/'));
  return new Exchange(url, { headers, body: { jsonrpc: '2.0', ...(isRequest && { id: 1 }), ...message } });
}

/** The answer of a legacy request, and what came before it. */
async function ask(endpoint: string, session: string, method: string, params: object = {}, of = gateway) {
  const exchange = legacy(endpoint, session, { method, params }, of);
  await exchange.ended;
  return {
    status: exchange.status,
    answer: exchange.messages.at(-1),
    before: exchange.messages.slice(0, -1),
  };
}

const callTool = (endpoint: string, session: string, name: string, args: object = {}) =>
  ask(endpoint, session, 'tools/call', { name, arguments: args });

async function modern(endpoint: string, name: string, args: object, more: object = {}, of = gateway) {
  const exchange = new Exchange(new URL(endpoint, of.url), {
    headers: { 'mcp-protocol-version': '2026-07-28', 'mcp-method': 'tools/call', 'mcp-name': name },
    body: {
      jsonrpc: '2.0',
      id: 1,
      method: 'tools/call',
      params: { name, arguments: args, ...more, _meta: modernMeta({ elicitation: {} }) },
    },
  });
  await exchange.ended;
  return { status: exchange.status, answer: exchange.messages.at(-1) };
}

/** What a client must be told of a state that is worth nothing: at once, and why. */
const refused = (why: RegExp) => ({
  status: 400,
  answer: { error: { code: -32602, message: expect.stringMatching(why), data: { code: 'state_refused' } } },
});

describe('after kill -9 of the gateway', () => {
  it('a legacy session goes on under its old id, with its log level and what it watches', async () => {
    const session = await begin('/one/mcp');
    expect((await ask('/one/mcp', session, 'logging/setLevel', { level: 'warning' })).answer.result).toEqual(
      {},
    );
    expect((await ask('/one/mcp', session, 'resources/subscribe', { uri })).answer.result).toEqual({});
    const gone = legacy('/one/mcp', session, 'listen');
    await gone.begun;
    // Changes are gathered for a moment before they are written.
    await new Promise((resolve) => setTimeout(resolve, 1500));
    await killAndRestart();
    await gone.ended;

    const { status, answer } = await callTool('/one/mcp', session, 'echo', { text: 'still here' });
    expect([status, answer.result.content[0].text]).toEqual([200, 'still here']);
    const listening = legacy('/one/mcp', session, 'listen');
    await listening.begun;
    expect(listening.status).toBe(200);
    const quiet = await callTool('/one/mcp', session, 'log', { level: 'info', text: 'not wanted' });
    expect(quiet.before).toEqual([]);
    const loud = await callTool('/one/mcp', session, 'log', { level: 'error', text: 'wanted' });
    expect(loud.before.map(({ params }) => params.data)).toEqual(['wanted']);
    await callTool('/one/mcp', session, 'touch_resource', { uri });
    await until(() => listening.messages.length > 0);
    expect(listening.messages).toEqual([
      { jsonrpc: '2.0', method: 'notifications/resources/updated', params: { uri } },
    ]);
    listening.drop();
  });

  it('a session whose id its client has just learnt goes on', async () => {
    for (let round = 0; round < 3; round += 1) {
      const { process } = gateway;
      const begun = new Exchange(new URL('/one/mcp', gateway.url), {
        body: initialize,
        onMessage: () => process.kill('SIGKILL'),
      });
      await begun.ended;
      await killAndRestart();
      const session = String(begun.headers['mcp-session-id']);
      expect((await ask('/one/mcp', session, 'ping')).status).toBe(200);
    }
  });

  it('a client that was asked may be asked again, and its old answer is no answer to that', async () => {
    const session = await begin('/one/mcp');
    const params = { name: 'ask_elicitation', arguments: { message: 'Who?' } };
    const asking = legacy('/one/mcp', session, { method: 'tools/call', params });
    await until(() => asking.messages.length > 0);
    const [{ id: before }] = asking.messages;
    await killAndRestart();
    await asking.ended;
    expect(asking.messages).toHaveLength(1);
    const again = legacy('/one/mcp', session, { method: 'tools/call', params });
    await until(() => again.messages.length > 0);
    const [{ id: after }] = again.messages;
    expect(after).not.toBe(before);
    const answer = (id: unknown, result: object) =>
      new Exchange(again.url, {
        headers: { 'mcp-session-id': session },
        body: { jsonrpc: '2.0', id, result },
      }).ended;
    await answer(before, { action: 'cancel' });
    await answer(after, form);
    await again.ended;
    expect(JSON.parse(again.messages.at(-1).result.content[0].text)).toEqual({ result: form });
  });

  it('a modern client just goes on', async () => {
    for (const endpoint of ['/two/mcp', '/modern/mcp'])
      expect((await modern(endpoint, 'echo', { text: 'a' })).answer.result.content[0].text).toBe('a');
    await killAndRestart();
    for (const endpoint of ['/two/mcp', '/modern/mcp'])
      expect((await modern(endpoint, 'echo', { text: 'b' })).answer.result.content[0].text).toBe('b');
  });

  it('a requestState of before says that its call has ended; the call can be made anew', async () => {
    const args = { message: 'Who?' };
    const first = await modern('/one/mcp', 'ask_elicitation', args);
    const { requestState, inputRequests } = first.answer.result;
    await killAndRestart();
    const [key] = Object.keys(inputRequests);
    const answered = { requestState, inputResponses: { [key!]: form } };
    expect(await modern('/one/mcp', 'ask_elicitation', args, answered)).toMatchObject(
      refused(/call has ended/),
    );
    const { answer } = await modern('/one/mcp', 'ask_elicitation', args);
    const [newKey] = Object.keys(answer.result.inputRequests);
    const { requestState: newState } = answer.result;
    const retry = await modern('/one/mcp', 'ask_elicitation', args, {
      requestState: newState,
      inputResponses: { [newKey!]: form },
    });
    expect(JSON.parse(retry.answer.result.content[0].text)).toEqual({ result: form });
  });
});

describe('what is refused', () => {
  it.each([
    ['a forged session id', (id: string) => `${id.slice(0, -4)}AAAA`],
    ['a session id without a signature', (id: string) => `${id.split('.').slice(0, 2).join('.')}.`],
    ['no session id of ours', () => 'abc'],
  ])('%s is 404, before a restart and after it', async (_, forge) => {
    const forged = forge(await begin('/one/mcp'));
    expect((await ask('/one/mcp', forged, 'ping')).status).toBe(404);
    await killAndRestart();
    expect((await ask('/one/mcp', forged, 'ping')).status).toBe(404);
  });

  it('a session of another endpoint, of another gateway, or that was deleted is 404', async () => {
    const session = await begin('/one/mcp');
    expect((await ask('/two/mcp', session, 'ping')).status).toBe(404);
    expect((await ask('/mcp', session, 'ping')).status).toBe(404);
    await using other = await startGateway({ config });
    const foreign = await begin('/one/mcp', other);
    expect((await ask('/one/mcp', foreign, 'ping', {}, other)).status).toBe(200);
    expect((await ask('/one/mcp', foreign, 'ping')).status).toBe(404);
    const url = new URL('/one/mcp', gateway.url);
    await new Exchange(url, { method: 'DELETE', headers: { 'mcp-session-id': session } }).ended;
    expect((await ask('/one/mcp', session, 'ping')).status).toBe(404);
    await killAndRestart();
    expect((await ask('/one/mcp', session, 'ping')).status).toBe(404);
  });

  it('a session that has expired is 404, also where that happened while the gateway was away', async () => {
    const short = config.replace('"1h"', '"1s"');
    await killAndRestart(short);
    const idle = await begin('/one/mcp');
    await new Promise((resolve) => setTimeout(resolve, 1500));
    expect((await ask('/one/mcp', idle, 'ping')).status).toBe(404);
    const away = await begin('/one/mcp');
    await gateway.end('SIGKILL');
    await new Promise((resolve) => setTimeout(resolve, 1500));
    gateway = await startGateway({ folder, config: short });
    expect((await ask('/one/mcp', away, 'ping')).status).toBe(404);
    await killAndRestart();
  });

  it('a requestState that is forged, used, of another request or of another gateway is 400 and says why', async () => {
    const args = { message: 'Who?' };
    const { requestState, inputRequests } = (await modern('/one/mcp', 'ask_elicitation', args)).answer.result;
    const [key] = Object.keys(inputRequests);
    const inputResponses = { [key!]: form };
    const attempt = (state: unknown, message = 'Who?', of = gateway, endpoint = '/one/mcp') =>
      modern(endpoint, 'ask_elicitation', { message }, { requestState: state, inputResponses }, of);
    expect(await attempt(`${requestState.slice(0, -4)}AAAA`)).toMatchObject(
      refused(/not one of this gateway/),
    );
    expect(await attempt('abc')).toMatchObject(refused(/not one of this gateway/));
    expect(await attempt(requestState, 'Who else?')).toMatchObject(refused(/another request/));
    await using other = await startGateway({ config, discovered: true });
    expect(await attempt(requestState, 'Who?', other)).toMatchObject(refused(/not one of this gateway/));
    // None of this has cost the client its call.
    const answered = await attempt(requestState);
    expect(JSON.parse(answered.answer.result.content[0].text)).toEqual({ result: form });
    expect(await attempt(requestState)).toMatchObject(refused(/used before/));
  });

  it('a requestState that has expired is 400 and says so, also after a restart', async () => {
    const short = JSON.parse(config);
    short.servers.one.timeouts = { client: '1s' };
    await killAndRestart(JSON.stringify(short));
    const args = { message: 'Who?' };
    const { requestState } = (await modern('/one/mcp', 'ask_elicitation', args)).answer.result;
    await new Promise((resolve) => setTimeout(resolve, 2500));
    const attempt = () => modern('/one/mcp', 'ask_elicitation', args, { requestState, inputResponses: {} });
    expect(await attempt()).toMatchObject(refused(/has expired/));
    await killAndRestart();
    expect(await attempt()).toMatchObject(refused(/has expired/));
  });
});
