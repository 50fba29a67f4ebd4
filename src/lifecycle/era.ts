import { abortable, type Clock, type Deferred, deferred } from '../base/async.ts';
import { GatewayError } from '../base/errors.ts';
import type { Era } from '../protocol/eras.ts';
import { type ErrorObject, isObject } from '../protocol/jsonrpc.ts';
import { modernCodes } from '../protocol/modern.ts';
import type { Connection } from './connection.ts';
import { hasOurs, speaksModern } from './dialect.ts';
import type { Handshake, Outcome } from './lease.ts';

/*
 * Which era a server speaks. A server whose first message must be `initialize` may die of any other, and one that has answered
 * `initialize` is bound to the legacy era, so it is asked in an instance that can be thrown away. (Specification 2026-07-28,
 * basic, versioning and stdio, "Backward Compatibility".)
 */

/** What an instance that was asked has shown. */
export interface Finding {
  era: Era;
  /** It said so; a death or an odd answer only suggests it. */
  isCertain: boolean;
  /** Its first request is answered by this, and nothing else was put to it: it can be used. */
  handshake?: Handshake;
}

/** How long a server may be silent before it is asked as a legacy one too. */
const patienceMs = 1000;

/** Asks an instance for its era. Rejects with `handshake_timeout` when it answers nothing at all. */
export async function findEra(
  connection: Connection,
  { handshakeMs, clock }: { handshakeMs: number; clock: Clock },
): Promise<Finding> {
  const patience = Math.min(patienceMs, handshakeMs / 2);
  return new Promise((resolve, reject) => {
    let isSilent = false;
    /** Questions that were left without an answer, or got none that says anything. */
    let unanswered = 0;
    const legacy = (isCertain: boolean) => decide({ era: 'legacy', isCertain });
    const decide = (finding: Finding) => {
      cancelTimer();
      resolve(finding);
    };
    const sayNothing = () => {
      unanswered += 1;
      if (unanswered === 2) legacy(false);
    };
    const cancelTimer = clock.schedule(() => {
      isSilent = true;
      connection.open('legacy', handshakeMs - patience).then(
        (outcome) => {
          if (!('error' in outcome)) legacy(true);
          else if (isModernError(outcome.error)) decide({ era: 'modern', isCertain: true });
          // A modern server answers so, too; then the other question is answered after it.
          else sayNothing();
        },
        (error) => (isTimeout(error) ? reject(error) : legacy(false)),
      );
    }, patience);
    connection.open('modern', handshakeMs).then(
      (outcome) => {
        if (!isModern(outcome)) legacy(true);
        // One that was asked both ways may have taken to the legacy era.
        else if (isSilent || 'error' in outcome) decide({ era: 'modern', isCertain: true });
        else decide({ era: 'modern', isCertain: true, handshake: connection.settle('modern', outcome) });
      },
      // Any other failure is its death, or what is no answer at all.
      (error) => (isTimeout(error) ? sayNothing() : legacy(false)),
    );
  });
}

const isTimeout = (error: unknown) => error instanceof GatewayError && error.code === 'handshake_timeout';

function isModern(outcome: Outcome): boolean {
  return 'error' in outcome ? isModernError(outcome.error) : speaksModern(outcome.result);
}

/** Codes that only a modern server has; one that names its versions must name one of ours. */
function isModernError({ code, data }: ErrorObject): boolean {
  if (code === modernCodes.versionUnsupported) return isObject(data) && hasOurs(data.supported);
  return code === modernCodes.capabilityMissing || code === modernCodes.headerMismatch;
}

/** What is known of a server's era: it holds for what ran when it was learnt, until an instance contradicts it. */
export class KnownEra {
  #known: { digest: string; era: Era; isCertain: boolean } | undefined;
  #learning: { digest: string; ended: Deferred<{ error?: unknown }> } | undefined;

  /** That of what ran last. */
  get latest(): Era | undefined {
    return this.#known?.era;
  }

  of(digest: string): Era | undefined {
    return this.#known?.digest === digest ? this.#known.era : undefined;
  }

  remember(digest: string, era: Era): void {
    this.#known = { digest, era, isCertain: true };
  }

  /** An instance was not ready in the way that its era has. Whatever it may have become is asked for at the next start. */
  doubt(digest: string, error: unknown): void {
    if (this.#known?.digest !== digest) return;
    const { era, isCertain } = this.#known;
    const isRefused = error instanceof GatewayError && error.code === 'handshake_failed';
    if (isRefused || era === 'modern' || !isCertain) this.#known = undefined;
  }

  /**
   * Finds the era with `find`, or waits for who is at it already: one instance is asked, however many are about to start. Its
   * failure is that of all who wait; when it was only given up (`signal`), the next one takes over.
   */
  async learn(digest: string, signal: AbortSignal, find: () => Promise<Finding>): Promise<Era> {
    for (;;) {
      const era = this.of(digest);
      if (era) return era;
      const other = this.#learning;
      if (!other) break;
      const { error } = await abortable(other.ended.promise, signal);
      if (error !== undefined && other.digest === digest) throw error;
    }
    const ended = deferred<{ error?: unknown }>();
    this.#learning = { digest, ended };
    let failure: { error?: unknown } = {};
    try {
      const { era, isCertain } = await find();
      this.#known = { digest, era, isCertain };
      return era;
    } catch (error) {
      if (!signal.aborted) failure = { error };
      throw error;
    } finally {
      this.#learning = undefined;
      ended.resolve(failure);
    }
  }
}
