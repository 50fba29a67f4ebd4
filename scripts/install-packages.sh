#!/usr/bin/env bash
# Installs the npm packages of the lock file, unless they are there, and with them the pinned Node.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { echo "packages: $*" >&2; }

# The pinned Node is as good as any, where a shell (that of sudo, for one) knows no other.
PATH="$PWD/node_modules/.bin:$PATH"

PINNED=node_modules/node/bin/node
runnable() { "$PINNED" --version >/dev/null 2>&1; }

# The pinned Node needs libatomic, which small Debian images lack. Asked before it is there: install scripts run on it.
add_library() {
  if [ ! -x /sbin/ldconfig ] || /sbin/ldconfig -p | grep libatomic.so.1 >/dev/null; then return 0; fi
  if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
    say "installing libatomic1, which Node needs …"
    { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends libatomic1; } >/dev/null 2>&1 || true
    if /sbin/ldconfig -p | grep libatomic.so.1 >/dev/null; then return 0; fi
  fi
  say "the pinned Node needs libatomic1; on Debian and Ubuntu: sudo apt-get install libatomic1"
  exit 1
}

# True when what is installed is what the lock file names, whoever installed it.
current() {
  runnable && node - <<'JS'
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
# Two at once would remove each other's files.
if command -v flock >/dev/null; then
  exec 8<package-lock.json
  flock 8
  if current; then exit 0; fi
fi
# One for another machine must not stand in the way of the Node that installs.
if ! runnable; then rm -f node_modules/.bin/node; fi
if ! command -v node >/dev/null || ! command -v npm >/dev/null; then
  say "Node 20 or later and npm are needed: https://nodejs.org/en/download"
  exit 1
fi
add_library
started=$SECONDS
say "npm ci …"
npm ci --no-audit --no-fund --no-update-notifier --loglevel=error >&2
# The pinned Node arrives by an install script, which some machines switch off.
if [ ! -x "$PINNED" ]; then
  say "fetching the pinned Node …"
  npm rebuild node --ignore-scripts=false --loglevel=error >&2
fi
say "installed in $((SECONDS - started)) s; Node $("$PINNED" --version)"
