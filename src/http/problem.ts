import { asGatewayError, type GatewayError } from '../base/errors.ts';

/** An error of a REST route (RFC 9457, `application/problem+json`). */
export interface Problem {
  type: string;
  title: string;
  status: number;
  detail: string;
  /** Of the catalogue in `base/errors.ts`; what programs switch on. */
  code: string;
  server?: string;
  hint?: string;
  [extension: string]: unknown;
}

/** RFC 9457, section 6. */
export const problemType = 'application/problem+json';

/** Anything thrown as a problem; the one place where REST errors are made. */
export function problemOf(thrown: unknown): Problem {
  const error = asGatewayError(thrown);
  const { code, message, server, hint, data, httpStatus } = error;
  return {
    ...data,
    type: `urn:mcp-gateway:error:${code}`,
    title: titleOf(error),
    // The catalogue's 200 is for JSON-RPC, which has its own place for errors.
    status: httpStatus === 200 ? 400 : httpStatus,
    detail: message,
    code,
    server,
    hint,
  };
}

/** When to come back, as a header, where an error's data say so (RFC 9110, section 10.2.3). */
export function retryAfter(data: unknown): Record<string, string> {
  const seconds = (data as { retryAfterSeconds?: unknown } | null | undefined)?.retryAfterSeconds;
  return Number.isInteger(seconds) ? { 'retry-after': String(seconds) } : {};
}

function titleOf({ code }: GatewayError): string {
  const words = code.replaceAll('_', ' ');
  return words[0]!.toUpperCase() + words.slice(1);
}
