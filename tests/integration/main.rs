//! The data plane over real sockets: each rule of a tunnel's life, read and written byte by byte from both of its sides.
//!
//! Every test starts a data plane of its own on a free port; nothing is shared, and all run at once.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod actor;
mod process;
mod security;
mod state;
mod support;
mod tls_client;

mod admission;
mod backend_tls;
mod backpressure;
mod binary;
mod causes;
mod chaos;
mod closing;
mod dialling;
mod draining;
mod ends;
mod fallback;
mod files;
mod filters;
mod handshake;
mod health;
mod hostile;
mod injecting;
mod libraries;
mod limits;
mod live_page;
mod metrics;
mod origin;
mod pings;
mod records;
mod refusals;
mod relay;
mod retry;
mod routes;
mod scheme;
mod tickets;
mod timeouts;
mod tls;
mod tunnel_limits;
mod weights;
mod why;
mod workers;
