import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { NotWritten } from '../../src/runtimes/runtime.ts';
import { until } from '../waiting.ts';
import { buildImage, engine, exists, fixtureServer, isPodman, removeImage, TestRuntime } from './harness.ts';

let test: TestRuntime;
beforeAll(async () => {
  test = await TestRuntime.create();
  await test.runtime.prepare(fixtureServer('any'), {});
  await buildImage('mcp-test-swallows', 'FROM mcp-fixtures\nENTRYPOINT ["node"]\n');
});
afterAll(async () => {
  await test.dispose();
  await removeImage('mcp-test-swallows');
});

const program = (file: string) => ({ command: ['node', file] });
const script = (code: string) => ({ command: ['node', '-e', code] });

describe('an instance', () => {
  it('answers, and is gone with its container once it is stopped', async () => {
    const running = await test.start(fixtureServer('answers'));
    expect(await running.handshake()).toMatchObject({ result: { serverInfo: { name: 'tiny' } } });
    expect(await running.call('echo', { text: 'grüße 🙂' })).toBe('grüße 🙂');
    const { memoryBytes, cpuPercent } = await running.instance.stats();
    expect(memoryBytes).toBeGreaterThan(1024 ** 2);
    expect(memoryBytes).toBeLessThan(512 * 1024 ** 2);
    expect(cpuPercent).toBeGreaterThan(0);
    await running.instance.stop({ graceMs: 5_000 });
    expect(await exists(running.name)).toBe(false);
    expect(await running.instance.exited).toEqual({ code: 0 });
    await running.instance.stop({ graceMs: 5_000 });
    await expect(running.instance.send({ jsonrpc: '2.0', method: 'x' })).rejects.toBeInstanceOf(NotWritten);
  });

  it('keeps every digit of numbers that a double cannot carry', async () => {
    const echo = `process.stdin.on('data', (d) => process.stdout.write('{"jsonrpc":"2.0","id":1,"result":{"n":12345678901234567890}}\\n'))`;
    const running = await test.start(fixtureServer('digits', script(echo)));
    expect(JSON.stringify(await running.request('any'))).toContain('"n":12345678901234567890');
    await running.instance.stop({ graceMs: 1_000 });
  });

  it('is frozen and goes on, however often that is said', async () => {
    const running = await test.start(fixtureServer('frozen'));
    await running.handshake();
    await running.instance.pause();
    await running.instance.pause();
    expect((await running.inspect()).State.Paused).toBe(true);
    await running.instance.resume();
    await running.instance.resume();
    expect(await running.call('echo', { text: 'awake' })).toBe('awake');
    await running.instance.pause();
    await running.instance.stop({ graceMs: 5_000 });
    expect(await exists(running.name)).toBe(false);
  });

  it('that somebody else has frozen is thawed by the next message', async () => {
    const running = await test.start(fixtureServer('elsewhere'));
    await running.handshake();
    await engine.getContainer(running.name).pause();
    // The engine tells of it a moment later.
    await new Promise((resolve) => setTimeout(resolve, 500));
    expect(await running.call('echo', { text: 'awake' })).toBe('awake');
    expect((await running.inspect()).State.Paused).toBe(false);
    await running.instance.stop({ graceMs: 1_000 });
  });

  it('that ignores the end of its input and SIGTERM is forced after its grace', async () => {
    const running = await test.start(fixtureServer('stubborn', program('ignores-sigterm.mjs')));
    await running.handshake();
    const startedMs = Date.now();
    await running.instance.stop({ graceMs: 1_500 });
    expect(Date.now() - startedMs).toBeGreaterThanOrEqual(1_400);
    expect(await exists(running.name)).toBe(false);
    expect(await running.instance.exited).toMatchObject({ code: 137, signal: 'SIGKILL' });
  });

  it('that is being stopped patiently is forced by a less patient caller', async () => {
    const running = await test.start(fixtureServer('impatient', program('ignores-sigterm.mjs')));
    await running.handshake();
    const startedMs = Date.now();
    const patient = running.instance.stop({ graceMs: 60_000 });
    await running.instance.stop({ graceMs: 0 });
    await patient;
    expect(Date.now() - startedMs).toBeLessThan(30_000);
    expect(await exists(running.name)).toBe(false);
  });
});

describe('what an instance uses', () => {
  const busy = script(
    `setInterval(() => { for (const until = Date.now() + 90; Date.now() < until; ); }, 100)`,
  );

  it('is measured anew each time, over the time since it was measured last', async () => {
    const running = await test.start(fixtureServer('busy', busy));
    await running.instance.stats();
    await new Promise((resolve) => setTimeout(resolve, 1500));
    const { memoryBytes, cpuPercent } = await running.instance.stats();
    expect(memoryBytes).toBeGreaterThan(1_000_000);
    // On a machine that has other things to do it gets less than the 90 % that it asks for.
    expect(cpuPercent).toBeGreaterThan(1);
    expect(cpuPercent).toBeLessThan(200);
    const [one, other] = await Promise.all([running.instance.stats(), running.instance.stats()]);
    expect(one).toBe(other);
  });

  it('is known of a frozen one, and not of one that is gone', async () => {
    const running = await test.start(fixtureServer('cold'));
    await running.handshake();
    await running.instance.pause();
    const { memoryBytes } = await running.instance.stats();
    expect(memoryBytes).toBeGreaterThan(1_000_000);
    await running.instance.resume();
    await running.instance.stop({ graceMs: 0 });
    await expect(running.instance.stats()).rejects.toThrow(/no figures|No such container/i);
  });
});

describe('an instance that dies', () => {
  it('says its exit code and its last words', async () => {
    const running = await test.start(
      fixtureServer(
        'crashes',
        script(`console.error('first'); console.error('last words'); process.exit(3)`),
      ),
    );
    await running.instance.ended;
    expect(running.instance.stderrTail()).toEqual(['first', 'last words']);
    expect(await running.instance.exited).toMatchObject({ code: 3 });
    await until(async () => !(await exists(running.name)), 'it is removed');
  });

  it('under docker rm -f ends at once', async () => {
    const running = await test.start(fixtureServer('removed'));
    await running.handshake();
    await engine.getContainer(running.name).remove({ force: true });
    await running.instance.ended;
    expect(await running.instance.exited).toMatchObject({ code: 137, signal: 'SIGKILL' });
    // Podman tells nobody why: there it looks as if the memory had run out.
    if (!isPodman) expect((await running.instance.exited).outOfMemory).toBeUndefined();
  });

  it('of its memory limit says so', async () => {
    const hog = `const kept = []; setInterval(() => kept.push(Buffer.alloc(16 << 20, 1)), 5)`;
    const running = await test.start(
      fixtureServer('hungry', {
        ...script(hog),
        limits: { memoryBytes: 64 * 1024 ** 2, cpus: 1, pids: 64 },
      }),
    );
    expect(await running.instance.exited).toEqual({
      code: 137,
      signal: 'SIGKILL',
      outOfMemory: true,
      hint: expect.stringContaining('limits.memory (now 64m)'),
    });
  });

  it('of V8’s own limit says so too', async () => {
    const hog = `const kept = []; for (;;) kept.push({ a: [1, 2, 3] })`;
    const running = await test.start(
      fixtureServer('heap', { command: ['node', '--max-old-space-size=20', '-e', hog] }),
    );
    expect(await running.instance.exited).toMatchObject({
      outOfMemory: true,
      hint: expect.stringContaining('limits.memory'),
    });
  });

  it('on its read-only root is told how to get a writable place', async () => {
    const running = await test.start(fixtureServer('eperm', program('eperm.mjs')));
    expect(await running.instance.exited).toMatchObject({
      code: 1,
      hint: expect.stringMatching(/\/app\/state\.json.*read_only: false/),
    });
  });

  it('for want of a permission is told as whom it ran', async () => {
    const denied = `require('node:fs').writeFileSync('/app/x', '')`;
    const running = await test.start(fixtureServer('denied', { ...script(denied), readOnly: false }));
    expect(await running.instance.exited).toMatchObject({
      code: 1,
      hint: expect.stringMatching(/65534:65534.*\/app\/x/),
    });
  });

  it('because the ENTRYPOINT took its command is told which', async () => {
    const running = await test.start(
      fixtureServer('swallowed', { image: 'mcp-test-swallows', build: undefined }),
    );
    expect(await running.instance.exited).toMatchObject({
      code: 1,
      hint: expect.stringMatching(/ENTRYPOINT \["node"\].*`entrypoint`/),
    });
  });

  it('for want of a module is told its name', async () => {
    const running = await test.start(fixtureServer('lacking', program('no-such-file.mjs')));
    expect(await running.instance.exited).toMatchObject({
      code: 1,
      hint: expect.stringContaining('/app/no-such-file.mjs'),
    });
  });

  it('leaves its stderr behind, also for a gateway that starts later', async () => {
    const server = fixtureServer('remembered', script(`console.error('kept line'); process.exit(1)`));
    const running = await test.start(server);
    await running.instance.exited;
    const lines = async () => {
      const all: string[] = [];
      for await (const line of test.runtime.logs(server, { tail: 10 })) all.push(line);
      return all;
    };
    await until(async () => (await lines()).includes('kept line'), 'the line is kept');
    const later = new TestRuntime(test.stateDir, {});
    const all: string[] = [];
    for await (const line of later.runtime.logs(server, { tail: 1 })) all.push(line);
    await later.runtime.close();
    expect(all).toEqual(['kept line']);
  });
});

describe('a start that fails', () => {
  const containers = async () =>
    (
      await engine.listContainers({
        all: true,
        filters: { label: [`mcp-gateway.gateway=${test.gatewayId}`, 'mcp-gateway.server=fails'] },
      })
    ).map(({ Names }) => Names[0]);

  it('for a command that is not there names it and leaves nothing behind', async () => {
    await expect(
      test.start(fixtureServer('fails', { command: undefined, entrypoint: ['nodee'] })),
    ).rejects.toMatchObject({
      code: 'start_failed',
      message: expect.stringContaining('nodee'),
      hint: expect.stringContaining('entrypoint'),
    });
    expect(await containers()).toEqual([]);
  });

  it('for a user that the image does not know says so', async () => {
    await expect(test.start(fixtureServer('fails', { user: 'nobody-here' }))).rejects.toMatchObject({
      code: 'start_failed',
      message: expect.stringContaining('nobody-here'),
      hint: expect.stringContaining('1000:1000'),
    });
    expect(await containers()).toEqual([]);
  });

  it('because the caller gave up leaves nothing behind, whenever that was', async () => {
    const server = fixtureServer('fails');
    const prepared = await test.runtime.prepare(server, {});
    const options = { onMessage: () => {}, onNoise: () => {} };
    for (const afterMs of [0, 2, 5, 10, 20, 40, 80, 160]) {
      const signal = AbortSignal.timeout(afterMs);
      const started = await test.runtime.start(server, prepared, { ...options, signal }).catch((error) => {
        expect(error.name).toBe('TimeoutError');
        return undefined;
      });
      await started?.stop({ graceMs: 0 });
      expect(await containers()).toEqual([]);
    }
  });

  it('long after its start an aborted signal changes nothing', async () => {
    const abort = new AbortController();
    const server = fixtureServer('outlives');
    const prepared = await test.runtime.prepare(server, {});
    const answered = Promise.withResolvers<unknown>();
    const instance = await test.runtime.start(server, prepared, {
      signal: abort.signal,
      onMessage: answered.resolve,
      onNoise: () => {},
    });
    abort.abort();
    await instance.send({ jsonrpc: '2.0', id: 1, method: 'ping' });
    expect(await answered.promise).toEqual({ jsonrpc: '2.0', id: 1, result: {} });
    await instance.stop({ graceMs: 1_000 });
  });
});

describe('output', () => {
  it('that is no message is told as noise, and the messages around it arrive', async () => {
    const running = await test.start(fixtureServer('garbage', program('garbage-lines.mjs')));
    expect(await running.handshake()).toHaveProperty('result');
    expect(running.noise.length).toBeGreaterThan(0);
    expect(running.noise.every(({ kind }) => kind === 'garbage')).toBe(true);
    await running.instance.stop({ graceMs: 1_000 });
  });

  it('of 64 KiB lines without end is dropped in bounded memory while others are served', async () => {
    const small = await TestRuntime.create({ gateway: { maxMessageBytes: 1 << 20 } });
    try {
      const other = await small.start(fixtureServer('calm'));
      await other.handshake();
      const endless = `const b = Buffer.alloc(1 << 20, 'a'); const w = () => { while (process.stdout.write(b)); process.stdout.once('drain', w) }; w()`;
      const before = process.memoryUsage().rss;
      const running = await small.start(fixtureServer('endless', script(endless)));
      await until(() => running.noise.length > 0, 'the endless line is reported');
      for (let count = 0; count < 20; count += 1) expect(await other.call('echo', { text: 'x' })).toBe('x');
      expect(running.noise[0]).toMatchObject({ kind: 'oversize' });
      expect(running.noise[0]!.bytes).toBeGreaterThan(1 << 20);
      expect(process.memoryUsage().rss - before).toBeLessThan(200 * 1024 ** 2);
      await running.instance.stop({ graceMs: 500 });
      expect(await exists(running.name)).toBe(false);
    } finally {
      await small.dispose();
    }
  });

  it('in a flood leaves the event loop and the other servers their turn', async () => {
    const other = await test.start(fixtureServer('unbothered'));
    await other.handshake();
    const flood = `const line = JSON.stringify({ jsonrpc: '2.0', method: 'notifications/x', params: { text: 'a'.repeat(50) } }) + '\\n'; const b = line.repeat(2000); const w = () => { while (process.stdout.write(b)); process.stdout.once('drain', w) }; w()`;
    const running = await test.start(fixtureServer('floods', script(flood)));
    await until(() => running.received.length > 10_000, 'the flood is here');
    let longest = 0;
    let last = performance.now();
    const timer = setInterval(() => {
      longest = Math.max(longest, performance.now() - last);
      last = performance.now();
    }, 1);
    for (let count = 0; count < 50; count += 1) expect(await other.call('echo', { text: 'x' })).toBe('x');
    clearInterval(timer);
    // 2 ms slices, a noisy machine.
    expect(longest).toBeLessThan(500);
    await running.instance.stop({ graceMs: 500 });
    expect(await exists(running.name)).toBe(false);
    await other.instance.stop({ graceMs: 1_000 });
  });

  it('of 10 MB arrives whole, in time that grows with its size only', async () => {
    const big = `let n = 0; process.stdin.on('data', (d) => { for (const l of String(d).split('\\n')) { if (!l) continue; const { id, params } = JSON.parse(l); process.stdout.write(JSON.stringify({ jsonrpc: '2.0', id, result: { text: 'x'.repeat(params.size) } }) + '\\n'); } })`;
    const running = await test.start(fixtureServer('big', script(big)));
    const took = async (size: number) => {
      const startedMs = performance.now();
      const answer = await running.request('big', { size });
      const elapsedMs = performance.now() - startedMs;
      expect('result' in answer && (answer.result.text as string).length).toBe(size);
      return elapsedMs;
    };
    await took(1_000_000);
    const small = Math.min(await took(4_000_000), await took(4_000_000), await took(4_000_000));
    const large = Math.min(await took(32_000_000), await took(32_000_000), await took(32_000_000));
    // Eight times the size; a quadratic reader would take 64 times as long.
    expect(large / small).toBeLessThan(40);
    await running.instance.stop({ graceMs: 1_000 });
  });

  it('goes in whole as well, 10 MB at once', async () => {
    const running = await test.start(fixtureServer('swallow'));
    await running.handshake();
    const text = 'y'.repeat(10_000_000);
    expect(await running.call('echo', { text })).toBe(text);
    await running.instance.stop({ graceMs: 1_000 });
  });

  it('on stderr is seen by docker logs and by our own, also while it is followed', async () => {
    const server = fixtureServer(
      'talks',
      script(
        `for (let i = 0; i < 300; i++) console.error('line ' + i); process.stdin.on('data', (d) => console.error('heard ' + String(d).trim().length))`,
      ),
    );
    const running = await test.start(server);
    await until(() => running.instance.stderrTail().includes('line 299'), 'its lines');
    expect(running.instance.stderrTail()).toHaveLength(100);
    const recent: string[] = [];
    for await (const line of test.runtime.logs(server, { tail: 250 })) recent.push(line);
    expect(recent).toHaveLength(250);
    expect(recent.at(-1)).toBe('line 299');
    const raw = await engine.getContainer(running.name).logs({ stdout: false, stderr: true, tail: 1 });
    expect(raw.subarray(8).toString()).toBe('line 299\n');

    const stop = new AbortController();
    const followed: string[] = [];
    const following = (async () => {
      for await (const line of test.runtime.logs(server, { tail: 1, follow: true, signal: stop.signal })) {
        followed.push(line);
      }
    })();
    await until(() => followed.length === 1, 'the recent line');
    await running.instance.send({ jsonrpc: '2.0', method: 'x' });
    await until(() => followed.length === 2, 'the new line');
    expect(followed).toEqual(['line 299', expect.stringMatching(/^heard \d+$/)]);
    stop.abort();
    await following;
    await running.instance.stop({ graceMs: 1_000 });
  });
});

describe('names and leftovers', () => {
  it('a second instance gets the next number, a taken name the gateway’s id', async () => {
    const one = await test.start(fixtureServer('named'));
    const two = await test.start(fixtureServer('named'));
    expect([one.name, two.name]).toEqual(['mcp-named-1', 'mcp-named-2']);
    const other = await TestRuntime.create();
    try {
      const three = await other.start(fixtureServer('named'));
      expect(three.name).toBe(`mcp-named-${other.gatewayId.slice(0, 8)}-1`);
    } finally {
      await other.dispose();
    }
    await Promise.all([one, two].map(({ instance }) => instance.stop({ graceMs: 2_000 })));
  });

  it('the sweep removes what an earlier run of this gateway left, paused or stubborn, and nothing else', async () => {
    const foreign = await TestRuntime.create();
    const earlier = await TestRuntime.create();
    const bystander = await engine.createContainer({
      Image: 'mcp-fixtures',
      name: `bystander-${earlier.gatewayId}`,
    });
    try {
      const theirs = await foreign.start(fixtureServer('sweep'));
      const paused = await earlier.start(fixtureServer('sweep'));
      const stubborn = await earlier.start(fixtureServer('sweep', program('ignores-sigterm.mjs')));
      await paused.handshake();
      await paused.instance.pause();
      await stubborn.handshake();
      await earlier.runtime.close();

      const next = await TestRuntime.create({ gatewayId: earlier.gatewayId });
      const live = await next.start(fixtureServer('sweep'));
      const { removed } = await next.runtime.sweep();
      expect(removed).toEqual([paused.name, stubborn.name].sort());
      expect(await exists(paused.name)).toBe(false);
      expect(await exists(stubborn.name)).toBe(false);
      expect(await exists(live.name)).toBe(true);
      expect(await exists(theirs.name)).toBe(true);
      expect(await exists(`bystander-${earlier.gatewayId}`)).toBe(true);
      expect(await next.runtime.sweep()).toEqual({ removed: [] });
      await next.dispose();
    } finally {
      await bystander.remove({ force: true });
      await foreign.dispose();
      await earlier.dispose();
    }
  });
});
