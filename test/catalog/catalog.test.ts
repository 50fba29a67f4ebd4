import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { deferred } from '../../src/base/async.ts';
import { GatewayError } from '../../src/base/errors.ts';
import type { Snapshot } from '../../src/catalog/snapshot.ts';
import {
  type Bench,
  CountingStore,
  catalogOf,
  namesOf,
  ScriptedSource,
  serverNamed,
  snapshotOf,
  tool,
} from './harness.ts';

let open: Bench[] = [];
const bench = (...args: Parameters<typeof catalogOf<CountingStore>>): Bench => {
  const made = catalogOf(...args);
  open.push(made);
  return made;
};
const pass = (delayMs: number) => vi.advanceTimersByTimeAsync(delayMs);

beforeEach(() => {
  vi.useFakeTimers();
});

afterEach(async () => {
  for (const { catalog } of open) await catalog.close();
  open = [];
  vi.useRealTimers();
});

describe('the first discovery', () => {
  it('begins at start, and lists wait for it', async () => {
    const { catalog, source } = bench([serverNamed('a'), serverNamed('b')]);
    const slow = deferred<Snapshot>();
    source.answers.set('a', slow.promise);
    source.answers.set('b', snapshotOf({ toolNames: ['two'] }));
    await catalog.start();
    const answered = vi.fn();
    const listing = catalog.list('tools', undefined).then(answered);
    await pass(5000);
    expect(answered).not.toHaveBeenCalled();
    expect(catalog.status('a').state).toBe('discovering');
    slow.resolve(snapshotOf({ toolNames: ['one'] }));
    await listing;
    expect(namesOf(answered.mock.calls[0]![0])).toEqual(['a__one', 'b__two']);
    expect(catalog.status('a')).toMatchObject({ state: 'known', tools: 1 });
  });

  it('is waited for 10 s at most; what comes later is announced', async () => {
    const { catalog, source, changes } = bench([serverNamed('a'), serverNamed('b')]);
    const slow = deferred<Snapshot>();
    source.answers.set('a', slow.promise);
    source.answers.set('b', snapshotOf({ toolNames: ['two'] }));
    await catalog.start();
    await pass(4000);
    const answered = vi.fn();
    void catalog.list('tools', undefined).then(answered);
    await pass(5900);
    expect(answered).not.toHaveBeenCalled();
    await pass(200);
    expect(namesOf(answered.mock.calls[0]![0])).toEqual(['b__two']);
    // Later lists do not wait again.
    expect(namesOf(await catalog.list('tools', undefined))).toEqual(['b__two']);
    changes.length = 0;
    slow.resolve(snapshotOf({ toolNames: ['one'], prompts: [{ name: 'p' }] }));
    await pass(100);
    expect(changes).toEqual([{ server: 'a', lists: ['tools', 'prompts'] }]);
    expect(namesOf(await catalog.list('tools', undefined))).toEqual(['a__one', 'b__two']);
  });

  it('holds up no list of another server', async () => {
    const { catalog, source } = bench([serverNamed('a'), serverNamed('b')]);
    source.answers.set('a', deferred<Snapshot>().promise);
    source.answers.set('b', snapshotOf({ toolNames: ['two'] }));
    await catalog.start();
    await pass(0);
    expect(namesOf(await catalog.list('tools', 'b'))).toEqual(['two']);
  });

  it('runs for a bounded number of servers at a time', async () => {
    const servers = Array.from({ length: 12 }, (_, index) => serverNamed(`s${index}`));
    const { catalog, source } = bench(servers, {}, { parallel_starts: 3 });
    const gate = deferred<Snapshot>();
    for (const { name } of servers) source.answers.set(name, gate.promise);
    await catalog.start();
    await pass(1);
    expect(source.reads).toHaveLength(3);
    gate.resolve(snapshotOf());
    await pass(1);
    expect(source.reads).toHaveLength(12);
    expect(source.mostReading).toBe(3);
  });

  it('is not begun for disabled servers, nor for those that cannot start', async () => {
    const { catalog, source, failures } = bench([
      serverNamed('off', { enabled: false }),
      serverNamed('poor', {
        problem: { code: 'variable_missing', message: 'Variable TOKEN is not set.', hint: 'Set TOKEN.' },
      }),
      serverNamed('fine'),
    ]);
    await catalog.start();
    expect(await catalog.list('tools', undefined)).toEqual([]);
    expect(source.reads).toEqual(['fine']);
    expect(catalog.status('off').state).toBe('unknown');
    expect(catalog.status('poor')).toMatchObject({
      state: 'failed',
      lastError: { code: 'variable_missing', message: 'Variable TOKEN is not set.', hint: 'Set TOKEN.' },
    });
    expect(failures).toEqual([{ server: 'poor', reason: 'Variable TOKEN is not set.', hint: 'Set TOKEN.' }]);
    await expect(catalog.list('tools', 'off')).rejects.toMatchObject({ code: 'server_disabled' });
    await expect(catalog.list('tools', 'fin')).rejects.toMatchObject({
      code: 'server_unknown',
      hint: 'Did you mean fine?',
    });
  });

  it('that fails ends the wait, is told with its reason, and is tried again with back-off', async () => {
    const { catalog, source, failures } = bench([serverNamed('a'), serverNamed('b')]);
    source.answers.set(
      'a',
      new GatewayError('image_missing', 'No image mcp-a.', { server: 'a', hint: 'Build it.' }),
    );
    source.answers.set('b', snapshotOf({ toolNames: ['two'] }));
    await catalog.start();
    expect(namesOf(await catalog.list('tools', undefined))).toEqual(['b__two']);
    expect(catalog.status('a')).toMatchObject({
      state: 'failed',
      lastError: { code: 'image_missing', message: 'No image mcp-a.', hint: 'Build it.' },
      retryAtMs: Date.now() + 1000,
    });
    for (const delayMs of [1000, 2000, 4000, 8000, 16_000, 32_000, 60_000]) await pass(delayMs);
    expect(failures.map(({ retryInMs }) => retryInMs)).toEqual([
      1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000,
    ]);
    source.answers.set('a', snapshotOf({ toolNames: ['one'] }));
    await pass(60_000);
    expect(namesOf(await catalog.list('tools', undefined))).toEqual(['a__one', 'b__two']);
    expect(catalog.status('a')).toMatchObject({ state: 'known' });
    expect(catalog.status('a').lastError).toBeUndefined();
    expect(source.reads.filter((server) => server === 'b')).toHaveLength(1);
  });

  it('is tried again at once when the engine is back', async () => {
    const { catalog, source, events } = bench([serverNamed('a'), serverNamed('b')]);
    source.answers.set('a', new GatewayError('engine_unreachable', 'No engine.', { server: 'a' }));
    source.answers.set('b', new GatewayError('image_missing', 'No image.', { server: 'b' }));
    await catalog.start();
    await pass(3500);
    const reads = source.reads.length;
    source.answers.set('a', snapshotOf({ toolNames: ['one'] }));
    events.emit('engine.back', { runtime: 'docker' });
    expect(namesOf(await catalog.list('tools', 'a'))).toEqual([]);
    await pass(1);
    expect(source.reads.slice(reads)).toEqual(['a']);
    expect(namesOf(await catalog.list('tools', 'a'))).toEqual(['one']);
  });

  it('does not make a list wait again while it is retried', async () => {
    const { catalog, source } = bench([serverNamed('a')]);
    source.answers.set('a', new Error('broken'));
    await catalog.start();
    await pass(1);
    source.answers.set('a', deferred<Snapshot>().promise);
    await pass(1500);
    expect(source.reads).toHaveLength(2);
    expect(await catalog.list('tools', undefined)).toEqual([]);
  });

  it('lets go of a caller who has gone', async () => {
    const { catalog, source } = bench([serverNamed('a')]);
    source.answers.set('a', deferred<Snapshot>().promise);
    await catalog.start();
    const gone = AbortSignal.abort(new Error('client went'));
    await expect(catalog.list('tools', undefined, gone)).rejects.toThrow('client went');
    await expect(catalog.resolve('tools', undefined, 'a__x', gone)).rejects.toThrow('client went');
  });

  it('lets lists answer when the catalog closes', async () => {
    const { catalog, source } = bench([serverNamed('a')]);
    source.answers.set('a', deferred<Snapshot>().promise);
    await catalog.start();
    const list = catalog.list('tools', undefined);
    await catalog.close();
    expect(await list).toEqual([]);
  });
});

describe('a restart with a kept catalog', () => {
  const restarted = async (
    before: Parameters<typeof serverNamed>[1],
    after: Parameters<typeof serverNamed>[1],
    script?: (source: ScriptedSource) => void,
  ) => {
    const store = new CountingStore();
    const first = bench([serverNamed('a', before)], { store });
    first.source.answers.set('a', snapshotOf({ toolNames: ['one'], instructions: 'Be kind.' }));
    await first.catalog.start();
    await first.catalog.list('tools', undefined);
    await first.catalog.close();
    const source = new ScriptedSource();
    source.answers.set('a', snapshotOf({ toolNames: ['new'] }));
    script?.(source);
    const second = bench([serverNamed('a', after)], { store, source });
    await second.catalog.start();
    return second;
  };

  it('answers at once and reads nothing', async () => {
    const { catalog, source, changes } = await restarted({}, {});
    expect(namesOf(await catalog.list('tools', undefined))).toEqual(['a__one']);
    expect(catalog.known('a')?.instructions).toBe('Be kind.');
    await pass(60_000);
    expect(source.reads).toEqual([]);
    expect(source.digestsAsked).toEqual(['a']);
    expect(changes).toEqual([]);
  });

  it('serves the old list until a changed image is read', async () => {
    const gate = deferred<Snapshot>();
    const { catalog, source, changes } = await restarted({}, {}, (scripted) => {
      scripted.digests.set('a', 'sha256:two');
      scripted.answers.set('a', gate.promise);
    });
    await pass(30_000);
    expect(source.reads).toEqual(['a']);
    expect(namesOf(await catalog.list('tools', undefined))).toEqual(['a__one']);
    gate.resolve(snapshotOf({ toolNames: ['new'] }));
    await pass(100);
    expect(namesOf(await catalog.list('tools', undefined))).toEqual(['a__new']);
    expect(changes).toEqual([{ server: 'a', lists: ['tools'] }]);
  });

  it('serves the old list until a changed configuration is read', async () => {
    const changes: Parameters<typeof serverNamed>[1][] = [
      { command: ['other'] },
      { env: { TOKEN: 'second' } },
      { env: { OTHER: 'first' } },
    ];
    for (const change of changes) {
      const { catalog, source } = await restarted({ env: { TOKEN: 'first' } }, change);
      expect(namesOf(await catalog.list('tools', undefined))).toEqual(['a__one']);
      await pass(1);
      expect(source.reads).toEqual(['a']);
      expect(namesOf(await catalog.list('tools', undefined))).toEqual(['a__new']);
    }
  });

  it('reads nothing for settings that do not change a list', async () => {
    const { catalog, source } = await restarted(
      { env: { A: '1', B: '2' } },
      {
        env: { B: '2', A: '1' },
        idleTimeoutMs: 1,
        description: 'new',
        prefix: 'p',
        tools: { allow: ['one'], deny: [], rename: { one: 'uno' }, describe: {} },
      },
    );
    await pass(1);
    expect(source.reads).toEqual([]);
    expect(namesOf(await catalog.list('tools', undefined))).toEqual(['p__uno']);
  });

  it('keeps no secret', async () => {
    const store = new CountingStore();
    const { catalog } = bench([serverNamed('a', { env: { TOKEN: 'hunter2hunter2' } })], { store });
    await catalog.start();
    await catalog.list('tools', undefined);
    await catalog.close();
    const kept = JSON.stringify(await store.get('catalog/a'));
    expect(kept).toContain('scripted');
    expect(kept).not.toContain('hunter2');
  });

  it('answers while the engine is away, and finds out what has changed when it is back', async () => {
    const { catalog, source, events } = await restarted({}, {}, (scripted) =>
      scripted.digests.set(
        'a',
        new GatewayError('engine_unreachable', 'No engine.', { hint: 'Start Docker.' }),
      ),
    );
    await pass(10_000);
    expect(namesOf(await catalog.list('tools', undefined))).toEqual(['a__one']);
    expect(catalog.status('a')).toMatchObject({ state: 'known', lastError: { code: 'engine_unreachable' } });
    expect(source.reads).toEqual([]);
    source.digests.set('a', 'sha256:two');
    events.emit('engine.back', { runtime: 'docker' });
    await pass(100);
    expect(namesOf(await catalog.list('tools', undefined))).toEqual(['a__new']);
    expect(catalog.status('a').lastError).toBeUndefined();
  });

  it('is not emptied by a rediscovery that fails', async () => {
    const { catalog, source, failures } = await restarted({}, { command: ['other'] }, (scripted) =>
      scripted.answers.set('a', new GatewayError('start_failed', 'It broke.')),
    );
    await pass(10_000);
    expect(failures.length).toBeGreaterThan(2);
    expect(namesOf(await catalog.list('tools', undefined))).toEqual(['a__one']);
    expect(catalog.status('a')).toMatchObject({ state: 'known', lastError: { message: 'It broke.' } });
    source.answers.set('a', snapshotOf({ toolNames: ['new'] }));
    await pass(60_000);
    expect(namesOf(await catalog.list('tools', undefined))).toEqual(['a__new']);
  });

  it('works without a store that can be written, and says so', async () => {
    const store = new CountingStore();
    store.set = async () => {
      throw new Error('ENOSPC: no space left on device');
    };
    const { catalog, source } = bench([serverNamed('a')], { store });
    source.answers.set('a', snapshotOf({ toolNames: ['one'] }));
    await catalog.start();
    expect(namesOf(await catalog.list('tools', undefined))).toEqual(['a__one']);
    await pass(1);
    expect(catalog.status('a').warnings).toEqual([
      'Its lists could not be kept for the next start: ENOSPC: no space left on device',
    ]);
  });

  it('forgets what an older format kept', async () => {
    const store = new CountingStore();
    await store.set('catalog/a', { format: 0, nonsense: true });
    await store.set('catalog/b', null);
    const { catalog, source } = bench([serverNamed('a'), serverNamed('b')], { store });
    await catalog.start();
    await catalog.list('tools', undefined);
    expect(source.reads.sort()).toEqual(['a', 'b']);
  });

  it('reads anew what was kept before eras were told apart, and shows it until then', async () => {
    const store = new CountingStore();
    const first = bench([serverNamed('a', { prefix: '' })], { store });
    first.source.answers.set('a', snapshotOf({ toolNames: ['one'] }));
    await first.catalog.start();
    await first.catalog.list('tools', undefined);
    await pass(1);
    await first.catalog.close();
    await store.set('catalog/a', { ...(await store.get<object>('catalog/a')), format: 1 });

    const { catalog, source } = bench([serverNamed('a', { prefix: '' })], { store });
    const modern = Promise.withResolvers<Snapshot>();
    source.answers.set('a', modern.promise);
    await catalog.start();
    expect(namesOf(await catalog.list('tools', undefined))).toEqual(['one']);
    expect(catalog.keptEra('a')).toBeUndefined();
    modern.resolve(snapshotOf({ toolNames: ['one'], protocolVersion: '2026-07-28' }));
    await pass(1);
    expect(source.reads).toEqual(['a']);
    expect(catalog.keptEra('a')).toEqual({ era: 'modern', digest: 'sha256:one' });
  });

  it('keeps the era of a server for the configuration that it was read with', async () => {
    const store = new CountingStore();
    const first = bench([serverNamed('a'), serverNamed('b')], { store });
    first.source.answers.set('a', snapshotOf({ protocolVersion: '2026-07-28' }));
    first.source.digests.set('b', new Error('no engine'));
    await first.catalog.start();
    await first.catalog.list('tools', undefined);
    await pass(1);
    expect(first.catalog.keptEra('a')).toEqual({ era: 'modern', digest: 'sha256:one' });
    // What ran is not known.
    expect(first.catalog.keptEra('b')).toBeUndefined();
    await first.catalog.close();

    const second = bench([serverNamed('a', { command: ['other'] })], { store });
    await second.catalog.start();
    expect(second.catalog.keptEra('a')).toBeUndefined();
  });
});

describe('how long lists may be kept', () => {
  const modern = (ttlMs: number, cacheScope: 'public' | 'private' = 'public') =>
    snapshotOf({
      toolNames: ['one', 'two', 'three'],
      protocolVersion: '2026-07-28',
      caching: { tools: { ttlMs, cacheScope } },
    });
  const caching = async (answers: Record<string, Snapshot>, scope?: string) => {
    const made = bench(
      Object.keys(answers).map((name) => serverNamed(name)),
      { pageSize: 2 },
    );
    for (const [name, snapshot] of Object.entries(answers)) made.source.answers.set(name, snapshot);
    await made.catalog.start();
    const first = await made.catalog.page('tools', scope);
    const second = await made.catalog.page('tools', scope, first.nextCursor);
    expect(second.caching).toEqual(first.caching);
    return first.caching;
  };

  it('is what the server says, of a server alone', async () => {
    const answers = { a: modern(5000), b: modern(60_000, 'private') };
    expect(await caching(answers, 'a')).toEqual({ ttlMs: 5000, cacheScope: 'public' });
    expect(await caching(answers, 'b')).toEqual({ ttlMs: 60_000, cacheScope: 'private' });
  });

  it('is the least of all servers that have the list', async () => {
    expect(await caching({ a: modern(5000), b: modern(60_000, 'private') })).toEqual({
      ttlMs: 5000,
      cacheScope: 'private',
    });
    expect(await caching({ a: modern(5000), b: modern(60_000) })).toEqual({
      ttlMs: 5000,
      cacheScope: 'public',
    });
    const legacy = snapshotOf({ toolNames: ['old'] });
    expect(await caching({ a: modern(5000), b: legacy })).toEqual({ ttlMs: 0, cacheScope: 'private' });
    const promptsAlone = snapshotOf({ capabilities: { prompts: {} } });
    expect(await caching({ a: modern(5000), b: promptsAlone })).toEqual({
      ttlMs: 5000,
      cacheScope: 'public',
    });
  });

  it('is not at all while a server is not known', async () => {
    const made = bench([serverNamed('a'), serverNamed('b')]);
    made.source.answers.set('a', modern(5000));
    made.source.answers.set('b', new GatewayError('start_failed', 'It broke.'));
    await made.catalog.start();
    expect((await made.catalog.page('tools', undefined)).caching).toEqual({
      ttlMs: 0,
      cacheScope: 'private',
    });
    expect((await made.catalog.page('tools', 'a')).caching).toEqual({ ttlMs: 5000, cacheScope: 'public' });
  });

  it('changes without an announcement', async () => {
    const made = bench([serverNamed('a')]);
    made.source.answers.set('a', modern(5000));
    await made.catalog.start();
    await made.catalog.list('tools', undefined);
    await pass(1000);
    made.changes.length = 0;
    made.source.answers.set('a', modern(7000));
    await made.catalog.refresh('a', 'started');
    await pass(1000);
    expect((await made.catalog.page('tools', undefined)).caching.ttlMs).toBe(7000);
    expect(made.changes).toEqual([]);
  });
});

describe('reading again', () => {
  const known = async (toolNames = ['one']) => {
    const made = bench([serverNamed('a')]);
    made.source.answers.set('a', snapshotOf({ toolNames }));
    await made.catalog.start();
    await made.catalog.list('tools', undefined);
    await pass(1000);
    made.changes.length = 0;
    made.source.reads.length = 0;
    return made;
  };

  it('announces nothing when nothing has changed, and writes nothing', async () => {
    const { catalog, source, store, changes } = await known();
    const { writes } = store;
    await catalog.refresh('a', 'started');
    await pass(1000);
    expect(source.reads).toEqual(['a']);
    expect(changes).toEqual([]);
    expect(store.writes).toBe(writes);
  });

  it('announces which lists have changed, once', async () => {
    const { catalog, source, changes } = await known();
    source.answers.set('a', snapshotOf({ toolNames: ['one'], prompts: [{ name: 'p' }] }));
    await catalog.refresh('a', 'started');
    source.answers.set(
      'a',
      snapshotOf({
        toolNames: ['one'],
        prompts: [{ name: 'q' }],
        resourceTemplates: [{ uriTemplate: 'm://{x}' }],
      }),
    );
    await catalog.refresh('a', 'started');
    expect(changes).toEqual([]);
    await pass(100);
    expect(changes).toEqual([{ server: 'a', lists: ['prompts', 'resources'] }]);
  });

  it('keeps the same page until something changes', async () => {
    const { catalog, source } = await known();
    const page = await catalog.page('tools', undefined);
    const alone = await catalog.page('tools', 'a');
    await catalog.refresh('a', 'asked');
    expect(await catalog.page('tools', undefined)).toBe(page);
    expect(await catalog.page('tools', 'a')).toBe(alone);
    source.answers.set('a', snapshotOf({ toolNames: ['two'] }));
    await catalog.refresh('a', 'asked');
    expect(JSON.parse((await catalog.page('tools', undefined)).json.toString()).tools).toEqual([
      { ...tool('two'), name: 'a__two' },
    ]);
    expect(JSON.parse((await catalog.page('tools', 'a')).json.toString()).tools).toEqual([tool('two')]);
  });

  it('is not done for the start that the read itself caused', async () => {
    const { catalog, source } = bench([serverNamed('a')]);
    const gate = deferred<Snapshot>();
    source.answers.set('a', gate.promise);
    await catalog.start();
    await pass(1);
    const started = catalog.refresh('a', 'started');
    gate.resolve(snapshotOf({ toolNames: ['one'] }));
    await started;
    await pass(60_000);
    expect(source.reads).toEqual(['a']);
  });

  it('is done once more when it is asked for during a read, however often', async () => {
    const { catalog, source } = await known();
    const gate = deferred<Snapshot>();
    source.answers.set('a', gate.promise);
    const first = catalog.refresh('a', 'asked');
    const others = Promise.all([1, 2, 3].map(() => catalog.refresh('a', 'asked')));
    await pass(1);
    source.answers.set('a', snapshotOf({ toolNames: ['two'] }));
    gate.resolve(snapshotOf({ toolNames: ['one'] }));
    await first;
    await others;
    expect(source.reads).toEqual(['a', 'a']);
    expect(namesOf(await catalog.list('tools', 'a'))).toEqual(['two']);
  });

  it('that fails keeps the list', async () => {
    const { catalog, source } = await known();
    source.answers.set('a', new Error('it died'));
    await catalog.refresh('a', 'asked');
    expect(namesOf(await catalog.list('tools', 'a'))).toEqual(['one']);
    expect(catalog.status('a').lastError).toMatchObject({ code: 'discovery_failed' });
  });

  it('follows a storm of announcements with a few reads, the last one after the storm', async () => {
    const { catalog, source } = await known();
    for (let index = 0; index < 2000; index++) {
      source.answers.set('a', snapshotOf({ toolNames: [`v${index}`] }));
      void catalog.refresh('a', 'changed');
      await pass(1);
    }
    await pass(10_000);
    expect(source.reads.length).toBeLessThan(15);
    expect(namesOf(await catalog.list('tools', 'a'))).toEqual(['v1999']);
  });

  it('does not go round for ever when each read has the server announce a change', async () => {
    const { catalog, source, changes } = await known();
    let version = 0;
    source.read = async (server) => {
      source.reads.push(server);
      void catalog.refresh('a', 'changed');
      return snapshotOf({ toolNames: [`v${version++ % 2}`] });
    };
    void catalog.refresh('a', 'changed');
    await pass(3_600_000);
    expect(source.reads.length).toBeGreaterThan(5);
    expect(source.reads.length).toBeLessThan(25);
    expect(changes.length).toBeLessThan(25);
  });

  it('is quick again soon after a storm, while changes go on at an easy pace', async () => {
    const { catalog, source } = await known();
    for (let change = 0; change < 12; change += 1) {
      void catalog.refresh('a', 'changed');
      await pass(50 * 2 ** change);
    }
    for (let change = 0; change < 6; change += 1) {
      void catalog.refresh('a', 'changed');
      await pass(5000);
    }
    const reads = source.reads.length;
    void catalog.refresh('a', 'changed');
    await pass(60);
    expect(source.reads.length).toBe(reads + 1);
  });

  it('is read again from the instance that announced it, before that is let go', async () => {
    const { catalog, source } = await known();
    const seen: boolean[] = [];
    source.read = async (_server, _signal, { wake, hasChanged }) => {
      expect(wake).toBe(true);
      void catalog.refresh('a', 'changed');
      seen.push(hasChanged(), hasChanged());
      return snapshotOf({ toolNames: ['two'] });
    };
    await catalog.refresh('a', 'asked');
    await pass(10_000);
    expect(seen).toEqual([true, false]);
    expect(namesOf(await catalog.list('tools', 'a'))).toEqual(['two']);
  });

  it('starts nothing: neither a change nor an instance that has gone again is worth that', async () => {
    const { catalog, source } = await known();
    const woken: boolean[] = [];
    source.read = async (_server, _signal, { wake }) => {
      woken.push(wake);
      return undefined;
    };
    await Promise.all([catalog.refresh('a', 'changed'), pass(1000)]);
    await catalog.refresh('a', 'started');
    expect(woken).toEqual([false, false]);
    expect(namesOf(await catalog.list('tools', 'a'))).toEqual(['one']);
    expect(catalog.status('a')).toMatchObject({ state: 'known' });
  });

  it('is quick again after a quiet time', async () => {
    const { catalog, source } = await known();
    for (let round = 0; round < 5; round++) {
      source.answers.set('a', snapshotOf({ toolNames: [`v${round}`] }));
      void catalog.refresh('a', 'changed');
      await pass(100);
      expect(namesOf(await catalog.list('tools', 'a'))).toEqual([`v${round}`]);
      await pass(2000);
    }
  });

  it('that is announced during the first discovery follows it', async () => {
    const { catalog, source } = bench([serverNamed('a')]);
    const gate = deferred<Snapshot>();
    source.answers.set('a', gate.promise);
    await catalog.start();
    await pass(1);
    void catalog.refresh('a', 'changed');
    source.answers.set('a', snapshotOf({ toolNames: ['late', 'early'] }));
    gate.resolve(snapshotOf({ toolNames: ['early'] }));
    await pass(1000);
    expect(namesOf(await catalog.list('tools', 'a'))).toEqual(['late', 'early']);
    expect(source.reads).toEqual(['a', 'a']);
  });
});

describe('a name', () => {
  it('leads to its server and the name there', async () => {
    const { catalog, source } = bench([
      serverNamed('a', {
        tools: { allow: undefined, deny: ['hidden'], rename: { one: 'uno' }, describe: {} },
      }),
    ]);
    source.answers.set('a', snapshotOf({ toolNames: ['one', 'hidden'], prompts: [{ name: 'ask' }] }));
    await catalog.start();
    await catalog.list('tools', undefined);
    expect(catalog.resolve('tools', undefined, 'a__uno')).toMatchObject({ server: 'a', native: 'one' });
    expect(catalog.resolve('tools', 'a', 'uno')).toMatchObject({
      server: 'a',
      native: 'one',
      entry: { name: 'uno' },
    });
    expect(catalog.resolve('prompts', undefined, 'a__ask')).toMatchObject({ server: 'a', native: 'ask' });
    for (const [scope, name] of [
      [undefined, 'a__one'],
      [undefined, 'a__hidden'],
      [undefined, 'uno'],
      ['a', 'hidden'],
      ['a', 'a__uno'],
    ] as const) {
      await expect(catalog.resolve('tools', scope, name)).rejects.toMatchObject({ code: 'tool_unknown' });
    }
    await expect(catalog.resolve('prompts', 'a', 'uno')).rejects.toMatchObject({ code: 'prompt_unknown' });
  });

  it('that is mistyped or lacks its prefix is answered with the nearest', async () => {
    const { catalog, source } = bench([serverNamed('context7'), serverNamed('demo')]);
    source.answers.set('context7', snapshotOf({ toolNames: ['get_documentation'] }));
    source.answers.set('demo', snapshotOf({ toolNames: ['say_hello'] }));
    await catalog.start();
    await catalog.list('tools', undefined);
    await expect(catalog.resolve('tools', undefined, 'context7__get_documentaton')).rejects.toMatchObject({
      message: 'There is no tool "context7__get_documentaton".',
      hint: 'Did you mean "context7__get_documentation"?',
      data: { nearest: 'context7__get_documentation' },
    });
    await expect(catalog.resolve('tools', undefined, 'say_hello')).rejects.toMatchObject({
      hint: 'Did you mean "demo__say_hello"?',
    });
    await expect(catalog.resolve('tools', 'demo', 'weather')).rejects.toMatchObject({
      message: 'Server demo has no tool "weather".',
      hint: 'List the tools to see what there is.',
    });
  });

  it('waits for the discovery of the server that its prefix names, longer than a list', async () => {
    const { catalog, source } = bench([serverNamed('a'), serverNamed('b')]);
    const slow = deferred<Snapshot>();
    source.answers.set('a', slow.promise);
    source.answers.set('b', snapshotOf({ toolNames: ['two'] }));
    await catalog.start();
    const found = Promise.resolve(catalog.resolve('tools', undefined, 'a__one'));
    await pass(1);
    await expect(catalog.resolve('tools', undefined, 'b__none')).rejects.toMatchObject({
      code: 'tool_unknown',
    });
    await pass(60_000);
    slow.resolve(snapshotOf({ toolNames: ['one'] }));
    expect(await found).toMatchObject({ server: 'a', native: 'one' });
  });

  it('is answered with the failure of that discovery, at once when it has failed before', async () => {
    const { catalog, source } = bench([serverNamed('a'), serverNamed('b')]);
    source.answers.set(
      'a',
      new GatewayError('image_missing', 'No image mcp-a.', { server: 'a', hint: 'Build it.' }),
    );
    await catalog.start();
    for (const scope of [undefined, 'a']) {
      await expect(catalog.resolve('tools', scope, 'a__one')).rejects.toMatchObject({
        code: 'image_missing',
        hint: 'Build it.',
      });
    }
    expect(source.reads.filter((server) => server === 'a')).toHaveLength(1);
  });

  it('is answered with what is wrong with a server that is disabled or lacks a variable', async () => {
    const { catalog } = bench([
      serverNamed('off', { enabled: false }),
      serverNamed('poor', { problem: { code: 'variable_missing', message: 'No TOKEN.', hint: 'Set it.' } }),
    ]);
    await catalog.start();
    await expect(catalog.resolve('tools', undefined, 'off__x')).rejects.toMatchObject({
      code: 'server_disabled',
    });
    await expect(catalog.resolve('tools', undefined, 'poor__x')).rejects.toMatchObject({
      code: 'variable_missing',
    });
    await expect(catalog.about('poor')).rejects.toMatchObject({ code: 'variable_missing' });
  });

  it('that a server without a prefix may have waits for it, and tells of its failure', async () => {
    const { catalog, source } = bench([serverNamed('a', { prefix: '' }), serverNamed('b')]);
    const slow = deferred<Snapshot>();
    source.answers.set('a', slow.promise);
    await catalog.start();
    const found = Promise.resolve(catalog.resolve('tools', undefined, 'one'));
    const typo = Promise.resolve(catalog.resolve('tools', undefined, 'none'));
    typo.catch(() => {});
    await pass(1);
    slow.reject(new GatewayError('start_failed', 'It broke.'));
    await expect(found).rejects.toMatchObject({
      code: 'tool_unknown',
      hint: expect.stringContaining('It broke.'),
    });
  });

  it('that a server has just announced waits for the lists to be read', async () => {
    const { catalog, source } = bench([serverNamed('a')]);
    source.answers.set('a', snapshotOf({ toolNames: ['one'] }));
    await catalog.start();
    await catalog.list('tools', undefined);
    source.answers.set('a', snapshotOf({ toolNames: ['one', 'fresh'] }));
    void catalog.refresh('a', 'changed');
    const found = Promise.resolve(catalog.resolve('tools', undefined, 'a__fresh'));
    await pass(1000);
    expect(await found).toMatchObject({ native: 'fresh' });
  });
});

describe('names that two servers want', () => {
  const servers = () => [serverNamed('a', { prefix: '' }), serverNamed('b', { prefix: '' })];
  const echo = () => snapshotOf({ toolNames: ['echo'] });

  it.each([
    ['a', 'b'],
    ['b', 'a'],
  ])('go to the earlier in the file when %s is known before %s', async (first, second) => {
    const { catalog, source } = bench(servers());
    const gates = { a: deferred<Snapshot>(), b: deferred<Snapshot>() };
    source.answers.set('a', gates.a.promise);
    source.answers.set('b', gates.b.promise);
    await catalog.start();
    const list = catalog.list('tools', undefined);
    gates[first as 'a' | 'b'].resolve(echo());
    await pass(10);
    gates[second as 'a' | 'b'].resolve(echo());
    expect(namesOf(await list)).toEqual(['echo', 'b__echo']);
    expect(catalog.resolve('tools', undefined, 'echo')).toMatchObject({ server: 'a' });
    expect(catalog.resolve('tools', undefined, 'b__echo')).toMatchObject({ server: 'b', native: 'echo' });
    expect(catalog.status('b').warnings).toEqual([
      'tools: "echo" is exposed as "b__echo", as "echo" is server a\'s.',
    ]);
    expect(catalog.status('a').warnings).toEqual([]);
  });

  it('stay with the one that clients have seen, over restarts and whoever comes and goes', async () => {
    const store = new CountingStore();
    const run = async (present: string[]) => {
      const { catalog, source } = bench(
        servers().filter(({ name }) => present.includes(name)),
        { store },
      );
      source.answers.set('a', echo());
      source.answers.set('b', echo());
      await catalog.start();
      const names = namesOf(await catalog.list('tools', undefined));
      await catalog.close();
      return names;
    };
    expect(await run(['b'])).toEqual(['echo']);
    expect(await run(['a', 'b'])).toEqual(['a__echo', 'echo']);
    expect(await run(['a'])).toEqual(['a__echo']);
    expect(await run(['a', 'b'])).toEqual(['a__echo', 'echo']);
    expect(await run(['b'])).toEqual(['echo']);
    await pass(31 * 24 * 3_600_000);
    // `a` keeps the name that its clients know, though the other has been gone for long.
    expect(await run(['a'])).toEqual(['a__echo']);
  });

  it('are kept for a server that is away, for a month', async () => {
    const store = new CountingStore();
    const run = async (name: string) => {
      const { catalog, source } = bench([serverNamed(name, { prefix: '' })], { store });
      source.answers.set(name, echo());
      await catalog.start();
      const names = namesOf(await catalog.list('tools', undefined));
      await catalog.close();
      return names;
    };
    expect(await run('a')).toEqual(['echo']);
    expect(await run('b')).toEqual(['b__echo']);
    expect(await run('a')).toEqual(['echo']);
    await pass(31 * 24 * 3_600_000);
    expect(await run('c')).toEqual(['echo']);
  });

  it('do not move under a client that saw a list before the other server was known', async () => {
    const { catalog, source } = bench(servers());
    const slow = deferred<Snapshot>();
    source.answers.set('a', slow.promise);
    source.answers.set('b', echo());
    await catalog.start();
    await pass(10_001);
    expect(namesOf(await catalog.list('tools', undefined))).toEqual(['echo']);
    slow.resolve(echo());
    await pass(100);
    expect(namesOf(await catalog.list('tools', undefined))).toEqual(['a__echo', 'echo']);
  });

  it('differ, are valid, and never change for the same thing, whoever comes when', async () => {
    const natives = ['echo', 'b__echo', 'c.d', 'c_d', 'a__b__echo', '名', 'long'.repeat(20)];
    const some = fc.uniqueArray(fc.constantFrom(...natives), { maxLength: 5 });
    const offers = fc.record({ a: some, b: some, c: some });
    const prefixes = fc.constantFrom('', 'a', 'a__b', 'b.', undefined);
    // Each round is a run of the gateway: who is in the file, and in what order they become known.
    const rounds = fc.array(fc.shuffledSubarray(['a', 'b', 'c'] as const), { minLength: 1, maxLength: 4 });
    const scenario = fc.record({ offers, prefixes: fc.tuple(prefixes, prefixes, prefixes), rounds });
    await fc.assert(
      fc.asyncProperty(scenario, async ({ offers, prefixes, rounds }) => {
        const store = new CountingStore();
        const seen = new Map<string, string>();
        for (const arrivals of rounds) {
          const servers = (['a', 'b', 'c'] as const).flatMap((name, index) =>
            arrivals.includes(name) ? [serverNamed(name, { prefix: prefixes[index] })] : [],
          );
          const { catalog, source } = catalogOf(servers, { store });
          const gates = new Map(arrivals.map((name) => [name, deferred<Snapshot>()]));
          for (const [name, { promise }] of gates) source.answers.set(name, promise);
          await catalog.start();
          const list = catalog.list('tools', undefined);
          for (const name of arrivals) {
            gates.get(name)!.resolve(snapshotOf({ toolNames: offers[name] }));
            await pass(1);
          }
          const names = namesOf(await list);
          expect(new Set(names).size).toBe(names.length);
          expect(names).toHaveLength(arrivals.reduce((sum, name) => sum + offers[name].length, 0));
          for (const name of names) {
            expect(name).toMatch(/^[A-Za-z0-9_-]{1,46}$/);
            const { server, native } = await catalog.resolve('tools', undefined, name);
            const thing = `${server} ${native}`;
            expect(name).toBe(seen.get(thing) ?? name);
            seen.set(thing, name);
          }
          await catalog.close();
        }
      }),
      { numRuns: 60 },
    );
  });

  it('follow a changed prefix', async () => {
    const store = new CountingStore();
    for (const [prefix, expected] of [
      ['', 'b__echo'],
      ['x', 'x__echo'],
      [undefined, 'b__echo'],
    ] as const) {
      const { catalog, source } = bench([serverNamed('a', { prefix: '' }), serverNamed('b', { prefix })], {
        store,
      });
      source.answers.set('a', echo());
      source.answers.set('b', echo());
      await catalog.start();
      expect(namesOf(await catalog.list('tools', undefined))).toEqual(['echo', expected]);
      await catalog.close();
    }
  });
});

describe('resources', () => {
  const resource = (uri: string) => ({ uri, name: uri });
  const three = async () => {
    const made = bench([serverNamed('a'), serverNamed('b'), serverNamed('plain')]);
    made.source.answers.set(
      'a',
      snapshotOf({
        capabilities: { resources: {} },
        resources: [resource('file:///shared'), resource('file:///a')],
        resourceTemplates: [
          { uriTemplate: 'db://{table}', name: 'db' },
          { uriTemplate: 'log://{+path}', name: 'logs' },
        ],
      }),
    );
    made.source.answers.set(
      'b',
      snapshotOf({
        capabilities: { resources: {} },
        resources: [resource('file:///shared'), resource('memo://list')],
        resourceTemplates: [
          { uriTemplate: 'db://{table}', name: 'db' },
          { uriTemplate: 'db://special/{row}', name: 'row' },
          { uriTemplate: 'log://today/{line}', name: 'line' },
        ],
      }),
    );
    made.source.answers.set('plain', snapshotOf({ toolNames: ['t'] }));
    await made.catalog.start();
    await made.catalog.list('resources', undefined);
    return made.catalog;
  };

  it('keep their URIs; only a second owner of one gets another form', async () => {
    const catalog = await three();
    expect((await catalog.list('resources', undefined)).map(({ uri }) => uri)).toEqual([
      'file:///shared',
      'file:///a',
      'mcp-gateway://b/file:///shared',
      'memo://list',
    ]);
    expect(
      (await catalog.list('resourceTemplates', undefined)).map(({ uriTemplate }) => uriTemplate),
    ).toEqual([
      'db://{table}',
      'log://{+path}',
      'mcp-gateway://b/db://{table}',
      'db://special/{row}',
      'log://today/{line}',
    ]);
    expect((await catalog.list('resources', 'b')).map(({ uri }) => uri)).toEqual([
      'file:///shared',
      'memo://list',
    ]);
  });

  it('are routed by list, by the more exact template, by their namespaced form', async () => {
    const catalog = await three();
    const route = (uri: string) => catalog.routeResource(undefined, uri);
    expect(route('file:///shared')).toMatchObject({ server: 'a', native: 'file:///shared' });
    expect(route('mcp-gateway://b/file:///shared')).toMatchObject({ server: 'b', native: 'file:///shared' });
    expect(route('mcp-gateway://b/db://users')).toMatchObject({ server: 'b', native: 'db://users' });
    expect(route('memo://list')).toMatchObject({ server: 'b' });
    expect(route('db://users')).toMatchObject({ server: 'a', native: 'db://users' });
    expect(route('log://yesterday/1')).toMatchObject({ server: 'a' });
    expect(route('log://today/1')).toMatchObject({ server: 'b' });
    expect(route('db://special/1')).toMatchObject({ server: 'b', native: 'db://special/1' });
    expect(route('db://special/{row}')).toMatchObject({ server: 'b', native: 'db://special/{row}' });
    expect(await route('memo://unlisted')).toMatchObject({ server: 'b', native: 'memo://unlisted' });
    await expect(route('file:///unlisted')).rejects.toMatchObject({ code: 'resource_unknown' });
    await expect(route('mcp-gateway://nobody/x')).rejects.toMatchObject({ code: 'resource_unknown' });
    expect(catalog.routeResource('b', 'any:thing')).toEqual({ server: 'b', native: 'any:thing' });
  });

  it('that are all one server’s take unlisted URIs there', async () => {
    const { catalog, source } = bench([serverNamed('a'), serverNamed('b')]);
    source.answers.set('a', snapshotOf({ capabilities: { resources: {} } }));
    await catalog.start();
    expect(await catalog.routeResource(undefined, 'any:thing')).toEqual({ server: 'a', native: 'any:thing' });
  });

  it('in results lead back to the server that gave them', async () => {
    const catalog = await three();
    expect(catalog.exposeUri(undefined, 'a', 'file:///shared')).toBe('file:///shared');
    expect(catalog.exposeUri(undefined, 'b', 'file:///shared')).toBe('mcp-gateway://b/file:///shared');
    expect(catalog.exposeUri('b', 'b', 'file:///shared')).toBe('file:///shared');
    // Not listed by b, but a's template would take it.
    expect(catalog.exposeUri(undefined, 'b', 'db://users')).toBe('mcp-gateway://b/db://users');
    // Known to no list: the first to give it out is asked for it.
    expect(catalog.exposeUri(undefined, 'b', 'file:///dynamic')).toBe('file:///dynamic');
    expect(catalog.routeResource(undefined, 'file:///dynamic')).toEqual({
      server: 'b',
      native: 'file:///dynamic',
    });
    expect(catalog.exposeUri(undefined, 'a', 'file:///dynamic')).toBe('mcp-gateway://a/file:///dynamic');
    // A server without resources can only mean somebody else's.
    expect(catalog.exposeUri(undefined, 'plain', 'file:///shared')).toBe('file:///shared');
  });

  it('wait for servers that were never seen, and then name those that are missing', async () => {
    const { catalog, source } = bench([serverNamed('a'), serverNamed('b')]);
    const slow = deferred<Snapshot>();
    source.answers.set('a', slow.promise);
    source.answers.set('b', new Error('broken'));
    await catalog.start();
    const found = Promise.resolve(catalog.routeResource(undefined, 'file:///a'));
    await pass(1000);
    slow.resolve(snapshotOf({ resources: [resource('file:///a')] }));
    expect(await found).toMatchObject({ server: 'a' });
    source.answers.set('a', snapshotOf());
    await catalog.refresh('a', 'asked');
    await expect(catalog.routeResource(undefined, 'x:y')).rejects.toMatchObject({
      hint: expect.stringContaining('not known: b'),
    });
  });
});

describe('what was learnt', () => {
  it('of a server that asks is kept, until something else runs in its place', async () => {
    const store = new CountingStore();
    const first = bench([serverNamed('a')], { store });
    await first.catalog.start();
    await first.catalog.list('tools', undefined);
    expect(first.catalog.isLearntInteractive('a')).toBe(false);
    first.catalog.learnInteractive('a');
    await first.catalog.close();

    const second = bench([serverNamed('a')], { store });
    await second.catalog.start();
    expect(second.catalog.isLearntInteractive('a')).toBe(true);
    await second.catalog.close();

    const third = bench([serverNamed('a')], { store });
    third.source.digests.set('a', 'sha256:two');
    await third.catalog.start();
    await pass(1);
    expect(third.catalog.isLearntInteractive('a')).toBe(false);
  });
});

describe('a session with an instance of its own', () => {
  it('has that instance’s lists, and nobody else has', async () => {
    const { catalog, source } = bench([serverNamed('a', { prefix: '' }), serverNamed('b', { prefix: '' })]);
    source.answers.set('a', snapshotOf({ toolNames: ['one'] }));
    source.answers.set('b', snapshotOf({ toolNames: ['two'] }));
    await catalog.start();
    await catalog.list('tools', undefined);
    catalog.setSessionSnapshot('s1', 'a', snapshotOf({ toolNames: ['one', 'two', 'mine'] }));
    expect(namesOf(await catalog.list('tools', undefined, undefined, 's1'))).toEqual([
      'one',
      'a__two',
      'mine',
      'two',
    ]);
    expect(namesOf(await catalog.list('tools', 'a', undefined, 's1'))).toEqual(['one', 'two', 'mine']);
    expect(catalog.resolve('tools', undefined, 'a__two', undefined, 's1')).toMatchObject({
      server: 'a',
      native: 'two',
    });
    expect(catalog.resolve('tools', undefined, 'two', undefined, 's1')).toMatchObject({ server: 'b' });
    expect(namesOf(await catalog.list('tools', undefined, undefined, 's2'))).toEqual(['one', 'two']);
    expect(namesOf(await catalog.list('tools', undefined))).toEqual(['one', 'two']);

    source.answers.set('b', snapshotOf({ toolNames: ['two', 'three'] }));
    await catalog.refresh('b', 'asked');
    expect(namesOf(await catalog.list('tools', undefined, undefined, 's1'))).toContain('three');
    catalog.endSession('s1');
    expect(namesOf(await catalog.list('tools', undefined, undefined, 's1'))).toEqual(['one', 'two', 'three']);
  });
});

describe('what passes through a list', () => {
  it('is all that the server said, but for the name', async () => {
    const { catalog, source } = bench([serverNamed('a')]);
    const entry = tool('one', {
      title: 'One',
      icons: [{ src: 'data:,' }],
      annotations: { readOnlyHint: true },
      outputSchema: { type: 'object' },
      execution: { taskSupport: 'optional' },
      _meta: { 'x/y': { deep: [null, 1.5] } },
      'unknown-field': { kept: true },
    });
    source.answers.set('a', snapshotOf({ tools: [entry] }));
    await catalog.start();
    expect(await catalog.list('tools', undefined)).toEqual([{ ...entry, name: 'a__one' }]);
    expect(await catalog.list('tools', 'a')).toEqual([entry]);
    expect(await catalog.about('a')).toMatchObject({ serverInfo: { name: 'scripted' } });
  });

  it('comes in pages when there is much of it', async () => {
    const { catalog, source } = bench([serverNamed('a'), serverNamed('b')], { pageSize: 3 });
    source.answers.set('a', snapshotOf({ toolNames: ['1', '2'] }));
    source.answers.set('b', snapshotOf({ toolNames: ['3', '4'] }));
    await catalog.start();
    const first = await catalog.page('tools', undefined);
    expect(namesOf(first.entries)).toEqual(['a__1', 'a__2', 'b__3']);
    expect(namesOf((await catalog.page('tools', undefined, first.nextCursor)).entries)).toEqual(['b__4']);
    await expect(catalog.page('tools', undefined, 'garbage')).rejects.toMatchObject({
      code: 'invalid_params',
    });
    await expect(catalog.page('tools', 'a', first.nextCursor)).rejects.toMatchObject({
      code: 'invalid_params',
    });
  });
});
