#!/usr/bin/env bash
# Writes what is generated from the code into the directory $1: the CRD, the list of reasons and the reference.
set -euo pipefail
cd "$(dirname "$0")/.."
out=$1

cargo build --quiet --locked
mkdir -p "$out/crds" "$out/docs"
target/debug/holdfast crd >"$out/crds/websocketroutes.yaml"
target/debug/holdfast explain --markdown >"$out/docs/reasons.md"
target/debug/holdfast reference >"$out/docs/reference.md"
