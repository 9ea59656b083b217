//! Endpoints as sockets: dials candidates in order, asks for the upgrade, and reads the answer's head.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::BytesMut;
use futures::{StreamExt, stream::FuturesUnordered};
use http::{HeaderMap, StatusCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::{sleep, timeout},
};

use super::{
    Shared,
    error::Reason,
    head::{Fields, MAX_FIELDS, MAX_HEAD},
    metrics::Dial,
};
use crate::routing::{Endpoint, endpoint::Held};

/// A connection to an endpoint.
#[derive(Debug)]
pub struct Dialled {
    pub socket: TcpStream,
    pub endpoint: Held,
    pub address: SocketAddr,
}

/// Dials the candidates in order, one at a time; one that is silent for half a second is raced by the next. The losers are
/// closed before a byte is sent.
///
/// # Errors
/// The reason of the last dial that failed, once all have.
pub async fn dial(shared: &Shared, candidates: &[Arc<Endpoint>], connect: Duration) -> Result<Dialled, Reason> {
    let mut targets = candidates
        .iter()
        .flat_map(|endpoint| {
            endpoint
                .addresses()
                .iter()
                .map(|address| (Arc::clone(endpoint), *address))
                .collect::<Vec<_>>()
        })
        .take(MAX_DIALS);
    let mut dials = FuturesUnordered::new();
    let mut failed = Reason::ConnectionRefused;
    let mut next = targets.next();
    loop {
        if let Some((endpoint, address)) = next.take() {
            dials.push(dial_one(shared, endpoint.hold(), address, connect));
            next = targets.next();
        }
        if dials.is_empty() {
            return Err(failed);
        }
        tokio::select! {
            Some(result) = dials.next() => match result {
                Ok(dialled) => return Ok(dialled),
                Err(reason) => failed = reason,
            },
            () = sleep(RACE_AFTER), if next.is_some() => {}
        }
    }
}

async fn dial_one(shared: &Shared, endpoint: Held, address: SocketAddr, connect: Duration) -> Result<Dialled, Reason> {
    let mut outcome = Outcome {
        shared,
        endpoint: &endpoint,
        result: Dial::Outrun,
    };
    let socket = match timeout(connect, connect_to(shared, address)).await {
        Ok(Ok(socket)) => {
            outcome.result = Dial::Connected;
            socket
        }
        Ok(Err(error)) => {
            let (result, reason) = match error.kind() {
                // Ours to answer for, not the endpoint's.
                io::ErrorKind::AddrNotAvailable | io::ErrorKind::AddrInUse => (Dial::NoSourcePort, Reason::SourcePortsExhausted),
                io::ErrorKind::TimedOut => (Dial::TimedOut, Reason::DialTimeout),
                _ if matches!(error.raw_os_error(), Some(EMFILE | ENFILE)) => (Dial::NoSourcePort, Reason::SourcePortsExhausted),
                _ => (Dial::Refused, Reason::ConnectionRefused),
            };
            outcome.result = result;
            tracing::debug!(endpoint = endpoint.name(), %address, %error, "dial failed");
            return Err(reason);
        }
        Err(_) => {
            outcome.result = Dial::TimedOut;
            return Err(Reason::DialTimeout);
        }
    };
    drop(outcome);
    Ok(Dialled {
        socket,
        endpoint,
        address,
    })
}

/// Counts a dial however it ends: one that is dropped was outrun.
struct Outcome<'a> {
    shared: &'a Shared,
    endpoint: &'a Arc<Endpoint>,
    result: Dial,
}

impl Drop for Outcome<'_> {
    fn drop(&mut self) {
        self.shared.metrics.dialled(self.endpoint, self.result);
    }
}

async fn connect_to(shared: &Shared, address: SocketAddr) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    socket.set_recv_buffer_size(shared.settings.receive_buffer)?;
    socket.set_nodelay(true)?;
    socket.connect(address).await
}

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
pub async fn exchange(socket: &mut TcpStream, request: &[u8]) -> Result<Answer, Reason> {
    socket.write_all(request).await.map_err(|_| Reason::EndpointClosed)?;
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
        match socket.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => return Err(Reason::EndpointClosed),
            Ok(_) => {}
        }
    }
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
