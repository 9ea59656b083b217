//! The network of the cluster. The network namespace that the tests run in is everything between the nodes, and the nodes' own
//! networks; each pod has a namespace of its own, and one cable to here. Nobody asks who has which address: all neighbours
//! are written down, so that what is lost is lost without an answer.

use std::{
    fs::File,
    io::{self, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::fd::AsFd,
    process::Stdio,
    thread,
    time::Duration,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::{
    io::{AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    process::Command,
    sync::oneshot,
    task::JoinSet,
    time::sleep,
};

/// Where names of Services are looked up.
pub const DNS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);

/// The address of the node of this number.
pub fn node_ip(node: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, node)
}

/// The address of a pod on the node of this number.
pub fn pod_ip(node: u8, pod: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, node, pod)
}

/// Gives this network one more address.
pub async fn add_address(ip: Ipv4Addr) {
    configure(&format!("address replace {ip}/32 dev lo")).await;
}

/// The cable between here and a pod.
#[derive(Clone, Debug)]
pub struct Cable {
    device: String,
    pod: Ipv4Addr,
}

impl Cable {
    /// Lays it to the network of the process `pid`, and sets these sysctls there.
    pub async fn lay(node: u8, pod: u8, pid: u32, sysctls: &[(String, String)]) -> Self {
        let cable = Self {
            device: format!("pod-{node}-{pod}"),
            pod: pod_ip(node, pod),
        };
        let (device, ip, from) = (&cable.device, cable.pod, node_ip(node));
        configure(&format!(
            "link add {device} address {HERE} type veth peer name eth0 address {THERE} netns {pid}\n\
             link set {device} up\n\
             neighbour replace {ip} lladdr {THERE} dev {device} nud permanent\n\
             route replace {ip} dev {device} src {from}\n"
        ))
        .await;
        let mut command = inside(pid);
        command.args(["sh", "-ec", INSIDE, "sh"]);
        for (name, value) in sysctls {
            command.arg(format!("/proc/sys/{}", name.replace('.', "/"))).arg(value);
        }
        feed(
            command,
            &format!(
                "link set lo up\n\
                 address add {ip}/32 dev eth0\n\
                 link set eth0 up\n\
                 neighbour replace {GATEWAY} lladdr {HERE} dev eth0 nud permanent\n\
                 route add {GATEWAY} dev eth0\n\
                 route add default via {GATEWAY}\n"
            ),
        )
        .await;
        cable
    }

    /// From now on no packet arrives, in either direction, and nobody is told.
    pub async fn cut(&self) {
        let (device, ip) = (&self.device, self.pod);
        configure(&format!(
            "link set {device} address {NOBODY}\n\
             neighbour replace {ip} lladdr {NOBODY} dev {device} nud permanent\n"
        ))
        .await;
    }
}

/// A command that runs in the network of the process `pid`.
pub fn inside(pid: u32) -> Command {
    let mut command = Command::new("nsenter");
    command.args(["-t", &pid.to_string(), "-n"]).kill_on_drop(true);
    command
}

/// Connects from within the network of the process `pid`: 127.0.0.1 is its loopback.
///
/// # Errors
/// Nobody listens there, or the process is gone.
pub async fn connect_inside(pid: u32, to: SocketAddr) -> io::Result<TcpStream> {
    let (done, socket) = oneshot::channel();
    // A network namespace is a thread's, and a socket stays in the one that it was made in.
    thread::spawn(move || {
        let connect = || -> io::Result<std::net::TcpStream> {
            let network = File::open(format!("/proc/{pid}/ns/net"))?;
            move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))?;
            let socket = std::net::TcpStream::connect_timeout(&to, Duration::from_secs(5))?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        };
        let _ = done.send(connect());
    });
    let socket = socket.await.map_err(io::Error::other)?;
    TcpStream::from_std(socket?)
}

/// Leads connections to one address on to another, for as long as this is awaited. Waits while somebody else has the address.
pub async fn lead(from: SocketAddr, to: SocketAddr) {
    let listener = loop {
        match TcpListener::bind(from).await {
            Ok(listener) => break listener,
            Err(_) => sleep(Duration::from_millis(50)).await,
        }
    };
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((socket, _)) = accepted {
                    connections.spawn(relay(socket, to));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Connects to an address, and passes on what comes from either side.
pub async fn relay(mut socket: TcpStream, to: SocketAddr) -> io::Result<()> {
    let mut other = TcpStream::connect(to).await?;
    copy_bidirectional(&mut socket, &mut other).await.map(drop)
}

/// Runs a line of `ip` each in this network.
async fn configure(lines: &str) {
    let mut command = Command::new("ip");
    command.args(["-batch", "-"]);
    feed(command, lines).await;
}

async fn feed(mut command: Command, input: &str) {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    child.stdin.take().unwrap().write_all(input.as_bytes()).await.unwrap();
    let output = child.wait_with_output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    // What a test does not see it does not fail by: a pod's network may be gone by the time that it is asked for.
    if !output.status.success() {
        let _ = writeln!(io::stderr(), "{command:?}: {said}{input}");
    }
}

/// Writes sysctls, given as pairs of file and value, and configures devices and routes as standard input says.
const INSIDE: &str = r#"while [ $# -gt 0 ]; do printf %s "$2" >"$1"; shift 2; done; exec ip -batch -"#;
const GATEWAY: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 1, 1));
const HERE: &str = "02:00:00:00:00:01";
const THERE: &str = "02:00:00:00:00:02";
const NOBODY: &str = "02:00:00:00:00:99";
