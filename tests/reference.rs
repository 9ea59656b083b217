//! docs/reference.md says what the program does: it is written by it, and what it lists is what a running process shows.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "continuity/folder.rs"]
#[allow(dead_code, reason = "shared with the continuity tests, which use all of it")]
mod folder;
#[path = "continuity/process.rs"]
#[allow(dead_code, reason = "shared with the continuity tests, which use all of it")]
mod process;
#[path = "integration/support.rs"]
#[allow(dead_code, reason = "shared with the integration tests, which use all of it")]
mod support;
#[path = "integration/tls_client.rs"]
#[allow(dead_code, reason = "shared with the integration tests, which use all of it")]
mod tls_client;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::Command,
};

use holdfast::{
    cli::reference::{FIELDS, Field, metrics},
    proxy::end::Cause,
    telemetry::metric::Name,
};
use prometheus::proto::MetricType;
use rustix::process::Signal;
use tokio::io::AsyncWriteExt;

use folder::{Folder, route, service_at};
use process::{Holdfast, eventually};
use support::{BINARY, CLOSE, PING, PONG, Peer, Server, TEXT, ask, handshake, switching};

#[test]
fn the_reference_is_what_the_program_says() {
    let output = Command::new(env!("CARGO_BIN_EXE_holdfast"))
        .arg("reference")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/reference.md");
    assert_eq!(fs::read_to_string(path).unwrap(), said, "run make generate");
}

#[test]
fn names_of_metrics_keep_to_the_rules() {
    let all = metrics();
    let names: BTreeSet<_> = all.iter().map(|metric| metric.name).collect();
    assert_eq!(names.len(), all.len(), "a name is there twice");
    for Name { name, kind, help, .. } in &all {
        assert!(name.starts_with("holdfast_") || name.starts_with("process_"), "{name}");
        assert_eq!(name.ends_with("_total"), *kind == MetricType::COUNTER, "{name}");
        assert_eq!(
            name.contains("duration") || name.contains("rtt"),
            *kind == MetricType::HISTOGRAM,
            "{name}"
        );
        assert!(help.ends_with('.'), "{name}: {help}");
    }
    // The Prometheus Operator sets these itself, and would rename ours to exported_...
    let taken = [
        "namespace",
        "pod",
        "service",
        "endpoint",
        "container",
        "job",
        "instance",
        "node",
    ];
    for metric in &all {
        assert!(metric.label_names().iter().all(|label| !taken.contains(label)), "{metric:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scrape_has_every_metric_of_the_reference_and_no_other() {
    let scene = Scene::start("text").await;
    scene.play().await;
    let answer = ask(
        scene.holdfast.admin,
        "GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    )
    .await;
    let scrape = answer.text();
    let known: BTreeMap<&str, Name> = metrics().into_iter().map(|metric| (metric.name, metric)).collect();

    let types: BTreeMap<&str, &str> = declared(scrape, "TYPE");
    let helps: BTreeMap<&str, &str> = declared(scrape, "HELP");
    let expected: BTreeSet<_> = known.keys().copied().collect();
    assert_eq!(types.keys().copied().collect::<BTreeSet<_>>(), expected);
    for (name, metric) in &known {
        assert_eq!(types[name], format!("{:?}", metric.kind).to_lowercase(), "{name}");
        assert_eq!(helps[name], metric.help, "{name}");
    }
    let mut ends = 0;
    for line in scrape.lines().filter(|line| !line.starts_with('#')) {
        let series = line.rsplit_once(' ').unwrap().0;
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let family = ["_bucket", "_sum", "_count"].iter().find_map(|part| name.strip_suffix(part));
        let metric = known
            .get(name)
            .or_else(|| known.get(family?))
            .unwrap_or_else(|| panic!("{line}"));
        let labels: BTreeMap<&str, &str> = labels
            .trim_end_matches('}')
            .split(',')
            .filter_map(|pair| pair.split_once('='))
            .map(|(label, value)| (label, value.trim_matches('"')))
            .collect();
        let mut wanted: BTreeSet<_> = metric.label_names().into_iter().collect();
        wanted.extend(name.ends_with("_bucket").then_some("le"));
        assert_eq!(labels.keys().copied().collect::<BTreeSet<_>>(), wanted, "{line}");
        if name == "holdfast_ends_total" {
            let cause = Cause::ALL.into_iter().find(|cause| cause.word() == labels["cause"]).unwrap();
            let initiators = cause.initiators().iter().map(|initiator| initiator.word());
            assert!(
                initiators.into_iter().any(|initiator| initiator == labels["initiator"]),
                "{line}"
            );
            ends += 1;
        }
    }
    assert!(ends >= 2, "two causes were produced");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn access_lines_have_the_fields_of_the_reference_in_json() {
    let lines = Scene::start("json").await.lines().await;
    let mut seen = BTreeSet::new();
    for line in lines.lines() {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        let event = value["event.name"].as_str().unwrap().rsplit('.').next().unwrap();
        for key in value.as_object().unwrap().keys() {
            seen.insert((event.to_owned(), key.clone()));
        }
    }
    assert_eq!(seen, documented(|field| field.json));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn access_lines_have_the_fields_of_the_reference_in_text() {
    let lines = Scene::start("text").await.lines().await;
    let mut seen = BTreeSet::new();
    for line in lines.lines() {
        let mut words = line.split_whitespace().skip(1);
        let event = words.next().unwrap();
        for word in words {
            let (key, _) = word.split_once('=').unwrap_or_else(|| panic!("{word} in {line}"));
            seen.insert((event.to_owned(), key.to_owned()));
        }
    }
    assert_eq!(seen, documented(|field| field.text));
}

/// What each event's lines can have, by the reference.
fn documented(name: impl Fn(&Field) -> &'static str) -> BTreeSet<(String, String)> {
    let of = |field: &'static Field| field.events.split(", ").map(move |event| (event, field));
    FIELDS
        .iter()
        .flat_map(of)
        .map(|(event, field)| (event.to_owned(), name(field).to_owned()))
        .filter(|(_, name)| !name.is_empty())
        .collect()
}

/// What `# WORD NAME ...` says of each metric.
fn declared<'a>(scrape: &'a str, word: &str) -> BTreeMap<&'a str, &'a str> {
    let of_word = |line: &'a str| {
        line.strip_prefix("# ")?
            .strip_prefix(word)?
            .strip_prefix(' ')?
            .split_once(' ')
    };
    scrape.lines().filter_map(of_word).collect()
}

/// A process, and an endpoint that a test plays.
struct Scene {
    holdfast: Holdfast,
    folder: Folder,
    server: Server,
    /// The endpoints of Service pair.
    pair: [Server; 2],
    /// Of secured.test.
    made: tls_client::Made,
}

impl Scene {
    async fn start(format: &str) -> Self {
        let server = Server::start().await;
        let folder = Folder::new();
        let policies = "  heartbeat:\n    client: {interval: 1s}\n  \
                        limits: {maxHeaderBytes: 256, tunnel: {fromClient: {maxMessageBytes: 1}}, dryRun: true}\n";
        folder.write("chat.yaml", route("chat", "/chat", "chat", policies));
        folder.write("service.yaml", service_at("chat", server.address));
        folder.write(
            "secured.yaml",
            route(
                "secured",
                "/",
                "chat",
                "  hostnames: [secured.test]\n  tls: [{secretName: secured}]\n",
            ),
        );
        let pair = [Server::start().await, Server::start().await];
        let policies = "  retry: {codes: [503]}\n  health: {passive: {failures: 2}}\n";
        folder.write("pair.yaml", route("pair", "/pair", "pair", policies));
        folder.write("pair-service.yaml", service_of("pair", &pair));
        let made = tls_client::made("secured", &["secured.test"]);
        folder.write("secret.yaml", secret(&made));
        let out = fs::File::create(folder.at(LINES)).unwrap();
        let more = [
            "--log-format",
            format,
            "--trusted-proxies",
            "127.0.0.1",
            "--https",
            "127.0.0.1:0",
        ];
        let holdfast = Holdfast::writing_to(out.into(), folder.path(), &more).await;
        Self {
            holdfast,
            folder,
            server,
            pair,
            made,
        }
    }

    /// The access lines of a process that has seen everything and has ended.
    async fn lines(mut self) -> String {
        self.play().await;
        self.holdfast.signal(Signal::INT);
        assert_eq!(self.holdfast.exit_code().await, 0);
        fs::read_to_string(self.folder.at(LINES)).unwrap()
    }

    /// One of each: a tunnel that was pinged and closed, one that was cut inside a frame, refusals, a plain request.
    async fn play(&self) {
        self.close_a_tunnel().await;
        self.cut_a_tunnel().await;
        let plain = format!("GET /chat HTTP/1.1\r\nHost: test\r\nConnection: close\r\n{MORE}\r\n");
        for (request, status) in [(handshake("/chat", MORE), 403), (plain, 200)] {
            let mut client = Peer::connect(self.holdfast.http).await;
            client.write(request).await;
            let mut endpoint = self.server.connection().await;
            endpoint.head().await;
            endpoint
                .write(format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n"))
                .await;
            assert_eq!(client.answer().await.status, status);
        }
        self.break_answers_off().await;
        assert_eq!(ask(self.holdfast.http, handshake("/nowhere", MORE)).await.status, 404);
        self.come_with_tls().await;
        self.fail_twice().await;
        eventually("all tunnels have ended", async || {
            self.holdfast.metric("holdfast_ends_total", &[]).await == 4.0
        })
        .await;
    }

    /// A plain request, a refusal and a tunnel, with TLS.
    async fn come_with_tls(&self) {
        let host = "secured.test";
        let upgrade = support::handshake_with(host, "/", "");
        let plain = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        for (request, status) in [(&plain, 200), (&upgrade, 403), (&upgrade, 101)] {
            let config = tls_client::client_config(&self.made.root, &[&rustls::version::TLS13]);
            let mut client = tls_client::connect_to(self.holdfast.https.unwrap(), host, config)
                .await
                .unwrap();
            client.write_all(request.as_bytes()).await.unwrap();
            let mut endpoint = self.server.connection().await;
            endpoint.head().await;
            endpoint
                .write(match status {
                    101 => switching(""),
                    _ => format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n"),
                })
                .await;
            assert!(
                tls_client::head(&mut client)
                    .await
                    .starts_with(&format!("HTTP/1.1 {status} "))
            );
        }
    }

    /// A handshake that the second endpoint takes, and one that neither takes: then the first one is out.
    async fn fail_twice(&self) {
        for last in [101, 503] {
            let mut client = Peer::connect(self.holdfast.http).await;
            client.write(handshake("/pair", MORE)).await;
            for status in [503, last] {
                let mut endpoint = tokio::select! {
                    endpoint = self.pair[0].connection() => endpoint,
                    endpoint = self.pair[1].connection() => endpoint,
                };
                endpoint.head().await;
                endpoint
                    .write(match status {
                        101 => switching("Sec-WebSocket-Protocol: chat\r\n"),
                        _ => format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n"),
                    })
                    .await;
                if status == 101 {
                    assert!(client.head().await.starts_with("HTTP/1.1 101 "));
                    client.close(1000).await;
                    endpoint.frame().await;
                    endpoint.close(1000).await;
                    client.frame().await;
                }
            }
            if last != 101 {
                assert_eq!(client.answer().await.status, last);
            }
        }
    }

    /// Answers of which the endpoint sends less than it says.
    async fn break_answers_off(&self) {
        for request in [
            handshake("/chat", MORE),
            format!("GET /chat HTTP/1.1\r\nHost: test\r\n{MORE}\r\n"),
        ] {
            let mut client = Peer::connect(self.holdfast.http).await;
            client.write(request).await;
            let mut endpoint = self.server.connection().await;
            endpoint.head().await;
            endpoint.write("HTTP/1.1 403 X\r\nContent-Length: 9\r\n\r\nless").await;
            drop(endpoint);
            client.ending().await;
        }
    }

    async fn close_a_tunnel(&self) {
        let (mut client, mut endpoint) = self.tunnel().await;
        client.send(TEXT, "message").await;
        endpoint.frame().await;
        let ping = client.frame().await;
        assert_eq!(ping.opcode(), PING);
        client.send(0x80 | PONG, &ping.payload).await;
        client.close(1000).await;
        assert_eq!(endpoint.frame().await.opcode(), CLOSE);
        endpoint.close(1000).await;
        client.frame().await;
    }

    async fn cut_a_tunnel(&self) {
        let (mut client, mut endpoint) = self.tunnel().await;
        endpoint.write([BINARY, 100, 0]).await;
        client.bytes(3).await;
        drop(endpoint);
        client.rest().await;
    }

    async fn tunnel(&self) -> (Peer, Peer) {
        let mut client = Peer::connect(self.holdfast.http).await;
        client.write(handshake("/chat", MORE)).await;
        let mut endpoint = self.server.connection().await;
        endpoint.head().await;
        endpoint.write(switching("Sec-WebSocket-Protocol: chat\r\n")).await;
        client.head().await;
        (client, endpoint)
    }
}

/// A Service with several endpoints.
fn service_of(name: &str, servers: &[Server]) -> String {
    let mut objects = format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: 80}}]}}\n");
    for (index, server) in servers.iter().enumerate() {
        let port = server.address.port();
        objects += &format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: {name}-{index}, labels: {{kubernetes.io/service-name: {name}}}}}\naddressType: IPv4\n\
             ports: [{{port: {port}}}]\nendpoints: [{{addresses: [127.0.0.1]}}]\n"
        );
    }
    objects
}

/// A Secret with a certificate.
fn secret(made: &tls_client::Made) -> String {
    let secret = serde_json::json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": {"name": "secured"},
        "stringData": {"tls.crt": made.chain, "tls.key": made.key},
    });
    secret.to_string()
}

/// Header lines of every request: each fills a field. They are more than the route would let pass, were its limits no dry run.
const MORE: &str = "User-Agent: test\r\nX-Forwarded-For: 192.0.2.1\r\nSec-WebSocket-Protocol: chat\r\nOrigin: https://foreign.test\r\nCookie: \
    a=xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\
    xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\n";

/// Where the access lines go; no manifest.
const LINES: &str = "lines.txt";
