//! Heartbeats: whose pongs are whose, when none is sent, and what a missing answer means.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::support::{
    BINARY, Frame, Gateway, PING, PONG, Peer, RuleBuilder, Server, TEXT, frame, handshake, header_values, heartbeat, tunnel,
};

async fn start(change: impl FnOnce(&mut RuleBuilder)) -> (Server, Gateway) {
    let server = Server::start().await;
    let gateway = Gateway::start(RuleBuilder::to(&[server.address]).change(change).build());
    (server, gateway)
}

fn pings_client(rule: &mut RuleBuilder) {
    rule.heartbeat.client = heartbeat(1, 2);
}

/// The next frame, which must be a ping.
async fn ping(peer: &mut Peer) -> Frame {
    let frame = peer.frame().await;
    assert_eq!(frame.first, 0x80 | PING, "{frame:?}");
    frame
}

#[tokio::test]
async fn a_pong_is_kept_from_the_other_side_only_if_it_answers_a_ping_of_ours() {
    let (server, gateway) = start(pings_client).await;
    let (mut client, mut endpoint) = tunnel(&gateway, &server).await;
    let token = ping(&mut client).await.payload;
    // With a ping out pongs are held until they are complete; what is not ours goes on unchanged.
    let foreign = frame(0x80 | PONG, b"not yours", Some([7, 7, 7, 7]));
    for byte in &foreign {
        client.write([*byte]).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(endpoint.bytes(foreign.len()).await, foreign);
    for odd in [
        frame(0x80 | PONG, &token[..7], Some([1, 2, 3, 4])),
        frame(0x80 | PONG, &[&token[..], b"!"].concat(), Some([1, 2, 3, 4])),
        frame(0x80 | PONG, &[0; 125], Some([1, 2, 3, 4])),
        frame(0x80 | PONG, &[0; 300], Some([1, 2, 3, 4])), // larger than a pong may be
        frame(0x80 | PONG, b"", Some([1, 2, 3, 4])),
    ] {
        client.write(&odd).await;
        assert_eq!(endpoint.bytes(odd.len()).await, odd);
    }
    // Ours, in pieces, between a message and the next.
    let ours = frame(0x80 | PONG, &token, Some([9, 8, 7, 6]));
    let (before, after) = (frame(TEXT, b"before", Some([1; 4])), frame(TEXT, b"after", Some([2; 4])));
    client.write([&before, &ours[..9]].concat()).await;
    assert_eq!(endpoint.frame().await.payload, b"before");
    client.write([&ours[9..], &after].concat()).await;
    assert_eq!(endpoint.frame().await.payload, b"after");
    // A second answer to the same ping is nobody's; with none out, it passes.
    drop((client, endpoint));
    let ended = gateway.record("ended").await;
    assert!(ended["holdfast.heartbeat.rtt_seconds"].is_number(), "{ended}");
    assert_eq!(
        gateway.metric("holdfast_heartbeat_rtt_seconds_count", &["leg=\"client\""]),
        1.0
    );
    assert_eq!(
        gateway.metric("holdfast_heartbeat_rtt_seconds_count", &["leg=\"endpoint\""]),
        0.0
    );
}

#[tokio::test]
async fn pings_and_pongs_of_the_two_sides_pass() {
    let (server, gateway) = start(|_| {}).await;
    let (mut client, mut endpoint) = tunnel(&gateway, &server).await;
    client.send(0x80 | PONG, "unasked").await;
    assert_eq!(endpoint.frame().await.payload, b"unasked");
    endpoint.send(0x80 | PING, "there?").await;
    assert_eq!(ping(&mut client).await.payload, b"there?");
    client.send(0x80 | PONG, "there?").await;
    assert_eq!(endpoint.frame().await.payload, b"there?");
    client.send(0x80 | PING, "and you?").await;
    assert_eq!(ping(&mut endpoint).await.payload, b"and you?");
    endpoint.send(0x80 | PONG, "and you?").await;
    assert_eq!(client.frame().await.payload, b"and you?");
}

#[tokio::test]
async fn a_leg_that_shows_life_is_not_pinged() {
    let (server, gateway) = start(pings_client).await;
    let (mut client, mut endpoint) = tunnel(&gateway, &server).await;
    let started = Instant::now();
    let mut gap = Duration::ZERO;
    let mut last = started;
    while started.elapsed() < Duration::from_secs(3) {
        client.send(TEXT, "alive").await;
        assert_eq!(endpoint.frame().await.payload, b"alive");
        sleep(Duration::from_millis(50)).await;
        gap = gap.max(last.elapsed());
        last = Instant::now();
    }
    // Unless this machine itself stood still for about an interval.
    assert!(
        client.has_nothing() || gap > Duration::from_millis(700),
        "pinged, though it spoke"
    );
}

#[tokio::test]
async fn a_ping_of_the_other_side_goes_first() {
    let (server, gateway) = start(pings_client).await;
    let (mut client, mut endpoint) = tunnel(&gateway, &server).await;
    let started = Instant::now();
    let mut gap = Duration::ZERO;
    let mut last = started;
    while started.elapsed() < Duration::from_secs(3) {
        endpoint.send(0x80 | PING, "theirs").await;
        let seen = ping(&mut client).await.payload;
        if seen != b"theirs" {
            assert!(
                gap.max(last.elapsed()) > Duration::from_millis(700),
                "pinged beside the endpoint"
            );
            return; // this machine stood still
        }
        sleep(Duration::from_millis(50)).await;
        gap = gap.max(last.elapsed());
        last = Instant::now();
    }
    // Unanswered, theirs delays ours by an interval and no longer.
    assert_eq!(ping(&mut client).await.payload.len(), 8);
}

#[tokio::test]
async fn a_peer_that_never_answered_is_left_to_tcp() {
    let (server, gateway) = start(|rule| {
        rule.heartbeat.client = heartbeat(1, 1);
        rule.heartbeat.endpoint = heartbeat(1, 1);
    })
    .await;
    let (mut client, mut endpoint) = tunnel(&gateway, &server).await;
    for _ in 0..4 {
        ping(&mut client).await;
        ping(&mut endpoint).await;
    }
    client.send(TEXT, "I do not do pings").await;
    loop {
        let frame = endpoint.frame().await;
        if frame.first == TEXT {
            break assert_eq!(frame.payload, b"I do not do pings");
        }
    }
    assert!(gateway.metric("holdfast_heartbeats_missed_total", &["leg=\"client\""]) >= 2.0);
    assert!(gateway.records("ended").is_empty());
}

#[tokio::test]
async fn only_misses_in_a_row_count() {
    let (server, gateway) = start(pings_client).await;
    let (mut client, _endpoint) = tunnel(&gateway, &server).await;
    for _ in 0..2 {
        // One is missed, the next is answered.
        ping(&mut client).await;
        let token = ping(&mut client).await.payload;
        client.send(0x80 | PONG, token).await;
    }
    assert!(gateway.records("ended").is_empty());
    // And now two in a row.
    ping(&mut client).await;
    ping(&mut client).await;
    let told = client.frame().await;
    assert_eq!((told.code(), told.reason()), (1012, "heartbeat_lost"));
}

#[tokio::test]
async fn a_leg_that_accepts_nothing_is_not_pinged() {
    let (server, gateway) = start(|rule| rule.heartbeat.client = heartbeat(1, 1)).await;
    let (mut client, mut endpoint) = tunnel(&gateway, &server).await;
    // It answers once, so that a missed pong would end it.
    let token = ping(&mut client).await.payload;
    client.send(0x80 | PONG, token).await;
    let message = frame(BINARY, &[1; 10_000], None);
    let sent = endpoint.fill(&message).await;
    gateway
        .wait_for_metric("holdfast_stalled_connections", &[], |stalled| stalled == 1.0)
        .await;
    sleep(Duration::from_secs(4)).await; // three intervals and more
    assert!(gateway.records("ended").is_empty(), "its silence was held against it");
    for _ in 0..sent / message.len() {
        let frame = client.frame().await;
        assert_eq!(frame.first, BINARY, "a ping among what was queued");
    }
}

#[tokio::test]
async fn a_client_that_a_trusted_proxy_in_front_pings_is_not_pinged_again() {
    let told = "Holdfast-Heartbeat: client\r\n";
    let server = Server::start().await;
    let rules = RuleBuilder::to(&[server.address]).change(|rule| {
        pings_client(rule);
        rule.heartbeat.endpoint = heartbeat(1, 10);
    });
    let gateway = Gateway::with(rules.build(), |settings| {
        settings.trust.proxies = vec!["127.0.0.1/32".parse().unwrap()]
    });
    let mut client = Peer::connect(gateway.address).await;
    client.write(handshake("/", told)).await;
    let (mut endpoint, head) = server.accept().await;
    assert_eq!(
        header_values(&head, "holdfast-heartbeat"),
        ["client"],
        "the next one is told as well"
    );
    client.head().await;
    for _ in 0..3 {
        ping(&mut endpoint).await; // as much time as a ping to the client would have taken
    }
    assert!(client.has_nothing());

    // Who is not trusted is not believed.
    let gateway = Gateway::start(RuleBuilder::to(&[server.address]).change(pings_client).build());
    let mut client = Peer::connect(gateway.address).await;
    client.write(handshake("/", told)).await;
    let (_endpoint, _) = server.accept().await;
    client.head().await;
    ping(&mut client).await;
}
