import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Listing, type Offered } from './listing.ts';

const offeredBy = (server: string, count: number): Offered[] =>
  Array.from({ length: count }, (_, index) => ({
    server,
    native: `t${index}`,
    bare: `t${index}`,
    entry: { name: `${server}__t${index}`, unknown: { kept: true } },
  }));

const namesIn = (listing: Listing, cursor?: string): string[] => {
  const { entries, nextCursor } = listing.page(cursor);
  const names = entries.map(({ name }) => name as string);
  return nextCursor === undefined ? names : [...names, ...namesIn(listing, nextCursor)];
};

describe('a list in pages', () => {
  it('is one page when it is short, without a cursor', () => {
    const page = new Listing('tools', offeredBy('a', 3), 1000).page();
    expect(page.nextCursor).toBeUndefined();
    expect(JSON.parse(page.json.toString())).toEqual({ tools: page.entries });
  });

  it('comes whole and in order over its pages', () => {
    const offered = [...offeredBy('a', 5), ...offeredBy('b', 4), ...offeredBy('c', 1)];
    for (const pageSize of [1, 2, 3, 7, 10, 11]) {
      const listing = new Listing('tools', offered, pageSize);
      expect(namesIn(listing)).toEqual(offered.map(({ entry }) => entry.name));
    }
  });

  it('carries the cursor in the JSON text, and the text is made once', () => {
    const page = new Listing('prompts', offeredBy('a', 3), 2).page();
    expect(JSON.parse(page.json.toString())).toEqual({ prompts: page.entries, nextCursor: page.nextCursor });
    expect(page.json).toBe(page.json);
  });

  it('goes on at the same entry when another server has changed between pages', () => {
    const before = new Listing('tools', [...offeredBy('a', 5), ...offeredBy('b', 4)], 7);
    const after = new Listing('tools', [...offeredBy('a', 9), ...offeredBy('b', 4)], 7);
    const { nextCursor } = before.page();
    expect(after.page(nextCursor).entries[0]).toMatchObject({ name: 'b__t2' });
  });

  it('goes on behind a server whose list has become shorter', () => {
    const before = new Listing('tools', [...offeredBy('a', 5), ...offeredBy('b', 2)], 4);
    const after = new Listing('tools', [...offeredBy('a', 1), ...offeredBy('b', 2)], 4);
    expect(namesIn(after, before.page().nextCursor)).toEqual(['b__t0', 'b__t1']);
  });

  it('refuses cursors that it has not given', () => {
    const listing = new Listing('tools', offeredBy('a', 5), 2);
    const cursor = listing.page().nextCursor!;
    const others = new Listing('prompts', offeredBy('a', 5), 2).page().nextCursor!;
    const stranger = new Listing('tools', offeredBy('z', 5), 2).page().nextCursor!;
    for (const bad of ['', 'garbage', `${cursor}x`, `${cursor}=`, cursor.slice(1), others, stranger]) {
      expect(() => listing.page(bad)).toThrow(
        expect.objectContaining({ code: 'invalid_params', rpcCode: -32602 }),
      );
    }
    fc.assert(
      fc.property(fc.string(), (text) => {
        expect(() => listing.page(text)).toThrow(expect.objectContaining({ code: 'invalid_params' }));
        expect(() => listing.page(Buffer.from(text).toString('base64url'))).toThrow(
          expect.objectContaining({ code: 'invalid_params' }),
        );
      }),
    );
  });
});
