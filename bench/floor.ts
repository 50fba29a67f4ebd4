import { PassThrough } from 'node:stream';
import Docker from 'dockerode';

/** The engine below both the gateway and its floors. */
export const engine = new Docker();

type Message = { jsonrpc: '2.0'; id?: number; method?: string; params?: unknown; result?: unknown };

/** A container driven by nothing but dockerode: what the engine and the server cost by themselves. */
export interface RawInstance {
  container: Docker.Container;
  request(method: string, params: unknown): Promise<Message>;
  remove(): Promise<void>;
}

/** What a start does otherwise. */
export interface Variation {
  hostConfig?: Docker.HostConfig;
  /** Variables beside its own. */
  env?: string[];
  /** Created before. */
  container?: Docker.Container;
  /** `initialize` is written before the container is started. */
  isEager?: boolean;
  /** How the engine is spoken to. */
  docker?: Docker;
}

/** Creates a container with the very configuration of another one. */
export function createRaw(
  like: Docker.ContainerInspectInfo,
  { hostConfig, env = [], docker = engine }: Variation = {},
): Promise<Docker.Container> {
  const { Image, Cmd, Env, Entrypoint, WorkingDir, User } = like.Config;
  return docker.createContainer({
    Image,
    Cmd,
    Env: [...Env, ...env],
    Entrypoint,
    WorkingDir,
    User,
    HostConfig: { ...like.HostConfig, ...hostConfig },
    Labels: { 'mcp-gateway.bench': 'true' },
    OpenStdin: true,
    StdinOnce: true,
    AttachStdin: true,
    AttachStdout: true,
    AttachStderr: true,
  });
}

/** create → attach → start → handshake, as fast as dockerode goes, with the very configuration of another container. */
export async function startRaw(
  like: Docker.ContainerInspectInfo,
  variation: Variation = {},
): Promise<RawInstance> {
  const container = variation.container ?? (await createRaw(like, variation));
  const stream = await container.attach({
    stream: true,
    stdin: true,
    stdout: true,
    stderr: true,
    hijack: true,
  });
  const stdout = new PassThrough();
  container.modem.demuxStream(stream, stdout, new PassThrough().resume());

  let nextId = 1;
  const waiting = new Map<number, (message: Message) => void>();
  let chunks: Buffer[] = [];
  stdout.on('data', (chunk: Buffer) => {
    let from = 0;
    for (let end = chunk.indexOf(10); end >= 0; end = chunk.indexOf(10, from)) {
      chunks.push(chunk.subarray(from, end));
      from = end + 1;
      const message = JSON.parse(Buffer.concat(chunks).toString()) as Message;
      chunks = [];
      if (message.id === undefined) continue;
      waiting.get(message.id)?.(message);
      waiting.delete(message.id);
    }
    if (from < chunk.length) chunks.push(chunk.subarray(from));
  });
  const send = (message: Message) => stream.write(`${JSON.stringify(message)}\n`);
  const request = (method: string, params: unknown) =>
    new Promise<Message>((resolve) => {
      const id = nextId++;
      waiting.set(id, resolve);
      send({ jsonrpc: '2.0', id, method, params });
    });
  const initialize = () =>
    request('initialize', {
      protocolVersion: '2025-11-25',
      capabilities: {},
      clientInfo: { name: 'bench', version: '1' },
    });
  const early = variation.isEager ? initialize() : undefined;
  await container.start();
  await (early ?? initialize());
  send({ jsonrpc: '2.0', method: 'notifications/initialized' });
  return {
    container,
    request,
    async remove() {
      await container.remove({ force: true }).catch(() => {});
    },
  };
}

/** A container as the gateway made it: the configuration that its floor must share. */
export async function configurationOf(
  gatewayId: string,
  server: string,
): Promise<Docker.ContainerInspectInfo> {
  const label = [`mcp-gateway.gateway=${gatewayId}`, `mcp-gateway.server=${server}`];
  const [container] = await engine.listContainers({ all: true, filters: { label } });
  if (!container) throw new Error(`no container of ${server} runs`);
  return engine.getContainer(container.Id).inspect();
}
