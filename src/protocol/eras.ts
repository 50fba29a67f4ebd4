import type { Message } from './jsonrpc.ts';

/** Versions of the legacy era (handshake, session), oldest first. */
export const legacyVersions = ['2024-11-05', '2025-03-26', '2025-06-18', '2025-11-25'] as const;
/** Versions of the modern era (stateless), oldest first. */
export const modernVersions = ['2026-07-28'] as const;
/** `legacy`: handshake and session. `modern`: every request stands for itself. */
export type Era = 'legacy' | 'modern';
/** One of the legacy versions. */
export type LegacyVersion = (typeof legacyVersions)[number];

/** What legacy servers are asked for, and what a client gets that asks for a version we do not know. */
export const latestLegacyVersion: LegacyVersion = '2025-11-25';

/** What modern servers are told that we speak. */
export const latestModernVersion = '2026-07-28';

/** Where a modern message names its version (specification 2026-07-28, basic, "_meta"). */
export const versionMetaKey = 'io.modelcontextprotocol/protocolVersion';

/** Whether a client may ask for it and get it. */
export function isLegacyVersion(version: unknown): version is LegacyVersion {
  return legacyVersions.includes(version as LegacyVersion);
}

/** The era of a version that a server speaks. */
export function eraOf(version: string): Era {
  return isModernVersion(version) ? 'modern' : 'legacy';
}

/** Whether it is of the modern era, known to us or not. Versions are dates, so their order is that of their text. */
export function isModernVersion(version: string): boolean {
  return /^\d{4}-\d{2}-\d{2}/.test(version) && version >= modernVersions[0];
}

/**
 * The version that a client's `initialize` is answered with: the one it asked for, or the latest legacy one where that is
 * unknown or missing (specification 2025-11-25, lifecycle, "Version Negotiation").
 */
export function negotiate(requested: unknown): LegacyVersion {
  return isLegacyVersion(requested) ? requested : latestLegacyVersion;
}

/** Whether the version has JSON-RPC batches: 2025-03-26 alone has. */
export function hasBatches(version: string | undefined): boolean {
  return version === '2025-03-26';
}

/**
 * Whether a message is of the modern era: its `params._meta` has the version key, with anything but a legacy version.
 * `initialize` belongs to the legacy era unless it names a modern version.
 */
export function isModernMessage(message: Message): boolean {
  if (!('method' in message)) return false;
  const meta = message.params?._meta;
  if (typeof meta !== 'object' || meta === null || !Object.hasOwn(meta, versionMetaKey)) return false;
  const version = (meta as Record<string, unknown>)[versionMetaKey];
  if (message.method === 'initialize') return typeof version === 'string' && isModernVersion(version);
  return !isLegacyVersion(version);
}
