import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { LineFramer, type LineFramerOptions } from './framing.ts';

interface Oversize {
  bytes: number;
  head: string;
  tail: string;
}

function collect(options: Partial<LineFramerOptions> = {}) {
  const lines: string[] = [];
  const oversize: Oversize[] = [];
  const framer = new LineFramer({
    maxBytes: 1 << 20,
    onLine: (line) => void lines.push(line.toString()),
    onOversize: (bytes, head, tail) => oversize.push({ bytes, head, tail }),
    ...options,
  });
  return { framer, lines, oversize };
}

describe('LineFramer', () => {
  it('delivers lines in order, without their ends and without empty ones', () => {
    const { framer, lines } = collect();
    framer.push(Buffer.from('one\ntwo\r\n\n\r\n  \nthr'));
    framer.push(Buffer.from('ee\nfour'));
    expect(lines).toEqual(['one', 'two', '  ', 'three']);
    framer.end();
    framer.end();
    expect(lines).toEqual(['one', 'two', '  ', 'three', 'four']);
  });

  it('finds the same lines however the bytes are split, also inside a character', () => {
    const unit = fc.oneof(
      fc.constantFrom('\n', '\r\n', '\r', '', '你好', '👩‍💻', '{"a":1}', 'x'.repeat(5000)),
      fc.string(),
    );
    fc.assert(
      fc.property(fc.array(unit), fc.array(fc.integer({ min: 1, max: 6000 })), (parts, sizes) => {
        const bytes = Buffer.from(parts.join(''));
        const { framer, lines } = collect();
        let at = 0;
        for (let i = 0; at < bytes.length; i += 1) {
          const size = sizes.length === 0 ? bytes.length : sizes[i % sizes.length]!;
          framer.push(bytes.subarray(at, at + size));
          at += size;
        }
        framer.end();
        const expected = bytes
          .toString()
          .split('\n')
          .map((line) => line.replace(/\r$/, ''))
          .filter((line) => line !== '');
        expect(lines).toEqual(expected);
      }),
    );
  });

  it('passes bytes that are no UTF-8 through untouched', () => {
    const seen: Buffer[] = [];
    const { framer } = collect({ onLine: (line) => void seen.push(Buffer.from(line)) });
    framer.push(Buffer.from([0xff, 0xfe, 0x00, 0x80, 0x0a]));
    expect(seen).toEqual([Buffer.from([0xff, 0xfe, 0x00, 0x80])]);
  });

  it('takes a line of exactly the bound and drops one more byte, with either line end', () => {
    for (const end of ['\n', '\r\n']) {
      for (const split of [1, 7, 1000]) {
        const { framer, lines, oversize } = collect({ maxBytes: 100 });
        const bytes = Buffer.from(`${'a'.repeat(100)}${end}${'b'.repeat(101)}${end}after${end}`);
        for (let at = 0; at < bytes.length; at += split) framer.push(bytes.subarray(at, at + split));
        expect(lines).toEqual(['a'.repeat(100), 'after']);
        expect(oversize).toHaveLength(1);
        expect(oversize[0]!.head).toMatch(/^b{101}/);
      }
    }
  });

  it('keeps both ends of a line that is too long, and works after it', () => {
    const { framer, lines, oversize } = collect({ maxBytes: 10_000 });
    framer.push(Buffer.from('{"result":{"text":"\u001b[31m'));
    for (let i = 0; i < 100; i += 1) framer.push(Buffer.alloc(1000, 'x'));
    framer.push(Buffer.from('"},"jsonrpc":"2.0",'));
    framer.push(Buffer.from('"id":7}\r\nnext\n'));
    expect(lines).toEqual(['next']);
    expect(oversize).toHaveLength(1);
    const { bytes, head, tail } = oversize[0]!;
    expect(bytes).toBe(24 + 100_000 + 19 + 8);
    expect(head).toMatch(/^\{"result":\{"text":"x+$/);
    expect(head.length).toBe(200);
    expect(tail).toMatch(/x"\},"jsonrpc":"2\.0","id":7\}$/);
    expect(tail.length).toBe(200);
  });

  it('reports a line that never ends once, with bounded memory', () => {
    const { framer, oversize } = collect({ maxBytes: 1 << 20 });
    const chunk = Buffer.alloc(65_536, 'x');
    const before = process.memoryUsage();
    let peak = 0;
    for (let i = 0; i < 16_384; i += 1) {
      framer.push(chunk);
      if (i % 1024 === 0) peak = Math.max(peak, process.memoryUsage().arrayBuffers - before.arrayBuffers);
    }
    expect(oversize).toHaveLength(1);
    expect(peak).toBeLessThan(16 << 20);
    framer.push(Buffer.from('\nok\n'));
    expect(oversize).toHaveLength(1);
  });

  it('gathers single bytes instead of keeping an object for each', () => {
    const { framer, lines } = collect();
    const text = 'ab'.repeat(150_000);
    for (const byte of Buffer.from(text)) framer.push(Buffer.of(byte));
    framer.push(Buffer.from('\n'));
    expect(lines).toEqual([text]);
  });

  it('stops where the receiver suspends, and goes on from there', () => {
    const lines: string[] = [];
    const { framer } = collect({
      onLine: (line) => {
        lines.push(line.toString());
        return lines.length % 2 === 1;
      },
    });
    const bytes = Buffer.from('a\nb\nc\nd\ne');
    const used = framer.push(bytes);
    expect([used, lines]).toEqual([4, ['a', 'b']]);
    expect(framer.push(bytes.subarray(used))).toBe(4);
    expect(lines).toEqual(['a', 'b', 'c', 'd']);
    framer.push(Buffer.from('\n'));
    expect(lines.at(-1)).toBe('d');
  });

  it('is linear: joining what there is at each chunk would take minutes here', { timeout: 20_000 }, () => {
    const chunk = Buffer.alloc(65_536, 'x');
    let length = 0;
    const onLine = (line: Buffer) => {
      length = line.length;
    };
    const { framer } = collect({ maxBytes: 1 << 30, onLine });
    const chunks = 4000;
    for (let i = 0; i < chunks; i += 1) framer.push(chunk);
    framer.push(Buffer.from('\n'));
    expect(length).toBe(chunks * chunk.length);
  });
});
