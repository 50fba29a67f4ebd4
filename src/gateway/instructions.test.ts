import { expect, it } from 'vitest';
import { instructionsOf } from './instructions.ts';

it('instructions come under headings, and servers without any under none', () => {
  const servers = [
    { server: 'a', text: ' Do this. ' },
    { server: 'b', text: undefined },
    { server: 'c', text: '' },
    { server: 'd', text: 'Do that.' },
  ];
  expect(instructionsOf(servers)).toBe('## a\n\nDo this.\n\n## d\n\nDo that.');
  expect(instructionsOf(servers.slice(1, 3))).toBeUndefined();
});

it('instructions are bounded, each and together', () => {
  const long = instructionsOf([{ server: 'a', text: 'x'.repeat(100_000) }])!;
  expect(long.length).toBeLessThan(2100);
  const many = Array.from({ length: 50 }, (_, index) => ({ server: `s${index}`, text: 'y'.repeat(3000) }));
  expect(instructionsOf(many)!.length).toBeLessThan(17_000);
});
