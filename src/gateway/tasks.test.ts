import { describe, expect, it } from 'vitest';
import { HeldClock, settle } from '../../test/lifecycle/held-clock.ts';
import type { Snapshot } from '../catalog/snapshot.ts';
import type { CallOptions, Lease, Outcome, OutgoingRequest } from '../lifecycle/lease.ts';
import { Events } from '../observability/events.ts';
import type { Era } from '../protocol/eras.ts';
import type { Notification, Params } from '../protocol/jsonrpc.ts';
import type { Stream } from './conversation.ts';
import { type TaskOwner, Tasks } from './tasks.ts';

const related = 'io.modelcontextprotocol/related-task';
const extension = { extensions: { 'io.modelcontextprotocol/tasks': {} } };
const noStream: Stream = { send: () => false, end: () => {} };
const alice: TaskOwner = { id: 'alice', scope: undefined };
const bob: TaskOwner = { id: 'bob', scope: undefined };

/** An instance whose answers a test gives; it counts who holds it. */
class FakeInstance {
  readonly name: string;
  readonly era: Era;
  holds = 0;
  readonly asked: OutgoingRequest[] = [];
  answer: (request: OutgoingRequest) => Outcome | Promise<Outcome> = () => ({ result: {} });

  constructor(name: string, era: Era) {
    this.name = name;
    this.era = era;
  }

  lease(): Lease {
    this.holds += 1;
    let isReleased = false;
    const release = () => {
      if (!isReleased) this.holds -= 1;
      isReleased = true;
    };
    return {
      instance: this.name,
      handshake: { protocolVersion: '', capabilities: {}, serverInfo: {} },
      call: async (request: OutgoingRequest, options?: CallOptions) => {
        if (isReleased) throw new Error('released');
        this.asked.push(request);
        const outcome = await Promise.race([
          this.answer(request),
          new Promise<never>((_, reject) => {
            options?.signal?.addEventListener('abort', () => reject(options.signal!.reason));
          }),
        ]);
        return { era: this.era, ...outcome };
      },
      notify: async () => {},
      hold: () => this.lease(),
      release,
      [Symbol.dispose]: release,
    };
  }

  methods() {
    return this.asked.map(({ method }) => method);
  }
}

function setUp(era: Era = 'legacy') {
  const clock = new HeldClock();
  const events = new Events();
  const told: [string, Notification][] = [];
  const snapshot = {
    protocolVersion: era === 'modern' ? '2026-07-28' : '2025-11-25',
    capabilities: era === 'modern' ? extension : {},
  } as unknown as Snapshot;
  const tasks = new Tasks({
    clock,
    events,
    known: () => snapshot,
    notify: (owner, notification) => told.push([owner, notification]),
  });
  const instance = new FakeInstance('files-1', era);
  const state = (taskId: string, status = 'working', more: Params = {}) => ({
    taskId,
    status,
    ...(era === 'modern' ? { ttlMs: 600_000 } : { ttl: 600_000 }),
    ...more,
  });
  /** A call that is answered with a task of this id; its answer. */
  const begin = (
    taskId: string,
    owner = alice,
    { isFollowed = true, at = instance, more = {} as Params, signal = new AbortController().signal } = {},
  ) => {
    const request = { method: 'tools/call', params: { name: 'work' } };
    const follows = isFollowed ? era : undefined;
    return tasks.call(
      {
        owner,
        target: { server: 'files', name: 'work', request },
        follows,
        signal,
        ...(era === 'modern' && { client: { capabilities: isFollowed ? extension : {} } }),
      },
      async (options) => {
        const lease = at.lease();
        options?.onLease?.(lease);
        lease.release();
        const task = state(taskId, 'working', more);
        return { era, result: era === 'modern' ? { resultType: 'task', ...task } : { task } };
      },
    );
  };
  const ask = (owner: TaskOwner, method: string, taskId: unknown, more: Params = {}) =>
    tasks.ask(
      owner,
      { method, params: { taskId, ...more } },
      { stream: noStream, signal: new AbortController().signal },
    );
  return { clock, events, told, tasks, instance, state, begin, ask };
}

describe('the hold on an instance', () => {
  it('lasts until the end, which the gateway finds out by itself', async () => {
    const { clock, tasks, instance, state, begin, ask } = setUp();
    await begin('t');
    expect(instance.holds).toBe(1);
    instance.answer = () => ({ result: state('t') });
    await clock.pass(29_999);
    expect(instance.asked).toEqual([]);
    await clock.pass(60_001);
    expect(instance.methods()).toEqual(['tasks/get', 'tasks/get', 'tasks/get']);
    expect(instance.holds).toBe(1);
    const result = { content: [], _meta: { [related]: { taskId: 't' } } };
    instance.answer = ({ method }) => ({
      result: method === 'tasks/result' ? result : state('t', 'completed'),
    });
    await clock.pass(30_000);
    expect(instance.holds).toBe(0);
    const count = instance.asked.length;
    expect(await ask(alice, 'tasks/get', 't')).toMatchObject({ result: { status: 'completed' } });
    expect(await ask(alice, 'tasks/result', 't')).toMatchObject({ result });
    expect(await ask(alice, 'tasks/cancel', 't')).toMatchObject({ error: { code: -32602 } });
    expect(instance.asked).toHaveLength(count);
    await clock.pass(5 * 60_000);
    await expect(ask(alice, 'tasks/get', 't')).rejects.toMatchObject({ code: 'invalid_params' });
    expect([tasks.size, clock.pending]).toEqual([0, 0]);
  });

  it('ends with the ttl, of which a later state may say otherwise', async () => {
    const { clock, tasks, instance, state, begin, ask } = setUp();
    await begin('t', alice, { more: { ttl: 50_000 } });
    instance.answer = ({ method }) =>
      method === 'tasks/result'
        ? new Promise<never>(() => {})
        : { result: state('t', 'working', { ttl: 70_000 }) };
    const waiting = ask(alice, 'tasks/result', 't');
    await clock.pass(60_000);
    expect(instance.holds).toBe(2);
    const refused = expect(waiting).rejects.toMatchObject({ code: 'invalid_params' });
    await clock.pass(10_000);
    await refused;
    expect([instance.holds, tasks.size, clock.pending]).toEqual([0, 0, 0]);
  });

  it('ends where the server knows the task no more', async () => {
    const { clock, tasks, instance, begin } = setUp();
    await begin('t', alice, { more: { ttl: null } });
    instance.answer = () => ({ error: { code: -32602, message: 'Task not found' } });
    await clock.pass(30_000);
    expect([instance.holds, tasks.size, clock.pending]).toEqual([0, 0, 0]);
  });

  it.each(['legacy', 'modern'] as const)(
    'goes on while the result of a %s task is too large to be kept',
    async (era) => {
      const { clock, instance, state, begin, ask } = setUp(era);
      await begin('t');
      const content = [{ type: 'text', text: 'x'.repeat(2 ** 21) }];
      instance.answer = ({ method }) => ({
        result:
          method === 'tasks/result'
            ? { content }
            : state('t', 'completed', era === 'modern' ? { result: { content } } : {}),
      });
      await ask(alice, 'tasks/get', 't');
      await settle();
      expect(instance.holds).toBe(1);
      const method = era === 'modern' ? 'tasks/get' : 'tasks/result';
      expect(JSON.stringify(await ask(alice, method, 't'))).toContain(content[0]!.text);
      await clock.pass(5 * 60_000);
      expect([instance.holds, clock.pending]).toEqual([0, 0]);
    },
  );

  it('ends when its owner is gone, and the task is cancelled', async () => {
    const { clock, tasks, instance, begin } = setUp();
    await begin('t');
    await begin('other', bob);
    instance.answer = () => new Promise<never>(() => {});
    tasks.endOwner('alice');
    expect(instance.asked).toMatchObject([{ method: 'tasks/cancel', params: { taskId: 't' } }]);
    expect([instance.holds, tasks.size]).toEqual([2, 1]);
    // A server that does not answer is not waited for.
    await clock.pass(10_000);
    expect(instance.holds).toBe(1);
  });

  it('ends with the instance, and what the owner is told afterwards names the reason', async () => {
    const { clock, events, tasks, instance, begin, ask } = setUp();
    await begin('t');
    events.emit('instance.stopped', { server: 'files', instance: 'files-2', reason: 'crash' });
    expect(instance.holds).toBe(1);
    events.emit('instance.stopped', { server: 'files', instance: 'files-1', reason: 'crash' });
    expect(instance.holds).toBe(0);
    await expect(ask(alice, 'tasks/get', 't')).rejects.toMatchObject({
      code: 'invalid_params',
      message: 'Task "t" is lost: the instance of server files that worked on it has crashed',
    });
    await expect(ask(bob, 'tasks/get', 't')).rejects.toMatchObject({
      message: expect.stringContaining('not found'),
    });
    await clock.pass(5 * 60_000);
    expect([tasks.size, clock.pending]).toEqual([0, 0]);
  });
});

it('a list asks for the states that may have changed, and waits for them a little', async () => {
  const { clock, tasks, instance, state, begin } = setUp();
  await begin('a');
  await begin('b');
  await begin('of-bob', bob);
  instance.answer = ({ method, params }) =>
    params!.taskId === 'b'
      ? new Promise<never>(() => {})
      : { result: method === 'tasks/result' ? {} : state('a', 'completed') };
  const list = tasks.list(alice, undefined);
  await clock.pass(2000);
  expect(await list).toEqual({ result: { tasks: [state('a', 'completed'), state('b')] } });
  const asked = instance.asked.length;
  instance.answer = () => ({ result: state('b') });
  await tasks.list({ ...alice, scope: 'other' }, undefined);
  expect(instance.asked).toHaveLength(asked);
  await tasks.list(alice, undefined);
  expect(instance.asked.slice(asked)).toMatchObject([{ method: 'tasks/get', params: { taskId: 'b' } }]);
  tasks.close();
});

describe('ids', () => {
  it('are the server’s own, unless another task has it already', async () => {
    const { told, tasks, instance, state, begin, ask } = setUp();
    const second = new FakeInstance('files-2', 'legacy');
    await begin('1');
    const answer = await begin('1', bob, { at: second });
    const { taskId } = (answer as { result: { task: { taskId: string } } }).result.task;
    expect(taskId).toMatch(/^files\/.{12}\/1$/);
    second.answer = ({ method }) => ({
      result: method === 'tasks/result' ? { _meta: { [related]: { taskId: '1', x: 2 }, y: 3 } } : state('1'),
    });
    expect(await ask(bob, 'tasks/get', taskId)).toMatchObject({ result: { taskId, status: 'working' } });
    expect(await ask(bob, 'tasks/result', taskId)).toMatchObject({
      result: { _meta: { [related]: { taskId, x: 2 }, y: 3 } },
    });
    expect(second.asked[0]!.params).toEqual({ taskId: '1' });
    expect(instance.asked).toEqual([]);
    await expect(ask(bob, 'tasks/get', '1')).rejects.toMatchObject({ code: 'invalid_params' });

    const status = { jsonrpc: '2.0', method: 'notifications/tasks/status', params: state('1') } as const;
    expect(tasks.told('files-2', status)).toBe(true);
    expect(told).toMatchObject([['bob', { params: { taskId } }]]);
    tasks.close();
  });

  it('that a server gives to two clients lead each to its own, and to no question', async () => {
    const { told, tasks, instance, state, begin, ask } = setUp();
    await begin('same');
    const answer = await begin('same', bob);
    const { taskId } = (answer as { result: { task: { taskId: string } } }).result.task;
    instance.answer = () => ({ result: state('same') });
    expect(await ask(alice, 'tasks/get', 'same')).toMatchObject({ result: { taskId: 'same' } });
    expect(await ask(bob, 'tasks/get', taskId)).toMatchObject({ result: { taskId } });
    tasks.told('files-1', { jsonrpc: '2.0', method: 'notifications/tasks/status', params: state('same') });
    expect(told.map(([owner, { params }]) => [owner, params!.taskId])).toEqual([
      ['alice', 'same'],
      ['bob', taskId],
    ]);
    const put = tasks.put(
      'files-1',
      {
        jsonrpc: '2.0',
        id: 1,
        method: 'elicitation/create',
        params: { _meta: { [related]: { taskId: 'same' } } },
      },
      new AbortController().signal,
      { isReachable: () => true, by: () => Promise.reject(new Error('asked')) },
    );
    expect(await put).toBeUndefined();
    tasks.close();
  });
});

describe('a question that names its task', () => {
  const question = (taskId: string) =>
    ({
      jsonrpc: '2.0',
      id: 1,
      method: 'elicitation/create',
      params: { message: '?', _meta: { [related]: { taskId } } },
    }) as const;

  it('may come before the answer that names the task', async () => {
    const { clock, tasks, begin } = setUp();
    const owners: string[] = [];
    const ask = {
      isReachable: () => true,
      by: async (owner: string) => {
        owners.push(owner);
        return { result: { action: 'accept', _meta: { [related]: { taskId: 't' } } } };
      },
    };
    const put = tasks.put('files-1', question('t'), new AbortController().signal, ask);
    await begin('t');
    expect(await put).toMatchObject({ result: { action: 'accept' } });
    expect(owners).toEqual(['alice']);
    const nobodys = tasks.put('files-1', question('other'), new AbortController().signal, ask);
    await clock.pass(2000);
    expect(await nobodys).toBeUndefined();
    tasks.close();
    expect(clock.pending).toBe(0);
  });

  it('waits for a way to its owner, and no longer than it is wanted', async () => {
    const { tasks, begin } = setUp();
    await begin('t');
    let isReachable = false;
    const ask = { isReachable: () => isReachable, by: async () => ({ result: { action: 'accept' } }) };
    const withdrawn = new AbortController();
    const void_ = tasks.put('files-1', question('t'), withdrawn.signal, ask);
    const put = tasks.put('files-1', question('t'), new AbortController().signal, ask);
    withdrawn.abort(new Error('withdrawn'));
    await expect(void_).rejects.toThrow('withdrawn');
    isReachable = true;
    tasks.reachable('bob');
    tasks.reachable('alice');
    expect(await put).toMatchObject({ result: { action: 'accept' } });
    tasks.close();
  });
});

describe('a task that its client cannot follow', () => {
  it.each([
    ['of a modern client', true, { code: 'capability_missing', data: { requiredCapabilities: extension } }],
    ['of a caller by REST', false, { code: 'upstream_error' }],
  ])('%s is cancelled, and refused', async (_, isModern, refusal) => {
    const { clock, tasks, instance, begin } = setUp('modern');
    const call = isModern
      ? begin('t', alice, { isFollowed: false })
      : tasks.call(
          {
            owner: alice,
            target: { server: 'files', name: 'work', request: { method: 'tools/call' } },
            follows: undefined,
            signal: new AbortController().signal,
          },
          async (options) => {
            const lease = instance.lease();
            options!.onLease!(lease);
            lease.release();
            return { era: 'modern', result: { resultType: 'task', taskId: 't', status: 'working' } };
          },
        );
    await expect(call).rejects.toMatchObject(refusal);
    expect(instance.asked).toMatchObject([{ method: 'tasks/cancel', params: { taskId: 't' } }]);
    await settle();
    expect([instance.holds, tasks.size, clock.pending]).toEqual([0, 0, 0]);
  });

  it('as it has gone away, is cancelled', async () => {
    const { tasks, instance, begin } = setUp();
    const gone = new AbortController();
    const call = begin('t', alice, { signal: gone.signal });
    gone.abort();
    await call;
    await settle();
    expect([instance.methods(), instance.holds, tasks.size]).toEqual([['tasks/cancel'], 0, 0]);
  });
});

it('tasks of one client are bounded; those that are over make room', async () => {
  const { tasks, instance, state, begin, ask } = setUp();
  for (let count = 0; count < 1000; count += 1) await begin(`t${count}`);
  await expect(begin('more')).rejects.toMatchObject({ code: 'queue_full' });
  expect(instance.holds).toBe(1000);
  await begin('of-bob', bob);
  instance.answer = () => ({ result: state('t7', 'cancelled') });
  await ask(alice, 'tasks/cancel', 't7');
  await begin('more');
  expect(tasks.size).toBe(1001);
  await expect(ask(alice, 'tasks/get', 't7')).rejects.toMatchObject({ code: 'invalid_params' });
  tasks.close();
  expect(instance.holds).toBe(0);
});
