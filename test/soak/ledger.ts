/** Something done on purpose, which calls of that time may feel. */
interface Fault {
  /** undefined: the gateway itself, so all of them. */
  server: string | undefined;
  fromMs: number;
  /** Infinity until it is over. */
  untilMs: number;
}

/** One call as it is judged. */
export interface Attempt {
  server: string;
  /** What it was about, for people. */
  what: string;
  startedAtMs: number;
}

/** How a call ended without its answer. */
export type Failure =
  | { kind: 'error'; code: string | undefined; message: string }
  | { kind: 'dropped' }
  | { kind: 'unanswered' };

/** After a fault, a server that failed several times may be in back-off for so long. */
const backoffMs = 15_000;
/** Until the engine has told the gateway what was done to a container. */
const noticeMs = 1000;
const maxKept = 50;

/** What became of all calls: which were lost, which were crossed, and which only felt a fault. */
export class Ledger {
  answered = 0;
  /** Its client went away on purpose. */
  left = 0;
  /** Felt a fault, and were told so. */
  excused = 0;
  lostCount = 0;
  crossedCount = 0;
  /** The first of each, in words. */
  readonly lost: string[] = [];
  readonly crossed: string[] = [];
  readonly #faults: Fault[] = [];
  readonly #now: () => number;

  constructor(now: () => number) {
    this.#now = now;
  }

  /** To be called before it is done; the returned function, when it is over. */
  fault(server: string | undefined): () => void {
    const fault: Fault = { server, fromMs: this.#now(), untilMs: Number.POSITIVE_INFINITY };
    this.#faults.push(fault);
    return () => {
      fault.untilMs = this.#now();
    };
  }

  /** Somebody else's answer, or none that this call can have. */
  isCrossed(attempt: Attempt, found: string): void {
    this.crossedCount += 1;
    if (this.crossed.length < maxKept) this.crossed.push(`${this.#times(attempt)}: ${found.slice(0, 400)}`);
  }

  failed(attempt: Attempt, failure: Failure): void {
    if (this.#isExcused(attempt, failure)) this.excused += 1;
    else this.isLost(attempt, JSON.stringify(failure));
  }

  isLost(attempt: Attempt, why: string): void {
    this.lostCount += 1;
    if (this.lost.length < maxKept) this.lost.push(`${this.#times(attempt)}: ${why.slice(0, 600)}`);
  }

  /** Whether something was done to the server since then. */
  wasFaulty(server: string, sinceMs: number): boolean {
    return this.#faults.some(
      (fault) => (fault.server ?? server) === server && fault.untilMs + noticeMs >= sinceMs,
    );
  }

  /** A call that a fault met must have been told: a clear error, or a connection that ended because the gateway did. */
  #isExcused({ server, startedAtMs }: Attempt, failure: Failure): boolean {
    if (failure.kind === 'unanswered') return false;
    const now = this.#now();
    const met = this.#faults.filter(
      (fault) =>
        (fault.server ?? server) === server && fault.fromMs <= now && startedAtMs <= fault.untilMs + noticeMs,
    );
    if (failure.kind === 'dropped') return met.some((fault) => fault.server === undefined);
    if (!failure.message.includes(server) && failure.code !== 'draining') return false;
    if (met.length > 0) return true;
    const isBackoff = failure.code === 'server_failing';
    return (
      isBackoff && this.#faults.some((fault) => fault.server === server && now < fault.untilMs + backoffMs)
    );
  }

  #times({ server, what, startedAtMs }: Attempt): string {
    const seconds = (ms: number) => (ms / 1000).toFixed(2);
    return `${server} ${what} (${seconds(startedAtMs)} s to ${seconds(this.#now())} s)`;
  }
}
