#!/usr/bin/env node
// A checkout runs its TypeScript source as it is; the published package runs the build.
import { existsSync } from 'node:fs';
import module from 'node:module';
import { fileURLToPath } from 'node:url';

const [major] = process.versions.node.split('.').map(Number);
if (major < 22) {
  console.error(
    `mcp-gateway needs Node 22 or later; this is Node ${process.versions.node}. In a checkout, run: npx mcp-gateway`,
  );
  process.exit(1);
}
const source = new URL('../src/main.ts', import.meta.url);
const isCheckout = existsSync(source);
// Stripping types takes Node 37 MB and 300 ms of CPU; what it has stripped once it finds there the next time, where it may write.
if (isCheckout)
  module.enableCompileCache?.(fileURLToPath(new URL('../node_modules/.cache/mcp-gateway', import.meta.url)));
await import(isCheckout ? source.href : new URL('../dist/main.js', import.meta.url).href);
