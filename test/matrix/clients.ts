import {
  StreamableHTTPClientTransport as StreamableHttpV2,
  Client as V2,
} from '@modelcontextprotocol/client';
import { Client as V1 } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport as StreamableHttpV1 } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import {
  CreateMessageRequestSchema,
  ElicitRequestSchema,
  ListRootsRequestSchema,
} from '@modelcontextprotocol/sdk/types.js';
import type { TestGateway } from '../harness.ts';
import { RawHttpClient } from '../http/clients.ts';
import { ModernClient } from '../http/modern-client.ts';

// biome-ignore lint/suspicious/noExplicitAny: a test reads whatever came
export type Any = any;

export type Era = 'legacy' | 'modern';

/** The clients of the matrix. */
export const clientKinds = ['v1', 'v2 legacy', 'v2 modern'] as const;
export type ClientKind = (typeof clientKinds)[number];

export type List = 'tools' | 'prompts' | 'resources' | 'resourceTemplates';

export interface CallOptions {
  onProgress?: (progress: Any) => void;
  signal?: AbortSignal;
  /** The least severe log lines that the client wants to see. */
  logLevel?: string;
}

/** What all clients have in common, as each SDK does it for its user. */
export interface MatrixClient extends AsyncDisposable {
  readonly kind: ClientKind;
  readonly era: Era;
  /** The questions that the client was asked, oldest first: method and params. */
  readonly asked: Any[];
  /** The notifications that the client was told, oldest first. */
  readonly heard: Any[];
  /** Every entry of a list, whatever pages it comes in. */
  list(list: List): Promise<Any[]>;
  page(list: List, cursor: string): Promise<Any>;
  call(name: string, args?: object, options?: CallOptions): Promise<Any>;
  read(uri: string): Promise<Any>;
  prompt(name: string, args?: Record<string, string>): Promise<Any>;
  complete(params: Any): Promise<Any>;
  /** From now on lists that change are heard of. */
  hearOfLists(): Promise<void>;
  /** From now on a resource's updates are heard of, until the returned function has been called. */
  watch(uri: string): Promise<() => Promise<void>>;
  /** The whole answer to a request, without the SDK, which shows its user only what its schemas know; all are of one session. */
  raw(method: string, params?: Any): Promise<Any>;
}

export interface Connection {
  gateway: TestGateway;
  endpoint: string;
  /** The client's name for itself, where it has no session. */
  name: string;
}

const info = { name: 'matrix', version: '1.0.0' };
const capabilities = { sampling: {}, elicitation: { form: {}, url: {} }, roots: { listChanged: true } };
/** Notifications that are collected. */
const told = [
  'notifications/message',
  'notifications/tools/list_changed',
  'notifications/prompts/list_changed',
  'notifications/resources/list_changed',
  'notifications/resources/updated',
  'notifications/elicitation/complete',
] as const;

/** The answers of the person and the model behind each client, which repeat the question. */
const answers: Record<string, (params: Any) => Any> = {
  'sampling/createMessage': ({ messages }) => ({
    role: 'assistant',
    model: 'a-model',
    stopReason: 'endTurn',
    content: { type: 'text', text: `you said: ${messages[0].content.text}` },
  }),
  'elicitation/create': ({ mode, message, requestedSchema }) => {
    if (message.startsWith('decline')) return { action: 'decline' };
    if (mode === 'url') return { action: 'accept' };
    const fields = Object.keys(requestedSchema.properties);
    return {
      action: 'accept',
      content: Object.fromEntries(fields.map((field) => [field, `${field} of ${message}`])),
    };
  },
  'roots/list': () => ({ roots: [{ uri: 'file:///home/ada/project', name: 'project' }] }),
};

/** Connects a client of this kind. */
export function connect(kind: ClientKind, connection: Connection): Promise<MatrixClient> {
  return { v1: connectV1, 'v2 legacy': connectV2Legacy, 'v2 modern': connectV2Modern }[kind](connection);
}

async function connectV1({ gateway, endpoint }: Connection): Promise<MatrixClient> {
  const client = new V1(info, { capabilities });
  const { asked, heard, answering } = memory();
  const schemas: [string, Any][] = [
    ['sampling/createMessage', CreateMessageRequestSchema],
    ['elicitation/create', ElicitRequestSchema],
    ['roots/list', ListRootsRequestSchema],
  ];
  for (const [method, schema] of schemas) client.setRequestHandler(schema, answering(method) as Any);
  client.fallbackNotificationHandler = async (notification) => void heard.push(notification);
  const transport = new StreamableHttpV1(gateway.url(endpoint));
  const raw = rawLegacy(gateway, endpoint);
  await client.connect(transport);

  const page = (list: List, cursor?: string): Promise<Any> => {
    const params = { cursor };
    if (list === 'tools') return client.listTools(params);
    if (list === 'prompts') return client.listPrompts(params);
    if (list === 'resources') return client.listResources(params);
    return client.listResourceTemplates(params);
  };
  return {
    kind: 'v1',
    era: 'legacy',
    asked,
    heard,
    page,
    // This SDK leaves the pages to its user.
    async list(list) {
      const entries = [];
      let cursor: string | undefined;
      do {
        const { [list]: some, nextCursor } = await page(list, cursor);
        entries.push(...some);
        cursor = nextCursor;
      } while (cursor !== undefined);
      return entries;
    },
    async call(name, args = {}, { onProgress, signal, logLevel } = {}) {
      if (logLevel) await client.setLoggingLevel(logLevel as Any);
      return client.callTool({ name, arguments: args as Any }, undefined, { onprogress: onProgress, signal });
    },
    read: (uri) => client.readResource({ uri }),
    prompt: (name, args) => client.getPrompt({ name, arguments: args }),
    complete: (params) => client.complete(params),
    async hearOfLists() {},
    async watch(uri) {
      await client.subscribeResource({ uri });
      return async () => void (await client.unsubscribeResource({ uri }));
    },
    raw: raw.request,
    async [Symbol.asyncDispose]() {
      await raw.end();
      await transport.terminateSession();
      await client.close();
    },
  };
}

async function connectV2Legacy({ gateway, endpoint }: Connection): Promise<MatrixClient> {
  const client = new V2(info, { capabilities });
  const { asked, heard, answering } = memory();
  listenWithV2(client, heard, answering);
  const transport = new StreamableHttpV2(gateway.url(endpoint));
  const raw = rawLegacy(gateway, endpoint);
  await client.connect(transport);
  return {
    ...withV2(client),
    kind: 'v2 legacy',
    era: 'legacy',
    asked,
    heard,
    async call(name, args = {}, { onProgress, signal, logLevel } = {}) {
      if (logLevel) await client.setLoggingLevel(logLevel as Any);
      return client.callTool({ name, arguments: args as Any }, { onprogress: onProgress, signal });
    },
    async hearOfLists() {},
    async watch(uri) {
      await client.subscribeResource({ uri });
      return async () => void (await client.unsubscribeResource({ uri }));
    },
    raw: raw.request,
    async [Symbol.asyncDispose]() {
      await raw.end();
      await transport.terminateSession();
      await client.close();
    },
  };
}

async function connectV2Modern({ gateway, endpoint, name }: Connection): Promise<MatrixClient> {
  const client = new V2(info, { capabilities, versionNegotiation: { mode: { pin: '2026-07-28' } } });
  const { asked, heard, answering } = memory();
  listenWithV2(client, heard, answering);
  const headers = { 'mcp-gateway-client': name };
  await client.connect(new StreamableHttpV2(gateway.url(endpoint), { requestInit: { headers } }));
  if (client.getProtocolEra() !== 'modern') throw new Error('The pinned client does not speak 2026-07-28');
  const extensions = { 'io.modelcontextprotocol/tasks': {} };
  const raw = new ModernClient(gateway, endpoint, { ...capabilities, extensions }, headers);
  return {
    ...withV2(client),
    kind: 'v2 modern',
    era: 'modern',
    asked,
    heard,
    // There is no level to set: each request says what it wants to see.
    call: (tool, args = {}, { onProgress, signal, logLevel } = {}) =>
      client.callTool(
        {
          name: tool,
          arguments: args as Any,
          ...(logLevel && { _meta: { 'io.modelcontextprotocol/logLevel': logLevel } }),
        },
        { onprogress: onProgress, signal },
      ),
    async hearOfLists() {
      await client.listen({ toolsListChanged: true, promptsListChanged: true, resourcesListChanged: true });
    },
    async watch(uri) {
      const subscription = await client.listen({ resourceSubscriptions: [uri] });
      if (!subscription.honoredFilter.resourceSubscriptions?.includes(uri)) {
        throw new Error(`Not agreed to: ${uri}`);
      }
      return () => subscription.close();
    },
    raw: async (method, params) => (await raw.request(method, params, params?._meta)).answer,
    async [Symbol.asyncDispose]() {
      await client.close();
    },
  };
}

/** What this SDK does alike in both eras. */
function withV2(client: V2): Pick<MatrixClient, 'list' | 'page' | 'read' | 'prompt' | 'complete'> {
  const page = (list: List, cursor?: string): Promise<Any> => {
    const params = cursor === undefined ? undefined : { cursor };
    // What is kept from before is not asked for.
    const options = { cacheMode: 'bypass' } as const;
    if (list === 'tools') return client.listTools(params, options);
    if (list === 'prompts') return client.listPrompts(params, options);
    if (list === 'resources') return client.listResources(params, options);
    return client.listResourceTemplates(params, options);
  };
  return {
    page,
    // Without a cursor it walks the pages itself.
    list: async (list) => (await page(list))[list],
    read: (uri) => client.readResource({ uri }, { cacheMode: 'bypass' }),
    prompt: (name, args) => client.getPrompt({ name, arguments: args }),
    complete: (params) => client.complete(params),
  };
}

function listenWithV2(client: V2, heard: Any[], answering: (method: string) => Any): void {
  for (const method of Object.keys(answers)) client.setRequestHandler(method as Any, answering(method));
  for (const method of told) client.setNotificationHandler(method, (one) => void heard.push(one));
}

function memory() {
  const asked: Any[] = [];
  const heard: Any[] = [];
  const answering = (method: string) => async (request: Any) => {
    asked.push({ method, params: request.params });
    return answers[method]!(request.params);
  };
  return { asked, heard, answering };
}

/** A session of its own, begun when it is first needed. */
function rawLegacy(gateway: TestGateway, endpoint: string) {
  const client = new RawHttpClient(gateway, endpoint);
  let begun: Promise<unknown> | undefined;
  return {
    async request(method: string, params?: Any): Promise<Any> {
      begun ??= client.initialize('2025-11-25', capabilities);
      await begun;
      return (await client.request(method, params)).answer;
    },
    async end() {
      if (begun) await fetch(client.url, { method: 'DELETE', headers: client.headers });
    },
  };
}
