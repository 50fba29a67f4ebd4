import { nearest } from '../base/nearest.ts';
import { printable } from '../base/printable.ts';
import type { ServerConfig } from '../config/schema.ts';
import { forEachKind, keyFields, Listing, type ListKind, type Offered, uncached } from './listing.ts';
import type { Caching, Entry, Snapshot } from './snapshot.ts';

/** What one server offers after `tools` of its configuration: allow, deny, rename, describe. */
export interface Offer {
  /** As clients of this server alone see it. */
  lists: Record<ListKind, Listing>;
  /** How long each list may be kept; undefined for those that it has not. */
  caching: Record<ListKind, Caching | undefined>;
  /** It answers resources/read, whether it lists any or not. */
  hasResources: boolean;
  /** What deserves a look, one sentence each. */
  warnings: readonly string[];
}

/** A snapshot as the configuration lets clients see it. */
export function offerOf(server: ServerConfig, snapshot: Snapshot, pageSize: number): Offer {
  const warnings: string[] = [];
  const capabilityOf = (kind: ListKind) => (kind === 'resourceTemplates' ? 'resources' : kind);
  const caching = forEachKind((kind) => {
    const hasList = snapshot[kind].length > 0 || snapshot.capabilities[capabilityOf(kind)] !== undefined;
    return hasList ? (snapshot.caching?.[kind] ?? uncached) : undefined;
  });
  const listing = (kind: ListKind) => {
    const offered = entriesOf(server.name, kind, snapshot[kind], warnings);
    return new Listing(
      kind,
      kind === 'tools' ? configuredTools(server, offered, warnings) : offered,
      pageSize,
      caching[kind],
    );
  };
  const lists = forEachKind(listing);
  const hasResources =
    snapshot.capabilities.resources !== undefined ||
    snapshot.resources.length + snapshot.resourceTemplates.length > 0;
  return { lists, caching, hasResources, warnings };
}

/** Entries that can be told apart: those without a key, and second ones with the same key, are left out. */
function entriesOf(server: string, kind: ListKind, entries: readonly Entry[], warnings: string[]): Offered[] {
  const offered = new Map<string, Offered>();
  let nameless = 0;
  const field = keyFields[kind];
  for (const entry of entries) {
    const native = entry?.[field];
    if (typeof native !== 'string' || native === '') nameless += 1;
    else if (offered.has(native))
      warnings.push(`${nouns[kind]} ${quoted(native)} is listed twice; the first counts.`);
    else offered.set(native, { server, native, bare: native, entry });
  }
  if (nameless > 0) warnings.push(`${nameless} ${nouns[kind]} entries without a ${field} are left out.`);
  return [...offered.values()];
}

const nouns: Record<ListKind, string> = {
  tools: 'tool',
  prompts: 'prompt',
  resources: 'resource',
  resourceTemplates: 'resource template',
};

function configuredTools(
  { tools, name: server }: ServerConfig,
  offered: Offered[],
  warnings: string[],
): Offered[] {
  const natives = new Set(offered.map(({ native }) => native));
  const check = (names: Iterable<string>, setting: string) => {
    for (const name of names) {
      if (natives.has(name)) continue;
      const near = nearest(name, natives);
      warnings.push(
        `servers.${server}.tools${setting} names ${quoted(name)}, which the server does not have` +
          (near ? `; did you mean ${quoted(near)}?` : '.'),
      );
    }
  };
  check(tools.allow ?? [], '.allow');
  check(tools.deny, '.deny');
  check(Object.keys(tools.rename), '.rename');
  check(Object.keys(tools.describe), '.describe');

  const allowed = tools.allow && new Set(tools.allow);
  const denied = new Set(tools.deny);
  const visible = offered.filter(({ native }) => (allowed?.has(native) ?? true) && !denied.has(native));
  const renames = workableRenames(
    server,
    visible.map(({ native }) => native),
    new Map(Object.entries(tools.rename)),
    warnings,
  );
  const descriptions = new Map(Object.entries(tools.describe));

  return visible.map((tool) => {
    const bare = renames.get(tool.native) ?? tool.native;
    const description = descriptions.get(tool.native);
    if (bare === tool.native && description === undefined) return tool;
    return {
      ...tool,
      bare,
      entry: { ...tool.entry, name: bare, ...(description === undefined ? {} : { description }) },
    };
  });
}

/** The renames after which all names still differ; each other one is undone with a warning, so that no tool is lost. */
function workableRenames(
  server: string,
  natives: readonly string[],
  wanted: ReadonlyMap<string, string>,
  warnings: string[],
): Map<string, string> {
  const renames = new Map(
    natives.flatMap((native): [string, string][] => {
      const name = wanted.get(native);
      return name ? [[native, name]] : [];
    }),
  );
  for (;;) {
    const owners = new Map<string, string>();
    let undone: string | undefined;
    for (const native of natives) {
      const name = renames.get(native) ?? native;
      const other = owners.get(name);
      if (other === undefined) owners.set(name, native);
      else undone = renames.has(native) ? native : other;
      if (undone !== undefined) break;
    }
    if (undone === undefined) return renames;
    warnings.push(
      `servers.${server}.tools.rename: ${quoted(undone)} keeps its name, as there is another tool ${quoted(renames.get(undone)!)}.`,
    );
    renames.delete(undone);
  }
}

/** A foreign name as it may stand in a sentence. */
export function quoted(name: string): string {
  return `"${printable(name, 120)}"`;
}
