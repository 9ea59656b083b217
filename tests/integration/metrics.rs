//! Metrics: names and labels that fit every scraper, and series that stay as long as somebody counts on them.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use crate::support::{Gateway, PATIENCE, RuleBuilder, Server, TEXT, ask, handshake, name, tunnel};

#[tokio::test]
async fn no_label_is_one_of_the_scrapers_own() {
    let server = Server::start().await;
    let gateway = Gateway::start(RuleBuilder::to(&[server.address]).build());
    let (mut client, mut endpoint) = tunnel(&gateway, &server).await;
    client.send(TEXT, "x").await;
    endpoint.frame().await;
    drop((client, endpoint));
    gateway.record("ended").await;
    ask(gateway.address, "GET /%zz HTTP/1.1\r\nHost: test\r\n\r\n").await;
    ask(gateway.address, handshake("/%zz", "")).await;
    let text = gateway.metrics();
    let mut labels = BTreeSet::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        assert!(line.starts_with("holdfast_"), "{line}");
        if let Some((_, rest)) = line.split_once('{') {
            let (inside, _) = rest.rsplit_once('}').unwrap();
            labels.extend(
                inside
                    .split("\",")
                    .filter_map(|pair| Some(pair.split_once("=\"")?.0.to_owned())),
            );
        }
    }
    for taken in [
        "namespace",
        "pod",
        "service",
        "endpoint",
        "container",
        "job",
        "instance",
        "node",
    ] {
        assert!(!labels.contains(taken), "{taken} in {labels:?}");
    }
    for own in [
        "route_namespace",
        "route",
        "rule",
        "initiator",
        "cause",
        "code",
        "reason",
        "direction",
        "worker",
    ] {
        assert!(labels.contains(own), "{own} is not in {labels:?}");
    }
    // Every family says what it counts.
    for line in text.lines().filter(|line| line.starts_with("# TYPE ")) {
        let family = line.split(' ').nth(2).unwrap();
        assert!(text.contains(&format!("# HELP {family} ")), "{family}");
    }
}

#[tokio::test]
async fn what_passed_is_counted_while_the_tunnel_is_open() {
    let server = Server::start().await;
    let gateway = Gateway::start(RuleBuilder::to(&[server.address]).build());
    let (mut client, mut endpoint) = tunnel(&gateway, &server).await;
    client.send(TEXT, "12345").await;
    endpoint.frame().await;
    endpoint.send(TEXT, "123").await;
    client.frame().await;
    let rule = ["route_namespace=\"test\"", "route=\"route\"", "rule=\"rule\""];
    for (name, direction, value) in [
        ("holdfast_relayed_bytes_total", "to_endpoint", 11.0),
        ("holdfast_relayed_bytes_total", "to_client", 5.0),
        ("holdfast_relayed_messages_total", "to_endpoint", 1.0),
        ("holdfast_relayed_messages_total", "to_client", 1.0),
    ] {
        let direction = format!("direction=\"{direction}\"");
        gateway
            .wait_for_metric(name, &[&direction, rule[0], rule[1], rule[2]], |counted| counted == value)
            .await;
    }
    assert_eq!(gateway.metric("holdfast_connections_active", &rule), 1.0);
    assert_eq!(
        gateway.metric("holdfast_handshakes_total", &["code=\"101\"", "reason=\"accepted\""]),
        1.0
    );
    assert_eq!(gateway.metric("holdfast_handshake_duration_seconds_count", &rule), 1.0);
    assert_eq!(gateway.metric("holdfast_connection_duration_seconds_count", &rule), 0.0);
    assert_eq!(
        gateway.metric("holdfast_endpoint_connections_active", &["endpoint_service=\"echo\""]),
        1.0
    );
    drop((client, endpoint));
    gateway.record("ended").await;
    assert_eq!(gateway.metric("holdfast_connection_duration_seconds_count", &rule), 1.0);
    assert_eq!(gateway.metric("holdfast_connections_active", &rule), 0.0);
}

#[tokio::test]
async fn a_removed_rules_series_stay_until_its_last_tunnel_ended() {
    let server = Server::start().await;
    let gateway = Gateway::start(RuleBuilder::to(&[server.address]).build());
    let (mut client, mut endpoint) = tunnel(&gateway, &server).await;
    let rule = ["route=\"route\""];
    gateway.publish(Vec::new());
    assert_eq!(ask(gateway.address, handshake("/", "")).await.status, 404);
    // The tunnel never notices.
    client.send(TEXT, "on").await;
    assert_eq!(endpoint.frame().await.payload, b"on");
    assert_eq!(gateway.metric("holdfast_connections_active", &rule), 1.0);
    let of_endpoint = ["endpoint_service=\"echo\""];
    assert_eq!(gateway.metric("holdfast_endpoint_connections_active", &of_endpoint), 1.0);
    drop((client, endpoint));
    let ended = gateway.record("ended").await;
    assert_eq!(ended["holdfast.route.name"], &*name("route").name);
    let started = Instant::now();
    while gateway.metrics().contains("route=\"route\"") || gateway.metrics().contains(of_endpoint[0]) {
        assert!(started.elapsed() < PATIENCE, "{}", gateway.metrics());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
