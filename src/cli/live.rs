//! The live listener as commands ask it.

use std::net::SocketAddr;
use std::time::Duration;

use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::cli::{Failure, NO};
use crate::live::ORDER_HEADER;

/// One process.
pub(super) struct Replica {
    address: SocketAddr,
}

impl Replica {
    pub(super) fn at(address: SocketAddr) -> Self {
        Self { address }
    }

    pub(super) async fn get(&self, path: &str) -> Result<Value, Failure> {
        self.ask(Method::GET, path).await
    }

    pub(super) async fn order(&self, path: &str) -> Result<Value, Failure> {
        self.ask(Method::POST, path).await
    }

    async fn ask(&self, method: Method, path: &str) -> Result<Value, Failure> {
        let address = self.address;
        let failed = |why: String| Failure {
            code: NO,
            text: format!("{address}: {why}; is a Holdfast running here? --live names the address of its live listener"),
        };
        match timeout(PATIENCE, exchange(address, method, path)).await {
            Err(_) => Err(failed(format!("no answer in {PATIENCE:?}"))),
            Ok(Err(error)) => Err(failed(error.to_string())),
            Ok(Ok((status, body))) if status.is_success() => {
                serde_json::from_slice(&body).map_err(|error| failed(format!("its answer is no JSON: {error}")))
            }
            Ok(Ok((status, body))) => Err(failed(format!("{status} {}", String::from_utf8_lossy(&body).trim_end()))),
        }
    }
}

type Failed = Box<dyn std::error::Error + Send + Sync>;

async fn exchange(address: SocketAddr, method: Method, path: &str) -> Result<(StatusCode, Bytes), Failed> {
    let socket = TcpStream::connect(address).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(socket)).await?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, address.to_string())
        .header(ORDER_HEADER, "1")
        .body(Empty::<Bytes>::new())?;
    let exchange = async {
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await?.to_bytes();
        Ok((status, body))
    };
    tokio::select! {
        done = exchange => done,
        Err(error) = connection => Err(error.into()),
    }
}

/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// The largest answer.
const MAX_ANSWER: usize = 64 * 1024 * 1024;
