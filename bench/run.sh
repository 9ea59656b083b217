#!/usr/bin/env bash
# `make bench`: builds Holdfast and the bench, fetches the peers, compares. Arguments go to `holdfast-bench run`; try --help.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}

cargo build --release --locked --workspace
bench/peers.sh "$target/bench-peers"
exec "$target/release/holdfast-bench" run --holdfast "$target/release/holdfast" --programs "$target/bench-peers/bin" "$@"
