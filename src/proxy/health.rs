//! What the proxy sees of endpoints, for passive health, and what it says when one is ejected or comes back.
//!
//! Called where a dial, a handshake and a tunnel are counted. Rules without passive health pay for a look at one pointer.

use std::net::SocketAddr;

use http::StatusCode;

use super::{
    Shared,
    end::{Cause, Initiator},
    error::Reason,
    metrics::Dial,
    slot::Slot,
};
use crate::routing::{
    Endpoint, Rule,
    health::{self, Change, Failure, Seen},
};

/// A dial to one of the endpoint's addresses is over. While others are left, nothing is known of it.
pub fn dialled(shared: &Shared, rule: &Rule, endpoint: &Endpoint, address: SocketAddr, result: Dial) {
    if rule.health.is_none() || endpoint.addresses().last() != Some(&address) {
        return;
    }
    let failure = match result {
        Dial::Refused => Failure::ConnectionRefused,
        Dial::TimedOut => Failure::DialTimeout,
        Dial::TlsFailed => Failure::TlsFailed,
        Dial::Connected | Dial::Outrun | Dial::NoSourcePort => return,
    };
    note(shared, rule, endpoint, Seen::Failed(failure));
}

/// The endpoint has answered a handshake, or has not.
pub fn answered(shared: &Shared, rule: &Rule, endpoint: &Endpoint, answer: Result<StatusCode, Reason>) {
    let Some(passive) = &rule.health else { return };
    let seen = match answer {
        Ok(status) if passive.codes.contains(&status.as_u16()) => Seen::Failed(Failure::Status),
        Ok(_) => Seen::Answered,
        Err(Reason::HandshakeTimeout) => Seen::Failed(Failure::HandshakeTimeout),
        Err(Reason::EndpointClosed) => Seen::Failed(Failure::EndpointClosed),
        Err(Reason::EndpointProtocolError) => Seen::Failed(Failure::EndpointProtocolError),
        Err(Reason::InvalidUpgrade) => Seen::Failed(Failure::InvalidUpgrade),
        Err(Reason::EndpointTlsAlert | Reason::EndpointTlsError) => Seen::Failed(Failure::TlsFailed),
        Err(_) => return, // not the endpoint's doing
    };
    note(shared, rule, endpoint, seen);
}

/// A tunnel to the endpoint begins to end. `said`: the code of the Close that the endpoint sent.
pub fn ends(shared: &Shared, slot: &Slot, initiator: Initiator, cause: Cause, said: Option<u16>) {
    let rule = &slot.of.rule;
    let Some(passive) = &rule.health else { return };
    let is_early = slot.since.elapsed() < passive.early_close_within;
    if let Some(failure) = failure(initiator, cause, said, is_early) {
        note(shared, rule, &slot.of.endpoint_held, Seen::Failed(failure));
    }
}

/// What an end says against the endpoint.
fn failure(initiator: Initiator, cause: Cause, said: Option<u16>, is_early: bool) -> Option<Failure> {
    match (cause, said) {
        (Cause::EndpointHeartbeatLost, _) => Some(Failure::HeartbeatLost),
        (Cause::EndpointVanished, _) => Some(Failure::Vanished),
        (Cause::EndpointStalled, _) => Some(Failure::Stalled),
        (Cause::EndpointGone, _) => is_early.then_some(Failure::EarlyClose),
        (Cause::Closed, _) if initiator != Initiator::Endpoint => None,
        // It goes away, restarts, is busy, or is itself a proxy without an endpoint. Other codes are about the client.
        (Cause::Closed, Some(1001 | 1011..=1014)) if is_early => Some(Failure::EarlyClose),
        // It met a condition that it did not expect: at any age.
        (Cause::Closed, Some(1011)) => Some(Failure::InternalError),
        _ => None,
    }
}

fn note(shared: &Shared, rule: &Rule, endpoint: &Endpoint, seen: Seen) {
    let Some(change) = health::note(rule, endpoint, seen, shared.moment()) else {
        return;
    };
    let (service, route, name) = (&endpoint.key().service, &rule.id.route, endpoint.name());
    match change {
        Change::Ejected {
            reason,
            failures,
            time,
            times,
        } => {
            shared.metrics.shared().ejected(reason);
            let (reason, failures) = (reason.word(), listed(&failures));
            tracing::warn!(%service, endpoint = name, %route, reason, failures, times, "endpoint ejected for {time:?}");
        }
        Change::Returned { after } => {
            tracing::info!(%service, endpoint = name, %route, "endpoint is back: it answered the handshake that tried it after {after:?}");
        }
        Change::Withheld { reason, failures } => {
            let (reason, failures) = (reason.word(), listed(&failures));
            tracing::warn!(
                %service, endpoint = name, %route, reason, failures,
                "endpoint fails and is not ejected: too many of its Service are, or it is the last (maxEjectionPercent)"
            );
        }
    }
}

fn listed(failures: &[(Failure, usize)]) -> String {
    let failures = failures.iter().map(|(failure, count)| format!("{} {count}", failure.word()));
    failures.collect::<Vec<_>>().join(", ")
}
