#!/usr/bin/env bash
# `make demo`: two echo endpoints, and Holdfast in front of them with the routes of examples/quickstart.
# Needs Rust and a C compiler. Stays in the foreground; Ctrl-C ends all of it.
set -euo pipefail
cd "$(dirname "$0")/.."

endpoints=(127.0.0.1:9001 127.0.0.1:9002)
http=8080

holdfast=target/release/holdfast
[ -x "$holdfast" ] || echo "Building Holdfast: the first time takes some minutes, with every dependency."
cargo build --release --locked

set -m # each child in a process group of its own: Ctrl-C reaches this script alone, which ends them in order
children=()
stop() {
  trap '' INT TERM
  kill -TERM "${children[@]}" 2>/dev/null || true
  for _ in $(seq 50); do
    kill -0 "${children[@]}" 2>/dev/null || return 0
    sleep 0.1
  done
  kill -KILL "${children[@]}" 2>/dev/null || true
}
trap stop EXIT
trap 'exit 0' INT TERM

answers() {
  (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

# Waits until the process $1 listens on the port $2; false once it is gone.
listening() {
  until answers "$2"; do
    kill -0 "$1" 2>/dev/null || return 1
    sleep 0.1
  done
}

for port in "${endpoints[@]##*:}" "$http"; do
  if answers "$port"; then
    echo "port $port is taken by another program; end it first" >&2
    exit 1
  fi
done

for address in "${endpoints[@]}"; do
  "$holdfast" echo --quiet --listen "$address" &
  children+=($!)
  listening $! "${address##*:}"
done
"$holdfast" --manifests examples/quickstart &
serving=$!
children+=("$serving")
listening "$serving" "$http"

cat <<EOT

Holdfast serves examples/quickstart on port $http. In another terminal:

  $holdfast ping --count 0 ws://localhost:$http/echo

then change a file in examples/quickstart, or end an endpoint with
kill ${children[0]} (or ${children[1]}), and watch what the ping and the lines
below say. Also:

  curl http://localhost:$http/echo
  $holdfast why ws://localhost:$http/echo --manifests examples/quickstart
  $holdfast check examples/quickstart

Ctrl-C ends the demo.

EOT
wait "$serving"
