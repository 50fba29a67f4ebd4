import type { EngineTrouble, ServerName } from './schedule.ts';

/** A gateway and what its servers run on: where a schedule is played, whatever is real about it. */
export interface Stage extends AsyncDisposable {
  /** Of the gateway as it is now; the port stays. */
  url(endpoint: string): URL;
  /** Resolves when every server's lists are known or could not be read. */
  settled(): Promise<void>;
  /** Ends the gateway as drawn and, after `awayMs`, starts the next one on the same state. */
  restart(how: 'kill' | 'drain', awayMs: number): Promise<void>;
  /** Ends an instance of the server behind the gateway's back; false where there is none. */
  kill(server: ServerName, how: 'kill' | 'remove'): Promise<boolean>;
  /** Freezes one behind the gateway's back, for a while. */
  freeze(server: ServerName, ms: number): Promise<void>;
  /** Troubles the engine for a while; resolves when that is over. */
  trouble(how: EngineTrouble, ms: number): Promise<void>;
  /** What the system says runs of each server, by the names that `/servers` uses. */
  running(): Promise<Running[]>;
  /** Ends the gateway in peace. */
  end(): Promise<void>;
}

/** An instance as the system sees it. */
export interface Running {
  name: string;
  server: ServerName;
  /** As far as the stage can tell, it is on its way out or out of use, and another one may take its place. */
  isLeaving: boolean;
}
