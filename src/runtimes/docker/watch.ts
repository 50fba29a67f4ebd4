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
  /** The engine does not answer. */
  onLost(reason: string): void;
  /** It answers again; `engine.facts` are fresh. */
  onBack(): void;
  /** It answers after a while in which it did not, however short: what it was asked meanwhile may be done, or not. */
  onAwake(): void;
  /** The containers that we remember, as the engine has them now. Rejects like every call. */
  list(): Promise<{ id: string; isFrozen: boolean }[]>;
}

interface Fate {
  ranOutOfMemory: boolean;
  toldOfMemory: Deferred<void>;
  wasKilled: boolean;
  isFrozen: boolean;
  /** Freezes and thaws so far. */
  turns: number;
  /** With the exit code, where the event has it. */
  died: Deferred<number | undefined>;
}

/** Follows the engine's events, over its restarts. */
export class EngineWatch {
  readonly #options: EngineWatchOptions;
  readonly #fates = new Map<string, Fate>();
  readonly #closed = new AbortController();
  #isOpen = false;
  #wasOpen = false;
  #isLost = false;
  #isSilent = false;

  constructor(options: EngineWatchOptions) {
    this.#options = options;
    options.engine.onSilence = () => void this.#outlastSilence();
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
      turns: 0,
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
    if (!fate) return;
    fate.isFrozen = false;
    fate.turns += 1;
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
    // Its events come up to a quarter of a second late, longer than an answer may wait for them.
    if (engine.isPodman) return code === 137 && !fate.wasKilled;
    // Mostly the engine tells of it before it tells of the death; under load it can be the other way round.
    await atMost(eventLagMs, fate.died.promise, clock);
    const isUnexplained = code === 137 && !fate.wasKilled && !fate.ranOutOfMemory;
    if (isUnexplained) await atMost(memoryEventLagMs, fate.toldOfMemory.promise, clock);
    return fate.ranOutOfMemory;
  }

  close(): void {
    this.#closed.abort();
  }

  async #run(): Promise<void> {
    const { engine, clock } = this.#options;
    const { signal } = this.#closed;
    const backoff = new Backoff(firstRetryMs, maxRetryMs);
    while (!signal.aborted) {
      let reason = 'the stream of its events ended';
      try {
        if (this.#isLost) await engine.refreshFacts();
        const wasLost = this.#found();
        const events = engineEvents(engine, signal, () => {
          this.#forget();
          this.#isOpen = true;
          backoff.succeed();
          if (this.#wasOpen) void this.#fillGap().catch(() => {});
          this.#wasOpen = true;
        });
        if (wasLost) this.#options.onAwake();
        for await (const event of events) this.#take(event);
      } catch (error) {
        reason = messageOf(error);
      }
      this.#isOpen = false;
      this.#forget();
      if (signal.aborted) return;
      // The stream alone may have broken: a proxy in between that ends what lasts long, an engine that drops a slow reader.
      if (!this.#isLost && !(await this.#answers())) this.#lost(reason);
      await sleep(backoff.fail(), { clock, signal }).catch(() => {});
    }
  }

  /** The engine left a question unanswered: asks until it answers one. */
  async #outlastSilence(): Promise<void> {
    const { clock } = this.#options;
    const { signal } = this.#closed;
    if (this.#isSilent || this.#isLost || signal.aborted) return;
    this.#isSilent = true;
    const backoff = new Backoff(firstRetryMs, maxRetryMs);
    while (!signal.aborted && !(await this.#answers())) {
      this.#lost('it does not answer');
      await sleep(backoff.fail(), { clock, signal }).catch(() => {});
    }
    this.#isSilent = false;
    if (signal.aborted) return;
    // Where the stream of events broke too, whoever opens it again tells the rest.
    if (this.#isOpen) this.#found();
    this.#options.onAwake();
  }

  #answers(): Promise<boolean> {
    return this.#options.engine.ping().then(
      () => true,
      () => false,
    );
  }

  #lost(reason: string): void {
    if (this.#isLost) return;
    this.#isLost = true;
    this.#options.onLost(reason);
  }

  /** Whether it was lost. */
  #found(): boolean {
    if (!this.#isLost) return false;
    this.#isLost = false;
    this.#options.onBack();
    return true;
  }

  /** Events that came while nobody listened are lost: what matters of them is looked up. */
  async #fillGap(): Promise<void> {
    const before = new Map([...this.#fates].map(([id, { turns }]) => [id, turns]));
    const present = new Map((await this.#options.list()).map(({ id, isFrozen }) => [id, isFrozen]));
    for (const [id, turns] of before) {
      const fate = this.#fates.get(id);
      if (!fate) continue;
      if (!present.has(id)) fate.died.resolve(undefined);
      // An event that came after the question is newer than the answer.
      else if (fate.turns === turns) fate.isFrozen = present.get(id)!;
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
    else if (action === 'pause' || action === 'unpause') {
      fate.isFrozen = action === 'pause';
      fate.turns += 1;
    } else if (action === 'die') fate.died.resolve(exitCodeOf(attributes.exitCode));
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
