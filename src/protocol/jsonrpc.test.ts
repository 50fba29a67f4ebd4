import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { GatewayError } from '../base/errors.ts';
import { type Classified, classify, idKey, isId, type Message, parseMessage, serialise } from './jsonrpc.ts';

const rpcCodeOf = (run: () => unknown): number | undefined => {
  try {
    run();
  } catch (error) {
    return error instanceof GatewayError ? error.rpcCode : undefined;
  }
  return undefined;
};
const roundTrip = (text: string) => serialise(parseMessage(text) as Message);
const classifyText = (text: string): Classified => classify(parseMessage(text));
const error = (classified: Classified) => {
  if (classified.kind !== 'invalid') throw new Error(`expected invalid, got ${classified.kind}`);
  return { code: classified.error.code, id: classified.id };
};

describe('parseMessage', () => {
  it('answers -32700 to what is no JSON', () => {
    for (const text of ['', 'hello', '{', '{"a":}', "{'a':1}", '\u0000', '{"a":1}}', 'NaN']) {
      expect(rpcCodeOf(() => parseMessage(text))).toBe(-32700);
      expect(rpcCodeOf(() => parseMessage(Buffer.from(text)))).toBe(-32700);
    }
  });

  it.each([
    '9007199254740993',
    '-9007199254740993',
    '12345678901234567',
    '123456789012345678',
    '1234567890123456789',
    '12345678901234567890',
    '123456789012345678901234567890',
    '1e400',
    '-1e400',
    '1E-400',
    '0.1234567890123456789',
    '3.14159265358979323846',
    '1234567890123456789.5',
    '123456789.123456789',
    '12345678901234567.5',
    '100000000000000000001',
  ])('keeps the digits of %s', (number) => {
    for (const text of [
      `{"jsonrpc":"2.0","id":1,"result":{"n":${number}}}`,
      `{"jsonrpc":"2.0","id":${number},"method":"m"}`,
      `{"a":[${number},[${number}]],"b":[0,${number}]}`,
    ]) {
      expect(roundTrip(text)).toBe(text);
    }
    expect(roundTrip(`{"n": \n ${number} }`)).toBe(`{"n":${number}}`);
  });

  it.each([
    '0',
    '1',
    '-1',
    '0.1',
    '1e21',
    '1763650000123456',
    '0.30000000000000004',
    '1e-7',
    '9007199254740991',
    '9007199254740992',
    '100000000000000000000',
    '1e308',
  ])('leaves %s a plain number', (number) => {
    expect(parseMessage(`{"n":${number}}`)).toEqual({ n: Number(number) });
  });

  it('is not misled by digits in strings', () => {
    const text = '{"a":"9007199254740993","b":":9007199254740993","9007199254740993":",1e400"}';
    expect(parseMessage(text)).toEqual(JSON.parse(text));
    expect(roundTrip(text)).toBe(text);
  });

  it('gives back every JSON as it came', () => {
    fc.assert(
      fc.property(fc.json({ maxDepth: 6 }), fc.bigInt(), (text, big) => {
        expect(JSON.parse(roundTrip(text))).toEqual(JSON.parse(text));
        expect(roundTrip(`[${big},${text}]`).startsWith(`[${big},`)).toBe(true);
      }),
    );
  });

  it('accepts 1000 levels and answers -32600 to more, however many', () => {
    const nested = (levels: number) => `${'['.repeat(levels)}${']'.repeat(levels)}`;
    const objects = (levels: number) => `${'{"a":'.repeat(levels)}1${'}'.repeat(levels)}`;
    expect(roundTrip(nested(1000))).toBe(nested(1000));
    expect(roundTrip(objects(1000))).toBe(objects(1000));
    for (const levels of [1001, 100_000, 1_000_000]) {
      expect(rpcCodeOf(() => parseMessage(nested(levels)))).toBe(-32600);
      expect(rpcCodeOf(() => parseMessage(objects(levels)))).toBe(-32600);
    }
    const withBigNumber = `{"n":9007199254740993,"a":${nested(999)}}`;
    expect(roundTrip(withBigNumber)).toBe(withBigNumber);
  });

  it('takes __proto__ for a name like any other', () => {
    const text =
      '{"__proto__":{"polluted":1},"constructor":{"prototype":{"polluted":1}},"n":9007199254740993}';
    const value = parseMessage(text) as Record<string, unknown>;
    expect(Object.getPrototypeOf(value)).toBe(Object.prototype);
    expect(({} as { polluted?: number }).polluted).toBeUndefined();
    expect(serialise(value as unknown as Message)).toBe(text);
    expect(serialise({ ...value } as unknown as Message)).toBe(text);
  });
});

describe('classify', () => {
  it('tells requests, notifications and responses apart', () => {
    const kinds = {
      '{"jsonrpc":"2.0","id":0,"method":"ping"}': 'request',
      '{"jsonrpc":"2.0","id":"","method":"","params":{},"extra":1}': 'request',
      '{"jsonrpc":"2.0","id":12345678901234567890,"method":"ping"}': 'request',
      '{"jsonrpc":"2.0","method":"notifications/initialized"}': 'notification',
      '{"jsonrpc":"2.0","id":1,"result":{}}': 'response',
      '{"jsonrpc":"2.0","id":1,"result":null}': 'response',
      '{"jsonrpc":"2.0","id":"a","error":{"code":-1,"message":"m"}}': 'response',
      '{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"m"}}': 'response',
      '{"jsonrpc":"2.0","error":{"code":-32700,"message":"m"}}': 'response',
    };
    for (const [text, kind] of Object.entries(kinds)) {
      const classified = classifyText(text);
      expect([text, classified.kind]).toEqual([text, kind]);
      if (classified.kind !== 'invalid') expect(serialise(classified.message)).toBe(text);
    }
  });

  it.each([
    ['42', null],
    ['"text"', null],
    ['null', null],
    ['true', null],
    ['[]', null],
    ['[{"jsonrpc":"2.0","id":1,"method":"ping"}]', null],
    ['{}', null],
    ['{"id":7,"method":"ping"}', 7],
    ['{"jsonrpc":"1.0","id":"x","method":"ping"}', 'x'],
    ['{"jsonrpc":2.0,"id":1,"method":"ping"}', 1],
    ['{"jsonrpc":"2.0","id":null,"method":"ping"}', null],
    ['{"jsonrpc":"2.0","id":{},"method":"ping"}', null],
    ['{"jsonrpc":"2.0","id":[1],"method":"ping"}', null],
    ['{"jsonrpc":"2.0","id":true,"method":"ping"}', null],
    ['{"jsonrpc":"2.0","id":1.5,"method":"ping"}', null],
    ['{"jsonrpc":"2.0","id":1,"method":5}', 1],
    ['{"jsonrpc":"2.0","id":1,"method":null}', 1],
    ['{"jsonrpc":"2.0","id":1,"method":"ping","params":[1]}', 1],
    ['{"jsonrpc":"2.0","id":1,"method":"ping","params":"p"}', 1],
    ['{"jsonrpc":"2.0","id":1,"method":"ping","params":null}', 1],
    ['{"jsonrpc":"2.0","id":1,"method":"ping","result":{}}', 1],
    ['{"jsonrpc":"2.0","id":1,"result":{},"error":{"code":1,"message":"m"}}', 1],
    ['{"jsonrpc":"2.0","id":1,"error":"failed"}', 1],
    ['{"jsonrpc":"2.0","id":null,"result":{}}', null],
    ['{"jsonrpc":"2.0","result":{}}', null],
    ['{"jsonrpc":"2.0","id":1}', 1],
  ])('answers -32600 to %s', (text, id) => {
    expect(error(classifyText(text))).toEqual({ code: -32600, id });
  });

  it('never throws, whatever the value', () => {
    fc.assert(
      fc.property(fc.jsonValue(), (value) => {
        expect(classify(value).kind).toBeTypeOf('string');
      }),
    );
    fc.assert(
      fc.property(
        fc.record(
          {
            jsonrpc: fc.constantFrom('2.0', '1.0', 2),
            id: fc.jsonValue(),
            method: fc.jsonValue(),
            params: fc.jsonValue(),
            result: fc.jsonValue(),
            error: fc.jsonValue(),
          },
          { requiredKeys: [] },
        ),
        (value) => {
          const classified = classify(value);
          if (classified.kind !== 'invalid') expect(classified.message).toBe(value);
        },
      ),
    );
  });
});

describe('idKey', () => {
  it('tells 1 from "1", and large integers from each other', () => {
    const ids = ['1', 1, 0, '', -1, 'n1', 's1', ...[12345678901234567890n, 12345678901234567891n]].map(
      (id) => (typeof id === 'bigint' ? (parseMessage(`{"id":${id}}`) as { id: number }).id : id),
    );
    expect(ids.every(isId)).toBe(true);
    expect(new Set(ids.map(idKey)).size).toBe(ids.length);
  });
});

describe('serialise', () => {
  it('never writes a line break', () => {
    const text = serialise({ jsonrpc: '2.0', method: 'a\nb\r', params: { 'k\n': 'v\n\u2028' } });
    expect(text).not.toMatch(/[\n\r]/);
  });

  it('answers -32600 to what cannot be written', () => {
    const circular: Record<string, unknown> = {};
    circular.self = circular;
    expect(rpcCodeOf(() => serialise({ jsonrpc: '2.0', method: 'm', params: circular }))).toBe(-32600);
  });
});
