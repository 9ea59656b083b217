//! What a route says of handshakes that an endpoint has refused.

use std::time::Duration;

/// `retry` of a route: the handshake goes to another endpoint when one has refused it. Never twice to the same one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Endpoints that may get the handshake after the first (1 to 3: a pick has four candidates).
    pub attempts: u8,
    /// How long one endpoint may take to answer it. Zero: as long as the whole handshake.
    pub per_try_timeout: Duration,
    /// Statuses that count as a refusal.
    pub codes: Box<[u16]>,
}
