import { describe, expect, it } from 'vitest';
import { RequestStates } from '../../src/access/request-states.ts';
import { OpenCall } from '../../src/gateway/open-call.ts';
import { ParkedCalls } from '../../src/gateway/parked-calls.ts';
import { HeldClock } from '../lifecycle/held-clock.ts';

const binding = { principal: 'anonymous', scope: undefined, method: 'tools/call', params: { name: 't' } };
const limitMs = 60_000;

function setUp() {
  const clock = new HeldClock();
  const states = new RequestStates({ key: new Uint8Array(32), clock });
  const parked = new ParkedCalls({ states, clock });
  const target = { server: 's', name: 't', request: { method: 'tools/call', params: {} } };
  const call = new OpenCall(target, { abort: new AbortController(), clock, given: {} });
  const park = () => parked.park(call, limitMs, binding, new AbortController().signal);
  return { clock, parked, call, park };
}

describe('a parked call', () => {
  it('wins no time when its client comes back without an answer', async () => {
    const { clock, parked, park } = setUp();
    let state = await park();
    for (let visit = 0; visit < 5; visit += 1) {
      await clock.pass(limitMs / 6);
      await parked.resume(state, binding);
      state = await park();
    }
    expect(parked.size).toBe(1);
    await clock.pass(limitMs / 6);
    expect(parked.size).toBe(0);
    await expect(parked.resume(state, binding)).rejects.toThrow('requestState');
  });

  it('whose client goes away before it is told where to come back to does not wait', async () => {
    const { parked, call } = setUp();
    await parked.park(call, limitMs, binding, AbortSignal.abort('gone'));
    expect([parked.size, call.signal.aborted]).toEqual([0, true]);
  });
});
