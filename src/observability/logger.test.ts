import { PassThrough } from 'node:stream';
import { expect, it } from 'vitest';
import { createLogger } from './logger.ts';

const collect = () => {
  const stream = new PassThrough();
  return { stream, text: () => String(stream.read() ?? '') };
};

it('writes one line with level and fields', () => {
  const { stream, text } = collect();
  createLogger('info', stream).info('instance started', {
    server: 'demo',
    ms: 12,
    note: 'two words',
    none: undefined,
  });
  expect(text()).toMatch(
    /^\d{4}-\d\d-\d\dT[\d:.]+Z INFO {2}instance started server=demo ms=12 note="two words"\n$/,
  );
});

it('leaves out what is below its level', () => {
  const { stream, text } = collect();
  const logger = createLogger('warn', stream);
  logger.info('quiet');
  expect(text()).toBe('');
  expect([logger.writes('warn'), logger.writes('info')]).toEqual([true, false]);
});

it('cannot be made to forge a line or to move the cursor', () => {
  const { stream, text } = collect();
  createLogger('info', stream).info('a\r\nFAKE \u001b[2J', { text: 'b\nc' });
  expect(text()).toMatch(/ INFO {2}a\\r\\nFAKE {2}text="b\\nc"\n$/);
});
