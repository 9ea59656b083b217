//! What a tunnel costs in memory, counted and not measured: no allocation for a message, and nothing kept of the handshake.
//!
//! One test, because it counts every allocation of the process.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::{
    alloc::System,
    io::{Read, Write},
    net::TcpStream,
};

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[path = "integration/support.rs"]
#[allow(dead_code, reason = "shared with the integration tests, which use all of it")]
mod support;

use support::{Gateway, Peer, RuleBuilder, Server, frame, handshake};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

#[tokio::test]
async fn a_message_allocates_nothing_and_a_handshake_leaves_nothing() {
    let server = Server::start().await;
    let gateway = Gateway::start(RuleBuilder::to(&[server.address]).build());

    // Handshakes with large and with small heads leave the same behind.
    let small = kept_per_tunnel(&gateway, &server, "").await;
    let large = kept_per_tunnel(&gateway, &server, &format!("X-Large: {}\r\n", "x".repeat(16 * 1024))).await;
    let small_again = kept_per_tunnel(&gateway, &server, "").await;
    println!("kept per tunnel: {small} B, with a 16 KiB head {large} B, again {small_again} B");
    assert!(
        large < small.max(small_again) + 512,
        "{large} B are kept of a large handshake, {small} of a small one"
    );

    // Messages of several sizes, both ways, through one open tunnel.
    let (client, endpoint) = open(&gateway, &server, "").await;
    let (mut client, mut endpoint) = (blocking(client), blocking(endpoint));
    for len in [64, 16 * 1024] {
        let masked = frame(support::BINARY, &vec![7; len], Some([1, 2, 3, 4]));
        let plain = frame(support::BINARY, &vec![7; len], None);
        let mut buffer = vec![0; masked.len()];
        let mut echo = |rounds: usize| {
            for _ in 0..rounds {
                client.write_all(&masked).unwrap();
                endpoint.read_exact(&mut buffer[..masked.len()]).unwrap();
                endpoint.write_all(&plain).unwrap();
                client.read_exact(&mut buffer[..plain.len()]).unwrap();
            }
        };
        echo(50);
        let mut counted = || {
            let region = Region::new(ALLOCATOR);
            echo(ROUNDS);
            region.change().allocations
        };
        let allocations = (0..TRIES).map(|_| counted()).min().unwrap();
        assert!(
            allocations < ROUNDS / 100,
            "{allocations} allocations for {} messages of {len} bytes",
            2 * ROUNDS
        );
    }
}

/// Bytes that an open tunnel keeps in this process, test and sockets' registrations included. The least of a few tries: on a busy
/// machine a handshake's last task may still be there when the count ends, and what is kept is kept every time.
async fn kept_per_tunnel(gateway: &Gateway, server: &Server, more: &str) -> usize {
    let mut least = usize::MAX;
    for _ in 0..TRIES {
        least = least.min(kept_now(gateway, server, more).await);
    }
    least
}

async fn kept_now(gateway: &Gateway, server: &Server, more: &str) -> usize {
    let mut open_tunnels = Vec::with_capacity(TUNNELS);
    for _ in 0..8 {
        open_tunnels.push(open(gateway, server, more).await);
    }
    let region = Region::new(ALLOCATOR);
    for _ in 0..TUNNELS {
        open_tunnels.push(open(gateway, server, more).await);
        let _ = gateway.record("opened").await;
    }
    let change = region.change();
    change.bytes_allocated.saturating_sub(change.bytes_deallocated) / TUNNELS
}

async fn open(gateway: &Gateway, server: &Server, more: &str) -> (TcpStream, TcpStream) {
    let mut client = Peer::connect(gateway.address).await;
    client.write(handshake("/", more)).await;
    let (endpoint, _) = server.accept().await;
    client.head().await;
    (client.socket.into_std().unwrap(), endpoint.socket.into_std().unwrap())
}

fn blocking(socket: TcpStream) -> TcpStream {
    socket.set_nonblocking(false).unwrap();
    socket
}

const ROUNDS: usize = 2_000;

const TUNNELS: usize = 64;

/// How often something is counted before the least counts.
const TRIES: usize = 5;
