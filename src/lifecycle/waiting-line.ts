import type { Clock } from '../base/async.ts';
import type { GatewayError } from '../base/errors.ts';
import { cancelled } from './connection.ts';
import type { Lease, LeaseOptions, Purpose } from './lease.ts';

/** One who waits for an instance. */
export interface Waiter {
  /** The session that waits, if it is one. */
  readonly caller: string | undefined;
  readonly purpose: Purpose;
  grant(lease: Lease): void;
  refuse(error: GatewayError): void;
}

export interface WaitingLineOptions {
  server: string;
  queueTimeoutMs: number;
  clock: Clock;
  /** Whether a start is under way that has a bound of its own. */
  isStarting(): boolean;
  /** The error of one who waited too long. */
  overdue(): GatewayError;
  /** One came (1) or went (-1). */
  onCount(change: 1 | -1): void;
  /** Somebody gave up, or waited too long. */
  onGivenUp(): void;
}

interface Place extends Waiter {
  readonly sinceMs: number;
  readonly onWaiting: ((text: string) => void) | undefined;
}

/**
 * Those who wait for the same instances; each at most for `queueTimeoutMs` beside the time of starts. Callers take turns, so that one
 * with a thousand calls keeps nobody else waiting; each caller's own are served in the order in which they came.
 */
export class WaitingLine {
  readonly #options: WaitingLineOptions;
  /** In the order in which they came. */
  readonly #calls = new Set<Place>();
  /** The same by caller, in the order of their turns. */
  readonly #turns = new Map<string | undefined, Set<Place>>();
  readonly #placeless = new Set<Place>();
  #note: string | undefined;
  #startEndedAtMs = 0;
  #cancelTimer: (() => void) | undefined;

  constructor(options: WaitingLineOptions) {
    this.#options = options;
  }

  /** How many calls wait. */
  get calls(): number {
    return this.#calls.size;
  }

  /** The call whose turn it is. */
  get nextCall(): Waiter | undefined {
    const [turn] = this.#turns.values();
    const [first] = turn ?? [];
    return first;
  }

  /** The newest call of the caller with the most of them, and how many those are. */
  get lastOfMost(): { count: number; newest: Waiter } | undefined {
    let most: Set<Place> | undefined;
    for (const turn of this.#turns.values()) if (turn.size > (most?.size ?? 0)) most = turn;
    const newest = most && [...most].at(-1);
    return newest && { count: most!.size, newest };
  }

  /** How many calls of one caller wait. */
  callsOf(caller: string | undefined): number {
    return this.#turns.get(caller)?.size ?? 0;
  }

  /** For how long the first one has been waiting. */
  get longestWaitMs(): number {
    const [first] = this.#calls;
    return first ? this.#options.clock.now() - first.sinceMs : 0;
  }

  /** Those who only need an instance, not a place in its concurrency. */
  get placeless(): ReadonlySet<Waiter> {
    return this.#placeless;
  }

  /** Whether one of those is no upkeep. */
  get holdsWait(): boolean {
    for (const { purpose } of this.#placeless) if (purpose === 'hold') return true;
    return false;
  }

  get size(): number {
    return this.#calls.size + this.#placeless.size;
  }

  /** What those who wait were told last, until a start has ended. */
  get note(): string | undefined {
    return this.#note;
  }

  /** Waits for a lease. `serve` is called once the place is taken: it may grant at once. */
  join(options: LeaseOptions, serve: () => void): Promise<Lease> {
    const { server, clock, onCount, onGivenUp } = this.#options;
    const { signal, onWaiting, affinity: caller, purpose = 'call' } = options;
    const queue = purpose === 'call' ? this.#calls : this.#placeless;
    return new Promise((resolve, reject) => {
      const leave = () => {
        if (!queue.delete(place)) return false;
        if (queue === this.#calls) this.#turns.get(caller)!.delete(place);
        signal?.removeEventListener('abort', onAbort);
        onCount(-1);
        return true;
      };
      const onAbort = () => {
        if (!leave()) return;
        this.#forgetIfDone(caller);
        reject(cancelled(server, 'the wait for an instance'));
        onGivenUp();
      };
      const place: Place = {
        caller,
        purpose,
        sinceMs: clock.now(),
        onWaiting,
        grant: (lease) => {
          leave();
          this.#endTurn(caller);
          resolve(lease);
        },
        refuse: (error) => {
          leave();
          this.#forgetIfDone(caller);
          reject(error);
        },
      };
      queue.add(place);
      if (queue === this.#calls) this.#joinTurn(caller, place);
      onCount(1);
      signal?.addEventListener('abort', onAbort, { once: true });
      if (this.#note !== undefined) onWaiting?.(this.#note);
      serve();
      if (queue.has(place)) this.#watch();
    });
  }

  /** Tells all what they wait for. */
  say(text: string): void {
    this.#note = text;
    for (const place of this.#all()) place.onWaiting?.(text);
  }

  /** A start has ended, or waits itself: time in the line counts from here. */
  startEnded(): void {
    this.#startEndedAtMs = this.#options.clock.now();
  }

  forgetNote(): void {
    this.#note = undefined;
  }

  refuseAll(error: GatewayError): void {
    for (const place of this.#all()) place.refuse(error);
  }

  /** Ends its timer. */
  close(): void {
    this.#cancelTimer?.();
    this.#cancelTimer = undefined;
  }

  #joinTurn(caller: string | undefined, place: Place): void {
    const turn = this.#turns.get(caller);
    if (turn) turn.add(place);
    else this.#turns.set(caller, new Set([place]));
  }

  /** The next one's turn: this caller's comes again after everybody's. */
  #endTurn(caller: string | undefined): void {
    const turn = this.#turns.get(caller);
    if (!turn) return;
    this.#turns.delete(caller);
    if (turn.size > 0) this.#turns.set(caller, turn);
  }

  #forgetIfDone(caller: string | undefined): void {
    if (this.#turns.get(caller)?.size === 0) this.#turns.delete(caller);
  }

  #all(): Place[] {
    return [...this.#placeless, ...this.#calls];
  }

  /** One timer for all, for the first of them. */
  #watch(): void {
    if (this.#cancelTimer || this.size === 0) return;
    const { clock, onGivenUp, overdue } = this.#options;
    const [call] = this.#calls;
    const [placeless] = this.#placeless;
    const firsts = [call, placeless].filter((place) => place !== undefined);
    const dueMs = Math.min(...firsts.map((place) => this.#deadline(place))) - clock.now();
    this.#cancelTimer = clock.schedule(
      () => {
        this.#cancelTimer = undefined;
        const now = clock.now();
        for (const place of this.#all()) if (this.#deadline(place) <= now) place.refuse(overdue());
        this.#watch();
        onGivenUp();
      },
      Math.max(1, dueMs),
    );
  }

  #deadline({ sinceMs }: Place): number {
    const { queueTimeoutMs, clock, isStarting } = this.#options;
    const fromMs = isStarting() ? clock.now() : Math.max(sinceMs, this.#startEndedAtMs);
    return fromMs + queueTimeoutMs;
  }
}

/** Who is sent away is not told to come back later than this. */
const maxRetryAfterSeconds = 30;

/** As long as the one who came first has been waiting: then those who are here now have had their turns, more or less. */
export function retryAfterSeconds(lines: readonly WaitingLine[]): number {
  const waitsMs = lines.map(({ longestWaitMs }) => longestWaitMs);
  return Math.min(maxRetryAfterSeconds, Math.max(1, Math.ceil(Math.max(0, ...waitsMs) / 1000)));
}

/**
 * Where no more may wait: whoever has most calls waiting loses the newest one to somebody who has `own` of them, so that one caller
 * does not keep all others out. False when nobody has more than that.
 */
export function makePlace(lines: readonly WaitingLine[], own: number, full: GatewayError): boolean {
  let most: WaitingLine['lastOfMost'];
  for (const { lastOfMost } of lines)
    if (lastOfMost && lastOfMost.count > (most?.count ?? 0)) most = lastOfMost;
  if (!most || most.count <= own + 1) return false;
  most.newest.refuse(full);
  return true;
}
