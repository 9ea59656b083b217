//! Passive health: which endpoints get no new connections, for how long, and how they come back.

use std::{net::SocketAddr, time::Duration};

use holdfast::routing::{
    health::Passive,
    route::{Cookie, OnUnavailable, PersistBy, Persistence},
};

use crate::{
    actor::{Act, Actor, in_turn, opened},
    support::{Answer, Gateway, PING, PONG, Peer, RuleBuilder, Server, Silent, handshake, heartbeat, tunnel},
};

/// Long enough to be for ever.
const HOUR: Duration = Duration::from_secs(3600);

fn passive() -> Passive {
    Passive {
        failures: 3,
        window: Duration::from_secs(60),
        min_failure_percent: 50,
        codes: Box::new([500, 503]),
        early_close_within: HOUR,
        base_ejection_time: HOUR,
        max_ejection_time: HOUR,
        max_ejection_percent: 100,
    }
}

fn watched(endpoints: &[SocketAddr], change: impl FnOnce(&mut Passive, &mut RuleBuilder)) -> Gateway {
    let rule = RuleBuilder::to(endpoints).change(|rule| {
        let mut passive = passive();
        change(&mut passive, rule);
        rule.health = Some(passive);
    });
    Gateway::start(in_turn(rule))
}

async fn asked(gateway: &Gateway) -> Answer {
    opened(gateway, handshake("/", "")).await
}

/// Opens tunnels, each for a moment, until the endpoint is out.
async fn until_ejected(gateway: &Gateway, endpoint: SocketAddr) {
    for _ in 0..500 {
        if is_out(gateway, endpoint) {
            return;
        }
        asked(gateway).await;
    }
    panic!("{endpoint} is not ejected:\n{}", gateway.metrics());
}

fn is_out(gateway: &Gateway, endpoint: SocketAddr) -> bool {
    gateway.metric("holdfast_endpoint_ejected", &[&pod(endpoint)]) == 1.0
}

fn pod(endpoint: SocketAddr) -> String {
    format!("endpoint_pod=\"{endpoint}\"")
}

fn ejections(gateway: &Gateway, reason: &str) -> f64 {
    gateway.metric("holdfast_endpoint_ejections_total", &[&format!("reason=\"{reason}\"")])
}

/// A port that refuses, until it is listened on.
struct Closed(socket2::Socket);

impl Closed {
    fn new() -> Self {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        socket.bind(&any.into()).unwrap();
        Self(socket)
    }

    fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap().as_socket().unwrap()
    }

    fn open(self, act: Act) -> Actor {
        self.0.listen(128).unwrap();
        self.0.set_nonblocking(true).unwrap();
        let listener = tokio::net::TcpListener::from_std(self.0.into()).unwrap();
        Actor::at(listener, act)
    }
}

#[tokio::test]
async fn a_dead_endpoint_is_dialled_as_often_as_it_takes_and_not_again() {
    let (dead, well) = (Closed::new(), Actor::start(Act::Serve).await);
    let gateway = watched(&[dead.address(), well.address], |_, _| ());
    let refused = || gateway.metric("holdfast_endpoint_dials_total", &["result=\"refused\""]);
    until_ejected(&gateway, dead.address()).await;
    for _ in 0..50 {
        assert_eq!(asked(&gateway).await.status, 101);
    }
    assert_eq!((refused(), ejections(&gateway, "connection_refused")), (3.0, 1.0));
    assert_eq!(
        gateway.metric("holdfast_endpoint_ejected", &["reason=\"connection_refused\""]),
        1.0
    );
}

#[tokio::test]
async fn one_that_answers_no_dial_is_left_out_though_others_outrun_it() {
    let (silent, well) = (Silent::start(), Actor::start(Act::Serve).await);
    let gateway = watched(&[silent.address, well.address], |_, rule| rule.timeouts.connect = HOUR);
    until_ejected(&gateway, silent.address).await;
    assert_eq!(ejections(&gateway, "dial_timeout"), 1.0);
}

#[tokio::test]
async fn one_that_is_back_is_tried_by_one_handshake_and_then_gets_its_share() {
    let (dead, well) = (Closed::new(), Actor::start(Act::Serve).await);
    let address = dead.address();
    let gateway = watched(&[address, well.address], |passive, _| {
        passive.base_ejection_time = Duration::from_millis(200);
        passive.max_ejection_time = Duration::from_millis(400);
    });
    until_ejected(&gateway, address).await;
    // It is tried again and again, and nobody suffers for it.
    while ejections(&gateway, "connection_refused") < 3.0 {
        assert_eq!(asked(&gateway).await.status, 101);
    }
    let back = dead.open(Act::Serve);
    while is_out(&gateway, address) {
        assert_eq!(asked(&gateway).await.status, 101);
    }
    assert_eq!(back.asked(), 1);
    while back.asked() < 10 {
        assert_eq!(asked(&gateway).await.status, 101);
    }
    assert_eq!(gateway.metric("holdfast_endpoint_ejected", &[&pod(address)]), 0.0);
}

#[tokio::test]
async fn every_way_to_fail_a_handshake_counts() {
    for (act, reason) in [
        (Act::Refuse(503), "status"),
        (Act::Hang, "endpoint_closed"),
        (Act::Babble, "endpoint_protocol_error"),
        (Act::Forge, "invalid_upgrade"),
    ] {
        let (bad, well) = (Actor::start(act).await, Actor::start(Act::Serve).await);
        let gateway = watched(&[bad.address, well.address], |_, _| ());
        until_ejected(&gateway, bad.address).await;
        assert_eq!((ejections(&gateway, reason), bad.asked()), (1.0, 3), "{act:?}");
        for _ in 0..20 {
            assert_eq!(asked(&gateway).await.status, 101, "{act:?}");
        }
    }
}

#[tokio::test]
async fn one_that_does_not_answer_in_time_is_ejected() {
    let (bad, well) = (Actor::start(Act::Silent).await, Actor::start(Act::Serve).await);
    let gateway = watched(&[bad.address, well.address], |_, rule| {
        rule.timeouts.handshake = Duration::from_millis(300);
    });
    until_ejected(&gateway, bad.address).await;
    assert_eq!(ejections(&gateway, "handshake_timeout"), 1.0);
}

#[tokio::test]
async fn what_is_said_to_the_client_is_no_failure() {
    for act in [
        Act::Refuse(403),
        Act::Refuse(502),
        Act::Close(1000),
        Act::Close(1008),
        Act::Close(4401),
    ] {
        let (one, well) = (Actor::start(act).await, Actor::start(Act::Serve).await);
        let gateway = watched(&[one.address, well.address], |_, _| ());
        for _ in 0..40 {
            let mut client = Peer::connect(gateway.address).await;
            client.write(handshake("/", "")).await;
            client.head().await;
            if let Act::Close(code) = act
                && one.asked() > well.asked()
            {
                assert_eq!(client.frame().await.code(), code);
                client.close(code).await;
            }
        }
        assert_eq!(gateway.metric("holdfast_endpoint_ejections_total", &[]), 0.0, "{act:?}");
    }
}

#[tokio::test]
async fn tunnels_that_end_early_and_abnormally_count() {
    for act in [
        Act::Drop,
        Act::Close(1001),
        Act::Close(1011),
        Act::Close(1012),
        Act::Close(1013),
    ] {
        let (bad, well) = (Actor::start(act).await, Actor::start(Act::Serve).await);
        let gateway = watched(&[bad.address, well.address], |_, _| ());
        let mut held = Vec::new();
        while !is_out(&gateway, bad.address) {
            let mut client = Peer::connect(gateway.address).await;
            client.write(handshake("/", "")).await;
            assert!(client.head().await.starts_with("HTTP/1.1 101 "));
            held.push(client);
            assert!(held.len() < 500, "{act:?}: {}", gateway.metrics());
        }
        assert_eq!(ejections(&gateway, "early_close"), 1.0, "{act:?}");
    }
}

#[tokio::test]
async fn what_a_client_may_have_provoked_is_no_failure() {
    let (one, other) = (Server::start().await, Server::start().await);
    let gateway = watched(&[one.address, other.address], |_, _| ());
    for _ in 0..10 {
        let mut client = Peer::connect(gateway.address).await;
        client.write(handshake("/", "")).await;
        let (mut endpoint, _) = tokio::select! {
            accepted = one.accept() => accepted,
            accepted = other.accept() => accepted,
        };
        client.head().await;
        client.write([0x81, 1, b'x']).await; // without a mask: servers drop whoever does that
        endpoint.bytes(3).await;
        drop(endpoint);
        assert_eq!(client.frame().await.reason(), "endpoint_gone");
        client.close(1012).await;
        gateway.record("ended").await;
    }
    assert_eq!(gateway.metric("holdfast_endpoint_ejections_total", &[]), 0.0);
}

#[tokio::test]
async fn a_burst_of_1011_counts_at_any_age() {
    let (bad, well) = (Server::start().await, Server::start().await);
    let gateway = watched(&[bad.address, well.address], |passive, _| {
        passive.early_close_within = Duration::ZERO
    });
    let mut open = Vec::new();
    let mut others = Vec::new();
    while open.len() < 3 {
        let mut client = Peer::connect(gateway.address).await;
        client.write(handshake("/", "")).await;
        tokio::select! {
            (endpoint, _) = bad.accept() => open.push((client, endpoint)),
            (endpoint, _) = well.accept() => others.push((client, endpoint)),
        }
    }
    for (client, endpoint) in &mut open {
        client.head().await;
        endpoint.close(1011).await;
        assert_eq!(client.frame().await.code(), 1011);
        client.close(1011).await;
    }
    drop(open);
    gateway
        .wait_for_metric("holdfast_endpoint_ejected", &[&pod(bad.address)], |out| out == 1.0)
        .await;
    assert_eq!(ejections(&gateway, "close_1011"), 1.0);
    tunnel(&gateway, &well).await;
}

#[tokio::test]
async fn an_endpoint_that_stops_answering_pings_is_ejected_and_its_other_tunnels_stay() {
    let (bad, well) = (Server::start().await, Server::start().await);
    let gateway = watched(&[bad.address, well.address], |passive, rule| {
        passive.failures = 1;
        passive.min_failure_percent = 1; // most of its handshakes were answered
        rule.heartbeat.endpoint = heartbeat(1, 1);
    });
    // One that never answers a ping, which nobody holds against it, and then one that answers once.
    let (mut open, mut elsewhere) = (Vec::new(), Vec::new());
    while open.len() < 2 {
        let mut client = Peer::connect(gateway.address).await;
        client.write(handshake("/", "")).await;
        tokio::select! {
            (endpoint, _) = bad.accept() => {
                client.head().await;
                open.push((client, endpoint));
            }
            (endpoint, _) = well.accept() => elsewhere.push((client, endpoint)), // whose end would be one that came early
        }
    }
    let (_deaf_client, mut deaf) = open.pop().unwrap();
    let ping = deaf.frame().await;
    assert_eq!(ping.opcode(), PING);
    deaf.send(0x80 | PONG, ping.payload).await;
    gateway
        .wait_for_metric("holdfast_endpoint_ejected", &[&pod(bad.address)], |out| out == 1.0)
        .await;
    assert_eq!(ejections(&gateway, "endpoint_heartbeat_lost"), 1.0);
    for _ in 0..10 {
        tunnel(&gateway, &well).await;
    }
    for (client, endpoint) in &mut open {
        client.send(0x81, "still here").await;
        let mut frame = endpoint.frame().await;
        while frame.opcode() == PING {
            frame = endpoint.frame().await;
        }
        assert_eq!(frame.payload, b"still here");
    }
}

#[tokio::test]
async fn the_last_endpoint_stays_whatever_it_does() {
    let bad = Actor::start(Act::Refuse(503)).await;
    let gateway = watched(&[bad.address], |_, _| ());
    for _ in 0..20 {
        assert_eq!(asked(&gateway).await.status, 503);
    }
    assert_eq!(bad.asked(), 20);
    assert_eq!(gateway.metric("holdfast_endpoint_ejections_total", &[]), 0.0);
}

#[tokio::test]
async fn nothing_is_ejected_where_the_route_does_not_ask_for_it() {
    let (bad, well) = (Actor::start(Act::Refuse(503)).await, Actor::start(Act::Serve).await);
    let gateway = Gateway::start(in_turn(RuleBuilder::to(&[bad.address, well.address])));
    for _ in 0..40 {
        asked(&gateway).await;
    }
    assert_eq!(bad.asked(), 20);
    assert!(!gateway.metrics().contains("_ejected"), "{}", gateway.metrics());
}

#[tokio::test]
async fn a_cookie_to_an_ejected_endpoint_is_repicked_or_refused() {
    for (on_unavailable, status) in [(OnUnavailable::Repick, 101), (OnUnavailable::Fail, 503)] {
        let (one, other) = (Actor::start(Act::Serve).await, Actor::start(Act::Serve).await);
        let gateway = watched(&[one.address, other.address], |_, rule| {
            rule.persistence = Some(by_cookie(on_unavailable))
        });
        // Of the first, by a client of its own.
        let cookie = loop {
            let before = one.asked();
            let answer = asked(&gateway).await;
            if one.asked() > before {
                break answer.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
            }
        };
        let back = handshake("/", &format!("Cookie: {cookie}\r\n"));
        let before = one.asked();
        assert_eq!(opened(&gateway, &back).await.status, 101);
        assert_eq!(one.asked(), before + 1);
        one.set(Act::Refuse(503));
        until_ejected(&gateway, one.address).await;
        let before = one.asked();
        let answer = opened(&gateway, &back).await;
        assert_eq!((answer.status, one.asked()), (status, before), "{on_unavailable:?}");
        match on_unavailable {
            OnUnavailable::Repick => assert!(answer.header("set-cookie").is_some_and(|new| !new.starts_with(&cookie))),
            OnUnavailable::Fail => assert_eq!(answer.reason(), Some("session_unavailable")),
        }
    }
}

fn by_cookie(on_unavailable: OnUnavailable) -> Persistence {
    Persistence {
        by: PersistBy::Cookie(Cookie::named("sticky")),
        on_unavailable,
    }
}
