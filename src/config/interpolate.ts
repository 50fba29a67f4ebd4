/** Where values come from. */
export interface Sources {
  variable(name: string): string | undefined;
  /** The file's text. Throws when it cannot be read, with a reason that is free of its content. */
  file(path: string): string;
}

/** An expression that has no value (`missing`), or is none (`malformed`). */
export interface Fault {
  kind: 'missing' | 'malformed';
  /** Where in the text it starts. */
  offset: number;
  /** As written. */
  expression: string;
  message: string;
  hint: string;
}

/** A text with its expressions replaced, as far as they have values. */
export interface Interpolated {
  text: string;
  /** The expressions that gave something, as written, without their defaults. */
  used: string[];
  faults: Fault[];
}

type Part =
  | string
  | { kind: 'variable'; name: string; fallback: Part[] | undefined; offset: number; expression: string }
  | { kind: 'file'; path: Part[]; offset: number; expression: string };

const known = 'write ${NAME}, ${NAME:-default} or ${file:path}; $${ stands for a plain ${';

/**
 * Replaces `${NAME}`, `${NAME:-default}` (unset or empty, as in a shell) and `${file:path}`; `$${` is a plain `${`.
 * Defaults and paths may hold expressions of their own. What was put in is not looked at again. Never throws.
 */
export function interpolate(text: string, sources: Sources): Interpolated {
  if (!text.includes('${')) return { text, used: [], faults: [] };
  const parser = new Parser(text);
  const parts = parser.parts(false);
  if (parser.fault) return { text, used: [], faults: [parser.fault] };
  const used: string[] = [];
  const faults: Fault[] = [];
  const evaluate = (list: Part[]): string => list.map(evaluateOne).join('');
  const evaluateOne = (part: Part): string => {
    if (typeof part === 'string') return part;
    const { offset, expression } = part;
    if (part.kind === 'variable') {
      const value = sources.variable(part.name);
      used.push(`\${${part.name}}`);
      if (part.fallback && !value) return evaluate(part.fallback);
      if (value !== undefined) return value;
      const hint = `set it in the environment or in .env beside the file, or give it a default: \${${part.name}:-…}`;
      faults.push({
        kind: 'missing',
        offset,
        expression,
        message: `the variable ${part.name} is not set`,
        hint,
      });
      return '';
    }
    const faultsBefore = faults.length;
    const path = evaluate(part.path);
    used.push(expression);
    if (faults.length > faultsBefore) return '';
    try {
      return sources.file(path).replace(/\r?\n$/, '');
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      const message = `the file of ${expression} cannot be read: ${reason}`;
      const hint = 'relative paths start at the folder of servers.yaml';
      faults.push({ kind: 'missing', offset, expression, message, hint });
      return '';
    }
  };
  const result = evaluate(parts);
  return faults.length > 0 ? { text, used, faults } : { text: result, used, faults };
}

class Parser {
  fault: Fault | undefined;
  readonly #text: string;
  #at = 0;

  constructor(text: string) {
    this.#text = text;
  }

  /** Up to the end, or up to the `}` that closes the expression around it. */
  parts(nested: boolean): Part[] {
    const parts: Part[] = [];
    let literal = '';
    while (this.#at < this.#text.length && !this.fault) {
      if (nested && this.#text[this.#at] === '}') break;
      if (this.#text.startsWith('$${', this.#at)) {
        literal += '${';
        this.#at += 3;
      } else if (this.#text.startsWith('${', this.#at)) {
        if (literal) parts.push(literal);
        literal = '';
        const part = this.#expression();
        if (part) parts.push(part);
      } else {
        literal += this.#text[this.#at];
        this.#at += 1;
      }
    }
    if (literal) parts.push(literal);
    return parts;
  }

  #expression(): Part | undefined {
    const offset = this.#at;
    this.#at += 2;
    if (this.#text.startsWith('file:', this.#at)) {
      this.#at += 5;
      const path = this.parts(true);
      const expression = this.#close(offset);
      if (expression === undefined) return undefined;
      if (path.length > 0) return { kind: 'file', path, offset, expression };
      return this.#malformed(offset, `${expression} names no file`);
    }
    const name = /[A-Za-z_][A-Za-z0-9_]*/y;
    name.lastIndex = this.#at;
    const match = name.exec(this.#text)?.[0];
    if (match === undefined) return this.#malformed(offset, 'found ${ without a name after it');
    this.#at += match.length;
    let fallback: Part[] | undefined;
    if (this.#text.startsWith(':-', this.#at)) {
      this.#at += 2;
      fallback = this.parts(true);
    } else if (this.#at < this.#text.length && this.#text[this.#at] !== '}') {
      return this.#malformed(
        offset,
        `found ${JSON.stringify(this.#text[this.#at])} after \${${match}, expected } or :-`,
      );
    }
    const expression = this.#close(offset);
    if (expression === undefined) return undefined;
    return { kind: 'variable', name: match, fallback, offset, expression };
  }

  #close(offset: number): string | undefined {
    if (this.fault) return undefined;
    if (this.#text[this.#at] !== '}') return this.#malformed(offset, 'found ${ without its }');
    this.#at += 1;
    return this.#text.slice(offset, this.#at);
  }

  #malformed(offset: number, message: string): undefined {
    this.fault ??= { kind: 'malformed', offset, expression: '', message, hint: known };
    return undefined;
  }
}
