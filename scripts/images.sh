#!/usr/bin/env bash
# Builds the gateway's image and those of the bundled servers, with base images that exist where no registry answers.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

scripts/base-images.sh node
DOCKER_HOST=$(scripts/ensure-docker.sh --find --print)
export DOCKER_HOST
NODE_IMAGE=${NODE_IMAGE:-node:26-bookworm-slim}

# The tar holds what .dockerignore lets through, whichever side of the socket reads that file.
build() {
  local image=$1 folder=$2
  shift 2
  echo "images: building $image …" >&2
  tar -C "$folder" -cf - "$@" | node scripts/engine-api.mjs build "$image" "NODE_IMAGE=$NODE_IMAGE"
}

build mcp-gateway . --exclude="*.test.ts" Dockerfile package.json package-lock.json bin src servers.schema.json scripts/container-entrypoint.mjs scripts/strip-types.mjs
for dockerfile in servers/*/Dockerfile; do
  folder=$(dirname "$dockerfile")
  build "mcp-$(basename "$folder")" "$folder" --exclude=./node_modules .
done
