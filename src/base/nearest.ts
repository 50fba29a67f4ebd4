import { distance } from 'fastest-levenshtein';

/** The candidate that a mistyped `word` most likely meant; undefined when none is close. Case does not count, nor `-` for `_`. */
export function nearest(word: string, candidates: Iterable<string>): string | undefined {
  const wanted = plain(word);
  let best: string | undefined;
  // One slip, and one more for every four letters: with more it is another word.
  let limit = Math.floor(wanted.length / 4) + 2;
  for (const candidate of candidates) {
    const other = plain(candidate);
    // Bounds the work: what differs so much in length is not compared letter by letter.
    if (Math.abs(wanted.length - other.length) >= limit) continue;
    const slips = distance(wanted, other);
    if (slips >= limit || slips >= other.length) continue;
    best = candidate;
    limit = slips;
  }
  return best;
}

const plain = (text: string) => text.toLowerCase().replaceAll('-', '_');
