//! Which candidate becomes the endpoint when dials fail or hang.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use holdfast::routing::{Endpoint, EndpointKey, EndpointSet, endpoint::State, health::Passive};

use crate::support::{
    Gateway, PATIENCE, Peer, RuleBuilder, Server, Silent, ask, closed_port, handshake, service, switching, tcp_row, tunnel,
};

/// One endpoint with several addresses, which are tried in this order.
fn endpoint_at(addresses: &[SocketAddr]) -> EndpointSet {
    let key = EndpointKey {
        service: service(),
        identity: "pod".into(),
        port: 80,
    };
    let endpoint = Endpoint::new(key, Some("pod".into()), addresses.to_vec());
    EndpointSet::new(vec![(Arc::new(endpoint), State::Ready)])
}

fn rule_at(addresses: &[SocketAddr]) -> RuleBuilder {
    let rule = RuleBuilder::to(&[]);
    rule.store(endpoint_at(addresses));
    rule
}

#[tokio::test]
async fn a_candidate_that_refuses_is_followed_by_the_next() {
    let server = Server::start().await;
    let gateway = Gateway::start(RuleBuilder::to(&[closed_port(), server.address, closed_port()]).build());
    for _ in 0..12 {
        tunnel(&gateway, &server).await;
        let opened = gateway.record("opened").await;
        assert_eq!(opened["destination.port"], server.address.port());
    }
    assert_eq!(
        gateway.metric("holdfast_endpoint_dials_total", &["result=\"connected\""]),
        12.0
    );
    assert!(gateway.metric("holdfast_endpoint_dials_total", &["result=\"refused\""]) > 0.0);
    gateway
        .wait_for_metric("holdfast_endpoint_connections_active", &[], |open| open == 0.0)
        .await;
}

#[tokio::test]
async fn an_address_that_refuses_says_nothing_of_an_endpoint_while_another_may_answer() {
    let (slow, silent) = (Silent::start(), Silent::start());
    let endpoint = |identity: &str, addresses: Vec<SocketAddr>| {
        let key = EndpointKey {
            service: service(),
            identity: identity.into(),
            port: 80,
        };
        (Arc::new(Endpoint::new(key, Some(identity.into()), addresses)), State::Ready)
    };
    let rule = RuleBuilder::to(&[]).change(|rule| {
        rule.timeouts.connect = Duration::from_secs(20);
        rule.timeouts.handshake = Duration::from_secs(30);
        rule.health = Some(Passive {
            failures: 1,
            window: Duration::from_secs(60),
            min_failure_percent: 1,
            codes: Box::default(),
            early_close_within: Duration::ZERO,
            base_ejection_time: Duration::from_secs(600),
            max_ejection_time: Duration::from_secs(600),
            max_ejection_percent: 100,
        });
    });
    rule.store(EndpointSet::new(vec![
        endpoint("dual", vec![slow.address, closed_port()]),
        endpoint("silent", vec![silent.address]),
    ]));
    let gateway = Gateway::start(rule.build());
    let mut client = Peer::connect(gateway.address).await;
    client.write(handshake("/", "")).await;
    gateway
        .wait_for_metric("holdfast_endpoint_dials_total", &["result=\"refused\""], |refused| {
            refused == 1.0
        })
        .await;
    let slow = slow.revive();
    let mut endpoint = slow.connection().await;
    while !endpoint.has_request().await {
        endpoint = slow.connection().await; // one of those that had filled its queue
    }
    endpoint.head().await;
    endpoint.write(switching("")).await;
    assert!(client.head().await.starts_with("HTTP/1.1 101 "));
    assert_eq!(
        gateway.metric("holdfast_endpoint_ejected", &["endpoint_pod=\"dual\""]),
        0.0,
        "{}",
        gateway.metrics()
    );
}

#[tokio::test]
async fn a_silent_candidate_is_raced_and_left_without_a_byte() {
    let (silent, server) = (Silent::start(), Server::start().await);
    let rule = rule_at(&[silent.address, server.address]).change(|rule| rule.timeouts.connect = Duration::from_secs(20));
    let gateway = Gateway::start(rule.build());
    let mut client = Peer::connect(gateway.address).await;
    client.write(handshake("/", "")).await;
    let (_endpoint, _) = server.accept().await;
    assert!(client.head().await.starts_with("HTTP/1.1 101 "));
    assert_eq!(gateway.record("opened").await["destination.port"], server.address.port());
    gateway
        .wait_for_metric("holdfast_endpoint_dials_total", &["result=\"outrun\""], |outrun| {
            outrun == 1.0
        })
        .await;
    // Whoever else had reached it would have nothing to say.
    let queued = silent.into_queued();
    assert!(queued.iter().all(|bytes| bytes.is_empty()), "{queued:?}");
}

#[tokio::test]
async fn a_silent_candidate_that_answers_after_all_is_taken() {
    // Both are silent; the first comes back to life.
    let (first, second) = (Silent::start(), Silent::start());
    let rule = rule_at(&[first.address, second.address]).change(|rule| rule.timeouts.connect = Duration::from_secs(20));
    let gateway = Gateway::start(rule.build());
    let mut client = Peer::connect(gateway.address).await;
    client.write(handshake("/", "")).await;
    let revived = first.revive();
    let mut endpoint = loop {
        let mut endpoint = revived.connection().await;
        if endpoint.socket.peer_addr().is_ok() && endpoint.has_request().await {
            break endpoint;
        }
    };
    endpoint.head().await;
    endpoint.write(crate::support::switching("")).await;
    assert!(client.head().await.starts_with("HTTP/1.1 101 "));
}

#[tokio::test]
async fn when_all_refuse_the_client_reads_it() {
    let gateway = Gateway::start(RuleBuilder::to(&[closed_port(), closed_port(), closed_port()]).build());
    let answer = ask(gateway.address, handshake("/", "")).await;
    assert_eq!((answer.status, answer.reason()), (502, Some("connection_refused")));
    assert_eq!(gateway.metric("holdfast_endpoint_dials_total", &["result=\"refused\""]), 3.0);
    assert_eq!(gateway.metric("holdfast_endpoint_connections_active", &[]), 0.0);
}

#[tokio::test]
async fn nothing_is_tried_again_once_a_request_was_sent() {
    let (one, other) = (Server::start().await, Server::start().await);
    let gateway = Gateway::start(rule_at(&[one.address, other.address]).build());
    let mut client = Peer::connect(gateway.address).await;
    client.write(handshake("/", "")).await;
    let mut endpoint = one.connection().await;
    endpoint.head().await;
    drop(endpoint);
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.reason()), (502, Some("endpoint_closed")));
    assert_eq!(other.dialled(), 0);
}

#[tokio::test]
async fn tcp_watches_every_leg() {
    let server = Server::start().await;
    let gateway = Gateway::start(RuleBuilder::to(&[server.address]).build());
    let watched = async |local: u16, remote: u16| {
        let started = Instant::now();
        // The timer that runs is the one of keepalive.
        while tcp_row(local, remote).is_none_or(|row| !row[5].starts_with("02:")) {
            assert!(started.elapsed() < PATIENCE, "{:?}", tcp_row(local, remote));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let (here, there) = (gateway.address.port(), server.address.port());
    let port = |peer: &Peer| peer.socket.peer_addr().unwrap().port();
    let own_port = |peer: &Peer| peer.socket.local_addr().unwrap().port();

    let (client, endpoint) = tunnel(&gateway, &server).await;
    watched(here, own_port(&client)).await;
    watched(port(&endpoint), there).await;

    // A request whose answer does not end.
    let mut client = Peer::connect(gateway.address).await;
    client.write("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await;
    let mut endpoint = server.connection().await;
    endpoint.head().await;
    endpoint
        .write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
        .await;
    client.head().await;
    watched(here, own_port(&client)).await;
    watched(port(&endpoint), there).await;
}
