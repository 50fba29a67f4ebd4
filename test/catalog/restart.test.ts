import { mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { FileStore } from '../../src/base/file-store.ts';
import { catalogOf, namesOf, serverNamed, snapshotOf } from './harness.ts';

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'catalog-'));
});
afterEach(() => rm(folder, { recursive: true }));

const run = (toolNames: string[]) => {
  const made = catalogOf([serverNamed('a', { env: { TOKEN: 'hunter2hunter2' } }), serverNamed('b')], {
    store: new FileStore(folder),
  });
  for (const server of ['a', 'b']) made.source.answers.set(server, snapshotOf({ toolNames }));
  return made;
};

it('a catalog on disk answers after a restart without reading anything, and holds no secret', async () => {
  const first = run(['one']);
  await first.catalog.start();
  await first.catalog.list('tools', undefined);
  await first.catalog.close();

  const second = run(['never read']);
  await second.catalog.start();
  expect(namesOf(await second.catalog.list('tools', undefined))).toEqual(['a__one', 'b__one']);
  await second.catalog.close();
  expect(second.source.reads).toEqual([]);

  const files = await readdir(folder, { recursive: true });
  for (const file of files.map((name) => join(folder, name))) {
    if ((await stat(file)).isFile()) expect(await readFile(file, 'utf8')).not.toContain('hunter2');
  }
});

it('a file that was damaged costs a discovery and nothing else', async () => {
  const first = run(['one']);
  await first.catalog.start();
  await first.catalog.list('tools', undefined);
  await first.catalog.close();
  const kept = join(folder, 'catalog');
  const [file] = await readdir(kept);
  await writeFile(join(kept, file!), '{"name": "a", "val');

  const second = run(['two']);
  await second.catalog.start();
  const names = namesOf(await second.catalog.list('tools', undefined)).toSorted();
  expect(names.filter((name) => name.endsWith('one'))).toHaveLength(1);
  expect(names.filter((name) => name.endsWith('two'))).toHaveLength(1);
  expect(second.source.reads).toHaveLength(1);
  await second.catalog.close();
});
