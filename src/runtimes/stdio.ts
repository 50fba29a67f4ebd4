import type { Readable, Writable } from 'node:stream';
import { type Deferred, deferred } from '../base/async.ts';
import { messageOf } from '../base/errors.ts';
import { printable } from '../base/printable.ts';
import { LineFramer } from '../protocol/framing.ts';
import { classify, type Id, isId, type Message, parseMessage, serialise } from '../protocol/jsonrpc.ts';
import { type Noise, NotWritten } from './runtime.ts';

/*
 * What a server's stdin, stdout and stderr mean, whatever carries them: a pipe or an engine's attached stream.
 */

/** Handling one server's output takes at most this long before everything else has a turn. */
const sliceMs = 1;
/** Output that takes more than this share of a window's time is a flood, until it takes less than the lower one. */
const floodShare = { from: 0.5, until: 0.15 };
const windowMs = 100;
/** What a flood waits between two slices. */
const floodPauseMs = 4;
const noiseChars = 200;
/** The part of a line, at each end, in which its envelope is looked for when it cannot be parsed. */
const envelopeBytes = 800;

export interface MessageReaderOptions {
  /** Longest line that is taken. */
  maxBytes: number;
  onMessage(message: Message): void;
  onNoise(noise: Noise): void;
  onOverflow?(bytes: number, head: string): void;
  /** Bytes come faster than they are handled: the source is to hold back until `resume`. */
  pause(): void;
  resume(): void;
}

/**
 * Turns stdout's bytes into messages, in order. It works in slices and pauses its source in between, so that a server that
 * floods takes a small share of the event loop and the others do not feel it.
 */
export class MessageReader {
  readonly #options: MessageReaderOptions;
  readonly #framer: LineFramer;
  readonly #ended: Deferred<void> = deferred();
  readonly #waiting: Buffer[] = [];
  #sliceEnd: number | undefined;
  #window = { startMs: performance.now(), busyMs: 0 };
  #isFlood = false;
  #isPaused = false;
  #isEnding = false;
  /** What follows has no end of its own. */
  #isCutOff = false;

  constructor(options: MessageReaderOptions) {
    this.#options = options;
    this.#framer = new LineFramer({
      maxBytes: options.maxBytes,
      onLine: (line) => {
        this.#takeLine(line);
        return performance.now() < this.#sliceEnd!;
      },
      onOverflow: options.onOverflow,
      onOversize: (bytes, head, tail, isEndless) => {
        const id = answeredId(head, tail);
        options.onNoise({ kind: 'oversize', text: head, bytes, id, ...(isEndless && { isEndless }) });
      },
    });
  }

  /** Resolves when the source has ended and everything it gave has been delivered. Never rejects. */
  get ended(): Promise<void> {
    return this.#ended.promise;
  }

  push(chunk: Buffer): void {
    if (this.#isEnding) return;
    this.#waiting.push(chunk);
    if (!this.#isPaused) this.#work();
  }

  /** The source has no more. Doing it twice is done once. */
  end(): void {
    if (this.#isEnding) return;
    this.#isEnding = true;
    if (!this.#isPaused) this.#work();
  }

  #work(): void {
    const startMs = performance.now();
    if (this.#sliceEnd === undefined) {
      this.#sliceEnd = startMs + sliceMs;
      setImmediate(() => this.#endSlice());
    }
    while (this.#waiting.length > 0 && performance.now() < this.#sliceEnd) {
      const chunk = this.#waiting[0]!;
      const used = this.#framer.push(chunk);
      if (used < chunk.length) this.#waiting[0] = chunk.subarray(used);
      else this.#waiting.shift();
    }
    this.#window.busyMs += performance.now() - startMs;
    if (this.#waiting.length > 0) {
      if (!this.#isPaused) this.#options.pause();
      this.#isPaused = true;
    } else if (this.#isEnding) {
      this.#isCutOff = true;
      this.#framer.end();
      this.#ended.resolve();
    }
  }

  #endSlice(): void {
    this.#sliceEnd = undefined;
    const nowMs = performance.now();
    const elapsedMs = nowMs - this.#window.startMs;
    if (elapsedMs > windowMs) {
      this.#isFlood = this.#window.busyMs / elapsedMs > (this.#isFlood ? floodShare.until : floodShare.from);
      this.#window = { startMs: nowMs, busyMs: 0 };
    }
    if (!this.#isPaused) return;
    if (this.#isFlood) setTimeout(() => this.#nextSlice(), floodPauseMs);
    else this.#nextSlice();
  }

  #nextSlice(): void {
    this.#work();
    if (this.#waiting.length > 0) return;
    this.#isPaused = false;
    this.#options.resume();
  }

  #takeLine(line: Buffer): void {
    const first = line[0];
    let id: Id | undefined;
    // Most garbage is a log line: seeing that is far cheaper than having JSON.parse fail.
    if (first === 0x7b || first === 0x5b || first === 0x20 || first === 0x09) {
      const read = readLine(line);
      if ('messages' in read) {
        for (const message of read.messages) this.#options.onMessage(message);
        return;
      }
      if (!this.#isCutOff) id = read.id;
    }
    const text = printable(line.subarray(0, noiseChars * 4).toString('utf8'), noiseChars);
    if (text.trim() === '') return;
    this.#options.onNoise({ kind: 'garbage', text, bytes: line.length, ...(id === undefined ? {} : { id }) });
  }
}

/** Reads a Node stream to its end. */
export function readMessages(
  stream: Readable,
  options: Omit<MessageReaderOptions, 'pause' | 'resume'>,
): MessageReader {
  const reader = new MessageReader({
    ...options,
    pause: () => stream.pause(),
    resume: () => stream.resume(),
  });
  stream.on('data', (chunk: Buffer) => reader.push(chunk));
  stream.on('error', () => reader.end());
  stream.on('close', () => reader.end());
  stream.on('end', () => reader.end());
  return reader;
}

/** The messages of a line (a batch has several). One that is none may still be a broken answer to the request `id`. */
function readLine(line: Buffer): { messages: Message[] } | { id: Id | undefined } {
  let value: unknown;
  try {
    value = parseMessage(line);
  } catch {
    const head = line.subarray(0, envelopeBytes).toString('utf8');
    return { id: answeredId(head, line.subarray(-envelopeBytes).toString('utf8')) };
  }
  const classified = (Array.isArray(value) ? value : [value]).map(classify);
  const messages: Message[] = [];
  for (const item of classified) {
    if (item.kind === 'invalid') return { id: brokenAnswerId(value) };
    messages.push(item.message);
  }
  return messages.length === 0 ? { id: undefined } : { messages };
}

/** A line of a log may have an id too; only a JSON-RPC envelope without a method is an answer. */
function brokenAnswerId(value: unknown): Id | undefined {
  if (typeof value !== 'object' || value === null) return undefined;
  if (!Object.hasOwn(value, 'jsonrpc') || Object.hasOwn(value, 'method')) return undefined;
  const { id } = value as { id?: unknown };
  return isId(id) ? id : undefined;
}

/**
 * The id that a dropped response answers, so that its call can fail at once. It is the line's first or last member of all
 * serialisers seen; only an id that is for certain the envelope's own counts.
 */
function answeredId(head: string, tail: string): Id | undefined {
  const start =
    /^\{\s*(?:"jsonrpc"\s*:\s*"2\.0"\s*,\s*)?"id"\s*:\s*(-?\d+|"(?:[^"\\]|\\.)*")\s*,\s*(?:"jsonrpc"\s*:\s*"2\.0"\s*,\s*)?"(?:result|error)"/;
  const isResponse = /^\{\s*(?:"jsonrpc"\s*:\s*"2\.0"\s*,\s*)?"(?:result|error)"/.test(head);
  const end =
    /[}\]"\d\w]\s*,\s*(?:"jsonrpc"\s*:\s*"2\.0"\s*,\s*)?"id"\s*:\s*(-?\d+|"(?:[^"\\]|\\.)*")\s*(?:,\s*"jsonrpc"\s*:\s*"2\.0"\s*)?\}$/;
  const match = start.exec(head) ?? (isResponse ? end.exec(tail) : null);
  if (!match) return undefined;
  const { id } = parseMessage(`{"id":${match[1]}}`) as { id: unknown };
  return isId(id) ? id : undefined;
}

const tailLines = 100;
const tailBytes = 16_384;
const lineChars = 2000;

/**
 * The end of a server's stderr: at most 100 lines and 16 KiB, whatever it writes. Lines are given out safe to show.
 */
export class StderrTail {
  #lines: Buffer[] = [];
  #bytes = 0;
  #rest: Buffer = Buffer.alloc(0);
  readonly #followers = new Set<(line: string) => void>();

  push(chunk: Buffer): void {
    let start = 0;
    // Without a follower only the last 16 KiB can matter: a flood costs next to nothing.
    if (this.#followers.size === 0 && chunk.length > tailBytes) {
      this.#rest = Buffer.alloc(0);
      start = chunk.indexOf(0x0a, chunk.length - tailBytes) + 1 || chunk.length - tailBytes;
    }
    for (let end = chunk.indexOf(0x0a, start); end !== -1; end = chunk.indexOf(0x0a, start)) {
      this.#add(this.#join(chunk.subarray(start, end)));
      this.#rest = Buffer.alloc(0);
      start = end + 1;
    }
    if (start < chunk.length) this.#rest = Buffer.from(this.#join(chunk.subarray(start)));
  }

  /** There is no more: what came after the last line break is a line too. */
  end(): void {
    this.#add(this.#rest);
    this.#rest = Buffer.alloc(0);
  }

  /** Oldest first, colours and control characters neutralised, an unfinished last line included. */
  lines(): string[] {
    const all = this.#rest.length > 0 ? [...this.#lines, this.#rest] : this.#lines;
    return all.map(show).filter((line) => line.trim() !== '');
  }

  /** Calls `listener` with each line to come; returns a function that ends that. */
  follow(listener: (line: string) => void): () => void {
    this.#followers.add(listener);
    return () => this.#followers.delete(listener);
  }

  #join(part: Buffer): Buffer {
    if (this.#rest.length === 0) return part.subarray(0, tailBytes);
    // A line that is too long already takes nothing more, or each chunk of an endless one would be copied.
    if (this.#rest.length >= tailBytes) return this.#rest;
    return Buffer.concat([this.#rest, part.subarray(0, tailBytes - this.#rest.length)]);
  }

  #add(line: Buffer): void {
    if (line.length === 0) return;
    // Copied: a short line must not hold the whole chunk that it came in.
    this.#lines.push(Buffer.from(line));
    this.#bytes += line.length;
    while (this.#lines.length > tailLines || this.#bytes > tailBytes) {
      this.#bytes -= this.#lines.shift()!.length;
    }
    if (this.#followers.size === 0) return;
    const text = show(line);
    if (text.trim() !== '') for (const follower of this.#followers) follower(text);
  }
}

/** Bytes of stderr that are read at once; then a flood waits as one of stdout does. */
const stderrBurstBytes = 262_144;

/** Reads a Node stream into a tail, always, and a flood at a bounded rate. Resolves when the stream is closed. */
export function readStderr(stream: Readable, tail: StderrTail): Promise<void> {
  let burstBytes = 0;
  let isNewBurst = true;
  stream.on('data', (chunk: Buffer) => {
    tail.push(chunk);
    burstBytes += chunk.length;
    if (isNewBurst) {
      isNewBurst = false;
      setTimeout(() => {
        isNewBurst = true;
        burstBytes = 0;
        stream.resume();
      }, floodPauseMs);
    }
    if (burstBytes > stderrBurstBytes) stream.pause();
  });
  stream.on('error', () => {});
  return new Promise((resolve) => stream.once('close', resolve));
}

/** What a terminal would show: of a progress bar that overwrote itself, the last state. */
function show(line: Buffer): string {
  const text = line.toString('utf8').trimEnd();
  return printable(text.slice(text.lastIndexOf('\r') + 1), lineChars);
}

/** Messages are put into one write up to this size. */
const writeBytes = 65_536;

export interface MessageWriterOptions {
  /**
   * A write of at most this many bytes is taken whole or not at all, so that its failure means that nothing arrived. 0
   * where something between us and the server may have taken it.
   */
  wholeBytes: number;
}

interface Outgoing {
  text: string;
  sent: Deferred<void>;
}

/** Writes messages to a server's stdin, in order, one write at a time: what waits when the stream dies was not written. */
export class MessageWriter {
  readonly #stream: Writable;
  readonly #wholeBytes: number;
  readonly #waiting: Outgoing[] = [];
  #isWriting = false;
  #isClosed = false;

  constructor(stream: Writable, { wholeBytes }: MessageWriterOptions) {
    this.#stream = stream;
    this.#wholeBytes = wholeBytes;
    stream.on('error', () => this.close());
    stream.on('close', () => this.close());
  }

  /** Resolves when the stream took it. Throws `NotWritten` when for certain nothing of it left. */
  send(message: Message): Promise<void> {
    if (this.#isClosed) return Promise.reject(new NotWritten('stdin is closed'));
    const outgoing = { text: `${serialise(message)}\n`, sent: deferred<void>() };
    this.#waiting.push(outgoing);
    if (!this.#isWriting) this.#write();
    return outgoing.sent.promise;
  }

  /** Closes stdin: the server reads its end. What is waiting was not written. Doing it twice is done once. */
  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    for (const { sent } of this.#waiting.splice(0)) sent.reject(new NotWritten('stdin was closed'));
    if (!this.#stream.destroyed) this.#stream.end();
  }

  readonly #goOn = () => {
    this.#isWriting = false;
    if (this.#waiting.length > 0) this.#write();
  };

  #write(): void {
    const batch = [this.#waiting.shift()!];
    let { length } = batch[0]!.text;
    while (this.#waiting.length > 0 && length + this.#waiting[0]!.text.length <= writeBytes) {
      batch.push(this.#waiting.shift()!);
      length += batch.at(-1)!.text.length;
    }
    const text = batch.length === 1 ? batch[0]!.text : batch.map((outgoing) => outgoing.text).join('');
    this.#isWriting = true;
    this.#stream.write(text, (error) => {
      if (!error) {
        for (const { sent } of batch) sent.resolve();
        // What else comes in this turn of the event loop goes out in one write: under load a write is what a call costs most.
        setImmediate(this.#goOn);
        return;
      }
      const isWhole = this.#wholeBytes > 0 && Buffer.byteLength(text) <= this.#wholeBytes;
      const reason = isWhole
        ? new NotWritten('stdin is closed', { cause: error })
        : new Error(`stdin failed while a message was written: ${messageOf(error)}`, { cause: error });
      for (const { sent } of batch) sent.reject(reason);
      this.close();
    });
  }
}
