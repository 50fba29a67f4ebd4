import { describe, expect, it } from 'vitest';
import { isLogged, LevelCounts } from './log-levels.ts';

describe('log levels', () => {
  it('pass what is at least as severe as what was asked for, info unless set', () => {
    expect(isLogged('warning', 'error')).toBe(false);
    expect(isLogged('error', 'error')).toBe(true);
    expect(isLogged('debug', undefined)).toBe(false);
    expect(isLogged('info', undefined)).toBe(true);
    expect(isLogged('a level of its own', 'emergency')).toBe(true);
  });

  it('leave a server alone until somebody sets one', () => {
    const counts = new LevelCounts();
    counts.add(undefined, undefined);
    expect(counts.lowestFor('demo')).toBeUndefined();
  });

  it('are for a shared server the lowest of all who reach it', () => {
    const counts = new LevelCounts();
    counts.add(undefined, 'error');
    expect(counts.lowestFor('demo')).toBe('error');
    counts.add('demo', 'debug');
    expect([counts.lowestFor('demo'), counts.lowestFor('other')]).toEqual(['debug', 'error']);
    counts.add(undefined, undefined);
    counts.remove('demo', 'debug');
    expect([counts.lowestFor('demo'), counts.lowestFor('other')]).toEqual(['info', 'info']);
    counts.remove(undefined, 'error');
    expect(counts.lowestFor('demo')).toBeUndefined();
  });
});
