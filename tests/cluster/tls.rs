//! Certificates in Secrets: shown as soon as they are there, renewed without a drop, refused where nobody grants them, and none
//! of anybody's business where they may not be read.

use std::{net::SocketAddr, sync::Arc};

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
