import { PassThrough } from 'node:stream';
import { expect, it } from 'vitest';
import { createLogger, neutralise } from './logger.ts';

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
  createLogger('warn', stream).info('quiet');
  expect(text()).toBe('');
});

it('cannot be made to forge a line or to move the cursor', () => {
  const { stream, text } = collect();
  createLogger('info', stream).info('a\r\nFAKE \u001b[2J', { text: 'b\nc' });
  expect(text().split('\n')).toHaveLength(2);
  expect(neutralise('\u001b[31mred\n')).toBe('\\x1b[31mred\\x0a');
});
