//! Limits of a route: exact over all workers, told to the client with the time to come back, and kept through new tables.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use futures::future::join_all;
use holdfast::routing::{
    limits::{ClientConnections, ClientKey, HandshakeRate, Limits},
    rate::Rate,
    route::{OnUnavailable, PersistBy, Persistence},
};
use tokio::{net::TcpSocket, task::JoinHandle};

use crate::support::{Answer, Gateway, Peer, RuleBuilder, Server, ask, handshake, tunnel};

/// An endpoint that takes every connection and answers every handshake. The connections stay until it is dropped.
struct Endpoint {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Endpoint {
    async fn start() -> Self {
        let server = Server::start().await;
        let address = server.address;
        let task = tokio::spawn(async move {
            let mut peers = tokio::task::JoinSet::new();
            loop {
                let mut peer = server.connection().await;
                peers.spawn(async move {
                    peer.head().await;
                    peer.write(crate::support::switching("")).await;
                    peer.rest().await;
                });
            }
        });
        Self { address, task }
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn limited(endpoint: SocketAddr, limits: Limits) -> RuleBuilder {
    RuleBuilder::to(&[endpoint]).change(|rule| rule.limits = Some(Arc::new(limits)))
}

fn by_header() -> ClientKey {
    ClientKey::Header("x-user".into())
}

fn user(name: &str) -> String {
    handshake("/", &format!("X-User: {name}\r\n"))
}

/// A handshake, and the client if it was let in.
async fn open(gateway: &Gateway, request: impl AsRef<[u8]>) -> Result<Peer, Answer> {
    let mut client = Peer::connect(gateway.address).await;
    client.write(request).await;
    opened(client).await
}

/// The same from another address of this machine.
async fn open_from(gateway: &Gateway, address: &str) -> Result<Peer, Answer> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(address.parse().unwrap(), 0)).unwrap();
    let mut client = Peer::of_client(socket.connect(gateway.address).await.unwrap());
    client.write(handshake("/", "")).await;
    opened(client).await
}

async fn opened(mut client: Peer) -> Result<Peer, Answer> {
    let answer = client.answer_or_switch().await;
    if answer.status == 101 { Ok(client) } else { Err(answer) }
}

/// What a refused client reads.
fn assert_refused(answer: &Answer, status: u16, reason: &str, retry_after: std::ops::RangeInclusive<u32>) {
    assert_eq!((answer.status, answer.reason()), (status, Some(reason)));
    let seconds: u32 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!(retry_after.contains(&seconds), "{seconds}");
}

#[tokio::test]
async fn a_route_has_exactly_as_many_connections_as_it_may() {
    let endpoint = Endpoint::start().await;
    let limits = Limits {
        max_connections: Some(50),
        ..Limits::default()
    };
    let gateway = Gateway::with(limited(endpoint.address, limits).build(), |settings| settings.workers = 4);
    let (clients, refused): (Vec<_>, Vec<_>) = join_all((0..80).map(|_| open(&gateway, handshake("/", ""))))
        .await
        .into_iter()
        .partition(Result::is_ok);
    assert_eq!((clients.len(), refused.len()), (50, 30));
    for answer in refused.into_iter().map(|refused| refused.err().unwrap()) {
        assert_refused(&answer, 503, "connection_limit", 5..=10);
    }
    let counted = |mode| {
        gateway.metric(
            "holdfast_limited_total",
            &["route=\"route\"", "rule=\"rule\"", "limit=\"max_connections\"", mode],
        )
    };
    assert_eq!((counted("mode=\"enforced\""), counted("mode=\"dry_run\"")), (30.0, 0.0));
    // Those that ended have left their places.
    drop(clients);
    gateway
        .wait_for_metric("holdfast_connections_active", &[], |open| open == 0.0)
        .await;
    let again = join_all((0..50).map(|_| open(&gateway, handshake("/", "")))).await;
    assert!(again.iter().all(Result::is_ok));
    assert!(open(&gateway, handshake("/", "")).await.is_err());
}

#[tokio::test]
async fn a_handshake_that_comes_to_nothing_leaves_its_place() {
    let limits = Limits {
        max_connections: Some(1),
        max_connections_per_client: Some(ClientConnections {
            count: 1,
            key: by_header(),
        }),
        ..Limits::default()
    };
    let gateway = Gateway::start(limited(crate::support::closed_port(), limits).build());
    for _ in 0..3 {
        // The socket of the last one may still be on its way out: only the handshake counts.
        assert_eq!(ask(gateway.address, user("ann")).await.status, 502);
    }
    assert_eq!(
        gateway.metric("holdfast_limited_clients", &["max_connections_per_client"]),
        0.0
    );
}

#[tokio::test]
async fn a_client_has_exactly_as_many_connections_as_it_may() {
    let endpoint = Endpoint::start().await;
    let limits = Limits {
        max_connections_per_client: Some(ClientConnections {
            count: 5,
            key: by_header(),
        }),
        ..Limits::default()
    };
    let gateway = Gateway::with(limited(endpoint.address, limits).build(), |settings| settings.workers = 4);
    let names = ["ann", "bob", "cid"];
    let requests = (0..30).map(|number| open(&gateway, user(names[number % 3])));
    let (mut clients, refused): (Vec<_>, Vec<_>) = join_all(requests).await.into_iter().partition(Result::is_ok);
    assert_eq!((clients.len(), refused.len()), (15, 15));
    for answer in refused.into_iter().map(|refused| refused.err().unwrap()) {
        assert_refused(&answer, 429, "client_connection_limit", 5..=10);
    }
    let tracked = || gateway.metric("holdfast_limited_clients", &["max_connections_per_client"]);
    assert_eq!(tracked(), 3.0);
    // Who does not say who it is is not limited, as with nginx.
    for nobody in ["", "X-User: \r\n"] {
        for _ in 0..6 {
            clients.push(open(&gateway, handshake("/", nobody)).await);
        }
    }
    assert!(clients.iter().all(Result::is_ok));
    drop(clients);
    gateway
        .wait_for_metric("holdfast_connections_active", &[], |open| open == 0.0)
        .await;
    assert_eq!(tracked(), 0.0, "nobody is remembered longer than it has connections");
    assert!(open(&gateway, user("ann")).await.is_ok());
}

#[tokio::test]
async fn a_client_begins_no_more_handshakes_than_its_rate_says() {
    let endpoint = Endpoint::start().await;
    let limits = Limits {
        handshake_rate: Some(HandshakeRate {
            rate: Rate::new(2, Duration::from_secs(3600), 10),
            key: ClientKey::Address {
                ipv4_prefix: 24,
                ipv6_prefix: 64,
            },
        }),
        ..Limits::default()
    };
    let gateway = Gateway::with(limited(endpoint.address, limits).build(), |settings| settings.workers = 4);
    let (clients, refused): (Vec<_>, Vec<_>) = join_all((0..40).map(|_| open(&gateway, handshake("/", ""))))
        .await
        .into_iter()
        .partition(Result::is_ok);
    assert_eq!((clients.len(), refused.len()), (10, 30));
    for answer in refused.into_iter().map(|refused| refused.err().unwrap()) {
        // One in half an hour; somebody who is told to wait is not let in earlier.
        assert_refused(&answer, 429, "handshake_rate_limited", 1_700..=1_810);
    }
    let neighbour = open_from(&gateway, "127.0.0.9").await;
    assert_eq!(neighbour.err().unwrap().status, 429, "the prefix is the same");
    assert!(open_from(&gateway, "127.0.1.1").await.is_ok());
    assert_eq!(gateway.metric("holdfast_limited_clients", &["handshake_rate"]), 2.0);
    // Requests that are no handshakes neither count nor are refused: they are not limited.
    let plain = ask(gateway.address, "GET / HTTP/1.1\r\nHost: test\r\n\r\n").await;
    assert_ne!(plain.status, 429);
}

#[tokio::test]
async fn a_dry_run_refuses_nobody_and_says_whom_it_would() {
    let endpoint = Endpoint::start().await;
    let limits = Limits {
        max_connections: Some(1),
        max_connections_per_client: Some(ClientConnections {
            count: 1,
            key: by_header(),
        }),
        handshake_rate: Some(HandshakeRate {
            rate: Rate::new(1, Duration::from_secs(3600), 2),
            key: by_header(),
        }),
        max_header_bytes: Some(1_000),
        is_dry_run: true,
        ..Limits::default()
    };
    let gateway = Gateway::start(limited(endpoint.address, limits).build());
    let clients = [
        open(&gateway, user("ann")).await,
        open(&gateway, user("ann")).await,
        open(&gateway, user("ann")).await,
        open(&gateway, user(&"a".repeat(2_000))).await,
    ];
    assert!(clients.iter().all(Result::is_ok));
    for (limit, count) in [
        ("max_header_bytes", 1.0),
        ("handshake_rate", 1.0),
        ("max_connections_per_client", 2.0),
        ("max_connections", 3.0),
    ] {
        let limit = format!("limit=\"{limit}\"");
        let counted = |mode| gateway.metric("holdfast_limited_total", &[&limit, mode]);
        assert_eq!(
            (counted("mode=\"dry_run\""), counted("mode=\"enforced\"")),
            (count, 0.0),
            "{limit}"
        );
    }
    for would_refuse in [
        None,
        Some("max_connections_per_client"),
        Some("handshake_rate"),
        Some("max_header_bytes"),
    ] {
        let record = gateway.record("opened").await;
        assert_eq!(record["holdfast.limit.dry_run"].as_str(), would_refuse);
    }
}

#[tokio::test]
async fn counts_outlive_tables_and_routes() {
    let server = Server::start().await;
    let of = |max_connections| {
        let limits = Limits {
            max_connections,
            max_connections_per_client: Some(ClientConnections {
                count: 2,
                key: ClientKey::Address {
                    ipv4_prefix: 32,
                    ipv6_prefix: 64,
                },
            }),
            handshake_rate: Some(HandshakeRate {
                rate: Rate::new(1, Duration::from_secs(3600), 3),
                key: by_header(),
            }),
            ..Limits::default()
        };
        limited(server.address, limits).build()
    };
    let reason = async |gateway: &Gateway, request: String| ask(gateway.address, request).await.reason().unwrap().to_owned();

    // What is open before there is a limit counts as well.
    let gateway = Gateway::start(RuleBuilder::to(&[server.address]).build());
    let early = tunnel(&gateway, &server).await;
    gateway.publish(of(Some(1)));
    assert_eq!(reason(&gateway, handshake("/", "")).await, "connection_limit");
    // A wider limit goes on from there, and a narrower one ends nothing.
    gateway.publish(of(Some(2)));
    let late = tunnel(&gateway, &server).await;
    assert_eq!(reason(&gateway, handshake("/", "")).await, "connection_limit");
    gateway.publish(of(Some(1)));
    assert_eq!(reason(&gateway, handshake("/", "")).await, "connection_limit");
    // A route that goes and comes back under its name still has its connections.
    gateway.publish(Vec::new());
    assert_eq!(reason(&gateway, handshake("/", "")).await, "no_route");
    gateway.metrics(); // which forgets rules that nobody needs
    gateway.publish(of(Some(2)));
    assert_eq!(reason(&gateway, handshake("/", "")).await, "connection_limit");
    gateway.publish(of(None));
    let last = tunnel(&gateway, &server).await;
    assert_eq!(reason(&gateway, handshake("/", "")).await, "client_connection_limit");
    drop((early, late, last));
    gateway
        .wait_for_metric("holdfast_connections_active", &[], |open| open == 0.0)
        .await;

    // So does a rate: what it has let in was let in by another table.
    gateway.publish(of(Some(1)));
    for _ in 0..3 {
        let mut client = Peer::connect(gateway.address).await;
        client.write(user("ann")).await;
        let (endpoint, _) = server.accept().await;
        assert!(client.head().await.starts_with("HTTP/1.1 101 "));
        drop((client, endpoint));
        gateway
            .wait_for_metric("holdfast_connections_active", &[], |open| open == 0.0)
            .await;
        gateway.publish(of(Some(1)));
    }
    assert_eq!(reason(&gateway, user("ann")).await, "handshake_rate_limited");
    assert_eq!(
        gateway.metric("holdfast_limited_clients", &["max_connections_per_client"]),
        0.0
    );
}

#[tokio::test]
async fn a_head_is_no_larger_than_the_route_lets_it_be() {
    let server = Server::start().await;
    let limits = Limits {
        max_header_bytes: Some(1_024),
        ..Limits::default()
    };
    let gateway = Gateway::start(limited(server.address, limits).build());
    let padded = |request: &str, len: usize| {
        let missing = len - request.len() - "X: \r\n".len();
        let (head, _) = request.rsplit_once("\r\n").unwrap();
        format!("{head}X: {}\r\n\r\n", "x".repeat(missing))
    };
    let plain = "GET / HTTP/1.1\r\nHost: test\r\n\r\n";
    for request in [plain, &handshake("/", "")] {
        let answer = ask(gateway.address, padded(request, 1_025)).await;
        assert_eq!((answer.status, answer.reason()), (431, Some("headers_too_large")));
    }
    assert_eq!(server.dialled(), 0);
    let mut client = Peer::connect(gateway.address).await;
    client.write(padded(&handshake("/", ""), 1_024)).await;
    server.accept().await;
    assert!(client.head().await.starts_with("HTTP/1.1 101 "));
    assert_eq!(
        gateway.metric("holdfast_limited_total", &["limit=\"max_header_bytes\"", "mode=\"enforced\""]),
        2.0
    );
}

/// The endpoint of a client, told by how many connections each has.
fn open_at(gateway: &Gateway, endpoint: &Endpoint) -> f64 {
    let pod = format!("endpoint_pod=\"{}\"", endpoint.address);
    gateway.metric("holdfast_endpoint_connections_active", &[&pod])
}

#[tokio::test]
async fn an_endpoint_has_exactly_as_many_connections_as_it_may() {
    let endpoints = [Endpoint::start().await, Endpoint::start().await, Endpoint::start().await];
    let limits = Limits {
        max_connections_per_endpoint: Some(20),
        ..Limits::default()
    };
    let rule = RuleBuilder::to(&endpoints.each_ref().map(|endpoint| endpoint.address));
    let rule = rule.change(|rule| rule.limits = Some(Arc::new(limits)));
    let gateway = Gateway::with(rule.build(), |settings| settings.workers = 4);
    let (clients, refused): (Vec<_>, Vec<_>) = join_all((0..90).map(|_| open(&gateway, handshake("/", ""))))
        .await
        .into_iter()
        .partition(Result::is_ok);
    // While one of them has a place, nobody is refused.
    assert_eq!((clients.len(), refused.len()), (60, 30));
    for endpoint in &endpoints {
        assert_eq!(open_at(&gateway, endpoint), 20.0);
    }
    for answer in refused.into_iter().map(|refused| refused.err().unwrap()) {
        assert_refused(&answer, 503, "endpoint_connection_limit", 5..=10);
    }
    let limit = ["limit=\"max_connections_per_endpoint\"", "mode=\"enforced\""];
    assert_eq!(gateway.metric("holdfast_limited_total", &limit), 30.0);
    // Plain requests are not refused.
    let plain = ask(gateway.address, "GET / HTTP/1.1\r\nHost: test\r\n\r\n").await;
    assert_ne!(plain.status, 503);
    drop(clients);
    gateway
        .wait_for_metric("holdfast_endpoint_connections_active", &[], |open| open == 0.0)
        .await;
    assert!(open(&gateway, handshake("/", "")).await.is_ok());
}

#[tokio::test]
async fn who_belongs_to_a_full_endpoint_gets_another_or_waits_as_the_route_says() {
    for on_unavailable in [OnUnavailable::Repick, OnUnavailable::Fail] {
        let endpoints = [Endpoint::start().await, Endpoint::start().await];
        let limits = Limits {
            max_connections_per_endpoint: Some(1),
            ..Limits::default()
        };
        let rule = RuleBuilder::to(&endpoints.each_ref().map(|endpoint| endpoint.address));
        let rule = rule.change(|rule| {
            rule.limits = Some(Arc::new(limits));
            rule.persistence = Some(Persistence {
                by: PersistBy::Header("x-user".into()),
                on_unavailable,
            });
        });
        let gateway = Gateway::start(rule.build());
        let _first = open(&gateway, user("ann")).await.unwrap();
        let second = open(&gateway, user("ann")).await;
        match on_unavailable {
            OnUnavailable::Repick => {
                assert!(second.is_ok());
                let third = open(&gateway, user("ann")).await.err().unwrap();
                assert_refused(&third, 503, "endpoint_connection_limit", 5..=10);
            }
            OnUnavailable::Fail => {
                assert_refused(&second.err().unwrap(), 503, "endpoint_connection_limit", 5..=10);
                // Somebody else's is free.
                assert!(open(&gateway, handshake("/", "")).await.is_ok());
            }
        }
    }
}

#[tokio::test]
async fn a_dry_run_passes_no_endpoint_over() {
    let endpoint = Endpoint::start().await;
    let limits = Limits {
        max_connections_per_endpoint: Some(1),
        is_dry_run: true,
        ..Limits::default()
    };
    let gateway = Gateway::start(limited(endpoint.address, limits).build());
    let clients = [
        open(&gateway, handshake("/", "")).await,
        open(&gateway, handshake("/", "")).await,
    ];
    assert!(clients.iter().all(Result::is_ok));
    let limit = ["limit=\"max_connections_per_endpoint\"", "mode=\"dry_run\""];
    assert_eq!(gateway.metric("holdfast_limited_total", &limit), 1.0);
}
