//! Frames of Holdfast's own: between two frames of a stream, never inside one, and as their receiver may expect them.

use std::{collections::HashSet, time::Duration};

use fastrand::Rng;
use tokio::{io::AsyncWriteExt, net::tcp::OwnedWriteHalf};

use crate::support::{BINARY, CLOSE, Gateway, PING, PONG, Peer, RuleBuilder, Server, frame, heartbeat, tunnel};

/// Sends one message in fragments of all sizes for as long as somebody takes them, each with its number.
async fn stream_fragments(mut half: OwnedWriteHalf, masked: bool, seed: u64) {
    let mut rng = Rng::with_seed(seed);
    let mut first = 0x02; // binary, to be continued
    for number in 0_u64.. {
        let mut payload = number.to_be_bytes().to_vec();
        let most = if rng.bool() { 120 } else { 30_000 };
        payload.resize(8 + rng.usize(..most), 0);
        let bytes = frame(first, &payload, masked.then(|| rng.u32(..).to_ne_bytes()));
        let (head, tail) = bytes.split_at(rng.usize(..bytes.len()));
        if half.write_all(head).await.is_err() || half.write_all(tail).await.is_err() {
            return;
        }
        tokio::task::yield_now().await;
        first = 0x00;
    }
}

/// Reads frames until `stop` says so; data frames must be the whole sequence. Returns the other frames.
async fn read_fragments(peer: &mut Peer, next: &mut u64, mut stop: impl FnMut(&[u8], u8) -> bool) {
    loop {
        let frame = peer.frame().await;
        if frame.first & 0x0F < 0x8 {
            assert_eq!(frame.first, if *next == 0 { 0x02 } else { 0x00 });
            assert_eq!(u64::from_be_bytes(*frame.payload.first_chunk().unwrap()), *next);
            *next += 1;
        } else if stop(&frame.payload, frame.opcode()) {
            return;
        }
    }
}

#[tokio::test]
async fn pings_and_the_close_go_between_the_fragments_of_a_message_to_the_client() {
    let server = Server::start().await;
    let rule = RuleBuilder::to(&[server.address]).change(|rule| rule.heartbeat.client = heartbeat(1, 10));
    let mut gateway = Gateway::start(rule.build());
    let (mut client, endpoint) = tunnel(&gateway, &server).await;
    let (_reading, writing) = endpoint.socket.into_split();
    let sending = tokio::spawn(stream_fragments(writing, false, 1));
    let (mut next, mut pings) = (0, 0);
    read_fragments(&mut client, &mut next, |payload, opcode| {
        assert_eq!((opcode, payload.len()), (PING, 8));
        pings += 1;
        pings == 2
    })
    .await;
    gateway.drain(Duration::ZERO);
    read_fragments(&mut client, &mut next, |_, opcode| opcode == CLOSE).await;
    client.close(1012).await;
    client.ends().await;
    sending.abort();
    assert!(next > 0);
}

#[tokio::test]
async fn pings_and_the_close_go_between_the_fragments_of_a_message_to_the_endpoint_masked() {
    let server = Server::start().await;
    let rule = RuleBuilder::to(&[server.address]).change(|rule| {
        rule.heartbeat.endpoint = heartbeat(1, 10);
        rule.timeouts.close_handshake = Duration::from_secs(1);
    });
    let gateway = Gateway::start(rule.build());
    let (client, mut endpoint) = tunnel(&gateway, &server).await;
    let (reading, writing) = client.socket.into_split();
    let sending = tokio::spawn(stream_fragments(writing, true, 2));
    let (mut next, mut pings) = (0, 0);
    // `Peer::frame` checks that every frame is masked.
    read_fragments(&mut endpoint, &mut next, |payload, opcode| {
        assert_eq!((opcode, payload.len()), (PING, 8));
        pings += 1;
        pings == 2
    })
    .await;
    sending.abort();
    let _ = sending.await;
    drop(reading);
    // The client left wherever it was: inside a frame there is no Close.
    let rest = endpoint.rest().await;
    assert!(!rest.is_empty() || gateway.record("ended").await["holdfast.end.mid_frame"] == true);
}

#[tokio::test]
async fn masks_and_tokens_cannot_be_foreseen() {
    let server = Server::start().await;
    let rule = RuleBuilder::to(&[server.address]).change(|rule| rule.heartbeat.endpoint = heartbeat(1, 10));
    let gateway = Gateway::start(rule.build());
    let (mut masks, mut tokens) = (HashSet::new(), HashSet::new());
    let mut tunnels = Vec::new();
    for _ in 0..8 {
        tunnels.push(tunnel(&gateway, &server).await);
    }
    for (_, endpoint) in &mut tunnels {
        for _ in 0..2 {
            let ping = endpoint.bytes(2 + 4 + 8).await;
            assert_eq!(ping[..2], [0x80 | PING, 0x80 | 8]);
            masks.insert(ping[2..6].to_vec());
            let token: Vec<u8> = ping[6..].iter().zip(ping[2..6].iter().cycle()).map(|(a, b)| a ^ b).collect();
            tokens.insert(token);
        }
    }
    assert_eq!(masks.len(), 16, "a fresh mask for each frame");
    assert!(tokens.len() >= 8, "a token for each tunnel at least");
    assert!(masks.iter().all(|mask| mask != &[0; 4]));
}

#[tokio::test]
async fn a_close_waits_behind_what_a_slow_reader_has_not_read() {
    let server = Server::start().await;
    let rule = RuleBuilder::to(&[server.address]).change(|rule| rule.timeouts.close_handshake = Duration::from_secs(20));
    let mut gateway = Gateway::start(rule.build());
    let (mut client, mut endpoint) = tunnel(&gateway, &server).await;
    let message = frame(BINARY, &[7; 1000], None);
    endpoint.fill(&message).await;
    gateway
        .wait_for_metric("holdfast_stalled_connections", &[], |stalled| stalled == 1.0)
        .await;
    let mut witness = tunnel(&gateway, &server).await;
    gateway.drain(Duration::ZERO);
    assert_eq!(witness.0.frame().await.code(), 1012, "all are told at once");
    // What was queued comes first, whole frames, and then the Close.
    let mut messages = 0;
    let close = loop {
        let frame = client.frame().await;
        match frame.opcode() {
            CLOSE => break frame,
            _ => assert_eq!(frame.payload, [7; 1000]),
        }
        messages += 1;
    };
    assert!(messages > 0);
    assert_eq!((close.code(), close.reason()), (1012, "drain"));
    client.close(1012).await;
    client.ends().await;
    assert_eq!(endpoint.frame().await.code(), 1001);
}

#[tokio::test]
async fn pings_go_out_while_nothing_else_does() {
    let server = Server::start().await;
    let rule = RuleBuilder::to(&[server.address]).change(|rule| {
        rule.heartbeat.client = heartbeat(1, 3);
        rule.heartbeat.endpoint = heartbeat(1, 3);
    });
    let gateway = Gateway::start(rule.build());
    let (mut client, mut endpoint) = tunnel(&gateway, &server).await;
    for _ in 0..3 {
        for peer in [&mut client, &mut endpoint] {
            let ping = peer.frame().await;
            assert_eq!((ping.first, ping.payload.len()), (0x80 | PING, 8));
            peer.send(0x80 | PONG, ping.payload).await;
        }
    }
    assert!(
        client.has_nothing() && endpoint.has_nothing(),
        "no pong of a ping of ours passes"
    );
}
