import { describe, expect, it } from 'vitest';
import { nearest } from './nearest.ts';

describe('nearest', () => {
  it('finds what a slip of the fingers meant', () => {
    expect(nearest('get_documentaton', ['search', 'get_documentation', 'get_document'])).toBe(
      'get_documentation',
    );
    expect(nearest('imgae', ['image', 'imports'])).toBe('image');
    expect(nearest('Say_Hello', ['say_hello'])).toBe('say_hello');
  });

  it('proposes nothing when nothing is close', () => {
    expect(nearest('weather', ['say_hello', 'search'])).toBeUndefined();
    expect(nearest('ab', ['cd'])).toBeUndefined();
    expect(nearest('x', [])).toBeUndefined();
  });

  it('minds neither case nor the kind of dash, and takes the closest', () => {
    expect(nearest('Idle-Timeout', ['start_timeout', 'idle_timeout'])).toBe('idle_timeout');
    expect(nearest('servr', ['serves', 'server', 'severe'])).toBe('server');
  });
});
