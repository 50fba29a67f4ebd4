import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startGateway, type TestGateway } from '../harness.ts';
import { until } from '../waiting.ts';
import {
  type Action,
  type Fate,
  learnAsking,
  runSchedule,
  type Schedule,
  type Step,
  servers,
  setups,
  Trace,
} from './shared-model.ts';

/* What must hold for two clients on one instance, and for twenty; `era-model.test.ts` draws what is written down here. */

const trace = new Trace();
let gateway: TestGateway;

beforeAll(async () => {
  gateway = await startGateway({ servers, events: trace.events });
  await gateway.settled();
  // That their lists have just become known is told a moment later.
  await new Promise((resolve) => setTimeout(resolve, 300));
  await learnAsking(gateway);
});
afterAll(() => gateway?.[Symbol.asyncDispose]());

const stay: Fate = { kind: 'stay' };
const levels = ['debug', 'info', 'warning', 'error', 'emergency'];

/** Everybody asks, logs and reports at once; one cancels, one loses its connection and comes back, the instance dies in the middle. */
function everythingAtOnce(count: number): Schedule {
  const steps: Step[] = [];
  const all = Array.from({ length: count }, (_, who) => who);
  const round = (action: (who: number) => Action) => {
    for (const who of all) steps.push({ who, gapMs: who % 3, action: action(who) });
  };
  const back: Fate = { kind: 'leave', afterMs: 25, awayMs: 40 };
  round((who) => ({ do: 'level', level: levels[who % levels.length]! }));
  round((who) => ({ do: 'ask', reply: who % 3 === 2 ? 'decline' : 'accept', thinkMs: who % 7, fate: stay }));
  round((who) => ({
    do: 'log',
    level: levels[(who + 2) % levels.length]!,
    wanted: levels[who % levels.length]!,
    count: 3,
    ms: 1,
    fate: who % 4 === 0 ? back : stay,
  }));
  round((who) => ({
    do: 'sample',
    reply: who % 4 === 3 ? 'error' : 'accept',
    thinkMs: 5,
    fate: who % 10 === 1 ? { kind: 'cancel', afterMs: 30 } : who % 4 === 2 ? back : stay,
  }));
  steps.push({ who: 0, gapMs: 40, action: { do: 'crash' } });
  round((who) => ({ do: 'progress', steps: 3, ms: 2, fate: who % 4 === 0 ? back : stay }));
  round((who) => ({ do: 'touch', whose: (who + 1) % count }));
  steps.push({ who: count - 1, gapMs: 0, action: { do: 'forge' } });
  round((who) =>
    who % 2 === 0 ? { do: 'echo', fate: stay } : { do: 'ask', reply: 'accept', thinkMs: 1, fate: stay },
  );
  return { eras: all.map((who) => (who % 2 === 0 ? 'legacy' : 'modern')), steps };
}

describe.each([2, 20])('%i clients of both eras on one shared instance', (count) => {
  it.each(Object.values(setups))(
    'of $name: nothing crosses, nothing is lost, nobody hangs',
    async (server) => {
      await runSchedule({ gateway, server, schedule: everythingAtOnce(count), trace, changesLists: true });
      // Lists that have changed may still be read.
      await until(() => {
        const { instances, waiting } = gateway.app.fleet.status(server.name);
        return waiting === 0 && instances.every(({ leases }) => leases === 0);
      });
      const { instances } = gateway.app.fleet.status(server.name);
      expect(instances.filter(({ state }) => state === 'ready')).toHaveLength(1);
    },
  );

  it('a client that never answers blocks the others no longer than timeouts.client', async () => {
    for (const server of [setups.learnt, setups.declared, setups.modern]) {
      const eras: Schedule['eras'] = Array.from({ length: count }, (_, who) =>
        who % 2 === 0 ? 'legacy' : 'modern',
      );
      const steps: Step[] = [0, 1].map((who) => ({
        who,
        gapMs: 5,
        action: { do: 'ask', reply: 'never', thinkMs: 0, fate: stay },
      }));
      for (let who = 0; who < count; who += 1) {
        steps.push({ who, gapMs: 1, action: { do: 'ask', reply: 'accept', thinkMs: 0, fate: stay } });
      }
      await runSchedule({ gateway, server, schedule: { eras, steps }, trace });
    }
  });
});
