//! Which rule serves a request, and which endpoints may: what a handshake and a plain request have in common.

use std::{net::SocketAddr, sync::Arc, time::SystemTime};

use http::{HeaderMap, HeaderValue, header, request, uri::Authority};

use super::{error::Reason, headers::Forwarded, record::Attempt, worker::Worker};
use crate::routing::{
    Endpoint, Handshake, Rule,
    balancer::{self, Client, NoPick},
    persistence, target,
};

/// The rule and the endpoints of one request.
#[derive(Debug)]
pub struct Chosen {
    pub rule: Arc<Rule>,
    /// Best first, never empty.
    pub candidates: Vec<Arc<Endpoint>>,
    /// Path and query as the endpoint gets them: what was matched is what is sent.
    pub target: String,
    client: SocketAddr,
    tls: bool,
    matched_path: Box<str>,
    cookies: HeaderMap,
    now: u64,
}

/// Finds the rule of a request and picks its endpoints.
///
/// # Errors
/// Why nothing serves it.
pub fn choose(worker: &Worker, parts: &request::Parts, forwarded: &Forwarded, attempt: &mut Attempt) -> Result<Chosen, Reason> {
    let (rule, matched_path, target) = find(worker, parts, attempt)?;
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs();
    let path_len = target.find('?').unwrap_or(target.len());
    let client = Client {
        address: forwarded.client.ip(),
        path: &target[..path_len],
        query: parts.uri.query(),
        headers: &parts.headers,
        now,
    };
    let pick = balancer::pick(&rule, &client).map_err(|no| match no {
        NoPick::Unresolved => Reason::UnresolvedBackend,
        NoPick::NoReadyEndpoint => Reason::NoReadyEndpoint,
        NoPick::PersistedUnavailable => Reason::SessionUnavailable,
    })?;
    let mut cookies = HeaderMap::new();
    if rule.persistence.is_some() {
        for cookie in parts.headers.get_all(header::COOKIE) {
            cookies.append(header::COOKIE, cookie.clone());
        }
    }
    Ok(Chosen {
        candidates: pick.candidates.into_iter().map(|(endpoint, _)| endpoint).collect(),
        client: forwarded.client,
        tls: forwarded.scheme == "https",
        matched_path,
        cookies,
        now,
        target,
        rule,
    })
}

/// The rule of a request, the path of its match, and the target in normal form.
pub fn find(worker: &Worker, parts: &request::Parts, attempt: &mut Attempt) -> Result<(Arc<Rule>, Box<str>, String), Reason> {
    let authority = authority(parts).ok_or(Reason::MalformedRequest)?;
    let host = target::host(&authority).ok_or(Reason::MalformedRequest)?;
    let path = target::path(parts.uri.path()).ok_or(Reason::MalformedRequest)?;
    let snapshot = worker.shared.published.load();
    let handshake = Handshake {
        host: &host,
        path: &path,
        query: parts.uri.query(),
        headers: &parts.headers,
    };
    let found = snapshot.table.find(&handshake).ok_or(Reason::NoRoute)?;
    attempt.matched(found.rule);
    let target = match parts.uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_string(),
    };
    Ok((Arc::clone(found.rule), found.matched_path.into(), target))
}

/// Whom a request is for: the target's own authority goes before `Host` (RFC 9112, section 3.2.2).
pub fn authority(parts: &request::Parts) -> Option<String> {
    match parts.uri.authority() {
        Some(authority) => Some(Authority::as_str(authority).to_owned()),
        None => parts.headers.get(header::HOST)?.to_str().ok().map(str::to_owned),
    }
}

impl Chosen {
    /// Adds the persistence cookie to an answer, where the client's own is not the one of `endpoint`.
    pub fn set_cookie(&self, endpoint: &Endpoint, answer: &mut HeaderMap) {
        let client = Client {
            address: self.client.ip(),
            path: &self.target,
            query: None,
            headers: &self.cookies,
            now: self.now,
        };
        let cookie = persistence::set_cookie(&self.rule, &client, endpoint, &self.matched_path, self.tls);
        if let Some(cookie) = cookie.and_then(|cookie| HeaderValue::from_str(&cookie).ok()) {
            answer.append(header::SET_COOKIE, cookie);
        }
    }
}
