import { GatewayError } from '../base/errors.ts';
import { legacyVersions, modernVersions, versionMetaKey } from './eras.ts';
import { isObject, type Params, type Request } from './jsonrpc.ts';
import { isLogLevel, logLevels } from './log-levels.ts';

/*
 * The modern era's words (specification 2026-07-28, basic): what a request says of its client, and what a result says of itself.
 */

/** Keys of `_meta` that the protocol has taken for itself. */
export const metaKeys = {
  version: versionMetaKey,
  clientInfo: 'io.modelcontextprotocol/clientInfo',
  clientCapabilities: 'io.modelcontextprotocol/clientCapabilities',
  logLevel: 'io.modelcontextprotocol/logLevel',
  subscriptionId: 'io.modelcontextprotocol/subscriptionId',
  serverInfo: 'io.modelcontextprotocol/serverInfo',
} as const;

/** What a modern request says of its client; what a modern server is told of a legacy one. */
export interface ClientContext {
  capabilities: Params;
  info?: Params;
  /** Without one nothing may be logged to the client. */
  logLevel?: string;
}

/** The extension that carries tasks. */
export const tasksExtension = 'io.modelcontextprotocol/tasks';

/** Codes of the modern era's own errors (specification 2026-07-28, basic, "Error Codes"). */
export const modernCodes = {
  headerMismatch: -32020,
  capabilityMissing: -32021,
  versionUnsupported: -32022,
} as const;

/**
 * What a modern request says of its client. Throws `version_unknown` for a version that we do not speak, and `metadata_invalid`
 * where what every request must carry is missing or malformed.
 */
export function contextOf({ params }: Request): ClientContext {
  const meta = params?._meta;
  if (!isObject(meta)) throw invalid('params._meta', 'an object with the protocol’s own fields');
  const version = meta[metaKeys.version];
  if (typeof version !== 'string') throw invalid(`params._meta["${metaKeys.version}"]`, 'a protocol version');
  if (!modernVersions.includes(version as (typeof modernVersions)[number])) throw versionUnknown(version);
  const capabilities = meta[metaKeys.clientCapabilities];
  if (!isObject(capabilities)) throw invalid(`params._meta["${metaKeys.clientCapabilities}"]`, 'an object');
  const info = meta[metaKeys.clientInfo];
  if (info !== undefined && !isObject(info))
    throw invalid(`params._meta["${metaKeys.clientInfo}"]`, 'an object');
  const logLevel = meta[metaKeys.logLevel];
  if (logLevel !== undefined && !isLogLevel(logLevel)) {
    throw invalid(`params._meta["${metaKeys.logLevel}"]`, `one of ${logLevels.join(', ')}`);
  }
  return { capabilities, info, logLevel };
}

/** Params without the keys of `_meta` that are about the hop from this client to us; the same object where there are none. */
export function withoutContext(params: Params): Params {
  const { _meta: meta, ...rest } = params;
  if (!isObject(meta)) return params;
  let kept: Params | undefined;
  for (const key in meta) {
    if (ofTheHop.has(key)) continue;
    kept ??= {};
    kept[key] = meta[key];
  }
  return kept ? { ...rest, _meta: kept } : rest;
}

const ofTheHop = new Set<string>([
  metaKeys.version,
  metaKeys.clientInfo,
  metaKeys.clientCapabilities,
  metaKeys.logLevel,
]);

/** The error for a version that we do not speak. */
export function versionUnknown(requested: string): GatewayError {
  const supported = [...modernVersions, ...[...legacyVersions].reverse()];
  return new GatewayError(
    'version_unknown',
    `Protocol version ${JSON.stringify(requested)} is not supported`,
    {
      hint: `Supported are ${supported.join(', ')}.`,
      data: { supported, requested },
    },
  );
}

function invalid(where: string, expected: string): GatewayError {
  return new GatewayError('metadata_invalid', `Expected ${where} to be ${expected}`, {
    hint: 'Every request of protocol version 2026-07-28 carries it.',
  });
}
