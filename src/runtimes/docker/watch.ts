import { Backoff, type Clock, type Deferred, deferred, sleep } from '../../base/async.ts';
import { messageOf } from '../../base/errors.ts';
import { type Engine, type EngineEvent, engineEvents } from './engine.ts';

const firstRetryMs = 100;
const maxRetryMs = 5_000;
/** How long the events behind an exit may take to arrive after it. */
const eventLagMs = 500;
/** How long the event of a lack of memory may come after that of the death; within the time that an answer may take. */
const memoryEventLagMs = 50;

export interface EngineWatchOptions {
  engine: Engine;
  clock: Clock;
  /** An image was made, named, unnamed or removed; or may have been, unwatched. */
  onImagesChanged(): void;
  /** A network was removed; or may have been, unwatched. */
  onNetworksChanged(): void;
  onLost(reason: string): void;
  /** It answers again; `engine.facts` are fresh. */
  onBack(): void;
}

interface Fate {
  ranOutOfMemory: boolean;
  toldOfMemory: Deferred<void>;
  wasKilled: boolean;
  isFrozen: boolean;
  /** With the exit code, where the event has it. */
  died: Deferred<number | undefined>;
}

/** Follows the engine's events, over its restarts. */
export class EngineWatch {
  readonly #options: EngineWatchOptions;
  readonly #fates = new Map<string, Fate>();
  readonly #closed = new AbortController();
  #isOpen = false;

  constructor(options: EngineWatchOptions) {
    this.#options = options;
    void this.#run();
  }

  /** Whether every change is told at this moment. */
  get isOpen(): boolean {
    return this.#isOpen;
  }

  /** Remembers what happens to a container from now on, until `forget`. */
  remember(id: string): void {
    this.#fates.set(id, {
      ranOutOfMemory: false,
      toldOfMemory: deferred(),
      wasKilled: false,
      isFrozen: false,
      died: deferred(),
    });
  }

  forget(id: string): void {
    this.#fates.delete(id);
  }

  /** Whether it was frozen, by whomever, and nobody has thawed it since. */
  isFrozen(id: string): boolean {
    return this.#fates.get(id)?.isFrozen ?? false;
  }

  /** It has been thawed; the event of that may still be on its way. */
  thawed(id: string): void {
    const fate = this.#fates.get(id);
    if (fate) fate.isFrozen = false;
  }

  /**
   * The exit code as the death's event tells it, which is sooner than `wait` answers: Docker answers that when it has cleaned up.
   * Never settles where the event does not come or does not say.
   */
  exitCode(id: string): Promise<number> {
    return new Promise((resolve) => {
      void this.#fates.get(id)?.died.promise.then((code) => {
        if (code !== undefined) resolve(code);
      });
    });
  }

  /**
   * Whether a container that exited with a code other than 0 was killed for its memory. Podman tells nobody: there it is an exit by
   * SIGKILL that no one asked for.
   */
  async ranOutOfMemory(id: string, code: number): Promise<boolean> {
    const fate = this.#fates.get(id);
    if (!fate || !this.#isOpen) return false;
    const { clock, engine } = this.#options;
    // Mostly the engine tells of it before it tells of the death; under load it can be the other way round.
    const isUnexplained = () => code === 137 && !fate.wasKilled && !fate.ranOutOfMemory;
    await atMost(eventLagMs, fate.died.promise, clock);
    if (isUnexplained() && !engine.isPodman) await atMost(memoryEventLagMs, fate.toldOfMemory.promise, clock);
    return fate.ranOutOfMemory || (engine.isPodman && isUnexplained());
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
        const events = engineEvents(engine, signal, () => {
          this.#forget();
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
      this.#forget();
      if (signal.aborted) return;
      if (!isLost) {
        isLost = true;
        onLost(reason);
      }
      await sleep(backoff.fail(), { clock, signal }).catch(() => {});
    }
  }

  #forget(): void {
    this.#options.onImagesChanged();
    this.#options.onNetworksChanged();
  }

  #take({ type, action, id, attributes }: EngineEvent): void {
    if (type === 'image') this.#options.onImagesChanged();
    // Containers come and go on them all the time.
    if (type === 'network' && !/connect|create/.test(action)) this.#options.onNetworksChanged();
    if (type !== 'container') return;
    const fate = this.#fates.get(id);
    if (!fate) return;
    if (action === 'oom') {
      fate.ranOutOfMemory = true;
      fate.toldOfMemory.resolve();
    } else if (action === 'kill') fate.wasKilled = true;
    else if (action === 'pause' || action === 'unpause') fate.isFrozen = action === 'pause';
    else if (action === 'die') fate.died.resolve(exitCodeOf(attributes.exitCode));
    else if (action === 'destroy') fate.died.resolve(undefined);
  }
}

const exitCodeOf = (text: string | undefined) => (text && /^\d+$/.test(text) ? Number(text) : undefined);

/** Waits for the promise, at most so long. */
async function atMost(limitMs: number, promise: Promise<unknown>, clock: Clock): Promise<void> {
  const over = new AbortController();
  await Promise.race([promise, sleep(limitMs, { clock, signal: over.signal }).catch(() => {})]);
  over.abort();
}
