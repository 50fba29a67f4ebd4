import Docker from 'dockerode';
import { root } from '../programs.ts';

/** The engine that the tests run on, asked beside the gateway to see what is really there. */
export const engine = new Docker();

/** The image of our fixture servers, built when it is missing. */
export const fixtureImage = 'mcp-fixtures';

/** Names of a gateway's containers, running or not, without the leading slash. */
export async function containersOf(gatewayId: string, server?: string): Promise<string[]> {
  const label = [`mcp-gateway.gateway=${gatewayId}`, ...(server ? [`mcp-gateway.server=${server}`] : [])];
  const containers = await engine.listContainers({ all: true, filters: { label } });
  return containers.map(({ Names }) => Names[0]!.slice(1)).sort();
}

/** A servers.yaml entry, indented to stand below `servers:`, that runs one of our fixture programs in a container. */
export function fixture(name: string, program: string, extra: Record<string, unknown> = {}): string {
  const entry = {
    image: fixtureImage,
    build: `${root}test/fixtures/servers`,
    command: ['node', program],
    ...extra,
  };
  return `  ${name}: ${JSON.stringify(entry)}\n`;
}
