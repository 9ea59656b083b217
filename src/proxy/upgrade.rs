//! From a request to a tunnel: the handshake of RFC 6455 with the client and, replayed, with an endpoint.

mod check;
mod relay_answer;
mod retry;

use std::{rc::Rc, sync::Arc, time::Duration};

use bytes::BytesMut;
use http::{HeaderMap, StatusCode, header, request};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, Interest},
    net::TcpStream,
    time::{Instant, timeout_at},
};

use super::{
    Admitted, answer,
    error::Reason,
    filter, guard,
    headers::{self, Forwarded},
    health, limits,
    record::Attempt,
    select::{self, Chosen},
    stream::Stream,
    tunnel::{Early, Tunnel},
    upstream::{self, Answer, Dialled},
    worker::Worker,
};
pub use check::{Handshake, Kind, classify};

/// A connection that asks for an upgrade, and what is known of it.
#[derive(Debug)]
pub struct Client {
    pub socket: Stream,
    /// What came behind the request.
    pub early: BytesMut,
    pub admitted: Admitted,
}

/// Serves one handshake to its end: a tunnel in a task of its own, the endpoint's own answer, or a refusal.
pub async fn serve(
    worker: &Rc<Worker>,
    mut client: Client,
    mut parts: Box<request::Parts>,
    forwarded: Forwarded,
    mut attempt: Attempt,
) {
    let (handshake, chosen) = match prepare(worker, &client, &parts, &forwarded, &mut attempt) {
        Ok(prepared) => prepared,
        Err(reason) => {
            let location = answer::location("wss", &parts);
            let rule = attempt.refused(reason);
            return Box::pin(answer::refuse(client.socket, reason, location, rule.as_deref())).await;
        }
    };
    let deadline = attempt.started() + chosen.rule.timeouts.handshake;
    let request = write_request(&chosen, &mut parts, &forwarded);
    let exchanged = {
        let opening = open(worker, &handshake, &chosen, &request, &mut attempt, deadline);
        let exchange = timeout_at(deadline, opening);
        tokio::select! {
            exchanged = exchange => exchanged.unwrap_or(Err(Reason::HandshakeTimeout)),
            () = gone(&mut client) => return, // the record says so when it is dropped
        }
    };
    match exchanged {
        Ok((dialled, answer)) if answer.status == StatusCode::SWITCHING_PROTOCOLS => {
            begin(worker, client, chosen, dialled, answer, &handshake, attempt).await;
        }
        Ok((mut dialled, answer)) => {
            let (status, send) = (answer.status.as_u16(), chosen.rule.timeouts.send);
            let endpoint = Arc::clone(&dialled.endpoint);
            let finish = |headers: &mut HeaderMap| chosen.finish_answer(&endpoint, headers);
            let passed = Box::pin(relay_answer::pass(
                &mut client.socket,
                &mut dialled.socket,
                answer,
                send,
                finish,
            ))
            .await;
            attempt.cut = passed.err();
            attempt.passed(status, Some((&dialled.endpoint, dialled.address)));
            if passed.is_ok() {
                Box::pin(answer::linger(client.socket)).await;
            }
        }
        Err(reason) => {
            let rule = attempt.refused(reason);
            Box::pin(answer::refuse(client.socket, reason, None, rule.as_deref())).await;
        }
    }
}

/// What can be said of a handshake before anybody is asked: that it is refused, or where it goes.
fn prepare(
    worker: &Worker,
    client: &Client,
    parts: &request::Parts,
    forwarded: &Forwarded,
    attempt: &mut Attempt,
) -> Result<(Handshake, Chosen), Reason> {
    let handshake = Handshake::parse(parts)?;
    let found = select::find(worker, parts, forwarded, attempt)?; // first, so that the record of a refusal names the rule
    if worker.shared.drain.is_closing() {
        return Err(Reason::Draining);
    }
    if client.admitted.is_over() {
        return Err(Reason::Overload);
    }
    guard::source(&found.rule, forwarded)?;
    guard::origin(&found.rule, parts, attempt)?;
    limits::admit(&found.rule, parts, forwarded, attempt)?;
    Ok((handshake, found.choose(worker, parts, forwarded, attempt)?))
}

/// Dials a candidate, replays the handshake, and checks the answer if it is a 101. Where the route asks for it, another one
/// gets the handshake of an endpoint that refused it. If none is left that can be reached, the last answer stands.
async fn open(
    worker: &Rc<Worker>,
    handshake: &Handshake,
    chosen: &Chosen,
    request: &[u8],
    attempt: &mut Attempt,
    deadline: Instant,
) -> Result<(Dialled, Answer), Reason> {
    let (rule, mut candidates) = (&chosen.rule, &chosen.candidates[..]);
    let retry = rule.retry.as_deref();
    let mut refused: Option<Box<Result<(Dialled, Answer), Reason>>> = None; // boxed, because it is seldom
    loop {
        let began = Instant::now();
        let dialled = upstream::dial(worker, chosen, candidates).await;
        attempt.dialling += began.elapsed();
        let mut dialled = match dialled {
            Ok(dialled) => dialled,
            Err(reason) => return refused.map_or(Err(reason), |refused| *refused),
        };
        attempt.attempts += 1;
        let (asked, until) = (Instant::now(), retry::until(retry, deadline));
        let answer = exchange(&mut dialled, handshake, request, until).await;
        // Whoever got what others had left of the handshake's time has not had its own.
        let had_its_time = until < deadline || asked.elapsed() >= rule.timeouts.handshake / 2;
        let cut_short = matches!(answer, Err(Reason::HandshakeTimeout)) && !had_its_time;
        if !cut_short {
            let status = answer.as_ref().map(|answer| answer.status).map_err(|reason| *reason);
            health::answered(&worker.shared, rule, &dialled.endpoint, status);
        }
        candidates = upstream::after(candidates, &dialled.endpoint);
        match retry::why(retry, attempt.attempts, &answer) {
            Some(reason) if !candidates.is_empty() && Instant::now() < deadline => attempt.retried(reason),
            _ => return answer.map(|answer| (dialled, answer)),
        }
        refused = Some(Box::new(answer.map(|answer| (dialled, answer))));
    }
}

/// Asks one endpoint.
async fn exchange(dialled: &mut Dialled, handshake: &Handshake, request: &[u8], until: Instant) -> Result<Answer, Reason> {
    let answer = timeout_at(until, upstream::exchange(dialled, request)).await;
    let answer = answer.unwrap_or(Err(Reason::HandshakeTimeout))?;
    if answer.status == StatusCode::SWITCHING_PROTOCOLS {
        handshake.check_answer(&answer.headers)?;
    }
    Ok(answer)
}

/// The request as the endpoint gets it.
fn write_request(chosen: &Chosen, parts: &mut request::Parts, forwarded: &Forwarded) -> Vec<u8> {
    headers::remove_hop_by_hop(&mut parts.headers);
    headers::set_forwarded(parts, forwarded, chosen.rule.forwarded);
    if chosen.rule.heartbeat.client.interval.is_zero() {
        parts.headers.remove(headers::HEARTBEAT);
    } else {
        parts.headers.insert(headers::HEARTBEAT, headers::CLIENT_IS_PINGED);
    }
    filter::change_request(&chosen.rule, &mut parts.headers);
    let mut out = Vec::with_capacity(1024);
    out.extend_from_slice(b"GET ");
    out.extend_from_slice(chosen.target.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    if let Some(host) = parts.headers.remove(header::HOST) {
        headers::write_field(&mut out, &header::HOST, host.as_bytes());
    }
    out.extend_from_slice(b"Upgrade: websocket\r\nConnection: Upgrade\r\n");
    headers::write(&mut out, &parts.headers);
    out.extend_from_slice(b"\r\n");
    out
}

/// Answers the client and starts the tunnel. Nothing of the handshake outlives this.
async fn begin(
    worker: &Rc<Worker>,
    mut client: Client,
    chosen: Chosen,
    dialled: Dialled,
    mut answer: Answer,
    handshake: &Handshake,
    attempt: Attempt,
) {
    headers::remove_hop_by_hop(&mut answer.headers);
    chosen.finish_answer(&dialled.endpoint, &mut answer.headers);
    let head = write_switching(&mut answer.headers, handshake);
    if client.socket.write_all(&head).await.is_err() || client.socket.flush().await.is_err() {
        return;
    }
    let subprotocol = answer
        .headers
        .get(header::SEC_WEBSOCKET_PROTOCOL)
        .and_then(|value| value.to_str().ok());
    let (started, dialling) = (attempt.started(), attempt.dialling);
    let Some(opened) = attempt.opened(dialled.endpoint, dialled.address, subprotocol, client.admitted) else {
        return;
    };
    let early = Early {
        client: client.early.to_vec(),
        endpoint: answer.rest.to_vec(),
    };
    let slot = worker.enlist(opened);
    slot.client.took.set(micros(slot.since.duration_since(started)));
    slot.endpoint.took.set(micros(dialling));
    tokio::task::spawn_local(Tunnel::new(client.socket, dialled.socket, early, slot, Rc::clone(worker)));
}

/// As many of a duration as a slot has room for: an hour's.
fn micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}

/// The head of the 101.
fn write_switching(answer: &mut HeaderMap, handshake: &Handshake) -> Vec<u8> {
    answer.remove(header::CONTENT_LENGTH);
    let mut out = Vec::with_capacity(512);
    answer::write_status(&mut out, 101, "Switching Protocols");
    out.extend_from_slice(b"Upgrade: websocket\r\nConnection: Upgrade\r\n");
    answer.insert(header::SEC_WEBSOCKET_ACCEPT, handshake.accept().clone());
    headers::write(&mut out, answer);
    out.extend_from_slice(b"\r\n");
    out
}

/// Returns when the client ends its side. Early bytes end the watch: they will be relayed.
async fn gone(client: &mut Client) {
    let socket: &TcpStream = match &mut client.socket {
        Stream::Plain(socket) => socket,
        // Only the session knows what has come.
        Stream::Tls(tls) => match tls.read_buf(&mut client.early).await {
            Ok(0) | Err(_) => return,
            Ok(_) => return std::future::pending().await,
        },
    };
    loop {
        if socket.readable().await.is_err() {
            return;
        }
        match socket.try_io(Interest::READABLE, || {
            socket2::SockRef::from(socket).peek(&mut [std::mem::MaybeUninit::uninit()])
        }) {
            Ok(0) => return,
            Ok(_) => return std::future::pending().await,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}
