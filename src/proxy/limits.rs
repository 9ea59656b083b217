//! What a route's limits say to a request: it is admitted, or refused, or it would have been.
//!
//! `upgrade` asks once for each handshake, before an endpoint is picked, and `fallback` for each plain request; of those only
//! the size of the head is limited. What is counted belongs to a route by its name, so that a new table changes nothing.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, Weak},
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderName, HeaderValue, request};

use super::{error::Reason, headers::Forwarded, metrics::lock, record::Attempt};
use crate::routing::{
    ObjectName, Rule,
    balancer::{self, Client, NoPick, Pick},
    endpoint::Held,
    limits::{ClientHashes, ClientKey, Full, HandshakeRate, Limits, Rates, RouteOpen},
    rate,
};

/// Which limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    HeaderBytes,
    HandshakeRate,
    ConnectionsPerClient,
    Connections,
    ConnectionsPerEndpoint,
}

impl Limit {
    pub const ALL: [Self; 5] = [
        Self::HeaderBytes,
        Self::HandshakeRate,
        Self::ConnectionsPerClient,
        Self::Connections,
        Self::ConnectionsPerEndpoint,
    ];

    /// In metrics and records: its field.
    pub fn word(self) -> &'static str {
        match self {
            Self::HeaderBytes => "max_header_bytes",
            Self::HandshakeRate => "handshake_rate",
            Self::ConnectionsPerClient => "max_connections_per_client",
            Self::Connections => "max_connections",
            Self::ConnectionsPerEndpoint => "max_connections_per_endpoint",
        }
    }
}

/// What the limits of all routes count.
#[derive(Debug)]
pub struct Counts {
    pub rates: Rates,
    hashes: ClientHashes,
    started: Instant,
    routes: Mutex<HashMap<ObjectName, Weak<RouteOpen>>>,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            rates: Rates::default(),
            hashes: ClientHashes::default(),
            started: Instant::now(),
            routes: Mutex::default(),
        }
    }
}

impl Counts {
    /// The count of a route: the same for as long as anybody holds it.
    pub fn route(&self, name: &ObjectName) -> Arc<RouteOpen> {
        let mut routes = lock(&self.routes);
        if let Some(route) = routes.get(name).and_then(Weak::upgrade) {
            return route;
        }
        if routes.len() == routes.capacity() {
            routes.retain(|_, route| route.strong_count() > 0);
        }
        let route = Arc::new(RouteOpen::default());
        routes.insert(name.clone(), Arc::downgrade(&route));
        route
    }

    /// The open connections of a route.
    pub fn open(&self, name: &ObjectName) -> u32 {
        let route = lock(&self.routes).get(name).and_then(Weak::upgrade);
        route.map_or(0, |route| route.open())
    }

    /// The open connections of a client of a route. `None`: the request names no client.
    pub fn open_of_client(&self, route: &ObjectName, key: &ClientKey, address: IpAddr, headers: &HeaderMap) -> Option<u32> {
        let client = self.hashes.of(route, key, address, headers)?;
        let open = lock(&self.routes).get(route).and_then(Weak::upgrade);
        Some(open.map_or(0, |open| open.open_of(client)))
    }

    /// Handshakes that a client of a route may begin at once, or when the next one. `None`: the request names no client.
    pub fn handshakes_left(
        &self,
        route: &ObjectName,
        limit: &HandshakeRate,
        address: IpAddr,
        headers: &HeaderMap,
    ) -> Option<Result<u64, Duration>> {
        let client = self.hashes.of(route, &limit.key, address, headers)?;
        Some(self.rates.left(client, &limit.rate, self.now()))
    }

    /// Clients whose connections are counted.
    pub fn clients(&self) -> usize {
        let routes: Vec<_> = lock(&self.routes).values().filter_map(Weak::upgrade).collect();
        routes.iter().map(|route| route.clients()).sum()
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Judges a handshake, and takes the place that it holds for as long as its connection lasts.
///
/// # Errors
/// A limit refuses it. It has counted for `handshakeRate` then, as it would with nginx, unless it was that which refused it.
pub fn admit(rule: &Rule, parts: &request::Parts, forwarded: &Forwarded, attempt: &mut Attempt) -> Result<(), Reason> {
    let Some(limits) = rule.limits.as_deref() else {
        attempt.place = attempt.metrics().route.take(u32::MAX, None).ok();
        return Ok(());
    };
    check_head(limits, parts, attempt)?;
    let metrics = attempt.metrics();
    let counts = &metrics.limits;
    let client = |key| counts.hashes.of(&rule.id.route, key, forwarded.client.ip(), &parts.headers);
    if let Some(rate) = &limits.handshake_rate
        && let Some(client) = client(&rate.key)
        && let Err(wait) = counts.rates.admit(client, &rate.rate, counts.now())
    {
        let retry_after = whole_seconds(wait);
        let reason = Reason::HandshakeRateLimited { retry_after };
        refuse(limits, attempt, Limit::HandshakeRate, reason)?;
    }
    let mut connections = limits.max_connections.unwrap_or(u32::MAX);
    let mut of_client = limits
        .max_connections_per_client
        .as_ref()
        .and_then(|limit| Some((client(&limit.key)?, limit.count)));
    // What would be refused in a dry run is taken nevertheless.
    attempt.place = loop {
        match metrics.route.take(connections, of_client) {
            Ok(place) => break Some(place),
            Err(Full::Client) => {
                refuse(limits, attempt, Limit::ConnectionsPerClient, Reason::ClientConnectionLimit)?;
                of_client = of_client.map(|(client, _)| (client, u32::MAX));
            }
            Err(Full::Route) => {
                refuse(limits, attempt, Limit::Connections, Reason::ConnectionLimit)?;
                connections = u32::MAX;
            }
        }
    };
    Ok(())
}

/// Picks endpoints, and takes a place at the first of them where places are limited. A plain request is never refused for
/// want of one: it belongs to a session that its endpoint has already, as a poll of Socket.IO does.
///
/// # Errors
/// There is nothing to pick.
pub fn pick(rule: &Rule, client: &Client<'_>, attempt: &mut Attempt) -> Result<(Pick, Option<Held>), Reason> {
    let reason = |no| match no {
        NoPick::Unresolved => Reason::UnresolvedBackend,
        NoPick::NoReadyEndpoint => Reason::NoReadyEndpoint,
        NoPick::PersistedUnavailable => Reason::SessionUnavailable,
        NoPick::EndpointsFull => Reason::EndpointConnectionLimit,
    };
    let limits = rule.limits.as_deref().filter(|_| attempt.is_handshake);
    let most = limits.and_then(|limits| Some((limits, limits.max_connections_per_endpoint?)));
    let Some((limits, most)) = most else {
        return Ok((balancer::pick(rule, client).map_err(reason)?, None));
    };
    if limits.is_dry_run {
        let pick = balancer::pick(rule, client).map_err(reason)?;
        if balancer::would_be_full(rule, client, &pick, most) {
            refuse(
                limits,
                attempt,
                Limit::ConnectionsPerEndpoint,
                Reason::EndpointConnectionLimit,
            )?;
        }
        return Ok((pick, None));
    }
    for _ in 0..PICKS {
        let pick = match balancer::pick_below(rule, client, most) {
            Err(NoPick::EndpointsFull) => break,
            picked => picked.map_err(reason)?,
        };
        if let Some(held) = pick.candidates.first().and_then(|(first, _)| first.hold_below(most)) {
            return Ok((pick, Some(held)));
        }
        // Another worker was faster.
    }
    attempt.metrics().limited(Limit::ConnectionsPerEndpoint, false);
    Err(Reason::EndpointConnectionLimit)
}

/// Judges a plain request: only its head is limited. What long polling does would be many handshakes and connections
/// otherwise.
///
/// # Errors
/// The head is too large for the rule.
pub fn admit_plain(rule: &Rule, parts: &request::Parts, attempt: &mut Attempt) -> Result<(), Reason> {
    match rule.limits.as_deref() {
        Some(limits) => check_head(limits, parts, attempt),
        None => Ok(()),
    }
}

fn check_head(limits: &Limits, parts: &request::Parts, attempt: &mut Attempt) -> Result<(), Reason> {
    match limits.max_header_bytes {
        Some(most) if head_bytes(parts) > most => refuse(limits, attempt, Limit::HeaderBytes, Reason::HeadersTooLarge),
        _ => Ok(()),
    }
}

/// Counts that a limit refuses a request, and says so unless it is a dry run.
fn refuse(limits: &Limits, attempt: &mut Attempt, limit: Limit, reason: Reason) -> Result<(), Reason> {
    attempt.metrics().limited(limit, limits.is_dry_run);
    if limits.is_dry_run {
        attempt.would_be_refused_by.get_or_insert(limit);
        return Ok(());
    }
    Err(reason)
}

/// A request's line and fields, as they are most shortly written, with their line ends and the empty line behind them.
pub(super) fn head_bytes(parts: &request::Parts) -> usize {
    let target = parts.uri.path_and_query().map_or(1, |target| target.as_str().len());
    let authority = parts.uri.authority().map_or(0, |authority| authority.as_str().len());
    let line = parts.method.as_str().len() + authority + target + "  HTTP/1.1\r\n".len();
    let field = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + ": \r\n".len();
    line + parts.headers.iter().map(field).sum::<usize>() + "\r\n".len()
}

/// As `Retry-After` has them: who comes back after them is let in.
pub(super) fn whole_seconds(wait: Duration) -> u32 {
    u32::try_from(rate::whole_seconds(wait)).unwrap_or(u32::MAX)
}

/// How often a place may be lost to another worker between a pick and its taking.
const PICKS: usize = 100;

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    #[test]
    fn a_head_is_as_long_as_it_is_written() {
        let (parts, ()) = Request::get("/chat?room=7")
            .header("host", "chat.example.com")
            .header("cookie", "a=b")
            .header("cookie", "c=d")
            .body(())
            .unwrap()
            .into_parts();
        let written = "GET /chat?room=7 HTTP/1.1\r\nHost: chat.example.com\r\nCookie: a=b\r\nCookie: c=d\r\n\r\n";
        assert_eq!(head_bytes(&parts), written.len());
    }

    #[test]
    fn a_route_has_one_count_for_as_long_as_it_is_used() {
        let counts = Counts::default();
        let name = |name: &str| ObjectName {
            namespace: "chat".into(),
            name: name.into(),
        };
        let place = counts.route(&name("chat")).take(1, None);
        assert_eq!(counts.route(&name("chat")).open(), 1, "a place keeps its route's count");
        assert_eq!(counts.route(&name("other")).open(), 0);
        drop(place);
        for number in 0..1_000 {
            counts.route(&name(&number.to_string()));
        }
        assert!(lock(&counts.routes).len() < 10, "those that nobody uses are forgotten");
    }
}
