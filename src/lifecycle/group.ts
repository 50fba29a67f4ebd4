import type { ServerConfig } from '../config/schema.ts';
import type { Era } from '../protocol/eras.ts';
import type { Balancer } from './balancer.ts';
import { isSessionAffinity, type Lease, type Purpose } from './lease.ts';
import type { Member } from './member.ts';
import { WaitingLine, type WaitingLineOptions } from './waiting-line.ts';

/** What all groups of a server have in common. */
export interface GroupRules {
  server: ServerConfig;
  balancer: Balancer;
  /** Whether the server asks its clients. */
  asks(): boolean;
  /** Of what ran last. */
  era(): Era | undefined;
  isClosed(): boolean;
  /** Whether it is to get one call at a time, because of those before it. */
  isOnTrial(member: Member): boolean;
  /** Whether a start is permitted now; those who wait have been told, or are served later. */
  mayStart(group: Group): boolean;
  /** One more member is needed, for calls or for upkeep alone. */
  add(group: Group, isForUse: boolean): void;
  /** A call has found no instance that was ready. */
  onNeed(): void;
  /** Nobody waits any more. */
  onUnwanted(group: Group): void;
}

/** The instances that may serve the same callers, and those who wait for one: all of a shared server, or those of one session or of one modern client. */
export class Group {
  readonly affinity: string | undefined;
  /** Whether it lives as long as a session, whose questions can be asked outside of calls too. */
  readonly isSession: boolean;
  readonly max: number;
  /** Those that are or will be of use, oldest first. */
  readonly members: Member[] = [];
  /** Those that are being stopped or cleared away; their place is not free yet. */
  readonly leaving = new Set<Member>();
  readonly line: WaitingLine;
  readonly #rules: GroupRules;

  constructor(
    affinity: string | undefined,
    max: number,
    rules: GroupRules,
    line: Omit<WaitingLineOptions, 'isStarting'>,
  ) {
    this.affinity = affinity;
    this.#rules = rules;
    this.isSession = affinity !== undefined && isSessionAffinity(affinity);
    this.max = max;
    this.line = new WaitingLine({
      ...line,
      isStarting: () => this.members.some(({ state, phase }) => state === 'starting' && phase === 'working'),
    });
  }

  get isEmpty(): boolean {
    return this.members.length === 0 && this.leaving.size === 0 && this.line.size === 0;
  }

  /** Whether `max` permits one more. One that is being stopped still counts; one whose thaw is overdue does not: it works for nobody. */
  get hasRoom(): boolean {
    return this.members.filter(({ isSlow }) => !isSlow).length + this.leaving.size < this.max;
  }

  /** How many will be ready without anybody's help, but for those whose thaw is overdue. */
  get #coming(): number {
    let count = 0;
    for (const { state, isSlow } of this.members) {
      if (state === 'starting' || state === 'pausing' || (state === 'resuming' && !isSlow)) count += 1;
    }
    return count;
  }

  /** A lease for one who need not wait. Nobody overtakes a call. */
  grantNow(purpose: Purpose, caller: string | undefined): Lease | undefined {
    if (purpose === 'call' && this.line.calls > 0) return undefined;
    return this.#available(purpose, caller)?.grant(purpose, caller);
  }

  /** Gives waiting callers what there is, in turn, and sees to it that more comes. */
  serve(): void {
    const { line } = this;
    if (line.size === 0) return;
    for (const waiter of line.placeless) {
      const member = this.#available(waiter.purpose, waiter.caller);
      if (!member) break;
      waiter.grant(member.grant(waiter.purpose, waiter.caller));
    }
    for (let waiter = line.nextCall; waiter; waiter = line.nextCall) {
      const member = this.#available('call', waiter.caller);
      if (!member) break;
      waiter.grant(member.grant('call', waiter.caller));
    }
    if (line.size === 0) this.#rules.onUnwanted(this);
    else if (!this.#rules.isClosed()) this.#provide();
  }

  /** Thaws and adds as many instances as those who wait can fill. */
  #provide(): void {
    const { line } = this;
    const { server, era, mayStart, add, onNeed } = this.#rules;
    const perMember = this.#concurrency(era());
    let coming = this.#coming * perMember;
    const isShort = () => coming < line.calls || (coming === 0 && line.placeless.size > 0);
    if (isShort() && line.calls > 0) onNeed();
    for (const member of this.members) {
      if (member.state !== 'paused' || !isShort()) continue;
      member.resume();
      coming += perMember;
    }
    const isForUse = line.calls > 0 || line.holdsWait;
    while (isShort() && this.hasRoom) {
      if (!mayStart(this)) return;
      add(this, isForUse);
      coming += perMember;
    }
    if (coming === 0 && this.leaving.size > 0 && line.note === undefined) {
      line.say(`waiting for the last instance of ${server.name} to end`);
    }
  }

  #available(purpose: Purpose, caller: string | undefined): Member | undefined {
    const member = this.#pick(purpose, caller);
    if (!member?.isFrozen) return member;
    // Frozen by somebody else: it is thawed as if it had been by us, and others serve meanwhile.
    member.resume();
    return this.#available(purpose, caller);
  }

  #pick(purpose: Purpose, caller: string | undefined): Member | undefined {
    const { members } = this;
    if (purpose !== 'call') return members.find(({ state }) => state === 'ready');
    this.#replaceAmbiguous(caller);
    if (members.length === 1) return this.#isOpen(members[0]!) ? members[0] : undefined;
    const candidates = members.filter((member) => this.#isOpen(member));
    return candidates.length === 0 ? undefined : this.#rules.balancer.pick(candidates);
  }

  #isOpen(member: Member): boolean {
    const { state, calls, era } = member;
    if (state !== 'ready' || calls >= this.#concurrency(era)) return false;
    return calls === 0 || !this.#rules.isOnTrial(member);
  }

  /**
   * An instance that may still ask on behalf of a call that was given up could only be refused its questions for another caller: that one
   * gets a fresh instance. Where memory matters it stays.
   */
  #replaceAmbiguous(caller: string | undefined): void {
    const { server, asks } = this.#rules;
    if (!asks() || this.affinity !== undefined || server.stateful) return;
    for (const member of [...this.members]) {
      // Nothing else may run beside one that is held for long.
      const isInUse = member.calls + member.holds > 0;
      if (member.state !== 'ready' || isInUse || member.era === 'modern') continue;
      if (member.mayActForOthers(caller)) member.retire('drain');
    }
  }

  #concurrency(era: Era | undefined): number {
    return this.isOneAtATime(era) ? 1 : this.#rules.server.concurrency;
  }

  /**
   * A server that asks its clients during their calls gets one call at a time, so that each question has one possible addressee.
   * One of the modern era asks in its results, which belong to their calls.
   */
  isOneAtATime(era: Era | undefined): boolean {
    return this.#rules.asks() && !this.isSession && era !== 'modern';
  }

  /** A member is of no use any more, but still there. */
  remove(member: Member): void {
    const index = this.members.indexOf(member);
    if (index !== -1) this.members.splice(index, 1);
    this.leaving.add(member);
  }

  /** A thaw that was overdue has come after all: what was to stand in for it, and has not begun to work, is too much. */
  get surplus(): Member[] {
    const excess = this.members.length + this.leaving.size - this.max;
    if (excess <= 0) return [];
    return this.members.filter(({ state, leases }) => state !== 'ready' && leases === 0).slice(-excess);
  }
}
