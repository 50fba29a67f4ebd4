import { GatewayError } from '../base/errors.ts';
import type { ClientCapability, ServerConfig } from '../config/schema.ts';
import { type Era, latestLegacyVersion, latestModernVersion, modernVersions } from '../protocol/eras.ts';
import { isObject, type Params } from '../protocol/jsonrpc.ts';
import { type ClientContext, metaKeys } from '../protocol/modern.ts';
import { declared } from './client-questions.ts';
import type { Handshake, Outcome, OutgoingRequest } from './lease.ts';

/*
 * How the gateway speaks to servers of either era: the first request and what its answer says, the request that asks for a sign
 * of life, and what a modern server is told of the client with every request.
 */

export const initialize = 'initialize';
export const discover = 'server/discover';
/** The request whose answer is a stream of notifications. */
export const listen = 'subscriptions/listen';

/** The request that every server of the era answers at once. */
export const lifeSign: Record<Era, string> = { legacy: 'ping', modern: discover };

/** The request that the conversation with a server begins with. */
export function opening(
  era: Era,
  { capabilities, self }: { capabilities: readonly ClientCapability[]; self: ClientContext },
): OutgoingRequest {
  if (era === 'modern') return { method: discover, params: addressed({}, undefined, self) };
  return {
    method: initialize,
    params: {
      protocolVersion: latestLegacyVersion,
      capabilities: declared(capabilities),
      clientInfo: self.info,
    },
  };
}

/** What a server says of itself in the answer to `opening`. Throws `handshake_failed` for an answer that says something else. */
export function handshakeFrom(era: Era, { name }: ServerConfig, outcome: Outcome): Handshake {
  const isModern = era === 'modern';
  const method = isModern ? discover : initialize;
  const failed = (what: string, hint: string) =>
    new GatewayError('handshake_failed', `Server ${name} answered ${method} with ${what}`, {
      server: name,
      hint,
    });
  if ('error' in outcome) {
    const { message, code } = outcome.error;
    throw failed(
      `an error: ${message} (${code})`,
      isModern
        ? 'Which version it speaks is found out again at its next start.'
        : 'Check the version of the server: it must speak MCP 2025-11-25 or earlier, or 2026-07-28.',
    );
  }
  const result: unknown = outcome.result;
  if (!isObject(result)) {
    throw failed(
      `${JSON.stringify(result).slice(0, 100)}, expected an object`,
      isModern
        ? 'The result has supportedVersions and capabilities; the server’s author can mend that.'
        : 'The result has protocolVersion, capabilities and serverInfo; the server’s author can mend that.',
    );
  }
  if (isModern && !speaksModern(result)) {
    throw failed(
      `supportedVersions ${JSON.stringify(result.supportedVersions)?.slice(0, 100)}, expected ${latestModernVersion} among them`,
      'Which version it speaks is found out again at its next start.',
    );
  }
  const { protocolVersion, instructions } = result;
  const meta = asParams(result._meta);
  return {
    // Servers answer old and unknown versions; what they say is kept, and one that says nothing speaks the oldest.
    protocolVersion: isModern
      ? latestModernVersion
      : typeof protocolVersion === 'string'
        ? protocolVersion
        : '2024-11-05',
    capabilities: asParams(result.capabilities),
    serverInfo: asParams((isModern && meta[metaKeys.serverInfo]) || result.serverInfo),
    ...(typeof instructions === 'string' ? { instructions } : {}),
  };
}

/** Whether the answer to `server/discover` names a modern version that we speak. */
export function speaksModern(result: unknown): boolean {
  return isObject(result) && hasOurs(result.supportedVersions);
}

/** Whether a list of versions has a modern one of ours. */
export function hasOurs(versions: unknown): boolean {
  return Array.isArray(versions) && modernVersions.some((version) => versions.includes(version));
}

/** Params as a modern server wants them: with what it must know of the client, beside what is in `_meta` already. */
export function addressed(
  params: Params | undefined,
  client: ClientContext | undefined,
  self: ClientContext,
): Params {
  const { capabilities, info = self.info, logLevel } = client ?? self;
  const meta: Params = {
    ...asParams(params?._meta),
    [metaKeys.version]: latestModernVersion,
    [metaKeys.clientInfo]: info,
    [metaKeys.clientCapabilities]: capabilities,
  };
  if (logLevel !== undefined) meta[metaKeys.logLevel] = logLevel;
  return { ...params, _meta: meta };
}

const asParams = (value: unknown): Params => (isObject(value) ? value : {});
