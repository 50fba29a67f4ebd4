#!/usr/bin/env bash
# What the tests need beside npm packages: an engine, base images, and, on Debian as root, docker-compose 1.29,
# systemd-analyze and shellcheck. Without the latter their tests are skipped, visibly.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

scripts/ensure-docker.sh >/dev/null
missing=()
command -v docker-compose >/dev/null || missing+=(docker-compose)
command -v systemd-analyze >/dev/null || missing+=(systemd)
command -v shellcheck >/dev/null || missing+=(shellcheck)
if [ ${#missing[@]} -gt 0 ] && [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
  echo "test tools: installing ${missing[*]} …" >&2
  export DEBIAN_FRONTEND=noninteractive
  apt-get -qq update >/dev/null || true
  apt-get -qq -o Dpkg::Use-Pty=0 install -y --no-install-recommends "${missing[@]}" >/dev/null ||
    echo "test tools: ${missing[*]} cannot be installed; the tests that need them are skipped" >&2
fi
scripts/base-images.sh
