//! The keys of session tickets: the leader fills the Secret, every replica uses them, and who empties it changes nothing.

use std::collections::BTreeMap;

use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::api::Patch;
use rustls::{
    HandshakeKind,
    version::{TLS12, TLS13},
};
use serde_json::json;

use crate::{
    control_plane::on_the_cluster,
    namespace::Namespace,
    replica::{Holdfast, Replica},
    tls_client::{Made, client_config, connect_to, made, visit},
    wait::until,
};

async fn data(chat: &Namespace) -> BTreeMap<String, ByteString> {
    let secret = chat.api::<Secret>().get("tickets").await.unwrap();
    secret.data.unwrap_or_default()
}

/// Waits until the Secret has all that it is to have, and returns it.
async fn until_filled(chat: &Namespace) -> BTreeMap<String, ByteString> {
    until("the Secret is filled", async || {
        let data = data(chat).await;
        let is_key = |entry: &str| data.get(entry).is_some_and(|ByteString(bytes)| bytes.len() == 32);
        if is_key("next") && is_key("current") && data.contains_key("rotated") {
            Ok(data)
        } else {
            Err(data.len())
        }
    })
    .await
}

async fn until_resumed(from: &Holdfast, to: &Holdfast, host: &str, made: &Made) {
    for version in [&TLS12, &TLS13] {
        until(&format!("{} resumes what {} began", to.name, from.name), async || {
            let config = client_config(&made.root, &[version]);
            visit(from.https.unwrap(), host, &config).await;
            match visit(to.https.unwrap(), host, &config).await {
                HandshakeKind::Resumed => Ok(()),
                kind => Err(kind),
            }
        })
        .await;
    }
}

#[test]
fn replicas_resume_each_others_sessions_by_keys_that_the_leader_keeps_in_a_secret() {
    on_the_cluster(async |control_plane| {
        let chat = Namespace::new(control_plane).await;
        let host = chat.host();
        let made = made("chat-tls", &[&host]);
        let certificate = json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": {"name": "chat-tls"},
            "stringData": {"tls.crt": made.chain, "tls.key": made.key},
        });
        chat.apply(&certificate).await;
        let mut route = chat.route("chat", "/chat", "chat");
        route["spec"]["tls"] = json!([{"secretName": "chat-tls"}]);
        chat.apply(&route).await;
        let name = format!("{}/tickets", chat.name());
        let start = async |replica: &str| {
            let args = ["--https", "127.0.0.1:0", "--ticket-secret", &name];
            Replica::of(&chat, replica).args(&args).start().await
        };
        let (one, two) = (start("one").await, start("two").await);
        until("the certificate is shown", async || {
            connect_to(one.https.unwrap(), &host, client_config(&made.root, &[&TLS13]))
                .await
                .map(drop)
        })
        .await;
        one.said(&["--ticket-secret", "it is not there, or may not be read"]).await;

        let empty = json!({
            "apiVersion": "v1", "kind": "Secret", "type": "holdfast.dev/tickets", "metadata": {"name": "tickets"},
        });
        chat.apply(&empty).await;
        let filled = until_filled(&chat).await;
        until_resumed(&one, &two, &host, &made).await;
        until_resumed(&two, &one, &host, &made).await;
        assert!(two.metric("holdfast_ticket_keys_rotated_timestamp_seconds", &[]).await > 1e9);

        // Who applies it as it was made empties nothing; who does empty it is put right, with the same keys.
        chat.apply(&empty).await;
        assert_eq!(data(&chat).await, filled);
        let emptied = Patch::Merge(json!({"data": null}));
        chat.api::<Secret>()
            .patch("tickets", &Default::default(), &emptied)
            .await
            .unwrap();
        assert_eq!(until_filled(&chat).await, filled);
        until_resumed(&one, &two, &host, &made).await;

        // One that starts later has them too.
        let three = start("three").await;
        until_resumed(&one, &three, &host, &made).await;

        // None of them is in a log.
        let secrets: Vec<String> = filled.values().map(|ByteString(bytes)| format!("{bytes:?}")).collect();
        let lines = [&one, &two, &three].map(Holdfast::lines).concat();
        assert!(!lines.iter().any(|line| secrets.iter().any(|secret| line.contains(secret))));
    });
}
