//! Clients that number their messages, and endpoints that send every message back.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Interval, MissedTickBehavior, interval_at},
};

use crate::support::{BINARY, CLOSE, Peer, Server, handshake, header_values};

/// An echo endpoint for a known number of tunnels.
pub struct Echo {
    pub address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    tunnels: JoinSet<JoinSet<u16>>,
}

impl Echo {
    /// Accepts `count` tunnels, and no more.
    pub async fn start(count: usize) -> Self {
        let server = Server::start().await;
        let address = server.address;
        let accepted = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&accepted);
        let mut tunnels = JoinSet::new();
        tunnels.spawn(async move {
            let mut open = JoinSet::new();
            for _ in 0..count {
                let (peer, _) = server.accept().await;
                counted.fetch_add(1, Relaxed);
                open.spawn(echo(peer));
            }
            open
        });
        Self {
            address,
            accepted,
            tunnels,
        }
    }

    /// How many tunnels it has had.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Relaxed)
    }

    /// The codes of the Close frames that it read, once all its tunnels have ended.
    pub async fn close_codes(mut self) -> Vec<u16> {
        let tunnels = self.tunnels.join_next().await.unwrap().unwrap();
        tunnels.join_all().await
    }
}

/// Sends everything back until a Close, and returns its code; 1006 if the connection ended without one.
async fn echo(mut peer: Peer) -> u16 {
    loop {
        let Some(frame) = peer.try_frame().await else { return 1006 };
        peer.send(frame.first, &frame.payload).await;
        if frame.opcode() == CLOSE {
            peer.shut_down().await;
            return frame.code();
        }
    }
}

/// A client with an open tunnel.
pub struct Client {
    peer: Peer,
    /// The answer to its handshake.
    head: String,
    sent: u64,
}

/// How a tunnel ended, as its client saw it.
#[derive(Debug)]
pub struct Closed {
    pub at: Instant,
    pub code: u16,
    pub reason: String,
}

impl Client {
    pub async fn open(address: SocketAddr, path: &str) -> Self {
        Self::open_by(address, &handshake(path, "")).await
    }

    /// Opens one by this request.
    pub async fn open_by(address: SocketAddr, handshake: &str) -> Self {
        let mut peer = Peer::connect(address).await;
        peer.write(handshake).await;
        let head = peer.head().await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        Self { peer, head, sent: 0 }
    }

    /// So many, some at a time.
    pub async fn open_many(address: SocketAddr, path: &'static str, count: usize) -> Vec<Self> {
        let mut all = Vec::with_capacity(count);
        while all.len() < count {
            let batch = (count - all.len()).min(AT_ONCE);
            let opening: JoinSet<Self> = (0..batch).map(|_| Self::open(address, path)).collect();
            all.extend(opening.join_all().await);
        }
        all
    }

    /// Sends the next number and reads it back. Any other frame, an end, or nothing at all fails the test.
    pub async fn exchange(&mut self) {
        let number = self.sent.to_be_bytes();
        self.sent += 1;
        self.peer.send(BINARY, number).await;
        let frame = self.peer.frame().await;
        assert_eq!(
            (frame.first, &frame.payload[..]),
            (BINARY, &number[..]),
            "message {}",
            self.sent - 1
        );
    }

    /// Exchanges a number a second, the first after `offset`, until it is told to stop; then one more.
    pub async fn count(mut self, offset: Duration, mut stop: watch::Receiver<()>) -> Self {
        let mut pace = pace(offset, Duration::from_secs(1));
        loop {
            tokio::select! {
                _ = pace.tick() => self.exchange().await,
                _ = stop.changed() => break,
            }
        }
        self.exchange().await;
        self
    }

    /// Sends numbers often until the tunnel is ended from the other side, and checks that they come back in order.
    pub async fn chat(mut self, offset: Duration) -> Closed {
        let mut pace = pace(offset, Duration::from_millis(200));
        let mut echoed: u64 = 0;
        loop {
            tokio::select! {
                _ = pace.tick() => {
                    self.peer.send(BINARY, self.sent.to_be_bytes()).await;
                    self.sent += 1;
                }
                frame = self.peer.frame() => {
                    if frame.opcode() == CLOSE {
                        return self.closed(frame.code(), frame.reason()).await;
                    }
                    assert_eq!(frame.payload, echoed.to_be_bytes());
                    echoed += 1;
                }
            }
        }
    }

    /// Says nothing until the tunnel is ended from the other side.
    pub async fn listen(mut self) -> Closed {
        let frame = self.peer.frame().await;
        self.closed(frame.code(), frame.reason()).await
    }

    /// Ends the tunnel and reads the endpoint's answer.
    pub async fn close(mut self, code: u16) {
        self.peer.close(code).await;
        assert_eq!(self.peer.frame().await.code(), code);
        self.peer.ends().await;
    }

    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// The value of a field in the answer to its handshake.
    #[allow(dead_code, reason = "shared with the cluster tests")]
    pub fn header(&self, name: &str) -> Option<&str> {
        header_values(&self.head, name).first().copied()
    }

    /// Answers a Close as RFC 6455 says.
    async fn closed(mut self, code: u16, reason: &str) -> Closed {
        let at = Instant::now();
        self.peer.close(code).await;
        self.peer.ends().await;
        Closed {
            at,
            code,
            reason: reason.to_owned(),
        }
    }
}

fn pace(offset: Duration, period: Duration) -> Interval {
    let mut pace = interval_at(tokio::time::Instant::now() + offset, period);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    pace
}

/// Handshakes under way together: a listener's queue is not what is tested.
const AT_ONCE: usize = 50;
