//! Small HTTP servers for what the process says of itself: a bounded number of connections, none for ever, one answer a request,
//! which may go on for as long as somebody listens.
//!
//! [`admin`](crate::admin) and [`live`](crate::live) answer; nothing of a client's connection goes through here.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{
    body::{Body as HttpBody, Bytes, Frame, Incoming, SizeHint},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::TcpListener,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::timeout,
};

use crate::proxy::bind_or_ipv4;

/// What is answered.
pub type Answer = Response<Body>;

/// What an answer carries.
#[derive(Debug)]
pub enum Body {
    Whole(Full<Bytes>),
    /// What a task sends, until it ends or nobody listens any more. The place is given back when the connection is gone, so that
    /// clients that have stopped reading count until then.
    Stream {
        parts: mpsc::Receiver<Bytes>,
        _place: OwnedSemaphorePermit,
    },
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut *self {
            Self::Whole(whole) => Pin::new(whole).poll_frame(context),
            Self::Stream { parts, .. } => parts.poll_recv(context).map(|part| part.map(|part| Ok(Frame::data(part)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(whole) if whole.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(whole) => whole.size_hint(),
            Self::Stream { .. } => SizeHint::default(),
        }
    }
}

/// Binds a listener; it serves once [`serve`] runs.
///
/// # Errors
/// When the address cannot be bound.
pub fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let listener = bind_or_ipv4(address, std::net::TcpListener::bind)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Serves until the process ends. `of` names the listener in the log.
///
/// # Errors
/// When the listener cannot be used.
pub async fn serve<A, F>(listener: std::net::TcpListener, of: &'static str, answer: A) -> io::Result<()>
where
    A: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Answer> + Send,
{
    let listener = TcpListener::from_std(listener)?;
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            return Ok(());
        };
        let (socket, _) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept on the {of} listener; waiting 100 ms");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let answer = answer.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let answer = answer(request);
                async { Ok::<_, Infallible>(answer.await) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(PATIENCE)
                .serve_connection(TokioIo::new(socket), service);
            let _ = timeout(MAX_AGE, connection).await; // how such a client leaves is of no interest
            drop(slot);
        });
    }
}

/// An answer in words.
pub fn text(status: StatusCode, text: impl Into<Bytes>) -> Answer {
    of_type(status, "text/plain; charset=utf-8", text)
}

/// An answer in JSON.
pub fn json(status: StatusCode, value: &serde_json::Value) -> Answer {
    of_type(status, "application/json", format!("{value}\n"))
}

/// An answer of some type.
pub fn of_type(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut response = with_body(kind, Body::Whole(Full::new(body.into())));
    *response.status_mut() = status;
    response
}

/// An answer that goes on for as long as `parts` has a sender and somebody listens.
pub fn stream(kind: &'static str, parts: mpsc::Receiver<Bytes>, place: OwnedSemaphorePermit) -> Answer {
    with_body(kind, Body::Stream { parts, _place: place })
}

fn with_body(kind: &'static str, body: Body) -> Answer {
    let mut response = Response::new(body);
    let kind = header::HeaderValue::from_static(kind);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// How long a request's head may take, and the next request.
const PATIENCE: Duration = Duration::from_secs(10);

/// Clients come back; no connection is kept for ever. Longer than any drain that somebody may wait for.
const MAX_AGE: Duration = Duration::from_secs(3600);

const MAX_CONNECTIONS: usize = 64;
