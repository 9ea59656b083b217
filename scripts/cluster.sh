#!/usr/bin/env bash
# `make cluster`: a Kubernetes control plane to play with, in a network of its own, gone when its shell ends.
#   scripts/cluster.sh                  a shell in it: kubectl, holdfast and KUBECONFIG are there
#   scripts/cluster.sh -- COMMAND...    runs COMMAND in it instead, and ends with COMMAND's exit code
# There are no nodes, and nothing runs in pods: every address of the pod range is this machine's, for any program to take.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)

pods=10.244.0.0/16
pods6=fd00:10:244::/64

outside() {
  for command in ip unshare; do
    command -v "$command" >/dev/null || fail "needs $command (Debian: iproute2, util-linux); please install it"
  done
  # As root, or as the root of a user namespace.
  local rights
  for rights in -n -rn; do
    if unshare "$rights" ip link set lo up 2>/dev/null; then
      CONTROL_PLANE=$("$root/scripts/control-plane.sh")
      [ $# -gt 0 ] || (cd "$root" && cargo build --quiet --locked)
      export CONTROL_PLANE
      exec unshare "$rights" "$0" --inside "$@"
    fi
  done
  fail "needs the right to make a network: root, or user namespaces (sysctl kernel.unprivileged_userns_clone, user.max_user_namespaces)"
}

inside() {
  ip link set lo up
  ip route add local "$pods" dev lo
  # An IPv6 address can be taken without being assigned only where this is on.
  if ! { ip -6 route add local "$pods6" dev lo && echo 1 >/proc/sys/net/ipv6/ip_nonlocal_bind; } 2>/dev/null; then
    echo "cluster.sh: no IPv6 here; tests of it are skipped" >&2
    pods6=
  fi
  export POD_RANGE=$pods POD_RANGE_6=$pods6
  exec "$CONTROL_PLANE" --scheduler \
    --apiserver-arg="--audit-policy-file=$root/tests/cluster/audit-policy.yaml" \
    --apiserver-arg="--audit-log-path={dir}/audit.log" \
    -- "$root/scripts/cluster.sh" --ready "$@"
}

ready() {
  mkdir "$CONTROL_PLANE_DIR/bin"
  ln -s "$CONTROL_PLANE" "$CONTROL_PLANE_DIR/bin/kubectl"
  export KUBECACHEDIR=$CONTROL_PLANE_DIR/kubectl-cache
  export PATH=$CONTROL_PLANE_DIR/bin:${CARGO_TARGET_DIR:-$root/target}/debug:$PATH
  kubectl apply --server-side -f "$root/crds/websocketroutes.yaml" >/dev/null
  # This asks anew each time, and kubectl remembers the last answer.
  until kubectl api-resources --api-group=holdfast.dev | grep -q wsr; do sleep 0.1; done
  [ $# -eq 0 ] || exec "$@"
  cat <<TEXT

KUBECONFIG=$KUBECONFIG
Kubernetes' logs, audit log and pid files: $CONTROL_PLANE_DIR
Any program can listen on an address of $pods${pods6:+ or $pods6}; there is no other network here.

  kubectl get holdfast -A                        what there is
  holdfast echo --listen 10.244.0.1:8080 &       an endpoint; an EndpointSlice makes it one of a Service
  holdfast --http 127.0.0.1:8080 &               Holdfast on this cluster

Leave the shell to end it.
TEXT
  exec "${SHELL:-bash}"
}

fail() {
  echo "cluster.sh: $1" >&2
  exit 1
}

case ${1-} in
  "") outside ;;
  --) shift && outside "$@" ;;
  --inside) shift && inside "$@" ;;
  --ready) shift && ready "$@" ;;
  *) sed -n '2,5s/^# //p' "$0" >&2 && exit 2 ;;
esac
