//! `/routes` of the live listener: what is judged, what is served and what is counted of each route, by a real process.

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use holdfast::routing::health::Failure;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::{
    process::Holdfast,
    support::{Answer, PATIENCE, Peer, Server, ask, closed_port, handshake_with},
    tls_client::made,
};

/// A folder of manifests, gone at the end.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("holdfast-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// Writes a file as a whole, so that nobody reads half of it.
    pub fn write(&self, file: &str, text: &str) {
        let next = self.0.join(file).with_extension("tmp");
        fs::write(&next, text).unwrap();
        fs::rename(&next, self.0.join(file)).unwrap();
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A route as YAML; `spec` are lines without indentation.
pub fn route(namespace: &str, name: &str, spec: &str) -> String {
    let spec: String = spec.lines().map(|line| format!("  {line}\n")).collect();
    format!(
        "apiVersion: holdfast.dev/v1alpha1\nkind: WebSocketRoute\n\
         metadata: {{namespace: {namespace}, name: {name}}}\nspec:\n{spec}---\n"
    )
}

/// A Service with these endpoints, each by its conditions: `ready: true`.
pub fn service(namespace: &str, name: &str, endpoints: &[(SocketAddr, &str, &str)]) -> String {
    let mut text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{namespace: {namespace}, name: {name}}}\n\
         spec: {{ports: [{{port: 80}}]}}\n---\n"
    );
    for (address, pod, conditions) in endpoints {
        text.push_str(&format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{namespace: {namespace}, name: {name}-{pod}, labels: {{kubernetes.io/service-name: {name}}}}}\n\
             addressType: IPv4\nports: [{{port: {}}}]\n\
             endpoints: [{{addresses: [{}], conditions: {{{conditions}}}, targetRef: {{kind: Pod, name: {pod}, uid: {pod}}}}}]\n---\n",
            address.port(),
            address.ip(),
        ));
    }
    text
}

/// A document of the live listener.
pub async fn live(holdfast: &Holdfast, path: &str) -> Value {
    let answer = ask_live(holdfast, path).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    serde_json::from_str(answer.text()).unwrap()
}

pub async fn ask_live(holdfast: &Holdfast, path: &str) -> Answer {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", holdfast.live);
    ask(holdfast.live, request).await
}

/// Waits until the document is as wanted.
pub async fn until(holdfast: &Holdfast, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let started = Instant::now();
    loop {
        let document = live(holdfast, path).await;
        if wanted(&document) {
            return document;
        }
        assert!(started.elapsed() < PATIENCE, "{document:#}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// The status of a handshake whose connection ends then.
pub async fn status(holdfast: &Holdfast, host: &str, path: &str) -> u16 {
    let mut client = Peer::connect(holdfast.http).await;
    client.write(handshake_with(host, path, "")).await;
    client.head().await.split(' ').nth(1).unwrap().parse().unwrap()
}

/// What of a condition is compared: type, status, reason.
fn conditions(route: &Value) -> Vec<String> {
    let conditions = route["conditions"].as_array().unwrap().iter();
    let words = conditions.map(|condition| {
        let word = |key: &str| condition[key].as_str().unwrap().to_owned();
        format!("{}={} {}", word("type"), word("status"), word("reason"))
    });
    words.collect()
}

#[tokio::test]
async fn each_route_says_what_became_of_it() {
    let folder = Folder::new("routes");
    let rule = "rules: [{backendRefs: [{name: chat, port: 80}]}]";
    folder.write(
        "routes.yaml",
        &[
            route("a", "first", &format!("hostnames: [chat.example.com]\n{rule}")),
            route("b", "second", &format!("hostnames: [chat.example.com]\n{rule}")),
            route(
                "a",
                "third",
                "hostnames: [other.example.com]\nrules: [{backendRefs: [{name: none, port: 80}]}]",
            ),
            service("a", "chat", &[]),
        ]
        .concat(),
    );
    let holdfast = Holdfast::start_folder(&folder.0, &[]).await;
    let all = live(&holdfast, "/routes").await;
    assert_eq!(
        [
            &all["version"],
            &all["total"],
            &all["rejected"],
            &all["warnings"],
            &all["omitted"]
        ],
        [&json!(1), &json!(3), &json!(1), &json!(1), &json!(0)]
    );
    let routes = all["routes"].as_array().unwrap();
    assert_eq!(
        conditions(&routes[0]),
        [
            "Accepted=True Accepted",
            "ResolvedRefs=True ResolvedRefs",
            "Programmed=True Programmed"
        ]
    );
    assert_eq!(
        conditions(&routes[1])[..2],
        ["Accepted=True Accepted", "ResolvedRefs=False BackendNotFound"]
    );
    assert_eq!(routes[1]["rules"][0]["backends"][0]["resolved"], false);
    let second = &routes[2];
    assert_eq!(second["holdfast.route.namespace"], "b");
    assert_eq!((&second["accepted"], &second["rules"]), (&json!(false), &json!([])));
    assert_eq!(
        [conditions(second)[0].as_str(), conditions(second)[2].as_str()],
        ["Accepted=False HostnameConflict", "Programmed=False Invalid"]
    );
    let message = second["conditions"][0]["message"].as_str().unwrap();
    assert!(message.contains("owned by namespace a (WebSocketRoute a/first)"), "{message}");

    // One by name, some by what they say, some of many.
    let names = |document: &Value| -> Vec<String> {
        let routes = document["routes"].as_array().unwrap().iter();
        routes
            .map(|route| route["holdfast.route.name"].as_str().unwrap().to_owned())
            .collect()
    };
    let one = live(&holdfast, "/routes?route=b/second").await;
    assert_eq!(names(&one), ["second"]);
    assert!(
        one["routes"][0]["policy"]
            .as_array()
            .unwrap()
            .iter()
            .any(|value| value["origin"] == "built-in")
    );
    assert_eq!(
        names(&live(&holdfast, "/routes?search=CHAT.example").await),
        ["first", "second"]
    );
    assert_eq!(names(&live(&holdfast, "/routes?search=hostnameconflict").await), ["second"]);
    let some = live(&holdfast, "/routes?limit=1").await;
    assert_eq!((names(&some), &some["omitted"]), (vec!["first".to_owned()], &json!(2)));
    assert_eq!(ask_live(&holdfast, "/routes?route=second").await.status, 400);

    // What is put right is told at once.
    folder.write(
        "routes.yaml",
        &route("b", "second", "rules: [{backendRefs: [{name: chat, port: 80}]}]"),
    );
    until(&holdfast, "/routes", |all| all["rejected"] == 0 && all["total"] == 1).await;
}

#[tokio::test]
async fn each_endpoint_has_its_state_and_each_rule_its_counts() {
    let (server, dead) = (Server::start().await, closed_port());
    let folder = Folder::new("routes-endpoints");
    let spec = "hostnames: [chat.example.com]\n\
                loadBalancing: {algorithm: RoundRobin}\n\
                health: {passive: {failures: 1, baseEjectionTime: 1h, maxEjectionTime: 1h}}\n\
                limits: {maxConnections: 2, maxConnectionsPerEndpoint: 40}\n\
                rules: [{name: chat, matches: [{path: {value: /chat}}], backendRefs: [{name: chat, port: 80}]}]";
    let leaving = (
        "127.0.0.9:1".parse().unwrap(),
        "chat-2",
        "ready: false, serving: true, terminating: true",
    );
    let well = (server.address, "chat-0", "ready: true");
    let endpoints = [well, (dead, "chat-1", "ready: true"), leaving];
    let write = |endpoints: &[(SocketAddr, &str, &str)]| {
        folder.write(
            "chat.yaml",
            &[route("a", "chat", spec), service("a", "chat", endpoints)].concat(),
        );
    };
    write(&endpoints);
    let holdfast = Holdfast::start_folder(&folder.0, &[]).await;
    let rule = |document: &Value| document["routes"][0]["rules"][0].clone();
    let state = |document: &Value, pod: &str| {
        let endpoints = rule(document)["backends"][0]["endpoints"].as_array().unwrap().clone();
        endpoints
            .into_iter()
            .find(|endpoint| endpoint["holdfast.endpoint.pod"] == pod)
    };

    let (mut clients, mut peers) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        let mut client = Peer::connect(holdfast.http).await;
        client.write(handshake_with("chat.example.com", "/chat", "")).await;
        let (peer, _) = server.accept().await;
        assert!(client.head().await.starts_with("HTTP/1.1 101 "));
        clients.push(client);
        peers.push(peer);
    }
    assert_eq!(
        status(&holdfast, "chat.example.com", "/chat").await,
        503,
        "there are two already"
    );
    assert_eq!(status(&holdfast, "chat.example.com", "/other").await, 404);

    let all = until(&holdfast, "/routes", |all| rule(all)["handshakes"]["503"] == 1).await;
    let ejected = state(&all, "chat-1").unwrap();
    assert_eq!(
        (&ejected["state"], &ejected["ejected_for"]),
        (&json!("ejected"), &json!(Failure::ConnectionRefused.word()))
    );
    let left = ejected["ejected_seconds_left"].as_f64().unwrap();
    assert!((3000.0..=3600.0).contains(&left), "{left}");
    assert!(ejected["ejected_until"].as_str().unwrap().ends_with('Z'));
    let well = state(&all, "chat-0").unwrap();
    assert_eq!((&well["state"], &well["open"]), (&json!("ready"), &json!(2)));
    assert_eq!(well["destination.address"], server.address.to_string());
    assert_eq!(state(&all, "chat-2").unwrap()["state"], "terminating");
    let rule_now = rule(&all);
    assert_eq!(rule_now["matches"], json!(["PathPrefix /chat"]));
    assert_eq!(rule_now["handshakes"], json!({"101": 2, "503": 1}));
    assert_eq!(rule_now["refusals"], json!({"connection_limit": 1}));
    assert_eq!((&rule_now["open"], &all["routes"][0]["open"]), (&json!(2), &json!(2)));
    assert_eq!(all["unrouted"]["handshakes"], json!({"404": 1}));
    assert_eq!(
        all["routes"][0]["limits"],
        json!([
            {"limit": "max_connections", "used": 2, "allowed": 2, "dry_run": false, "refused": 1},
            {"limit": "max_connections_per_endpoint", "used": 2, "allowed": 40, "dry_run": false, "refused": 0},
        ])
    );

    // An endpoint that is gone is told of for as long as it has tunnels.
    write(&endpoints[1..]);
    let all = until(&holdfast, "/routes", |all| {
        state(all, "chat-0").is_some_and(|gone| gone["state"] == "gone")
    })
    .await;
    assert_eq!(state(&all, "chat-0").unwrap()["open"], 2);
    for client in &mut clients {
        client.close(1000).await;
    }
    drop((clients, peers));
    let all = until(&holdfast, "/routes", |all| state(all, "chat-0").is_none()).await;
    let ended: u64 = rule(&all)["ends"]
        .as_object()
        .unwrap()
        .values()
        .map(|count| count.as_u64().unwrap())
        .sum();
    assert_eq!((ended, &rule(&all)["open"]), (2, &json!(0)));
}

#[tokio::test]
async fn hosts_with_tls_say_whose_certificate_they_show_and_until_when() {
    let certificate = made("chat-tls", &["chat.example.com"]);
    let folder = Folder::new("routes-tls");
    let spec = "hostnames: [chat.example.com, other.example.com]\n\
                tls: [{secretName: chat-tls, hosts: [chat.example.com]}, {secretName: none, hosts: [other.example.com]}]\n\
                rules: [{backendRefs: [{name: chat, port: 80}]}]";
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"namespace": "a", "name": "chat-tls"},
        "type": "kubernetes.io/tls", "stringData": {"tls.crt": certificate.chain, "tls.key": certificate.key},
    });
    folder.write(
        "chat.yaml",
        &format!("{}{}{secret}\n", route("a", "chat", spec), service("a", "chat", &[])),
    );
    let holdfast = Holdfast::start_folder(&folder.0, &["--https", "127.0.0.1:0"]).await;
    let all = live(&holdfast, "/routes").await;
    let tls = all["routes"][0]["tls"].as_array().unwrap();
    assert_eq!(tls.len(), 2, "{tls:#?}");
    assert_eq!(
        (&tls[0]["secret"], &tls[0]["hosts"], &tls[0]["usable"]),
        (&json!("a/chat-tls"), &json!(["chat.example.com"]), &json!(true))
    );
    assert!(tls[0]["expires"].as_str().unwrap().ends_with('Z'));
    assert_eq!(
        (&tls[1]["secret"], &tls[1]["usable"], &tls[1]["expires"]),
        (&json!("a/none"), &json!(false), &Value::Null)
    );
}
