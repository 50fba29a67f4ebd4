import type { Clock } from '../base/async.ts';
import type { Outcome } from '../lifecycle/lease.ts';
import { type InputRequest, inputKeyOf, inputRequestOf } from '../protocol/bridge.ts';
import { isObject, type Params, type Request } from '../protocol/jsonrpc.ts';
import { capabilityLackingFor, declined, lacks } from '../protocol/legacy.ts';
import type { ClientContext } from '../protocol/modern.ts';
import type { Stream } from './conversation.ts';
import type { Target } from './relay.ts';
import type { RisingProgress } from './rising-progress.ts';

/** What a call has come to for now. */
export type Turn =
  | { outcome: Outcome }
  /** Its client must answer these before it can go on. */
  | { questions: Record<string, InputRequest> }
  /** Its server asked for something that the client cannot do; it was declined. */
  | { lacking: string };

/** The request of a modern client that works on the call at the moment: the first one, or a retry. */
export interface Visit {
  client: ClientContext;
  stream: Stream;
  progress: RisingProgress | undefined;
  signal: AbortSignal;
}

interface Question {
  request: Request;
  answer(outcome: Outcome): void;
}

/** Questions of one call that may be open at a time. */
const maxQuestions = 100;
/** What a server asks within this time is one round for its client. */
const gatherMs = 10;
/**
 * A server whose questions were declined may finish its call. A call that is cancelled is often never answered, and its instance not
 * trusted for a while.
 */
const finishGraceMs = 1000;

/**
 * A modern client's call at a legacy server. The server may ask in the middle of it; its client answers in a request of its own.
 * In between nobody visits the call, and it waits.
 */
export class OpenCall {
  readonly target: Target;
  readonly #abort: AbortController;
  readonly #clock: Clock;
  /** What the client has answered before it was asked. */
  readonly #given: Params;
  readonly #questions = new Map<string, Question>();
  /** When its client must have answered; to come back without an answer wins no time. */
  waitsUntilMs: number | undefined;
  #nextQuestion = 1;
  #visit: Visit | undefined;
  /** As the latest visit told it. */
  #capabilities: Params = {};
  #lacking: string | undefined;
  #ended: { outcome: Outcome } | { error: unknown } | undefined;
  #wake: (() => void) | undefined;

  /**
   * `abort` is that of the request that made the call: while the call waits for its client, nobody else aborts it. `given` are
   * answers that came with it, by the keys of questions to come.
   */
  constructor(target: Target, options: { abort: AbortController; clock: Clock; given: Params }) {
    this.target = target;
    this.#abort = options.abort;
    this.#clock = options.clock;
    this.#given = options.given;
  }

  /** Aborts when the call is given up. */
  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  get visit(): Visit | undefined {
    return this.#visit;
  }

  /** Takes what the call comes to. */
  follow(work: Promise<Outcome>): void {
    work.then(
      (outcome) => this.#end({ outcome }),
      (error) => this.#end({ error }),
    );
  }

  /** The client works on it; when it goes away, the call is over. Rejects with what the call was rejected with. */
  async turn(visit: Visit): Promise<Turn> {
    const { signal } = visit;
    const isFirst = signal === this.signal;
    const onGone = () => this.giveUp(signal.reason);
    this.#visit = visit;
    this.#capabilities = visit.client.capabilities;
    if (!isFirst) signal.addEventListener('abort', onGone, { once: true });
    if (signal.aborted) onGone();
    try {
      while (!this.#hasNews) {
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
      }
      return this.#news();
    } finally {
      this.#wake = undefined;
      this.#visit = undefined;
      if (!isFirst) signal.removeEventListener('abort', onGone);
    }
  }

  /** A question of the server. Resolves with the client's answer, or a decline: of what it cannot do, or as no more calls `mayWait`. */
  ask(request: Request, signal: AbortSignal, mayWait: boolean): Promise<Outcome> {
    const lacking = capabilityLackingFor(request, this.#capabilities);
    if (lacking !== undefined) {
      this.#lacking = lacking;
      this.#wake?.();
      return Promise.resolve(declined(request.method, lacks(lacking)));
    }
    if (!mayWait || this.#questions.size >= maxQuestions) {
      return Promise.resolve(declined(request.method, 'too many questions are open'));
    }
    const name = inputKeyOf(request);
    const given = name === undefined ? undefined : ownMember(this.#given, name);
    if (isObject(given)) {
      delete this.#given[name!];
      return Promise.resolve({ result: given });
    }
    const key = name !== undefined && !this.#questions.has(name) ? name : this.#freeKey();
    return new Promise((resolve) => {
      const done = (outcome: Outcome) => {
        signal.removeEventListener('abort', onVoid);
        this.#questions.delete(key);
        resolve(outcome);
      };
      const onVoid = () => done(declined(request.method, 'it was withdrawn'));
      signal.addEventListener('abort', onVoid, { once: true });
      this.#questions.set(key, { request, answer: done });
      // What the server asks in one breath is answered in one round.
      this.#clock.schedule(() => this.#wake?.(), gatherMs);
    });
  }

  /** Gives the server what the client has answered; anything else in `responses` is ignored, as the specification asks. */
  answer(responses: Params): void {
    for (const [key, question] of [...this.#questions]) {
      const response = ownMember(responses, key);
      if (!isObject(response)) continue;
      question.answer({ result: response });
      this.waitsUntilMs = undefined;
    }
  }

  /** Nobody will come back for it: its questions are declined, and it is cancelled if it does not end by that. */
  abandon(reason: string): void {
    for (const { request, answer } of [...this.#questions.values()]) {
      answer(declined(request.method, 'the client did not answer'));
    }
    this.endSoon(reason);
  }

  /** Nobody waits for it any more. Its server may finish it by itself, if that is soon. */
  endSoon(reason: string): void {
    this.#clock.schedule(() => {
      if (!this.#ended) this.giveUp(reason);
    }, finishGraceMs);
  }

  /** It is over. */
  giveUp(reason: unknown): void {
    this.#abort.abort(reason);
  }

  /** A key that no question has; servers may have named theirs in the same way. */
  #freeKey(): string {
    for (;;) {
      const key = `question-${this.#nextQuestion++}`;
      if (!this.#questions.has(key)) return key;
    }
  }

  get #hasNews(): boolean {
    return this.#ended !== undefined || this.#lacking !== undefined || this.#questions.size > 0;
  }

  #news(): Turn {
    if (this.#lacking !== undefined) return { lacking: this.#lacking };
    const ended = this.#ended;
    if (ended && 'error' in ended) throw ended.error;
    if (ended) return ended;
    const questions = [...this.#questions].map(([key, { request }]) => [key, inputRequestOf(request)]);
    return { questions: Object.fromEntries(questions) };
  }

  #end(ended: { outcome: Outcome } | { error: unknown }): void {
    this.#ended = ended;
    this.#wake?.();
  }
}

/** What is in an object itself: names are others' choice, and `constructor` may be one. */
const ownMember = (object: Params, name: string): unknown =>
  Object.hasOwn(object, name) ? object[name] : undefined;
