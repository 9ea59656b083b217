//! Clients that mean harm: heads that two readers could read differently, heads that never end, bytes that are meant to be
//! taken for something else. None of it reaches an endpoint, and none of it costs others anything.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use futures::future::join_all;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};

use holdfast::routing::{
    fallback::{Fallback, Respond},
    table::RuleSpec,
};

use crate::{
    support::{
        ACCEPT, Ending, Gateway, KEY, PATIENCE, Peer, RuleBuilder, Server, TEXT, ask, frame, handshake, handshake_with,
        header_values, switching, tunnel,
    },
    tls_client::{self, made},
};

/// How a connection comes to the request that is meant.
#[derive(Clone, Copy, Debug)]
enum Come {
    First,
    /// Behind one that was answered.
    Later,
    /// In one piece with one that is answered before it.
    Pipelined,
}

const WAYS: [Come; 3] = [Come::First, Come::Later, Come::Pipelined];

impl Come {
    /// A rule of which plain requests are answered here, so that no endpoint is asked before the request that is meant.
    fn rule(server: &Server) -> Vec<RuleSpec> {
        let page = Respond {
            status: http::StatusCode::OK,
            headers: http::HeaderMap::new(),
            body: "page".into(),
        };
        RuleBuilder::to(&[server.address])
            .change(|rule| rule.fallback = Fallback::Respond(Box::new(page)))
            .build()
    }

    /// A client that has sent it.
    async fn send(self, gateway: &Gateway, request: &str) -> Peer {
        let mut client = Peer::connect(gateway.address).await;
        let page = "GET /page HTTP/1.1\r\nHost: test\r\n\r\n";
        match self {
            Self::First => {}
            Self::Later => {
                client.write(page).await;
                assert_eq!(client.answer().await.text(), "page");
            }
            Self::Pipelined => {
                client.write(format!("{page}{request}")).await;
                assert_eq!(client.answer().await.text(), "page");
                return client;
            }
        }
        client.write(request).await;
        client
    }
}

async fn start() -> (Server, Gateway) {
    let server = Server::start().await;
    let gateway = Gateway::start(RuleBuilder::to(&[server.address]).build());
    (server, gateway)
}

/// A handshake, its head's lines changed.
fn changed(from: &str, to: &str) -> String {
    let request = handshake("/", "");
    assert!(request.contains(from), "{from}");
    request.replacen(from, to, 1)
}

#[tokio::test]
async fn what_two_readers_could_read_differently_is_refused_and_reaches_nobody() {
    let server = Server::start().await;
    let gateway = Gateway::start(Come::rule(&server));
    let post = |fields: &str, body: &str| format!("POST / HTTP/1.1\r\nHost: test\r\n{fields}\r\n{body}");
    let get = |target: &str, fields: &str| format!("GET {target} HTTP/1.1\r\nHost: test\r\n{fields}\r\n");
    let upgrade =
        format!("Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n");
    for request in [
        // Where the body ends.
        post("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        post("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", "0\r\n\r\n"),
        post("Content-Length: 4\r\nContent-Length: 4\r\n", "abcd"),
        post("Content-Length: 4\r\nContent-Length: 5\r\n", "abcd"),
        post("Content-Length: 4, 4\r\n", "abcd"),
        post("Content-Length: +4\r\n", "abcd"),
        post("Content-Length: -1\r\n", ""),
        post("Content-Length: 0x4\r\n", "abcd"),
        post("Content-Length: \r\n", ""),
        post("Content-Length: 99999999999999999999\r\n", ""),
        post("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"),
        post("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n"),
        post("Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n"),
        post("Transfer-Encoding: identity\r\n", ""),
        post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        post("Transfer-Encoding : chunked\r\n", "0\r\n\r\n"),
        post("Transfer-Encoding:\u{b}chunked\r\n", "0\r\n\r\n"),
        get("/", &format!("{upgrade}Transfer-Encoding: chunked\r\n")),
        get("/", &format!("{upgrade}Content-Length: 5\r\n")),
        "POST / HTTP/1.0\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
        // Where a line ends.
        get("/", "X: a\r\n b\r\n"),
        get("/", "X: a\r\n\tb\r\n"),
        get("/", "X: a\rY: b\r\n"),
        get("/", "X: a\nY: b\r\n"),
        get("/", "X: a\0b\r\n"),
        get("/", "X\0Y: a\r\n"),
        get("/", "X : a\r\n"),
        get("/", " X: a\r\n"),
        get("/", ": a\r\n"),
        get("/", "X\r\n"),
        "GET / HTTP/1.1\nHost: test\n\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: test\n\r\n".to_owned(),
        "\nGET / HTTP/1.1\r\nHost: test\r\n\r\n".to_owned(),
        changed("\r\nUpgrade", "\nUpgrade"),
        changed("Upgrade: websocket\r\n", "Upgrade: websocket\r"),
        // Whom it is for.
        get("/", "Host: test\r\n"),
        get("/", "Host: other\r\n"),
        "GET / HTTP/1.1\r\n\r\n".to_owned(),
        "GET / HTTP/1.0\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost:\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: user@test\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: test:80@evil\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: test:99999\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: test:80:80\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: test/path\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: test, other\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: test\u{e9}\r\n\r\n".to_owned(),
        "GET http://user@test/ HTTP/1.1\r\nHost: test\r\n\r\n".to_owned(),
        "GET http://test/ HTTP/1.1\r\nHost: a b\r\n\r\n".to_owned(),
        "GET http:///path HTTP/1.1\r\nHost: test\r\n\r\n".to_owned(),
        // What it asks for.
        "CONNECT test:443 HTTP/1.1\r\nHost: test\r\n\r\n".to_owned(),
        "GET test:443 HTTP/1.1\r\nHost: test\r\n\r\n".to_owned(),
        "OPTIONS * HTTP/1.1\r\nHost: test\r\n\r\n".to_owned(),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
        "GET / HTTP/2.0\r\nHost: test\r\n\r\n".to_owned(),
        "GET / HTTP/1.2\r\nHost: test\r\n\r\n".to_owned(),
        "GET / http/1.1\r\nHost: test\r\n\r\n".to_owned(),
        "GET /\r\nHost: test\r\n\r\n".to_owned(),
        "GET /a b HTTP/1.1\r\nHost: test\r\n\r\n".to_owned(),
        "GET\t/ HTTP/1.1\r\nHost: test\r\n\r\n".to_owned(),
        "G(ET / HTTP/1.1\r\nHost: test\r\n\r\n".to_owned(),
        get("/a%0d%0aX-Evil:%20b", &upgrade),
        get("/a%00b", &upgrade),
        get("/..%2fadmin", &upgrade),
        get("/a/..%2Fadmin", &upgrade),
        get("/a/%2e%2e%2fadmin", &upgrade),
        get("/a\\..\\admin", &upgrade),
        get("/a/..;/admin", &upgrade),
        get("/../admin", &upgrade),
        get("/%", &upgrade),
    ] {
        for way in WAYS {
            let mut client = way.send(&gateway, &request).await;
            let answer = client.answer().await;
            assert_eq!(answer.status, 400, "{way:?} {request:?}: {}", answer.head);
            assert_eq!(answer.reason(), Some("malformed_request"), "{way:?} {request:?}");
            client.shut_down().await;
            assert_eq!(client.ending().await, Ending::InOrder, "{way:?} {request:?}");
            assert!(client.unread().is_empty(), "{way:?} {request:?}: a second answer");
            assert_eq!(gateway.record("refused").await["error.type"], "malformed_request");
        }
    }
    assert_eq!(server.dialled(), 0);
}

#[tokio::test]
async fn what_only_looks_strange_is_served() {
    let (server, gateway) = start().await;
    for (request, target, host) in [
        (
            handshake("/", "")
                .to_ascii_lowercase()
                .replace("get / http/1.1", "GET / HTTP/1.1")
                .replace(&KEY.to_ascii_lowercase(), KEY),
            "/",
            "test",
        ),
        (changed("Upgrade: websocket", "UPGRADE:WebSocket\t "), "/", "test"),
        (changed("Upgrade: websocket", "Upgrade: h2c, websocket"), "/", "test"),
        (
            changed(
                "Connection: Upgrade",
                "Connection: keep-alive, Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAAA",
            ),
            "/",
            "test",
        ),
        (format!("\r\n{}", handshake("/", "")), "/", "test"),
        (handshake_with("TEST.:80", "/", ""), "/", "TEST.:80"),
        (handshake("http://test/abs", ""), "/abs", "test"),
        (
            handshake("/q?a=%0d%0aX-Evil:%20b&c=../..", ""),
            "/q?a=%0d%0aX-Evil:%20b&c=../..",
            "test",
        ),
        (handshake("/a/./b/../c%2fd", ""), "/a/c%2Fd", "test"),
        (handshake("/", "Content-Length: 0\r\n"), "/", "test"),
    ] {
        let mut client = Peer::connect(gateway.address).await;
        client.write(&request).await;
        let (_endpoint, asked) = server.accept().await;
        assert!(
            asked.starts_with(&format!("GET {target} HTTP/1.1\r\n")),
            "{request:?}: {asked}"
        );
        assert_eq!(header_values(&asked, "host"), [host], "{request:?}");
        assert_eq!(header_values(&asked, "upgrade"), ["websocket"], "{request:?}");
        assert_eq!(header_values(&asked, "connection"), ["Upgrade"], "{request:?}");
        for name in ["http2-settings", "x-evil", "transfer-encoding"] {
            assert!(header_values(&asked, name).is_empty(), "{request:?}: {asked}");
        }
        assert!(client.head().await.starts_with("HTTP/1.1 101 "), "{request:?}");
    }
}

#[tokio::test]
async fn an_upgrade_to_anything_else_is_a_plain_request_without_it() {
    let (server, gateway) = start().await;
    for fields in [
        "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n",
        "Upgrade: websocket\r\nConnection: close\r\n",
        "Upgrade: websocket/13\r\nConnection: Upgrade\r\n",
        "Upgrade: TLS/1.2\r\nConnection: Upgrade\r\n",
    ] {
        let mut client = Peer::connect(gateway.address).await;
        client.write(format!("GET /h2c HTTP/1.1\r\nHost: test\r\n{fields}\r\n")).await;
        let mut endpoint = server.connection().await;
        let asked = endpoint.head().await;
        for name in ["upgrade", "http2-settings"] {
            assert!(header_values(&asked, name).is_empty(), "{asked}");
        }
        // An endpoint that switches all the same gets no tunnel.
        endpoint
            .write("HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n")
            .await;
        let answer = client.answer().await;
        assert_eq!(answer.status, 502, "{fields}: {}", answer.head);
        client.write("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        client.shut_down().await;
        client.ending().await;
        endpoint.ending().await;
        assert!(
            endpoint.unread().is_empty(),
            "{:?}",
            String::from_utf8_lossy(endpoint.unread())
        );
    }
}

#[tokio::test]
async fn bytes_behind_a_refused_upgrade_reach_nobody() {
    let (server, gateway) = start().await;
    let smuggled = "GET /internal HTTP/1.1\r\nHost: test\r\n\r\n";
    // Refused by us.
    for request in [
        changed("Version: 13", "Version: 777"),
        changed("Version: 13", "Version: 13, 777"),
        changed("GET /", "POST /"),
        changed(KEY, "AAAA"),
    ] {
        let mut client = Peer::connect(gateway.address).await;
        client.write(format!("{request}{smuggled}")).await;
        let answer = client.answer().await;
        assert!((400..500).contains(&answer.status), "{}", answer.head);
        client.write(smuggled).await;
        client.shut_down().await;
        assert_eq!(client.ending().await, Ending::InOrder);
        assert!(client.unread().is_empty(), "{request}");
    }
    assert_eq!(server.dialled(), 0);
    // Refused by the endpoint, in every way that a proxy may take for consent.
    for refusal in [
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_owned(),
        "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n".to_owned(),
        "HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\r\n".to_owned(),
        format!(
            "HTTP/1.1 200 OK\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {ACCEPT}\r\nContent-Length: 0\r\n\r\n"
        ),
        "HTTP/1.1 204 No Content\r\n\r\n".to_owned(),
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n".to_owned(),
        switching("Sec-WebSocket-Protocol: \r\n"),
        switching("Sec-WebSocket-Protocol:\r\n"),
    ] {
        let mut client = Peer::connect(gateway.address).await;
        client.write(format!("{}{smuggled}", handshake("/", ""))).await;
        let mut endpoint = server.connection().await;
        endpoint.head().await;
        endpoint.write(&refusal).await;
        let answer = client.answer().await;
        assert_ne!(answer.status, 101, "{refusal}");
        client.write(smuggled).await;
        client.shut_down().await;
        assert_eq!(client.ending().await, Ending::InOrder, "{refusal}");
        assert!(client.unread().is_empty(), "{refusal}: a second answer");
        endpoint.ending().await;
        assert!(endpoint.unread().is_empty(), "{refusal}: {:?}", endpoint.unread());
    }
    assert_eq!(server.dialled(), 8);
}

#[tokio::test]
async fn a_request_behind_an_accepted_upgrade_is_no_request() {
    let (server, gateway) = start().await;
    let mut client = Peer::connect(gateway.address).await;
    let second = "GET /internal HTTP/1.1\r\nHost: test\r\n\r\n";
    client.write(format!("{}{second}", handshake("/", ""))).await;
    let (mut endpoint, _) = server.accept().await;
    assert!(client.head().await.starts_with("HTTP/1.1 101 "));
    client.shut_down().await;
    endpoint.ending().await;
    client.ending().await;
    let answered = String::from_utf8_lossy(client.unread()).into_owned();
    assert!(!answered.contains("HTTP/1.1"), "{answered}");
    assert_eq!(server.dialled(), 1);
    assert_eq!(gateway.metric("holdfast_fallback_requests_total", &[]), 0.0);
}

#[tokio::test]
async fn a_body_ends_where_its_head_says_and_what_is_in_it_is_no_request() {
    let (server, gateway) = start().await;
    let inner = "GET /internal HTTP/1.1\r\nHost: test\r\n\r\n";
    let (first, second) = inner.split_at(20);
    let length = inner.len();
    let by_length = format!("POST /up HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\n{inner}");
    let chunked = format!(
        "POST /up HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n{:x};x=y\r\n{first}\r\n{:X}\r\n{second}\r\n\
         0\r\nX-Trailer: 1\r\n\r\n",
        first.len(),
        second.len()
    );
    for request in [by_length, chunked] {
        // However it is cut, the handshake behind it is read as one.
        let all = format!("{request}{}", handshake("/behind", ""));
        for cut in [
            0,
            30,
            request.len() - 40,
            request.len() - 3,
            request.len() - 1,
            request.len(),
            request.len() + 9,
        ] {
            let mut client = Peer::connect(gateway.address).await;
            client.write(&all[..cut]).await;
            let rest = all[cut..].to_owned();
            let sending = tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(20)).await; // so that the rest comes on its own
                client.write(rest).await;
                client
            });
            let mut endpoint = server.connection().await;
            let asked = endpoint.head().await;
            assert!(asked.starts_with("POST /up HTTP/1.1\r\n"), "{asked}");
            let body = match header_values(&asked, "content-length")[..] {
                [] => endpoint.chunks().await,
                _ => endpoint.bytes(length).await,
            };
            assert_eq!(String::from_utf8_lossy(&body), inner, "cut at {cut}");
            let mut client = sending.await.unwrap();
            endpoint
                .write("HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\ndone")
                .await;
            assert_eq!(client.answer().await.text(), "done");
            let (_endpoint, asked) = server.accept().await;
            assert!(asked.starts_with("GET /behind HTTP/1.1\r\n"), "{asked}");
            assert!(client.head().await.starts_with("HTTP/1.1 101 "));
        }
    }
}

#[tokio::test]
async fn chunks_that_could_end_at_two_places_end_the_request() {
    let (server, gateway) = start().await;
    for chunks in [
        "5\nhello\r\n0\r\n\r\n",
        "5;a\nhello\r\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "0\r\n\n",
        "0\r\nX: a\nY: b\r\n\r\n",
        "FFFFFFFFFFFFFFFFF\r\n",
        "-1\r\n",
    ] {
        let mut client = Peer::connect(gateway.address).await;
        let head = "POST /up HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n";
        let second = "GET /internal HTTP/1.1\r\nHost: test\r\n\r\n";
        client.write(format!("{head}{chunks}{second}")).await;
        let answer = client.answer().await;
        assert_eq!(
            (answer.status, answer.reason()),
            (400, Some("malformed_request")),
            "{chunks:?}: {}",
            answer.head
        );
        assert_eq!(client.ending().await, Ending::InOrder, "{chunks:?}");
        assert!(client.unread().is_empty(), "{chunks:?}");
        assert_eq!(gateway.record("refused").await["error.type"], "malformed_request");
        // The endpoint has been left in the middle of the request.
        let mut endpoint = server.connection().await;
        endpoint.ending().await;
        let got = String::from_utf8_lossy(endpoint.unread());
        assert!(
            !got.contains("/internal") && !got.contains("\r\n0\r\n\r\n"),
            "{chunks:?}: {got}"
        );
    }
}

#[tokio::test]
async fn frames_sent_before_the_answer_arrive_behind_it_in_their_order() {
    let (server, gateway) = start().await;
    let mut client = Peer::connect(gateway.address).await;
    client.write(handshake("/", "")).await;
    let mut endpoint = server.connection().await;
    endpoint.head().await;
    let mask = Some([9, 8, 7, 6]);
    for number in 0..200_u8 {
        client.write(frame(TEXT, &[b'a' + number % 26; 300], mask)).await;
    }
    assert!(endpoint.has_nothing(), "frames were sent to an endpoint that may refuse them");
    endpoint.write(switching("")).await;
    client.head().await;
    for number in 0..200_u8 {
        assert_eq!(endpoint.frame().await.payload, [b'a' + number % 26; 300]);
    }
}

#[tokio::test]
async fn heads_are_bounded_in_bytes_and_fields_and_no_sooner() {
    let server = Server::start().await;
    let gateway = Gateway::start(Come::rule(&server));
    let sized = |len: usize| {
        let missing = len - handshake("/", "X: \r\n").len();
        handshake("/", &format!("X: {}\r\n", "x".repeat(missing)))
    };
    let fields_of_its_own = handshake("/", "").matches("\r\n").count() - 2;
    let many = |count: usize| handshake("/", &"A: b\r\n".repeat(count - fields_of_its_own));
    for request in [sized(32 * 1024), many(100)] {
        for way in WAYS {
            let mut client = way.send(&gateway, &request).await;
            server.accept().await;
            assert!(
                client.head().await.starts_with("HTTP/1.1 101 "),
                "{way:?} {} bytes",
                request.len()
            );
        }
    }
    let dialled = server.dialled();
    for request in [
        sized(32 * 1024 + 1),
        sized(256 << 10),
        many(101),
        many(20_000),
        format!("GET /{} HTTP/1.1\r\nHost: test\r\n\r\n", "a".repeat(40_000)),
        format!("GET / HTTP/1.1\r\nHost: test\r\n{}: a\r\n\r\n", "X".repeat(40_000)),
        format!("GET / HTTP/1.1\r\nHost: test\r\nCookie: {}", "c".repeat(64 << 10)),
    ] {
        for way in WAYS {
            let answer = way.send(&gateway, &request).await.answer().await;
            assert_eq!(
                (answer.status, answer.reason()),
                (431, Some("headers_too_large")),
                "{way:?} {} bytes",
                request.len()
            );
        }
    }
    assert_eq!(server.dialled(), dialled);
}

/// Sends a head byte by byte, faster than anything times out, until the other end has enough; says how it ended.
async fn trickle(mut client: Peer, head: &str) -> Vec<u8> {
    for byte in head.as_bytes() {
        if !client.has_nothing() || client.socket.write_all(&[*byte]).await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    client.ending().await;
    client.unread().to_vec()
}

#[tokio::test]
async fn slow_heads_and_slow_tls_end_in_time_and_cost_others_nothing() {
    let a = made("a", &["a.test"]);
    let (server, gateway) = tls_client::start(&[("a.test", &a)], |_| {}).await;
    let (mut client, mut endpoint) = tunnel(&gateway, &server).await;
    let started = Instant::now();
    let endless = handshake("/", &format!("X: {}", "x".repeat(1000)));
    let page = Gateway::start(Come::rule(&server));
    let slow_plain = join_all((0..50).map(|number| {
        let way = WAYS[number % WAYS.len()];
        let (gateway, endless) = (if number % 2 == 0 { &gateway } else { &page }, &endless);
        async move {
            let client = match number % 2 {
                0 => Peer::connect(gateway.address).await,
                _ => way.send(gateway, "G").await,
            };
            trickle(client, endless).await
        }
    }));
    // A ClientHello that announces more than ever comes.
    let hello: String = "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}"
        .chars()
        .chain(std::iter::repeat_n('a', 1000))
        .collect();
    let slow_tls = join_all((0..50).map(|_| async { trickle(Peer::connect(gateway.https).await, &hello).await }));
    let live = async {
        while started.elapsed() < Duration::from_secs(8) {
            client.send(TEXT, "live").await;
            assert_eq!(endpoint.frame().await.payload, b"live");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let (plain, tls, ()) = tokio::join!(slow_plain, slow_tls, live);
    for answer in plain {
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(
            answer.starts_with("HTTP/1.1 408 ") && answer.contains("request_timeout"),
            "{answer}"
        );
    }
    assert!(tls.iter().all(|answer| !answer.starts_with(b"HTTP/")), "no TLS, no HTTP");
    assert_eq!(server.dialled(), 1);
}

#[tokio::test]
async fn half_open_connections_fill_their_own_places_only() {
    let server = Server::start().await;
    let gateway = Gateway::with(RuleBuilder::to(&[server.address]).build(), |settings| {
        settings.limit.connections = 20;
        settings.limit.reserve = 5;
    });
    let (mut client, mut endpoint) = tunnel(&gateway, &server).await;
    let mut half_open = Vec::new();
    for _ in 0..19 {
        let mut peer = Peer::connect(gateway.address).await;
        peer.write("GET / HTTP/1.1\r\nHost: te").await;
        half_open.push(peer);
    }
    gateway
        .wait_for_metric("holdfast_worker_connections_active", &[], |open| open == 20.0)
        .await;
    let answer = ask(gateway.address, handshake("/", "")).await;
    assert_eq!((answer.status, answer.reason()), (503, Some("overload")));
    client.send(TEXT, "live").await;
    assert_eq!(endpoint.frame().await.payload, b"live");
    for peer in &mut half_open {
        let answer = peer.answer().await;
        assert_eq!((answer.status, answer.reason()), (408, Some("request_timeout")));
    }
    drop(half_open);
    gateway
        .wait_for_metric("holdfast_worker_connections_active", &[], |open| open == 1.0)
        .await;
    tunnel(&gateway, &server).await;
}

#[tokio::test]
async fn names_that_some_servers_take_for_others_are_not_passed_on() {
    let (server, gateway) = start().await;
    let mut client = Peer::connect(gateway.address).await;
    let fields = "X_Forwarded_For: 6.6.6.6\r\nX_Real_IP: 6.6.6.6\r\nx-forwarded_proto: https\r\nX_Own_Field: stays\r\n";
    client.write(handshake("/", fields)).await;
    let (_endpoint, asked) = server.accept().await;
    assert!(!asked.contains("6.6.6.6"), "{asked}");
    assert!(!asked.to_ascii_lowercase().contains("x-forwarded_proto"), "{asked}");
    assert!(asked.contains("stays"), "{asked}");
}

/// An endpoint that notes every head it gets and refuses it.
async fn noting(listener: TcpListener, heads: Arc<Mutex<Vec<Vec<u8>>>>) {
    let mut peers = JoinSet::new();
    while let Ok((mut socket, _)) = listener.accept().await {
        let heads = Arc::clone(&heads);
        peers.spawn(async move {
            let mut head = Vec::new();
            while !head.windows(4).any(|four| four == b"\r\n\r\n") {
                if socket.read_buf(&mut head).await.unwrap_or(0) == 0 {
                    break;
                }
            }
            let end = head.windows(4).position(|four| four == b"\r\n\r\n");
            head.truncate(end.map_or(head.len(), |end| end + 4)); // a body that was asked for may follow
            // A request whose body is malformed from the start is not sent to whom was dialled for it.
            if !head.is_empty() {
                heads.lock().unwrap().push(head);
            }
            let _ = socket
                .write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                .await;
        });
    }
}

/// A handshake with a few bytes changed, taken out, put in, or doubled.
fn mutated(rng: &mut fastrand::Rng) -> Vec<u8> {
    let mut bytes = handshake("/chat/room?x=1", "Origin: https://test\r\nCookie: a=b\r\n").into_bytes();
    for _ in 0..rng.usize(1..4) {
        let at = rng.usize(..bytes.len());
        let token = INTERESTING[rng.usize(..INTERESTING.len())];
        match rng.u8(..5) {
            0 => bytes[at] = rng.u8(..),
            1 => drop(bytes.remove(at)),
            2 => drop(bytes.splice(at..at, token.iter().copied())),
            3 => {
                let end = (at + rng.usize(1..40)).min(bytes.len());
                let piece = bytes[at..end].to_vec();
                drop(bytes.splice(at..at, piece));
            }
            _ => {
                let end = (at + token.len()).min(bytes.len());
                drop(bytes.splice(at..end, token.iter().copied()));
            }
        }
    }
    bytes
}

/// Whether a head is one that every reader reads in the same way.
fn is_plain_to_all(head: &[u8]) -> bool {
    let Some(text) = head.strip_suffix(b"\r\n\r\n") else {
        return false;
    };
    let mut lines = text.split(|byte| *byte == b'\n');
    let request_line = lines.next().unwrap_or_default();
    let mut hosts = 0;
    let fields = lines.all(|line| {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            return false;
        };
        let (name, value) = line.split_at(colon);
        let name_is_token = !name.is_empty()
            && name
                .iter()
                .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte));
        hosts += usize::from(name.eq_ignore_ascii_case(b"host"));
        name_is_token && !value.iter().any(|byte| matches!(byte, 0 | b'\r' | b'\n' | 0x7F))
    });
    let breaks = text.iter().filter(|byte| **byte == b'\n').count();
    let pairs = text.windows(2).filter(|pair| pair == b"\r\n").count();
    let returns = text.iter().filter(|byte| **byte == b'\r').count();
    let words = request_line.split(|byte| *byte == b' ').count();
    fields && hosts == 1 && words == 3 && breaks == pairs && returns == pairs
}

async fn sent_and_ended(gateway: SocketAddr, bytes: Vec<u8>) {
    let mut socket = TcpStream::connect(gateway).await.unwrap();
    let _ = socket.write_all(&bytes).await;
    // What lacks its end gets no answer before that is told, and what is whole may be on its way to the endpoint.
    let _ = timeout(Duration::from_millis(300), socket.readable()).await;
    let _ = socket.shutdown().await;
    let mut answer = Vec::new();
    let read = timeout(PATIENCE, socket.read_to_end(&mut answer)).await;
    assert!(read.is_ok(), "no end: {:?}", String::from_utf8_lossy(&bytes));
}

#[tokio::test]
async fn whatever_becomes_of_a_handshake_it_is_answered_and_only_clean_ones_reach_an_endpoint() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gateway = Gateway::start(RuleBuilder::to(&[listener.local_addr().unwrap()]).build());
    let heads = Arc::new(Mutex::new(Vec::new()));
    let endpoint = tokio::spawn(noting(listener, Arc::clone(&heads)));
    let mut rng = fastrand::Rng::with_seed(7);
    for _ in 0..8 {
        let round: Vec<_> = (0..250).map(|_| mutated(&mut rng)).collect();
        join_all(round.into_iter().map(|bytes| sent_and_ended(gateway.address, bytes))).await;
    }
    let heads = heads.lock().unwrap().clone();
    assert!(heads.len() > 50, "only {} were well enough", heads.len());
    for head in &heads {
        assert!(is_plain_to_all(head), "{:?}", String::from_utf8_lossy(head));
    }
    assert_eq!(gateway.metric("holdfast_handshakes_total", &["reason=\"internal\""]), 0.0);
    gateway
        .wait_for_metric("holdfast_worker_connections_active", &[], |open| open == 0.0)
        .await;
    assert_eq!(ask(gateway.address, handshake("/", "")).await.status, 403, "it serves on");
    endpoint.abort();
}

const INTERESTING: [&[u8]; 18] = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"\t",
    b":",
    b"\r\n ",
    b"\r\n\r\n",
    b"Host: evil\r\n",
    b"\r\nContent-Length: 5\r\n",
    b"\r\nTransfer-Encoding: chunked\r\n",
    b"%0d%0a",
    b"/../",
    b"\xff",
    b"HTTP/1.0",
    b", ",
    b"Connection: close\r\n",
];
