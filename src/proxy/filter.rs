//! A rule's filters at work, on the request as the endpoint gets it and on each answer as the client gets it. A rule without
//! filters costs one look.

use http::{HeaderMap, header, request};

use super::{headers::Forwarded, select};
use crate::routing::{
    Rule,
    filter::{Asked, Redirect},
    target,
};

/// Changes a request's fields. They have passed everything else: what tells of the client is there.
pub fn change_request(rule: &Rule, headers: &mut HeaderMap) {
    let Some(filters) = &rule.filters else { return };
    if let Some(host) = filters.rewrite.as_ref().and_then(|rewrite| rewrite.host.as_ref()) {
        headers.insert(header::HOST, host.clone());
    }
    filters.request.apply(headers);
}

/// Changes an answer's fields, whosesoever it is. What belongs to the connection is not among them.
pub fn change_answer(rule: &Rule, headers: &mut HeaderMap) {
    if let Some(filters) = &rule.filters {
        filters.response.apply(headers);
    }
}

/// Path and query as the endpoint gets them. `matched`: the prefix that matched.
pub fn rewritten(rule: &Rule, path: String, query: Option<&str>, matched: &str) -> String {
    let rewrite = rule.filters.as_ref().and_then(|filters| filters.rewrite.as_ref());
    let mut target = match rewrite.and_then(|rewrite| rewrite.path.as_ref()) {
        Some(edit) => edit.apply(&path, matched),
        None => path,
    };
    if let Some(query) = query {
        target.push('?');
        target.push_str(query);
    }
    target
}

/// Where a request that is no handshake is sent instead, if it is.
pub fn redirect<'a>(
    found: &'a select::FoundRule,
    parts: &request::Parts,
    forwarded: &Forwarded,
) -> Option<(&'a Redirect, String)> {
    let redirect = found.rule.filters.as_ref()?.redirect.as_ref()?;
    let authority = select::authority(parts)?;
    let host = target::host(authority)?;
    let asked = Asked {
        scheme: forwarded.scheme,
        host: &host,
        port: target::port(authority),
        path: &found.path,
        query: parts.uri.query(),
        matched: &found.matched_path,
    };
    redirect.location(&asked).map(|location| (redirect, location))
}
