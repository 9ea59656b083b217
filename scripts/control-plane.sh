#!/usr/bin/env bash
# Prints where the program of tests/control-plane is; builds it if it is not there: minutes on a new machine, never again until
# its sources change. It is kept outside the tree, in $XDG_CACHE_HOME/holdfast. Several callers at once build it once.
set -euo pipefail
cd "$(dirname "$0")/../tests/control-plane"

# From 1.21 on, go fetches the version that go.mod asks for.
if ! command -v go >/dev/null || ! go version | grep -qE ' go1\.(2[1-9]|[3-9][0-9])'; then
  echo "needs go 1.21 or newer (https://go.dev/dl); please install it" >&2
  exit 1
fi
kubernetes=$(sed -n 's|^\tk8s.io/kubernetes ||p' go.mod)
flags=(-trimpath -tags grpcnotrace,osusergo,netgo -ldflags "-s -w -X k8s.io/component-base/version.gitVersion=$kubernetes")
hash=$({ go env GOVERSION && echo "${flags[@]}" && cat go.mod go.sum ./*.go; } | sha256sum)
cache=${XDG_CACHE_HOME:-${HOME:?}/.cache}/holdfast
program=$cache/control-plane-${hash:0:16}

mkdir -p "$cache"
exec 9>"$cache/control-plane.lock"
flock 9
if [ ! -x "$program" ]; then
  echo "building the control plane for tests (Kubernetes $kubernetes): some minutes, once on each machine" >&2
  CGO_ENABLED=0 go build "${flags[@]}" -o "$program.new" .
  mv "$program.new" "$program"
fi
touch "$program"
find "$cache" -name 'control-plane-*' -mtime +30 -delete
echo "$program"
