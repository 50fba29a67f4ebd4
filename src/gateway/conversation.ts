import type { Session } from '../access/sessions.ts';
import type { Clock } from '../base/async.ts';
import type { Outcome } from '../lifecycle/lease.ts';
import {
  type Id,
  idKey,
  type Message,
  type Notification,
  type Params,
  type Request,
  type Response,
} from '../protocol/jsonrpc.ts';

/** One way to the client: the stream of a POST, or the GET stream. */
export interface Stream {
  /** False when the client cannot be reached by it (any more); nothing was sent then. Never throws. */
  send(message: Message): boolean;
  /**
   * Takes what may wait until its client comes back to this stream; false when it cannot. Not there where streams cannot be
   * come back to. Never throws.
   */
  keep?(message: Message): boolean;
  /** Ends it from this side; doing it twice is done once. */
  end(): void;
}

/** A question to the client that waits for its answer. */
interface Question {
  answer(outcome: Outcome): void;
  /** Tells the server something about it. */
  notify: ((notification: Notification) => void) | undefined;
  /** The server's own; the client has the question's id in its place, as two servers may choose the same. */
  progressToken: unknown;
}

/** A request of the client that is being worked on. */
export interface InFlight {
  readonly id: Id;
  readonly abort: AbortController;
}

/** Questions that may wait for one client at a time; one more is declined. */
const maxQuestions = 100;
/** Resources whose updates are kept for a client without a GET stream. */
const maxKeptUpdates = 100;

/**
 * What a session holds while the gateway runs: its streams, the calls in flight, the questions that its client has yet to
 * answer. Nothing in here is shared with another session.
 */
export class Conversation {
  readonly session: Session;
  readonly #clock: Clock;
  readonly #inFlight = new Set<InFlight>();
  readonly #questions = new Map<string, Question>();
  readonly #questionPrefix: string;
  #nextQuestion = 1;
  #listening: Stream | undefined;
  /** The GET stream that was closed last, as its client may come back to it. */
  #left: Stream | undefined;
  /**
   * What came while no GET stream was open, by what it says, so that a repetition takes no room. Only what tells the client
   * to look again is kept for whichever stream comes next (list_changed, resource updates), log lines are not: they were for
   * the moment.
   */
  readonly #kept = new Map<string, Notification>();

  constructor(session: Session, clock: Clock, randomPrefix: string) {
    this.session = session;
    this.#clock = clock;
    // Random, so that an answer to a question from before a restart cannot match another one.
    this.#questionPrefix = `gw-${randomPrefix}-`;
  }

  get affinity(): string {
    return this.session.id;
  }

  get scope(): string | undefined {
    return this.session.scope;
  }

  get inFlight(): number {
    return this.#inFlight.size;
  }

  /** Whether its GET stream is open. */
  get isListening(): boolean {
    return this.#listening !== undefined;
  }

  begin(id: Id): InFlight {
    const call: InFlight = { id, abort: new AbortController() };
    this.#inFlight.add(call);
    return call;
  }

  finish(call: InFlight): void {
    this.#inFlight.delete(call);
  }

  /**
   * The client's `notifications/cancelled`. An id that is not in flight is ignored: the answer may be on its way. Of a client that used
   * an id twice, both are.
   */
  cancel(id: Id, reason: unknown): void {
    const key = idKey(id);
    for (const call of this.#inFlight) if (idKey(call.id) === key) call.abort.abort(reason);
  }

  /** Makes `stream` the GET stream in place of an earlier one, and delivers what was kept. */
  listen(stream: Stream): void {
    const previous = this.#listening ?? this.#left;
    this.#listening = stream;
    this.#left = undefined;
    previous?.end();
    for (const [key, notification] of this.#kept) {
      if (!stream.send(notification)) return;
      this.#kept.delete(key);
    }
  }

  /** The GET stream was closed. */
  unlisten(stream: Stream): void {
    if (this.#listening !== stream) return;
    this.#listening = undefined;
    this.#left = stream;
  }

  /**
   * Sends on the GET stream. Without one, `keepAs` is the name under which the notification waits for the next; without a
   * name it is there for a client that comes back to the stream that it left, and for no other.
   */
  notify(notification: Notification, keepAs?: string): void {
    if (this.#listening?.send(notification)) return;
    if (keepAs === undefined) {
      (this.#listening ?? this.#left)?.keep?.(notification);
      return;
    }
    if (this.#kept.size >= maxKeptUpdates) this.#kept.delete(this.#kept.keys().next().value!);
    this.#kept.delete(keepAs);
    this.#kept.set(keepAs, notification);
  }

  /**
   * Asks the client, on `stream` while that is open or can be come back to, else on the open GET stream. Resolves with
   * undefined when the client cannot be reached, does not answer within `limitMs`, or the signal aborts; the client is told that the question is void then.
   */
  ask(
    request: Request,
    options: {
      stream: Stream;
      signal: AbortSignal;
      limitMs: number;
      notify?: (notification: Notification) => void;
    },
  ): Promise<Outcome | undefined> {
    const { stream, signal, limitMs } = options;
    if (signal.aborted || this.#questions.size >= maxQuestions) return Promise.resolve(undefined);
    const id = `${this.#questionPrefix}${this.#nextQuestion++}`;
    const meta = request.params?._meta as Params | undefined;
    const progressToken = meta?.progressToken;
    const params =
      progressToken === undefined
        ? request.params
        : { ...request.params, _meta: { ...meta, progressToken: id } };
    const message: Request = { ...request, id, ...(params && { params }) };
    const sent = stream.send(message) ? stream : this.#listening?.send(message) ? this.#listening : undefined;
    if (!sent) return Promise.resolve(undefined);
    return new Promise((resolve) => {
      const done = (outcome: Outcome | undefined) => {
        cancelTimer();
        signal.removeEventListener('abort', onAbort);
        this.#questions.delete(id);
        resolve(outcome);
      };
      const giveUp = (reason: string) => {
        sent.send({
          jsonrpc: '2.0',
          method: 'notifications/cancelled',
          params: { requestId: id, reason },
        });
        done(undefined);
      };
      const onAbort = () => giveUp('The call that asked is over');
      const cancelTimer = this.#clock.schedule(() => giveUp('No answer in time'), limitMs);
      signal.addEventListener('abort', onAbort, { once: true });
      this.#questions.set(id, {
        answer: done,
        notify: options.notify,
        progressToken,
      });
    });
  }

  /** The client's answer to one of our questions; one that nobody waits for is ignored. */
  answer(response: Response): void {
    if (typeof response.id !== 'string') return;
    this.#questions
      .get(response.id)
      ?.answer('error' in response ? { error: response.error } : { result: response.result });
  }

  /** Progress that the client makes on a question. */
  progress(notification: Notification): void {
    const { progressToken, ...progress } = notification.params ?? {};
    const question = typeof progressToken === 'string' ? this.#questions.get(progressToken) : undefined;
    if (question?.progressToken === undefined) return;
    question.notify?.({ ...notification, params: { ...progress, progressToken: question.progressToken } });
  }

  /** The session is over: its calls are cancelled, its questions void, its GET stream ended. */
  end(): void {
    for (const { abort } of this.#inFlight) abort.abort('The session has ended');
    for (const question of [...this.#questions.values()])
      question.answer({ error: { code: -32000, message: 'The session has ended' } });
    this.#listening?.end();
    this.#listening = undefined;
    this.#left = undefined;
    this.#kept.clear();
  }
}
