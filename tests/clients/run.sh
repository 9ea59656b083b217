#!/usr/bin/env bash
# Holdfast with other people's clients. Needs Node 20; installs the packages that package-lock.json names.
set -euo pipefail
cd "$(dirname "$0")"

cargo build --quiet --locked --manifest-path ../../Cargo.toml
npm ci --no-progress
node --test --test-reporter=tap .
