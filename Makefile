# What can be done in this repository. The work itself is in scripts/, so that each runs without make too.

.DEFAULT_GOAL := help
.PHONY: help build demo cluster test bench generate lint

build demo bench: export HOLDFAST_REVISION = $(shell git describe --always --dirty --abbrev=12 2>/dev/null)

help: ## Say what can be done
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## Build target/release/holdfast
	cargo build --release --locked

demo: ## Live sockets in a browser through Holdfast on port 8080, and buttons; Ctrl-C ends it
	@scripts/demo.sh

cluster: ## A shell with a Kubernetes control plane of its own to play with
	@scripts/cluster.sh

test: ## Everything that must pass, with what it needs installed on the way
	@scripts/test.sh

bench: ## Holdfast beside its peers on this machine
	@bench/run.sh

generate: ## Write the generated files anew: crds/, docs/, deploy/, and parts of the chart
	@scripts/generate.sh .

lint: ## Formatting and clippy only
	cargo fmt --check
	cargo clippy --all-targets --locked -- -D warnings
