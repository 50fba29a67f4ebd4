import { GatewayError } from '../base/errors.ts';
import { isObject, type Params, type Request } from './jsonrpc.ts';
import { metaKeys } from './modern.ts';

/*
 * What a modern request over HTTP repeats of its body in headers, and the check that both say the same (specification 2026-07-28,
 * basic/transports/streamable-http, "Request Metadata" and "Server Validation").
 */

/** The headers of a request, by lower-case name, as Node has them. */
export type Headers = Readonly<Record<string, string | string[] | undefined>>;

/** A tool's parameter that is repeated in a header: `x-mcp-header` in its schema. */
export interface MirroredParam {
  /** In lower case, `mcp-param-` included. */
  header: string;
  /** From the arguments to the value. */
  path: readonly string[];
}

/** The param that `Mcp-Name` repeats, for each method that has one. */
const namedBy: Readonly<Record<string, string | undefined>> = {
  'tools/call': 'name',
  'prompts/get': 'name',
  'resources/read': 'uri',
  'tasks/get': 'taskId',
  'tasks/update': 'taskId',
  'tasks/cancel': 'taskId',
};

const encoded = /^=\?base64\?(.*)\?=$/;
const base64 = /^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/;
// RFC 9110, section 5.5
const visible = /^[\t\x20-\x7e]*$/;
// RFC 9110, section 5.1
const token = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/;
const maxDepth = 32;

/**
 * Throws `header_mismatch` where headers are missing, unreadable, or say something else than the body. A body without a version is not
 * looked at further: that is the graver fault.
 */
export function checkHeaders(headers: Headers, { method, params = {} }: Request): void {
  const meta = params._meta;
  const version = isObject(meta) ? meta[metaKeys.version] : undefined;
  if (typeof version !== 'string') return;
  check('MCP-Protocol-Version', plain(headers, 'MCP-Protocol-Version'), version);
  check('Mcp-Method', plain(headers, 'Mcp-Method'), method);
  const named = namedBy[method];
  const name = named === undefined ? undefined : params[named];
  if (typeof name === 'string') check('Mcp-Name', decoded(headers, 'Mcp-Name'), name);
}

/** The same for a tool's own headers. */
export function checkMirrored(headers: Headers, mirrored: readonly MirroredParam[], args: unknown): void {
  for (const { header, path } of mirrored) {
    let value = args;
    for (const key of path) value = isObject(value) && Object.hasOwn(value, key) ? value[key] : undefined;
    const found = headers[header];
    if (value === undefined || value === null) {
      if (found !== undefined) throw mismatch(header, String(found), 'is not in the arguments');
      continue;
    }
    const text = decoded(headers, header);
    if (!isSame(text, value)) throw mismatch(header, text, `is ${shortened(value)} in the arguments`);
  }
}

/** The parameters of a tool that its callers repeat in headers; annotations that the specification forbids count as none. */
export function mirroredParams(inputSchema: unknown): readonly MirroredParam[] {
  const found: MirroredParam[] = [];
  const visit = (schema: unknown, path: readonly string[]) => {
    if (!isObject(schema) || !isObject(schema.properties) || path.length > maxDepth) return;
    for (const [key, property] of Object.entries(schema.properties)) {
      if (!isObject(property)) continue;
      const name = property['x-mcp-header'];
      const inside = [...path, key];
      if (typeof name === 'string' && token.test(name) && isPrimitive(property.type)) {
        found.push({ header: `mcp-param-${name.toLowerCase()}`, path: inside });
      }
      visit(property, inside);
    }
  };
  visit(inputSchema, []);
  return found;
}

const isPrimitive = (type: Params[string]) => type === 'string' || type === 'integer' || type === 'boolean';

/** Whether a header says what a value is; integers are compared as numbers, those beyond 2^53 digit by digit. */
function isSame(text: string, value: unknown): boolean {
  if (typeof value === 'string') return text === value;
  if (typeof value === 'number') return text.trim() !== '' && Number(text) === value;
  return text === JSON.stringify(value);
}

function check(name: string, text: string, expected: string): void {
  if (text !== expected) throw mismatch(name, text, `is ${shortened(expected)} in the body`);
}

/** A header's value as it is. Throws `header_mismatch` when it is missing. */
function plain(headers: Headers, name: string): string {
  const value = headers[name.toLowerCase()];
  if (typeof value !== 'string') {
    throw new GatewayError('header_mismatch', `Header ${name} is missing`, {
      hint: 'Requests of protocol version 2026-07-28 repeat parts of their body in headers.',
    });
  }
  return value;
}

/** The value of a header that may be in base64. Throws `header_mismatch` when it is missing or unreadable. */
function decoded(headers: Headers, name: string): string {
  const value = plain(headers, name);
  const [, inner] = encoded.exec(value) ?? [];
  if (inner === undefined) {
    if (!visible.test(value)) throw mismatch(name, value, 'must be ASCII, or base64 as =?base64?…?=');
    return value;
  }
  if (!base64.test(inner)) throw mismatch(name, value, 'must be valid base64');
  return Buffer.from(inner, 'base64').toString('utf8');
}

const shortened = (value: unknown) => JSON.stringify(value).slice(0, 200);

function mismatch(name: string, value: string, what: string): GatewayError {
  return new GatewayError('header_mismatch', `Header ${name} is ${shortened(value)}, and ${what}`, {
    hint: 'List the tools again if a schema has changed, and send headers that repeat the body.',
  });
}
