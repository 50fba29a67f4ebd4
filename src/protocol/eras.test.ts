import { LATEST_PROTOCOL_VERSION, SUPPORTED_PROTOCOL_VERSIONS } from '@modelcontextprotocol/sdk/types.js';
import { describe, expect, it } from 'vitest';
import {
  hasBatches,
  isModernMessage,
  latestLegacyVersion,
  legacyVersions,
  negotiate,
  versionMetaKey,
} from './eras.ts';
import type { Params, Request } from './jsonrpc.ts';

const request = (method: string, params?: Params): Request => ({ jsonrpc: '2.0', id: 1, method, params });

describe('legacy versions', () => {
  it('are those of the official SDK, the latest included', () => {
    expect(SUPPORTED_PROTOCOL_VERSIONS).toEqual(expect.arrayContaining([...legacyVersions]));
    expect(latestLegacyVersion).toBe(LATEST_PROTOCOL_VERSION);
  });

  it('are answered as asked, anything else with the latest', () => {
    for (const version of legacyVersions) expect(negotiate(version)).toBe(version);
    for (const version of ['2024-10-07', '0.1.0', '2026-07-28', '2099-01-01', '', undefined, null, 5, {}]) {
      expect(negotiate(version)).toBe('2025-11-25');
    }
  });

  it('have batches in 2025-03-26 only', () => {
    expect(legacyVersions.filter(hasBatches)).toEqual(['2025-03-26']);
    expect(hasBatches(undefined)).toBe(false);
  });
});

describe('isModernMessage', () => {
  it('goes by the version key of _meta alone', () => {
    const modern = { _meta: { [versionMetaKey]: '2026-07-28' } };
    expect(isModernMessage(request('tools/list', modern))).toBe(true);
    expect(isModernMessage(request('initialize', modern))).toBe(true);
    expect(isModernMessage({ jsonrpc: '2.0', method: 'notifications/cancelled', params: modern })).toBe(true);
    expect(isModernMessage(request('tools/list', { _meta: { [versionMetaKey]: 7 } }))).toBe(true);
    expect(isModernMessage(request('tools/list', { _meta: { [versionMetaKey]: '2026-12-01' } }))).toBe(true);
  });

  it('is false for everything of the legacy era', () => {
    for (const params of [
      undefined,
      {},
      { _meta: {} },
      { _meta: null },
      { _meta: 'x' },
      { _meta: { progressToken: 1, 'io.modelcontextprotocol/clientInfo': {} } },
      { _meta: { [versionMetaKey]: '2025-11-25' } },
      { [versionMetaKey]: '2026-07-28' },
    ]) {
      expect(isModernMessage(request('tools/list', params as Params))).toBe(false);
    }
    expect(isModernMessage(request('initialize', { _meta: { [versionMetaKey]: 7 } }))).toBe(false);
    expect(
      isModernMessage({ jsonrpc: '2.0', id: 1, result: { _meta: { [versionMetaKey]: '2026-07-28' } } }),
    ).toBe(false);
  });
});
