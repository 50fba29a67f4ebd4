import { Backoff, type Clock, type Deferred, deferred, sleep } from '../../base/async.ts';
import { messageOf } from '../../base/errors.ts';
import { labels } from './create-options.ts';
import { type Engine, type EngineEvent, engineEvents } from './engine.ts';

const firstRetryMs = 100;
const maxRetryMs = 5_000;
/** How long the events behind an exit may take to arrive after it. */
const eventLagMs = 500;

export interface EngineWatchOptions {
  engine: Engine;
  clock: Clock;
  onLost(reason: string): void;
  /** It answers again; `engine.facts` are fresh. */
  onBack(): void;
}

interface Fate {
  ranOutOfMemory: boolean;
  wasKilled: boolean;
  died: Deferred<void>;
}

/** Follows the engine's events about our containers, over its restarts. */
export class EngineWatch {
  readonly #options: EngineWatchOptions;
  readonly #fates = new Map<string, Fate>();
  readonly #closed = new AbortController();
  #isOpen = false;

  constructor(options: EngineWatchOptions) {
    this.#options = options;
    void this.#run();
  }

  /** Remembers what happens to a container from now on, until `forget`. */
  remember(id: string): void {
    this.#fates.set(id, { ranOutOfMemory: false, wasKilled: false, died: deferred() });
  }

  forget(id: string): void {
    this.#fates.delete(id);
  }

  /**
   * Whether a container that exited with a code other than 0 was killed for its memory. Podman tells nobody: there it is an exit by
   * SIGKILL that no one asked for.
   */
  async ranOutOfMemory(id: string, code: number): Promise<boolean> {
    const fate = this.#fates.get(id);
    if (!fate || !this.#isOpen) return false;
    const lag = new AbortController();
    // Events come in order, so that once the death is told, what led to it has been told too.
    await Promise.race([
      fate.died.promise,
      sleep(eventLagMs, { clock: this.#options.clock, signal: lag.signal }).catch(() => {}),
    ]);
    lag.abort();
    return fate.ranOutOfMemory || (this.#options.engine.isPodman && code === 137 && !fate.wasKilled);
  }

  close(): void {
    this.#closed.abort();
  }

  async #run(): Promise<void> {
    const { engine, clock, onLost, onBack } = this.#options;
    const { signal } = this.#closed;
    const backoff = new Backoff(firstRetryMs, maxRetryMs);
    let isLost = false;
    while (!signal.aborted) {
      let reason = 'the stream of its events ended';
      try {
        const events = engineEvents(engine, `${labels.managed}=true`, signal, () => {
          this.#isOpen = true;
          backoff.succeed();
        });
        if (isLost) {
          await engine.refreshFacts();
          isLost = false;
          onBack();
        }
        for await (const event of events) this.#take(event);
      } catch (error) {
        reason = messageOf(error);
      }
      this.#isOpen = false;
      if (signal.aborted) return;
      if (!isLost) {
        isLost = true;
        onLost(reason);
      }
      await sleep(backoff.fail(), { clock, signal }).catch(() => {});
    }
  }

  #take({ type, action, id }: EngineEvent): void {
    if (type !== 'container') return;
    const fate = this.#fates.get(id);
    if (!fate) return;
    if (action === 'oom') fate.ranOutOfMemory = true;
    else if (action === 'kill') fate.wasKilled = true;
    else if (action === 'die' || action === 'destroy') fate.died.resolve();
  }
}
