import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { judgeIdle } from './reaper.ts';

const facts = {
  state: 'ready' as const,
  openLeases: 0,
  idleForMs: 0,
  pauseAfterMs: Number.POSITIVE_INFINITY,
  idleTimeoutMs: 300,
};

describe('the reaper', () => {
  it('freezes first, then stops', () => {
    const both = { ...facts, pauseAfterMs: 100 };
    expect(judgeIdle(both)).toEqual({ action: 'keep', lookAgainInMs: 100 });
    expect(judgeIdle({ ...both, idleForMs: 100 })).toEqual({ action: 'pause', lookAgainInMs: 200 });
    expect(judgeIdle({ ...both, idleForMs: 100, state: 'paused' })).toEqual({
      action: 'keep',
      lookAgainInMs: 200,
    });
    expect(judgeIdle({ ...both, idleForMs: 300, state: 'paused' }).action).toBe('stop');
  });

  it('does nothing for ever when both are off', () => {
    const never = { ...facts, idleTimeoutMs: Number.POSITIVE_INFINITY, idleForMs: 1e9 };
    expect(judgeIdle(never)).toEqual({ action: 'keep', lookAgainInMs: Number.POSITIVE_INFINITY });
  });

  it('never touches what is held, and always looks again before the next step is due', () => {
    const durations = fc.oneof(fc.nat(1000), fc.constant(Number.POSITIVE_INFINITY));
    fc.assert(
      fc.property(
        fc.nat(2),
        fc.nat(2000),
        durations,
        durations,
        fc.boolean(),
        (openLeases, idleForMs, pauseAfterMs, idleTimeoutMs, isPaused) => {
          const state = isPaused ? ('paused' as const) : ('ready' as const);
          const given = { state, openLeases, idleForMs, pauseAfterMs, idleTimeoutMs };
          const { action, lookAgainInMs } = judgeIdle(given);
          if (openLeases > 0) return action === 'keep';
          if (action === 'stop') return idleForMs >= idleTimeoutMs;
          if (lookAgainInMs < 0) return false;
          if (lookAgainInMs === Number.POSITIVE_INFINITY) return idleTimeoutMs === Number.POSITIVE_INFINITY;
          const later = judgeIdle({
            ...given,
            state: action === 'pause' ? 'paused' : state,
            idleForMs: idleForMs + lookAgainInMs,
          });
          return later.action !== 'keep';
        },
      ),
    );
  });
});
