import { IncomingMessage, ServerResponse } from 'node:http';
import { Socket } from 'node:net';
import { describe, expect, it } from 'vitest';
import { Session } from '../../src/access/sessions.ts';
import { type ReplayBounds, Replays, type StreamKind } from '../../src/http/replay.ts';
import { StreamKeeper } from '../../src/http/sse.ts';
import { HeldClock } from '../lifecycle/held-clock.ts';

const minuteMs = 60_000;

function createReplays(bounds: Partial<ReplayBounds> = {}) {
  const clock = new HeldClock();
  const replays = new Replays({ keeper: new StreamKeeper({ clock }), clock, bounds });
  return { clock, replays };
}

const createSession = (id: string, protocolVersion = '2025-11-25') =>
  new Session(id, `token of ${id}`, {
    protocolVersion,
    capabilities: {},
    clientInfo: {},
    principal: 'anonymous',
    scope: null,
    subscriptions: [],
    lastUseMs: 0,
  });

/** One connection of a client: what was written to it, and its end. */
class Connection {
  readonly outgoing: ServerResponse;
  text = '';

  constructor() {
    this.outgoing = new ServerResponse(new IncomingMessage(new Socket()));
    this.outgoing.write = ((chunk: string) => {
      this.text += chunk;
      return true;
    }) as never;
    this.outgoing.end = ((chunk = '') => {
      this.text += chunk;
      this.outgoing.emit('close');
    }) as never;
  }

  drop(): void {
    this.outgoing.destroy();
    this.outgoing.emit('close');
  }

  get data(): string[] {
    return [...this.text.matchAll(/^data: (.+)$/gm)].map(([, data]) => data!);
  }

  get ids(): string[] {
    return [...this.text.matchAll(/^id: (.+)$/gm)].map(([, id]) => id!);
  }
}

function open(replays: Replays, session: Session, kind: StreamKind = 'post') {
  const connection = new Connection();
  return { connection, stream: replays.open(session, kind, connection.outgoing) };
}

/** What a client gets that comes back after an event; undefined where nothing is to come, or a new stream would be opened. */
function comeBack(replays: Replays, session: Session, lastEventId: string): Connection | undefined {
  const found = replays.find(session, lastEventId);
  if (typeof found === 'string') return undefined;
  const connection = new Connection();
  found.stream.connect(connection.outgoing, found.after);
  return connection;
}

describe('what is kept for clients that come back', () => {
  it('is forgotten some minutes after a stream’s end, and keeps no timer then', async () => {
    const { clock, replays } = createReplays();
    const session = createSession('one');
    const { connection, stream } = open(replays, session);
    connection.drop();
    const [id] = connection.ids;
    // The call takes its time, and nothing of it is lost meanwhile.
    await clock.pass(20 * minuteMs);
    expect(stream.keep('progress')).toBe(true);
    stream.finish(['answer']);
    await clock.pass(4 * minuteMs);
    expect(comeBack(replays, session, id!)?.data).toEqual(['progress', 'answer']);
    await clock.pass(2 * minuteMs);
    expect(replays.find(session, id!)).toBe('over');
    expect(replays.usage).toEqual({ sessions: 0, streams: 0, bytes: 0 });
    expect(clock.pending).toBe(0);
  });

  it('is forgotten some minutes after a GET stream was left, unless its client comes back', async () => {
    const { clock, replays } = createReplays();
    const session = createSession('one');
    const { connection, stream } = open(replays, session, 'get');
    stream.deliver('first');
    const id = connection.ids.at(-1)!;
    connection.drop();
    await clock.pass(4 * minuteMs);
    const again = comeBack(replays, session, id)!;
    await clock.pass(30 * minuteMs);
    expect(stream.deliver('second')).toBe(true);
    expect(again.data).toEqual(['second']);
    again.drop();
    await clock.pass(6 * minuteMs);
    expect(stream.keep('third')).toBe(false);
    expect(replays.find(session, id)).toBe('new');
    expect(replays.usage).toEqual({ sessions: 0, streams: 0, bytes: 0 });
  });

  it('is forgotten with the session', async () => {
    const { clock, replays } = createReplays();
    const session = createSession('one');
    const [running, finished] = [open(replays, session), open(replays, session)];
    const listening = open(replays, session, 'get');
    running.stream.deliver('progress');
    finished.stream.finish(['answer']);
    listening.connection.drop();
    replays.forget(session);
    expect(replays.usage).toEqual({ sessions: 0, streams: 0, bytes: 0 });
    running.connection.drop();
    expect(running.stream.keep('more')).toBe(false);
    running.stream.finish(['answer']);
    expect(replays.usage.bytes).toBe(0);
    await clock.pass(6 * minuteMs);
    expect(clock.pending).toBe(0);
  });

  it('is bounded for a session: what is finished goes first, the answer last of all', () => {
    const { replays } = createReplays({ sessionEvents: 10, sessionBytes: 10_000 });
    const session = createSession('one');
    const finished = open(replays, session);
    finished.stream.finish(['old answer']);
    const { connection, stream } = open(replays, session);
    connection.drop();
    for (let sent = 1; sent <= 9; sent += 1) stream.keep(`event ${sent}`);
    expect(comeBack(replays, session, finished.connection.ids[0]!)?.data).toEqual(['old answer']);
    stream.keep('event 10');
    expect(replays.find(session, finished.connection.ids[0]!)).toBe('over');
    stream.keep('event 11');
    const answer = `answer ${'x'.repeat(50_000)}`;
    stream.finish([answer]);
    const again = comeBack(replays, session, connection.ids[0]!)!;
    expect(again.data).toEqual([...[3, 4, 5, 6, 7, 8, 9, 10, 11].map((sent) => `event ${sent}`), answer]);
    // The next stream has the room.
    const next = open(replays, session);
    next.stream.deliver('x'.repeat(5000));
    next.stream.deliver('x'.repeat(5000));
    expect(replays.find(session, connection.ids[0]!)).toBe('over');
    expect(replays.usage.bytes).toBeLessThan(11_000);
  });

  it('is bounded over all sessions, of which most never come back', () => {
    const totalBytes = 1_000_000;
    const { replays } = createReplays({ totalBytes });
    const sessions = Array.from({ length: 1000 }, (_, index) => createSession(`session ${index}`));
    const calls = sessions.map((session) => ({ session, ...open(replays, session) }));
    for (const { connection, stream } of calls) {
      stream.deliver('progress');
      connection.drop();
    }
    for (const { stream } of calls) {
      stream.keep('x'.repeat(1000));
      expect(replays.usage.bytes).toBeLessThanOrEqual(totalBytes);
    }
    for (const { stream } of calls) {
      stream.finish([`answer ${'x'.repeat(1000)}`]);
      expect(replays.usage.bytes).toBeLessThanOrEqual(totalBytes);
    }
    // The latest have theirs, the oldest have nothing to wait for.
    const last = calls.at(-1)!;
    expect(comeBack(replays, last.session, last.connection.ids[0]!)!.data.at(-1)).toMatch(/^answer/);
    const first = calls[0]!;
    expect(replays.find(first.session, first.connection.ids[0]!)).toBe('over');
    for (const session of sessions) replays.forget(session);
    expect(replays.usage).toEqual({ sessions: 0, streams: 0, bytes: 0 });
  });

  it('is nothing where the client has no event to come back to', () => {
    const { replays } = createReplays();
    const older = createSession('one', '2025-06-18');
    const { connection, stream } = open(replays, older);
    connection.drop();
    expect(stream.keep('progress')).toBe(false);
    stream.finish(['answer']);
    expect(replays.usage.streams).toBe(0);
    // Nor where there is no session: modern clients have none.
    const modern = new Connection();
    const unkept = replays.open(undefined, 'post', modern.outgoing);
    unkept.deliver('progress');
    unkept.finish(['answer']);
    expect([modern.ids, modern.data]).toEqual([[], ['progress', 'answer']]);
    expect(replays.usage).toEqual({ sessions: 0, streams: 0, bytes: 0 });
  });
});
