//! The admin listener: `/livez`, `/readyz`, `/drained`, `/metrics`. Nothing that names a client is served here.

use std::{sync::Arc, time::Duration};

use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use prometheus::{Encoder, Registry, TextEncoder};

use crate::{
    live::Drain,
    proxy::Shared,
    readiness::Readiness,
    web::{self, Answer, text},
};

/// What the admin listener tells of.
#[derive(Debug)]
pub struct Admin {
    pub registry: Registry,
    pub readiness: Readiness,
    pub proxy: Arc<Shared>,
    pub drain: Drain,
}

impl Admin {
    /// Answers one request.
    pub async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Answer {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        }
        match request.uri().path() {
            "/livez" => self.livez(),
            "/readyz" => self.readyz(),
            "/drained" => self.drain.clone().drained().await,
            "/metrics" => self.metrics(),
            _ => text(StatusCode::NOT_FOUND, "/livez, /readyz, /drained or /metrics\n"),
        }
    }

    /// Whether every worker's loop turns. Nothing outside the process is asked.
    fn livez(&self) -> Answer {
        let silent = self.proxy.beats.silent(STUCK);
        match silent.is_empty() {
            true => text(StatusCode::OK, "ok\n"),
            false => text(
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("workers {silent:?} have been stuck for {} s\n", STUCK.as_secs()),
            ),
        }
    }

    fn readyz(&self) -> Answer {
        let missing = self.readiness.missing();
        match missing.is_empty() {
            true => text(StatusCode::OK, "ok\n"),
            false => text(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("not ready: {}\n", missing.join(", ")),
            ),
        }
    }

    fn metrics(&self) -> Answer {
        let mut out = Vec::new();
        match TextEncoder::new().encode(&self.registry.gather(), &mut out) {
            Ok(()) => web::of_type(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", out),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        }
    }
}

/// A worker that has not shown itself for this long is stuck.
const STUCK: Duration = Duration::from_secs(10);
