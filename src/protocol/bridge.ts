import type { ErrorObject, Params, Request } from './jsonrpc.ts';
import { isObject } from './jsonrpc.ts';
import { type ClientContext, metaKeys, tasksExtension } from './modern.ts';

/*
 * From one era to the other, towards clients. Nothing here knows who asks or who answers: a result, an error, a question is
 * given its other form and keeps everything that the other era has no word for.
 */

/** What a question of a server becomes inside an `input_required` result, and back. */
export interface InputRequest {
  method: string;
  params?: Params;
}

/** Methods whose results say how long they may be kept (specification 2026-07-28, "Caching"). */
const cacheable = new Set([
  'tools/list',
  'prompts/list',
  'resources/list',
  'resources/templates/list',
  'resources/read',
  'server/discover',
]);

const resourceNotFound = -32002;
const invalidParams = -32602;
/** URLElicitationRequiredError of 2025-11-25; the modern era has `input_required` for it. */
export const urlElicitationRequired = -32042;

// Legacy servers, modern clients

/** A legacy result as a modern client reads it. What the server has put there itself stays. */
export function modernResult(method: string, result: Params, serverInfo: Params | undefined): Params {
  const caching = cacheable.has(method) ? { ttlMs: 0, cacheScope: 'private' } : undefined;
  const meta = isObject(result._meta) ? result._meta : undefined;
  return {
    resultType: 'complete',
    ...caching,
    ...result,
    ...(serverInfo && { _meta: { [metaKeys.serverInfo]: serverInfo, ...meta } }),
  };
}

/** A legacy error as a modern client reads it: codes that the modern era has given up are put into its words. */
export function modernError(error: ErrorObject): ErrorObject {
  return error.code === resourceNotFound ? { ...error, code: invalidParams } : error;
}

/**
 * Where a legacy server may name its question: the key under which modern clients answer it. In that era servers choose these
 * keys, so that a client can know them; the legacy one has no place for it.
 */
const inputKey = 'mcp-gateway/input-key';

/** The name that a legacy server has given its question. */
export function inputKeyOf({ params }: Request): string | undefined {
  const key = isObject(params?._meta) ? params._meta[inputKey] : undefined;
  return typeof key === 'string' && key !== '' ? key : undefined;
}

/** A legacy server's question as a modern client is asked it. A progress token would have nowhere to go. */
export function inputRequestOf({ method, params }: Request): InputRequest {
  if (params === undefined) return { method };
  const { _meta, elicitationId: _, ...rest } = params;
  const { progressToken: __, [inputKey]: ___, ...meta } = isObject(_meta) ? _meta : {};
  return { method, params: Object.keys(meta).length > 0 ? { ...rest, _meta: meta } : rest };
}

/**
 * The pages that an URLElicitationRequiredError wants opened, as questions; undefined for any other error. They are answered by
 * calling again.
 */
export function inputRequestsOfError({ code, data }: ErrorObject): Record<string, InputRequest> | undefined {
  if (code !== urlElicitationRequired || !isObject(data) || !Array.isArray(data.elicitations))
    return undefined;
  const requests: Record<string, InputRequest> = {};
  for (const [index, elicitation] of data.elicitations.entries()) {
    if (!isObject(elicitation)) continue;
    const { elicitationId: _, ...params } = elicitation;
    requests[`url-${index + 1}`] = { method: 'elicitation/create', params: { mode: 'url', ...params } };
  }
  return Object.keys(requests).length > 0 ? requests : undefined;
}

// Modern servers, legacy clients

/** A modern result as a legacy client reads it. */
export function legacyResult(result: Params): Params {
  const { resultType: _, ttlMs: __, cacheScope: ___, ...rest } = result;
  return rest;
}

/** What a legacy client said of itself once, as a modern server is told it with every request. */
export function clientContextOf(
  client: { capabilities: Params; clientInfo: Params },
  logLevel: string,
): ClientContext {
  // Tasks have another form in the modern era, which a legacy client does not know.
  const { tasks: _, roots, extensions, ...capabilities } = client.capabilities;
  if (isObject(roots)) capabilities.roots = {};
  if (isObject(extensions)) {
    const { [tasksExtension]: __, ...others } = extensions;
    capabilities.extensions = others;
  }
  return { capabilities, info: client.clientInfo, logLevel };
}

/** The questions of an `input_required` result; undefined where a result is final. */
export function inputRequired(
  result: Params,
): { requests: [key: string, request: InputRequest][]; requestState: unknown } | undefined {
  if (result.resultType !== 'input_required') return undefined;
  const requests = isObject(result.inputRequests) ? Object.entries(result.inputRequests) : [];
  return {
    requests: requests.flatMap(([key, request]): [string, InputRequest][] =>
      isObject(request) && typeof request.method === 'string'
        ? [[key, { method: request.method, ...(isObject(request.params) && { params: request.params }) }]]
        : [],
    ),
    requestState: result.requestState,
  };
}

/** A modern server's question as a legacy client is asked it; `elicitationId` names a page to open, which that era wants named. */
export function legacyQuestion({ method, params }: InputRequest, elicitationId: string): InputRequest {
  const isPage = method === 'elicitation/create' && params?.mode === 'url';
  return isPage ? { method, params: { elicitationId, ...params } } : { method, ...(params && { params }) };
}

/** The request again, with what was gathered. */
export function retried(params: Params | undefined, inputResponses: Params, requestState: unknown): Params {
  const { inputResponses: _, requestState: __, ...rest } = params ?? {};
  return { ...rest, inputResponses, ...(requestState !== undefined && { requestState }) };
}
