import { rm } from 'node:fs/promises';
import { containersOf, fixture } from '../../test/e2e/engine.ts';
import { startGateway } from '../../test/e2e/gateway-process.ts';
import { temporaryFolder } from '../../test/programs.ts';
import { eventually } from '../../test/waiting.ts';
import { configurationOf, type RawInstance, startRaw } from '../floor.ts';
import { echo, fromCheckout, rawEcho, residentMegabytes, withGateway } from '../gateway.ts';
import { interleaved, LoadClient, throughput, time } from '../load.ts';
import type { Bench } from '../run.ts';

const quiet = { LOG_LEVEL: 'warn' };

/** 50 servers of 20 tools: lists, readiness with a kept catalog, memory. */
export async function fifty({ program, rounds, report }: Bench): Promise<void> {
  const folder = await temporaryFolder();
  const names = Array.from({ length: 50 }, (_, index) => `server-${index}`);
  const entries = names.map((name) =>
    fixture(name, 'paginates.mjs', { env: { TOTAL: '20', PAGE_SIZE: '20' } }),
  );
  const config = `servers:\n${entries.join('')}`;
  try {
    const first = await startGateway({ folder, config, program, discovered: true });
    const client = await LoadClient.connect(`${first.url}/mcp`);
    await noContainers(await first.id());
    const lists: number[] = [];
    for (let call = 0; call < 100 * rounds; call += 1)
      lists.push(await time(() => client.call('tools/list', {})));
    client.close();
    await first.end();
    report.record('tools/list, 50 × 20 tools', lists);

    const ready: number[][] = [[], []];
    const memory = await interleaved(
      Math.min(rounds, 5),
      [program, fromCheckout].map((which, index) => async () => {
        const startedAt = performance.now();
        await using gateway = await startGateway({ folder, config, program: which, env: quiet });
        await eventually(
          async () => (await fetch(`${gateway.url}/health/ready`)).status,
          (status) => status === 200,
        );
        ready[index]!.push(performance.now() - startedAt);
        await new Promise((resolve) => setTimeout(resolve, 5000));
        return residentMegabytes(gateway.process.pid!);
      }),
    );
    report.record('ready, 50 servers, as shipped', ready[0]!);
    report.record('memory, 50 servers idle, as shipped', memory[0]!);
    report.record('ready, 50 servers, from a checkout', ready[1]!);
    report.record('memory, 50 servers idle, from a checkout', memory[1]!);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** A first call to each of 100 servers at once, against 100 such starts by dockerode alone, as many at the same time. */
export async function hundred({ program, rounds, report }: Bench): Promise<void> {
  const parallelStarts = 4;
  const folder = await temporaryFolder();
  const names = Array.from({ length: 100 }, (_, index) => `server-${index}`);
  const entries = names.map((name) => fixture(name, 'tiny.mjs', { idle_timeout: 'never' }));
  const config = `gateway: {max_instances: 100, parallel_starts: ${parallelStarts}}\nservers:\n${entries.join('')}`;
  try {
    const first = await startGateway({ folder, config, program, env: quiet, discovered: true });
    const id = await first.id();
    const client = await LoadClient.connect(`${first.url}/mcp`);
    await client.call('tools/call', echo(names[0]!));
    const like = await configurationOf(id, names[0]!);
    client.close();
    await first.end();

    const answered: number[] = [];
    // Each round is another run of the gateway: with its catalog kept, nothing runs when the calls come.
    const ours = async () => {
      await noContainers(id);
      await using gateway = await startGateway({ folder, config, program, env: quiet, discovered: true });
      const caller = await LoadClient.connect(`${gateway.url}/mcp`);
      let answers = 0;
      const ms = await time(() =>
        Promise.all(
          names.map((name) =>
            caller.call('tools/call', echo(name)).then(
              () => (answers += 1),
              (error) => console.log(`${name}: ${error}`),
            ),
          ),
        ),
      );
      answered.push(answers);
      caller.close();
      return ms / 1000;
    };
    const raw = async () => {
      await noContainers(id);
      const instances: RawInstance[] = [];
      const startOne = async () => {
        const instance = await startRaw(like);
        instances.push(instance);
        await instance.request('tools/call', rawEcho);
      };
      const ms = await time(() => throughput(parallelStarts, names.length, startOne));
      await throughput(parallelStarts, instances.length, () => instances.pop()!.remove());
      return ms / 1000;
    };
    const [times, raws] = await interleaved(Math.min(rounds, 3), [ours, raw]);
    report.record('100 servers at once: answered', [Math.min(...answered)]);
    report.record('100 servers at once', times!, raws);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** 1,000 sessions over 5 servers, and 250 clients without sessions among them: every answer must be the caller's own. */
export async function crowd({ program, report }: Bench): Promise<void> {
  const names = ['a', 'b', 'c', 'd', 'e'];
  const total = 100_000;
  const config = `servers:\n${names.map((name) => fixture(name, 'tiny.mjs', { concurrency: 64 })).join('')}`;
  await withGateway(program, config, async (gateway) => {
    const url = `${gateway.url}/mcp`;
    const clients: LoadClient[] = [];
    for (let count = 1; count <= 1000; count += 1) {
      clients.push(await LoadClient.connect(url));
      if (count % 4 === 0) clients.push(LoadClient.modern(url));
    }
    let lost = 0;
    let crossed = 0;
    let next = 0;
    const latencies: number[] = [];
    const work = async () => {
      const call = next++;
      const server = names[Math.floor(call / clients.length + call) % names.length]!;
      const text = `call-${call}-of-${server}-`;
      const params = { name: `${server}__echo`, arguments: { text } };
      const startedAt = performance.now();
      try {
        const answer = await clients[call % clients.length]!.call('tools/call', params);
        if (!answer.includes(`"${text}"`)) crossed += 1;
      } catch (error) {
        if (lost === 0) console.log(`first lost: ${error}`);
        lost += 1;
      }
      latencies.push(performance.now() - startedAt);
    };
    const rate = await throughput(64, total, work);
    for (const client of clients) client.close();
    const sorted = latencies.sort((x, y) => x - y);
    report.record('1,000 sessions, 100,000 calls: lost', [lost]);
    report.record('1,000 sessions, 100,000 calls: crossed', [crossed]);
    report.record('1,000 sessions, 100,000 calls: rate', [rate]);
    report.record('1,000 sessions, 100,000 calls: p99 ÷ p50', [sorted[total * 0.99]! / sorted[total * 0.5]!]);
  });
}

/** Resolves when nothing of a gateway is left on the engine. */
async function noContainers(gatewayId: string): Promise<void> {
  await eventually(
    () => containersOf(gatewayId),
    (containers) => containers.length === 0,
    120_000,
  );
}
