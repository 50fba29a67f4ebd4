import { describe, expect, it } from 'vitest';
import { clientAffinity } from '../../src/lifecycle/lease.ts';
import type { Params, Request } from '../../src/protocol/jsonrpc.ts';
import { rejection, type ServerSettings, scriptedFleet, serverOf } from './fixtures.ts';
import { settle } from './held-clock.ts';
import type { Script } from './scripted-runtime.ts';

const call = { method: 'tools/call', params: { name: 'echo' } };
const alice = clientAffinity('alice');
const bob = clientAffinity('bob');
const served = { era: 'legacy', result: {} };

/* Modern clients have no session: what they have of their own ends by itself. */

const privateFleet = (settings: ServerSettings = {}, script: Script = {}) =>
  scriptedFleet([serverOf('notes', { isolation: 'session', ...settings })], { script });

describe('a modern client with a name', () => {
  it('has an instance of its own, which ends by idleness', async () => {
    const { fleet, runtime, clock } = privateFleet();
    const names = await Promise.all(
      [alice, bob, alice].map(async (affinity) => {
        using lease = await fleet.lease('notes', { affinity });
        return lease.instance;
      }),
    );
    expect(new Set(names).size).toBe(2);
    expect(names[0]).toBe(names[2]);
    await clock.pass(299_999);
    await fleet.call('notes', call, { affinity: bob });
    await clock.pass(1);
    expect(runtime.running.map(({ name }) => name)).toEqual([names[1]]);
    await clock.pass(300_000);
    expect(runtime.running).toEqual([]);
    expect(clock.pending).toBe(0);
    expect(await fleet.call('notes', call, { affinity: alice })).toEqual(served);
  });

  it('has what it watches watched by its next instance, until it takes that back', async () => {
    const { fleet, runtime, clock } = privateFleet({}, { capabilities: { resources: { subscribe: true } } });
    fleet.rememberSubscription('notes', alice, 'a:1', true);
    await fleet.call('notes', call, { affinity: alice });
    expect(runtime.last.requests('resources/subscribe')).toHaveLength(1);
    await clock.pass(300_000);
    await fleet.call('notes', call, { affinity: alice });
    expect(runtime.last.requests('resources/subscribe')).toHaveLength(1);
    await clock.pass(300_000);
    fleet.rememberSubscription('notes', alice, 'a:1', false);
    await fleet.call('notes', call, { affinity: alice });
    expect(runtime.last.requests('resources/subscribe')).toEqual([]);
  });

  it('is told once what a stateful server has lost, also by idleness', async () => {
    const { fleet, runtime, clock } = privateFleet({ stateful: true });
    await fleet.call('notes', call, { affinity: alice });
    await fleet.call('notes', call, { affinity: bob });
    await clock.pass(300_000);
    expect(runtime.running).toEqual([]);
    const error = await rejection(fleet.call('notes', call, { affinity: alice }));
    expect(error).toMatchObject({ code: 'instance_crashed', server: 'notes', hint: expect.any(String) });
    expect(error.message).toMatch(/for this client is lost: its instance was idle/);
    expect(await fleet.call('notes', call, { affinity: alice })).toEqual(served);
    runtime.last.dies();
    await settle();
    expect((await rejection(fleet.call('notes', call, { affinity: alice }))).message).toMatch(/unexpectedly/);
    expect(await fleet.call('notes', call, { affinity: alice })).toEqual(served);
    expect((await rejection(fleet.call('notes', call, { affinity: bob }))).message).toMatch(/idle/);
  });

  it('does not keep a shared server with memory running, and is told of its loss', async () => {
    const { fleet, runtime, clock } = privateFleet({ stateful: true, isolation: 'shared' });
    await fleet.call('notes', call, { affinity: alice });
    await clock.pass(300_000);
    expect(runtime.running).toEqual([]);
    expect((await rejection(fleet.call('notes', call, { affinity: alice }))).message).toMatch(/lost/);
    await fleet.call('notes', call, { affinity: alice });
    await fleet.call('notes', call, { affinity: 's1' });
    await clock.pass(300_000);
    expect(runtime.running).toHaveLength(1);
    fleet.endSession('s1');
    await settle();
    expect(runtime.running).toEqual([]);
  });

  it('is asked during its calls alone, one at a time where its server asks', async () => {
    const asked: unknown[] = [];
    const questions: unknown[] = [];
    const { fleet, runtime } = scriptedFleet([serverOf('asks', { interactive: true })], {
      script: { onRequest() {} },
      listener: {
        onRequest: async (...question) => {
          asked.push(question);
          return { result: {} };
        },
      },
    });
    const onRequest = async ({ params }: Request) => {
      questions.push(params);
      return { result: { action: 'accept' } as Params };
    };
    for (let n = 0; n < 2; n += 1) {
      fleet.call('asks', call, { affinity: alice, onRequest }).catch(() => {});
      fleet.call('asks', call, { affinity: 's1' }).catch(() => {});
    }
    await settle();
    expect(runtime.running.map(({ open }) => open.length)).toEqual([1, 2]);
    const own = runtime.instances[0]!;
    own.says({ jsonrpc: '2.0', id: 'q', method: 'elicitation/create', params: { message: 'Sure?' } });
    await settle();
    expect(questions).toEqual([{ message: 'Sure?' }]);
    for (let n = 0; n < 2; n += 1) {
      own.answer(own.open[0]!, {});
      await settle();
    }
    own.says({ jsonrpc: '2.0', id: 'late', method: 'elicitation/create', params: {} });
    await settle();
    expect(own.answerTo('late')).toMatchObject({ error: { code: -32000 } });
    expect(asked).toEqual([]);
    await fleet.kill();
  });
});

describe('modern clients without a name', () => {
  it('share one instance of a server that gives each session its own, without roots', async () => {
    const { fleet, runtime, clock } = privateFleet();
    await Promise.all([fleet.call('notes', call), fleet.call('notes', call)]);
    await fleet.call('notes', call, { affinity: alice });
    expect(runtime.instances).toHaveLength(2);
    const declared = runtime.instances.map(
      (instance) => instance.requests('initialize')[0]!.params!.capabilities as Params,
    );
    expect(declared[0]).not.toHaveProperty('roots');
    expect(declared[1]).toHaveProperty('roots');
    await clock.pass(300_000);
    expect(runtime.running).toEqual([]);
  });
});
