import type { Config, ServerConfig } from '../config/schema.ts';
import {
  forEachKind,
  keyFields,
  Listing,
  type ListKind,
  leastCaching,
  type Offered,
  uncached,
} from './listing.ts';
import { assignNames, exposedName, type NameClaim, type NameClaims, type NameRequest } from './naming.ts';
import { type Offer, quoted } from './offer.ts';
import type { Caching } from './snapshot.ts';
import { parseUriTemplate, type UriTemplate } from './uri-template.ts';

/** Where a call goes: a server and its own name or URI for the thing. */
export interface Route {
  server: string;
  native: string;
}

/** Decisions about names, for each list. */
export type Claims = Record<ListKind, NameClaims>;

/** Where a URI that two servers have goes to the later one: in front of its own URI. */
const namespacedScheme = 'mcp-gateway://';

/** All servers' offers merged into one, with names that differ; immutable. */
export class View {
  readonly lists: Record<ListKind, Listing>;
  /** The decisions behind the names of the servers in it. */
  readonly claims: Claims;
  readonly #config: Config;
  readonly #offers: ReadonlyMap<string, Offer>;
  readonly #warnings = new Map<string, string[]>();
  readonly #resourceServers: readonly string[];
  #templates: readonly (Offered & { template: UriTemplate })[] | undefined;

  /** `offers` in the order of the file; servers that are not known yet are missing. */
  constructor(config: Config, offers: ReadonlyMap<string, Offer>, claims: Claims, pageSize: number) {
    this.#config = config;
    this.#offers = offers;
    this.#resourceServers = [...offers].flatMap(([server, { hasResources }]) =>
      hasResources ? [server] : [],
    );
    const merged = forEachKind((kind) => this.#merge(kind, claims[kind]));
    this.lists = forEachKind(
      (kind) => new Listing(kind, merged[kind].offered, pageSize, this.#caching(kind)),
    );
    this.claims = forEachKind((kind) => merged[kind].named);
  }

  /** Names that are not what the configuration asks for, one sentence each. */
  warnings(server: string): readonly string[] {
    return this.#warnings.get(server) ?? [];
  }

  /** Where a URI, or a template as it is written, leads when a server lists it or it names its server. */
  listed(uri: string): Route | undefined {
    const listed = this.lists.resources.byKey.get(uri) ?? this.lists.resourceTemplates.byKey.get(uri);
    if (listed) return listed;
    const namespaced = parseNamespaced(uri);
    return namespaced && this.#config.servers.has(namespaced.server) ? namespaced : undefined;
  }

  /** The same, or where the templates lead; undefined for a URI that nothing covers. */
  routeOf(uri: string): Route | undefined {
    const listed = this.listed(uri);
    if (listed) return listed;
    const match = this.#templatesByLength().find(({ template }) => template.matches(uri));
    return match && { server: match.server, native: uri };
  }

  /** The one server that a URI outside of all lists can belong to, if there is one: by its scheme, or as the only one. */
  likelyServer(uri: string): string | undefined {
    if (this.#resourceServers.length === 1) return this.#resourceServers[0];
    const scheme = schemeOf(uri);
    if (scheme === undefined) return undefined;
    const used = [...this.lists.resources.offered, ...this.lists.resourceTemplates.offered];
    const servers = new Set(
      used.flatMap(({ server, native }) => (schemeOf(native) === scheme ? [server] : [])),
    );
    return servers.size === 1 ? [...servers][0] : undefined;
  }

  /** Whether a URI in a result of `server` may mean another server's resource to a client that sees all of them. */
  mayCollide(server: string): boolean {
    return this.#resourceServers.length > 1 && this.#offers.get(server)?.hasResources === true;
  }

  /** The URI that `server` lists, as all servers' clients see it; undefined when it lists no such one. */
  exposedUri(server: string, uri: string): string | undefined {
    return this.claims.resources.get(server)?.get(uri)?.exposed;
  }

  #caching(kind: ListKind): Caching {
    const all: Caching[] = [];
    for (const { name, enabled } of this.#config.servers.values()) {
      const offer = this.#offers.get(name);
      const caching = offer ? offer.caching[kind] : uncached;
      // What is not known yet may appear at any moment.
      if (enabled && caching) all.push(caching);
    }
    return leastCaching(all);
  }

  #merge(kind: ListKind, claims: NameClaims) {
    const all = [...this.#offers.values()].flatMap(({ lists }) => lists[kind].offered);
    const { maxNameLength } = this.#config.gateway;
    const isNamed = keyFields[kind] === 'name';
    const requests = all.map((offered): NameRequest => {
      const { server, native, bare } = offered;
      return isNamed
        ? {
            server,
            native,
            wanted: exposedName(prefixOf(this.#config.servers.get(server)!), bare, maxNameLength),
            fallback: exposedName(server, bare, maxNameLength),
          }
        : { server, native, wanted: native, fallback: namespacedUri(server, native) };
    });
    const names = assignNames(requests, claims, isNamed ? maxNameLength : undefined);

    const named = new Map<string, Map<string, NameClaim>>(
      [...this.#offers.keys()].map((server) => [server, new Map()]),
    );
    const offered = all.map((item, index): Offered => {
      const { server, native, wanted } = requests[index]!;
      const { exposed, takenBy } = names[index]!;
      named.get(server)!.set(native, { wanted, exposed });
      if (exposed !== wanted) this.#warn(server, kind, native, exposed, wanted, takenBy);
      const field = keyFields[kind];
      return item.entry[field] === exposed ? item : { ...item, entry: { ...item.entry, [field]: exposed } };
    });
    return { offered, named };
  }

  #warn(
    server: string,
    kind: ListKind,
    native: string,
    exposed: string,
    wanted: string,
    takenBy: string | undefined,
  ): void {
    const reason = takenBy
      ? `${quoted(wanted)} is ${takenBy === server ? 'another of its own' : `server ${takenBy}'s`}`
      : `${quoted(wanted)} was another server's when the name was given, and names stay`;
    const warnings = this.#warnings.get(server) ?? [];
    warnings.push(`${kind}: ${quoted(native)} is exposed as ${quoted(exposed)}, as ${reason}.`);
    this.#warnings.set(server, warnings);
  }

  #templatesByLength() {
    this.#templates ??= this.lists.resourceTemplates.offered
      // A namespaced template's URIs carry their server's name and are routed by that.
      .filter(({ native, entry }) => entry.uriTemplate === native)
      .map((offered) => ({ ...offered, template: parseUriTemplate(offered.native) }))
      .sort((a, b) => b.template.literalLength - a.template.literalLength);
    return this.#templates;
  }
}

/** The prefix that is in force for a server. */
export function prefixOf(server: ServerConfig): string {
  return server.prefix ?? server.name;
}

/** The form in which a URI leads to this server whatever others have. */
export function namespacedUri(server: string, uri: string): string {
  return `${namespacedScheme}${server}/${uri}`;
}

function parseNamespaced(uri: string): Route | undefined {
  if (!uri.startsWith(namespacedScheme)) return undefined;
  const slash = uri.indexOf('/', namespacedScheme.length);
  if (slash === -1) return undefined;
  return { server: uri.slice(namespacedScheme.length, slash), native: uri.slice(slash + 1) };
}

// RFC 3986 section 3.1
const schemeOf = (uri: string) => /^[a-z][a-z0-9+.-]*(?=:)/i.exec(uri)?.[0].toLowerCase();
