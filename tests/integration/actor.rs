//! An endpoint that treats every handshake alike, as it is told at the time.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use holdfast::routing::{route::Balancing, table::RuleSpec};
use tokio::{net::TcpListener, task::JoinHandle};

use crate::support::{Answer, CLOSE, Gateway, Peer, RuleBuilder, switching};

/// A rule whose endpoints come one after the other: no count of open tunnels decides who is next.
pub fn in_turn(rule: RuleBuilder) -> Vec<RuleSpec> {
    let mut rules = rule.build();
    Arc::get_mut(&mut rules[0].rule).unwrap().balancing = Balancing::RoundRobin;
    rules
}

/// The head of the answer to a handshake, whose connection ends then.
pub async fn opened(gateway: &Gateway, request: impl AsRef<[u8]>) -> Answer {
    let mut client = Peer::connect(gateway.address).await;
    client.write(request).await;
    let head = client.head().await;
    Answer {
        status: head.split(' ').nth(1).unwrap().parse().unwrap(),
        body: Vec::new(),
        head,
    }
}

/// What it does with a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Answers 101 and keeps the tunnel until its client leaves.
    Serve,
    /// Answers with this status.
    Refuse(u16),
    /// Ends the connection without an answer.
    Hang,
    /// Answers nothing, and waits.
    Silent,
    /// Answers with something else than HTTP.
    Babble,
    /// Answers with a 101 for another handshake.
    Forge,
    /// Answers 101 and ends TCP.
    Drop,
    /// Answers 101 and sends this Close.
    Close(u16),
}

/// See above. Its listener is there for as long as it is.
pub struct Actor {
    pub address: SocketAddr,
    act: Arc<Mutex<Act>>,
    asked: Arc<AtomicUsize>,
    serving: JoinHandle<()>,
}

impl Actor {
    pub async fn start(act: Act) -> Self {
        Self::at(TcpListener::bind("127.0.0.1:0").await.unwrap(), act)
    }

    pub fn at(listener: TcpListener, act: Act) -> Self {
        let address = listener.local_addr().unwrap();
        let (act, asked) = (Arc::new(Mutex::new(act)), Arc::<AtomicUsize>::default());
        let (script, count) = (Arc::clone(&act), Arc::clone(&asked));
        let serving = tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Relaxed);
                tokio::spawn(play(Peer::of_endpoint(socket), Arc::clone(&script)));
            }
        });
        Self {
            address,
            act,
            asked,
            serving,
        }
    }

    /// Treats handshakes like this from now on.
    pub fn set(&self, act: Act) {
        *self.act.lock().unwrap() = act;
    }

    /// How many connections have come.
    pub fn asked(&self) -> usize {
        self.asked.load(Relaxed)
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn play(mut peer: Peer, act: Arc<Mutex<Act>>) {
    let request = peer.head().await;
    if !request.to_ascii_lowercase().contains("upgrade: websocket") {
        return peer
            .write("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            .await;
    }
    let act = *act.lock().unwrap();
    match act {
        Act::Serve | Act::Drop | Act::Close(_) => peer.write(switching("")).await,
        Act::Refuse(status) => {
            let answer = format!("HTTP/1.1 {status} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            return peer.write(answer).await;
        }
        Act::Hang => return,
        Act::Babble => return peer.write("SSH-2.0-OpenSSH_9.9\r\n\r\n").await,
        Act::Forge => peer.write(switching("").replace("Accept: ", "Accept: A")).await,
        Act::Silent => {}
    }
    match act {
        Act::Drop => return,
        Act::Close(code) => peer.send(CLOSE, code.to_be_bytes()).await,
        _ => {}
    }
    peer.ending().await;
}
