//! What makes a request a WebSocket handshake, and an answer the right one to it (RFC 6455, sections 4.1 and 4.2).

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderValue, Method, Version, header, request};
use sha1::{Digest, Sha1};

use crate::proxy::{
    error::Reason,
    head::{single, tokens},
};

/// Whether a request asks for a WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Handshake,
    Plain,
}

/// A request is a handshake if it says so: `Upgrade: websocket`, and `Connection: Upgrade` to make that count (RFC 9110,
/// section 7.8). Whether it is a valid one is another question.
pub fn classify(parts: &request::Parts) -> Kind {
    let has = |name, wanted: &str| tokens(&parts.headers, name).any(|token| token.eq_ignore_ascii_case(wanted));
    let asks = parts.version == Version::HTTP_11 && has(&header::UPGRADE, "websocket") && has(&header::CONNECTION, "upgrade");
    if asks { Kind::Handshake } else { Kind::Plain }
}

/// A valid handshake, as far as the answer must fit it.
#[derive(Clone, Debug)]
pub struct Handshake {
    accept: HeaderValue,
    subprotocols: Vec<Box<str>>,
    extensions: Vec<Box<str>>,
}

impl Handshake {
    /// # Errors
    /// Why it is none that can be served.
    pub fn parse(parts: &request::Parts) -> Result<Self, Reason> {
        if parts.method != Method::GET {
            return Err(Reason::MethodNotAllowed);
        }
        let headers = &parts.headers;
        if single(headers, &header::SEC_WEBSOCKET_VERSION) != Some("13") {
            return Err(Reason::UnsupportedVersion);
        }
        let key = single(headers, &header::SEC_WEBSOCKET_KEY).ok_or(Reason::MalformedRequest)?;
        if STANDARD.decode(key).ok().is_none_or(|key| key.len() != 16) {
            return Err(Reason::MalformedRequest);
        }
        let length = headers.get(header::CONTENT_LENGTH);
        if headers.contains_key(header::TRANSFER_ENCODING) || length.is_some_and(|length| length != "0") {
            return Err(Reason::MalformedRequest); // a body would be taken for frames
        }
        Ok(Self {
            accept: accept(key),
            subprotocols: tokens(headers, &header::SEC_WEBSOCKET_PROTOCOL).map(Box::from).collect(),
            extensions: tokens(headers, &header::SEC_WEBSOCKET_EXTENSIONS)
                .map(|offer| Box::from(extension_name(offer)))
                .collect(),
        })
    }

    /// The right `Sec-WebSocket-Accept`.
    pub fn accept(&self) -> &HeaderValue {
        &self.accept
    }

    /// Checks an endpoint's 101: the key's answer, and nothing that the client did not ask for.
    ///
    /// # Errors
    /// [`Reason::InvalidUpgrade`].
    pub fn check_answer(&self, headers: &HeaderMap) -> Result<(), Reason> {
        let has = |name, wanted: &str| tokens(headers, name).any(|token| token.eq_ignore_ascii_case(wanted));
        let accepted = single(headers, &header::SEC_WEBSOCKET_ACCEPT).is_some_and(|accept| self.accept == accept.trim());
        // One that is there is one that was offered: an empty one never was.
        let is_offered = |chosen: &str| self.subprotocols.iter().any(|offered| **offered == *chosen.trim());
        let subprotocol_fits = !headers.contains_key(header::SEC_WEBSOCKET_PROTOCOL)
            || single(headers, &header::SEC_WEBSOCKET_PROTOCOL).is_some_and(is_offered);
        let valid = accepted
            && has(&header::UPGRADE, "websocket")
            && has(&header::CONNECTION, "upgrade")
            && subprotocol_fits
            && tokens(headers, &header::SEC_WEBSOCKET_EXTENSIONS)
                .all(|chosen| self.extensions.iter().any(|offered| **offered == *extension_name(chosen)));
        if valid { Ok(()) } else { Err(Reason::InvalidUpgrade) }
    }
}

fn extension_name(offer: &str) -> &str {
    offer.split(';').next().unwrap_or_default().trim()
}

fn accept(key: &str) -> HeaderValue {
    let mut hash = Sha1::new();
    hash.update(key.as_bytes());
    hash.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"); // RFC 6455, section 1.3
    // Base64 is always a valid value.
    HeaderValue::from_str(&STANDARD.encode(hash.finalize())).unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use http::Request;
    use proptest::prelude::*;

    use super::*;

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

    fn request(extra: &[(&str, &str)]) -> request::Parts {
        let mut builder = Request::builder()
            .header("host", "h")
            .header("upgrade", "websocket")
            .header("connection", "Upgrade");
        for (name, value) in extra {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap().into_parts().0
    }

    fn valid(extra: &[(&str, &str)]) -> Handshake {
        let mut fields = vec![("sec-websocket-key", KEY), ("sec-websocket-version", "13")];
        fields.extend(extra);
        Handshake::parse(&request(&fields)).unwrap()
    }

    fn answer(fields: &[(&str, &str)]) -> HeaderMap {
        request(fields).headers
    }

    #[test]
    fn the_example_of_the_rfc_is_answered_as_there() {
        assert_eq!(valid(&[]).accept(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn connection_is_a_list_of_tokens_in_any_case() {
        let kind = |upgrade: &str, connection: &str| {
            let builder = Request::builder().header("upgrade", upgrade).header("connection", connection);
            classify(&builder.body(()).unwrap().into_parts().0)
        };
        for (upgrade, connection) in [
            ("websocket", "Upgrade"),
            ("WebSocket", "keep-alive, UPGRADE"),
            ("h2c, websocket", "upgrade"),
        ] {
            assert_eq!(kind(upgrade, connection), Kind::Handshake);
        }
        for (upgrade, connection) in [
            ("websocket", "keep-alive"),
            ("h2c", "upgrade"),
            ("websockets", "upgrade"),
            ("websocket", "upgraded"),
        ] {
            assert_eq!(kind(upgrade, connection), Kind::Plain);
        }
    }

    #[test]
    fn each_fault_has_its_reason() {
        let key = ("sec-websocket-key", KEY);
        let version = ("sec-websocket-version", "13");
        for (fields, reason) in [
            (&[key][..], Reason::UnsupportedVersion),
            (&[key, ("sec-websocket-version", "8")], Reason::UnsupportedVersion),
            (&[key, version, version], Reason::UnsupportedVersion),
            (&[version], Reason::MalformedRequest),
            (&[version, ("sec-websocket-key", "c2hvcnQ=")], Reason::MalformedRequest),
            (&[version, ("sec-websocket-key", "!")], Reason::MalformedRequest),
            (&[version, key, key], Reason::MalformedRequest),
            (&[version, key, ("content-length", "5")], Reason::MalformedRequest),
            (&[version, key, ("transfer-encoding", "chunked")], Reason::MalformedRequest),
        ] {
            assert_eq!(Handshake::parse(&request(fields)).unwrap_err(), reason, "{fields:?}");
        }
        let mut post = request(&[key, version]);
        post.method = Method::POST;
        assert_eq!(Handshake::parse(&post).unwrap_err(), Reason::MethodNotAllowed);
        assert!(Handshake::parse(&request(&[key, version, ("content-length", "0")])).is_ok());
    }

    #[test]
    fn an_answer_may_choose_only_what_was_offered() {
        let handshake = valid(&[
            ("sec-websocket-protocol", "a, b"),
            ("sec-websocket-protocol", "c"),
            ("sec-websocket-extensions", "permessage-deflate; client_max_window_bits"),
        ]);
        let good = ("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        for fields in [
            &[good][..],
            &[good, ("sec-websocket-protocol", "c")],
            &[
                good,
                ("sec-websocket-extensions", "permessage-deflate; server_no_context_takeover"),
            ],
        ] {
            assert_eq!(handshake.check_answer(&answer(fields)), Ok(()), "{fields:?}");
        }
        for fields in [
            &[][..],
            &[("sec-websocket-accept", "AAAA")],
            &[good, ("sec-websocket-protocol", "d")],
            &[good, ("sec-websocket-protocol", "a, b")],
            &[good, ("sec-websocket-protocol", "")],
            &[good, ("sec-websocket-extensions", "x-other")],
        ] {
            assert_eq!(
                handshake.check_answer(&answer(fields)),
                Err(Reason::InvalidUpgrade),
                "{fields:?}"
            );
        }
        let mut no_upgrade = answer(&[good]);
        no_upgrade.remove("upgrade");
        assert_eq!(handshake.check_answer(&no_upgrade), Err(Reason::InvalidUpgrade));
    }

    proptest! {
        #[test]
        fn any_header_values_are_parsed_or_refused(key in "[ -~]{0,40}", version in "[ -~]{0,4}", protocols in "[ -~]{0,40}") {
            let parts = request(&[
                ("sec-websocket-key", &key),
                ("sec-websocket-version", &version),
                ("sec-websocket-protocol", &protocols),
            ]);
            if let Ok(handshake) = Handshake::parse(&parts) {
                prop_assert_eq!(STANDARD.decode(key.trim()).unwrap().len(), 16);
                prop_assert!(handshake.subprotocols.iter().all(|token| !token.is_empty() && !token.contains(',')));
            }
        }
    }
}
