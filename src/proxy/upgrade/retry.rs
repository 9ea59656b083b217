//! Whether a handshake that was sent goes to another endpoint. Never, unless the route asks for it.

use tokio::time::Instant;

use crate::proxy::{error::Reason, upstream::Answer};
use crate::routing::retry::Retry;

/// Until when one endpoint may answer; `deadline` is that of the whole handshake.
pub fn until(retry: Option<&Retry>, deadline: Instant) -> Instant {
    let limit = retry.map(|retry| retry.per_try_timeout).filter(|limit| !limit.is_zero());
    limit.map_or(deadline, |limit| deadline.min(Instant::now() + limit))
}

/// Why it does: `endpoint` where the endpoint's own answer is not to be the client's. `attempts`: how many endpoints have had it.
pub fn why(retry: Option<&Retry>, attempts: u8, answer: &Result<Answer, Reason>) -> Option<&'static str> {
    let retry = retry.filter(|retry| attempts <= retry.attempts)?;
    match answer {
        Ok(answer) => retry.codes.contains(&answer.status.as_u16()).then_some("endpoint"),
        Err(
            reason @ (Reason::HandshakeTimeout | Reason::EndpointClosed | Reason::EndpointProtocolError | Reason::InvalidUpgrade),
        ) => Some(reason.word()),
        Err(_) => None,
    }
}
