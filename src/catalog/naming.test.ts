import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { assignNames, exposedBeginning, exposedName, type NameClaim, type NameRequest } from './naming.ts';

describe('exposed names', () => {
  it('are the prefix, two underscores and the name', () => {
    expect(exposedName('context7', 'get_documentation', 46)).toBe('context7__get_documentation');
  });

  it('have no prefix when it is empty, and one with its own separator as it stands', () => {
    expect(exposedName('', 'echo', 46)).toBe('echo');
    expect(exposedName('test_', 'echo', 46)).toBe('test_echo');
    expect(exposedName('test-', 'echo', 46)).toBe('test-echo');
    expect(exposedName('test.', 'echo', 46)).toBe('test_echo');
  });

  it('map characters that clients refuse', () => {
    expect(exposedName('files', 'read/all.now', 46)).toBe('files__read_all_now');
  });

  it('keep names of other scripts apart', () => {
    const [one, other] = [exposedName('s', '获取', 46), exposedName('s', '搜索', 46)];
    expect(one).toMatch(/^s____\w+$/);
    expect(one).not.toBe(other);
  });

  it('are cut to the limit with a hash that is the same in every run', () => {
    const name = exposedName(
      'a-server',
      'a_tool_with_a_name_that_goes_on_for_much_longer_than_anyone_reads',
      46,
    );
    expect(name).toBe('a-server__a_tool_with_a_name_that_goes__2hhheg');
    expect(name).toHaveLength(46);
  });

  it('begin with what their prefix promises, cut or not', () => {
    const prefix = fc.stringMatching(/^[A-Za-z0-9_.-]{0,60}$/);
    fc.assert(
      fc.property(prefix, fc.string({ unit: 'binary' }), fc.integer({ min: 16, max: 128 }), (p, name, max) =>
        exposedName(p, name, max).startsWith(exposedBeginning(p, max)),
      ),
    );
  });

  it('are valid and within the limit for any name that a server can have', () => {
    const prefix = fc.stringMatching(/^[A-Za-z0-9_.-]{0,60}$/);
    fc.assert(
      fc.property(
        prefix,
        fc.string({ unit: 'binary', minLength: 1 }),
        fc.integer({ min: 16, max: 128 }),
        (p, name, max) => {
          const exposed = exposedName(p, name, max);
          expect(exposed).toMatch(/^[A-Za-z0-9_-]+$/);
          expect(exposed.length).toBeLessThanOrEqual(max);
          expect(exposedName(p, name, max)).toBe(exposed);
        },
      ),
    );
  });
});

const request = (server: string, native: string, prefix: string): NameRequest => ({
  server,
  native,
  wanted: exposedName(prefix, native, 46),
  fallback: exposedName(server, native, 46),
});

describe('assigning names', () => {
  it('gives the later server of the file its name as a prefix', () => {
    expect(assignNames([request('a', 'echo', ''), request('b', 'echo', '')], new Map(), 46)).toEqual([
      { exposed: 'echo' },
      { exposed: 'b__echo', takenBy: 'a' },
    ]);
  });

  it('lets a decision stand when the order changes', () => {
    const claims = new Map([['b', new Map([['echo', { wanted: 'echo', exposed: 'echo' }]])]]);
    expect(assignNames([request('a', 'echo', ''), request('b', 'echo', '')], claims, 46)).toEqual([
      { exposed: 'a__echo', takenBy: 'b' },
      { exposed: 'echo' },
    ]);
  });

  it('forgets a decision when the configuration asks for another name', () => {
    const claims = new Map([['b', new Map([['echo', { wanted: 'echo', exposed: 'b__echo' }]])]]);
    expect(assignNames([request('b', 'echo', 'other')], claims, 46)).toEqual([{ exposed: 'other__echo' }]);
  });

  it('keeps what a server that is away has claimed', () => {
    const claims = new Map([['a', new Map([['echo', { wanted: 'echo', exposed: 'echo' }]])]]);
    expect(assignNames([request('b', 'echo', '')], claims, 46)).toEqual([
      { exposed: 'b__echo', takenBy: 'a' },
    ]);
  });

  it('finds a third name when the second is taken too', () => {
    const [, , third] = assignNames(
      [request('a', 'echo', ''), request('a', 'b__echo', ''), request('b', 'echo', '')],
      new Map(),
      46,
    );
    expect(third?.exposed).toMatch(/^b__echo_[a-z0-9]{6}$/);
  });

  it('gives each its own valid name, and the same one again when others come and go', () => {
    const prefixes = fc.constantFrom('', 'x_', 'a', 'a__b', 'b.');
    const natives = fc.constantFrom(
      'echo',
      'b__echo',
      'c.d',
      'c_d',
      'a__b__echo',
      '名',
      `${'long'.repeat(20)}er`,
    );
    const tools = fc.uniqueArray(natives, { maxLength: 6 });
    const servers = fc.uniqueArray(
      fc.record({ name: fc.constantFrom('a', 'b', 'c', 'd-e'), prefix: prefixes, tools }),
      {
        selector: ({ name }) => name,
      },
    );
    const limits = fc.constantFrom(16, 46, 128);
    fc.assert(
      fc.property(
        servers,
        fc.array(fc.shuffledSubarray(['a', 'b', 'c', 'd-e'])),
        limits,
        (all, arrivals, max) => {
          const claims = new Map<string, Map<string, NameClaim>>();
          for (const present of arrivals) {
            const requests = all
              .filter(({ name }) => present.includes(name))
              .flatMap(({ name, prefix, tools }) =>
                tools.map((native) => ({
                  server: name,
                  native,
                  wanted: exposedName(prefix, native, max),
                  fallback: exposedName(name, native, max),
                })),
              );
            const names = assignNames(requests, claims, max);
            expect(new Set(names.map(({ exposed }) => exposed)).size).toBe(requests.length);
            for (const [index, { exposed }] of names.entries()) {
              const { server, native, wanted } = requests[index]!;
              expect(exposed).toMatch(/^[A-Za-z0-9_-]+$/);
              expect(exposed.length).toBeLessThanOrEqual(max);
              const before = claims.get(server)?.get(native);
              if (before) expect(exposed).toBe(before.exposed);
              const claimed = claims.get(server) ?? new Map<string, NameClaim>();
              claims.set(server, claimed.set(native, { wanted, exposed }));
            }
          }
        },
      ),
    );
  });
});
