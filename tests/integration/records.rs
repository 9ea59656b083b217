//! Records: what they say, what they never say, and that nobody reading them stops nothing.

use std::{
    io::{self, Write},
    sync::mpsc::{Receiver, Sender, channel},
};

use holdfast::telemetry::Lines;
use serde_json::Value;

use crate::support::{BINARY, Gateway, Peer, RuleBuilder, Server, TEXT, ask, handshake, tunnel};

#[tokio::test]
async fn records_are_complete_and_hold_no_query() {
    let server = Server::start().await;
    let gateway = Gateway::start(RuleBuilder::to(&[server.address]).build());
    let mut client = Peer::connect(gateway.address).await;
    client
        .write(handshake(
            "/chat?access_token=SECRET",
            "User-Agent: some \"thing\"\r\nReferer: http://x/?SECRET\r\nCookie: a=SECRET\r\nAuthorization: SECRET\r\n",
        ))
        .await;
    let mut endpoint = server.connection().await;
    let asked = endpoint.head().await;
    assert!(asked.starts_with("GET /chat?access_token=SECRET "), "the endpoint gets it");
    endpoint.write(crate::support::switching("")).await;
    client.head().await;
    client.send(TEXT, "three").await;
    endpoint.frame().await;
    endpoint.send(BINARY, [0; 200]).await;
    client.frame().await;
    client.close(1000).await;
    endpoint.frame().await;
    endpoint.close(1000).await;
    client.frame().await;
    let client_port = client.socket.local_addr().unwrap().port();
    drop((client, endpoint));

    let opened = gateway.record("opened").await;
    let ended = gateway.record("ended").await;
    for record in [&opened, &ended] {
        for (key, value) in [
            ("level", "INFO".into()),
            ("service.name", "holdfast".into()),
            ("network.protocol.name", "websocket".into()),
            ("client.address", "127.0.0.1".into()),
            ("client.port", client_port.into()),
            ("server.address", "test".into()),
            ("url.path", "/chat".into()),
            ("destination.address", "127.0.0.1".into()),
            ("destination.port", server.address.port().into()),
            ("holdfast.endpoint.pod", server.address.to_string().into()),
            ("holdfast.route.namespace", "test".into()),
            ("holdfast.route.name", "route".into()),
            ("holdfast.rule.name", "rule".into()),
            ("holdfast.connection.id", opened["holdfast.connection.id"].clone()),
        ] {
            assert_eq!(record[key], value, "{key} of {record}");
        }
        assert!(record["error.type"].is_null(), "nothing failed: {record}");
        let timestamp = record["timestamp"].as_str().unwrap();
        assert!(timestamp.len() == 24 && timestamp.ends_with('Z'), "{timestamp}");
        assert!(!record.to_string().contains("SECRET"), "{record}");
    }
    assert_eq!(opened["event.name"], "holdfast.connection.opened");
    assert_eq!(opened["http.response.status_code"], 101);
    assert_eq!(opened["user_agent.original"], "some \"thing\"");
    assert_eq!(opened["url.scheme"], "http");
    assert!(opened["holdfast.handshake.duration_seconds"].is_number());
    assert_eq!(opened["http.request.id"].as_str().unwrap().len(), 32);
    assert!(
        opened["http.request.id"]
            .as_str()
            .unwrap()
            .starts_with(opened["holdfast.connection.id"].as_str().unwrap())
    );
    assert_eq!(ended["event.name"], "holdfast.connection.ended");
    for (key, value) in [
        ("holdfast.end.initiator", Value::from("client")),
        ("holdfast.end.cause", "closed".into()),
        ("holdfast.close.client.code", 1000.into()),
        ("holdfast.close.client.received", 1000.into()),
        ("holdfast.close.endpoint.code", 1000.into()),
        ("holdfast.close.endpoint.received", 1000.into()),
        ("holdfast.messages.to_endpoint", 1.into()),
        ("holdfast.messages.to_client", 1.into()),
        ("holdfast.bytes.to_endpoint", (2 + 4 + 5 + 2 + 4 + 2).into()),
        ("holdfast.bytes.to_client", (4 + 200 + 2 + 2).into()),
    ] {
        assert_eq!(ended[key], value, "{key} of {ended}");
    }
    assert!(ended["holdfast.duration_seconds"].is_number());
}

#[tokio::test]
async fn refusals_are_recorded_without_a_query_too() {
    let server = Server::start().await;
    let gateway = Gateway::start(
        RuleBuilder::to(&[server.address])
            .change(|rule| rule.prefix = "/chat")
            .build(),
    );
    for request in [
        handshake("/x?SECRET=1", ""),
        "GET /x?SECRET=1 HTTP/1.1\r\nHost: test\r\n\r\n".to_owned(),
    ] {
        ask(gateway.address, request).await;
        let refused = gateway.record("refused").await;
        assert_eq!(refused["event.name"], "holdfast.connection.refused");
        assert_eq!(refused["url.path"], "/x");
        assert_eq!(refused["error.type"], "no_route");
        assert!(!refused.to_string().contains("SECRET"), "{refused}");
    }
}

/// An output that nobody reads: a write returns when the test says so.
struct Unread {
    entered: Sender<()>,
    permits: Receiver<()>,
}

impl Write for Unread {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.entered.send(());
        let _ = self.permits.recv();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn records_that_nobody_reads_are_lost_and_counted_and_stop_nothing() {
    let server = Server::start().await;
    let ((entered, _writing), (permit, permits)) = (channel(), channel());
    let (lines, flush) = Lines::new("records", Unread { entered, permits }, 10).unwrap();
    let gateway = Gateway::recording_to(Some(lines), flush, |_| {});
    gateway.publish(RuleBuilder::to(&[server.address]).build());
    let (mut client, mut endpoint) = tunnel(&gateway, &server).await;
    for _ in 0..50 {
        drop(tunnel(&gateway, &server).await);
        client.send(TEXT, "on").await;
        assert_eq!(endpoint.frame().await.payload, b"on");
    }
    gateway
        .wait_for_metric("holdfast_records_dropped_total", &[], |dropped| dropped >= 80.0)
        .await;
    // The counters forget nothing.
    gateway.wait_for_metric("holdfast_ends_total", &[], |ends| ends == 50.0).await;
    drop(permit);
}
