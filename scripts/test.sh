#!/usr/bin/env bash
# `make test`: everything that must pass. Each step says its name and how long it took; the first that fails ends it.
# The last lines repeat what the test runners themselves said at their end.
set -euo pipefail
cd "$(dirname "$0")/.."

log=$(mktemp -d)
trap 'rm -rf "$log"' EXIT
SECONDS=0

step() {
  local name=$1 start=$SECONDS
  shift
  echo "== $name"
  if "$@" 2>&1 | tee "$log/out"; then
    cat "$log/out" >>"$log/all"
    echo "== $name: passed, $((SECONDS - start)) s of $SECONDS s"
  else
    echo "== $name: FAILED after $((SECONDS - start)) s"
    exit 1
  fi
}

# install COMMAND PACKAGE...
install() {
  local command=$1
  shift
  command -v "$command" >/dev/null && return
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "needs $command (Debian: $*); please install it" >&2
    return 1
  fi
  apt-get install -y -qq "$@" >/dev/null || { apt-get update -qq && apt-get install -y -qq "$@" >/dev/null; }
}

# Steps run as conditions, where bash does not stop at an error: each command is chained to the next.
tools() {
  { cargo fmt --version || rustup component add rustfmt; } &&
    { cargo clippy --version || rustup component add clippy; } &&
    install cc build-essential &&
    install ip iproute2 &&
    install unshare util-linux &&
    install go golang-go && # control-plane.sh says if it is too old
    install promtool prometheus &&
    install node nodejs npm &&
    install chromium chromium &&
    node -e 'if (parseInt(process.versions.node) < 20) throw "needs Node 20, this is " + process.version'
}

format() {
  cargo fmt --check && test -z "$(gofmt -l tests/control-plane charts/generate | tee /dev/stderr)"
}

# Against a Kubernetes of the tests' own; against the user's, if that is asked for.
cluster() {
  local tests
  tests=$(cargo test --locked --test cluster --no-run --message-format json | sed -n 's|.*"executable":"\([^"]*/cluster-[^"]*\)".*|\1|p') &&
    if [ "${USE_EXISTING_CLUSTER-}" = true ]; then
      "$tests"
    else
      scripts/cluster.sh -- "$tests" --test-threads=8 2>&1 | tee "$log/cluster" &&
        { ! grep -q SKIPPED "$log/cluster" || { echo "nothing may be skipped here" && false; }; }
    fi
}

# Charts, pods and clients, in a cluster of the tests' own.
e2e() {
  scripts/e2e.sh 2>&1 | tee "$log/e2e" &&
    { ! grep -q SKIPPED "$log/e2e" || { echo "nothing may be skipped here" && false; }; }
}

generated() {
  local file wrong=
  scripts/generate.sh "$log/generated" || return 1
  for file in $(cd "$log/generated" && find . -type f); do
    diff -u "$file" "$log/generated/$file" || wrong=yes
  done
  [ -z "$wrong" ] || { echo "run make generate" && false; }
}

step tools tools
step format format
step clippy cargo clippy --all-targets --locked -- -D warnings
step tests cargo test --locked --no-fail-fast
step cluster cluster
step generated generated
step chart tests/chart/run.sh
step docs tests/docs/run.sh
step clients tests/clients/run.sh
step page tests/page/run.sh
step e2e e2e

echo "== all passed in $SECONDS s"
grep -E '^(test result:|# (tests|pass|fail) |chart:|docs:)' "$log/all"
