import type { Subscription } from '../access/sessions.ts';
import type { Clock } from '../base/async.ts';
import type { Scope } from '../catalog/catalog.ts';
import type { Notification } from '../protocol/jsonrpc.ts';
import { isLogged } from '../protocol/log-levels.ts';
import type { Conversation } from './conversation.ts';

/** A list as its change is announced; templates are resources there. */
export type ChangedList = 'tools' | 'resources' | 'prompts';

/** Who is told what belongs to no request: a session, or a modern client's listen stream. */
export interface Recipient {
  readonly scope: Scope;
  /** The session or client that it is of; undefined: a client that does not say who it is. */
  readonly affinity: string | undefined;
  /** Which changes of lists it wants to hear of; all unless given. */
  wants?(list: ChangedList): boolean;
  /** `keepAs` is the name under which it may wait for a client that cannot be reached now. */
  notify(notification: Notification, keepAs?: string): void;
}

/** Changes that come within this time become one notification. */
const mergeDelayMs = 100;
/** URL elicitations whose completion may still be announced; the oldest is forgotten first. */
const maxElicitations = 10_000;
const maxElicitationIdLength = 1024;

/** Carries what servers say outside of calls to those whom it belongs to, and to nobody else. */
export class Notifications {
  readonly #recipients = new Set<Recipient>();
  readonly #clock: Clock;
  /** By server, whatever of its lists has changed since the last round. */
  readonly #changed = new Map<string, Set<ChangedList>>();
  #cancelRound: (() => void) | undefined;
  /** By feed (a shared server, or one session's instance), then by the server's own URI. */
  readonly #subscribers = new Map<string, Map<string, Map<Recipient, string>>>();
  /** By server and elicitation id, who was asked to open a page. */
  readonly #elicitations = new Map<string, Conversation>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** From now on it hears of lists that change. */
  add(recipient: Recipient): void {
    this.#recipients.add(recipient);
  }

  /** Lists of a server have changed; everybody who sees it is told, once for all changes of the moment. */
  listsChanged(server: string, lists: Iterable<ChangedList>): void {
    let changed = this.#changed.get(server);
    if (!changed) {
      changed = new Set();
      this.#changed.set(server, changed);
    }
    for (const list of lists) changed.add(list);
    this.#cancelRound ??= this.#clock.schedule(() => this.#announce(), mergeDelayMs);
  }

  /** Lists of a server have changed for one session or client alone. */
  listsChangedFor(affinity: string, server: string, lists: Iterable<ChangedList>): void {
    for (const recipient of this.#recipients) {
      if (recipient.affinity !== affinity) continue;
      if (recipient.scope === undefined || recipient.scope === server) tellOf(lists, recipient);
    }
  }

  /** A log line of a session's own instance. One of a shared instance belongs to a call, or to nobody. */
  log(conversation: Conversation, notification: Notification): void {
    if (isLogged(notification.params?.level, conversation.session.logLevel))
      conversation.notify(notification);
  }

  /** Whether nobody else gets this resource's updates yet, so that the server must be asked for them. */
  isFirst(feed: string, uri: string): boolean {
    return !this.#subscribers.get(feed)?.has(uri);
  }

  subscribe(
    feed: string,
    recipient: Recipient,
    { uri, exposed }: Pick<Subscription, 'uri' | 'exposed'>,
  ): void {
    let byUri = this.#subscribers.get(feed);
    if (!byUri) {
      byUri = new Map();
      this.#subscribers.set(feed, byUri);
    }
    let recipients = byUri.get(uri);
    if (!recipients) {
      recipients = new Map();
      byUri.set(uri, recipients);
    }
    recipients.set(recipient, exposed);
  }

  unsubscribe(feed: string, recipient: Recipient, uri: string): void {
    const byUri = this.#subscribers.get(feed);
    const recipients = byUri?.get(uri);
    if (!byUri || !recipients?.delete(recipient) || recipients.size > 0) return;
    byUri.delete(uri);
    if (byUri.size === 0) this.#subscribers.delete(feed);
  }

  /** A resource was updated, perhaps one below a subscribed one (specification, "resources/updated"). */
  resourceUpdated(feed: string, notification: Notification): void {
    const updated = notification.params?.uri;
    const byUri = this.#subscribers.get(feed);
    if (typeof updated !== 'string' || !byUri) return;
    for (const [uri, recipients] of byUri) {
      if (!isSameOrBelow(updated, uri)) continue;
      for (const [recipient, exposed] of recipients) {
        const told = exposed + updated.slice(uri.length);
        const params = told === updated ? notification.params : { ...notification.params, uri: told };
        recipient.notify({ ...notification, params }, `${notification.method} ${told}`);
      }
    }
  }

  /** Remembers whom a server sent to a page, as its completion does not say. */
  rememberElicitation(server: string, elicitationId: unknown, conversation: Conversation): void {
    if (typeof elicitationId !== 'string' || elicitationId.length > maxElicitationIdLength) return;
    if (this.#elicitations.size >= maxElicitations) {
      this.#elicitations.delete(this.#elicitations.keys().next().value!);
    }
    this.#elicitations.set(`${server} ${elicitationId}`, conversation);
  }

  /** The page was dealt with; its client may try again. */
  elicitationCompleted(server: string, notification: Notification): void {
    const key = `${server} ${notification.params?.elicitationId}`;
    const conversation = this.#elicitations.get(key);
    this.#elicitations.delete(key);
    conversation?.notify(notification, key);
  }

  /** Forgets a recipient that is over. Its subscriptions are ended by `unsubscribe`. */
  forget(recipient: Recipient): void {
    this.#recipients.delete(recipient);
    for (const [key, owner] of this.#elicitations) if (owner === recipient) this.#elicitations.delete(key);
  }

  close(): void {
    this.#cancelRound?.();
  }

  #announce(): void {
    this.#cancelRound = undefined;
    const changed = new Map(this.#changed);
    this.#changed.clear();
    const all = new Set([...changed.values()].flatMap((lists) => [...lists]));
    for (const recipient of this.#recipients) {
      const { scope } = recipient;
      tellOf((scope === undefined ? all : changed.get(scope)) ?? [], recipient);
    }
  }
}

/** Where updates of a server's resources come from: the shared instances, or those of one session or client. */
export const feedOf = (server: string, affinity: string | undefined) =>
  affinity === undefined ? server : `${server} ${affinity}`;

function tellOf(lists: Iterable<ChangedList>, recipient: Recipient): void {
  for (const list of lists) {
    if (recipient.wants && !recipient.wants(list)) continue;
    const notification = listChanged(list);
    recipient.notify(notification, notification.method);
  }
}

const listChanged = (list: ChangedList): Notification => ({
  jsonrpc: '2.0',
  method: `notifications/${list}/list_changed`,
});

function isSameOrBelow(uri: string, parent: string): boolean {
  if (!uri.startsWith(parent)) return false;
  return uri.length === parent.length || parent.endsWith('/') || '/?#'.includes(uri[parent.length]!);
}
