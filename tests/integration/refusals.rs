//! Refusals: each reason once, as the client reads it, as it is recorded and as it is counted; and that the client gets to
//! read it whatever it is sending.

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures::future::join_all;
use holdfast::{
    proxy::{error::Reason, recent::What},
    routing::{
        endpoint::State,
        limits::{ClientConnections, ClientKey, Limits},
        route::{Fallback, OnUnavailable, PersistBy, Persistence},
        security::{OriginPolicy, Origins, Security, Sources},
    },
};

use crate::support::{Answer, Ending, Gateway, Peer, RuleBuilder, Server, Silent, closed_port, handshake, set, tunnel};

/// A request that was refused.
struct Refused {
    gateway: Gateway,
    /// What the client read, if it stayed to read it.
    answer: Option<Answer>,
    /// What must stay open meanwhile.
    _others: (Server, Vec<Peer>),
}

/// Has a request refused for `reason`. A new reason does not compile without an entry here.
async fn produce(reason: Reason) -> Option<Refused> {
    let server = Server::start().await;
    let mut others = Vec::new();
    let mut rule = RuleBuilder::to(&[server.address]);
    let mut request = handshake("/", "");
    let mut connections = 10_000;
    match reason {
        Reason::MalformedRequest => request = handshake("/", "Host: twice\r\n"),
        Reason::NoRoute => rule.prefix = "/chat",
        Reason::MethodNotAllowed => request = request.replace("GET", "PUT"),
        Reason::RequestTimeout => {}
        Reason::UpgradeRequired => {
            rule.fallback = Fallback::Reject;
            request = "GET / HTTP/1.1\r\nHost: test\r\n\r\n".to_owned();
        }
        Reason::UnsupportedVersion => request = request.replace("Version: 13", "Version: 12"),
        Reason::HeadersTooLarge => request = handshake("/", &format!("X: {}\r\n", "x".repeat(60_000))),
        Reason::UnresolvedBackend => rule.cell = None,
        Reason::ConnectionRefused => rule = RuleBuilder::to(&[closed_port()]),
        Reason::DialTimeout => {
            let silent = Silent::start();
            rule = RuleBuilder::to(&[silent.address]);
            rule.timeouts.connect = Duration::from_secs(1);
            rule.keep = Some(silent);
        }
        Reason::EndpointClosed | Reason::EndpointProtocolError | Reason::InvalidUpgrade | Reason::ClientGone => {}
        Reason::NoReadyEndpoint => rule.store(set(&[server.address], State::NotReady)),
        Reason::SessionUnavailable => {
            let by = PersistBy::Header("x-session".into());
            let on_unavailable = OnUnavailable::Fail;
            rule.persistence = Some(Persistence { by, on_unavailable });
            rule.store(set(&[server.address], State::NotReady));
            request = handshake("/", "X-Session: one\r\n");
        }
        Reason::Overload => connections = 1,
        Reason::ConnectionLimit => {
            rule.limits = Some(Arc::new(Limits {
                max_connections: Some(1),
                ..Limits::default()
            }));
        }
        Reason::ClientConnectionLimit => {
            let key = ClientKey::Address {
                ipv4_prefix: 32,
                ipv6_prefix: 64,
            };
            rule.limits = Some(Arc::new(Limits {
                max_connections_per_client: Some(ClientConnections { count: 1, key }),
                ..Limits::default()
            }));
        }
        // With the time to wait, and with more than one endpoint: limits.rs.
        Reason::HandshakeRateLimited { .. } | Reason::EndpointConnectionLimit => return None,
        Reason::Draining => {}
        Reason::HandshakeTimeout => rule.timeouts.handshake = Duration::from_secs(1),
        // Without a free source port: tests/faults, in a network of its own.
        Reason::SourcePortsExhausted => return None,
        // With files: files.rs.
        Reason::StaticUnavailable => return None,
        // With certificates: tls.rs.
        Reason::TlsRequired | Reason::RedirectedToHttps | Reason::Misdirected | Reason::PlainOnTlsPort => return None,
        Reason::SourceRefused => {
            let sources = Sources {
                deny: ["127.0.0.0/8".parse().unwrap()].into(),
                ..Sources::default()
            };
            rule.security = Arc::new(Security {
                sources,
                ..Security::default()
            });
        }
        Reason::OriginRefused => {
            let origins = Origins {
                policy: OriginPolicy::SameOrigin,
                ..Origins::default()
            };
            rule.security = Arc::new(Security {
                origins,
                ..Security::default()
            });
            request = handshake("/", "Origin: https://evil.example\r\n");
        }
        Reason::TlsOnPlainPort => request = "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}".to_owned(),
        // With TLS towards the endpoint: backend_tls.rs.
        Reason::EndpointCertificate | Reason::EndpointTlsAlert | Reason::EndpointTlsError | Reason::EndpointTlsUnusable => {
            return None;
        }
        // Only a defect produces it, and none is built in for tests.
        Reason::Internal => return None,
    }
    let _silent = rule.keep.take();
    let mut gateway = Gateway::with(rule.build(), |settings| settings.limit.connections = connections);
    if matches!(
        reason,
        Reason::Overload | Reason::Draining | Reason::ConnectionLimit | Reason::ClientConnectionLimit
    ) {
        let (client, endpoint) = tunnel(&gateway, &server).await;
        others.extend([client, endpoint]);
    }
    if reason == Reason::Draining {
        gateway.drain(Duration::from_secs(600));
    }
    let mut client = Peer::connect(gateway.address).await;
    match reason {
        // However it trickles in: the time is for the whole head.
        Reason::RequestTimeout => trickle(&mut client, &request).await,
        _ => client.write(request).await,
    }
    match reason {
        Reason::EndpointClosed => drop(server.connection().await),
        Reason::EndpointProtocolError | Reason::InvalidUpgrade | Reason::HandshakeTimeout => {
            let mut endpoint = server.connection().await;
            endpoint.head().await;
            match reason {
                Reason::EndpointProtocolError => endpoint.write("SSH-2.0-OpenSSH_9.9\r\n").await,
                Reason::InvalidUpgrade => endpoint.write("HTTP/1.1 101 Switching Protocols\r\n\r\n").await,
                _ => {}
            }
            others.push(endpoint);
        }
        Reason::ClientGone => {
            let mut endpoint = server.connection().await;
            endpoint.head().await;
            drop(client);
            assert_eq!(endpoint.ending().await, Ending::InOrder);
            return Some(Refused {
                gateway,
                answer: None,
                _others: (server, others),
            });
        }
        _ => {}
    }
    let answer = client.answer().await;
    assert_eq!(client.ending().await, Ending::InOrder, "{reason:?}");
    assert!(client.unread().is_empty(), "{reason:?}");
    Some(Refused {
        gateway,
        answer: Some(answer),
        _others: (server, others),
    })
}

/// Sends byte by byte, slowly, until an answer comes.
async fn trickle(client: &mut Peer, request: &str) {
    for byte in request.as_bytes() {
        client.write([*byte]).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        if !client.has_nothing() {
            return;
        }
    }
}

#[tokio::test]
async fn every_reason_is_read_recorded_and_counted() {
    let produced: HashSet<Reason> = join_all(Reason::ALL.map(|case| Box::pin(one_reason(case))))
        .await
        .into_iter()
        .flatten()
        .collect();
    let elsewhere = [
        Reason::SourcePortsExhausted,
        Reason::Internal,
        Reason::StaticUnavailable,
        Reason::TlsRequired,
        Reason::RedirectedToHttps,
        Reason::Misdirected,
        Reason::PlainOnTlsPort,
        Reason::HandshakeRateLimited { retry_after: 1 },
        Reason::EndpointConnectionLimit,
        Reason::EndpointCertificate,
        Reason::EndpointTlsAlert,
        Reason::EndpointTlsError,
        Reason::EndpointTlsUnusable,
    ];
    let missing: Vec<_> = Reason::ALL
        .into_iter()
        .filter(|reason| !produced.contains(reason) && !elsewhere.contains(reason))
        .collect();
    assert!(missing.is_empty(), "never produced: {missing:?}");
}

async fn one_reason(reason: Reason) -> Option<Reason> {
    let Refused {
        gateway,
        answer,
        _others,
    } = produce(reason).await?;
    let expected = reason.answer();
    if let Some(answer) = &answer {
        assert_eq!(answer.status, expected.status.as_u16(), "{reason:?}: {}", answer.head);
        let status = format!(
            "holdfast; error={}; details=\"{}\"",
            expected.proxy_error.unwrap(),
            expected.word
        );
        assert_eq!(answer.header("proxy-status"), Some(&*status));
        assert_eq!(answer.text(), format!("{}\n", expected.text));
        assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        assert!(answer.header("connection").unwrap().contains("close"), "{reason:?}");
        let retry_after: Option<u32> = answer.header("retry-after").map(|seconds| seconds.parse().unwrap());
        match (reason.retry_after(), retry_after) {
            (None, None) => {}
            (Some(least), Some(seconds)) => assert!((least..=2 * least).contains(&seconds), "{reason:?}: {seconds}"),
            (wanted, got) => panic!("{reason:?}: Retry-After is {got:?} where {wanted:?} is wanted"),
        }
        if expected.status == 503 {
            assert!(retry_after.is_some(), "{reason:?}: when to come back");
        }
    }
    let record = gateway.record("refused").await;
    assert_eq!(record["error.type"], expected.word);
    assert_eq!(record["http.response.status_code"], expected.status.as_u16());
    assert_eq!(record["client.address"], "127.0.0.1");
    assert!(gateway.records("refused").is_empty(), "{reason:?}: more than one record");
    let recent = gateway.recent().await;
    match &recent[..] {
        // Answers to plain requests are no ends.
        [] => assert_eq!(reason, Reason::UpgradeRequired),
        [entry] => {
            let What::Refusal(refusal) = entry.what else {
                panic!("{entry:?}")
            };
            assert_eq!((refusal.word(), refusal.status()), (expected.word, expected.status.as_u16()));
            assert_eq!(format!("{:016x}", entry.id), record["holdfast.connection.id"]);
            assert_eq!(
                entry.rule.as_ref().map(|rule| &*rule.rule),
                record["holdfast.rule.name"].as_str()
            );
        }
        recent => panic!("{reason:?}: {recent:?}"),
    }
    let code = format!("code=\"{}\"", expected.status.as_u16());
    let counted = match reason {
        // A request that is no handshake is counted by its status.
        Reason::UpgradeRequired => gateway.metric("holdfast_fallback_requests_total", &[&code]),
        _ => gateway.metric(
            "holdfast_handshakes_total",
            &[&code, &format!("reason=\"{}\"", expected.word)],
        ),
    };
    assert_eq!(counted, 1.0, "{reason:?} in {}", gateway.metrics());
    Some(reason)
}

#[tokio::test]
async fn a_refused_client_that_goes_on_sending_still_reads_why() {
    let gateway = Gateway::start(RuleBuilder::to(&[closed_port()]).build());
    let reject = Gateway::start(
        RuleBuilder::to(&[closed_port()])
            .change(|rule| rule.fallback = Fallback::Reject)
            .build(),
    );
    let upload = format!("POST /up HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n", 64 << 20);
    for (gateway, request, status) in [
        (&gateway, handshake("/", ""), 502),
        (&gateway, handshake("/", "Content-Length: 99999999\r\n"), 400),
        (&reject, upload, 426),
    ] {
        let mut client = Peer::connect(gateway.address).await;
        client.write(request).await;
        client.write(vec![b'x'; 8 << 20]).await;
        let answer = client.answer().await;
        assert_eq!(answer.status, status);
        assert!(!answer.body.is_empty());
        client.shut_down().await;
        assert_eq!(client.ending().await, Ending::InOrder, "{status}");
    }
}

#[tokio::test]
async fn a_refused_client_that_never_leaves_is_left() {
    let gateway = Gateway::start(RuleBuilder::to(&[closed_port()]).build());
    let mut client = Peer::connect(gateway.address).await;
    client.write(handshake("/", "")).await;
    assert_eq!(client.answer().await.status, 502);
    gateway
        .wait_for_metric("holdfast_worker_connections_active", &[], |open| open == 0.0)
        .await;
}
