import type { Scope } from '../catalog/catalog.ts';
import type { Id, Notification } from '../protocol/jsonrpc.ts';
import { isObject, type Params } from '../protocol/jsonrpc.ts';
import { metaKeys } from '../protocol/modern.ts';
import type { Stream } from './conversation.ts';
import type { ChangedList, Recipient } from './notifications.ts';

/** What a client may opt in to, by the name that the filter has for it (specification 2026-07-28, "Subscriptions"). */
export const listFilters = {
  tools: 'toolsListChanged',
  prompts: 'promptsListChanged',
  resources: 'resourcesListChanged',
} as const satisfies Record<ChangedList, string>;

/** Notifications that may wait for the acknowledgement to go out first. */
const maxEarly = 1000;

/** One `subscriptions/listen` of a modern client: what it has opted in to, stamped with the id of its request. */
export class ListenStream implements Recipient {
  readonly scope: Scope;
  readonly affinity: string | undefined;
  readonly #id: Id;
  readonly #stream: Stream;
  readonly #lists: ReadonlySet<ChangedList>;
  #early: Notification[] | undefined = [];

  constructor(options: {
    scope: Scope;
    affinity: string | undefined;
    id: Id;
    stream: Stream;
    lists: ReadonlySet<ChangedList>;
  }) {
    this.scope = options.scope;
    this.affinity = options.affinity;
    this.#id = options.id;
    this.#stream = options.stream;
    this.#lists = options.lists;
  }

  wants(list: ChangedList): boolean {
    return this.#lists.has(list);
  }

  /** Says what was agreed to, which must come first, then what has happened meanwhile. */
  acknowledge(notifications: Params): void {
    this.#send({
      jsonrpc: '2.0',
      method: 'notifications/subscriptions/acknowledged',
      params: { notifications },
    });
    const early = this.#early ?? [];
    this.#early = undefined;
    for (const notification of early) this.#send(notification);
  }

  notify(notification: Notification): void {
    if (!this.#early) this.#send(notification);
    else if (this.#early.length < maxEarly) this.#early.push(notification);
  }

  #send(notification: Notification): void {
    const { params } = notification;
    const meta = isObject(params?._meta) ? params._meta : undefined;
    this.#stream.send({
      ...notification,
      params: { ...params, _meta: { ...meta, [metaKeys.subscriptionId]: this.#id } },
    });
  }
}
