import type { Era } from '../protocol/eras.ts';
import { isSessionAffinity } from './lease.ts';
import type { Member } from './member.ts';
import { WaitingLine, type WaitingLineOptions } from './waiting-line.ts';

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

  constructor(affinity: string | undefined, max: number, line: Omit<WaitingLineOptions, 'isStarting'>) {
    this.affinity = affinity;
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
  get coming(): number {
    let count = 0;
    for (const { state, isSlow } of this.members) {
      if (state === 'starting' || state === 'pausing' || (state === 'resuming' && !isSlow)) count += 1;
    }
    return count;
  }

  /** Those that can take a call now. */
  open(concurrency: (era: Era) => number): Member[] {
    return this.members.filter(({ state, calls, era }) => state === 'ready' && calls < concurrency(era));
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
