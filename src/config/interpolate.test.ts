import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { interpolate, type Sources } from './interpolate.ts';

const variables: Record<string, string> = { NAME: 'value', EMPTY: '', TRAP: '${NAME}', DIR: 'secrets' };
const files: Record<string, string> = { token: 'from a file\n', 'secrets/token': 'deeper\r\n', two: 'a\n\n' };
const sources: Sources = {
  variable: (name) => variables[name],
  file: (path) => {
    const text = files[path];
    if (text === undefined) throw new Error('there is no such file');
    return text;
  },
};

describe('interpolate', () => {
  it.each([
    ['plain', 'plain'],
    ['${NAME}', 'value'],
    ['a${NAME}b${NAME}c', 'avaluebvaluec'],
    ['${EMPTY}', ''],
    ['${NAME:-other}', 'value'],
    ['${NONE:-other}', 'other'],
    ['${EMPTY:-other}', 'other'],
    ['${NONE:-}', ''],
    ['${NONE:-${NAME}}', 'value'],
    ['${NONE:-${ALSO_NONE:-${file:token}}}', 'from a file'],
    ['${NONE:-a:-b}', 'a:-b'],
    ['${file:token}', 'from a file'],
    ['${file:${DIR}/token}', 'deeper'],
    ['${file:two}', 'a\n'],
    ['$${NAME}', '${NAME}'],
    ['${NONE:-$${x}', '${x'],
    ['$NAME and $5 and { } and $$', '$NAME and $5 and { } and $$'],
    ['${TRAP}', '${NAME}'],
  ])('%s becomes %j', (text, expected) => {
    expect(interpolate(text, sources)).toMatchObject({ text: expected, faults: [] });
  });

  it('names every expression that gave something', () => {
    expect(interpolate('${NAME}:${NONE:-${file:token}}', sources).used).toEqual([
      '${NAME}',
      '${NONE}',
      '${file:token}',
    ]);
  });

  it('reports every missing value with its place in the text, and keeps the text', () => {
    const { text, faults } = interpolate('${NAME} ${NO} ${file:no}', sources);
    expect(text).toBe('${NAME} ${NO} ${file:no}');
    expect(faults).toMatchObject([
      { kind: 'missing', offset: 8, message: 'the variable NO is not set' },
      {
        kind: 'missing',
        offset: 14,
        message: 'the file of ${file:no} cannot be read: there is no such file',
      },
    ]);
  });

  it('does not miss a variable that only an unused default names', () => {
    expect(interpolate('${NAME:-${NO}}', sources)).toMatchObject({ text: 'value', faults: [] });
  });

  it.each([
    ['a ${NAME', 2, 'found ${ without its }'],
    ['${}', 0, 'found ${ without a name after it'],
    ['${1A}', 0, 'found ${ without a name after it'],
    ['${NAME-x}', 0, 'found "-" after ${NAME, expected } or :-'],
    ['${NAME:?x}', 0, 'found ":" after ${NAME, expected } or :-'],
    ['${file:}', 0, '${file:} names no file'],
    ['${A:-${B}', 0, 'found ${ without its }'],
  ])('%s is malformed at %i', (text, offset, message) => {
    expect(interpolate(text, sources).faults).toMatchObject([{ kind: 'malformed', offset, message }]);
  });

  it('never throws, and leaves alone what has no expression', () => {
    const piece = fc.oneof(
      fc.constantFrom('${', '}', '$', ':-', 'file:', 'NAME', 'NONE', '{', '$${'),
      fc.string(),
    );
    fc.assert(
      fc.property(
        fc.array(piece).map((pieces) => pieces.join('')),
        (text) => {
          const { text: result, faults } = interpolate(text, sources);
          if (!text.includes('${')) expect(result).toBe(text);
          for (const { offset } of faults) expect(text.startsWith('${', offset)).toBe(true);
        },
      ),
    );
  });

  it('gives back any text that was escaped', () => {
    fc.assert(
      fc.property(fc.string(), (text) => {
        expect(interpolate(text.replaceAll('${', '$${'), sources).text).toBe(text);
      }),
    );
  });
});
