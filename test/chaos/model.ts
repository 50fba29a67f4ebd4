import { errorCatalogue } from '../../src/base/errors.ts';
import { cast, namesOf } from './cast.ts';
import type { Breach, PromiseName } from './promises.ts';
import type { ServerName, Setup } from './schedule.ts';

// biome-ignore lint/suspicious/noExplicitAny: a test reads whatever came
type Any = any;

/** One request of a client, and what became of it. */
export interface Call {
  readonly client: number;
  readonly server: ServerName;
  readonly marker: string;
  /** For people. */
  readonly what: string;
  readonly startedMs: number;
  endedMs: number | undefined;
  /** Its client does not wait for its answer any more. */
  isGivenUp: boolean;
  /** It is there to ruin its server. */
  readonly isWreck: boolean;
}

export type Outcome =
  | { kind: 'result'; wrong: string | undefined }
  | { kind: 'error'; error: Any }
  /** The connection ended, or was refused, without an answer. */
  | { kind: 'dropped' }
  | { kind: 'silence' }
  /** The client went away first. */
  | { kind: 'givenUp' };

/** Something done on purpose, which calls of that time may feel. */
interface Fault {
  kind: 'kill' | 'freeze' | 'wreck' | 'gateway' | 'engine';
  /** undefined: all of them. */
  server: ServerName | undefined;
  fromMs: number;
  /** Infinity until it is over. */
  untilMs: number;
}

/** Until everybody has noticed what was done to an instance, on a busy machine. */
const noticeMs = 3000;
/** Until the gateway asks an engine again that was away. */
const engineBackMs = 12_000;
const died = ['instance_crashed', 'out_of_memory', 'start_failed', 'handshake_failed'];
const unreachable = [
  ...died,
  'engine_unreachable',
  'start_timeout',
  'handshake_timeout',
  'image_missing',
  'image_unusable',
  'network_missing',
  'runtime_unavailable',
  'discovery_failed',
  'server_failing',
  'queue_timeout',
];

/** What each client must see, given what was done: judges what came of every call, and gathers what was not as promised. */
export class Model {
  readonly breaches: Breach[] = [];
  readonly calls: Call[] = [];
  readonly #setup: Setup;
  readonly #names: ReadonlySet<ServerName>;
  readonly #faults: Fault[] = [];
  readonly #startedMs = performance.now();

  constructor(setup: Setup) {
    this.#setup = setup;
    this.#names = new Set(namesOf(setup));
  }

  breach(promise: PromiseName, what: string): void {
    // One wrong thing may show everywhere; the first ones tell what it is.
    if (this.breaches.length < 30)
      this.breaches.push({ promise, what, atMs: Math.round(performance.now() - this.#startedMs) });
  }

  /** To be called before it is done; the returned function, when it is over. */
  fault(kind: Fault['kind'], server?: ServerName): () => void {
    const fault: Fault = { kind, server, fromMs: performance.now(), untilMs: Number.POSITIVE_INFINITY };
    this.#faults.push(fault);
    return () => {
      fault.untilMs = performance.now();
    };
  }

  begin(call: Omit<Call, 'startedMs' | 'endedMs' | 'isGivenUp' | 'isWreck'> & { isWreck?: boolean }): Call {
    const began: Call = {
      isWreck: false,
      ...call,
      startedMs: performance.now(),
      endedMs: undefined,
      isGivenUp: false,
    };
    this.calls.push(began);
    return began;
  }

  end(call: Call, outcome: Outcome): void {
    call.endedMs = performance.now();
    const about = `client ${call.client}, ${call.what} ${call.marker} of ${call.server}`;
    if (outcome.kind === 'givenUp') return;
    if (outcome.kind === 'silence') this.breach('bounded', `${about}: no answer`);
    else if (outcome.kind === 'dropped') {
      if (!this.met(call, 'gateway'))
        this.breach('answeredOnce', `${about}: the connection ended without an answer`);
    } else if (outcome.kind === 'result') {
      // Who was away when it was asked could not be; and an answer of a gateway that ends may be cut short.
      if (outcome.wrong !== undefined && !call.isGivenUp)
        this.breach('eachItsOwn', `${about}: ${outcome.wrong}`);
    } else this.#judgeError(call, outcome.error, about);
  }

  /** Whether a fault of this kind came while the call ran, or so shortly before that it may have felt it. */
  met(
    call: Pick<Call, 'server' | 'startedMs'> & { endedMs?: number | undefined },
    ...kinds: Fault['kind'][]
  ): boolean {
    const endedMs = call.endedMs ?? performance.now();
    return this.#faults.some(
      ({ kind, server = call.server, fromMs, untilMs }) =>
        kinds.includes(kind) &&
        server === call.server &&
        fromMs <= endedMs &&
        untilMs + noticeMs >= call.startedMs,
    );
  }

  /** Whether such a fault came since then. */
  wasHit(server: ServerName, sinceMs: number, ...kinds: Fault['kind'][]): boolean {
    return this.met({ server, startedMs: sinceMs }, ...kinds);
  }

  get isGatewayAway(): boolean {
    return this.#faults.some(
      ({ kind, untilMs }) => kind === 'gateway' && untilMs === Number.POSITIVE_INFINITY,
    );
  }

  /** Whether anything was done to it that may have interrupted a reading of its lists: that is tried again. */
  wasHarmed(server: ServerName): boolean {
    return this.#hits(server, 0) > 0 || this.#wasRestarted;
  }

  /** Whether an instance of it was ruined on order: what else ran on it may be lost with it. */
  wasWrecked(server: ServerName): boolean {
    return this.#faults.some((fault) => fault.kind === 'wreck' && fault.server === server);
  }

  #judgeError(call: Call, error: Any, about: string): void {
    const code = error?.data?.code;
    const found = `${about}: ${JSON.stringify(error)?.slice(0, 600)}`;
    // What a modern server has given out may die with it, or be of another one of its instances.
    if (call.server === 'modern' && error?.code === -32602 && /requestState/.test(error.message)) return;
    if (!(code in errorCatalogue) || code === 'internal') {
      this.breach('answeredOnce', `an error that says nothing: ${found}`);
      return;
    }
    const isOfServer = [
      ...died,
      'flooded',
      'message_too_large',
      'server_failing',
      'handshake_timeout',
    ].includes(code);
    if (isOfServer && !String(error.message).includes(call.server))
      this.breach('crashIsAnAnswer', `the server is not named: ${found}`);
    if (!this.#isExplained(call, code))
      this.breach(this.#promiseOf(call, code), `nothing explains this: ${found}`);
  }

  #isExplained(call: Call, code: string): boolean {
    const { server } = call;
    if (this.met(call, 'gateway')) return true;
    if (cast[server].isHopeless)
      return [
        'start_failed',
        'handshake_timeout',
        'server_failing',
        'discovery_failed',
        'tool_unknown',
        'queue_full',
        'engine_unreachable',
      ].includes(code);
    if (
      this.met(call, 'wreck') &&
      ['flooded', 'message_too_large', 'call_timeout', ...died, 'server_failing'].includes(code)
    )
      return true;
    if (
      this.met({ ...call, startedMs: call.startedMs - engineBackMs }, 'engine') &&
      unreachable.includes(code)
    )
      return true;
    if (this.met(call, 'kill') && (died.includes(code) || code === 'state_refused')) return true;
    switch (code) {
      case 'server_failing':
        // Three failures in a row, each of another instance.
        return this.#hits(server, 0) >= 3;
      case 'discovery_failed':
      case 'start_failed':
        // A server that is not known yet is known to have failed until it is tried again.
        return (!this.#setup.waitsForLists || this.#wasRestarted) && this.#hits(server, 0) > 0;
      case 'queue_full':
        // The gateway’s own questions wait in the same line.
        return this.#beside(call) + 2 >= this.#setup.maxQueue;
      case 'cancelled':
        return call.isGivenUp;
      default:
        return false;
    }
  }

  #promiseOf({ server }: Call, code: string): PromiseName {
    if (died.includes(code)) return 'neverStopUnderALease';
    if (['call_timeout', 'queue_timeout', 'queue_full', 'start_timeout', 'handshake_timeout'].includes(code))
      return 'bounded';
    const hasBadNeighbour = [...this.#names].some((name) => name !== server && cast[name].isHopeless);
    if (hasBadNeighbour || this.#faults.length > 0) return 'harmsNobody';
    return 'answeredOnce';
  }

  /** Calls of the same server at the same time; those that were given up may run on. */
  #beside(call: Call): number {
    const { server, startedMs, endedMs = performance.now() } = call;
    return this.calls.filter(
      (one) =>
        one !== call &&
        one.server === server &&
        one.startedMs <= endedMs &&
        (one.isGivenUp || (one.endedMs ?? endedMs) >= startedMs),
    ).length;
  }

  /** How often something was done to a server that may have cost it an instance. */
  #hits(server: ServerName, sinceMs: number): number {
    const isHit = (fault: Fault) =>
      ['kill', 'wreck', 'engine'].includes(fault.kind) &&
      (fault.server ?? server) === server &&
      fault.untilMs >= sinceMs;
    return this.#faults.filter(isHit).length;
  }

  get #wasRestarted(): boolean {
    return this.#faults.some(({ kind }) => kind === 'gateway');
  }
}
