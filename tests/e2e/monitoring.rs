//! What the chart gives a Prometheus and a Grafana, with a real Prometheus that scrapes what the chart installs.

use std::{net::Ipv4Addr, process::Stdio, time::Duration};

use k8s_openapi::api::core::v1::{ConfigMap, ContainerPort, Pod};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    process::{Child, Command},
};

use crate::{
    cluster::{Cluster, on_the_cluster},
    echo,
    release::Release,
    support::{BINARY, Peer},
    wait::{until, within},
};

/// Every query of the dashboards, and every alert, is asked of a Prometheus that has scraped the pods the way the Prometheus
/// Operator has it scrape them by the PodMonitor. None is an error, and each shows something, unless it is about what has not
/// happened here.
#[test]
fn dashboards_and_alerts_have_something_to_show() {
    on_the_cluster(async |cluster| {
        let namespace = cluster.namespace("monitoring").await;
        let values = ["monitoring.dashboards.enabled=true", "defaults.heartbeat.client.interval=1s"];
        let release = Release::install(cluster, "monitoring", &values).await;
        echo::start(cluster, &release).await;
        cluster.apply(&secure()).await;
        let prometheus = Prometheus::start(cluster, &release).await;
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            clients.push(use_a_tunnel(&release).await);
        }
        for _ in 0..CLIENTS {
            let mut plain = Peer::connect(release.pick().expect("somebody is ready")).await;
            plain
                .write(format!(
                    "GET / HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
                    echo::host("monitoring")
                ))
                .await;
            assert_eq!(plain.answer().await.status, 200);
        }
        for mut client in clients.split_off(CLIENTS / 2) {
            client.close(1000).await;
            while client.try_frame().await.is_some() {}
        }

        let mut queries = Vec::new();
        for dashboard in ["operator", "route"] {
            queries.extend(of_dashboard(cluster, &release, dashboard).await);
        }
        assert!(queries.len() > 50, "{} queries", queries.len());
        // Of a series that is new, a rate needs a second scrape.
        within(SCRAPED, "every query shows something", async || {
            let mut wrong = Vec::new();
            for (of, query) in &queries {
                match prometheus.ask(query).await {
                    Ok(shown) if shown > 0 || MAY_BE_EMPTY.iter().any(|title| of.ends_with(title)) => {}
                    Ok(_) => wrong.push(format!("{of}: nothing: {query}")),
                    Err(error) => wrong.push(format!("{of}: {error}: {query}")),
                }
            }
            if wrong.is_empty() { Ok(()) } else { Err(wrong) }
        })
        .await;
        prometheus.has_evaluated_every_alert().await;
        drop(clients);
        release.uninstall().await;
        namespace.delete().await;
    });
}

/// A route with a certificate, which is on the dashboard until it expires.
fn secure() -> String {
    let made = rcgen::generate_simple_self_signed(["secure.example.com".to_owned()]).unwrap();
    let secret = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/tls",
        "metadata": {"name": "secure", "namespace": "monitoring"},
        "stringData": {"tls.crt": made.cert.pem(), "tls.key": made.signing_key.serialize_pem()},
    });
    let route = json!({
        "apiVersion": "holdfast.dev/v1alpha1",
        "kind": "WebSocketRoute",
        "metadata": {"name": "secure", "namespace": "monitoring"},
        "spec": {
            "className": "monitoring",
            "hostnames": ["secure.example.com"],
            "tls": [{"secretName": "secure"}],
            "rules": [{"backendRefs": [{"name": "echo", "port": 80}]}],
        },
    });
    format!("{secret}\n---\n{route}\n")
}

async fn use_a_tunnel(release: &Release<'_>) -> Peer {
    let mut peer = until("a tunnel", async || echo::open(release).await).await;
    peer.send(BINARY, b"hello").await;
    assert_eq!(peer.frame().await.payload, b"hello");
    peer
}

/// The queries of a dashboard as the cluster has it, with what Grafana puts in, and where each is.
async fn of_dashboard(cluster: &Cluster, release: &Release<'_>, name: &str) -> Vec<(String, String)> {
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client().await, &release.namespace);
    let map = maps.get(&format!("holdfast-dashboard-{name}")).await.unwrap();
    let text = map.data.unwrap().into_values().next().unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let panels = list(&dashboard["panels"]).into_iter().flat_map(|panel| {
        let targets = list(&panel["targets"]);
        targets
            .into_iter()
            .map(move |target| (panel["title"].clone(), target["expr"].clone()))
    });
    let annotations = list(&dashboard["annotations"]["list"])
        .into_iter()
        .map(|mark| (mark["name"].clone(), mark["expr"].clone()));
    let variables = list(&dashboard["templating"]["list"])
        .into_iter()
        .filter(|variable| variable["type"] == "query")
        .map(|variable| {
            let asked = variable["definition"].as_str().unwrap();
            let (series, label) = asked.strip_prefix("label_values(").unwrap().rsplit_once(", ").unwrap();
            (
                variable["name"].clone(),
                json!(format!("sum by ({}) ({series})", label.trim_end_matches(')'))),
            )
        });
    let all = panels.chain(annotations).chain(variables);
    all.map(|(title, query)| {
        let put_in = [
            ("$__rate_interval", "5s"),
            ("$__range", "1m"),
            ("$route_namespace", &release.namespace),
            ("$namespace", &release.namespace),
            ("$pod", ".*"),
            ("$route", if name == "route" { "echo" } else { ".*" }),
        ];
        let query = query.as_str().unwrap().to_owned();
        let query = put_in
            .iter()
            .fold(query, |query, (variable, value)| query.replace(variable, value));
        assert!(!query.contains('$'), "{query}");
        (format!("{name}: {}", title.as_str().unwrap()), query)
    })
    .collect()
}

/// A Prometheus outside of every pod.
struct Prometheus {
    _process: Child,
}

impl Prometheus {
    /// Starts one, which scrapes the pods of the release every second, and evaluates the alerts of the chart.
    async fn start(cluster: &Cluster, release: &Release<'_>) -> Self {
        let dir = cluster.dir().join("prometheus");
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("rules.yaml"), rules(cluster, release).await.to_string()).unwrap();
        let namespace = &release.namespace;
        // What the operator makes of the PodMonitor. Debian's Prometheus cannot look for pods itself.
        let targets: Vec<Value> = release.pods().await.iter().flat_map(targets).collect();
        let config = json!({
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": ["rules.yaml"],
            "scrape_configs": [{"job_name": format!("podMonitor/{namespace}/holdfast/0"), "static_configs": targets}],
        });
        std::fs::write(dir.join("prometheus.yaml"), config.to_string()).unwrap();
        let mut command = Command::new("prometheus");
        command.arg(format!("--config.file={}", dir.join("prometheus.yaml").display()));
        command.arg(format!("--storage.tsdb.path={}", dir.join("data").display()));
        command.arg(format!("--web.listen-address={}:{PORT}", Ipv4Addr::LOCALHOST));
        let log = std::fs::File::create(dir.join("log")).unwrap();
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true);
        let process = command.spawn().expect("no prometheus (Debian: prometheus)");
        let prometheus = Self { _process: process };
        until("Prometheus scrapes both pods", async || {
            match prometheus.ask("count(up == 1)").await {
                Ok(1) if prometheus.ask("count(up == 1) == 2").await == Ok(1) => Ok(()),
                other => Err((other, std::fs::read_to_string(dir.join("log")))),
            }
        })
        .await;
        prometheus
    }

    /// How many series a query has as its answer.
    async fn ask(&self, query: &str) -> Result<usize, String> {
        let answer = get(&format!("/api/v1/query?query={}", encoded(query))).await?;
        if answer["status"] != "success" {
            return Err(answer.to_string());
        }
        Ok(answer["data"]["result"].as_array().map_or(0, Vec::len))
    }

    /// Panics if one has failed.
    async fn has_evaluated_every_alert(&self) {
        until("every alert is evaluated", async || {
            let answer = get("/api/v1/rules").await?;
            let rules = answer["data"]["groups"][0]["rules"].as_array().cloned().unwrap_or_default();
            let wrong: Vec<_> = rules.iter().filter(|rule| rule["health"] != "ok").cloned().collect();
            if rules.len() > 10 && wrong.is_empty() {
                Ok(())
            } else {
                Err(json!(wrong).to_string())
            }
        })
        .await;
    }
}

/// Where a pod's metrics are, and what the operator has Prometheus add to them.
fn targets(pod: &Pod) -> Vec<Value> {
    let namespace = pod.namespace().unwrap();
    let ip = pod.status.as_ref().and_then(|status| status.pod_ip.clone()).unwrap();
    let containers = pod.spec.as_ref().map(|spec| spec.containers.as_slice()).unwrap_or_default();
    let ports = containers
        .iter()
        .flat_map(|container| container.ports.iter().flatten().map(|port| (&container.name, port)));
    let scraped = ports.filter(|(_, port)| port.name.as_deref() == Some("admin"));
    let target = |(container, port): (&String, &ContainerPort)| {
        json!({
            "targets": [format!("{ip}:{}", port.container_port)],
            "labels": {
                "namespace": namespace, "pod": pod.name_any(), "container": container,
                "job": format!("{namespace}/holdfast"), "endpoint": "admin",
            },
        })
    };
    scraped.map(target).collect()
}

/// The alerts of the chart for this release.
async fn rules(cluster: &Cluster, release: &Release<'_>) -> Value {
    let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/charts/holdfast");
    let args = [
        "template",
        "holdfast",
        chart,
        "--namespace",
        &release.namespace,
        "--show-only=templates/rules.yaml",
        "--set=monitoring.rules.enabled=true",
    ];
    let rule: Value = serde_saphyr::from_str(&cluster.helm(&args).await).unwrap();
    rule["spec"].clone()
}

async fn get(path: &str) -> Result<Value, String> {
    let exchange = async {
        let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, PORT)).await?;
        socket.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer = exchange.await.map_err(|error| error.to_string())?;
    let body = answer.split_once("\r\n\r\n").ok_or("no answer")?.1;
    serde_json::from_str(body).map_err(|error| format!("{error}: {body}"))
}

/// For a query in a URL.
fn encoded(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}

const PORT: u16 = 9090;
const CLIENTS: usize = 10;
/// How long it may take until every query shows something.
const SCRAPED: Duration = Duration::from_secs(30);
/// Panels about what does not happen in this test.
const MAY_BE_EMPTY: [&str; 10] = [
    "Refused by limits",
    "Limits inside tunnels",
    "Sides that are held back",
    "Handshakes of foreign pages",
    "Ejections",
    "Ended by drains, and new tunnels",
    "Dials that failed",
    "Dials without a source port",
    "Endpoints that are left out",
    "Handshakes sent to one more endpoint",
];
