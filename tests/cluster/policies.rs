//! Policies as people apply them: what a route admits, of whom, and what becomes of endpoints that fail. Each holds for new
//! connections as soon as it is in the object, and for none that is open.

use k8s_openapi::api::events::v1::Event;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::{
    control_plane::on_the_cluster,
    endpoint::{Echo, PORT, pod_address},
    namespace::Namespace,
    objects::{ready, service, slice},
    replica::Replica,
    wait::eventually,
};

#[test]
fn what_a_route_admits_and_of_whom_is_edited_around_open_tunnels() {
    on_the_cluster(async |control_plane| {
        let chat = Namespace::new(control_plane).await;
        let _echo = Echo::behind(&chat, "chat").await;
        let mut route = chat.route("chat", "/", "chat");
        chat.apply(&route).await;
        let holdfast = Replica::of(&chat, "a").start().await;
        let host = chat.host();
        let mut open = holdfast.open(&host, "/").await;
        for (policy, value, status, reason) in [
            ("limits", json!({"maxConnections": 1}), 503, "connection_limit"),
            (
                "limits",
                json!({"handshakeRate": {"requests": 1, "interval": "1h"}}),
                429,
                "handshake_rate_limited",
            ),
            (
                "security",
                json!({"sourceRanges": {"deny": ["127.0.0.0/8"]}}),
                403,
                "source_refused",
            ),
            (
                "security",
                json!({"origins": {"policy": "SameOrigin", "missing": "Deny"}}),
                403,
                "origin_refused",
            ),
        ] {
            route["spec"][policy] = value;
            chat.apply(&route).await;
            holdfast.until_answer(&host, "/", status, Some(reason)).await;
            open.exchange().await;
            route["spec"].as_object_mut().unwrap().remove(policy);
            chat.apply(&route).await;
            holdfast.until_answer(&host, "/", 101, None).await;
        }
    });
}

#[test]
fn endpoints_that_fail_are_passed_over_and_left_out() {
    on_the_cluster(async |control_plane| {
        let chat = Namespace::new(control_plane).await;
        let (well, refuses, nobody) = (Echo::start("well").await, pod_address(), pod_address());
        let busy = TcpListener::bind((refuses, PORT)).await.unwrap();
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = busy.accept().await {
                let _ = socket.read(&mut [0; 4096]).await;
                let _ = socket
                    .write_all(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
                    .await;
            }
        });
        chat.apply(&service("chat")).await;
        let endpoints = vec![ready(well.ip()), ready(refuses), ready(nobody)];
        chat.apply(&slice("chat", "chat", endpoints)).await;
        let mut route = chat.route("chat", "/", "chat");
        route["spec"]["loadBalancing"] = json!({"algorithm": "RoundRobin"});
        route["spec"]["retry"] = json!({"attempts": 2, "codes": [503]});
        chat.apply(&route).await;
        let holdfast = Replica::of(&chat, "a").start().await;
        let host = chat.host();
        for _ in 0..6 {
            holdfast.open(&host, "/").await;
        }
        assert!(holdfast.metric("holdfast_handshake_retries_total", &[]).await >= 1.0);
        assert_eq!(holdfast.metric("holdfast_endpoint_ejected", &[]).await, 0.0);

        route["spec"]["health"] = json!({"passive": {"failures": 2, "codes": [503], "maxEjectionPercent": 100}});
        chat.apply(&route).await;
        for reason in ["status", "connection_refused"] {
            let reason = format!("reason=\"{reason}\"");
            eventually("both are left out", async || {
                holdfast.open(&host, "/").await;
                holdfast.metric("holdfast_endpoint_ejected", &[&reason]).await == 1.0
            })
            .await;
        }
        eventually("Events say so", async || {
            let events = chat.api::<Event>().list(&Default::default()).await.unwrap();
            let notes: Vec<_> = events
                .iter()
                .filter(|event| event.reason.as_deref() == Some("EndpointEjected"))
                .filter_map(|event| event.note.as_deref())
                .collect();
            ["status", "connection_refused"].iter().all(|reason| {
                let is_told =
                    |note: &&str| note.contains(reason) && note.contains("a leaves out endpoint") && note.contains("chat:80");
                notes.iter().filter(|note| is_told(note)).count() == 1
            })
        })
        .await;
        assert_eq!(
            holdfast.endpoints(&host, "/", 6).await.into_iter().collect::<Vec<_>>(),
            ["well"]
        );
    });
}
