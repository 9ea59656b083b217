//! Header fields between client and endpoint: what is hop-by-hop stays, what says who the client is is ours to say.

mod rfc7239;

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName, HeaderValue, header, request};

use super::{connection::Arrival, head::tokens};
use crate::routing::forwarded::{self, Mode};

/// What is known of the client, most of which the endpoint is told.
#[derive(Clone, Debug)]
pub struct Forwarded {
    /// The address that the connection came from.
    pub peer: IpAddr,
    /// The client, as far as it can be known.
    pub client: SocketAddr,
    /// Whether the peer is a trusted proxy, so that what it says of the client is kept.
    pub trusted: bool,
    pub scheme: &'static str,
    pub arrival: Arrival,
    /// What a request without an `X-Request-Id` gets.
    pub request_id: HeaderValue,
}

/// Takes out what concerns one connection only (RFC 9110, section 7.6.1), `Upgrade` included.
pub fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = tokens(headers, &header::CONNECTION)
        .filter_map(|token| HeaderName::from_bytes(token.as_bytes()).ok())
        .filter(|name| !KEPT.contains(name) && !name.as_str().starts_with("sec-websocket-"))
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// Sets the fields that tell the endpoint who the client is, as `by` says; what a client that is no trusted proxy says of that is
/// dropped.
pub fn set_forwarded(parts: &mut request::Parts, forwarded: &Forwarded, by: forwarded::Forwarded) {
    let headers = &mut parts.headers;
    // A target in absolute form names the host, whatever the field says (RFC 9112, section 3.2.2).
    if let Some(host) = parts
        .uri
        .authority()
        .and_then(|authority| HeaderValue::from_str(authority.as_str()).ok())
    {
        headers.insert(header::HOST, host);
    }
    let is_false = |name: &str| is_twin(name) || (!forwarded.trusted && is_claim(name));
    let claims: Vec<HeaderName> = headers.keys().filter(|name| is_false(name.as_str())).cloned().collect();
    for name in claims {
        headers.remove(name);
    }
    if let Some(value) = rfc7239::value(by.forwarded, headers, forwarded) {
        headers.insert(header::FORWARDED, value);
    }
    let chain = match by.x_forwarded_for {
        Mode::Append => address(forwarded.peer).and_then(|peer| appended(headers, peer)),
        Mode::Replace => address(forwarded.client.ip()),
        Mode::None => None,
    };
    if let Some(chain) = chain {
        headers.insert(X_FORWARDED_FOR, chain);
    }
    if let Some(client) = address(forwarded.client.ip()).filter(|_| by.x_real_ip) {
        headers.insert(X_REAL_IP, client);
    }
    headers
        .entry(X_FORWARDED_PROTO)
        .or_insert(HeaderValue::from_static(forwarded.scheme));
    if let Some(host) = headers.get(header::HOST).cloned() {
        headers.entry(X_FORWARDED_HOST).or_insert(host);
    }
    headers.entry(X_REQUEST_ID).or_insert_with(|| forwarded.request_id.clone());
}

/// `X-Forwarded-For` with `peer` behind what is there.
fn appended(headers: &HeaderMap, peer: HeaderValue) -> Option<HeaderValue> {
    let earlier: Vec<_> = tokens(headers, &X_FORWARDED_FOR).collect();
    if earlier.is_empty() {
        return Some(peer);
    }
    HeaderValue::from_str(&format!("{}, {}", earlier.join(", "), peer.to_str().ok()?)).ok()
}

/// Names with underscores that CGI and its heirs cannot tell from a claim: `X_Forwarded_For`. Nobody's proxy sends one, and
/// nginx drops all names with underscores.
fn is_twin(name: &str) -> bool {
    name.contains('_') && is_claim(&name.replace('_', "-"))
}

fn is_claim(name: &str) -> bool {
    name.starts_with("x-forwarded-") || CLAIMS.contains(&name)
}

/// An address as a value.
fn address(address: IpAddr) -> Option<HeaderValue> {
    HeaderValue::try_from(address.to_canonical().to_string()).ok()
}

/// Appends `name: value` lines; names as most software writes them, because small clients and servers compare exactly.
pub fn write(out: &mut Vec<u8>, headers: &HeaderMap) {
    for (name, value) in headers {
        write_field(out, name, value.as_bytes());
    }
}

/// Appends one line.
pub fn write_field(out: &mut Vec<u8>, name: &HeaderName, value: &[u8]) {
    match SPELLED.iter().find(|(lower, _)| *lower == name.as_str()) {
        Some((_, spelled)) => out.extend_from_slice(spelled.as_bytes()),
        None => {
            let mut upper = true;
            for byte in name.as_str().bytes() {
                out.push(if upper { byte.to_ascii_uppercase() } else { byte });
                upper = byte == b'-';
            }
        }
    }
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// By which a Holdfast tells the one behind it, a sidecar, that it pings the client itself: pinging twice helps nobody.
pub const HEARTBEAT: HeaderName = HeaderName::from_static("holdfast-heartbeat");
/// What [`HEARTBEAT`] says.
pub const CLIENT_IS_PINGED: HeaderValue = HeaderValue::from_static("client");

/// Fields by which a request claims to come from somebody else, besides `X-Forwarded-*`: those that proxies, clouds and CDNs set,
/// and that applications therefore believe.
const CLAIMS: [&str; 19] = [
    "forwarded",
    "x-real-ip",
    "x-request-id",
    "true-client-ip",
    "x-client-ip",
    "client-ip",
    "cf-connecting-ip",
    "cf-connecting-ipv6",
    "cf-pseudo-ipv4",
    "fastly-client-ip",
    "fly-client-ip",
    "x-appengine-user-ip",
    "x-azure-clientip",
    "x-azure-socketip",
    "x-cluster-client-ip",
    "x-envoy-external-address",
    "x-original-forwarded-for",
    "x-originating-ip",
    "x-remote-ip",
];

const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    header::UPGRADE,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("http2-settings"),
];

/// A client cannot have these removed by naming them in `Connection`, nor those of the handshake.
const KEPT: [HeaderName; 5] = [
    header::HOST,
    header::COOKIE,
    header::AUTHORIZATION,
    header::CONTENT_LENGTH,
    header::ORIGIN,
];

/// Names that are not spelled by capitals after hyphens alone.
const SPELLED: [(&str, &str); 8] = [
    ("sec-websocket-accept", "Sec-WebSocket-Accept"),
    ("sec-websocket-extensions", "Sec-WebSocket-Extensions"),
    ("sec-websocket-key", "Sec-WebSocket-Key"),
    ("sec-websocket-protocol", "Sec-WebSocket-Protocol"),
    ("sec-websocket-version", "Sec-WebSocket-Version"),
    ("www-authenticate", "WWW-Authenticate"),
    ("etag", "ETag"),
    ("dnt", "DNT"),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn request(fields: &[(&str, &str)]) -> request::Parts {
        let mut builder = http::Request::builder();
        for (name, value) in fields {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap().into_parts().0
    }

    fn forwarded(trusted: bool) -> Forwarded {
        Forwarded {
            peer: [10, 0, 0, 9].into(),
            client: ([203, 0, 113, 7], 0).into(),
            trusted,
            scheme: "http",
            arrival: Arrival::Plain,
            request_id: HeaderValue::from_static("ours"),
        }
    }

    #[test]
    fn connection_names_more_fields_to_remove_but_not_the_ones_that_protect_the_endpoint() {
        let mut parts = request(&[
            ("connection", "Upgrade, X-Secret"),
            ("connection", "keep-alive,COOKIE"),
            ("upgrade", "websocket"),
            ("x-secret", "1"),
            ("cookie", "a=b"),
            ("te", "trailers"),
            ("host", "h"),
        ]);
        remove_hop_by_hop(&mut parts.headers);
        let mut left: Vec<_> = parts.headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["cookie", "host"]);
    }

    #[test]
    fn a_stranger_cannot_say_who_it_is() {
        let claims = [
            ("host", "h"),
            ("x-forwarded-for", "1.1.1.1"),
            ("forwarded", "for=1.1.1.1"),
            ("x-forwarded-prefix", "/p"),
            ("x-request-id", "theirs"),
            ("cf-connecting-ip", "1.1.1.1"),
            ("x-original-forwarded-for", "1.1.1.1"),
            ("fastly_client_ip", "1.1.1.1"),
        ];
        let mut parts = request(&claims);
        set_forwarded(&mut parts, &forwarded(false), forwarded::Forwarded::BUILT_IN);
        assert_eq!(parts.headers["x-forwarded-for"], "10.0.0.9");
        assert_eq!(parts.headers["x-request-id"], "ours");
        assert!(!parts.headers.contains_key("forwarded") && !parts.headers.contains_key("x-forwarded-prefix"));
        assert!(parts.headers.values().all(|value| value != "1.1.1.1"), "{:?}", parts.headers);

        let mut parts = request(&claims);
        set_forwarded(&mut parts, &forwarded(true), forwarded::Forwarded::BUILT_IN);
        assert_eq!(parts.headers["x-forwarded-for"], "1.1.1.1, 10.0.0.9");
        assert_eq!(parts.headers["x-real-ip"], "203.0.113.7");
        assert_eq!(parts.headers["x-request-id"], "theirs");
        assert_eq!(parts.headers["x-forwarded-host"], "h");
        assert_eq!(parts.headers["forwarded"], "for=1.1.1.1");
        assert_eq!(parts.headers["cf-connecting-ip"], "1.1.1.1");
    }

    #[test]
    fn a_route_says_which_fields_tell_of_the_client() {
        let told = |trusted, by| {
            let mut parts = request(&[
                ("host", "h"),
                ("x-forwarded-for", "203.0.113.7"),
                ("forwarded", "for=203.0.113.7"),
                ("x-real-ip", "203.0.113.7"),
            ]);
            set_forwarded(&mut parts, &forwarded(trusted), by);
            [X_FORWARDED_FOR, header::FORWARDED, X_REAL_IP].map(|name| {
                let value = parts.headers.get(name);
                value.map_or(String::new(), |value| value.to_str().unwrap().to_owned())
            })
        };
        let all = |mode, x_real_ip| forwarded::Forwarded {
            x_forwarded_for: mode,
            x_real_ip,
            forwarded: mode,
        };
        assert_eq!(
            told(true, all(Mode::Append, true)),
            [
                "203.0.113.7, 10.0.0.9",
                "for=203.0.113.7, for=10.0.0.9;host=h;proto=http",
                "203.0.113.7"
            ]
        );
        assert_eq!(
            told(false, all(Mode::Append, true)),
            ["10.0.0.9", "for=10.0.0.9;host=h;proto=http", "203.0.113.7"]
        );
        assert_eq!(
            told(true, all(Mode::Replace, true)),
            ["203.0.113.7", "for=203.0.113.7;host=h;proto=http", "203.0.113.7"]
        );
        assert_eq!(
            told(true, all(Mode::None, false)),
            ["203.0.113.7", "for=203.0.113.7", "203.0.113.7"],
            "a trusted proxy's words pass"
        );
        assert_eq!(told(false, all(Mode::None, false)), ["", "", ""], "a stranger's do not");
    }

    #[test]
    fn names_are_written_as_small_clients_expect_them() {
        let mut out = Vec::new();
        write(
            &mut out,
            &request(&[("sec-websocket-accept", "x"), ("x-request-id", "1")]).headers,
        );
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "Sec-WebSocket-Accept: x\r\nX-Request-Id: 1\r\n"
        );
    }
}
