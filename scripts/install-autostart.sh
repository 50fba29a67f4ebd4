#!/usr/bin/env bash
# Installs a systemd unit that runs the gateway of this checkout at boot, as the installing user.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: sudo scripts/install-autostart.sh [--destdir DIR] [--config FILE] [--user NAME]

  --destdir DIR   install below DIR and start nothing (also the variable DESTDIR): for images, packages and machines
                  where systemd is not running
  --config FILE   the servers.yaml to serve; default: the checkout's
  --user NAME     whom it runs as; default: who calls sudo, else the current user

Idempotent. scripts/uninstall-autostart.sh takes back all that it made.
TEXT
}

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
UNIT=mcp-gateway.service
destdir=${DESTDIR:-}
config=$ROOT/servers.yaml
user=${SUDO_USER:-$(id -un)}

while [ $# -gt 0 ]; do
  case "$1" in
    --destdir | --prefix) destdir=${2:?"$1 needs a directory"}; shift 2 ;;
    --config) config=$(realpath -m -- "${2:?--config needs a file}"); shift 2 ;;
    --user) user=${2:?--user needs a name}; shift 2 ;;
    -h | --help) usage; exit 0 ;;
    *) echo "install-autostart: unknown option $1" >&2; usage >&2; exit 2 ;;
  esac
done

fail() { echo "install-autostart: $*" >&2; exit 1; }

if ! id -u "$user" >/dev/null 2>&1; then fail "there is no user $user"; fi
if [ ! -f "$config" ]; then fail "$config does not exist; --config names another"; fi
if [ -z "$destdir" ]; then
  if [ "$(uname -s)" != Linux ] || [ ! -d /run/systemd/system ]; then
    fail "systemd is not running here. With --destdir DIR the unit is written without being started; in WSL, set systemd=true under [boot] in /etc/wsl.conf."
  fi
  if [ "$(id -u)" -ne 0 ]; then fail "this writes to /etc/systemd/system: sudo scripts/install-autostart.sh"; fi
fi

# As the checkout's owner, so that no file of it comes to belong to root.
if [ "$(id -u)" -eq 0 ] && [ "$user" != root ]; then
  runuser -u "$user" -- "$ROOT/scripts/install-packages.sh"
else
  "$ROOT/scripts/install-packages.sh"
fi

# systemd reads % as a specifier everywhere, in commands also quotes and backslashes, and in their arguments also $.
plain() { printf %s "${1//%/%%}"; }
program() {
  local text=${1//\\/\\\\}
  text=${text//\"/\\\"}
  printf '"%s"' "${text//%/%%}"
}
argument() { program "${1//\$/\$\$}"; }
fill() {
  local unit
  unit=$(cat "$ROOT/systemd/$UNIT")
  unit=${unit//@README@/"$(printf %s "$ROOT/README.md" | sed 's/%/%%25/g; s/ /%%20/g')"}
  unit=${unit//@USER@/"$(plain "$user")"}
  unit=${unit//@GROUPS@/"$groups"}
  unit=${unit//@DIRECTORY@/"$(plain "$ROOT")"}
  unit=${unit//@PATH@/"$(program "PATH=$path")"}
  unit=${unit//@NODE@/"$(program "$ROOT/node_modules/node/bin/node")"}
  unit=${unit//@GATEWAY@/"$(argument "$ROOT/bin/mcp-gateway.js")"}
  unit=${unit//@CONFIG@/"$(argument "$config")"}
  printf '%s\n' "$unit" | sed '/^# Template:/d'
}

# The group that may use the engine's socket, where there is one beside root.
groups=''
if getent group docker >/dev/null; then groups=docker; fi

# For servers of type `process`: the pinned Node first, and this shell's npm and npx, wherever they are.
path=$ROOT/node_modules/.bin
if npm=$(command -v npm); then path=$path:$(dirname "$npm"); fi
path=$path:/usr/local/bin:/usr/bin:/bin

folder=$destdir/etc/systemd/system
mkdir -p "$folder/multi-user.target.wants"
fresh=$(mktemp "$folder/.$UNIT.XXXXXX")
trap 'rm -f "$fresh"' EXIT
fill >"$fresh"
chmod 644 "$fresh"
changed=true
if cmp -s "$fresh" "$folder/$UNIT"; then changed=false; else mv "$fresh" "$folder/$UNIT"; fi
ln -sfn "../$UNIT" "$folder/multi-user.target.wants/$UNIT"

if [ -n "$destdir" ]; then
  echo "Written: $folder/$UNIT (enabled; not started)"
  exit 0
fi
systemctl daemon-reload
if $changed; then systemctl restart "$UNIT"; else systemctl start "$UNIT"; fi
echo "MCP Gateway runs now and at each boot, as $user."
echo "Logs: journalctl -u mcp-gateway -f     Remove: sudo scripts/uninstall-autostart.sh"
