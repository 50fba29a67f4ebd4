import { type Clock, within as limited } from '../base/async.ts';
import { GatewayError } from '../base/errors.ts';
import type { ServerConfig } from '../config/schema.ts';
import type { Instance, Prepared } from '../runtimes/runtime.ts';
import type { Connection } from './connection.ts';
import { type Finding, findEra, type KnownEra } from './era.ts';
import type { Handshake } from './lease.ts';
import { becomeReady, type StartContext, type StartSlots, start } from './readiness.ts';

export interface LaunchOptions {
  server: ServerConfig;
  era: KnownEra;
  slots: StartSlots;
  clock: Clock;
  /** A connection for one instance. */
  connect(): Connection;
  /** It waits for one of the host's slots, or has got it. */
  onPhase(phase: 'waiting' | 'working'): void;
}

/** What was started only to be asked has nothing to finish. */
const triedOutGraceMs = 2000;
/** How long a stop may take beyond its grace before it is left behind. */
export const stopSlackMs = 15_000;

/** How a member comes to its instance: started in the era that its server speaks, which the first one finds out in an instance of its own. */
export class Launch {
  readonly #options: LaunchOptions;
  /** That of its instance, or of one that is tried out before. */
  connection: Connection;
  instance: Instance | undefined;
  /** A start that was given up and that the runtime has yet to undo. */
  overrun: Promise<void> | undefined;

  constructor(options: LaunchOptions) {
    this.#options = options;
    this.connection = options.connect();
  }

  /** From what is prepared to an instance that is ready. Rejects with GatewayError; `instance` and `overrun` are what is left then. */
  async begin(context: StartContext, prepared: Prepared): Promise<Handshake> {
    const { digest } = prepared;
    const { era: known, clock, server } = this.#options;
    const { handshakeMs } = server.timeouts;
    const { signal } = context;
    let usable: Handshake | undefined;
    const tryOut = async (): Promise<Finding> => {
      const finding = await this.#launch(context, prepared, () =>
        findEra(this.connection, { handshakeMs, clock }),
      );
      usable = finding.handshake;
      if (!usable) await this.#clearAway(this.instance!, signal);
      return finding;
    };
    const era = known.of(digest) ?? (await known.learn(digest, signal, tryOut));
    if (usable) return usable;
    try {
      const handshake = await this.#launch(context, prepared, () => this.connection.handshake(era));
      known.remember(digest, era);
      return handshake;
    } catch (error) {
      if (this.instance && !signal.aborted) known.doubt(digest, error);
      throw error;
    }
  }

  /** Starts an instance and waits for the answer to the first question that is put to it. */
  async #launch<T>(context: StartContext, prepared: Prepared, ask: () => Promise<T>): Promise<T> {
    const { connect, onPhase, slots } = this.#options;
    const connection = connect();
    this.connection = connection;
    onPhase('waiting');
    this.instance = await start(context, prepared, {
      slots,
      connection,
      onSlot: () => onPhase('working'),
      onOverrun: (cleared) => {
        this.overrun = cleared;
      },
    });
    return becomeReady(context, this.instance, connection, ask);
  }

  /** Ends an instance that was only tried out. Two copies do not run side by side, so the next one waits for that. */
  async #clearAway(instance: Instance, signal: AbortSignal): Promise<void> {
    const { server, clock } = this.#options;
    const graceMs = Math.min(server.timeouts.stopMs, triedOutGraceMs);
    const force = () => void instance.stop({ graceMs: 0 }).catch(() => {});
    this.connection.close(
      new GatewayError('draining', `Server ${server.name} is started anew`, { server: server.name }),
    );
    signal.addEventListener('abort', force, { once: true });
    await settledWithin(instance.stop({ graceMs }), graceMs + stopSlackMs, clock);
    signal.removeEventListener('abort', force);
    this.instance = undefined;
    signal.throwIfAborted();
  }
}

/** Resolves when the work has ended, well or not, or its time is over. */
export function settledWithin(work: Promise<unknown>, limitMs: number, clock: Clock): Promise<void> {
  return limited(work, limitMs, () => new Error('too late'), clock).then(
    () => {},
    () => {},
  );
}
