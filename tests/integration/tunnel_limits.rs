//! Limits inside a tunnel: what passes, what does not, and who is told what, byte by byte.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use holdfast::routing::{
    limits::Limits,
    rate::Rate,
    tunnel_limits::{OnExceeded, SideLimits},
};
use rustls::version::{TLS12, TLS13};
use tokio::io::AsyncWriteExt;

use crate::{
    support::{BINARY, CLOSE, Gateway, PING, PONG, Peer, RuleBuilder, Server, TEXT, frame, heartbeat, tunnel, tunnel_limits},
    tls_client::{client_config, connect_with, made, open, read, show_rules},
};

const MASK: Option<[u8; 4]> = Some([1, 2, 3, 4]);

/// So many at once, and the next one in an hour.
fn at_most(count: u32) -> Option<Rate> {
    Some(Rate::new(1, Duration::from_secs(3600), count))
}

fn per_second(count: u32, burst: u32) -> Option<Rate> {
    Some(Rate::new(count, Duration::from_secs(1), burst))
}

/// A tunnel whose client may send this.
async fn limited(limits: SideLimits) -> (Gateway, Peer, Peer) {
    with(tunnel_limits(Some(limits), None), |_| {}).await
}

async fn with(limits: Option<Arc<Limits>>, change: impl FnOnce(&mut RuleBuilder)) -> (Gateway, Peer, Peer) {
    let server = Server::start().await;
    let mut rule = RuleBuilder::to(&[server.address]);
    rule.limits = limits;
    change(&mut rule);
    let gateway = Gateway::start(rule.build());
    let (client, endpoint) = tunnel(&gateway, &server).await;
    (gateway, client, endpoint)
}

/// The client sends messages 0, 1, ... in one piece.
fn messages(count: u32, mask: Option<[u8; 4]>) -> Vec<u8> {
    (0..count)
        .flat_map(|number| frame(BINARY, &number.to_be_bytes(), mask))
        .collect()
}

async fn expect_messages(peer: &mut Peer, numbers: std::ops::Range<u32>) {
    for number in numbers {
        assert_eq!(peer.frame().await.payload, number.to_be_bytes());
    }
}

#[tokio::test]
async fn a_flood_of_messages_ends_behind_the_last_one_allowed() {
    let (gateway, mut client, mut endpoint) = limited(SideLimits {
        messages: at_most(50),
        ..SideLimits::default()
    })
    .await;
    client.write(messages(500, MASK)).await;
    expect_messages(&mut endpoint, 0..50).await;
    // The endpoint need not wait for the client's answer: nothing of it is still to come.
    let told = endpoint.frame().await;
    assert_eq!((told.code(), told.reason()), (1001, "message_rate"));
    let told = client.frame().await;
    assert_eq!((told.code(), told.reason()), (1008, "message_rate"));
    client.write(messages(500, MASK)).await;
    client.close(1008).await;
    client.ends().await;
    endpoint.shut_down().await;
    endpoint.ends().await;
    let record = gateway.record("ended").await;
    assert_eq!(record["holdfast.end.cause"], "message_rate");
    assert_eq!(record["holdfast.messages.to_endpoint"], 1000, "read, if not passed on");
    let labels = ["direction=\"to_endpoint\"", "limit=\"message_rate\"", "outcome=\"closed\""];
    assert_eq!(gateway.metric("holdfast_tunnel_limited_total", &labels), 1.0);
}

#[tokio::test]
async fn a_frame_that_announces_too_much_is_refused_before_its_payload_comes() {
    for (limits, word) in [
        (
            SideLimits {
                max_frame: Some(1000),
                ..SideLimits::default()
            },
            "frame_too_large",
        ),
        (
            SideLimits {
                max_message: Some(1000),
                ..SideLimits::default()
            },
            "message_too_large",
        ),
    ] {
        let (gateway, mut client, mut endpoint) = limited(limits).await;
        client.send(BINARY, [7; 1000]).await;
        assert_eq!(endpoint.frame().await.payload, [7; 1000]);
        // Byte by byte, and then nothing: the header alone decides.
        for byte in &frame(BINARY, &[7; 1001], MASK)[..8] {
            assert!(endpoint.has_nothing());
            client.write([*byte]).await;
        }
        let told = client.frame().await;
        assert_eq!((told.code(), told.reason()), (1009, word));
        assert_eq!(endpoint.frame().await.code(), 1001);
        // What it would be in the middle of does not hide its answer.
        client.write(&[7; 1001]).await;
        client.close(1009).await;
        client.ends().await;
        endpoint.shut_down().await;
        endpoint.ends().await;
        let record = gateway.record("ended").await;
        assert_eq!(record["holdfast.end.cause"], word);
        assert_eq!(record["holdfast.close.client.received"], 1009);
        assert_eq!(record.get("holdfast.end.mid_frame"), None);
    }
}

#[tokio::test]
async fn fragments_add_up_and_the_one_too_many_does_not_pass() {
    let (gateway, mut client, mut endpoint) = limited(SideLimits {
        max_message: Some(1000),
        ..SideLimits::default()
    })
    .await;
    // A whole message of as much, a Ping between its fragments, and another one.
    for _ in 0..2 {
        client.send(0x01, [1; 500]).await;
        client.send(0x80 | PING, [9; 100]).await;
        client.send(0x80, [2; 500]).await;
        for len in [500, 100, 500] {
            assert_eq!(endpoint.frame().await.payload.len(), len);
        }
    }
    client.send(0x01, [1; 900]).await;
    client.send(0x00, [2; 100]).await;
    client.send(0x00, [3; 1]).await;
    assert_eq!(endpoint.frame().await.payload.len(), 900);
    assert_eq!(endpoint.frame().await.payload.len(), 100);
    assert_eq!(endpoint.frame().await.code(), 1001, "between two fragments a Close may go");
    assert_eq!(client.frame().await.code(), 1009);
    client.close(1009).await;
    drop(endpoint);
    assert_eq!(gateway.record("ended").await["holdfast.end.cause"], "message_too_large");
}

#[tokio::test]
async fn what_an_endpoint_sends_too_much_of_is_told_to_it_and_its_client_may_come_back() {
    let limits = SideLimits {
        messages: at_most(3),
        max_frame: Some(1000),
        ..SideLimits::default()
    };
    for (excess, code, word) in [
        (frame(BINARY, &[1; 1001], None), 1009, "endpoint_frame_too_large"),
        (messages(4, None), 1008, "endpoint_message_rate"),
    ] {
        let (gateway, mut client, mut endpoint) = with(tunnel_limits(None, Some(limits.clone())), |_| {}).await;
        endpoint.write(&excess).await;
        if code == 1008 {
            expect_messages(&mut client, 0..3).await;
        }
        let told = client.frame().await;
        assert_eq!((told.code(), told.reason()), (1012, word));
        // Until the client answers, what it sends still arrives.
        client.send(TEXT, "last").await;
        assert_eq!(endpoint.frame().await.payload, b"last");
        client.close(1012).await;
        let told = endpoint.frame().await;
        assert_eq!((told.code(), told.reason()), (code, word));
        endpoint.close(code).await;
        endpoint.shut_down().await;
        client.ends().await;
        assert_eq!(gateway.record("ended").await["holdfast.end.cause"], word);
    }
}

#[tokio::test]
async fn the_frame_in_which_there_are_too_many_bytes_still_passes_whole() {
    let (gateway, mut client, mut endpoint) = limited(SideLimits {
        bytes: per_second(10_000, 10_000),
        ..SideLimits::default()
    })
    .await;
    client.send(BINARY, [1; 5000]).await;
    client.write(frame(BINARY, &[2; 8000], MASK)).await;
    assert_eq!(endpoint.frame().await.payload, [1; 5000]);
    assert_eq!(endpoint.frame().await.payload, [2; 8000]);
    let told = endpoint.frame().await;
    assert_eq!((told.code(), told.reason()), (1001, "byte_rate"));
    assert_eq!(client.frame().await.code(), 1008);
    client.close(1008).await;
    drop(endpoint);
    let record = gateway.record("ended").await;
    assert_eq!(record["holdfast.end.cause"], "byte_rate");
    assert_eq!(record.get("holdfast.end.mid_frame"), None);
}

#[tokio::test]
async fn a_frame_without_end_is_cut_once_the_time_for_closing_is_over() {
    let (gateway, mut client, mut endpoint) = with(
        tunnel_limits(
            Some(SideLimits {
                bytes: per_second(10_000, 10_000),
                ..SideLimits::default()
            }),
            None,
        ),
        |rule| rule.timeouts.close_handshake = Duration::from_secs(1),
    )
    .await;
    client.write([BINARY, 0x80 | 127, 0, 0, 1, 0, 0, 0, 0, 0, 1, 2, 3, 4]).await;
    client.fill(&[7; 10_000]).await;
    assert_eq!(client.frame().await.code(), 1008);
    endpoint.ending().await;
    let passed = endpoint.unread().len();
    assert!((10_000..100_000).contains(&passed), "{passed} B passed");
    let record = gateway.record("ended").await;
    assert_eq!(record["holdfast.end.cause"], "byte_rate");
    assert_eq!(record["holdfast.end.mid_frame"], true);
}

#[tokio::test]
async fn a_flood_of_control_frames_ends_and_their_common_number_does_not() {
    for opcode in [PING, PONG] {
        let (gateway, mut client, mut endpoint) = limited(SideLimits {
            control_frames: at_most(5),
            on_exceeded: OnExceeded::Delay, // which is not about them
            messages: at_most(1000),
            ..SideLimits::default()
        })
        .await;
        for number in 0..5_u8 {
            client.send(0x80 | opcode, [number]).await;
            client.send(TEXT, "between").await;
            assert_eq!(endpoint.frame().await.payload, [number]);
            assert_eq!(endpoint.frame().await.payload, b"between");
        }
        client.send(0x80 | opcode, [5]).await;
        assert_eq!(endpoint.frame().await.code(), 1001);
        let told = client.frame().await;
        assert_eq!((told.code(), told.reason()), (1008, "control_flood"));
        client.close(1008).await;
        drop(endpoint);
        assert_eq!(gateway.record("ended").await["holdfast.end.cause"], "control_flood");
    }
}

#[tokio::test]
async fn empty_fragments_count_as_control_frames_and_a_close_never_does() {
    let (gateway, mut client, mut endpoint) = limited(SideLimits {
        control_frames: at_most(2),
        ..SideLimits::default()
    })
    .await;
    client.send(0x01, []).await;
    client.send(0x00, []).await;
    client.close(1000).await;
    for _ in 0..2 {
        assert!(endpoint.frame().await.payload.is_empty());
    }
    assert_eq!(endpoint.frame().await.code(), 1000);
    endpoint.close(1000).await;
    assert_eq!(client.frame().await.code(), 1000);
    drop((client, endpoint));
    assert_eq!(gateway.record("ended").await["holdfast.end.cause"], "closed");
}

#[tokio::test]
async fn answers_to_our_pings_count_for_nobody() {
    let limits = SideLimits {
        control_frames: at_most(1),
        bytes: at_most(2 + 4 + 8),
        ..SideLimits::default()
    };
    let (_gateway, mut client, mut endpoint) = with(tunnel_limits(Some(limits), None), |rule| {
        rule.heartbeat.client = heartbeat(1, 10);
    })
    .await;
    for _ in 0..3 {
        let ping = client.frame().await;
        assert_eq!(ping.opcode(), PING);
        client.send(0x80 | PONG, ping.payload).await;
    }
    client.send(0x80 | PONG, [7; 8]).await; // one of its own, with as many bytes as it may send
    assert_eq!(endpoint.frame().await.payload, [7; 8]);
    assert!(endpoint.has_nothing() && endpoint.unread().is_empty());
}

#[tokio::test]
async fn a_delayed_side_loses_nothing_and_does_not_slow_the_other() {
    let (gateway, mut client, mut endpoint) = limited(SideLimits {
        messages: per_second(100, 100),
        on_exceeded: OnExceeded::Delay,
        ..SideLimits::default()
    })
    .await;
    let started = Instant::now();
    client.write(messages(200, MASK)).await;
    // A reading takes a few more messages than are allowed; the debt is waited for before the next one.
    expect_messages(&mut endpoint, 0..101).await;
    for number in 0..1000_u32 {
        endpoint.send(BINARY, number.to_be_bytes()).await;
    }
    expect_messages(&mut client, 0..1000).await;
    expect_messages(&mut endpoint, 101..200).await;
    assert!(started.elapsed() >= Duration::from_millis(700), "{:?}", started.elapsed());
    let direction = ["direction=\"to_endpoint\""];
    assert!(gateway.metric("holdfast_delayed_seconds_total", &direction) > 0.0);
    let labels = ["limit=\"message_rate\"", "outcome=\"delayed\""];
    assert!(
        gateway.metric("holdfast_tunnel_limited_total", &labels) > 1.0,
        "in many small steps"
    );
    client.close(1000).await;
    assert_eq!(endpoint.frame().await.code(), 1000);
    endpoint.close(1000).await;
    assert_eq!(client.frame().await.code(), 1000);
}

#[tokio::test]
async fn bytes_are_paced_in_small_pieces_and_arrive_as_they_were_sent() {
    let (gateway, mut client, mut endpoint) = limited(SideLimits {
        bytes: per_second(200_000, 20_000),
        on_exceeded: OnExceeded::Delay,
        ..SideLimits::default()
    })
    .await;
    let payload: Vec<u8> = (0..200_000_u32).map(|number| number as u8).collect();
    let started = Instant::now();
    let ((), got) = tokio::join!(client.send(BINARY, &payload), endpoint.frame());
    assert!(got.payload == payload);
    assert!(started.elapsed() >= Duration::from_millis(800), "{:?}", started.elapsed());
    let labels = ["limit=\"byte_rate\"", "outcome=\"delayed\""];
    assert!(gateway.metric("holdfast_tunnel_limited_total", &labels) > 10.0);
}

#[tokio::test]
async fn a_drain_does_not_wait_for_a_delay_and_loses_nothing_that_the_client_sent() {
    let (mut gateway, mut client, mut endpoint) = limited(SideLimits {
        messages: at_most(1),
        on_exceeded: OnExceeded::Delay,
        ..SideLimits::default()
    })
    .await;
    client.write(messages(1000, MASK)).await;
    expect_messages(&mut endpoint, 0..1).await;
    gateway
        .wait_for_metric("holdfast_delayed_connections", &[], |delayed| delayed == 1.0)
        .await;
    gateway.drain(Duration::ZERO);
    assert_eq!(client.frame().await.code(), 1012);
    client.close(1012).await;
    expect_messages(&mut endpoint, 1..1000).await;
    assert_eq!(endpoint.frame().await.code(), 1001);
    drop(endpoint);
    client.ends().await;
    assert_eq!(gateway.record("ended").await["holdfast.end.cause"], "drain");
}

#[tokio::test]
async fn a_delayed_client_is_not_taken_for_a_silent_one() {
    let limits = SideLimits {
        messages: per_second(1, 1),
        on_exceeded: OnExceeded::Delay,
        ..SideLimits::default()
    };
    let (_gateway, mut client, mut endpoint) = with(tunnel_limits(Some(limits), None), |rule| {
        rule.heartbeat.client = heartbeat(1, 1);
    })
    .await;
    let ping = client.frame().await;
    client.send(0x80 | PONG, ping.payload).await; // from here on a missed one ends the tunnel
    // Three seconds of messages, with the answers to pings behind them.
    client.write(messages(4, MASK)).await;
    expect_messages(&mut endpoint, 0..4).await;
    let ping = client.frame().await;
    assert_eq!(ping.opcode(), PING);
    client.send(0x80 | PONG, ping.payload).await;
    client.send(TEXT, "alive").await;
    assert_eq!(endpoint.frame().await.payload, b"alive");
}

#[tokio::test]
async fn a_dry_run_counts_and_lets_everything_pass() {
    let limits = SideLimits {
        messages: at_most(10),
        bytes: at_most(100),
        max_frame: Some(1),
        control_frames: at_most(1),
        is_dry_run: true,
        ..SideLimits::default()
    };
    for on_exceeded in [OnExceeded::Close, OnExceeded::Delay] {
        let limits = SideLimits {
            on_exceeded,
            max_frame: None,
            ..limits.clone()
        };
        let (gateway, mut client, mut endpoint) = limited(limits).await;
        client.write(messages(100, MASK)).await;
        client.send(0x80 | PING, "a").await;
        client.send(0x80 | PING, "b").await;
        expect_messages(&mut endpoint, 0..100).await;
        for payload in ["a", "b"] {
            assert_eq!(endpoint.frame().await.payload, payload.as_bytes());
        }
        let count = |limit: &str| {
            let limit = format!("limit=\"{limit}\"");
            gateway.metric("holdfast_tunnel_limited_total", &[&limit, "outcome=\"dry_run\""])
        };
        assert_eq!((count("message_rate"), count("control_flood")), (90.0, 1.0));
        assert!(count("byte_rate") > 0.0);
        assert_eq!(gateway.metric("holdfast_delayed_seconds_total", &[]), 0.0);
        endpoint.send(TEXT, "back").await;
        assert_eq!(client.frame().await.payload, b"back");
    }
    let (gateway, mut client, mut endpoint) = limited(limits).await;
    client.send(BINARY, "large").await;
    assert_eq!(endpoint.frame().await.payload, b"large");
    let labels = ["limit=\"frame_too_large\"", "outcome=\"dry_run\""];
    assert_eq!(gateway.metric("holdfast_tunnel_limited_total", &labels), 1.0);
}

#[tokio::test]
async fn an_open_tunnel_keeps_the_limits_that_it_was_opened_with() {
    let server = Server::start().await;
    let cell = RuleBuilder::to(&[server.address]).cell;
    let rules = |limits| {
        let rule = RuleBuilder::to(&[]).change(|rule| {
            rule.cell = cell.clone();
            rule.limits = limits;
        });
        rule.build()
    };
    let limits = SideLimits {
        max_message: Some(3),
        ..SideLimits::default()
    };
    let gateway = Gateway::start(rules(None));
    let (mut free, mut free_endpoint) = tunnel(&gateway, &server).await;
    gateway.publish(rules(tunnel_limits(Some(limits), None)));
    let (mut bound, mut bound_endpoint) = tunnel(&gateway, &server).await;
    gateway.publish(rules(None));
    free.send(TEXT, "four").await;
    assert_eq!(free_endpoint.frame().await.payload, b"four");
    bound.send(TEXT, "four").await;
    assert_eq!(bound_endpoint.frame().await.code(), 1001);
    assert_eq!(bound.frame().await.code(), 1009);
}

#[tokio::test]
async fn limits_hold_behind_tls() {
    for version in [&TLS13, &TLS12] {
        let made = made("a", &["a.test"]);
        let server = Server::start().await;
        let closing = SideLimits {
            messages: at_most(50),
            ..SideLimits::default()
        };
        let delaying = SideLimits {
            messages: per_second(100, 50),
            on_exceeded: OnExceeded::Delay,
            ..SideLimits::default()
        };
        let mut gateway = Gateway::start(vec![]);
        let config = client_config(&made.root, &[version]);
        show_rules(&mut gateway, limited_to(&server, closing), &[("a.test", &made)]);
        let stream = connect_with(&gateway, "a.test", config.clone()).await.unwrap();
        let (mut client, mut endpoint) = open(stream, "a.test", &server).await;
        client.write_all(&messages(500, MASK)).await.unwrap();
        client.flush().await.unwrap();
        expect_messages(&mut endpoint, 0..50).await;
        assert_eq!(endpoint.frame().await.code(), 1001);
        let told = [&1008_u16.to_be_bytes()[..], b"message_rate"].concat();
        let told = frame(0x80 | CLOSE, &told, None);
        assert_eq!(read(&mut client, told.len()).await, told);

        show_rules(&mut gateway, limited_to(&server, delaying), &[("a.test", &made)]);
        let stream = connect_with(&gateway, "a.test", config).await.unwrap();
        let (mut client, mut endpoint) = open(stream, "a.test", &server).await;
        let started = Instant::now();
        client.write_all(&messages(100, MASK)).await.unwrap();
        client.flush().await.unwrap();
        expect_messages(&mut endpoint, 0..100).await;
        assert!(started.elapsed() >= Duration::from_millis(300), "{:?}", started.elapsed());
    }
}

fn limited_to(server: &Server, limits: SideLimits) -> Vec<holdfast::routing::table::RuleSpec> {
    let mut rule = RuleBuilder::to(&[server.address]);
    rule.limits = tunnel_limits(Some(limits), None);
    rule.build()
}
