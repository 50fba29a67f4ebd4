/**
 * `npm run bench`: every figure beside its floor, measured in the same run, in interleaved rounds. Writes bench/results.json and,
 * from it, bench/results.md. `-- --only cold,warm` runs some of the figures and leaves the others as they were. `-- --before <commit>`
 * puts the gateway of another commit beside this one (the figure `eras`).
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFile, rm, symlink } from 'node:fs/promises';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { containersOf, fixture } from '../test/e2e/engine.ts';
import { type GatewayProcess, startGateway } from '../test/e2e/gateway-process.ts';
import { root, run, temporaryFolder } from '../test/programs.ts';
import { eventually } from '../test/waiting.ts';
import { configurationOf, engine, startRaw } from './floor.ts';
import { LoadClient, type Spread, spread, throughput, time } from './load.ts';
import { type Figure, report } from './report.ts';

const { values: flags } = parseArgs({
  options: { only: { type: 'string' }, rounds: { type: 'string' }, before: { type: 'string' } },
});
const rounds = Number(flags.rounds ?? 15);
const figures: Figure[] = [];
const built: [string, ...string[]] = [process.execPath, join(root, 'dist/main.js')];

const echo = (server: string) => ({ name: `${server}__echo`, arguments: { text: 'x' } });
const state = async (id: string, server: string) => {
  const label = [`mcp-gateway.gateway=${id}`, `mcp-gateway.server=${server}`];
  return (await engine.listContainers({ all: true, filters: { label } })).map(({ State }) => State).join();
};

function record(figure: string, unit: string, value: Spread, floor: Spread | undefined, goal: string): void {
  const ratio = floor && value.median / floor.median;
  figures.push({
    figure,
    unit,
    value: value.median,
    spread: value,
    floor: floor?.median,
    ratio,
    goal,
    rounds,
  });
  console.log(
    `${figure}: ${value.median.toFixed(2)} ${unit}${ratio ? `, ${ratio.toFixed(2)} × floor` : ''} (goal ${goal})`,
  );
}

async function withGateway(
  config: string,
  measure: (gateway: GatewayProcess, client: LoadClient) => Promise<void>,
  program = built,
) {
  await using gateway = await startGateway({
    config,
    program,
    discovered: true,
    env: { LOG_LEVEL: 'warn' },
  });
  const client = await LoadClient.connect(`${gateway.url}/mcp`);
  await measure(gateway, client);
  client.close();
}

/** First call onto a server that does not run, against the same steps by dockerode alone. */
async function cold(): Promise<void> {
  const config = `servers:\n${fixture('cold', 'tiny.mjs', { idle_timeout: '300ms' })}`;
  await withGateway(config, async (gateway, client) => {
    const id = await gateway.id();
    const gone = () =>
      eventually(
        () => containersOf(id),
        (names) => names.length === 0,
      );
    await client.call('tools/call', echo('cold'));
    const like = await configurationOf(id, 'cold');
    const ours: number[] = [];
    const raws: number[] = [];
    for (let round = 0; round < rounds; round += 1) {
      await gone();
      ours.push(await time(() => client.call('tools/call', echo('cold'))));
      await gone();
      let raw: Awaited<ReturnType<typeof startRaw>> | undefined;
      raws.push(
        await time(async () => {
          raw = await startRaw(like);
          await raw.request('tools/call', { name: 'echo', arguments: { text: 'x' } });
        }),
      );
      await raw!.remove();
    }
    record('cold first call', 'ms', spread(ours), spread(raws), '≤ 1.10 × floor');
  });
}

/** First call onto a paused instance, against unpause and call. */
async function paused(): Promise<void> {
  const config = `servers:\n${fixture('nap', 'tiny.mjs', { pause_after: '200ms', idle_timeout: 'never' })}`;
  await withGateway(config, async (gateway, client) => {
    const id = await gateway.id();
    await client.call('tools/call', echo('nap'));
    const raw = await startRaw(await configurationOf(id, 'nap'));
    const ours: number[] = [];
    const raws: number[] = [];
    for (let round = 0; round < rounds; round += 1) {
      await eventually(
        () => state(id, 'nap'),
        (now) => now === 'paused',
      );
      ours.push(await time(() => client.call('tools/call', echo('nap'))));
      await raw.container.pause();
      raws.push(
        await time(async () => {
          await raw.container.unpause();
          await raw.request('tools/call', { name: 'echo', arguments: { text: 'x' } });
        }),
      );
    }
    await raw.remove();
    record('first call, paused', 'ms', spread(ours), spread(raws), '≤ 25 ms');
  });
}

/** A warm call, alone and 32 at once, against hono and an attached container without routing. */
async function warm(): Promise<void> {
  const config = `servers:\n${fixture('warm', 'tiny.mjs', { concurrency: 64 })}`;
  await withGateway(config, async (gateway, client) => {
    await client.call('tools/call', echo('warm'));
    const like = await configurationOf(await gateway.id(), 'warm');
    const floorProcess = spawn(process.execPath, [join(root, 'bench/floor-server.ts'), like.Id], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const [port] = await once(floorProcess.stdout, 'data');
    const floor = new LoadClient(`http://127.0.0.1:${String(port).trim()}/mcp`);
    const sides = [
      {
        work: () => client.call('tools/call', echo('warm')),
        latencies: [] as number[],
        rates: [] as number[],
      },
      {
        work: () => floor.call('tools/call', { name: 'echo', arguments: { text: 'x' } }),
        latencies: [] as number[],
        rates: [] as number[],
      },
    ];
    for (const { work } of sides) await throughput(32, 3000, work);
    for (let round = 0; round < rounds; round += 1) {
      for (const { work, latencies, rates } of sides) {
        const calls: number[] = [];
        for (let call = 0; call < 300; call += 1) calls.push(await time(work));
        latencies.push(spread(calls).median);
        rates.push(await throughput(32, 3000, work));
      }
    }
    record('warm call p50', 'ms', spread(sides[0]!.latencies), spread(sides[1]!.latencies), '≤ 1.25 × floor');
    record('calls/s at 32', '1/s', spread(sides[0]!.rates), spread(sides[1]!.rates), '≥ 0.80 × floor');
    floor.close();
    floorProcess.kill();
  });
}

/** A warm call of either era, against the one era of an earlier gateway. */
async function eras(): Promise<void> {
  const commit = flags.before;
  if (commit === undefined) {
    console.log('eras: skipped, as there is nothing to compare with; give --before <commit>');
    return;
  }
  await using earlier = await checkout(commit);
  const config = `servers:\n${fixture('warm', 'tiny.mjs', { concurrency: 64 })}`;
  await withGateway(config, async (gateway, legacy) => {
    const modern = LoadClient.modern(`${gateway.url}/mcp`);
    await withGateway(
      config,
      async (_, before) => {
        const sides = [legacy, modern, before].map((client) => ({
          work: () => client.call('tools/call', echo('warm')),
          latencies: [] as number[],
          rates: [] as number[],
        }));
        for (const { work } of sides) await throughput(32, 3000, work);
        for (let round = 0; round < rounds; round += 1) {
          for (const { work, latencies, rates } of sides) {
            const calls: number[] = [];
            for (let call = 0; call < 300; call += 1) calls.push(await time(work));
            latencies.push(spread(calls).median);
            rates.push(await throughput(32, 3000, work));
          }
        }
        const [now, nowModern, then] = sides.map(({ latencies, rates }) => [
          spread(latencies),
          spread(rates),
        ]);
        const goal = `≤ 1.05 × ${commit}`;
        record('warm call p50, legacy client, ÷ earlier', 'ms', now![0]!, then![0], goal);
        record('warm call p50, modern client, ÷ earlier', 'ms', nowModern![0]!, then![0], goal);
        record('calls/s at 32, legacy client, ÷ earlier', '1/s', now![1]!, then![1], `≥ 0.95 × ${commit}`);
        record(
          'calls/s at 32, modern client, ÷ earlier',
          '1/s',
          nowModern![1]!,
          then![1],
          `≥ 0.95 × ${commit}`,
        );
      },
      earlier.program,
    );
    modern.close();
  });
}

/** The gateway as it was at a commit, built with the packages of now. */
async function checkout(commit: string): Promise<{ program: [string, ...string[]] } & AsyncDisposable> {
  const folder = join(await temporaryFolder(), 'earlier');
  const git = async (...args: string[]) => {
    const { code, stderr } = await run('git', args, { cwd: root });
    if (code !== 0) throw new Error(stderr);
  };
  await git('worktree', 'add', '--detach', folder, commit);
  await symlink(join(root, 'node_modules'), join(folder, 'node_modules'));
  const { code, stdout } = await run('npm', ['run', '--silent', 'build'], { cwd: folder });
  if (code !== 0) throw new Error(stdout);
  return {
    program: [process.execPath, join(folder, 'dist/main.js')],
    [Symbol.asyncDispose]: () => git('worktree', 'remove', '--force', folder),
  };
}

/** 50 servers of 20 tools: lists, readiness with a kept catalog, memory. */
async function fifty(): Promise<void> {
  const folder = await temporaryFolder();
  const names = Array.from({ length: 50 }, (_, index) => `server-${index}`);
  const entries = names.map((name) =>
    fixture(name, 'paginates.mjs', { env: { TOTAL: '20', PAGE_SIZE: '20' } }),
  );
  const config = `servers:\n${entries.join('')}`;
  try {
    const first = await startGateway({ folder, config, program: built, discovered: true });
    const client = await LoadClient.connect(`${first.url}/mcp`);
    await eventually(
      async () => containersOf(await first.id()),
      (containers) => containers.length === 0,
      120_000,
    );
    const lists: number[] = [];
    for (let call = 0; call < 100 * rounds; call += 1)
      lists.push(await time(() => client.call('tools/list', {})));
    client.close();
    await first.end();
    record('tools/list, 50 × 20 tools', 'ms', spread(lists), undefined, 'p50 ≤ 1 ms');

    for (const [how, program] of [
      ['as shipped', built],
      ['from a checkout', [process.execPath, join(root, 'src/main.ts')]],
    ] as const) {
      const ready: number[] = [];
      const memory: number[] = [];
      for (let round = 0; round < 5; round += 1) {
        const startedAt = performance.now();
        await using gateway = await startGateway({
          folder,
          config,
          program: [...program],
          env: { LOG_LEVEL: 'warn' },
        });
        await eventually(
          async () => (await fetch(`${gateway.url}/health/ready`)).status,
          (status) => status === 200,
        );
        ready.push(performance.now() - startedAt);
        await new Promise((resolve) => setTimeout(resolve, 5000));
        const status = await readFile(`/proc/${gateway.process.pid}/status`, 'utf8');
        memory.push(Number(/VmRSS:\s+(\d+) kB/.exec(status)![1]) / 1024);
      }
      record(
        `ready, 50 servers, ${how}`,
        'ms',
        spread(ready),
        undefined,
        how === 'as shipped' ? '≤ 500 ms' : '–',
      );
      const goal = how === 'as shipped' ? '≤ 110 MB' : '≤ 130 MB';
      record(`memory, 50 servers idle, ${how}`, 'MB', spread(memory), undefined, goal);
    }
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** Large results, against the same read over a raw attach. */
async function large(): Promise<void> {
  const config = `servers:\n${fixture('large', 'everything.mjs')}`;
  await withGateway(config, async (gateway, client) => {
    await client.call('tools/call', echo('large'));
    const raw = await startRaw(await configurationOf(await gateway.id(), 'large'));
    for (const megabytes of [1, 10, 30]) {
      const ours: number[] = [];
      const raws: number[] = [];
      const big = { bytes: megabytes * 1_000_000 };
      for (let round = 0; round < Math.min(rounds, 7); round += 1) {
        ours.push(await time(() => client.call('tools/call', { name: 'large__big', arguments: big })));
        raws.push(await time(() => raw.request('tools/call', { name: 'big', arguments: big })));
      }
      record(`${megabytes} MB result`, 'ms', spread(ours), spread(raws), '≤ 3 × floor, linear');
    }
    await raw.remove();
  });
}

/** 1,000 sessions over 5 servers: every answer must be the caller's own. */
async function crowd(): Promise<void> {
  const names = ['a', 'b', 'c', 'd', 'e'];
  const config = `servers:\n${names.map((name) => fixture(name, 'tiny.mjs', { concurrency: 64 })).join('')}`;
  await withGateway(config, async (gateway) => {
    const clients: LoadClient[] = [];
    for (let count = 0; count < 1000; count += 1)
      clients.push(await LoadClient.connect(`${gateway.url}/mcp`));
    let lost = 0;
    let crossed = 0;
    let next = 0;
    const latencies: number[] = [];
    const work = async () => {
      const call = next++;
      const server = names[call % names.length]!;
      const text = `call-${call}-of-${server}-`;
      const startedAt = performance.now();
      try {
        const answer = await clients[call % clients.length]!.call('tools/call', {
          name: `${server}__echo`,
          arguments: { text },
        });
        if (!answer.includes(`"${text}"`)) crossed += 1;
      } catch {
        lost += 1;
      }
      latencies.push(performance.now() - startedAt);
    };
    const rate = await throughput(64, 100_000, work);
    for (const client of clients) client.close();
    const one = (value: number): Spread => ({ median: value, low: value, high: value });
    const sorted = latencies.sort((x, y) => x - y);
    record('1,000 sessions, 100,000 calls: lost', 'calls', one(lost), undefined, '0');
    record('1,000 sessions, 100,000 calls: crossed', 'calls', one(crossed), undefined, '0');
    record('1,000 sessions, 100,000 calls: rate', '1/s', one(rate), undefined, '–');
    record(
      '1,000 sessions, 100,000 calls: p99 ÷ p50',
      '×',
      one(sorted[99_000]! / sorted[50_000]!),
      undefined,
      '≤ 10',
    );
  });
}

const suites = { cold, paused, warm, eras, large, fifty, crowd };
const chosen = flags.only?.split(',') ?? Object.keys(suites);
const build = await run('npm', ['run', '--silent', 'build'], { cwd: root });
if (build.code !== 0) throw new Error(build.stdout + build.stderr);
for (const name of chosen) {
  const suite = suites[name as keyof typeof suites];
  if (!suite) throw new Error(`unknown figure ${name}; expected some of ${Object.keys(suites).join(', ')}`);
  await suite();
}
await report(figures, join(root, 'bench'));
