import { fixture } from '../../test/e2e/engine.ts';
import { configurationOf, startRaw } from '../floor.ts';
import { echo, withGateway } from '../gateway.ts';
import { interleaved, spread, time } from '../load.ts';
import type { Bench } from '../run.ts';

const sizes = [1, 10, 30] as const;

/** Large results, against the same read over a raw attach. */
export async function large({ program, rounds, report }: Bench): Promise<void> {
  const config = `servers:\n${fixture('large', 'everything.mjs')}`;
  await withGateway(program, config, async (gateway, client) => {
    await client.call('tools/call', echo('large'));
    const raw = await startRaw(await configurationOf(await gateway.id(), 'large'));
    const perMegabyte = new Map<number, { ours: number; raw: number }>();
    try {
      for (const megabytes of sizes) {
        const big = { bytes: megabytes * 1_000_000 };
        const [ours, raws] = await interleaved(Math.min(rounds, 7), [
          () => time(() => client.call('tools/call', { name: 'large__big', arguments: big })),
          () => time(() => raw.request('tools/call', { name: 'big', arguments: big })),
        ]);
        report.record(`${megabytes} MB result`, ours!, raws);
        perMegabyte.set(megabytes, {
          ours: spread(ours!).median / megabytes,
          raw: spread(raws!).median / megabytes,
        });
      }
    } finally {
      await raw.remove();
    }
    const [small, big] = [perMegabyte.get(1)!, perMegabyte.get(30)!];
    report.record('ms per MB, 30 MB ÷ 1 MB', [big.ours / small.ours], [big.raw / small.raw]);
  });
}
