import { Backoff, type Clock, type Deferred, deferred } from '../base/async.ts';
import { GatewayError } from '../base/errors.ts';
import { isObject, type Notification, type Params } from '../protocol/jsonrpc.ts';
import { metaKeys } from '../protocol/modern.ts';
import { NotWritten } from '../runtimes/runtime.ts';
import type { OpenListen } from './connection.ts';
import { seconds } from './diagnosis.ts';
import type { Outcome } from './lease.ts';

export interface ListeningOptions {
  server: string;
  /** What the server offers. */
  capabilities: Params;
  /** Resources to watch; one that the server does not let be watched is taken out. */
  watched: Set<string>;
  clock: Clock;
  /** How long the server may take to say what it will tell. */
  acknowledgeLimitMs: number;
  /** Asks the server to tell. */
  open(notifications: Params): OpenListen;
  /** Whether it may be written to now. */
  isAwake(): boolean;
  /** What the server tells, in legacy form. */
  onNotification(notification: Notification): void;
}

/** One `subscriptions/listen`. */
interface Listen extends OpenListen {
  readonly filter: Params;
  /** Resources that the server has agreed to tell of. */
  covered: ReadonlySet<unknown>;
  sinceMs: number;
  /** Why it was given up. */
  failure?: GatewayError;
}

const acknowledged = 'notifications/subscriptions/acknowledged';
/** Changes of what is watched within this time are told to the server at once. */
const gatherMs = 20;
/** One that held for so long was no failure when it ends. */
const wellAfterMs = 60_000;
const methodNotFound = -32601;
const invalidParams = -32602;
/** Lists that a server may announce changes of: capability, and the filter's word for it. */
const lists = { tools: 'toolsListChanged', prompts: 'promptsListChanged', resources: 'resourcesListChanged' };

/**
 * What a modern server tells by itself, by one listen for all clients. When what is watched changes, a new listen takes over from
 * the old one, and each notification is passed on once: until the new one is acknowledged the old one's counts. A listen that the
 * server ends is opened again. (Specification 2026-07-28, basic, patterns, subscriptions.)
 */
export class Listening {
  readonly #options: ListeningOptions;
  readonly #backoff = new Backoff();
  /** Those who wait to hear whether a resource is watched. */
  readonly #asking = new Map<string, Deferred<Outcome>>();
  #current: Listen | undefined;
  #opening: Listen | undefined;
  /** Something has changed since the last listen was opened, or it has ended. */
  #isDue = true;
  /** It was not listened to for a while: changes of lists may have gone unheard. */
  #hasGap = false;
  #isClosed = false;
  #cancelTimer: (() => void) | undefined;
  #cancelLimit: (() => void) | undefined;

  constructor(options: ListeningOptions) {
    this.#options = options;
  }

  /** Has the server told what is due now. To be called when it may be written to again, too. */
  look(): void {
    if (this.#isClosed || this.#opening || !this.#isDue || !this.#options.isAwake()) return;
    this.#cancelTimer?.();
    this.#cancelTimer = undefined;
    this.#isDue = false;
    // What was asked for and is no longer wanted needs no listen.
    for (const uri of [...this.#asking.keys()]) {
      if (!this.#options.watched.has(uri)) this.#settle(uri, agreed);
    }
    const filter = this.#filter();
    if (this.#current && isSame(filter, this.#current.filter)) this.#answer(this.#current);
    else if (Object.keys(filter).length > 0) this.#open(filter);
    else {
      this.#current?.cancel();
      this.#current = undefined;
    }
  }

  /** `watched` has got this resource. Resolves with `{}` when the server has agreed, or with an error. */
  watch(uri: string): Promise<Outcome> {
    const { capabilities, watched } = this.#options;
    if (this.#isClosed) return Promise.reject(this.#gone());
    if (!isObject(capabilities.resources) || !capabilities.resources.subscribe) {
      watched.delete(uri);
      return Promise.resolve(refused(uri, methodNotFound));
    }
    if (this.#current?.covered.has(uri) && !this.#isDue && !this.#opening) return Promise.resolve(agreed);
    let asking = this.#asking.get(uri);
    if (!asking) {
      asking = deferred();
      this.#asking.set(uri, asking);
    }
    this.changed();
    return asking.promise;
  }

  /** `watched` is not what it was. */
  changed(): void {
    this.#isDue = true;
    this.#lookIn(gatherMs);
  }

  /** Takes what the server says that is neither progress nor a log line. */
  take(notification: Notification): void {
    const { method, params } = notification;
    const meta = params?._meta;
    const id = isObject(meta) ? meta[metaKeys.subscriptionId] : undefined;
    if (method === acknowledged) {
      if (id === this.#opening?.id) this.#acknowledge(params?.notifications);
      return;
    }
    if (id === undefined) this.#options.onNotification(notification);
    else if (id === this.#current?.id) this.#options.onNotification(withoutStamp(notification));
  }

  /** The instance is of no more use. */
  close(): void {
    this.#isClosed = true;
    this.#cancelTimer?.();
    this.#cancelLimit?.();
    this.#reject(this.#gone());
  }

  #filter(): Params {
    const { capabilities, watched } = this.#options;
    const filter: Params = {};
    for (const [list, word] of Object.entries(lists)) {
      const offered = capabilities[list];
      if (isObject(offered) && offered.listChanged) filter[word] = true;
    }
    if (watched.size > 0) filter.resourceSubscriptions = [...watched];
    return filter;
  }

  #open(filter: Params): void {
    const { open, clock, acknowledgeLimitMs, server, isAwake } = this.#options;
    const listen: Listen = { ...open(filter), filter, covered: new Set(), sinceMs: clock.now() };
    this.#opening = listen;
    const limit = () => {
      // While it is frozen it cannot answer, and must not be written to.
      if (!isAwake()) {
        this.#cancelLimit = clock.schedule(limit, acknowledgeLimitMs);
        return;
      }
      listen.failure = new GatewayError(
        'call_timeout',
        `Server ${server} did not acknowledge subscriptions/listen within ${seconds(acknowledgeLimitMs)}`,
        { server, hint: 'What changes there is not told for now; it is asked again in a while.' },
      );
      listen.cancel();
    };
    this.#cancelLimit = clock.schedule(limit, acknowledgeLimitMs);
    listen.over.then(
      (outcome) => this.#onOver(listen, outcome),
      (error) => this.#onFailed(listen, error),
    );
  }

  #acknowledge(honoured: unknown): void {
    const listen = this.#opening!;
    const old = this.#current;
    this.#endOpening();
    const uris = isObject(honoured) ? honoured.resourceSubscriptions : undefined;
    listen.covered = new Set(Array.isArray(uris) ? uris : []);
    listen.sinceMs = this.#options.clock.now();
    this.#current = listen;
    old?.cancel();
    this.#answer(listen);
    if (this.#hasGap) this.#fillGap(listen.filter);
    if (this.#isDue) this.#lookIn(gatherMs);
  }

  /** Tells those whose resources this listen asked for. */
  #answer({ filter, covered }: Listen): void {
    const asked = (filter.resourceSubscriptions ?? []) as string[];
    for (const uri of asked) {
      const isCovered = covered.has(uri);
      if (!isCovered) this.#options.watched.delete(uri);
      this.#settle(uri, isCovered ? agreed : refused(uri, invalidParams));
    }
  }

  /** What changed while nobody listened is unknown; to read a list again costs little. */
  #fillGap(filter: Params): void {
    this.#hasGap = false;
    for (const [list, word] of Object.entries(lists)) {
      if (!filter[word]) continue;
      this.#options.onNotification({ jsonrpc: '2.0', method: `notifications/${list}/list_changed` });
    }
  }

  /** The server has ended it, or has refused it. */
  #onOver(listen: Listen, outcome: Outcome): void {
    if (!this.#forget(listen)) return;
    if ('error' in outcome) {
      for (const uri of (listen.filter.resourceSubscriptions ?? []) as string[]) {
        if (this.#current?.covered.has(uri)) continue;
        this.#options.watched.delete(uri);
        this.#settle(uri, { era: 'modern', error: outcome.error });
      }
      // The old one goes on, with what it covers; who does not know the method need not be asked again.
      if (this.#current || outcome.error.code === methodNotFound) {
        if (this.#isDue) this.#lookIn(gatherMs);
        return;
      }
    }
    this.#openAgain(listen);
  }

  /** It was not acknowledged in time, or the instance is gone. */
  #onFailed(listen: Listen, error: unknown): void {
    if (!this.#forget(listen)) return;
    this.#reject(listen.failure ?? error);
    if (listen.failure) this.#openAgain(listen);
  }

  /** False when it has been replaced. */
  #forget(listen: Listen): boolean {
    if (listen === this.#opening) this.#endOpening();
    else if (listen === this.#current) this.#current = undefined;
    else return false;
    return !this.#isClosed;
  }

  #openAgain({ sinceMs }: Listen): void {
    if (this.#options.clock.now() - sinceMs >= wellAfterMs) this.#backoff.succeed();
    this.#isDue = true;
    this.#hasGap ||= !this.#current;
    this.#lookIn(this.#backoff.fail());
  }

  #endOpening(): void {
    this.#opening = undefined;
    this.#cancelLimit?.();
    this.#cancelLimit = undefined;
  }

  #lookIn(delayMs: number): void {
    if (this.#isClosed) return;
    this.#cancelTimer?.();
    this.#cancelTimer = this.#options.clock.schedule(() => {
      this.#cancelTimer = undefined;
      this.look();
    }, delayMs);
  }

  #settle(uri: string, outcome: Outcome): void {
    this.#asking.get(uri)?.resolve(outcome);
    this.#asking.delete(uri);
  }

  #reject(error: unknown): void {
    for (const [uri, asking] of this.#asking) {
      this.#options.watched.delete(uri);
      asking.reject(error);
    }
    this.#asking.clear();
  }

  #gone(): NotWritten {
    return new NotWritten(`${this.#options.server} takes no more messages`);
  }
}

const agreed: Outcome = { era: 'modern', result: {} };

const refused = (uri: string, code: number): Outcome => ({
  era: 'modern',
  error: { code, message: `The server does not tell of changes of ${uri}` },
});

const isSame = (one: Params, other: Params) => JSON.stringify(one) === JSON.stringify(other);

function withoutStamp({ params, ...rest }: Notification): Notification {
  const { _meta, ...others } = params!;
  const { [metaKeys.subscriptionId]: _, ...meta } = _meta as Params;
  const kept = Object.keys(meta).length > 0 ? { ...others, _meta: meta } : others;
  return Object.keys(kept).length > 0 ? { ...rest, params: kept } : rest;
}
