import type { Socket } from 'node:net';
import { EngineProxy } from '../e2e/engine-proxy.ts';
import type { EngineTrouble } from './schedule.ts';

const slowMs = 150;
const request = /^(GET|POST|PUT|DELETE|HEAD) \S+ HTTP\/1\.1/;
const refusal = JSON.stringify({ message: 'the engine has been told to fail' });
const answer = `HTTP/1.1 500 Internal Server Error\r\nContent-Type: application/json\r\nContent-Length: ${refusal.length}\r\nConnection: close\r\n\r\n${refusal}`;

/** The engine as a gateway sees it on a bad day. */
export class TroubledEngine {
  readonly #proxy: EngineProxy;
  #trouble: EngineTrouble | undefined;
  #over = Promise.resolve();

  constructor(path: string) {
    this.#proxy = new EngineProxy(path, undefined, (from, to, isRequest) => this.#relay(from, to, isRequest));
  }

  get dockerHost(): string {
    return this.#proxy.dockerHost;
  }

  up(): Promise<void> {
    return this.#proxy.up();
  }

  down(): Promise<void> {
    return this.#proxy.down();
  }

  /** Resolves when it is over. One at a time. */
  async suffer(how: EngineTrouble, ms: number): Promise<void> {
    if (this.#trouble) return;
    this.#trouble = how;
    let end = () => {};
    this.#over = new Promise((resolve) => {
      end = resolve;
    });
    if (how === 'cut') await this.#proxy.down();
    await new Promise((resolve) => setTimeout(resolve, ms));
    if (how === 'cut') await this.#proxy.up();
    this.#trouble = undefined;
    end();
  }

  #relay(from: Socket, to: Socket, isRequest: boolean): void {
    // In order, whatever becomes of each part.
    let last = Promise.resolve();
    const pass = async (chunk: Buffer) => {
      if (
        isRequest &&
        this.#trouble === 'broken' &&
        request.test(chunk.subarray(0, 2000).toString('latin1'))
      ) {
        from.end(answer);
        return;
      }
      if (this.#trouble === 'frozen') await this.#over;
      if (this.#trouble === 'slow') await new Promise((resolve) => setTimeout(resolve, slowMs));
      if (!to.writable) return;
      if (!to.write(chunk)) await drained(to);
    };
    from.on('data', (chunk: Buffer) => {
      from.pause();
      last = last.then(() => pass(chunk)).then(() => void from.resume());
    });
    from.on('end', () => void last.then(() => to.end()));
  }
}

function drained(socket: Socket): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      socket.off('drain', done).off('close', done);
      resolve();
    };
    socket.on('drain', done).on('close', done);
  });
}
