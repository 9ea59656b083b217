#!/usr/bin/env bash
# The commands of the documents: each is run, and says what the document shows, or the document says why it is not. run.mjs has the
# rules. What it runs against: a Kubernetes API server with the chart in it and without nodes; one Holdfast on it, as a process, on
# port 8080; and examples/kubernetes-own-hostname, with an echo endpoint in the place of its pods.
#   tests/docs/run.sh               all documents
#   tests/docs/run.sh docs/x.md     this one
# Needs Go, Node, and promtool (Debian: prometheus).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)

main() {
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  (cd "$root" && cargo build --quiet --locked)
  mkdir "$work/bin" "$work/tree"
  ln -s "$("$root/scripts/helm.sh")" "$work/bin/helm"
  "$root/tests/chart/definitions.sh" fetch
  # A copy of the tree, so that commands may write where the documents say. What is tracked may have been deleted.
  (cd "$root" && git ls-files -z -co --exclude-standard | xargs -0 cp --parents -t "$work/tree" 2>/dev/null) || true
  export PATH=$work/bin:$PATH HELM_CACHE_HOME=$work/helm HELM_CONFIG_HOME=$work/helm HELM_DATA_HOME=$work/helm
  cd "$work/tree"
  "$root/scripts/cluster.sh" -- "$here/run.sh" --inside "$work" "$@"
}

inside() {
  local log=$1
  shift
  trap 'kill $(jobs -p)' EXIT
  set_up >"$log/setup" 2>&1 || { cat "$log/setup" && echo "docs: the cluster could not be set up" && exit 1; }
  # Commands that ask the replicas of an installation ask this process: there are no pods that run.
  HOLDFAST_LIVE=127.0.0.1:9478 node tests/docs/run.mjs "$@"
}

set_up() {
  tests/chart/definitions.sh apply
  kubectl delete crd websocketroutes.holdfast.dev # the chart brings it
  for namespace in monitoring edge web chat; do
    kubectl create namespace "$namespace"
  done
  helm install holdfast charts/holdfast --namespace holdfast-system --create-namespace
  until kubectl api-resources --api-group=holdfast.dev | grep -q wsr; do sleep 0.1; done
  kubectl apply -f examples/kubernetes-own-hostname
  kubectl apply -f - <<'YAML'
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: chat-echo, namespace: default, labels: {kubernetes.io/service-name: chat}}
addressType: IPv4
ports: [{name: ws, port: 8080}]
endpoints: [{addresses: [10.244.1.1]}]
YAML
  holdfast echo --listen 10.244.1.1:8080 --quiet &
  POD_NAMESPACE=holdfast-system POD_NAME=holdfast-0 holdfast --http 127.0.0.1:8080 --admin 127.0.0.1:9477 --drain-delay 0s --drain-window 0s &
  kubectl wait --for=condition=Programmed wsr/chat --timeout=60s
}

case ${1-} in
  --inside) shift && inside "$@" ;;
  *) main "$@" ;;
esac
