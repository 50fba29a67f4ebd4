import { UriTemplate as SdkTemplate } from '@modelcontextprotocol/sdk/shared/uriTemplate.js';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { parseUriTemplate } from './uri-template.ts';

const matches = (template: string, uri: string) => parseUriTemplate(template).matches(uri);

describe('a URI template', () => {
  it.each([
    ['test://static/resource/{id}', 'test://static/resource/42'],
    ['file:///{+path}', 'file:///home/user/a.txt'],
    ['file://{/segments*}', 'file:///home/user/a.txt'],
    ['db://{table}/rows{?limit,offset}', 'db://users/rows?limit=1&offset=2'],
    ['db://{table}/rows{?limit,offset}', 'db://users/rows'],
    ['doc://x{.format}', 'doc://x.json'],
    ['doc://x{#part}', 'doc://x#top/one'],
    ['doc://x?a=1{&more}', 'doc://x?a=1&more=2'],
    ['m://{a}-{b}', 'm://x-y-z'],
    ['m://{list*}', 'm://a,b,c'],
    ['m://{v:3}', 'm://abc'],
    ['m://plain', 'm://plain'],
    ['m://{broken', 'm://{broken'],
  ])('%s covers %s', (template, uri) => {
    expect(matches(template, uri)).toBe(true);
  });

  it.each([
    ['test://static/resource/{id}', 'test://static/resource/'],
    ['test://static/resource/{id}', 'test://static/resource/1/2'],
    ['test://static/resource/{id}', 'test://other/resource/1'],
    ['db://{table}/rows{?limit}', 'db://users/columns'],
    ['m://plain', 'm://plainer'],
    ['m://{a}/end', 'm://a/end/more'],
    ['m://{a', 'm://x'],
  ])('%s does not cover %s', (template, uri) => {
    expect(matches(template, uri)).toBe(false);
  });

  it('covers what the SDK expands it to', () => {
    const templates = [
      'a://{x}',
      'a://{x}/{y}',
      'a://{+x}/b',
      'a://b{/x}',
      'a://b{?x,y}',
      'a://b{#x}',
      'a://{x}.{y}',
    ];
    const value = fc.string({ minLength: 1, maxLength: 10 }).filter((text) => text.isWellFormed());
    fc.assert(
      fc.property(fc.constantFrom(...templates), value, value, (template, x, y) => {
        expect(matches(template, new SdkTemplate(template).expand({ x, y }))).toBe(true);
      }),
    );
  });

  it('is decided in linear time, however it is written', () => {
    const template = parseUriTemplate(`a://${'{+x}a'.repeat(50)}!`);
    const startedAt = performance.now();
    expect(template.matches(`a://${'a'.repeat(5000)}`)).toBe(false);
    // Backtracking would take longer than the universe has.
    expect(performance.now() - startedAt).toBeLessThan(10_000);
  });
});
