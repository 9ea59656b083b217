#!/usr/bin/env bash
# The end to end tests, or a command where they can run: a Kubernetes control plane in a network, a mount namespace and a process
# namespace of its own. What the command starts ends with it, whatever happens to it.
#   scripts/e2e.sh                  all of them
#   scripts/e2e.sh -- COMMAND...    such as cargo test --test e2e install -- --nocapture
# Needs root: the pods of these tests get networks, mounts and users of their own.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)

# What the API server listens on. Nodes are 10.0.0.N, pods 10.244.N.M.
api_server=10.0.0.250
services=10.96.0.0/16

outside() {
  for command in ip unshare nsenter setpriv chroot; do
    command -v "$command" >/dev/null || fail "needs $command (Debian: iproute2, util-linux, coreutils); please install it"
  done
  unshare -n -m -p --fork ip link set lo up 2>/dev/null || fail "needs root: the pods get networks, mounts and users of their own"
  CONTROL_PLANE=$("$root/scripts/control-plane.sh")
  HELM=$("$root/scripts/helm.sh")
  export CONTROL_PLANE HELM
  [ $# -gt 0 ] || set -- cargo test --locked --test e2e -- --test-threads=4
  # There is no network in there to download what they need.
  (cd "$root" && cargo test --quiet --locked --test e2e --no-run)
  exec unshare -n -m -p --fork --kill-child --mount-proc "$0" --inside "$@"
}

inside() {
  ip link set lo up
  ip address add "$api_server/32" dev lo
  ip route add local "$services" dev lo
  echo 1 >/proc/sys/net/ipv4/ip_forward
  export HOLDFAST_E2E=1
  exec "$CONTROL_PLANE" --scheduler --address "$api_server" \
    --controller-manager-arg=--controllers=daemonset-controller,node-lifecycle-controller,pod-garbage-collector-controller \
    --controller-manager-arg=--node-monitor-period=1s \
    --controller-manager-arg=--node-monitor-grace-period=10s \
    -- "$@"
}

fail() {
  echo "e2e.sh: $1" >&2
  exit 1
}

case ${1-} in
  "") outside ;;
  --) shift && outside "$@" ;;
  --inside) shift && inside "$@" ;;
  *) sed -n '2,6s/^# //p' "$0" >&2 && exit 2 ;;
esac
