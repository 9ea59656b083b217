#!/usr/bin/env bash
# Definitions of other projects that our manifests have objects of: the Prometheus Operator's and KEDA's, as their Go modules have them.
#   definitions.sh fetch      downloads the modules: scripts/cluster.sh has no network
#   definitions.sh apply      applies the definitions to the cluster of KUBECONFIG
set -euo pipefail

operator=github.com/prometheus-operator/prometheus-operator@v0.85.0
keda=github.com/kedacore/keda/v2@v2.21.0

# Where a module is.
module() {
  (cd / && go mod download -json "$1") | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p'
}

define() {
  kubectl apply --server-side -f "$1" >/dev/null
  kubectl wait --for=condition=Established "crd/$2" >/dev/null
}

case ${1-} in
  fetch)
    module "$operator" >/dev/null && module "$keda" >/dev/null
    ;;
  apply)
    for kind in podmonitors prometheusrules; do
      define "$(module "$operator")/example/prometheus-operator-crd/monitoring.coreos.com_$kind.yaml" "$kind.monitoring.coreos.com"
    done
    define "$(module "$keda")/config/crd/bases/keda.sh_scaledobjects.yaml" scaledobjects.keda.sh
    ;;
  *)
    sed -n '2,4s/^# //p' "$0" >&2 && exit 2
    ;;
esac
