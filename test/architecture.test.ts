import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join, normalize, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';

const root = fileURLToPath(new URL('..', import.meta.url));
const src = join(root, 'src');

interface Import {
  from: string;
  to: string;
  typeOnly: boolean;
}

const files = readdirSync(src, { recursive: true, encoding: 'utf8' }).filter(
  (file) => file.endsWith('.ts') && !file.endsWith('.test.ts'),
);

const imports: Import[] = files.flatMap((from) => {
  const text = readFileSync(join(src, from), 'utf8');
  const statements = text.matchAll(/^(?:import|export)\s+(type\s+)?[^'"]*?from\s+'([^']+)'/gm);
  const dynamic = text.matchAll(/(?<!typeof )\bimport\('([^']+)'\)/g);
  return [
    ...[...statements].map(([, type, to]) => ({ from, to: to!, typeOnly: type !== undefined })),
    ...[...dynamic].map(([, to]) => ({ from, to: to!, typeOnly: false })),
  ];
});

/** A relative import as a path inside src. */
const target = ({ from, to }: Import) => normalize(join(dirname(from), to));
const local = imports.filter(({ to }) => to.startsWith('.'));
const layerOf = (file: string) => {
  const layer = file.includes('/') ? file.slice(0, file.indexOf('/')) : file.replace(/\.ts$/, '');
  return layer;
};

/** Which layer may import which; everyone may import base, observability and types of config. */
const allowed: Record<string, string[]> = {
  main: ['cli'],
  cli: ['app', 'config', 'runtimes', 'lifecycle', 'catalog', 'access', 'gateway', 'http', 'protocol'],
  app: ['config', 'runtimes', 'lifecycle', 'catalog', 'access', 'gateway', 'http', 'protocol'],
  http: ['gateway', 'lifecycle', 'catalog', 'access', 'protocol'],
  gateway: ['lifecycle', 'catalog', 'access', 'protocol'],
  lifecycle: ['runtimes', 'protocol'],
  runtimes: ['protocol'],
  catalog: ['protocol'],
  access: ['config'],
  config: [],
  protocol: [],
  observability: [],
  base: [],
};

const vendors: Record<string, string> = {
  dockerode: 'runtimes/docker/',
  'docker-modem': 'runtimes/docker/',
  hono: 'http/',
  '@hono/node-server': 'http/',
  winston: 'observability/',
  commander: 'cli/',
  yaml: 'config/',
};

describe('architecture', () => {
  it('lets a layer import only the layers below it', () => {
    const violations = local.filter((entry) => {
      const from = layerOf(entry.from);
      const to = layerOf(target(entry));
      if (from === to || to === 'base' || to === 'observability')
        return from === 'base' && to === 'observability';
      if (to === 'config' && entry.typeOnly) return false;
      return !allowed[from]?.includes(to);
    });
    expect(violations).toEqual([]);
  });

  it('knows every folder', () => {
    expect([...new Set(files.map(layerOf))].filter((layer) => !(layer in allowed))).toEqual([]);
  });

  it('lets the lifecycle know the port of the runtimes, and only app.ts their implementations', () => {
    const violations = local.filter((entry) => {
      const to = target(entry);
      if (!to.startsWith('runtimes/') || to === 'runtimes/runtime.ts') return false;
      return !['runtimes', 'app', 'cli'].includes(layerOf(entry.from));
    });
    expect(violations).toEqual([]);
  });

  it('keeps vendor types behind their folder', () => {
    const violations = imports.filter(({ from, to }) => {
      const name = to.startsWith('@') ? to.split('/').slice(0, 2).join('/') : to.split('/')[0]!;
      const home = vendors[name];
      return home !== undefined && !from.startsWith(home);
    });
    expect(violations).toEqual([]);
  });

  it('has no import cycles', () => {
    const graph = new Map<string, string[]>();
    for (const entry of local) {
      if (entry.typeOnly) continue;
      graph.set(entry.from, [...(graph.get(entry.from) ?? []), target(entry)]);
    }
    const cycles: string[][] = [];
    const done = new Set<string>();
    const visit = (file: string, path: string[]) => {
      if (path.includes(file)) cycles.push([...path.slice(path.indexOf(file)), file]);
      if (done.has(file) || path.includes(file)) return;
      for (const next of graph.get(file) ?? []) visit(next, [...path, file]);
      done.add(file);
    };
    for (const file of graph.keys()) visit(file, []);
    expect(cycles).toEqual([]);
  });

  it('names only paths that exist in AGENTS.md', () => {
    const text = readFileSync(join(root, 'AGENTS.md'), 'utf8');
    const paths = [
      ...text.matchAll(/`((?:src|test|docs|scripts|servers|bench|systemd|bin)\/[\w./-]*)`/g),
    ].map(([, path]) => path!);
    expect(paths.length).toBeGreaterThan(10);
    expect(paths.filter((path) => !existsSync(join(root, path)))).toEqual([]);
  });

  it('names no file utils, helpers or manager', () => {
    const vague = files
      .map((file) => relative('.', file))
      .filter((f) => /(^|\/)(utils?|helpers?|manager)\b/.test(f));
    expect(vague).toEqual([]);
  });
});
