import { GatewayError } from '../base/errors.ts';
import type { Store } from '../base/store.ts';
import type { ServerConfig } from '../config/schema.ts';
import { isSessionAffinity } from './lease.ts';

/** How long it is noted that a session has state; sessions that live longer without a restart of the gateway lose nothing by it. */
const noteTtlMs = 7 * 86_400_000;
/** Modern clients, unlike sessions, come and go without a word: the oldest are forgotten. */
const maxClients = 10_000;

/**
 * Which sessions, and modern clients that have a name, have something in the memory of a stateful server, and which must still be told that it is gone. Noted in the
 * store as well, because a session outlives a restart of the gateway and an instance does not.
 */
export class SessionMemory {
  readonly #server: ServerConfig;
  readonly #store: Store | undefined;
  readonly #users = new Set<string>();
  readonly #lost = new Map<string, GatewayError>();
  /** Sessions whose notes of an earlier run have been looked up. */
  readonly #looked = new Map<string, Promise<void>>();

  constructor(server: ServerConfig, store: Store | undefined) {
    this.#server = server;
    this.#store = store;
  }

  /** Whether a live session has state in the instances of `affinity` (undefined: the shared ones). */
  isHeldIn(affinity: string | undefined): boolean {
    return this.#usersOf(affinity).length > 0;
  }

  /** The same for a session, whose state is kept for it; a client's ends with the idle time of its instance. */
  isHeldBySessionIn(affinity: string | undefined): boolean {
    return this.#usersOf(affinity).some(isSessionAffinity);
  }

  /** Finds out, once for each session, whether an earlier run of the gateway held state for it; undefined: nothing to wait for. */
  lookUp(session: string): Promise<void> | undefined {
    const store = this.#store;
    if (!store) return undefined;
    let look = this.#looked.get(session);
    if (!look) {
      look = store.get<boolean>(this.#key(session)).then(
        (isNoted) => {
          if (isNoted && !this.#users.has(session) && !this.#lost.has(session))
            this.#lose(session, 'the gateway was restarted');
        },
        () => {},
      );
      this.#looked.set(session, look);
      forgetOldest(this.#looked);
    }
    return look;
  }

  /** The loss that a session must be told of; it is told once. */
  takeLoss(session: string): GatewayError | undefined {
    const loss = this.#lost.get(session);
    if (loss) this.#toldOf(session);
    return loss;
  }

  /** A session may have state from now on. */
  hold(session: string): void {
    if (this.#users.has(session)) return;
    this.#users.add(session);
    forgetOldest(this.#users);
    this.#store?.set(this.#key(session), true, noteTtlMs).catch(() => {});
  }

  /** The instances of `affinity` are gone. `told` are the sessions that hear it from a call in flight. */
  lose(affinity: string | undefined, why: string, told: ReadonlyMap<string, unknown> | undefined): void {
    for (const session of this.#usersOf(affinity)) {
      this.#lose(session, why);
      if (told?.has(session)) this.#toldOf(session);
    }
  }

  /** The session is over. */
  forget(session: string): void {
    this.#looked.delete(session);
    if (this.#users.delete(session) || this.#lost.has(session)) this.#toldOf(session);
  }

  /** Nothing of a client's is running any more. A loss that it has not been told of stays. */
  dismiss(client: string): void {
    this.#looked.delete(client);
    if (this.#users.delete(client)) this.#store?.delete(this.#key(client)).catch(() => {});
  }

  /** The note stays until the loss was told: the gateway may be restarted before that. */
  #lose(session: string, why: string): void {
    this.#users.delete(session);
    const isSession = isSessionAffinity(session);
    const { name } = this.#server;
    this.#lost.set(
      session,
      new GatewayError(
        'instance_crashed',
        `What server ${name} kept in memory for this ${isSession ? 'session' : 'client'} is lost: ${why}. Nothing was done for this call`,
        { server: name, hint: 'Call again: it goes on with a fresh instance.' },
      ),
    );
    forgetOldest(this.#lost);
  }

  #toldOf(session: string): void {
    this.#lost.delete(session);
    this.#store?.delete(this.#key(session)).catch(() => {});
  }

  #usersOf(affinity: string | undefined): string[] {
    if (affinity !== undefined) return this.#users.has(affinity) ? [affinity] : [];
    return this.#server.isolation === 'session' ? [] : [...this.#users];
  }

  #key(session: string): string {
    return `stateful/${this.#server.name} ${session}`;
  }
}

/** Keeps the number of clients bounded; sessions are bounded elsewhere. */
function forgetOldest(names: Set<string> | Map<string, unknown>): void {
  if (names.size <= maxClients) return;
  for (const name of names.keys()) {
    if (isSessionAffinity(name)) continue;
    names.delete(name);
    return;
  }
}
