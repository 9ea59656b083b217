//! Workers: each gets its share of the connections, and all serve alike.

use std::time::Duration;

use crate::support::{CLOSE, Gateway, RuleBuilder, Server, TEXT, tunnel};

#[tokio::test]
async fn connections_are_spread_evenly() {
    let server = Server::start().await;
    let mut gateway = Gateway::with(RuleBuilder::to(&[server.address]).build(), |settings| settings.workers = 4);
    let mut tunnels = Vec::new();
    for _ in 0..400 {
        tunnels.push(tunnel(&gateway, &server).await);
    }
    let load = |gateway: &Gateway| -> Vec<f64> {
        (0..4)
            .map(|worker| gateway.metric("holdfast_worker_connections_active", &[&format!("worker=\"{worker}\"")]))
            .collect()
    };
    let loads = load(&gateway);
    assert_eq!(loads.iter().sum::<f64>(), 400.0);
    let (least, most) = loads
        .iter()
        .fold((f64::MAX, 0.0_f64), |(least, most), load| (least.min(*load), most.max(*load)));
    assert!(most - least <= 20.0, "{loads:?}");
    for (client, endpoint) in &mut tunnels {
        client.send(TEXT, "all alike").await;
        assert_eq!(endpoint.frame().await.payload, b"all alike");
    }
    let ids: std::collections::HashSet<_> = futures::future::join_all(tunnels.iter().map(|_| gateway.record("opened")))
        .await
        .into_iter()
        .map(|opened| opened["holdfast.connection.id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(ids.len(), 400, "ids are unique over all workers");

    // A drain is paced over all of them.
    gateway.drain(Duration::from_secs(2));
    for (mut client, mut endpoint) in tunnels {
        assert_eq!(client.frame().await.opcode(), CLOSE);
        client.close(1012).await;
        assert_eq!(endpoint.frame().await.code(), 1001);
    }
    gateway.trigger.finished().await;
    assert_eq!(load(&gateway).iter().sum::<f64>(), 0.0);
}
