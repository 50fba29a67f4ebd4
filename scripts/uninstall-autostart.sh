#!/usr/bin/env bash
# Stops the gateway that systemd runs and removes all that install-autostart.sh made. Idempotent.
set -euo pipefail

UNIT=mcp-gateway.service
destdir=${DESTDIR:-}

while [ $# -gt 0 ]; do
  case "$1" in
    --destdir | --prefix) destdir=${2:?"$1 needs a directory"}; shift 2 ;;
    -h | --help) echo "Usage: sudo scripts/uninstall-autostart.sh [--destdir DIR]"; exit 0 ;;
    *) echo "uninstall-autostart: unknown option $1" >&2; exit 2 ;;
  esac
done

folder=$destdir/etc/systemd/system
wants=$folder/multi-user.target.wants
if [ ! -e "$folder/$UNIT" ] && [ ! -L "$wants/$UNIT" ]; then
  echo "Nothing to remove: $folder/$UNIT does not exist."
  exit 0
fi
if [ -z "$destdir" ] && [ "$(id -u)" -ne 0 ]; then
  echo "uninstall-autostart: this writes to /etc/systemd/system: sudo scripts/uninstall-autostart.sh" >&2
  exit 1
fi
live=false
if [ -z "$destdir" ] && [ -d /run/systemd/system ]; then live=true; fi
if $live; then systemctl stop "$UNIT" || true; fi
rm -f "$wants/$UNIT" "$folder/$UNIT"
# Below a DESTDIR the folders are install-autostart.sh's own, as far as nothing else is in them.
if [ -n "$destdir" ]; then
  for directory in "$wants" "$folder" "$destdir/etc/systemd" "$destdir/etc"; do
    rmdir "$directory" 2>/dev/null || break
  done
fi
if $live; then
  systemctl daemon-reload
  systemctl reset-failed "$UNIT" 2>/dev/null || true
fi
echo "Removed $folder/$UNIT"
