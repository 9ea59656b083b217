#!/usr/bin/env bash
# Holdfast on a large cluster: starts a control plane in a network of its own, fills it, measures. Arguments go to
# `holdfast-bench scale`; try --help.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}

cargo build --release --locked --workspace
exec scripts/cluster.sh -- "$target/release/holdfast-bench" scale --holdfast "$target/release/holdfast" "$@"
