/** What the fleet can do to make room. */
export interface RoomMaker {
  /** What instances that are being stopped right now will give back. */
  leaving(): { places: number; bytes: number };
  /** Begins to stop what is needed least: a spare, else the least recently used idle instance; false when there is none. */
  evict(): boolean;
}

/** What all instances together may take. */
export interface CapacityLimits {
  places: number;
  /** Infinity: unlimited. */
  bytes: number;
}

/** One instance's part of what there is. */
export interface Place {
  readonly bytes: number;
  /** What it is known to use now. */
  measured(bytes: number): void;
  /** Gives it back; doing that twice is done once. */
  release(): void;
}

interface Waiter {
  readonly bytes: number;
  admit(): void;
}

/** Holds number and memory of all servers' instances together to `gateway.max_instances` and `gateway.max_memory`. */
export class Capacity {
  readonly #limits: CapacityLimits;
  readonly #roomMaker: RoomMaker;
  #held = 0;
  #bytes = 0;
  /** In the order in which they came. */
  readonly #waiting = new Set<Waiter>();

  constructor(limits: CapacityLimits, roomMaker: RoomMaker) {
    this.#limits = limits;
    this.#roomMaker = roomMaker;
  }

  /** Whether somebody waits, or more is used than there is. */
  get isWanted(): boolean {
    return this.#waiting.size > 0 || this.#bytes > this.#limits.bytes;
  }

  /** Whether one more of this size would begin at once. */
  hasRoomFor(bytes: number): boolean {
    return this.#waiting.size === 0 && this.#fits(bytes);
  }

  /** `bytes` is what it may come to use. Rejects with the signal's reason. */
  acquire(bytes: number, signal: AbortSignal): Promise<Place> {
    if (signal.aborted) return Promise.reject(signal.reason);
    if (this.hasRoomFor(bytes)) return Promise.resolve(this.#take(bytes));
    return new Promise((resolve, reject) => {
      const waiter: Waiter = {
        bytes,
        admit: () => {
          signal.removeEventListener('abort', leave);
          resolve(this.#take(bytes));
        },
      };
      const leave = () => {
        this.#waiting.delete(waiter);
        reject(signal.reason);
        this.#admit();
      };
      signal.addEventListener('abort', leave, { once: true });
      this.#waiting.add(waiter);
      this.makeRoom();
    });
  }

  /** Begins to stop what is idle for those who wait, and for what is used beyond the limit. To be called when an instance becomes idle. */
  makeRoom(): void {
    while (this.#isShort()) if (!this.#roomMaker.evict()) return;
  }

  #isShort(): boolean {
    if (!this.isWanted) return false;
    const leaving = this.#roomMaker.leaving();
    let bytes = this.#bytes - leaving.bytes;
    for (const waiter of this.#waiting) bytes += waiter.bytes;
    return (
      this.#held - leaving.places + this.#waiting.size > this.#limits.places || bytes > this.#limits.bytes
    );
  }

  /** One alone may have everything: its limit is only what it may come to use. */
  #fits(bytes: number): boolean {
    if (this.#held === 0) return true;
    return this.#held < this.#limits.places && this.#bytes + bytes <= this.#limits.bytes;
  }

  #admit(): void {
    for (const waiter of this.#waiting) {
      // Nobody overtakes: one that needs much would wait for ever.
      if (!this.#fits(waiter.bytes)) return;
      this.#waiting.delete(waiter);
      waiter.admit();
    }
  }

  #take(expectedBytes: number): Place {
    let bytes = expectedBytes;
    let isHeld = true;
    this.#held += 1;
    this.#bytes += bytes;
    const use = (now: number) => {
      this.#bytes += now - bytes;
      bytes = now;
    };
    return {
      get bytes() {
        return bytes;
      },
      measured: (now) => {
        if (!isHeld) return;
        use(now);
        this.#admit();
        if (this.isWanted) this.makeRoom();
      },
      release: () => {
        if (!isHeld) return;
        use(0);
        isHeld = false;
        this.#held -= 1;
        this.#admit();
        if (this.isWanted) this.makeRoom();
      },
    };
  }
}
