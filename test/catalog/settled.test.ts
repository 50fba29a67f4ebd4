import { expect, it } from 'vitest';
import { startGateway } from '../harness.ts';

it('everything is known or has failed, also when a failure is the last that comes of it', async () => {
  await using gateway = await startGateway({
    servers: { exits: { fixture: 'exits-at-once' } },
  });
  expect(await gateway.app.discovered()).toEqual({ servers: 0, tools: 0, failed: ['exits'] });
});
