import { describe, expect, it } from 'vitest';
import { isLogged } from './log-levels.ts';

describe('log levels', () => {
  it('pass what is at least as severe as what was asked for, info unless set', () => {
    expect(isLogged('warning', 'error')).toBe(false);
    expect(isLogged('error', 'error')).toBe(true);
    expect(isLogged('debug', undefined)).toBe(false);
    expect(isLogged('info', undefined)).toBe(true);
    expect(isLogged('a level of its own', 'emergency')).toBe(true);
  });
});
