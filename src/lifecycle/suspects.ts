/** Whose answer was dropped, where its id cannot be read: known as soon as no more calls are left than answers were dropped. */
export class Suspects<Call> {
  readonly #calls = new Set<Call>();
  #droppedAnswers = 0;

  /** An answer was dropped; it was for one of these. */
  add(calls: Iterable<Call>): void {
    for (const call of calls) this.#calls.add(call);
    this.#droppedAnswers += 1;
  }

  /** This one has ended otherwise. */
  acquit(call: Call): void {
    this.#calls.delete(call);
  }

  has(call: Call): boolean {
    return this.#calls.has(call);
  }

  get isEmpty(): boolean {
    return this.#calls.size === 0;
  }

  /** Those whose answers were dropped, once that is certain; they are suspects no more. */
  convict(): Call[] {
    if (this.#calls.size > this.#droppedAnswers) return [];
    const convicted = [...this.#calls];
    this.#calls.clear();
    this.#droppedAnswers = 0;
    return convicted;
  }

  clear(): void {
    this.#calls.clear();
  }
}
