//! Holdfast as a native sidecar: examples/sidecar, run and ended by a kubelet.

use k8s_openapi::{api::core::v1::Pod, jiff::Timestamp};
use kube::{Api, ResourceExt as _, api::ListParams};
use tokio::task::JoinSet;

use crate::{
    cluster::{Cluster, on_the_cluster},
    support::handshake_with,
    traffic::Client,
    wait::eventually,
};

/// When the pod is to be deleted, the sidecar drains first: clients are told one after the other, with the application still there; then
/// the application ends, and the sidecar last.
#[test]
fn clients_are_told_before_their_application_ends() {
    on_the_cluster(async |cluster| {
        let namespace = cluster.namespace("chat").await;
        cluster.apply(&example()).await;
        cluster
            .kubectl(&["-n", "chat", "rollout", "status", "deployment/chat", "--timeout=60s"])
            .await;
        let name = first_pod(cluster).await;
        let pod = cluster.pod("chat", &name);
        let address = (pod.place().unwrap().ip, SIDECAR_PORT).into();
        let mut listening = JoinSet::new();
        for _ in 0..CLIENTS {
            let mut client = Client::open_by(address, &handshake_with("chat.example.com", "/", "")).await;
            client.exchange().await;
            listening.spawn(async { (client.listen().await, Timestamp::now()) });
        }

        cluster.kubectl(&["-n", "chat", "delete", "pod", &name, "--wait=false"]).await;
        let closed = listening.join_all().await;
        eventually("the pod is gone", async || pod.is_gone()).await;

        assert!(closed.iter().all(|(closed, _)| closed.code == 1012), "{closed:?}");
        let (first, last) = (
            closed.iter().map(|(_, at)| *at).min().unwrap(),
            closed.iter().map(|(_, at)| *at).max().unwrap(),
        );
        let seconds = last.duration_since(first).as_secs_f64();
        assert!(
            seconds > WINDOW / 2.0,
            "all were told within {seconds} s of a window of {WINDOW} s"
        );
        let (app, sidecar) = (pod.container("chat").unwrap(), pod.container("holdfast").unwrap());
        let at = |container: &crate::kubelet::Container, event: &str| {
            let at = container.log().event_at(event);
            at.unwrap_or_else(|| panic!("{} has no event {event:?}", container.name()))
        };
        assert!(at(app, "preStop begins") < first && at(sidecar, "preStop begins") < first);
        assert!(
            last < at(app, "SIGTERM"),
            "the application was ended before its last client was told"
        );
        assert!(at(app, "preStop has ended") <= at(app, "SIGTERM"));
        assert!(at(sidecar, "preStop has ended") <= at(sidecar, "SIGTERM"));
        assert!(
            at(app, "has ended") < at(sidecar, "SIGTERM"),
            "the sidecar was ended before the application"
        );
        for container in [app, sidecar] {
            assert!(
                container.log().event_at("SIGKILL").is_none(),
                "{} took too long",
                container.name()
            );
            assert_eq!(container.state().restarts, 0);
        }
        assert!(at(sidecar, "has ended: exit status: 0") > at(sidecar, "SIGTERM"));
        namespace.delete().await;
    });
}

/// The example with times that a test has.
fn example() -> String {
    let text = include_str!("../../examples/sidecar/sidecar.yaml");
    let quick = [
        ("--drain-delay=5s", "--drain-delay=1s".to_owned()),
        ("--drain-window=60s", format!("--drain-window={WINDOW}s")),
        ("containerPort: 4480}", format!("containerPort: {SIDECAR_PORT}}}")),
    ];
    quick.iter().fold(text.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "the example has no {from}");
        text.replace(from, to)
    })
}

async fn first_pod(cluster: &Cluster) -> String {
    let pods: Api<Pod> = Api::namespaced(cluster.client().await, "chat");
    let listed = pods
        .list(&ListParams::default().labels("app.kubernetes.io/name=chat"))
        .await
        .unwrap();
    listed.items[0].name_any()
}

/// Where the sidecar takes connections.
const SIDECAR_PORT: u16 = 4480;
const CLIENTS: usize = 20;
/// Seconds over which a drain is spread.
const WINDOW: f64 = 8.0;
