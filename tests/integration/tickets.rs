//! Session tickets: who comes back resumes, with any process that has the keys, and never into another host's session.

use std::{fs, path::PathBuf, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use holdfast::routing::{TicketKey, TicketKeys};
use rustls::{
    ClientConfig, HandshakeKind, NamedGroup,
    client::{ClientSessionMemoryCache, ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue},
    pki_types::ServerName,
    version::{TLS12, TLS13},
};
use zeroize::Zeroizing;

use crate::{
    process::Holdfast,
    support::{Gateway, closed_port},
    tls::{write_manifests, write_secret},
    tls_client::{Made, client_config, connect_to, host_tls, made, visit},
};

/// A gateway without routes, where each host has the certificate next to it.
fn gateway(hosts: &[(&str, &Made)], keys: [u8; 3]) -> Gateway {
    let mut gateway = Gateway::with(Vec::new(), |_| {});
    for (host, made) in hosts {
        gateway.certificates.add(Some(host), host_tls(made));
    }
    gateway.publish(Vec::new());
    rotate(&gateway, keys);
    gateway
}

/// Gives it other keys, none for zeros: the next, the current and the previous one.
fn rotate(gateway: &Gateway, keys: [u8; 3]) {
    let [next, current, previous] = keys.map(|byte| (byte > 0).then(|| TicketKey::new(Zeroizing::new([byte; 32]))));
    let keys = current.map(|current| TicketKeys { next, current, previous });
    gateway.tickets.store(keys.map(Arc::new));
}

#[tokio::test]
async fn a_client_resumes_with_whoever_has_the_key_of_its_ticket_and_begins_anew_elsewhere() {
    let a = made("a", &["a.test"]);
    let hosts = [("a.test", &a)];
    for version in [&TLS12, &TLS13] {
        let config = client_config(&a.root, &[version]);
        let (first, second) = (gateway(&hosts, [3, 2, 1]), gateway(&hosts, [3, 2, 1]));
        let (behind, far_ahead) = (gateway(&hosts, [2, 1, 0]), gateway(&hosts, [5, 4, 3]));
        let alone = gateway(&hosts, [0, 0, 0]);
        assert_eq!(visit(first.https, "a.test", &config).await, HandshakeKind::Full);
        // Each gives a new ticket, so the client is first with `first` again.
        for (other, kind) in [
            (&first, HandshakeKind::Resumed),
            (&second, HandshakeKind::Resumed),
            (&behind, HandshakeKind::Resumed),
            (&first, HandshakeKind::Resumed),
            (&far_ahead, HandshakeKind::Full),
            (&alone, HandshakeKind::Full),
            (&alone, HandshakeKind::Resumed),
        ] {
            assert_eq!(visit(other.https, "a.test", &config).await, kind, "{version:?}");
        }
        rotate(&alone, [3, 2, 1]);
        assert_eq!(
            visit(alone.https, "a.test", &config).await,
            HandshakeKind::Resumed,
            "made before"
        );
        rotate(&alone, [4, 3, 2]);
        assert_eq!(
            visit(alone.https, "a.test", &config).await,
            HandshakeKind::Resumed,
            "a rotation"
        );
        rotate(&alone, [6, 5, 4]);
        assert_eq!(visit(alone.https, "a.test", &config).await, HandshakeKind::Full, "two more");
    }
}

/// Keeps sessions whatever the host: a client that shows the ticket of one to another.
#[derive(Debug)]
struct Careless(ClientSessionMemoryCache);

fn any() -> ServerName<'static> {
    ServerName::try_from("any").unwrap()
}

impl ClientSessionStore for Careless {
    fn set_kx_hint(&self, _: ServerName<'static>, group: NamedGroup) {
        self.0.set_kx_hint(any(), group);
    }
    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        self.0.kx_hint(&any())
    }
    fn set_tls12_session(&self, _: ServerName<'static>, session: Tls12ClientSessionValue) {
        self.0.set_tls12_session(any(), session);
    }
    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.0.tls12_session(&any())
    }
    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        self.0.remove_tls12_session(&any());
    }
    fn insert_tls13_ticket(&self, _: ServerName<'static>, session: Tls13ClientSessionValue) {
        self.0.insert_tls13_ticket(any(), session);
    }
    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.0.take_tls13_ticket(&any())
    }
}

/// A client that trusts both and is careless with sessions.
fn careless(made: [&Made; 2], version: &'static rustls::SupportedProtocolVersion) -> ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    made.iter().for_each(|made| roots.add(made.root.clone()).unwrap());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap();
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.resumption = Resumption::store(Arc::new(Careless(ClientSessionMemoryCache::new(8))));
    config
}

#[tokio::test]
async fn a_ticket_of_one_host_opens_no_session_of_another_even_with_the_same_certificate() {
    let (both, other) = (made("both", &["a.test", "b.test"]), made("other", &["c.test"]));
    let hosts = [("a.test", &both), ("b.test", &both), ("c.test", &other)];
    for version in [&TLS12, &TLS13] {
        let gateway = gateway(&hosts, [3, 2, 1]);
        let config = careless([&both, &other], version);
        for (host, kind) in [
            ("a.test", HandshakeKind::Full),
            ("a.test", HandshakeKind::Resumed),
            ("b.test", HandshakeKind::Full),
            ("c.test", HandshakeKind::Full),
            ("c.test", HandshakeKind::Resumed),
            ("a.test", HandshakeKind::Full),
        ] {
            assert_eq!(visit(gateway.https, host, &config).await, kind, "{version:?}, {host}");
        }
    }
}

#[tokio::test]
async fn a_host_that_has_lost_its_certificate_resumes_nothing() {
    let a = made("a", &["a.test"]);
    for version in [&TLS12, &TLS13] {
        let mut gateway = gateway(&[("a.test", &a)], [3, 2, 1]);
        let config = client_config(&a.root, &[version]);
        visit(gateway.https, "a.test", &config).await;
        gateway.certificates = Default::default();
        gateway.publish(Vec::new());
        connect_to(gateway.https, "a.test", config).await.unwrap_err();
    }
}

/// A folder with a route, its certificate, and the keys of tickets.
fn folder(name: &str, made: &Made, keys: Option<[u8; 3]>) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("holdfast-tickets-{}-{name}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    write_manifests(&folder, closed_port());
    write_secret(&folder, &made.chain, &made.key);
    write_keys(&folder, keys);
    folder
}

fn write_keys(folder: &std::path::Path, keys: Option<[u8; 3]>) {
    let data = keys.map(|keys| keys.map(|byte| STANDARD.encode([byte; 32])));
    let data = data.map(|[next, current, previous]| serde_json::json!({"next": next, "current": current, "previous": previous}));
    let secret = serde_json::json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "tickets"}, "type": "holdfast.dev/tickets", "data": data,
    });
    fs::write(folder.join("tickets.tmp"), secret.to_string()).unwrap();
    fs::rename(folder.join("tickets.tmp"), folder.join("tickets.yaml")).unwrap();
}

#[tokio::test]
async fn two_processes_resume_each_others_sessions_by_a_file_and_follow_its_edits() {
    let a = made("a-tls", &["a.test"]);
    let (one, two) = (folder("one", &a, Some([3, 2, 1])), folder("two", &a, None));
    let args = ["--https", "127.0.0.1:0", "--ticket-secret", "default/tickets"];
    let first = Holdfast::start_folder(&one, &args).await;
    let mut second = Holdfast::start_folder(&two, &args).await;
    second.line_with("there is no Secret default/tickets with keys").await;
    for version in [&TLS12, &TLS13] {
        let config = client_config(&a.root, &[version]);
        visit(first.https, "a.test", &config).await;
        assert_eq!(
            visit(second.https, "a.test", &config).await,
            HandshakeKind::Full,
            "{version:?}"
        );
    }
    write_keys(&two, Some([4, 3, 2]));
    second.line_with("its keys are in effect").await;
    for version in [&TLS12, &TLS13] {
        let config = client_config(&a.root, &[version]);
        visit(first.https, "a.test", &config).await;
        for holdfast in [&second, &first, &second] {
            assert_eq!(
                visit(holdfast.https, "a.test", &config).await,
                HandshakeKind::Resumed,
                "{version:?}"
            );
        }
    }
    // Without keys, or without the file, the last good ones stay.
    write_keys(&two, None);
    fs::remove_file(two.join("tickets.yaml")).unwrap();
    second.signal(rustix::process::Signal::HUP);
    second.line_with("reload").await;
    let config = client_config(&a.root, &[&TLS13]);
    visit(first.https, "a.test", &config).await;
    assert_eq!(visit(second.https, "a.test", &config).await, HandshakeKind::Resumed);
    assert!(second.metric("holdfast_ticket_keys_rotated_timestamp_seconds", &[]).await > 1e9);
    for folder in [one, two] {
        fs::remove_dir_all(folder).unwrap();
    }
}
