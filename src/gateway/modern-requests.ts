import { randomBytes } from 'node:crypto';
import { RequestStates, type StateBinding } from '../access/request-states.ts';
import type { Clock } from '../base/async.ts';
import { GatewayError } from '../base/errors.ts';
import type { ListKind, Page } from '../catalog/catalog.ts';
import type { Config, ServerConfig } from '../config/schema.ts';
import type { FleetCallOptions } from '../lifecycle/fleet.ts';
import { clientAffinity, type Outcome } from '../lifecycle/lease.ts';
import { type InputRequest, inputRequestsOfError, modernError, modernResult } from '../protocol/bridge.ts';
import { eraOf, legacyVersions, modernVersions } from '../protocol/eras.ts';
import { isObject, type Notification, type Params, type Request, success } from '../protocol/jsonrpc.ts';
import { isLogged } from '../protocol/log-levels.ts';
import { type ClientContext, contextOf, metaKeys, withoutContext } from '../protocol/modern.ts';
import { declaresTasks } from '../protocol/tasks.ts';
import type { Stream } from './conversation.ts';
import { failureOf } from './failure.ts';
import type { GatewayCatalog, GatewayFleet, Reply, Scope } from './gateway.ts';
import { aboutGateway, aboutServer, type Introduction } from './introduction.ts';
import { ListenStream, listFilters } from './listen-stream.ts';
import { type ChangedList, feedOf, type Notifications } from './notifications.ts';
import { OpenCall, type Turn, type Visit } from './open-call.ts';
import { ParkedCalls } from './parked-calls.ts';
import type { Caller, Relay, Target } from './relay.ts';
import { requireTasks, type TaskOwner, type Tasks } from './tasks.ts';
import type { ToldLevels } from './told-levels.ts';

/** Where a modern request comes from. */
export interface Origin {
  scope: Scope;
  principal: string;
  /** What the client calls itself, where it does; picks its instances of servers that are not shared. */
  client?: string;
}

/** Which instances and lists are this client's, where they are not shared; undefined: it does not say who it is. */
export const affinityOf = ({ client }: Origin) => (client === undefined ? undefined : clientAffinity(client));

export interface ModernRequestsOptions {
  config: Config;
  catalog: GatewayCatalog;
  fleet: GatewayFleet;
  relay: Relay;
  notifications: Notifications;
  tasks: Tasks;
  levels: ToldLevels;
  /** Signs what is given to clients to bring back. */
  key: Uint8Array;
  version: string;
  clock: Clock;
}

/** A request with what it says of its client. */
interface Asked extends Caller {
  readonly request: Request;
  readonly params: Params;
  readonly principal: string;
  readonly client: ClientContext;
  /** Aborts `signal`. */
  readonly gone: AbortController;
}

type Answer = Outcome | { resultJson: Buffer };
type Handler = (asked: Asked) => Answer | Promise<Answer>;

const maxSubscriptions = 1000;
const maxUriLength = 8192;
/** Tasks that one listen stream may be about. */
const maxListenedTasks = 1000;

/**
 * Requests of the modern era (specification 2026-07-28): each stands for itself, says what its client can do, and is over when its
 * client goes away. A legacy server's questions become rounds of `input_required`.
 */
export class ModernRequests {
  readonly #config: Config;
  readonly #catalog: GatewayCatalog;
  readonly #fleet: GatewayFleet;
  readonly #relay: Relay;
  readonly #notifications: Notifications;
  readonly #tasks: Tasks;
  readonly #levels: ToldLevels;
  readonly #states: RequestStates;
  readonly #parked: ParkedCalls;
  readonly #version: string;
  readonly #clock: Clock;
  readonly #methods: ReadonlyMap<string, Handler>;
  /** A page as this era has it, made once. */
  readonly #pages = new WeakMap<Page, Buffer>();
  readonly #listening = new Set<AbortController>();

  constructor(options: ModernRequestsOptions) {
    this.#config = options.config;
    this.#catalog = options.catalog;
    this.#fleet = options.fleet;
    this.#relay = options.relay;
    this.#notifications = options.notifications;
    this.#tasks = options.tasks;
    this.#levels = options.levels;
    this.#version = options.version;
    this.#clock = options.clock;
    this.#states = new RequestStates({ key: options.key, clock: options.clock });
    this.#parked = new ParkedCalls({ states: this.#states, clock: options.clock });
    this.#methods = new Map<string, Handler>([
      ['server/discover', (asked) => this.#discover(asked)],
      ['tools/list', (asked) => this.#list(asked, 'tools')],
      ['prompts/list', (asked) => this.#list(asked, 'prompts')],
      ['resources/list', (asked) => this.#list(asked, 'resources')],
      ['resources/templates/list', (asked) => this.#list(asked, 'resourceTemplates')],
      ['tools/call', (asked) => this.#ask(asked)],
      ['prompts/get', (asked) => this.#ask(asked)],
      ['resources/read', (asked) => this.#ask(asked)],
      ['completion/complete', (asked) => this.#complete(asked)],
      ['subscriptions/listen', (asked) => this.#listen(asked)],
      ['tasks/get', (asked) => this.#askForTask(asked, 'tasks/get')],
      ['tasks/update', (asked) => this.#askForTask(asked, 'tasks/update')],
      ['tasks/cancel', (asked) => this.#askForTask(asked, 'tasks/cancel')],
    ]);
  }

  /**
   * Answers a request; undefined when nobody waits for the answer any more. Rejects with GatewayError where the request is refused as
   * it stands: `metadata_invalid`, `version_unknown`, `state_refused`.
   */
  async answer(
    request: Request,
    origin: Origin,
    stream: Stream,
    gone: AbortController,
  ): Promise<Reply | undefined> {
    const { signal } = gone;
    const client = contextOf(request);
    const handler = this.#methods.get(request.method);
    if (!handler) {
      return failureOf(
        request.id,
        new GatewayError('method_unknown', `Method not found: ${request.method}`),
        'modern',
      );
    }
    const { scope, principal } = origin;
    const affinity = affinityOf(origin);
    const params = withoutContext(request.params!);
    try {
      const answer = await handler({
        request,
        params,
        scope,
        principal,
        affinity,
        client,
        stream,
        signal,
        gone,
      });
      if (signal.aborted) return undefined;
      if ('resultJson' in answer) return { id: request.id, resultJson: answer.resultJson };
      if ('result' in answer) return success(request.id, answer.result);
      return { jsonrpc: '2.0', id: request.id, error: answer.error };
    } catch (error) {
      if (error instanceof GatewayError && error.code === 'state_refused') throw error;
      return signal.aborted ? undefined : failureOf(request.id, error, 'modern');
    }
  }

  /**
   * Ends the listen streams, each with its answer: their clients listen again when the gateway is back. Calls that wait for their
   * clients end as well, because nobody can come back to them.
   */
  endStreams(): void {
    for (const listening of this.#listening) listening.abort();
    this.#parked.close();
  }

  close(): void {
    this.endStreams();
  }

  // What there is

  async #discover({ scope, signal }: Asked): Promise<Answer> {
    const { capabilities, serverInfo, instructions } = await this.#introduction(scope, signal);
    return {
      result: {
        resultType: 'complete',
        supportedVersions: [...modernVersions, ...[...legacyVersions].reverse()],
        capabilities,
        ...(instructions !== undefined && { instructions }),
        ttlMs: 0,
        cacheScope: 'private',
        _meta: { [metaKeys.serverInfo]: serverInfo },
      },
    };
  }

  async #introduction(scope: Scope, signal: AbortSignal): Promise<Introduction> {
    return scope === undefined
      ? aboutGateway(this.#config, (server) => this.#catalog.known(server), this.#version, 'modern')
      : aboutServer(await this.#catalog.about(scope, signal), 'modern');
  }

  async #list({ scope, params, signal, affinity }: Asked, kind: ListKind): Promise<Answer> {
    const { cursor } = params;
    if (cursor !== undefined && typeof cursor !== 'string') {
      throw new GatewayError('invalid_params', 'Expected cursor to be a string.');
    }
    const page = await this.#catalog.page(kind, scope, cursor, signal, affinity);
    let resultJson = this.#pages.get(page);
    if (resultJson === undefined) {
      const { ttlMs, cacheScope } = page.caching;
      const more = { resultType: 'complete', ttlMs, cacheScope, _meta: this.#serverInfo(scope) };
      resultJson = Buffer.concat([
        page.json.subarray(0, -1),
        Buffer.from(`,${JSON.stringify(more).slice(1)}`),
      ]);
      this.#pages.set(page, resultJson);
    }
    return { resultJson };
  }

  #serverInfo(scope: Scope): Params {
    const serverInfo =
      scope === undefined
        ? { name: 'mcp-gateway', title: 'MCP Gateway', version: this.#version }
        : this.#catalog.known(scope)?.serverInfo;
    return serverInfo === undefined ? {} : { [metaKeys.serverInfo]: serverInfo };
  }

  // Calls

  async #complete(asked: Asked): Promise<Answer> {
    const target = await this.#relay.completion(asked, asked.params);
    if (!target)
      return { result: { resultType: 'complete', completion: { values: [], total: 0, hasMore: false } } };
    return this.#answered(target, await this.#relay.call(target, this.#options(asked)));
  }

  /** A request that its server may answer with questions. */
  async #ask(asked: Asked): Promise<Answer> {
    const { requestState } = asked.params;
    if (this.#states.isOurs(requestState)) return this.#resume(asked, requestState);
    const target = await this.#targetOf(asked);
    const { server, request } = target;
    const known = this.#catalog.known(server);
    if (known && eraOf(known.protocolVersion) === 'modern') {
      return this.#askModern(asked, target);
    }
    if (requestState !== undefined) {
      // Only the gateway itself gives out states for a server that has none.
      await this.#states.verify(requestState, bindingOf(asked));
    }
    if (request.params!.inputResponses === undefined) return this.#begin(asked, target, {});
    const { inputResponses, ...params } = request.params!;
    const given = isObject(inputResponses) ? { ...inputResponses } : {};
    return this.#begin(asked, { ...target, request: { ...request, params } }, given);
  }

  /** A modern client's call at a modern server, which may answer with a task. */
  async #askModern(asked: Asked, target: Target): Promise<Answer> {
    const { client, signal } = asked;
    const progress = this.#relay.progressOf(asked.params, asked.stream);
    const follows = declaresTasks(client.capabilities) ? 'modern' : undefined;
    const prospect = { owner: ownerOf(asked), target, follows, client, signal } as const;
    const outcome = await this.#tasks.call(prospect, (more) =>
      this.#relay.call(target, { ...this.#options(asked), ...more }, progress),
    );
    return this.#answered(target, outcome);
  }

  #askForTask(asked: Asked, method: string): Promise<Outcome> {
    const { params, client, stream, signal } = asked;
    requireTasks(client, method);
    return this.#tasks.ask(ownerOf(asked), { method, params }, { client, stream, signal });
  }

  #targetOf(asked: Asked): Promise<Target> {
    const { params } = asked;
    const { method } = asked.request;
    if (method === 'resources/read') return this.#relay.resource(asked, method, params);
    return this.#relay.named(asked, method as 'tools/call' | 'prompts/get', params);
  }

  /** A modern client's call at a legacy server. */
  async #begin(asked: Asked, target: Target, given: Params): Promise<Answer> {
    const { server } = target;
    const call = new OpenCall(target, { abort: asked.gone, clock: this.#clock, given });
    const release = this.#levels.hold(server, asked.affinity, asked.client.logLevel);
    const turn = call.turn(this.#visitOf(asked));
    const work = this.#relay.call(withoutTask(target), {
      ...this.#options(asked),
      signal: call.signal,
      // Until then the call waits for its client; after it, it is cancelled, not answered.
      questionLimitMs: Number.POSITIVE_INFINITY,
      onWaiting: (text) => call.visit?.progress?.wait(text),
      onNotification: (notification) => deliver(call, notification),
      onRequest: (question, signal) => call.ask(question, signal, this.#parked.hasRoom),
    });
    call.follow(work);
    if (release) {
      work.then(
        () => release(false),
        () => release(true),
      );
    }
    return this.#taken(asked, call, await turn);
  }

  #visitOf({ client, stream, signal, params }: Asked): Visit {
    return { client, stream, signal, progress: this.#relay.progressOf(params, stream) };
  }

  /** A client comes back with what its call waits for. */
  async #resume(asked: Asked, state: string): Promise<Answer> {
    const { inputResponses, requestState: _, ...params } = asked.params;
    const call = await this.#parked.resume(state, bindingOf(asked));
    if (!call) {
      // A page had to be opened first, and the call made again after that. Made again without the page, it would ask for it again.
      if (isRefused(inputResponses)) throw pageRefused((await this.#targetOf({ ...asked, params })).server);
      return this.#ask({ ...asked, params });
    }
    if (isObject(inputResponses)) call.answer(inputResponses);
    return this.#taken(asked, call, await call.turn(this.#visitOf(asked)));
  }

  /** What a turn of a call means for its client. */
  async #taken(asked: Asked, call: OpenCall, turn: Turn): Promise<Answer> {
    const { server } = call.target;
    const limitMs = this.#serverNamed(server)?.timeouts.clientMs ?? 300_000;
    if ('questions' in turn) {
      return inputRequired(
        turn.questions,
        await this.#parked.park(call, limitMs, bindingOf(asked), asked.signal),
      );
    }
    if ('lacking' in turn) {
      call.endSoon('The client cannot do what the server asked for');
      throw capabilityMissing(server, turn.lacking);
    }
    const { outcome } = turn;
    const pages = 'error' in outcome ? inputRequestsOfError(outcome.error) : undefined;
    if (!pages) return this.#answered(call.target, outcome);
    const { elicitation } = asked.client.capabilities;
    if (!isObject(elicitation) || !isObject(elicitation.url))
      throw capabilityMissing(server, 'elicitation.url');
    return inputRequired(pages, await this.#parked.again(limitMs, bindingOf(asked)));
  }

  /** An outcome as a modern client reads it. */
  #answered({ server, request }: Target, outcome: Outcome): Outcome {
    if (outcome.era === 'modern') return outcome;
    if ('error' in outcome) return { error: modernError(outcome.error) };
    return { result: modernResult(request.method, outcome.result, this.#catalog.known(server)?.serverInfo) };
  }

  #options({ affinity, signal, client, stream }: Asked): FleetCallOptions {
    return {
      affinity,
      signal,
      client,
      onNotification: (notification) => {
        const { method, params } = notification;
        const { logLevel } = client;
        if (method === 'notifications/message' && !(logLevel && isLogged(params?.level, logLevel))) return;
        stream.send(notification);
      },
    };
  }

  // Notifications outside of requests

  async #listen(asked: Asked): Promise<Answer> {
    const wanted = asked.params.notifications;
    if (!isObject(wanted)) {
      throw new GatewayError(
        'invalid_params',
        'subscriptions/listen: expected params.notifications to be an object.',
      );
    }
    if (this.#listening.size >= this.#config.gateway.maxSessions) {
      throw new GatewayError(
        'session_limit',
        `All ${this.#config.gateway.maxSessions} listen streams are in use.`,
        {
          hint: 'Close a client, or raise gateway.max_sessions.',
        },
      );
    }
    const taskIds = taskIdsOf(wanted.taskIds);
    if (taskIds.length > 0) requireTasks(asked.client, 'subscriptions/listen with taskIds');
    const ending = new AbortController();
    this.#listening.add(ending);
    try {
      await this.#listenUntil(ending.signal, asked, wanted, taskIds);
    } finally {
      this.#listening.delete(ending);
    }
    const { scope, request } = asked;
    return {
      result: {
        resultType: 'complete',
        _meta: { ...this.#serverInfo(scope), [metaKeys.subscriptionId]: request.id },
      },
    };
  }

  /** Listens until the client has gone or `ending` aborts. */
  async #listenUntil(ending: AbortSignal, asked: Asked, wanted: Params, taskIds: string[]): Promise<void> {
    const { request, scope, affinity, stream, signal } = asked;
    const { capabilities } = await this.#introduction(scope, signal);
    const lists = new Set(
      (Object.keys(listFilters) as ChangedList[]).filter(
        (list) => wanted[listFilters[list]] === true && isObject(capabilities[list]),
      ),
    );
    const listener = new ListenStream({ scope, affinity, id: request.id, stream, lists });
    const subscribed: (() => void)[] = [];
    this.#notifications.add(listener);
    try {
      const uris = await this.#watch(asked, listener, wanted.resourceSubscriptions, subscribed);
      const tasks = this.#tasks.listen(ownerOf(asked), taskIds, (notification) =>
        listener.notify(notification),
      );
      subscribed.push(tasks.stop);
      listener.acknowledge({
        ...Object.fromEntries([...lists].map((list) => [listFilters[list], true])),
        ...(uris.length > 0 && { resourceSubscriptions: uris }),
        ...(tasks.agreed.length > 0 && { taskIds: tasks.agreed }),
      });
      const over = AbortSignal.any([signal, ending]);
      if (!over.aborted)
        await new Promise<void>((resolve) => over.addEventListener('abort', () => resolve(), { once: true }));
    } finally {
      this.#notifications.forget(listener);
      for (const unsubscribe of subscribed) unsubscribe();
    }
  }

  /** Watches resources for a listener; resolves with the URIs whose servers have agreed. */
  async #watch(
    asked: Asked,
    listener: ListenStream,
    wanted: unknown,
    subscribed: (() => void)[],
  ): Promise<string[]> {
    if (wanted === undefined) return [];
    if (
      !Array.isArray(wanted) ||
      wanted.length > maxSubscriptions ||
      wanted.some((uri) => typeof uri !== 'string' || uri.length > maxUriLength)
    ) {
      throw new GatewayError(
        'invalid_params',
        `subscriptions/listen: expected resourceSubscriptions to be at most ${maxSubscriptions} URIs of at most ${maxUriLength} characters.`,
      );
    }
    // One that listens twice counts twice.
    const watcher = `listen ${randomBytes(9).toString('base64url')}`;
    const agreed = await Promise.all(
      [...new Set<string>(wanted)].map(async (exposed) => {
        const unsubscribe = await this.#watchOne(asked, listener, exposed, watcher).catch(() => undefined);
        if (!unsubscribe) return [];
        subscribed.push(unsubscribe);
        return [exposed];
      }),
    );
    return agreed.flat();
  }

  /** undefined when the server does not agree. */
  async #watchOne(
    asked: Asked,
    listener: ListenStream,
    exposed: string,
    watcher: string,
  ): Promise<(() => void) | undefined> {
    const target = await this.#relay.resource(asked, 'resources/subscribe', { uri: exposed });
    const { server, uri } = target;
    const resources = this.#catalog.known(server)?.capabilities.resources;
    if (!isObject(resources) || resources.subscribe !== true) return undefined;
    const isShared = this.#serverNamed(server)?.isolation !== 'session';
    const feed = feedOf(server, isShared ? undefined : asked.affinity);
    if (this.#notifications.isFirst(feed, uri)) {
      const outcome = await this.#relay.call(target, { ...this.#options(asked), onNotification: undefined });
      if ('error' in outcome) return undefined;
    }
    if (asked.signal.aborted) return undefined;
    const asker = isShared ? watcher : asked.affinity;
    this.#notifications.subscribe(feed, listener, { uri, exposed });
    this.#fleet.rememberSubscription(server, asker, uri, true);
    return () => {
      this.#notifications.unsubscribe(feed, listener, uri);
      if (isShared || this.#notifications.isFirst(feed, uri)) {
        this.#fleet.rememberSubscription(server, asker, uri, false);
      }
    };
  }

  #serverNamed(name: string): ServerConfig | undefined {
    return this.#config.servers.get(name);
  }
}

/** What a server says during a call goes to the request that works on it, if one does. */
function deliver({ visit }: OpenCall, notification: Notification): void {
  if (!visit) return;
  const { client, stream, progress } = visit;
  if (notification.method === 'notifications/progress') {
    if (progress) stream.send(progress.rise(notification));
  } else if (notification.method !== 'notifications/message') {
    stream.send(notification);
  } else if (client.logLevel !== undefined && isLogged(notification.params?.level, client.logLevel)) {
    stream.send(notification);
  }
}

/** One principal's clients share what they do not tell apart by a name. */
const ownerOf = ({ principal, affinity, scope }: Asked): TaskOwner => ({
  id: JSON.stringify([principal, affinity]),
  scope,
});

/** To ask for a task is the legacy era's, whose tasks a modern client cannot follow. */
function withoutTask(target: Target): Target {
  const { request } = target;
  if (request.params?.task === undefined) return target;
  const { task: _, ...params } = request.params;
  return { ...target, request: { ...request, params } };
}

function taskIdsOf(wanted: unknown): string[] {
  if (wanted === undefined) return [];
  if (
    Array.isArray(wanted) &&
    wanted.length <= maxListenedTasks &&
    wanted.every((id) => typeof id === 'string')
  ) {
    return wanted;
  }
  throw new GatewayError(
    'invalid_params',
    `subscriptions/listen: expected taskIds to be at most ${maxListenedTasks} strings.`,
  );
}

const bindingOf = ({ principal, scope, request, params }: Asked): StateBinding => ({
  principal,
  scope,
  method: request.method,
  params,
});

const inputRequired = (inputRequests: Record<string, InputRequest>, requestState: string): Answer => ({
  result: { resultType: 'input_required', inputRequests, requestState },
});

/** Whether a client has declined or dismissed what it was asked. */
const isRefused = (inputResponses: unknown) =>
  isObject(inputResponses) &&
  Object.values(inputResponses).some(
    (response) => isObject(response) && (response.action === 'decline' || response.action === 'cancel'),
  );

const pageRefused = (server: string) =>
  new GatewayError('upstream_error', `Server ${server} needs a page to be opened first, and it was not`, {
    server,
    hint: 'Call again, and open the page.',
  });

/** What a server asked for and its client has not declared: `sampling.tools` is `{sampling: {tools: {}}}`. */
function capabilityMissing(server: string, lacking: string): GatewayError {
  const requiredCapabilities = lacking
    .split('.')
    .reduceRight<Params>((inner, name) => ({ [name]: inner }), {});
  return new GatewayError(
    'capability_missing',
    `Server ${server} asked for what the client does not support: ${lacking}`,
    {
      server,
      hint: 'Call it from a client that declares this capability.',
      data: { requiredCapabilities },
    },
  );
}
