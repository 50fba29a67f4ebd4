import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';

/** A JSON-RPC message as it came over the wire. */
export interface Message {
  jsonrpc?: string;
  id?: number | string | null;
  method?: string;
  // biome-ignore lint/suspicious/noExplicitAny: a test reads whatever a server wrote
  params?: any;
  // biome-ignore lint/suspicious/noExplicitAny: as above
  result?: any;
  // biome-ignore lint/suspicious/noExplicitAny: as above
  error?: { code: number; message: string; data?: any };
}

const MOST_KEPT = 1000;
const CLIENT_INFO = { name: 'raw-client', version: '1.0.0' };

/** A program spoken to line by line, without an SDK in between, so that what it really writes is seen. */
export class RawClient implements AsyncDisposable {
  readonly process: ChildProcess;
  /** The requests and notifications received; of a flood, the first ones. */
  readonly messages: Message[] = [];
  readonly answers = new Map<number | string | null | undefined, Message>();
  /** Lines on stdout that are no JSON object; of a flood, the first ones. */
  readonly garbage: string[] = [];
  /** Bytes read from stdout and stderr. */
  readonly bytes = { stdout: 0, stderr: 0 };
  readonly exited: Promise<{ code: number | null; signal: NodeJS.Signals | null }>;
  stderr = '';
  #nextId = 1;
  #waiting = new Set<() => void>();

  constructor(
    command: string[],
    options: { env?: NodeJS.ProcessEnv; cwd?: string; uid?: number; raw?: boolean } = {},
  ) {
    const { env, cwd, uid, raw = false } = options;
    const [program = '', ...args] = command;
    this.process = spawn(program, args, { cwd, uid, env: { PATH: process.env.PATH, ...env }, stdio: 'pipe' });
    this.exited = once(this.process, 'close').then(([code, signal]) => ({ code, signal }));
    this.process.stdin?.on('error', () => {});
    this.process.stderr?.on('data', (chunk: Buffer) => {
      this.bytes.stderr += chunk.length;
      if (this.stderr.length < 100_000) this.stderr += chunk;
      this.#wake();
    });
    let pieces: string[] = [];
    this.process.stdout?.on('data', (chunk: Buffer) => {
      this.bytes.stdout += chunk.length;
      if (raw) return this.#wake();
      const lines = String(chunk).split('\n');
      while (lines.length > 1) {
        pieces.push(lines.shift() ?? '');
        this.#receive(pieces.join(''));
        pieces = [];
      }
      pieces.push(lines[0] ?? '');
      this.#wake();
    });
    this.exited.then(() => this.#wake());
  }

  #receive(line: string): void {
    let message: Message | undefined;
    try {
      message = JSON.parse(line);
    } catch {}
    if (message === null || typeof message !== 'object' || Array.isArray(message)) {
      if (this.garbage.length < MOST_KEPT) this.garbage.push(line);
    } else if (message.method === undefined) {
      this.answers.set(message.id, message);
    } else if (this.messages.length < MOST_KEPT) {
      this.messages.push(message);
    }
  }

  #wake(): void {
    for (const wake of this.#waiting) wake();
  }

  /** Waits until `find` returns something; fails when the program ends, or after `timeoutMs`. */
  async until<T>(find: () => T | undefined | false, what: string, timeoutMs = 20_000): Promise<T> {
    const deadline = Date.now() + timeoutMs;
    for (;;) {
      const found = find();
      if (found !== undefined && found !== false) return found;
      if (this.process.exitCode !== null || this.process.signalCode !== null) {
        throw new Error(`The program ended while waiting for ${what}: ${this.stderr}`);
      }
      const left = deadline - Date.now();
      if (left <= 0) throw new Error(`No ${what} in ${timeoutMs} ms; stderr: ${this.stderr}`);
      await new Promise<void>((resolve) => {
        const wake = () => {
          clearTimeout(timer);
          this.#waiting.delete(wake);
          resolve();
        };
        const timer = setTimeout(wake, left);
        this.#waiting.add(wake);
      });
    }
  }

  write(text: string): void {
    this.process.stdin?.write(text);
  }

  send(message: object): void {
    this.write(`${JSON.stringify({ jsonrpc: '2.0', ...message })}\n`);
  }

  /** Sends a request without waiting; returns its id. */
  post(method: string, params?: object, id: number | string = this.#nextId++): number | string {
    this.send({ id, method, ...(params && { params }) });
    return id;
  }

  answer(id: number | string, timeoutMs?: number): Promise<Message> {
    return this.until(() => this.answers.get(id), `answer to ${id}`, timeoutMs);
  }

  request(method: string, params?: object): Promise<Message> {
    return this.answer(this.post(method, params));
  }

  async initialize(capabilities: object = {}, protocolVersion = '2025-11-25'): Promise<Message> {
    const answer = await this.request('initialize', {
      protocolVersion,
      capabilities,
      clientInfo: CLIENT_INFO,
    });
    this.send({ method: 'notifications/initialized' });
    return answer;
  }

  /** Calls a tool; returns the JSON-RPC answer. */
  call(name: string, args: object = {}, meta?: object): Promise<Message> {
    return this.request('tools/call', { name, arguments: args, ...(meta && { _meta: meta }) });
  }

  /** Calls a tool; returns the text of its first content. */
  async callText(name: string, args: object = {}): Promise<string> {
    const answer = await this.call(name, args);
    if (answer.error) throw new Error(`${name}: ${answer.error.message}`);
    return answer.result.content[0].text;
  }

  /** Waits for a request or notification from the server. */
  incoming(method: string, nth = 1): Promise<Message> {
    return this.until(
      () => this.messages.filter((message) => message.method === method)[nth - 1],
      `${nth}. ${method}`,
    );
  }

  endInput(): void {
    this.process.stdin?.end();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.process.exitCode === null && this.process.signalCode === null) this.process.kill('SIGKILL');
    await this.exited;
  }
}
