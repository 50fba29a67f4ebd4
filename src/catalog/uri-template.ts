/**
 * Tells which URIs a URI template can have been expanded to (RFC 6570, all levels). Works in time proportional to the
 * lengths of both: templates come from servers, and a regular expression made of one can be made to hang.
 */
export interface UriTemplate {
  matches(uri: string): boolean;
  /** Characters that stand as they are; of two templates that match, the longer one is meant. */
  readonly literalLength: number;
}

/** A piece that is either written out or filled in from characters that `accepts` takes. */
interface Part {
  literal: string;
  accepts?(character: string): boolean;
  optional: boolean;
}

// RFC 6570 section 3.2.2 has a simple expansion encode more than this; servers in the wild leave `:` and `@` as they are.
const isPathSegment = (character: string) => !'/?#'.includes(character);
const isPath = (character: string) => !'?#'.includes(character);
const isQuery = (character: string) => character !== '#';
const isAnything = () => true;

/** A template that is malformed matches nothing but its own text. */
export function parseUriTemplate(template: string): UriTemplate {
  const parts = template
    .split(/(\{[^{}]*\})/)
    .filter((text) => text !== '')
    .flatMap(parsePart);
  return {
    matches: (uri) => matches(parts, uri),
    literalLength: parts.reduce((sum, { literal, optional }) => sum + (optional ? 0 : literal.length), 0),
  };
}

function parsePart(text: string): Part[] {
  const expression = /^\{([+#./;?&]?)([A-Za-z0-9_.,%:*]+)\}$/.exec(text);
  if (!expression) return [{ literal: text, optional: false }];
  const explodes = expression[2]!.includes('*');
  switch (expression[1]) {
    case '+':
      return [filling(isAnything)];
    case '#':
      return [{ literal: '#', accepts: isAnything, optional: true }];
    case '.':
      return [{ literal: '.', accepts: isPathSegment, optional: true }];
    case '/':
      return [
        {
          literal: '/',
          accepts: explodes || expression[2]!.includes(',') ? isPath : isPathSegment,
          optional: true,
        },
      ];
    case ';':
      return [{ literal: ';', accepts: isPathSegment, optional: true }];
    case '?':
      return [{ literal: '?', accepts: isQuery, optional: true }];
    case '&':
      return [{ literal: '&', accepts: isQuery, optional: true }];
    default:
      return [filling(isPathSegment)];
  }
}

const filling = (accepts: (character: string) => boolean): Part => ({
  literal: '',
  accepts,
  optional: false,
});

/** Keeps every position that the parts so far can end at. */
function matches(parts: readonly Part[], uri: string): boolean {
  let ends = new Set([0]);
  for (const { literal, accepts, optional } of parts) {
    const next = new Set(optional ? ends : []);
    // A run that has been followed once need not be followed again from a later start.
    let followedTo = -1;
    for (const start of [...ends].sort((a, b) => a - b)) {
      if (!uri.startsWith(literal, start)) continue;
      let end = start + literal.length;
      if (!accepts) {
        next.add(end);
        continue;
      }
      if (end < followedTo) continue;
      // At least one character is filled in, as an undefined variable makes no address of anything.
      while (end < uri.length && accepts(uri[end]!)) next.add(++end);
      followedTo = end;
    }
    if (next.size === 0) return false;
    ends = next;
  }
  return ends.has(uri.length);
}
