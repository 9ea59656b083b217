//! What the demo asks of Holdfast's live listener, and how its page gets at it: under an address of the demo's own, so that the
//! browser shows both as one.

use std::{io, time::Duration};

use http::{HeaderName, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{
    body::{Bytes, Incoming},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{net::TcpStream, sync::OwnedSemaphorePermit, sync::mpsc, time::timeout};

use crate::local;
use holdfast::web::{self, Answer};

/// A JSON document of the live listener on this port.
pub async fn get(port: u16, path: &str) -> io::Result<Value> {
    let ask = async {
        let answer = ask(port, Method::GET, path).await?;
        let body = Limited::new(answer.into_body(), MOST)
            .collect()
            .await
            .map_err(io::Error::other)?;
        serde_json::from_slice(&body.to_bytes()).map_err(io::Error::other)
    };
    timeout(PATIENCE, ask).await?
}

/// Orders a drain.
pub async fn drain(port: u16) -> io::Result<()> {
    timeout(PATIENCE, ask(port, Method::POST, "/drain")).await??;
    Ok(())
}

/// Passes a request on to the live listener on this port, and its answer back for as long as it goes on. The answer may be
/// framed by the demo's own page.
pub async fn pass(port: u16, path_and_query: &str, place: OwnedSemaphorePermit) -> Answer {
    let Ok(Ok(answer)) = timeout(PATIENCE, ask(port, Method::GET, path_and_query)).await else {
        return web::text(StatusCode::BAD_GATEWAY, "Holdfast is not there\n");
    };
    let (head, mut body) = answer.into_parts();
    let (sender, parts) = mpsc::channel(4);
    tokio::spawn(async move {
        while let Some(Ok(frame)) = body.frame().await {
            let Ok(data) = frame.into_data() else { continue };
            if sender.send(data).await.is_err() {
                return;
            }
        }
    });
    let mut passed = web::stream("text/plain", parts, place);
    *passed.status_mut() = head.status;
    for name in [header::CONTENT_TYPE, header::CACHE_CONTROL, header::X_CONTENT_TYPE_OPTIONS] {
        if let Some(value) = head.headers.get(&name) {
            passed.headers_mut().insert(name, value.clone());
        }
    }
    if let Some(policy) = head
        .headers
        .get(header::CONTENT_SECURITY_POLICY)
        .and_then(|policy| policy.to_str().ok())
        && let Ok(policy) = HeaderValue::from_str(&policy.replace("frame-ancestors 'none'", "frame-ancestors 'self'"))
    {
        passed.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    passed
}

async fn ask(port: u16, method: Method, path: &str) -> io::Result<http::Response<Incoming>> {
    let socket = TcpStream::connect(local(port)).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(socket)).await.map_err(io::Error::other)?;
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "localhost")
        .header(HeaderName::from_static(holdfast::live::ORDER_HEADER), "1")
        .body(Empty::<Bytes>::new())
        .map_err(io::Error::other)?;
    sender.send_request(request).await.map_err(io::Error::other)
}

/// How long an answer may take to begin.
const PATIENCE: Duration = Duration::from_secs(5);

/// The largest document that is read.
const MOST: usize = 1 << 24;
