//! How a tunnel ends: who is told what, in which order, and what still passes meanwhile.

use std::time::Duration;

use tokio::io::AsyncWriteExt;

use crate::support::{
    BINARY, CLOSE, Ending, Gateway, PATIENCE, Peer, RuleBuilder, Server, TEXT, frame, handshake, tcp_row, tunnel, until_told,
};

async fn start(change: impl FnOnce(&mut RuleBuilder)) -> (Server, Gateway) {
    let server = Server::start().await;
    let gateway = Gateway::start(RuleBuilder::to(&[server.address]).change(change).build());
    (server, gateway)
}

/// A rule whose tunnels Holdfast ends after a second.
fn soon(rule: &mut RuleBuilder) {
    rule.timeouts.max_duration = Duration::from_secs(1);
}

fn close(code: u16, reason: &str) -> Vec<u8> {
    [&code.to_be_bytes()[..], reason.as_bytes()].concat()
}

#[tokio::test]
async fn a_close_passes_as_it_is_and_so_does_its_answer() {
    let (server, gateway) = start(|_| {}).await;
    for (first, answer) in [
        (close(1000, ""), close(1000, "")),
        (close(4321, "enough of this"), close(4000, "as you like")),
        (Vec::new(), Vec::new()),
        (close(1002, &"x".repeat(123)), close(1002, "")),
        (close(7, "no code at all"), close(1007, "")),
    ] {
        for by_client in [true, false] {
            let (client, endpoint) = tunnel(&gateway, &server).await;
            let (mut one, mut other) = if by_client { (client, endpoint) } else { (endpoint, client) };
            one.send(0x80 | CLOSE, &first).await;
            assert_eq!(other.frame().await.payload, first);
            other.send(0x80 | CLOSE, &answer).await;
            assert_eq!(one.frame().await.payload, answer);
            drop((one, other));
            let ended = gateway.record("ended").await;
            assert_eq!(ended["holdfast.end.cause"], "closed");
            assert_eq!(ended["holdfast.end.initiator"], if by_client { "client" } else { "endpoint" });
            let code = |payload: &[u8]| payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code));
            let (client, endpoint) = match by_client {
                true => (code(&first), code(&answer)),
                false => (code(&answer), code(&first)),
            };
            assert_eq!(ended["holdfast.close.client.received"], client);
            assert_eq!(ended["holdfast.close.endpoint.received"], endpoint);
            assert_eq!(ended["holdfast.close.client.code"], endpoint);
            assert_eq!(ended["holdfast.close.endpoint.code"], client);
        }
    }
    for (initiator, code, count) in [("client", "1000", 2.0), ("client", "4xxx", 2.0), ("client", "invalid", 1.0)] {
        let labels = [format!("initiator=\"{initiator}\""), format!("code=\"{code}\"")];
        assert_eq!(
            gateway.metric("holdfast_close_codes_total", &[&labels[0], &labels[1]]),
            count,
            "{code} of {}",
            gateway.metrics()
        );
    }
}

#[tokio::test]
async fn closes_may_cross() {
    let (server, gateway) = start(|_| {}).await;
    let (mut client, mut endpoint) = tunnel(&gateway, &server).await;
    let (from_client, from_endpoint) = (
        frame(0x80 | CLOSE, &close(1000, "mine"), Some([9, 9, 9, 9])),
        frame(0x80 | CLOSE, &close(1001, "mine too"), None),
    );
    tokio::join!(client.write(from_client), endpoint.write(from_endpoint));
    assert_eq!(client.frame().await.code(), 1001);
    assert_eq!(endpoint.frame().await.code(), 1000);
    client.ends().await;
    drop((client, endpoint));
    assert_eq!(gateway.record("ended").await["holdfast.end.cause"], "closed");
}

#[tokio::test]
async fn nothing_follows_a_close() {
    let (server, gateway) = start(|_| {}).await;
    for by_client in [true, false] {
        let (client, endpoint) = tunnel(&gateway, &server).await;
        let (mut one, mut other) = if by_client { (client, endpoint) } else { (endpoint, client) };
        one.send(TEXT, "last words").await;
        one.close(1000).await;
        one.send(TEXT, "what nobody wants to hear").await;
        one.send(0x80 | CLOSE, close(1001, "")).await;
        assert_eq!(other.frame().await.payload, b"last words");
        assert_eq!(other.frame().await.code(), 1000);
        // The other direction goes on.
        other.send(TEXT, "an answer").await;
        assert_eq!(one.frame().await.payload, b"an answer");
        other.close(1000).await;
        assert_eq!(one.frame().await.code(), 1000);
        one.shut_down().await;
        one.ends().await;
        other.shut_down().await;
        other.ends().await;
        let ended = gateway.record("ended").await;
        let (to_endpoint, to_client) = (&ended["holdfast.messages.to_endpoint"], &ended["holdfast.messages.to_client"]);
        let (counted, answers) = if by_client {
            (to_endpoint, to_client)
        } else {
            (to_client, to_endpoint)
        };
        assert_eq!(
            (counted, answers),
            (&2.into(), &1.into()),
            "what is dropped is counted: {ended}"
        );
    }
}

#[tokio::test]
async fn a_close_of_ours_asks_the_client_first_and_loses_nothing_that_it_sends() {
    let (server, gateway) = start(soon).await;
    let (mut client, mut endpoint) = tunnel(&gateway, &server).await;
    let told = client.frame().await;
    assert_eq!((told.code(), told.reason()), (1001, "max_duration"));
    // What the client sends before its own Close still arrives, and no Close before it.
    for index in 0..100_u8 {
        client.send(BINARY, [index; 1000]).await;
    }
    // What the endpoint sends now has no way any more.
    endpoint.send(TEXT, "too late").await;
    for index in 0..100_u8 {
        assert_eq!(endpoint.frame().await.payload, [index; 1000]);
    }
    assert!(endpoint.has_nothing(), "the endpoint is told before the client has ended");
    client.close(1001).await;
    let told = endpoint.frame().await;
    assert_eq!((told.code(), told.reason()), (1001, "max_duration"));
    endpoint.close(1001).await;
    client.ends().await;
    drop(client);
    endpoint.shut_down().await;
    endpoint.ends().await;
    let ended = gateway.record("ended").await;
    assert_eq!(ended["holdfast.messages.to_endpoint"], 100);
    assert_eq!(ended["holdfast.messages.to_client"], 1, "what is dropped is counted");
    assert_eq!(ended["holdfast.close.client.received"], 1001);
    assert_eq!(ended["holdfast.close.endpoint.received"], 1001);
    assert!(ended["holdfast.end.mid_frame"].is_null());
}

#[tokio::test]
async fn a_client_that_closes_while_it_is_told_has_answered() {
    let (server, gateway) = start(|rule| {
        soon(rule);
        rule.timeouts.close_handshake = Duration::from_secs(20);
    })
    .await;
    let (mut client, mut endpoint) = tunnel(&gateway, &server).await;
    // The client is told once it has this frame to its end; its own Close is on its way before it reads ours.
    let message = frame(BINARY, &[3; 5000], None);
    endpoint.write(&message[..2000]).await;
    client.bytes(2000).await;
    // Those that began later have been judged, and so has this one.
    until_told(&gateway, &server).await;
    until_told(&gateway, &server).await;
    client.close(1000).await;
    endpoint.write(&message[2000..]).await;
    client.bytes(message.len() - 2000).await;
    assert_eq!(client.frame().await.code(), 1001);
    client.ends().await;
    let told = endpoint.frame().await;
    assert_eq!((told.code(), told.reason()), (1001, "max_duration"), "ours, not the client's");
    drop((client, endpoint));
    let ended = gateway.record("ended").await;
    assert_eq!(ended["holdfast.end.cause"], "max_duration");
    assert_eq!(ended["holdfast.close.client.received"], 1000);
}

#[tokio::test]
async fn a_client_that_does_not_answer_ends_by_time_and_its_endpoint_is_told() {
    let (server, gateway) = start(|rule| {
        soon(rule);
        rule.timeouts.close_handshake = Duration::from_secs(1);
    })
    .await;
    let (mut client, mut endpoint) = tunnel(&gateway, &server).await;
    assert_eq!(client.frame().await.code(), 1001);
    let told = endpoint.frame().await;
    assert_eq!((told.code(), told.reason()), (1001, "max_duration"));
    endpoint.close(1001).await;
    endpoint.shut_down().await;
    endpoint.ends().await;
    client.ends().await;
    let ended = gateway.record("ended").await;
    assert_eq!(ended["holdfast.close.client.received"], serde_json::Value::Null);
    assert_eq!(ended["holdfast.close.endpoint.code"], 1001);
}

#[tokio::test]
async fn an_endpoint_that_does_not_answer_ends_by_time() {
    let (server, gateway) = start(|rule| rule.timeouts.close_handshake = Duration::from_secs(1)).await;
    let (mut client, mut endpoint) = tunnel(&gateway, &server).await;
    client.close(1000).await;
    assert_eq!(endpoint.frame().await.code(), 1000);
    client.ends().await;
    endpoint.ends().await;
    let ended = gateway.record("ended").await;
    assert_eq!(ended["holdfast.end.cause"], "closed");
    assert_eq!(ended["holdfast.close.client.code"], serde_json::Value::Null);
}

#[tokio::test]
async fn an_endpoint_that_ends_without_a_close_is_told_of_as_gone() {
    let (server, gateway) = start(|_| {}).await;
    for reset in [false, true] {
        let (mut client, mut endpoint) = tunnel(&gateway, &server).await;
        endpoint.send(TEXT, "one more thing").await;
        assert_eq!(client.frame().await.payload, b"one more thing");
        match reset {
            true => endpoint.reset(),
            false => drop(endpoint),
        }
        let told = client.frame().await;
        assert_eq!((told.code(), told.reason()), (1012, "endpoint_gone"));
        client.close(1012).await;
        client.ends().await;
        drop(client);
        let ended = gateway.record("ended").await;
        assert_eq!(ended["holdfast.end.cause"], "endpoint_gone");
        assert_eq!(ended["holdfast.end.initiator"], "endpoint");
        assert_eq!(ended["error.type"], "endpoint_gone", "reset: {reset}");
    }
}

#[tokio::test]
async fn an_endpoint_that_answers_a_close_by_ending_has_answered() {
    let (server, gateway) = start(|_| {}).await;
    for (code, answer) in [(1000, 1000), (4001, 4001), (1001, 1001), (1011, 1000)] {
        let (mut client, mut endpoint) = tunnel(&gateway, &server).await;
        client.close(code).await;
        assert_eq!(endpoint.frame().await.code(), code);
        drop(endpoint);
        assert_eq!(client.frame().await.code(), answer);
        client.ends().await;
        drop(client);
        assert_eq!(gateway.record("ended").await["holdfast.end.cause"], "closed");
    }
}

#[tokio::test]
async fn a_client_that_ends_without_a_close_leaves_its_endpoint_told() {
    let (server, gateway) = start(|_| {}).await;
    for reset in [false, true] {
        let (mut client, mut endpoint) = tunnel(&gateway, &server).await;
        client.send(TEXT, "one more thing").await;
        assert_eq!(endpoint.frame().await.payload, b"one more thing");
        match reset {
            true => client.reset(),
            false => drop(client),
        }
        let told = endpoint.frame().await;
        assert_eq!((told.code(), told.reason()), (1001, "reset"));
        endpoint.close(1001).await;
        endpoint.shut_down().await;
        endpoint.ends().await;
        let ended = gateway.record("ended").await;
        assert_eq!(ended["holdfast.end.cause"], "reset");
        assert_eq!(ended["holdfast.end.initiator"], "client");
        assert_eq!(
            ended["holdfast.close.client.code"],
            serde_json::Value::Null,
            "nobody is left to read it"
        );
        assert_eq!(
            gateway.metric("holdfast_close_codes_total", &["initiator=\"client\"", "code=\"none\""]),
            f64::from(u8::from(reset) + 1)
        );
    }
}

#[tokio::test]
async fn a_client_that_only_stops_sending_still_reads() {
    let (server, gateway) = start(|_| {}).await;
    let (mut client, mut endpoint) = tunnel(&gateway, &server).await;
    client.send(TEXT, "a question").await;
    client.shut_down().await;
    assert_eq!(endpoint.frame().await.payload, b"a question");
    assert_eq!(endpoint.frame().await.code(), 1001);
    endpoint.send(BINARY, vec![5; 100_000]).await;
    assert_eq!(client.frame().await.payload, vec![5; 100_000]);
    endpoint.close(1001).await;
    endpoint.shut_down().await;
    assert_eq!(client.ending().await, Ending::InOrder);
    endpoint.ends().await;
}

#[tokio::test]
async fn an_end_inside_a_frame_leaves_no_room_for_a_close() {
    let (server, gateway) = start(|rule| rule.timeouts.close_handshake = Duration::from_secs(1)).await;
    let part = &frame(BINARY, &[1; 1000], None)[..500];
    // The endpoint ends: the client reads what there is, and the end of TCP.
    let (mut client, mut endpoint) = tunnel(&gateway, &server).await;
    endpoint.write(part).await;
    drop(endpoint);
    assert_eq!(client.rest().await, part);
    client.close(1000).await;
    drop(client);
    let ended = gateway.record("ended").await;
    assert_eq!(ended["holdfast.end.cause"], "endpoint_gone");
    assert_eq!(ended["holdfast.end.mid_frame"], true);
    assert_eq!(ended["holdfast.close.client.code"], serde_json::Value::Null);

    // The same for the client.
    let (mut client, mut endpoint) = tunnel(&gateway, &server).await;
    let part = &frame(BINARY, &[1; 1000], Some([1, 2, 3, 4]))[..500];
    client.write(part).await;
    drop(client);
    assert_eq!(endpoint.rest().await, part);
    drop(endpoint);
    let ended = gateway.record("ended").await;
    assert_eq!(ended["holdfast.end.cause"], "reset");
    assert_eq!(ended["holdfast.end.mid_frame"], true);
    assert_eq!(ended["holdfast.close.endpoint.code"], serde_json::Value::Null);
}

#[tokio::test]
async fn the_wait_for_a_boundary_is_bounded() {
    let (server, gateway) = start(|rule| {
        soon(rule);
        rule.timeouts.close_handshake = Duration::from_secs(1);
    })
    .await;
    // The client is inside a frame that never ends; the endpoint is not, and is told.
    let (mut client, mut endpoint) = tunnel(&gateway, &server).await;
    let part = &frame(BINARY, &[1; 1000], None)[..500];
    endpoint.write(part).await;
    assert_eq!(client.rest().await, part);
    let told = endpoint.frame().await;
    assert_eq!((told.code(), told.reason()), (1001, "max_duration"));
    drop((client, endpoint));
    let ended = gateway.record("ended").await;
    assert_eq!(ended["holdfast.end.cause"], "max_duration");
    assert_eq!(ended["holdfast.end.mid_frame"], true);

    // The same for the endpoint; the client is told, and says nothing.
    let (mut client, mut endpoint) = tunnel(&gateway, &server).await;
    let part = &frame(BINARY, &[1; 1000], Some([1, 2, 3, 4]))[..500];
    client.write(part).await;
    assert_eq!(client.frame().await.code(), 1001);
    assert_eq!(endpoint.rest().await, part);
    drop((client, endpoint));
    let ended = gateway.record("ended").await;
    assert_eq!(ended["holdfast.end.mid_frame"], true);
    assert_eq!(ended["holdfast.close.client.code"], 1001);
}

#[tokio::test]
async fn a_boundary_that_comes_late_is_used() {
    let (server, gateway) = start(|rule| {
        soon(rule);
        rule.timeouts.close_handshake = Duration::from_secs(20);
    })
    .await;
    let (mut client, mut endpoint) = tunnel(&gateway, &server).await;
    let message = frame(BINARY, &[1; 1000], None);
    endpoint.write(&message[..500]).await;
    client.bytes(500).await;
    // Those that began later have been judged, and so has this one.
    until_told(&gateway, &server).await;
    until_told(&gateway, &server).await;
    // The frame's end, and the next one, which is one too many.
    endpoint.write([&message[500..], &message].concat()).await;
    assert_eq!(client.bytes(message.len() - 500).await, message[500..]);
    assert_eq!(client.frame().await.code(), 1001);
    client.close(1001).await;
    client.ends().await;
    assert_eq!(endpoint.frame().await.code(), 1001);
    drop((client, endpoint));
    let ended = gateway.record("ended").await;
    assert_eq!(ended["holdfast.end.mid_frame"], serde_json::Value::Null);
}

/// Sends messages for as long as the connection takes them.
async fn send_at_full_rate(mut half: tokio::net::tcp::OwnedWriteHalf) {
    let message = frame(BINARY, &[7; 60_000], Some([1, 2, 3, 4]));
    while half.write_all(&message).await.is_ok() {}
}

#[tokio::test]
async fn a_client_that_sends_at_full_rate_still_reads_why() {
    let server = Server::start().await;
    for (case, cause) in [("gone", "endpoint_gone"), ("reset", "endpoint_gone"), ("drain", "drain")] {
        let rule = RuleBuilder::to(&[server.address]).change(|rule| rule.timeouts.close_handshake = Duration::from_secs(1));
        let mut gateway = Gateway::start(rule.build());
        let (client, mut endpoint) = tunnel(&gateway, &server).await;
        let (mut reading, writing) = client.socket.into_split();
        let sending = tokio::spawn(send_at_full_rate(writing));
        for _ in 0..100 {
            endpoint.frame().await;
        }
        let mut endpoint = Some(endpoint);
        match case {
            "gone" => drop(endpoint.take()),
            "reset" => endpoint.take().unwrap().reset(),
            _ => gateway.drain(Duration::ZERO),
        }
        let mut read = Vec::new();
        let reader = tokio::io::AsyncReadExt::read_to_end(&mut reading, &mut read);
        tokio::time::timeout(PATIENCE, async {
            // The endpoint goes on reading meanwhile, where there is one.
            let reads = async {
                while let Some(endpoint) = &mut endpoint
                    && endpoint.try_read_frame().await
                {}
                std::future::pending::<()>().await;
            };
            tokio::select! {
                _ = reader => {}
                () = reads => {}
            }
        })
        .await
        .expect("the client is not told");
        let close = frame(0x80 | CLOSE, &close(1012, cause), None);
        assert_eq!(read, close, "{case}");
        sending.abort();
        let ended = gateway.record("ended").await;
        assert_eq!(ended["holdfast.end.cause"], cause);
    }
}

#[tokio::test]
async fn the_waiting_for_late_packets_is_left_to_the_endpoint() {
    let (server, gateway) = start(|_| {}).await;
    let (mut client, mut endpoint) = tunnel(&gateway, &server).await;
    let ours = endpoint.socket.peer_addr().unwrap().port();
    client.close(1000).await;
    assert_eq!(endpoint.frame().await.code(), 1000);
    endpoint.close(1000).await;
    assert_eq!(client.frame().await.code(), 1000);
    client.ends().await;
    drop(client);
    endpoint.shut_down().await;
    endpoint.ends().await;
    gateway.record("ended").await;
    let theirs = server.address.port();
    let waiting = |local, remote| tcp_row(local, remote).is_some_and(|row| row[3] == "06");
    assert!(waiting(theirs, ours), "the endpoint's port waits");
    assert!(!waiting(ours, theirs), "ours does not");
}

#[tokio::test]
async fn an_endpoint_that_only_stops_sending_still_reads() {
    let (server, gateway) = start(|_| {}).await;
    let (mut client, mut endpoint) = tunnel(&gateway, &server).await;
    endpoint.send(TEXT, "that is all").await;
    endpoint.shut_down().await;
    assert_eq!(client.frame().await.payload, b"that is all");
    assert_eq!(client.frame().await.code(), 1012);
    client.send(BINARY, vec![5; 100_000]).await;
    assert_eq!(endpoint.frame().await.payload, vec![5; 100_000]);
    client.close(1012).await;
    client.ends().await;
    drop(client);
    assert_eq!(endpoint.ending().await, Ending::InOrder);
    assert!(endpoint.unread().is_empty(), "nobody tells it anything: it has ended itself");
    assert_eq!(gateway.record("ended").await["holdfast.end.cause"], "endpoint_gone");
}

#[tokio::test]
async fn a_slow_reader_gets_all_that_was_sent_before_a_close() {
    let (server, gateway) = start(|rule| rule.timeouts.close_handshake = Duration::from_secs(1)).await;
    let ending = frame(0x80 | CLOSE, &close(1000, "done"), None);
    let mut readers = Vec::new();
    // For some of these sizes the kernel holds all but the end, and the Close itself is queued.
    for size in (1..=28).map(|step| step * 24_000) {
        let mut client = narrow_client(&gateway).await;
        let (mut endpoint, _) = server.accept().await;
        client.head().await;
        let stream = [frame(BINARY, &vec![7; size], None), ending.clone()].concat();
        let len = stream.len();
        let sending = tokio::spawn(async move {
            endpoint.write(stream).await;
            endpoint.shut_down().await;
            endpoint
        });
        readers.push((client, len, sending));
    }
    // Longer than a closing handshake may take.
    tokio::time::sleep(Duration::from_secs(4)).await;
    for (mut client, len, sending) in readers {
        assert!(client.bytes(len).await.ends_with(&ending), "{len}");
        client.close(1000).await;
        client.ends().await;
        drop(sending.await.unwrap());
    }
}

/// A client before which little is under way at a time.
async fn narrow_client(gateway: &Gateway) -> Peer {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket2::SockRef::from(&socket).set_tcp_mss(1400).unwrap();
    socket.set_recv_buffer_size(16 * 1024).unwrap();
    let mut client = Peer::of_client(socket.connect(gateway.address).await.unwrap());
    client.write(handshake("/", "")).await;
    client
}
