import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Demultiplexer } from './demux.ts';

const frame = (stream: number, payload: Buffer) => {
  const header = Buffer.alloc(8);
  header[0] = stream;
  header.writeUInt32BE(payload.length, 4);
  return Buffer.concat([header, payload]);
};

function collect() {
  const out: Buffer[] = [];
  const err: Buffer[] = [];
  let broken = 0;
  const demux = new Demultiplexer({
    onStdout: (part) => out.push(Buffer.from(part)),
    onStderr: (part) => err.push(Buffer.from(part)),
    onBroken: () => {
      broken += 1;
    },
  });
  return {
    demux,
    stdout: () => Buffer.concat(out).toString('latin1'),
    stderr: () => Buffer.concat(err).toString('latin1'),
    broken: () => broken,
  };
}

describe('Demultiplexer', () => {
  it('tells stdout from stderr, however the stream is cut', () => {
    const frames = fc.array(
      fc.record({ stream: fc.constantFrom(1, 2), payload: fc.uint8Array({ maxLength: 40 }) }),
      { maxLength: 12 },
    );
    fc.assert(
      fc.property(frames, fc.infiniteStream(fc.integer({ min: 1, max: 13 })), (sent, sizes) => {
        const bytes = Buffer.concat(sent.map(({ stream, payload }) => frame(stream, Buffer.from(payload))));
        const { demux, stdout, stderr, broken } = collect();
        for (let start = 0; start < bytes.length; ) {
          const end = start + sizes.next().value!;
          demux.push(bytes.subarray(start, end));
          start = end;
        }
        const expected = (stream: number) =>
          Buffer.concat(sent.filter((f) => f.stream === stream).map((f) => f.payload)).toString('latin1');
        expect(stdout()).toBe(expected(1));
        expect(stderr()).toBe(expected(2));
        expect(broken()).toBe(0);
      }),
    );
  });

  it('passes the parts of a long frame on as they come', () => {
    const { demux, stdout } = collect();
    const long = frame(1, Buffer.alloc(1000, 'a'));
    demux.push(long.subarray(0, 508));
    expect(stdout()).toHaveLength(500);
  });

  it('says once that a stream is not multiplexed, and delivers nothing of it', () => {
    const { demux, stdout, stderr, broken } = collect();
    demux.push(Buffer.from('{"jsonrpc":"2.0"}\n'));
    demux.push(Buffer.from('{"jsonrpc":"2.0"}\n'));
    expect([stdout(), stderr(), broken()]).toEqual(['', '', 1]);
  });
});
