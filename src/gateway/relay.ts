import { asGatewayError, GatewayError } from '../base/errors.ts';
import type { Entry } from '../catalog/snapshot.ts';
import type { FleetCallOptions } from '../lifecycle/fleet.ts';
import type { Outcome, OutgoingRequest } from '../lifecycle/lease.ts';
import type { Events, GatewayEvents } from '../observability/events.ts';
import { isObject, type Notification, type Params } from '../protocol/jsonrpc.ts';
import type { Stream } from './conversation.ts';
import { withExposedUris } from './exposed-uris.ts';
import type { GatewayCatalog, GatewayFleet, Scope } from './gateway.ts';
import { RisingProgress } from './rising-progress.ts';

/** Where a request of a client comes from, in either era. */
export interface Caller {
  readonly scope: Scope;
  /** Picks lists and instances where they are not shared. */
  readonly affinity: string | undefined;
  readonly stream: Stream;
  /** Aborts when nobody waits for the answer any more. */
  readonly signal: AbortSignal;
}

/** A client's request in the words of the server that it is for. */
export interface Target {
  readonly server: string;
  readonly request: OutgoingRequest;
  /** What clients call the thing that is asked for. */
  readonly name: string;
  /** What its server says of it, where a catalog lists it. */
  readonly entry?: Entry;
  /** What the client calls a URI of the server's; undefined: the same. */
  readonly expose?: (uri: string) => string;
}

/** Requests on their way to a server and back, for clients of both eras: names and URIs are rewritten, progress made to rise. */
export class Relay {
  readonly #catalog: GatewayCatalog;
  readonly #fleet: GatewayFleet;
  readonly #events: Events;

  constructor({ catalog, fleet, events }: { catalog: GatewayCatalog; fleet: GatewayFleet; events: Events }) {
    this.#catalog = catalog;
    this.#fleet = fleet;
    this.#events = events;
  }

  /** A tool or prompt by its name. Throws what the catalog's `resolve` throws. */
  async named(caller: Caller, method: 'tools/call' | 'prompts/get', params: Params): Promise<Target> {
    const { name } = params;
    if (typeof name !== 'string') throw missing(method, 'name');
    const { scope, affinity, signal } = caller;
    const kind = method === 'tools/call' ? 'tools' : 'prompts';
    const resolved = this.#catalog.resolve(kind, scope, name, signal, affinity);
    const { server, native, entry } = resolved instanceof Promise ? await resolved : resolved;
    return {
      server,
      request: { method, params: native === name ? params : { ...params, name: native } },
      name,
      entry,
      expose: this.#exposing(caller, server),
    };
  }

  /** A resource by its URI. Throws `resource_unknown`. */
  async resource(caller: Caller, method: string, params: Params): Promise<Target & { uri: string }> {
    const { uri } = params;
    if (typeof uri !== 'string') throw missing(method, 'uri');
    const { scope, affinity, signal } = caller;
    const { server, native } = await this.#catalog.routeResource(scope, uri, signal, affinity);
    const expose = this.#exposing(caller, server);
    return {
      server,
      request: { method, params: native === uri ? params : { ...params, uri: native } },
      name: uri,
      uri: native,
      expose: expose && ((one) => (one === native ? uri : expose(one))),
    };
  }

  /** What a completion is for; undefined where its server has nothing to suggest and need not be woken. */
  async completion(caller: Caller, params: Params): Promise<Target | undefined> {
    const { scope, affinity, signal } = caller;
    const { ref } = params;
    const isPrompt = isObject(ref) && ref.type === 'ref/prompt' && typeof ref.name === 'string';
    const isResource = isObject(ref) && ref.type === 'ref/resource' && typeof ref.uri === 'string';
    if (!isPrompt && !isResource) {
      throw new GatewayError(
        'invalid_params',
        'completion/complete: expected ref to name a prompt or a resource.',
        { hint: 'A ref is {type: "ref/prompt", name} or {type: "ref/resource", uri}.' },
      );
    }
    const { server, native } = isPrompt
      ? await this.#catalog.resolve('prompts', scope, String(ref.name), signal, affinity)
      : await this.#catalog.routeResource(scope, String(ref.uri), signal, affinity);
    const known = this.#catalog.known(server);
    if (known && !known.capabilities.completions) return undefined;
    const nativeRef = isPrompt ? { ...ref, name: native } : { ...ref, uri: native };
    return {
      server,
      request: { method: 'completion/complete', params: { ...params, ref: nativeRef } },
      name: native,
    };
  }

  /**
   * Lease, call, release; told to the event bus when it is over. Progress and log lines go to `options.onNotification`, in an order that
   * only rises, whatever the start of an instance has reported before.
   */
  async call(target: Target, options: FleetCallOptions, progress?: RisingProgress): Promise<Outcome> {
    const { expose, entry } = target;
    const outcome = await this.#measured(target, {
      ...options,
      isReplayable: entry !== undefined && isReplayable(entry),
      onWaiting: progress && ((text) => progress.wait(text)),
      onNotification:
        progress && options.onNotification
          ? (notification) => options.onNotification!(risen(notification, progress))
          : options.onNotification,
    });
    if ('error' in outcome || !expose) return outcome;
    const result = withExposedUris(outcome.result, expose);
    return result === outcome.result ? outcome : { ...outcome, result };
  }

  /** The progress of a request that asked for it. */
  progressOf(params: Params | undefined, stream: Stream): RisingProgress | undefined {
    const meta = params?._meta;
    const token = isObject(meta) ? meta.progressToken : undefined;
    return token === undefined ? undefined : new RisingProgress(token, stream);
  }

  #exposing({ scope, affinity }: Caller, server: string): Target['expose'] {
    return scope === undefined ? (uri) => this.#catalog.exposeUri(scope, server, uri, affinity) : undefined;
  }

  async #measured({ server, request, name }: Target, options: FleetCallOptions): Promise<Outcome> {
    const { method } = request;
    const startedAtMs = performance.now();
    let outcome: GatewayEvents['call.finished']['outcome'] = 'error';
    let code: string | undefined;
    try {
      const answer = await this.#fleet.call(server, request, options);
      if ('error' in answer) code = String(answer.error.code);
      else if (answer.result.isError !== true) outcome = 'ok';
      return answer;
    } catch (thrown) {
      const error = asGatewayError(thrown, server);
      if (error.code === 'cancelled') outcome = 'cancelled';
      code = error.code;
      throw error;
    } finally {
      const durationMs = performance.now() - startedAtMs;
      this.#events.emit('call.finished', { server, method, name, outcome, code, durationMs });
    }
  }
}

function risen(notification: Notification, progress: RisingProgress): Notification {
  return notification.method === 'notifications/progress' ? progress.rise(notification) : notification;
}

/** Whether its server says that doing it twice does no harm. */
function isReplayable({ annotations }: Entry): boolean {
  return isObject(annotations) && (annotations.readOnlyHint === true || annotations.idempotentHint === true);
}

const missing = (method: string, param: string) =>
  new GatewayError('invalid_params', `${method}: expected params.${param} to be a string.`);
