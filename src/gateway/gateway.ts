import { randomBytes } from 'node:crypto';
import type { Session, Sessions, Subscription } from '../access/sessions.ts';
import { type Clock, systemClock } from '../base/async.ts';
import { asGatewayError, GatewayError } from '../base/errors.ts';
import type { ListKind, Page, RefreshCause, Resolved, Route, Scope } from '../catalog/catalog.ts';
import type { Entry, Snapshot } from '../catalog/snapshot.ts';
import type { Config, ServerConfig } from '../config/schema.ts';
import type { FleetCallOptions } from '../lifecycle/fleet.ts';
import type { InstanceListener, Outcome, OutgoingRequest, Purpose } from '../lifecycle/lease.ts';
import type { Events, GatewayEvents } from '../observability/events.ts';
import { negotiate } from '../protocol/eras.ts';
import {
  type Failure,
  failure,
  type Id,
  isId,
  isObject,
  type Notification,
  type Params,
  type Request,
  type Response,
  success,
} from '../protocol/jsonrpc.ts';
import { capabilityLackingFor, declined, lacks } from '../protocol/legacy.ts';
import { isLogged, isLogLevel } from '../protocol/log-levels.ts';
import { Conversation, type Stream } from './conversation.ts';
import { withExposedUris } from './exposed-uris.ts';
import { errorObjectOf, failureOf } from './failure.ts';
import { instructionsOf } from './instructions.ts';
import { LevelCounts } from './level-counts.ts';
import { type ChangedList, Notifications } from './notifications.ts';

/** What the gateway needs of the catalog. A `session` counts where it has an instance of its own. */
export interface GatewayCatalog {
  /** Waits for servers that were never seen, as long as a list may wait. Throws `invalid_params` for a bad cursor. */
  page(kind: ListKind, scope: Scope, cursor?: string, signal?: AbortSignal, session?: string): Promise<Page>;
  /** Throws `tool_unknown` or `prompt_unknown`, or why its server cannot be known. */
  resolve(
    kind: 'tools' | 'prompts',
    scope: Scope,
    exposed: string,
    signal?: AbortSignal,
    session?: string,
  ): Resolved | Promise<Resolved>;
  /** Throws `resource_unknown`. */
  routeResource(scope: Scope, uri: string, signal?: AbortSignal, session?: string): Route | Promise<Route>;
  /** A URI that a server has given out, so that it leads back to that server. */
  exposeUri(scope: Scope, server: string, uri: string, session?: string): string;
  /** Waits as a list does; throws why a server cannot be known. */
  about(server: string, signal?: AbortSignal): Promise<Snapshot>;
  /** At once; undefined while it is not known. */
  known(server: string): Snapshot | undefined;
  /** Has the lists of a server read again in the background. */
  refresh(server: string, cause: RefreshCause): Promise<void>;
  learnInteractive(server: string): void;
  /** What a session's own instance offers, for this session's lists only. */
  setSessionSnapshot(session: string, server: string, snapshot: Snapshot): void;
  endSession(session: string): void;
}

/** What the gateway needs of the fleet. */
export interface GatewayFleet {
  call(server: string, request: OutgoingRequest, options: FleetCallOptions): Promise<Outcome>;
  /** Tells the running instances of a session; starts none. */
  notifySession(affinity: string, notification: { method: string; params?: Params }): void;
  /** Kept for later instances too; starts none. `affinity` undefined: of the shared instances. */
  setLogLevel(server: string, affinity: string | undefined, level: string | undefined): void;
  /** Kept for later instances too; an instance is told when the last session loses interest. */
  rememberSubscription(server: string, affinity: string, uri: string, on: boolean): void;
  endSession(affinity: string): void;
}

export interface GatewayOptions {
  config: Config;
  catalog: GatewayCatalog;
  fleet: GatewayFleet;
  sessions: Sessions;
  /** Reads every list of a session's own instance. */
  readSnapshot(server: string, affinity: string): Promise<Snapshot | undefined>;
  events: Events;
  version: string;
  clock?: Clock;
}

/** One request of a client while it is worked on. */
interface Call {
  conversation: Conversation;
  stream: Stream;
  signal: AbortSignal;
}

/** A result that is kept as text, so that lists are not written anew for each client. */
interface Prepared {
  id: Id;
  resultJson: string;
}

/** The answer to a request. */
export type Reply = Response | Prepared;

export type { Scope } from '../catalog/catalog.ts';

type Handler = (call: Call, params: Params) => Answer | Promise<Answer>;
type Answer = Outcome | { resultJson: string };

/** Requests of one session that may be worked on at a time. */
const maxInFlight = 1000;
/** Characters of what a client says of itself; it is kept as long as the session. */
const maxIdentityLength = 65_536;
/** Resources that one session may watch, and the characters of their URIs. */
const maxSubscriptions = 1000;
const maxUriLength = 8192;
const empty: Outcome = { result: {} };

/**
 * One message in, replies out, whatever carries them. Speaks the legacy era: every message belongs to a session. What passes
 * through keeps its shape; only names, URIs, ids and progress are rewritten.
 */
export class Gateway implements InstanceListener {
  readonly #config: Config;
  readonly #catalog: GatewayCatalog;
  readonly #fleet: GatewayFleet;
  readonly #sessions: Sessions;
  readonly #readSnapshot: GatewayOptions['readSnapshot'];
  readonly #events: Events;
  readonly #version: string;
  readonly #clock: Clock;
  /** By session id. */
  readonly #conversations = new Map<string, Conversation>();
  readonly #notifications: Notifications;
  readonly #levels = new LevelCounts();
  /** The level that a shared server was last told. */
  readonly #toldLevels = new Map<string, string>();
  readonly #methods: ReadonlyMap<string, Handler>;
  readonly #unsubscribeEvents: () => void;

  constructor(options: GatewayOptions) {
    this.#config = options.config;
    this.#catalog = options.catalog;
    this.#fleet = options.fleet;
    this.#sessions = options.sessions;
    this.#readSnapshot = options.readSnapshot;
    this.#events = options.events;
    this.#version = options.version;
    this.#clock = options.clock ?? systemClock;
    this.#notifications = new Notifications(this.#conversations, this.#clock);
    this.#sessions.observe({
      onOpen: (session) => this.#open(session),
      onEnd: (session) => this.#end(session),
    });
    this.#unsubscribeEvents = this.#events.on('catalog.changed', ({ server, lists }) =>
      this.#notifications.listsChanged(server, lists),
    );
    this.#methods = new Map<string, Handler>([
      ['ping', () => empty],
      ['tools/list', (call, params) => this.#list(call, params, 'tools')],
      ['prompts/list', (call, params) => this.#list(call, params, 'prompts')],
      ['resources/list', (call, params) => this.#list(call, params, 'resources')],
      ['resources/templates/list', (call, params) => this.#list(call, params, 'resourceTemplates')],
      ['tools/call', (call, params) => this.#callNamed(call, params, 'tools/call', 'tools')],
      ['prompts/get', (call, params) => this.#callNamed(call, params, 'prompts/get', 'prompts')],
      ['resources/read', (call, params) => this.#readResource(call, params)],
      ['resources/subscribe', (call, params) => this.#subscribe(call, params)],
      ['resources/unsubscribe', (call, params) => this.#unsubscribe(call, params)],
      ['completion/complete', (call, params) => this.#complete(call, params)],
      ['logging/setLevel', (call, params) => this.#setLevel(call, params)],
    ]);
  }

  /** Answers `initialize`; the session is there unless the answer is an error. */
  async initialize(
    request: Request,
    scope: Scope,
    principal?: string,
  ): Promise<{ response: Response; session?: Session }> {
    const { protocolVersion, capabilities, clientInfo } = request.params ?? {};
    try {
      if (JSON.stringify([capabilities, clientInfo]).length > maxIdentityLength) {
        throw new GatewayError(
          'invalid_params',
          `capabilities and clientInfo are longer than ${maxIdentityLength} characters.`,
        );
      }
      const version = negotiate(protocolVersion);
      const about = scope === undefined ? this.#aboutGateway() : await this.#aboutServer(scope);
      const session = await this.#sessions.begin(
        {
          protocolVersion: version,
          capabilities: isObject(capabilities) ? capabilities : {},
          clientInfo: isObject(clientInfo) ? clientInfo : {},
        },
        scope,
        principal,
      );
      return { response: success(request.id, { protocolVersion: version, ...about }), session };
    } catch (error) {
      return { response: failureOf(request.id, error) };
    }
  }

  /**
   * Answers a request. What comes before its answer goes out on `stream`. Resolves with undefined when the client has
   * cancelled it: then there is nothing to answer. Never rejects.
   */
  async request(session: Session, request: Request, stream: Stream): Promise<Reply | undefined> {
    const handler = this.#methods.get(request.method);
    if (!handler) return methodNotFound(request);
    const conversation = this.#conversationOf(session);
    if (conversation.inFlight >= maxInFlight) {
      return failureOf(
        request.id,
        new GatewayError('queue_full', `This session has ${maxInFlight} requests in flight.`, {
          hint: 'Wait for some of them to be answered.',
        }),
      );
    }
    const inFlight = conversation.begin(request.id);
    const release = this.#sessions.hold(session);
    const { signal } = inFlight.abort;
    try {
      const outcome = await handler({ conversation, stream, signal }, request.params ?? {});
      if (signal.aborted) return undefined;
      if ('resultJson' in outcome) return { id: request.id, resultJson: outcome.resultJson };
      return 'result' in outcome ? success(request.id, outcome.result) : failure(request.id, outcome.error);
    } catch (error) {
      return signal.aborted ? undefined : failureOf(request.id, error);
    } finally {
      conversation.finish(inFlight);
      release();
    }
  }

  /** Takes a client's notification; those that nobody needs are dropped. Never throws. */
  notification(session: Session, notification: Notification): void {
    const { method, params = {} } = notification;
    const conversation = this.#conversationOf(session);
    if (method === 'notifications/cancelled') {
      if (isId(params.requestId))
        conversation.cancel(params.requestId, params.reason ?? 'The client cancelled it');
    } else if (method === 'notifications/progress') {
      conversation.progress(notification);
    } else if (method === 'notifications/roots/list_changed') {
      // Instances that are gone need not be told: a new one asks anew.
      this.#fleet.notifySession(session.id, { method, params });
    }
  }

  /** Takes a client's answer to a server's question. */
  response(session: Session, response: Response): void {
    this.#conversationOf(session).answer(response);
  }

  /** Opens the session's GET stream, in place of an earlier one. The returned function says that it was closed. */
  listen(session: Session, stream: Stream): () => void {
    const conversation = this.#conversationOf(session);
    const release = this.#sessions.hold(session);
    conversation.listen(stream);
    return () => {
      conversation.unlisten(stream);
      release();
    };
  }

  /** Calls one server's tool for a caller without a session, by the name that the server's own endpoint shows. */
  async callTool(server: string, tool: string, args: Params, signal: AbortSignal): Promise<Outcome> {
    const { native, entry } = await this.#catalog.resolve('tools', server, tool, signal);
    const request = { method: 'tools/call', params: { name: native, arguments: args } };
    return this.#measured(server, request, tool, { signal, isReplayable: isReplayable(entry) });
  }

  close(): void {
    this.#unsubscribeEvents();
    this.#notifications.close();
    for (const conversation of this.#conversations.values()) conversation.end();
  }

  // Sessions

  #open(session: Session): void {
    const conversation = new Conversation(session, this.#clock, randomBytes(4).toString('base64url'));
    this.#conversations.set(session.id, conversation);
    this.#levels.add(session.scope, session.logLevel);
    this.#tellLevels(session);
    for (const subscription of session.subscriptions) {
      this.#notifications.subscribe(this.#feed(subscription.server, session), conversation, subscription);
      this.#fleet.rememberSubscription(subscription.server, session.id, subscription.uri, true);
    }
  }

  #end(session: Session): void {
    const conversation = this.#conversations.get(session.id);
    if (!conversation) return;
    this.#conversations.delete(session.id);
    conversation.end();
    this.#notifications.forget(conversation);
    for (const { server, uri } of session.subscriptions) {
      this.#notifications.unsubscribe(this.#feed(server, session), conversation, uri);
    }
    this.#levels.remove(session.scope, session.logLevel);
    this.#tellLevels(session);
    this.#catalog.endSession(session.id);
    this.#fleet.endSession(session.id);
  }

  #conversationOf(session: Session): Conversation {
    const conversation = this.#conversations.get(session.id);
    // It ended between its lookup and now.
    if (!conversation) throw new GatewayError('session_unknown', 'This session has ended.');
    return conversation;
  }

  // Handshake

  #aboutGateway(): Params {
    const instructions = instructionsOf(
      [...this.#config.servers.values()]
        .filter(({ enabled }) => enabled)
        .map(({ name }) => ({ server: name, text: this.#catalog.known(name)?.instructions })),
    );
    return {
      capabilities: {
        tools: { listChanged: true },
        resources: { subscribe: true, listChanged: true },
        prompts: { listChanged: true },
        completions: {},
        logging: {},
      },
      serverInfo: { name: 'mcp-gateway', title: 'MCP Gateway', version: this.#version },
      ...(instructions && { instructions }),
    };
  }

  async #aboutServer(server: string): Promise<Params> {
    const { capabilities, serverInfo, instructions } = await this.#catalog.about(server);
    // Task ids are not carried, so tasks are not promised.
    const { tasks: _, ...carried } = capabilities;
    for (const kind of ['tools', 'resources', 'prompts']) {
      // The catalog announces what it finds changed, whether the server does or not.
      if (isObject(carried[kind])) carried[kind] = { ...carried[kind], listChanged: true };
    }
    return { capabilities: carried, serverInfo, ...(instructions !== undefined && { instructions }) };
  }

  // Requests

  async #list({ conversation, signal }: Call, params: Params, kind: ListKind): Promise<Answer> {
    const cursor = params.cursor ?? undefined;
    if (cursor !== undefined && typeof cursor !== 'string') {
      throw new GatewayError('invalid_params', 'Expected cursor to be a string.');
    }
    const { id, scope } = conversation.session;
    const page = await this.#catalog.page(kind, scope, cursor, signal, id);
    return { resultJson: page.json };
  }

  async #callNamed(call: Call, params: Params, method: string, kind: 'tools' | 'prompts'): Promise<Outcome> {
    const { name } = params;
    if (typeof name !== 'string') throw missing(method, 'name');
    const { id, scope } = call.conversation.session;
    const resolved = this.#catalog.resolve(kind, scope, name, call.signal, id);
    const { server, native, entry } = resolved instanceof Promise ? await resolved : resolved;
    const request = { method, params: native === name ? params : { ...params, name: native } };
    const outcome = await this.#forward(call, server, request, name, isReplayable(entry));
    if ('error' in outcome || scope !== undefined) return outcome;
    return {
      result: withExposedUris(outcome.result, (uri) => this.#catalog.exposeUri(scope, server, uri, id)),
    };
  }

  async #readResource(call: Call, params: Params): Promise<Outcome> {
    const { id, scope } = call.conversation.session;
    const { server, uri, exposed } = await this.#routed(call, params, 'resources/read');
    const outcome = await this.#forward(
      call,
      server,
      { method: 'resources/read', params: { ...params, uri } },
      exposed,
    );
    if ('error' in outcome || scope !== undefined) return outcome;
    const expose = (one: string) => (one === uri ? exposed : this.#catalog.exposeUri(scope, server, one, id));
    return { result: withExposedUris(outcome.result, expose) };
  }

  async #subscribe(call: Call, params: Params): Promise<Outcome> {
    const { conversation } = call;
    const { session } = conversation;
    const subscription = await this.#routed(call, params, 'resources/subscribe');
    const { server, uri, exposed } = subscription;
    const resources = this.#catalog.known(server)?.capabilities.resources;
    if (isObject(resources) && resources.subscribe !== true) {
      return {
        error: {
          code: -32601,
          message: `The server ${server} does not offer subscriptions to its resources.`,
        },
      };
    }
    if (exposed.length > maxUriLength || session.subscriptions.length >= maxSubscriptions) {
      throw new GatewayError(
        'invalid_params',
        `A session may watch ${maxSubscriptions} resources with URIs of at most ${maxUriLength} characters.`,
        { hint: 'Unsubscribe from some of them first.' },
      );
    }
    const feed = this.#feed(server, session);
    if (this.#notifications.isFirst(feed, uri)) {
      const request = { method: 'resources/subscribe', params: { ...params, uri } };
      const outcome = await this.#forward(call, server, request, exposed);
      if ('error' in outcome) return outcome;
    }
    if (session.ended) return empty;
    this.#notifications.subscribe(feed, conversation, subscription);
    this.#fleet.rememberSubscription(server, session.id, uri, true);
    if (!session.subscriptions.some((known) => known.server === server && known.uri === uri)) {
      session.subscriptions.push(subscription);
      this.#sessions.changed(session);
    }
    return empty;
  }

  async #unsubscribe(call: Call, params: Params): Promise<Outcome> {
    const { session } = call.conversation;
    const { server, uri } = await this.#routed(call, params, 'resources/unsubscribe');
    const index = session.subscriptions.findIndex((known) => known.server === server && known.uri === uri);
    if (index !== -1) {
      session.subscriptions.splice(index, 1);
      this.#sessions.changed(session);
    }
    this.#notifications.unsubscribe(this.#feed(server, session), call.conversation, uri);
    // The server is told when nobody is left, and need not be started for that.
    this.#fleet.rememberSubscription(server, session.id, uri, false);
    return empty;
  }

  async #complete(call: Call, params: Params): Promise<Outcome> {
    const { id, scope } = call.conversation.session;
    const { ref } = params;
    let target: Route;
    let nativeRef: Params;
    if (isObject(ref) && ref.type === 'ref/prompt' && typeof ref.name === 'string') {
      target = await this.#catalog.resolve('prompts', scope, ref.name, call.signal, id);
      nativeRef = { ...ref, name: target.native };
    } else if (isObject(ref) && ref.type === 'ref/resource' && typeof ref.uri === 'string') {
      target = await this.#catalog.routeResource(scope, ref.uri, call.signal, id);
      nativeRef = { ...ref, uri: target.native };
    } else {
      throw new GatewayError(
        'invalid_params',
        'completion/complete: expected ref to name a prompt or a resource.',
        {
          hint: 'A ref is {type: "ref/prompt", name} or {type: "ref/resource", uri}.',
        },
      );
    }
    const known = this.#catalog.known(target.server);
    // The gateway declares completions for all; a server without them has nothing to suggest and need not be woken.
    if (known && !known.capabilities.completions) {
      return { result: { completion: { values: [], total: 0, hasMore: false } } };
    }
    const request = { method: 'completion/complete', params: { ...params, ref: nativeRef } };
    return this.#forward(call, target.server, request, target.native);
  }

  #setLevel({ conversation }: Call, { level }: Params): Outcome {
    if (!isLogLevel(level)) {
      throw new GatewayError('invalid_params', `logging/setLevel: unknown level ${JSON.stringify(level)}.`, {
        hint: 'The levels are debug, info, notice, warning, error, critical, alert and emergency.',
      });
    }
    const { session } = conversation;
    this.#levels.remove(session.scope, session.logLevel);
    session.logLevel = level;
    this.#levels.add(session.scope, level);
    this.#sessions.changed(session);
    this.#tellLevels(session);
    return empty;
  }

  /** Tells each server in the session's scope what to log; the gateway filters per session what comes back. */
  #tellLevels(session: Session): void {
    const { scope } = session;
    const names = scope === undefined ? this.#config.servers.keys() : [scope];
    for (const server of names) {
      if (this.#serverNamed(server)?.isolation === 'session') {
        if (session.logLevel && !session.ended) this.#fleet.setLogLevel(server, session.id, session.logLevel);
        continue;
      }
      const level = this.#levels.lowestFor(server);
      if (level === this.#toldLevels.get(server)) continue;
      if (level === undefined) this.#toldLevels.delete(server);
      else this.#toldLevels.set(server, level);
      this.#fleet.setLogLevel(server, undefined, level);
    }
  }

  async #routed(call: Call, params: Params, method: string): Promise<Subscription> {
    const { uri } = params;
    if (typeof uri !== 'string') throw missing(method, 'uri');
    const { id, scope } = call.conversation.session;
    const { server, native } = await this.#catalog.routeResource(scope, uri, call.signal, id);
    return { server, uri: native, exposed: uri };
  }

  // The way to a server and back

  async #forward(
    call: Call,
    server: string,
    request: OutgoingRequest,
    name: string,
    isReplayable = false,
  ): Promise<Outcome> {
    const { conversation, stream, signal } = call;
    const { session } = conversation;
    const meta = request.params?._meta;
    const progressToken = isObject(meta) ? meta.progressToken : undefined;
    let booted = 0;
    const outcome = await this.#measured(server, request, name, {
      affinity: session.id,
      signal,
      isReplayable,
      onWaiting:
        progressToken === undefined
          ? undefined
          : (message) => {
              booted += 1;
              stream.send(progress({ progressToken, progress: booted, message }));
            },
      onNotification: (notification) => {
        const { method, params } = notification;
        if (method === 'notifications/progress') {
          stream.send(booted === 0 ? notification : shifted(notification, booted));
        } else if (method !== 'notifications/message' || isLogged(params?.level, session.logLevel)) {
          if (!stream.send(notification)) conversation.notify(notification);
        }
      },
      onRequest: (question, questionSignal, notify) =>
        this.#ask(server, conversation, stream, question, questionSignal, notify),
    });
    if ('error' in outcome && outcome.error.code === urlElicitationRequired) {
      this.#rememberElicitations(server, outcome.error.data, conversation);
    }
    return outcome;
  }

  /** A call of the fleet that is told to the event bus when it is over. */
  async #measured(
    server: string,
    request: OutgoingRequest,
    name: string,
    options: FleetCallOptions,
  ): Promise<Outcome> {
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

  /** Puts a server's question to the client, or declines it where the client cannot be asked. */
  async #ask(
    server: string,
    conversation: Conversation,
    stream: Stream,
    question: Request,
    signal: AbortSignal,
    notify?: (notification: Notification) => void,
  ): Promise<Outcome> {
    const lacking = capabilityLackingFor(question, conversation.session.client.capabilities);
    if (lacking !== undefined) return declined(question.method, lacks(lacking));
    if (question.method === 'elicitation/create' && question.params?.mode === 'url') {
      this.#notifications.rememberElicitation(server, question.params.elicitationId, conversation);
    }
    const limitMs = this.#serverNamed(server)?.timeouts.clientMs ?? 300_000;
    const answer = await conversation.ask(question, { stream, signal, limitMs, notify });
    return answer ?? declined(question.method, 'the client did not answer');
  }

  #rememberElicitations(server: string, data: unknown, conversation: Conversation): void {
    const elicitations = isObject(data) && Array.isArray(data.elicitations) ? data.elicitations : [];
    for (const elicitation of elicitations) {
      this.#notifications.rememberElicitation(server, elicitation?.elicitationId, conversation);
    }
  }

  // What instances say outside of any call (InstanceListener)

  onNotification(server: string, affinity: string | undefined, notification: Notification): void {
    const conversation = affinity === undefined ? undefined : this.#conversations.get(affinity);
    const { method } = notification;
    const list = changedLists.get(method);
    if (list) {
      if (affinity === undefined) this.#refresh(server, 'changed');
      else if (conversation) void this.#refreshFor(conversation, server, list);
    } else if (method === 'notifications/resources/updated') {
      this.#notifications.resourceUpdated(feedOf(server, affinity), notification);
    } else if (method === 'notifications/elicitation/complete') {
      this.#notifications.elicitationCompleted(server, notification);
    } else if (method === 'notifications/message') {
      if (conversation) this.#notifications.log(conversation, notification);
    } else if (conversation && method !== 'notifications/progress') {
      conversation.notify(notification);
    }
  }

  async onRequest(
    server: string,
    affinity: string,
    question: Request,
    signal: AbortSignal,
  ): Promise<Outcome> {
    const conversation = this.#conversations.get(affinity);
    if (!conversation) return declined(question.method, 'there is no client to ask');
    return this.#ask(server, conversation, noStream, question, signal);
  }

  onReady(server: string, affinity: string | undefined, startedFor: Purpose): void {
    // What was started to read the lists is being read already.
    if (affinity === undefined && startedFor === 'call') this.#refresh(server, 'started');
  }

  onAsked(server: string): void {
    this.#catalog.learnInteractive(server);
  }

  #refresh(server: string, cause: RefreshCause): void {
    // How it ended is in the catalog's status.
    this.#catalog.refresh(server, cause).catch(() => {});
  }

  /** A session's own instance has changed: so do this session's lists, and nobody else's. */
  async #refreshFor(conversation: Conversation, server: string, list: ChangedList): Promise<void> {
    const { session } = conversation;
    try {
      const snapshot = await this.#readSnapshot(server, session.id);
      if (snapshot && !session.ended) this.#catalog.setSessionSnapshot(session.id, server, snapshot);
    } catch {
      // It ended meanwhile, and its lists with it; the client is told all the same and asks again.
    }
    if (!session.ended) this.#notifications.listChangedFor(conversation, list);
  }

  #serverNamed(name: string): ServerConfig | undefined {
    return this.#config.servers.get(name);
  }

  #affinityOf(server: string, session: Session): string | undefined {
    return this.#serverNamed(server)?.isolation === 'session' ? session.id : undefined;
  }

  #feed(server: string, session: Session): string {
    return feedOf(server, this.#affinityOf(server, session));
  }
}

/** URLElicitationRequiredError (specification 2025-11-25, elicitation). */
const urlElicitationRequired = -32042;

const changedLists = new Map([
  ['notifications/tools/list_changed', 'tools'],
  ['notifications/resources/list_changed', 'resources'],
  ['notifications/prompts/list_changed', 'prompts'],
] as const) as ReadonlyMap<string, 'tools' | 'resources' | 'prompts'>;

/** For questions that no call has caused. */
const noStream: Stream = { send: () => false, end: () => {} };

const feedOf = (server: string, affinity: string | undefined) =>
  affinity === undefined ? server : `${server} ${affinity}`;

const progress = (params: Params): Notification => ({
  jsonrpc: '2.0',
  method: 'notifications/progress',
  params,
});

/** Whether its server says that doing it twice does no harm. */
function isReplayable({ annotations }: Entry): boolean {
  return isObject(annotations) && (annotations.readOnlyHint === true || annotations.idempotentHint === true);
}

/** A server's progress after `by` steps of boot progress, so that it goes on increasing. */
function shifted(notification: Notification, by: number): Notification {
  const { params = {} } = notification;
  // One more than the last step: a server may well begin at 0.
  const shift = (value: unknown) => (typeof value === 'number' ? value + by + 1 : value);
  const total = params.total === undefined ? {} : { total: shift(params.total) };
  return { ...notification, params: { ...params, progress: shift(params.progress), ...total } };
}

const missing = (method: string, param: string) =>
  new GatewayError('invalid_params', `${method}: expected params.${param} to be a string.`);

function methodNotFound({ id, method }: Request): Failure {
  return failure(id, { ...errorObjectOf(new GatewayError('method_unknown', `Method not found: ${method}`)) });
}
