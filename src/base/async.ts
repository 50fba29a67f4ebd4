/** Time, passed in so that tests can hold it. Milliseconds since the epoch. */
export interface Clock {
  now(): number;
  /** Runs `task` after `delayMs`; the returned function cancels it. Never keeps the process alive. */
  schedule(task: () => void, delayMs: number): () => void;
}

/** The real time. */
export const systemClock: Clock = {
  now: () => Date.now(),
  schedule(task, delayMs) {
    // setTimeout's delay is a signed 32-bit number of milliseconds; a longer one would fire at once.
    const timer = setTimeout(task, Math.min(delayMs, 2 ** 31 - 1));
    timer.unref();
    return () => clearTimeout(timer);
  },
};

/** Resolves after `delayMs`, rejects with the signal's reason when it is aborted first. */
export function sleep(delayMs: number, options: { clock?: Clock; signal?: AbortSignal } = {}): Promise<void> {
  const { clock = systemClock, signal } = options;
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(signal.reason);
    const cancel = clock.schedule(() => {
      signal?.removeEventListener('abort', onAbort);
      resolve();
    }, delayMs);
    const onAbort = () => {
      cancel();
      reject(signal!.reason);
    };
    signal?.addEventListener('abort', onAbort, { once: true });
  });
}

/** `promise`, unless the signal aborts first: then its reason. The promise itself goes on. */
export function abortable<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (!signal) return promise;
  return new Promise((resolve, reject) => {
    const onAbort = () => reject(signal.reason);
    if (signal.aborted) {
      promise.catch(() => {});
      return onAbort();
    }
    signal.addEventListener('abort', onAbort, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', onAbort));
  });
}

/** `promise`, unless `limitMs` pass first: then `onTimeout()` is thrown. The promise itself goes on. */
export function within<T>(
  promise: Promise<T>,
  limitMs: number,
  onTimeout: () => Error,
  clock: Clock = systemClock,
): Promise<T> {
  return new Promise((resolve, reject) => {
    const cancel = clock.schedule(() => reject(onTimeout()), limitMs);
    promise.then(resolve, reject).finally(cancel);
  });
}

/** A promise with its own switch. */
export interface Deferred<T> {
  promise: Promise<T>;
  resolve(value: T): void;
  reject(reason: unknown): void;
}

/** Makes one. */
export function deferred<T>(): Deferred<T> {
  let resolve!: (value: T) => void;
  let reject!: (reason: unknown) => void;
  const promise = new Promise<T>((res, rej) => {
    resolve = res;
    reject = rej;
  });
  return { promise, resolve, reject };
}

/** Joins callers that ask for the same key while the first one's work is under way. */
export class SingleFlight<T> {
  readonly #running = new Map<string, Promise<T>>();

  run(key: string, work: () => Promise<T>): Promise<T> {
    const running = this.#running.get(key);
    if (running) return running;
    const started = work().finally(() => this.#running.delete(key));
    this.#running.set(key, started);
    return started;
  }
}

/** Exponential back-off: 1 s, doubling to 60 s, reset by a success. */
export class Backoff {
  readonly #firstMs: number;
  readonly #maxMs: number;
  #failures = 0;

  constructor(firstMs = 1000, maxMs = 60_000) {
    this.#firstMs = firstMs;
    this.#maxMs = maxMs;
  }

  get failures(): number {
    return this.#failures;
  }

  /** Counts a failure and says how long to wait before the next try. */
  fail(): number {
    this.#failures += 1;
    return Math.min(this.#firstMs * 2 ** (this.#failures - 1), this.#maxMs);
  }

  succeed(): void {
    this.#failures = 0;
  }
}

/** Those who wait for room of the same kind. */
interface Line {
  /** Of the whole room, what this kind may take. */
  readonly limit: number;
  running: number;
  readonly waiting: (() => void)[];
}

/** Lets at most `limit` pieces of work run at once; the others wait in order. */
export class Semaphore {
  readonly #limit: number;
  readonly #front: Line;
  readonly #behind: Line;
  /** For work that nobody waits for: it comes after all other, and takes at most half of the room. */
  readonly background: Pick<Semaphore, 'run'>;

  constructor(limit: number) {
    this.#limit = limit;
    this.#front = { limit, running: 0, waiting: [] };
    this.#behind = { limit: Math.max(1, Math.floor(limit / 2)), running: 0, waiting: [] };
    this.background = { run: (work, signal) => this.#run(this.#behind, work, signal) };
  }

  run<T>(work: () => Promise<T>, signal?: AbortSignal): Promise<T> {
    return this.#run(this.#front, work, signal);
  }

  async #run<T>(line: Line, work: () => Promise<T>, signal: AbortSignal | undefined): Promise<T> {
    await this.#enter(line, signal);
    try {
      return await work();
    } finally {
      line.running -= 1;
      for (const next of [this.#front, this.#behind]) {
        while (next.waiting.length > 0 && this.#hasRoom(next)) next.waiting.shift()!();
      }
    }
  }

  #hasRoom(line: Line): boolean {
    return this.#front.running + this.#behind.running < this.#limit && line.running < line.limit;
  }

  #enter(line: Line, signal: AbortSignal | undefined): Promise<void> {
    if (this.#hasRoom(line)) {
      line.running += 1;
      return Promise.resolve();
    }
    return new Promise((resolve, reject) => {
      if (signal?.aborted) return reject(signal.reason);
      const admit = () => {
        signal?.removeEventListener('abort', leave);
        line.running += 1;
        resolve();
      };
      const leave = () => {
        line.waiting.splice(line.waiting.indexOf(admit), 1);
        reject(signal!.reason);
      };
      signal?.addEventListener('abort', leave, { once: true });
      line.waiting.push(admit);
    });
  }
}
