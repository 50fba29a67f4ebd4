#!/usr/bin/env bash
# Finds a Docker-compatible engine that answers, or installs and starts one (Debian and Ubuntu, as root).
# An engine that runs is never touched. The last line on stdout is its DOCKER_HOST.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: scripts/ensure-docker.sh [--print] [--find]

  --print   print the DOCKER_HOST and nothing else
  --find    only look: install nothing, start nothing; exit 1 when no engine answers

Looked for, in this order: DOCKER_HOST, the current docker context, the sockets of Docker (rootful, rootless,
Desktop), Colima and Podman. Exit 0: an engine answers. Exit 1: none does. Exit 2: wrong usage.
TEXT
}

quiet=false
find_only=false
for argument in "$@"; do
  case "$argument" in
    --print) quiet=true ;;
    --find) find_only=true ;;
    -h | --help) usage; exit 0 ;;
    *) echo "ensure-docker: unknown option $argument" >&2; usage >&2; exit 2 ;;
  esac
done

ROOTFUL_SOCKET=/var/run/docker.sock
LOG_FILE=${MCP_GATEWAY_DOCKERD_LOG:-/var/log/dockerd.log}
LOCK_FILE=/run/lock/mcp-gateway-engine.lock
START_TIMEOUT_S=60
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

say() { $quiet || echo "$*" >&2; }
warn() { echo "$*" >&2; }
found() {
  say "Docker Engine: $1"
  echo "$1"
  exit 0
}

# True when GET /_ping at a DOCKER_HOST answers 200; TCP hosts with DOCKER_TLS_VERIFY use DOCKER_CERT_PATH.
answers() {
  local host=$1
  case "$host" in
    unix://*)
      local socket=${host#unix://}
      [ -S "$socket" ] || return 1
      if command -v curl >/dev/null; then
        curl -fsS --noproxy '*' --max-time 5 -o /dev/null --unix-socket "$socket" http://localhost/_ping 2>/dev/null
      else
        DOCKER_HOST=$host node "$HERE/engine-api.mjs" ping 2>/dev/null
      fi
      ;;
    tcp://* | http://* | https://*) DOCKER_HOST=$host node "$HERE/engine-api.mjs" ping 2>/dev/null ;;
    ssh://*) command -v docker >/dev/null && DOCKER_HOST=$host docker version >/dev/null 2>&1 ;;
    *) return 1 ;;
  esac
}

# The endpoint of the docker CLI's current context; empty for the default one. Needs no docker CLI.
context_host() {
  local config=${DOCKER_CONFIG:-${HOME:-/root}/.docker} name=${DOCKER_CONTEXT:-} digest meta
  if [ -z "$name" ] && [ -r "$config/config.json" ]; then
    name=$(sed -n 's/.*"currentContext"[[:space:]]*:[[:space:]]*"\([^"]*\)".*/\1/p' "$config/config.json" | head -n 1)
  fi
  if [ -z "$name" ] || [ "$name" = default ]; then return 0; fi
  if command -v sha256sum >/dev/null; then
    digest=$(printf %s "$name" | sha256sum)
  else
    digest=$(printf %s "$name" | shasum -a 256)
  fi
  meta="$config/contexts/meta/${digest%% *}/meta.json"
  [ -r "$meta" ] || return 0
  tr -d '\n' <"$meta" | sed -n 's/.*"docker"[[:space:]]*:[[:space:]]*{[^}]*"Host"[[:space:]]*:[[:space:]]*"\([^"]*\)".*/\1/p'
}

usual_sockets() {
  local home=${HOME:-/root} runtime=${XDG_RUNTIME_DIR:-/run/user/$(id -u)}
  printf '%s\n' \
    "$ROOTFUL_SOCKET" \
    "$runtime/docker.sock" \
    "$home/.docker/run/docker.sock" \
    "$home/.docker/desktop/docker.sock" \
    "$home/.colima/default/docker.sock" \
    "$home/.config/colima/default/docker.sock" \
    "$runtime/podman/podman.sock" \
    /run/podman/podman.sock
}

look_everywhere() {
  local socket context
  context=$(context_host)
  if [ -n "$context" ]; then
    if answers "$context"; then found "$context"; fi
    say "The current docker context points at $context, where nothing answers; looking further."
  fi
  while IFS= read -r socket; do
    if answers "unix://$socket"; then found "unix://$socket"; fi
    if [ -S "$socket" ] && [ ! -w "$socket" ]; then
      say "$socket exists, but $(id -un) may not use it (sudo usermod -aG docker $(id -un), then log in again)."
    fi
  done < <(usual_sockets)
}

how_to_get_one() {
  warn "No Docker Engine answers."
  case "$(uname -s)" in
    Darwin) warn "Install and start one: Docker Desktop (https://docs.docker.com/desktop/setup/install/mac-install/) or 'brew install colima && colima start'." ;;
    *)
      if command -v apt-get >/dev/null; then
        if [ "$(id -u)" -eq 0 ]; then
          warn "Install and start one: make engine   (Debian's docker.io)"
        else
          warn "Install and start one: sudo apt-get install docker.io, then sudo usermod -aG docker $(id -un) and log in again; or sudo make engine."
        fi
      else
        warn "Install one: https://docs.docker.com/engine/install/ , then: sudo systemctl start docker"
      fi
      warn "Or point DOCKER_HOST at an engine, for example DOCKER_HOST=unix:///run/user/$(id -u)/podman/podman.sock."
      ;;
  esac
}

systemd_runs() { [ -d /run/systemd/system ] && command -v systemctl >/dev/null; }

# dockerd's pid when its pid file names a live dockerd.
dockerd_pid() {
  local pid
  pid=$(cat /var/run/docker.pid 2>/dev/null) || return 1
  [ -n "$pid" ] && [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = dockerd ] && echo "$pid"
}

# Waits until the rootful socket answers; returns 1 as soon as the given process is gone, or after the bound.
wait_for_engine() {
  local pid=$1 deadline=$((SECONDS + START_TIMEOUT_S))
  while [ "$SECONDS" -lt "$deadline" ]; do
    if answers "unix://$ROOTFUL_SOCKET"; then return 0; fi
    if [ -n "$pid" ] && ! kill -0 "$pid" 2>/dev/null; then return 1; fi
    sleep 0.3
  done
  return 1
}

install_engine() {
  say "Installing Debian's docker.io …"
  export DEBIAN_FRONTEND=noninteractive
  apt-get -qq update >&2 || warn "apt-get update failed; trying with the lists at hand."
  local packages=(docker.io iptables)
  # Later releases keep the CLI in a package of its own.
  if apt-cache show docker-cli >/dev/null 2>&1; then packages+=(docker-cli); fi
  apt-get -qq -o Dpkg::Use-Pty=0 install -y --no-install-recommends "${packages[@]}" >&2
}

# Mounts the cgroup hierarchies that a machine without systemd may lack.
mount_cgroups() {
  mountpoint -q /sys/fs/cgroup && return 0
  mount -t cgroup2 none /sys/fs/cgroup
}

# Starts dockerd by hand, outliving this shell. Arguments: a directory that shadows iptables or "", then dockerd's flags.
launch() {
  local shadow=$1 offset pid
  shift
  offset=$(stat -c %s "$LOG_FILE" 2>/dev/null || echo 0)
  if ! dockerd_pid >/dev/null; then rm -f /var/run/docker.pid; fi
  (
    ulimit -n 1048576 2>/dev/null || true
    PATH="${shadow:+$shadow:}$PATH:/usr/sbin:/sbin" exec setsid nohup dockerd --host "unix://$ROOTFUL_SOCKET" "$@"
  ) </dev/null >>"$LOG_FILE" 2>&1 9>&- &
  pid=$!
  if wait_for_engine "$pid"; then return 0; fi
  if kill -0 "$pid" 2>/dev/null; then
    warn "dockerd (pid $pid) runs, but does not answer after $START_TIMEOUT_S s; its log: $LOG_FILE"
    exit 1
  fi
  tail -c "+$((offset + 1))" "$LOG_FILE" | tail -n 5 >"$attempt_log"
  return 1
}

start_by_hand() {
  local flags=() mtu shadow='' pid try
  if pid=$(dockerd_pid); then
    say "dockerd (pid $pid) is starting …"
    if wait_for_engine "$pid"; then return 0; fi
    warn "dockerd (pid $pid) runs, but does not answer at $ROOTFUL_SOCKET; it is left alone."
    exit 1
  fi
  say "Starting dockerd (log: $LOG_FILE) …"
  mount_cgroups || true
  # Packets larger than the uplink's are lost where path MTU discovery is filtered.
  mtu=$(cat "/sys/class/net/$(ip -4 route show default 2>/dev/null | sed -n 's/.* dev \([^ ]*\).*/\1/p' | head -n 1)/mtu" 2>/dev/null || echo 1500)
  if [ "$mtu" -lt 1500 ]; then flags+=(--mtu "$mtu"); fi
  for try in 1 2 3; do
    if launch "$shadow" ${flags[@]+"${flags[@]}"}; then return 0; fi
    if [ -z "$shadow" ] && tail -n 1 "$attempt_log" | grep -qi iptables && command -v iptables-legacy >/dev/null; then
      say "The kernel lacks nf_tables; dockerd gets iptables-legacy (attempt $try)."
      shadow=/run/mcp-gateway-iptables
      mkdir -p "$shadow"
      local name
      for name in iptables ip6tables iptables-save iptables-restore ip6tables-save ip6tables-restore; do
        ln -sf "$(command -v "${name/tables/tables-legacy}")" "$shadow/$name"
      done
    elif tail -n 1 "$attempt_log" | grep -qiE 'graphdriver|storage.driver|overlay' && [[ " ${flags[*]-} " != *" vfs "* ]]; then
      say "No overlay file system here; dockerd gets the vfs storage driver (attempt $try)."
      flags+=(--storage-driver vfs)
    else
      break
    fi
  done
  warn "dockerd does not start. Its last words ($LOG_FILE):"
  cat "$attempt_log" >&2
  exit 1
}

if [ -n "${DOCKER_HOST:-}" ]; then
  if answers "$DOCKER_HOST"; then found "$DOCKER_HOST"; fi
  if [ "$DOCKER_HOST" != "unix://$ROOTFUL_SOCKET" ] && [ "$DOCKER_HOST" != unix:///run/docker.sock ]; then
    warn "DOCKER_HOST is $DOCKER_HOST, where no engine answers."
    warn "Start that engine, or unset DOCKER_HOST to have the usual places looked at."
    exit 1
  fi
fi
look_everywhere
if $find_only; then
  $quiet || how_to_get_one
  exit 1
fi

can_install=false
if command -v apt-get >/dev/null && [ -r /etc/debian_version ]; then can_install=true; fi
if [ "$(uname -s)" != Linux ] || [ "$(id -u)" -ne 0 ] || { ! command -v dockerd >/dev/null && ! $can_install; }; then
  how_to_get_one
  exit 1
fi

mkdir -p "$(dirname "$LOCK_FILE")"
exec 9>"$LOCK_FILE"
if ! flock -n 9; then
  say "Another run is setting the engine up; waiting for it …"
  flock 9
fi
attempt_log=$(mktemp)
trap 'rm -f "$attempt_log"' EXIT
if answers "unix://$ROOTFUL_SOCKET"; then found "unix://$ROOTFUL_SOCKET"; fi
if ! command -v dockerd >/dev/null; then install_engine; fi
if systemd_runs; then
  systemctl start docker 9>&-
  if ! wait_for_engine ''; then
    warn "docker.service does not answer; see: journalctl -u docker"
    exit 1
  fi
else
  start_by_hand
fi
found "unix://$ROOTFUL_SOCKET"
