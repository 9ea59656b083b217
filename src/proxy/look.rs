//! What the data plane would say to a request that nobody sends: its guards and limits, for whoever asks why.
//!
//! The judgements are those of [`upgrade`](super::upgrade) and [`fallback`](super::fallback), in their order; nothing is counted,
//! taken or written. Without a running data plane it says what would be asked, and how much is allowed.

use std::net::IpAddr;

use http::{HeaderMap, Request, request};

use super::{
    Shared,
    error::Reason,
    guard,
    limits::{self, Counts, Limit},
};
use crate::routing::{
    Rule,
    fallback::Fallback,
    limits::{ClientHashes, ClientKey, HandshakeRate, Limits},
    security::{OriginPolicy, Verdict},
};

/// A request, as far as guards look at it.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    pub is_handshake: bool,
    pub client: IpAddr,
    /// In normal form.
    pub host: &'a str,
    /// Path and query.
    pub target: &'a str,
    pub headers: &'a HeaderMap,
}

/// One thing that is asked before an endpoint is picked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guard {
    /// The field that asks, below `spec`; of the process: `drain`, `--max-connections`.
    pub name: &'static str,
    /// What was found, in a few words.
    pub value: String,
    pub used: Option<u64>,
    pub allowed: Option<u64>,
    /// `None`: it lets the request in.
    pub refusal: Option<Reason>,
    /// Whether a refusal is only counted.
    pub is_dry_run: bool,
}

impl Guard {
    /// The reason for which it refuses, unless it only counts.
    pub fn refuses(&self) -> Option<Reason> {
        self.refusal.filter(|_| !self.is_dry_run)
    }

    fn new(name: &'static str, value: String, refusal: Option<Reason>) -> Self {
        Self {
            name,
            value,
            used: None,
            allowed: None,
            refusal,
            is_dry_run: false,
        }
    }
}

/// What the guards of the process and of a rule say, in the order in which they are asked: all that have something to say.
/// Without `shared`, nothing is known of what is used.
pub fn guards(rule: &Rule, asked: &Asked<'_>, shared: Option<&Shared>) -> Vec<Guard> {
    let mut guards = Vec::new();
    if shared.is_some_and(|shared| shared.drain.is_closing()) {
        let value = "this process is shutting down".to_owned();
        guards.push(Guard::new("drain", value, Some(Reason::Draining)));
    }
    if let Some((open, limit)) = shared.map(Shared::admitted).filter(|(open, limit)| open >= limit) {
        guards.push(Guard {
            used: u64::try_from(open).ok(),
            allowed: u64::try_from(limit).ok(),
            ..Guard::new("--max-connections", format!("{open} of {limit}"), Some(Reason::Overload))
        });
    }
    let sources = &rule.security.sources;
    if !(sources.allow.is_empty() && sources.deny.is_empty()) {
        let refusal = (!sources.admit(asked.client)).then_some(Reason::SourceRefused);
        guards.push(Guard::new(
            "security.sourceRanges",
            asked.client.to_canonical().to_string(),
            refusal,
        ));
    }
    if asked.is_handshake {
        guards.extend(origin(rule, asked));
    }
    if let Some(limits) = rule.limits.as_deref() {
        guards.extend(limited(rule, limits, asked, shared));
    }
    guards
}

/// Nothing where the route does not ask, and the page is not a foreign one with a user's cookies.
fn origin(rule: &Rule, asked: &Asked<'_>) -> Option<Guard> {
    let (given, verdict) = guard::judge(rule, asked.headers, asked.host);
    let origins = &rule.security.origins;
    let is_asked = origins.policy != OriginPolicy::Any || origins.denies_missing;
    if !is_asked && verdict != Verdict::Passed {
        return None;
    }
    let mut value = match guard::shown(given) {
        "" => "none sent".to_owned(),
        origin => origin.to_owned(),
    };
    if verdict == Verdict::Passed {
        value.push_str(", a foreign page with cookies");
    }
    let refusal = (verdict == Verdict::Refused).then_some(Reason::OriginRefused);
    Some(Guard::new("security.origins", value, refusal))
}

fn limited(rule: &Rule, limits: &Limits, asked: &Asked<'_>, shared: Option<&Shared>) -> Vec<Guard> {
    let counts = shared.map(|shared| shared.metrics.limits());
    let is_limited = |limit: &Limit| match limit {
        // A rule that serves handshakes only refuses others before their head is measured.
        Limit::HeaderBytes => asked.is_handshake || rule.fallback != Fallback::Reject,
        _ => asked.is_handshake,
    };
    let guard = |limit: Limit| {
        let guard = match limit {
            Limit::HeaderBytes => {
                let most = limits.max_header_bytes?;
                let bytes = head(asked).map_or(0, |head| limits::head_bytes(&head));
                let refusal = (bytes > most).then_some(Reason::HeadersTooLarge);
                of(limit, Some(number(bytes)), number(most), refusal)
            }
            Limit::HandshakeRate => {
                let limit_of = limits.handshake_rate.as_ref()?;
                rate(limit_of, rule, asked, counts)
            }
            Limit::ConnectionsPerClient => {
                let of_client = limits.max_connections_per_client.as_ref()?;
                if !names_client(&of_client.key, rule, asked) {
                    return Some(Guard::new("limits.maxConnectionsPerClient", unnamed(&of_client.key), None));
                }
                let open =
                    counts.and_then(|counts| counts.open_of_client(&rule.id.route, &of_client.key, asked.client, asked.headers));
                let refusal = open.filter(|open| *open >= of_client.count);
                let refusal = refusal.map(|_| Reason::ClientConnectionLimit);
                of(limit, open.map(u64::from), of_client.count.into(), refusal)
            }
            Limit::Connections => {
                let most = limits.max_connections?;
                let open = counts.map(|counts| counts.open(&rule.id.route));
                let refusal = open.filter(|open| *open >= most).map(|_| Reason::ConnectionLimit);
                of(limit, open.map(u64::from), most.into(), refusal)
            }
            Limit::ConnectionsPerEndpoint => return None, // the pick says which have room
        };
        Some(Guard {
            is_dry_run: limits.is_dry_run,
            ..guard
        })
    };
    Limit::ALL.into_iter().filter(is_limited).filter_map(guard).collect()
}

fn of(limit: Limit, used: Option<u64>, allowed: u64, refusal: Option<Reason>) -> Guard {
    let name = match limit {
        Limit::HeaderBytes => "limits.maxHeaderBytes",
        Limit::HandshakeRate => "limits.handshakeRate",
        Limit::ConnectionsPerClient => "limits.maxConnectionsPerClient",
        Limit::Connections => "limits.maxConnections",
        Limit::ConnectionsPerEndpoint => "limits.maxConnectionsPerEndpoint",
    };
    let value = match used {
        Some(used) => format!("{used} of {allowed}"),
        None => format!("at most {allowed}"),
    };
    Guard {
        used,
        allowed: Some(allowed),
        ..Guard::new(name, value, refusal)
    }
}

/// How much of its burst the client has used.
fn rate(limit: &HandshakeRate, rule: &Rule, asked: &Asked<'_>, counts: Option<&Counts>) -> Guard {
    if !names_client(&limit.key, rule, asked) {
        return Guard::new("limits.handshakeRate", unnamed(&limit.key), None);
    }
    let burst = limit.rate.left(0, 0);
    match counts.and_then(|counts| counts.handshakes_left(&rule.id.route, limit, asked.client, asked.headers)) {
        None => of(Limit::HandshakeRate, None, burst, None),
        Some(Ok(left)) => of(Limit::HandshakeRate, Some(burst.saturating_sub(left)), burst, None),
        Some(Err(wait)) => {
            let retry_after = limits::whole_seconds(wait);
            let refusal = Some(Reason::HandshakeRateLimited { retry_after });
            of(Limit::HandshakeRate, Some(burst), burst, refusal)
        }
    }
}

/// Whether a request says which client it is of, as the key of a limit tells them apart.
fn names_client(key: &ClientKey, rule: &Rule, asked: &Asked<'_>) -> bool {
    let hash = ClientHashes::default().of(&rule.id.route, key, asked.client, asked.headers);
    hash.is_some()
}

fn unnamed(key: &ClientKey) -> String {
    match key {
        ClientKey::Address { .. } => "no client".to_owned(),
        ClientKey::Header(name) => format!("no header {name}: not limited"),
        ClientKey::Cookie(name) => format!("no cookie {name}: not limited"),
    }
}

/// The head of such a request, as far as it was told.
fn head(asked: &Asked<'_>) -> Option<request::Parts> {
    let mut parts = Request::get(asked.target).body(()).ok()?.into_parts().0;
    parts.headers = asked.headers.clone();
    if !parts.headers.contains_key(http::header::HOST) {
        parts.headers.insert(http::header::HOST, asked.host.parse().ok()?);
    }
    Some(parts)
}

fn number(size: usize) -> u64 {
    u64::try_from(size).unwrap_or(u64::MAX)
}
