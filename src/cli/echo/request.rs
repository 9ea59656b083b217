//! What the echo endpoint reads and answers before a connection is a WebSocket, or instead of that.

use std::fmt::Write as _;

use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// The head of one HTTP/1.1 request.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) method: String,
    target: String,
    headers: Vec<(String, String)>,
}

/// What a request wants.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// A WebSocket; this is the whole 101.
    WebSocket(String),
    /// A WebSocket, asked for wrongly; this is the whole refusal.
    Refused(String),
    /// An answer. `body` bytes follow the head; `None` where only the end of the connection tells.
    Plain { body: Option<u64>, keep_alive: bool },
}

impl Request {
    /// Reads a head from the start of `buffer`, with the bytes it took; `None` while it is incomplete.
    pub(super) fn parse(buffer: &[u8]) -> Result<Option<(Self, usize)>, httparse::Error> {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut head = httparse::Request::new(&mut headers);
        let httparse::Status::Complete(length) = head.parse(buffer)? else {
            return Ok(None);
        };
        let headers = head
            .headers
            .iter()
            .map(|h| (h.name.to_owned(), String::from_utf8_lossy(h.value).into_owned()));
        let request = Self {
            method: head.method.unwrap_or_default().to_owned(),
            target: head.path.unwrap_or_default().to_owned(),
            headers: headers.collect(),
        };
        Ok(Some((request, length)))
    }

    /// The path without the query: tokens live there.
    pub(super) fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// Decides what to do; `subprotocols` are those the endpoint speaks.
    pub(super) fn wish(&self, name: &str, subprotocols: &[String]) -> Wish {
        if !self.has_token("upgrade", "websocket") {
            let chunked = self.values("transfer-encoding").next().is_some();
            let body = if chunked { None } else { Some(self.content_length()) };
            let keep_alive = body.is_some() && !self.has_token("connection", "close");
            return Wish::Plain { body, keep_alive };
        }
        if self.values("sec-websocket-version").next() != Some("13") {
            let header = "Sec-WebSocket-Version: 13\r\n";
            return Wish::Refused(answer(
                "426 Upgrade Required",
                name,
                header,
                "speak WebSocket version 13\n",
                false,
            ));
        }
        match self.values("sec-websocket-key").next() {
            Some(key) if self.method == "GET" => Wish::WebSocket(self.switching(name, key, subprotocols)),
            _ => Wish::Refused(answer("400 Bad Request", name, "", "not a WebSocket handshake\n", false)),
        }
    }

    /// The answer to a plain request: who answers, and what arrived here after all proxies on the way.
    pub(super) fn describe(&self, name: &str, keep_alive: bool) -> String {
        let mut text = format!("endpoint {name}\n{} {}\n", self.method, self.target);
        for (header, value) in &self.headers {
            let _ = writeln!(text, "{}: {value}", header.to_ascii_lowercase());
        }
        let mut whole = answer("200 OK", name, "", &text, keep_alive);
        if self.method == "HEAD" {
            whole.truncate(whole.len() - text.len());
        }
        whole
    }

    fn switching(&self, name: &str, key: &str, subprotocols: &[String]) -> String {
        let accept = derive_accept_key(key.as_bytes());
        let mut head = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\nX-Echo-Endpoint: {name}\r\n"
        );
        if let Some(chosen) = self.subprotocol(subprotocols) {
            let _ = write!(head, "Sec-WebSocket-Protocol: {chosen}\r\n");
        }
        head + "\r\n"
    }

    /// The first that the client offers and the endpoint speaks; `any` speaks all.
    fn subprotocol(&self, spoken: &[String]) -> Option<&str> {
        let any = spoken.iter().any(|word| word == "any");
        self.tokens("sec-websocket-protocol")
            .find(|offered| any || spoken.iter().any(|word| word == offered))
    }

    fn content_length(&self) -> u64 {
        self.values("content-length")
            .next()
            .and_then(|value| value.parse().ok())
            .unwrap_or(0)
    }

    fn has_token(&self, name: &str, token: &str) -> bool {
        self.tokens(name).any(|found| found.eq_ignore_ascii_case(token))
    }

    fn tokens(&self, name: &str) -> impl Iterator<Item = &str> {
        self.values(name)
            .flat_map(|value| value.split(','))
            .map(str::trim)
            .filter(|token| !token.is_empty())
    }

    fn values(&self, name: &str) -> impl Iterator<Item = &str> {
        self.headers
            .iter()
            .filter(move |(header, _)| header.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }
}

/// A whole text answer. `headers` are whole lines.
pub(super) fn answer(status: &str, name: &str, headers: &str, text: &str, keep_alive: bool) -> String {
    let connection = if keep_alive { "" } else { "Connection: close\r\n" };
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n\
         X-Echo-Endpoint: {name}\r\n{headers}{connection}\r\n{text}",
        text.len()
    )
}

/// Header lines that one request may have.
const MAX_HEADERS: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(head: &str) -> Request {
        Request::parse(head.as_bytes()).unwrap().unwrap().0
    }

    const HANDSHAKE: &str = "GET /chat?token=1 HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Protocol: a, b\r\nSec-WebSocket-Protocol: c\r\n\r\n";

    #[test]
    fn a_handshake_is_answered_with_the_accept_key_and_the_first_spoken_subprotocol() {
        for (spoken, expected) in [
            (&["c", "b"][..], Some("b")),
            (&["any"], Some("a")),
            (&["x"], None),
            (&[], None),
        ] {
            let spoken: Vec<String> = spoken.iter().map(|word| (*word).to_owned()).collect();
            let Wish::WebSocket(head) = parse(HANDSHAKE).wish("one", &spoken) else {
                panic!("not an upgrade")
            };
            assert!(
                head.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"),
                "{head}"
            );
            assert!(head.contains("X-Echo-Endpoint: one\r\n"), "{head}");
            let chosen = head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Protocol: "));
            assert_eq!(chosen, expected, "{spoken:?}");
        }
    }

    #[test]
    fn a_handshake_of_another_version_or_without_a_key_is_refused() {
        let Wish::Refused(head) = parse(&HANDSHAKE.replace("n: 13", "n: 8")).wish("one", &[]) else {
            panic!()
        };
        assert!(
            head.starts_with("HTTP/1.1 426 ") && head.contains("Sec-WebSocket-Version: 13\r\n"),
            "{head}"
        );
        let Wish::Refused(head) = parse(&HANDSHAKE.replace("Socket-Key", "Socket-Kez")).wish("one", &[]) else {
            panic!()
        };
        assert!(head.starts_with("HTTP/1.1 400 "), "{head}");
    }

    #[test]
    fn a_plain_request_learns_what_arrived() {
        let request = parse("POST /x?y HTTP/1.1\r\nContent-Length: 5\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n");
        assert_eq!(
            request.wish("one", &[]),
            Wish::Plain {
                body: Some(5),
                keep_alive: true
            }
        );
        assert_eq!(request.path(), "/x");
        let text = request.describe("one", true);
        let body = "endpoint one\nPOST /x?y\ncontent-length: 5\nx-forwarded-for: 192.0.2.1\n";
        assert!(text.ends_with(&format!("\r\n\r\n{body}")), "{text}");
        assert!(text.contains(&format!("Content-Length: {}\r\n", body.len())), "{text}");
    }

    #[test]
    fn where_a_body_has_no_length_the_connection_ends() {
        let request = parse("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n");
        assert_eq!(
            request.wish("one", &[]),
            Wish::Plain {
                body: None,
                keep_alive: false
            }
        );
    }

    #[test]
    fn a_head_request_gets_no_body() {
        let text = parse("HEAD / HTTP/1.1\r\n\r\n").describe("one", true);
        assert!(text.ends_with("\r\n\r\n") && !text.contains("Content-Length: 0"), "{text}");
    }

    #[test]
    fn half_a_head_is_no_request_yet() {
        assert!(Request::parse(b"GET / HTTP/1.1\r\nHost: a\r\n").unwrap().is_none());
        assert!(Request::parse(b"\x00\x01").is_err());
    }
}
