#!/usr/bin/env bash
# Podman behind its Docker-compatible socket, installed where it is missing, for as long as a command runs.
set -euo pipefail
# shellcheck source=scripts/engines/own-engine.sh
source "$(dirname "${BASH_SOURCE[0]}")/own-engine.sh"

usage() {
  cat <<'TEXT'
Usage: scripts/engines/podman.sh [command…]

Runs the command with DOCKER_HOST set to a Podman service of its own (its own storage and networks), which is gone
afterwards. Without a command it only installs what is missing. Linux, as root; installs on Debian and Ubuntu.
TEXT
}

case "${1:-}" in
  -h | --help) usage; exit 0 ;;
  -*) usage >&2; exit 2 ;;
esac

need_root
# runc also where cgroups are hybrid, which crun refuses.
install_missing podman podman netavark aardvark-dns
install_missing runc runc
if [ ! -x /usr/libexec/podman/catatonit ]; then install_missing catatonit catatonit; fi
if [ $# -eq 0 ]; then exit 0; fi

install_missing iptables iptables
open_folder
open_network
mkdir -p "$engine_folder/networks"
# Podman asks for more open files than it may where this machine's own limit is low, and lowers that of its processes itself.
at_most() { if [ "$2" = unlimited ] || [ "$2" -gt "$1" ]; then echo "$1:$1"; else echo "$2:$2"; fi; }
cat >"$engine_folder/containers.conf" <<TEXT
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
lock_type = "file"
tmp_dir = "$engine_folder/libpod"
[containers]
default_ulimits = ["nofile=$(at_most 1048576 "$(ulimit -Hn)")", "nproc=$(at_most 32768 "$(ulimit -Hu)")"]
[network]
network_backend = "netavark"
network_config_dir = "$engine_folder/networks"
TEXT
export CONTAINERS_CONF=$engine_folder/containers.conf
podman=(podman --root "$engine_folder/storage" --runroot "$engine_folder/run")
# shellcheck disable=SC2317 # Called at the end.
end_containers() { inside "${podman[@]}" rm --force --all --time 0; }
start_engine "$engine_folder/podman.sock" "${podman[@]}" \
  system service --time=0 "unix://$engine_folder/podman.sock"
load_base_images
run_command "$@"
