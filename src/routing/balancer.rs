//! Picks endpoints for a new connection: persistence first, then the rule's algorithm.

use std::{net::IpAddr, sync::Arc};

use http::HeaderMap;
use smallvec::SmallVec;

use super::{endpoint::Endpoint, route::Rule};

/// What a pick looks at.
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    pub address: IpAddr,
    /// Normal form.
    pub path: &'a str,
    pub query: Option<&'a str>,
    pub headers: &'a HeaderMap,
    /// Seconds since 1970.
    pub now: u64,
}

/// Why a candidate stands where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PickedBy {
    Cookie,
    ClientIp,
    Header,
    Algorithm,
}

/// Endpoints to dial, best first: distinct, never empty, at most [`MAX_CANDIDATES`].
#[derive(Debug)]
pub struct Pick {
    pub candidates: SmallVec<[(Arc<Endpoint>, PickedBy); 4]>,
}

/// Dials that one handshake may cost.
pub const MAX_CANDIDATES: usize = 4;

/// What the picks of one rule leave for the next one: whose turn it is, and which token names which endpoint.
#[derive(Debug, Default)]
pub struct Cursor {}

/// Why there is nothing to dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoPick {
    /// The backendRef whose turn it was cannot be resolved (500).
    Unresolved,
    /// No endpoint takes new connections (503).
    NoReadyEndpoint,
    /// The client's own endpoint takes none, and the route says `onUnavailable: Fail` (503).
    PersistedUnavailable,
}

/// The endpoints to try for this client.
pub fn pick(_rule: &Rule, _client: &Client<'_>) -> Result<Pick, NoPick> {
    Err(NoPick::NoReadyEndpoint)
}
