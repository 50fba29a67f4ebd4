import { connect } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { modernMeta } from '../http/modern-client.ts';
import { until } from '../waiting.ts';
import { cast, isTight, keptOf, limitOf, namesOf, silenceMs } from './cast.ts';
import { type ChaosClient, type ClientWorld, createClient } from './clients.ts';
import { Model } from './model.ts';
import type { Breach } from './promises.ts';
import type { Schedule, ServerName, Step } from './schedule.ts';
import type { Running, Stage } from './stage.ts';

// biome-ignore lint/suspicious/noExplicitAny: a test reads whatever came
type Any = any;

const lookEveryMs = 60;
/** More instances than allowed, and others than shown, must be seen so often in a row: one may just be coming or going. */
const looksUntilBreach = 8;
const restMs = 30_000;
const pause = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));

/** Whether it is done in time; nothing is left of the wait. */
async function isDoneWithin(work: Promise<unknown>, limitMs: number): Promise<boolean> {
  const late = new AbortController();
  const timer = delay(limitMs, false, { signal: late.signal }).catch(() => false);
  const isDone = await Promise.race([work.then(() => true), timer]);
  late.abort();
  return isDone;
}

/** Plays a schedule to its end and its aftermath; what was not as promised. */
export async function play(schedule: Schedule, open: (model: Model) => Promise<Stage>): Promise<Breach[]> {
  const model = new Model(schedule.setup);
  const stage = await open(model);
  const run = new Run(schedule, model, stage);
  try {
    await run.toTheEnd();
  } catch (error) {
    model.breach('bounded', `the play broke off: ${error instanceof Error ? error.stack : error}`);
  } finally {
    run.close();
    await stage[Symbol.asyncDispose]();
  }
  return model.breaches;
}

class Run implements ClientWorld {
  readonly model: Model;
  readonly servers: ServerName[];
  readonly #schedule: Schedule;
  readonly #stage: Stage;
  readonly #clients: ChaosClient[];
  readonly #work: Promise<unknown>[] = [];
  #up = Promise.resolve();
  #isOver = false;

  constructor(schedule: Schedule, model: Model, stage: Stage) {
    this.#schedule = schedule;
    this.model = model;
    this.#stage = stage;
    this.servers = namesOf(schedule.setup);
    this.#clients = schedule.setup.eras.map((era, index) => createClient(this, era, index));
  }

  url(endpoint: string): URL {
    return this.#stage.url(endpoint);
  }

  up(): Promise<void> {
    return this.#up;
  }

  close(): void {
    this.#isOver = true;
    for (const client of this.#clients) client.close();
  }

  async toTheEnd(): Promise<void> {
    const { setup, steps } = this.#schedule;
    if (setup.waitsForLists) await this.#settled();
    await Promise.all(this.#clients.map((client) => client.listen()));
    const watching = this.#watch();
    for (const step of steps) {
      await pause(step.gapMs);
      // A gateway is replaced before anything else is done; what is under way goes on.
      if (step.do === 'restart') await this.#restart(step);
      else this.#work.push(this.#do(step));
    }
    await Promise.all(this.#work);
    const aftermath = [
      () => this.#settled(),
      () => this.#expectQuiet(),
      () => this.#expectEverybodyServed(),
      () => this.#expectQuiet(),
      () => this.#expectRest(),
    ];
    // What follows from a breach tells nothing more.
    for (const look of aftermath) if (this.model.breaches.length === 0) await look();
    this.#isOver = true;
    await watching;
    for (const client of this.#clients) client.close();
    await this.#stage.end();
  }

  async #do(step: Exclude<Step, { do: 'restart' }>): Promise<void> {
    if ('server' in step && !this.servers.includes(step.server)) return;
    switch (step.do) {
      case 'call':
        // It has nothing but notes.
        if (step.server === 'own') await this.#clients[step.who]!.note(true);
        else await this.#clients[step.who]!.call(step.server, step.wish, step);
        return;
      case 'note':
        if (this.servers.includes('own')) await this.#clients[step.who]!.note(step.lists);
        return;
      case 'stampede':
        await Promise.all(
          Array.from({ length: step.count }, () =>
            step.server === 'own'
              ? this.#clients[step.who]!.note(false)
              : this.#clients[step.who]!.call(
                  step.server,
                  { kind: 'echo' },
                  { fate: { kind: 'stay' }, direct: false },
                ),
          ),
        );
        return;
      case 'list':
        return this.#list(this.#clients[step.who]!);
      case 'relisten':
        return this.#clients[step.who]!.listen();
      case 'garbage':
        return this.#garbage(step.kind);
      case 'slowReader':
        return this.#slowReader(step.ms);
      case 'wreck':
        return this.#clients[step.who]!.wreck(step.server);
      case 'kill':
      case 'remove': {
        const over = this.model.fault('kill', step.server);
        await this.#stage.kill(step.server, step.do);
        over();
        return;
      }
      case 'freeze': {
        const over = this.model.fault('freeze', step.server);
        await this.#stage.freeze(step.server, step.ms);
        over();
        return;
      }
      case 'engine': {
        const over = this.model.fault('engine');
        await this.#stage.trouble(step.how, step.ms);
        over();
      }
    }
  }

  async #restart({ how, awayMs }: Step & { do: 'restart' }): Promise<void> {
    let isUp = () => {};
    this.#up = new Promise((resolve) => {
      isUp = resolve;
    });
    const over = this.model.fault('gateway');
    await this.#stage.restart(how, awayMs);
    for (const client of this.#clients) client.reconnect();
    over();
    isUp();
    for (const client of this.#clients) this.#work.push(client.listen());
  }

  /** Lists come whatever the servers do, and have everything that is known. */
  async #list(client: ChaosClient): Promise<void> {
    const startedMs = performance.now();
    const isHit = () => this.model.wasHit('plain', startedMs, 'gateway');
    const listing = client.list();
    if (!(await isDoneWithin(listing, silenceMs))) return this.model.breach('bounded', 'a list did not come');
    const answer = await listing;
    if (isHit()) return;
    if (!answer?.result)
      return this.model.breach('answeredOnce', `a list was answered by ${JSON.stringify(answer)}`);
    if (!this.#schedule.setup.waitsForLists) return;
    const missing = client.missingIn(answer);
    if (missing.length > 0) this.model.breach('listsWakeNothing', `a list lacks ${missing.join(', ')}`);
  }

  async #garbage(kind: (Step & { do: 'garbage' })['kind']): Promise<void> {
    const url = this.url('/mcp');
    if (kind === 'half') {
      const socket = connect(Number(url.port), url.hostname);
      socket.on('error', () => {});
      socket.write(
        'POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{"jsonrpc"',
      );
      await pause(50);
      socket.destroy();
      return;
    }
    const bodies = {
      text: 'this is no JSON',
      array: '[[]]',
      large: JSON.stringify('x'.repeat(5 << 20)),
      deep: '['.repeat(50_000),
      headers: JSON.stringify({
        jsonrpc: '2.0',
        id: 1,
        method: 'tools/call',
        params: { _meta: modernMeta() },
      }),
    };
    const startedMs = performance.now();
    const response = await fetch(url, {
      method: 'POST',
      headers: {
        'content-type': 'application/json',
        accept: 'application/json, text/event-stream',
        ...(kind === 'headers' && { 'mcp-protocol-version': '2026-07-28', 'mcp-method': 'tools/list' }),
      },
      body: bodies[kind],
    }).catch(() => undefined);
    await response?.text().catch(() => {});
    // One that sends more than is read may lose its connection before it reads why.
    if (this.model.wasHit('plain', startedMs, 'gateway') || (kind === 'large' && !response)) return;
    if (!response || response.status < 400 || response.status >= 500)
      this.model.breach('answeredOnce', `garbage (${kind}) was answered by ${response?.status}`);
  }

  /** Asks for much, reads nothing of it for a while, and goes. */
  async #slowReader(ms: number): Promise<void> {
    const { hostname, port } = this.url('/mcp');
    const socket = connect(Number(port), hostname);
    socket.on('error', () => {});
    socket.pause();
    const body = JSON.stringify({
      jsonrpc: '2.0',
      id: 1,
      method: 'tools/call',
      params: { name: 'plain__big', arguments: { bytes: 900_000 }, _meta: modernMeta() },
    });
    const headers = [
      `Host: localhost:${port}`,
      'Content-Type: application/json',
      'Accept: application/json, text/event-stream',
      'MCP-Protocol-Version: 2026-07-28',
      'Mcp-Method: tools/call',
      'Mcp-Name: plain__big',
      `Content-Length: ${body.length}`,
    ];
    socket.write(`POST /mcp HTTP/1.1\r\n${headers.join('\r\n')}\r\n\r\n${body}`);
    await pause(ms);
    socket.destroy();
  }

  /** Counts instances all the time. */
  async #watch(): Promise<void> {
    const { setup } = this.#schedule;
    const tooMany = new Map<string, number>();
    const count = (what: string, found: Running[], limit: number) => {
      const times = found.length > limit ? (tooMany.get(what) ?? 0) + 1 : 0;
      tooMany.set(what, times);
      if (times !== looksUntilBreach) return;
      const names = found.map(({ name, server }) => `${server} (${name})`).join(', ');
      this.model.breach(
        what === 'all' ? 'bounded' : 'singleFlight',
        `${found.length} run where ${limit} may: ${names}`,
      );
    };
    while (!this.#isOver) {
      const running = await this.#stage.running();
      for (const name of this.servers) {
        const copies = running.filter(({ server, isLeaving }) => server === name && !isLeaving);
        count(name, copies, limitOf(setup, name));
      }
      count('all', running, setup.maxInstances);
      await pause(lookEveryMs);
    }
  }

  async #settled(): Promise<void> {
    if (!(await isDoneWithin(this.#stage.settled(), silenceMs)))
      this.model.breach('bounded', 'lists are neither known nor have they failed');
  }

  /** When nobody waits for anything, nothing is held, and the status is what the system says. */
  async #expectQuiet(): Promise<void> {
    let last = '';
    const isQuiet = async () => {
      const [status, running] = await Promise.all([this.#status(), this.#stage.running()]);
      const held = status.filter(
        ({ waiting, instances }) => waiting > 0 || instances.some(({ leases }: Any) => leases > 0),
      );
      last = JSON.stringify(held);
      // One that is asked for its lists, or whether it is well, is held for a moment.
      return held.length === 0 && running.length >= 0;
    };
    await until(isQuiet, 'quiet', restMs).catch(() =>
      this.model.breach('bounded', `something is held for nobody: ${last}`),
    );
    const isTrue = async () => {
      const before = await this.#status();
      const running = (await this.#stage.running()).map(({ name, server }) => `${server} ${name}`).sort();
      const shown = before
        .flatMap(({ name, instances }) => instances.map(({ id }: Any) => `${name} ${id}`))
        .sort();
      last = `shown: ${shown.join(', ')}; there: ${running.join(', ')}`;
      return JSON.stringify(shown) === JSON.stringify(running);
    };
    await until(isTrue, 'true', restMs).catch(() => this.model.breach('truthfulStatus', last));
  }

  /** Whatever was done, every client is served again by every server that works. */
  async #expectEverybodyServed(): Promise<void> {
    const good = this.servers.filter((name) => !cast[name].isHopeless && name !== 'own');
    await Promise.all(
      this.#clients.flatMap((client) => good.map((server) => this.#expectServed(client, server))),
    );
    if (this.servers.includes('own')) await Promise.all(this.#clients.map((client) => client.note(true)));
    await Promise.all(this.#clients.map((client) => this.#list(client)));
  }

  async #expectServed(client: ChaosClient, server: ServerName): Promise<void> {
    const untilMs = performance.now() + restMs;
    for (;;) {
      const outcome = await client.call(server, { kind: 'echo' }, { fate: { kind: 'stay' }, direct: true });
      if (outcome.kind === 'result') return;
      if (performance.now() > untilMs) {
        this.model.breach(
          'crashIsAnAnswer',
          `${server} does not come back: ${JSON.stringify(outcome).slice(0, 500)}`,
        );
        return;
      }
      await pause(100);
    }
  }

  /** What nobody needs is stopped, and no list wakes it. */
  async #expectRest(): Promise<void> {
    const { setup } = this.#schedule;
    const copies = async () => {
      const running = await this.#stage.running();
      return this.servers
        .filter((name) => !cast[name].isHopeless)
        .map((name) => ({
          name,
          found: running.filter(({ server }) => server === name),
          most: keptOf(setup, name).most,
        }));
    };
    const tooMany = async () => (await copies()).filter(({ found, most }) => found.length > most);
    await until(async () => (await tooMany()).length === 0, 'rest', restMs).catch(async () =>
      this.model.breach('bounded', `runs although nobody needs it: ${JSON.stringify(await tooMany())}`),
    );
    const asleep = async () =>
      (await copies()).filter(({ found, most }) => most === 0 && found.length === 0).map(({ name }) => name);
    const before = await asleep();
    await Promise.all(this.#clients.map((client) => this.#list(client)));
    await this.#status();
    await fetch(this.url('/health')).then((response) => response.text());
    await pause(2 * lookEveryMs);
    const after = await asleep();
    const woken = before.filter((name) => !after.includes(name) && !this.model.wasHarmed(name));
    if (woken.length > 0 && !isTight(setup))
      this.model.breach('listsWakeNothing', `lists woke ${woken.join(', ')}`);
  }

  async #status(): Promise<Any[]> {
    const response = await fetch(this.url('/servers'));
    return ((await response.json()) as Any).servers;
  }
}
