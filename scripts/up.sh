#!/usr/bin/env bash
# Sets everything up and runs the gateway in the foreground. Arguments go to `mcp-gateway start`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

scripts/install-packages.sh
if scripts/ensure-docker.sh --find >/dev/null; then
  # Without base images the gateway still starts; the servers that need them say what is missing.
  scripts/base-images.sh node || true
fi
exec node_modules/node/bin/node bin/mcp-gateway.js start --fallback "$@"
