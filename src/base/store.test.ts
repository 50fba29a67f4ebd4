import { mkdtemp, readdir, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Clock } from './async.ts';
import { FileStore } from './file-store.ts';
import { MemoryStore } from './memory-store.ts';
import type { Store } from './store.ts';

let folder: string;
let nowMs = 0;
const clock: Clock = { now: () => nowMs, schedule: () => () => {} };

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'store-'));
  nowMs = 1_000_000;
});
afterEach(() => rm(folder, { recursive: true, force: true }));

async function entriesOf(store: Store, kind: string) {
  const found: Record<string, unknown> = {};
  for await (const [name, value] of store.entries(kind)) found[name] = value;
  return found;
}

describe.each([
  ['FileStore', () => new FileStore(folder, clock)],
  ['MemoryStore', () => new MemoryStore(clock)],
] as [string, () => Store][])('%s', (_name, make) => {
  it('gives back what was set, by kind and name', async () => {
    const store = make();
    expect(await store.get('catalog/a')).toBeUndefined();
    await store.set('catalog/a', { tools: [1, 'ü', null] });
    await store.set('catalog/b', 'text');
    await store.set('session/a', 5);
    expect(await store.get('catalog/a')).toEqual({ tools: [1, 'ü', null] });
    expect(await entriesOf(store, 'catalog')).toEqual({ a: { tools: [1, 'ü', null] }, b: 'text' });
    expect(await entriesOf(store, 'session')).toEqual({ a: 5 });
    expect(await entriesOf(store, 'none')).toEqual({});
    await store.delete('catalog/a');
    await store.delete('catalog/a');
    expect(await store.get('catalog/a')).toBeUndefined();
    expect(await entriesOf(store, 'catalog')).toEqual({ b: 'text' });
  });

  it('keeps names apart, whatever characters they hold', async () => {
    const names = [
      'a/b',
      'a',
      'A',
      '../../etc/passwd',
      '..',
      '.',
      '',
      'a b',
      'ü',
      'x'.repeat(1000),
      'x'.repeat(1001),
    ];
    names.push('nul\u0000', 'con', 'a.tmp', 'a-b', 'a:b');
    const store = make();
    await Promise.all(names.map((name, i) => store.set(`kind/${name}`, i)));
    for (const [i, name] of names.entries()) expect(await store.get(`kind/${name}`)).toBe(i);
    expect(await entriesOf(store, 'kind')).toEqual(Object.fromEntries(names.map((name, i) => [name, i])));
  });

  it('forgets an entry when its time is over', async () => {
    const store = make();
    await store.set('session/short', 1, 1000);
    await store.set('session/long', 2, 5000);
    await store.set('session/ever', 3);
    await store.set('session/never', 4, Number.POSITIVE_INFINITY);
    nowMs += 999;
    expect(await store.get('session/short')).toBe(1);
    nowMs += 1;
    expect(await store.get('session/short')).toBeUndefined();
    expect(await entriesOf(store, 'session')).toEqual({ long: 2, ever: 3, never: 4 });
    await store.set('session/long', 5, 5000);
    nowMs += 4500;
    expect(await store.get('session/long')).toBe(5);
  });

  it('does what concerns one key in the order in which it was asked for', async () => {
    const store = make();
    await fc.assert(
      fc.asyncProperty(fc.array(fc.oneof(fc.nat(), fc.constantFrom('get', 'delete'))), async (steps) => {
        await store.delete('k/n');
        let expected: number | undefined;
        const checks: Promise<unknown>[] = [];
        for (const step of steps) {
          if (step === 'get') {
            const value = expected;
            checks.push(store.get('k/n').then((found) => expect(found).toBe(value)));
          } else if (step === 'delete') {
            expected = undefined;
            checks.push(store.delete('k/n'));
          } else {
            expected = step as number;
            checks.push(store.set('k/n', step));
          }
        }
        await Promise.all(checks);
        expect(await store.get('k/n')).toBe(expected);
      }),
      { numRuns: 50 },
    );
  });

  it('keeps the value as it was when it was set', async () => {
    const store = make();
    const value = { list: [1] };
    const done = store.set('k/n', value);
    value.list.push(2);
    await done;
    const first = await store.get<typeof value>('k/n');
    first?.list.push(3);
    expect(await store.get('k/n')).toEqual({ list: [1] });
  });
});

describe('FileStore', () => {
  const files = async () =>
    (await readdir(folder, { recursive: true, withFileTypes: true })).filter((entry) => entry.isFile());

  it('survives a restart and is readable by its owner alone', async () => {
    await new FileStore(folder, clock).set('catalog/a', { x: 1 });
    expect(await new FileStore(folder, clock).get('catalog/a')).toEqual({ x: 1 });
    const [file] = await files();
    expect((await stat(join(file!.parentPath, file!.name))).mode & 0o777).toBe(0o600);
    expect((await stat(file!.parentPath)).mode & 0o777).toBe(0o700);
  });

  it.each(['', '{', 'null', '42', '{"name":5,"value":1}', '{"name":"a"}', '\u0000\u0000'])(
    'takes a file with %j in it for absent',
    async (damage) => {
      const store = new FileStore(folder, clock);
      await store.set('catalog/a', 1);
      await store.set('catalog/b', 2);
      const file = (await files()).find((entry) => entry.name.startsWith('a'))!;
      await writeFile(join(file.parentPath, file.name), damage);
      expect(await store.get('catalog/a')).toBeUndefined();
      expect(await entriesOf(store, 'catalog')).toEqual({ b: 2 });
      await store.set('catalog/a', 3);
      expect(await store.get('catalog/a')).toBe(3);
    },
  );

  it('removes what expired, though nobody asks for it, and what a crash left half written', async () => {
    const first = new FileStore(folder, clock);
    for (let i = 0; i < 20; i += 1) await first.set(`session/${i}`, i, 1000);
    const [file] = await files();
    await writeFile(join(file!.parentPath, `${file!.name}.x.tmp`), '{"na');
    nowMs += 2000;
    const second = new FileStore(folder, clock);
    await second.set('session/new', 1, 1000);
    await expect.poll(async () => (await files()).map((entry) => entry.name)).toEqual(['new.json']);
    nowMs += 3_600_000;
    await second.set('session/later', 1, 1000);
    await expect.poll(async () => (await files()).map((entry) => entry.name)).toEqual(['later.json']);
  });

  it('says so when a write fails, leaves no litter, and works again after', async () => {
    const store = new FileStore(folder, clock);
    await store.set('catalog/a', 1);
    const [file] = await files();
    await rm(file!.parentPath, { recursive: true });
    await writeFile(file!.parentPath, 'a file where the folder was');
    await expect(store.set('catalog/a', 2)).rejects.toThrow(/ENOTDIR/);
    await rm(file!.parentPath);
    const again = new FileStore(folder, clock);
    await again.set('catalog/b', 2);
    expect((await files()).map((entry) => entry.name)).toEqual(['b.json']);
  });
});
