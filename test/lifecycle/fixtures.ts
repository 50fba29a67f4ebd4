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
import type { Era } from '../../src/protocol/eras.ts';
import { processServer } from '../configured.ts';
import { HeldClock } from './held-clock.ts';
import { type Script, ScriptedRuntime } from './scripted-runtime.ts';

export type ServerSettings = Partial<Omit<ProcessServer, 'timeouts' | 'pool'>> & {
  timeouts?: Partial<Timeouts>;
  pool?: Partial<CommonServer['pool']>;
};

/** A server of type process with the defaults of servers.yaml. */
export function serverOf(name: string, { timeouts, pool, ...settings }: ServerSettings = {}): ProcessServer {
  const server = processServer(name);
  const isolation = settings.isolation ?? (settings.stateful || settings.interactive ? 'session' : 'shared');
  const { clientCapabilities } = server;
  return {
    ...server,
    workingDir: '/',
    clientCapabilities: isolation === 'session' ? [...clientCapabilities, 'roots'] : clientCapabilities,
    ...settings,
    pool: { ...server.pool, ...pool },
    timeouts: { ...server.timeouts, ...timeouts },
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

/** A fleet whose runtime follows a script and whose time is held. Its servers are known to be of the legacy era unless `era` says otherwise. */
export function scriptedFleet(
  servers: ProcessServer[] = [serverOf('files')],
  options: {
    script?: Script;
    gateway?: Partial<GatewayConfig>;
    listener?: Partial<InstanceListener>;
    fleet?: Partial<FleetOptions>;
    /** undefined: to be found out. */
    era?: Era | undefined;
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
  const era = 'era' in options ? options.era : 'legacy';
  if (era) for (const { name } of servers) fleet.rememberEra(name, era, runtime.digest);
  fleet.listen({
    onNotification() {},
    onRequest: async () => ({ error: { code: -32601, message: 'nobody' } }),
    onReady() {},
    onAsked() {},
    onEnded() {},
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
