import { describe, expect, it } from 'vitest';
import { acceptedOf } from './replies.ts';

describe('what an Accept header lets us answer with', () => {
  it.each([
    [undefined, true, true],
    ['application/json, text/event-stream', true, true],
    ['text/event-stream,application/json', true, true],
    ['*/*', true, true],
    ['application/json', true, false],
    ['Application/JSON; charset=utf-8', true, false],
    ['application/*', true, false],
    ['text/event-stream', false, true],
    ['text/*;q=0.5', false, true],
    ['application/json, text/event-stream;q=0', true, false],
    ['application/json;q=0.000', false, false],
    ['text/html, application/xhtml+xml', false, false],
    ['', true, true],
  ])('%s', (accept, json, sse) => expect(acceptedOf(accept)).toEqual({ json, sse }));
});
