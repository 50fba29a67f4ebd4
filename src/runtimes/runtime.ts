import type { ServerConfig } from '../config/schema.ts';
import type { Id, Message } from '../protocol/jsonrpc.ts';

/** The port: what can start instances of a server. Domain words only, so that a cluster fits behind it too. */
export interface Runtime {
  readonly kind: 'docker' | 'process' | 'http';

  /**
   * Makes what a start needs (image, network) and says what would run. Cheap when nothing changed: it is asked before
   * every start. Throws GatewayError (`image_missing`, `build_failed`, `engine_unreachable`, …).
   */
  prepare(server: ServerConfig, options: PrepareOptions): Promise<Prepared>;

  /**
   * Starts one instance. Resolves when it runs and can be written to, not when it is ready. Throws GatewayError
   * (`start_failed`, `engine_unreachable`, …) and leaves nothing behind then, nor when the signal aborts.
   */
  start(server: ServerConfig, prepared: Prepared, options: StartOptions): Promise<Instance>;

  /** Stops and removes what an earlier run of this same gateway left. Never touches another gateway's. */
  sweep(): Promise<{ removed: string[] }>;

  /** The recent output of a server, newest last: that of its running instances, else what was kept of the last one. */
  logs(server: ServerConfig, options: LogOptions): AsyncIterable<string>;

  /** What the runtime runs on and which hardenings it cannot give. Never throws: an unreachable engine is an answer. */
  describe(): Promise<RuntimeDescription>;

  /** Releases connections; does not stop instances. */
  close(): Promise<void>;
}

export interface PrepareOptions {
  signal?: AbortSignal;
  /** Called with each step of a pull or a build. */
  onProgress?(progress: PrepareProgress): void;
}

/** One step of a pull or a build. */
export interface PrepareProgress {
  step: 'pull' | 'build' | 'install' | 'resolve';
  /** One line for a person. */
  text: string;
  /** 0 to 1, where it is known. */
  fraction?: number;
}

/** What a start will run; a runtime may keep more in it. */
export interface Prepared {
  /** Changes when what would run changes: an image's digest, or a hash of a process's command. Part of the catalog's key. */
  digest: string;
}

export interface StartOptions {
  signal?: AbortSignal;
  /** Called for each message from the instance, in order. Set before anything is read, so nothing is lost. */
  onMessage(message: Message): void;
  /** A line on stdout that is no JSON-RPC message (already bounded), or one over `gateway.max_message`, which was dropped. */
  onNoise(noise: Noise): void;
  /** A line has outgrown `gateway.max_message` and goes on: its beginning. Its noise follows when it ends, which may be never. */
  onOverflow?(bytes: number, head: string): void;
}

/** A line that is no message. */
export interface Noise {
  kind: 'garbage' | 'oversize';
  /** The line's beginning, at most 200 characters, control characters escaped. */
  text: string;
  bytes: number;
  /** The request that a dropped or broken line answers, where it shows that. */
  id?: Id;
  /** The line goes on, and may do so for ever. */
  isEndless?: boolean;
}

/** One running copy of a server: a duplex of JSON-RPC messages, and nothing that is one engine's own. */
export interface Instance {
  /** Unique on this host and known to the engine's own tools: a container's name, `pid 4711`. */
  readonly name: string;
  readonly startedAtMs: number;

  /**
   * Writes one message. Resolves when the transport took it. Throws `NotWritten` when nothing of it reached the
   * instance, so that the caller may try elsewhere; any other error leaves that open.
   */
  send(message: Message): Promise<void>;

  /** Resolves when the instance's output has ended, whatever the reason. Never rejects. */
  readonly ended: Promise<void>;
  /** Resolves with the reason, at or after `ended`; may be late, on a lost host for ever. Never rejects. */
  readonly exited: Promise<Exit>;

  /** The last lines of stderr, bounded; complete once `ended`. */
  stderrTail(): string[];

  /** CPU in percent of one CPU, since it was asked last. */
  stats(): Promise<{ memoryBytes: number; cpuPercent: number }>;
  /** Whether the engine says that it is frozen, by whomever; undefined: it does not say. */
  readonly isFrozen?: boolean | undefined;
  /** Freezes: no CPU, memory kept. Doing it twice is done once. */
  pause(): Promise<void>;
  resume(): Promise<void>;
  /** Ask (EOF, SIGTERM), wait `graceMs`, force. Resolves when it is gone; stopping what is gone is done at once. */
  stop(options: { graceMs: number }): Promise<void>;
}

/** How an instance ended, as far as its runtime knows. */
export interface Exit {
  /** undefined: the engine did not say. */
  code?: number;
  signal?: string;
  outOfMemory?: boolean;
  /** What it ran on went away, and nobody knows how it ended. */
  isHostLost?: boolean;
  /** What stderr tells an experienced reader (a read-only path, a missing module), as a next step. */
  hint?: string;
}

export interface LogOptions {
  /** Lines from the end. */
  tail: number;
  follow?: boolean;
  signal?: AbortSignal;
}

/** What a runtime runs on. */
export interface RuntimeDescription {
  reachable: boolean;
  /** For a person: `Docker 20.10.24 at unix:///var/run/docker.sock`. */
  text: string;
  /** Hardenings that this engine cannot give, one sentence each. */
  lacks: string[];
  /** When unreachable: what was tried and how to mend it. */
  hint?: string;
}

/** The instance was gone before anything of the message was written: safe to send to another one. */
export class NotWritten extends Error {
  override readonly name = 'NotWritten';
}
