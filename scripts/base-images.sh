#!/usr/bin/env bash
# Makes sure that the base images of the project's Dockerfiles exist on the engine. Each is pulled; where no registry
# answers, a stand-in is put together from this machine's Debian or Ubuntu packages and the pinned Node, with the
# machine's CA certificates, so that package installs inside builds work behind a proxy. Needs no root.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: scripts/base-images.sh [--force] [node] [python]

Without a name, both. An image that exists is kept; --force makes the stand-in anew.
NODE_IMAGE (node:26-bookworm-slim) and PYTHON_IMAGE (python:3.11-slim-bookworm) name others.
TEXT
}

force=false
wanted=()
for argument in "$@"; do
  case "$argument" in
    --force) force=true ;;
    node | python) wanted+=("$argument") ;;
    -h | --help) usage; exit 0 ;;
    *) echo "base-images: unknown argument $argument" >&2; usage >&2; exit 2 ;;
  esac
done
if [ ${#wanted[@]} -eq 0 ]; then wanted=(node python); fi

NODE_IMAGE=${NODE_IMAGE:-node:26-bookworm-slim}
PYTHON_IMAGE=${PYTHON_IMAGE:-python:3.11-slim-bookworm}
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(dirname "$HERE")
BUNDLE=/etc/ssl/certs/ca-certificates.crt
# What the container's PATH and certificate variables are, and how a stand-in is told from the real image.
CHANGES=(
  'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'
  "ENV SSL_CERT_FILE=$BUNDLE"
  "ENV NODE_EXTRA_CA_CERTS=$BUNDLE"
  'LABEL mcp-gateway.base=local'
)

DOCKER_HOST=$("$HERE/ensure-docker.sh" --find --print) || {
  echo "base-images: no Docker Engine answers; make engine, or scripts/ensure-docker.sh, says how to get one" >&2
  exit 1
}
export DOCKER_HOST

work=''
cleanup() { if [ -n "$work" ]; then rm -rf "$work"; fi; }
trap cleanup EXIT
say() { echo "base-images: $*" >&2; }
engine() { node "$HERE/engine-api.mjs" "$@"; }

# apt-get and apt-cache; with package lists of our own where the machine's are missing.
apt_options=()
prepare_apt() {
  if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
    say "it cannot be put together here either: that needs apt-get and dpkg-deb (Debian or Ubuntu)"
    exit 1
  fi
  apt-cache pkgnames >"$work/package-names"
  if known_package busybox-static; then return 0; fi
  say "fetching package lists …"
  mkdir -p "$work/apt/lists/partial" "$work/apt/cache/archives/partial"
  apt_options=(-o "Dir::State::Lists=$work/apt/lists" -o "Dir::Cache=$work/apt/cache")
  apt-get -qq "${apt_options[@]}" -o APT::Sandbox::User=root update >&2
  apt-cache "${apt_options[@]}" pkgnames >"$work/package-names"
}
known_package() { grep -qx -- "$1" "$work/package-names"; }

# Unpacks packages into $work/root. `a|b` takes the first that exists; a trailing `?` makes a package optional.
unpack() {
  local entry candidate chosen packages=() debs=$work/debs
  for entry in "$@"; do
    chosen=''
    for candidate in $(tr '|' ' ' <<<"${entry%\?}"); do
      if known_package "$candidate"; then chosen=$candidate; break; fi
    done
    if [ -n "$chosen" ]; then
      packages+=("$chosen")
    elif [[ $entry != *\? ]]; then
      say "no package $entry in this machine's package lists (apt-get update may mend that)"
      exit 1
    fi
  done
  rm -rf "$debs"
  mkdir -p "$debs"
  (cd "$debs" && apt-get -qq ${apt_options[@]+"${apt_options[@]}"} -o APT::Sandbox::User=root download "${packages[@]}" >&2)
  local deb
  for deb in "$debs"/*.deb; do dpkg-deb --fsys-tarfile "$deb" | tar -xpf - --keep-directory-symlink -C "$work/root"; done
}

# A root file system with a shell, name lookup, time zones, certificates, and a user `node` (1000).
make_root() {
  local root=$work/root directory applet
  mkdir -p "$root"
  for directory in bin sbin lib lib64; do
    mkdir -p "$root/usr/$directory"
    ln -s "usr/$directory" "$root/$directory"
  done
  unpack base-files base-passwd libc6 libc-bin libgcc-s1 libstdc++6 libatomic1 busybox-static netbase tzdata
  rm -rf "${root:?}"/usr/share/{doc,man,info,locale,lintian,bug} "${root:?}/boot"
  cp "$root/usr/share/base-passwd/passwd.master" "$root/etc/passwd"
  cp "$root/usr/share/base-passwd/group.master" "$root/etc/group"
  echo 'node:x:1000:1000::/home/node:/bin/sh' >>"$root/etc/passwd"
  echo 'node:x:1000:' >>"$root/etc/group"
  printf 'passwd: files\ngroup: files\nhosts: files dns\n' >"$root/etc/nsswitch.conf"
  mkdir -p "$root/home/node" "$root/usr/local/bin" "$root/etc/ssl/certs"
  for applet in $("$root/bin/busybox" --list); do
    case "$applet" in dpkg | dpkg-deb | rpm | busybox) continue ;; esac
    if [ ! -e "$root/usr/bin/$applet" ] && [ ! -e "$root/usr/sbin/$applet" ]; then ln -s /bin/busybox "$root/usr/bin/$applet"; fi
  done
  add_certificates
}

# The certificates that this machine trusts, a proxy's included.
add_certificates() {
  local root=$work/root
  if [ -s "$BUNDLE" ]; then
    cp -L "$BUNDLE" "$root$BUNDLE"
  else
    unpack ca-certificates
    cat "$root"/usr/share/ca-certificates/mozilla/*.crt >"$root$BUNDLE"
  fi
  chmod 644 "$root$BUNDLE"
}

# The pinned Node for Linux: the checkout's, else from the package registry.
add_node() {
  local root=$work/root binary=$ROOT/node_modules/node/bin/node version architecture
  version=$(sed -n 's/^ *"node": *"\([0-9][0-9.]*\)".*/\1/p' "$ROOT/package.json" | head -n 1)
  if [ "$(uname -s)" != Linux ] || [ ! -x "$binary" ] || [ "$("$binary" --version)" != "v$version" ]; then
    architecture=$(dpkg --print-architecture | sed 's/amd64/x64/; s/armhf/armv7l/')
    say "fetching Node $version …"
    (cd "$work" && npm pack --silent "node-linux-$architecture@$version" >/dev/null)
    mkdir -p "$work/node"
    tar -xzf "$work"/node-linux-*.tgz -C "$work/node" --strip-components=1
    binary=$work/node/bin/node
  fi
  install -m 755 "$binary" "$root/usr/local/bin/node"
  mkdir -p "$root/usr/local/lib/node_modules/npm"
  if (cd "$work" && npm pack --silent npm@11 >/dev/null); then
    tar -xzf "$work"/npm-11*.tgz -C "$root/usr/local/lib/node_modules/npm" --strip-components=1
  else
    say "npm cannot be fetched; taking this machine's"
    cp -R "$(dirname "$(dirname "$(realpath "$(command -v npm)")")")/." "$root/usr/local/lib/node_modules/npm/"
  fi
  chmod 755 "$root"/usr/local/lib/node_modules/npm/bin/{npm,npx}-cli.js
  ln -s ../lib/node_modules/npm/bin/npm-cli.js "$root/usr/local/bin/npm"
  ln -s ../lib/node_modules/npm/bin/npx-cli.js "$root/usr/local/bin/npx"
  # As in the official image: what is no command is a script for Node.
  cat >"$root/usr/local/bin/docker-entrypoint.sh" <<'SH'
#!/bin/sh
set -e
if [ "${1#-}" != "$1" ] || [ -z "$(command -v "$1")" ] || { [ -f "$1" ] && ! [ -x "$1" ]; }; then
  set -- node "$@"
fi
exec "$@"
SH
  chmod 755 "$root/usr/local/bin/docker-entrypoint.sh"
  node_version=$version
}

# Python of this machine's release with pip and venv, compiled ahead of time: on a read-only root Python cannot cache.
add_python() {
  local root=$work/root version loader
  version=$(apt-cache ${apt_options[@]+"${apt_options[@]}"} depends python3-minimal | sed -n 's/.*Depends: python\(3\.[0-9]*\)-minimal.*/\1/p' | head -n 1)
  unpack "python$version-minimal" "libpython$version-minimal" "python$version" "libpython$version-stdlib" \
    "python$version-venv" python3-pip-whl python3-setuptools-whl 'python3-distutils?' 'python3-lib2to3?' media-types \
    libexpat1 zlib1g 'libssl3t64|libssl3' libbz2-1.0 libcrypt1 'libdb5.3t64|libdb5.3' 'libffi8' liblzma5 libncursesw6 \
    libtinfo6 'libreadline8t64|libreadline8' readline-common libsqlite3-0 libuuid1
  rm -rf "$root"/usr/share/{doc,man,info,locale,lintian,bug}
  rm -f "$root/usr/lib/python$version/EXTERNALLY-MANAGED"
  ln -sf "python$version" "$root/usr/bin/python3"
  ln -sf "python$version" "$root/usr/bin/python"
  local modules=$root/usr/local/lib/python$version/dist-packages loader libraries wheel name
  mkdir -p "$modules"
  loader=$(find "$root/usr/lib" -name 'ld-linux-*.so.*' | head -n 1)
  libraries=$(dirname "$(find "$root/usr/lib" -name libc.so.6 | head -n 1)")
  # The unpacked interpreter, run in place.
  packed_python() { PYTHONHOME=$root/usr "$loader" --library-path "$libraries" "$root/usr/bin/python$version" -s "$@"; }
  for wheel in "$root"/usr/share/python-wheels/{pip,setuptools}-*.whl; do
    PYTHONDONTWRITEBYTECODE=1 packed_python -m zipfile -e "$wheel" "$modules"
  done
  for name in pip pip3; do
    printf '#!/usr/bin/python3\nimport sys\nfrom pip._internal.cli.main import main\nsys.exit(main())\n' >"$root/usr/local/bin/$name"
    chmod 755 "$root/usr/local/bin/$name"
  done
  packed_python -m compileall -q -j 0 -s "$root" -p / "$root/usr/lib/python$version" "$modules" >&2 || true
  python_version=$version
}

# The root file system becomes an image; everything belongs to root but the home of `node`.
import_root() {
  local image=$1 tar=$work/root.tar
  shift
  rm -f "$tar"
  tar -cf "$tar" -C "$work/root" --numeric-owner --owner=0 --group=0 --exclude=./home/node .
  tar -rf "$tar" -C "$work/root" --numeric-owner --owner=1000 --group=1000 ./home/node
  engine import "$image" "${CHANGES[@]}" "$@" <"$tar"
}

provide() {
  local kind=$1 image=$2 reason started=$SECONDS
  if ! $force && engine exists "$image"; then
    say "$image is there"
    return 0
  fi
  if ! $force; then
    say "pulling $image …"
    if reason=$(engine pull "$image" 2>&1); then
      say "$image pulled"
      return 0
    fi
    say "it cannot be pulled (${reason##*$'\n'}); putting a stand-in together from Debian packages …"
  fi
  cleanup
  work=$(mktemp -d)
  prepare_apt
  make_root
  case "$kind" in
    node)
      add_node
      import_root "$image" "ENV NODE_VERSION=$node_version" 'ENTRYPOINT ["docker-entrypoint.sh"]' 'CMD ["node"]'
      ;;
    python)
      add_python
      import_root "$image" "ENV PYTHON_VERSION=$python_version" "ENV PIP_CERT=$BUNDLE" "ENV REQUESTS_CA_BUNDLE=$BUNDLE" \
        'ENV PIP_ROOT_USER_ACTION=ignore' 'ENV LANG=C.UTF-8' 'CMD ["python3"]'
      ;;
  esac
  say "$image made in $((SECONDS - started)) s"
}

for kind in "${wanted[@]}"; do
  case "$kind" in
    node) provide node "$NODE_IMAGE" ;;
    python) provide python "$PYTHON_IMAGE" ;;
  esac
done
