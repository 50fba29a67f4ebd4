#!/usr/bin/env bash
# Runs every suite and ends with the line `N passed, N failed`. Exit 1 when anything failed.
# Arguments go to vitest (a path runs the tests under it alone).
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
PATH="$PWD/node_modules/.bin:$PATH"
export PATH

results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT

if npm run --silent check; then check=passed; else check=failed; fi
vitest run --reporter=default --reporter=json --outputFile.json="$results/vitest.json" "$@"

node scripts/count-tests.mjs "$check" "$results/vitest.json"
