#!/usr/bin/env node
// A checkout runs its TypeScript source as it is; the published package runs the build.
import { existsSync } from 'node:fs';

const [major] = process.versions.node.split('.').map(Number);
if (major < 22) {
  console.error(
    `mcp-gateway needs Node 22 or later; this is Node ${process.versions.node}. In a checkout, run: npx mcp-gateway`,
  );
  process.exit(1);
}
const source = new URL('../src/main.ts', import.meta.url);
await import(existsSync(source) ? source.href : new URL('../dist/main.js', import.meta.url).href);
