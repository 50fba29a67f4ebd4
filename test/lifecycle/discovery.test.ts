import { describe, expect, it } from 'vitest';
import { Discovery } from '../../src/lifecycle/discovery.ts';
import type { Params } from '../../src/protocol/jsonrpc.ts';
import { rejection, scriptedFleet } from './fixtures.ts';
import { settle } from './held-clock.ts';

type Answer = { result: Params } | { error: { code: number; message: string } } | 'nothing' | 'death';

/** A discovery of one server that answers lists as told; notes what it was asked. */
function discoveryOf(capabilities: Params, answer: (method: string, cursor: unknown) => Answer) {
  const asked: string[] = [];
  const made = scriptedFleet(undefined, {
    script: {
      capabilities,
      onRequest(instance, { id, method, params }) {
        asked.push(`${method} ${params?.cursor ?? ''}`.trim());
        const given = answer(method, params?.cursor);
        if (given === 'death') instance.dies();
        else if (given !== 'nothing') instance.says({ jsonrpc: '2.0', id, ...given });
      },
    },
  });
  const discovery = new Discovery({ fleet: made.fleet, clock: made.clock });
  return { ...made, asked, read: () => discovery.read('files', new AbortController().signal) };
}

const empty: Answer = { result: {} };
const missing: Answer = { error: { code: -32601, message: 'Method not found' } };

describe('discovery', () => {
  it('reads every page of what the server declares, and nothing else', async () => {
    const d = discoveryOf({ tools: {}, prompts: {} }, (method, cursor) =>
      method === 'tools/list' && cursor === undefined
        ? { result: { tools: [{ name: 'a' }], nextCursor: 'two' } }
        : { result: { tools: [{ name: 'b', odd: true }], prompts: [] } },
    );
    expect(await d.read()).toMatchObject({
      tools: [{ name: 'a' }, { name: 'b', odd: true }],
      resources: [],
      resourceTemplates: [],
      prompts: [],
      serverInfo: { name: 'files' },
    });
    expect(d.asked).toEqual(['tools/list', 'tools/list two', 'prompts/list']);
    await settle();
    expect(d.runtime.running).toEqual([]);
  });

  it('tries tools where nothing is declared, and takes a missing method for an empty list', async () => {
    const silent = discoveryOf({}, () => ({ result: { tools: [{ name: 'a' }] } }));
    expect((await silent.read()).tools).toEqual([{ name: 'a' }]);
    const bare = discoveryOf({ tools: {}, resources: {} }, () => missing);
    expect(await bare.read()).toMatchObject({ tools: [], resources: [], resourceTemplates: [] });
    expect(bare.asked).toEqual(['tools/list', 'resources/list', 'resources/templates/list']);
  });

  it('reads a modern server’s lists with how long they may be kept: the least of the pages', async () => {
    const pages: Record<string, Params> = {
      'tools/list': { tools: [{ name: 'a' }], ttlMs: 9000, cacheScope: 'public', nextCursor: 'two' },
      'tools/list two': { tools: [{ name: 'b' }], ttlMs: 4000, cacheScope: 'public' },
      'resources/list': { resources: [], ttlMs: 1000, cacheScope: 'private' },
      'resources/templates/list': { resourceTemplates: [], ttlMs: -1 },
    };
    const { fleet, clock } = scriptedFleet(undefined, {
      era: 'modern',
      script: {
        era: 'modern',
        capabilities: { tools: {}, resources: {} },
        onRequest: (instance, request) => {
          const { method, params } = request;
          expect(params!._meta).toMatchObject({ 'io.modelcontextprotocol/clientCapabilities': {} });
          instance.answer(request, pages[`${method} ${params?.cursor ?? ''}`.trim()]!);
        },
      },
    });
    const reading = await new Discovery({ fleet, clock }).read('files', new AbortController().signal);
    expect(reading).toMatchObject({
      protocolVersion: '2026-07-28',
      serverInfo: { name: 'files', version: '2' },
      tools: [{ name: 'a' }, { name: 'b' }],
    });
    expect(reading.caching).toEqual({
      tools: { ttlMs: 4000, cacheScope: 'public' },
      resources: { ttlMs: 1000, cacheScope: 'private' },
      resourceTemplates: { ttlMs: 0, cacheScope: 'private' },
    });
    const legacy = discoveryOf({ tools: {} }, () => ({ result: { tools: [], ttlMs: 5 } }));
    expect((await legacy.read()).caching).toBeUndefined();
  });

  it('ends with a server that leads it in a circle, or never ends its list', async () => {
    const circle = discoveryOf({ tools: {} }, (_method, cursor) => ({
      result: { tools: [{ name: `${cursor}` }], nextCursor: cursor === 'a' ? 'b' : 'a' },
    }));
    expect((await circle.read()).tools).toHaveLength(3);
    let page = 0;
    const endless = discoveryOf({ tools: {} }, () => ({ result: { tools: [], nextCursor: `${++page}` } }));
    const error = await rejection(endless.read());
    expect(error.code).toBe('discovery_failed');
    expect(error.message).toMatch(/files.*1000 pages.*tools\/list/);
  });

  it('gives up on lists that would fill memory, counted together', async () => {
    const description = 'd'.repeat(10 * 1024 * 1024);
    const heavy = discoveryOf({ tools: {}, prompts: {} }, (method) =>
      method === 'tools/list'
        ? { result: { tools: [{ name: 'a', description }] } }
        : { result: { prompts: [{ name: 'a', description }], nextCursor: `${heavy.asked.length}` } },
    );
    const error = await rejection(heavy.read());
    expect(error.code).toBe('discovery_failed');
    expect(error.message).toMatch(/files has lists longer than 32 MiB, prompts\/list among them/);
    expect(heavy.asked).toEqual(['tools/list', 'prompts/list', 'prompts/list 2', 'prompts/list 3']);
  });

  it('says which list failed and how', async () => {
    const failing = discoveryOf({ tools: {} }, () => ({ error: { code: -32603, message: 'no API key' } }));
    expect((await rejection(failing.read())).message).toMatch(/files.*tools\/list.*no API key.*-32603/);
    const odd = discoveryOf({ tools: {} }, () => ({ result: { tools: 'none' } }));
    expect((await rejection(odd.read())).message).toMatch(/files.*tools\/list.*list of tools/);
    const slow = discoveryOf({ tools: {} }, () => 'nothing');
    const late = rejection(slow.read());
    await slow.clock.pass(60_000);
    expect((await late).message).toMatch(/files.*tools\/list.*60 s/);
    const dying = discoveryOf({ tools: {} }, () => 'death');
    expect((await rejection(dying.read())).code).toBe('instance_crashed');
    expect((await discoveryOf({ tools: {} }, () => empty).read()).tools).toEqual([]);
  });

  it('bounds all pages together: a server that answers one a second is given up too', async () => {
    let answerPage = () => {};
    const made = scriptedFleet(undefined, {
      script: {
        capabilities: { tools: {} },
        onRequest(instance, { id }) {
          answerPage = () =>
            instance.says({
              jsonrpc: '2.0',
              id,
              result: { tools: [{ name: `t${id}` }], nextCursor: `${id}` },
            });
        },
      },
    });
    const reading = new Discovery(made).read('files', new AbortController().signal);
    const late = rejection(reading);
    for (let second = 0; second < 60; second += 1) {
      await made.clock.pass(1000);
      answerPage();
      await settle();
    }
    expect((await late).message).toMatch(/files.*60 s/);
  });

  it('serves calls with its instance, which then stays', async () => {
    let answerLists: (() => void) | undefined;
    const made = scriptedFleet(undefined, {
      script: {
        onRequest(instance, request) {
          if (request.method !== 'tools/list') instance.answer(request, {});
          else answerLists = () => instance.answer(request, { tools: [] });
        },
      },
    });
    const reading = new Discovery({ fleet: made.fleet, clock: made.clock }).read(
      'files',
      new AbortController().signal,
    );
    await settle();
    expect(await made.fleet.call('files', { method: 'tools/call' })).toEqual({ era: 'legacy', result: {} });
    answerLists!();
    await reading;
    await settle();
    expect(made.runtime.instances).toHaveLength(1);
    expect(made.runtime.running).toHaveLength(1);
  });
});
