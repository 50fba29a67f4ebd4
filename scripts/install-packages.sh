#!/usr/bin/env bash
# Installs the npm packages of the lock file, unless they are there, and with them the pinned Node.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { echo "packages: $*" >&2; }

# The pinned Node is as good as any, where a shell (that of sudo, for one) knows no other.
PATH="$PWD/node_modules/.bin:$PATH"

# True when what is installed is what the lock file names, whoever installed it.
current() {
  [ -x node_modules/node/bin/node ] && node - <<'JS'
const { readFileSync } = require('node:fs');
const read = (file) => JSON.parse(readFileSync(file, 'utf8')).packages;
try {
  const installed = read('node_modules/.package-lock.json');
  const stale = Object.entries(read('package-lock.json')).some(
    ([path, { version, optional, devOptional, link }]) =>
      path !== '' && !link && (path in installed ? installed[path].version !== version : !optional && !devOptional),
  );
  process.exit(stale ? 1 : 0);
} catch {
  process.exit(1);
}
JS
}

if current; then exit 0; fi
if ! command -v node >/dev/null || ! command -v npm >/dev/null; then
  say "Node 20 or later and npm are needed: https://nodejs.org/en/download"
  exit 1
fi
started=$SECONDS
say "npm ci …"
npm ci --no-audit --no-fund --loglevel=error >&2
# The pinned Node arrives by an install script, which some machines switch off.
if [ ! -x node_modules/node/bin/node ]; then
  say "fetching the pinned Node …"
  npm rebuild node --ignore-scripts=false --loglevel=error >&2
fi
say "installed in $((SECONDS - started)) s; Node $(node_modules/node/bin/node --version)"
