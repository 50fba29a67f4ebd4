import { createHash } from 'node:crypto';
import { SignJWT } from 'jose/jwt/sign';
import { jwtVerify } from 'jose/jwt/verify';
import { type Clock, systemClock } from '../base/async.ts';
import { canonicalJson } from '../base/canonical-json.ts';
import { GatewayError } from '../base/errors.ts';

/** What a state is worth something for: this principal's retry of this very request. */
export interface StateBinding {
  principal: string;
  /** The endpoint, undefined: that of all servers. */
  scope: string | undefined;
  method: string;
  /** Without `_meta`, answers and state: what stays the same from one try to the next. */
  params: Record<string, unknown>;
}

const issuer = 'mcp-gateway request state';
const maxLength = 2048;

/**
 * Signs and checks the `requestState` of requests that wait at the gateway (specification 2026-07-28, "Multi Round-Trip Requests",
 * server requirements): bound to principal, method and params, and worthless after its expiry.
 */
export class RequestStates {
  readonly #key: Uint8Array;
  /** Tells our states from those of modern servers, which pass through us: one of them may be a gateway as well. */
  readonly #prefix: string;
  readonly #clock: Clock;

  constructor({ key, clock = systemClock }: { key: Uint8Array; clock?: Clock }) {
    this.#key = key;
    this.#prefix = `mcp-gateway.${createHash('sha256').update(key).digest('base64url').slice(0, 8)}.`;
    this.#clock = clock;
  }

  /** Whether a state claims to be of the gateway, rather than of a server behind it. */
  isOurs(state: unknown): state is string {
    return typeof state === 'string' && state.startsWith(this.#prefix);
  }

  /** `id` is what `verify` gives back for `lifetimeMs`. */
  async sign(id: string, lifetimeMs: number, binding: StateBinding): Promise<string> {
    const token = await new SignJWT({ jti: id, sub: binding.principal, req: digestOf(binding) })
      .setProtectedHeader({ alg: 'HS256' })
      .setIssuer(issuer)
      .setExpirationTime(Math.ceil((this.#clock.now() + lifetimeMs) / 1000))
      .sign(this.#key);
    return this.#prefix + token;
  }

  /** The id that was signed. Throws `state_refused`. */
  async verify(state: unknown, binding: StateBinding): Promise<string> {
    if (!this.isOurs(state) || state.length > maxLength) throw refused('is not one of this gateway');
    let payload: Record<string, unknown>;
    try {
      ({ payload } = await jwtVerify(state.slice(this.#prefix.length), this.#key, {
        algorithms: ['HS256'],
        issuer,
        currentDate: new Date(this.#clock.now()),
      }));
    } catch (error) {
      const isExpired = (error as { code?: unknown }).code === 'ERR_JWT_EXPIRED';
      throw refused(isExpired ? 'has expired' : 'is not one of this gateway, or was changed');
    }
    if (payload.sub !== binding.principal) throw refused('belongs to somebody else');
    if (payload.req !== digestOf(binding)) throw refused('belongs to another request');
    return String(payload.jti);
  }
}

/** The error for a state that is of no use. */
export function refused(why: string): GatewayError {
  return new GatewayError('state_refused', `The requestState ${why}`, {
    hint: 'Send the request again without requestState and inputResponses.',
  });
}

function digestOf({ scope, method, params }: StateBinding): string {
  const { _meta, inputResponses, requestState, ...rest } = params;
  return createHash('sha256')
    .update(canonicalJson([scope ?? null, method, rest]))
    .digest('base64url');
}
