import { describe, expect, it } from 'vitest';
import type { ServerConfig } from '../config/schema.ts';
import { offerOf } from './offer.ts';
import type { Entry, Snapshot } from './snapshot.ts';

const tool = (name: string, more: Entry = {}): Entry => ({ name, inputSchema: { type: 'object' }, ...more });

function offer(tools: Partial<ServerConfig['tools']>, entries: Entry[], lists: Partial<Snapshot> = {}) {
  const server = { name: 's', tools: { allow: undefined, deny: [], rename: {}, describe: {}, ...tools } };
  const snapshot = {
    protocolVersion: '2025-11-25',
    capabilities: {},
    serverInfo: {},
    tools: entries,
    resources: [],
    resourceTemplates: [],
    prompts: [],
    ...lists,
  };
  return offerOf(server as unknown as ServerConfig, snapshot, 1000);
}

const names = (made: ReturnType<typeof offer>) => made.lists.tools.entries.map(({ name }) => name);

describe('what a server offers', () => {
  it('is all that it has, untouched, when nothing is configured', () => {
    const entries = [
      tool('a', {
        title: 'A',
        icons: [{ src: 'x' }],
        annotations: { readOnlyHint: true },
        'x-unknown': [1, { two: 2 }],
      }),
      tool('b'),
    ];
    expect(offer({}, entries).lists.tools.entries).toEqual(entries);
    expect(offer({}, entries).warnings).toEqual([]);
  });

  it('is what the allow-list names, without what is denied', () => {
    expect(names(offer({ allow: ['a', 'c'], deny: ['c'] }, [tool('a'), tool('b'), tool('c')]))).toEqual([
      'a',
    ]);
    expect(names(offer({ allow: [] }, [tool('a')]))).toEqual([]);
  });

  it('warns about names that it does not have, with the nearest', () => {
    expect(offer({ allow: ['serch', 'a'], deny: ['zzz'] }, [tool('search'), tool('a')]).warnings).toEqual([
      'servers.s.tools.allow names "serch", which the server does not have; did you mean "search"?',
      'servers.s.tools.deny names "zzz", which the server does not have.',
    ]);
  });

  it('has the names and descriptions of the configuration, and all else of the server', () => {
    const made = offer({ rename: { a: 'alpha' }, describe: { a: 'Better.' } }, [
      tool('a', { description: 'Bad.', z: 1 }),
    ]);
    expect(made.lists.tools.entries).toEqual([tool('alpha', { description: 'Better.', z: 1 })]);
    expect(made.lists.tools.byKey.get('alpha')).toMatchObject({ native: 'a', bare: 'alpha' });
    expect(made.lists.tools.byKey.has('a')).toBe(false);
  });

  it('loses no tool to a rename', () => {
    const tools = [tool('a'), tool('b'), tool('c')];
    expect(names(offer({ rename: { a: 'b', b: 'a' } }, tools))).toEqual(['b', 'a', 'c']);
    const taken = offer({ rename: { a: 'c' } }, tools);
    expect(names(taken)).toEqual(['a', 'b', 'c']);
    expect(taken.warnings).toEqual([
      'servers.s.tools.rename: "a" keeps its name, as there is another tool "c".',
    ]);
    expect(names(offer({ rename: { a: 'x', b: 'x' } }, tools))).toEqual(['x', 'b', 'c']);
    expect(names(offer({ rename: { a: 'b', c: 'a' } }, tools))).toEqual(['a', 'b', 'c']);
  });

  it('is not confused by names that every object has', () => {
    expect(names(offer({}, [tool('constructor'), tool('__proto__'), tool('toString')]))).toEqual([
      'constructor',
      '__proto__',
      'toString',
    ]);
  });

  it('leaves out what has no name and what has one twice, and says so', () => {
    const made = offer({}, [
      tool('a'),
      { title: 'no name' },
      null as never,
      tool('a', { second: true }),
      tool(''),
    ]);
    expect(made.lists.tools.entries).toEqual([tool('a')]);
    expect(made.warnings).toEqual([
      'tool "a" is listed twice; the first counts.',
      '3 tool entries without a name are left out.',
    ]);
  });

  it('filters tools only', () => {
    const made = offer({ allow: ['a'] }, [tool('a'), tool('b')], {
      prompts: [{ name: 'b' }],
      resources: [{ uri: 'm://b', name: 'b' }],
    });
    expect(made.lists.prompts.entries).toHaveLength(1);
    expect(made.lists.resources.entries).toHaveLength(1);
  });
});
