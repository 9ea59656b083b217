//! What a route admits: how many connections and handshakes, of whom.
//!
//! The control plane compiles [`Limits`]; the proxy keeps what they count, [`RouteOpen`] and [`Rates`], asks them for each
//! handshake, and says what is refused. An unlimited route has none of the tables.

mod client;
mod open;
mod rates;

pub use client::ClientHashes;
pub use open::{Full, Place, RouteOpen};
pub use rates::Rates;

use super::{rate::Rate, tunnel_limits::TunnelLimits};

/// The limits of a route, shared by its rules. Each process counts for itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Handshakes under way and tunnels of the route.
    pub max_connections: Option<u32>,
    /// What one endpoint holds, whichever routes it came by.
    pub max_connections_per_endpoint: Option<u32>,
    pub max_connections_per_client: Option<ClientConnections>,
    pub handshake_rate: Option<HandshakeRate>,
    /// Of a request's line and fields.
    pub max_header_bytes: Option<usize>,
    /// Inside its tunnels.
    pub tunnel: Option<TunnelLimits>,
    /// Whether what they would refuse is only counted.
    pub is_dry_run: bool,
}

/// How many connections one client may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientConnections {
    pub count: u32,
    pub key: ClientKey,
}

/// How many handshakes one client may begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandshakeRate {
    pub rate: Rate,
    pub key: ClientKey,
}

/// What tells one client from another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientKey {
    Address {
        ipv4_prefix: u8,
        ipv6_prefix: u8,
    },
    /// Lower case.
    Header(Box<str>),
    Cookie(Box<str>),
}
