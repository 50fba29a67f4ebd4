import { rm } from 'node:fs/promises';
import { createConnection, createServer, type Server, type Socket } from 'node:net';

/** Connects one direction of a connection; ends of it are seen to already. */
export type Relay = (from: Socket, to: Socket, isRequest: boolean) => void;

/** A socket in front of the engine's own, so that a test can take the engine away and give it back. */
export class EngineProxy {
  readonly path: string;
  readonly #engine: string;
  readonly #relay: Relay;
  #server: Server | undefined;
  /** Whoever asks for events is cut off. */
  areEventsBlocked = false;
  readonly #sockets = new Set<Socket>();
  /** Those on which the engine's events were asked for. */
  readonly #events = new Set<Socket>();

  /** `relay` may delay, change or keep what passes. */
  constructor(
    path: string,
    engine = '/var/run/docker.sock',
    relay: Relay = (from, to) => {
      from.pipe(to);
    },
  ) {
    this.path = path;
    this.#engine = engine;
    this.#relay = relay;
  }

  get dockerHost(): string {
    return `unix://${this.path}`;
  }

  async up(): Promise<void> {
    await rm(this.path, { force: true });
    this.#server = createServer((client) => {
      const engine = createConnection(this.#engine);
      client.on('data', (chunk: Buffer) => {
        if (!/^GET \S*\/events\?/.test(chunk.toString('latin1'))) return;
        if (this.areEventsBlocked) client.destroy();
        this.#events.add(client);
        client.on('close', () => this.#events.delete(client));
      });
      for (const [from, to] of [
        [client, engine],
        [engine, client],
      ] as const) {
        this.#sockets.add(from);
        this.#relay(from, to, from === client);
        from.on('error', () => to.destroy());
        from.on('close', () => {
          this.#sockets.delete(from);
          to.destroy();
        });
      }
    });
    await new Promise<void>((resolve) => this.#server!.listen(this.path, resolve));
  }

  /** The streams of events break, and nothing else. */
  cutEvents(): void {
    for (const socket of this.#events) socket.destroy();
  }

  /** Every connection breaks, as when the daemon is stopped. */
  async down(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await new Promise((resolve) => this.#server!.close(resolve));
  }
}
