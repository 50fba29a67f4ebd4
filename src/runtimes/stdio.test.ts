import { once } from 'node:events';
import { PassThrough, Readable, Writable } from 'node:stream';
import { describe, expect, it } from 'vitest';
import type { Message } from '../protocol/jsonrpc.ts';
import { type Noise, NotWritten } from './runtime.ts';
import { MessageReader, MessageWriter, readMessages, StderrTail } from './stdio.ts';

const notification = (n: number): Message => ({ jsonrpc: '2.0', method: 'n', params: { n } });
const line = (n: number) => `${JSON.stringify(notification(n))}\n`;

function reader(maxBytes = 1 << 20) {
  const messages: Message[] = [];
  const noise: Noise[] = [];
  let pauses = 0;
  let resumes = 0;
  const it = new MessageReader({
    maxBytes,
    onMessage: (message) => void messages.push(message),
    onNoise: (item) => void noise.push(item),
    pause: () => {
      pauses += 1;
    },
    resume: () => {
      resumes += 1;
    },
  });
  return { reader: it, messages, noise, counts: () => ({ pauses, resumes }) };
}

describe('MessageReader', () => {
  it('delivers messages in order and everything else as noise, and loses nothing at the end', async () => {
    const { reader: it, messages, noise } = reader();
    it.push(
      Buffer.from(`Server running\n\n   \n${line(1)}{"half":\n  ${line(2)}{"jsonrpc":"2.0"}\n[]\n42\n`),
    );
    it.push(
      Buffer.from(`\u001b[32m✔ ready\u001b[0m\r\n[${line(3).trim()},${line(4).trim()}]\n${line(5).trim()}`),
    );
    it.end();
    it.end();
    await it.ended;
    expect(messages).toEqual([1, 2, 3, 4, 5].map(notification));
    expect(noise.map((item) => item.text)).toEqual([
      'Server running',
      '{"half":',
      '{"jsonrpc":"2.0"}',
      '[]',
      '42',
      '✔ ready',
    ]);
    expect(new Set(noise.map((item) => item.kind))).toEqual(new Set(['garbage']));
  });

  it.each([
    ['both a result and an error', '{"jsonrpc":"2.0","id":7,"result":{},"error":{"code":1,"message":""}}', 7],
    ['neither of them', '{"jsonrpc":"2.0","id":7}', 7],
    ['an error that is a string', '{"jsonrpc":"2.0","id":"a","error":"no"}', 'a'],
    ['another version', '{"jsonrpc":"1.0","id":7,"result":{}}', 7],
    ['a number that is none', '{"jsonrpc":"2.0","id":7,"result":{"mean":NaN}}', 7],
    ['too many levels', `{"jsonrpc":"2.0","id":7,"result":${'['.repeat(5000)}${']'.repeat(5000)}}`, 7],
    ['no envelope: a line of a log', '{"level":"error","id":7,"error":"no"}', undefined],
    ['a method: a broken request', '{"jsonrpc":"2.0","id":7,"method":5}', undefined],
  ])('tells which request a broken answer is for: %s', async (_what, text, id) => {
    const { reader: it, messages, noise } = reader();
    it.push(Buffer.from(`${text}\n`));
    it.end();
    await it.ended;
    expect(messages).toEqual([]);
    expect(noise.map((item) => [item.kind, item.id])).toEqual([['garbage', id]]);
  });

  it('takes a line that the end has cut off for no answer: why its server has ended says more', async () => {
    const { reader: it, messages, noise } = reader();
    it.push(Buffer.from('{"jsonrpc":"2.0","id":7,"result":{"text":"xxx'));
    it.end();
    await it.ended;
    expect(messages).toEqual([]);
    expect(noise.map((item) => [item.kind, item.id])).toEqual([['garbage', undefined]]);
  });

  it('bounds what it says of a line of garbage', async () => {
    const { reader: it, noise } = reader();
    it.push(Buffer.from(`${'é\u0007'.repeat(50_000)}\n`));
    it.end();
    await it.ended;
    expect(noise).toHaveLength(1);
    expect(noise[0]!.text.length).toBeLessThanOrEqual(200);
    expect(noise[0]!.bytes).toBe(150_000);
  });

  it.each([
    ['{"jsonrpc":"2.0","id":7,"result":{"text":"', '"}}', 7],
    ['{"id":"a\\"b","result":{"text":"', '"}}', 'a"b'],
    ['{"result":{"text":"', '"},"jsonrpc":"2.0","id":7}', 7],
    ['{"result":{"text":"', '"},"id":"7","jsonrpc":"2.0"}', '7'],
    ['{"jsonrpc":"2.0","error":{"data":"', '"},"id":7}', 7],
    ['{"jsonrpc":"2.0","id":7,"method":"sampling/createMessage","params":{"text":"', '"}}', undefined],
    ['{"method":"sampling/createMessage","params":{"text":"', '"},"jsonrpc":"2.0","id":7}', undefined],
    ['{"jsonrpc":"2.0","result":{"text":"', '","id":7}}', undefined],
    ['{"jsonrpc":"2.0","result":{"text":"', ',\\"id\\":7}"}}', undefined],
    ['text ', '"id":7}', undefined],
  ])('names the call that a dropped %s…%s answers', async (start, end, id) => {
    const { reader: it, messages, noise } = reader(10_000);
    it.push(Buffer.from(start));
    for (let i = 0; i < 20; i += 1) it.push(Buffer.alloc(1000, 'x'));
    it.push(Buffer.from(`${end}\n${line(1)}`));
    it.end();
    await it.ended;
    expect(messages).toHaveLength(1);
    expect(noise).toEqual([
      {
        kind: 'oversize',
        text: expect.stringMatching(/^.{200}$/),
        bytes: start.length + 20_000 + end.length,
        id,
      },
    ]);
  });

  it('gives everything else a turn while a source floods it, and holds the source back', async () => {
    const { reader: it, messages, counts } = reader();
    const chunk = Buffer.from(line(1).repeat(1500));
    let turns = 0;
    let done = false;
    const turn = () => {
      turns += 1;
      if (!done) setImmediate(turn);
    };
    setImmediate(turn);
    for (let i = 0; i < 200; i += 1) it.push(chunk);
    expect(messages.length).toBeLessThan(200 * 1500);
    expect(counts().pauses).toBe(1);
    it.end();
    await it.ended;
    done = true;
    expect(messages).toHaveLength(200 * 1500);
    expect(turns).toBeGreaterThan(10);
  });

  it('goes on by itself after a pause and keeps the order', async () => {
    let produced = 0;
    const source = new Readable({
      read() {
        produced += 1;
        this.push(produced > 300 ? null : Buffer.from(line(produced).repeat(500)));
      },
    });
    const numbers: unknown[] = [];
    const it = readMessages(source, {
      maxBytes: 1 << 20,
      onMessage: (message) => numbers.push('params' in message && message.params?.n),
      onNoise: () => {},
    });
    await it.ended;
    expect(numbers).toHaveLength(150_000);
    expect(numbers).toEqual([...numbers].sort((a, b) => Number(a) - Number(b)));
  });

  it('ends when its stream is destroyed with an error', async () => {
    const source = new PassThrough();
    const it = readMessages(source, { maxBytes: 100, onMessage: () => {}, onNoise: () => {} });
    source.destroy(new Error('connection reset'));
    await it.ended;
  });
});

describe('StderrTail', () => {
  it('keeps the last 100 lines', () => {
    const tail = new StderrTail();
    for (let i = 0; i < 1000; i += 1) tail.push(Buffer.from(`line ${i}\n`));
    expect(tail.lines()).toEqual(Array.from({ length: 100 }, (_, i) => `line ${900 + i}`));
  });

  it('keeps at most 16 KiB, of one line as of many', () => {
    const endless = new StderrTail();
    for (let i = 0; i < 1000; i += 1) endless.push(Buffer.alloc(65_536, 'x'));
    expect(endless.lines().join('').length).toBeLessThanOrEqual(2000);
    endless.push(Buffer.from('\nlast'));
    expect(endless.lines().at(-1)).toBe('last');

    const many = new StderrTail();
    many.push(Buffer.from(`${'y'.repeat(1000)}\n`.repeat(500)));
    expect(many.lines()).toHaveLength(16);
    for (let i = 0; i < 50; i += 1) many.push(Buffer.from(`${'z'.repeat(1000)}\n`));
    expect(many.lines()).toEqual(Array.from({ length: 16 }, () => 'z'.repeat(1000)));
  });

  it('joins lines that come in pieces and shows an unfinished one', () => {
    const tail = new StderrTail();
    for (const byte of Buffer.from('Füße\r\nfatal: no')) tail.push(Buffer.of(byte));
    expect(tail.lines()).toEqual(['Füße', 'fatal: no']);
    tail.end();
    expect(tail.lines()).toEqual(['Füße', 'fatal: no']);
  });

  it('neutralises colours, control characters and overwritten progress', () => {
    const tail = new StderrTail();
    tail.push(Buffer.from('\u001b[31merror\u001b[0m: \u0007x\n 10%\r 20%\rdone\n\n   \n'));
    expect(tail.lines()).toEqual(['error: \\u0007x', 'done']);
  });

  it('tells followers each line until they leave', () => {
    const tail = new StderrTail();
    const seen: string[] = [];
    const leave = tail.follow((text) => seen.push(text));
    tail.push(Buffer.from(`a\nb${'c'.repeat(3)}`));
    tail.push(Buffer.from('\n'));
    leave();
    tail.push(Buffer.from('d\n'));
    expect(seen).toEqual(['a', 'bccc']);
  });
});

describe('MessageWriter', () => {
  it('puts what comes in one turn of the event loop into one write, the first message at once', async () => {
    const writes: string[] = [];
    const stream = new Writable({
      write(chunk, _encoding, done) {
        writes.push(String(chunk));
        done();
      },
    });
    const writer = new MessageWriter(stream, { wholeBytes: 0 });
    const send = (id: number) => writer.send({ jsonrpc: '2.0', id, method: 'm' });
    const first = send(0);
    expect(writes).toHaveLength(1);
    await first;
    await Promise.all([1, 2, 3].map(send));
    expect(writes.map((text) => text.split('\n').length - 1)).toEqual([1, 3]);
  });

  /** A pipe that takes one write at a time, when told to. */
  class Pipe extends Writable {
    readonly taken: string[] = [];
    #take: ((error?: Error) => void) | undefined;
    constructor() {
      super({ decodeStrings: false, highWaterMark: 1 });
    }
    override _write(chunk: string, _encoding: string, done: (error?: Error | null) => void) {
      this.#take = (error) => {
        if (!error) this.taken.push(chunk);
        done(error);
      };
    }
    async take(error?: Error) {
      const take = this.#take;
      this.#take = undefined;
      take?.(error);
      await new Promise(setImmediate);
    }
  }
  const settled = (promise: Promise<unknown>) =>
    promise.then(
      () => 'sent',
      (error) => (error instanceof NotWritten ? 'not written' : 'failed'),
    );

  it('writes in order, whole lines, and resolves when they were taken', async () => {
    const stream = new PassThrough();
    const writer = new MessageWriter(stream, { wholeBytes: 0 });
    await Promise.all([1, 2, 3].map((n) => writer.send(notification(n))));
    writer.close();
    stream.resume();
    const chunks: Buffer[] = [];
    stream.on('data', (chunk) => chunks.push(chunk));
    await once(stream, 'end');
    expect(Buffer.concat(chunks).toString()).toBe(line(1) + line(2) + line(3));
  });

  it('waits for a reader that is slow', async () => {
    const pipe = new Pipe();
    const writer = new MessageWriter(pipe, { wholeBytes: 0 });
    let count = 0;
    const all = [1, 2, 3].map((n) =>
      writer.send(notification(n)).then(() => {
        count += 1;
      }),
    );
    await new Promise(setImmediate);
    expect(count).toBe(0);
    await pipe.take();
    expect(count).toBe(1);
    await pipe.take();
    await Promise.all(all);
    expect(pipe.taken.join('')).toBe(line(1) + line(2) + line(3));
  });

  it('says of each message whether it may have arrived when the pipe breaks', async () => {
    for (const [wholeBytes, first] of [
      [65_536, 'not written'],
      [0, 'failed'],
      [10, 'failed'],
    ] as const) {
      const pipe = new Pipe();
      const writer = new MessageWriter(pipe, { wholeBytes });
      const outcomes = [1, 2, 3].map((n) => settled(writer.send(notification(n))));
      await pipe.take(Object.assign(new Error('write EPIPE'), { code: 'EPIPE' }));
      expect(await Promise.all(outcomes)).toEqual([first, 'not written', 'not written']);
      expect(await settled(writer.send(notification(4)))).toBe('not written');
    }
  });

  it('takes nothing more once closed, and lets what was written go out', async () => {
    const pipe = new Pipe();
    const writer = new MessageWriter(pipe, { wholeBytes: 0 });
    const outcomes = [1, 2].map((n) => settled(writer.send(notification(n))));
    writer.close();
    writer.close();
    await pipe.take();
    expect(await Promise.all(outcomes)).toEqual(['sent', 'not written']);
    expect(await settled(writer.send(notification(3)))).toBe('not written');
    expect(pipe.writableEnded).toBe(true);
  });
});
