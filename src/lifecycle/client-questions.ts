import type { Clock } from '../base/async.ts';
import type { ClientCapability } from '../config/schema.ts';
import {
  failure,
  type Id,
  idKey,
  type Message,
  type Notification,
  type Params,
  type Request,
  type Response,
  success,
} from '../protocol/jsonrpc.ts';
import type { CallOptions } from './lease.ts';

/** How a client is asked. */
export type Ask = NonNullable<CallOptions['onRequest']>;

/** A call whose client is being asked; its time stands still meanwhile. */
export interface AskedCall {
  questions: number;
}

export interface ClientQuestionsOptions {
  /** After this long a question is declined, unless its call says otherwise. */
  clientTimeoutMs: number;
  clock: Clock;
  /** Writes to the server. */
  tell(message: Message): void;
  /** The time of `call` goes on; undefined: that of all calls. */
  onAnswered(call: AskedCall | undefined): void;
}

/** Questions that may be open on one instance. */
const maxQuestions = 100;

const neededCapability: Record<string, ClientCapability | undefined> = {
  'sampling/createMessage': 'sampling',
  'elicitation/create': 'elicitation',
  'roots/list': 'roots',
};

const declaredAs: Record<ClientCapability, Params> = {
  sampling: { tools: {}, context: {} },
  elicitation: { form: {}, url: {} },
  roots: { listChanged: true },
};

/** What the client must be able to do for a question; undefined: it is none for a client. */
export function capabilityFor(method: string): ClientCapability | undefined {
  return neededCapability[method];
}

/** The `capabilities` of a handshake. */
export function declared(capabilities: readonly ClientCapability[]): Params {
  return Object.fromEntries(capabilities.map((capability) => [capability, declaredAs[capability]]));
}

/** What a server gets whose client cannot be asked, or did not answer. */
export function declined(id: Id, capability: ClientCapability): Response {
  if (capability === 'elicitation') return success(id, { action: 'decline' });
  if (capability === 'sampling') {
    return failure(id, { code: -1, message: 'The client declined the sampling request' });
  }
  return failure(id, { code: -32601, message: 'The client has no roots' });
}

interface Question {
  /** The call that it came with; undefined: only its session is known. */
  readonly call: AskedCall | undefined;
  readonly abort: AbortController;
  /** Ends it without an answer to the server; false when it has ended before. */
  end(): boolean;
}

/** Questions of one instance that wait for a client: each is answered once, declined in time, or withdrawn. */
export class ClientQuestions {
  readonly #options: ClientQuestionsOptions;
  readonly #open = new Map<string, Question>();
  #unattributed = 0;

  constructor(options: ClientQuestionsOptions) {
    this.#options = options;
  }

  /** Whether a question is open that may belong to any call of its session. */
  get concernAll(): boolean {
    return this.#unattributed > 0;
  }

  /** Asks the client of `call`, or the session whose call is not known; declines after `limitMs`, if that is given. */
  put(
    request: Request,
    capability: ClientCapability,
    call: AskedCall | undefined,
    ask: Ask,
    limitMs?: number,
  ): void {
    const { clientTimeoutMs, clock, tell, onAnswered } = this.#options;
    const { id } = request;
    const key = idKey(id);
    if (this.#open.size >= maxQuestions || this.#open.has(key)) {
      tell(failure(id, { code: -32000, message: 'Too many questions are open, or this id is in use' }));
      return;
    }
    const abort = new AbortController();
    const end = () => {
      if (this.#open.get(key) !== question) return false;
      this.#open.delete(key);
      cancelTimer();
      if (call) call.questions -= 1;
      else this.#unattributed -= 1;
      onAnswered(call);
      return true;
    };
    const question: Question = { call, abort, end };
    const cancelTimer = clock.schedule(() => {
      if (!end()) return;
      tell(declined(id, capability));
      abort.abort(new Error('The client did not answer in time'));
    }, limitMs ?? clientTimeoutMs);
    this.#open.set(key, question);
    if (call) call.questions += 1;
    else this.#unattributed += 1;

    const notify = (notification: Notification) => {
      if (this.#open.get(key) === question) tell(notification);
    };
    ask(request, abort.signal, notify).then(
      (outcome) => {
        if (end()) tell('error' in outcome ? failure(id, outcome.error) : success(id, outcome.result));
      },
      () => {
        if (end()) tell(declined(id, capability));
      },
    );
  }

  /** The server no longer wants to know. */
  withdraw(id: Id): void {
    const question = this.#open.get(idKey(id));
    if (question) drop(question, new Error('The server withdrew its question'));
  }

  /** The call is over, and so are its questions. */
  endOf(call: AskedCall): void {
    if (call.questions === 0) return;
    for (const question of [...this.#open.values()]) {
      if (question.call === call) drop(question, new Error('The call that asked is over'));
    }
  }

  endAll(reason: unknown): void {
    for (const question of [...this.#open.values()]) drop(question, reason);
  }
}

function drop(question: Question, reason: unknown): void {
  question.end();
  question.abort.abort(reason);
}
