//! TLS towards endpoints, with endpoints of another make: what holds for plain tunnels holds here, and whom nobody vouches for
//! gets nothing.

use std::{
    fs, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use holdfast::routing::{
    BackendTls, Certificate,
    endpoint_tls::{Authorities, Configs, Trust},
    route::Heartbeats,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::{
    RootCertStore, ServerConfig, SupportedProtocolVersion,
    pki_types::PrivateKeyDer,
    server::WebPkiClientVerifier,
    version::{TLS12, TLS13},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf, split},
    net::TcpStream,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::{
    process::Holdfast,
    support::{
        Answer, BINARY, CLOSE, Gateway, PATIENCE, PING, PONG, Peer, RuleBuilder, Server, TEXT, ask, frame, handshake,
        handshake_with, heartbeat, name, switching,
    },
    tls::write_in_pieces,
    tls_client::{connect, head, host_tls, made, read, rest},
};

/// Somebody who vouches for others.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate, and its key, in PEM form.
pub struct Issued {
    pub chain: String,
    pub key: String,
    der: rcgen::Certificate,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    pub fn issue(&self, host: &str) -> Issued {
        self.issue_by(host, &rcgen::PKCS_ECDSA_P256_SHA256, |_| {})
    }

    fn issue_by(
        &self,
        host: &str,
        algorithm: &'static rcgen::SignatureAlgorithm,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Issued {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        change(&mut params);
        let der = params.signed_by(&key, &self.0).unwrap();
        Issued {
            chain: der.pem(),
            key: key.serialize_pem(),
            der,
        }
    }

    fn trust(&self, shown: Option<&Issued>) -> Trust {
        let read = |shown: &Issued| Certificate::read(name("ours"), shown.chain.as_bytes(), shown.key.as_bytes()).unwrap();
        Trust {
            authorities: Arc::new(Authorities::read(self.pem().as_bytes()).unwrap()),
            shown: shown.map(|shown| Arc::new(read(shown))),
        }
    }

    /// TLS with endpoints called `endpoint.test` that this authority vouches for.
    fn tls(&self, shown: Option<&Issued>) -> BackendTls {
        BackendTls::On(Configs::default().make(self.trust(shown), "endpoint.test").unwrap())
    }
}

impl Issued {
    /// What an endpoint with this certificate is configured with.
    fn config(&self, versions: &[&'static SupportedProtocolVersion]) -> ServerConfig {
        self.config_asking(versions, None)
    }

    /// The same of one that asks for a certificate by an authority.
    fn config_asking(&self, versions: &[&'static SupportedProtocolVersion], of: Option<&Authority>) -> ServerConfig {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .unwrap();
        let config = match of {
            None => config.with_no_client_auth(),
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots.add(authority.0.der().clone()).unwrap();
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                config.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        let key: PrivateKeyDer<'static> = rustls::pki_types::pem::PemObject::from_pem_slice(self.key.as_bytes()).unwrap();
        let mut config = config.with_single_cert(vec![self.der.der().clone()], key).unwrap();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config
    }
}

/// What an endpoint sees: bytes, decrypted.
type Endpoint = TlsStream<TcpStream>;

/// The next connection, with its TLS handshake done.
async fn secure(server: &Server, config: &Arc<ServerConfig>) -> io::Result<Endpoint> {
    TlsAcceptor::from(Arc::clone(config))
        .accept(server.connection().await.socket)
        .await
}

/// The next connection, with both handshakes done.
async fn accept(server: &Server, config: &Arc<ServerConfig>) -> (Endpoint, String) {
    let mut endpoint = secure(server, config).await.unwrap();
    let request = head(&mut endpoint).await;
    write(&mut endpoint, switching("")).await;
    (endpoint, request)
}

async fn write(endpoint: &mut (impl AsyncWrite + Unpin), bytes: impl AsRef<[u8]>) {
    endpoint.write_all(bytes.as_ref()).await.unwrap();
    endpoint.flush().await.unwrap();
}

/// A frame from Holdfast to an endpoint, masked and shorter than 126 bytes: its first byte and its payload.
async fn masked(endpoint: &mut Endpoint) -> (u8, Vec<u8>) {
    let header = read(endpoint, 2).await;
    assert_eq!(header[1] & 0x80, 0x80, "{header:?}");
    let rest = read(endpoint, 4 + usize::from(header[1] & 0x7F)).await;
    let payload = rest[4..].iter().zip(rest[..4].iter().cycle());
    (header[0], payload.map(|(byte, key)| byte ^ key).collect())
}

/// A gateway to an endpoint that must be `endpoint.test` by the word of `authority`.
async fn start(tls: BackendTls) -> (Server, Gateway) {
    let server = Server::start().await;
    let gateway = Gateway::start(rules(&server, tls));
    (server, gateway)
}

fn rules(server: &Server, tls: BackendTls) -> Vec<holdfast::routing::table::RuleSpec> {
    RuleBuilder::to(&[server.address]).change(|rule| rule.tls = tls).build()
}

/// An open tunnel.
async fn tunnel(gateway: &Gateway, server: &Server, config: &Arc<ServerConfig>) -> (Peer, Endpoint) {
    let mut client = Peer::connect(gateway.address).await;
    client.write(handshake("/", "")).await;
    let (endpoint, _) = accept(server, config).await;
    let answer = client.head().await;
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    (client, endpoint)
}

/// The answer to a handshake whose endpoint does what `endpoint` does.
async fn answer_while(gateway: &Gateway, endpoint: impl Future) -> Answer {
    tokio::join!(ask(gateway.address, handshake("/", "")), endpoint).0
}

#[tokio::test]
async fn any_stream_arrives_as_it_was_sent_in_both_directions_at_once() {
    let authority = Authority::new("ca");
    for (version, algorithm) in [
        (&TLS13, &rcgen::PKCS_ECDSA_P256_SHA256),
        (&TLS12, &rcgen::PKCS_ECDSA_P256_SHA256),
        (&TLS13, &rcgen::PKCS_RSA_SHA256),
        (&TLS12, &rcgen::PKCS_RSA_SHA256),
    ] {
        let config = Arc::new(authority.issue_by("endpoint.test", algorithm, |_| {}).config(&[version]));
        let (server, gateway) = start(authority.tls(None)).await;
        for seed in 0..4 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let (client, endpoint) = tunnel(&gateway, &server, &config).await;
            let (mut endpoint_reads, mut endpoint_writes) = split(endpoint);
            let (mut client_reads, mut client_writes) = client.socket.into_split();
            let mut message = |mask| {
                let payload: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(700_000).collect();
                let sizes = [0, 1, 125, 126, 5_000, 65_535, 65_536, 300_000];
                let frames = sizes.map(|len| frame(BINARY, &payload[..len], mask));
                frames.concat()
            };
            let (up, down) = (message(Some([1, 2, 3, 4])), message(None));
            let pace = rng.fork();
            let ((), (), got_up, got_down) = tokio::join!(
                write_in_pieces(&mut endpoint_writes, &down, pace),
                async { client_writes.write_all(&up).await.unwrap() },
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
async fn an_endpoint_is_asked_for_by_name_and_gets_the_request_as_it_is() {
    let authority = Authority::new("ca");
    let config = Arc::new(authority.issue("endpoint.test").config(&[&TLS13]));
    let (server, gateway) = start(authority.tls(None)).await;
    let mut client = Peer::connect(gateway.address).await;
    client.write(handshake_with("chat.example.com", "/room?x=1", "")).await;
    let (endpoint, request) = accept(&server, &config).await;
    assert!(
        request.starts_with("GET /room?x=1 HTTP/1.1\r\nHost: chat.example.com\r\n"),
        "{request}"
    );
    let session = endpoint.get_ref().1;
    assert_eq!(session.server_name(), Some("endpoint.test"));
    assert_eq!(session.alpn_protocol(), Some(&b"http/1.1"[..]));
    assert!(client.head().await.starts_with("HTTP/1.1 101 "));
}

#[tokio::test]
async fn both_legs_may_have_tls() {
    let authority = Authority::new("ca");
    let config = Arc::new(authority.issue("endpoint.test").config(&[&TLS13]));
    let a = made("a", &["a.test"]);
    let (server, mut gateway) = start(authority.tls(None)).await;
    gateway.certificates.add(Some("a.test"), host_tls(&a));
    gateway.publish(rules(&server, authority.tls(None)));
    let mut client = connect(&gateway, "a.test", &a).await.unwrap();
    write(&mut client, handshake_with("a.test", "/", "")).await;
    let (mut endpoint, request) = accept(&server, &config).await;
    assert!(request.contains("X-Forwarded-Proto: https"), "{request}");
    assert!(head(&mut client).await.starts_with("HTTP/1.1 101 "));
    for len in [0, 1, 100_000] {
        let up = frame(BINARY, &vec![7; len], Some([1, 2, 3, 4]));
        let down = frame(BINARY, &vec![9; len], None);
        let from_client = async {
            write(&mut client, &up).await;
            read(&mut client, down.len()).await
        };
        let from_endpoint = async {
            let got = read(&mut endpoint, up.len()).await;
            write(&mut endpoint, &down).await;
            got
        };
        let (got_down, got_up) = tokio::join!(from_client, from_endpoint);
        assert!(got_up == up && got_down == down, "{len}");
    }
}

#[tokio::test]
async fn whom_nobody_vouches_for_gets_nothing() {
    let (authority, other) = (Authority::new("ca"), Authority::new("other"));
    let old = |params: &mut CertificateParams| params.not_after = rcgen::date_time_ymd(2001, 1, 1);
    for (shown, why) in [
        (other.issue("endpoint.test"), "an unknown issuer"),
        (authority.issue("another.test"), "another name"),
        (
            authority.issue_by("endpoint.test", &rcgen::PKCS_ECDSA_P256_SHA256, old),
            "an expired one",
        ),
    ] {
        for version in [&TLS13, &TLS12] {
            let config = Arc::new(shown.config(&[version]));
            let (server, gateway) = start(authority.tls(None)).await;
            let answer = answer_while(&gateway, async {
                let error = secure(&server, &config).await.err();
                assert!(error.is_some(), "{why}");
            })
            .await;
            assert_eq!((answer.status, answer.reason()), (502, Some("endpoint_certificate")), "{why}");
            assert_eq!(
                answer.header("proxy-status"),
                Some("holdfast; error=tls_certificate_error; details=\"endpoint_certificate\"")
            );
            assert_eq!(gateway.record("refused").await["error.type"], "endpoint_certificate");
            let failed = gateway.metric("holdfast_endpoint_dials_total", &["result=\"tls_failed\""]);
            assert_eq!(failed, 1.0);
        }
    }
}

#[tokio::test]
async fn who_speaks_no_tls_gets_nothing() {
    let (server, gateway) = start(Authority::new("ca").tls(None)).await;
    let answer = answer_while(&gateway, async {
        let mut endpoint = server.connection().await;
        endpoint.write("HTTP/1.1 400 Bad Request\r\n\r\n").await;
        let got = endpoint.rest().await;
        assert!(!got.windows(3).any(|three| three == b"GET"));
    })
    .await;
    assert_eq!((answer.status, answer.reason()), (502, Some("endpoint_tls_error")));

    let answer = answer_while(&gateway, async { drop(server.connection().await) }).await;
    assert_eq!((answer.status, answer.reason()), (502, Some("endpoint_closed")));
}

#[tokio::test]
async fn who_accepts_and_is_silent_costs_the_time_of_a_dial() {
    let server = Server::start().await;
    let rule = RuleBuilder::to(&[server.address]).change(|rule| {
        rule.tls = Authority::new("ca").tls(None);
        rule.timeouts.connect = Duration::from_secs(1);
    });
    let gateway = Gateway::start(rule.build());
    let answer = ask(gateway.address, handshake("/", "")).await;
    assert_eq!((answer.status, answer.reason()), (504, Some("dial_timeout")));
    assert_eq!(
        gateway.metric("holdfast_endpoint_dials_total", &["result=\"timed_out\""]),
        1.0
    );
}

#[tokio::test]
async fn without_what_a_secure_connection_needs_there_is_none() {
    let (server, gateway) = start(BackendTls::Unusable).await;
    for request in [handshake("/", ""), "GET / HTTP/1.1\r\nHost: test\r\n\r\n".to_owned()] {
        let answer = ask(gateway.address, request).await;
        assert_eq!((answer.status, answer.reason()), (502, Some("endpoint_tls_unusable")));
    }
    assert_eq!(server.dialled(), 0);
}

#[tokio::test]
async fn an_endpoint_that_cannot_be_verified_is_no_end_while_there_is_another() {
    let (authority, other) = (Authority::new("ca"), Authority::new("other"));
    let (bad, good) = (Server::start().await, Server::start().await);
    let wrong = Arc::new(other.issue("endpoint.test").config(&[&TLS13]));
    let right = Arc::new(authority.issue("endpoint.test").config(&[&TLS13]));
    let rule = RuleBuilder::to(&[bad.address, good.address]).change(|rule| rule.tls = authority.tls(None));
    let gateway = Gateway::start(rule.build());
    let refused = async {
        loop {
            assert!(secure(&bad, &wrong).await.is_err());
        }
    };
    let served = async {
        let failed = || gateway.metric("holdfast_endpoint_dials_total", &["result=\"tls_failed\""]);
        for _ in 0..100 {
            tunnel(&gateway, &good, &right).await;
            if failed() > 0.0 {
                return;
            }
        }
        panic!("it was never tried");
    };
    tokio::select! {
        () = served => {}
        () = refused => {}
    }
}

#[tokio::test]
async fn an_endpoint_that_asks_for_a_certificate_gets_the_one_of_the_rule() {
    let (authority, clients) = (Authority::new("ca"), Authority::new("clients"));
    let issued = authority.issue("endpoint.test");
    for version in [&TLS13, &TLS12] {
        let config = Arc::new(issued.config_asking(&[version], Some(&clients)));
        for shown in [None, Some(Authority::new("strangers").issue("holdfast.test"))] {
            let (server, gateway) = start(authority.tls(shown.as_ref())).await;
            let answer = answer_while(&gateway, async {
                assert!(secure(&server, &config).await.is_err());
            })
            .await;
            assert_eq!(
                (answer.status, answer.reason()),
                (502, Some("endpoint_tls_alert")),
                "{version:?}"
            );
            assert!(answer.head.contains("error=tls_alert_received"), "{}", answer.head);
            let answer = tokio::join!(
                ask(gateway.address, "GET / HTTP/1.1\r\nHost: test\r\n\r\n"),
                secure(&server, &config)
            );
            assert_eq!((answer.0.status, answer.0.reason()), (502, Some("endpoint_tls_alert")));
        }
        let (first, second) = (clients.issue("holdfast.test"), clients.issue("holdfast.test"));
        let (server, gateway) = start(authority.tls(Some(&first))).await;
        let shown = |endpoint: &Endpoint| endpoint.get_ref().1.peer_certificates().unwrap()[0].clone();
        let (mut client, mut endpoint) = tunnel(&gateway, &server, &config).await;
        assert_eq!(&shown(&endpoint), first.der.der());
        // A renewed one is shown to new connections, and tunnels never notice.
        gateway.publish(rules(&server, authority.tls(Some(&second))));
        let (_, renewed) = tunnel(&gateway, &server, &config).await;
        assert_eq!(&shown(&renewed), second.der.der());
        client.send(TEXT, "still here").await;
        assert_eq!(masked(&mut endpoint).await, (TEXT, b"still here".to_vec()));
    }
}

#[tokio::test]
async fn keys_may_change_at_any_time() {
    let authority = Authority::new("ca");
    let config = Arc::new(authority.issue("endpoint.test").config(&[&TLS13]));
    let (server, gateway) = start(authority.tls(None)).await;
    let (mut client, mut endpoint) = tunnel(&gateway, &server, &config).await;
    for round in 0..5 {
        endpoint.get_mut().1.refresh_traffic_keys().unwrap();
        let message = frame(TEXT, &vec![b'x'; 100_000], None);
        write(&mut endpoint, &message).await;
        assert!(client.bytes(message.len()).await == message);
        client.send(TEXT, format!("round {round}")).await;
        assert_eq!(masked(&mut endpoint).await, (TEXT, format!("round {round}").into_bytes()));
    }
}

#[tokio::test]
async fn what_comes_in_one_record_with_the_101_is_not_lost() {
    let authority = Authority::new("ca");
    for version in [&TLS13, &TLS12] {
        let config = Arc::new(authority.issue("endpoint.test").config(&[version]));
        let (server, gateway) = start(authority.tls(None)).await;
        for early in [b"at once".to_vec(), vec![b'x'; 12_000]] {
            let mut client = Peer::connect(gateway.address).await;
            client
                .write([handshake("/", "").into_bytes(), frame(TEXT, b"early", Some([1; 4]))].concat())
                .await;
            let mut endpoint = secure(&server, &config).await.unwrap();
            head(&mut endpoint).await;
            write(
                &mut endpoint,
                [switching("").into_bytes(), frame(TEXT, &early, None)].concat(),
            )
            .await;
            assert!(client.head().await.starts_with("HTTP/1.1 101 "));
            assert_eq!(client.frame().await.payload, early);
            assert_eq!(masked(&mut endpoint).await, (TEXT, b"early".to_vec()));
        }
    }
}

/// Writes one byte at a time.
struct Drip(TcpStream);

impl AsyncRead for Drip {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, into)
    }
}

impl AsyncWrite for Drip {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.0).poll_write(cx, &bytes[..bytes.len().min(1)]))?;
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn however_an_endpoint_s_bytes_are_cut_it_is_understood() {
    let authority = Authority::new("ca");
    for version in [&TLS13, &TLS12] {
        let config = Arc::new(authority.issue("endpoint.test").config(&[version]));
        let (server, gateway) = start(authority.tls(None)).await;
        let mut client = Peer::connect(gateway.address).await;
        client.write(handshake("/", "")).await;
        let socket = Drip(server.connection().await.socket);
        let mut endpoint = TlsAcceptor::from(Arc::clone(&config)).accept(socket).await.unwrap();
        head(&mut endpoint).await;
        write(&mut endpoint, switching("")).await;
        assert!(client.head().await.starts_with("HTTP/1.1 101 "));
        write(&mut endpoint, frame(TEXT, b"drip", None)).await;
        assert_eq!(client.frame().await.payload, b"drip");
    }
}

#[tokio::test]
async fn an_endpoint_that_stops_reading_stops_the_client_and_then_gets_everything() {
    let authority = Authority::new("ca");
    let config = Arc::new(authority.issue("endpoint.test").config(&[&TLS13]));
    let (server, gateway) = start(authority.tls(None)).await;
    let (mut client, mut endpoint) = tunnel(&gateway, &server, &config).await;
    let piece = frame(BINARY, &[0x5A; 10_000], Some([1, 2, 3, 4]));
    let sent = client.fill(&piece).await;
    gateway
        .wait_for_metric("holdfast_stalled_connections", &[], |stalled| stalled == 1.0)
        .await;
    let rest = &piece[sent % piece.len()..];
    let (got, ()) = tokio::join!(read(&mut endpoint, sent + rest.len()), async { client.write(rest).await });
    assert!(got.chunks(piece.len()).all(|chunk| chunk == piece));
    write(&mut endpoint, frame(TEXT, b"and back", None)).await;
    assert_eq!(client.frame().await.payload, b"and back");
}

#[tokio::test]
async fn an_orderly_close_ends_by_close_notify_on_both_sides() {
    let authority = Authority::new("ca");
    for version in [&TLS13, &TLS12] {
        let config = Arc::new(authority.issue("endpoint.test").config(&[version]));
        let (server, gateway) = start(authority.tls(None)).await;
        let (mut client, mut endpoint) = tunnel(&gateway, &server, &config).await;
        client.close(1000).await;
        assert_eq!(masked(&mut endpoint).await, (0x80 | CLOSE, 1000_u16.to_be_bytes().into()));
        write(&mut endpoint, frame(0x80 | CLOSE, &1000_u16.to_be_bytes(), None)).await;
        assert_eq!(client.frame().await.code(), 1000);
        endpoint.shutdown().await.unwrap();
        client.ends().await;
        assert_eq!(
            rest(&mut endpoint).await.unwrap(),
            b"",
            "{version:?}: an end without close_notify is an error"
        );
        assert_eq!(gateway.record("ended").await["holdfast.end.cause"], "closed");
    }
}

#[tokio::test]
async fn the_end_of_an_endpoint_is_told_whether_it_is_orderly_or_not() {
    let authority = Authority::new("ca");
    for version in [&TLS13, &TLS12] {
        let config = Arc::new(authority.issue("endpoint.test").config(&[version]));
        let (server, gateway) = start(authority.tls(None)).await;
        // By close_notify, by the end of TCP alone, by a reset, by what is no record.
        for end in 0..4 {
            let (mut client, mut endpoint) = tunnel(&gateway, &server, &config).await;
            match end {
                0 => endpoint.shutdown().await.unwrap(),
                1 => endpoint.get_mut().0.shutdown().await.unwrap(),
                2 => {
                    let socket = socket2::SockRef::from(endpoint.get_ref().0);
                    socket.set_linger(Some(Duration::ZERO)).unwrap();
                    drop(endpoint);
                }
                _ => {
                    write(
                        &mut endpoint.get_mut().0,
                        [
                            23, 3, 3, 0, 20, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19,
                        ],
                    )
                    .await
                }
            }
            assert_eq!(client.frame().await.code(), 1012, "{version:?}, {end}");
            client.close(1012).await;
            client.ends().await;
            let ended = gateway.record("ended").await;
            assert_eq!(ended["holdfast.end.cause"], "endpoint_gone", "{version:?}, {end}");
        }
        // TCP ends behind a Close: nothing is wrong.
        let (mut client, mut endpoint) = tunnel(&gateway, &server, &config).await;
        write(&mut endpoint, frame(0x80 | CLOSE, &1000_u16.to_be_bytes(), None)).await;
        endpoint.get_mut().0.shutdown().await.unwrap();
        assert_eq!(client.frame().await.code(), 1000);
        client.close(1000).await;
        client.ends().await;
        assert_eq!(gateway.record("ended").await["holdfast.end.cause"], "closed");
    }
}

#[tokio::test]
async fn a_drain_tells_an_endpoint_by_a_close_frame_and_ends_by_close_notify() {
    let authority = Authority::new("ca");
    for version in [&TLS13, &TLS12] {
        let config = Arc::new(authority.issue("endpoint.test").config(&[version]));
        let (server, mut gateway) = start(authority.tls(None)).await;
        let (mut client, mut endpoint) = tunnel(&gateway, &server, &config).await;
        gateway.drain(Duration::ZERO);
        assert_eq!(client.frame().await.code(), 1012);
        client.close(1012).await;
        let (first, payload) = masked(&mut endpoint).await;
        assert_eq!((first, &payload[..2]), (0x80 | CLOSE, &1001_u16.to_be_bytes()[..]));
        endpoint.shutdown().await.unwrap();
        assert_eq!(rest(&mut endpoint).await.unwrap(), b"", "{version:?}");
        client.ends().await;
        assert_eq!(gateway.record("ended").await["holdfast.end.cause"], "drain");
    }
}

#[tokio::test]
async fn an_endpoint_that_answers_no_ping_any_more_is_gone() {
    let authority = Authority::new("ca");
    let config = Arc::new(authority.issue("endpoint.test").config(&[&TLS13]));
    let server = Server::start().await;
    let rule = RuleBuilder::to(&[server.address]).change(|rule| {
        rule.tls = authority.tls(None);
        rule.heartbeat = Heartbeats {
            client: heartbeat(0, 2),
            endpoint: heartbeat(1, 1),
        };
    });
    let gateway = Gateway::start(rule.build());
    let (mut client, mut endpoint) = tunnel(&gateway, &server, &config).await;
    let (first, token) = masked(&mut endpoint).await;
    assert_eq!(first, 0x80 | PING);
    write(&mut endpoint, frame(0x80 | PONG, &token, None)).await;
    assert_eq!(client.frame().await.code(), 1012);
    assert_eq!(gateway.record("ended").await["holdfast.end.cause"], "endpoint_heartbeat_lost");
}

#[tokio::test]
async fn an_answer_that_is_no_101_passes_with_its_body() {
    let authority = Authority::new("ca");
    let config = Arc::new(authority.issue("endpoint.test").config(&[&TLS13]));
    let (server, gateway) = start(authority.tls(None)).await;
    let body = "b".repeat(100_000);
    let answer = answer_while(&gateway, async {
        let mut endpoint = secure(&server, &config).await.unwrap();
        head(&mut endpoint).await;
        let head = format!("HTTP/1.1 403 Forbidden\r\nContent-Length: {}\r\n\r\n", body.len());
        write(&mut endpoint, head + &body).await;
        rest(&mut endpoint).await.ok();
    })
    .await;
    assert_eq!((answer.status, answer.body.len()), (403, body.len()));
}

#[tokio::test]
async fn plain_requests_go_by_tls_and_what_is_kept_of_it_is_used_again_for_the_same_trust_only() {
    let authority = Authority::new("ca");
    let config = Arc::new(authority.issue("endpoint.test").config(&[&TLS13]));
    let tls = authority.tls(None);
    let (server, gateway) = start(tls.clone()).await;
    let poll = async |client: &mut Peer| {
        client
            .write("POST /poll HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nhello")
            .await;
    };
    let answer = async |endpoint: &mut Endpoint| {
        assert!(head(endpoint).await.starts_with("POST /poll "));
        assert_eq!(read(endpoint, 5).await, b"hello");
        let body = "b".repeat(100_000);
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        write(endpoint, head + &body).await;
    };
    let mut client = Peer::connect(gateway.address).await;
    let mut endpoint = None;
    for _ in 0..3 {
        poll(&mut client).await;
        if endpoint.is_none() {
            endpoint = Some(secure(&server, &config).await.unwrap());
        }
        answer(endpoint.as_mut().unwrap()).await;
        assert_eq!(client.answer().await.body.len(), 100_000);
    }
    // Another table with the same trust changes nothing; another trust does.
    gateway.publish(rules(&server, tls));
    poll(&mut client).await;
    answer(endpoint.as_mut().unwrap()).await;
    client.answer().await;
    gateway.publish(rules(&server, authority.tls(None)));
    poll(&mut client).await;
    answer(&mut secure(&server, &config).await.unwrap()).await;
    assert_eq!(client.answer().await.status, 200);
    // And the handshake behind them.
    client.write(handshake("/", "")).await;
    accept(&server, &config).await;
    assert!(client.head().await.starts_with("HTTP/1.1 101 "));
}

#[tokio::test]
async fn the_next_connection_resumes_the_session_of_the_last() {
    let authority = Authority::new("ca");
    for version in [&TLS13, &TLS12] {
        let config = Arc::new(authority.issue("endpoint.test").config(&[version]));
        let (server, gateway) = start(authority.tls(None)).await;
        let mut kinds = Vec::new();
        for _ in 0..2 {
            let (mut client, mut endpoint) = tunnel(&gateway, &server, &config).await;
            write(&mut endpoint, frame(TEXT, b"so that the ticket has been read", None)).await;
            client.frame().await;
            kinds.push(endpoint.get_ref().1.handshake_kind().unwrap());
        }
        assert_eq!(kinds[1], rustls::HandshakeKind::Resumed, "{version:?}: {kinds:?}");
    }
}

/// A folder of manifests whose route goes to one endpoint.
struct Folder(std::path::PathBuf);

impl Folder {
    fn new(test: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("holdfast-backend-tls-{test}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn write(&self, file: &str, text: &str) {
        fs::write(self.0.join("new"), text).unwrap();
        fs::rename(self.0.join("new"), self.0.join(file)).unwrap();
    }

    fn write_route(&self, endpoint: &Server, backend_tls: &str, app_protocol: &str) {
        let manifests = format!(
            "apiVersion: holdfast.dev/v1alpha1\nkind: WebSocketRoute\nmetadata: {{name: a}}\n\
             spec: {{backendTLS: {backend_tls}, rules: [{{backendRefs: [{{name: endpoint, port: 443}}]}}]}}\n---\n\
             apiVersion: v1\nkind: Service\nmetadata: {{name: endpoint}}\n\
             spec: {{ports: [{{port: 443, appProtocol: {app_protocol}}}]}}\n---\n\
             apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: a, labels: {{kubernetes.io/service-name: endpoint}}}}\n\
             addressType: IPv4\nports: [{{port: {}}}]\nendpoints: [{{addresses: [127.0.0.1]}}]\n",
            endpoint.address.port()
        );
        self.write("route.yaml", &manifests);
    }

    fn write_secret(&self, name: &str, chain: &str, key: &str, authorities: &str) {
        let secret = serde_json::json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "type": "kubernetes.io/tls",
            "stringData": {"tls.crt": chain, "tls.key": key, "ca.crt": authorities},
        });
        self.write(&format!("{name}.yaml"), &secret.to_string());
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[tokio::test]
async fn a_folder_s_service_says_by_its_app_protocol_that_its_endpoints_use_tls() {
    let (authority, server) = (Authority::new("ca"), Server::start().await);
    let config = Arc::new(authority.issue("endpoint.default.svc").config(&[&TLS13]));
    let folder = Folder::new("app-protocol");
    folder.write_route(&server, "{caRef: {name: ca}}", "kubernetes.io/wss");
    folder.write_secret("ca", "", "", &authority.pem());
    let mut holdfast = Holdfast::start_folder(&folder.0, &[]).await;
    let mut client = Peer::connect(holdfast.http).await;
    client.write(handshake("/", "")).await;
    let (mut endpoint, _) = accept(&server, &config).await;
    assert!(client.head().await.starts_with("HTTP/1.1 101 "));
    client.send(TEXT, "secure").await;
    assert_eq!(masked(&mut endpoint).await, (TEXT, b"secure".to_vec()));

    // Somebody else at the same address: the log says what is wrong.
    let strange = Arc::new(Authority::new("other").issue("endpoint.default.svc").config(&[&TLS13]));
    let refused = async || {
        let (answer, endpoint) = tokio::join!(ask(holdfast.http, handshake("/", "")), secure(&server, &strange));
        assert!(endpoint.is_err());
        assert_eq!((answer.status, answer.reason()), (502, Some("endpoint_certificate")));
    };
    refused().await;
    let line = holdfast
        .line_with("no TLS with an endpoint: invalid peer certificate: ")
        .await;
    assert!(
        line.contains("endpoint.default.svc") && line.contains("default/endpoint:443"),
        "{line}"
    );

    // Plain again, by the Service; the tunnel stays as it is.
    folder.write_route(&server, "{caRef: {name: ca}}", "kubernetes.io/ws");
    holdfast.line_with("routes published").await;
    let (_plain, request) = {
        let mut other = Peer::connect(holdfast.http).await;
        other.write(handshake("/", "")).await;
        server.accept().await
    };
    assert!(request.starts_with("GET / "), "{request}");
    client.send(TEXT, "still secure").await;
    assert_eq!(masked(&mut endpoint).await, (TEXT, b"still secure".to_vec()));
}

#[tokio::test]
async fn a_renewed_secret_of_a_folder_is_used_at_once_and_a_broken_one_is_not() {
    let (authority, clients, server) = (Authority::new("ca"), Authority::new("clients"), Server::start().await);
    let config = Arc::new(authority.issue("endpoint.test").config_asking(&[&TLS13], Some(&clients)));
    let folder = Folder::new("renewed");
    folder.write_route(
        &server,
        "{mode: Mutual, caRef: {name: ca}, hostname: endpoint.test, clientCertificateRef: {name: ours}}",
        "tcp",
    );
    let (first, second) = (clients.issue("holdfast.test"), clients.issue("holdfast.test"));
    folder.write_secret("ca", "", "", &authority.pem());
    folder.write_secret("ours", &first.chain, &first.key, "");
    let mut holdfast = Holdfast::start_folder(&folder.0, &[]).await;
    let http = holdfast.http;
    let open = async || {
        let mut client = Peer::connect(http).await;
        client.write(handshake("/", "")).await;
        let (endpoint, _) = accept(&server, &config).await;
        assert!(client.head().await.starts_with("HTTP/1.1 101 "));
        let shown = endpoint.get_ref().1.peer_certificates().unwrap()[0].clone();
        (client, endpoint, shown)
    };
    let (mut client, mut endpoint, shown) = open().await;
    assert_eq!(&shown, first.der.der());

    folder.write_secret("ours", &second.chain, &first.key, "");
    holdfast
        .line_with("is not the key of the certificate in tls.crt; the last good one stays")
        .await;
    folder.write_secret("ca", "", "", "nothing");
    holdfast
        .line_with("ca.crt has no certificate in PEM form; the last good ones stay")
        .await;
    assert_eq!(&open().await.2, first.der.der());

    folder.write_secret("ours", &second.chain, &second.key, "");
    let written = Instant::now();
    while &open().await.2 != second.der.der() {
        assert!(written.elapsed() < PATIENCE, "the renewed certificate is not shown");
    }
    client.send(TEXT, "still here").await;
    assert_eq!(masked(&mut endpoint).await, (TEXT, b"still here".to_vec()));

    fs::remove_file(folder.0.join("ca.yaml")).unwrap();
    holdfast.line_with("there is no Secret default/ca").await;
    let dialled = server.dialled();
    let answer = ask(holdfast.http, handshake("/", "")).await;
    assert_eq!((answer.status, answer.reason()), (502, Some("endpoint_tls_unusable")));
    assert_eq!(server.dialled(), dialled);
}
