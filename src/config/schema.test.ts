import { readFileSync } from 'node:fs';
import { Ajv } from 'ajv';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { exampleConfig } from './example.ts';
import { parseDurationMs, parseSizeBytes } from './schema.ts';

describe('durations', () => {
  it.each([
    [300, 300_000],
    ['300', 300_000],
    ['300s', 300_000],
    [' 5 m ', 300_000],
    ['500ms', 500],
    ['1.5h', 5_400_000],
    ['2d', 172_800_000],
    [0, 0],
    ['5x', undefined],
    ['-1', undefined],
    [-1, undefined],
    ['', undefined],
    ['never', undefined],
    ['1e3', undefined],
    [Number.NaN, undefined],
    [Number.POSITIVE_INFINITY, undefined],
  ])('%j is %j ms', (written, expected) => {
    expect(parseDurationMs(written)).toBe(expected);
  });

  it('survive being written and read', () => {
    const units = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 };
    const unit = fc.constantFrom(...(Object.keys(units) as (keyof typeof units)[]));
    fc.assert(
      fc.property(fc.nat(100_000), unit, (count, name) => {
        expect(parseDurationMs(`${count}${name}`)).toBe(count * units[name]);
        expect(parseDurationMs(count)).toBe(count * 1000);
      }),
    );
  });
});

describe('sizes', () => {
  it.each([
    ['512m', 536_870_912],
    ['512M', 536_870_912],
    ['512MiB', 536_870_912],
    ['512mb', 536_870_912],
    ['1g', 1_073_741_824],
    ['1.5k', 1536],
    ['4096', 4096],
    [4096, 4096],
    ['4096b', 4096],
    ['1x', undefined],
    ['-1m', undefined],
    ['m', undefined],
  ])('%j is %j bytes', (written, expected) => {
    expect(parseSizeBytes(written)).toBe(expected);
  });

  it('survive being written and read', () => {
    fc.assert(
      fc.property(fc.nat(100_000), fc.constantFrom('', 'k', 'm', 'g', 't'), (count, unit) => {
        const factor = 1024 ** ['', 'k', 'm', 'g', 't'].indexOf(unit);
        expect(parseSizeBytes(`${count}${unit}`)).toBe(count * factor);
        expect(parseSizeBytes(`${count}${unit.toUpperCase()}`)).toBe(count * factor);
      }),
    );
  });
});

describe('servers.schema.json', () => {
  const schema = JSON.parse(readFileSync(new URL('../../servers.schema.json', import.meta.url), 'utf8'));
  const validate = new Ajv({ strict: true, strictRequired: false, allowUnionTypes: true }).compile(schema);
  const accepts = (yaml: string) => validate(parse(yaml, { merge: true }));

  it('accepts the example', () => {
    expect(accepts(exampleConfig()), JSON.stringify(validate.errors)).toBe(true);
  });

  it.each([
    'servers: { a: { image: x, concurrency: "${N}", idle_timeout: never, tools: [a], build: ./a } }',
    'servers: { a: { type: process, command: [x], tools: { allow: [a], rename: { a: b } } } }',
    'servers: { a: { type: http, endpoints: ["https://a/mcp"], headers: { A: "${T}" } } }',
    'gateway: { log_level: INFO, max_body: 4m, port: "${PORT:-8000}" }\nservers: {}',
    'x-common: { anything: [1] }\nservers: {}',
  ])('accepts %s', (yaml) => {
    expect(accepts(yaml), JSON.stringify(validate.errors)).toBe(true);
  });

  it.each([
    'servers: { A: { image: x } }',
    'servers: { mcp: { image: x } }',
    'servers: { a: { imge: x } }',
    'servers: { a: { command: [x] } }',
    'servers: { a: { image: x, idle_timeout: soon } }',
    'servers: { a: { image: x, concurrency: "8" } }',
    'servers: { a: { type: process, command: [x], limits: {} } }',
    'gateway: { log_level: loud }\nservers: {}',
    'gateway: {}',
    'server: {}\nservers: {}',
  ])('refuses %s', (yaml) => {
    expect(accepts(yaml)).toBe(false);
  });
});
