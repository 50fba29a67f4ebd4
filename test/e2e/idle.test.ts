import { expect, it } from 'vitest';
import { eventually } from '../waiting.ts';
import { containersOf, fixture } from './engine.ts';
import { startGateway } from './gateway-process.ts';
import { connect } from './mcp-client.ts';

it('takes a stop for idleness as what it is: no error is shown, and the next calls start it as usual', async () => {
  await using gateway = await startGateway({
    config: `servers:\n${fixture('one', 'tiny.mjs', { idle_timeout: '300ms' })}`,
    discovered: true,
  });
  await using client = await connect(gateway.url);
  const id = await gateway.id();
  for (let round = 0; round < 4; round += 1) {
    expect(await client.text('one__echo', { text: `round ${round}` })).toBe(`round ${round}`);
    await eventually(
      () => containersOf(id),
      (names) => names.length === 0,
    );
    const server = await eventually(
      async () => (await (await fetch(`${gateway.url}/servers/one`)).json()) as { state: string },
      ({ state }) => state === 'stopped',
    );
    expect(server).not.toHaveProperty('last_error');
  }
});

it('starts a server that announces a change at every start once, for its discovery, and then not again', async () => {
  const announces = { env: { CHANGE_AFTER_MS: '0' } };
  await using gateway = await startGateway({
    config: `servers:\n${fixture('restless', 'changes-tools.mjs', announces)}`,
    discovered: true,
  });
  const id = await gateway.id();
  await eventually(
    () => containersOf(id),
    (names) => names.length === 0,
  );
  // Longer than it would take to go round a few times.
  await new Promise((resolve) => setTimeout(resolve, 3000));
  expect(await containersOf(id)).toEqual([]);
  expect(gateway.output().match(/instance started/g)).toHaveLength(1);
});
