import { describe, expect, it } from 'vitest';
import { Session } from '../access/sessions.ts';
import type { Clock } from '../base/async.ts';
import type { Notification } from '../protocol/jsonrpc.ts';
import { Conversation } from './conversation.ts';
import { Notifications } from './notifications.ts';

function setUp(scopes: (string | undefined)[]) {
  let round: (() => void) | undefined;
  const clock: Clock = {
    now: () => 0,
    schedule: (task) => {
      round = task;
      return () => {
        round = undefined;
      };
    },
  };
  const clients = scopes.map((scope, index) => {
    const session = new Session(`${index}`, 'token', {
      protocolVersion: '2025-11-25',
      capabilities: {},
      clientInfo: {},
      principal: 'anonymous',
      scope: scope ?? null,
      subscriptions: [],
      lastUseMs: 0,
    });
    const conversation = new Conversation(session, clock, 'r');
    const seen: Notification[] = [];
    conversation.listen({
      send: (message) => {
        seen.push(message as Notification);
        return true;
      },
      end: () => {},
    });
    return { conversation, seen };
  });
  const notifications = new Notifications(clock);
  for (const { conversation } of clients) notifications.add(conversation);
  return { notifications, clients, runRound: () => round?.() };
}

const methods = (seen: Notification[]) => seen.map(({ method }) => method);
const updated = (uri: string): Notification => ({
  jsonrpc: '2.0',
  method: 'notifications/resources/updated',
  params: { uri, title: 'kept' },
});

describe('notifications', () => {
  it('merge list changes of the moment, for each session those of the servers that it sees', () => {
    const { notifications, clients, runRound } = setUp([undefined, 'a', 'b', 'c']);
    notifications.listsChanged('a', ['tools']);
    notifications.listsChanged('a', ['tools', 'prompts']);
    notifications.listsChanged('b', ['tools']);
    expect(clients.flatMap(({ seen }) => seen)).toEqual([]);
    runRound();
    const [all, a, b, c] = clients.map(({ seen }) => methods(seen));
    const [tools, prompts] = ['notifications/tools/list_changed', 'notifications/prompts/list_changed'];
    expect(all!.toSorted()).toEqual([prompts, tools]);
    expect(a!.toSorted()).toEqual([prompts, tools]);
    expect(b).toEqual([tools]);
    expect(c).toEqual([]);
  });

  it('tell of a resource those who watch it or what holds it, by the URI that they know', () => {
    const { notifications, clients } = setUp([undefined, undefined, undefined]);
    const [one, two, three] = clients;
    const watch = (client: typeof one, uri: string, exposed = uri, feed = 'files') =>
      notifications.subscribe(feed, client!.conversation, { uri, exposed });
    watch(one, 'file:///a', 'mcp-gateway://files/file:///a');
    watch(two, 'file:///a/b');
    watch(three, 'file:///a', undefined, 'files 2');
    notifications.resourceUpdated('files', updated('file:///a/b'));
    notifications.resourceUpdated('files', updated('file:///ab'));
    notifications.resourceUpdated('other', updated('file:///a'));
    expect(one!.seen.map(({ params }) => params)).toEqual([
      { uri: 'mcp-gateway://files/file:///a/b', title: 'kept' },
    ]);
    expect(two!.seen).toEqual([updated('file:///a/b')]);
    expect(three!.seen).toEqual([]);
    notifications.unsubscribe('files', two!.conversation, 'file:///a/b');
    expect(notifications.isFirst('files', 'file:///a/b')).toBe(true);
    notifications.resourceUpdated('files', updated('file:///a/b'));
    expect(two!.seen).toHaveLength(1);
  });

  it('tell the end of a URL elicitation to the one who was sent there, once', () => {
    const { notifications, clients } = setUp([undefined, undefined]);
    const [one, two] = clients;
    notifications.rememberElicitation('a', 'id', one!.conversation);
    notifications.rememberElicitation('b', 'id', two!.conversation);
    const complete: Notification = {
      jsonrpc: '2.0',
      method: 'notifications/elicitation/complete',
      params: { elicitationId: 'id' },
    };
    notifications.elicitationCompleted('a', complete);
    notifications.elicitationCompleted('a', complete);
    notifications.elicitationCompleted('c', complete);
    expect(one!.seen).toEqual([complete]);
    expect(two!.seen).toEqual([]);
    notifications.forget(two!.conversation);
    notifications.elicitationCompleted('b', complete);
    expect(two!.seen).toEqual([]);
  });
});
