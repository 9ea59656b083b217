//! The `Forwarded` field of RFC 7239: its elements written, and what a proxy before us wrote of it looked through.

use std::net::IpAddr;

use http::{HeaderMap, HeaderValue, header};

use super::{Forwarded, X_FORWARDED_FOR};
use crate::{
    proxy::{client, head::tokens},
    routing::forwarded::Mode,
};

/// The field as the endpoint gets it. `None`: it stays as it is. To be asked before `X-Forwarded-For` is changed.
pub(super) fn value(mode: Mode, headers: &HeaderMap, forwarded: &Forwarded) -> Option<HeaderValue> {
    let text = match mode {
        Mode::None => return None,
        Mode::Replace => element(forwarded.client.ip(), headers, forwarded),
        Mode::Append => {
            let mut elements = earlier(headers);
            elements.push(element(forwarded.peer, headers, forwarded));
            elements.join(", ")
        }
    };
    HeaderValue::try_from(text).ok()
}

/// What proxies before us said: by the same field, or else by `X-Forwarded-For`, as section 7.4 says. What is not well-formed is
/// dropped: an open quotation mark in it would swallow what we say.
fn earlier(headers: &HeaderMap) -> Vec<String> {
    let lines = headers.get_all(header::FORWARDED).iter();
    let lines: Vec<_> = lines.map(|line| line.to_str().unwrap_or("\"")).collect();
    if lines.is_empty() {
        let node = |hop| client::address(hop).map_or_else(|| "unknown".to_owned(), |hop| node(hop.ip()));
        return tokens(headers, &X_FORWARDED_FOR)
            .map(|hop| format!("for={}", node(hop)))
            .collect();
    }
    if lines.iter().all(|line| is_well_formed(line)) {
        lines.into_iter().map(str::to_owned).collect()
    } else {
        Vec::new()
    }
}

fn element(address: IpAddr, headers: &HeaderMap, forwarded: &Forwarded) -> String {
    let mut element = format!("for={}", node(address));
    if let Some(host) = headers.get(header::HOST).and_then(|host| host.to_str().ok()) {
        element.push_str(";host=");
        element.push_str(&quoted(host));
    }
    element.push_str(";proto=");
    element.push_str(forwarded.scheme);
    element
}

/// An IPv6 address stands in brackets and, because of its colons, in quotation marks.
fn node(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("\"[{v6}]\""),
    }
}

/// A value as a token, or in quotation marks where it is none.
fn quoted(value: &str) -> String {
    if !value.is_empty() && value.bytes().all(is_token) {
        return value.to_owned();
    }
    format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
}

/// Whether a line is a list of elements of `name=value` pairs, each value a token or in quotation marks.
fn is_well_formed(line: &str) -> bool {
    let (mut quoted, mut escaped, mut start) = (false, false, 0);
    for (at, byte) in line.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b',' | b';' if !quoted => {
                if !is_pair(&line[start..at]) {
                    return false;
                }
                start = at + 1;
            }
            _ => {}
        }
    }
    !quoted && is_pair(&line[start..])
}

/// A pair, or nothing: lists may have empty elements.
fn is_pair(text: &str) -> bool {
    let text = text.trim_matches([' ', '\t']);
    let Some((name, value)) = text.split_once('=') else {
        return text.is_empty();
    };
    let is_token_only = |text: &str| !text.is_empty() && text.bytes().all(is_token);
    let inner = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
    is_token_only(name) && inner.map_or_else(|| is_token_only(value), closes_nowhere)
}

/// Whether a text in quotation marks has none of them within.
fn closes_nowhere(inner: &str) -> bool {
    let mut escaped = false;
    let ends = inner.bytes().any(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    });
    !ends && !escaped
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::connection::Arrival;

    fn told(mode: Mode, peer: &str, client: &str, fields: &[(&'static str, &str)]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        let forwarded = Forwarded {
            peer: peer.parse().unwrap(),
            client: (client.parse::<IpAddr>().unwrap(), 0).into(),
            trusted: true,
            scheme: "https",
            arrival: Arrival::Plain,
            request_id: HeaderValue::from_static("x"),
        };
        value(mode, &headers, &forwarded).map(|value| value.to_str().unwrap().to_owned())
    }

    #[test]
    fn addresses_and_hosts_are_quoted_where_they_must_be() {
        for (peer, host, expected) in [
            (
                "192.0.2.43",
                "chat.example.com",
                "for=192.0.2.43;host=chat.example.com;proto=https",
            ),
            ("192.0.2.43", "chat:8080", "for=192.0.2.43;host=\"chat:8080\";proto=https"),
            (
                "2001:db8:cafe::17",
                "[::1]:80",
                "for=\"[2001:db8:cafe::17]\";host=\"[::1]:80\";proto=https",
            ),
            ("::ffff:192.0.2.43", "a", "for=192.0.2.43;host=a;proto=https"),
        ] {
            let own = told(Mode::Append, peer, peer, &[("host", host)]);
            assert_eq!(own.as_deref(), Some(expected));
            assert_eq!(told(Mode::Replace, "10.0.0.1", peer, &[("host", host)]), own);
            assert_eq!(told(Mode::None, peer, peer, &[("host", host)]), None);
        }
    }

    #[test]
    fn what_proxies_before_us_said_stays_obfuscated_names_too() {
        let appended = |fields: &[(&'static str, &str)]| told(Mode::Append, "10.0.0.9", "192.0.2.1", fields).unwrap();
        for earlier in [
            "for=192.0.2.43",
            "for=_gazonk;by=_SEVKISEK",
            "For=\"[2001:db8:cafe::17]:4711\";proto=http, for=unknown",
            "for=\"_a\\\"b, for=c\"",
            "for=192.0.2.60;proto=http;by=203.0.113.43",
        ] {
            assert_eq!(
                appended(&[("forwarded", earlier)]),
                format!("{earlier}, for=10.0.0.9;proto=https")
            );
        }
        let two = [("forwarded", "for=a"), ("forwarded", "for=b"), ("x-forwarded-for", "1.1.1.1")];
        assert_eq!(appended(&two), "for=a, for=b, for=10.0.0.9;proto=https");
        assert_eq!(
            told(Mode::Replace, "10.0.0.9", "192.0.2.1", &two).unwrap(),
            "for=192.0.2.1;proto=https"
        );
    }

    #[test]
    fn addresses_of_the_older_field_are_taken_over() {
        let fields = [("x-forwarded-for", "192.0.2.43, 2001:db8::1, [2001:db8::2]:80, who knows")];
        assert_eq!(
            told(Mode::Append, "10.0.0.9", "192.0.2.43", &fields).unwrap(),
            "for=192.0.2.43, for=\"[2001:db8::1]\", for=\"[2001:db8::2]\", for=unknown, for=10.0.0.9;proto=https"
        );
    }

    #[test]
    fn what_is_not_well_formed_cannot_swallow_what_we_say() {
        for earlier in [
            "for=\"192.0.2.43",
            "for=\"a\\",
            "for=\"a\\\"",
            "for",
            "for=",
            "=a",
            "for=a b",
            "for=2001:db8::1",
            "for=\"a\"b\"",
            "for=\"a\"b",
        ] {
            let appended = told(Mode::Append, "10.0.0.9", "192.0.2.1", &[("forwarded", earlier)]);
            assert_eq!(appended.as_deref(), Some("for=10.0.0.9;proto=https"), "{earlier}");
        }
    }
}
