#!/usr/bin/env bash
# The live view and the demo in Chromium. Needs Node 20 and Chromium (CHROMIUM, or /usr/bin/chromium); installs the packages
# that package-lock.json names.
#
#   run.sh                 the tests
#   run.sh --screenshot    writes docs/images/live.png anew
set -euo pipefail
cd "$(dirname "$0")"

cargo build --quiet --locked --manifest-path ../../Cargo.toml -p holdfast -p holdfast-demo
npm ci --no-progress
if [ "${1-}" = --screenshot ]; then
  exec node screenshot.mjs
fi
node --test --test-reporter=tap .
