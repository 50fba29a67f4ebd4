import { GatewayError } from '../base/errors.ts';
import type { Caching, Entry } from './snapshot.ts';

/** The lists of MCP. */
export const listKinds = ['tools', 'prompts', 'resources', 'resourceTemplates'] as const;
/** Which list. */
export type ListKind = (typeof listKinds)[number];

/** One of something for each list. */
export function forEachKind<T>(make: (kind: ListKind) => T): Record<ListKind, T> {
  return {
    tools: make('tools'),
    prompts: make('prompts'),
    resources: make('resources'),
    resourceTemplates: make('resourceTemplates'),
  };
}

/** The field that an entry of each list is known by. */
export const keyFields = {
  tools: 'name',
  prompts: 'name',
  resources: 'uri',
  resourceTemplates: 'uriTemplate',
} as const satisfies Record<ListKind, string>;

/** One entry as clients see it, and where it comes from. */
export interface Offered {
  server: string;
  /** What the server itself calls it: a name, a URI or a URI template. */
  native: string;
  /** The same, renamed as the server's configuration says. */
  bare: string;
  entry: Entry;
}

/** One answer of a list method. The same object as long as nothing has changed. */
export interface Page {
  entries: readonly Entry[];
  nextCursor?: string;
  /** One for all pages of the list. */
  readonly caching: Caching;
  /** The result of the list method as JSON, made once: the same bytes as long as nothing has changed. */
  readonly json: Buffer;
}

/** What holds for a list whose server does not say: it is to be asked for each time. */
export const uncached: Caching = { ttlMs: 0, cacheScope: 'private' };

/** What holds for all lists together: the shortest time, and private if any is. */
export function leastCaching(all: readonly Caching[]): Caching {
  if (all.length === 0) return uncached;
  return {
    ttlMs: Math.min(...all.map(({ ttlMs }) => ttlMs)),
    cacheScope: all.every(({ cacheScope }) => cacheScope === 'public') ? 'public' : 'private',
  };
}

/** One list as clients see it, ready to be answered; immutable. */
export class Listing {
  readonly kind: ListKind;
  readonly offered: readonly Offered[];
  readonly caching: Caching;
  readonly #pageSize: number;
  readonly #pages = new Map<number, Page>();
  #entries: readonly Entry[] | undefined;
  #byKey: ReadonlyMap<string, Offered> | undefined;

  constructor(kind: ListKind, offered: readonly Offered[], pageSize: number, caching = uncached) {
    this.kind = kind;
    this.offered = offered;
    this.caching = caching;
    this.#pageSize = pageSize;
  }

  get entries(): readonly Entry[] {
    this.#entries ??= this.offered.map(({ entry }) => entry);
    return this.#entries;
  }

  /** Exposed name, URI or URI template: what is behind it. */
  get byKey(): ReadonlyMap<string, Offered> {
    const field = keyFields[this.kind];
    this.#byKey ??= new Map(this.offered.map((offered) => [offered.entry[field] as string, offered]));
    return this.#byKey;
  }

  /** Throws `invalid_params` for a cursor that no page of this kind of list has given. */
  page(cursor?: string): Page {
    const start = cursor === undefined ? 0 : this.#startOf(cursor);
    let page = this.#pages.get(start);
    if (!page) {
      page = this.#makePage(start);
      this.#pages.set(start, page);
    }
    return page;
  }

  #makePage(start: number): Page {
    const end = start + this.#pageSize;
    const entries = this.entries.slice(start, end);
    const nextCursor = end < this.offered.length ? this.#cursorAt(end) : undefined;
    const { kind, caching } = this;
    let json: Buffer | undefined;
    return {
      entries,
      nextCursor,
      caching,
      get json() {
        json ??= Buffer.from(JSON.stringify({ [kind]: entries, nextCursor }));
        return json;
      },
    };
  }

  /** Counts within the entry's own server, so that another server's changes do not move it. */
  #cursorAt(index: number): string {
    const { server } = this.offered[index]!;
    const first = this.offered.findIndex((offered) => offered.server === server);
    return encodeCursor([this.kind, server, index - first]);
  }

  #startOf(cursor: string): number {
    const position = decodeCursor(cursor);
    if (position?.[0] !== this.kind) throw badCursor(this.kind);
    const [, server, offset] = position;
    const first = this.offered.findIndex((offered) => offered.server === server);
    if (first === -1) throw badCursor(this.kind);
    // The server's list may have become shorter since; its end is where to go on then.
    const last = this.offered.findLastIndex((offered) => offered.server === server);
    return Math.min(first + offset, last + 1);
  }
}

type Position = [kind: string, server: string, offset: number];

const encodeCursor = (position: Position) => Buffer.from(JSON.stringify(position)).toString('base64url');

function decodeCursor(cursor: string): Position | undefined {
  try {
    const position: unknown = JSON.parse(Buffer.from(cursor, 'base64url').toString());
    if (!Array.isArray(position) || position.length !== 3) return undefined;
    const [kind, server, offset] = position;
    if (typeof kind !== 'string' || typeof server !== 'string' || !Number.isSafeInteger(offset) || offset < 0)
      return undefined;
    return encodeCursor([kind, server, offset]) === cursor ? [kind, server, offset] : undefined;
  } catch {
    return undefined;
  }
}

function badCursor(kind: ListKind): GatewayError {
  return new GatewayError('invalid_params', `The cursor is not one that this gateway gave for ${kind}.`, {
    hint: 'Start again without a cursor.',
  });
}
