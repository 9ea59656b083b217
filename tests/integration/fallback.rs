//! Requests that are no handshakes: passed to the same endpoints, streamed, over kept connections, until one is a handshake.

use std::time::Duration;

use holdfast::routing::route::{Cookie, Fallback, OnUnavailable, PersistBy, Persistence};

use crate::support::{
    Ending, Gateway, Peer, RuleBuilder, Server, TEXT, ask, closed_port, frame, handshake, header_values, switching, tunnel,
};

async fn start() -> (Server, Gateway) {
    let server = Server::start().await;
    let gateway = Gateway::start(RuleBuilder::to(&[server.address]).build());
    (server, gateway)
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n")
}

/// An answer with a body of a known length.
fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn requests_and_answers_pass_over_kept_connections() {
    let (server, gateway) = start().await;
    let mut client = Peer::connect(gateway.address).await;
    client
        .write(
            "GET /poll?token=secret HTTP/1.1\r\nHost: test\r\nConnection: keep-alive, X-Drop\r\nX-Drop: 1\r\nTE: trailers\r\n\
             X-Forwarded-For: 6.6.6.6\r\nAccept: */*\r\nCookie: a=1\r\n\r\n",
        )
        .await;
    let mut endpoint = server.connection().await;
    let asked = endpoint.head().await;
    assert!(asked.starts_with("GET /poll?token=secret HTTP/1.1\r\n"), "{asked}");
    for (name, values) in [
        ("host", &["test"][..]),
        ("accept", &["*/*"]),
        ("cookie", &["a=1"]),
        ("x-forwarded-for", &["127.0.0.1"]),
        ("x-forwarded-proto", &["http"]),
        ("x-real-ip", &["127.0.0.1"]),
        ("x-drop", &[]),
        ("te", &[]),
        ("connection", &[]),
    ] {
        assert_eq!(header_values(&asked, name), values, "{name} in {asked}");
    }
    assert_eq!(header_values(&asked, "x-request-id").len(), 1);
    endpoint
        .write(
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nKeep-Alive: timeout=5\r\nConnection: keep-alive\r\nX-Mine: 1\r\n\r\nhello",
        )
        .await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.text()), (200, "hello"));
    assert_eq!(answer.header("x-mine"), Some("1"));
    assert_eq!(answer.header("keep-alive"), None);

    // Both connections are used again.
    for number in 0..5 {
        let text = format!("answer {number}");
        client.write(get(&format!("/{number}"))).await;
        let asked = endpoint.head().await;
        assert!(asked.starts_with(&format!("GET /{number} HTTP/1.1\r\n")), "{asked}");
        endpoint.write(ok(&text)).await;
        assert_eq!(client.answer().await.text(), text);
        gateway.record("answered").await;
    }
    assert_eq!(server.dialled(), 1);
    let answered = gateway.record("answered").await;
    assert_eq!(answered["http.response.status_code"], 200);
    assert_eq!(answered["network.protocol.name"], "http");
    assert_eq!(gateway.metric("holdfast_fallback_requests_total", &["code=\"200\""]), 6.0);
    assert_eq!(gateway.metric("holdfast_handshakes_total", &[]), 0.0);
}

#[tokio::test]
async fn bodies_are_streamed_both_ways() {
    let (server, gateway) = start().await;
    let mut client = Peer::connect(gateway.address).await;
    client
        .write("POST /up HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
        .await;
    let mut endpoint = server.connection().await;
    let asked = endpoint.head().await;
    assert_eq!(header_values(&asked, "transfer-encoding"), ["chunked"]);
    assert!(header_values(&asked, "content-length").is_empty());
    assert_eq!(endpoint.bytes(10).await, b"5\r\nfirst\r\n", "before the second is sent");
    // The answer may begin before the request is complete.
    endpoint
        .write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
        .await;
    let head = client.head().await;
    assert_eq!(header_values(&head, "transfer-encoding"), ["chunked"]);
    assert_eq!(client.bytes(8).await, b"3\r\none\r\n");
    client.write("6\r\nsecond\r\n0\r\n\r\n").await;
    assert_eq!(endpoint.chunks().await, b"second");
    endpoint.write("3\r\ntwo\r\n0\r\n\r\n").await;
    assert_eq!(client.chunks().await, b"two");

    // By length, and larger than any buffer.
    let body = "b".repeat(3 << 20);
    let upload = format!(
        "PUT /up HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let sending = tokio::spawn(async move {
        client.write(upload).await;
        client
    });
    let asked = endpoint.head().await;
    assert_eq!(header_values(&asked, "content-length"), [body.len().to_string()]);
    assert!(endpoint.bytes(body.len()).await == body.as_bytes());
    client = sending.await.unwrap();
    let answering = tokio::spawn(async move {
        endpoint.write(ok(&body)).await;
        endpoint
    });
    assert_eq!(client.answer().await.body.len(), 3 << 20);
    answering.await.unwrap();
    assert_eq!(server.dialled(), 1);
}

#[tokio::test]
async fn answers_without_a_body_end_where_they_end() {
    let (server, gateway) = start().await;
    let mut client = Peer::connect(gateway.address).await;
    let mut endpoint = None;
    for (method, answer) in [
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n"),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n"),
        ("OPTIONS", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    ] {
        client.write(format!("{method} / HTTP/1.1\r\nHost: test\r\n\r\n")).await;
        if endpoint.is_none() {
            endpoint = Some(server.connection().await);
        }
        let endpoint = endpoint.as_mut().unwrap();
        let asked = endpoint.head().await;
        assert!(asked.starts_with(&format!("{method} / ")), "{asked}");
        endpoint.write(answer).await;
        let head = client.head().await;
        assert!(head.starts_with(answer.split("\r\n").next().unwrap()), "{head}");
        if method == "HEAD" {
            assert_eq!(header_values(&head, "content-length"), ["1234"]);
        }
    }
    assert!(client.has_nothing());
}

#[tokio::test]
async fn a_body_that_ends_with_its_connection_passes() {
    let (server, gateway) = start().await;
    let mut client = Peer::connect(gateway.address).await;
    client.write(get("/")).await;
    let mut endpoint = server.connection().await;
    endpoint.head().await;
    endpoint.write("HTTP/1.1 200 OK\r\n\r\nas much as there is").await;
    drop(endpoint);
    assert_eq!(client.answer().await.text(), "as much as there is");
}

#[tokio::test]
async fn a_kept_connection_that_was_closed_meanwhile_is_dialled_again() {
    let (server, gateway) = start().await;
    let mut client = Peer::connect(gateway.address).await;
    for round in 0..10 {
        client.write(get("/")).await;
        let mut endpoint = server.connection().await;
        endpoint.head().await;
        endpoint.write(ok("once")).await;
        assert_eq!(client.answer().await.text(), "once", "round {round}");
        endpoint.shut_down().await;
        assert_eq!(endpoint.ending().await, Ending::InOrder);
    }
}

#[tokio::test]
async fn a_handshake_may_follow_requests_on_the_same_connection() {
    let (server, gateway) = start().await;
    let mut client = Peer::connect(gateway.address).await;
    // All at once: two requests, a handshake, and a frame that belongs behind it.
    let pipelined = [
        get("/one").as_bytes(),
        get("/two").as_bytes(),
        handshake("/three", "").as_bytes(),
        &frame(TEXT, b"early", Some([1, 2, 3, 4])),
    ]
    .concat();
    client.write(pipelined).await;
    for path in ["/one", "/two"] {
        let mut endpoint = server.connection().await;
        assert!(endpoint.head().await.starts_with(&format!("GET {path} ")));
        endpoint
            .write(ok(path).replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n"))
            .await;
    }
    assert_eq!(client.answer().await.text(), "/one");
    assert_eq!(client.answer().await.text(), "/two");
    let (mut endpoint, asked) = server.accept().await;
    assert!(asked.starts_with("GET /three HTTP/1.1\r\n"), "{asked}");
    assert!(asked.contains("\r\nSec-WebSocket-Key: "));
    assert!(client.head().await.starts_with("HTTP/1.1 101 "));
    assert_eq!(endpoint.frame().await.payload, b"early");
    endpoint.send(TEXT, "answer").await;
    assert_eq!(client.frame().await.payload, b"answer");
    client.close(1000).await;
    assert_eq!(endpoint.frame().await.code(), 1000);
}

#[tokio::test]
async fn a_later_handshake_is_as_strictly_read_as_a_first_one() {
    let (server, gateway) = start().await;
    for (request, status) in [
        (handshake("/", "Host: twice\r\n"), 400),
        (handshake("/", "Content-Length: 3\r\n"), 400),
        (handshake("/", "X: y\r\n z\r\n"), 400),
        (handshake("/", &format!("X: {}\r\n", "x".repeat(120_000))), 431),
        (handshake("/", "").replace("Version: 13", "Version: 7"), 426),
        (get("/").replace("Host: test", "Host: test\r\nHost: test"), 400),
        (get("/").replace("Host: test", "Host: te st"), 400),
        ("NONSENSE\r\n\r\n".to_owned(), 400),
    ] {
        let mut client = Peer::connect(gateway.address).await;
        client.write(get("/")).await;
        let mut endpoint = server.connection().await;
        endpoint.head().await;
        endpoint
            .write("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            .await;
        assert_eq!(client.answer().await.status, 200);
        gateway.record("answered").await;
        client.write(&request).await;
        let answer = client.answer().await;
        assert_eq!(answer.status, status, "{request:.200}");
        client.shut_down().await;
        assert_eq!(client.ending().await, Ending::InOrder);
        let refused = gateway.record("refused").await;
        assert_eq!(refused["http.response.status_code"], status, "{request:.200}");
    }
}

#[tokio::test]
async fn a_client_that_expects_to_be_asked_for_its_body_is() {
    let (server, gateway) = start().await;
    let mut client = Peer::connect(gateway.address).await;
    client
        .write("POST /up HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
        .await;
    let mut endpoint = server.connection().await;
    endpoint.head().await;
    assert!(client.head().await.starts_with("HTTP/1.1 100 "));
    client.write("body").await;
    assert_eq!(endpoint.bytes(4).await, b"body");
    endpoint.write("HTTP/1.1 100 Continue\r\n\r\n").await;
    endpoint.write(ok("done")).await;
    assert_eq!(client.answer().await.text(), "done");
}

#[tokio::test]
async fn an_old_client_is_served_and_left() {
    let (server, gateway) = start().await;
    let mut client = Peer::connect(gateway.address).await;
    client.write("GET /health HTTP/1.0\r\nHost: test\r\n\r\n").await;
    let mut endpoint = server.connection().await;
    assert!(endpoint.head().await.starts_with("GET /health HTTP/1.1\r\n"));
    endpoint
        .write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")
        .await;
    let head = client.head().await;
    assert!(
        header_values(&head, "transfer-encoding").is_empty(),
        "HTTP/1.0 has no chunks: {head}"
    );
    assert_eq!(client.rest().await, b"ok");
}

#[tokio::test]
async fn where_only_handshakes_are_served_a_request_is_told_to_upgrade() {
    let server = Server::start().await;
    let rule = RuleBuilder::to(&[server.address]).change(|rule| rule.fallback = Fallback::Reject);
    let gateway = Gateway::start(rule.build());
    let mut client = Peer::connect(gateway.address).await;
    client.write(get("/")).await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.reason()), (426, Some("upgrade_required")));
    assert_eq!(answer.header("upgrade"), Some("websocket"));
    assert_eq!(answer.header("sec-websocket-version"), Some("13"));
    assert_eq!(answer.header("connection"), Some("upgrade, close"));
    assert_eq!(client.ending().await, Ending::InOrder);
    assert_eq!(server.dialled(), 0);
    tunnel(&gateway, &server).await;
}

#[tokio::test]
async fn refusals_of_requests_say_why() {
    let gateway = Gateway::start(RuleBuilder::to(&[closed_port()]).change(|rule| rule.prefix = "/chat").build());
    for (path, status, reason) in [("/chat/x", 502, "connection_refused"), ("/other", 404, "no_route")] {
        let answer = ask(gateway.address, get(path)).await;
        assert_eq!((answer.status, answer.reason()), (status, Some(reason)));
        let refused = gateway.record("refused").await;
        assert_eq!(refused["error.type"], reason);
        let code = format!("code=\"{status}\"");
        assert_eq!(gateway.metric("holdfast_fallback_requests_total", &[&code]), 1.0);
    }
}

#[tokio::test]
async fn an_endpoint_that_speaks_nonsense_or_leaves_is_answered_for() {
    let (server, gateway) = start().await;
    for (said, reason) in [("", "endpoint_closed"), ("what?\r\n\r\n", "endpoint_protocol_error")] {
        let mut client = Peer::connect(gateway.address).await;
        client.write(get("/")).await;
        let mut endpoint = server.connection().await;
        endpoint.head().await;
        endpoint.write(said).await;
        drop(endpoint);
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.reason()), (502, Some(reason)));
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_does_not_look_complete() {
    let (server, gateway) = start().await;
    for head in ["Content-Length: 100", "Transfer-Encoding: chunked"] {
        let mut client = Peer::connect(gateway.address).await;
        client.write(get("/")).await;
        let mut endpoint = server.connection().await;
        endpoint.head().await;
        endpoint
            .write(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n5\r\nhello\r\n"))
            .await;
        client.head().await;
        client.bytes(5).await;
        drop(endpoint);
        client.ending().await;
        assert!(!client.unread().ends_with(b"0\r\n\r\n"), "{head}");
        assert_eq!(gateway.record("answered").await["holdfast.answer.cut"], "endpoint_gone");
    }
}

/// A client that asked for more than the sockets on the way hold, and reads nothing; and its endpoint, which sends.
async fn asked_for_much(gateway: &Gateway, server: &Server, request: String, head: &str) -> (Peer, Peer) {
    let mut client = Peer::connect(gateway.address).await;
    client.write(request).await;
    let mut endpoint = server.connection().await;
    endpoint.head().await;
    endpoint.write(format!("{head}\r\nContent-Length: 100000000\r\n\r\n")).await;
    endpoint.fill(&[b'x'; 64 * 1024]).await;
    (client, endpoint)
}

#[tokio::test]
async fn a_client_that_stops_reading_its_answer_is_left_in_time() {
    let server = Server::start().await;
    let rule = RuleBuilder::to(&[server.address]).change(|rule| rule.timeouts.send = Duration::from_secs(2));
    let gateway = Gateway::start(rule.build());
    for (request, head, event) in [
        (get("/much"), "HTTP/1.1 200 OK", "answered"),
        (handshake("/much", ""), "HTTP/1.1 403 Forbidden", "refused"),
    ] {
        let (_client, mut endpoint) = asked_for_much(&gateway, &server, request, head).await;
        let answered = gateway.record(event).await;
        assert_eq!(answered["holdfast.answer.cut"], "client_stalled", "{head}");
        endpoint.ending().await;
    }
    gateway
        .wait_for_metric("holdfast_worker_connections_active", &[], |open| open == 0.0)
        .await;
}

#[tokio::test]
async fn a_client_that_leaves_its_answer_is_noted_and_one_that_reads_slowly_is_not() {
    let server = Server::start().await;
    let rule = RuleBuilder::to(&[server.address]).change(|rule| rule.timeouts.send = Duration::from_secs(2));
    let gateway = Gateway::start(rule.build());
    let head = "HTTP/1.1 200 OK";
    let (client, mut endpoint) = asked_for_much(&gateway, &server, get("/much"), head).await;
    drop(client);
    assert_eq!(gateway.record("answered").await["holdfast.answer.cut"], "client_gone");
    endpoint.ending().await;

    let (mut client, mut endpoint) = asked_for_much(&gateway, &server, get("/much"), head).await;
    client.head().await;
    let started = std::time::Instant::now();
    while started.elapsed() < Duration::from_secs(5) {
        client.bytes(4_000_000).await; // less would not yet make room at the other end
        endpoint.fill(&[b'x'; 64 * 1024]).await;
    }
    assert!(gateway.records("answered").is_empty(), "it is slow, not stalled");
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_request_with_it() {
    let (server, gateway) = start().await;
    let mut client = Peer::connect(gateway.address).await;
    client.write(get("/long/poll")).await;
    let mut endpoint = server.connection().await;
    endpoint.head().await;
    drop(client);
    assert_eq!(endpoint.ending().await, Ending::InOrder);
    assert_eq!(gateway.record("refused").await["error.type"], "client_gone");
    gateway
        .wait_for_metric("holdfast_worker_connections_active", &[], |open| open == 0.0)
        .await;
}

#[tokio::test]
async fn a_drain_lets_a_request_finish_and_ends_the_connection() {
    let (server, mut gateway) = start().await;
    let mut idle = Peer::connect(gateway.address).await;
    idle.write(get("/")).await;
    let mut endpoint = server.connection().await;
    endpoint.head().await;
    endpoint.write(ok("first")).await;
    assert_eq!(idle.answer().await.text(), "first");
    let mut busy = Peer::connect(gateway.address).await;
    busy.write(get("/long")).await;
    endpoint.head().await;
    gateway.drain(Duration::from_secs(60));
    assert_eq!(idle.ending().await, Ending::InOrder, "nothing is under way here");
    endpoint.write(ok("last")).await;
    let answer = busy.answer().await;
    assert_eq!((answer.text(), answer.header("connection")), ("last", Some("close")));
    assert_eq!(busy.ending().await, Ending::InOrder);
    drop((idle, busy));
    gateway.trigger.finished().await;
}

#[tokio::test]
async fn requests_and_handshakes_stick_to_the_same_endpoint() {
    let (one, other) = (Server::start().await, Server::start().await);
    let cookie = Cookie::named("sticky");
    let rule = RuleBuilder::to(&[one.address, other.address]).change(|rule| {
        rule.persistence = Some(Persistence {
            by: PersistBy::Cookie(cookie),
            on_unavailable: OnUnavailable::Repick,
        });
    });
    let gateway = Gateway::start(rule.build());
    for _ in 0..8 {
        // A first request, by polling.
        let mut client = Peer::connect(gateway.address).await;
        client.write(get("/poll")).await;
        let (mut kept, chosen) = tokio::select! {
            kept = one.connection() => (kept, &one),
            kept = other.connection() => (kept, &other),
        };
        kept.head().await;
        kept.write("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            .await;
        let answer = client.answer().await;
        let cookie = answer.header("set-cookie").expect("no cookie").to_owned();
        assert!(
            cookie.contains("Path=/") && cookie.contains("HttpOnly") && !cookie.contains("Secure"),
            "{cookie}"
        );
        let value = cookie.split(';').next().unwrap();
        // Then the upgrade, on another connection.
        for _ in 0..4 {
            let mut client = Peer::connect(gateway.address).await;
            client.write(handshake("/", &format!("Cookie: other=1; {value}\r\n"))).await;
            let mut endpoint = chosen.connection().await;
            let asked = endpoint.head().await;
            assert!(asked.contains(value), "the endpoint sees its cookies: {asked}");
            endpoint.write(switching("")).await;
            let head = client.head().await;
            assert!(
                header_values(&head, "set-cookie").is_empty(),
                "sent only when it changes: {head}"
            );
        }
        // A client without a cookie gets one with its 101.
        let mut client = Peer::connect(gateway.address).await;
        client.write(handshake("/", "")).await;
        let (_endpoint, _) = tokio::select! {
            accepted = one.accept() => accepted,
            accepted = other.accept() => accepted,
        };
        let head = client.head().await;
        assert_eq!(header_values(&head, "set-cookie").len(), 1, "{head}");
    }
}

#[tokio::test]
async fn a_request_that_was_sent_is_not_sent_again() {
    let (one, other) = (Server::start().await, Server::start().await);
    let gateway = Gateway::start(RuleBuilder::to(&[one.address, other.address]).build());
    let mut client = Peer::connect(gateway.address).await;
    client
        .write("POST /pay HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nmoney")
        .await;
    let mut endpoint = tokio::select! {
        endpoint = one.connection() => endpoint,
        endpoint = other.connection() => endpoint,
    };
    endpoint.head().await;
    drop(endpoint);
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.reason()), (502, Some("endpoint_closed")));
    assert_eq!(one.dialled() + other.dialled(), 1);
}
