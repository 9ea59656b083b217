#!/usr/bin/env bash
# Prints where Helm is, in the version that the tests and `make generate` use; builds it if it is not there: some minutes on a new
# machine. Like the control plane for tests it is kept outside the tree, in $XDG_CACHE_HOME/holdfast.
set -euo pipefail

version=v4.3.0

if ! command -v go >/dev/null || ! go version | grep -qE ' go1\.(2[1-9]|[3-9][0-9])'; then
  echo "needs go 1.21 or newer (https://go.dev/dl); please install it" >&2
  exit 1
fi
cache=${XDG_CACHE_HOME:-${HOME:?}/.cache}/holdfast
program=$cache/helm-$version

mkdir -p "$cache"
exec 9>"$cache/helm.lock"
flock 9
if [ ! -x "$program" ]; then
  echo "building Helm $version: some minutes, once on each machine" >&2
  mkdir -p "$cache/helm.new"
  CGO_ENABLED=0 GOBIN="$cache/helm.new" go install -trimpath -ldflags "-s -w" "helm.sh/helm/v4/cmd/helm@$version"
  mv "$cache/helm.new/helm" "$program"
fi
echo "$program"
