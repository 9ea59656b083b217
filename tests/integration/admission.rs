//! How many connections are held, and what one too many is told.

use crate::support::{Ending, Gateway, Peer, RuleBuilder, Server, ask, handshake, tunnel};

async fn start(connections: usize, reserve: usize) -> (Server, Gateway) {
    let server = Server::start().await;
    let gateway = Gateway::with(RuleBuilder::to(&[server.address]).build(), |settings| {
        settings.limit.connections = connections;
        settings.limit.reserve = reserve;
    });
    (server, gateway)
}

#[tokio::test]
async fn one_too_many_is_refused_before_anybody_is_dialled() {
    let (server, gateway) = start(3, 10).await;
    let mut tunnels = Vec::new();
    for _ in 0..3 {
        tunnels.push(tunnel(&gateway, &server).await);
    }
    for request in [handshake("/", ""), "GET / HTTP/1.1\r\nHost: test\r\n\r\n".to_owned()] {
        let answer = ask(gateway.address, request).await;
        assert_eq!((answer.status, answer.reason()), (503, Some("overload")));
        let seconds: u32 = answer.header("retry-after").unwrap().parse().unwrap();
        assert!((5..=10).contains(&seconds));
    }
    assert_eq!(server.dialled(), 3);
    // A place that becomes free is given again.
    for _ in 0..5 {
        tunnels.pop();
        gateway
            .wait_for_metric("holdfast_worker_connections_active", &[], |open| open < 3.0)
            .await;
        tunnels.push(tunnel(&gateway, &server).await);
    }
}

#[tokio::test]
async fn beyond_the_reserve_connections_are_not_even_told() {
    let (server, gateway) = start(1, 2).await;
    let _tunnel = tunnel(&gateway, &server).await;
    let waiting = [Peer::connect(gateway.address).await, Peer::connect(gateway.address).await];
    gateway
        .wait_for_metric("holdfast_worker_connections_active", &[], |open| open == 3.0)
        .await;
    let mut refused = Peer::connect(gateway.address).await;
    refused.ending().await;
    assert!(refused.unread().is_empty());
    assert_eq!(gateway.metric("holdfast_accept_errors_total", &[]), 1.0);
    for mut client in waiting {
        client.write(handshake("/", "")).await;
        assert_eq!(client.answer().await.reason(), Some("overload"));
        assert_eq!(client.ending().await, Ending::InOrder);
    }
    gateway
        .wait_for_metric("holdfast_worker_connections_active", &[], |open| open == 1.0)
        .await;
    assert_eq!(ask(gateway.address, handshake("/", "")).await.reason(), Some("overload"));
}
