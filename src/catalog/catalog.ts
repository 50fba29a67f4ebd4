import { abortable, type Clock, deferred, Semaphore, sleep, systemClock } from '../base/async.ts';
import { GatewayError } from '../base/errors.ts';
import { nearest } from '../base/nearest.ts';
import type { Store } from '../base/store.ts';
import type { Config, ServerConfig } from '../config/schema.ts';
import type { Events, GatewayEvents } from '../observability/events.ts';
import { type Era, eraOf } from '../protocol/eras.ts';
import { claimsOf, configHashOf, emptyRecord, Kept, type KeptServer } from './kept.ts';
import { forEachKind, Listing, type ListKind, listKinds, type Page } from './listing.ts';
import { exposedBeginning, joinedPrefix, type NameClaim } from './naming.ts';
import { type Offer, offerOf, quoted } from './offer.ts';
import { Reader, type RefreshCause } from './reader.ts';
import type { Entry, Snapshot, SnapshotSource } from './snapshot.ts';
import { type Claims, namespacedUri, prefixOf, type Route, View } from './view.ts';

export type { ListKind, Page } from './listing.ts';
export type { RefreshCause } from './reader.ts';
export type { Route } from './view.ts';

/** A server's name, or undefined for all of them: what an endpoint shows. */
export type Scope = string | undefined;

/** A tool or prompt found by its exposed name. */
export interface Resolved extends Route {
  /** As clients of the scope see it. */
  entry: Entry;
}

/** What is known of one server's lists. */
export interface CatalogStatus {
  /** `failed` only while no list is known; a failed rediscovery leaves `known` with a `lastError`. */
  state: 'unknown' | 'discovering' | 'known' | 'failed';
  /** How many of each clients see. */
  tools: number;
  prompts: number;
  resources: number;
  resourceTemplates: number;
  lastError?: { code: string; message: string; hint?: string; atMs: number };
  /** When discovery is tried again. */
  retryAtMs?: number;
  /** It was seen to ask its clients. */
  isLearntInteractive: boolean;
  /** What deserves a look, one sentence each; bounded. */
  warnings: string[];
}

/** What a catalog is made of. */
export interface CatalogOptions {
  config: Config;
  source: SnapshotSource;
  store: Store;
  events: Events;
  clock?: Clock;
  /** Entries in one answer of a list method. */
  pageSize?: number;
}

/** What the catalog holds of one server of the configuration. */
interface Holding {
  readonly config: ServerConfig;
  readonly reader: Reader;
  record: KeptServer;
  beganAtMs: number;
  offer?: Offer;
}

/** How long a list waits for a server that was never seen, from the moment its discovery was begun. */
const listWaitMs = 10_000;
/** Changes of a server within this time are announced once. */
const changeDebounceMs = 50;
const maxWarnings = 20;
const maxLearntRoutes = 10_000;
/** What a caller may ask for by name, in messages and in codes. */
const nouns = { tools: 'tool', prompts: 'prompt' } as const;
const unknownCodes = { tools: 'tool_unknown', prompts: 'prompt_unknown' } as const;

/**
 * What exists. Answers lists from what was read before, wakes nothing, and has the lists read in the background when they are not
 * known or may have changed. A `session` given to a method counts when that session has an instance of its own.
 */
export class Catalog {
  readonly #config: Config;
  readonly #events: Events;
  readonly #clock: Clock;
  readonly #pageSize: number;
  readonly #kept: Kept;
  readonly #closing = new AbortController();
  readonly #holdings = new Map<string, Holding>();
  /** Names that are kept for servers which are not in the configuration now. */
  readonly #absent = new Map<string, KeptServer>();
  readonly #loaded = deferred<void>();
  #isLoaded = false;
  /** Servers that lists may have to wait for. */
  readonly #unsettled = new Set<Holding>();
  #view: View | undefined;
  /** The view whose names clients have seen, and which are kept therefore. */
  #shownView: View | undefined;
  readonly #sessions = new Map<string, Map<string, Offer>>();
  readonly #sessionViews = new Map<string, { base: View; view: View }>();
  /** URIs that servers gave out without listing them, so that they lead back; the oldest are forgotten. */
  readonly #learntRoutes = new Map<string, string>();
  readonly #changes = new Map<string, { lists: Set<ChangedList>; cancel(): void }>();
  readonly #unsubscribe: () => void;

  constructor(options: CatalogOptions) {
    const { config, source, store, events, clock = systemClock } = options;
    this.#config = config;
    this.#events = events;
    this.#clock = clock;
    this.#pageSize = options.pageSize ?? 1000;
    this.#kept = new Kept(store);
    const slots = new Semaphore(config.gateway.parallelStarts);
    const { signal } = this.#closing;
    for (const server of config.servers.values()) {
      const reader = new Reader({
        server: server.name,
        source,
        events,
        clock,
        slots,
        signal,
        onRead: (snapshot, digest) => this.#take(server.name, snapshot, digest),
      });
      const holding = { config: server, reader, record: emptyRecord(clock.now()), beganAtMs: clock.now() };
      this.#holdings.set(server.name, holding);
      if (server.enabled) this.#unsettled.add(holding);
    }
    this.#unsubscribe = events.on('engine.back', () => {
      for (const { reader } of this.#holdings.values()) reader.retryNow('engine_unreachable');
    });
  }

  /** Loads what is kept, then reads what is missing or out of date in the background. */
  async start(): Promise<void> {
    const records = await this.#kept.load((server) => this.#holdings.has(server), this.#clock.now());
    for (const [server, record] of records) {
      const holding = this.#holdings.get(server);
      if (holding) holding.record = record;
      else this.#absent.set(server, record);
    }
    this.#view = undefined;
    for (const holding of this.#holdings.values()) this.#begin(holding);
    this.#isLoaded = true;
    this.#loaded.resolve();
  }

  /** Ends what is under way, lets waiting lists answer, and resolves when everything is written. */
  async close(): Promise<void> {
    this.#unsubscribe();
    this.#closing.abort(new GatewayError('draining', 'The gateway is shutting down.'));
    this.#loaded.resolve();
    for (const { cancel } of this.#changes.values()) cancel();
    this.#changes.clear();
    await this.#kept.flush();
  }

  /**
   * Every entry of a list, as clients of the scope see it; the same array as long as nothing has changed. Waits for
   * servers that were never seen until they are known, have failed, or have taken too long. Throws `server_unknown` and
   * `server_disabled`.
   */
  async list(
    kind: ListKind,
    scope: Scope,
    signal?: AbortSignal,
    session?: string,
  ): Promise<readonly Entry[]> {
    return (await this.#listing(kind, scope, signal, session)).entries;
  }

  /** One answer of a list method, with its JSON text. Waits as `list` does; throws `invalid_params` for a bad cursor. */
  async page(
    kind: ListKind,
    scope: Scope,
    cursor?: string,
    signal?: AbortSignal,
    session?: string,
  ): Promise<Page> {
    return (await this.#listing(kind, scope, signal, session)).page(cursor);
  }

  /**
   * What an exposed name stands for: at once when that is known. A name that may belong to a server without a catalog waits for its
   * discovery. Throws that discovery's failure, or `tool_unknown` or `prompt_unknown` with the nearest name.
   */
  resolve(
    kind: 'tools' | 'prompts',
    scope: Scope,
    exposed: string,
    signal?: AbortSignal,
    session?: string,
  ): Resolved | Promise<Resolved> {
    return (
      this.#find(kind, scope, exposed, session) ?? this.#findLater(kind, scope, exposed, signal, session)
    );
  }

  /**
   * The server that a resource's URI or a template (as a completion names it) leads to, and its own form. Waits as lists do for servers that were
   * never seen. Throws `resource_unknown`.
   */
  routeResource(scope: Scope, uri: string, signal?: AbortSignal, session?: string): Route | Promise<Route> {
    if (scope !== undefined) {
      this.#enabled(scope);
      return { server: scope, native: uri };
    }
    return this.#routeOf(uri, session) ?? this.#routeLater(uri, signal, session);
  }

  /** A URI in something that `server` said, as clients of the scope must see it for it to lead back to that server. */
  exposeUri(scope: Scope, server: string, uri: string, session?: string): string {
    if (scope !== undefined) return uri;
    const view = this.#viewFor(session);
    if (!view.mayCollide(server)) return uri;
    const listed = view.exposedUri(server, uri);
    if (listed !== undefined) return listed;
    const owner = this.#learntRoutes.get(uri) ?? view.routeOf(uri)?.server;
    if (owner === undefined) this.#learnRoute(uri, server);
    return owner === undefined || owner === server ? uri : namespacedUri(server, uri);
  }

  /** What a server said of itself and its lists; undefined while it is not known. */
  known(server: string): Snapshot | undefined {
    return this.#holdings.get(server)?.record.snapshot;
  }

  /** The same, waiting as lists do. Throws why it cannot be known. */
  async about(server: string, signal?: AbortSignal): Promise<Snapshot> {
    const holding = this.#enabled(server);
    await this.#untilListable(server, signal);
    const { snapshot } = holding.record;
    if (snapshot) return snapshot;
    throw holding.reader.failure?.error ?? stillDiscovering(server);
  }

  status(server: string): CatalogStatus {
    const { config, record, reader } = this.#holding(server);
    const offer = this.#offer(server);
    const counts = forEachKind((kind) => offer?.lists[kind].offered.length ?? 0);
    const { failure, retryAtMs } = reader;
    const isBegun = this.#isLoaded && config.enabled;
    const withoutList = failure && !reader.isReading ? 'failed' : isBegun ? 'discovering' : 'unknown';
    const problem = this.#kept.problem(server);
    const warnings = [
      ...(offer ? [...offer.warnings, ...this.#currentView().warnings(server)] : []),
      ...(problem === undefined ? [] : [problem]),
    ];
    return {
      state: record.snapshot ? 'known' : withoutList,
      ...counts,
      ...(failure && {
        lastError: {
          code: failure.error.code,
          message: failure.error.message,
          hint: failure.error.hint,
          atMs: failure.atMs,
        },
      }),
      ...(retryAtMs !== undefined && { retryAtMs }),
      isLearntInteractive: this.isLearntInteractive(server),
      warnings: bounded(warnings),
    };
  }

  /**
   * Has a server's lists read again, in the background. Resolves when that has come to an end, good or bad: `status` tells
   * which. Asked for during a read it is done once more after that, however often it was asked.
   */
  async refresh(server: string, cause: RefreshCause = 'changed'): Promise<void> {
    const { config, reader } = this.#holding(server);
    if (!this.#isLoaded || !config.enabled || config.problem) return;
    await reader.refresh(cause);
  }

  /** The era in which a server spoke when its lists were read, where it is still configured as it was then, and what ran. */
  keptEra(server: string): { era: Era; digest: string } | undefined {
    const { config, record } = this.#holding(server);
    const { configHash, digest, snapshot } = record;
    if (!snapshot || digest === undefined || configHash !== configHashOf(config)) return undefined;
    return { era: eraOf(snapshot.protocolVersion), digest };
  }

  /** It has asked its client for something; kept until something else runs in its place. */
  learnInteractive(server: string): void {
    const holding = this.#holding(server);
    if (holding.record.isInteractive) return;
    holding.record = { ...holding.record, isInteractive: true };
    this.#keep(holding);
  }

  isLearntInteractive(server: string): boolean {
    return this.#holdings.get(server)?.record.isInteractive ?? false;
  }

  /** What a session's own instance offers, for this session's lists only. */
  setSessionSnapshot(session: string, server: string, snapshot: Snapshot): void {
    const offers = this.#sessions.get(session) ?? new Map<string, Offer>();
    offers.set(server, offerOf(this.#holding(server).config, snapshot, this.#pageSize));
    this.#sessions.set(session, offers);
    this.#sessionViews.delete(session);
  }

  /** Its own instance is gone, and with it what that offered. False when nothing was set. */
  dropSessionSnapshot(session: string, server: string): boolean {
    const offers = this.#sessions.get(session);
    if (!offers?.delete(server)) return false;
    if (offers.size === 0) this.#sessions.delete(session);
    this.#sessionViews.delete(session);
    return true;
  }

  endSession(session: string): void {
    this.#sessions.delete(session);
    this.#sessionViews.delete(session);
  }

  // Discovery

  #begin(holding: Holding): void {
    const { config, record, reader } = holding;
    if (!config.enabled) return;
    holding.beganAtMs = this.#clock.now();
    void reader.settled.then(() => this.#unsettled.delete(holding));
    // A list that is known is answered from now on, whatever becomes of its server.
    if (record.snapshot) this.#unsettled.delete(holding);
    if (config.problem) {
      const { code, message, hint } = config.problem;
      reader.giveUp(new GatewayError(code, message, { server: config.name, hint }));
      this.#unsettled.delete(holding);
    } else if (record.snapshot && record.configHash === configHashOf(config)) {
      reader.verify(record.digest);
    } else {
      reader.discover();
    }
  }

  #take(server: string, snapshot: Snapshot, digest: string | undefined): void {
    const holding = this.#holding(server);
    const { record } = holding;
    const configHash = configHashOf(holding.config);
    const isSameServer = record.configHash === configHash && record.digest === digest;
    const old = record.snapshot;
    const isSame = isSameServer && JSON.stringify(old) === JSON.stringify(snapshot);
    this.#unsettled.delete(holding);
    if (isSame) return;
    holding.record = {
      ...record,
      configHash,
      digest,
      snapshot,
      // Learnt of what ran before; the new one may have no questions.
      isInteractive: isSameServer || record.snapshot === undefined ? record.isInteractive : undefined,
    };
    holding.offer = undefined;
    this.#view = undefined;
    this.#keep(holding);
    const changed = listKinds.filter(
      (kind) => JSON.stringify(old?.[kind] ?? []) !== JSON.stringify(snapshot[kind]),
    );
    if (changed.length > 0) this.#announce(server, changed);
  }

  #announce(server: string, kinds: readonly ListKind[]): void {
    const change = this.#changes.get(server) ?? {
      lists: new Set<ChangedList>(),
      cancel: this.#clock.schedule(() => {
        this.#changes.delete(server);
        this.#events.emit('catalog.changed', { server, lists: [...change.lists] });
      }, changeDebounceMs),
    };
    this.#changes.set(server, change);
    for (const kind of kinds) change.lists.add(kind === 'resourceTemplates' ? 'resources' : kind);
  }

  #keep({ config, record }: Holding): void {
    this.#kept.write(config.name, record);
  }

  // Lists

  async #listing(
    kind: ListKind,
    scope: Scope,
    signal: AbortSignal | undefined,
    session: string | undefined,
  ): Promise<Listing> {
    if (scope !== undefined) this.#enabled(scope);
    if (!this.#isLoaded || this.#unsettled.size > 0) await this.#untilListable(scope, signal);
    if (scope === undefined) this.#show();
    return this.#listingNow(kind, scope, session);
  }

  #listingNow(kind: ListKind, scope: Scope, session: string | undefined): Listing {
    if (scope === undefined) return this.#viewFor(session).lists[kind];
    const offer = (session !== undefined && this.#sessions.get(session)?.get(scope)) || this.#offer(scope);
    return offer?.lists[kind] ?? new Listing(kind, [], this.#pageSize);
  }

  /** Until every server of the scope is known, has failed, or has had its time. */
  async #untilListable(scope: Scope, signal: AbortSignal | undefined): Promise<void> {
    if (!this.#isLoaded) await abortable(this.#loaded.promise, signal);
    const waiting = [...this.#unsettled].filter(({ config }) => scope === undefined || config.name === scope);
    await Promise.all(waiting.map((holding) => this.#untilSettled(holding, signal)));
  }

  async #untilSettled({ reader, beganAtMs }: Holding, signal: AbortSignal | undefined): Promise<void> {
    const leftMs = beganAtMs + listWaitMs - this.#clock.now();
    if (leftMs <= 0 || reader.hasSettled) return;
    const waking = new AbortController();
    const timeUp = sleep(leftMs, { clock: this.#clock, signal: waking.signal }).catch(() => {});
    try {
      await abortable(Promise.race([reader.settled, timeUp]), signal);
    } finally {
      waking.abort();
    }
  }

  // Names

  #find(
    kind: 'tools' | 'prompts',
    scope: Scope,
    exposed: string,
    session: string | undefined,
  ): Resolved | undefined {
    if (scope !== undefined) this.#enabled(scope);
    return this.#listingNow(kind, scope, session).byKey.get(exposed);
  }

  async #findLater(
    kind: 'tools' | 'prompts',
    scope: Scope,
    exposed: string,
    signal: AbortSignal | undefined,
    session: string | undefined,
  ): Promise<Resolved> {
    if (!this.#isLoaded) await abortable(this.#loaded.promise, signal);
    const candidates = scope === undefined ? this.#mayHave(exposed) : [this.#holding(scope)];
    await Promise.all(candidates.map(({ reader }) => abortable(untilCurrent(reader), signal)));
    const found = this.#find(kind, scope, exposed, session);
    if (found) return found;

    const failed = candidates.filter(({ record }) => !record.snapshot);
    const named = failed.find(({ config }) => scope !== undefined || prefixOf(config) !== '');
    if (named) throw named.reader.failure?.error ?? stillDiscovering(named.config.name);
    if (scope === undefined) this.#refuseDisabled(exposed);
    throw this.#unknownName(kind, scope, exposed, session, failed);
  }

  /** Servers whose prefix the name begins with; those with bare names may have any. */
  #mayHave(exposed: string): Holding[] {
    const { maxNameLength } = this.#config.gateway;
    return [...this.#holdings.values()].filter(
      ({ config }) =>
        config.enabled &&
        [prefixOf(config), config.name].some((prefix) =>
          exposed.startsWith(exposedBeginning(prefix, maxNameLength)),
        ),
    );
  }

  #refuseDisabled(exposed: string): void {
    for (const { config } of this.#holdings.values()) {
      const prefix = joinedPrefix(prefixOf(config));
      if (!config.enabled && prefix !== '' && exposed.startsWith(prefix)) throw disabled(config.name);
    }
  }

  #unknownName(
    kind: 'tools' | 'prompts',
    scope: Scope,
    exposed: string,
    session: string | undefined,
    failed: readonly Holding[],
  ): GatewayError {
    const listing = this.#listingNow(kind, scope, session);
    const near = nearest(exposed, listing.byKey.keys()) ?? byBareName(listing, exposed);
    const noun = nouns[kind];
    const where = scope === undefined ? 'There is no' : `Server ${scope} has no`;
    const hints = [
      near === undefined ? `List the ${kind} to see what there is.` : `Did you mean ${quoted(near)}?`,
      ...failed.map(({ config, reader }) =>
        `It may belong to server ${config.name}, which could not be discovered: ${reader.failure?.error.message ?? ''}`.trim(),
      ),
    ];
    return new GatewayError(unknownCodes[kind], `${where} ${noun} ${quoted(exposed)}.`, {
      server: scope,
      hint: hints.join(' '),
      data: near === undefined ? undefined : { nearest: near },
    });
  }

  // Resources

  #routeOf(uri: string, session: string | undefined): Route | undefined {
    const view = this.#viewFor(session);
    const listed = view.listed(uri);
    if (listed) return listed;
    const learnt = this.#learntRoutes.get(uri);
    return learnt === undefined ? view.routeOf(uri) : { server: learnt, native: uri };
  }

  async #routeLater(
    uri: string,
    signal: AbortSignal | undefined,
    session: string | undefined,
  ): Promise<Route> {
    await this.#untilListable(undefined, signal);
    const route = this.#routeOf(uri, session);
    if (route) return route;
    const server = this.#viewFor(session).likelyServer(uri);
    if (server !== undefined) return { server, native: uri };
    const missing = [...this.#holdings.values()].filter(
      ({ config, record }) => config.enabled && !record.snapshot,
    );
    throw new GatewayError('resource_unknown', `There is no resource ${quoted(uri)}.`, {
      hint:
        missing.length === 0
          ? 'List the resources and resource templates to see what there is.'
          : `It may belong to a server whose lists are not known: ${missing.map(({ config }) => config.name).join(', ')}.`,
      data: { uri },
    });
  }

  #learnRoute(uri: string, server: string): void {
    this.#learntRoutes.set(uri, server);
    if (this.#learntRoutes.size > maxLearntRoutes) {
      const [oldest] = this.#learntRoutes.keys();
      this.#learntRoutes.delete(oldest!);
    }
  }

  // Views

  #currentView(): View {
    this.#view ??= new View(this.#config, this.#offers(), this.#claims(), this.#pageSize);
    return this.#view;
  }

  #viewFor(session: string | undefined): View {
    const base = this.#currentView();
    const own = session === undefined ? undefined : this.#sessions.get(session);
    if (session === undefined || !own) return base;
    const made = this.#sessionViews.get(session);
    if (made?.base === base) return made.view;
    // What all clients see keeps its names; only what the session alone has is named anew.
    const view = new View(this.#config, this.#offers(own), base.claims, this.#pageSize);
    this.#sessionViews.set(session, { base, view });
    return view;
  }

  #offers(own?: ReadonlyMap<string, Offer>): Map<string, Offer> {
    const offers = new Map<string, Offer>();
    for (const server of this.#holdings.keys()) {
      const offer = own?.get(server) ?? this.#offer(server);
      if (offer) offers.set(server, offer);
    }
    return offers;
  }

  #offer(server: string): Offer | undefined {
    const holding = this.#holding(server);
    const { config, record } = holding;
    if (!config.enabled || !record.snapshot) return undefined;
    holding.offer ??= offerOf(config, record.snapshot, this.#pageSize);
    return holding.offer;
  }

  #claims(): Claims {
    const records = new Map<string, KeptServer>(this.#absent);
    for (const [server, { record }] of this.#holdings) records.set(server, record);
    return forEachKind(
      (kind) =>
        new Map(
          [...records].map(([server, record]): [string, Map<string, NameClaim>] => [
            server,
            claimsOf(record, kind),
          ]),
        ),
    );
  }

  /** A name that a client has seen stays: the decisions are kept from here on. */
  #show(): void {
    const view = this.#currentView();
    if (view === this.#shownView) return;
    this.#shownView = view;
    for (const holding of this.#holdings.values()) {
      const server = holding.config.name;
      if (!this.#offer(server)) continue;
      const names = forEachKind((kind) =>
        [...(view.claims[kind].get(server) ?? [])].map(
          ([native, { wanted, exposed }]): [string, string, string] => [native, wanted, exposed],
        ),
      );
      if (JSON.stringify(names) === JSON.stringify(holding.record.names)) continue;
      holding.record = { ...holding.record, names };
      this.#keep(holding);
    }
  }

  #holding(server: string): Holding {
    const holding = this.#holdings.get(server);
    if (holding) return holding;
    const near = nearest(server, this.#holdings.keys());
    throw new GatewayError('server_unknown', `There is no server ${quoted(server)}.`, {
      hint: near === undefined ? 'GET /servers lists them.' : `Did you mean ${near}?`,
    });
  }

  #enabled(server: string): Holding {
    const holding = this.#holding(server);
    if (!holding.config.enabled) throw disabled(server);
    return holding;
  }
}

type ChangedList = GatewayEvents['catalog.changed']['lists'][number];

/** Until a first discovery has ended, or a read that is under way or about to be. */
async function untilCurrent(reader: Reader): Promise<void> {
  if (!reader.hasSettled) await reader.settled;
  else await reader.upcoming;
}

/** The exposed name of something that was asked for without its prefix, when there is one such thing. */
function byBareName(listing: Listing, name: string): string | undefined {
  const matches = [...listing.byKey].filter(([, { native, bare }]) => bare === name || native === name);
  return matches.length === 1 ? matches[0]![0] : undefined;
}

function bounded(warnings: string[]): string[] {
  if (warnings.length <= maxWarnings) return warnings;
  return [...warnings.slice(0, maxWarnings), `And ${warnings.length - maxWarnings} more like these.`];
}

function disabled(server: string): GatewayError {
  return new GatewayError('server_disabled', `Server ${server} is disabled.`, {
    server,
    hint: `Set enabled: true for ${server} in servers.yaml.`,
  });
}

function stillDiscovering(server: string): GatewayError {
  return new GatewayError(
    'discovery_failed',
    `What server ${server} offers is not known yet: it is still being discovered.`,
    {
      server,
      hint: 'Try again in a moment.',
    },
  );
}
