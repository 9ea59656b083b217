//! Weights of backendRefs, while they change: a canary that grows, and one that is taken back.

use std::{net::SocketAddr, sync::Arc};

use holdfast::routing::{
    Backend, BackendTls, EndpointCell, ServicePort,
    endpoint::State,
    route::{Balancing, Cookie, OnUnavailable, PersistBy, Persistence},
    table::RuleSpec,
};

use crate::{
    actor::{Act, Actor, opened},
    support::{Gateway, Peer, RuleBuilder, Server, TEXT, handshake, service, set, tunnel},
};

/// Two Services with one endpoint each.
struct Versions([(ServicePort, Arc<EndpointCell>); 2]);

impl Versions {
    fn new(addresses: [SocketAddr; 2]) -> Self {
        let mut number = 0;
        Self(addresses.map(|address| {
            number += 1;
            let cell = EndpointCell::default();
            cell.store(set(&[address], State::Ready));
            let name = format!("v{number}").into();
            (ServicePort { name, ..service() }, Arc::new(cell))
        }))
    }

    fn weighing(&self, weights: [u32; 2], change: impl FnOnce(&mut RuleBuilder)) -> Vec<RuleSpec> {
        let mut rules = RuleBuilder::to(&[]).change(change).build();
        let rule = Arc::get_mut(&mut rules[0].rule).unwrap();
        rule.balancing = Balancing::RoundRobin;
        rule.backends = self
            .0
            .iter()
            .zip(weights)
            .map(|((service, cell), weight)| Backend {
                service: service.clone(),
                weight,
                endpoints: Some(Arc::clone(cell)),
                tls: BackendTls::Off,
            })
            .collect();
        rules
    }
}

#[tokio::test]
async fn shares_are_exact_and_zero_is_nobody() {
    let actors = [Actor::start(Act::Serve).await, Actor::start(Act::Serve).await];
    let versions = Versions::new([actors[0].address, actors[1].address]);
    let gateway = Gateway::start(versions.weighing([9, 1], |_| ()));
    let mut before = (0, 0);
    for (weights, shares) in [([9, 1], (36, 4)), ([1, 1], (20, 20)), ([0, 5], (0, 40)), ([7, 0], (40, 0))] {
        gateway.publish(versions.weighing(weights, |_| ()));
        for _ in 0..40 {
            assert_eq!(opened(&gateway, handshake("/", "")).await.status, 101);
        }
        let now = (actors[0].asked(), actors[1].asked());
        assert_eq!((now.0 - before.0, now.1 - before.1), shares, "{weights:?}");
        before = now;
    }
    gateway.publish(versions.weighing([0, 0], |_| ()));
    let answer = opened(&gateway, handshake("/", "")).await;
    assert_eq!((answer.status, answer.reason()), (503, Some("no_ready_endpoint")));
}

#[tokio::test]
async fn a_change_of_weights_moves_only_new_connections_and_nobody_with_a_cookie() {
    let servers = [Server::start().await, Server::start().await];
    let versions = Versions::new([servers[0].address, servers[1].address]);
    let sticky = |rule: &mut RuleBuilder| {
        rule.persistence = Some(Persistence {
            by: PersistBy::Cookie(Cookie::named("version")),
            on_unavailable: OnUnavailable::Repick,
        });
    };
    let gateway = Gateway::start(versions.weighing([1, 0], sticky));
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(tunnel(&gateway, &servers[0]).await);
    }
    let mut client = Peer::connect(gateway.address).await;
    client.write(handshake("/", "")).await;
    let (_endpoint, _) = servers[0].accept().await;
    let head = client.head().await;
    let cookie = head.split("version=").nth(1).unwrap().split(';').next().unwrap();

    gateway.publish(versions.weighing([0, 1], sticky));
    for (client, endpoint) in &mut open {
        client.send(TEXT, "still here").await;
        assert_eq!(endpoint.frame().await.payload, b"still here");
    }
    for _ in 0..3 {
        tunnel(&gateway, &servers[1]).await;
    }
    let mut back = Peer::connect(gateway.address).await;
    back.write(handshake("/", &format!("Cookie: version={cookie}\r\n"))).await;
    let (_endpoint, _) = servers[0].accept().await;
    let head = back.head().await;
    assert!(head.starts_with("HTTP/1.1 101 ") && !head.contains("Set-Cookie"), "{head}");
}
