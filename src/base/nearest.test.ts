import { describe, expect, it } from 'vitest';
import { editDistance, nearest } from './nearest.ts';

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

  it('counts insertions, deletions, replacements and swaps', () => {
    expect(editDistance('kitten', 'sitting')).toBe(3);
    expect(editDistance('ab', 'ba')).toBe(1);
    expect(editDistance('', 'abc')).toBe(3);
    expect(editDistance('abcdef', 'uvwxyz', 2)).toBe(2);
  });
});
