import { describe, expect, it } from 'vitest';
import { LevelCounts } from './level-counts.ts';

describe('log levels', () => {
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
