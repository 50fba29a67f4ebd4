// biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for.
const terminalSequence = /\u001b(?:\[[0-?]*[ -/]*[@-~]|\][^\u0007\u001b]*(?:\u0007|\u001b\\)|[@-Z\\-_])/g;
// Beside the control characters: line separators and the marks that reorder what a reader sees.
// biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for.
const unsafeCharacter = /[\u0000-\u001f\u007f-\u009f\u2028\u2029\u202a-\u202e\u2066-\u2069]/g;

/**
 * Foreign text as one line that is safe in logs, errors and terminals: colours are dropped, other control characters
 * escaped (`\r`, `\u0007`), tabs become spaces, and at most `maxLength` characters remain.
 */
export function printable(text: string, maxLength = Number.POSITIVE_INFINITY): string {
  // The cut comes first so that the work is bounded; escaping may lengthen it, hence the second one.
  const bounded = text.length > maxLength * 4 ? text.slice(0, maxLength * 4) : text;
  const safe = bounded
    .replace(terminalSequence, '')
    .replace(unsafeCharacter, (character) =>
      character === '\t' ? ' ' : JSON.stringify(character).slice(1, -1),
    )
    .replace(/[\u007f-\u009f\u2028-\u202e\u2066-\u2069]/g, escapeCodeUnit);
  return safe.length > maxLength ? safe.slice(0, maxLength) : safe;
}

const escapeCodeUnit = (character: string) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`;
