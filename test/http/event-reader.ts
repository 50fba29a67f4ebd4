import { until } from '../waiting.ts';
import type { RawHttpClient } from './clients.ts';

/** An event as it came, ids and empty data included. */
export interface SentEvent {
  id?: string;
  retry?: string;
  data: string;
}

/** A stream of events as it is read; its connection can be dropped at any moment. */
export class EventReader {
  readonly status: number;
  readonly type: string | null;
  readonly events: SentEvent[] = [];
  /** Resolves when nothing more comes, however it ended. */
  readonly ended: Promise<void>;
  readonly #abort: AbortController;

  constructor(response: Response, abort: AbortController) {
    this.status = response.status;
    this.type = response.headers.get('content-type');
    this.#abort = abort;
    this.ended = this.#read(response).catch(() => {});
  }

  /** A tool call's stream; resolves when it is open. */
  static async call(client: RawHttpClient, params: object, id: unknown = 1): Promise<EventReader> {
    return EventReader.#open(client, {
      method: 'POST',
      headers: {
        'content-type': 'application/json',
        accept: 'application/json, text/event-stream',
        ...client.headers,
      },
      body: JSON.stringify({ jsonrpc: '2.0', id, method: 'tools/call', params }),
    });
  }

  /** The GET stream, or another stream from an event on. */
  static async get(client: RawHttpClient, lastEventId?: string): Promise<EventReader> {
    return EventReader.#open(client, {
      headers: {
        accept: 'text/event-stream',
        ...client.headers,
        ...(lastEventId !== undefined && { 'last-event-id': lastEventId }),
      },
    });
  }

  static async #open(client: RawHttpClient, init: RequestInit): Promise<EventReader> {
    const abort = new AbortController();
    return new EventReader(await fetch(client.url, { ...init, signal: abort.signal }), abort);
  }

  /** What came that is more than an event id. */
  // biome-ignore lint/suspicious/noExplicitAny: a test reads whatever came
  get messages(): any[] {
    return this.events.filter(({ data }) => data !== '').map(({ data }) => JSON.parse(data));
  }

  get lastId(): string {
    return this.events.findLast(({ id }) => id !== undefined)!.id!;
  }

  /** Resolves with the event of that number, among those with data. */
  async message(number: number): Promise<SentEvent> {
    const withData = () => this.events.filter(({ data }) => data !== '');
    await until(() => withData().length >= number, `${number} events, have ${JSON.stringify(this.events)}`);
    return withData()[number - 1]!;
  }

  drop(): void {
    this.#abort.abort();
  }

  async #read(response: Response): Promise<void> {
    let rest = '';
    const decoder = new TextDecoder();
    for await (const chunk of response.body ?? []) {
      const texts = (rest + decoder.decode(chunk, { stream: true })).split('\n\n');
      rest = texts.pop()!;
      for (const text of texts) {
        const fields = Object.fromEntries(
          text
            .split('\n')
            .map((line) => /^(\w+): ?(.*)$/.exec(line))
            .filter((found) => found !== null)
            .map(([, name, value]) => [name, value]),
        );
        if ('data' in fields) this.events.push(fields as unknown as SentEvent);
      }
    }
  }
}
