import { describe, expect, it } from 'vitest';
import { Session } from '../access/sessions.ts';
import { systemClock } from '../base/async.ts';
import type { Message, Notification, Request } from '../protocol/jsonrpc.ts';
import { Conversation, type Stream } from './conversation.ts';

/** A client's end of a stream. */
class Wire implements Stream {
  readonly messages: Message[] = [];
  isOpen = true;

  send(message: Message): boolean {
    if (this.isOpen) this.messages.push(message);
    return this.isOpen;
  }

  end(): void {
    this.isOpen = false;
  }
}

/** One whose client may come back. */
class ResumableWire extends Wire {
  readonly kept: Message[] = [];

  keep(message: Message): boolean {
    this.kept.push(message);
    return true;
  }
}

function createConversation() {
  const session = new Session('id', 'token', {
    protocolVersion: '2025-11-25',
    capabilities: {},
    clientInfo: {},
    principal: 'anonymous',
    scope: null,
    subscriptions: [],
    lastUseMs: 0,
  });
  return new Conversation(session, systemClock, 'r');
}

const question = (params?: Request['params']): Request => ({
  jsonrpc: '2.0',
  id: 5,
  method: 'sampling/createMessage',
  ...(params && { params }),
});
const asking = (stream: Stream, more = {}) => ({
  stream,
  signal: new AbortController().signal,
  limitMs: 10_000,
  ...more,
});
const changed: Notification = { jsonrpc: '2.0', method: 'notifications/tools/list_changed' };

describe('a conversation', () => {
  it('asks with ids of its own and takes the answer to each question once', async () => {
    const conversation = createConversation();
    const wire = new Wire();
    const [first, second] = [
      conversation.ask(question(), asking(wire)),
      conversation.ask(question(), asking(wire)),
    ];
    const [one, two] = wire.messages as Request[];
    expect(new Set([one!.id, two!.id, 5]).size).toBe(3);
    conversation.answer({ jsonrpc: '2.0', id: 'a stranger’s', result: {} });
    conversation.answer({ jsonrpc: '2.0', id: two!.id, result: { for: 'two' } });
    conversation.answer({ jsonrpc: '2.0', id: two!.id, result: { for: 'two again' } });
    conversation.answer({ jsonrpc: '2.0', id: one!.id, error: { code: -1, message: 'no', data: { x: 1 } } });
    expect(await second).toEqual({ result: { for: 'two' } });
    expect(await first).toEqual({ error: { code: -1, message: 'no', data: { x: 1 } } });
  });

  it('asks on the GET stream when the call’s own is gone, and nobody when there is none', async () => {
    const conversation = createConversation();
    const gone = new Wire();
    gone.end();
    expect(await conversation.ask(question(), asking(gone))).toBeUndefined();
    const listening = new Wire();
    conversation.listen(listening);
    const answer = conversation.ask(question(), asking(gone));
    conversation.answer({ jsonrpc: '2.0', id: (listening.messages[0] as Request).id, result: {} });
    expect(await answer).toEqual({ result: {} });
  });

  it('gives up when time is over, the call ends or the session does, and tells the client so', async () => {
    const conversation = createConversation();
    const wire = new Wire();
    expect(await conversation.ask(question(), asking(wire, { limitMs: 5 }))).toBeUndefined();
    const abort = new AbortController();
    const asked = conversation.ask(question(), asking(wire, { signal: abort.signal }));
    abort.abort();
    expect(await asked).toBeUndefined();
    expect(wire.messages.map((message) => 'method' in message && message.method)).toEqual([
      'sampling/createMessage',
      'notifications/cancelled',
      'sampling/createMessage',
      'notifications/cancelled',
    ]);
    const last = conversation.ask(question(), asking(wire));
    conversation.end();
    expect(await last).toHaveProperty('error');
  });

  it('has a bounded number of open questions', async () => {
    const conversation = createConversation();
    const wire = new Wire();
    for (let asked = 0; asked < 100; asked += 1) void conversation.ask(question(), asking(wire));
    expect(await conversation.ask(question(), asking(wire))).toBeUndefined();
    expect(wire.messages).toHaveLength(100);
    conversation.end();
  });

  it('carries the client’s progress on a question back under the server’s own token', () => {
    const conversation = createConversation();
    const wire = new Wire();
    const told: Notification[] = [];
    const notify = (notification: Notification) => told.push(notification);
    // Two servers that chose the same token.
    void conversation.ask(question({ _meta: { progressToken: 1, x: 'y' } }), asking(wire, { notify }));
    void conversation.ask(question({ _meta: { progressToken: 1 } }), asking(wire, { notify: () => {} }));
    const { params } = wire.messages[0] as Request;
    expect(params).toEqual({ _meta: { progressToken: (wire.messages[0] as Request).id, x: 'y' } });
    const { progressToken } = params!._meta as { progressToken: string };
    const method = 'notifications/progress';
    conversation.progress({ jsonrpc: '2.0', method, params: { progressToken, progress: 0.5, total: 1 } });
    conversation.progress({ jsonrpc: '2.0', method, params: { progressToken: 1, progress: 0.7 } });
    expect(told).toEqual([{ jsonrpc: '2.0', method, params: { progressToken: 1, progress: 0.5, total: 1 } }]);
    conversation.end();
  });

  it('keeps for the next GET stream what tells the client to look again, bounded, each once', () => {
    const conversation = createConversation();
    conversation.notify(changed, changed.method);
    conversation.notify(changed, changed.method);
    conversation.notify({ jsonrpc: '2.0', method: 'notifications/message', params: { data: 'gone' } });
    for (let index = 0; index < 150; index += 1) {
      conversation.notify({ jsonrpc: '2.0', method: 'updated', params: { index } }, `updated ${index}`);
    }
    const wire = new Wire();
    conversation.listen(wire);
    expect(wire.messages).toHaveLength(100);
    expect(wire.messages.at(-1)).toMatchObject({ params: { index: 149 } });
    const next = new Wire();
    conversation.listen(next);
    expect(wire.isOpen).toBe(false);
    expect(next.messages).toEqual([]);
    conversation.unlisten(wire);
    conversation.notify(changed, changed.method);
    expect(next.messages).toEqual([changed]);
  });

  it('keeps the rest for a client that comes back to the GET stream that it left', async () => {
    const conversation = createConversation();
    const line: Notification = { jsonrpc: '2.0', method: 'notifications/message', params: { data: 'x' } };
    const wire = new ResumableWire();
    conversation.listen(wire);
    wire.isOpen = false;
    conversation.notify(line);
    conversation.unlisten(wire);
    conversation.notify(line);
    conversation.notify(changed, changed.method);
    expect(wire.kept).toEqual([line, line]);
    const again = new ResumableWire();
    conversation.listen(again);
    expect(again.messages).toEqual([changed]);
    // A question waits for nobody there: whether anybody comes back is not known.
    conversation.unlisten(again);
    again.isOpen = false;
    expect(await conversation.ask(question(), asking(again))).toBeUndefined();
    expect(again.kept).toEqual([]);
    conversation.end();
    conversation.notify(line);
    expect(again.kept).toEqual([]);
  });

  it('counts, cancels and ends each request of a client that uses an id twice', () => {
    const conversation = createConversation();
    const [first, second] = [conversation.begin(1), conversation.begin(1)];
    expect(conversation.inFlight).toBe(2);
    conversation.finish(second);
    expect(conversation.inFlight).toBe(1);
    const third = conversation.begin(1);
    conversation.cancel(1, 'enough');
    expect([first, third].map(({ abort }) => abort.signal.aborted)).toEqual([true, true]);
    const last = [conversation.begin('a'), conversation.begin('a')];
    conversation.end();
    expect(last.map(({ abort }) => abort.signal.aborted)).toEqual([true, true]);
  });

  it('tells ids apart by type when one is cancelled', () => {
    const conversation = createConversation();
    const [number, text] = [conversation.begin(1), conversation.begin('1')];
    conversation.cancel('1', 'enough');
    expect([number.abort.signal.aborted, text.abort.signal.aborted]).toEqual([false, true]);
    expect(text.abort.signal.reason).toBe('enough');
    conversation.finish(number);
    conversation.finish(text);
    expect(conversation.inFlight).toBe(0);
  });
});
