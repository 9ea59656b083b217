//! From a request to a 101: what the endpoint is asked, what of its answer reaches the client, and when.

use std::{net::SocketAddr, time::Duration};

use tokio::io::AsyncWriteExt;

use crate::support::{
    ACCEPT, BINARY, Ending, Gateway, KEY, PING, Peer, RuleBuilder, Server, TEXT, ask, frame, handshake, header_values, switching,
    tunnel,
};

async fn start() -> (Server, Gateway) {
    let server = Server::start().await;
    let gateway = Gateway::start(RuleBuilder::to(&[server.address]).build());
    (server, gateway)
}

/// What the endpoint reads of a request, which it answers with the right 101.
async fn asked(gateway: &Gateway, server: &Server, request: &str) -> String {
    let mut client = Peer::connect(gateway.address).await;
    client.write(request).await;
    let (_endpoint, asked) = server.accept().await;
    let answer = client.head().await;
    assert!(answer.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{answer}");
    asked
}

#[tokio::test]
async fn the_endpoint_is_asked_what_the_client_asked() {
    let (server, gateway) = start().await;
    let request = handshake(
        "/chat/room%20one?x=1&y=%2F",
        "Sec-WebSocket-Protocol: a, b\r\nsec-websocket-protocol: c\r\n\
         Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\
         Origin: http://elsewhere\r\nCookie: one=1\r\nCookie: two=2\r\nAuthorization: Basic eDp5\r\n\
         X-Custom: as it is\r\ntraceparent: 00-1-2-01\r\nX-Request-Id: forged\r\nX-Real-IP: 6.6.6.6\r\n\
         X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: forged\r\nForwarded: for=6.6.6.6\r\n\
         X-Forwarded-Prefix: /p\r\n",
    );
    let asked = asked(&gateway, &server, &request).await;

    assert!(asked.starts_with("GET /chat/room%20one?x=1&y=%2F HTTP/1.1\r\n"), "{asked}");
    for (name, values) in [
        ("Host", &["test"][..]),
        ("Upgrade", &["websocket"]),
        ("Connection", &["Upgrade"]),
        ("Sec-WebSocket-Key", &[KEY]),
        ("Sec-WebSocket-Version", &["13"]),
        ("Sec-WebSocket-Protocol", &["a, b", "c"]),
        ("Sec-WebSocket-Extensions", &["permessage-deflate; client_max_window_bits"]),
        ("Origin", &["http://elsewhere"]),
        ("Cookie", &["one=1", "two=2"]),
        ("Authorization", &["Basic eDp5"]),
        ("X-Custom", &["as it is"]),
        ("Traceparent", &["00-1-2-01"]),
        ("X-Forwarded-For", &["127.0.0.1"]),
        ("X-Forwarded-Proto", &["http"]),
        ("X-Forwarded-Host", &["test"]),
        ("X-Real-IP", &["127.0.0.1"]),
        ("Forwarded", &[]),
        ("X-Forwarded-Prefix", &[]),
    ] {
        assert_eq!(header_values(&asked, name), values, "{name} in {asked}");
    }
    let id = header_values(&asked, "X-Request-Id")[0];
    assert!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
    assert!(
        asked.contains("\r\nSec-WebSocket-Key: "),
        "the case that small servers compare: {asked}"
    );

    let opened = gateway.record("opened").await;
    assert_eq!(opened["http.request.id"], id);
    assert_eq!(opened["url.path"], "/chat/room%20one");
}

#[tokio::test]
async fn what_concerns_one_connection_only_is_not_passed_on() {
    let (server, gateway) = start().await;
    let request = format!(
        "GET / HTTP/1.1\r\nHost: test\r\nConnection: keep-alive, UPGRADE,x-secret\r\nconnection: Cookie, Origin, Sec-WebSocket-Key\r\nOrigin: http://test\r\nUpgrade: WebSocket\r\n\
         X-Secret: 1\r\nCookie: kept=1\r\nKeep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nTE: trailers\r\n\
         HTTP2-Settings: x\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
    );
    let asked = asked(&gateway, &server, &request).await;
    for name in ["X-Secret", "Keep-Alive", "Proxy-Connection", "TE", "HTTP2-Settings"] {
        assert!(header_values(&asked, name).is_empty(), "{name} in {asked}");
    }
    assert_eq!(header_values(&asked, "Connection"), ["Upgrade"]);
    assert_eq!(
        header_values(&asked, "Cookie"),
        ["kept=1"],
        "a client cannot have it removed: {asked}"
    );
    assert_eq!(header_values(&asked, "Origin"), ["http://test"]);
    assert_eq!(header_values(&asked, "Sec-WebSocket-Key"), [KEY]);
}

#[tokio::test]
async fn the_tokens_of_a_handshake_are_read_in_any_case_and_from_lists() {
    let (server, gateway) = start().await;
    for (connection, upgrade) in [
        ("Upgrade", "websocket"),
        ("upgrade", "WebSocket"),
        ("keep-alive, Upgrade", "websocket"),
        ("UPGRADE,keep-alive", "WEBSOCKET"),
        ("keep-alive\r\nConnection: \t upgrade ", "websocket"),
        (", ,Upgrade", "h2c, websocket"),
    ] {
        let request = format!(
            "GET / HTTP/1.1\r\nHost: test\r\nConnection: {connection}\r\nUpgrade: {upgrade}\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: {KEY}\r\n\r\n"
        );
        asked(&gateway, &server, &request).await;
    }
}

#[tokio::test]
async fn what_is_no_valid_handshake_is_refused_and_nobody_is_asked() {
    let (server, gateway) = start().await;
    let upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\n";
    let key = format!("Sec-WebSocket-Key: {KEY}\r\n");
    let version = "Sec-WebSocket-Version: 13\r\n";
    let host = "Host: test\r\n";
    for (line, fields, status, reason) in [
        ("POST /", vec![host, upgrade, &key, version], 405, "method_not_allowed"),
        ("GET /", vec![host, upgrade, &key], 426, "unsupported_version"),
        (
            "GET /",
            vec![host, upgrade, &key, "Sec-WebSocket-Version: 8\r\n"],
            426,
            "unsupported_version",
        ),
        ("GET /", vec![host, upgrade, version], 400, "malformed_request"),
        (
            "GET /",
            vec![host, upgrade, version, "Sec-WebSocket-Key: c2hvcnQ=\r\n"],
            400,
            "malformed_request",
        ),
        ("GET /", vec![host, upgrade, version, &key, &key], 400, "malformed_request"),
        (
            "GET /",
            vec![host, upgrade, &key, version, "Content-Length: 5\r\n"],
            400,
            "malformed_request",
        ),
        (
            "GET /",
            vec![host, upgrade, &key, version, "Transfer-Encoding: chunked\r\n"],
            400,
            "malformed_request",
        ),
        ("GET /", vec![upgrade, &key, version], 400, "malformed_request"),
        ("GET /", vec![host, host, upgrade, &key, version], 400, "malformed_request"),
        ("GET /..", vec![host, upgrade, &key, version], 400, "malformed_request"),
        ("GET /%zz", vec![host, upgrade, &key, version], 400, "malformed_request"),
        (
            "GET /",
            vec!["Host: a b\r\n", upgrade, &key, version],
            400,
            "malformed_request",
        ),
        (
            "GET /",
            vec![host, upgrade, &key, version, "A: b\r\n c\r\n"],
            400,
            "malformed_request",
        ),
    ] {
        let answer = ask(gateway.address, format!("{line} HTTP/1.1\r\n{}\r\n", fields.concat())).await;
        assert_eq!((answer.status, answer.reason()), (status, Some(reason)), "{line} {fields:?}");
        if status == 426 {
            assert_eq!(answer.header("sec-websocket-version"), Some("13"));
            assert_eq!(answer.header("upgrade"), Some("websocket"));
            assert_eq!(answer.header("connection"), Some("upgrade, close"));
        }
        if status == 405 {
            assert_eq!(answer.header("allow"), Some("GET"));
        }
    }
    assert_eq!(server.dialled(), 0);
}

#[tokio::test]
async fn an_empty_body_is_none() {
    let (server, gateway) = start().await;
    asked(&gateway, &server, &handshake("/", "Content-Length: 0\r\n")).await;
}

#[tokio::test]
async fn a_target_in_absolute_form_names_the_host() {
    let (server, gateway) = start().await;
    let asked = asked(&gateway, &server, &handshake("http://other.example:81/abs?q=1", "")).await;
    assert!(asked.starts_with("GET /abs?q=1 HTTP/1.1\r\n"), "{asked}");
    assert_eq!(header_values(&asked, "Host"), ["other.example:81"], "RFC 9112, section 3.2.2");
    assert_eq!(header_values(&asked, "X-Forwarded-Host"), ["other.example:81"]);
    let opened = gateway.record("opened").await;
    assert_eq!(opened["server.address"], "other.example:81", "the host that was routed by");
}

#[tokio::test]
async fn the_client_reads_a_101_in_the_case_that_small_clients_compare() {
    let (server, gateway) = start().await;
    let mut client = Peer::connect(gateway.address).await;
    client
        .write(handshake(
            "/",
            "Sec-WebSocket-Protocol: v2, v1\r\nSec-WebSocket-Extensions: x-one\r\n",
        ))
        .await;
    let mut endpoint = server.connection().await;
    endpoint.head().await;
    endpoint
        .write(format!(
            "HTTP/1.1 101 Sure\r\nupgrade: WebSocket\r\nconnection: keep-alive, upgrade\r\nkeep-alive: timeout=5\r\n\
             sec-websocket-accept: {ACCEPT}\r\nsec-websocket-protocol: v1\r\nsec-websocket-extensions: x-one; a=1\r\n\
             set-cookie: a=1\r\nset-cookie: b=2\r\nserver: theirs\r\n\r\n"
        ))
        .await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{head}");
    for line in [
        "Upgrade: websocket",
        "Connection: Upgrade",
        &format!("Sec-WebSocket-Accept: {ACCEPT}"),
        "Sec-WebSocket-Protocol: v1",
        "Sec-WebSocket-Extensions: x-one; a=1",
        "Set-Cookie: a=1",
        "Set-Cookie: b=2",
        "Server: theirs",
    ] {
        assert_eq!(head.lines().filter(|found| *found == line).count(), 1, "{line} in {head}");
    }
    assert!(header_values(&head, "keep-alive").is_empty());
    assert_eq!(gateway.record("opened").await["holdfast.subprotocol"], "v1");
}

#[tokio::test]
async fn a_101_that_does_not_fit_is_never_seen_by_the_client() {
    let (server, gateway) = start().await;
    let good = format!("Sec-WebSocket-Accept: {ACCEPT}\r\n");
    let upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\n";
    for fields in [
        format!("{upgrade}Sec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n"),
        upgrade.to_owned(),
        format!("{upgrade}{good}{good}"),
        format!("{upgrade}{good}Sec-WebSocket-Protocol: other\r\n"),
        format!("{upgrade}{good}Sec-WebSocket-Protocol: a, b\r\n"),
        format!("{upgrade}{good}Sec-WebSocket-Extensions: x-other\r\n"),
        format!("Connection: Upgrade\r\n{good}"),
        format!("Upgrade: h2c\r\nConnection: Upgrade\r\n{good}"),
        format!("Upgrade: websocket\r\n{good}"),
    ] {
        let mut client = Peer::connect(gateway.address).await;
        client
            .write(handshake(
                "/",
                "Sec-WebSocket-Protocol: a, b\r\nSec-WebSocket-Extensions: x-one\r\n",
            ))
            .await;
        let mut endpoint = server.connection().await;
        endpoint.head().await;
        endpoint
            .write(format!("HTTP/1.1 101 Switching Protocols\r\n{fields}\r\n"))
            .await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.reason()), (502, Some("invalid_upgrade")), "{fields}");
        assert_eq!(endpoint.ending().await, Ending::InOrder);
        assert!(endpoint.unread().is_empty());
        client.shut_down().await;
        assert!(client.rest().await.is_empty(), "nothing comes behind the refusal");
    }
}

#[tokio::test]
async fn other_answers_pass_with_their_bodies_and_end_the_connection() {
    let (server, gateway) = start().await;
    let large = vec![b'x'; 1 << 20];
    let plain = |head: &str, body: &[u8]| [format!("HTTP/1.1 {head}\r\n").as_bytes(), body].concat();
    for (answer, status, body) in [
        (
            plain("403 Forbidden\r\nContent-Length: 5\r\nX-Why: because\r\n", b"no wayGARBAGE"),
            403,
            b"no wa".to_vec(),
        ),
        (
            plain("200 OK\r\nContent-Length: 1048576\r\nConnection: keep-alive\r\n", &large),
            200,
            large.clone(),
        ),
        (
            plain(
                "401 Unauthorized\r\nTransfer-Encoding: chunked\r\n",
                b"3;ext=1\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\nGARBAGE",
            ),
            401,
            b"abc0123456789".to_vec(),
        ),
        (
            plain("302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n", b""),
            302,
            Vec::new(),
        ),
        (plain("204 No Content\r\n", b""), 204, Vec::new()),
        (plain("503 Busy\r\n", b"until the end"), 503, b"until the end".to_vec()),
        (plain("500 Bad\r\nConnection: close\r\n", &large), 500, large.clone()),
    ] {
        let mut client = Peer::connect(gateway.address).await;
        client.write(handshake("/", "")).await;
        let mut endpoint = server.connection().await;
        endpoint.head().await;
        let sending = tokio::spawn(async move {
            // The answer may be passed and the connection given up before garbage behind it is written.
            let _ = endpoint.socket.write_all(&answer).await;
            let _ = endpoint.socket.shutdown().await;
            endpoint
        });
        let passed = client.answer().await;
        assert_eq!(passed.status, status);
        assert!(
            passed.body == body,
            "{status}: {} bytes are {}",
            body.len(),
            passed.body.len()
        );
        assert_eq!(passed.header("connection"), Some("close"), "{}", passed.head);
        assert_eq!(
            passed.header("proxy-status"),
            Some(&*format!("holdfast; received-status={status}"))
        );
        if status == 403 {
            assert_eq!(passed.header("x-why"), Some("because"));
        }
        assert!(client.rest().await.is_empty(), "{status}: nothing comes behind the body");
        drop(sending.await.unwrap());
        let refused = gateway.record("refused").await;
        assert_eq!(refused["http.response.status_code"], status);
        assert_eq!(refused["error.type"], "endpoint");
    }
    let refused = gateway.metric("holdfast_handshakes_total", &["code=\"403\"", "reason=\"endpoint\""]);
    assert_eq!(refused, 1.0);
}

#[tokio::test]
async fn interim_answers_are_passed_over() {
    let (server, gateway) = start().await;
    let mut client = Peer::connect(gateway.address).await;
    client.write(handshake("/", "")).await;
    let mut endpoint = server.connection().await;
    endpoint.head().await;
    endpoint
        .write(format!(
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n{}",
            switching("")
        ))
        .await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 101 ") && !head.contains("Link"), "{head}");
}

#[tokio::test]
async fn heads_may_come_in_any_pieces() {
    let (server, gateway) = start().await;
    let mut client = Peer::connect(gateway.address).await;
    for piece in handshake("/", "").as_bytes().chunks(7) {
        client.write(piece).await;
        tokio::task::yield_now().await;
    }
    let mut endpoint = server.connection().await;
    endpoint.head().await;
    for byte in [switching("").as_bytes(), &frame(TEXT, b"hello", None)].concat() {
        endpoint.write([byte]).await;
        tokio::task::yield_now().await;
    }
    client.head().await;
    assert_eq!(client.frame().await.payload, b"hello");
}

#[tokio::test]
async fn frames_behind_the_request_wait_for_the_101() {
    let (server, gateway) = start().await;
    let mut client = Peer::connect(gateway.address).await;
    let early = [
        frame(TEXT, b"early", Some([1, 2, 3, 4])),
        frame(BINARY, &[7; 30_000], Some([5, 6, 7, 8])),
    ]
    .concat();
    client.write([handshake("/", "").as_bytes(), &early].concat()).await;
    let mut endpoint = server.connection().await;
    endpoint.head().await;
    assert!(endpoint.has_nothing(), "frames were sent to an endpoint that may refuse them");
    endpoint.write(switching("")).await;
    assert_eq!(endpoint.frame().await.payload, b"early");
    assert_eq!(endpoint.frame().await.payload, [7; 30_000]);
    client.head().await;
    endpoint.send(TEXT, "answer").await;
    assert_eq!(client.frame().await.payload, b"answer");
    drop((client, endpoint));
    let ended = gateway.record("ended").await;
    assert_eq!(ended["holdfast.bytes.to_endpoint"], early.len());
    assert_eq!(ended["holdfast.messages.to_endpoint"], 2);
}

#[tokio::test]
async fn frames_behind_the_request_are_not_for_an_endpoint_that_refuses() {
    let (server, gateway) = start().await;
    let mut client = Peer::connect(gateway.address).await;
    client
        .write([handshake("/", "").as_bytes(), &frame(TEXT, b"early", Some([0; 4]))].concat())
        .await;
    let mut endpoint = server.connection().await;
    endpoint.head().await;
    endpoint.write("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno").await;
    assert_eq!(client.answer().await.text(), "no");
    drop(client);
    assert_eq!(endpoint.ending().await, Ending::InOrder);
    assert!(endpoint.unread().is_empty());
}

#[tokio::test]
async fn frames_behind_the_101_arrive() {
    let (server, gateway) = start().await;
    let mut client = Peer::connect(gateway.address).await;
    client.write(handshake("/", "")).await;
    let mut endpoint = server.connection().await;
    endpoint.head().await;
    // The last one is cut, and goes on later.
    let (cut, rest) = (frame(BINARY, &[9; 300], None), 100);
    let early = [
        switching("").as_bytes(),
        &frame(TEXT, b"welcome", None),
        &frame(0x80 | PING, b"x", None),
        &cut[..rest],
    ]
    .concat();
    endpoint.write(early).await;
    client.head().await;
    assert_eq!(client.frame().await.payload, b"welcome");
    assert_eq!(client.frame().await.opcode(), PING);
    endpoint.write(&cut[rest..]).await;
    assert_eq!(client.frame().await.payload, [9; 300]);
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_handshake_with_it() {
    let (server, gateway) = start().await;
    let mut client = Peer::connect(gateway.address).await;
    client.write(handshake("/", "")).await;
    let mut endpoint = server.connection().await;
    endpoint.head().await;
    drop(client);
    assert_eq!(endpoint.ending().await, Ending::InOrder);
    assert_eq!(gateway.record("refused").await["error.type"], "client_gone");
    gateway
        .wait_for_metric("holdfast_endpoint_connections_active", &[], |open| open == 0.0)
        .await;
}

#[tokio::test]
async fn a_connection_without_a_byte_is_nobodys_business() {
    let (server, gateway) = start().await;
    drop(Peer::connect(gateway.address).await);
    tunnel(&gateway, &server).await;
    let opened = gateway.record("opened").await;
    assert_eq!(opened["http.response.status_code"], 101);
    gateway
        .wait_for_metric("holdfast_worker_connections_active", &[], |open| open == 0.0)
        .await;
    assert!(gateway.records("refused").is_empty(), "a port scan is no refusal");
}

#[tokio::test]
async fn the_handshake_timeout_covers_everything_up_to_the_101() {
    let server = Server::start().await;
    let rule = |address: SocketAddr| {
        RuleBuilder::to(&[address])
            .change(|rule| rule.timeouts.handshake = Duration::from_secs(1))
            .build()
    };
    let gateway = Gateway::start(rule(server.address));
    let mut client = Peer::connect(gateway.address).await;
    client.write(handshake("/", "")).await;
    let mut endpoint = server.connection().await;
    endpoint.head().await;
    endpoint.write("HTTP/1.1 101 Swi").await; // and no more
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.reason()), (504, Some("handshake_timeout")));
    assert_eq!(endpoint.ending().await, Ending::InOrder);
}
