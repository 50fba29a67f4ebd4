import { type ErrorObject, isObject, type Params, type Request } from './jsonrpc.ts';

/*
 * What a server of the legacy era may ask its client, and how it is answered where the client cannot be asked
 * (specification 2025-11-25: sampling, elicitation, roots).
 */

/** A user's refusal of a sampling request, as the specification's examples have it. */
const samplingRefused = -1;
const methodNotFound = -32601;

/** The capability that the client would need for this question and has not; undefined when it has all. */
export function capabilityLackingFor(question: Request, capabilities: Params): string | undefined {
  const { params = {} } = question;
  switch (question.method) {
    case 'sampling/createMessage': {
      const { sampling } = capabilities;
      if (!isObject(sampling)) return 'sampling';
      return params.tools !== undefined && !isObject(sampling.tools) ? 'sampling.tools' : undefined;
    }
    case 'elicitation/create': {
      const { elicitation } = capabilities;
      if (!isObject(elicitation)) return 'elicitation';
      if (params.mode === 'url') return isObject(elicitation.url) ? undefined : 'elicitation.url';
      // An empty object is what clients of 2025-06-18 send, which know forms alone.
      return isObject(elicitation.form) || !isObject(elicitation.url) ? undefined : 'elicitation.form';
    }
    case 'roots/list':
      return isObject(capabilities.roots) ? undefined : 'roots';
    default:
      return question.method;
  }
}

/** The answer to a question that no client will answer: a decline that the server is prepared for. */
export function declined(method: string, reason: string): { result: Params } | { error: ErrorObject } {
  if (method === 'elicitation/create') return { result: { action: 'decline' } };
  if (method === 'sampling/createMessage') {
    return { error: { code: samplingRefused, message: `Sampling was declined: ${reason}` } };
  }
  return { error: { code: methodNotFound, message: `${method} is not available: ${reason}` } };
}

/** Why a client without a capability was not asked. */
export function lacks(capability: string): string {
  return `the client does not support ${capability}`;
}
