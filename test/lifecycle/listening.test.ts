import fc from 'fast-check';
import { expect, it } from 'vitest';
import { type Deferred, deferred } from '../../src/base/async.ts';
import type { Outcome } from '../../src/lifecycle/lease.ts';
import { Listening } from '../../src/lifecycle/listening.ts';
import type { Params } from '../../src/protocol/jsonrpc.ts';
import { HeldClock } from './held-clock.ts';

/* What is watched, in any order of wishes, agreements, refusals and ends: each change is told once, and nobody waits for ever. */

type Step =
  | { do: 'watch' | 'unwatch' | 'touch'; uri: string }
  | { do: 'answer' | 'end' }
  | { do: 'pass'; ms: number };

interface ServerListen {
  id: number;
  uris: string[];
  isAcknowledged: boolean;
  over: Deferred<Outcome>;
}

const forbidden = 'x:forbidden';
const uri = fc.constantFrom('a:1', 'a:2', 'a:3', forbidden);
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 5, arbitrary: fc.record({ do: fc.constantFrom('watch' as const, 'unwatch' as const), uri }) },
  { weight: 5, arbitrary: fc.record({ do: fc.constant('touch' as const), uri }) },
  {
    weight: 5,
    arbitrary: fc.record({ do: fc.constantFrom('answer' as const, 'answer' as const, 'end' as const) }),
  },
  {
    weight: 5,
    arbitrary: fc.record({ do: fc.constant('pass' as const), ms: fc.constantFrom(1, 20, 1000, 11_000) }),
  },
);

async function play(steps: Step[]) {
  const clock = new HeldClock();
  const active = new Map<number, ServerListen>();
  const watched = new Set<string>();
  const heard: unknown[] = [];
  let nextId = 1;
  let waiting = 0;
  const listening = new Listening({
    server: 'files',
    capabilities: { resources: { subscribe: true } },
    watched,
    clock,
    acknowledgeLimitMs: 10_000,
    isAwake: () => true,
    onNotification: ({ params }) => heard.push(params!.uri),
    open(notifications) {
      const listen: ServerListen = {
        id: nextId++,
        uris: notifications.resourceSubscriptions as string[],
        isAcknowledged: false,
        over: deferred(),
      };
      active.set(listen.id, listen);
      return {
        id: listen.id,
        over: listen.over.promise,
        cancel() {
          active.delete(listen.id);
          listen.over.reject(new Error('cancelled'));
        },
      };
    },
  });
  const stamped = ({ id }: ServerListen, what: string, params: Params) => ({
    jsonrpc: '2.0' as const,
    method: `notifications/${what}`,
    params: { ...params, _meta: { 'io.modelcontextprotocol/subscriptionId': id } },
  });
  const answer = (listen: ServerListen) => {
    listen.isAcknowledged = true;
    listen.uris = listen.uris.filter((one) => one !== forbidden);
    listening.take(
      stamped(listen, 'subscriptions/acknowledged', {
        notifications: { resourceSubscriptions: listen.uris },
      }),
    );
  };
  const touch = (changed: string) => {
    const telling = [...active.values()].filter(
      ({ isAcknowledged, uris }) => isAcknowledged && uris.includes(changed),
    );
    const before = heard.length;
    for (const listen of telling) listening.take(stamped(listen, 'resources/updated', { uri: changed }));
    expect(heard.slice(before)).toEqual(telling.length > 0 ? [changed] : []);
    return telling.length > 0;
  };

  for (const action of steps) {
    if (action.do === 'watch') {
      watched.add(action.uri);
      waiting += 1;
      const settled = () => {
        waiting -= 1;
      };
      listening.watch(action.uri).then(settled, settled);
    } else if (action.do === 'unwatch') {
      if (watched.delete(action.uri)) listening.changed();
    } else if (action.do === 'touch') touch(action.uri);
    else if (action.do === 'pass') await clock.pass(action.ms);
    else {
      const listens = [...active.values()];
      const chosen = action.do === 'answer' ? listens.find((listen) => !listen.isAcknowledged) : listens[0];
      if (chosen && action.do === 'answer') answer(chosen);
      else if (chosen) {
        active.delete(chosen.id);
        chosen.over.resolve({ result: {} });
      }
    }
    await clock.pass(0);
    expect(active.size).toBeLessThanOrEqual(2);
  }

  // From here on the server answers.
  for (let round = 0; round < 10; round += 1) {
    for (const listen of active.values()) if (!listen.isAcknowledged) answer(listen);
    await clock.pass(61_000);
  }
  expect(waiting, 'those who wait for an answer').toBe(0);
  expect(watched.has(forbidden)).toBe(false);
  expect(active.size).toBeLessThanOrEqual(1);
  for (const one of ['a:1', 'a:2', 'a:3', forbidden]) expect(touch(one)).toBe(watched.has(one));
  listening.close();
  expect(clock.pending).toBe(0);
}

it('tells each change once, whatever the order of events', async () => {
  await fc.assert(fc.asyncProperty(fc.array(step, { minLength: 5, maxLength: 40 }), play), {
    numRuns: Number(process.env.LIFECYCLE_RUNS ?? 150),
  });
});
