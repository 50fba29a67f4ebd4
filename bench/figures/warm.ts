import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { fixture } from '../../test/e2e/engine.ts';
import { root } from '../../test/programs.ts';
import { configurationOf } from '../floor.ts';
import { cpuMicroseconds, echo, rawEcho, shippedAt, withGateway } from '../gateway.ts';
import { LoadClient, spread, throughput, time } from '../load.ts';
import type { Bench } from '../run.ts';

const config = `servers:\n${fixture('warm', 'tiny.mjs', { concurrency: 64 })}`;
const aloneCalls = 300;
const crowdedCalls = 3000;

/** One way of making the call, and what each round of it took. */
class Side {
  readonly latencies: number[] = [];
  readonly rates: number[] = [];
  readonly cpu: number[] = [];
  readonly #call: () => Promise<unknown>;
  readonly #pid: number;

  constructor(client: LoadClient, params: object, pid: number) {
    this.#call = () => client.call('tools/call', params);
    this.#pid = pid;
  }

  async warmUp(): Promise<void> {
    await throughput(32, crowdedCalls, this.#call);
  }

  async round(): Promise<void> {
    const before = await cpuMicroseconds(this.#pid);
    const calls: number[] = [];
    for (let call = 0; call < aloneCalls; call += 1) calls.push(await time(this.#call));
    this.latencies.push(spread(calls).median);
    this.rates.push(await throughput(32, crowdedCalls, this.#call));
    this.cpu.push(((await cpuMicroseconds(this.#pid)) - before) / (aloneCalls + crowdedCalls));
  }
}

async function measure(sides: Side[], rounds: number): Promise<void> {
  for (const side of sides) await side.warmUp();
  for (let round = 0; round < rounds; round += 1) {
    const order = round % 2 === 0 ? sides : sides.toReversed();
    for (const side of order) await side.round();
  }
}

/** A warm call of either era, alone and 32 at once, against hono and an attached container without routing. */
export async function warm({ program, rounds, report }: Bench): Promise<void> {
  await withGateway(program, config, async (gateway, client) => {
    await client.call('tools/call', echo('warm'));
    const like = await configurationOf(await gateway.id(), 'warm');
    const floor = spawn(process.execPath, [join(root, 'bench/floor-server.ts'), like.Id], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    try {
      const [port] = await once(floor.stdout, 'data');
      const floorUrl = `http://127.0.0.1:${String(port).trim()}/mcp`;
      const modernClient = LoadClient.modern(`${gateway.url}/mcp`);
      const floorClient = new LoadClient(floorUrl);
      const modernFloorClient = LoadClient.modern(floorUrl);
      const { pid } = gateway.process;
      const ours = new Side(client, echo('warm'), pid!);
      const modern = new Side(modernClient, echo('warm'), pid!);
      const raw = new Side(floorClient, rawEcho, floor.pid!);
      const rawModern = new Side(modernFloorClient, rawEcho, floor.pid!);
      await measure([ours, raw, modern, rawModern], rounds);
      report.record('warm call p50', ours.latencies, raw.latencies);
      report.record('warm call p50, modern client', modern.latencies, rawModern.latencies);
      report.record('calls/s at 32', ours.rates, raw.rates);
      report.record('calls/s at 32, modern client', modern.rates, rawModern.rates);
      report.record('CPU per call', ours.cpu, raw.cpu);
      report.record('CPU per call, modern client', modern.cpu, rawModern.cpu);
      for (const one of [modernClient, floorClient, modernFloorClient]) one.close();
    } finally {
      floor.kill();
    }
  });
}

/** A warm call of either era, against the legacy one of an earlier gateway. */
export async function eras({ program, rounds, report, before }: Bench): Promise<void> {
  if (before === undefined) {
    console.log('eras: skipped, as there is nothing to compare with; give --before <commit>');
    return;
  }
  await using earlier = await shippedAt(before);
  await withGateway(program, config, (gateway, client) =>
    withGateway(earlier.program, config, async (earlierGateway, earlierClient) => {
      const modernClient = LoadClient.modern(`${gateway.url}/mcp`);
      const legacy = new Side(client, echo('warm'), gateway.process.pid!);
      const modern = new Side(modernClient, echo('warm'), gateway.process.pid!);
      const then = new Side(earlierClient, echo('warm'), earlierGateway.process.pid!);
      await measure([legacy, modern, then], rounds);
      report.record('warm call p50, legacy client, ÷ earlier', legacy.latencies, then.latencies);
      report.record('warm call p50, modern client, ÷ earlier', modern.latencies, then.latencies);
      report.record('calls/s at 32, legacy client, ÷ earlier', legacy.rates, then.rates);
      report.record('calls/s at 32, modern client, ÷ earlier', modern.rates, then.rates);
      modernClient.close();
    }),
  );
}
