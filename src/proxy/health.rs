//! What the proxy sees of endpoints, for passive health, and what it says when one is ejected or comes back.
//!
//! Called where a dial, a handshake and a tunnel are counted. Rules without passive health pay for a look at one pointer.

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
    health::{self, Change, Ejection, Failure, Seen},
};

/// What a dial says against its address, if anything.
pub fn of_dial(result: Dial) -> Option<Failure> {
    match result {
        Dial::Refused => Some(Failure::ConnectionRefused),
        Dial::TimedOut => Some(Failure::DialTimeout),
        Dial::TlsFailed => Some(Failure::TlsFailed),
        Dial::Connected | Dial::Outrun | Dial::NoSourcePort => None,
    }
}

/// Dials to all of the endpoint's addresses have failed, the last one so. Of one of several nothing is known: another may do.
pub fn unreachable(shared: &Shared, rule: &Rule, endpoint: &Endpoint, failure: Failure) {
    if rule.health.is_some() {
        note(shared, rule, endpoint, Seen::Failed(failure));
    }
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
    let client_spoke = slot.client.bytes.get() > 0;
    if let Some(failure) = failure(initiator, cause, said, is_early, client_spoke) {
        note(shared, rule, &slot.of.endpoint_held, Seen::Failed(failure));
    }
}

/// What an end says against the endpoint. Where the client has sent anything, an end without a word may be the answer to that:
/// servers drop clients that break the protocol, and any client can.
fn failure(initiator: Initiator, cause: Cause, said: Option<u16>, is_early: bool, client_spoke: bool) -> Option<Failure> {
    match (cause, said) {
        (Cause::EndpointHeartbeatLost, _) => Some(Failure::HeartbeatLost),
        (Cause::EndpointVanished, _) => Some(Failure::Vanished),
        (Cause::EndpointStalled, _) => Some(Failure::Stalled),
        (Cause::EndpointGone, _) => (is_early && !client_spoke).then_some(Failure::EarlyClose),
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
            if let Some(ejections) = &shared.settings.ejections {
                // Where too many are on their way, this one is in the metrics and the log alone.
                let _ = ejections.try_send(Ejection {
                    route: route.clone(),
                    service: service.clone(),
                    endpoint: name.into(),
                    reason,
                });
            }
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
