//! One running process: how its live listener is reached, and one exchange with it.

use std::net::SocketAddr;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, pending};
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::client::UpgradeConnectionError;
use kube::{Api, Error};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::find::refusal;
use crate::live::ORDER_HEADER;

/// One process.
#[derive(Debug)]
pub(super) struct Replica {
    /// How it is named where it does not answer: its pod, or the address.
    pub(super) name: String,
    way: Way,
    /// The connection to it, while there is one.
    kept: Mutex<Option<Wire>>,
}

/// How it is reached.
#[derive(Debug)]
enum Way {
    Address(SocketAddr),
    Pod {
        pods: Box<Api<Pod>>,
        namespace: String,
        port: u16,
    },
}

/// A connection to it.
struct Wire {
    sender: SendRequest<Full<Bytes>>,
    /// What whoever forwards the port says against it, if anything.
    trouble: BoxFuture<'static, String>,
}

impl Replica {
    pub(super) fn at(address: SocketAddr) -> Self {
        Self::by(address.to_string(), Way::Address(address))
    }

    pub(super) fn in_pod(pods: Api<Pod>, namespace: &str, name: &str, port: u16) -> Self {
        let way = Way::Pod {
            pods: Box::new(pods),
            namespace: namespace.to_owned(),
            port,
        };
        Self::by(name.to_owned(), way)
    }

    fn by(name: String, way: Way) -> Self {
        Self {
            name,
            way,
            kept: Mutex::new(None),
        }
    }

    /// Its answer, or why there is none in a few words.
    pub(super) async fn ask(
        &self,
        method: &Method,
        path: &str,
        body: Option<&Bytes>,
        patience: Duration,
    ) -> Result<Value, String> {
        let (status, body) = match timeout(patience, self.exchange(method, path, body)).await {
            Err(_) => return Err("timeout".to_owned()),
            Ok(answer) => answer?,
        };
        if !status.is_success() {
            return Err(format!("{status} {}", String::from_utf8_lossy(&body).trim_end()));
        }
        serde_json::from_slice(&body).map_err(|error| format!("its answer is no JSON: {error}"))
    }

    async fn exchange(&self, method: &Method, path: &str, body: Option<&Bytes>) -> Result<(StatusCode, Bytes), String> {
        let mut kept = self.kept.lock().await;
        if let Some(mut wire) = kept.take().filter(|wire| !wire.sender.is_closed()) {
            // It may have been about to end: then it is made anew, once.
            if let Ok(answer) = wire.exchange(self.request(method, path, body)?).await {
                *kept = Some(wire);
                return Ok(answer);
            }
        }
        let mut wire = self.connect().await?;
        let answer = wire.exchange(self.request(method, path, body)?).await?;
        *kept = Some(wire);
        Ok(answer)
    }

    fn request(&self, method: &Method, path: &str, body: Option<&Bytes>) -> Result<Request<Full<Bytes>>, String> {
        let host = match &self.way {
            Way::Address(address) => address.to_string(),
            Way::Pod { port, .. } => format!("127.0.0.1:{port}"),
        };
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, host);
        if method != Method::GET {
            request = request.header(ORDER_HEADER, "1");
        }
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let body = Full::new(body.cloned().unwrap_or_default());
        request.body(body).map_err(|error| error.to_string())
    }

    async fn connect(&self) -> Result<Wire, String> {
        match &self.way {
            Way::Address(address) => {
                let socket = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
                Wire::over(socket, pending().boxed()).await
            }
            Way::Pod { pods, namespace, port } => {
                let forwarded = pods.portforward(&self.name, &[*port]).await;
                let mut forwarded = forwarded.map_err(|error| not_forwarded(&error, namespace))?;
                let (Some(socket), Some(error)) = (forwarded.take_stream(*port), forwarded.take_error(*port)) else {
                    return Err(format!("port {port} cannot be forwarded"));
                };
                let port = *port;
                let trouble = async move {
                    match error.await {
                        Some(error) => refused_there(&error, port),
                        None => pending().await, // the connection says it
                    }
                };
                Wire::over(socket, trouble.boxed()).await
            }
        }
    }
}

impl Wire {
    async fn over<S>(socket: S, trouble: BoxFuture<'static, String>) -> Result<Self, String>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = http1::handshake(TokioIo::new(socket))
            .await
            .map_err(|error| error.to_string())?;
        tokio::spawn(connection); // its failure is the answer's
        Ok(Self { sender, trouble })
    }

    async fn exchange(&mut self, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), String> {
        let sender = &mut self.sender;
        let exchange = async {
            let answer = sender.send_request(request).await.map_err(|error| lost(&error))?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
            Ok((status, body.map_err(|error| error.to_string())?.to_bytes()))
        };
        let failed = match exchange.await {
            Ok(answer) => return Ok(answer),
            Err(failed) => failed,
        };
        // Whoever forwards knows better why, and says so at about the same time.
        Err(timeout(LAST_WORDS, &mut self.trouble).await.unwrap_or(failed))
    }
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wire").field("sender", &self.sender).finish_non_exhaustive()
    }
}

fn lost(error: &hyper::Error) -> String {
    if error.is_closed() || error.is_incomplete_message() || error.is_canceled() {
        return "the connection ended without an answer".to_owned();
    }
    error.to_string()
}

/// What the API server said to a port-forward.
fn not_forwarded(error: &Error, namespace: &str) -> String {
    let status = match error {
        Error::Api(status) => status.code,
        Error::UpgradeConnection(UpgradeConnectionError::ProtocolSwitch(status)) => status.as_u16(),
        _ => 0,
    };
    match status {
        403 => format!("you may not get and create pods/portforward in namespace {namespace}"),
        404 => "the pod is gone".to_owned(),
        _ => refusal(error),
    }
}

/// What the kubelet, or the container runtime behind it, said against a port.
fn refused_there(error: &str, port: u16) -> String {
    if error.contains("refused") {
        return format!("nobody listens on port {port} of the pod's loopback");
    }
    let first = error.trim().lines().next().unwrap_or_default();
    first.chars().take(200).collect()
}

/// The largest answer.
const MAX_ANSWER: usize = 16 << 20;
/// How long the words are waited for that explain why a connection has ended.
const LAST_WORDS: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_forwards_a_port_is_told_in_few_words() {
        let kubelet = "error forwarding port 9478 to pod 1a2b, uid : failed to execute portforward in network namespace \
                       \"/var/run/netns/cni\": dial tcp4 127.0.0.1:9478: connect: connection refused";
        assert_eq!(
            refused_there(kubelet, 9478),
            "nobody listens on port 9478 of the pod's loopback"
        );
        assert_eq!(refused_there(" no such pod\nat all", 1), "no such pod");
        let forbidden = Error::UpgradeConnection(UpgradeConnectionError::ProtocolSwitch(StatusCode::FORBIDDEN));
        assert!(not_forwarded(&forbidden, "edge").ends_with("pods/portforward in namespace edge"));
    }
}
