#!/usr/bin/env bash
# What the kernel charges a pod for idle tunnels: Holdfast runs in a memory cgroup of its own, clients and endpoint outside of it.
# And what the kernel's objects of one socket take: not all of them are charged by cgroups of version 1, nor before Linux 6.13.
#   bench/memory.sh              9,000 tunnels, without TLS and with it
#   bench/memory.sh N
# Needs root, openssl, curl, and both programs: cargo build --release --workspace.
set -euo pipefail
cd "$(dirname "$0")/.."
tunnels=${1:-9000}
release=${CARGO_TARGET_DIR:-target}/release
work=$(mktemp -d)
pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true; wait 2>/dev/null; rmdir "$group" 2>/dev/null || true; rm -rf "$work"' EXIT

if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
  group=/sys/fs/cgroup/holdfast-bench usage=memory.current
else
  group=/sys/fs/cgroup/memory/holdfast-bench usage=memory.usage_in_bytes
fi
mkdir -p "$group"
ulimit -n "$(ulimit -Hn)"

# measure NAME ROW HOLDFAST-ARG...
measure() {
  local name=$1 row=$2 before after=0 open load holdfast
  shift 2
  (echo $BASHPID >"$group/cgroup.procs" && exec "$release/holdfast" --workers 1 --admin 127.0.0.1:19477 --live 127.0.0.1:19478 --access-log off "$@" >"$work/holdfast" 2>&1) &
  holdfast=$!
  pids+=("$holdfast")
  until curl -sf 127.0.0.1:19477/readyz >/dev/null; do kill -0 "$holdfast" || { cat "$work/holdfast" && exit 1; }; done
  before=$(cat "$group/$usage")
  "$release/holdfast-bench" load --target 127.0.0.1:18080 --pid "$holdfast" --tunnels "$tunnels" --row "$row" ${certificate:+--cacert "$certificate"} >"$work/load" &
  load=$!
  # The last reading while all of them are open, after the load has waited until nothing moves.
  while kill -0 "$load" 2>/dev/null; do
    open=$(curl -s 127.0.0.1:19477/metrics | awk '/^holdfast_connections_active/ { n += $2 } END { print n + 0 }')
    [ "$open" -lt "$tunnels" ] || after=$(cat "$group/$usage")
    sleep 0.2
  done
  wait "$load"
  [ "$after" -gt 0 ] || { echo "never saw $tunnels tunnels" >&2 && exit 1; }
  awk -v name="$name" -v n="$tunnels" -v all=$((after - before)) -v load="$(cat "$work/load")" 'BEGIN {
    printf "%s: %d tunnels, %d bytes each charged to the pod; of which user space: %s\n", name, n, all / n, load }'
  kill -QUIT "$holdfast"
  wait "$holdfast" || true
}

"$release/holdfast-bench" echo --listen 127.0.0.1:19001 >/dev/null &
pids+=($!)
certificate=
measure "without TLS" idle --to 127.0.0.1:19001 --http 127.0.0.1:18080

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=bench -addext subjectAltName=DNS:bench.example \
  -addext basicConstraints=critical,CA:FALSE -keyout "$work/key.pem" -out "$work/chain.pem" 2>"$work/openssl" || { cat "$work/openssl" && exit 1; }
mkdir "$work/manifests"
cat >"$work/manifests/bench.yaml" <<YAML
apiVersion: holdfast.dev/v1alpha1
kind: WebSocketRoute
metadata: {name: bench}
spec:
  hostnames: [bench.example]
  tls: [{secretName: bench}]
  rules: [{backendRefs: [{name: bench, port: 80}]}]
---
apiVersion: v1
kind: Service
metadata: {name: bench}
spec: {ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: bench, labels: {kubernetes.io/service-name: bench}}
addressType: IPv4
ports: [{port: 19001}]
endpoints: [{addresses: [127.0.0.1]}]
---
apiVersion: v1
kind: Secret
metadata: {name: bench}
type: kubernetes.io/tls
data: {tls.crt: $(base64 -w0 "$work/chain.pem"), tls.key: $(base64 -w0 "$work/key.pem")}
YAML
certificate=$work/chain.pem
measure "with TLS" tls-idle --manifests "$work/manifests" --http 127.0.0.1:18081 --https 127.0.0.1:18080

# An object of each for every socket; a slab is some pages, and holds so many of them.
awk '$1 ~ /^(TCP|sock_inode_cache|filp|dentry|eventpoll_epi|ep_head|lsm_inode_cache|lsm_file_cache)$/ { socket += $6 * 4096 / $5 }
  END { printf "kernel: %d bytes of objects for each of a tunnel'"'"'s two sockets\n", socket }' /proc/slabinfo
