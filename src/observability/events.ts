import { EventEmitter } from 'node:events';

/** Where a server stands, in the words of `/servers`: the state of its most available instance. */
export type ServerState = 'stopped' | 'starting' | 'ready' | 'paused' | 'draining' | 'failed' | 'disabled';

/** Everything that happens, by name. Payloads are JSON and free of secrets. */
export interface GatewayEvents {
  'server.state': { server: string; state: ServerState; reason?: string };
  'instance.started': { server: string; instance: string; durationMs: number };
  'instance.paused': { server: string; instance: string };
  'instance.resumed': { server: string; instance: string; durationMs: number };
  'instance.stopped': {
    server: string;
    instance: string;
    reason: 'idle' | 'drain' | 'request' | 'session' | 'crash';
  };
  'instance.noise': {
    server: string;
    instance: string;
    kind: 'garbage' | 'oversize';
    text: string;
    bytes: number;
  };
  'prepare.progress': { server: string; step: string; text: string; fraction?: number };
  'discovery.started': { server: string };
  'discovery.finished': { server: string; tools: number; durationMs: number };
  /** Without `retryInMs` it is not tried again until the configuration changes. */
  'discovery.failed': { server: string; reason: string; hint?: string; retryInMs?: number };
  'catalog.changed': { server: string; lists: ('tools' | 'resources' | 'prompts')[] };
  'call.finished': {
    server: string;
    method: string;
    name?: string;
    outcome: 'ok' | 'error' | 'cancelled';
    code?: string;
    durationMs: number;
  };
  /** The gateway has cut a connection whose client did not read or answer; `bytes` is what it had not read. */
  'client.dropped': { transport: 'http' | 'websocket'; session?: string; reason: string; bytes: number };
  'engine.lost': { runtime: string; reason: string };
  'engine.back': { runtime: string };
}

/** What can happen. */
export type EventName = keyof GatewayEvents;

/** The typed event bus. Listeners run at once and must not throw. */
export class Events {
  readonly #emitter = new EventEmitter().setMaxListeners(0);

  emit<N extends EventName>(name: N, payload: GatewayEvents[N]): void {
    this.#emitter.emit(name, payload);
  }

  /** Returns a function that ends the subscription. */
  on<N extends EventName>(name: N, listener: (payload: GatewayEvents[N]) => void): () => void {
    this.#emitter.on(name, listener);
    return () => this.#emitter.off(name, listener);
  }
}
