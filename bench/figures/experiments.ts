import http from 'node:http';
import { join } from 'node:path';
import Docker from 'dockerode';
import { fixture } from '../../test/e2e/engine.ts';
import { root } from '../../test/programs.ts';
import { configurationOf, createRaw, engine, startRaw, type Variation } from '../floor.ts';
import { echo, rawEcho, withGateway } from '../gateway.ts';
import { interleaved, time } from '../load.ts';
import type { Bench } from '../run.ts';

const socketPath = '/var/run/docker.sock';

/**
 * What a start could do otherwise, by dockerode alone: from create to the answer of the first call, with the configuration that the
 * gateway gives a server, against the same as it is. bench/experiments.md says what became of each.
 */
export async function starts({ program, rounds, report }: Bench): Promise<void> {
  const config = `servers:\n${fixture('plain', 'tiny.mjs')}${fixture('alone', 'tiny.mjs', { network: 'none' })}`;
  await withGateway(program, config, async (gateway, client) => {
    const id = await gateway.id();
    const likes = [];
    for (const server of ['plain', 'alone']) {
      await client.call('tools/call', echo(server));
      likes.push(await configurationOf(id, server));
    }
    const [like, alone] = likes as [Docker.ContainerInspectInfo, Docker.ContainerInspectInfo];
    const holder = await startRaw(like);
    const loner = await startRaw(alone);
    const joining = (container: Docker.Container) => ({ NetworkMode: `container:${container.id}` });
    const unpooled = new Docker({ socketPath, ...{ agent: new http.Agent({ keepAlive: false }) } });
    const plain = started(like);
    const sides = [
      plain,
      started(like, async () => ({ container: await createRaw(like) })),
      started(like, { hostConfig: joining(holder.container) }),
      started(like, { isEager: true }),
      started(like, { docker: unpooled }),
      started(alone),
      started(alone, { hostConfig: joining(loner.container) }),
    ];
    const { Runtimes = {} } = (await engine.info()) as { Runtimes?: object };
    const hasCrun = 'crun' in Runtimes;
    if (hasCrun) sides.push(started(like, { hostConfig: { Runtime: 'crun' } }));
    try {
      const [asIs, ahead, kept, eager, fresh, none, keptNone, crun] = await interleaved(rounds, sides);
      report.record('start, container created ahead', ahead!, asIs);
      report.record('start, network kept', kept!, asIs);
      report.record('start, network none kept', keptNone!, none);
      report.record('start, initialize written before it', eager!, asIs);
      report.record('start, a connection for each request', fresh!, asIs);
      if (crun) report.record('start, OCI runtime crun', crun, asIs);
      else report.missing('start, OCI runtime crun', 'this engine has none of that name');
    } finally {
      await Promise.all([holder.remove(), loner.remove()]);
    }
  });
}

/** An SDK-based server, with Node's compile cache baked into its image and without. */
export async function compileCache({ program, rounds, report }: Bench): Promise<void> {
  const entry = { image: 'mcp-context7', build: join(root, 'servers/context7') };
  await withGateway(program, `servers:\n  sdk: ${JSON.stringify(entry)}\n`, async (gateway, client) => {
    // Whatever it answers: it has to run to be looked at.
    await client.call('tools/call', { name: 'sdk__search_code_examples', arguments: {} }).catch(() => {});
    const like = await configurationOf(await gateway.id(), 'sdk');
    const without = { env: ['NODE_DISABLE_COMPILE_CACHE=1'] };
    const sides = [started(like, {}, listTools), started(like, without, listTools)];
    const [cached, uncached] = await interleaved(rounds, sides);
    report.record('start of an SDK-based server, compile cache', cached!, uncached);
  });
}

const listTools = { method: 'tools/list', params: {} };
const callEcho = { method: 'tools/call', params: rawEcho };

/** One start and its first request, in milliseconds; what is made by `vary` itself is not counted. */
function started(
  like: Docker.ContainerInspectInfo,
  vary: Variation | (() => Promise<Variation>) = {},
  { method, params }: { method: string; params: object } = callEcho,
): () => Promise<number> {
  return async () => {
    const variation = typeof vary === 'function' ? await vary() : vary;
    let instance: Awaited<ReturnType<typeof startRaw>> | undefined;
    const ms = await time(async () => {
      instance = await startRaw(like, variation);
      await instance.request(method, params);
    });
    await instance!.remove();
    return ms;
  };
}
