//! The chart from `helm install` to `helm uninstall`.

use crate::{
    cluster::{Cluster, alone_on_the_cluster, on_the_cluster},
    echo,
    release::Release,
    wait::until,
};

/// Installed where pods must be restricted, it becomes ready, passes its own test, serves a route, and leaves.
#[test]
fn installs_serves_and_leaves() {
    on_the_cluster(async |cluster| {
        let namespace = cluster.namespace("install").await;
        let release = Release::install(cluster, "install", &[]).await;
        assert_eq!(release.ready().await.len(), 2);
        let said = release.test().await;
        assert!(
            said.contains("Phase:          Succeeded") && said.contains("3 sent"),
            "{said}"
        );
        echo::start(cluster, &release).await;
        release.uninstall().await;
        namespace.delete().await;
    });
}

/// The definition, and with it every route, stays when the release goes; unless that is asked for.
#[test]
fn the_definition_stays_unless_it_is_to_go() {
    alone_on_the_cluster(async |cluster| {
        let namespace = cluster.namespace("definition").await;
        let routes = ["-n", "definition", "get", "wsr", "-o", "name"];
        // The definition is there already, of no release.
        let with_definition = ["--take-ownership", "crds.enabled=true", "replicas=1"];
        let release = Release::install(cluster, "definition", &with_definition).await;
        cluster.apply(&echo::objects("definition")).await;
        release.uninstall().await;
        assert_eq!(cluster.kubectl(&routes).await, "websocketroute.holdfast.dev/echo\n");

        let values = [&with_definition[..], &["crds.keep=false"]].concat();
        let release = Release::install(cluster, "definition", &values).await;
        release.uninstall().await;
        let left = cluster
            .kubectl(&[
                "get",
                "crd",
                "websocketroutes.holdfast.dev",
                "--ignore-not-found",
                "-o",
                "name",
            ])
            .await;
        assert_eq!(left, "");
        cluster.define().await;
        assert_eq!(cluster.kubectl(&routes).await, "", "its routes are gone with it");
        namespace.delete().await;
    });
}

/// A DaemonSet takes ports of its nodes, which are the way in, for its own test too. When its pods are replaced, each waits until
/// the one before it has given its node's ports back.
#[test]
fn a_daemon_set_serves_on_its_nodes() {
    on_the_cluster(async |cluster| {
        let namespace = cluster.privileged_namespace("daemon").await;
        let values = ["kind=DaemonSet", "service.enabled=false"];
        let release = Release::install(cluster, "daemon", &values).await;
        assert_eq!(release.ready().await.len(), cluster.shared_nodes().len());
        let said = release.test().await;
        assert!(said.contains("Phase:          Succeeded"), "{said}");
        cluster.apply(&echo::objects("daemon")).await;
        every_node_serves(cluster, "daemon").await;
        let before = release.ready().await;
        release
            .upgrade(&[&values[..], &["podAnnotations.replaced=yes"]].concat())
            .await;
        let after = release.ready().await;
        assert!(
            after.len() == before.len() && after.iter().all(|pod| !before.contains(pod)),
            "{before:?} {after:?}"
        );
        every_node_serves(cluster, "daemon").await;
        release.uninstall().await;
        namespace.delete().await;
    });
}

async fn every_node_serves(cluster: &Cluster, namespace: &str) {
    for node in cluster.shared_nodes() {
        let address = (node.ip(), 80).into();
        until(&format!("{} serves", node.name()), async || {
            echo::open_by(address, namespace).await.map(drop)
        })
        .await;
    }
}

/// deploy/minimal, which kubectl alone applies, runs as it is.
#[test]
fn what_kubectl_applies_runs_too() {
    alone_on_the_cluster(async |cluster| {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/minimal");
        let namespace = cluster.namespace("holdfast-system").await;
        cluster
            .kubectl(&["apply", "--server-side", "--force-conflicts", "-k", folder])
            .await;
        let application = echo::objects("holdfast-system").replace("className: holdfast-system", "className: holdfast");
        cluster.apply(&application).await;
        let rolled_out = [
            "-n",
            "holdfast-system",
            "rollout",
            "status",
            "deployment/holdfast",
            "--timeout=90s",
        ];
        cluster.kubectl(&rolled_out).await;
        let programmed = [
            "-n",
            "holdfast-system",
            "wait",
            "--for=condition=Programmed",
            "wsr/echo",
            "--timeout=30s",
        ];
        cluster.kubectl(&programmed).await;
        let release = Release::of(cluster, "holdfast-system");
        until("a client is led to the endpoint", async || {
            echo::open(&release).await.map(drop)
        })
        .await;
        namespace.empty().await;
        cluster.kubectl(&["delete", "--ignore-not-found", "-k", folder]).await;
        cluster.define().await;
    });
}
