import { expect, it } from 'vitest';
import { report, runSuite } from './suite.ts';

const { CHAOS_SEED, CHAOS_CONTAINERS = '6' } = process.env;
const seed = CHAOS_SEED === undefined ? Math.floor(Math.random() * 1e9) : Number(CHAOS_SEED);

it(`every promise is kept by a real gateway and real containers, from seed ${seed} on`, async () => {
  const found = await runSuite({ level: 'containers', seed, count: Number(CHAOS_CONTAINERS), parallel: 3 });
  if (found) throw new Error(report('containers', found));
  expect(found).toBeUndefined();
}, 1_800_000);
