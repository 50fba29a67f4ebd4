/** Where a frame of an attached stream belongs (Engine API, "Attach to a container", stream format). */
const stdout = 1;
const stderr = 2;
const headerBytes = 8;

/** Where the parts of a stream go. */
export interface DemuxTargets {
  onStdout(part: Buffer): void;
  onStderr(part: Buffer): void;
  /** What arrives is no multiplexed stream. Nothing is delivered after this. */
  onBroken(): void;
}

/**
 * Takes an attached stream apart: frames of an 8-byte header (stream, three zeros, length) and a payload, split anywhere.
 * Payloads are passed on as they come, so it holds no more than a header.
 */
export class Demultiplexer {
  readonly #targets: DemuxTargets;
  readonly #header = Buffer.alloc(headerBytes);
  #headerUsed = 0;
  #payloadLeft = 0;
  #isBroken = false;

  constructor(targets: DemuxTargets) {
    this.#targets = targets;
  }

  push(chunk: Buffer): void {
    let start = 0;
    while (start < chunk.length && !this.#isBroken) {
      if (this.#payloadLeft > 0) {
        const end = Math.min(start + this.#payloadLeft, chunk.length);
        this.#deliver(chunk.subarray(start, end));
        this.#payloadLeft -= end - start;
        start = end;
        continue;
      }
      const end = Math.min(start + headerBytes - this.#headerUsed, chunk.length);
      chunk.copy(this.#header, this.#headerUsed, start, end);
      this.#headerUsed += end - start;
      start = end;
      if (this.#headerUsed === headerBytes) this.#open();
    }
  }

  #open(): void {
    this.#headerUsed = 0;
    if (this.#header[0]! > 3 || this.#header[1] !== 0 || this.#header[2] !== 0 || this.#header[3] !== 0) {
      this.#isBroken = true;
      this.#targets.onBroken();
      return;
    }
    this.#payloadLeft = this.#header.readUInt32BE(4);
  }

  #deliver(part: Buffer): void {
    const stream = this.#header[0];
    if (stream === stdout) this.#targets.onStdout(part);
    else if (stream === stderr) this.#targets.onStderr(part);
  }
}
