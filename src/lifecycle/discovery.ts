import { type Clock, systemClock } from '../base/async.ts';
import { GatewayError } from '../base/errors.ts';
import { eraOf } from '../protocol/eras.ts';
import type { Params } from '../protocol/jsonrpc.ts';
import { NotWritten } from '../runtimes/runtime.ts';
import { seconds, sizeText } from './diagnosis.ts';
import type { Fleet } from './fleet.ts';
import type { Handshake, Lease } from './lease.ts';

/** A tool, prompt, resource or resource template as its server described it. */
type Entry = Params;

/** What a server offers, read at one time; the catalog's `Snapshot`. */
export interface Reading extends Handshake {
  tools: Entry[];
  resources: Entry[];
  resourceTemplates: Entry[];
  prompts: Entry[];
  /** How long each list may be kept, where the server says it. */
  caching?: Partial<Record<ListKey, Caching>>;
}

type ListKey = 'tools' | 'prompts' | 'resources' | 'resourceTemplates';

interface Caching {
  ttlMs: number;
  cacheScope: 'public' | 'private';
}

export interface ReadOptions {
  /** Whether the server is started when it does not run; true unless given. */
  wake?: boolean;
  /** Whose instance, where sessions have their own. */
  affinity?: string;
  /** Whether the server has announced a change since this was last asked. */
  hasChanged?(): boolean;
}

/** No real server comes near; one that never ends its list must not fill memory. */
const maxPages = 1000;
const maxEntries = 20_000;
/** Of all lists of a server together, as JSON: they stay in memory for as long as the gateway runs. */
const maxListChars = 32 * 1024 * 1024;
/** For all lists of a server together, however many pages they have. */
const readLimitMs = 60_000;
const attempts = 3;
/** Of one instance that announces changes while its lists are read. */
const maxRereads = 3;
const methodNotFound = -32601;

/** What is left of the bounds of one read. */
interface Room {
  chars: number;
  untilMs: number;
}

/** Reads what servers offer, starting them when they do not run; the catalog's `SnapshotSource`. */
export class Discovery {
  readonly #fleet: Fleet;
  readonly #clock: Clock;

  constructor({ fleet, clock = systemClock }: { fleet: Fleet; clock?: Clock }) {
    this.#fleet = fleet;
    this.#clock = clock;
  }

  /** What would run now. Starts nothing, but builds or pulls what is missing: that is the first part of a discovery. */
  digest(server: string, signal: AbortSignal): Promise<string> {
    return this.#fleet.digest(server, signal);
  }

  /** Every page of every list that the server declares; undefined where nothing runs and nothing is to be woken. Rejects with GatewayError. */
  read(server: string, signal: AbortSignal, options?: ReadOptions & { wake?: true }): Promise<Reading>;
  read(server: string, signal: AbortSignal, options: ReadOptions): Promise<Reading | undefined>;
  async read(
    server: string,
    signal: AbortSignal,
    { wake = true, affinity, hasChanged = () => false }: ReadOptions = {},
  ): Promise<Reading | undefined> {
    for (let attempt = 1; ; attempt += 1) {
      if (!wake && !this.#fleet.isReady(server, affinity)) return undefined;
      try {
        return await this.#readOnce(server, signal, affinity, hasChanged);
      } catch (error) {
        // Its instance ended in between; to read is safe to repeat.
        if (!(error instanceof NotWritten)) throw error;
        if (attempt >= attempts) throw failed(server, 'ended while its lists were read');
      }
    }
  }

  async #readOnce(
    server: string,
    signal: AbortSignal,
    affinity: string | undefined,
    hasChanged: () => boolean,
  ): Promise<Reading> {
    using lease = await this.#fleet.lease(server, { purpose: 'upkeep', affinity, signal });
    let reading = await this.#readAll(server, lease, signal);
    for (let again = 0; again < maxRereads && hasChanged(); again += 1) {
      reading = await this.#readAll(server, lease, signal);
    }
    return reading;
  }

  async #readAll(server: string, lease: Lease, signal: AbortSignal): Promise<Reading> {
    const { handshake } = lease;
    const { capabilities } = handshake;
    // Servers that declare nothing at all answer tools/list more often than not.
    const hasTools = capabilities.tools || !(capabilities.resources || capabilities.prompts);
    const room: Room = { chars: maxListChars, untilMs: this.#clock.now() + readLimitMs };
    const caching: Reading['caching'] = eraOf(handshake.protocolVersion) === 'modern' ? {} : undefined;
    const list = async (method: string, key: ListKey) => {
      const { entries, least } = await this.#readList(server, lease, method, key, room, signal);
      if (caching && least) caching[key] = least;
      return entries;
    };
    return {
      ...handshake,
      tools: hasTools ? await list('tools/list', 'tools') : [],
      resources: capabilities.resources ? await list('resources/list', 'resources') : [],
      resourceTemplates: capabilities.resources
        ? await list('resources/templates/list', 'resourceTemplates')
        : [],
      prompts: capabilities.prompts ? await list('prompts/list', 'prompts') : [],
      ...(caching && { caching }),
    };
  }

  async #readList(
    server: string,
    lease: Lease,
    method: string,
    key: ListKey,
    room: Room,
    signal: AbortSignal,
  ): Promise<{ entries: Entry[]; least: Caching | undefined }> {
    let least: Caching | undefined;
    const entries: Entry[] = [];
    const seen = new Set<unknown>();
    for (let cursor: unknown; ; ) {
      const result = await this.#readPage(server, lease, method, cursor, room, signal);
      if (!result) return { entries, least };
      least = leastOf(least, result);
      const page = result[key];
      if (page !== undefined && !Array.isArray(page)) {
        throw failed(server, `answered ${method} without a list of ${key}`);
      }
      room.chars -= JSON.stringify(page ?? []).length;
      if (room.chars < 0) {
        throw failed(server, `has lists longer than ${sizeText(maxListChars)}, ${method} among them`);
      }
      for (const entry of page ?? []) if (typeof entry === 'object' && entry !== null) entries.push(entry);
      cursor = result.nextCursor;
      // A cursor that was given before leads in a circle: everything has been read.
      if (cursor === undefined || cursor === null || cursor === '' || seen.has(cursor)) {
        return { entries, least };
      }
      seen.add(cursor);
      if (seen.size >= maxPages || entries.length > maxEntries) {
        throw failed(
          server,
          `has more than ${seen.size >= maxPages ? `${maxPages} pages` : `${maxEntries} entries`} in ${method}`,
        );
      }
    }
  }

  /** undefined when the server does not know the method. */
  async #readPage(
    server: string,
    lease: Lease,
    method: string,
    cursor: unknown,
    room: Room,
    signal: AbortSignal,
  ): Promise<Params | undefined> {
    const late = new AbortController();
    const cancelTimer = this.#clock.schedule(() => late.abort(), room.untilMs - this.#clock.now());
    try {
      const outcome = await lease.call(
        { method, params: cursor === undefined ? {} : { cursor } },
        { signal: AbortSignal.any([signal, late.signal]) },
      );
      if (!('error' in outcome)) return outcome.result;
      if (outcome.error.code === methodNotFound) return undefined;
      throw failed(
        server,
        `answered ${method} with an error: ${outcome.error.message} (${outcome.error.code})`,
      );
    } catch (error) {
      throw late.signal.aborted
        ? failed(server, `did not answer ${method} within ${seconds(readLimitMs)}, all its lists together`)
        : error;
    } finally {
      cancelTimer();
    }
  }
}

/** The shorter time, and private if either is; a page that does not say is not to be kept. */
function leastOf(before: Caching | undefined, { ttlMs, cacheScope }: Params): Caching {
  const isTime = typeof ttlMs === 'number' && ttlMs > 0;
  return {
    ttlMs: Math.min(before?.ttlMs ?? Number.MAX_SAFE_INTEGER, isTime ? ttlMs : 0),
    cacheScope:
      cacheScope === 'public' && (before?.cacheScope ?? 'public') === 'public' ? 'public' : 'private',
  };
}

function failed(server: string, what: string): GatewayError {
  return new GatewayError('discovery_failed', `Server ${server} ${what}`, {
    server,
    hint: `mcp-gateway logs ${server} shows what it wrote.`,
  });
}
