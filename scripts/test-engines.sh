#!/usr/bin/env bash
# Runs the tests that an engine could break on one engine after the other, and ends with a table. Exit 1 when anything failed.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
PATH="$PWD/node_modules/.bin:$PATH"
export PATH

usage() {
  cat <<'TEXT'
Usage: scripts/test-engines.sh [engine…] [-- vitest's arguments]

Engines: docker (the one of this machine), moby (the current one, built from source), podman. Without a name, all of them.
moby and podman need Linux and root; what is missing is built or installed. docs/engines.md says more.
TEXT
}

SUITES=(
  test/docker
  test/lifecycle/containers.test.ts
  test/e2e/orphans.test.ts
  test/e2e/idle.test.ts
  test/e2e/faults.test.ts
)
engines=()
while [ $# -gt 0 ]; do
  case "$1" in
    docker | moby | podman) engines+=("$1") ;;
    -h | --help) usage; exit 0 ;;
    --) shift; break ;;
    *) echo "test-engines: unknown engine $1" >&2; usage >&2; exit 2 ;;
  esac
  shift
done
if [ ${#engines[@]} -eq 0 ]; then engines=(docker moby podman); fi

results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT
running=''
trap 'if [ -n "$running" ]; then kill "$running"; wait "$running"; fi; exit 130' INT TERM
for engine in "${engines[@]}"; do
  echo "── $engine ──"
  mkdir "$results/$engine"
  # The single quotes are for the shell beside that engine.
  # shellcheck disable=SC2016
  "scripts/engines/$engine.sh" sh -c '
    node scripts/engine-api.mjs version >"$0/name" &&
    exec vitest run --reporter=default --reporter=json --outputFile.json="$0/vitest.json" "$@"' \
    "$results/$engine" "${SUITES[@]}" "$@" &
  running=$!
  wait "$running"
  running=''
done

node scripts/engines/table.mjs "$results" "${engines[@]}"
