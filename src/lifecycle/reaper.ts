/** What decides whether an instance may rest. Durations are milliseconds; Infinity means never. */
export interface IdleFacts {
  state: 'ready' | 'paused';
  openLeases: number;
  /** Since the last call. */
  idleForMs: number;
  pauseAfterMs: number;
  idleTimeoutMs: number;
}

/** What becomes of an instance. */
export interface IdleVerdict {
  action: 'keep' | 'pause' | 'stop';
  /** When the question is to be asked again unless a lease comes first; Infinity: not by time. */
  lookAgainInMs: number;
}

/** Whether an instance goes on, is frozen, or is stopped. Decided at one moment, without waiting: a lease comes before or after it. */
export function judgeIdle(facts: IdleFacts): IdleVerdict {
  const { state, openLeases, idleForMs, pauseAfterMs, idleTimeoutMs } = facts;
  // The release of the last lease asks again.
  if (openLeases > 0) return { action: 'keep', lookAgainInMs: Number.POSITIVE_INFINITY };
  if (idleForMs >= idleTimeoutMs) return { action: 'stop', lookAgainInMs: Number.POSITIVE_INFINITY };
  const untilStopMs = idleTimeoutMs - idleForMs;
  if (state === 'paused') return { action: 'keep', lookAgainInMs: untilStopMs };
  if (idleForMs >= pauseAfterMs) return { action: 'pause', lookAgainInMs: untilStopMs };
  return { action: 'keep', lookAgainInMs: Math.min(untilStopMs, pauseAfterMs - idleForMs) };
}
