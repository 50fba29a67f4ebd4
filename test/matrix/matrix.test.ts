import { readFile, writeFile } from 'node:fs/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { legacyVersions } from '../../src/protocol/eras.ts';
import { type FixtureServer, startGateway, type TestGateway } from '../harness.ts';
import { RawHttpClient } from '../http/clients.ts';
import { type ClientKind, clientKinds, connect, type Era } from './clients.ts';
import { features, type Ground } from './features.ts';
import { markOf, marks } from './marks.ts';

/*
 * Every client on every server, with every feature. A cell either works or is marked in `marks.ts`, and both are run: a mark that
 * no longer holds fails. `UPDATE=1` writes results.json, from which `npm run generate` makes the table of docs/protocol.md.
 */

interface Cell {
  client: ClientKind;
  server: Era;
  isolation: Ground['isolation'];
  feature: string;
}

const eras = ['legacy', 'modern'] as const;
const isolations = ['shared', 'session'] as const;
const resultsFile = new URL('results.json', import.meta.url);

const cells: Cell[] = clientKinds.flatMap((client) =>
  eras.flatMap((server) =>
    isolations.flatMap((isolation) =>
      Object.keys(features).map((feature) => ({ client, server, isolation, feature })),
    ),
  ),
);
/** `outcome` is `works`, or why it cannot. */
const results: (Cell & { outcome: string })[] = [];
let gateway: TestGateway;

beforeAll(async () => {
  const servers: Record<string, FixtureServer> = {};
  for (const cell of cells) {
    const { at } = features[cell.feature]!;
    servers[serverOf(cell)] = {
      fixture: at === 'paginates' ? 'paginates' : 'everything',
      env: { ERA: cell.server, TOTAL: '1100', PAGE_SIZE: '300' },
      isolation: cell.isolation,
      // Modern clients have no session whose end would end their instances.
      idle_timeout: '20s',
    };
  }
  gateway = await startGateway({ servers });
  await gateway.settled();
});

afterAll(async () => {
  await gateway?.[Symbol.asyncDispose]();
});

/** A word that no other cell uses. */
const wordOf = (cell: Cell) => `cell${cells.indexOf(cell)}`;

function serverOf(cell: Cell): string {
  const name = `${cell.server}-${cell.isolation}`;
  const { at } = features[cell.feature]!;
  return at === 'own' ? wordOf(cell) : at === 'paginates' ? `${name}-pages` : name;
}

describe('the matrix', () => {
  for (const cell of cells) {
    const { client: kind, server, isolation, feature } = cell;
    it(`${kind} client, ${server} server, ${isolation}: ${feature}`, async () => {
      const { at, run } = features[feature]!;
      const name = serverOf(cell);
      const word = wordOf(cell);
      const endpoint = at === 'all' ? '/mcp' : `/${name}/mcp`;
      await using client = await connect(kind, { gateway, endpoint, name: word });
      const mark = markOf(kind, cell, feature);
      await (mark?.instead ?? run)(client, { server, isolation, name, word });
      results.push({ ...cell, outcome: mark?.reason ?? 'works' });
    });
  }

  it.each(legacyVersions)('has clients of %s as well', async (version) => {
    for (const server of eras) {
      const client = new RawHttpClient(gateway, `/${server}-shared/mcp`);
      const { result } = await client.initialize(version);
      expect(result).toMatchObject({ protocolVersion: version, serverInfo: { name: 'everything' } });
      client.headers['mcp-protocol-version'] = version;
      expect((await client.call('add', { a: 1, b: 2 })).result).toMatchObject({
        content: [{ text: '{"sum":3}' }],
      });
    }
  });

  it('is what docs/protocol.md says', async () => {
    expect(
      marks.filter((mark) => !cells.some((cell) => markOf(cell.client, cell, cell.feature) === mark)),
    ).toEqual([]);
    expect(results).toHaveLength(cells.length);
    if (process.env.UPDATE) await writeFile(resultsFile, `${JSON.stringify(results, null, 2)}\n`);
    const recorded = JSON.parse(await readFile(resultsFile, 'utf8'));
    expect(results, 'run it with UPDATE=1, then npm run generate').toEqual(recorded);
  });
});
