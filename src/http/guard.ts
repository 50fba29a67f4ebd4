import type { IncomingMessage, ServerResponse } from 'node:http';
import { GatewayError } from '../base/errors.ts';
import type { GatewayConfig } from '../config/schema.ts';

const loopbackNames = ['localhost', '127.0.0.1', '[::1]'];
const wildcards = ['0.0.0.0', '::', ''];

/**
 * The check on every request, whatever its route: who is addressed (`Host`), and from which page (`Origin`). It keeps pages
 * in the user's browser away from the gateway, also where DNS makes its address look like theirs.
 */
export class Guard {
  readonly #hosts: ReadonlySet<string>;
  readonly #origins: ReadonlySet<string>;

  constructor({
    host,
    allowedHosts,
    allowedOrigins,
  }: Pick<GatewayConfig, 'host' | 'allowedHosts' | 'allowedOrigins'>) {
    // An address that the user chose to bind is one by which the gateway may be called.
    const bound = wildcards.includes(host)
      ? []
      : [host.includes(':') && !host.startsWith('[') ? `[${host}]` : host];
    this.#hosts = new Set(
      [...loopbackNames, ...bound, ...allowedHosts.map(nameOf)].map((name) => name.toLowerCase()),
    );
    this.#origins = new Set(allowedOrigins.map((origin) => origin.replace(/\/$/, '').toLowerCase()));
  }

  /** What is wrong with the request, undefined when it may pass. */
  objection({ headers }: IncomingMessage): GatewayError | undefined {
    const { host = '', origin } = headers;
    const name = nameOf(host).toLowerCase();
    if (!this.#hosts.has(name)) {
      return new GatewayError('host_forbidden', `Host ${JSON.stringify(shortened(host))} is not allowed.`, {
        hint: 'Call the gateway as localhost, or list the name in gateway.allowed_hosts.',
      });
    }
    if (origin === undefined || this.#isListed(origin) || isOwn(origin, host)) return undefined;
    return new GatewayError(
      'origin_forbidden',
      `Origin ${JSON.stringify(shortened(origin))} is not allowed.`,
      {
        hint: 'List it in gateway.allowed_origins to let pages of it call the gateway.',
      },
    );
  }

  /** Lets listed origins read the answer. True when that was all the request was for (a preflight). */
  allowCrossOrigin(incoming: IncomingMessage, outgoing: ServerResponse): boolean {
    const { origin } = incoming.headers;
    if (origin === undefined || !this.#isListed(origin)) return false;
    outgoing.setHeader('access-control-allow-origin', origin);
    outgoing.setHeader('access-control-expose-headers', 'mcp-session-id, mcp-protocol-version, retry-after');
    outgoing.setHeader('vary', 'origin');
    if (incoming.method !== 'OPTIONS' || !incoming.headers['access-control-request-method']) return false;
    outgoing.setHeader('access-control-allow-methods', 'GET, POST, DELETE');
    const asked = incoming.headers['access-control-request-headers'];
    if (asked !== undefined) outgoing.setHeader('access-control-allow-headers', asked);
    outgoing.setHeader('access-control-max-age', '600');
    outgoing.writeHead(204).end();
    return true;
  }

  #isListed(origin: string): boolean {
    return this.#origins.size > 0 && (this.#origins.has(origin.toLowerCase()) || this.#origins.has('*'));
  }
}

/** A page that the gateway itself has served, by whichever of its loopback names. */
function isOwn(origin: string, host: string): boolean {
  const authority = /^https?:\/\/([^/]+)$/i.exec(origin)?.[1]?.toLowerCase();
  if (authority === undefined) return false;
  const called = host.toLowerCase();
  if (authority === called) return true;
  const areLoopback = [authority, called].every((one) => loopbackNames.includes(nameOf(one)));
  return areLoopback && portOf(authority) === portOf(called);
}

/** A Host header's name or address, without the port. */
function nameOf(host: string): string {
  return host.replace(/:\d*$/, '');
}

const portOf = (host: string) => /:(\d+)$/.exec(host)?.[1] ?? '80';
const shortened = (text: string) => text.slice(0, 200);
