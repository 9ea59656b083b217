#!/usr/bin/env bash
# The chart against a real API server: run.sh runs it inside scripts/cluster.sh. $1 is Helm.
set -euo pipefail
cd "$(dirname "$0")/../.."
helm=$1
chart=charts/holdfast
log=$(mktemp -d)
trap 'rm -rf "$log"' EXIT
export HELM_CACHE_HOME=$log/helm HELM_CONFIG_HOME=$log/helm HELM_DATA_HOME=$log/helm

ok() {
  echo "ok   $1"
}

fail() {
  echo "FAIL $1"
  exit 1
}

tests/chart/definitions.sh apply
kubectl delete crd websocketroutes.holdfast.dev >/dev/null # the chart brings it
for namespace in holdfast-system edge web docs; do
  kubectl create namespace "$namespace" >/dev/null
done

# helm test's route is of a kind that is not there before the chart is.
for file in tests/chart/matrix/*.yaml "$chart"/values/*.yaml; do
  "$helm" template holdfast "$chart" --namespace holdfast-system --values "$file" --set test.enabled=false |
    kubectl apply --server-side --dry-run=server -f - >/dev/null || fail "$file"
  ok "the API server takes $(basename "$file" .yaml)"
done

kubectl create namespace monitoring >/dev/null
kubectl apply --dry-run=server -f examples/autoscaling >"$log/out" 2>&1 || { cat "$log/out" && fail "examples/autoscaling"; }
[ "$(grep -c 'created (server dry run)' "$log/out")" = 3 ] || { cat "$log/out" && fail "examples/autoscaling has not three objects"; }
ok "the API server takes examples/autoscaling, KEDA's object by KEDA's definition"

# deploy/, as a folder of somebody's own has it: with components, and a second installation beside the first. kustomize takes no
# absolute paths.
folder=tests/chart/$(basename "$log")
mkdir "$folder"
trap 'rm -rf "$log" "$folder"' EXIT
cat >"$folder/kustomization.yaml" <<'YAML'
resources: [../../../deploy/minimal]
components: [../../../deploy/components/monitoring, ../../../deploy/components/network-policy]
images: [{name: holdfast, newName: registry.example.com/holdfast}]
namespace: holdfast-internal
nameSuffix: -internal
patches:
- target: {kind: Deployment, name: holdfast}
  patch: |-
    - {op: add, path: /spec/template/spec/containers/0/args/-, value: --class=internal}
    - {op: add, path: /spec/template/spec/containers/0/args/-, value: --ticket-secret=holdfast-internal/holdfast-tickets-internal}
YAML
kubectl create namespace holdfast-internal >/dev/null
kubectl kustomize "$folder" >"$log/kustomized"
kubectl apply --server-side --dry-run=server -f "$log/kustomized" >"$log/applied" || fail "deploy/ with its components"
! grep -vE '^customresourcedefinition|-internal serverside-applied' "$log/applied" || fail "deploy/: a name that two installations share"
ok "the API server takes deploy/ with its components, as a second installation"

kubectl label namespace holdfast-system pod-security.kubernetes.io/enforce=restricted pod-security.kubernetes.io/warn=restricted >/dev/null
install=("$helm" upgrade --install holdfast "$chart" --namespace holdfast-system --set "monitoring.podMonitor.enabled=true,monitoring.rules.enabled=true,monitoring.dashboards.enabled=true,networkPolicy.enabled=true")
"${install[@]}" >"$log/out" 2>&1 || { cat "$log/out" && fail "install"; }
! grep -i 'would violate' "$log/out" || fail "the pods are not restricted"
ok "installs"

# There are no nodes: pods are made, if their namespace admits them, and wait.
for _ in $(seq 100); do
  pods=$(kubectl -n holdfast-system get pods -l app.kubernetes.io/name=holdfast -o name | wc -l)
  [ "$pods" != 2 ] || break
  sleep 0.1
done
[ "$pods" = 2 ] || { kubectl -n holdfast-system get events && fail "$pods pods are admitted, not 2"; }
ok "its pods are admitted where restricted is enforced"

# What the release has, with what changes at every write.
state() {
  "$helm" get manifest holdfast --namespace holdfast-system | kubectl get -f - -o jsonpath='{range .items[*]}{.kind}/{.metadata.name} {.metadata.resourceVersion}{"\n"}{end}' |
    grep -vE '^(Deployment|PodDisruptionBudget)/' # their status is the controllers'
  kubectl -n holdfast-system get deployment,poddisruptionbudget holdfast -o jsonpath='{range .items[*]}{.kind} {.metadata.generation}{"\n"}{end}'
}
state >"$log/before"
[ "$(wc -l <"$log/before")" -gt 15 ] || { cat "$log/before" && fail "the state is not complete"; }
"${install[@]}" >/dev/null
state >"$log/after"
diff "$log/before" "$log/after" || fail "a second upgrade changes something"
ok "a second upgrade changes nothing"

# helm test's objects, which the test itself runs where there are nodes.
"$helm" get hooks holdfast --namespace holdfast-system | kubectl apply --server-side --dry-run=server -f - >"$log/out" 2>&1 || { cat "$log/out" && fail "helm test"; }
! grep -i 'would violate' "$log/out" || fail "the test's pod is not restricted"
[ "$(grep -c serverside-applied "$log/out")" = 3 ] || { cat "$log/out" && fail "helm test has not three objects"; }
ok "the objects of helm test are taken, its pod where restricted is enforced"

# What the leader has written stays.
kubectl -n holdfast-system patch secret holdfast-tickets --type=merge --field-manager=holdfast -p '{"data":{"current":"AAAA"}}' >/dev/null
"${install[@]}" --set commonLabels.team=edge >/dev/null
[ "$(kubectl -n holdfast-system get secret holdfast-tickets -o jsonpath='{.data.current}')" = AAAA ] || fail "an upgrade resets the keys of TLS sessions"
ok "an upgrade leaves the keys of TLS sessions as they are"

# An edit of the defaults replaces no pod.
"${install[@]}" --set defaults.timeouts.idle=2h >/dev/null
[ "$(kubectl -n holdfast-system get deployment holdfast -o jsonpath='{.metadata.generation}')" = 1 ] || fail "new defaults replace the pods"
kubectl -n holdfast-system get configmap holdfast-defaults -o jsonpath='{.data}' | grep -q 'idle: 2h' || fail "the defaults are not there"
ok "an edit of the defaults replaces no pod"

# Whoever may edit a namespace may edit its routes.
kubectl -n web create rolebinding writer --clusterrole=edit --user=writer >/dev/null
for _ in $(seq 100); do
  may=$(kubectl -n web auth can-i create websocketroutes --as=writer 2>/dev/null || true)
  [ "$may" != yes ] || break
  sleep 0.1
done
[ "$may" = yes ] || fail "edit does not include WebSocketRoutes"
[ "$(kubectl -n web auth can-i patch websocketroutes --subresource=status --as=writer || true)" = no ] || fail "edit may write the status"
ok "view and edit of a namespace include its routes"

kubectl -n web create -f - >/dev/null <<'YAML'
apiVersion: holdfast.dev/v1alpha1
kind: WebSocketRoute
metadata: {name: kept}
spec: {rules: [{backendRefs: [{name: chat, port: 80}]}]}
YAML
"$helm" uninstall holdfast --namespace holdfast-system >"$log/out"
[ -n "$(kubectl -n web get wsr -o name)" ] || fail "an uninstallation deletes routes"
[ -z "$(kubectl get clusterrole,clusterrolebinding -l app.kubernetes.io/instance=holdfast -o name)" ] || fail "an uninstallation leaves rights"
kubectl -n holdfast-system get secret holdfast-tickets >/dev/null || fail "an uninstallation deletes the keys of TLS sessions"
ok "an uninstallation leaves the routes and the keys of TLS sessions, and no rights"

"$helm" upgrade --install again "$chart" --namespace edge --take-ownership --set crds.keep=false >"$log/out" 2>&1 || { cat "$log/out" && fail "install again"; }
[ "$(kubectl get clusterrole -o name | grep -c '/edge-again-holdfast')" -ge 3 ] || fail "names of cluster roles do not tell the release"
"$helm" uninstall again --namespace edge >/dev/null
! kubectl get crd websocketroutes.holdfast.dev >/dev/null 2>&1 || fail "crds.keep=false keeps it"
ok "a release of another name takes the definition over, and may remove it"
