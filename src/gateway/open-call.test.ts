import { describe, expect, it } from 'vitest';
import type { Clock } from '../base/async.ts';
import type { Outcome } from '../lifecycle/lease.ts';
import type { Request } from '../protocol/jsonrpc.ts';
import { OpenCall } from './open-call.ts';

/** Time that passes when it is told to. */
class Hands implements Clock {
  #now = 0;
  #tasks: { task(): void; atMs: number }[] = [];

  now() {
    return this.#now;
  }

  schedule(task: () => void, delayMs: number) {
    const entry = { task, atMs: this.#now + delayMs };
    this.#tasks.push(entry);
    return () => {
      this.#tasks = this.#tasks.filter((one) => one !== entry);
    };
  }

  async pass(ms: number) {
    this.#now += ms;
    const due = this.#tasks.filter(({ atMs }) => atMs <= this.#now);
    this.#tasks = this.#tasks.filter(({ atMs }) => atMs > this.#now);
    for (const { task } of due) task();
    await new Promise((resolve) => setImmediate(resolve));
  }
}

const capabilities = { elicitation: { form: {} }, sampling: {} };
const elicit = (message: string, meta?: object): Request => ({
  jsonrpc: '2.0',
  id: message,
  method: 'elicitation/create',
  params: { message, ...(meta && { _meta: meta }) },
});

function setUp(given = {}) {
  const clock = new Hands();
  const abort = new AbortController();
  const target = { server: 's', name: 't', request: { method: 'tools/call', params: {} } };
  const call = new OpenCall(target, { abort, clock, given });
  let end!: (outcome: Outcome) => void;
  const work = new Promise<Outcome>((resolve, reject) => {
    end = resolve;
    abort.signal.addEventListener('abort', () => reject(new Error(String(abort.signal.reason))));
  });
  call.follow(work);
  const visit = (signal: AbortSignal = new AbortController().signal) =>
    call.turn({
      client: { capabilities },
      stream: { send: () => true, end() {} },
      progress: undefined,
      signal,
    });
  const ask = (request: Request) => call.ask(request, new AbortController().signal, true);
  return { clock, abort, call, end, visit, ask };
}

describe('a call that its server asks in', () => {
  it('puts what is asked in one breath into one round', async () => {
    const { clock, visit, ask } = setUp();
    const turn = visit();
    void ask(elicit('a'));
    await clock.pass(5);
    void ask(elicit('b'));
    await clock.pass(5);
    const questions = (await turn) as { questions: Record<string, { params: object }> };
    expect(Object.values(questions.questions).map(({ params }) => params)).toEqual([
      { message: 'a' },
      { message: 'b' },
    ]);
  });

  it('keeps the name that a server gives its question, and takes an answer that came before it', async () => {
    const { clock, visit, ask, end } = setUp({ 'user-name': { action: 'accept' } });
    const turn = visit();
    const named = { 'mcp-gateway/input-key': 'user-name' };
    expect(await ask(elicit('who', named))).toEqual({ result: { action: 'accept' } });
    // An answer is one question's.
    void ask(elicit('who', named));
    await clock.pass(10);
    expect(await turn).toEqual({
      questions: { 'user-name': { method: 'elicitation/create', params: { message: 'who' } } },
    });
    end({ result: {} });
  });

  it('puts every question to its client, whatever names its server has chosen', async () => {
    const { clock, call, visit, ask, end } = setUp({});
    const names = ['question-1', '__proto__', 'constructor', undefined, 'question-1', 'question-2'];
    const answered: unknown[] = [];
    const turn = visit();
    for (const [index, name] of names.entries()) {
      const asked = ask(
        elicit(`${index}`, name === undefined ? undefined : { 'mcp-gateway/input-key': name }),
      );
      void asked.then((outcome) => answered.push(outcome));
    }
    await clock.pass(10);
    const { questions } = (await turn) as { questions: Record<string, { params?: { message?: string } }> };
    const messages = Object.values(questions).map(({ params }) => params?.message);
    expect(messages.toSorted()).toEqual(['0', '1', '2', '3', '4', '5']);
    call.answer({});
    await clock.pass(0);
    expect(answered).toEqual([]);
    call.answer(
      Object.fromEntries(
        Object.entries(questions).map(([key, { params }]) => [key, { content: { to: params?.message } }]),
      ),
    );
    await clock.pass(0);
    expect(answered).toHaveLength(6);
    expect(answered).toContainEqual({ result: { content: { to: '1' } } });
    end({ result: {} });
  });

  it('declines what is open when its client does not come back, and is cancelled only if it goes on', async () => {
    for (const goesOn of [false, true]) {
      const { clock, abort, call, visit, ask, end } = setUp();
      const turn = visit();
      const answer = ask(elicit('a'));
      await clock.pass(10);
      await turn;
      call.abandon('nobody came back');
      expect(await answer).toEqual({ result: { action: 'decline' } });
      expect(abort.signal.aborted).toBe(false);
      if (!goesOn) end({ result: {} });
      await clock.pass(0);
      await clock.pass(1000);
      expect(abort.signal.aborted).toBe(goesOn);
    }
  });

  it('is over when the client goes away that works on it, and only then', async () => {
    const { clock, abort, visit, ask } = setUp();
    const gone = new AbortController();
    const first = visit(gone.signal);
    void ask(elicit('a'));
    await clock.pass(10);
    await first;
    gone.abort();
    expect(abort.signal.aborted).toBe(false);
    const back = new AbortController();
    const { call, ...again } = setUp();
    const second = again.visit(back.signal);
    back.abort('closed');
    await expect(second).rejects.toThrow('closed');
    expect(again.abort.signal.aborted).toBe(true);
    expect(call.visit).toBeUndefined();
  });

  it('tells a client of what it lacks, and the server that it is declined', async () => {
    const { visit, ask } = setUp();
    const turn = visit();
    const url = { ...elicit('a'), params: { mode: 'url', url: 'https://example.com' } };
    expect(await ask(url)).toEqual({ result: { action: 'decline' } });
    expect(await turn).toEqual({ lacking: 'elicitation.url' });
  });
});
