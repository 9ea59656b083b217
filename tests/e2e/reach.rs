//! Commands on a laptop, which has a kubeconfig and no way to a pod: they ask every replica through the API server.

use crate::{
    cluster::on_the_cluster,
    echo,
    release::Release,
    support::{CLOSE, Peer, handshake_with},
    wait::until,
};

/// Every replica answers from its own loopback; an order reaches the one that was named and no other.
#[test]
fn commands_reach_every_replica_from_a_laptop() {
    on_the_cluster(async |cluster| {
        let namespace = cluster.namespace("reach").await;
        let release = Release::install(cluster, "reach", &[]).await;
        echo::start(cluster, &release).await;
        let host = format!("ws://{}/", echo::host("reach"));
        until("all replicas have the route", async || {
            let output = cluster.holdfast(&["why", &host, "-n", "reach"]).output().await.unwrap();
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            let alike = output.status.success() && said.starts_with("101") && said.contains("2/2 replicas answer alike");
            if alike {
                Ok(())
            } else {
                Err((said, String::from_utf8_lossy(&output.stderr).into_owned()))
            }
        })
        .await;

        let names = release.ready().await;
        let status = ["drain", "--status", "-n", "reach"];
        let said = cluster.says(cluster.holdfast(&status)).await;
        assert!(names.iter().all(|name| said.contains(&format!("{name} serves"))), "{said}");

        // One replica drains, with a client on it.
        let pod = cluster.pod("reach", &names[0]);
        let mut client = Peer::connect((pod.place().unwrap().ip, 8080).into()).await;
        client.write(handshake_with(&echo::host("reach"), "/", "")).await;
        assert!(client.head().await.starts_with("HTTP/1.1 101 "));
        let open = cluster
            .says(cluster.holdfast(&["connections", "--route", "reach/echo", "-n", "reach"]))
            .await;
        assert!(open.contains("2/2 replicas"), "{open}");
        let told = tokio::spawn(async move {
            let frame = client.frame().await;
            client.close(1000).await;
            (frame.opcode(), frame.code())
        });
        let drained = cluster
            .says(cluster.holdfast(&["drain", "--wait", &names[0], "-n", "reach"]))
            .await;
        assert!(drained.contains(&format!("{} has drained; 0 left", names[0])), "{drained}");
        assert_eq!(told.await.unwrap(), (CLOSE, 1012));
        let said = cluster.says(cluster.holdfast(&status)).await;
        assert!(said.contains(&format!("{} serves", names[1])), "{said}");
        let ends = cluster
            .says(cluster.holdfast(&["ends", "--cause", "drain", "-n", "reach"]))
            .await;
        assert!(
            ends.contains("reach/echo") && ends.contains("1012") && ends.contains("2/2 replicas"),
            "{ends}"
        );

        // Inside a pod, it is that pod's own that is asked.
        let inside = pod
            .container("holdfast")
            .unwrap()
            .exec(&["holdfast", "drain", "--status"].map(str::to_owned))
            .await
            .unwrap();
        let said = String::from_utf8_lossy(&inside.stdout).into_owned();
        assert!(said.contains(&names[0]) && !said.contains(&names[1]), "{said}");

        // And kubectl has the log.
        let log = cluster.kubectl(&["-n", "reach", "logs", &names[0], "--tail=5"]).await;
        assert!((1..=5).contains(&log.lines().count()), "{log}");
        release.uninstall().await;
        namespace.delete().await;
    });
}
