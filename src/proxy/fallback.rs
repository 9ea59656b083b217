//! Plain HTTP/1.1 on the same routes: long polling, health pages, what comes before an upgrade.
//!
//! hyper speaks here, on both sides. A connection on which a handshake comes after plain requests is handed back.

mod files;
mod io;
mod pool;
mod respond;

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
    filter, guard,
    head::{self, MAX_FIELDS, MAX_HEAD},
    headers, limits,
    record::Attempt,
    select,
    stream::Stream,
    upgrade::{self, Kind},
    worker::Worker,
};
use crate::routing::{endpoint::Held, fallback::Fallback};
pub use files::Complaints;
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

/// The endpoint's, our own, or a file's.
type Body = Either<Incoming, Either<Full<Bytes>, files::Body>>;

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

/// Answers one plain request: by an endpoint, by what the rule says, or by a refusal.
async fn answer_plain(
    worker: &Rc<Worker>,
    origin: &Origin,
    overload: bool,
    parts: request::Parts,
    body: Incoming,
) -> Response<Body> {
    let (mut attempt, forwarded) = describe(worker, origin, &parts);
    attempt.is_handshake = false;
    let may_redirect = worker.shared.settings.https_redirect;
    let location = may_redirect.then(|| answer::location("https", &parts)).flatten();
    let refused = |attempt: Attempt, reason: Reason| {
        let rule = attempt.refused(reason);
        let mut response = answer::response(reason, location, rule.as_deref());
        let connection = answer::connection(response.headers());
        response
            .headers_mut()
            .insert(header::CONNECTION, header::HeaderValue::from_static(connection));
        response.map(own)
    };
    match forward(worker, overload, parts, body, &forwarded, &mut attempt).await {
        Err(reason) => refused(attempt, reason),
        Ok(Answered { response, by }) => {
            let by = by.as_ref().map(|(endpoint, address)| (endpoint, *address));
            attempt.passed(response.status().as_u16(), by);
            response
        }
    }
}

/// An answer that is no refusal.
struct Answered {
    response: Response<Body>,
    /// `None`: it is ours.
    by: Option<(Held, SocketAddr)>,
}

fn own(body: Full<Bytes>) -> Body {
    Either::Right(Either::Left(body))
}

async fn forward(
    worker: &Rc<Worker>,
    overload: bool,
    mut parts: request::Parts,
    body: Incoming,
    forwarded: &headers::Forwarded,
    attempt: &mut Attempt,
) -> Result<Answered, Reason> {
    head::check(&parts)?;
    let found = select::find(worker, &parts, forwarded, attempt)?;
    let redirect = filter::redirect(&found, &parts, forwarded);
    match (worker.shared.drain.is_closing(), overload) {
        (true, _) => return Err(Reason::Draining),
        (_, true) => return Err(Reason::Overload),
        _ => {}
    }
    guard::source(&found.rule, forwarded)?;
    if found.rule.fallback == Fallback::Reject && redirect.is_none() {
        return Err(Reason::UpgradeRequired);
    }
    limits::admit_plain(&found.rule, &parts, attempt)?;
    let response = match (redirect, &found.rule.fallback) {
        (Some((redirect, location)), _) => Some(respond::redirect(redirect, &location)?.map(own)),
        (None, Fallback::Respond(respond)) => Some(respond::respond(respond).map(own)),
        (None, Fallback::Static(files)) => {
            let asked = files::Asked {
                parts: &parts,
                path: &found.path,
                matched: &found.matched_path,
            };
            let root = worker.shared.settings.static_root.as_deref();
            let response = files::serve(root, files, &asked, &worker.complaints).await?;
            Some(response.map(|body| Either::Right(Either::Right(body))))
        }
        (None, Fallback::Backend | Fallback::Reject) => None,
    };
    if let Some(mut response) = response {
        filter::change_answer(&found.rule, response.headers_mut());
        return Ok(Answered { response, by: None });
    }
    let chosen = found.choose(worker, &parts, forwarded, attempt)?;
    headers::remove_hop_by_hop(&mut parts.headers);
    headers::set_forwarded(&mut parts, forwarded, chosen.rule.forwarded);
    filter::change_request(&chosen.rule, &mut parts.headers);
    parts.version = Version::HTTP_11;
    parts.uri = Uri::try_from(&chosen.target).map_err(|_| Reason::MalformedRequest)?;
    let request = Request::from_parts(parts, body);
    let (mut response, endpoint, address) = timeout(ANSWER_TIME, worker.pool.send(worker, &chosen, request))
        .await
        .unwrap_or(Err(Reason::HandshakeTimeout))?;
    if response.status().is_informational() {
        return Err(Reason::EndpointProtocolError); // it switches to what nobody asked for
    }
    headers::remove_hop_by_hop(response.headers_mut());
    chosen.finish_answer(&endpoint, response.headers_mut());
    Ok(Answered {
        response: response.map(Either::Left),
        by: Some((endpoint, address)),
    })
}

/// How long a connection without a request is kept.
const KEEP_ALIVE: Duration = Duration::from_secs(75);

/// How long an endpoint may take to begin its answer: more than any usual interval of long polling.
const ANSWER_TIME: Duration = Duration::from_secs(120);
