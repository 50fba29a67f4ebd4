import { describe, expect, it } from 'vitest';
import type { ContainerServer } from '../../config/schema.ts';
import { EngineError } from './engine.ts';
import type { ImageFacts } from './images.ts';
import { startError } from './start-errors.ts';

const server = { name: 'notes', command: ['notes'] } as ContainerServer;

describe('a start that the engine refuses', () => {
  it('says what Podman lacks for init', () => {
    const text =
      'container create: container-init binary not found on the host: stat /usr/libexec/podman/catatonit: no such file or directory';
    expect(startError(server, {} as ImageFacts, new EngineError(500, text))).toMatchObject({
      code: 'start_failed',
      server: 'notes',
      message: expect.stringContaining('catatonit'),
      hint: expect.stringContaining('install it'),
    });
  });
});
