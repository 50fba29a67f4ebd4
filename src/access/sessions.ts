import { randomBytes } from 'node:crypto';
import { SignJWT } from 'jose/jwt/sign';
import { jwtVerify } from 'jose/jwt/verify';
import { type Clock, systemClock } from '../base/async.ts';
import { GatewayError } from '../base/errors.ts';
import type { Store } from '../base/store.ts';
import type { GatewayConfig } from '../config/schema.ts';

/** What a legacy client said of itself in `initialize`, as it came, and what was agreed on. */
export interface ClientIdentity {
  protocolVersion: string;
  capabilities: Record<string, unknown>;
  clientInfo: Record<string, unknown>;
}

/** A resource whose updates a client wants. */
export interface Subscription {
  server: string;
  /** What the server calls it. */
  uri: string;
  /** What the client calls it. */
  exposed: string;
}

/** A session as it lies in the Store. */
interface SessionRecord extends ClientIdentity {
  principal: string;
  /** null: all servers. */
  scope: string | null;
  logLevel?: string;
  subscriptions: Subscription[];
  lastUseMs: number;
}

/** One legacy client's conversation: what must survive the requests of it, and a restart. */
export class Session {
  /** Random; the affinity of its instances. The client holds it inside a signed token. */
  readonly id: string;
  /** The value of `Mcp-Session-Id`. */
  readonly token: string;
  readonly principal: string;
  /** The server it was opened for, undefined: all. */
  readonly scope: string | undefined;
  readonly client: ClientIdentity;
  readonly subscriptions: Subscription[];
  logLevel: string | undefined;
  lastUseMs: number;
  /** Open streams and calls in flight; above 0 the session does not expire. */
  holds = 0;
  ended = false;
  /** When it was last written to the Store; undefined while a change waits to be. */
  writtenAtMs: number | undefined;

  constructor(id: string, token: string, record: SessionRecord) {
    this.id = id;
    this.token = token;
    this.principal = record.principal;
    this.scope = record.scope ?? undefined;
    this.client = {
      protocolVersion: record.protocolVersion,
      capabilities: record.capabilities,
      clientInfo: record.clientInfo,
    };
    this.subscriptions = record.subscriptions;
    this.logLevel = record.logLevel;
    this.lastUseMs = record.lastUseMs;
  }

  toRecord(): SessionRecord {
    return {
      ...this.client,
      principal: this.principal,
      scope: this.scope ?? null,
      logLevel: this.logLevel,
      subscriptions: this.subscriptions,
      lastUseMs: this.lastUseMs,
    };
  }
}

/** Who is told of sessions' beginnings and ends. */
export interface SessionObserver {
  /** A session began, or one of an earlier run was used again. */
  onOpen?(session: Session): void;
  /** A session ended: deleted, expired, or evicted for a newer one. */
  onEnd?(session: Session): void;
}

/** What the sessions are made of. */
export interface SessionsOptions {
  store: Store;
  /** Signs the ids; kept, so that they outlive a restart. */
  key: Uint8Array;
  gateway: Pick<GatewayConfig, 'maxSessions' | 'sessionTimeoutMs'>;
  /** The Store failed; sessions go on in memory. */
  onStoreError?(error: unknown): void;
  clock?: Clock;
}

const kind = 'session';
const issuer = 'mcp-gateway';
/** Changes are gathered this long before they are written. */
const writeDelayMs = 500;
/** Longer is no token of ours; keeps garbage away from the signature check. */
const maxTokenLength = 1024;

/**
 * The legacy sessions. An id is a short signed token, so that forged ones cost no lookup; verified ones are kept in
 * memory, so that the hot path does no cryptography. When `maxSessions` is reached, the one that was idle the longest makes
 * room: most clients never send DELETE, and refusing live ones for the sake of dead ones would lock users out.
 */
export class Sessions {
  readonly #store: Store;
  readonly #limits: SessionsOptions['gateway'];
  readonly #options: SessionsOptions;
  readonly #clock: Clock;
  readonly #key: Uint8Array;
  /** By token. */
  readonly #live = new Map<string, Session>();
  readonly #loading = new Map<string, Promise<Session>>();
  readonly #writing = new Set<Promise<void>>();
  readonly #observers: SessionObserver[] = [];
  #cancelWrite: (() => void) | undefined;
  #cancelSweep: (() => void) | undefined;

  constructor(options: SessionsOptions) {
    this.#options = options;
    this.#store = options.store;
    this.#limits = options.gateway;
    this.#clock = options.clock ?? systemClock;
    this.#key = options.key;
    this.#sweepLater();
  }

  /** Before the first session. Observers are told in the order in which they came. */
  observe(observer: SessionObserver): void {
    this.#observers.push(observer);
  }

  get size(): number {
    return this.#live.size;
  }

  /** Begins a session. Throws `session_limit` when `maxSessions` are open and all of them are in use. */
  async begin(client: ClientIdentity, scope: string | undefined, principal = 'anonymous'): Promise<Session> {
    const id = randomBytes(12).toString('base64url');
    const token = await new SignJWT({ jti: id, sub: principal, iss: issuer })
      .setProtectedHeader({ alg: 'HS256' })
      .sign(this.#key);
    this.#makeRoom();
    const session = new Session(id, token, {
      ...client,
      principal,
      scope: scope ?? null,
      subscriptions: [],
      lastUseMs: this.#clock.now(),
    });
    this.#live.set(token, session);
    for (const observer of this.#observers) observer.onOpen?.(session);
    // A gateway that is killed a moment after the answer must know the session when it is back.
    await this.#write(session);
    return session;
  }

  /**
   * The session of a token, counted as used now. Synchronous for one that was seen before. Throws `session_unknown` for a
   * forged, ended or expired one, for another principal's, and for one that was opened on another path.
   */
  find(token: string, scope: string | undefined, principal = 'anonymous'): Session | Promise<Session> {
    const session = this.#live.get(token);
    if (!session) return this.#load(token).then((loaded) => this.#use(loaded, scope, principal));
    return this.#use(session, scope, principal);
  }

  /** Keeps the session from expiring until the returned function is called (once). */
  hold(session: Session): () => void {
    session.holds += 1;
    let held = true;
    return () => {
      if (!held) return;
      held = false;
      session.holds -= 1;
      session.lastUseMs = this.#clock.now();
    };
  }

  /** What the session remembers has changed; it is written soon. */
  changed(session: Session): void {
    session.writtenAtMs = undefined;
    this.#cancelWrite ??= this.#clock.schedule(() => {
      this.#cancelWrite = undefined;
      for (const one of this.#live.values()) if (one.writtenAtMs === undefined) this.#write(one);
    }, writeDelayMs);
  }

  /** Ends a session for good: its id stays unknown from now on. */
  end(session: Session): void {
    if (session.ended) return;
    session.ended = true;
    this.#live.delete(session.token);
    this.#track(this.#store.delete(`${kind}/${session.id}`));
    for (const observer of this.#observers) observer.onEnd?.(session);
  }

  /** Writes what is still unwritten. The sessions themselves stay: the next run takes them up. */
  async close(): Promise<void> {
    this.#cancelWrite?.();
    this.#cancelSweep?.();
    for (const session of this.#live.values()) this.#write(session);
    await Promise.all(this.#writing);
  }

  #use(session: Session, scope: string | undefined, principal: string): Session {
    const now = this.#clock.now();
    if (session.ended || this.#isExpired(session, now)) {
      this.end(session);
      throw unknownSession();
    }
    if (session.scope !== scope || session.principal !== principal) throw unknownSession();
    session.lastUseMs = now;
    return session;
  }

  #isExpired(session: Session, now: number): boolean {
    return session.holds === 0 && now - session.lastUseMs > this.#limits.sessionTimeoutMs;
  }

  /** Single flight: two first requests after a restart must not make two sessions of one. */
  #load(token: string): Promise<Session> {
    const loading = this.#loading.get(token);
    if (loading) return loading;
    const started = this.#read(token).finally(() => this.#loading.delete(token));
    this.#loading.set(token, started);
    return started;
  }

  async #read(token: string): Promise<Session> {
    if (token.length > maxTokenLength) throw unknownSession();
    let id: string | undefined;
    try {
      const { payload } = await jwtVerify(token, this.#key, { algorithms: ['HS256'], issuer });
      id = payload.jti;
    } catch {
      throw unknownSession();
    }
    const record = id === undefined ? undefined : await this.#store.get<SessionRecord>(`${kind}/${id}`);
    if (id === undefined || !record) throw unknownSession();
    const session = new Session(id, token, record);
    // The record is older than the last use by as much as writing is put off.
    const now = this.#clock.now();
    session.lastUseMs = Math.min(session.lastUseMs + this.#refreshMs, now);
    session.writtenAtMs = now;
    this.#makeRoom();
    this.#live.set(token, session);
    for (const observer of this.#observers) observer.onOpen?.(session);
    return session;
  }

  #makeRoom(): void {
    if (this.#live.size < this.#limits.maxSessions) return;
    let oldest: Session | undefined;
    for (const session of this.#live.values()) {
      if (session.holds === 0 && !(oldest && oldest.lastUseMs <= session.lastUseMs)) oldest = session;
    }
    if (oldest) {
      this.end(oldest);
      return;
    }
    throw new GatewayError('session_limit', `All ${this.#limits.maxSessions} sessions are in use.`, {
      hint: 'Close a client, or raise gateway.max_sessions.',
    });
  }

  /** How stale a record's last use may become before it is written again. */
  get #refreshMs(): number {
    return Math.min(this.#limits.sessionTimeoutMs / 10, 60_000);
  }

  #write(session: Session): Promise<void> {
    const now = this.#clock.now();
    session.writtenAtMs = now;
    const ttlMs = this.#limits.sessionTimeoutMs + this.#refreshMs;
    return this.#track(this.#store.set(`${kind}/${session.id}`, session.toRecord(), ttlMs));
  }

  /** The Store does what concerns one key in the order in which it was asked. */
  #track(work: Promise<void>): Promise<void> {
    const tracked = work
      .catch((error) => this.#options.onStoreError?.(error))
      .finally(() => this.#writing.delete(tracked));
    this.#writing.add(tracked);
    return tracked;
  }

  #sweepLater(): void {
    this.#cancelSweep = this.#clock.schedule(() => {
      this.#sweep();
      this.#sweepLater();
    }, this.#refreshMs);
  }

  #sweep(): void {
    const now = this.#clock.now();
    for (const session of this.#live.values()) {
      if (this.#isExpired(session, now)) {
        this.end(session);
        continue;
      }
      // A session with a stream open is in use, whatever its last request was.
      if (session.holds > 0) session.lastUseMs = now;
      if (session.lastUseMs > (session.writtenAtMs ?? 0)) this.#write(session);
    }
  }
}

function unknownSession(): GatewayError {
  return new GatewayError('session_unknown', 'This session does not exist, or has ended or expired.', {
    hint: 'Connect again: send initialize without a session id.',
  });
}
