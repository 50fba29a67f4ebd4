import type { IncomingMessage } from 'node:http';
import { describe, expect, it } from 'vitest';
import { Guard } from './guard.ts';

const objection = (
  headers: Record<string, string>,
  gateway: { host?: string; allowedHosts?: string[]; allowedOrigins?: string[] } = {},
) =>
  new Guard({ host: '127.0.0.1', allowedHosts: [], allowedOrigins: [], ...gateway }).objection({
    headers,
  } as unknown as IncomingMessage)?.code;

describe('the guard', () => {
  it.each(['localhost', 'localhost:8000', 'LOCALHOST:1', '127.0.0.1:8000', '[::1]:8000', '[::1]'])(
    'lets loopback names in: %s',
    (host) => expect(objection({ host })).toBeUndefined(),
  );

  it.each([
    '',
    'evil.example',
    'localhost.evil.example',
    'evil.example:8000',
    'localhost:8000.evil.example',
    '127.0.0.1.nip.io',
    'localhost@evil.example',
    '127.0.0.2',
    '0.0.0.0:8000',
    '172.17.0.1:8000',
    'host.docker.internal',
  ])('keeps other hosts out: %s', (host) => expect(objection({ host })).toBe('host_forbidden'));

  it('lets configured hosts in, whatever the port', () => {
    const gateway = { allowedHosts: ['gateway.lan', 'other.lan:9000'] };
    expect(objection({ host: 'Gateway.lan:1234' }, gateway)).toBeUndefined();
    expect(objection({ host: 'other.lan' }, gateway)).toBeUndefined();
    expect(objection({ host: 'third.lan' }, gateway)).toBe('host_forbidden');
  });

  it('lets the address in that was chosen to be bound, but nothing more for a wildcard', () => {
    expect(objection({ host: '192.168.1.5:8000' }, { host: '192.168.1.5' })).toBeUndefined();
    expect(objection({ host: '[fd00::5]:8000' }, { host: 'fd00::5' })).toBeUndefined();
    expect(objection({ host: '192.168.1.5:8000' }, { host: '0.0.0.0' })).toBe('host_forbidden');
  });

  it.each(['http://localhost:8000', 'http://127.0.0.1:8000', 'http://[::1]:8000'])(
    'lets pages of its own in: %s',
    (origin) => expect(objection({ host: 'localhost:8000', origin })).toBeUndefined(),
  );

  it.each([
    'http://evil.example',
    'http://localhost:3000',
    'http://localhost',
    'null',
    '',
    'http://localhost:8000.evil.example',
    'http://evil.example:8000',
    'file://',
    'chrome-extension://abcdef',
  ])('keeps other pages out: %s', (origin) =>
    expect(objection({ host: 'localhost:8000', origin })).toBe('origin_forbidden'),
  );

  it('lets listed origins in, exactly', () => {
    const gateway = { allowedOrigins: ['https://app.example/'] };
    expect(objection({ host: 'localhost', origin: 'https://app.example' }, gateway)).toBeUndefined();
    expect(objection({ host: 'localhost', origin: 'http://app.example' }, gateway)).toBe('origin_forbidden');
    expect(objection({ host: 'localhost', origin: 'https://app.example.evil' }, gateway)).toBe(
      'origin_forbidden',
    );
  });
});
