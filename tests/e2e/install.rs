//! The chart from `helm install` to `helm uninstall`.

use crate::{
    cluster::{alone_on_the_cluster, on_the_cluster},
    echo,
    release::Release,
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
