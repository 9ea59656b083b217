//! Plain HTTP/1.1 on the same routes: long polling, health pages, what comes before an upgrade.
//!
//! hyper speaks here, on both sides, for one request at a time: `connection` reads each head and gets the connection back behind
//! the answer. So one set of rules says what a head may be, and a connection that waits for a request holds nothing of hyper.

mod exchange;
mod files;
mod gate;
mod pool;
mod respond;

use std::{cell::RefCell, convert::Infallible, future::poll_fn, net::SocketAddr, pin::Pin, rc::Rc, task::Poll, time::Duration};

use bytes::Bytes;
use http::{Request, Response, Uri, Version, header, request};
use http_body_util::{Either, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::time::timeout;

use super::{
    answer, body,
    connection::{Origin, describe},
    error::Reason,
    filter, guard,
    head::{Head, MAX_FIELDS, MAX_HEAD},
    headers, limits,
    record::Attempt,
    select,
    upgrade::Client,
    worker::Worker,
};
use crate::routing::{endpoint::Held, fallback::Fallback};
use exchange::{Cut, Exchange, Told};
pub use files::Complaints;
use gate::Gate;
pub use pool::Pool;

/// The endpoint's, our own, or a file's.
type Body = Either<Incoming, Either<Full<Bytes>, files::Body>>;

/// Serves one request. The connection comes back if it can have another; else it has been ended in order.
pub async fn serve(worker: &Rc<Worker>, origin: &Origin, client: Client, head: Head) -> Option<Client> {
    let Client { socket, early, admitted } = client;
    let overload = admitted.is_over();
    let exchange = Rc::new(Exchange::default());
    let body = body::Body::of_request(&head.parts);
    let gate = Gate::new(socket, head.raw, body, early, Rc::clone(&exchange));
    // Served is the head as it was read here, whatever hyper makes of it.
    let parts = RefCell::new(Some(head.parts));
    let service = service_fn(|request: Request<Incoming>| {
        let (exchange, (as_hyper_reads_it, body)) = (&exchange, request.into_parts());
        let parts = parts.take().unwrap_or(as_hyper_reads_it);
        Box::pin(async move { Ok::<_, Infallible>(answer_plain(worker, origin, overload, parts, body, exchange).await) })
    });
    let mut connection = http1::Builder::new()
        .header_read_timeout(None) // the head is there
        .max_headers(MAX_FIELDS)
        .max_buf_size(MAX_HEAD) // it bounds heads as much as buffers
        .serve_connection(TokioIo::new(gate), service);
    let mut drain = worker.shared.drain.clone();
    let mut closing = std::pin::pin!(drain.closing());
    // A request that comes after a drain began is refused, which ends the connection too.
    let mut shutting_down = worker.shared.drain.is_closing();
    let mut begun = false;
    let ended = poll_fn(|cx| {
        loop {
            // Not before hyper has seen the request: it would end without an answer.
            if begun && !shutting_down && closing.as_mut().poll(cx).is_ready() {
                shutting_down = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
            if let Poll::Ready(result) = connection.poll_without_shutdown(cx) {
                return Poll::Ready(Some(result));
            }
            if exchange.is_over() && !shutting_down {
                return Poll::Ready(None);
            }
            if exchange.was_cut() == Some(Cut::ClientGone) {
                return Poll::Ready(Some(Ok(()))); // in the middle of its request: nobody is to be answered
            }
            if begun {
                return Poll::Pending;
            }
            begun = true;
        }
    })
    .await;
    exchange.finish(matches!(ended, Some(Err(_))));
    let (socket, early) = connection.into_parts().io.into_inner().into_parts();
    if ended.is_none() {
        return Some(Client { socket, early, admitted });
    }
    answer::linger(socket).await;
    None
}

/// Answers one plain request: by an endpoint, by what the rule says, or by a refusal.
async fn answer_plain(
    worker: &Rc<Worker>,
    origin: &Origin,
    overload: bool,
    parts: request::Parts,
    body: Incoming,
    exchange: &Rc<Exchange>,
) -> Response<Told> {
    let (mut attempt, forwarded) = describe(worker, origin, &parts);
    attempt.is_handshake = false;
    let may_redirect = worker.shared.settings.https_redirect;
    let location = may_redirect.then(|| answer::location("https", &parts)).flatten();
    let response = match forward(worker, overload, parts, body, &forwarded, &mut attempt, exchange).await {
        Ok(Answered { response, by }) => {
            exchange.answered(attempt, response.status().as_u16(), by);
            response
        }
        Err(reason) => {
            let reason = exchange.reason(reason);
            let rule = attempt.refused(reason);
            let mut response = answer::response(reason, location, rule.as_deref());
            let connection = answer::connection(response.headers());
            response
                .headers_mut()
                .insert(header::CONNECTION, header::HeaderValue::from_static(connection));
            response.map(own)
        }
    };
    response.map(|body| Told::new(body, exchange))
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
    exchange: &Exchange,
) -> Result<Answered, Reason> {
    let found = select::find(worker, &parts, forwarded, attempt)?;
    exchange.send.set(found.rule.timeouts.send);
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
            let root = worker.shared.settings.static_root.as_deref();
            let response = files::serve(root, files, &found, &parts, &worker.complaints).await?;
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

/// How long an endpoint may take to begin its answer: more than any usual interval of long polling.
const ANSWER_TIME: Duration = Duration::from_secs(120);
