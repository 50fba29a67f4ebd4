// Writes dist/ from src/ for the gateway's image, which has no TypeScript compiler: Node strips the types once, in the build, and not
// at every start. Lines and columns stay what they are in the source.
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { stripTypeScriptTypes } from 'node:module';
import path from 'node:path';

for (const name of readdirSync('src', { recursive: true })) {
  if (!name.endsWith('.ts')) continue;
  const stripped = stripTypeScriptTypes(readFileSync(path.join('src', name), 'utf8'));
  const program = stripped.replaceAll(/((?:from|import\() ?'\.[^']*)\.ts'/g, "$1.js'");
  const file = path.join('dist', name.replace(/\.ts$/, '.js'));
  mkdirSync(path.dirname(file), { recursive: true });
  writeFileSync(file, program);
}
