import { describe, expect, it } from 'vitest';
import { RequestStates } from './request-states.ts';

const binding = { principal: 'anonymous', scope: undefined, method: 'tools/call', params: { name: 'x' } };
const keyOf = (letter: string) => new TextEncoder().encode(letter.repeat(32));

describe('request states', () => {
  it('are known by the gateway that gave them, and are another’s to a gateway in front of it', async () => {
    const [front, behind] = [new RequestStates({ key: keyOf('a') }), new RequestStates({ key: keyOf('b') })];
    const state = await behind.sign('id', 60_000, binding);
    expect([front.isOurs(state), behind.isOurs(state)]).toEqual([false, true]);
    // After a restart, with the same key.
    expect(await new RequestStates({ key: keyOf('b') }).verify(state, binding)).toBe('id');
    await expect(front.verify(state, binding)).rejects.toMatchObject({ code: 'state_refused' });
  });

  it('are refused when they are changed, too long, another request’s or somebody else’s', async () => {
    const states = new RequestStates({ key: keyOf('a') });
    const state = await states.sign('id', 60_000, binding);
    const refused = { code: 'state_refused' };
    for (const bad of [
      `${state}A`,
      state.replace(/\.[^.]+$/, '.'),
      `${state}${'A'.repeat(1e6)}`,
      '',
      5,
      null,
      {},
    ])
      await expect(states.verify(bad, binding)).rejects.toMatchObject(refused);
    for (const other of [
      { ...binding, principal: 'eve' },
      { ...binding, scope: 'server' },
      { ...binding, method: 'prompts/get' },
      { ...binding, params: { name: 'y' } },
      { ...binding, params: JSON.parse('{"name": "x", "__proto__": {}}') },
    ])
      await expect(states.verify(state, other)).rejects.toMatchObject(refused);
    const retry = {
      ...binding,
      params: { requestState: state, inputResponses: {}, _meta: { a: 1 }, name: 'x' },
    };
    expect(await states.verify(state, retry)).toBe('id');
  });
});
