import { GatewayError } from '../base/errors.ts';

/** JSON-RPC 2.0 as MCP uses it. Messages travel as the objects that JSON.parse made; nothing here copies them. */

/** Of a request; ours or a stranger’s. */
export type Id = string | number;
/** Anything that JSON.parse gives. */
export type Json = unknown;
/** A JSON object that is not looked into. */
export type Params = Record<string, Json>;

export interface Request {
  jsonrpc: '2.0';
  id: Id;
  method: string;
  params?: Params;
}

export interface Notification {
  jsonrpc: '2.0';
  method: string;
  params?: Params;
}

export interface Success {
  jsonrpc: '2.0';
  id: Id;
  result: Params;
}

export interface ErrorObject {
  code: number;
  message: string;
  data?: Json;
}

export interface Failure {
  jsonrpc: '2.0';
  /** null only where the request's own id could not be read (JSON-RPC 2.0, section 5). */
  id: Id | null;
  error: ErrorObject;
}

export type Response = Success | Failure;
export type Message = Request | Notification | Response;

/** What a JSON value is as a message. `id` of an invalid one is its own where it can be read, for the answer. */
export type Classified =
  | { kind: 'request'; message: Request }
  | { kind: 'notification'; message: Notification }
  | { kind: 'response'; message: Response }
  | { kind: 'invalid'; id: Id | null; error: ErrorObject };

/** Levels of objects and arrays that a message may have; far above any real one, far below what exhausts a stack. */
export const maxDepth = 1000;

/**
 * The JSON value of a text. Numbers that a double cannot carry (integers beyond 2^53, `1e400`, more than 17 digits)
 * stay as they were written: they are `JSON.rawJSON` objects, which `serialise` writes out again digit by digit.
 * Throws GatewayError `parse_error` (no JSON), or `invalid_request` (nested deeper than `maxDepth`).
 */
export function parseMessage(text: string | Buffer): Json {
  const source = typeof text === 'string' ? text : text.toString('utf8');
  let value: Json;
  try {
    value = JSON.parse(source);
  } catch (cause) {
    throw new GatewayError('parse_error', 'Parse error: not valid JSON', { cause });
  }
  // Each level takes two characters at least.
  if (source.length > 2 * maxDepth && isDeeperThan(value, maxDepth)) {
    throw new GatewayError('invalid_request', `Invalid request: nested deeper than ${maxDepth} levels`);
  }
  return longNumber.test(source) && uncarriedNumber.test(source)
    ? jsonWithSource.parse(source, keepDigits)
    : value;
}

/** What a parsed value is, by its envelope alone: params and results are not looked into. Batches are invalid here. */
export function classify(value: Json): Classified {
  if (typeof value !== 'object' || value === null) return invalid(null, 'expected an object');
  if (Array.isArray(value)) return invalid(null, 'a batch is not allowed here');
  const message = value as Record<string, Json>;
  const { id, method, params } = message;
  const readableId = isId(id) ? id : null;
  if (message.jsonrpc !== '2.0') return invalid(readableId, 'expected jsonrpc to be "2.0"');
  if (id !== undefined && id !== null && readableId === null) {
    return invalid(null, 'expected id to be a string or an integer');
  }
  const hasResult = Object.hasOwn(message, 'result');
  const hasError = Object.hasOwn(message, 'error');

  if (method !== undefined) {
    if (typeof method !== 'string') return invalid(readableId, 'expected method to be a string');
    if (hasResult || hasError) return invalid(readableId, 'a request has neither result nor error');
    if (params !== undefined && !isObject(params)) {
      return invalid(readableId, 'expected params to be an object');
    }
    if (id === undefined) return { kind: 'notification', message: value as Notification };
    // MCP, unlike JSON-RPC, has no null ids in requests (specification, basic, "Requests").
    if (id === null) return invalid(null, 'expected id to be a string or an integer');
    return { kind: 'request', message: value as Request };
  }

  if (hasResult && hasError) return invalid(readableId, 'a response has either result or error, not both');
  if (hasError) {
    if (!isObject(message.error)) return invalid(readableId, 'expected error to be an object');
    return { kind: 'response', message: value as Failure };
  }
  if (!hasResult) return invalid(readableId, 'expected method, result or error');
  if (readableId === null) return invalid(null, 'expected id to be a string or an integer');
  return { kind: 'response', message: value as Success };
}

/** The message's text, without a line break. Throws GatewayError `invalid_request` for one that cannot be written. */
export function serialise(message: Message | Message[]): string {
  try {
    return JSON.stringify(message);
  } catch (cause) {
    throw new GatewayError('invalid_request', 'The message cannot be written as JSON', { cause });
  }
}

/** A key under which an id can be kept in a map: 1 and "1" differ, and integers beyond 2^53 are told apart. */
export function idKey(id: Id): string {
  if (typeof id === 'string') return `s${id}`;
  return `n${typeof id === 'number' ? id : JSON.stringify(id)}`;
}

/** Whether a value can be an id: a string or an integer, one beyond 2^53 (a `JSON.rawJSON` object) included. */
export function isId(value: Json): value is Id {
  if (typeof value === 'string' || Number.isSafeInteger(value)) return true;
  if (typeof value === 'number') return Number.isInteger(value);
  return jsonWithSource.isRawJSON(value) && /^-?\d+$/.test(value.rawJSON);
}

/** The answer to a request. */
export function success(id: Id, result: Params): Success {
  return { jsonrpc: '2.0', id, result };
}

/** The error that answers a request. */
export function failure(id: Id | null, error: ErrorObject): Failure {
  return { jsonrpc: '2.0', id, error };
}

/** Whether a value is a JSON object. */
export function isObject(value: unknown): value is Params {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

const invalid = (id: Id | null, expectation: string): Classified => ({
  kind: 'invalid',
  id,
  error: { code: -32600, message: `Invalid request: ${expectation}` },
});

function isDeeperThan(value: Json, levels: number): boolean {
  if (typeof value !== 'object' || value === null) return false;
  if (levels === 0) return true;
  if (Array.isArray(value)) {
    for (const item of value) {
      if (typeof item === 'object' && item !== null && isDeeperThan(item, levels - 1)) return true;
    }
    return false;
  }
  for (const key in value) {
    const member = (value as Params)[key];
    if (typeof member === 'object' && member !== null && isDeeperThan(member, levels - 1)) return true;
  }
  return false;
}

/** Node 22 and later have these (ES proposal "JSON.parse source text access"); TypeScript's libraries do not. */
interface JsonWithSource {
  parse(text: string, reviver: (key: string, value: Json, context: { source?: string }) => Json): Json;
  rawJSON(text: string): Json;
  isRawJSON(value: Json): value is { rawJSON: string };
}
const jsonWithSource = JSON as unknown as JsonWithSource;

/** A quick sieve before `uncarriedNumber`: any of those has nine digits in a row, or an exponent of three. */
const longNumber = /\d{9}|\d[eE][+-]?\d{3}/;

/*
 * May match too often (inside a string), never too seldom, and is so narrow because what it finds is parsed a second
 * time at many times the cost: integers from 9e15 (2^53 is 9.007e15; microseconds since 1970 lie below), more than the
 * 17 digits that a printed double has, exponents of three digits.
 */
const uncarriedNumber =
  /[:,[]\s*-?(?:9\d{15}|[1-9]\d{16,17}(?![\d.])|[1-9][\d.]{18}|0\.0*[1-9]\d{17}|[\d.]+[eE][+-]?\d{3})/;

function keepDigits(_key: string, value: Json, { source }: { source?: string }): Json {
  if (typeof value !== 'number' || source === undefined) return value;
  return decimal(source) === decimal(String(value)) ? value : jsonWithSource.rawJSON(source);
}

/** A number's exact value as text, the same for each way to write it; `Infinity` stays as it is. */
function decimal(text: string): string {
  const match = /^-?(\d+)(?:\.(\d+))?(?:e([+-]?\d+))?$/i.exec(text);
  if (!match) return text;
  const [, whole, fraction = '', exponent = '0'] = match;
  const digits = (whole + fraction).replace(/^0+/, '');
  const significant = digits.replace(/0+$/, '');
  if (significant === '') return '0';
  const scale = Number(exponent) - fraction.length + digits.length - significant.length;
  return `${text.startsWith('-') ? '-' : ''}${significant}e${scale}`;
}
