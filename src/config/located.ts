/** Where something was written. `line` 0: it has no line (a flag, an environment variable). */
export interface Place {
  file: string;
  line: number;
  column: number;
}

/** A text, number, boolean or null. */
export interface LocatedScalar {
  kind: 'scalar';
  place: Place;
  value: string | number | boolean | null;
  /** As written, where that differs from the value (`1.10`, `0x1F`). */
  source: string;
  /** Where each `${` of the value stands in the file; empty when that cannot be told. */
  expressionPlaces: Place[];
  /** The expressions that gave the value, as written. With any, the value is a secret and stays out of messages. */
  variables: string[];
  /** Text from outside the file, which may stand for a number or a boolean. */
  isText: boolean;
  /** Its variables have no values (yet): the value is still the text with `${…}`. */
  unresolved: boolean;
}

/** A YAML sequence. */
export interface LocatedList {
  kind: 'list';
  place: Place;
  items: Located[];
}

/** A YAML mapping, in the order of the file. */
export interface LocatedMap {
  kind: 'map';
  place: Place;
  entries: Map<string, Entry>;
}

/** One key of a map with its value. */
export interface Entry {
  keyPlace: Place;
  value: Located;
}

/** A value that knows where it was written. Never changed once made, so aliases share theirs. */
export type Located = LocatedScalar | LocatedList | LocatedMap;

/** A value from outside the file: a flag, an environment variable. */
export function textScalar(text: string, place: Place): LocatedScalar {
  return {
    kind: 'scalar',
    place,
    value: text,
    source: text,
    expressionPlaces: [],
    variables: [],
    isText: true,
    unresolved: false,
  };
}

/** `servers.yaml:3:5`, or the file alone. */
export function formatPlace({ file, line, column }: Place): string {
  return line === 0 ? file : `${file}:${line}:${column}`;
}

/** Keys and indexes from the root of a tree. */
export type Path = readonly PropertyKey[];

/** What is at a path; undefined when nothing is. */
export function at(node: Located, path: Path): Located | undefined {
  let here: Located | undefined = node;
  for (const key of path) {
    if (here?.kind === 'map') here = here.entries.get(String(key))?.value;
    else if (here?.kind === 'list') here = here.items[Number(key)];
    else return undefined;
  }
  return here;
}

/** The place of a path's last key, else of the value, else of the nearest of its parents that is there. */
export function placeAt(node: Located, path: Path, of: 'key' | 'value'): Place {
  let place = node.place;
  let here: Located = node;
  for (const key of path) {
    const entry: Entry | undefined = here.kind === 'map' ? here.entries.get(String(key)) : undefined;
    const next: Located | undefined =
      entry?.value ?? (here.kind === 'list' ? here.items[Number(key)] : undefined);
    if (!next) return place;
    place = of === 'key' && entry ? entry.keyPlace : next.place;
    here = next;
  }
  return place;
}

/** A copy with the value at a path replaced, or removed when there is none. */
export function withAt(node: Located, path: Path, value: Located | undefined): Located {
  const [key, ...rest] = path;
  if (key === undefined) return value ?? node;
  if (node.kind === 'map') {
    const entries = new Map(node.entries);
    const entry = entries.get(String(key));
    if (rest.length > 0) {
      if (entry) entries.set(String(key), { ...entry, value: withAt(entry.value, rest, value) });
    } else if (value) entries.set(String(key), { keyPlace: entry?.keyPlace ?? value.place, value });
    else entries.delete(String(key));
    return { ...node, entries };
  }
  if (node.kind === 'list') {
    const items = [...node.items];
    const index = Number(key);
    const item = items[index];
    if (!item) return node;
    if (rest.length > 0) items[index] = withAt(item, rest, value);
    else if (value) items[index] = value;
    else items.splice(index, 1);
    return { ...node, items };
  }
  return node;
}

/** A copy with every scalar passed through `change`. */
export function mapScalars(node: Located, change: (scalar: LocatedScalar) => LocatedScalar): Located {
  if (node.kind === 'scalar') return change(node);
  if (node.kind === 'list') return { ...node, items: node.items.map((item) => mapScalars(item, change)) };
  const entries = new Map<string, Entry>();
  for (const [name, entry] of node.entries)
    entries.set(name, { ...entry, value: mapScalars(entry.value, change) });
  return { ...node, entries };
}

/** Maps merged deep, anything else replaced; what `own` says wins. */
export function merged(base: Located | undefined, own: Located): Located {
  if (base?.kind !== 'map' || own.kind !== 'map') return own;
  const entries = new Map(base.entries);
  for (const [name, entry] of own.entries) {
    entries.set(name, { ...entry, value: merged(entries.get(name)?.value, entry.value) });
  }
  return { ...own, entries };
}

/** The bare value, as a schema takes it. */
export function toPlain(node: Located): unknown {
  if (node.kind === 'scalar') return node.value;
  if (node.kind === 'list') return node.items.map(toPlain);
  const plain: Record<string, unknown> = {};
  for (const [name, { value }] of node.entries) {
    Object.defineProperty(plain, name, {
      value: toPlain(value),
      enumerable: true,
      writable: true,
      configurable: true,
    });
  }
  return plain;
}
