/** What the fleet can do to make room. */
export interface RoomMaker {
  /** Instances that are being stopped right now. */
  leaving(): number;
  /** Begins to stop the least recently used idle instance; false when there is none. */
  evict(): boolean;
}

/** Holds the number of instances of all servers together to `gateway.max_instances`. */
export class Capacity {
  readonly #limit: number;
  readonly #roomMaker: RoomMaker;
  #held = 0;
  /** In the order in which they came. */
  readonly #waiting = new Set<() => void>();

  constructor(limit: number, roomMaker: RoomMaker) {
    this.#limit = limit;
    this.#roomMaker = roomMaker;
  }

  get isWanted(): boolean {
    return this.#waiting.size > 0;
  }

  /** Resolves with the function that gives the place back; doing that twice is done once. Rejects with the signal's reason. */
  acquire(signal: AbortSignal): Promise<() => void> {
    if (signal.aborted) return Promise.reject(signal.reason);
    if (this.#held < this.#limit && this.#waiting.size === 0) return Promise.resolve(this.#take());
    return new Promise((resolve, reject) => {
      const admit = () => {
        signal.removeEventListener('abort', leave);
        resolve(this.#take());
      };
      const leave = () => {
        this.#waiting.delete(admit);
        reject(signal.reason);
      };
      signal.addEventListener('abort', leave, { once: true });
      this.#waiting.add(admit);
      this.makeRoom();
    });
  }

  /** Begins to stop idle instances for those who wait. To be called when an instance becomes idle. */
  makeRoom(): void {
    while (this.#roomMaker.leaving() < this.#waiting.size) if (!this.#roomMaker.evict()) return;
  }

  #take(): () => void {
    this.#held += 1;
    let isHeld = true;
    return () => {
      if (!isHeld) return;
      isHeld = false;
      this.#held -= 1;
      const [next] = this.#waiting;
      if (!next || this.#held >= this.#limit) return;
      this.#waiting.delete(next);
      next();
    };
  }
}
