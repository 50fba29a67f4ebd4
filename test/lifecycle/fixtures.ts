import { GatewayError } from '../../src/base/errors.ts';
import {
  type CommonServer,
  type Config,
  type GatewayConfig,
  gatewaySchema,
  type ProcessServer,
  type Timeouts,
} from '../../src/config/schema.ts';
import { Fleet, type FleetOptions } from '../../src/lifecycle/fleet.ts';
import type { InstanceListener } from '../../src/lifecycle/lease.ts';
import { Events } from '../../src/observability/events.ts';
import { HeldClock } from './held-clock.ts';
import { type Script, ScriptedRuntime } from './scripted-runtime.ts';

export type ServerSettings = Partial<Omit<ProcessServer, 'timeouts' | 'pool'>> & {
  timeouts?: Partial<Timeouts>;
  pool?: Partial<CommonServer['pool']>;
};

/** A server of type process with the defaults of servers.yaml. */
export function serverOf(name: string, { timeouts, pool, ...settings }: ServerSettings = {}): ProcessServer {
  const isolation = settings.isolation ?? (settings.stateful || settings.interactive ? 'session' : 'shared');
  return {
    name,
    type: 'process',
    command: ['node', 'server.js'],
    workingDir: '/',
    description: undefined,
    enabled: true,
    problem: undefined,
    env: {},
    idleTimeoutMs: 300_000,
    pauseAfterMs: Number.POSITIVE_INFINITY,
    tools: { allow: undefined, deny: [], rename: {}, describe: {} },
    prefix: undefined,
    stateful: false,
    interactive: undefined,
    clientCapabilities:
      isolation === 'session' ? ['sampling', 'elicitation', 'roots'] : ['sampling', 'elicitation'],
    pool: { min: 0, max: 1, standby: 0, ...pool },
    concurrency: 8,
    loadBalancing: 'least_connections',
    timeouts: {
      startMs: 30_000,
      buildMs: 600_000,
      handshakeMs: 10_000,
      callMs: 300_000,
      clientMs: 300_000,
      queueMs: 60_000,
      stopMs: 10_000,
      ...timeouts,
    },
    healthCheck: { intervalMs: 30_000, path: undefined },
    retry: 'never',
    ...settings,
    isolation,
  };
}

export function configOf(servers: ProcessServer[], gateway: Partial<GatewayConfig> = {}): Config {
  return {
    file: '/servers.yaml',
    gateway: { ...gatewaySchema.parse({}), ...gateway },
    servers: new Map(servers.map((server) => [server.name, server])),
    warnings: [],
  };
}

/** A fleet whose runtime follows a script and whose time is held. */
export function scriptedFleet(
  servers: ProcessServer[] = [serverOf('files')],
  options: {
    script?: Script;
    gateway?: Partial<GatewayConfig>;
    listener?: Partial<InstanceListener>;
    fleet?: Partial<FleetOptions>;
  } = {},
) {
  const clock = new HeldClock();
  const events = new Events();
  const runtime = new ScriptedRuntime(options.script);
  const fleet = new Fleet({
    config: configOf(servers, options.gateway),
    runtimeFor: () => runtime,
    events,
    clock,
    version: '0.0.0',
    ...options.fleet,
  });
  fleet.listen({
    onNotification() {},
    onRequest: async () => ({ error: { code: -32601, message: 'nobody' } }),
    onReady() {},
    onAsked() {},
    ...options.listener,
  });
  return { fleet, runtime, clock, events };
}

/** The error that a promise is rejected with. */
export async function rejection(promise: Promise<unknown>): Promise<GatewayError> {
  const outcome = await promise.then(
    (value) => ({ value }),
    (error: unknown) => ({ error }),
  );
  if (!('error' in outcome)) throw new Error(`Expected a rejection, got ${JSON.stringify(outcome.value)}`);
  if (!(outcome.error instanceof GatewayError)) throw outcome.error;
  return outcome.error;
}
