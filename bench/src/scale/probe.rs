//! Handshakes one after the other, until one is answered as it should be after a change.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::cluster::HOST;
use crate::failure::{Failure, Result};
use crate::handshake::{MAX_HEAD, end_of_head, request};

/// A probe that runs.
pub struct Probe {
    task: JoinHandle<Option<Instant>>,
    wanted: u16,
}

impl Probe {
    /// Asks `target` for `path` until the answer has the status `wanted`.
    pub fn start(target: SocketAddr, path: String, wanted: u16) -> Self {
        let until_answered = async move {
            let until_right = async {
                while ask(target, &request(HOST).replacen("/echo", &path, 1)).await != Some(wanted) {}
                Instant::now()
            };
            timeout(LIMIT, until_right).await.ok()
        };
        Self {
            task: tokio::spawn(until_answered),
            wanted,
        }
    }

    /// How long after `written` that was; nothing, if the change came first to the proxy and then to whoever wrote it.
    pub async fn since(self, written: Instant) -> Result<Duration> {
        let at = self.task.await.ok().flatten();
        at.map(|at| at.saturating_duration_since(written))
            .ok_or_else(|| Failure::says(format!("no answer {} within {LIMIT:?} after a change", self.wanted)))
    }
}

/// The status of the answer to a plain request.
pub async fn status(target: SocketAddr, path: &str) -> Option<u16> {
    ask(
        target,
        &format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n"),
    )
    .await
}

async fn ask(target: SocketAddr, request: &str) -> Option<u16> {
    let mut socket = TcpStream::connect(target).await.ok()?;
    socket.write_all(request.as_bytes()).await.ok()?;
    let mut head = vec![0; MAX_HEAD];
    let mut filled = 0;
    while end_of_head(&head[..filled]).is_none() {
        match socket.read(head.get_mut(filled..)?).await.ok()? {
            0 => return None,
            read => filled += read,
        }
    }
    // No TIME_WAIT on this side: thousands of these come and go.
    socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO)).ok()?;
    std::str::from_utf8(head.get(9..12)?).ok()?.parse().ok()
}

/// How long a change may take.
const LIMIT: Duration = Duration::from_secs(30);
