//! Endpoints as sockets: dials candidates in order, with TLS where the rule wants it, asks for the upgrade, and reads the
//! answer's head.

use std::{
    cell::Cell,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    ops::RangeInclusive,
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::BytesMut;
use futures::{StreamExt, stream::FuturesUnordered};
use http::{HeaderMap, StatusCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::{Instant, sleep, timeout_at},
};

use super::{
    Shared,
    error::Reason,
    head::{Fields, MAX_FIELDS, MAX_HEAD},
    health,
    metrics::Dial,
    select::Chosen,
    stream::Stream,
    tls,
    worker::Worker,
};
use crate::routing::{BackendTls, Endpoint, EndpointTls, Rule, endpoint::Held};

/// A connection to an endpoint.
#[derive(Debug)]
pub struct Dialled {
    pub socket: Stream,
    pub endpoint: Held,
    pub address: SocketAddr,
    /// What it is secured by.
    pub tls: Option<Arc<EndpointTls>>,
}

/// Dials the candidates in order, one at a time; one that is silent for half a second is raced by the next. The losers are
/// closed before a byte is sent. Where the rule wants TLS, its handshake is done with the winner alone; if that fails, the others
/// are still there, for nothing of the request has been sent.
///
/// # Errors
/// The reason of the last dial that failed, once all have.
pub async fn dial(worker: &Worker, chosen: &Chosen, candidates: &[Arc<Endpoint>]) -> Result<Dialled, Reason> {
    let mut targets = candidates
        .iter()
        .flat_map(|endpoint| {
            endpoint
                .addresses()
                .to_vec()
                .into_iter()
                .map(move |address| (endpoint, address))
        })
        .take(MAX_DIALS);
    let mut dials = FuturesUnordered::new();
    let mut failed = Reason::ConnectionRefused;
    let mut next = targets.next();
    let mut dialled: Vec<Candidate> = Vec::new();
    loop {
        while let Some((endpoint, address)) = next.take() {
            next = targets.next();
            // Another address of the same endpoint needs no place of its own: only one of the dials will count.
            if !dialled.iter().any(|candidate| Arc::ptr_eq(&candidate.held, endpoint)) {
                let Some(held) = chosen.hold(endpoint) else { continue };
                let left = Rc::new(Cell::new(endpoint.addresses().len()));
                dialled.push(Candidate { held, left });
            }
            if let Some(candidate) = dialled.iter().find(|candidate| Arc::ptr_eq(&candidate.held, endpoint)) {
                let left = Rc::clone(&candidate.left);
                dials.push(dial_one(worker, &chosen.rule, Arc::clone(endpoint), address, left));
            }
            break;
        }
        if dials.is_empty() {
            return Err(failed);
        }
        tokio::select! {
            Some(result) = dials.next() => {
                let connected = match result {
                    Ok(mut connected) => match connected.tls.take() {
                        Some(tls) => Box::pin(secure(worker, &chosen.rule, connected, tls)).await,
                        None => Ok(connected.plain()),
                    },
                    Err(reason) => Err(reason),
                };
                match connected {
                    Ok((socket, address, tls, endpoint)) => {
                        let place = dialled.iter().position(|candidate| Arc::ptr_eq(&candidate.held, &endpoint));
                        let endpoint = place.map_or_else(|| endpoint.hold(), |place| dialled.swap_remove(place).held);
                        return Ok(Dialled { socket, endpoint, address, tls });
                    }
                    Err(reason) => failed = reason,
                }
            }
            () = sleep(RACE_AFTER), if next.is_some() => {}
        }
    }
}

/// The candidates that are left after `tried` was dialled: those after it, for the ones before it refused or were silent.
pub fn after<'a>(candidates: &'a [Arc<Endpoint>], tried: &Arc<Endpoint>) -> &'a [Arc<Endpoint>] {
    let place = candidates.iter().position(|candidate| Arc::ptr_eq(candidate, tried));
    place.map_or(&[], |place| &candidates[place + 1..])
}

/// An endpoint that is dialled: its place is kept for whichever of its addresses answers.
struct Candidate {
    held: Held,
    /// Addresses that have not failed.
    left: Rc<Cell<usize>>,
}

/// An address that answered a dial.
struct Connected {
    socket: TcpStream,
    endpoint: Arc<Endpoint>,
    address: SocketAddr,
    left: Rc<Cell<usize>>,
    /// What is to be done yet.
    tls: Option<Arc<EndpointTls>>,
    /// Until when.
    deadline: Instant,
}

/// A connection, to which address of which endpoint, and what it is secured by.
type Reached = (Stream, SocketAddr, Option<Arc<EndpointTls>>, Arc<Endpoint>);

impl Connected {
    fn plain(self) -> Reached {
        (Stream::Plain(self.socket), self.address, None, self.endpoint)
    }
}

async fn dial_one(
    worker: &Worker,
    rule: &Rule,
    endpoint: Arc<Endpoint>,
    address: SocketAddr,
    left: Rc<Cell<usize>>,
) -> Result<Connected, Reason> {
    let tls = match rule.tls(&endpoint) {
        BackendTls::Off => None,
        BackendTls::On(tls) => Some(Arc::clone(tls)),
        BackendTls::Unusable => return Err(Reason::EndpointTlsUnusable),
    };
    let mut outcome = Outcome::new(&worker.shared, rule, &endpoint, &left);
    let deadline = Instant::now() + rule.timeouts.connect;
    let socket = match timeout_at(deadline, connect_to(&worker.shared, address)).await {
        Ok(Ok(socket)) => {
            // With TLS the dial is not over.
            outcome.result = tls.is_none().then_some(Dial::Connected);
            socket
        }
        Ok(Err(error)) => {
            let (result, reason) = match error.kind() {
                // Ours to answer for, not the endpoint's.
                _ if is_short_of_ports(&error) => (Dial::NoSourcePort, Reason::SourcePortsExhausted),
                io::ErrorKind::TimedOut => (Dial::TimedOut, Reason::DialTimeout),
                _ if matches!(error.raw_os_error(), Some(EMFILE | ENFILE)) => (Dial::NoSourcePort, Reason::SourcePortsExhausted),
                _ => (Dial::Refused, Reason::ConnectionRefused),
            };
            outcome.result = Some(result);
            tracing::debug!(endpoint = endpoint.name(), %address, %error, "dial failed");
            return Err(reason);
        }
        Err(_) => {
            outcome.result = Some(Dial::TimedOut);
            return Err(Reason::DialTimeout);
        }
    };
    drop(outcome);
    Ok(Connected {
        socket,
        endpoint,
        address,
        left,
        tls,
        deadline,
    })
}

/// Does the TLS handshake with an endpoint that has answered a dial.
async fn secure(worker: &Worker, rule: &Rule, connected: Connected, tls: Arc<EndpointTls>) -> Result<Reached, Reason> {
    let Connected {
        socket,
        endpoint,
        address,
        left,
        deadline,
        ..
    } = connected;
    let mut outcome = Outcome::new(&worker.shared, rule, &endpoint, &left);
    let (result, reason, error) = match timeout_at(deadline, worker.connector.connect(socket, &tls)).await {
        Ok(Ok(secure)) => {
            outcome.result = Some(Dial::Connected);
            drop(outcome);
            return Ok((Stream::Tls(secure), address, Some(tls), endpoint));
        }
        Ok(Err(error)) => (Dial::TlsFailed, tls::reason(&error), error.to_string()),
        Err(_) => {
            let silent = "it accepts connections, and does not answer in TLS within timeouts.connect";
            (Dial::TimedOut, Reason::DialTimeout, silent.to_owned())
        }
    };
    outcome.result = Some(result);
    tell(&tls, &endpoint, address, reason, &error);
    drop(outcome);
    Err(reason)
}

/// Says why there is no TLS with an endpoint, in warnings once in a while.
fn tell(tls: &EndpointTls, endpoint: &Endpoint, address: SocketAddr, reason: Reason, error: &str) {
    let (service, name, reason) = (&endpoint.key().service, tls.name().to_str(), reason.word());
    let endpoint = endpoint.name();
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    if tls.is_news(now.as_secs()) {
        tracing::warn!(reason, %service, endpoint, %address, %name, "no TLS with an endpoint: {error}");
    } else {
        tracing::debug!(reason, %service, endpoint, %address, %name, "no TLS with an endpoint: {error}");
    }
}

/// What an error of a connection means to the client. In TLS 1.3 an endpoint that refuses our certificate says so when we take
/// the handshake for done already.
pub fn broke(tls: Option<&EndpointTls>, endpoint: &Endpoint, address: SocketAddr, error: &io::Error) -> Reason {
    let reason = tls::reason(error);
    if let (Some(tls), true) = (tls, reason != Reason::EndpointClosed) {
        tell(tls, endpoint, address, reason, &error.to_string());
    }
    reason
}

/// Counts a dial however it ends: one that is dropped was outrun.
struct Outcome<'a> {
    shared: &'a Shared,
    rule: &'a Rule,
    endpoint: &'a Arc<Endpoint>,
    /// The endpoint's addresses that have not failed.
    left: &'a Cell<usize>,
    began: Instant,
    /// `None`: it goes on elsewhere.
    result: Option<Dial>,
}

impl<'a> Outcome<'a> {
    fn new(shared: &'a Shared, rule: &'a Rule, endpoint: &'a Arc<Endpoint>, left: &'a Cell<usize>) -> Self {
        let result = Some(Dial::Outrun);
        Self {
            shared,
            rule,
            endpoint,
            left,
            began: Instant::now(),
            result,
        }
    }
}

impl Drop for Outcome<'_> {
    fn drop(&mut self) {
        if let Some(result) = self.result {
            self.shared.metrics.dialled(self.endpoint, result);
            // One that was outrun because it had been silent for too long has not answered in time.
            let was_silent = result == Dial::Outrun && self.began.elapsed() >= RACE_AFTER;
            let seen = if was_silent { Dial::TimedOut } else { result };
            if let Some(failure) = health::of_dial(seen) {
                self.left.set(self.left.get().saturating_sub(1));
                if self.left.get() == 0 {
                    health::unreachable(self.shared, self.rule, self.endpoint, failure);
                }
            }
        }
    }
}

/// Connects. An endpoint on this machine is reached from further addresses of it when the ports of the first have run out:
/// all of 127.0.0.0/8 are ours.
async fn connect_to(shared: &Shared, address: SocketAddr) -> io::Result<TcpStream> {
    let mut connected = connect_from(None, shared, address).await;
    for _ in 0..MORE_SOURCES {
        match (&connected, address.ip()) {
            (Err(error), IpAddr::V4(ip)) if ip.is_loopback() && is_short_of_ports(error) => {}
            _ => return connected,
        }
        let source = Ipv4Addr::from(fastrand::u32(LOOPBACK_SOURCES));
        connected = Box::pin(connect_from(Some(source), shared, address)).await;
    }
    connected
}

fn is_short_of_ports(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::AddrInUse)
}

async fn connect_from(source: Option<Ipv4Addr>, shared: &Shared, address: SocketAddr) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    socket.set_recv_buffer_size(shared.settings.receive_buffer)?;
    socket.set_nodelay(true)?;
    if let Some(source) = source {
        socket.bind((source, 0).into())?;
    }
    socket.connect(address).await
}

/// How often another address is tried. A full one is met by chance, so that more than a few in a row mean that nearly all are.
const MORE_SOURCES: usize = 4;
/// 127.0.1.0 to 127.255.255.254.
const LOOPBACK_SOURCES: RangeInclusive<u32> = 0x7f00_0100..=0x7fff_fffe;

/// The head of an endpoint's answer.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    /// What came behind the head.
    pub rest: BytesMut,
}

/// Sends a request's head and reads the answer's; interim answers other than 101 are passed over (RFC 9110, section 15.2).
///
/// # Errors
/// When the endpoint ends the connection or does not speak HTTP/1.1.
pub async fn exchange(dialled: &mut Dialled, request: &[u8]) -> Result<Answer, Reason> {
    let Dialled {
        socket,
        endpoint,
        address,
        tls,
    } = dialled;
    let broke = |error: io::Error| broke(tls.as_deref(), endpoint, *address, &error);
    send(socket, request).await.map_err(broke)?;
    let mut buffer = BytesMut::with_capacity(FIRST_READ);
    loop {
        while let Some(answer) = parse(&mut buffer)? {
            if !answer.status.is_informational() || answer.status == StatusCode::SWITCHING_PROTOCOLS {
                return Ok(Answer { rest: buffer, ..answer });
            }
        }
        if buffer.len() >= MAX_HEAD {
            return Err(Reason::EndpointProtocolError);
        }
        buffer.reserve(FIRST_READ);
        if socket.read_buf(&mut buffer).await.map_err(broke)? == 0 {
            return Err(Reason::EndpointClosed);
        }
    }
}

async fn send(socket: &mut Stream, request: &[u8]) -> io::Result<()> {
    socket.write_all(request).await?;
    socket.flush().await // TLS may hold some of it
}

/// Takes one head out of `buffer`. `None`: it is not complete.
fn parse(buffer: &mut BytesMut) -> Result<Option<Answer>, Reason> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut response = httparse::Response::new(&mut fields);
    let len = match response.parse(buffer) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(Reason::EndpointProtocolError),
    };
    let status = StatusCode::from_u16(response.code.unwrap_or_default()).map_err(|_| Reason::EndpointProtocolError)?;
    if status == StatusCode::SWITCHING_PROTOCOLS && response.version != Some(1) {
        return Err(Reason::EndpointProtocolError); // HTTP/1.0 has no upgrade (RFC 9110, section 7.8)
    }
    let fields = Fields::note(buffer.as_ptr() as usize, response.headers).ok_or(Reason::EndpointProtocolError)?;
    let raw = buffer.split_to(len).freeze();
    let headers = fields.of(&raw).ok_or(Reason::EndpointProtocolError)?;
    Ok(Some(Answer {
        status,
        headers,
        rest: BytesMut::new(),
    }))
}

/// A candidate that has not answered the dial by then is raced by the next.
const RACE_AFTER: Duration = Duration::from_millis(500);

/// Dials that one handshake may cost, over all addresses of all candidates.
const MAX_DIALS: usize = 8;

const FIRST_READ: usize = 1024;

const EMFILE: i32 = 24;
const ENFILE: i32 = 23;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_http_1_1_switches() {
        for (line, status) in [
            ("HTTP/1.1 101 Switching Protocols", Some(101)),
            ("HTTP/1.0 101 Switching Protocols", None),
            ("HTTP/1.0 200 OK", Some(200)),
        ] {
            let mut buffer = BytesMut::from(format!("{line}\r\nUpgrade: websocket\r\n\r\n").as_bytes());
            let answer = parse(&mut buffer).ok().flatten();
            assert_eq!(answer.map(|answer| answer.status.as_u16()), status, "{line}");
        }
    }
}
