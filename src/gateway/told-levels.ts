import type { Session } from '../access/sessions.ts';
import type { Config } from '../config/schema.ts';
import { LevelCounts } from './level-counts.ts';

/** What is told of the levels. */
interface LevelFleet {
  setLogLevel(server: string, affinity: string | undefined, level: string | undefined): void;
}

/**
 * Which level each server was told to log at: a shared one the lowest that anybody wants, who filters what comes back; a session's own
 * instance that session's.
 */
export class ToldLevels {
  readonly #config: Config;
  readonly #fleet: LevelFleet;
  readonly #counts = new LevelCounts();
  /** By shared server. */
  readonly #told = new Map<string, string>();

  constructor({ config, fleet }: { config: Config; fleet: LevelFleet }) {
    this.#config = config;
    this.#fleet = fleet;
  }

  /** A session began, with the level that it had before. */
  open(session: Session): void {
    this.#counts.add(session.scope, session.logLevel);
    this.#tell(session);
  }

  /** A session wants another level. */
  change(session: Session, level: string): void {
    this.#counts.remove(session.scope, session.logLevel);
    session.logLevel = level;
    this.#counts.add(session.scope, level);
    this.#tell(session);
  }

  /** A session is over. */
  close(session: Session): void {
    this.#counts.remove(session.scope, session.logLevel);
    this.#tell(session);
  }

  /** One call wants a level; the returned function says that it is over. undefined where there is nothing to do. */
  hold(
    server: string,
    affinity: string | undefined,
    level: string | undefined,
  ): ((hasFailed: boolean) => void) | undefined {
    if (level === undefined) return undefined;
    if (this.#isIsolated(server)) {
      this.#fleet.setLogLevel(server, affinity, level);
      return (hasFailed) => {
        // It ends with the client's instance, and there may be none.
        if (hasFailed) this.#fleet.setLogLevel(server, affinity, undefined);
      };
    }
    this.#counts.add(server, level);
    this.#tellShared(server);
    return () => {
      this.#counts.remove(server, level);
      this.#tellShared(server);
    };
  }

  /** Tells each server in the session's scope. */
  #tell(session: Session): void {
    const { scope } = session;
    for (const server of scope === undefined ? this.#config.servers.keys() : [scope]) {
      if (!this.#isIsolated(server)) this.#tellShared(server);
      else if (session.logLevel && !session.ended) {
        this.#fleet.setLogLevel(server, session.id, session.logLevel);
      }
    }
  }

  #tellShared(server: string): void {
    const level = this.#counts.lowestFor(server);
    if (level === this.#told.get(server)) return;
    if (level === undefined) this.#told.delete(server);
    else this.#told.set(server, level);
    this.#fleet.setLogLevel(server, undefined, level);
  }

  #isIsolated(server: string): boolean {
    return this.#config.servers.get(server)?.isolation === 'session';
  }
}
