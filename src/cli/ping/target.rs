//! Where a ping goes, and how it gets a WebSocket there.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Request, StatusCode, Uri};
use rustls::pki_types::ServerName;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use super::cookies::Jar;
use super::tls::Wire;

/// A WebSocket as the client holds it.
pub(super) type Socket = WebSocketStream<Box<dyn Wire>>;

/// A `ws:` or `wss:` URL, taken apart.
#[derive(Debug, Clone)]
pub(super) struct Target {
    uri: Uri,
    host: String,
    port: u16,
    is_secure: bool,
}

/// An open connection and how it came about.
pub(super) struct Opened {
    pub(super) socket: Socket,
    pub(super) peer: SocketAddr,
    pub(super) dial: Duration,
    pub(super) handshake: Duration,
    pub(super) headers: HeaderMap,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("cannot resolve {host}: {error}; check the name")]
    Unresolved { host: String, error: io::Error },
    #[error("cannot connect to {address}: {error}")]
    Dial { address: SocketAddr, error: io::Error },
    #[error("no TLS: {0}")]
    Tls(io::Error),
    #[error("no {what} within {wait:?}")]
    Timeout { what: &'static str, wait: Duration },
    #[error("{status}")]
    Answer {
        status: StatusCode,
        headers: Box<HeaderMap>,
        body: String,
    },
    #[error("no answer to the handshake: {0}")]
    Cut(io::Error),
    #[error("{0}")]
    Handshake(Box<WsError>),
}

impl Target {
    /// Reads a URL; the error says what to write instead.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a WebSocket URL; write it as ws://HOST[:PORT][/PATH] or wss://");
        let uri: Uri = text.parse().map_err(|_| wrong())?;
        let is_secure = match uri.scheme_str() {
            Some("ws") => false,
            Some("wss") => true,
            _ => return Err(wrong()),
        };
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(wrong)?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = uri.port_u16().unwrap_or(usual_port(is_secure));
        Ok(Self {
            uri,
            host,
            port,
            is_secure,
        })
    }

    /// Whether it asks for TLS.
    pub(super) fn is_secure(&self) -> bool {
        self.is_secure
    }

    /// The URL's path, without its query.
    pub(super) fn path(&self) -> &str {
        self.uri.path()
    }

    /// Dials and does the handshakes; each may take `wait`. With a `connector` there is TLS.
    pub(super) async fn connect(
        &self,
        connector: Option<&TlsConnector>,
        headers: &[(HeaderName, HeaderValue)],
        subprotocols: &[String],
        jar: &Jar,
        wait: Duration,
    ) -> Result<Opened, Refusal> {
        let request = self.request(headers, subprotocols, jar);
        let start = Instant::now();
        let dialled = timeout(wait, self.dial()).await;
        let (stream, peer) = dialled.map_err(|_| Refusal::Timeout {
            what: "connection",
            wait,
        })??;
        let dial = start.elapsed();
        let wire: Box<dyn Wire> = match connector {
            None => Box::new(stream),
            Some(connector) => {
                let secured = timeout(wait, self.secure(connector, stream)).await;
                let secured = secured.map_err(|_| Refusal::Timeout { what: "TLS", wait })?;
                Box::new(secured.map_err(Refusal::Tls)?)
            }
        };
        let config = WebSocketConfig::default()
            .write_buffer_size(0)
            .max_message_size(Some(2 * MAX_SIZE))
            .max_frame_size(Some(2 * MAX_SIZE));
        let upgrade = timeout(wait, client_async_with_config(request, wire, Some(config))).await;
        let upgraded = upgrade.map_err(|_| Refusal::Timeout {
            what: "answer to the handshake",
            wait,
        })?;
        let (socket, response) = upgraded.map_err(refusal)?;
        let handshake = start.elapsed() - dial;
        Ok(Opened {
            socket,
            peer,
            dial,
            handshake,
            headers: response.into_parts().0.headers,
        })
    }

    async fn secure(&self, connector: &TlsConnector, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(self.host.clone()).map_err(io::Error::other)?;
        connector.connect(name, stream).await
    }

    async fn dial(&self) -> Result<(TcpStream, SocketAddr), Refusal> {
        let unresolved = |error| Refusal::Unresolved {
            host: self.host.clone(),
            error,
        };
        let addresses = lookup_host((self.host.as_str(), self.port)).await.map_err(unresolved)?;
        let mut last = None;
        for address in addresses {
            match TcpStream::connect(address).await {
                Ok(stream) => {
                    let _ = stream.set_nodelay(true);
                    return Ok((stream, address));
                }
                Err(error) => last = Some(Refusal::Dial { address, error }),
            }
        }
        Err(last.unwrap_or_else(|| unresolved(io::Error::other("it has no address"))))
    }

    fn request(&self, given: &[(HeaderName, HeaderValue)], subprotocols: &[String], jar: &Jar) -> Request<()> {
        let mut request = Request::new(());
        *request.uri_mut() = self.uri.clone();
        let headers = request.headers_mut();
        headers.insert(header::HOST, self.host_header());
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        if let Ok(key) = generate_key().parse() {
            headers.insert(header::SEC_WEBSOCKET_KEY, key);
        }
        if let Ok(list) = HeaderValue::from_str(&subprotocols.join(", "))
            && !list.is_empty()
        {
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, list);
        }
        for (name, value) in given {
            // What is there already is replaced: `-H 'Host: ...'` asks for another virtual host.
            if *name == header::HOST || name.as_str().starts_with("sec-websocket-") {
                headers.insert(name, value.clone());
            } else {
                headers.append(name, value.clone());
            }
        }
        let cookies = jar.header(headers.get(header::COOKIE).and_then(|value| value.to_str().ok()));
        if let Some(value) = cookies.and_then(|cookies| HeaderValue::from_str(&cookies).ok()) {
            headers.insert(header::COOKIE, value);
        }
        request
    }

    fn host_header(&self) -> HeaderValue {
        let host = if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        };
        let whole = if self.port == usual_port(self.is_secure) {
            host
        } else {
            format!("{host}:{}", self.port)
        };
        // A host that came out of a URL always fits; an empty header would be refused, and say so.
        HeaderValue::from_str(&whole).unwrap_or_else(|_| HeaderValue::from_static(""))
    }
}

fn usual_port(is_secure: bool) -> u16 {
    if is_secure { 443 } else { 80 }
}

/// `Name: value` as `-H` takes it.
pub(super) fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("write it as 'Name: value'")?;
    let name = name.trim().parse().map_err(|_| format!("{name:?} is not a header name"))?;
    let value = value.trim().parse().map_err(|_| format!("{value:?} is not a header value"))?;
    Ok((name, value))
}

fn refusal(error: WsError) -> Refusal {
    match error {
        WsError::Http(response) => {
            let (head, body) = response.into_parts();
            let body = String::from_utf8_lossy(&body.unwrap_or_default()).into_owned();
            Refusal::Answer {
                status: head.status,
                headers: Box::new(head.headers),
                body,
            }
        }
        WsError::Io(error) => Refusal::Cut(error),
        other => Refusal::Handshake(Box::new(other)),
    }
}

/// The text of the `number`th message of the run that `token` names, at least `size` bytes long.
pub(super) fn message(token: u64, number: u64, size: usize) -> Message {
    let mut text = format!("holdfast ping {token:016x} {number} ");
    let missing = size.saturating_sub(text.len());
    text.extend(std::iter::repeat_n('.', missing));
    Message::text(text)
}

/// Which message of the run that `token` names came back; `None` for anything else.
pub(super) fn number(token: u64, message: &Message) -> Option<u64> {
    let text = message.to_text().ok()?.strip_prefix("holdfast ping ")?;
    let mut words = text.split(' ');
    (words.next()? == format!("{token:016x}"))
        .then(|| words.next()?.parse().ok())
        .flatten()
}

/// Bytes of the largest message a ping sends.
pub(super) const MAX_SIZE: usize = 16 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn request(url: &str, headers: &[&str], subprotocols: &[&str]) -> Request<()> {
        let given: Vec<_> = headers.iter().map(|text| header(text).unwrap()).collect();
        let subprotocols: Vec<String> = subprotocols.iter().map(|word| (*word).to_owned()).collect();
        Target::parse(url).unwrap().request(&given, &subprotocols, &Jar::default())
    }

    #[test]
    fn urls_that_cannot_be_pinged_are_refused_with_what_to_write() {
        for url in ["localhost:8080/echo", "http://localhost/", "ws:///x", "ws://", "", "ws://a b"] {
            let error = Target::parse(url).unwrap_err();
            assert!(error.contains("write it as ws://HOST"), "{url}: {error}");
        }
    }

    #[test]
    fn the_host_header_carries_the_port_unless_it_is_the_usual_one() {
        for (url, host) in [
            ("ws://a", "a"),
            ("ws://a:80/", "a"),
            ("ws://a:81/", "a:81"),
            ("wss://a/", "a"),
            ("wss://a:80/", "a:80"),
            ("ws://[::1]:81/", "[::1]:81"),
        ] {
            assert_eq!(request(url, &[], &[]).headers()[header::HOST], host, "{url}");
        }
    }

    #[test]
    fn given_headers_replace_what_a_client_sets_itself_and_add_to_the_rest() {
        let request = request("ws://a/x", &["Host: chat.example.com", "X-A: 1", "x-a: 2"], &["p", "q"]);
        let headers = request.headers();
        assert_eq!(headers[header::HOST], "chat.example.com");
        assert_eq!(headers.get_all("x-a").iter().collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(headers[header::SEC_WEBSOCKET_PROTOCOL], "p, q");
        assert!(header("no colon").is_err());
        assert!(header("a b: c").is_err());
    }

    #[test]
    fn messages_are_recognised_by_run_and_number() {
        let sent = message(7, 42, 100);
        assert_eq!(sent.len(), 100);
        assert_eq!(number(7, &sent), Some(42));
        assert_eq!(number(8, &sent), None);
        assert_eq!(number(7, &message(7, 3, 0)), Some(3));
        assert_eq!(number(7, &Message::text("hello")), None);
    }
}
