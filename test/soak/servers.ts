import { fixture } from '../e2e/engine.ts';

/** The servers of the soak and how they are set, each for one way of living. */
const entries = {
  /** Always in use, two instances. */
  shared: ['everything.mjs', { pool: { max: 2 }, idle_timeout: '10s' }],
  /** Stopped and started all the time. */
  idle: ['everything.mjs', { idle_timeout: '1s' }],
  /** Paused and resumed all the time, stopped now and then. */
  naps: ['everything.mjs', { pause_after: '500ms', idle_timeout: '5s' }],
  spare: ['everything.mjs', { pool: { standby: 1 }, idle_timeout: '1s' }],
  kept: ['everything.mjs', { sandbox: 'keep', idle_timeout: '1s' }],
  modern: ['everything.mjs', { env: { ERA: 'modern' }, pool: { max: 2 }, idle_timeout: '5s' }],
  /** An instance for each session, whose memory matters. */
  own: ['stateful-notes.mjs', { isolation: 'session', stateful: true }],
  crash: ['crash-on-call.mjs', { concurrency: 1, idle_timeout: '5s' }],
} as const;

export type ServerName = keyof typeof entries;

/** Called by everybody, with what `everything` can do. */
export const common = ['shared', 'idle', 'naps', 'spare', 'kept', 'modern'] as const satisfies ServerName[];
/** Their containers may be killed. */
export const mortal = [...common, 'own'] as const satisfies ServerName[];

/** servers.yaml of the soak. */
export function configOf(sessionTimeoutMs: number): string {
  const timeouts = { start: '20s', handshake: '10s', call: '20s', queue: '30s', stop: '5s' };
  const gateway = { max_instances: 60, session_timeout: `${sessionTimeoutMs}ms`, drain_timeout: '5s' };
  const servers = Object.entries(entries).map(([name, [program, settings]]) =>
    fixture(name, program, { timeouts, ...settings }),
  );
  return `gateway: ${JSON.stringify(gateway)}\nservers:\n${servers.join('')}`;
}
