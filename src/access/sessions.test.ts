import { randomBytes } from 'node:crypto';
import { decodeJwt, SignJWT } from 'jose';
import { describe, expect, it } from 'vitest';
import type { Clock } from '../base/async.ts';
import { MemoryStore } from '../base/memory-store.ts';
import { type Session, Sessions } from './sessions.ts';

/** Time that moves only when told to. */
class HeldClock implements Clock {
  #nowMs = Date.parse('2026-01-01T00:00:00Z');
  readonly #tasks = new Set<{ atMs: number; task: () => void }>();

  now() {
    return this.#nowMs;
  }

  schedule(task: () => void, delayMs: number) {
    const entry = { atMs: this.#nowMs + delayMs, task };
    this.#tasks.add(entry);
    return () => this.#tasks.delete(entry);
  }

  advance(ms: number) {
    const untilMs = this.#nowMs + ms;
    for (;;) {
      const due = [...this.#tasks].filter(({ atMs }) => atMs <= untilMs).sort((a, b) => a.atMs - b.atMs)[0];
      if (!due) break;
      this.#tasks.delete(due);
      this.#nowMs = due.atMs;
      due.task();
    }
    this.#nowMs = untilMs;
  }
}

const client = {
  protocolVersion: '2025-11-25',
  capabilities: { sampling: {} },
  clientInfo: { name: 'test', version: '1' },
};
const minute = 60_000;

function setUp(options: { maxSessions?: number } = {}) {
  const clock = new HeldClock();
  const store = new MemoryStore(clock);
  const key = randomBytes(32);
  const start = () => {
    const ended: string[] = [];
    const opened: string[] = [];
    const sessions = new Sessions({
      store,
      key,
      gateway: { maxSessions: options.maxSessions ?? 100, sessionTimeoutMs: 30 * minute },
      clock,
    });
    sessions.observe({ onOpen: ({ id }) => opened.push(id), onEnd: ({ id }) => ended.push(id) });
    return { sessions, ended, opened };
  };
  return { clock, store, key, start };
}

const unknown = { code: 'session_unknown' };
const find = async (sessions: Sessions, { token, scope }: Session, atScope = scope, principal?: string) =>
  sessions.find(token, atScope, principal);

describe('sessions', () => {
  it('are found by a short signed id that tells nothing but itself and whose it is', async () => {
    const { sessions } = setUp().start();
    const session = await sessions.begin(client, 'demo');
    expect(session.token.length).toBeLessThan(200);
    expect(decodeJwt(session.token)).toEqual({ jti: session.id, sub: 'anonymous', iss: 'mcp-gateway' });
    expect(await find(sessions, session)).toBe(session);
  });

  it('refuse forged, foreign and garbled ids', async () => {
    const { sessions } = setUp().start();
    const session = await sessions.begin(client, undefined);
    const forged = await new SignJWT({ jti: session.id, sub: 'anonymous', iss: 'mcp-gateway' })
      .setProtectedHeader({ alg: 'HS256' })
      .sign(randomBytes(32));
    const [header, payload] = session.token.split('.');
    const unsigned = `${Buffer.from('{"alg":"none"}').toString('base64url')}.${payload}.`;
    for (const token of [forged, unsigned, `${header}.${payload}.`, '', 'x', 'x'.repeat(100_000)]) {
      await expect(async () => sessions.find(token, undefined)).rejects.toMatchObject(unknown);
    }
    await expect(find(sessions, session, undefined, 'somebody else')).rejects.toMatchObject(unknown);
    await expect(find(sessions, session, 'demo')).rejects.toMatchObject(unknown);
    expect(await find(sessions, session)).toBe(session);
  });

  it('survive a restart with what they know, once for all who ask at the same time', async () => {
    const { start, clock } = setUp();
    const first = start();
    const session = await first.sessions.begin(client, undefined);
    session.logLevel = 'error';
    session.subscriptions.push({ server: 'demo', uri: 'a://b', exposed: 'a://b' });
    first.sessions.changed(session);
    clock.advance(1000);

    const second = start();
    const [found, again] = await Promise.all([
      find(second.sessions, session),
      find(second.sessions, session),
    ]);
    expect(found).toBe(again);
    expect(found).not.toBe(session);
    expect(found).toMatchObject({
      id: session.id,
      client,
      logLevel: 'error',
      subscriptions: session.subscriptions,
    });
    expect(second.opened).toEqual([session.id]);
  });

  it('survive a gateway that was killed a moment after they began', async () => {
    const { start } = setUp();
    const session = await start().sessions.begin(client, undefined);
    await expect(find(start().sessions, session)).resolves.toMatchObject({ id: session.id });
  });

  it('stay unknown once they were ended, also after a restart', async () => {
    const { start } = setUp();
    const { sessions, ended } = start();
    const session = await sessions.begin(client, undefined);
    sessions.end(session);
    sessions.end(session);
    expect(ended).toEqual([session.id]);
    await expect(find(sessions, session)).rejects.toMatchObject(unknown);
    await sessions.close();
    await expect(find(start().sessions, session)).rejects.toMatchObject(unknown);
  });

  it('expire after their last request, unless a stream is open', async () => {
    const { start, clock } = setUp();
    const { sessions, ended } = start();
    const idle = await sessions.begin(client, undefined);
    const used = await sessions.begin(client, undefined);
    const listening = await sessions.begin(client, undefined);
    const release = sessions.hold(listening);
    clock.advance(20 * minute);
    await find(sessions, used);
    clock.advance(20 * minute);
    expect(ended).toEqual([idle.id]);
    await expect(find(sessions, idle)).rejects.toMatchObject(unknown);
    expect(await find(sessions, used)).toBe(used);
    clock.advance(300 * minute);
    expect(await find(sessions, listening)).toBe(listening);
    release();
    clock.advance(31 * minute);
    await expect(find(sessions, listening)).rejects.toMatchObject(unknown);
    expect(sessions.size).toBe(0);
  });

  it('keep their age over a restart: in use until then, or idle for long', async () => {
    const { start, clock } = setUp();
    const { sessions } = start();
    const listening = await sessions.begin(client, undefined);
    const idle = await sessions.begin(client, undefined);
    sessions.hold(listening);
    clock.advance(29 * minute);
    // Killed here: nothing is closed.
    const restarted = start().sessions;
    await expect(find(restarted, listening)).resolves.toBeDefined();
    clock.advance(3 * minute);
    await expect(find(restarted, idle)).rejects.toMatchObject(unknown);
  });

  it('make room by the one that was idle the longest, and never by one in use', async () => {
    const { start, clock } = setUp({ maxSessions: 3 });
    const { sessions, ended } = start();
    const listening = await sessions.begin(client, undefined);
    sessions.hold(listening);
    const older = await sessions.begin(client, undefined);
    const newer = await sessions.begin(client, undefined);
    clock.advance(1000);
    await find(sessions, older);
    await sessions.begin(client, undefined);
    expect(ended).toEqual([newer.id]);
    clock.advance(1000);
    sessions.hold(older);
    const last = await sessions.begin(client, undefined);
    expect(sessions.size).toBe(3);
    sessions.hold(last);
    await expect(sessions.begin(client, undefined)).rejects.toMatchObject({ code: 'session_limit' });
  });

  it('go on in memory when the store fails, and say so', async () => {
    const errors: unknown[] = [];
    const broken = new MemoryStore();
    broken.set = () => Promise.reject(new Error('no space left on device'));
    const sessions = new Sessions({
      store: broken,
      key: randomBytes(32),
      gateway: { maxSessions: 10, sessionTimeoutMs: minute },
      onStoreError: (error) => errors.push(error),
    });
    const session = await sessions.begin(client, undefined);
    expect(await find(sessions, session)).toBe(session);
    await sessions.close();
    expect(errors[0]).toMatchObject({ message: 'no space left on device' });
  });
});
