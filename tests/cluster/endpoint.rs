//! Echo endpoints on addresses of the pod range.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    process::{self, Command},
    sync::atomic::{AtomicU16, Ordering::Relaxed},
};

use rustix::process::Signal;

use crate::{
    namespace::Namespace,
    objects::{service, slice_of},
    process::Process,
};

/// The port of every echo endpoint.
pub const PORT: u16 = 8080;

/// `holdfast echo` as a process, the way a pod of its own would be.
pub struct Echo {
    process: Process,
    pub name: String,
    pub address: SocketAddr,
}

impl Echo {
    /// Starts one on an address of its own, and returns when it listens. `name` is what it calls itself in X-Echo-Endpoint.
    pub async fn start(name: &str) -> Self {
        Self::at(pod_address(), name).await
    }

    /// The same on this address.
    pub async fn at(address: IpAddr, name: &str) -> Self {
        Self::on(SocketAddr::new(address, PORT), name).await
    }

    /// The same on this address and port.
    pub async fn on(address: SocketAddr, name: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
        command.args(["echo", "--quiet", "--name", name, "--listen", &address.to_string()]);
        let process = Process::spawn(name, &mut command);
        process.line_with("listening on").await;
        Self {
            process,
            name: name.to_owned(),
            address,
        }
    }

    /// Starts one as the only endpoint of a new Service; both have the name.
    pub async fn behind(namespace: &Namespace, name: &str) -> Self {
        let echo = Self::start(name).await;
        namespace.apply(&service(name)).await;
        namespace.apply(&slice_of(name, name, &[&echo])).await;
        echo
    }

    pub fn ip(&self) -> IpAddr {
        self.address.ip()
    }

    /// Ends it as a kubelet does: its WebSockets get a Close.
    pub fn terminate(&self) {
        self.process.signal(Signal::TERM);
    }

    /// Ends it at once; the kernel resets its connections.
    pub fn kill(&mut self) {
        self.process.kill();
    }
}

/// An IPv4 address of the pod range that no other test of this machine's network has.
pub fn pod_address() -> IpAddr {
    let [high, low] = next().to_be_bytes();
    Ipv4Addr::new(10, 244, high, low).into()
}

/// The same for IPv6; `None`: this machine has none.
pub fn pod_address_6() -> Option<IpAddr> {
    let is_there = std::env::var("POD_RANGE_6").is_ok_and(|range| !range.is_empty());
    is_there.then(|| Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, next()).into())
}

/// Counts from a place of this process's own: the playground's network may have another one in it.
fn next() -> u16 {
    static GIVEN: AtomicU16 = AtomicU16::new(1);
    let from = (process::id() % 64) as u16 * 1024;
    from + GIVEN.fetch_add(1, Relaxed) % 1024
}
