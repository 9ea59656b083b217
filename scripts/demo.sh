#!/usr/bin/env bash
# `make demo`: Holdfast and endpoints that echo, with a page of live sockets and buttons; demo/ is the program that does it.
# Needs Rust and a C compiler. Stays in the foreground; Ctrl-C ends all of it. Arguments go to the demo; try --help.
set -euo pipefail
cd "$(dirname "$0")/.."

[ -x target/release/holdfast-demo ] || echo "Building Holdfast: the first time takes some minutes, with every dependency."
cargo build --release --locked -p holdfast -p holdfast-demo
exec target/release/holdfast-demo "$@"
