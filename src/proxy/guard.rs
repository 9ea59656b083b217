//! Who may come in: asked of every request once its rule is known, before anything is spent on it.
//!
//! Addresses are judged for handshakes and plain requests alike, origins for handshakes only. A page's other requests are the
//! application's to judge by CORS, those of Socket.IO's long polling too: a foreign page cannot read their answers, so it
//! never learns the session that it would have to name, and what it upgrades to a WebSocket comes by here.

use http::{HeaderMap, header, request};

use super::{error::Reason, head, headers::Forwarded, record::Attempt, select};
use crate::routing::{
    Rule,
    route::{PersistBy, Persistence},
    security::{Given, Verdict},
    target,
};

/// Whether the client's address may come.
///
/// # Errors
/// [`Reason::SourceRefused`].
pub fn source(rule: &Rule, forwarded: &Forwarded) -> Result<(), Reason> {
    if rule.security.sources.admit(forwarded.client.ip()) {
        Ok(())
    } else {
        Err(Reason::SourceRefused)
    }
}

/// Whether the page that a handshake comes from may open it. Foreign ones that come with a user's cookies are counted and
/// noted for the record, whether they may or not.
///
/// # Errors
/// [`Reason::OriginRefused`].
pub fn origin(rule: &Rule, parts: &request::Parts, attempt: &mut Attempt) -> Result<(), Reason> {
    let has_origin = parts.headers.contains_key(header::ORIGIN);
    if !has_origin && !rule.security.origins.denies_missing {
        return Ok(());
    }
    let host = select::authority(parts).and_then(target::host).unwrap_or_default();
    let (given, verdict) = judge(rule, &parts.headers, &host);
    match verdict {
        Verdict::Allowed => Ok(()),
        Verdict::Passed => {
            attempt.cross_origin(shown(given), true);
            Ok(())
        }
        Verdict::Refused => {
            if given != Given::Missing {
                attempt.cross_origin(shown(given), false);
            }
            Err(Reason::OriginRefused)
        }
    }
}

/// What a rule makes of the page that a handshake to this host comes from.
pub fn judge<'a>(rule: &Rule, headers: &'a HeaderMap, host: &str) -> (Given<'a>, Verdict) {
    let given = given(headers);
    let has_cookies = has_foreign_cookies(headers, rule.persistence.as_ref());
    (given, rule.security.origins.judge(given, host, has_cookies))
}

fn given(headers: &HeaderMap) -> Given<'_> {
    match head::single(headers, &header::ORIGIN) {
        Some(origin) => Given::Once(origin),
        None if headers.contains_key(header::ORIGIN) => Given::Unreadable,
        None => Given::Missing,
    }
}

/// An origin in a record; empty: there is none.
pub fn shown(given: Given<'_>) -> &str {
    match given {
        Given::Missing => "",
        Given::Once(origin) => origin,
        Given::Unreadable => "unreadable",
    }
}

/// Whether there are cookies besides the one that we set.
fn has_foreign_cookies(headers: &HeaderMap, persistence: Option<&Persistence>) -> bool {
    let ours = match persistence {
        Some(Persistence {
            by: PersistBy::Cookie(cookie),
            ..
        }) => Some(cookie.name.as_bytes()),
        _ => None,
    };
    let mut cookies = headers
        .get_all(header::COOKIE)
        .iter()
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b';'))
        .map(<[u8]>::trim_ascii)
        .filter(|cookie| !cookie.is_empty());
    cookies.any(|cookie| cookie.split(|byte| *byte == b'=').next() != ours)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::route::{Cookie, OnUnavailable};

    #[test]
    fn our_own_cookie_is_nobodys_login() {
        let persistence = Persistence {
            by: PersistBy::Cookie(Cookie::named("ours")),
            on_unavailable: OnUnavailable::Repick,
        };
        for (lines, foreign) in [
            (&[][..], false),
            (&["ours=1"], false),
            (&[" ours=1 ;"], false),
            (&["ours=1; sid=2"], true),
            (&["ours=1", "sid=2"], true),
            (&["ours2=1"], true),
            (&["sid"], true),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(header::COOKIE, line.parse().unwrap());
            }
            assert_eq!(has_foreign_cookies(&headers, Some(&persistence)), foreign, "{lines:?}");
        }
        let mut headers = HeaderMap::new();
        headers.append(header::COOKIE, "ours=1".parse().unwrap());
        assert!(has_foreign_cookies(&headers, None));
    }
}
