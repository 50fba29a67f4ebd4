import type { Clock, Semaphore } from '../base/async.ts';
import { asGatewayError, GatewayError } from '../base/errors.ts';
import type { ServerConfig } from '../config/schema.ts';
import type { Instance, Prepared, PrepareProgress, Runtime, StartOptions } from '../runtimes/runtime.ts';
import type { Connection } from './connection.ts';
import { seconds } from './diagnosis.ts';

/*
 * From nothing to ready, in steps that each have their own bound: prepare (image), start (create to running), handshake. Ready means
 * that the server answered its handshake, never that time has passed.
 */

/** What every step of a start needs. */
export interface StartContext {
  server: ServerConfig;
  runtime: Runtime;
  clock: Clock;
  /** Ends the start. */
  signal: AbortSignal;
}

/** The host's bound on starts, or the part of it that is left for what nobody waits for. */
export type StartSlots = Pick<Semaphore, 'run'>;

/** Makes what the start needs. A build or pull ends at `timeouts.build`. */
export async function prepare(
  { server, runtime, clock, signal }: StartContext,
  onProgress?: (progress: PrepareProgress) => void,
): Promise<Prepared> {
  const limitMs = server.timeouts.buildMs;
  return bounded((inner) => runtime.prepare(server, { signal: inner, onProgress }), {
    limitMs,
    clock,
    signal,
    onTimeout: () =>
      new GatewayError(
        'build_failed',
        `What server ${server.name} runs from was not ready within ${seconds(limitMs)}`,
        { server: server.name, hint: `Build or pull it by hand, or raise timeouts.build of ${server.name}.` },
      ),
  }).catch((error) => Promise.reject(asGatewayError(error, server.name)));
}

/**
 * Starts an instance whose messages go to the connection. Only this step holds one of the host's `slots`: neither a long build nor a
 * server that is silent keeps others from starting.
 */
export async function start(
  context: StartContext,
  prepared: Prepared,
  options: {
    slots: StartSlots;
    connection: Connection;
    onSlot(): void;
    /** The start was given up; `cleared` resolves when the runtime has noticed and nothing is left. Never rejects. */
    onOverrun(cleared: Promise<void>): void;
  },
): Promise<Instance> {
  const { server, runtime, clock, signal } = context;
  const { slots, connection, onSlot, onOverrun } = options;
  const limitMs = server.timeouts.startMs;
  const work = (inner: AbortSignal) => {
    const startOptions: StartOptions = {
      signal: inner,
      onMessage: (message) => connection.receive(message),
      onNoise: (noise) => connection.noise(noise),
      onOverflow: (bytes, head) => connection.overflow(bytes, head),
    };
    return runtime.start(server, prepared, startOptions);
  };
  const onTimeout = () =>
    new GatewayError('start_timeout', `Server ${server.name} was not running within ${seconds(limitMs)}`, {
      server: server.name,
      hint: `See whether the engine is overloaded (mcp-gateway doctor), or raise timeouts.start of ${server.name}.`,
    });
  // What comes after nobody waits for it must not live on.
  const onLate = (late: Instance) => late.stop({ graceMs: 0 });
  try {
    return await slots.run(() => {
      onSlot();
      return bounded(work, { limitMs, clock, signal, onTimeout, onLate, onOverrun });
    }, signal);
  } catch (error) {
    throw asGatewayError(error, server.name);
  }
}

/**
 * Gives the instance to the connection and waits for its first answer: `ask` puts the question. Rejects with GatewayError when the
 * answer does not come, is an error, or the server ends.
 */
export async function becomeReady<T>(
  { server, signal }: StartContext,
  instance: Instance,
  connection: Connection,
  ask: () => Promise<T>,
): Promise<T> {
  const abort = () => connection.close(asGatewayError(signal.reason, server.name));
  if (signal.aborted) abort();
  signal.addEventListener('abort', abort, { once: true });
  // No wait between the two, or the end of an instance that is gone already would find nobody to tell.
  connection.attach(instance);
  try {
    return await ask();
  } catch (error) {
    throw signal.aborted ? asGatewayError(signal.reason, server.name) : asGatewayError(error, server.name);
  } finally {
    signal.removeEventListener('abort', abort);
  }
}

interface Bounds<T> {
  limitMs: number;
  clock: Clock;
  signal: AbortSignal;
  onTimeout(): GatewayError;
  /** The work ended well after its time or after the abort. */
  onLate?(value: T): Promise<void>;
  /** The work was given up; `cleared` resolves when it has ended all the same. */
  onOverrun?(cleared: Promise<void>): void;
}

/** Work that is told to end, and left alone, when its time is over or the signal aborts. */
function bounded<T>(work: (signal: AbortSignal) => Promise<T>, bounds: Bounds<T>): Promise<T> {
  const { limitMs, clock, signal, onTimeout, onLate, onOverrun } = bounds;
  if (signal.aborted) return Promise.reject(signal.reason);
  const inner = new AbortController();
  return new Promise((resolve, reject) => {
    let isOver = false;
    const over = () => {
      isOver = true;
      cancelTimer();
      signal.removeEventListener('abort', onAbort);
    };
    const giveUp = (reason: unknown) => {
      over();
      inner.abort(reason);
      onOverrun?.(running.then((late) => onLate?.(late)).catch(() => {}));
      reject(reason);
    };
    const onAbort = () => giveUp(signal.reason);
    const cancelTimer = clock.schedule(() => giveUp(onTimeout()), limitMs);
    signal.addEventListener('abort', onAbort, { once: true });
    const running = work(inner.signal);
    running.then(
      (value) => {
        if (isOver) return;
        over();
        resolve(value);
      },
      (error) => {
        if (isOver) return;
        over();
        reject(error);
      },
    );
  });
}
