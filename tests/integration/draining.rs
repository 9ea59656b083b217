//! Shutting down: who is told when, what is refused meanwhile, and when it is over.

use std::time::{Duration, Instant};

use futures::future::join_all;

use crate::support::{BINARY, CLOSE, Gateway, Peer, RuleBuilder, Server, TEXT, ask, frame, handshake, switching, tunnel};

async fn start() -> (Server, Gateway) {
    let server = Server::start().await;
    let gateway = Gateway::start(RuleBuilder::to(&[server.address]).build());
    (server, gateway)
}

/// A client that answers its Close; returns when that came.
async fn told(client: &mut Peer) -> Instant {
    let told = client.frame().await;
    assert_eq!((told.code(), told.reason()), (1012, "drain"));
    let at = Instant::now();
    client.close(1012).await;
    client.ends().await;
    at
}

#[tokio::test]
async fn without_a_window_all_are_told_at_once() {
    let (server, mut gateway) = start().await;
    let mut tunnels = Vec::new();
    for _ in 0..20 {
        tunnels.push(tunnel(&gateway, &server).await);
    }
    gateway.drain(Duration::ZERO);
    for (mut client, mut endpoint) in tunnels {
        told(&mut client).await;
        let saw = endpoint.frame().await;
        assert_eq!((saw.code(), saw.reason()), (1001, "drain"));
        endpoint.close(1001).await;
        endpoint.shut_down().await;
        endpoint.ends().await;
        drop(client);
    }
    tokio::time::timeout(crate::support::PATIENCE, gateway.trigger.finished())
        .await
        .expect("it is not over");
    assert_eq!(gateway.metric("holdfast_ends_total", &["cause=\"drain\""]), 20.0);
}

#[tokio::test]
async fn over_a_window_they_are_told_one_after_the_other_and_idle_ones_first() {
    let (server, mut gateway) = start().await;
    let mut tunnels = Vec::new();
    for _ in 0..12 {
        tunnels.push(tunnel(&gateway, &server).await);
    }
    // The later half of them has sent something last.
    tokio::time::sleep(Duration::from_millis(300)).await;
    for (client, endpoint) in &mut tunnels[6..] {
        client.send(TEXT, "busy").await;
        assert_eq!(endpoint.frame().await.payload, b"busy");
    }
    let window = Duration::from_secs(4);
    let started = Instant::now();
    gateway.drain(window);
    gateway
        .wait_for_metric("holdfast_drain_remaining", &[], |remaining| (1.0..12.0).contains(&remaining))
        .await;
    // Those whose turn has not come go on.
    let (client, endpoint) = tunnels.last_mut().unwrap();
    client.send(TEXT, "still open").await;
    assert_eq!(endpoint.frame().await.payload, b"still open");
    let times = join_all(tunnels.iter_mut().map(|(client, _)| told(client))).await;
    let (idle, busy) = times.split_at(6);
    let (last_idle, first_busy) = (idle.iter().max().unwrap(), busy.iter().min().unwrap());
    assert!(last_idle < first_busy, "idle ones first");
    let (first, last) = (*times.iter().min().unwrap(), *times.iter().max().unwrap());
    assert!(last - first > window / 2, "spread over the window: {:?}", last - first);
    assert!(last - started >= window * 3 / 4, "{:?}", last - started);
}

#[tokio::test]
async fn new_handshakes_and_requests_are_refused_meanwhile() {
    let (server, mut gateway) = start().await;
    let (mut client, mut endpoint) = tunnel(&gateway, &server).await;
    let mut waiting = Peer::connect(gateway.address).await; // has not asked yet
    gateway.drain(Duration::from_secs(3600));
    for _ in 0..3 {
        let answer = ask(gateway.address, handshake("/", "")).await;
        assert_eq!((answer.status, answer.reason()), (503, Some("draining")));
        let seconds: u32 = answer.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=2).contains(&seconds));
        let answer = ask(gateway.address, "GET / HTTP/1.1\r\nHost: test\r\n\r\n").await;
        assert_eq!((answer.status, answer.reason()), (503, Some("draining")));
    }
    waiting.write(handshake("/", "")).await;
    assert_eq!(waiting.answer().await.reason(), Some("draining"));
    client.send(TEXT, "on").await;
    assert_eq!(endpoint.frame().await.payload, b"on");
}

#[tokio::test]
async fn a_second_order_shortens_the_window() {
    let (server, mut gateway) = start().await;
    let mut tunnels = Vec::new();
    for _ in 0..4 {
        tunnels.push(tunnel(&gateway, &server).await);
    }
    gateway.drain(Duration::from_secs(3600));
    gateway
        .wait_for_metric("holdfast_drain_remaining", &[], |remaining| remaining > 0.0)
        .await;
    gateway.drain(Duration::ZERO);
    for (mut client, _) in tunnels {
        told(&mut client).await;
    }
}

#[tokio::test]
async fn a_handshake_under_way_becomes_a_tunnel_that_is_drained_as_well() {
    let (server, mut gateway) = start().await;
    let mut client = Peer::connect(gateway.address).await;
    client.write(handshake("/", "")).await;
    let mut endpoint = server.connection().await;
    endpoint.head().await;
    gateway.drain(Duration::from_secs(1));
    while ask(gateway.address, handshake("/", "")).await.reason() != Some("draining") {}
    endpoint.write(switching("")).await;
    assert!(client.head().await.starts_with("HTTP/1.1 101 "));
    told(&mut client).await;
    assert_eq!(endpoint.frame().await.code(), 1001);
    drop((client, endpoint));
    gateway.trigger.finished().await;
}

#[tokio::test]
async fn a_boundary_may_come_as_late_as_the_windows_end() {
    let server = Server::start().await;
    let rule = RuleBuilder::to(&[server.address]).change(|rule| rule.timeouts.close_handshake = Duration::from_secs(1));
    let mut gateway = Gateway::start(rule.build());
    let (mut client, mut endpoint) = tunnel(&gateway, &server).await;
    let (mut other, _other_endpoint) = tunnel(&gateway, &server).await;
    let message = frame(BINARY, &[1; 1000], None);
    endpoint.write(&message[..500]).await;
    client.bytes(500).await;
    other.send(TEXT, "I am the less idle one").await;
    gateway.drain(Duration::from_secs(6));
    // It is the first to be told, in the first half of the window, and would be given up after a second elsewhere.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(client.has_nothing(), "given up before the window's end");
    endpoint.write(&message[500..]).await;
    client.bytes(message.len() - 500).await;
    told(&mut client).await;
    told(&mut other).await;
}

#[tokio::test]
async fn nothing_that_a_client_sends_is_lost_in_a_drain() {
    let (server, mut gateway) = start().await;
    let (client, mut endpoint) = tunnel(&gateway, &server).await;
    let (mut reading, mut writing) = client.socket.into_split();
    let sending = tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut number = 0_u32;
        let mut first = [0];
        loop {
            tokio::select! {
                biased;
                read = reading.read(&mut first) => {
                    read.unwrap();
                    break;
                }
                () = tokio::task::yield_now() => {
                    let message = frame(BINARY, &number.to_be_bytes(), Some([4, 3, 2, 1]));
                    writing.write_all(&message).await.unwrap();
                    number += 1;
                }
            }
        }
        assert_eq!(first[0], 0x80 | CLOSE);
        writing
            .write_all(&frame(0x80 | CLOSE, &1012_u16.to_be_bytes(), Some([0; 4])))
            .await
            .unwrap();
        (number, reading, writing)
    });
    let mut received = 0_u32;
    let told = loop {
        let frame = endpoint.frame().await;
        if frame.opcode() == CLOSE {
            break frame.code();
        }
        assert_eq!(frame.payload, received.to_be_bytes());
        received += 1;
        if received == 1000 {
            gateway.drain(Duration::ZERO);
        }
    };
    let (sent, ..) = sending.await.unwrap();
    assert_eq!((told, received), (1001, sent));
}

#[tokio::test]
async fn every_listener_stays_until_the_end() {
    let server = Server::start().await;
    let rule = RuleBuilder::to(&[server.address]).build();
    let mut gateway = Gateway::with(rule, |settings| settings.workers = 4);
    let mut tunnels = [tunnel(&gateway, &server).await, tunnel(&gateway, &server).await];
    let own = format!(":{:04X}", gateway.address.port());
    let listeners = || {
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        rows.filter(|row| row[1].ends_with(&own) && row[3] == "0A").count()
    };
    assert_eq!(listeners(), 4);
    gateway.drain(Duration::from_secs(3600));
    // To the last tunnel's end nobody who connects is reset, whichever worker the kernel has chosen.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(listeners(), 4);
    for _ in 0..20 {
        let answer = ask(gateway.address, handshake("/", "")).await;
        assert_eq!((answer.status, answer.reason()), (503, Some("draining")));
    }
    gateway.drain(Duration::ZERO);
    for (client, _) in &mut tunnels {
        told(client).await;
    }
    drop(tunnels);
    gateway.trigger.finished().await;
}

#[tokio::test]
async fn a_drain_is_over_once_the_clients_have_left_however_long_its_window_is() {
    let (server, mut gateway) = start().await;
    let mut pairs = Vec::new();
    for _ in 0..5 {
        pairs.push(tunnel(&gateway, &server).await);
    }
    gateway.drain(Duration::from_secs(3600));
    gateway
        .wait_for_metric("holdfast_drain_remaining", &[], |waiting| waiting > 0.0)
        .await;
    drop(pairs);
    tokio::time::timeout(crate::support::PATIENCE, gateway.trigger.finished())
        .await
        .expect("it waits for those who have left");
}
