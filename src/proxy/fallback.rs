//! Plain HTTP/1.1 on the same routes: long polling, health pages, what comes before an upgrade.
//!
//! hyper speaks here, on both sides. A connection on which a handshake comes after plain requests is handed back.

mod io;
mod pool;

use std::{
    cell::{Cell, RefCell},
    convert::Infallible,
    future::{Future, pending, poll_fn},
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    task::Poll,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{Request, Response, Uri, Version, header, request};
use http_body_util::{Either, Full};
use hyper::{body::Incoming, server::conn::http1, service::Service};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::time::timeout;

use super::{
    answer,
    connection::{Origin, describe},
    error::Reason,
    head::{self, MAX_FIELDS, MAX_HEAD},
    headers,
    record::Attempt,
    select,
    stream::Stream,
    upgrade::{self, Kind},
    worker::Worker,
};
use crate::routing::route::Fallback;
use io::Prefixed;
pub use pool::Pool;

/// What became of a connection.
#[derive(Debug)]
pub enum Next {
    Ended,
    /// A handshake came.
    Handshake {
        socket: Stream,
        early: BytesMut,
        parts: Box<request::Parts>,
    },
}

type Body = Either<Incoming, Full<Bytes>>;

/// Serves requests on a connection until it ends or one of them is a handshake. `prefix` was read from it before.
pub async fn serve(worker: &Rc<Worker>, origin: Origin, socket: Stream, prefix: Bytes, overload: bool) -> Next {
    let unsent = Rc::new(Cell::new(false));
    let requests = Requests {
        worker: Rc::clone(worker),
        origin: origin.clone(),
        overload,
        handshake: Rc::default(),
    };
    let handshake = Rc::clone(&requests.handshake);
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(KEEP_ALIVE)
        .max_headers(MAX_FIELDS)
        .max_buf_size(MAX_HEAD) // it bounds heads as much as buffers
        .serve_connection(TokioIo::new(Prefixed::new(socket, prefix, Rc::clone(&unsent))), requests);
    let mut drain = worker.shared.drain.clone();
    let mut closing = std::pin::pin!(drain.closing());
    // A request that comes after a drain began is refused, which ends the connection too.
    let mut shutting_down = worker.shared.drain.is_closing();
    let parts = poll_fn(|cx| {
        if !shutting_down && closing.as_mut().poll(cx).is_ready() {
            shutting_down = true;
            Pin::new(&mut connection).graceful_shutdown();
        }
        if let Poll::Ready(result) = connection.poll_without_shutdown(cx) {
            if let Err(error) = result {
                note_error(worker, &origin, &error);
            }
            return Poll::Ready(None);
        }
        // Answers to the requests before it go out first.
        if unsent.get() {
            Poll::Pending
        } else {
            handshake.take().map_or(Poll::Pending, |parts| Poll::Ready(Some(parts)))
        }
    })
    .await;
    let hyper = connection.into_parts();
    let (socket, prefix) = hyper.io.into_inner().into_parts();
    match parts {
        None => {
            drop(prefix);
            answer::linger(socket).await;
            Next::Ended
        }
        Some(parts) => {
            let mut early = BytesMut::from(&hyper.read_buf[..]);
            early.extend_from_slice(&prefix);
            Next::Handshake {
                socket,
                early,
                parts: Box::new(parts),
            }
        }
    }
}

/// hyper has answered what it could not read; only the record is left to do.
fn note_error(worker: &Rc<Worker>, origin: &Origin, error: &hyper::Error) {
    let reason = match error {
        error if error.is_parse_too_large() => Reason::HeadersTooLarge,
        error if error.is_parse() => Reason::MalformedRequest,
        _ => return, // the client left, or was silent on a kept connection
    };
    Attempt::new(worker, origin.peer, origin.source).refused(reason);
}

/// The service of one connection.
struct Requests {
    worker: Rc<Worker>,
    origin: Origin,
    overload: bool,
    handshake: Rc<Take>,
}

/// Holds a handshake until the connection can be handed back.
#[derive(Default)]
struct Take(RefCell<Option<request::Parts>>);

impl Take {
    fn take(&self) -> Option<request::Parts> {
        self.0.borrow_mut().take()
    }
}

impl Service<Request<Incoming>> for Requests {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>>>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let (parts, body) = request.into_parts();
        if upgrade::classify(&parts) == Kind::Handshake && head::check(&parts).is_ok() {
            *self.handshake.0.borrow_mut() = Some(parts);
            return Box::pin(pending());
        }
        let worker = Rc::clone(&self.worker);
        let (origin, overload) = (self.origin.clone(), self.overload);
        Box::pin(async move { Ok(answer_plain(&worker, &origin, overload, parts, body).await) })
    }
}

/// Answers one plain request: by an endpoint, or by a refusal.
async fn answer_plain(
    worker: &Rc<Worker>,
    origin: &Origin,
    overload: bool,
    parts: request::Parts,
    body: Incoming,
) -> Response<Body> {
    let (mut attempt, forwarded) = describe(worker, origin, &parts);
    attempt.is_handshake = false;
    let location = answer::location("https", &parts);
    let refused = |attempt: Attempt, reason: Reason| {
        attempt.refused(reason);
        let mut response = answer::response(reason, location);
        let connection = if response.headers().contains_key(header::UPGRADE) {
            "upgrade, close"
        } else {
            "close"
        };
        response
            .headers_mut()
            .insert(header::CONNECTION, header::HeaderValue::from_static(connection));
        response.map(Either::Right)
    };
    match forward(worker, overload, parts, body, &forwarded, &mut attempt).await {
        Err(reason) => refused(attempt, reason),
        Ok((response, endpoint, address)) => {
            attempt.passed(response.status().as_u16(), &endpoint, address);
            response.map(Either::Left)
        }
    }
}

type Forwarded = (Response<Incoming>, crate::routing::endpoint::Held, SocketAddr);

async fn forward(
    worker: &Rc<Worker>,
    overload: bool,
    mut parts: request::Parts,
    body: Incoming,
    forwarded: &headers::Forwarded,
    attempt: &mut Attempt,
) -> Result<Forwarded, Reason> {
    head::check(&parts)?;
    let found = select::find(worker, &parts, forwarded, attempt)?;
    if found.rule.fallback == Fallback::Reject {
        return Err(Reason::UpgradeRequired);
    }
    match (worker.shared.drain.is_closing(), overload) {
        (true, _) => return Err(Reason::Draining),
        (_, true) => return Err(Reason::Overload),
        _ => {}
    }
    let chosen = found.choose(&parts, forwarded)?;
    headers::remove_hop_by_hop(&mut parts.headers);
    headers::set_forwarded(&mut parts, forwarded);
    parts.version = Version::HTTP_11;
    parts.uri = Uri::try_from(&chosen.target).map_err(|_| Reason::MalformedRequest)?;
    let request = Request::from_parts(parts, body);
    let (mut response, endpoint, address) = timeout(ANSWER_TIME, worker.pool.send(worker, &chosen, request))
        .await
        .unwrap_or(Err(Reason::HandshakeTimeout))?;
    headers::remove_hop_by_hop(response.headers_mut());
    chosen.set_cookie(&endpoint, response.headers_mut());
    Ok((response, endpoint, address))
}

/// How long a connection without a request is kept.
const KEEP_ALIVE: Duration = Duration::from_secs(75);

/// How long an endpoint may take to begin its answer: more than any usual interval of long polling.
const ANSWER_TIME: Duration = Duration::from_secs(120);
