//! Clients that must notice nothing of what happens to the API server.

use std::{net::SocketAddr, time::Duration};

use tokio::{sync::watch, task::JoinSet, time::sleep};

use crate::{
    replica::Holdfast,
    support::{ask, handshake_with},
    traffic::Client,
};

/// On each replica: tunnels whose clients number their messages, and somebody who connects again and again and asks whether the
/// replica is ready and alive.
pub struct Witnesses {
    stop: watch::Sender<()>,
    counting: JoinSet<Client>,
    connecting: JoinSet<usize>,
}

/// What they have done without any trouble.
#[derive(Debug)]
pub struct Testimony {
    /// Messages that came back on tunnels that were open all the time.
    pub messages: u64,
    /// Tunnels that were opened, used and closed meanwhile.
    pub tunnels: usize,
}

impl Witnesses {
    /// Opens the first tunnels of all `paths` of a host.
    pub async fn start(replicas: &[&Holdfast], host: &str, paths: &[&str]) -> Self {
        let (stop, stopped) = watch::channel(());
        let (mut counting, mut connecting) = (JoinSet::new(), JoinSet::new());
        for replica in replicas {
            for path in paths {
                for nth in 0..TUNNELS {
                    let client = replica.open(host, path).await;
                    counting.spawn(client.count(Duration::from_millis(100 * nth), stopped.clone()));
                }
            }
            let handshakes = paths.iter().map(|path| handshake_with(host, path, "")).collect();
            connecting.spawn(connect(replica.http, replica.admin, handshakes, stopped.clone()));
        }
        Self {
            stop,
            counting,
            connecting,
        }
    }

    /// Panics if a message was lost, a tunnel ended, a connection was refused, or a replica was not ready or not alive.
    pub async fn stop(self) -> Testimony {
        self.stop.send_replace(());
        let clients = self.counting.join_all().await;
        let testimony = Testimony {
            messages: clients.iter().map(Client::sent).sum(),
            tunnels: self.connecting.join_all().await.into_iter().sum(),
        };
        let Testimony { messages, tunnels } = &testimony;
        println!("nobody noticed: {messages} messages, {tunnels} tunnels");
        testimony
    }
}

async fn connect(http: SocketAddr, admin: SocketAddr, handshakes: Vec<String>, stopped: watch::Receiver<()>) -> usize {
    let mut opened = 0;
    while stopped.has_changed().is_ok_and(|stopped| !stopped) {
        for handshake in &handshakes {
            let mut client = Client::open_by(http, handshake).await;
            client.exchange().await;
            client.close(1000).await;
            opened += 1;
        }
        for path in ["/readyz", "/livez"] {
            let request = format!("GET {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n");
            let answer = ask(admin, request).await;
            assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        }
        sleep(PACE).await;
    }
    opened
}

/// Open all the time, for each path and replica.
const TUNNELS: u64 = 3;
/// Between two tries to connect.
const PACE: Duration = Duration::from_millis(50);
