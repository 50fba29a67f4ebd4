import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { printable } from './printable.ts';

describe('printable', () => {
  it('drops colours, cursor movements, titles and links', () => {
    expect(printable('\u001b[32m✔ ready\u001b[0m')).toBe('✔ ready');
    expect(printable('\u001b[2J\u001b[1;1Hgone')).toBe('gone');
    expect(printable('\u001b]0;title\u0007text \u001b]8;;http://x\u001b\\link\u001b]8;;\u001b\\')).toBe(
      'text link',
    );
  });

  it('escapes what would start a new line, reorder or ring', () => {
    expect(printable('a\r\nlevel=error b')).toBe('a\\r\\nlevel=error b');
    expect(printable('\u0007\u0000\u009b31m')).toBe('\\u0007\\u0000\\u009b31m');
    expect(printable('x\u202egnp.exe\u2028y')).toBe('x\\u202egnp.exe\\u2028y');
    expect(printable('a\tb\u001b')).toBe('a b\\u001b');
  });

  it('leaves letters of every language and emoji alone', () => {
    const text = 'Grüße 你好 שלום 👩‍💻';
    expect(printable(text)).toBe(text);
  });

  it('never returns a control character nor more than asked for', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary', maxLength: 500 }), fc.nat(300), (text, max) => {
        const safe = printable(text, max);
        expect(safe.length).toBeLessThanOrEqual(max);
        expect(safe).not.toMatch(/[\p{Cc}\u2028\u2029\u202a-\u202e\u2066-\u2069]/u);
      }),
    );
  });
});
