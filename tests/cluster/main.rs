//! Holdfast against a real Kubernetes API server: processes, watches, status, and what happens when the server goes away.
//!
//! `scripts/cluster.sh -- cargo test --test cluster` runs them; without a cluster they say that they are skipped. All tests
//! share its control plane, each with a namespace, a class and a host of its own, so that they run side by side; one that
//! takes the API server down starts a control plane for itself. The harness: [`control_plane`] is Kubernetes, [`namespace`] a
//! test's own part of it, [`objects`] what is written into it, [`replica`] Holdfast, [`endpoint`] what it forwards to,
//! and the clients are those of the continuity tests.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod account;
mod answers;
mod asking;
mod backend_tls;
mod challenges;
mod checking;
mod conditions;
mod control_plane;
mod endpoint;
mod endpoints;
#[path = "../e2e/kubelet/forward.rs"]
mod forward;
mod grants;
mod namespace;
mod node;
mod objects;
mod outages;
mod policies;
mod process;
mod proxy;
mod refusals;
mod replica;
mod replicas;
mod rights;
mod routes;
mod sidecar;
#[path = "../integration/support.rs"]
#[allow(dead_code, reason = "shared with the integration tests, which use all of it")]
mod support;
mod tickets;
mod tls;
#[path = "../integration/tls_client.rs"]
#[allow(dead_code, reason = "shared with the integration tests, which use all of it")]
mod tls_client;
#[path = "../continuity/traffic.rs"]
#[allow(dead_code, reason = "shared with the continuity tests, which use all of it")]
mod traffic;
mod verdicts;
mod wait;
mod witness;
