import type { Era } from '../protocol/eras.ts';
import type { ErrorObject, Notification, Params, Request } from '../protocol/jsonrpc.ts';
import type { ClientContext } from '../protocol/modern.ts';

/** What a server said of itself, in its handshake or when it was asked to describe itself; kept as it came. */
export interface Handshake {
  /** Tells its era (`eraOf`). */
  protocolVersion: string;
  capabilities: Params;
  serverInfo: Params;
  instructions?: string;
}

/** The outcome of a request, without the ids of either side. `era` is that of the instance that answered, if one did. */
export type Outcome = { era?: Era } & ({ result: Params } | { error: ErrorObject });

/**
 * What a lease is for. `call` counts against concurrency and resets the idle clock. `hold` (a task that goes on by itself) resets
 * the idle clock and takes no place. `upkeep` (reading lists) does neither, and an instance that was started for it alone stops when
 * it is released.
 */
export type Purpose = 'call' | 'hold' | 'upkeep';

/** Who asks for a lease, and how. */
export interface LeaseOptions {
  /** The session that asks, or the modern client (`clientAffinity`); picks the instance where `isolation: session`. */
  affinity?: string;
  signal?: AbortSignal;
  /** `call` unless given. */
  purpose?: Purpose;
  /** Told what the wait is for, for people: `starting context7`, `building mcp-context7: step 3/9`. */
  onWaiting?(text: string): void;
}

/** The affinity of a modern client that gives itself a name. It has no session: its instance ends by idleness. */
export const clientAffinity = (client: string) => `client ${client}`;

/** Whether an affinity is a session's, whose instance lives as long as it. */
export const isSessionAffinity = (affinity: string) => !affinity.startsWith('client ');

/** One call's hold on an instance. While it is open the instance is never stopped. */
export interface Lease extends Disposable {
  readonly instance: string;
  readonly handshake: Handshake;
  call(request: OutgoingRequest, options?: CallOptions): Promise<Outcome>;
  notify(notification: { method: string; params?: Params }): Promise<void>;
  /** A second hold on the same instance, which outlives this one and takes no place in its concurrency. */
  hold(): Lease;
  /** Doing it twice is done once. */
  release(): void;
}

/** A request without the ids of either side. */
export interface OutgoingRequest {
  method: string;
  /**
   * Without the modern era's own keys of `_meta`: an instance of that era is told them from `CallOptions.client`. The client's own
   * `_meta.progressToken` is replaced on the way out and restored on the way back.
   */
  params?: Params;
}

/**
 * Rejects with GatewayError: `instance_crashed`, `out_of_memory`, `flooded`, `message_too_large`, `call_timeout`,
 * `cancelled` (the signal was aborted; the server was sent `notifications/cancelled`), or with `NotWritten` when
 * nothing reached the instance.
 */
export interface CallOptions {
  signal?: AbortSignal;
  /** How long the server may be silent; `timeouts.call` of the server unless given. */
  silenceLimitMs?: number;
  /** Its progress is passed on after the answer too, until this aborts: the call has begun what goes on by itself. */
  lasting?: AbortSignal;
  /** Who calls, for an instance of the modern era; the gateway itself unless given. */
  client?: ClientContext;
  /** An unanswered question is declined after this long; `timeouts.client` of the server unless given. */
  questionLimitMs?: number;
  /** What belongs to this call and to no other: its progress (token restored), attributed log lines. */
  onNotification?(notification: Notification): void;
  /** The server asks this call's client. Without it the request is declined as the client's missing capability asks. */
  onRequest?(
    request: Request,
    signal: AbortSignal,
    /** Tells the server something about its question: the client's progress on it. */
    notify: (notification: Notification) => void,
  ): Promise<Outcome>;
}

/** What instances say outside of any call; given to the fleet once. */
export interface InstanceListener {
  /** `affinity` is the session, or the modern client, whose instance it is, undefined for a shared one. In legacy form in either era. */
  onNotification(
    server: string,
    affinity: string | undefined,
    notification: Notification,
    instance: string,
  ): void;
  /** Only from an instance that belongs to one session, and from any where the request names the task that it is about. */
  onRequest(
    server: string,
    affinity: string | undefined,
    request: Request,
    signal: AbortSignal,
    instance: string,
  ): Promise<Outcome>;
  /** An instance has answered its handshake; `startedFor` upkeep, its lists are being read already. */
  onReady(server: string, affinity: string | undefined, startedFor: Purpose): void;
  /** A shared instance asked its client for something: from now on it gets one call at a time. */
  onAsked(server: string): void;
  /** A session, or a modern client, has no instance of its own any more. */
  onEnded(server: string, affinity: string): void;
}
