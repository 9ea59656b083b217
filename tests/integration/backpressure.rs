//! Sides that do not read: their source is not read either, nothing is lost, and memory stays within its bounds.

use std::time::Duration;

use crate::support::{BINARY, CLOSE, Gateway, Peer, RuleBuilder, Server, TEXT, frame, tunnel};

async fn start(change: impl FnOnce(&mut holdfast::proxy::Settings)) -> (Server, Gateway) {
    let server = Server::start().await;
    let rule = RuleBuilder::to(&[server.address]).change(|rule| rule.timeouts.close_handshake = Duration::from_secs(1));
    let gateway = Gateway::with(rule.build(), change);
    (server, gateway)
}

async fn stalled(gateway: &Gateway, count: usize) {
    gateway
        .wait_for_metric("holdfast_stalled_connections", &[], |stalled| stalled == count as f64)
        .await;
}

#[tokio::test]
async fn a_reader_that_stops_stops_its_source_and_loses_nothing() {
    let (server, gateway) = start(|_| {}).await;
    for to_client in [true, false] {
        let (client, endpoint) = tunnel(&gateway, &server).await;
        let (mut source, mut reader, mask) = match to_client {
            true => (endpoint, client, None),
            false => (client, endpoint, Some([9, 8, 7, 6])),
        };
        // Every message is another one, so that a byte that is lost or doubled shows.
        let mut stream = Vec::new();
        for number in 0..4000_u32 {
            stream.extend(frame(BINARY, &number.to_be_bytes().repeat(250), mask));
        }
        let sent = source.fill(&stream).await;
        stalled(&gateway, 1).await;
        // The other direction goes on.
        reader.send(TEXT, "busy").await;
        assert_eq!(source.frame().await.payload, b"busy");
        let mut expected = stream.repeat(sent / stream.len() + 1);
        expected.truncate(sent);
        assert!(reader.bytes(sent).await == expected, "not what was sent");
        stalled(&gateway, 0).await;
        drop((source, reader));
        let ended = gateway.record("ended").await;
        let counted = if to_client {
            "holdfast.bytes.to_client"
        } else {
            "holdfast.bytes.to_endpoint"
        };
        assert_eq!(ended[counted], sent);
    }
}

#[tokio::test]
async fn both_sides_may_stop_reading_at_once() {
    let (server, gateway) = start(|_| {}).await;
    let (mut client, mut endpoint) = tunnel(&gateway, &server).await;
    let down = frame(BINARY, &[1; 10_000], None);
    let up = frame(BINARY, &[2; 10_000], Some([1, 2, 3, 4]));
    let sent_down = endpoint.fill(&down).await;
    let sent_up = client.fill(&up).await;
    // `fill` stops at an answer too: go on past it.
    let more = client.fill_regardless(&up, sent_up).await;
    stalled(&gateway, 1).await;
    let (got_down, got_up) = tokio::join!(client.bytes(sent_down), endpoint.bytes(sent_up + more));
    assert!(got_down.starts_with(&down) && got_up.starts_with(&up));
    assert_eq!((got_down.len(), got_up.len()), (sent_down, sent_up + more));
    stalled(&gateway, 0).await;
}

#[tokio::test]
async fn beyond_the_budget_the_longest_stalled_tunnel_ends() {
    // Room for what one stalled side leaves behind at most.
    let (server, gateway) = start(|settings| settings.queue_budget = 60_000).await;
    let message = frame(BINARY, &[3; 50_000], None);
    let mut readers: Vec<Peer> = Vec::new();
    let mut sources = Vec::new();
    for _ in 0..6 {
        let (client, mut endpoint) = tunnel(&gateway, &server).await;
        endpoint.fill(&message).await;
        readers.push(client);
        sources.push(endpoint);
    }
    // The first ended, for memory; the last did not; and the process goes on.
    let ended = gateway.record("ended").await;
    assert_eq!(ended["holdfast.end.cause"], "memory");
    assert_eq!(ended["error.type"], "memory");
    assert_eq!(ended["client.port"], readers[0].socket.local_addr().unwrap().port());
    let told = sources[0].frame().await;
    assert_eq!((told.opcode(), told.code()), (CLOSE, 1001));
    let mut last = readers.pop().unwrap();
    for _ in 0..20 {
        assert_eq!(last.frame().await.payload, [3; 50_000]);
    }
    let (mut client, mut endpoint) = tunnel(&gateway, &server).await;
    client.send(TEXT, "and new ones").await;
    assert_eq!(endpoint.frame().await.payload, b"and new ones");
}
