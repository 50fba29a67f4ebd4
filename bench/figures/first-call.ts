import { fixture } from '../../test/e2e/engine.ts';
import { eventually } from '../../test/waiting.ts';
import { configurationOf, engine, startRaw } from '../floor.ts';
import { containerStates, echo, rawEcho, stopped, withGateway } from '../gateway.ts';
import { interleaved, time } from '../load.ts';
import type { Bench } from '../run.ts';

/** First call onto a server that does not run, against the same steps by dockerode alone. */
export async function cold({ program, rounds, report }: Bench): Promise<void> {
  const config = `servers:\n${fixture('cold', 'tiny.mjs', { idle_timeout: '300ms' })}${fixture('kept', 'tiny.mjs', { idle_timeout: '300ms', sandbox: 'keep' })}`;
  await withGateway(program, config, async (gateway, client) => {
    const atRest = async () => {
      await stopped(gateway, 'cold');
      await stopped(gateway, 'kept');
    };
    const firstCall = (server: string) => async () => {
      await atRest();
      return time(() => client.call('tools/call', echo(server)));
    };
    await client.call('tools/call', echo('cold'));
    const like = await configurationOf(await gateway.id(), 'cold');
    await client.call('tools/call', echo('kept'));
    const label = [`mcp-gateway.gateway=${await gateway.id()}`, 'mcp-gateway.sandbox=kept'];
    await eventually(
      () => engine.listContainers({ filters: { label } }),
      (sandboxes) => sandboxes.length > 0,
    );
    const raw = async () => {
      await atRest();
      let instance: Awaited<ReturnType<typeof startRaw>> | undefined;
      const ms = await time(async () => {
        instance = await startRaw(like);
        await instance.request('tools/call', rawEcho);
      });
      await instance!.remove();
      return ms;
    };
    const sides = [firstCall('cold'), raw, firstCall('kept')];
    const [ours, raws, kept] = await interleaved(rounds, sides);
    report.record('cold first call', ours!, raws);
    report.record('cold first call, sandbox kept', kept!, raws);
  });
}

/** First call onto a paused instance and onto a standby spare, against unpause and call. */
export async function resumed({ program, rounds, report }: Bench): Promise<void> {
  const napping = fixture('nap', 'tiny.mjs', { pause_after: '200ms', idle_timeout: 'never' });
  const spared = fixture('spare', 'tiny.mjs', { idle_timeout: '300ms', pool: { standby: 1 } });
  await withGateway(program, `servers:\n${napping}${spared}`, async (gateway, client) => {
    const id = await gateway.id();
    const isPaused = (server: string, limitMs?: number) =>
      eventually(
        () => containerStates(id, server),
        (states) => states === 'paused',
        limitMs,
      );
    await client.call('tools/call', echo('nap'));
    await client.call('tools/call', echo('spare'));
    await isPaused('nap');
    const hasSpare = await isPaused('spare', 15_000).then(
      () => true,
      () => false,
    );
    const firstCall = (server: string) => async () => {
      await isPaused('nap');
      if (hasSpare) await isPaused('spare');
      return time(() => client.call('tools/call', echo(server)));
    };
    const raw = await startRaw(await configurationOf(id, 'nap'));
    const rawCall = async () => {
      await isPaused('nap');
      if (hasSpare) await isPaused('spare');
      await raw.container.pause();
      return time(async () => {
        await raw.container.unpause();
        await raw.request('tools/call', rawEcho);
      });
    };
    try {
      const sides = [firstCall('nap'), rawCall, ...(hasSpare ? [firstCall('spare')] : [])];
      const [naps, raws, spares] = await interleaved(rounds, sides);
      report.record('first call, paused', naps!, raws);
      if (spares) report.record('first call, standby', spares, raws);
      else report.missing('first call, standby', 'no paused spare within 15 s');
    } finally {
      await raw.remove();
    }
  });
}
