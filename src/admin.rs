//! The admin listener: `/livez`, `/readyz`, `/metrics`. Nothing that names a client is served here.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::{Encoder, Registry, TextEncoder};
use tokio::{net::TcpListener, sync::Semaphore, time::timeout};

use crate::{
    proxy::{Shared, bind_or_ipv4},
    readiness::Readiness,
};

/// What the admin listener tells of.
#[derive(Debug)]
pub struct Admin {
    pub registry: Registry,
    pub readiness: Readiness,
    pub proxy: Arc<Shared>,
}

/// Binds the listener; it serves once [`serve`] runs.
///
/// # Errors
/// When the address cannot be bound.
pub fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let listener = bind_or_ipv4(address, std::net::TcpListener::bind)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Serves until the process ends.
///
/// # Errors
/// When the listener cannot be used.
pub async fn serve(listener: std::net::TcpListener, admin: Arc<Admin>) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            return Ok(());
        };
        let (socket, _) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept on the admin listener; waiting 100 ms");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let admin = Arc::clone(&admin);
        tokio::spawn(async move {
            let service =
                service_fn(|request: Request<Incoming>| std::future::ready(Ok::<_, Infallible>(admin.answer(&request))));
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(PATIENCE)
                .serve_connection(TokioIo::new(socket), service);
            let _ = timeout(MAX_AGE, connection).await; // how an admin client leaves is of no interest
            drop(slot);
        });
    }
}

impl Admin {
    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n".to_owned());
        }
        match request.uri().path() {
            "/livez" => self.livez(),
            "/readyz" => self.readyz(),
            "/metrics" => self.metrics(),
            _ => text(StatusCode::NOT_FOUND, "/livez, /readyz or /metrics\n".to_owned()),
        }
    }

    /// Whether every worker's loop turns. Nothing outside the process is asked.
    fn livez(&self) -> Response<Full<Bytes>> {
        let silent = self.proxy.beats.silent(STUCK);
        match silent.is_empty() {
            true => text(StatusCode::OK, "ok\n".to_owned()),
            false => text(
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("workers {silent:?} have been stuck for {} s\n", STUCK.as_secs()),
            ),
        }
    }

    fn readyz(&self) -> Response<Full<Bytes>> {
        let missing = self.readiness.missing();
        match missing.is_empty() {
            true => text(StatusCode::OK, "ok\n".to_owned()),
            false => text(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("not ready: {}\n", missing.join(", ")),
            ),
        }
    }

    fn metrics(&self) -> Response<Full<Bytes>> {
        let mut out = Vec::new();
        match TextEncoder::new().encode(&self.registry.gather(), &mut out) {
            Ok(()) => {
                let mut response = Response::new(Full::new(out.into()));
                let kind = header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
                response.headers_mut().insert(header::CONTENT_TYPE, kind);
                response
            }
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        }
    }
}

fn text(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    let kind = header::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// A worker that has not shown itself for this long is stuck.
const STUCK: Duration = Duration::from_secs(10);

const PATIENCE: Duration = Duration::from_secs(10);

/// Scrapers come back; no connection is kept for ever.
const MAX_AGE: Duration = Duration::from_secs(600);

const MAX_CONNECTIONS: usize = 64;
