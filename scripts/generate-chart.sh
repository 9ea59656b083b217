#!/usr/bin/env bash
# The part of generate.sh that needs no Rust: the chart, by the CRD that is in $1 already, and deploy/, rendered from it.
set -euo pipefail
cd "$(dirname "$0")/.."
out=$(cd "$1" && pwd)

mkdir -p "$out/charts/holdfast/files/crds"
cp "$out/crds/websocketroutes.yaml" "$out/charts/holdfast/files/crds/"
(cd charts/generate && go run . ../holdfast "$out/crds/websocketroutes.yaml" "$out/charts/holdfast")

# The chart with what has just been written.
chart=$(mktemp -d)
trap 'rm -rf "$chart"' EXIT
cp -r charts/holdfast "$chart/"
[ "$out" = "$PWD" ] || cp -r "$out/charts/holdfast" "$chart/"

# rendered TEMPLATE FILE VALUES...: one template as a file for kubectl.
helm=$(scripts/helm.sh)
rendered() {
  local template=$1 file=$out/deploy/$2
  shift 2
  mkdir -p "$(dirname "$file")"
  {
    echo "# Rendered from charts/holdfast/templates/$template by make generate."
    "$helm" template holdfast "$chart/holdfast" --namespace holdfast-system --show-only "templates/$template" "$@" |
      sed -e '/^# Source: /d' -e '/^ *helm\.sh\/chart: /d' -e '/^  annotations:$/{N;/helm\.sh\/resource-policy/d}' -e '/^$/d' -e 's|managed-by: Helm$|managed-by: kustomize|' |
      sed '1{/^---$/d}'
  } >"$file"
}
for file in certificates challenges defaults deployment disruption people rbac service tickets; do
  rendered "$file.yaml" "minimal/$file.yaml"
done
rendered network-policy.yaml components/network-policy/network-policy.yaml --set networkPolicy.enabled=true
rendered pod-monitor.yaml components/monitoring/pod-monitor.yaml --set monitoring.podMonitor.enabled=true
# Of all installations, whatever namespace and suffix kustomize gives them.
rendered rules.yaml components/monitoring/rules.yaml --set monitoring.rules.enabled=true --set 'monitoring.rules.selector=job=~"[^/]+/holdfast(-.*)?"'
rendered dashboards.yaml components/monitoring/dashboards.yaml --set monitoring.dashboards.enabled=true
