import { setFlagsFromString } from 'node:v8';
import type { Events } from '../observability/events.ts';

/*
 * Loading the modules, the configuration and the kept catalog allocates much, once. V8 makes its young generation sixteen times
 * as large for it, and gives none of that back while nothing happens. The factor is read whenever that decision is taken.
 */

/** Keeps the young generation at its smallest. */
export function holdHeapGrowth(): void {
  setFlagsFromString('--semi-space-growth-factor=1');
}

/** Lets it grow, as V8 usually does, with what calls need: from the first one on. */
export function allowHeapGrowthOnceCalled(events: Events): void {
  const forget = events.on('call.finished', () => {
    forget();
    setFlagsFromString('--semi-space-growth-factor=2');
  });
}
