//! By which scheme a client came, and by which it should have: what is told to it, recorded, and put into its cookie.

use holdfast::{
    proxy::Settings,
    routing::route::{Cookie, OnUnavailable, PersistBy, Persistence},
};
use rustls::version::{TLS12, TLS13};
use tokio::io::AsyncWriteExt;

use crate::{
    support::{Answer, Gateway, Peer, RuleBuilder, Server, ask, handshake_with, header_values, switching},
    tls_client::{client_config, connect_to, head, host_tls, made, rest, start, tunnel_by},
};

const PLAIN: &str = "GET /x?y=1 HTTP/1.1\r\nHost: A.test:8443\r\n\r\n";

#[tokio::test]
async fn who_speaks_http_where_tls_is_spoken_reads_so() {
    let a = made("a", &["a.test"]);
    let (_server, gateway) = start(&[("a.test", &a)], |_| {}).await;
    for request in [PLAIN.to_owned(), handshake_with("a.test", "/", ""), "PRI\r\n\r\n".to_owned()] {
        let answer = ask(gateway.https, &request).await;
        let reason = if request.starts_with("PRI") {
            "malformed_request"
        } else {
            "plain_on_tls_port"
        };
        assert_eq!((answer.status, answer.reason()), (400, Some(reason)));
        let refused = gateway.record("refused").await;
        assert_eq!(refused["error.type"], reason);
        assert_eq!(refused["tls.protocol.version"], serde_json::Value::Null);
    }
    let counted = gateway.metric("holdfast_handshakes_total", &["reason=\"plain_on_tls_port\"", "code=\"400\""]);
    assert_eq!(counted, 1.0, "{}", gateway.metrics());
    assert_eq!(gateway.metric("holdfast_fallback_requests_total", &["code=\"400\""]), 1.0);
    assert_eq!(gateway.metric("holdfast_tls_handshakes_total", &["result=\"not_tls\""]), 3.0);
}

#[tokio::test]
async fn who_speaks_http_where_tls_is_spoken_is_sent_to_the_same_port_but_never_in_circles() {
    let a = made("a", &["a.test"]);
    let (_server, gateway) = start(&[("a.test", &a)], |settings| settings.https_redirect = true).await;
    let told = |answer: &Answer| (answer.status, answer.header("location").map(str::to_owned));
    let answer = ask(gateway.https, PLAIN).await;
    assert_eq!(told(&answer), (308, Some("https://A.test:8443/x?y=1".to_owned())));
    let answer = ask(gateway.https, handshake_with("a.test:8443", "/chat", "")).await;
    assert_eq!(told(&answer), (308, Some("wss://a.test:8443/chat".to_owned())));
    let answer = ask(gateway.https, handshake_with("a.test", "/", "X-Forwarded-Proto: https\r\n")).await;
    assert_eq!((told(&answer), answer.reason()), ((400, None), Some("plain_on_tls_port")));
}

#[tokio::test]
async fn a_proxy_header_that_nobody_expects_is_told_from_tls_too() {
    let a = made("a", &["a.test"]);
    let (_server, gateway) = start(&[("a.test", &a)], |_| {}).await;
    let mut v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    v2.extend([127, 0, 0, 1, 127, 0, 0, 1, 0, 1, 0, 2]);
    for header in [b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n".to_vec(), v2] {
        let answer = ask(gateway.https, header).await;
        assert_eq!((answer.status, answer.reason()), (400, Some("malformed_request")));
    }
    assert_eq!(gateway.metric("holdfast_untrusted_forwarders_total", &[]), 2.0);
}

#[tokio::test]
async fn records_say_which_tls_it_was() {
    for (version, word) in [(&TLS12, "1.2"), (&TLS13, "1.3")] {
        let (server, gateway, mut client, endpoint) = tunnel_by(version).await;
        assert_eq!(gateway.record("opened").await["tls.protocol.version"], word);
        client.get_mut().0.shutdown().await.unwrap();
        drop((server, endpoint));
        gateway.record("ended").await;
    }
    let server = Server::start().await;
    let gateway = Gateway::start(RuleBuilder::to(&[server.address]).build());
    let (_client, _endpoint) = crate::support::tunnel(&gateway, &server).await;
    assert_eq!(
        gateway.record("opened").await["tls.protocol.version"],
        serde_json::Value::Null
    );
}

/// A gateway that gives its clients a cookie.
async fn with_cookie(change: impl FnOnce(&mut Settings)) -> (Server, Gateway, crate::tls_client::Made) {
    let server = Server::start().await;
    let cookie = Cookie::named("sticky");
    let rule = RuleBuilder::to(&[server.address]).change(|rule| {
        rule.persistence = Some(Persistence {
            by: PersistBy::Cookie(cookie),
            on_unavailable: OnUnavailable::Repick,
        });
    });
    let made = made("a", &["a.test"]);
    let mut gateway = Gateway::with(Vec::new(), change);
    gateway.certificates.add(Some("a.test"), host_tls(&made));
    gateway.publish(rule.build());
    (server, gateway, made)
}

#[tokio::test]
async fn a_cookie_is_secure_where_the_client_came_by_tls_or_a_trusted_proxy_says_so() {
    let (server, gateway, made) = with_cookie(|_| {}).await;
    let (trusting, trusted, _) = with_cookie(|settings| settings.trust.proxies = vec!["127.0.0.1/32".parse().unwrap()]).await;
    let is_secure = |head: &str| {
        let [cookie] = header_values(head, "set-cookie")[..] else {
            panic!("{head}")
        };
        cookie.split("; ").any(|attribute| attribute == "Secure")
    };
    for version in [&TLS12, &TLS13] {
        let config = client_config(&made.root, &[version]);
        let mut client = connect_to(gateway.https, "a.test", config).await.unwrap();
        client.write_all(handshake_with("a.test", "/", "").as_bytes()).await.unwrap();
        let _endpoint = server.accept().await;
        assert!(is_secure(&head(&mut client).await), "{version:?}");
    }
    // In answers to plain requests as well.
    let mut client = connect_to(gateway.https, "a.test", client_config(&made.root, &[&TLS13]))
        .await
        .unwrap();
    client
        .write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut endpoint = server.connection().await;
    endpoint.head().await;
    endpoint
        .write("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        .await;
    let answer = String::from_utf8(rest(&mut client).await.unwrap()).unwrap();
    assert!(is_secure(&answer), "{answer}");

    for (gateway, server, proto, expected) in [
        (&gateway, &server, "", false),
        (&gateway, &server, "X-Forwarded-Proto: https\r\n", false),
        (&trusted, &trusting, "", false),
        (&trusted, &trusting, "X-Forwarded-Proto: http\r\n", false),
        (&trusted, &trusting, "X-Forwarded-Proto: https\r\n", true),
        (&trusted, &trusting, "X-Forwarded-Proto: wss\r\n", true),
    ] {
        let mut client = Peer::connect(gateway.address).await;
        client.write(handshake_with("plain.test", "/", proto)).await;
        let mut endpoint = server.connection().await;
        endpoint.head().await;
        endpoint.write(switching("")).await;
        assert_eq!(is_secure(&client.head().await), expected, "{proto}");
    }
}

/// A ClientHello of a client that knows nothing newer than `version`.
fn old_client_hello(version: [u8; 2]) -> Vec<u8> {
    let with_length = |bytes: &[u8]| [&u16::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat();
    let name = [&[0, 0, 6][..], b"a.test"].concat();
    let server_name = [&[0, 0][..], &with_length(&with_length(&name))].concat();
    let groups = [&[0, 10][..], &with_length(&with_length(&[0, 29, 0, 23]))].concat();
    let signatures = [&[0, 13][..], &with_length(&with_length(&[4, 3, 8, 4, 4, 1]))].concat();
    let extensions = with_length(&[server_name, groups, signatures].concat());
    // A random, no session, three suites, no compression.
    let hello = [
        &version[..],
        &[7; 32],
        &[0],
        &with_length(&[0xC0, 0x13, 0xC0, 0x09, 0, 0x2F]),
        &[1, 0],
        &extensions,
    ]
    .concat();
    let message = [&[1, 0][..], &with_length(&hello)].concat();
    [&[22, 3, 1][..], &with_length(&message)].concat()
}

#[tokio::test]
async fn old_versions_of_tls_are_refused() {
    let a = made("a", &["a.test"]);
    let (server, gateway) = start(&[("a.test", &a)], |_| {}).await;
    for version in [[3, 1], [3, 2]] {
        let mut client = Peer::connect(gateway.https).await;
        client.write(old_client_hello(version)).await;
        let answer = client.rest().await;
        // An alert, fatal: protocol_version (RFC 8446, section 6).
        assert_eq!((answer[0], &answer[5..]), (21, &[2, 70][..]), "{version:?}: {answer:?}");
    }
    gateway
        .wait_for_metric("holdfast_tls_handshakes_total", &["result=\"nothing_in_common\""], |count| {
            count == 2.0
        })
        .await;
    assert_eq!(server.dialled(), 0);
}

#[tokio::test]
async fn tls_inside_tls_is_a_malformed_request() {
    let a = made("a", &["a.test"]);
    let (_server, gateway) = start(&[("a.test", &a)], |_| {}).await;
    let mut client = connect_to(gateway.https, "a.test", client_config(&a.root, &[&TLS13]))
        .await
        .unwrap();
    client.write_all(&old_client_hello([3, 3])).await.unwrap();
    let told = head(&mut client).await;
    assert!(
        told.starts_with("HTTP/1.1 400 ") && told.contains("malformed_request"),
        "{told}"
    );
    // The same where no TLS is spoken.
    let answer = ask(gateway.address, old_client_hello([3, 3])).await;
    assert_eq!((answer.status, answer.reason()), (400, Some("tls_on_plain_port")));
}
