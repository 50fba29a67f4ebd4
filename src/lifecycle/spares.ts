import { Backoff, type Clock } from '../base/async.ts';
import type { GatewayError } from '../base/errors.ts';
import type { Member, MemberOwner } from './member.ts';

export interface SparesOptions {
  clock: Clock;
  /** Makes a member that nobody has asked for; not started yet. */
  create(owner: MemberOwner): Member;
  /** What went wrong with one, for people. */
  onFault(error: GatewayError): void;
  onAsked(): void;
  /** What `/servers` shows may be another. */
  onStateChange(): void;
  /** One is there, or gone: more may be wanted, or possible. */
  onChange(): void;
}

/** One that lived this long was well. */
const wellAfterMs = 60_000;

/**
 * The spares of one server: started, told that they are ready, then frozen, for whoever finds no instance that is ready. They are
 * copies that work for nobody, and so beyond `pool.max`; one that is taken becomes a member within it.
 */
export class Spares {
  readonly #options: SparesOptions;
  readonly #spares: Member[] = [];
  readonly #leaving = new Set<Member>();
  /** Its own: a spare that cannot be made keeps no call from trying. */
  readonly #backoff = new Backoff();
  readonly #owner: MemberOwner;
  #retryAtMs = 0;

  constructor(options: SparesOptions) {
    this.#options = options;
    this.#owner = this.#createOwner();
  }

  /** Those that are there, or will be. */
  get present(): readonly Member[] {
    return this.#spares;
  }

  get leaving(): ReadonlySet<Member> {
    return this.#leaving;
  }

  /** 0: one may be tried now. */
  get retryInMs(): number {
    return Math.max(0, this.#retryAtMs - this.#options.clock.now());
  }

  /** What failed may work now. */
  forgive(): void {
    this.#backoff.succeed();
    this.#retryAtMs = 0;
  }

  /** The one that will be ready first goes to `owner`; undefined where there is none. One whose start has not begun is dropped: the caller's own comes first. */
  take(owner: MemberOwner, affinity: string | undefined): Member | undefined {
    const rank = ({ state, phase }: Member) =>
      state === 'starting' ? (phase === 'working' ? 3 : 4) : ['ready', 'paused', 'pausing'].indexOf(state);
    const [best] = [...this.#spares].sort((one, other) => rank(one) - rank(other));
    if (!best) return undefined;
    if (rank(best) === 4) {
      this.#end(best);
      return undefined;
    }
    this.#spares.splice(this.#spares.indexOf(best), 1);
    this.#backoff.succeed();
    best.adopt(owner, affinity);
    this.#options.onChange();
    return best;
  }

  /** Begins to make one more. */
  start(): void {
    const member = this.#options.create(this.#owner);
    this.#spares.push(member);
    void member.start();
    this.#options.onStateChange();
  }

  /** Ends one, the one that would be ready last. */
  drop(): void {
    const last = this.#spares.find(({ state }) => state === 'starting') ?? this.#spares.at(-1);
    if (last) this.#end(last);
  }

  /** One that was just taken has turned out to be outdated: so are those that run the same. */
  dropLike({ digest }: Member): void {
    for (const spare of this.#spares.filter((one) => one.digest === digest)) this.#end(spare);
  }

  #end(spare: Member): void {
    // A start that is ended says so in a moment; nobody is to count on it until then.
    this.#remove(spare);
    spare.retire('idle');
  }

  #remove(spare: Member): void {
    const index = this.#spares.indexOf(spare);
    if (index !== -1) this.#spares.splice(index, 1);
    this.#leaving.add(spare);
  }

  /** Replaces those that would not be started like this any more. */
  async renew(): Promise<void> {
    await Promise.all(
      this.#spares
        .filter(({ state }) => state !== 'starting')
        .map(async (spare) => {
          if (!(await spare.isCurrent()) && spare.isSpare) spare.retire('drain');
        }),
    );
  }

  #createOwner(): MemberOwner {
    const { clock, onFault, onAsked, onStateChange, onChange } = this.#options;
    const failed = () => {
      this.#retryAtMs = clock.now() + this.#backoff.fail();
    };
    return {
      onPhase() {},
      onProgress() {},
      onReady: onChange,
      onStartFailed: (member, error, isFault) => {
        this.#remove(member);
        if (isFault) {
          onFault(error);
          failed();
        }
        onChange();
      },
      onFree: onChange,
      onThawed() {},
      onSlowThaw() {},
      onIdle() {},
      onLeaving: (member, reason) => {
        this.#remove(member);
        if (reason === 'crash') failed();
      },
      onDied: (member) => {
        this.#remove(member);
        if (clock.now() - member.idleSinceMs > wellAfterMs) this.#backoff.succeed();
        failed();
      },
      onCrash: (_member, error) => onFault(error),
      onGone: (member) => {
        this.#remove(member);
        this.#leaving.delete(member);
        onChange();
      },
      onStateChange,
      onAsked,
      // Nobody's: lists are read when it is taken.
      onNotification() {},
      onRequest: () => Promise.reject(new Error('No client has it yet')),
      mustStay: () => true,
    };
  }
}
