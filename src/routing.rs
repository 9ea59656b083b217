//! The routing domain: what a route means, which endpoints it has, and which of them a client gets.
//!
//! Owns the compiled form of every accepted route and the endpoint sets of the Services they name.
//! The control plane builds a [`Snapshot`] and publishes it; the proxy reads it for each handshake.
//! Pure: no I/O, no clock of its own, no async, nothing of Kubernetes or of an HTTP implementation. No lock is taken for a
//! lookup or a pick. Of rustls only the form is used in which a certificate and its key are kept.

pub mod balancer;
pub mod certificate;
pub mod endpoint;
pub mod endpoint_tls;
pub mod fallback;
pub mod filter;
#[cfg(test)]
pub(crate) mod fixture;
pub mod forwarded;
pub mod health;
pub mod limits;
pub mod matching;
pub mod persistence;
pub mod query;
pub mod rate;
mod rendezvous;
pub mod retry;
pub mod route;
pub mod security;
pub mod table;
pub mod target;
pub mod ticket;
pub mod tunnel_limits;

use std::sync::Arc;

use arc_swap::ArcSwap;

pub use certificate::{Certificate, Certificates, HostTls};
pub use endpoint::{Endpoint, EndpointCell, EndpointKey, EndpointSet, ServicePort};
pub use endpoint_tls::{BackendTls, EndpointTls};
pub use route::{Backend, ObjectName, Rule, RuleId};
pub use table::{Found, Handshake, Table};
pub use ticket::{TicketKey, TicketKeys, Tickets};

/// The routing table as published: one value, swapped as a whole.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Grows by one with each publication of this process.
    pub generation: u64,
    /// All compiled rules, indexed by host.
    pub table: Table,
    /// Which host has which certificate.
    pub certificates: Certificates,
}

/// Where the control plane puts the current [`Snapshot`] and the proxy reads it.
pub type Published = Arc<ArcSwap<Snapshot>>;
