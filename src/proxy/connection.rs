//! One accepted connection, from its first byte to its tunnel, its answers or its refusal.

use std::{net::SocketAddr, rc::Rc, time::Duration};

use bytes::{Buf, BytesMut};
use http::{HeaderValue, header, request};
use tokio::{
    io::AsyncReadExt,
    net::TcpStream,
    time::{Instant, timeout},
};

use super::{
    Admitted, answer, client,
    error::Reason,
    fallback,
    head::{self, NoHead},
    headers::{self, Forwarded, X_FORWARDED_FOR, X_FORWARDED_PROTO, X_REQUEST_ID},
    record::Attempt,
    stream::Stream,
    tls,
    upgrade::{self, Client, Kind},
    worker::Worker,
};

/// Where a connection came from.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The other end of the socket.
    pub peer: SocketAddr,
    /// The same, or whom a PROXY protocol header names instead.
    pub source: SocketAddr,
    /// Whether the peer may say who the client is.
    pub trusted: bool,
    pub arrival: Arrival,
}

/// How a connection came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arrival {
    Plain,
    Tls {
        /// The host that the client asked for in its TLS handshake.
        server_name: Option<Rc<str>>,
        version: tls::Version,
    },
}

/// Serves a connection until it has become a tunnel or has ended. Plain requests may come one after the other, and a handshake
/// behind them; each head is read by the same rules.
pub async fn serve(worker: Rc<Worker>, mut socket: TcpStream, peer: SocketAddr, is_secure: bool, admitted: Admitted) {
    let deadline = Instant::now() + HEAD_TIME;
    let mut early = BytesMut::new();
    let mut origin = match origin(&worker, &mut socket, &mut early, peer, deadline).await {
        Ok(origin) => origin,
        Err(reason) => {
            Attempt::new(&worker, peer, peer).refused(reason);
            if is_secure {
                return; // nobody could read an answer
            }
            return Box::pin(answer::refuse(Stream::Plain(socket), reason, None, None)).await;
        }
    };
    let (socket, mut deadline) = if is_secure {
        match Box::pin(secure(&worker, socket, &mut early, &mut origin, deadline)).await {
            Some(socket) => (socket, Instant::now() + HEAD_TIME),
            None => return,
        }
    } else {
        (Stream::Plain(socket), deadline)
    };
    let mut client = Client { socket, early, admitted };
    loop {
        let head = match head::read(&mut client.socket, &mut client.early, deadline).await {
            Ok(head) => head,
            Err(none) => return Box::pin(no_head(&worker, &origin, client.socket, &client.early, none)).await,
        };
        if upgrade::classify(&head.parts) == Kind::Handshake {
            return upgrade_to_tunnel(&worker, &origin, client, Box::new(head.parts)).await;
        }
        client = match Box::pin(fallback::serve(&worker, &origin, client, head)).await {
            Some(client) => client,
            None => return,
        };
        if !another_comes(&worker, &mut client).await {
            return Box::pin(answer::linger(client.socket)).await;
        }
        deadline = Instant::now() + HEAD_TIME;
    }
}

/// Tells the client why its request could not be read, if there is somebody to be told.
async fn no_head(worker: &Rc<Worker>, origin: &Origin, socket: Stream, said: &[u8], none: NoHead) {
    let reason = match none {
        NoHead::Nothing => return,
        NoHead::Gone => return drop(Attempt::new(worker, origin.peer, origin.source)),
        NoHead::Refused(_) if is_client_hello(said) && origin.arrival == Arrival::Plain => Reason::TlsOnPlainPort,
        NoHead::Refused(reason) => reason,
    };
    if client::is_proxy_header(said) {
        worker.shared.untrusted.proxy_header(&worker.shared, origin.peer);
    }
    Attempt::new(worker, origin.peer, origin.source).refused(reason);
    answer::refuse(socket, reason, None, None).await;
}

/// Waits for the first byte of another request, without a buffer. False: the connection has had its last one.
async fn another_comes(worker: &Worker, client: &mut Client) -> bool {
    while client.early.starts_with(b"\r\n") {
        client.early.advance(2); // what old clients send behind a body is no beginning of a head (RFC 9112, section 2.2)
    }
    if !client.early.is_empty() {
        return true;
    }
    client.early = BytesMut::new();
    let mut drain = worker.shared.drain.clone();
    tokio::select! {
        () = drain.closing() => false,
        read = timeout(KEEP_ALIVE, client.socket.read_buf(&mut client.early)) => matches!(read, Ok(Ok(1..))),
    }
}

async fn upgrade_to_tunnel(worker: &Rc<Worker>, origin: &Origin, client: Client, parts: Box<request::Parts>) {
    let (attempt, forwarded) = describe(worker, origin, &parts);
    upgrade::serve(worker, client, parts, forwarded, attempt).await;
}

/// Finds out where the connection comes from.
async fn origin(
    worker: &Worker,
    socket: &mut TcpStream,
    buffer: &mut BytesMut,
    peer: SocketAddr,
    deadline: Instant,
) -> Result<Origin, Reason> {
    let trust = &worker.shared.settings.trust;
    let trusted = trust.trusts(peer.ip());
    if !trust.proxy_protocol {
        return Ok(Origin {
            peer,
            source: peer,
            trusted,
            arrival: Arrival::Plain,
        });
    }
    if !trusted && !trust.proxies.is_empty() {
        worker.shared.untrusted.proxy(&worker.shared, peer);
        return Err(Reason::MalformedRequest); // a stranger would say what it likes
    }
    match client::read_proxy_header(socket, buffer, deadline).await {
        Ok(source) => {
            let source = source.unwrap_or(peer);
            Ok(Origin {
                peer,
                source,
                trusted: trust.trusts(source.ip()),
                arrival: Arrival::Plain,
            })
        }
        Err(error) if error.kind() == std::io::ErrorKind::TimedOut => Err(Reason::RequestTimeout),
        Err(_) => Err(Reason::MalformedRequest),
    }
}

/// Does the TLS handshake. `None`: it failed, which has been counted, and a client that speaks HTTP without TLS been answered.
async fn secure(
    worker: &Rc<Worker>,
    socket: TcpStream,
    early: &mut BytesMut,
    origin: &mut Origin,
    deadline: Instant,
) -> Option<Stream> {
    let accepted = worker.acceptor.as_ref()?.accept(socket, early, deadline).await;
    let outcome = accepted
        .as_ref()
        .map_or_else(|failed| failed.outcome, |_| tls::Handshake::Completed);
    worker.shared.metrics.shared().tls_handshake(outcome);
    if outcome != tls::Handshake::Completed {
        tracing::debug!(client = %origin.source, outcome = outcome.word(), "no TLS connection");
    }
    let (tls, server_name) = match accepted {
        Ok(accepted) => accepted,
        Err(failed) => {
            let (socket, said) = failed.plain?;
            lost(worker, socket, &said, origin, deadline).await;
            return None;
        }
    };
    early.clear();
    let version = tls.version();
    origin.arrival = Arrival::Tls { server_name, version };
    Some(Stream::Tls(tls))
}

/// Tells a client that speaks HTTP without TLS where it takes TLS that it does, or sends it to the same place with TLS.
async fn lost(worker: &Rc<Worker>, socket: TcpStream, said: &[u8], origin: &Origin, deadline: Instant) {
    let mut socket = Stream::Plain(socket);
    let mut buffer = BytesMut::from(said);
    let head = match head::read(&mut socket, &mut buffer, deadline).await {
        Ok(head) => head,
        Err(none) => return no_head(worker, origin, socket, &buffer, none).await,
    };
    let (mut attempt, _) = describe(worker, origin, &head.parts);
    attempt.is_handshake = upgrade::classify(&head.parts) == Kind::Handshake;
    let scheme = if attempt.is_handshake { "wss" } else { "https" };
    // Whoever takes TLS off in front of here would be sent round in circles.
    let may_redirect = worker.shared.settings.https_redirect && !head.parts.headers.contains_key(X_FORWARDED_PROTO);
    let location = answer::same_port(scheme, &head.parts).filter(|_| may_redirect);
    let reason = match location {
        Some(_) => Reason::RedirectedToHttps,
        None => Reason::PlainOnTlsPort,
    };
    attempt.refused(reason);
    answer::refuse(socket, reason, location, None).await;
}

/// Whether bytes begin as a TLS handshake does: its kind of record, and the first half of every version.
fn is_client_hello(bytes: &[u8]) -> bool {
    bytes.starts_with(&[22, 3])
}

/// The record of a request, and what its endpoint is told of the client.
pub fn describe(worker: &Rc<Worker>, origin: &Origin, parts: &request::Parts) -> (Attempt, Forwarded) {
    let shared = &worker.shared;
    let client = shared.settings.trust.client(origin.source, &parts.headers);
    if !origin.trusted && parts.headers.contains_key(X_FORWARDED_FOR) {
        shared.untrusted.forwarded_for(shared, origin.source);
    }
    let mut attempt = Attempt::new(worker, origin.peer, client);
    attempt.client_is_pinged = origin.trusted && parts.headers.get(headers::HEARTBEAT) == Some(&headers::CLIENT_IS_PINGED);
    let told = |proto: &HeaderValue| proto == "https" || proto == "wss";
    let secure = origin.arrival != Arrival::Plain || (origin.trusted && parts.headers.get(X_FORWARDED_PROTO).is_some_and(told));
    attempt.scheme = if secure { "https" } else { "http" };
    if let Arrival::Tls { version, .. } = &origin.arrival {
        attempt.tls_version = Some(*version);
    }
    let request_id = match parts.headers.get(X_REQUEST_ID) {
        Some(given) if origin.trusted => given.clone(),
        _ => made_request_id(attempt.id),
    };
    if shared.recorder.is_on() || worker.recent.is_on() {
        note_texts(&mut attempt, parts, &request_id, shared.recorder.is_on());
    }
    let forwarded = Forwarded {
        peer: origin.source.ip(),
        client,
        trusted: origin.trusted,
        scheme: attempt.scheme,
        arrival: origin.arrival.clone(),
        request_id,
    };
    (attempt, forwarded)
}

/// Notes what only records need.
fn note_texts(attempt: &mut Attempt, parts: &request::Parts, request_id: &HeaderValue, with_agent: bool) {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into();
    let field = |name: &header::HeaderName| parts.headers.get(name).map(text);
    attempt.host = match parts.uri.authority() {
        Some(authority) => authority.as_str().into(),
        None => field(&header::HOST).unwrap_or_default(),
    };
    attempt.path = parts.uri.path().into();
    if with_agent {
        attempt.user_agent = field(&header::USER_AGENT);
    }
    attempt.request_id = Some(text(request_id));
}

/// 32 hexadecimal digits, the first 16 of them the connection's id.
fn made_request_id(id: u64) -> HeaderValue {
    let text = format!("{id:016x}{:016x}", fastrand::u64(..));
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("")) // hexadecimal digits always are a value
}

/// How long a connection may take to send a request's head, from its beginning; of a later one, from its first byte.
const HEAD_TIME: Duration = Duration::from_secs(10);

/// How long a connection without a request is kept.
const KEEP_ALIVE: Duration = Duration::from_secs(75);

#[cfg(test)]
mod tests {
    /// The size of what an async function of five arguments returns.
    fn size<A, B, C, D, E, F>(_: impl Fn(A, B, C, D, E) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_connection_on_its_way_to_a_tunnel_stays_small() {
        let size = size(super::serve);
        assert!(size <= 5 * 1024, "{size} B: box what is seldom");
    }
}
