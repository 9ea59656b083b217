//! Who may come in: origins of handshakes, addresses of clients.

use std::sync::Arc;

use holdfast::routing::{
    route::{Cookie, OnUnavailable, PersistBy, Persistence},
    security::{AllowedOrigin, OriginPolicy, Origins, Security, Sources, network},
};

use crate::support::{Gateway, Peer, RuleBuilder, Server, ask, handshake};

async fn start(security: Security) -> (Server, Gateway) {
    let server = Server::start().await;
    let rule = RuleBuilder::to(&[server.address]).change(|rule| {
        rule.security = Arc::new(security);
        rule.persistence = Some(Persistence {
            by: PersistBy::Cookie(Cookie::named("ours")),
            on_unavailable: OnUnavailable::Repick,
        });
    });
    let gateway = Gateway::with(rule.build(), |settings| {
        settings.trust.proxies = vec!["127.0.0.0/8".parse().unwrap()];
    });
    (server, gateway)
}

fn origins(policy: OriginPolicy, allow: &[&str]) -> Security {
    Security {
        origins: Origins {
            policy,
            allow: allow.iter().map(|entry| AllowedOrigin::parse(entry).unwrap()).collect(),
            ..Origins::default()
        },
        ..Security::default()
    }
}

/// The status that a handshake with these fields gets, 101 included.
async fn status(gateway: &Gateway, server: &Server, fields: &str) -> u16 {
    let mut client = Peer::connect(gateway.address).await;
    client.write(handshake("/", fields)).await;
    let (head, _endpoint) = tokio::select! {
        head = client.head() => (head, None),
        (endpoint, _) = server.accept() => (client.head().await, Some(endpoint)),
    };
    head.split(' ').nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn without_a_policy_foreign_pages_with_cookies_pass_and_are_counted() {
    let (server, gateway) = start(Security::default()).await;
    let passed = || gateway.metric("holdfast_cross_origin_handshakes_total", &["verdict=\"passed\""]);
    for fields in [
        "Cookie: sid=1\r\n",
        "Origin: https://test:8443\r\nCookie: sid=1\r\n",
        "Origin: https://evil.example\r\n",
        "Origin: https://evil.example\r\nCookie: ours=1\r\n",
    ] {
        assert_eq!(status(&gateway, &server, fields).await, 101, "{fields}");
        assert_eq!(passed(), 0.0, "{fields}");
        assert_eq!(gateway.record("opened").await.get("holdfast.cross_origin"), None);
    }
    let fields = "Origin: https://evil.example\r\nCookie: ours=1; sid=1\r\n";
    assert_eq!(status(&gateway, &server, fields).await, 101);
    assert_eq!(passed(), 1.0);
    assert_eq!(
        gateway.record("opened").await["holdfast.cross_origin"],
        "https://evil.example"
    );
}

#[tokio::test]
async fn foreign_pages_are_refused_before_anybody_is_dialled() {
    let (server, gateway) = start(origins(
        OriginPolicy::SameOrigin,
        &["*.friends.example", "https://one.example:8443"],
    ))
    .await;
    for fields in [
        "",
        "Origin: http://test\r\n",
        "Origin: https://a.friends.example\r\nCookie: sid=1\r\n",
        "Origin: https://one.example:8443\r\n",
    ] {
        assert_eq!(status(&gateway, &server, fields).await, 101, "{fields}");
    }
    let dialled = server.dialled();
    let foreign = [
        "Origin: null\r\n",
        "Origin: https://friends.example\r\n",
        "Origin: https://one.example\r\n",
        "Origin: https://test.evil.example\r\n",
        "Origin: https://test@evil.example\r\n",
        "Origin: https://test\r\nOrigin: https://test\r\n",
        "Origin: https://test, https://evil.example\r\n",
        "Origin: \r\n",
        "Origin: \u{e9}\r\n",
    ];
    for fields in foreign {
        let answer = ask(gateway.address, handshake("/", fields)).await;
        assert_eq!((answer.status, answer.reason()), (403, Some("origin_refused")), "{fields}");
    }
    assert_eq!(server.dialled(), dialled);
    assert_eq!(
        gateway.metric("holdfast_cross_origin_handshakes_total", &["verdict=\"refused\""]),
        foreign.len() as f64
    );
    assert_eq!(gateway.record("refused").await["holdfast.cross_origin"], "null");
}

#[tokio::test]
async fn a_foreign_page_without_cookies_can_do_no_harm() {
    let (server, gateway) = start(origins(OriginPolicy::SameOriginIfCookies, &[])).await;
    for (fields, expected) in [
        ("Origin: https://evil.example\r\n", 101),
        ("Origin: https://evil.example\r\nCookie: ours=1\r\n", 101),
        ("Origin: https://evil.example\r\nCookie: ours=1\r\nCookie: sid=1\r\n", 403),
        ("Origin: https://test\r\nCookie: sid=1\r\n", 101),
        ("Cookie: sid=1\r\n", 101),
    ] {
        assert_eq!(status(&gateway, &server, fields).await, expected, "{fields}");
    }
}

#[tokio::test]
async fn origins_are_asked_of_handshakes_only_and_may_be_demanded() {
    let mut security = origins(OriginPolicy::List, &["test"]);
    security.origins.denies_missing = true;
    let (server, gateway) = start(security).await;
    assert_eq!(status(&gateway, &server, "").await, 403);
    assert_eq!(status(&gateway, &server, "Origin: https://test\r\n").await, 101);
    let mut client = Peer::connect(gateway.address).await;
    client
        .write("GET /poll HTTP/1.1\r\nHost: test\r\nOrigin: https://evil.example\r\nCookie: sid=1\r\n\r\n")
        .await;
    let mut endpoint = server.connection().await;
    assert!(
        endpoint.head().await.contains("https://evil.example"),
        "CORS is the application's"
    );
    endpoint.write("HTTP/1.1 204 No Content\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 204);
}

#[tokio::test]
async fn addresses_are_judged_as_trusted_proxies_tell_them() {
    let networks = |texts: &[&str]| texts.iter().map(|text| network(text).unwrap()).collect();
    let sources = Sources {
        allow: networks(&["203.0.113.0/24", "2001:db8::/32"]),
        deny: networks(&["203.0.113.66"]),
    };
    let (server, gateway) = start(Security {
        sources,
        ..Security::default()
    })
    .await;
    for (address, allowed) in [
        ("203.0.113.7", true),
        ("::ffff:203.0.113.7", true),
        ("2001:db8::7", true),
        ("203.0.113.66", false),
        ("::ffff:203.0.113.66", false),
        ("198.51.100.1", false),
        ("203.0.113.7, 198.51.100.1", false),
    ] {
        let fields = format!("X-Forwarded-For: {address}\r\n");
        let expected = if allowed { 101 } else { 403 };
        assert_eq!(status(&gateway, &server, &fields).await, expected, "{address}");
        let dialled = server.dialled();
        let mut client = Peer::connect(gateway.address).await;
        client.write(format!("GET / HTTP/1.1\r\nHost: test\r\n{fields}\r\n")).await;
        if allowed {
            let mut endpoint = server.connection().await;
            endpoint.head().await;
            endpoint.write("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").await;
            assert_eq!(client.answer().await.status, 204);
        } else {
            let answer = client.answer().await;
            assert_eq!((answer.status, answer.reason()), (403, Some("source_refused")), "{address}");
            assert_eq!(server.dialled(), dialled);
        }
    }
    // Nobody spoke for this client: it is the proxy itself.
    assert_eq!(status(&gateway, &server, "").await, 403);
}
