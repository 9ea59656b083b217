//! A port that leads to another one, which may change: what a Service in front does for clients when a process is replaced.
//! Connections that are open stay where they are.

use std::{
    io,
    net::{Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering::Relaxed},
    },
};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
};

use crate::{local, taken};

/// Where new connections are led.
#[derive(Clone, Debug)]
pub struct Door(Arc<AtomicU16>);

impl Door {
    /// Opens `port` of this machine. Both families, because browsers take localhost for either.
    pub async fn open(port: u16, target: u16) -> io::Result<Self> {
        let door = Self(Arc::new(AtomicU16::new(target)));
        let first = TcpListener::bind(local(port)).await.map_err(|error| taken(port, &error))?;
        tokio::spawn(door.clone().lead(first));
        if let Ok(second) = TcpListener::bind(SocketAddr::from((Ipv6Addr::LOCALHOST, port))).await {
            tokio::spawn(door.clone().lead(second));
        }
        Ok(door)
    }

    pub fn lead_to(&self, target: u16) {
        self.0.store(target, Relaxed);
    }

    pub fn target(&self) -> u16 {
        self.0.load(Relaxed)
    }

    async fn lead(self, listener: TcpListener) {
        loop {
            let Ok((mut client, _)) = listener.accept().await else {
                tokio::time::sleep(crate::LOOK).await;
                continue;
            };
            let target = local(self.target());
            tokio::spawn(async move {
                if let Ok(mut server) = TcpStream::connect(target).await {
                    let _ = client.set_nodelay(true);
                    let _ = server.set_nodelay(true);
                    let _ = copy_bidirectional(&mut client, &mut server).await; // how it ends is between the two
                }
            });
        }
    }
}
