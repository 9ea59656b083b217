//! End to end: Helm installs the chart into a Kubernetes control plane with nodes, and what it installs runs.
//!
//! `scripts/e2e.sh` runs them, or `scripts/e2e.sh -- cargo test --test e2e NAME -- --nocapture` some of them; without it they say
//! that they are skipped. All share one [`cluster`]: the control plane is real, [`kubelet`] runs the pods of each node as processes,
//! [`services`] leads connections to them. A test begins with [`cluster::on_the_cluster`], makes a namespace of its own, and
//! installs a [`release::Release`] there.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod application;
mod cluster;
mod continuity;
mod crowd;
mod echo;
#[path = "../../bench/src/failure.rs"]
#[allow(dead_code, reason = "shared with the bench, which uses all of it")]
mod failure;
mod figures;
mod install;
mod kubelet;
mod monitoring;
mod network;
mod reach;
#[path = "../../bench/src/record.rs"]
mod record;
mod release;
mod services;
mod sidecar;
mod stage;
#[path = "../integration/support.rs"]
#[allow(dead_code, reason = "shared with the integration tests, which use all of it")]
mod support;
#[path = "../continuity/traffic.rs"]
#[allow(dead_code, reason = "shared with the continuity tests, which use all of it")]
mod traffic;
#[path = "../cluster/wait.rs"]
#[allow(dead_code, reason = "shared with the cluster tests, which use all of it")]
mod wait;
mod watching;
