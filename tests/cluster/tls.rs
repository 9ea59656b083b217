//! Certificates in Secrets: shown as soon as they are there, renewed without a drop, refused where nobody grants them, and none
//! of anybody's business where they may not be read.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use k8s_openapi::api::events::v1::Event;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName},
};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::{
    account::Account,
    control_plane::{ControlPlane, on_the_cluster},
    endpoint::Echo,
    namespace::Namespace,
    replica::Replica,
    wait::until,
};

/// A Secret with a new certificate for a host, and the certificate.
fn secret(name: &str, host: &str) -> (Value, CertificateDer<'static>) {
    let made = rcgen::generate_simple_self_signed([host.to_owned()]).unwrap();
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": {"name": name},
        "stringData": {"tls.crt": made.cert.pem(), "tls.key": made.signing_key.serialize_pem()},
    });
    (secret, made.cert.der().clone())
}

/// Waits until the host is served with this certificate.
async fn until_shown(https: SocketAddr, host: &str, certificate: &CertificateDer<'static>) {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap();
    let connector = TlsConnector::from(Arc::new(config.with_root_certificates(roots).with_no_client_auth()));
    until(&format!("{host} shows its certificate"), async || {
        let socket = TcpStream::connect(https).await.unwrap();
        let name = ServerName::try_from(host.to_owned()).unwrap();
        connector.connect(name, socket).await.map(drop)
    })
    .await;
}

#[test]
fn a_certificate_is_shown_when_it_comes_and_when_it_is_renewed_and_a_foreign_one_is_not_shown_without_a_grant() {
    on_the_cluster(async |control_plane| {
        let (chat, safe) = (Namespace::new(control_plane).await, Namespace::new(control_plane).await);
        let _echo = Echo::behind(&chat, "chat").await;
        let (host, foreign_host) = (chat.host(), format!("foreign.{}", chat.host()));
        let mut route = chat.route("chat", "/", "chat");
        route["spec"]["tls"] = json!([{"secretName": "chat-tls", "allowPlain": true}]);
        chat.apply(&route).await;
        let holdfast = Replica::of(&chat, "a").args(&["--https", "127.0.0.1:0"]).start().await;
        let https = holdfast.https.unwrap();

        let missing = chat
            .until_condition("chat", "ResolvedRefs", "False", "InvalidCertificateRef")
            .await;
        assert!(missing.message.contains("there is no Secret"), "{}", missing.message);
        let (mut first, certificate) = secret("chat-tls", &host);
        chat.apply(&first).await;
        until_shown(https, &host, &certificate).await;
        chat.until_condition("chat", "ResolvedRefs", "True", "ResolvedRefs").await;
        let mut tunnel = holdfast.open(&host, "/").await;

        let (renewed, certificate) = secret("chat-tls", &host);
        first["stringData"]["tls.crt"] = renewed["stringData"]["tls.crt"].clone(); // with the key of before
        chat.apply(&first).await;
        let broken = chat
            .until_condition("chat", "ResolvedRefs", "False", "InvalidCertificateRef")
            .await;
        assert!(broken.message.contains("the last good one stays"), "{}", broken.message);
        chat.apply(&renewed).await;
        until_shown(https, &host, &certificate).await;
        tunnel.exchange().await;

        // One that was there before anybody named it is read as soon as somebody does.
        let later_host = format!("later.{host}");
        let (later, certificate) = secret("later-tls", &later_host);
        chat.apply(&later).await;
        let mut route = chat.route("later", "/", "chat");
        route["spec"]["hostnames"] = json!([later_host]);
        route["spec"]["tls"] = json!([{"secretName": "later-tls"}]);
        chat.apply(&route).await;
        until_shown(https, &later_host, &certificate).await;

        let mut foreign = chat.route("foreign", "/", "chat");
        foreign["spec"]["hostnames"] = json!([foreign_host]);
        foreign["spec"]["tls"] = json!([{"secretName": "safe-tls", "secretNamespace": safe.name()}]);
        let (kept, _) = secret("safe-tls", &foreign_host);
        safe.apply(&kept).await;
        chat.apply(&foreign).await;
        chat.until_condition("foreign", "ResolvedRefs", "False", "RefNotPermitted")
            .await;
        holdfast.until_answer(&foreign_host, "/", 421, Some("tls_required")).await;
    });
}

#[test]
fn who_may_not_read_secrets_serves_everything_else() {
    on_the_cluster(async |control_plane| {
        let chat = Namespace::new(control_plane).await;
        let _echo = Echo::behind(&chat, "chat").await;
        let account = without_secrets(control_plane, &chat).await;
        chat.apply(&chat.route("plain", "/", "chat")).await;
        let mut secured = chat.route("secured", "/", "chat");
        secured["spec"]["hostnames"] = json!(["secured.example.com"]);
        secured["spec"]["tls"] = json!([{"secretName": "chat-tls"}]);
        chat.apply(&secured).await;
        chat.apply(&secret("chat-tls", "secured.example.com").0).await;

        let replica = Replica::of(&chat, "a").kubeconfig(&account.kubeconfig);
        let replica = replica.args(&["--watch-namespace", chat.name(), "--https", "127.0.0.1:0"]);
        let holdfast = replica.start().await;
        holdfast.open(&chat.host(), "/").await.exchange().await;
        holdfast.said(&["as if there were none", "secrets is forbidden"]).await;
        holdfast
            .until_answer("secured.example.com", "/", 421, Some("tls_required"))
            .await;
        chat.until_condition("secured", "ResolvedRefs", "False", "InvalidCertificateRef")
            .await;
    });
}

/// A ServiceAccount that may do in its namespace what deploy/minimal allows, but for Secrets.
async fn without_secrets(control_plane: &ControlPlane, namespace: &Namespace) -> Account {
    let rules = [
        ("holdfast.dev", "websocketroutes", &["get", "list", "watch"][..]),
        ("", "services", &["list", "watch"]),
        ("discovery.k8s.io", "endpointslices", &["list", "watch"]),
        ("gateway.networking.k8s.io", "referencegrants", &["list", "watch"]),
        ("holdfast.dev", "websocketroutes/status", &["patch"]),
        ("events.k8s.io", "events", &["create", "patch"]),
        (
            "coordination.k8s.io",
            "leases",
            &["get", "list", "watch", "create", "update", "delete"],
        ),
    ];
    let rules = rules.map(|(group, resource, verbs)| json!({"apiGroups": [group], "resources": [resource], "verbs": verbs}));
    let api_version = "rbac.authorization.k8s.io/v1";
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "modest"}});
    let role = json!({"apiVersion": api_version, "kind": "Role", "metadata": {"name": "modest"}, "rules": rules});
    let binding = json!({
        "apiVersion": api_version, "kind": "RoleBinding", "metadata": {"name": "modest"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "modest"},
        "subjects": [{"kind": "ServiceAccount", "name": "modest", "namespace": namespace.name()}],
    });
    for object in [account, role, binding] {
        namespace.apply(&object).await;
    }
    let account = Account::of(control_plane, namespace.name(), "modest").await;
    account
        .until_it_may("create", "coordination.k8s.io", "leases", namespace.name())
        .await;
    account
}

#[test]
fn the_leader_says_in_events_that_a_certificate_expires_soon_or_cannot_be_used() {
    on_the_cluster(async |control_plane| {
        let chat = Namespace::new(control_plane).await;
        let host = chat.host();
        let in_days = |days: i64| {
            let key = rcgen::KeyPair::generate().unwrap();
            let mut params = rcgen::CertificateParams::new(vec![host.clone()]).unwrap();
            let begin = rcgen::date_time_ymd(2020, 1, 1);
            let now = jiff::Timestamp::now().as_second() - begin.unix_timestamp();
            params.not_before = begin;
            params.not_after = begin + Duration::from_secs((now + days * 86_400) as u64);
            let made = params.self_signed(&key).unwrap();
            json!({
                "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": {"name": "chat-tls"},
                "stringData": {"tls.crt": made.pem(), "tls.key": key.serialize_pem()},
            })
        };
        let mut route = chat.route("chat", "/", "chat");
        route["spec"]["tls"] = json!([{"secretName": "chat-tls"}]);
        chat.apply(&route).await;
        let _holdfast = Replica::of(&chat, "a").args(&["--https", "127.0.0.1:0"]).start().await;
        let far = in_days(90);
        chat.apply(&far).await;
        chat.until_condition("chat", "Programmed", "True", "Programmed").await;
        assert_eq!(told(&chat, "Certificate").await, [] as [String; 0]);

        chat.apply(&in_days(5)).await;
        until_told(&chat, "CertificateExpiring", "its certificate expires on ").await;
        let mut broken = in_days(90);
        broken["stringData"]["tls.key"] = far["stringData"]["tls.key"].clone();
        chat.apply(&broken).await;
        until_told(&chat, "CertificateInvalid", "is not the key of the certificate").await;
    });
}

/// Notes of the Events about the route whose reason begins so.
async fn told(namespace: &Namespace, reason: &str) -> Vec<String> {
    let events = namespace.api::<Event>().list(&Default::default()).await.unwrap();
    let is_meant = |event: &&Event| {
        let regarding = event.regarding.as_ref().and_then(|object| object.name.as_deref());
        event.reason.as_ref().is_some_and(|said| said.starts_with(reason))
            && event.type_.as_deref() == Some("Warning")
            && regarding == Some("chat")
    };
    events
        .iter()
        .filter(is_meant)
        .map(|event| event.note.clone().unwrap())
        .collect()
}

async fn until_told(namespace: &Namespace, reason: &str, words: &str) {
    until(&format!("{reason}: {words}"), async || {
        let notes = told(namespace, reason).await;
        if notes.iter().any(|note| note.contains(words)) {
            Ok(())
        } else {
            Err(notes)
        }
    })
    .await;
}
