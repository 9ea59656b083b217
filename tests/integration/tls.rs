//! TLS towards clients, by a client of another make: what holds for plain tunnels holds here, and TLS' own rules do.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{SinkExt, StreamExt};
use holdfast::routing::{Certificates, HostTls};
use rustls::{
    pki_types::ServerName,
    version::{TLS12, TLS13},
};
use tokio::{
    io::{AsyncWriteExt, ReadHalf, WriteHalf, split},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use crate::{
    process::Holdfast,
    support::{BINARY, CLOSE, PATIENCE, Peer, RuleBuilder, Server, TEXT, ask, frame, handshake, handshake_with, switching},
    tls_client::{
        client_config, connect, connect_to, connect_with, head, host_tls, made, made_by, open, read, rest, show, start, tunnel,
        tunnel_by,
    },
};

pub async fn write_in_pieces(half: &mut (impl AsyncWriteExt + Unpin), stream: &[u8], mut rng: fastrand::Rng) {
    let mut rest = stream;
    while !rest.is_empty() {
        let most = if rng.bool() { 16 } else { 40_000 };
        let len = rng.usize(1..=most).min(rest.len());
        half.write_all(&rest[..len]).await.unwrap();
        half.flush().await.unwrap();
        rest = &rest[len..];
    }
}

#[tokio::test]
async fn any_stream_arrives_as_it_was_sent_in_both_directions_at_once() {
    for (version, algorithm) in [
        (&TLS13, &rcgen::PKCS_ECDSA_P256_SHA256),
        (&TLS12, &rcgen::PKCS_ECDSA_P256_SHA256),
        (&TLS13, &rcgen::PKCS_RSA_SHA256),
        (&TLS12, &rcgen::PKCS_RSA_SHA256),
    ] {
        let made = made_by("a", &["a.test"], algorithm);
        let (server, gateway) = start(&[("a.test", &made)], |_| {}).await;
        for seed in 0..6 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let stream = connect_with(&gateway, "a.test", client_config(&made.root, &[version]))
                .await
                .unwrap();
            let (client, endpoint) = open(stream, "a.test", &server).await;
            let (mut client_reads, mut client_writes): (ReadHalf<_>, WriteHalf<_>) = split(client);
            let (mut endpoint_reads, mut endpoint_writes) = endpoint.socket.into_split();
            let mut message = |mask| {
                let payload: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(700_000).collect();
                let sizes = [0, 1, 125, 126, 5_000, 65_535, 65_536, 300_000];
                let frames = sizes.map(|len| frame(BINARY, &payload[..len], mask));
                frames.concat()
            };
            let (up, down) = (message(Some([1, 2, 3, 4])), message(None));
            let pace = rng.fork();
            let ((), (), got_up, got_down) = tokio::join!(
                write_in_pieces(&mut client_writes, &up, pace),
                async { endpoint_writes.write_all(&down).await.unwrap() },
                read(&mut endpoint_reads, up.len()),
                read(&mut client_reads, down.len()),
            );
            assert!(
                got_up == up && got_down == down,
                "{version:?}, seed {seed}: not what was sent"
            );
        }
    }
}

#[tokio::test]
async fn a_reader_that_stops_stops_the_sender_and_then_gets_everything() {
    let (_server, gateway, mut client, mut endpoint) = tunnel_by(&TLS13).await;
    let piece = frame(BINARY, &[0x5A; 10_000], None);
    let sent = endpoint.fill(&piece).await;
    gateway
        .wait_for_metric("holdfast_stalled_connections", &[], |stalled| stalled == 1.0)
        .await;
    let cut = sent % piece.len();
    let rest: Vec<u8> = if cut == 0 { Vec::new() } else { piece[cut..].to_vec() };
    let (got, ()) = tokio::join!(read(&mut client, sent + rest.len()), async {
        endpoint.write(&rest).await;
    });
    assert!(got.chunks(piece.len()).all(|chunk| chunk == piece));
    client.write_all(&frame(TEXT, b"and back", Some([1; 4]))).await.unwrap();
    client.flush().await.unwrap();
    assert_eq!(endpoint.frame().await.payload, b"and back");
}

#[tokio::test]
async fn a_drain_tells_by_a_close_frame_and_ends_by_close_notify() {
    for version in [&TLS13, &TLS12] {
        let (_server, mut gateway, mut client, mut endpoint) = tunnel_by(version).await;
        gateway.drain(Duration::ZERO);
        let told = read(&mut client, 2 + 2 + "drain".len()).await;
        assert_eq!(
            told,
            frame(0x80 | CLOSE, &[&1012_u16.to_be_bytes()[..], b"drain"].concat(), None)
        );
        client
            .write_all(&frame(0x80 | CLOSE, &1012_u16.to_be_bytes(), Some([1; 4])))
            .await
            .unwrap();
        assert_eq!(endpoint.frame().await.code(), 1001);
        drop(endpoint);
        assert_eq!(rest(&mut client).await.unwrap(), b"", "{version:?}");
        assert_eq!(gateway.record("ended").await["holdfast.end.cause"], "drain");
    }
}

#[tokio::test]
async fn an_orderly_close_ends_by_close_notify_and_a_cut_one_counts_as_what_was_said_before() {
    let made = made("a", &["a.test"]);
    let (server, gateway) = start(&[("a.test", &made)], |_| {}).await;

    let (mut client, mut endpoint) = tunnel(&gateway, &server, &made).await;
    endpoint.close(1000).await;
    assert_eq!(read(&mut client, 4).await[0], 0x80 | CLOSE);
    client
        .write_all(&frame(0x80 | CLOSE, &1000_u16.to_be_bytes(), Some([1; 4])))
        .await
        .unwrap();
    assert_eq!(endpoint.frame().await.code(), 1000);
    drop(endpoint);
    assert_eq!(rest(&mut client).await.unwrap(), b"");
    assert_eq!(gateway.record("ended").await["holdfast.end.cause"], "closed");

    // TCP ends behind a Close: fine. Without one: reset.
    for (says_close, cause) in [(true, "closed"), (false, "reset")] {
        let (mut client, mut endpoint) = tunnel(&gateway, &server, &made).await;
        if says_close {
            client
                .write_all(&frame(0x80 | CLOSE, &1000_u16.to_be_bytes(), Some([1; 4])))
                .await
                .unwrap();
            assert_eq!(endpoint.frame().await.code(), 1000);
        }
        client.get_mut().0.shutdown().await.unwrap();
        if says_close {
            endpoint.close(1000).await;
            endpoint.shut_down().await;
        }
        let ended = gateway.record("ended").await;
        assert_eq!(ended["holdfast.end.cause"], cause);
    }
}

#[tokio::test]
async fn close_notify_of_the_client_is_its_end() {
    for version in [&TLS13, &TLS12] {
        let (_server, gateway, mut client, mut endpoint) = tunnel_by(version).await;
        client.shutdown().await.unwrap();
        assert_eq!(endpoint.frame().await.code(), 1001);
        endpoint.close(1001).await;
        endpoint.shut_down().await;
        assert_eq!(rest(&mut client).await.unwrap(), b"", "{version:?}");
        assert_eq!(gateway.record("ended").await["holdfast.end.cause"], "reset");
    }
}

#[tokio::test]
async fn keys_may_change_at_any_time() {
    let (_server, _gateway, mut client, mut endpoint) = tunnel_by(&TLS13).await;
    for round in 0..5 {
        client.get_mut().1.refresh_traffic_keys().unwrap();
        let message = frame(TEXT, format!("round {round}").as_bytes(), Some([1; 4]));
        client.write_all(&message).await.unwrap();
        client.flush().await.unwrap();
        assert_eq!(endpoint.frame().await.payload, format!("round {round}").as_bytes());
        let message = frame(TEXT, &vec![b'x'; 100_000], None);
        endpoint.write(&message).await;
        assert!(read(&mut client, message.len()).await == message);
    }
}

#[tokio::test]
async fn a_record_that_is_no_record_ends_the_connection_with_an_alert() {
    let (_server, gateway, mut client, mut endpoint) = tunnel_by(&TLS13).await;
    client
        .get_mut()
        .0
        .write_all(&[
            23, 3, 3, 0, 20, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20,
        ])
        .await
        .unwrap();
    let error = rest(&mut client).await.unwrap_err().to_string();
    assert!(error.contains("BadRecordMac"), "{error}");
    assert_eq!(endpoint.frame().await.code(), 1001);
    endpoint.close(1001).await;
    assert_eq!(gateway.record("ended").await["holdfast.end.cause"], "reset");
}

#[tokio::test]
async fn each_host_shows_its_own_certificate_and_a_new_one_as_soon_as_it_is_published() {
    let (a, b, wild) = (made("a", &["a.test"]), made("b", &["b.test"]), made("wild", &["x.wild.test"]));
    let (server, mut gateway) = start(&[("a.test", &a), ("b.test", &b), ("*.wild.test", &wild)], |_| {}).await;
    for (host, made) in [("a.test", &a), ("b.test", &b), ("x.wild.test", &wild)] {
        open(connect(&gateway, host, made).await.unwrap(), host, &server).await;
    }
    let (mut client, mut endpoint) = tunnel(&gateway, &server, &a).await;
    let renewed = made("a", &["a.test"]);
    show(&mut gateway, &server, &[("a.test", &renewed)]);
    open(connect(&gateway, "a.test", &renewed).await.unwrap(), "a.test", &server).await;
    connect(&gateway, "a.test", &a).await.unwrap_err();
    // Tunnels never notice.
    client.write_all(&frame(TEXT, b"still here", Some([1; 4]))).await.unwrap();
    assert_eq!(endpoint.frame().await.payload, b"still here");
}

#[tokio::test]
async fn a_host_without_a_usable_certificate_is_not_served_with_tls_nor_without() {
    let a = made("a", &["a.test"]);
    let (server, mut gateway) = start(&[("a.test", &a)], |_| {}).await;
    let missing = HostTls {
        certificate: None,
        ..host_tls(&a)
    };
    gateway.certificates.add(Some("b.test"), missing);
    gateway.publish(RuleBuilder::to(&[server.address]).build());
    let error = connect(&gateway, "b.test", &a).await.unwrap_err().to_string();
    assert!(error.contains("AccessDenied"), "{error}");
    let answer = ask(gateway.address, handshake_with("b.test", "/", "")).await;
    assert_eq!((answer.status, answer.reason()), (421, Some("tls_required")));
    let failed = gateway.metric("holdfast_tls_handshakes_total", &["result=\"no_certificate\""]);
    assert_eq!(failed, 1.0);
}

#[tokio::test]
async fn a_host_with_tls_is_not_served_in_plain_unless_that_is_allowed() {
    let a = made("a", &["a.test"]);
    let (server, mut gateway) = start(&[("a.test", &a)], |settings| {
        settings.trust.proxies = vec!["127.0.0.1/32".parse().unwrap()];
    })
    .await;
    let plain = "GET /x?y=1 HTTP/1.1\r\nHost: a.test\r\n\r\n";
    for request in [handshake_with("a.test", "/", ""), plain.to_owned()] {
        let answer = ask(gateway.address, request).await;
        assert_eq!((answer.status, answer.reason()), (421, Some("tls_required")));
    }
    assert_eq!(gateway.record("refused").await["error.type"], "tls_required");
    // A trusted proxy has taken the TLS off.
    let mut client = Peer::connect(gateway.address).await;
    client
        .write(handshake_with("a.test", "/", "X-Forwarded-Proto: https\r\n"))
        .await;
    server.accept().await;
    assert!(client.head().await.starts_with("HTTP/1.1 101 "));

    gateway.certificates = Certificates::default();
    let both = HostTls {
        allows_plain: true,
        ..host_tls(&a)
    };
    gateway.certificates.add(Some("a.test"), both);
    gateway.publish(RuleBuilder::to(&[server.address]).build());
    let mut client = Peer::connect(gateway.address).await;
    client.write(handshake_with("a.test", "/", "")).await;
    server.accept().await;
    assert!(client.head().await.starts_with("HTTP/1.1 101 "));
}

#[tokio::test]
async fn clients_without_tls_are_sent_there_where_that_is_wanted() {
    let a = made("a", &["a.test"]);
    let (_server, gateway) = start(&[("a.test", &a)], |settings| settings.https_redirect = true).await;
    for (request, location) in [
        (
            "GET /x?y=1 HTTP/1.1\r\nHost: A.test:80\r\n\r\n".to_owned(),
            "https://a.test/x?y=1",
        ),
        (handshake_with("a.test", "/chat", ""), "wss://a.test/chat"),
    ] {
        let answer = ask(gateway.address, request).await;
        assert_eq!((answer.status, answer.header("location")), (308, Some(location)));
    }
}

#[tokio::test]
async fn a_connection_asks_only_for_hosts_of_its_certificate() {
    let (both, other) = (made("both", &["a.test", "b.test"]), made("other", &["c.test"]));
    let (server, gateway) = start(&[("a.test", &both), ("b.test", &both), ("c.test", &other)], |_| {}).await;
    open(connect(&gateway, "a.test", &both).await.unwrap(), "b.test", &server).await;
    for host in ["c.test", "without.test"] {
        let mut stream = connect(&gateway, "a.test", &both).await.unwrap();
        stream.write_all(handshake_with(host, "/", "").as_bytes()).await.unwrap();
        let answer = String::from_utf8(rest(&mut stream).await.unwrap()).unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 421 ") && answer.contains("misdirected"),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn plain_requests_and_a_handshake_behind_them_are_served_with_tls() {
    let a = made("a", &["a.test"]);
    let (server, gateway) = start(&[("a.test", &a)], |_| {}).await;
    let mut client = connect(&gateway, "a.test", &a).await.unwrap();
    client
        .write_all(b"POST /poll HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\nhello")
        .await
        .unwrap();
    let mut endpoint = server.connection().await;
    assert!(endpoint.head().await.starts_with("POST /poll "));
    assert_eq!(endpoint.bytes(5).await, b"hello");
    let body = "b".repeat(200_000);
    endpoint
        .write(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()))
        .await;
    assert!(head(&mut client).await.starts_with("HTTP/1.1 200 "));
    assert_eq!(read(&mut client, body.len()).await, body.as_bytes());
    let (mut client, mut tunnelled) = open(client, "a.test", &server).await;
    client.write_all(&frame(TEXT, b"hello", Some([1; 4]))).await.unwrap();
    assert_eq!(tunnelled.frame().await.payload, b"hello");
}

#[tokio::test]
async fn what_comes_together_with_the_handshakes_is_not_lost() {
    let a = made("a", &["a.test"]);
    let (server, gateway) = start(&[("a.test", &a)], |_| {}).await;
    let mut client = connect(&gateway, "a.test", &a).await.unwrap();
    client.write_all(handshake_with("a.test", "/", "").as_bytes()).await.unwrap();
    let mut endpoint = server.connection().await;
    endpoint.head().await;
    // Before the 101, and together with it.
    client.write_all(&frame(TEXT, b"early", Some([1; 4]))).await.unwrap();
    endpoint
        .write([switching("").into_bytes(), frame(TEXT, b"at once", None)].concat())
        .await;
    assert!(head(&mut client).await.starts_with("HTTP/1.1 101 "));
    assert_eq!(read(&mut client, 9).await, frame(TEXT, b"at once", None));
    assert_eq!(endpoint.frame().await.payload, b"early");
}

#[tokio::test]
async fn a_client_that_leaves_before_the_answer_frees_the_endpoint() {
    let a = made("a", &["a.test"]);
    let (server, gateway) = start(&[("a.test", &a)], |_| {}).await;
    let mut client = connect(&gateway, "a.test", &a).await.unwrap();
    client.write_all(handshake_with("a.test", "/", "").as_bytes()).await.unwrap();
    let mut endpoint = server.connection().await;
    endpoint.head().await;
    client.shutdown().await.unwrap();
    drop(client);
    assert_eq!(endpoint.rest().await, b"");
    assert_eq!(gateway.record("refused").await["error.type"], "client_gone");
}

#[tokio::test]
async fn a_proxy_header_comes_before_tls() {
    let a = made("a", &["a.test"]);
    let (server, gateway) = start(&[("a.test", &a)], |settings| settings.trust.proxy_protocol = true).await;
    let mut socket = TcpStream::connect(gateway.https).await.unwrap();
    socket
        .write_all(b"PROXY TCP4 203.0.113.9 10.0.0.1 4711 443\r\n")
        .await
        .unwrap();
    let config = Arc::new(client_config(&a.root, &[&TLS13]));
    let name = ServerName::try_from("a.test").unwrap();
    let mut client = TlsConnector::from(config).connect(name, socket).await.unwrap();
    client.write_all(handshake_with("a.test", "/", "").as_bytes()).await.unwrap();
    let (_, request) = server.accept().await;
    assert!(
        request.contains("X-Real-IP: 203.0.113.9") || request.contains("X-Real-Ip: 203.0.113.9"),
        "{request}"
    );
}

#[tokio::test]
async fn failed_handshakes_are_counted_by_what_went_wrong() {
    let a = made("a", &["a.test"]);
    let (_server, gateway) = start(&[("a.test", &a)], |_| {}).await;
    let counted = async |result: &str| {
        let label = format!("result=\"{result}\"");
        gateway
            .wait_for_metric("holdfast_tls_handshakes_total", &[&label], |count| count == 1.0)
            .await;
    };
    let mut plain = Peer::connect(gateway.https).await;
    plain.write(handshake("/", "")).await;
    counted("not_tls").await;

    let mut gone = TcpStream::connect(gateway.https).await.unwrap();
    gone.write_all(&[22, 3, 1, 2, 0, 1]).await.unwrap();
    drop(gone);
    counted("client_gone").await;

    let mut h2 = client_config(&a.root, &[&TLS13]);
    h2.alpn_protocols = vec![b"h2".to_vec()];
    connect_with(&gateway, "a.test", h2).await.unwrap_err();
    counted("nothing_in_common").await;

    let other = made("other", &["a.test"]);
    connect(&gateway, "a.test", &other).await.unwrap_err();
    counted("rejected").await;

    let mut slow = Peer::connect(gateway.https).await;
    slow.write([22, 3, 1, 2, 0, 1]).await;
    slow.ending().await;
    counted("timed_out").await;
}

#[tokio::test]
async fn a_storm_of_handshakes_is_served_and_lets_live_tunnels_through() {
    let a = made("a", &["a.test"]);
    let (server, gateway) = start(&[("a.test", &a)], |_| {}).await;
    let (mut client, mut endpoint) = tunnel(&gateway, &server, &a).await;
    let storm = async {
        let all = (0..200).map(|_| connect(&gateway, "a.test", &a));
        futures::future::join_all(all).await.into_iter().filter(Result::is_ok).count()
    };
    let echo = async {
        for _ in 0..50 {
            client.write_all(&frame(TEXT, b"ping", Some([1; 4]))).await.unwrap();
            assert_eq!(endpoint.frame().await.payload, b"ping");
        }
    };
    let (served, ()) = tokio::join!(storm, echo);
    assert_eq!(served, 200);
}

/// Manifests of a route to `endpoint` whose host has the certificate.
pub fn write_manifests(folder: &Path, endpoint: SocketAddr) {
    let manifests = format!(
        "apiVersion: holdfast.dev/v1alpha1\nkind: WebSocketRoute\nmetadata: {{name: a}}\n\
         spec: {{hostnames: [a.test], tls: [{{secretName: a-tls}}], rules: [{{backendRefs: [{{name: a, port: 80}}]}}]}}\n---\n\
         apiVersion: v1\nkind: Service\nmetadata: {{name: a}}\nspec: {{ports: [{{port: 80}}]}}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: a, labels: {{kubernetes.io/service-name: a}}}}\n\
         addressType: IPv4\nports: [{{port: {}}}]\nendpoints: [{{addresses: [127.0.0.1]}}]\n",
        endpoint.port()
    );
    fs::write(folder.join("route.yaml"), manifests).unwrap();
}

pub fn write_secret(folder: &Path, chain: &str, key: &str) {
    let secret = serde_json::json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a-tls"}, "type": "kubernetes.io/tls",
        "stringData": {"tls.crt": chain, "tls.key": key},
    });
    fs::write(folder.join("secret.tmp"), secret.to_string()).unwrap();
    fs::rename(folder.join("secret.tmp"), folder.join("secret.yaml")).unwrap();
}

#[tokio::test]
async fn a_secret_of_a_folder_is_served_and_a_renewed_one_within_a_second() {
    let server = Server::start().await;
    let folder = std::env::temp_dir().join(format!("holdfast-tls-{}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    write_manifests(&folder, server.address);
    let (first, second) = (made("a-tls", &["a.test"]), made("a-tls", &["a.test"]));
    write_secret(&folder, &first.chain, &first.key);
    let mut holdfast = Holdfast::start_folder(&folder, &["--https", "127.0.0.1:0"]).await;

    let config = client_config(&first.root, &[&TLS13]);
    let stream = connect_to(holdfast.https, "a.test", config).await.unwrap();
    let (mut client, mut endpoint) = open(stream, "a.test", &server).await;
    let expiry = "holdfast_certificate_expiry_timestamp_seconds";
    assert!(
        holdfast
            .metric(expiry, &["secret_namespace=\"default\"", "secret=\"a-tls\""])
            .await
            > 1.0
    );

    // One that cannot be used changes nothing.
    write_secret(&folder, &second.chain, &first.key);
    holdfast
        .line_with("is not the key of the certificate in tls.crt; the last good one stays")
        .await;
    connect_to(holdfast.https, "a.test", client_config(&first.root, &[&TLS13]))
        .await
        .unwrap();

    write_secret(&folder, &second.chain, &second.key);
    let written = Instant::now();
    let config = client_config(&second.root, &[&TLS13]);
    while connect_to(holdfast.https, "a.test", config.clone()).await.is_err() {
        assert!(written.elapsed() < PATIENCE, "the renewed certificate is not shown");
    }
    assert!(written.elapsed() < Duration::from_secs(5), "{:?}", written.elapsed());
    client.write_all(&frame(TEXT, b"still here", Some([1; 4]))).await.unwrap();
    assert_eq!(endpoint.frame().await.payload, b"still here");

    fs::remove_file(folder.join("secret.yaml")).unwrap();
    holdfast.line_with("there is no Secret default/a-tls").await;
    connect_to(holdfast.https, "a.test", config).await.unwrap_err();
    let answer = ask(holdfast.http, handshake_with("a.test", "/", "")).await;
    assert_eq!((answer.status, answer.reason()), (421, Some("tls_required")));
    fs::remove_dir_all(&folder).unwrap();
}

#[tokio::test]
async fn ping_speaks_tls_to_whom_it_trusts() {
    let a = made("a", &["localhost"]);
    let (server, gateway) = start(&[("localhost", &a)], |_| {}).await;
    let file = std::env::temp_dir().join(format!("holdfast-ping-{}.pem", std::process::id()));
    fs::write(&file, &a.chain).unwrap();
    let url = format!("wss://localhost:{}/", gateway.https.port());
    let ping = async |trust: &[&str]| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_holdfast"));
        command
            .args(["ping", "--count", "1", "--interval", "1ms"])
            .args(trust)
            .arg(&url);
        command.output().await.unwrap()
    };
    let echo = async || {
        let mut endpoint = tokio_tungstenite::accept_async(server.connection().await.socket)
            .await
            .unwrap();
        while let Some(Ok(message)) = endpoint.next().await {
            if message.is_text() {
                endpoint.send(message).await.unwrap();
            }
        }
    };
    for trust in [&["--cacert", file.to_str().unwrap()][..], &["--insecure"]] {
        let (output, ()) = tokio::join!(ping(trust), echo());
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("1 sent, 1 received, 0 lost"), "{text}");
    }
    let output = ping(&["--cacert", "Cargo.toml"]).await;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let other = made("other", &["localhost"]);
    fs::write(&file, &other.chain).unwrap();
    let output = ping(&["--cacert", file.to_str().unwrap()]).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(
        String::from_utf8(output.stdout)
            .unwrap()
            .contains("no TLS: invalid peer certificate")
    );
    fs::remove_file(file).unwrap();
}
