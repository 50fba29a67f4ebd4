import type { Notification } from '../protocol/jsonrpc.ts';
import type { Stream } from './conversation.ts';

/**
 * The progress of one request of a client. It must only rise (specification, "Progress"), although several count it: the start of an
 * instance, then a server, then the server again when the request goes on after a question.
 */
export class RisingProgress {
  readonly #token: unknown;
  readonly #stream: Stream;
  #shift = 0;
  #last: number | undefined;

  constructor(token: unknown, stream: Stream) {
    this.#token = token;
    this.#stream = stream;
  }

  /** Tells the client what the wait is for, as one more step. */
  wait(message: string): void {
    this.#last = (this.#last ?? 0) + 1;
    // One more than the last step: a server may well begin at 0.
    this.#shift = this.#last + 1;
    this.#stream.send({
      jsonrpc: '2.0',
      method: 'notifications/progress',
      params: { progressToken: this.#token, progress: this.#last, message },
    });
  }

  /** The server will count from its own beginning again. */
  beginAgain(): void {
    if (this.#last !== undefined) this.#shift = this.#last + 1;
  }

  /** A server's progress as it goes on from all that was told before, under the client's token. */
  rise(notification: Notification): Notification {
    const { params = {} } = notification;
    const { progress, total } = params;
    if (typeof progress !== 'number') return notification;
    const risen = progress + this.#shift;
    this.#last = Math.max(this.#last ?? risen, risen);
    if (this.#shift === 0) return notification;
    return {
      ...notification,
      params: {
        ...params,
        progress: risen,
        ...(total !== undefined && { total: typeof total === 'number' ? total + this.#shift : total }),
      },
    };
  }
}
