import { randomBytes } from 'node:crypto';
import type { Session, Sessions } from '../access/sessions.ts';
import { type Clock, systemClock } from '../base/async.ts';
import { GatewayError } from '../base/errors.ts';
import type { ListKind, Page, RefreshCause, Resolved, Route, Scope } from '../catalog/catalog.ts';
import type { Entry, Snapshot } from '../catalog/snapshot.ts';
import type { Config, ServerConfig } from '../config/schema.ts';
import type { FleetCallOptions } from '../lifecycle/fleet.ts';
import {
  type InstanceListener,
  isSessionAffinity,
  type Outcome,
  type OutgoingRequest,
  type Purpose,
} from '../lifecycle/lease.ts';
import type { Events } from '../observability/events.ts';
import {
  clientContextOf,
  type InputRequest,
  inputRequired,
  legacyQuestion,
  legacyResult,
  retried,
  urlElicitationRequired,
} from '../protocol/bridge.ts';
import { eraOf, negotiate } from '../protocol/eras.ts';
import { type MirroredParam, mirroredParams } from '../protocol/headers.ts';
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
import { defaultLogLevel, isLogged, isLogLevel } from '../protocol/log-levels.ts';
import type { ClientContext } from '../protocol/modern.ts';
import { relatedTaskOf } from '../protocol/tasks.ts';
import { Conversation, type Stream } from './conversation.ts';
import { errorObjectOf, failureOf } from './failure.ts';
import { aboutGateway, aboutServer } from './introduction.ts';
import { affinityOf, ModernRequests, type Origin } from './modern-requests.ts';
import { type ChangedList, feedOf, Notifications } from './notifications.ts';
import { type Caller, Relay, type Target } from './relay.ts';
import type { RisingProgress } from './rising-progress.ts';
import { Tasks } from './tasks.ts';
import { ToldLevels } from './told-levels.ts';

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
  /** Its own instance is gone; false when nothing was set. */
  dropSessionSnapshot(session: string, server: string): boolean;
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
  rememberSubscription(server: string, affinity: string | undefined, uri: string, on: boolean): void;
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
  /** Signs what modern clients bring back. */
  key: Uint8Array;
  version: string;
  clock?: Clock;
}

/** One request of a client while it is worked on. */
interface Call extends Caller {
  readonly conversation: Conversation;
}

/** A result that is kept as JSON, so that lists are not written anew for each client. */
interface Prepared {
  id: Id;
  resultJson: Buffer;
}

/** The answer to a request. */
export type Reply = Response | Prepared;

export type { Scope } from '../catalog/catalog.ts';
export type { Origin } from './modern-requests.ts';

type Handler = (call: Call, params: Params) => Answer | Promise<Answer>;
type Answer = Outcome | { resultJson: Buffer };

/** Requests of one session that may be worked on at a time. */
const maxInFlight = 1000;
/** Characters of what a client says of itself; it is kept as long as the session. */
const maxIdentityLength = 65_536;
/** Resources that one session may watch, and the characters of their URIs. */
const maxSubscriptions = 1000;
const maxUriLength = 8192;
const empty: Outcome = { result: {} };

/** Rounds of questions in one call of a modern server, beyond any real one. */
const maxRounds = 50;

/**
 * One message in, replies out, whatever carries them. Messages of the legacy era belong to a session and are worked on here, those of
 * the modern era stand for themselves (`ModernRequests`). What passes through keeps its shape; only names, URIs, ids and progress
 * are rewritten, and what one era says otherwise than the other.
 */
export class Gateway implements InstanceListener {
  readonly #config: Config;
  readonly #catalog: GatewayCatalog;
  readonly #fleet: GatewayFleet;
  readonly #sessions: Sessions;
  readonly #readSnapshot: GatewayOptions['readSnapshot'];
  readonly #version: string;
  readonly #clock: Clock;
  /** By session id. */
  readonly #conversations = new Map<string, Conversation>();
  readonly #relay: Relay;
  readonly #notifications: Notifications;
  readonly #levels: ToldLevels;
  readonly #tasks: Tasks;
  readonly #modern: ModernRequests;
  readonly #contexts = new WeakMap<Session, ClientContext>();
  readonly #mirrored = new WeakMap<Entry, readonly MirroredParam[]>();
  readonly #methods: ReadonlyMap<string, Handler>;
  readonly #unsubscribeEvents: () => void;

  constructor(options: GatewayOptions) {
    this.#config = options.config;
    this.#catalog = options.catalog;
    this.#fleet = options.fleet;
    this.#sessions = options.sessions;
    this.#readSnapshot = options.readSnapshot;
    this.#version = options.version;
    this.#clock = options.clock ?? systemClock;
    this.#relay = new Relay(options);
    this.#levels = new ToldLevels(options);
    this.#notifications = new Notifications(this.#clock);
    this.#tasks = new Tasks({
      clock: this.#clock,
      events: options.events,
      known: (server) => this.#catalog.known(server),
      notify: (owner, notification) => this.#tellOfTask(owner, notification),
    });
    this.#modern = new ModernRequests({
      ...options,
      relay: this.#relay,
      tasks: this.#tasks,
      notifications: this.#notifications,
      levels: this.#levels,
      clock: this.#clock,
    });
    this.#sessions.observe({
      onOpen: (session) => this.#open(session),
      onEnd: (session) => this.#end(session),
    });
    this.#unsubscribeEvents = options.events.on('catalog.changed', ({ server, lists }) =>
      this.#notifications.listsChanged(server, lists),
    );
    this.#methods = new Map<string, Handler>([
      ['ping', () => empty],
      ['tools/list', (call, params) => this.#list(call, params, 'tools')],
      ['prompts/list', (call, params) => this.#list(call, params, 'prompts')],
      ['resources/list', (call, params) => this.#list(call, params, 'resources')],
      ['resources/templates/list', (call, params) => this.#list(call, params, 'resourceTemplates')],
      ['tools/call', (call, params) => this.#callNamed(call, params, 'tools/call')],
      ['prompts/get', (call, params) => this.#callNamed(call, params, 'prompts/get')],
      ['resources/read', (call, params) => this.#readResource(call, params)],
      ['resources/subscribe', (call, params) => this.#subscribe(call, params)],
      ['resources/unsubscribe', (call, params) => this.#unsubscribe(call, params)],
      ['completion/complete', (call, params) => this.#complete(call, params)],
      ['logging/setLevel', (call, params) => this.#setLevel(call, params)],
      ['tasks/get', (call, params) => this.#askForTask(call, params, 'tasks/get')],
      ['tasks/result', (call, params) => this.#askForTask(call, params, 'tasks/result')],
      ['tasks/cancel', (call, params) => this.#askForTask(call, params, 'tasks/cancel')],
      ['tasks/list', (call, params) => this.#tasks.list(ownerOf(call), params.cursor)],
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
      const about =
        scope === undefined
          ? aboutGateway(this.#config, (server) => this.#catalog.known(server), this.#version, 'legacy')
          : aboutServer(await this.#catalog.about(scope), 'legacy');
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
      const { id: affinity, scope } = session;
      const call = { conversation, scope, affinity, stream, signal };
      const outcome = await handler(call, request.params ?? {});
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
    this.#tasks.reachable(session.id);
    return () => {
      conversation.unlisten(stream);
      release();
    };
  }

  /**
   * Answers a modern request; see `ModernRequests.answer`. `gone` is to be aborted when its client has gone, which cancels it.
   */
  modern(
    request: Request,
    origin: Origin,
    stream: Stream,
    gone: AbortController,
  ): Promise<Reply | undefined> {
    return this.#modern.answer(request, origin, stream, gone);
  }

  /** The parameters of a tool that modern clients over HTTP repeat in headers; none where there is no such tool. */
  mirroredParams(
    name: unknown,
    origin: Origin,
    signal: AbortSignal,
  ): readonly MirroredParam[] | Promise<readonly MirroredParam[]> {
    if (typeof name !== 'string') return [];
    const mirrored = ({ entry }: Resolved) => {
      let params = this.#mirrored.get(entry);
      if (!params) {
        params = mirroredParams(entry.inputSchema);
        this.#mirrored.set(entry, params);
      }
      return params;
    };
    try {
      const found = this.#catalog.resolve('tools', origin.scope, name, signal, affinityOf(origin));
      // What is wrong with the name is told by the call.
      return found instanceof Promise ? found.then(mirrored, () => []) : mirrored(found);
    } catch {
      return [];
    }
  }

  /** Ends the streams on which modern clients listen, and the tasks: their clients find another gateway when they come back. */
  endStreams(): void {
    this.#modern.endStreams();
    this.#tasks.close();
  }

  /** Calls one server's tool for a caller without a session, by the name that the server's own endpoint shows. */
  async callTool(server: string, tool: string, args: Params, signal: AbortSignal): Promise<Outcome> {
    const caller = { scope: server, affinity: undefined, stream: noStream, signal };
    const target = await this.#relay.named(caller, 'tools/call', { name: tool, arguments: args });
    const owner = { id: 'nobody', scope: server };
    return inLegacyForm(
      await this.#tasks.call({ owner, target, follows: undefined, signal }, (more) =>
        this.#relay.call(target, { signal, ...more }),
      ),
    );
  }

  close(): void {
    this.#unsubscribeEvents();
    this.#modern.close();
    this.#tasks.close();
    this.#notifications.close();
    for (const conversation of this.#conversations.values()) conversation.end();
  }

  // Sessions

  #open(session: Session): void {
    const conversation = new Conversation(session, this.#clock, randomBytes(4).toString('base64url'));
    this.#conversations.set(session.id, conversation);
    this.#notifications.add(conversation);
    this.#levels.open(session);
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
    this.#levels.close(session);
    this.#tasks.endOwner(session.id);
    this.#catalog.endSession(session.id);
    this.#fleet.endSession(session.id);
  }

  #conversationOf(session: Session): Conversation {
    const conversation = this.#conversations.get(session.id);
    // It ended between its lookup and now.
    if (!conversation) throw new GatewayError('session_unknown', 'This session has ended.');
    return conversation;
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

  async #callNamed(call: Call, params: Params, method: 'tools/call' | 'prompts/get'): Promise<Outcome> {
    return this.#forward(call, await this.#relay.named(call, method, params));
  }

  async #readResource(call: Call, params: Params): Promise<Outcome> {
    return this.#forward(call, await this.#relay.resource(call, 'resources/read', params));
  }

  async #subscribe(call: Call, params: Params): Promise<Outcome> {
    const { conversation } = call;
    const { session } = conversation;
    const target = await this.#relay.resource(call, 'resources/subscribe', params);
    const { server, uri, name: exposed } = target;
    const subscription = { server, uri, exposed };
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
      const outcome = await this.#forward(call, target);
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
    const { server, uri } = await this.#relay.resource(call, 'resources/unsubscribe', params);
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
    const target = await this.#relay.completion(call, params);
    // The gateway declares completions for all; a server without them has nothing to suggest.
    return target
      ? this.#forward(call, target)
      : { result: { completion: { values: [], total: 0, hasMore: false } } };
  }

  #setLevel({ conversation }: Call, { level }: Params): Outcome {
    if (!isLogLevel(level)) {
      throw new GatewayError('invalid_params', `logging/setLevel: unknown level ${JSON.stringify(level)}.`, {
        hint: 'The levels are debug, info, notice, warning, error, critical, alert and emergency.',
      });
    }
    const { session } = conversation;
    this.#levels.change(session, level);
    this.#sessions.changed(session);
    return empty;
  }

  // The way to a server and back

  async #forward(call: Call, target: Target): Promise<Outcome> {
    const { conversation, stream, signal } = call;
    const { session } = conversation;
    const { server } = target;
    const progress = this.#relay.progressOf(target.request.params, stream);
    const isTask = target.request.params?.task !== undefined;
    const options: FleetCallOptions = {
      affinity: session.id,
      signal,
      client: this.#contextOf(session),
      onNotification: (notification) => {
        const { method, params } = notification;
        if (method === 'notifications/progress') {
          // A task's goes on when the stream of its call is over.
          if (!stream.send(notification) && isTask) conversation.notify(notification);
        } else if (method !== 'notifications/message' || isLogged(params?.level, session.logLevel)) {
          if (!stream.send(notification)) conversation.notify(notification);
        }
      },
      onRequest: (question, questionSignal, notify) =>
        this.#ask(server, conversation, stream, question, questionSignal, notify),
    };
    const outcome = await this.#callAt(call, target, options, progress);
    if (outcome.era === 'modern') return this.#answered(call, target, outcome, options, progress);
    if ('error' in outcome && outcome.error.code === urlElicitationRequired) {
      this.#rememberElicitations(server, outcome.error.data, conversation);
    }
    return outcome;
  }

  /** A call, which its server may answer with a task where the client asks for one. */
  #callAt(
    call: Call,
    target: Target,
    options: FleetCallOptions,
    progress: RisingProgress | undefined,
  ): Promise<Outcome> {
    const { server, request } = target;
    const isTask = request.method === 'tools/call' && request.params?.task !== undefined;
    const known = isTask ? this.#catalog.known(server) : undefined;
    if (known && eraOf(known.protocolVersion) === 'modern') throw noTasks(target);
    const follows = isTask ? 'legacy' : undefined;
    return this.#tasks.call({ owner: ownerOf(call), target, follows, signal: call.signal }, (more) =>
      this.#relay.call(target, more ? { ...options, ...more } : options, progress),
    );
  }

  #askForTask(call: Call, params: Params, method: string): Promise<Outcome> {
    const { stream, signal } = call;
    const progress = this.#relay.progressOf(params, stream);
    return this.#tasks.ask(
      ownerOf(call),
      { method, params },
      {
        stream,
        signal,
        onNotification: (notification) => progress && stream.send(progress.rise(notification)),
      },
    );
  }

  /** What modern servers are told of a session's client. */
  #contextOf(session: Session): ClientContext {
    const logLevel = session.logLevel ?? defaultLogLevel;
    let context = this.#contexts.get(session);
    if (context?.logLevel !== logLevel) {
      context = clientContextOf(session.client, logLevel);
      this.#contexts.set(session, context);
    }
    return context;
  }

  /** A modern server's outcome for a legacy client: what the server wants to know is asked of it, and the request made again. */
  async #answered(
    call: Call,
    target: Target,
    first: Outcome,
    options: FleetCallOptions,
    progress: RisingProgress | undefined,
  ): Promise<Outcome> {
    let outcome = first;
    for (let round = 1; 'result' in outcome; round += 1) {
      const required = inputRequired(outcome.result);
      if (!required) break;
      if (round > maxRounds) throw endlessQuestions(target.server);
      const responses = await this.#gather(call, target.server, required.requests);
      if ('error' in responses) return responses;
      progress?.beginAgain();
      const { request } = target;
      const params = retried(request.params, responses.result, required.requestState);
      outcome = await this.#callAt(call, { ...target, request: { ...request, params } }, options, progress);
    }
    return inLegacyForm(outcome);
  }

  /** The client's answers by the server's keys; its error where it gives one, for which a modern server has no word. */
  async #gather(
    { conversation, stream, signal }: Call,
    server: string,
    requests: [key: string, request: InputRequest][],
  ): Promise<Outcome> {
    const answers = await Promise.all(
      requests.map(async ([key, request]): Promise<[string, Outcome]> => {
        const elicitationId = randomBytes(12).toString('base64url');
        const question = { jsonrpc: '2.0', id: key, ...legacyQuestion(request, elicitationId) } as const;
        return [key, await this.#ask(server, conversation, stream, question, signal)];
      }),
    );
    signal.throwIfAborted();
    const responses: Params = {};
    for (const [key, answer] of answers) {
      if ('error' in answer) return answer;
      responses[key] = answer.result;
    }
    return { result: responses };
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

  onNotification(
    server: string,
    affinity: string | undefined,
    notification: Notification,
    instance: string,
  ): void {
    const conversation = affinity === undefined ? undefined : this.#conversations.get(affinity);
    const { method } = notification;
    const list = changedLists.get(method);
    if (list) {
      if (affinity === undefined) this.#refresh(server, 'changed');
      else void this.#refreshFor(affinity, server, list);
    } else if (method === 'notifications/resources/updated') {
      this.#notifications.resourceUpdated(feedOf(server, affinity), notification);
    } else if (method === 'notifications/elicitation/complete') {
      this.#notifications.elicitationCompleted(server, notification);
    } else if (this.#tasks.told(instance, notification)) {
      return;
    } else if (method === 'notifications/message') {
      if (conversation) this.#notifications.log(conversation, notification);
    } else if (conversation && method !== 'notifications/progress') {
      conversation.notify(notification);
    }
  }

  async onRequest(
    server: string,
    affinity: string | undefined,
    question: Request,
    signal: AbortSignal,
    instance: string,
  ): Promise<Outcome> {
    if (relatedTaskOf(question.params) !== undefined) {
      const outcome = await this.#tasks.put(instance, question, signal, {
        isReachable: (owner) => this.#conversations.get(owner)?.isListening ?? false,
        by: (owner, stream, asked) => this.#askOwner(server, owner, stream, asked, signal),
      });
      if (outcome) return outcome;
    }
    const conversation = affinity === undefined ? undefined : this.#conversations.get(affinity);
    if (!conversation) return declined(question.method, 'there is no client to ask');
    return this.#ask(server, conversation, noStream, question, signal);
  }

  async #askOwner(
    server: string,
    owner: string,
    stream: Stream,
    question: Request,
    signal: AbortSignal,
  ): Promise<Outcome> {
    const conversation = this.#conversations.get(owner);
    if (!conversation) return declined(question.method, 'there is no client to ask');
    return this.#ask(server, conversation, stream, question, signal);
  }

  /** Tells a session of its task, on its GET stream. */
  #tellOfTask(owner: string, notification: Notification): void {
    const conversation = this.#conversations.get(owner);
    if (!conversation) return;
    if (notification.method === 'notifications/message') this.#notifications.log(conversation, notification);
    else conversation.notify(notification);
  }

  onReady(server: string, affinity: string | undefined, startedFor: Purpose): void {
    // What was started to read the lists is being read already.
    if (affinity === undefined && startedFor === 'call') this.#refresh(server, 'started');
  }

  onAsked(server: string): void {
    this.#catalog.learnInteractive(server);
  }

  onEnded(server: string, affinity: string): void {
    if (!this.#catalog.dropSessionSnapshot(affinity, server)) return;
    this.#notifications.listsChangedFor(affinity, server, ['tools', 'resources', 'prompts']);
  }

  #refresh(server: string, cause: RefreshCause): void {
    // How it ended is in the catalog's status.
    this.#catalog.refresh(server, cause).catch(() => {});
  }

  /** The instance of one session or client has changed: so do its lists, and nobody else's. */
  async #refreshFor(affinity: string, server: string, list: ChangedList): Promise<void> {
    try {
      const snapshot = await this.#readSnapshot(server, affinity);
      if (snapshot && this.#isAlive(affinity)) this.#catalog.setSessionSnapshot(affinity, server, snapshot);
    } catch {
      // It ended meanwhile, and its lists with it; the client is told all the same and asks again.
    }
    this.#notifications.listsChangedFor(affinity, server, [list]);
  }

  /** Modern clients have no end: their instances have. */
  #isAlive(affinity: string): boolean {
    return !isSessionAffinity(affinity) || this.#conversations.has(affinity);
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

const changedLists = new Map([
  ['notifications/tools/list_changed', 'tools'],
  ['notifications/resources/list_changed', 'resources'],
  ['notifications/prompts/list_changed', 'prompts'],
] as const) as ReadonlyMap<string, 'tools' | 'resources' | 'prompts'>;

/** A session's tasks are its own. */
const ownerOf = ({ conversation: { session } }: Call) => ({ id: session.id, scope: session.scope });

function noTasks({ server, name }: Target): GatewayError {
  return new GatewayError('method_unknown', `${name} does not run as a task for clients of this era`, {
    server,
    hint: 'Call it without params.task.',
  });
}

/** For questions that no call has caused. */
const noStream: Stream = { send: () => false, end: () => {} };

/** A modern server's outcome as a caller of the legacy era reads it. */
function inLegacyForm(outcome: Outcome): Outcome {
  return outcome.era === 'modern' && 'result' in outcome ? { result: legacyResult(outcome.result) } : outcome;
}

const endlessQuestions = (server: string) =>
  new GatewayError(
    'upstream_error',
    `Server ${server} asked ${maxRounds} times in one call and wants to know more`,
    {
      server,
      hint: 'The server’s author can mend that.',
    },
  );

function methodNotFound({ id, method }: Request): Failure {
  return failure(id, { ...errorObjectOf(new GatewayError('method_unknown', `Method not found: ${method}`)) });
}
