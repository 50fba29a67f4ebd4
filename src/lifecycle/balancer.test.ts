import { describe, expect, it } from 'vitest';
import { createBalancer } from './balancer.ts';

const of = (...calls: number[]) => calls.map((count, serial) => ({ serial, calls: count }));

describe('the balancer', () => {
  it('gives a call to the instance with the fewest, the oldest of several', () => {
    const balancer = createBalancer('least_connections');
    expect(balancer.pick(of(3, 1, 2)).serial).toBe(1);
    expect(balancer.pick(of(2, 1, 1)).serial).toBe(1);
  });

  it('goes round, whoever comes, goes or is full', () => {
    const balancer = createBalancer('round_robin');
    const all = of(0, 0, 0);
    const turns = [1, 2, 3, 4].map(() => balancer.pick(all).serial);
    expect(turns).toEqual([0, 1, 2, 0]);
    expect(balancer.pick(all.filter(({ serial }) => serial !== 1)).serial).toBe(2);
    expect(balancer.pick([...all, { serial: 3, calls: 0 }]).serial).toBe(3);
    expect(balancer.pick(all).serial).toBe(0);
  });

  it('draws by lot', () => {
    const lots = [0, 0.34, 0.99];
    const balancer = createBalancer('random', () => lots.shift()!);
    expect([
      balancer.pick(of(0, 0, 0)).serial,
      balancer.pick(of(0, 0, 0)).serial,
      balancer.pick(of(0, 0, 0)).serial,
    ]).toEqual([0, 1, 2]);
  });
});
