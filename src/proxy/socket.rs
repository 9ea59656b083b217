//! Socket options: how TCP finds out that a peer is gone, and how much the kernel may hold for one that is slow.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::TcpStream;

use super::Settings;

/// When TCP looks whether a silent peer is still there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepAlive {
    pub idle: Duration,
    pub interval: Duration,
    pub probes: u32,
}

impl KeepAlive {
    /// After this much silence a peer that answers nothing is gone.
    fn patience(&self) -> Duration {
        self.idle + self.interval * self.probes
    }
}

/// Sets keepalive, which finds a silent peer gone, and the user timeout, which finds one gone that was sent something.
pub fn keep_alive<'a>(socket: impl Into<SockRef<'a>>, keepalive: &KeepAlive) -> io::Result<()> {
    let socket = socket.into();
    let options = TcpKeepalive::new()
        .with_time(keepalive.idle)
        .with_interval(keepalive.interval)
        .with_retries(keepalive.probes);
    socket.set_tcp_keepalive(&options)?;
    socket.set_tcp_user_timeout(user_timeout(keepalive, None))
}

/// Sets the user timeout: as long as keepalive takes, since it overrides keepalive's own count (tcp(7)). It would end a peer
/// that is there but accepts nothing as well; so for one that is `stalled` it lies behind that leg's send timeout, which
/// ends such a peer under its right name, and is off where that is off (zero).
pub fn set_patience(socket: &TcpStream, keepalive: &KeepAlive, stalled: Option<Duration>) -> io::Result<()> {
    SockRef::from(socket).set_tcp_user_timeout(user_timeout(keepalive, stalled))
}

fn user_timeout(keepalive: &KeepAlive, stalled: Option<Duration>) -> Option<Duration> {
    match stalled {
        None => Some(keepalive.patience()),
        Some(Duration::ZERO) => None,
        Some(send) => Some(keepalive.patience().max(send + Duration::from_secs(30))),
    }
}

/// A listening socket that shares its address with those of the other workers.
///
/// # Errors
/// When the address cannot be bound.
pub fn listen(address: SocketAddr, settings: &Settings) -> io::Result<std::net::TcpListener> {
    bind_or_ipv4(address, |address| bind(address, settings))
}

/// Binds an address. `[::]` becomes `0.0.0.0` where there is no IPv6, and says so.
///
/// # Errors
/// What `bind` says.
pub fn bind_or_ipv4<T>(address: SocketAddr, bind: impl Fn(SocketAddr) -> io::Result<T>) -> io::Result<T> {
    match bind(address) {
        Err(error)
            if address.ip() == IpAddr::from([0u16; 8]) && matches!(error.raw_os_error(), Some(EAFNOSUPPORT | EADDRNOTAVAIL)) =>
        {
            let fallback = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port());
            tracing::warn!("IPv6 is off on this machine: listening on {fallback} instead of {address}");
            bind(fallback)
        }
        result => result,
    }
}

/// Every option but the listener's own is inherited by the sockets that it accepts (Linux), which saves each of them the calls.
fn bind(address: SocketAddr, settings: &Settings) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_recv_buffer_size(settings.receive_buffer as usize)?;
    socket.set_tcp_nodelay(true)?;
    keep_alive(&socket, &settings.client_keepalive)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Connections that the kernel completes before they are accepted; it takes no more than net.core.somaxconn.
const BACKLOG: i32 = 4096;

const EAFNOSUPPORT: i32 = 97;
const EADDRNOTAVAIL: i32 = 99;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_timeout_leaves_a_slow_reader_to_the_send_timeout() {
        let keepalive = KeepAlive {
            idle: Duration::from_secs(15),
            interval: Duration::from_secs(5),
            probes: 3,
        };
        assert_eq!(user_timeout(&keepalive, None), Some(Duration::from_secs(30)));
        assert_eq!(
            user_timeout(&keepalive, Some(Duration::from_secs(60))),
            Some(Duration::from_secs(90))
        );
        assert_eq!(
            user_timeout(&keepalive, Some(Duration::from_millis(1))),
            Some(Duration::from_millis(30_001))
        );
        assert_eq!(user_timeout(&keepalive, Some(Duration::ZERO)), None);
    }
}
