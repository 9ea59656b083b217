//! Filters: what a rule changes, as the endpoint reads it, on the 101, on the endpoint's own answers, on ours, and in plain
//! requests.

use holdfast::routing::{
    filter::{Filters, HeaderEdits, PathEdit, Redirect, Rewrite},
    forwarded::{Forwarded, Mode},
    route::{Cookie, Fallback, OnUnavailable, PersistBy, Persistence},
};
use http::{HeaderName, HeaderValue, StatusCode};

use crate::support::{
    Gateway, Peer, RuleBuilder, Server, TEXT, ask, closed_port, handshake, handshake_with, header_values, switching,
};

fn fields(fields: &[(&'static str, &'static str)]) -> Box<[(HeaderName, HeaderValue)]> {
    let field = |(name, value): &(&'static str, &'static str)| (HeaderName::from_static(name), HeaderValue::from_static(value));
    fields.iter().map(field).collect()
}

fn edits(prefix: &'static str) -> HeaderEdits {
    let name = |name| format!("x-{prefix}-{name}").parse::<HeaderName>().unwrap();
    HeaderEdits {
        remove: Box::new([name("gone")]),
        set: Box::new([(name("set"), HeaderValue::from_static("new"))]),
        add: Box::new([(name("more"), HeaderValue::from_static("added"))]),
    }
}

/// Both header filters, by names that differ.
fn both() -> Filters {
    Filters {
        request: edits("request"),
        response: edits("response"),
        ..Filters::default()
    }
}

/// Fields that meet [`edits`].
fn met(prefix: &str) -> String {
    format!("X-{prefix}-Gone: 1\r\nx-{prefix}-set: old\r\nX-{prefix}-Set: older\r\nX-{prefix}-More: first\r\n")
}

#[track_caller]
fn assert_edited(head: &str, prefix: &str, more: &[&str]) {
    assert_eq!(header_values(head, &format!("x-{prefix}-gone")), [""; 0], "{head}");
    assert_eq!(header_values(head, &format!("x-{prefix}-set")), ["new"], "{head}");
    assert_eq!(header_values(head, &format!("x-{prefix}-more")), more, "{head}");
}

async fn start(filters: Filters, change: impl FnOnce(&mut RuleBuilder)) -> (Server, Gateway) {
    let server = Server::start().await;
    let rule = RuleBuilder::to(&[server.address]).change(|rule| {
        rule.filters = Some(Box::new(filters));
        change(rule);
    });
    let gateway = Gateway::start(rule.build());
    (server, gateway)
}

fn get(path: &str, more: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: test\r\n{more}\r\n")
}

#[tokio::test]
async fn fields_change_in_the_handshake_and_on_the_101() {
    let (server, gateway) = start(both(), |_| {}).await;
    let mut client = Peer::connect(gateway.address).await;
    client.write(handshake("/", &met("request"))).await;
    let mut endpoint = server.connection().await;
    let asked = endpoint.head().await;
    assert_edited(&asked, "request", &["first", "added"]);
    assert!(asked.contains("\r\nX-Request-Set: new\r\n"), "in canonical case: {asked}");
    endpoint.write(switching(&met("response"))).await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert_edited(&head, "response", &["first", "added"]);
    assert!(head.contains("\r\nX-Response-Set: new\r\n"), "in canonical case: {head}");
    assert!(head.contains("\r\nSec-WebSocket-Accept: "), "{head}");
    endpoint.send(TEXT, "through").await;
    assert_eq!(client.frame().await.payload, b"through");
}

#[tokio::test]
async fn the_endpoint_s_own_refusal_is_filtered_even_what_it_hides_by_connection() {
    let (server, gateway) = start(both(), |_| {}).await;
    let mut client = Peer::connect(gateway.address).await;
    client.write(handshake("/", "")).await;
    let mut endpoint = server.connection().await;
    endpoint.head().await;
    let fields = met("response");
    endpoint
        .write(format!(
            "HTTP/1.1 403 Forbidden\r\nConnection: X-Response-Set\r\n{fields}Content-Length: 2\r\n\r\nno"
        ))
        .await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.text()), (403, "no"));
    assert_edited(&answer.head, "response", &["first", "added"]);
}

#[tokio::test]
async fn our_own_refusals_of_a_rule_are_filtered_and_those_before_it_are_not() {
    let rule = RuleBuilder::to(&[closed_port()]).change(|rule| {
        rule.prefix = "/chat";
        rule.filters = Some(Box::new(both()));
    });
    let gateway = Gateway::start(rule.build());
    for request in [handshake("/chat", ""), get("/chat", "")] {
        let answer = ask(gateway.address, request).await;
        assert_eq!((answer.status, answer.reason()), (502, Some("connection_refused")));
        assert_edited(&answer.head, "response", &["added"]);
    }
    let answer = ask(gateway.address, handshake("/other", "")).await;
    assert_eq!((answer.status, answer.header("x-response-set")), (404, None));
}

#[tokio::test]
async fn fields_change_in_plain_requests_and_answers() {
    let (server, gateway) = start(both(), |_| {}).await;
    let mut client = Peer::connect(gateway.address).await;
    client.write(get("/", &met("request"))).await;
    let mut endpoint = server.connection().await;
    assert_edited(&endpoint.head().await, "request", &["first", "added"]);
    let fields = met("response");
    endpoint
        .write(format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 2\r\n\r\nok"))
        .await;
    let answer = client.answer().await;
    assert_eq!(answer.text(), "ok");
    assert_edited(&answer.head, "response", &["first", "added"]);
}

fn sticky() -> Option<Persistence> {
    Some(Persistence {
        by: PersistBy::Cookie(Cookie::named("sticky")),
        on_unavailable: OnUnavailable::Repick,
    })
}

#[tokio::test]
async fn what_the_endpoint_is_asked_for_changes_and_what_the_client_sees_does_not() {
    let filters = Filters {
        rewrite: Some(Rewrite {
            host: Some(HeaderValue::from_static("inner.example.com")),
            path: Some(PathEdit::Prefix("/rooms".into())),
        }),
        response: HeaderEdits {
            remove: Box::new([HeaderName::from_static("set-cookie")]),
            ..HeaderEdits::default()
        },
        ..Filters::default()
    };
    let (server, gateway) = start(filters, |rule| {
        rule.prefix = "/chat";
        rule.persistence = sticky();
    })
    .await;
    for (path, asked_for) in [
        ("/chat/%61//b%2fc?room=7&x=%2F", "/rooms/a//b%2Fc?room=7&x=%2F"),
        ("/chat", "/rooms"),
        ("/chat/?", "/rooms/?"),
    ] {
        for request in [
            handshake_with("outer.example.com:8080", path, ""),
            get(path, "").replace("Host: test", "Host: outer.example.com:8080"),
        ] {
            let is_handshake = request.contains("Upgrade");
            let mut client = Peer::connect(gateway.address).await;
            client.write(request).await;
            let mut endpoint = server.connection().await;
            let asked = endpoint.head().await;
            assert!(asked.starts_with(&format!("GET {asked_for} HTTP/1.1\r\n")), "{asked}");
            assert_eq!(header_values(&asked, "host"), ["inner.example.com"]);
            assert_eq!(header_values(&asked, "x-forwarded-host"), ["outer.example.com:8080"]);
            let theirs = "Set-Cookie: theirs=1\r\n";
            endpoint
                .write(match is_handshake {
                    true => switching(theirs),
                    false => format!("HTTP/1.1 200 OK\r\n{theirs}Content-Length: 0\r\nConnection: close\r\n\r\n"),
                })
                .await;
            let head = client.head().await;
            let cookies = header_values(&head, "set-cookie");
            assert_eq!(cookies.len(), 1, "{head}");
            assert!(
                cookies[0].starts_with("sticky=") && cookies[0].contains("Path=/chat;"),
                "{head}"
            );
        }
    }
}

#[tokio::test]
async fn a_whole_path_is_replaced_and_the_query_stays() {
    let filters = Filters {
        rewrite: Some(Rewrite {
            host: None,
            path: Some(PathEdit::Full("/ws".into())),
        }),
        ..Filters::default()
    };
    let (server, gateway) = start(filters, |_| {}).await;
    let mut client = Peer::connect(gateway.address).await;
    client.write(handshake("/any/thing?a=/b?c", "")).await;
    let (_endpoint, asked) = server.accept().await;
    assert!(asked.starts_with("GET /ws?a=/b?c HTTP/1.1\r\n"), "{asked}");
    assert_eq!(header_values(&asked, "host"), ["test"]);
}

fn to_tls() -> Redirect {
    Redirect {
        status: StatusCode::PERMANENT_REDIRECT,
        scheme: Some("https"),
        host: None,
        port: None,
        path: None,
    }
}

#[tokio::test]
async fn plain_requests_are_redirected_and_handshakes_are_not() {
    let filters = Filters {
        redirect: Some(to_tls()),
        response: HeaderEdits {
            set: fields(&[("strict-transport-security", "max-age=1")]),
            ..HeaderEdits::default()
        },
        ..Filters::default()
    };
    let (server, gateway) = start(filters, |rule| rule.fallback = Fallback::Reject).await;
    let mut client = Peer::connect(gateway.address).await;
    for _ in 0..2 {
        client
            .write("POST /%61?b HTTP/1.1\r\nHost: Test:8080\r\nContent-Length: 2\r\n\r\nhi")
            .await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.body.len()), (308, 0));
        assert_eq!(answer.header("location"), Some("https://test/a?b"));
        assert_eq!(answer.header("strict-transport-security"), Some("max-age=1"));
        let record = gateway.record("answered").await;
        assert_eq!(record["http.response.status_code"], 308);
        assert_eq!(record["holdfast.rule.name"], "rule");
    }
    gateway
        .wait_for_metric("holdfast_fallback_requests_total", &["code=\"308\""], |count| count == 2.0)
        .await;
    client.write(handshake("/", "")).await;
    let (mut endpoint, _) = server.accept().await;
    assert!(client.head().await.starts_with("HTTP/1.1 101 "));
    endpoint.send(TEXT, "on").await;
    assert_eq!(client.frame().await.payload, b"on");
}

#[tokio::test]
async fn who_is_where_the_redirect_leads_gets_what_the_rule_says() {
    let server = Server::start().await;
    let rule = RuleBuilder::to(&[server.address]).change(|rule| {
        rule.filters = Some(Box::new(Filters {
            redirect: Some(to_tls()),
            ..Filters::default()
        }));
    });
    let gateway = Gateway::with(rule.build(), |settings| {
        settings.trust.proxies = vec!["127.0.0.1/32".parse().unwrap()];
    });
    let mut client = Peer::connect(gateway.address).await;
    client.write(get("/x", "X-Forwarded-Proto: https\r\n")).await;
    let mut endpoint = server.connection().await;
    assert!(endpoint.head().await.starts_with("GET /x "));
    endpoint.write("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 200);
    client.write(get("/x", "X-Forwarded-Proto: http\r\n")).await;
    assert_eq!(client.answer().await.header("location"), Some("https://test/x"));
    client.write(get("/x?q=ä", "X-Forwarded-Proto: http\r\n")).await;
    assert_eq!(client.answer().await.header("location"), Some("https://test/x?q=%C3%A4"));
}

#[tokio::test]
async fn a_route_says_how_endpoints_are_told_of_the_client() {
    let by = Forwarded {
        x_forwarded_for: Mode::Replace,
        x_real_ip: false,
        forwarded: Mode::Append,
    };
    let server = Server::start().await;
    let rule = RuleBuilder::to(&[server.address]).change(|rule| rule.forwarded = by);
    let claims = "X-Forwarded-For: 203.0.113.7\r\nForwarded: for=\"[2001:db8::1]\"\r\nX-Real-IP: 203.0.113.7\r\n";
    for (trusted, chain, forwarded, real) in [
        (
            true,
            "203.0.113.7",
            "for=\"[2001:db8::1]\", for=127.0.0.1;host=test;proto=http",
            &["203.0.113.7"][..],
        ),
        (false, "127.0.0.1", "for=127.0.0.1;host=test;proto=http", &[]),
    ] {
        let rules = RuleBuilder {
            cell: rule.cell.clone(),
            ..RuleBuilder::to(&[]).change(|rule| rule.forwarded = by)
        };
        let gateway = Gateway::with(rules.build(), |settings| {
            settings.trust.proxies = trusted.then(|| "127.0.0.1/32".parse().unwrap()).into_iter().collect();
        });
        for request in [handshake("/", claims), get("/", claims)] {
            let mut client = Peer::connect(gateway.address).await;
            client.write(request).await;
            let mut endpoint = server.connection().await;
            let asked = endpoint.head().await;
            assert_eq!(header_values(&asked, "x-forwarded-for"), [chain], "{asked}");
            assert_eq!(header_values(&asked, "forwarded"), [forwarded], "{asked}");
            assert_eq!(header_values(&asked, "x-real-ip"), real, "{asked}");
        }
    }
}
