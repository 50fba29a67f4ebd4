import { once } from 'node:events';
import { createServer, type ServerResponse } from 'node:http';
import { type AddressInfo, connect, type Socket } from 'node:net';
import { afterEach, describe, expect, it } from 'vitest';
import type { Clock } from '../base/async.ts';
import { type Dropped, StreamKeeper, sseHeaders } from './sse.ts';

/** Rounds come when the test says so. */
class RoundClock implements Clock {
  #task: (() => void) | undefined;

  now() {
    return 0;
  }

  schedule(task: () => void) {
    this.#task = task;
    return () => {
      this.#task = undefined;
    };
  }

  round() {
    const task = this.#task;
    this.#task = undefined;
    task?.();
  }
}

const closing: (() => void)[] = [];
afterEach(() => {
  for (const close of closing.splice(0)) close();
});

/** An open answer, and the raw connection of its reader, who reads nothing until told to. */
async function openAnswer(): Promise<{ outgoing: ServerResponse; reader: Socket }> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const reader = connect((server.address() as AddressInfo).port, '127.0.0.1');
  reader.on('error', () => {});
  reader.write('GET / HTTP/1.1\r\nHost: localhost\r\n\r\n');
  const [, outgoing] = (await once(server, 'request')) as [unknown, ServerResponse];
  outgoing.writeHead(200, sseHeaders);
  outgoing.flushHeaders();
  closing.push(() => {
    reader.destroy();
    server.close();
  });
  return { outgoing, reader };
}

const tick = () => new Promise((resolve) => setTimeout(resolve, 20));

describe('the keeper of streams', () => {
  it('keeps idle ones alive with comments, and forgets those that are closed', async () => {
    const clock = new RoundClock();
    const keeper = new StreamKeeper({ clock });
    const { outgoing, reader } = await openAnswer();
    let text = '';
    reader.on('data', (chunk) => {
      text += chunk;
    });
    keeper.keep(outgoing, ': keep-alive\n\n');
    for (let round = 0; round < 3; round += 1) {
      clock.round();
      await tick();
    }
    expect(text.match(/^: keep-alive$/gm)).toHaveLength(3);
    reader.destroy();
    await once(outgoing, 'close');
    expect(keeper.size).toBe(0);
    expect(keeper.write(outgoing, 'data: x\n\n')).toBe(false);
  });

  it('drops a reader that falls too far behind, with bounded memory, and says why', async () => {
    const dropped: Dropped[] = [];
    const keeper = new StreamKeeper({
      clock: new RoundClock(),
      onDropped: (one) => dropped.push(one),
    });
    const { outgoing } = await openAnswer();
    keeper.keep(outgoing, ': keep-alive\n\n', { session: 'session-1' });
    const chunk = `data: ${'x'.repeat(1024 * 1024)}\n\n`;
    let written = 0;
    while (keeper.write(outgoing, chunk)) {
      written += 1;
      if (written > 200) throw new Error('never dropped');
      await tick();
    }
    expect(outgoing.destroyed).toBe(true);
    expect(written).toBeGreaterThan(7);
    expect(dropped).toEqual([
      { session: 'session-1', reason: 'It was too far behind', bytes: expect.any(Number) },
    ]);
    expect(dropped[0]!.bytes).toBeGreaterThan(8 * 1024 * 1024);
    expect(keeper.size).toBe(0);
  });

  it('lets one big message through to a slow reader', async () => {
    const keeper = new StreamKeeper({ clock: new RoundClock() });
    const { outgoing, reader } = await openAnswer();
    expect(keeper.write(outgoing, `data: ${'x'.repeat(20 * 1024 * 1024)}\n\n`)).toBe(true);
    keeper.end(outgoing, 'data: last\n\n');
    await tick();
    let bytes = 0;
    let tail = '';
    reader.on('data', (chunk) => {
      bytes += chunk.length;
      tail = (tail + chunk.toString('latin1')).slice(-100);
    });
    await once(outgoing, 'finish');
    while (!tail.includes('data: last')) await tick();
    expect(bytes).toBeGreaterThan(20 * 1024 * 1024);
  });

  it('holds on to nothing that is answered', async () => {
    const keeper = new StreamKeeper({ clock: new RoundClock() });
    const { outgoing } = await openAnswer();
    keeper.keep(outgoing, ': keep-alive\n\n');
    keeper.end(outgoing, 'data: short\n\n');
    expect(keeper.size).toBe(0);
    const { outgoing: long, reader } = await openAnswer();
    keeper.end(long, 'x'.repeat(20 * 1024 * 1024));
    expect(keeper.size).toBe(1);
    reader.resume();
    await once(long, 'finish');
    expect(keeper.size).toBe(0);
  });

  it('drops a reader that takes nothing of an answer’s rest for minutes', async () => {
    const clock = new RoundClock();
    const dropped: Dropped[] = [];
    const keeper = new StreamKeeper({ clock, onDropped: (one) => dropped.push(one) });
    const { outgoing } = await openAnswer();
    keeper.end(outgoing, 'x'.repeat(20 * 1024 * 1024), 'session-1');
    await tick();
    for (let round = 0; round < 8; round += 1) clock.round();
    expect(outgoing.destroyed).toBe(false);
    for (let round = 0; round < 4; round += 1) clock.round();
    expect(outgoing.destroyed).toBe(true);
    expect(keeper.size).toBe(0);
    expect(dropped).toEqual([
      { session: 'session-1', reason: 'It read nothing for two minutes', bytes: expect.any(Number) },
    ]);
  });

  it('bounds what the answers of all slow readers hold together', async () => {
    const dropped: Dropped[] = [];
    const keeper = new StreamKeeper({
      clock: new RoundClock(),
      onDropped: (one) => dropped.push(one),
      maxUnreadBytes: 100 * 1024 * 1024,
    });
    const big = 'x'.repeat(10 * 1024 * 1024);
    const answers = [];
    for (let opened = 0; opened < 16; opened += 1) {
      const answer = await openAnswer();
      keeper.end(answer.outgoing, big);
      answers.push(answer);
      const unread = answers.filter(({ outgoing }) => !outgoing.destroyed);
      const bytes = unread.reduce((sum, { outgoing }) => sum + outgoing.writableLength, 0);
      expect(bytes).toBeLessThanOrEqual(100 * 1024 * 1024);
    }
    expect(dropped.length).toBeGreaterThan(5);
    expect(new Set(dropped.map(({ reason }) => reason))).toEqual(
      new Set(['All clients together were too far behind']),
    );
    // Those that are left are served in full, and count no more when they are.
    const left = answers.filter(({ outgoing }) => !outgoing.destroyed);
    expect(left.length).toBeGreaterThan(3);
    await Promise.all(
      left.map(({ outgoing, reader }) => {
        reader.resume();
        return once(outgoing, 'finish');
      }),
    );
    expect(keeper.size).toBe(0);
    const { outgoing } = await openAnswer();
    keeper.end(outgoing, 'x'.repeat(60 * 1024 * 1024));
    expect(outgoing.destroyed).toBe(false);
  });
});
