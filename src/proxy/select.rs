//! Which rule serves a request, and which endpoints may: what a handshake and a plain request have in common.

use std::{cell::RefCell, net::SocketAddr, sync::Arc, time::SystemTime};

use http::{HeaderMap, HeaderValue, header, request};

use super::{connection::Arrival, error::Reason, filter, headers::Forwarded, limits, record::Attempt, worker::Worker};
use crate::routing::{
    Certificates, Endpoint, Handshake, Rule, balancer::Client, endpoint::Held, health::Moment, persistence, target,
};

/// The rule and the endpoints of one request.
#[derive(Debug)]
pub struct Chosen {
    pub rule: Arc<Rule>,
    /// Best first, never empty.
    pub candidates: Vec<Arc<Endpoint>>,
    /// The place at the first candidate, where places are limited.
    held: RefCell<Option<Held>>,
    /// Connections that a candidate may have.
    limit: Option<u32>,
    /// Path and query as the endpoint gets them: what was matched is what is sent, unless the rule rewrites it.
    pub target: String,
    client: SocketAddr,
    tls: bool,
    matched_path: Box<str>,
    cookies: HeaderMap,
    now: u64,
}

/// The rule of one request.
#[derive(Debug)]
pub struct FoundRule {
    pub rule: Arc<Rule>,
    /// The prefix or the path that matched; `/` for a regular expression.
    pub matched_path: Box<str>,
    /// In normal form.
    pub path: String,
}

/// Finds the rule of a request.
///
/// # Errors
/// Why none serves it.
pub fn find(worker: &Worker, parts: &request::Parts, forwarded: &Forwarded, attempt: &mut Attempt) -> Result<FoundRule, Reason> {
    let authority = authority(parts).ok_or(Reason::MalformedRequest)?;
    let host = target::host(authority).ok_or(Reason::MalformedRequest)?;
    if parts.uri.authority().is_some() && !has_readable_host(parts) {
        return Err(Reason::MalformedRequest);
    }
    let path = target::path(parts.uri.path()).ok_or(Reason::MalformedRequest)?;
    let snapshot = worker.shared.published.load();
    let is_secure = forwarded.scheme == "https";
    // Whoever issues certificates asks in plain, before there is one to show.
    let challenge = snapshot.table.challenge(&host, &path);
    if challenge.is_none() || forwarded.arrival != Arrival::Plain {
        check_tls(&snapshot.certificates, &host, &forwarded.arrival, is_secure).map_err(|reason| match reason {
            Reason::TlsRequired if worker.shared.settings.https_redirect => Reason::RedirectedToHttps,
            reason => reason,
        })?;
    }
    let handshake = Handshake {
        host: &host,
        path: &path,
        query: parts.uri.query(),
        headers: &parts.headers,
    };
    let found = challenge.or_else(|| snapshot.table.find(&handshake)).ok_or(Reason::NoRoute)?;
    attempt.matched(found.rule);
    Ok(FoundRule {
        rule: Arc::clone(found.rule),
        matched_path: found.matched_path.into(),
        path: path.into_owned(),
    })
}

/// TLS belongs to the host: whether a request may ask for it on this connection.
fn check_tls(certificates: &Certificates, host: &str, arrival: &Arrival, is_secure: bool) -> Result<(), Reason> {
    match arrival {
        // A trusted proxy may have taken the TLS off.
        Arrival::Plain if is_secure || certificates.allows_plain(host) => Ok(()),
        Arrival::Plain => Err(Reason::TlsRequired),
        Arrival::Tls { server_name, .. } if certificates.covers(server_name.as_deref(), host) => Ok(()),
        Arrival::Tls { .. } => Err(Reason::Misdirected),
    }
}

impl FoundRule {
    /// Picks the endpoints to try.
    ///
    /// # Errors
    /// Why there is none.
    pub fn choose(
        self,
        worker: &Worker,
        parts: &request::Parts,
        forwarded: &Forwarded,
        attempt: &mut Attempt,
    ) -> Result<Chosen, Reason> {
        let Self {
            rule,
            matched_path,
            path,
        } = self;
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs();
        let client = Client {
            address: forwarded.client.ip(),
            path: &path,
            query: parts.uri.query(),
            headers: &parts.headers,
            now,
            moment: match rule.health {
                None => Moment::default(),
                Some(_) => worker.shared.moment(),
            },
            tries: attempt.is_handshake,
        };
        let (pick, held) = limits::pick(&rule, &client, attempt)?;
        let mut cookies = HeaderMap::new();
        if rule.persistence.is_some() {
            for cookie in parts.headers.get_all(header::COOKIE) {
                cookies.append(header::COOKIE, cookie.clone());
            }
        }
        Ok(Chosen {
            candidates: pick.candidates.into_iter().map(|(endpoint, _)| endpoint).collect(),
            limit: rule
                .limits
                .as_deref()
                .filter(|_| held.is_some())
                .and_then(|limits| limits.max_connections_per_endpoint),
            held: RefCell::new(held),
            client: forwarded.client,
            tls: forwarded.scheme == "https",
            target: filter::rewritten(&rule, path, parts.uri.query(), &matched_path),
            matched_path,
            cookies,
            now,
            rule,
        })
    }
}

/// Whom a request is for: the target's own authority goes before `Host` (RFC 9112, section 3.2.2).
pub fn authority(parts: &request::Parts) -> Option<&str> {
    match parts.uri.authority() {
        Some(authority) => Some(authority.as_str()),
        None => parts.headers.get(header::HOST)?.to_str().ok(),
    }
}

/// A `Host` that is no host is refused even where the target's own authority counts (RFC 9112, section 3.2).
fn has_readable_host(parts: &request::Parts) -> bool {
    let is_host = |host: &HeaderValue| host.to_str().is_ok_and(|host| target::host(host).is_some());
    parts.headers.get(header::HOST).is_none_or(is_host)
}

impl Chosen {
    /// Counts a dial of a candidate as one of its connections. `None`: it has as many as it may.
    pub fn hold(&self, endpoint: &Arc<Endpoint>) -> Option<Held> {
        let held = self.held.borrow_mut().take();
        match (held.filter(|held| Arc::ptr_eq(held, endpoint)), self.limit) {
            (Some(held), _) => Some(held),
            (None, None) => Some(endpoint.hold()),
            (None, Some(limit)) => endpoint.hold_below(limit),
        }
    }

    /// Makes of the endpoint's answer what the client gets: the rule's filter, then the persistence cookie, which no filter can
    /// take away.
    pub fn finish_answer(&self, endpoint: &Endpoint, answer: &mut HeaderMap) {
        filter::change_answer(&self.rule, answer);
        self.set_cookie(endpoint, answer);
    }

    /// Adds the persistence cookie to an answer, where the client's own is not the one of `endpoint`.
    fn set_cookie(&self, endpoint: &Endpoint, answer: &mut HeaderMap) {
        let client = Client {
            address: self.client.ip(),
            path: &self.target,
            query: None,
            headers: &self.cookies,
            now: self.now,
            moment: Moment::default(),
            tries: false,
        };
        let cookie = persistence::set_cookie(&self.rule, &client, endpoint, &self.matched_path, self.tls);
        if let Some(cookie) = cookie.and_then(|cookie| HeaderValue::from_str(&cookie).ok()) {
            answer.append(header::SET_COOKIE, cookie);
        }
    }
}
