import { asGatewayError, type GatewayError } from '../base/errors.ts';
import { modernError } from '../protocol/bridge.ts';
import type { Era } from '../protocol/eras.ts';
import { type ErrorObject, type Failure, failure, type Id } from '../protocol/jsonrpc.ts';

/**
 * Anything thrown as a JSON-RPC error; the one place where this is done. The next step is part of the message, because
 * most clients show nothing else; `data` has it for programs.
 */
export function errorObjectOf(thrown: unknown): ErrorObject {
  const error = asGatewayError(thrown);
  const { code, server, hint, data } = error;
  return { code: error.rpcCode, message: sentencesOf(error), data: { ...data, code, server, hint } };
}

/** The same as a whole message; `id` null where the request's own could not be read. */
export function failureOf(id: Id | null, thrown: unknown, era: Era = 'legacy'): Failure {
  const error = errorObjectOf(thrown);
  return failure(id, era === 'modern' ? modernFailure(error) : error);
}

/** The modern era leaves -32000 to older implementations; what is wrong is in `data.code`. */
function modernFailure(error: ErrorObject): ErrorObject {
  return error.code === implementationDefined ? { ...error, code: internalError } : modernError(error);
}

const implementationDefined = -32000;
const internalError = -32603;

function sentencesOf({ message, hint }: GatewayError): string {
  if (!hint) return message;
  return /[.!?:…]$/.test(message) ? `${message} ${hint}` : `${message}. ${hint}`;
}
