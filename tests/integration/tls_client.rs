//! A TLS client of another make, certificates for it, and gateways that show them.

use std::{io, net::SocketAddr, sync::Arc};

use holdfast::{
    proxy::Settings,
    routing::{Certificate, Certificates, HostTls, table::RuleSpec},
};
use rcgen::{CertificateParams, KeyPair};
use rustls::{
    ClientConfig, HandshakeKind, RootCertStore,
    pki_types::{CertificateDer, ServerName},
    version::TLS13,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::support::{Gateway, PATIENCE, Peer, RuleBuilder, Server, handshake_with, name};

/// A certificate that clients of these tests trust once they are given it.
pub struct Made {
    pub chain: String,
    pub key: String,
    pub certificate: Arc<Certificate>,
    pub root: CertificateDer<'static>,
}

pub fn made_by(secret: &str, hosts: &[&str], algorithm: &'static rcgen::SignatureAlgorithm) -> Made {
    let key = KeyPair::generate_for(algorithm).unwrap();
    let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let certificate = CertificateParams::new(hosts).unwrap().self_signed(&key).unwrap();
    let (chain, key) = (certificate.pem(), key.serialize_pem());
    let read = Certificate::read(name(secret), chain.as_bytes(), key.as_bytes());
    Made {
        certificate: Arc::new(read.unwrap()),
        root: certificate.der().clone(),
        chain,
        key,
    }
}

pub fn made(secret: &str, hosts: &[&str]) -> Made {
    made_by(secret, hosts, &rcgen::PKCS_ECDSA_P256_SHA256)
}

pub fn host_tls(made: &Made) -> HostTls {
    HostTls {
        secret: made.certificate.secret().clone(),
        certificate: Some(Arc::clone(&made.certificate)),
        allows_plain: false,
    }
}

/// A gateway with an endpoint, where each host has the certificate next to it.
pub async fn start(hosts: &[(&str, &Made)], change: impl FnOnce(&mut Settings)) -> (Server, Gateway) {
    let server = Server::start().await;
    let mut gateway = Gateway::with(RuleBuilder::to(&[server.address]).build(), change);
    show(&mut gateway, &server, hosts);
    (server, gateway)
}

pub fn show(gateway: &mut Gateway, server: &Server, hosts: &[(&str, &Made)]) {
    show_rules(gateway, RuleBuilder::to(&[server.address]).build(), hosts);
}

/// The same with other rules.
pub fn show_rules(gateway: &mut Gateway, rules: Vec<RuleSpec>, hosts: &[(&str, &Made)]) {
    let mut certificates = Certificates::default();
    for (host, made) in hosts {
        certificates.add(Some(host), host_tls(made));
    }
    gateway.certificates = certificates;
    gateway.publish(rules);
}

pub fn client_config(root: &CertificateDer<'static>, versions: &[&'static rustls::SupportedProtocolVersion]) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap();
    config.with_root_certificates(roots).with_no_client_auth()
}

pub async fn connect_with(gateway: &Gateway, host: &str, config: ClientConfig) -> io::Result<TlsStream<TcpStream>> {
    connect_to(gateway.https, host, config).await
}

pub async fn connect_to(address: SocketAddr, host: &str, config: ClientConfig) -> io::Result<TlsStream<TcpStream>> {
    let socket = TcpStream::connect(address).await?;
    socket.set_nodelay(true)?;
    let host = ServerName::try_from(host.to_owned()).unwrap();
    let connecting = TlsConnector::from(Arc::new(config)).connect(host, socket);
    timeout(PATIENCE, connecting).await.expect("the TLS handshake is stuck")
}

pub async fn connect(gateway: &Gateway, host: &str, made: &Made) -> io::Result<TlsStream<TcpStream>> {
    connect_with(gateway, host, client_config(&made.root, &[&TLS13])).await
}

/// Asks for nothing that is there, and says how the TLS handshake went; the ticket that comes with the answer is kept by `config`.
pub async fn visit(address: SocketAddr, host: &str, config: &ClientConfig) -> HandshakeKind {
    let mut stream = connect_to(address, host, config.clone()).await.unwrap();
    let request = format!("GET /nowhere HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    rest(&mut stream).await.unwrap();
    stream.get_ref().1.handshake_kind().unwrap()
}

pub async fn read(stream: &mut (impl AsyncReadExt + Unpin), len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let read = timeout(PATIENCE, stream.read_exact(&mut bytes));
    read.await.expect("bytes are missing").unwrap();
    bytes
}

/// What comes until the end of the stream; an end without close_notify is an error.
pub async fn rest(stream: &mut (impl AsyncReadExt + Unpin)) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut bytes))
        .await
        .expect("the end is missing")?;
    Ok(bytes)
}

/// An answer's head.
pub async fn head(stream: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.extend(read(stream, 1).await);
    }
    String::from_utf8(head).unwrap()
}

pub async fn open(mut stream: TlsStream<TcpStream>, host: &str, server: &Server) -> (TlsStream<TcpStream>, Peer) {
    stream.write_all(handshake_with(host, "/", "").as_bytes()).await.unwrap();
    let (endpoint, request) = server.accept().await;
    assert!(request.contains("X-Forwarded-Proto: https"), "{request}");
    let answer = head(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    (stream, endpoint)
}

pub async fn tunnel(gateway: &Gateway, server: &Server, made: &Made) -> (TlsStream<TcpStream>, Peer) {
    open(connect(gateway, "a.test", made).await.unwrap(), "a.test", server).await
}

/// A gateway whose host a.test has a certificate, and a tunnel through it by this version of TLS.
pub async fn tunnel_by(version: &'static rustls::SupportedProtocolVersion) -> (Server, Gateway, TlsStream<TcpStream>, Peer) {
    let made = made("a", &["a.test"]);
    let (server, gateway) = start(&[("a.test", &made)], |_| {}).await;
    let stream = connect_with(&gateway, "a.test", client_config(&made.root, &[version]));
    let (client, endpoint) = open(stream.await.unwrap(), "a.test", &server).await;
    (server, gateway, client, endpoint)
}
