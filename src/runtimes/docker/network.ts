import { abortable, SingleFlight } from '../../base/async.ts';
import { GatewayError } from '../../base/errors.ts';
import type { ContainerServer } from '../../config/schema.ts';
import { defaultNetwork, labels } from './create-options.ts';
import { type Engine, EngineError } from './engine.ts';

const isolation = { 'com.docker.network.bridge.enable_icc': 'false' };

export interface NetworksOptions {
  gatewayId: string;
  allowUnsafe: boolean;
  /** Whether `forget` is called at every change of a network: only then is anything remembered. */
  isWatched(): boolean;
}

/** The networks that servers name. */
export class Networks {
  readonly #options: NetworksOptions;
  readonly #known = new Set<string>();
  readonly #flight = new SingleFlight<void>();
  #changes = 0;

  constructor(options: NetworksOptions) {
    this.#options = options;
  }

  /** Networks have changed: what was known of them no longer counts. */
  forget(): void {
    this.#changes += 1;
    this.#known.clear();
  }

  /**
   * Makes sure that a server's network is there; creates `mcp-network` alone. Remembered while changes are told: it is asked before
   * every start. Throws GatewayError `network_missing`.
   */
  async ensure(engine: Engine, server: ContainerServer, signal?: AbortSignal): Promise<void> {
    const { gatewayId, allowUnsafe, isWatched } = this.#options;
    const { network } = server;
    if (network === 'none' || this.#known.has(network)) return;
    const changes = this.#changes;
    await ensureNetwork(engine, server, {
      allowUnsafe,
      signal,
      // Together: an engine lets two creates of one name succeed, and then finds the name ambiguous.
      make: (work) => this.#flight.run(gatewayId, () => work(gatewayId)),
    });
    // Podman tells of no network.
    if (isWatched() && !engine.isPodman && changes === this.#changes) this.#known.add(network);
  }
}

async function ensureNetwork(
  engine: Engine,
  server: ContainerServer,
  options: {
    allowUnsafe: boolean;
    signal: AbortSignal | undefined;
    make(work: (gatewayId: string) => Promise<void>): Promise<void>;
  },
): Promise<void> {
  const { allowUnsafe, signal, make } = options;
  const name = server.network;
  if (name === 'host' || /^(container|ns):/.test(name)) {
    if (allowUnsafe) return;
    throw new GatewayError(
      'network_missing',
      `Server ${server.name}: network ${name} would share the host's or another container's network.`,
      {
        server: server.name,
        hint: 'Use mcp-network, none or a network of its own; gateway.allow_unsafe: true permits it all the same.',
      },
    );
  }
  try {
    await engine.call((docker) => docker.getNetwork(name).inspect(), { signal });
    return;
  } catch (error) {
    if (name === defaultNetwork && isAmbiguous(error)) {
      await abortable(
        make(() => removeDuplicates(engine)),
        signal,
      );
      return;
    }
    if (!(error instanceof EngineError)) throw error;
    // Podman looks at every container first, and gives up at one that is being removed: the start will say whether it is there.
    const isUnknown = engine.isPodman && error.status === 500;
    if (isUnknown && name !== defaultNetwork) return;
    if (!isUnknown && error.status !== 404) throw error;
  }
  if (name !== defaultNetwork) {
    throw new GatewayError('network_missing', `Server ${server.name}: the engine has no network ${name}.`, {
      server: server.name,
      hint: `Create it (docker network create ${name}), or leave \`network\` out for ${defaultNetwork}.`,
    });
  }
  await abortable(
    make((gatewayId) => createDefault(engine, gatewayId)),
    signal,
  );
}

/** What `mcp-network` lacks where somebody else made it, a sentence each. */
export async function networkLacks(engine: Engine): Promise<string[]> {
  if (engine.isPodman) return ['Servers on mcp-network can reach each other: Podman cannot turn that off.'];
  try {
    const found = await engine.call((docker) => docker.getNetwork(defaultNetwork).inspect());
    if (found.Options?.['com.docker.network.bridge.enable_icc'] === 'false') return [];
    return [
      `Servers on ${defaultNetwork} can reach each other: it was made without enable_icc=false. Remove it (docker network rm ${defaultNetwork}), and the gateway makes it anew.`,
    ];
  } catch {
    return [];
  }
}

/** The packet size that the engine was told for its own bridge: a network that is made later does not take it over by itself. */
async function uplinkMtu(engine: Engine): Promise<Record<string, string>> {
  const option = 'com.docker.network.driver.mtu';
  const bridge = await engine.call((docker) => docker.getNetwork('bridge').inspect()).catch(() => undefined);
  const mtu: string | undefined = bridge?.Options?.[option];
  return mtu ? { [option]: mtu } : {};
}

async function createDefault(engine: Engine, gatewayId: string): Promise<void> {
  const create = (Options: Record<string, string>) =>
    engine.call((docker, abortSignal) =>
      docker.createNetwork({
        Name: defaultNetwork,
        Driver: 'bridge',
        CheckDuplicate: true,
        Options,
        Labels: { [labels.managed]: 'true', [labels.gateway]: gatewayId },
        abortSignal,
      }),
    );
  try {
    await create({ ...isolation, ...(await uplinkMtu(engine)) });
  } catch (error) {
    if (isTaken(error)) return;
    // Podman knows no such option.
    if (!(error instanceof EngineError) || !engine.isPodman) throw error;
    try {
      await create({});
    } catch (second) {
      if (!isTaken(second)) throw second;
      return;
    }
  }
  if (!engine.isPodman) await removeDuplicates(engine);
}

const isTaken = (error: unknown) =>
  error instanceof EngineError && (error.status === 409 || /already exists/.test(error.message));

const isAmbiguous = (error: unknown) =>
  error instanceof EngineError && /ambiguous|matches found/.test(error.message);

/**
 * Docker lets two creates of one name both succeed when two gateways ask at once. The earliest stays, unless nothing but a later
 * one is in use.
 */
async function removeDuplicates(engine: Engine): Promise<void> {
  const networks = await engine.call((docker, abortSignal) =>
    docker.listNetworks({ filters: { name: [defaultNetwork] }, abortSignal }),
  );
  const same = networks
    .filter(({ Name }) => Name === defaultNetwork)
    .sort((a, b) => b.Created.localeCompare(a.Created) || b.Id.localeCompare(a.Id));
  let left = same.length;
  for (const { Id, Labels } of same) {
    if (left <= 1) return;
    if (Labels?.[labels.managed] !== 'true') continue;
    await engine
      .ensure((docker, abortSignal) => docker.getNetwork(Id).remove({ abortSignal }))
      .then(
        () => {
          left -= 1;
        },
        (error: unknown) => {
          // One that containers are on cannot be removed.
          if (!(error instanceof EngineError)) throw error;
        },
      );
  }
}
