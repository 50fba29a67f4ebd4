# Sourced by the scripts beside it. An engine of one's own for as long as a command runs: in a folder and a network namespace that
# nobody else uses, with a way to the registries through this machine, and gone without a trace afterwards.
# shellcheck shell=bash

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PATH="$(dirname "$HERE")/node_modules/.bin:$PATH:/usr/sbin:/sbin"
# shellcheck disable=SC2034 # For moby.sh.
CACHE=${MCP_GATEWAY_ENGINES:-${XDG_CACHE_HOME:-$HOME/.cache}/mcp-gateway-engines}
START_TIMEOUT_S=60
PREFIX=/tmp/mcp-gateway-engine
NAME=$(basename "$0" .sh)

say() { echo "$NAME: $*" >&2; }
fail() {
  say "$*"
  exit 1
}

need_root() {
  if [ "$(uname -s)" != Linux ] || [ "$(id -u)" -ne 0 ]; then fail "needs Linux and root, for network namespaces and cgroups"; fi
}

# install_missing <command> <package>...: the packages, unless the command is there.
install_missing() {
  local command=$1
  shift
  if command -v "$command" >/dev/null; then return 0; fi
  command -v apt-get >/dev/null || fail "needs $command; install it"
  say "installing $* …"
  export DEBIAN_FRONTEND=noninteractive
  apt-get -qq update >/dev/null 2>&1 || true
  apt-get -qq -o Dpkg::Use-Pty=0 install -y --no-install-recommends "$@" >&2 || fail "$* cannot be installed"
}

engine_folder=''
engine_pid=''
command_pid=''

# Where this engine keeps everything; what a killed run left behind is removed first.
open_folder() {
  local stale
  for stale in "$PREFIX".*; do
    if [ -d "$stale" ] && ! kill -0 "$(cat "$stale/owner" 2>/dev/null)" 2>/dev/null; then remove_folder "$stale" || true; fi
  done
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  trap close_engine EXIT
  engine_folder=$(mktemp -d "$PREFIX.XXXXXX")
  echo $$ >"$engine_folder/owner"
  namespace=$(namespace_of "$engine_folder")
}

namespace_of() { echo "mcpe-${1##*.}"; }

inside() { nsenter --net="/run/netns/$namespace" "$@"; }

# A namespace with a link to this one, whose packets go out as this machine's. `mtu` is what its uplink takes.
open_network() {
  local uplink index third subnet rule
  uplink=$(ip -4 route show default | sed -n 's/.* dev \([^ ]*\).*/\1/p' | head -n 1)
  mtu=$(cat "/sys/class/net/$uplink/mtu" 2>/dev/null || echo 1500)
  # Addresses that are set aside for tests of networks.
  for index in $(seq $(($$ % 64)) 16383); do
    third=$((index / 64))
    subnet=198.18.$third.$((index % 64 * 4))
    if ! ip -4 address show | grep -qF " ${subnet%.*}.$((${subnet##*.} + 1))/"; then break; fi
  done
  ip netns add "$namespace"
  ip link add "$namespace" mtu "$mtu" type veth peer name eth0 mtu "$mtu" netns "$namespace"
  ip address add "${subnet%.*}.$((${subnet##*.} + 1))/30" dev "$namespace"
  ip link set "$namespace" up
  ip -n "$namespace" address add "${subnet%.*}.$((${subnet##*.} + 2))/30" dev eth0
  ip -n "$namespace" link set lo up
  ip -n "$namespace" link set eth0 up
  ip -n "$namespace" route add default via "${subnet%.*}.$((${subnet##*.} + 1))"
  inside sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward'
  echo 1 >/proc/sys/net/ipv4/ip_forward
  rule=(-m comment --comment "$namespace" -j)
  iptables -t nat -I POSTROUTING -s "$subnet/30" ! -o "$namespace" "${rule[@]}" MASQUERADE
  iptables -I FORWARD -i "$namespace" "${rule[@]}" ACCEPT
  iptables -I FORWARD -o "$namespace" "${rule[@]}" ACCEPT
  # Not every engine tells its bridges how small the uplink's packets are.
  inside iptables -t mangle -A FORWARD -p tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu ||
    say "TCP cannot be told how small the packets are: downloads inside of builds may hang"
}

close_network() {
  local table chain rule
  for chain in 'nat POSTROUTING' 'filter FORWARD'; do
    read -r table chain <<<"$chain"
    iptables -t "$table" -S "$chain" 2>/dev/null | grep -F -- "--comment $1 " | while read -r rule; do
      # shellcheck disable=SC2086
      iptables -t "$table" -D ${rule#-A } 2>/dev/null
    done
  done
  ip netns delete "$1" 2>/dev/null || true
}

# start_engine <socket> <command>...: in the namespace; returns when it answers, with DOCKER_HOST set.
start_engine() {
  local deadline=$((SECONDS + START_TIMEOUT_S)) log=$engine_folder/log
  export DOCKER_HOST=unix://$1
  shift
  nsenter --net="/run/netns/$namespace" "$@" </dev/null >"$log" 2>&1 &
  engine_pid=$!
  until node "$HERE/engine-api.mjs" ping 2>/dev/null; do
    if ! kill -0 "$engine_pid" 2>/dev/null || [ "$SECONDS" -gt "$deadline" ]; then
      tail -n 20 "$log" >&2
      fail "it does not answer"
    fi
    sleep 0.3
  done
  say "$(node "$HERE/engine-api.mjs" version) answers at $DOCKER_HOST"
}

# The base images: copied from this machine's engine, if there is one, else as base-images.sh gets them.
load_base_images() {
  local machine image
  machine=$(unset DOCKER_HOST && "$HERE/ensure-docker.sh" --find --print) || machine=''
  for image in "${NODE_IMAGE:-node:26-bookworm-slim}" "${PYTHON_IMAGE:-python:3.11-slim-bookworm}"; do
    if [ -n "$machine" ] && DOCKER_HOST=$machine node "$HERE/engine-api.mjs" exists "$image"; then
      say "copying $image …"
      DOCKER_HOST=$machine node "$HERE/engine-api.mjs" save "$image" | node "$HERE/engine-api.mjs" load
    fi
  done
  "$HERE/base-images.sh"
}

# Runs the command with DOCKER_HOST set; what it ends with is this script's end.
run_command() {
  local code=0
  "$@" &
  command_pid=$!
  wait "$command_pid" || code=$?
  command_pid=''
  exit "$code"
}

# What an engine leaves running when it ends is removed before, by a function of this name.
end_containers() { :; }

close_engine() {
  local code=$?
  set +e
  trap '' INT TERM HUP
  trap - EXIT
  if [ -n "$command_pid" ]; then
    kill "$command_pid" 2>/dev/null
    wait "$command_pid" 2>/dev/null
  fi
  if [ -n "$engine_pid" ] && kill -0 "$engine_pid" 2>/dev/null; then
    end_containers >/dev/null 2>&1
    kill "$engine_pid" 2>/dev/null
    wait "$engine_pid" 2>/dev/null
  fi
  if [ -n "$engine_folder" ]; then remove_folder "$engine_folder"; fi
  exit "$code"
}

# Everything that an engine in this folder left: processes that name the folder, mounts below it, its network.
remove_folder() {
  local folder=$1 pid mount
  # Containers do not name it themselves: they are children of what does.
  grep -lsF "$folder" /proc/[0-9]*/cmdline | cut -d/ -f3 | while read -r pid; do
    # shellcheck disable=SC2046
    kill -9 "$pid" $(cat "/proc/$pid/task/"*/children 2>/dev/null) 2>/dev/null || true
  done
  cut -d' ' -f2 /proc/mounts | { grep -F "$folder" || true; } | sort -r | while read -r mount; do umount -l "$mount" 2>/dev/null; done
  close_network "$(namespace_of "$folder")"
  rm -rf "$folder" 2>/dev/null || { sleep 1 && rm -rf "$folder"; } || say "$folder is left"
}
