//! Ends that a clock makes.

use std::time::{Duration, Instant};

use futures::future::join_all;

use crate::support::{BINARY, CLOSE, Gateway, PING, PONG, RuleBuilder, Server, Silent, TEXT, ask, frame, handshake, tunnel};

const SECOND: Duration = Duration::from_secs(1);

async fn start(change: impl FnOnce(&mut RuleBuilder)) -> (Server, Gateway) {
    let server = Server::start().await;
    let gateway = Gateway::start(RuleBuilder::to(&[server.address]).change(change).build());
    (server, gateway)
}

#[tokio::test]
async fn pings_are_no_messages() {
    let (server, gateway) = start(|rule| {
        rule.timeouts.idle = 2 * SECOND;
        rule.timeouts.close_handshake = SECOND;
    })
    .await;
    let (client, endpoint) = tunnel(&gateway, &server).await;
    let (_endpoint_reads, mut endpoint_writes) = endpoint.socket.into_split();
    let (mut client_reads, mut client_writes) = client.socket.into_split();
    let pinging = tokio::spawn(async move {
        use tokio::io::AsyncWriteExt;
        let (ping, pong) = (frame(0x80 | PING, b"x", None), frame(0x80 | PONG, b"x", Some([0; 4])));
        while endpoint_writes.write_all(&ping).await.is_ok() && client_writes.write_all(&pong).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    let mut read = Vec::new();
    let reading = tokio::io::AsyncReadExt::read_to_end(&mut client_reads, &mut read);
    tokio::time::timeout(crate::support::PATIENCE, reading)
        .await
        .unwrap()
        .unwrap();
    let close = frame(0x80 | CLOSE, b"\x03\xE9idle_timeout", None);
    assert!(read.ends_with(&close), "{read:?}");
    pinging.abort();
    assert_eq!(gateway.record("ended").await["holdfast.end.cause"], "idle_timeout");
}

#[tokio::test]
async fn messages_keep_a_tunnel_from_being_idle() {
    let (server, gateway) = start(|rule| rule.timeouts.idle = 2 * SECOND).await;
    let (mut client, mut endpoint) = tunnel(&gateway, &server).await;
    let started = Instant::now();
    let mut by_client = true;
    while started.elapsed() < 4 * SECOND {
        let (one, other) = if by_client {
            (&mut client, &mut endpoint)
        } else {
            (&mut endpoint, &mut client)
        };
        one.send(TEXT, "busy").await;
        assert_eq!(other.frame().await.payload, b"busy");
        by_client = !by_client;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let told = client.frame().await;
    assert_eq!((told.code(), told.reason()), (1001, "idle_timeout"));
    client.close(1001).await;
    assert_eq!(endpoint.frame().await.code(), 1001);
}

#[tokio::test]
async fn tunnels_that_began_together_do_not_end_together() {
    let (server, gateway) = start(|rule| rule.timeouts.max_duration = 5 * SECOND).await;
    let mut tunnels = Vec::new();
    for _ in 0..40 {
        let (mut client, endpoint) = tunnel(&gateway, &server).await;
        client.send(TEXT, "traffic changes nothing").await;
        tunnels.push((client, endpoint, Instant::now()));
    }
    let ages = join_all(tunnels.iter_mut().map(async |(client, _, opened)| {
        assert_eq!(client.frame().await.code(), 1001);
        opened.elapsed().as_secs_f64()
    }))
    .await;
    let (least, most) = ages
        .iter()
        .fold((f64::MAX, 0.0_f64), |(least, most), age| (least.min(*age), most.max(*age)));
    assert!(least >= 4.4, "a tenth earlier at most: {least}");
    assert!(most - least > 0.3, "all between {least} and {most}");
}

#[tokio::test]
async fn a_client_that_accepts_nothing_is_told_if_it_reads_in_time() {
    let (server, gateway) = start(|rule| {
        rule.timeouts.send = SECOND;
        rule.timeouts.close_handshake = 20 * SECOND;
    })
    .await;
    let (mut client, mut endpoint) = tunnel(&gateway, &server).await;
    endpoint.fill(&frame(BINARY, &[1; 1000], None)).await;
    gateway
        .wait_for_metric("holdfast_stalled_connections", &[], |stalled| stalled == 1.0)
        .await;
    gateway.wait_for_ending().await;
    let told = loop {
        let frame = client.frame().await;
        if frame.opcode() == CLOSE {
            break frame;
        }
        assert_eq!(frame.payload, [1; 1000]);
    };
    assert_eq!((told.code(), told.reason()), (1008, "client_stalled"));
    client.close(1008).await;
    client.ends().await;
    assert_eq!(endpoint.frame().await.code(), 1001);
    drop((client, endpoint));
    let ended = gateway.record("ended").await;
    assert_eq!(ended["holdfast.end.cause"], "client_stalled");
    assert_eq!(ended["holdfast.end.mid_frame"], serde_json::Value::Null);
}

#[tokio::test]
async fn a_slow_reader_that_accepts_something_now_and_then_stays() {
    let (server, gateway) = start(|rule| rule.timeouts.send = 3 * SECOND).await;
    let (mut client, mut endpoint) = tunnel(&gateway, &server).await;
    let message = frame(BINARY, &[1; 100_000], None);
    let sent = endpoint.fill(&message).await;
    gateway
        .wait_for_metric("holdfast_stalled_connections", &[], |stalled| stalled == 1.0)
        .await;
    let started = Instant::now();
    let mut read = 0;
    while started.elapsed() < 7 * SECOND {
        // Enough at once for its window to open.
        client.bytes(message.len() * 8).await;
        read += message.len() * 8;
        assert!(gateway.records("ended").is_empty(), "ended after {read} of {sent} bytes");
        if read + 2 * message.len() * 8 > sent {
            break;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert!(gateway.records("ended").is_empty());
}

#[tokio::test]
async fn a_dial_that_nobody_answers_ends_in_time() {
    let silent = Silent::start();
    let rule = RuleBuilder::to(&[silent.address]).change(|rule| rule.timeouts.connect = SECOND);
    let gateway = Gateway::start(rule.build());
    let answer = ask(gateway.address, handshake("/", "")).await;
    assert_eq!((answer.status, answer.reason()), (504, Some("dial_timeout")));
    assert_eq!(
        gateway.metric("holdfast_endpoint_dials_total", &["result=\"timed_out\""]),
        1.0
    );
}

#[tokio::test]
async fn without_a_send_timeout_a_side_may_take_its_time() {
    let (server, gateway) = start(|rule| rule.timeouts.send = Duration::ZERO).await;
    let (mut client, mut endpoint) = tunnel(&gateway, &server).await;
    let message = frame(BINARY, &[1; 1000], None);
    let sent = endpoint.fill(&message).await;
    gateway
        .wait_for_metric("holdfast_stalled_connections", &[], |stalled| stalled == 1.0)
        .await;
    tokio::time::sleep(4 * SECOND).await;
    assert_eq!(client.bytes(sent).await.len(), sent);
    assert!(gateway.records("ended").is_empty());
}
