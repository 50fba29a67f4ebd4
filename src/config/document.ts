import {
  type Document,
  isAlias,
  isMap,
  isScalar,
  isSeq,
  type Node,
  parseDocument,
  visit,
  type YAMLError,
} from 'yaml';
import {
  type Entry,
  type Located,
  type LocatedMap,
  type LocatedScalar,
  type Place,
  textScalar,
} from './located.ts';

/** Something wrong with a configuration, for a person. Free of secrets. */
export interface ConfigProblem extends Place {
  message: string;
  /** The next step. */
  hint?: string;
}

/** Keeps a document whose aliases multiply each other from filling the memory. */
const maxValues = 100_000;
const maxSyntaxProblems = 20;
const nestedTooDeeply = 'nested too deeply';

/** What a text says, and what is wrong with it. */
export interface ParsedDocument {
  /** undefined: the document is empty, or not readable as YAML. */
  root: Located | undefined;
  problems: ConfigProblem[];
  duplicates: Duplicate[];
}

/** A key that is there twice in one map, which starts at `map`. */
export interface Duplicate {
  name: string;
  place: Place;
  first: Place;
  map: Place;
}

/** Reads YAML or JSON, with anchors, aliases and merge keys resolved. Never throws. `file` is the name in messages. */
export function parseLocated(text: string, file: string): ParsedDocument {
  const source = text.startsWith('\uFEFF') ? text.slice(1) : text;
  const placeOf = placesIn(source, file);
  const unquoted: number[] = [];
  let readable = source;
  let document: Document;
  let faults: YAMLError[];
  for (;;) {
    try {
      document = parseDocument(readable, {
        prettyErrors: false,
        // Checked here, so that both places can be named.
        uniqueKeys: false,
        schema: 'core',
        resolveKnownTags: false,
      });
    } catch (error) {
      // Nesting beyond the stack, or a fault of the parser itself.
      const message = error instanceof RangeError ? nestedTooDeeply : 'this cannot be read as YAML';
      return unreadable([{ file, line: 1, column: 1, message }]);
    }
    faults = [...document.errors, ...document.warnings];
    // An unquoted variable in a flow collection derails the parser: it is covered up to find the other faults.
    const at = faults.map(({ pos }) => pos[0]).find((start) => readable.startsWith('${', start - 1));
    if (at === undefined || unquoted.length === maxSyntaxProblems) break;
    unquoted.push(at - 1);
    const end = /[}\n]|$/.exec(readable.slice(at))!.index + at + 1;
    readable = readable.slice(0, at - 1) + 'x'.repeat(end - at + 1) + readable.slice(end);
    if (readable.length !== source.length)
      return unreadable(syntaxProblems(faults, unquoted, document, placeOf));
  }
  if (faults.length > 0 || unquoted.length > 0)
    return unreadable(syntaxProblems(faults, unquoted, document, placeOf));
  if (document.contents === null) return unreadable([]);
  const converter = new Converter(source, placeOf);
  const root = converter.convert(document.contents as Node);
  const { problems, duplicates } = converter;
  return { root: isNothing(root) ? undefined : root, problems, duplicates };
}

/** Places by offset. (yaml's own LineCounter miscounts what follows some broken flow collections.) */
function placesIn(source: string, file: string): (offset: number) => Place {
  const lineStarts = [0, ...offsetsOf('\n', source).map((offset) => offset + 1)];
  return (offset) => {
    const within = Math.min(Math.max(offset, 0), source.length);
    let [low, high] = [0, lineStarts.length];
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (lineStarts[middle]! <= within) low = middle;
      else high = middle;
    }
    return { file, line: low + 1, column: within - lineStarts[low]! + 1 };
  };
}

function unreadable(problems: ConfigProblem[]): ParsedDocument {
  return { root: undefined, problems, duplicates: [] };
}

function isNothing(node: Located): boolean {
  return node.kind === 'scalar' && node.value === null && node.source === '';
}

/** One problem a line, and none of the echoes that follow where the parser has lost the document. */
function syntaxProblems(
  faults: YAMLError[],
  unquoted: number[],
  document: Document,
  placeOf: (offset: number) => Place,
): ConfigProblem[] {
  const byLine = new Map<number, ConfigProblem>();
  for (const offset of unquoted) {
    const message = 'a variable inside { } or [ ] needs quotes';
    const place = placeOf(offset);
    byLine.set(place.line, { ...place, message, hint: 'write "${NAME}", with the quotes' });
  }
  for (const fault of faults.toSorted((a, b) => a.pos[0] - b.pos[0])) {
    const opening = openingQuote(fault, document);
    const place = placeOf(opening ?? fault.pos[0]);
    const isEcho = byLine.size > 0 && fault.message.includes('in YAML stream');
    if (isEcho || byLine.has(place.line)) continue;
    const said =
      opening === undefined ? syntaxMessage(fault) : { message: 'the quote that opens here is not closed' };
    byLine.set(place.line, { ...place, ...said });
    if (byLine.size >= maxSyntaxProblems) break;
  }
  return [...byLine.values()];
}

/** Where an unclosed quote opens; the parser notices it where the file ends. */
function openingQuote(fault: YAMLError, document: Document): number | undefined {
  if (!/^Missing closing ["']quote$/.test(fault.message)) return undefined;
  let opening: number | undefined;
  visit(document, {
    Scalar(_key, { range, type }) {
      const holdsFault = range && range[0] < fault.pos[0] && fault.pos[0] <= range[2];
      if (holdsFault && (type === 'QUOTE_DOUBLE' || type === 'QUOTE_SINGLE')) opening = range[0];
    },
  });
  return opening;
}

function syntaxMessage(fault: YAMLError): { message: string; hint?: string } {
  switch (fault.code) {
    case 'TAB_AS_INDENT':
      return { message: 'found a tab, expected spaces as indentation', hint: 'replace the tab with spaces' };
    case 'MULTIPLE_DOCS':
      return { message: 'found a second document, expected one', hint: 'remove the line with ---' };
    case 'RESOURCE_EXHAUSTION':
      return { message: nestedTooDeeply };
    case 'TAG_RESOLVE_FAILED':
      return {
        message: 'found a tag (a word after !), expected a plain value',
        hint: 'tags have no meaning here',
      };
    case 'BLOCK_AS_IMPLICIT_KEY':
      return {
        message: 'found a second "key: value" on one line',
        hint: 'put it on a line of its own, or in quotes',
      };
    case 'BAD_DQ_ESCAPE':
      return {
        message: 'found an unknown escape after \\',
        hint: 'write \\\\ for a backslash, or use single quotes',
      };
    case 'BAD_SCALAR_START':
      return { message: lowerFirst(fault.message), hint: 'put the value in quotes' };
    default:
      // What the parser quotes after the colon is the user's own text, which may be a secret.
      return { message: lowerFirst(fault.message.replace(/: .*$/s, '')) };
  }
}

function lowerFirst(text: string): string {
  return text.charAt(0).toLowerCase() + text.slice(1);
}

/** Turns the parser's nodes into located values: resolves anchors and merges, refuses what is too big. */
class Converter {
  readonly problems: ConfigProblem[] = [];
  readonly duplicates: Duplicate[] = [];
  readonly #source: string;
  readonly #placeOf: (offset: number) => Place;
  /** By name; null while the anchored value itself is being read. */
  readonly #anchors = new Map<string, Located | null>();
  readonly #sizes = new WeakMap<Located, number>();

  constructor(source: string, placeOf: (offset: number) => Place) {
    this.#source = source;
    this.#placeOf = placeOf;
  }

  convert(node: Node | null, fallbackPlace?: Place): Located {
    const place = node?.range ? this.#placeOf(node.range[0]) : (fallbackPlace ?? this.#placeOf(0));
    if (node === null) return nothing(place);
    if (isAlias(node)) return this.#alias(node.source, place);
    const anchor = 'anchor' in node ? node.anchor : undefined;
    if (anchor) this.#anchors.set(anchor, null);
    let located: Located;
    if (isMap(node)) located = this.#map(node.items as { key: Node | null; value: Node | null }[], place);
    else if (isSeq(node)) {
      located = {
        kind: 'list',
        place,
        items: node.items.map((item) => this.convert(item as Node | null, place)),
      };
    } else located = this.#scalar(node, place, fallbackPlace);
    const measured = this.#measured(located);
    if (anchor) this.#anchors.set(anchor, measured);
    return measured;
  }

  #alias(name: string, place: Place): Located {
    const target = this.#anchors.get(name);
    if (target) return target;
    this.#report(
      place,
      target === null ? `*${name} stands inside &${name} itself` : `there is no anchor &${name} above`,
    );
    return nothing(place);
  }

  #scalar(node: Node, place: Place, fallbackPlace: Place | undefined): Located {
    if (!isScalar(node)) return nothing(place);
    const { value } = node;
    const source = node.source ?? '';
    if (value === null && source === '') return nothing(fallbackPlace ?? place);
    const plain =
      typeof value === 'string' || typeof value === 'number' || typeof value === 'boolean' || value === null
        ? value
        : String(value);
    return {
      kind: 'scalar',
      place,
      value: plain,
      source: typeof plain === 'string' ? plain : source,
      expressionPlaces: typeof plain === 'string' ? this.#expressionPlaces(node, plain) : [],
      variables: [],
      isText: false,
      unresolved: false,
    };
  }

  /** Quoting and folding move text about, but an expression's opening survives both. */
  #expressionPlaces(node: Node, value: string): Place[] {
    if (!node.range || !value.includes('${')) return [];
    const [start, end] = node.range;
    const offsets = offsetsOf('${', this.#source.slice(start, end));
    if (offsets.length !== offsetsOf('${', value).length) return [];
    return offsets.map((offset) => this.#placeOf(start + offset));
  }

  #map(pairs: { key: Node | null; value: Node | null }[], place: Place): LocatedMap {
    const entries = new Map<string, Entry>();
    const merges: { place: Place; value: Located }[] = [];
    for (const { key, value } of pairs) {
      const keyPlace = key?.range ? this.#placeOf(key.range[0]) : place;
      const name = isScalar(key)
        ? typeof key.value === 'string'
          ? key.value
          : (key.source ?? '')
        : undefined;
      const located = this.convert(value, keyPlace);
      if (name === undefined || name === '') {
        this.#report(
          keyPlace,
          `found ${name === '' ? 'an empty key' : 'a key that is no plain word'}, expected a name`,
        );
      } else if (name === '<<') {
        merges.push({ place: keyPlace, value: located });
      } else {
        const first = entries.get(name);
        if (first) this.duplicates.push({ name, place: keyPlace, first: first.keyPlace, map: place });
        else entries.set(name, { keyPlace, value: located });
      }
    }
    for (const merge of merges) this.#merge(entries, merge);
    return { kind: 'map', place, entries };
  }

  /** The map's own keys win, then the earlier of several merged maps (yaml.org/type/merge.html). */
  #merge(entries: Map<string, Entry>, { place, value }: { place: Place; value: Located }): void {
    const sources = value.kind === 'list' ? value.items : [value];
    for (const source of sources) {
      if (source.kind !== 'map') {
        this.#report(
          place,
          '<< takes a map or a list of maps',
          'write <<: *name, where &name marks a map above',
        );
        return;
      }
      for (const [name, entry] of source.entries) if (!entries.has(name)) entries.set(name, entry);
    }
  }

  #measured(node: Located): Located {
    const sizeOf = (child: Located) => this.#sizes.get(child) ?? 1;
    let size = 1;
    if (node.kind === 'list') for (const item of node.items) size += sizeOf(item);
    if (node.kind === 'map') for (const { value } of node.entries.values()) size += sizeOf(value);
    if (size > maxValues) {
      this.#report(node.place, `found more than ${maxValues} values, aliases counted in full`);
      return nothing(node.place);
    }
    this.#sizes.set(node, size);
    return node;
  }

  #report(place: Place, message: string, hint?: string): void {
    this.problems.push({ ...place, message, hint });
  }
}

function nothing(place: Place): LocatedScalar {
  return { ...textScalar('', place), value: null, isText: false };
}

function offsetsOf(needle: string, text: string): number[] {
  const offsets: number[] = [];
  for (let at = text.indexOf(needle); at >= 0; at = text.indexOf(needle, at + needle.length))
    offsets.push(at);
  return offsets;
}
