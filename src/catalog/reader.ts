import { Backoff, type Clock, deferred, type Semaphore, sleep } from '../base/async.ts';
import { asGatewayError, GatewayError, messageOf } from '../base/errors.ts';
import type { Events } from '../observability/events.ts';
import type { Snapshot, SnapshotSource } from './snapshot.ts';

/**
 * Why lists are read again. `started`: an instance has become ready. `changed`: the server says that its lists have
 * changed. `asked`: a person wants it now.
 */
export type RefreshCause = 'started' | 'changed' | 'asked';

export interface ReaderOptions {
  server: string;
  source: SnapshotSource;
  events: Events;
  clock: Clock;
  /** First discoveries and retries take one; reading an instance that runs anyway does not. */
  slots: Semaphore;
  /** Ends everything. */
  signal: AbortSignal;
  onRead(snapshot: Snapshot, digest: string | undefined): void;
}

/** Changes within this time are read once. */
const minChangeDelayMs = 50;
/** So many are read at once; each further one that follows a read waits twice as long as the last. */
const quickChangesAtOnce = 5;
const maxChangeDelayMs = 600_000;

/** Reads one server's lists whenever that is due: at first, after failures with back-off, and when they may have changed. */
export class Reader {
  readonly #options: ReaderOptions;
  readonly #settled = deferred<void>();
  readonly #retryBackoff = new Backoff();
  /** Changes that came on the heels of a read; some servers announce them without end, and must not be read without end. */
  #quickChanges = 0;
  #changeDelayMs = 0;
  #lastReadEndedAtMs = Number.NEGATIVE_INFINITY;
  #digest: string | undefined;
  #hasSettled = false;
  #failure: { error: GatewayError; atMs: number } | undefined;
  #retry: { atMs: number; run(): void; cancel(): void } | undefined;
  #reading: Promise<void> | undefined;
  #isReading = false;
  #again: { wake: boolean } | undefined;
  /** The server has announced a change that no read has taken up yet. */
  #hasChanged = false;
  #announcedChange: Promise<void> | undefined;

  constructor(options: ReaderOptions) {
    this.#options = options;
    options.signal.addEventListener(
      'abort',
      () => {
        this.#retry?.cancel();
        this.#settle();
      },
      { once: true },
    );
  }

  /** Never seen, or seen with another configuration: its lists are read in the background. */
  discover(): void {
    void this.#read({ wake: true, inSlot: true });
  }

  /** Its lists are known; they are read again in the background when something else would run now. */
  verify(keptDigest: string | undefined): void {
    this.#digest = keptDigest;
    this.#settle();
    void this.#verify();
  }

  /** It cannot be read until the configuration changes. */
  giveUp(error: GatewayError): void {
    const { server, events, clock } = this.#options;
    this.#failure = { error, atMs: clock.now() };
    events.emit('discovery.failed', { server, reason: error.message, hint: error.hint });
    this.#settle();
  }

  /** Resolves, whatever comes of it, when lists that were read after this call are known or have failed. */
  refresh(cause: RefreshCause): Promise<void> {
    if (this.#options.signal.aborted) return Promise.resolve();
    if (cause === 'changed') {
      this.#hasChanged = true;
      return this.#readAfterChange();
    }
    // The instance that has started was most likely started by the very read that is under way.
    if (cause === 'started' && this.#reading) return this.#reading;
    // Only a person's wish is worth a start: the next one that a call brings about reads the lists anyway.
    return this.#readNowOrAgain({ wake: cause === 'asked' });
  }

  /** Retries at once, if the last failure was of this kind. */
  retryNow(code: GatewayError['code']): void {
    if (this.#failure?.error.code !== code) return;
    this.#retryBackoff.succeed();
    this.#retry?.run();
  }

  /** Whether the first discovery has come to an end, good or bad. */
  get hasSettled(): boolean {
    return this.#hasSettled;
  }

  /** Resolves when the first discovery has come to an end, or the catalog has been closed. */
  get settled(): Promise<void> {
    return this.#settled.promise;
  }

  /** The read under way, or about to be, if there is one; never rejects. */
  get upcoming(): Promise<void> | undefined {
    if (this.#reading) return this.#reading;
    return this.#changeDelayMs <= 1000 ? this.#announcedChange : undefined;
  }

  /** Whether an attempt is under way; over when its failure is told. */
  get isReading(): boolean {
    return this.#isReading;
  }

  /** Of the last attempt; undefined when that went well. */
  get failure(): { error: GatewayError; atMs: number } | undefined {
    return this.#failure;
  }

  get retryAtMs(): number | undefined {
    return this.#retry?.atMs;
  }

  #readNowOrAgain({ wake }: { wake: boolean }): Promise<void> {
    if (!this.#reading) return this.#read({ wake });
    this.#again = { wake: wake || this.#again?.wake === true };
    return this.#reading;
  }

  #readAfterChange(): Promise<void> {
    this.#announcedChange ??= this.#awaitPace()
      .then(() => (this.#hasChanged ? this.#readNowOrAgain({ wake: false }) : undefined))
      .catch(() => {});
    return this.#announcedChange;
  }

  async #awaitPace(): Promise<void> {
    const { clock, signal } = this.#options;
    await this.#reading;
    if (!this.#hasChanged) {
      this.#announcedChange = undefined;
      return;
    }
    const quietMs = clock.now() - this.#lastReadEndedAtMs;
    this.#quickChanges = quietMs > this.#changeDelayMs ? this.#quickChanges >> 1 : this.#quickChanges + 1;
    const beyond = Math.max(0, this.#quickChanges - quickChangesAtOnce);
    this.#changeDelayMs = Math.min(minChangeDelayMs * 2 ** beyond, maxChangeDelayMs);
    try {
      await sleep(this.#changeDelayMs, { clock, signal });
    } finally {
      this.#announcedChange = undefined;
    }
  }

  #read(options: { wake: boolean; inSlot?: boolean }): Promise<void> {
    this.#retry?.cancel();
    this.#reading ??= this.#readUntilCurrent(options).finally(() => {
      this.#reading = undefined;
      this.#lastReadEndedAtMs = this.#options.clock.now();
    });
    return this.#reading;
  }

  async #readUntilCurrent({ wake, inSlot = false }: { wake: boolean; inSlot?: boolean }): Promise<void> {
    const { slots, signal } = this.#options;
    for (let next: { wake: boolean } | undefined = { wake }; next && !signal.aborted; next = this.#again) {
      this.#again = undefined;
      const read = () => this.#readOnce(next!.wake);
      this.#isReading = true;
      try {
        await (inSlot ? slots.run(read, signal) : read());
        this.#isReading = false;
      } catch (error) {
        this.#isReading = false;
        if (signal.aborted) return;
        this.#fail(error, () => this.discover());
      }
    }
  }

  async #readOnce(wake: boolean): Promise<void> {
    const { server, source, events, clock, signal, onRead } = this.#options;
    const startedAtMs = clock.now();
    events.emit('discovery.started', { server });
    this.#hasChanged = false;
    const hasChanged = () => {
      const changed = this.#hasChanged;
      this.#hasChanged = false;
      return changed;
    };
    const snapshot = await source.read(server, signal, { wake, hasChanged });
    if (!snapshot) return;
    // Unknown is allowed: then the lists are read once more at the next start.
    const digest = await source.digest(server, signal).catch(() => undefined);
    signal.throwIfAborted();
    this.#digest = digest;
    this.#succeed();
    onRead(snapshot, digest);
    this.#settle();
    events.emit('discovery.finished', {
      server,
      tools: snapshot.tools.length,
      durationMs: clock.now() - startedAtMs,
    });
  }

  async #verify(): Promise<void> {
    const { server, source, slots, signal } = this.#options;
    try {
      const digest = await slots.run(() => source.digest(server, signal), signal);
      this.#succeed();
      if (digest !== this.#digest) await this.#read({ wake: true, inSlot: true });
    } catch (error) {
      if (signal.aborted) return;
      const reason = asFailure(error, server);
      this.#failure = { error: reason, atMs: this.#options.clock.now() };
      // Anything else (an image that has been removed) is told by the next call, whose start reads the lists again.
      if (reason.code === 'engine_unreachable' || reason.code === 'runtime_unavailable')
        this.#scheduleRetry(() => void this.#verify());
    }
  }

  #succeed(): void {
    this.#failure = undefined;
    this.#retryBackoff.succeed();
    this.#retry?.cancel();
  }

  #fail(thrown: unknown, retry: () => void): void {
    const { server, events, clock } = this.#options;
    const error = asFailure(thrown, server);
    this.#failure = { error, atMs: clock.now() };
    const retryInMs = this.#scheduleRetry(retry);
    events.emit('discovery.failed', { server, reason: error.message, hint: error.hint, retryInMs });
    this.#settle();
  }

  #scheduleRetry(retry: () => void): number {
    const { clock, signal } = this.#options;
    this.#retry?.cancel();
    const delayMs = this.#retryBackoff.fail();
    if (signal.aborted) return delayMs;
    const run = () => {
      this.#retry?.cancel();
      retry();
    };
    const stopTimer = clock.schedule(run, delayMs);
    const cancel = () => {
      stopTimer();
      this.#retry = undefined;
    };
    this.#retry = { atMs: clock.now() + delayMs, run, cancel };
    return delayMs;
  }

  #settle(): void {
    this.#hasSettled = true;
    this.#settled.resolve();
  }
}

function asFailure(error: unknown, server: string): GatewayError {
  if (error instanceof GatewayError) return error;
  return new GatewayError(
    'discovery_failed',
    `The lists of server ${server} could not be read: ${messageOf(error)}`,
    {
      server,
      cause: asGatewayError(error).cause,
    },
  );
}
