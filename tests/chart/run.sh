#!/usr/bin/env bash
# The chart: what it renders, what it refuses, what an API server says to it, and that alerts and dashboards ask for what is there.
#   tests/chart/run.sh             all of it
#   tests/chart/run.sh --write     writes golden/ anew
# Needs Go, Node, and promtool (Debian: prometheus). matrix/ has values that must do; refused/ has values that must not, each with
# what is to be said about them in its first line; golden/ is what the former render to.
set -euo pipefail
cd "$(dirname "$0")/../.."
here=tests/chart
chart=charts/holdfast
log=$(mktemp -d)
trap 'rm -rf "$log"' EXIT
export HELM_CACHE_HOME=$log/helm HELM_CONFIG_HOME=$log/helm HELM_DATA_HOME=$log/helm

main() {
  helm=$(scripts/helm.sh)
  passed=0
  values_that_do
  values_that_do_not
  subchart
  notes
  rules
  queries
  "$here/definitions.sh" fetch
  scripts/cluster.sh -- "$here/cluster.sh" "$helm" >"$log/cluster" 2>&1 || { cat "$log/cluster" && fail "against the API server"; }
  grep '^ok ' "$log/cluster"
  passed=$((passed + $(grep -c '^ok ' "$log/cluster")))
  echo "chart: $passed passed"
}

ok() {
  echo "ok   $1"
  passed=$((passed + 1))
}

fail() {
  echo "FAIL $1" >&2
  exit 1
}

render() {
  "$helm" template holdfast "$chart" --namespace holdfast-system "$@"
}

values_that_do() {
  local file name
  "$helm" lint --strict --quiet "$chart"
  for file in "$here"/matrix/*.yaml "$chart"/values/*.yaml; do
    name=$(basename "$file" .yaml)
    "$helm" lint --strict --quiet "$chart" --values "$file"
    # Without the definition of WebSocketRoute and the dashboards, which are files of their own.
    render --values "$file" --set crds.enabled=false >"$log/$name.yaml"
    [ "${write-}" != yes ] || cp "$log/$name.yaml" "$here/golden/"
    diff -u "$here/golden/$name.yaml" "$log/$name.yaml" || fail "$name: tests/chart/run.sh --write, if that is meant"
    ok "renders $name"
  done
}

values_that_do_not() {
  local file says
  for file in "$here"/refused/*.yaml; do
    says=$(sed -n '1s/^# says: //p' "$file")
    [ -n "$says" ] || fail "$file does not begin with what is said to it"
    ! render --values "$file" >"$log/out" 2>"$log/err" || fail "$file is not refused"
    grep -qF -- "$says" "$log/err" || { cat "$log/err" && fail "$file is not told: $says"; }
    ok "refuses $(basename "$file" .yaml): $says"
  done
}

# As a parent chart has it: by a condition, with values under its name, and with globals that are not ours.
subchart() {
  mkdir -p "$log/parent/charts" "$log/parent/templates"
  cp -r "$chart" "$log/parent/charts/"
  cat >"$log/parent/Chart.yaml" <<'YAML'
apiVersion: v2
name: parent
version: 1.0.0
dependencies:
- {name: holdfast, version: ">=0", condition: holdfast.enabled}
YAML
  cat >"$log/parent/values.yaml" <<'YAML'
global: {imageRegistry: registry.example.com, somethingElse: true}
holdfast: {enabled: true, replicas: 3}
YAML
  "$helm" lint --strict --quiet "$log/parent"
  "$helm" template site "$log/parent" --namespace site >"$log/out"
  grep -q 'name: site-holdfast$' "$log/out" && grep -q 'replicas: 3$' "$log/out" || fail "subchart"
  grep -q 'image: registry.example.com/holdfast:' "$log/out" || fail "subchart: global.imageRegistry"
  ok "is a subchart"
  ! "$helm" template site "$log/parent" --set holdfast.replicaCount=3 2>"$log/err" >/dev/null || fail "a typo under holdfast is not refused"
  "$helm" template site "$log/parent" --set holdfast.enabled=false >"$log/out"
  ! grep -q '^kind:' "$log/out" || fail "holdfast.enabled=false leaves something"
  ok "is a subchart that can be left out"
}

notes() {
  "$helm" install holdfast "$chart" --namespace holdfast-system --dry-run=client >"$log/out"
  [ "$(sed -n '/^NOTES:/,$p' "$log/out" | grep -cE '^  (kubectl|helm) ')" = 3 ] || fail "the notes have not three commands"
  ! grep -q WARNING "$log/out" || fail "the notes warn of the chart as it comes"
  "$helm" install holdfast "$chart" --namespace holdfast-system --dry-run=client --set drain.window=900 >"$log/out"
  grep -q 'WARNING: terminationGracePeriodSeconds is 940' "$log/out" || fail "the notes do not warn of a long grace period"
  ok "says what to do next"
}

# The rules of the rendered PrometheusRule, as Prometheus itself reads them.
rules() {
  render --set monitoring.rules.enabled=true --show-only templates/rules.yaml >"$log/rule.yaml"
  sed '1,/^spec:$/d; s/^  //' "$log/rule.yaml" >"$log/rules.yaml"
  promtool check rules --lint=all --lint-fatal "$log/rules.yaml" >"$log/out" || { cat "$log/out" && fail "rules"; }
  ok "$(grep -o '[0-9]* rules found' "$log/out")"
  cp "$here/alerts.test.yaml" "$log/"
  promtool test rules "$log/alerts.test.yaml" >"$log/out" 2>&1 || { cat "$log/out" && fail "alerts"; }
  ok "alerts fire and do not"
  local alert
  for alert in $(sed -n 's/^- alert: //p' "$chart/files/alerts.yaml"); do
    [ "$(grep -cE "alertname: $alert(,|\$)" "$here/alerts.test.yaml")" -ge 2 ] || fail "$alert is not tested both ways"
    grep -q "^## $alert\$" docs/alerts.md || fail "docs/alerts.md does not say what to do about $alert"
  done
  ok "every alert is tested and explained"
}

queries() {
  node "$here/queries.mjs" docs/reference.md "$chart"/files/alerts.yaml "$chart"/files/dashboards/*.json \
    examples/autoscaling/*.yaml >"$log/queries.yaml"
  promtool check rules "$log/queries.yaml" >"$log/out" || { cat "$log/out" && fail "queries"; }
  ok "every query asks for metrics and labels that are there: $(grep -o '[0-9]* rules found' "$log/out")"
}

write=
[ "${1-}" != --write ] || write=yes
mkdir -p "$here/golden"
main
