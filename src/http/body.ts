import type { IncomingMessage } from 'node:http';
import { GatewayError } from '../base/errors.ts';

/**
 * The request's body. Throws `body_too_large` as soon as it is known to be; the rest is then read and thrown away, so that
 * the connection can be used again. Rejects with Node's own error when the client goes away.
 */
export function readBody(incoming: IncomingMessage, maxBytes: number): Promise<Buffer> {
  const tooLarge = () =>
    new GatewayError('body_too_large', `The request's body is larger than ${maxBytes} bytes.`, {
      hint: 'Send less, or raise gateway.max_body.',
    });
  return new Promise((resolve, reject) => {
    if (Number(incoming.headers['content-length'] ?? 0) > maxBytes) {
      reject(tooLarge());
      return;
    }
    const chunks: Buffer[] = [];
    let bytes = 0;
    let isOver = false;
    incoming.on('data', (chunk: Buffer) => {
      bytes += chunk.length;
      if (bytes <= maxBytes) chunks.push(chunk);
      else if (!isOver) {
        isOver = true;
        chunks.length = 0;
        reject(tooLarge());
      }
    });
    incoming.on('end', () => {
      isOver = true;
      resolve(chunks.length === 1 ? chunks[0]! : Buffer.concat(chunks));
    });
    incoming.on('error', reject);
    // A connection that was cut emits no 'error' unless somebody listened early enough.
    incoming.on('close', () => {
      if (!isOver) reject(new Error('The client went away'));
    });
  });
}

/** Whether the body is declared as JSON, and not compressed. `application/json-rpc` and the like count as well. */
export function isJson({ headers }: IncomingMessage): boolean {
  const type = headers['content-type'];
  const encoding = headers['content-encoding'];
  if (encoding !== undefined && encoding !== 'identity') return false;
  if (type === 'application/json') return true;
  return type !== undefined && /^\s*application\/(?:[\w.-]+\+)?json(?:-rpc|request)?\s*(?:;|$)/i.test(type);
}

/** Throws `media_type_unsupported` for a body that `isJson` does not take. */
export function checkJson(incoming: IncomingMessage): void {
  if (isJson(incoming)) return;
  const { 'content-type': type = '', 'content-encoding': encoding } = incoming.headers;
  throw new GatewayError(
    'media_type_unsupported',
    encoding === undefined
      ? `Content-Type ${JSON.stringify(type)} is not supported.`
      : `Content-Encoding ${JSON.stringify(encoding)} is not supported.`,
    { hint: 'Send application/json, uncompressed.' },
  );
}
