import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startGateway, type TestGateway } from '../harness.ts';
import {
  type Action,
  type Fate,
  learnAsking,
  runSchedule,
  type Schedule,
  type Step,
  servers,
  setups,
  type Tamper,
  Trace,
} from './shared-model.ts';

/*
 * MODEL_RUNS=500 runs more schedules; MODEL_SEED and MODEL_PATH, which a failure prints, run one again.
 */
const { MODEL_RUNS = '30', MODEL_SEED, MODEL_PATH, MODEL_SHRINK } = process.env;

const trace = new Trace();
let gateway: TestGateway;

beforeAll(async () => {
  gateway = await startGateway({ servers, events: trace.events });
  await gateway.settled();
  // That their lists have just become known is told a moment later.
  await new Promise((resolve) => setTimeout(resolve, 300));
  await learnAsking(gateway);
});
afterAll(() => gateway?.[Symbol.asyncDispose]());

const ms = (max: number) => fc.integer({ min: 0, max });
const level = fc.constantFrom('debug', 'info', 'warning', 'error', 'emergency');
const fate: fc.Arbitrary<Fate> = fc.oneof(
  { weight: 5, arbitrary: fc.constant<Fate>({ kind: 'stay' }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('cancel' as const), afterMs: ms(60) }) },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant('leave' as const),
      afterMs: ms(60),
      awayMs: fc.option(ms(80), { freq: 4 }),
    }),
  },
);
const call = <Do extends Action['do'], Rest extends object>(
  what: fc.Arbitrary<Do>,
  rest: { [Key in keyof Rest]: fc.Arbitrary<Rest[Key]> },
) => fc.record({ do: what, ...rest }) as unknown as fc.Arbitrary<Action>;

const action = (clients: number): fc.Arbitrary<Action> =>
  fc.oneof(
    { weight: 3, arbitrary: call(fc.constant('echo'), { fate }) },
    {
      weight: 3,
      arbitrary: call(fc.constant('progress'), { steps: fc.integer({ min: 1, max: 4 }), ms: ms(20), fate }),
    },
    {
      weight: 4,
      arbitrary: call(fc.constant('log'), {
        level,
        wanted: fc.option(level),
        count: fc.integer({ min: 1, max: 4 }),
        ms: ms(15),
        fate,
      }),
    },
    {
      weight: 8,
      arbitrary: call(fc.constantFrom('ask', 'sample'), {
        reply: fc.oneof(
          { weight: 30, arbitrary: fc.constantFrom('accept', 'decline', 'error') },
          { weight: 1, arbitrary: fc.constant('never') },
        ),
        thinkMs: ms(40),
        fate,
      }),
    },
    { weight: 2, arbitrary: call(fc.constant('touch'), { whose: fc.nat(clients - 1) }) },
    { weight: 2, arbitrary: call(fc.constant('level'), { level }) },
    { weight: 1, arbitrary: call(fc.constant('relisten'), { comesBack: fc.boolean() }) },
    { weight: 1, arbitrary: fc.constant<Action>({ do: 'forge' }) },
    { weight: 1, arbitrary: fc.constant<Action>({ do: 'crash' }) },
  );

const schedule = (clients: number, steps: { minLength: number; maxLength: number }) =>
  fc.record<Schedule>({
    eras: fc.array(fc.constantFrom('legacy', 'modern'), { minLength: clients, maxLength: clients }),
    levels: fc.array(fc.option(level), { minLength: clients, maxLength: clients }),
    steps: fc.array(
      fc.record<Step>({ who: fc.nat(clients - 1), gapMs: ms(30), action: action(clients) }),
      steps,
    ),
  });

describe('clients of both eras on one shared instance', () => {
  it('see what is theirs, all of it and nothing else, however their steps interleave', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(...Object.values(setups)),
        fc.integer({ min: 2, max: 4 }).chain((clients) => schedule(clients, { minLength: 4, maxLength: 14 })),
        async (server, drawn) => {
          await runSchedule({ gateway, server, schedule: drawn, trace });
        },
      ),
      {
        numRuns: Number(MODEL_RUNS),
        endOnFailure: MODEL_SHRINK === undefined,
        ...(MODEL_SEED !== undefined && { seed: Number(MODEL_SEED) }),
        ...(MODEL_PATH !== undefined && { path: MODEL_PATH }),
      },
    );
  }, 3_600_000);

  const stay: Fate = { kind: 'stay' };
  const asking: Schedule = {
    eras: ['legacy', 'legacy'],
    steps: [0, 1].map((who) => ({
      who,
      gapMs: 0,
      action: { do: 'ask', reply: 'accept', thinkMs: 5, fate: stay },
    })),
  };
  const isQuestion = (message: { method?: string; id?: unknown }) =>
    message.method === 'elicitation/create' && message.id !== undefined;
  const isAnswer = (message: { method?: string }) => message.method === undefined;

  it.each<[string, Tamper, RegExp]>([
    [
      'a question for somebody else',
      (client, message) => ({ client: isQuestion(message) ? 1 - client : client, message }),
      /got what belongs to @/,
    ],
    [
      'an answer for somebody else',
      (client, message) => ({ client: isAnswer(message) ? 1 - client : client, message }),
      /got what belongs to @/,
    ],
    [
      'an answer that is lost',
      (client, message) => (isAnswer(message) && client === 0 ? undefined : { client, message }),
      /no answer/,
    ],
  ])('would be caught with %s', async (_, tamper, wanted) => {
    await expect(runSchedule({ gateway, server: setups.learnt, schedule: asking, tamper })).rejects.toThrow(
      wanted,
    );
  });
});
