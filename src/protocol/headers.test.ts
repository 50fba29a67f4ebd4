import { describe, expect, it } from 'vitest';
import { checkHeaders, checkMirrored, type Headers, mirroredParams } from './headers.ts';
import { parseMessage, type Request } from './jsonrpc.ts';

const schema = parseMessage(
  JSON.stringify({
    type: 'object',
    properties: {
      region: { type: 'string', 'x-mcp-header': 'Region' },
      count: { type: 'integer', 'x-mcp-header': 'Count' },
      dry: { type: 'boolean', 'x-mcp-header': 'Dry' },
      constructor: { type: 'string', 'x-mcp-header': 'Constructor' },
      inner: { type: 'object', properties: { toString: { type: 'string', 'x-mcp-header': 'Deep' } } },
    },
  }),
);
/** Checks a call whose arguments are this JSON text. */
const checked = (args: string, headers: Headers) => () =>
  checkMirrored(headers, mirroredParams(schema), parseMessage(args));

describe('headers that repeat parameters', () => {
  it('are compared with what is in the arguments, and expected for nothing else', () => {
    expect(checked('{}', {})).not.toThrow();
    expect(checked('{"inner": {}}', {})).not.toThrow();
    expect(checked('"no object"', {})).not.toThrow();
    expect(checked('{"constructor": "Ferrari"}', { 'mcp-param-constructor': 'Ferrari' })).not.toThrow();
    expect(checked('{"region": null}', {})).not.toThrow();
    expect(checked('{"region": "eu"}', {})).toThrow('is missing');
    expect(checked('{"region": "eu"}', { 'mcp-param-region': 'us' })).toThrow('"eu" in the arguments');
    expect(checked('{}', { 'mcp-param-region': 'us' })).toThrow('not in the arguments');
  });

  it('say integers as numbers, also those that a double cannot carry, and booleans as words', () => {
    const count = (args: string, text: string) => checked(`{"count": ${args}}`, { 'mcp-param-count': text });
    expect(count('42', '42.0')).not.toThrow();
    expect(count('42', '')).toThrow('42 in the arguments');
    expect(count('9007199254740993', '9007199254740993')).not.toThrow();
    expect(count('9007199254740993', '9007199254740992')).toThrow('9007199254740993 in the arguments');
    expect(count('[9007199254740993]', '1')).toThrow('[9007199254740993] in the arguments');
    expect(count('{"a": 1}', '1')).toThrow('in the arguments');
    expect(checked('{"dry": true}', { 'mcp-param-dry': 'true' })).not.toThrow();
    expect(checked('{"dry": true}', { 'mcp-param-dry': 'TRUE' })).toThrow('true in the arguments');
  });
});

describe('headers that every request has', () => {
  const base64 = (text: string) => `=?base64?${Buffer.from(text).toString('base64')}?=`;
  const request: Request = {
    jsonrpc: '2.0',
    id: 1,
    method: 'tools/call',
    params: { name: 'grüße', _meta: { 'io.modelcontextprotocol/protocolVersion': '2026-07-28' } },
  };
  const good = {
    'mcp-protocol-version': '2026-07-28',
    'mcp-method': 'tools/call',
    'mcp-name': base64('grüße'),
  };

  it('may be in base64 where they are names, and nowhere else', () => {
    expect(() => checkHeaders(good, request)).not.toThrow();
    expect(() => checkHeaders({ ...good, 'mcp-name': 'grüße' }, request)).toThrow('must be ASCII');
    for (const name of ['mcp-protocol-version', 'mcp-method'] as const)
      expect(() => checkHeaders({ ...good, [name]: base64(good[name]) }, request)).toThrow('in the body');
  });

  it('are read for methods that nobody has heard of, too', () => {
    for (const method of ['constructor', '__proto__', 'toString'])
      expect(() => checkHeaders({ ...good, 'mcp-method': method }, { ...request, method })).not.toThrow();
  });
});
