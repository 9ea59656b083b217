//! Sides that do anything at any time: whatever they do, each tunnel ends once, with a cause, and leaves nothing behind.

use std::{collections::HashSet, time::Duration};

use fastrand::Rng;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{sleep, timeout},
};

use crate::support::{BINARY, CLOSE, Gateway, PING, PONG, Peer, RuleBuilder, Server, TEXT, frame, heartbeat, tunnel};

/// Does a few things at random, and leaves in one of several ways.
async fn misbehave(mut peer: Peer, masked: bool, mut rng: Rng) {
    let mut buffer = vec![0; 64 * 1024];
    for _ in 0..rng.usize(1..20) {
        let mask = (masked != (rng.u8(..20) == 0)).then(|| rng.u32(..).to_ne_bytes());
        let len = if rng.bool() { rng.usize(..130) } else { rng.usize(..100_000) };
        let payload = vec![rng.u8(..); len];
        let bytes = match rng.u8(..12) {
            0..=3 => frame(BINARY, &payload, mask),
            4 => frame(TEXT & 0x7F, &payload, mask),
            5 => frame(0x80 | PING, &payload[..len.min(125)], mask),
            6 => frame(0x80 | PONG, &payload[..len.min(125)], mask),
            7 => frame(0x80 | CLOSE, &rng.u16(..).to_be_bytes(), mask),
            8 => frame(BINARY, &payload, mask)[..rng.usize(..len + 2)].to_vec(),
            9 => payload,
            _ => Vec::new(),
        };
        // Nobody may be reading: a write is given up after a while, in the middle of wherever it is.
        if !matches!(
            timeout(Duration::from_millis(300), peer.socket.write_all(&bytes)).await,
            Ok(Ok(()))
        ) {
            break;
        }
        for _ in 0..rng.usize(..4) {
            let wait = Duration::from_millis(rng.u64(..30));
            if matches!(timeout(wait, peer.socket.read(&mut buffer)).await, Ok(Ok(0) | Err(_))) {
                return;
            }
        }
        if rng.u8(..8) == 0 {
            sleep(Duration::from_millis(rng.u64(..1500))).await;
        }
    }
    match rng.u8(..4) {
        0 => peer.reset(),
        1 => {
            let _ = peer.socket.shutdown().await;
            while matches!(
                timeout(Duration::from_secs(3), peer.socket.read(&mut buffer)).await,
                Ok(Ok(1..))
            ) {}
        }
        2 => sleep(Duration::from_millis(rng.u64(..2000))).await,
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_the_sides_do_every_tunnel_ends_once_and_leaves_nothing() {
    let server = Server::start().await;
    let second = Duration::from_secs(1);
    let rule = RuleBuilder::to(&[server.address]).change(|rule| {
        rule.timeouts.close_handshake = second;
        rule.timeouts.send = 2 * second;
        rule.timeouts.idle = 5 * second;
        rule.timeouts.max_duration = 8 * second;
        rule.heartbeat.client = heartbeat(1, 1);
        rule.heartbeat.endpoint = heartbeat(1, 1);
    });
    let mut gateway = Gateway::with(rule.build(), |settings| {
        settings.workers = 2;
        settings.queue_budget = 400_000;
    });
    let mut rng = Rng::with_seed(8);
    let mut sides = tokio::task::JoinSet::new();
    for _ in 0..TUNNELS {
        let (client, endpoint) = tunnel(&gateway, &server).await;
        sides.spawn(misbehave(client, true, rng.fork()));
        sides.spawn(misbehave(endpoint, false, rng.fork()));
    }
    sides.join_all().await;
    gateway
        .wait_for_metric("holdfast_ends_total", &[], |ends| ends == TUNNELS as f64)
        .await;
    for (name, value) in [
        ("holdfast_connections_active", 0.0),
        ("holdfast_worker_connections_active", 0.0),
        ("holdfast_endpoint_connections_active", 0.0),
        ("holdfast_stalled_connections", 0.0),
    ] {
        gateway.wait_for_metric(name, &[], |left| left == value).await;
    }
    let mut causes = HashSet::new();
    for _ in 0..TUNNELS {
        causes.insert(
            gateway.record("ended").await["holdfast.end.cause"]
                .as_str()
                .unwrap()
                .to_owned(),
        );
    }
    assert!(gateway.records("ended").is_empty(), "more ends than tunnels");
    assert!(!causes.contains("internal"));
    assert!(causes.len() >= 3, "too well-behaved: {causes:?}");
    gateway.drain(Duration::ZERO);
    gateway.trigger.finished().await;
}

const TUNNELS: usize = 300;
