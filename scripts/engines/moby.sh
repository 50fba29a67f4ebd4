#!/usr/bin/env bash
# The current Docker Engine, built from source where it is missing, for as long as a command runs.
set -euo pipefail
# shellcheck source=scripts/engines/own-engine.sh
source "$(dirname "${BASH_SOURCE[0]}")/own-engine.sh"

usage() {
  cat <<'TEXT'
Usage: scripts/engines/moby.sh [command…]

Runs the command with DOCKER_HOST set to a Docker Engine of its own, which is gone afterwards; its dockerd is the first in
PATH. Without a command it only builds what is missing. Linux, as root; the build needs Go 1.26 and takes a few minutes.
MCP_GATEWAY_ENGINES names the folder for what is built (default: ~/.cache/mcp-gateway-engines).
MOBY_VERSION, CONTAINERD_VERSION and RUNC_VERSION choose others.
TEXT
}

MOBY_VERSION=${MOBY_VERSION:-v2.0.0-beta.24}
CONTAINERD_VERSION=${CONTAINERD_VERSION:-v2.4.2}
RUNC_VERSION=${RUNC_VERSION:-v1.5.2}

case "${1:-}" in
  -h | --help) usage; exit 0 ;;
  -*) usage >&2; exit 2 ;;
esac

need_root
bin=$CACHE/moby-$MOBY_VERSION-$CONTAINERD_VERSION-$RUNC_VERSION

# build <cgo: 0 or 1> <package> <version> [flag…]
build() {
  local cgo=$1 package=$2 version=$3
  shift 3
  if [ -x "$bin/$(basename "$package")" ]; then return 0; fi
  command -v go >/dev/null || fail "needs Go 1.26 to build $package"
  say "building $package $version …"
  GOBIN=$bin CGO_ENABLED=$cgo GOFLAGS=${GOFLAGS:--p=2} nice -n 10 go install "$@" "$package@$version" >&2
}

mkdir -p "$bin"
if [ ! -x "$bin/runc" ]; then
  install_missing gcc gcc libc6-dev
  install_missing pkg-config pkg-config
  pkg-config --exists libseccomp || install_missing no-such-command libseccomp-dev
fi
build 1 github.com/opencontainers/runc "$RUNC_VERSION" -tags seccomp
build 0 github.com/containerd/containerd/v2/cmd/containerd "$CONTAINERD_VERSION"
build 0 github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2 "$CONTAINERD_VERSION"
build 0 github.com/moby/moby/v2/cmd/dockerd "$MOBY_VERSION" \
  -ldflags "-X github.com/moby/moby/v2/dockerversion.Version=${MOBY_VERSION#v}"
if [ $# -eq 0 ]; then
  echo "$bin"
  exit 0
fi

install_missing iptables iptables
command -v docker-init >/dev/null || install_missing tini tini
PATH=$bin:$PATH
open_folder
open_network
echo '{}' >"$engine_folder/daemon.json"
start_engine "$engine_folder/docker.sock" dockerd \
  --config-file="$engine_folder/daemon.json" \
  --data-root="$engine_folder/data" \
  --exec-root="$engine_folder/exec" \
  --pidfile="$engine_folder/pid" \
  --host="unix://$engine_folder/docker.sock" \
  --mtu="$mtu" \
  --init-path="$(command -v docker-init || command -v tini)" \
  --shutdown-timeout=2 \
  --userland-proxy=false
load_base_images
run_command "$@"
