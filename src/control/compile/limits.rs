//! What `spec.limits` means.

use std::{sync::Arc, time::Duration};

use super::tunnel_limits::tunnel_limits;
use crate::{
    api::{self, LimitKeySource},
    control::policy::PREFIX_LENGTHS,
    routing::{
        limits::{ClientConnections, ClientKey, HandshakeRate, Limits},
        rate::Rate,
    },
};

/// `None`: nothing is limited. The schema bounds every number.
pub(super) fn limits(spec: Option<&api::Limits>) -> Option<Arc<Limits>> {
    let spec = spec?;
    let limits = Limits {
        max_connections: spec.max_connections.and_then(|count| u32::try_from(count).ok()),
        max_connections_per_endpoint: spec.max_connections_per_endpoint.and_then(|count| u32::try_from(count).ok()),
        max_connections_per_client: spec.max_connections_per_client.as_ref().and_then(client_connections),
        handshake_rate: spec.handshake_rate.as_ref().and_then(handshake_rate),
        max_header_bytes: spec.max_header_bytes.and_then(|bytes| usize::try_from(bytes).ok()),
        tunnel: spec
            .tunnel
            .as_ref()
            .and_then(|tunnel| tunnel_limits(tunnel, spec.dry_run.unwrap_or(false))),
        is_dry_run: spec.dry_run.unwrap_or(false),
    };
    let nothing = Limits {
        is_dry_run: limits.is_dry_run,
        ..Limits::default()
    };
    (limits != nothing).then(|| Arc::new(limits))
}

fn client_connections(spec: &api::ClientConnections) -> Option<ClientConnections> {
    Some(ClientConnections {
        count: u32::try_from(spec.count).ok()?,
        key: key(spec.key.as_ref()),
    })
}

fn handshake_rate(spec: &api::HandshakeRate) -> Option<HandshakeRate> {
    Some(HandshakeRate {
        rate: rate(spec.requests, spec.interval, spec.burst)?,
        key: key(spec.key.as_ref()),
    })
}

/// Without a burst, as many at once as in an interval.
pub(super) fn rate(count: i32, interval: api::Duration, burst: Option<i32>) -> Option<Rate> {
    let count = u32::try_from(count).ok()?;
    let burst = burst.and_then(|burst| u32::try_from(burst).ok()).unwrap_or(count);
    Some(Rate::new(count, Duration::from(interval), burst))
}

fn key(spec: Option<&api::LimitKey>) -> ClientKey {
    let spec = spec.cloned().unwrap_or_default();
    let length = |given: Option<i32>, default| given.and_then(|length| u8::try_from(length).ok()).unwrap_or(default);
    match (spec.source.unwrap_or_default(), spec.name) {
        (LimitKeySource::Header, Some(name)) => ClientKey::Header(name.to_ascii_lowercase().into()),
        (LimitKeySource::Cookie, Some(name)) => ClientKey::Cookie(name.into()),
        _ => ClientKey::Address {
            ipv4_prefix: length(spec.ipv4_prefix_length, PREFIX_LENGTHS.0),
            ipv6_prefix: length(spec.ipv6_prefix_length, PREFIX_LENGTHS.1),
        },
    }
}
