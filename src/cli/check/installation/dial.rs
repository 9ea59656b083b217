//! Dials a port of a Service and looks who answers: a handshake that Holdfast refuses before it looks at any route, so that no
//! endpoint ever sees it.

use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::facts::Outcome;
use crate::cli::ping::tls::Trust;

/// How a port is spoken to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Manner<'a> {
    /// With TLS, for this host.
    pub(super) tls: Option<&'a str>,
    /// Whether a PROXY header goes first: where no load balancer is on the way that sends one.
    pub(super) proxy_header: bool,
}

/// Dials it.
pub(super) async fn dial(host: &str, port: u16, manner: Manner<'_>) -> Outcome {
    let started = Instant::now();
    match timeout(PATIENCE, converse(host, port, manner)).await {
        Err(_) => Outcome::Silent,
        Ok(Err(why)) => Outcome::Refused { why },
        Ok(Ok(said)) => judge(&said, started.elapsed()),
    }
}

/// What the other side says, or that it speaks TLS.
async fn converse(host: &str, port: u16, manner: Manner<'_>) -> Result<String, String> {
    let mut socket = TcpStream::connect((host, port)).await.map_err(|error| error.to_string())?;
    if manner.proxy_header {
        let header = socket.write_all(b"PROXY UNKNOWN\r\n").await;
        header.map_err(|error| error.to_string())?;
    }
    let Some(name) = manner.tls else {
        return ask(&mut socket).await;
    };
    let server = ServerName::try_from(name.to_owned()).map_err(|error| error.to_string())?;
    match Trust::to_anybody().connector()?.connect(server, socket).await {
        Ok(mut stream) => ask(&mut stream).await,
        // Whoever has no certificate for the host says so, in TLS.
        Err(error) => match error.get_ref().and_then(|error| error.downcast_ref()) {
            Some(rustls::Error::AlertReceived(alert)) => Ok(format!("{ALERT}{alert:?}")),
            _ => Err(format!("no TLS there: {error}")),
        },
    }
}

async fn ask(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> Result<String, String> {
    let asked = stream.write_all(QUESTION.as_bytes()).await;
    asked.map_err(|error| error.to_string())?;
    let mut head = Vec::new();
    while head.len() < MAX_HEAD && !head.windows(4).any(|four| four == b"\r\n\r\n") {
        match stream.read_buf(&mut head).await {
            Ok(0) if head.is_empty() => return Err("the connection ended without an answer".to_owned()),
            Ok(0) => break,
            Ok(_) => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

fn judge(said: &str, took: Duration) -> Outcome {
    if let Some(alert) = said.strip_prefix(ALERT) {
        return Outcome::Answered {
            what: format!("speaks TLS ({alert}: no certificate for the host that was tried)"),
            took,
        };
    }
    let mut lines = said.lines();
    let first = lines.next().unwrap_or_default();
    let Some(status) = first.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)) else {
        let first: String = first.chars().filter(|character| !character.is_control()).take(60).collect();
        return Outcome::Foreign {
            what: format!("answers {first:?}"),
        };
    };
    let is_ours = lines.any(|line| {
        let line = line.to_ascii_lowercase();
        line.strip_prefix("proxy-status:")
            .is_some_and(|value| value.trim_start().starts_with("holdfast"))
    });
    match is_ours {
        true => Outcome::Answered {
            what: format!("answers {status}"),
            took,
        },
        false => Outcome::Foreign {
            what: format!("answers {status} without Proxy-Status: holdfast"),
        },
    }
}

/// A version of WebSocket that does not exist: 426, whatever routes there are.
const QUESTION: &str = "GET /.well-known/holdfast-check HTTP/1.1\r\nHost: holdfast-check.invalid\r\nConnection: Upgrade\r\n\
                        Upgrade: websocket\r\nSec-WebSocket-Version: 12\r\nSec-WebSocket-Key: aG9sZGZhc3QgY2hlY2sgMQ==\r\n\r\n";
/// Before an alert of TLS, in place of an answer.
const ALERT: &str = "\0alert ";
/// Of an answer's head.
const MAX_HEAD: usize = 16 * 1024;
/// From the dial to the answer.
const PATIENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holdfast_is_known_by_its_proxy_status() {
        let took = Duration::from_millis(11);
        let answered = |what: &str| Outcome::Answered {
            what: what.to_owned(),
            took,
        };
        let ours = "HTTP/1.1 426 Upgrade Required\r\nProxy-Status: holdfast; error=http_request_error\r\n\r\n";
        assert_eq!(judge(ours, took), answered("answers 426"));
        assert!(matches!(judge("\0alert UnrecognisedName", took), Outcome::Answered { .. }));
        for foreign in ["HTTP/1.1 404 Not Found\r\nServer: nginx\r\n\r\n", "SSH-2.0-OpenSSH\r\n", ""] {
            assert!(matches!(judge(foreign, took), Outcome::Foreign { .. }), "{foreign}");
        }
    }
}
