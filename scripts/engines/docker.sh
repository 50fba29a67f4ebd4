#!/usr/bin/env bash
# The engine that this machine has, which `make test` uses too, for as long as a command runs.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

case "${1:-}" in
  -h | --help) echo 'Usage: scripts/engines/docker.sh [command…]   Runs the command with DOCKER_HOST set to the engine of this machine.'; exit 0 ;;
  -*) echo "docker: unknown option $1" >&2; exit 2 ;;
esac

DOCKER_HOST=$("$here/ensure-docker.sh" --print)
export DOCKER_HOST
"$here/base-images.sh"
if [ $# -gt 0 ]; then exec "$@"; fi
