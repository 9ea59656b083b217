#!/usr/bin/env bash
# Writes what is generated into the directory $1: from the code the CRD, the list of reasons and the reference; from the chart's
# values their schema and README; from the chart deploy/.
set -euo pipefail
cd "$(dirname "$0")/.."
out=$(mkdir -p "$1" && cd "$1" && pwd)

cargo build --quiet --locked
mkdir -p "$out/crds" "$out/docs"
target/debug/holdfast crd >"$out/crds/websocketroutes.yaml"
target/debug/holdfast explain --markdown >"$out/docs/reasons.md"
target/debug/holdfast reference >"$out/docs/reference.md"
scripts/generate-chart.sh "$out"
