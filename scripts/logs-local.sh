#!/usr/bin/env bash
# Follows the logs of one server of the running gateway.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [ -z "${1:-}" ]; then
  echo "Which server? make logs-local SERVER=<name>; these are known:" >&2
  node bin/mcp-gateway.js servers >&2
  exit 2
fi
exec node bin/mcp-gateway.js logs "$1" --follow
