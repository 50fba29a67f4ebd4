import { abortable } from '../base/async.ts';
import type { Params } from '../protocol/jsonrpc.ts';
import type { Connection } from './connection.ts';
import type { CallOptions, Handshake, Lease, Outcome, OutgoingRequest, Purpose } from './lease.ts';

/** The instance as its leases see it. */
export interface Leased {
  readonly name: string;
  readonly handshake: Handshake | undefined;
  /** The answer to a request that it has other means for. */
  standIn(request: OutgoingRequest): Promise<Outcome> | undefined;
  grant(purpose: Purpose, caller: string | undefined): Lease;
  release(purpose: Purpose, caller: string | undefined): void;
}

/** A hold on one member, closed once however often it is released. */
export class MemberLease implements Lease {
  readonly #member: Leased;
  readonly #connection: Connection;
  readonly #purpose: Purpose;
  readonly #caller: string | undefined;
  #isReleased = false;

  constructor(member: Leased, connection: Connection, purpose: Purpose, caller: string | undefined) {
    this.#member = member;
    this.#connection = connection;
    this.#purpose = purpose;
    this.#caller = caller;
  }

  get instance(): string {
    return this.#member.name;
  }

  get handshake(): Handshake {
    return this.#member.handshake!;
  }

  call(request: OutgoingRequest, options?: CallOptions): Promise<Outcome> {
    if (this.#isReleased) return Promise.reject(released());
    const answer = this.#member.standIn(request);
    if (answer) return abortable(answer, options?.signal);
    return this.#connection.call(request, options, this.#purpose, this.#caller);
  }

  notify(notification: { method: string; params?: Params }): Promise<void> {
    if (this.#isReleased) return Promise.reject(released());
    return this.#connection.notify(notification);
  }

  hold(): Lease {
    if (this.#isReleased) throw released();
    return this.#member.grant('hold', this.#caller);
  }

  release(): void {
    if (this.#isReleased) return;
    this.#isReleased = true;
    this.#member.release(this.#purpose, this.#caller);
  }

  [Symbol.dispose](): void {
    this.release();
  }
}

const released = () => new Error('The lease was released');
