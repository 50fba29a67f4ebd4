import { printable } from '../base/printable.ts';

export interface LineFramerOptions {
  /** Longest line that is delivered, without its end; a longer one is dropped while it arrives. */
  maxBytes: number;
  /**
   * A line without its end (`\n` or `\r\n`); empty ones are skipped. The bytes are valid during the call only.
   * Returning `false` suspends the push that delivered it.
   */
  onLine(line: Buffer): unknown;
  /** A line has outgrown `maxBytes` and goes on; `onOversize` follows. Told once a line. */
  onOverflow?(bytes: number, head: string): void;
  /** A line over `maxBytes` has ended, or has gone so far beyond it that it may never end: its length so far and its two ends. */
  onOversize(bytes: number, head: string, tail: string, isEndless: boolean): void;
}

const newline = 0x0a;
const carriageReturn = 0x0d;
const endChars = 200;
const endBytes = endChars * 4;
/** Smaller chunks are gathered: a server that writes byte by byte must not cost an object for each. */
const smallBytes = 4096;
const blockBytes = 65_536;
/** A line that never ends is reported when it is this many times too long. */
const hopelessFactor = 16;

/**
 * Cuts a byte stream into lines, in time linear in its size: chunks are listed while a line is incomplete and joined
 * once. Lines are cut at the byte `\n`, which no other UTF-8 character contains, so characters split between chunks stay whole.
 */
export class LineFramer {
  readonly #options: LineFramerOptions;
  #chunks: Buffer[] = [];
  /** Bytes of the current line so far, dropped ones included. */
  #bytes = 0;
  /** Gathers small chunks; `#block` is the last of `#chunks` while `#blockUsed` is above 0. */
  #block: Buffer | undefined;
  #blockUsed = 0;
  #oversize: { head: string; tail: Buffer; reported: boolean } | undefined;

  constructor(options: LineFramerOptions) {
    this.#options = options;
  }

  /** Takes bytes and delivers the lines that they complete. Returns how many were used: all, unless `onLine` suspended. */
  push(chunk: Buffer): number {
    let start = 0;
    while (start < chunk.length) {
      const end = chunk.indexOf(newline, start);
      if (end === -1) {
        this.#keep(start === 0 ? chunk : chunk.subarray(start));
        return chunk.length;
      }
      const goOn = this.#finish(chunk.subarray(start, end));
      start = end + 1;
      if (!goOn) return start;
    }
    return chunk.length;
  }

  /** The stream is over: what came after the last `\n` is delivered as a line. */
  end(): void {
    if (this.#bytes > 0) this.#finish(Buffer.alloc(0));
  }

  #keep(part: Buffer): void {
    if (part.length === 0) return;
    const { maxBytes, onOversize } = this.#options;
    this.#bytes += part.length;
    if (this.#oversize) {
      const oversize = this.#oversize;
      oversize.tail = lastBytes(oversize.tail, part);
      if (!oversize.reported && this.#bytes > maxBytes * hopelessFactor) {
        oversize.reported = true;
        onOversize(this.#bytes, oversize.head, '', true);
      }
      return;
    }
    // One byte more may be the `\r` of a line that is just short enough.
    if (this.#bytes > maxBytes + 1) {
      const kept = this.#takeChunks();
      kept.push(part);
      const head = printable(firstBytes(kept).toString('utf8'), endChars);
      let tail: Buffer = Buffer.alloc(0);
      for (const piece of kept) tail = lastBytes(tail, piece);
      this.#oversize = { head, tail, reported: false };
      this.#options.onOverflow?.(this.#bytes, head);
      return;
    }
    if (part.length >= smallBytes) {
      this.#closeBlock();
      this.#chunks.push(part);
      return;
    }
    if (this.#block && this.#blockUsed + part.length > this.#block.length) this.#closeBlock();
    this.#block ??= Buffer.allocUnsafeSlow(this.#chunks.length === 0 ? smallBytes : blockBytes);
    part.copy(this.#block, this.#blockUsed);
    this.#blockUsed += part.length;
  }

  #finish(last: Buffer): boolean {
    const { maxBytes, onLine, onOversize } = this.#options;
    if (this.#bytes > 0) this.#keep(last);
    const bytes = this.#bytes === 0 ? last.length : this.#bytes;
    const oversize = this.#oversize;
    const chunks = this.#bytes === 0 ? [last] : this.#takeChunks();
    this.#bytes = 0;
    this.#oversize = undefined;
    if (oversize) {
      if (!oversize.reported) onOversize(bytes, oversize.head, lineEnd(oversize.tail), false);
      return true;
    }
    const joined = chunks.length === 1 ? chunks[0]! : Buffer.concat(chunks, bytes);
    const line = joined.at(-1) === carriageReturn ? joined.subarray(0, -1) : joined;
    if (line.length === 0) return true;
    if (line.length > maxBytes) {
      onOversize(bytes, printable(firstBytes([line]).toString('utf8'), endChars), lineEnd(line), false);
      return true;
    }
    return onLine(line) !== false;
  }

  #closeBlock(): void {
    if (this.#block && this.#blockUsed > 0) this.#chunks.push(this.#block.subarray(0, this.#blockUsed));
    this.#block = undefined;
    this.#blockUsed = 0;
  }

  #takeChunks(): Buffer[] {
    this.#closeBlock();
    const chunks = this.#chunks;
    this.#chunks = [];
    return chunks;
  }
}

function firstBytes(chunks: Buffer[]): Buffer {
  const parts: Buffer[] = [];
  let missing = endBytes;
  for (const chunk of chunks) {
    if (missing <= 0) break;
    parts.push(chunk.subarray(0, missing));
    missing -= parts.at(-1)!.length;
  }
  return Buffer.concat(parts);
}

/** The last bytes of `before` followed by `part`, copied so that no large chunk is held by its end. */
function lastBytes(before: Buffer, part: Buffer): Buffer {
  if (part.length >= endBytes) return Buffer.from(part.subarray(-endBytes));
  return Buffer.concat([before, part]).subarray(-endBytes);
}

const lineEnd = (tail: Buffer): string => printable(tail.toString('utf8').trimEnd()).slice(-endChars);
