import { GatewayError } from '../../src/base/errors.ts';
import { Events } from '../../src/observability/events.ts';
import { DockerRuntime } from '../../src/runtimes/docker/docker-runtime.ts';
import type { Subject } from '../runtime-contract.ts';
import { engine, fixtureServer, isPodman } from './harness.ts';

/** The docker runtime as the contract suite sees it. */
export const subject: Subject = {
  name: 'docker',
  async setUp() {
    const runtime = subject.makeRuntime({
      gateway: {} as never,
      gatewayId: 'set-up',
      stateDir: '/nonexistent',
    });
    const { reachable, text, hint } = await runtime.describe();
    await runtime.close();
    if (!reachable) throw new GatewayError('engine_unreachable', text, { hint });
  },
  makeRuntime: (options) => new DockerRuntime({ ...options, events: new Events() }),
  fixture: (program, common) => ({
    ...fixtureServer(common.name),
    ...common,
    command: ['node', `${program}.mjs`],
  }),
  missingCommand: (common) => ({
    ...fixtureServer(common.name),
    ...common,
    entrypoint: ['no-such-command'],
    command: ['serve'],
  }),
  async running(gatewayId) {
    const containers = await engine.listContainers({
      all: true,
      filters: { label: [`mcp-gateway.gateway=${gatewayId}`] },
    });
    return containers.map(({ Names }) => Names[0]!.slice(1));
  },
  async kill(instance) {
    await engine.getContainer(instance).kill({ signal: 'SIGKILL' });
  },
  // What the base images set, and what the engine and an entry point that is a shell script add.
  standardVariables: [
    'PATH',
    'HOSTNAME',
    'HOME',
    'NODE_VERSION',
    'YARN_VERSION',
    'NODE_EXTRA_CA_CERTS',
    'SSL_CERT_FILE',
    'TZ',
    'PWD',
    'SHLVL',
    ...(isPodman ? ['TERM', 'container'] : []),
  ],
};
