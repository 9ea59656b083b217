//! `holdfast why` by a running process: the answer of the files that it serves, and besides what only it knows.

use std::{fs, net::SocketAddr, path::Path};

use futures::future::join_all;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::{
    process::Holdfast,
    routes::{Folder, live, route, service, status, until},
    support::{Peer, Server, ask, closed_port, handshake_with},
};

/// The document of the process's own answer, and the command's exit code.
async fn asked(holdfast: &Holdfast, args: &[&str]) -> (Value, i32) {
    let (text, code) = holdfast.command(&[&["why", "-o", "json"], args].concat()).await;
    (
        serde_json::from_str(&text).unwrap_or_else(|_| panic!("{args:?}: {text}")),
        code,
    )
}

/// The same from files.
async fn by_files(folder: &Path, args: &[&str]) -> (Value, i32) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    command.args(["why", "-o", "json", "--manifests"]).arg(folder).args(args);
    let output = command.output().await.unwrap();
    let document = serde_json::from_slice(&output.stdout);
    (
        document.unwrap_or_else(|_| panic!("{args:?}: {output:?}")),
        output.status.code().unwrap(),
    )
}

/// A document without what is chance, or only a process knows. Which of several endpoints is first is chance.
fn comparable(mut document: Value) -> Value {
    let endpoints = ["candidates", "not_candidates"]
        .iter()
        .flat_map(|key| document[key].as_array().unwrap());
    let mut endpoints: Vec<String> = endpoints
        .map(|endpoint| format!("{} {}", endpoint["destination.address"], endpoint["state"]))
        .collect();
    endpoints.sort();
    let chosen = document["candidates"].as_array().unwrap().len();
    for guard in document["guards"].as_array_mut().unwrap() {
        if guard["guard"] != "limits.maxHeaderBytes" && guard["allowed"].is_u64() {
            guard["used"].take();
            guard["value"].take();
        }
        guard.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    }
    let fields = document.as_object_mut().unwrap();
    for key in ["candidates", "not_candidates", "replicas", "differences", "problems"] {
        fields.remove(key);
    }
    fields.insert("endpoints".to_owned(), json!([chosen, endpoints]));
    document
}

/// URLs that somebody could ask the routes of a process for: each way once for each path, so that all come together.
fn urls(routes: &Value) -> Vec<String> {
    let mut urls = vec!["ws://nobody.example.org/".to_owned()];
    for route in routes["routes"].as_array().unwrap() {
        let hosts = route["hostnames"].as_array().unwrap().iter();
        let hosts: Vec<String> = hosts.map(|host| host.as_str().unwrap().replace('*', "any")).collect();
        let host = hosts.first().map_or("any.example.org", String::as_str);
        let rules = route["rules"].as_array().unwrap().iter();
        let matches = rules.flat_map(|rule| rule["matches"].as_array().unwrap());
        let path = |words: &Value| words.as_str().unwrap().split([' ', ',']).nth(1).unwrap().to_owned();
        let paths = matches.map(path).filter(|path| !path.contains(['[', '(', '*']));
        urls.extend([format!("wss://{host}/no/such/path"), format!("https://{host}/")]);
        for path in paths {
            urls.extend(["ws", "http"].map(|scheme| format!("{scheme}://{host}{path}")));
            urls.push(format!("wss://{host}{}/below?room=7", path.trim_end_matches('/')));
        }
        urls.extend(hosts.iter().skip(1).map(|host| format!("ws://{host}/")));
    }
    urls
}

#[tokio::test]
async fn a_process_answers_as_the_files_that_it_serves() {
    let examples = fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/examples")).unwrap();
    let folders: Vec<_> = examples.map(|example| example.unwrap().path()).collect();
    let compare = async |folder: &Path| {
        let holdfast = Holdfast::start_folder(folder, &["--static-root", folder.to_str().unwrap()]).await;
        let urls = urls(&live(&holdfast, "/routes").await);
        for (index, url) in urls.iter().enumerate() {
            let foreign = [
                "-H",
                "Origin: https://evil.example",
                "-H",
                "Cookie: sid=1",
                "--client",
                "203.0.113.9",
            ];
            let args = [&[&**url][..], if index % 2 == 0 { &foreign } else { &[] }].concat();
            let ((process, code), files) = tokio::join!(asked(&holdfast, &args), by_files(folder, &args));
            assert_eq!(
                (comparable(process), code),
                (comparable(files.0), files.1),
                "{} {args:?}",
                folder.display()
            );
        }
        urls.len()
    };
    let mut compared = 0;
    for some in folders.chunks(4) {
        compared += join_all(some.iter().map(|folder| compare(folder)))
            .await
            .iter()
            .sum::<usize>();
    }
    assert!(compared > 100, "{compared}");
}

#[tokio::test]
async fn a_process_knows_what_is_used_and_who_is_ejected() {
    let (server, dead) = (Server::start().await, closed_port());
    let folder = Folder::new("why");
    let spec = "hostnames: [chat.example.com]\n\
                loadBalancing: {algorithm: RoundRobin}\n\
                health: {passive: {failures: 1, baseEjectionTime: 1h, maxEjectionTime: 1h}}\n\
                limits: {maxConnections: 2, maxConnectionsPerClient: {count: 5}, handshakeRate: {requests: 1, interval: 1h, burst: 20}}\n\
                rules: [{name: chat, matches: [{path: {value: /chat}}], backendRefs: [{name: chat, port: 80}]}]";
    let endpoints: [(SocketAddr, &str, &str); 2] = [(server.address, "chat-0", "ready: true"), (dead, "chat-1", "ready: true")];
    let conflict = route(
        "b",
        "late",
        "hostnames: [chat.example.com]\nrules: [{backendRefs: [{name: chat, port: 80}]}]",
    );
    folder.write(
        "chat.yaml",
        &[route("a", "chat", spec), service("a", "chat", &endpoints), conflict].concat(),
    );
    let holdfast = Holdfast::start_folder(&folder.0, &[]).await;
    let url = "ws://chat.example.com/chat";

    let (before, code) = asked(&holdfast, &[url]).await;
    assert_eq!((code, &before["http.response.status_code"]), (0, &json!(101)));
    assert_eq!(before["rejected"][0]["reason"], "HostnameConflict");
    assert_eq!(before["candidates"][0]["open"], 0);
    assert_eq!(before["replicas"], json!({"asked": 1, "answered": 1, "failed": []}));
    let guard = |document: &Value, name: &str| {
        let guards = document["guards"].as_array().unwrap().iter();
        let found = guards.clone().find(|guard| guard["guard"] == name).unwrap();
        (
            found["value"].as_str().unwrap().to_owned(),
            found["verdict"].as_str().unwrap().to_owned(),
        )
    };
    let said = |value: &str, verdict: &str| (value.to_owned(), verdict.to_owned());
    assert_eq!(guard(&before, "limits.handshakeRate"), said("0 of 20", "lets it in"));

    // Asking changes nothing: no turn is taken, and no handshake counted.
    let order = |document: &Value| -> Vec<Value> {
        let candidates = document["candidates"].as_array().unwrap().iter();
        candidates
            .map(|candidate| candidate["holdfast.endpoint.pod"].clone())
            .collect()
    };
    let mut tunnels = Vec::new();
    let (again, _) = asked(&holdfast, &[url]).await;
    assert_eq!(guard(&again, "limits.handshakeRate"), said("0 of 20", "lets it in"));
    for _ in 0..2 {
        let mut client = Peer::connect(holdfast.http).await;
        client.write(handshake_with("chat.example.com", "/chat", "")).await;
        let (peer, _) = server.accept().await;
        assert!(client.head().await.starts_with("HTTP/1.1 101 "));
        tunnels.push((client, peer));
    }
    until(&holdfast, "/routes?route=a/chat", |all| {
        all["routes"][0]["rules"][0]["open"] == 2
    })
    .await;
    let (full, code) = asked(&holdfast, &[url]).await;
    assert_eq!((code, &full["error.type"]), (1, &json!("connection_limit")));
    assert_eq!(guard(&full, "limits.maxConnections"), said("2 of 2", "refuses it"));
    assert_eq!(guard(&full, "limits.maxConnectionsPerClient"), said("2 of 5", "lets it in"));
    assert_eq!(guard(&full, "limits.handshakeRate"), said("2 of 20", "lets it in"));
    let (other, _) = asked(&holdfast, &[url, "--client", "203.0.113.9"]).await;
    assert_eq!(guard(&other, "limits.maxConnectionsPerClient"), said("0 of 5", "lets it in"));
    assert_eq!(status(&holdfast, "chat.example.com", "/chat").await, 503, "it is as it says");

    let (mut client, peer) = tunnels.pop().unwrap();
    client.close(1000).await;
    drop((client, peer));
    until(&holdfast, "/routes?route=a/chat", |all| all["routes"][0]["open"] == 1).await;
    let (served, code) = asked(&holdfast, &[url]).await;
    assert_eq!((code, order(&served)), (0, vec![json!("chat-0")]));
    let ejected = &served["not_candidates"][0];
    assert_eq!(
        (&ejected["holdfast.endpoint.pod"], &ejected["state"]),
        (&json!("chat-1"), &json!("ejected"))
    );
    let by = ejected["by"].as_str().unwrap();
    assert!(by.starts_with("connection_refused; tried again in 3"), "{by}");

    let (text, _) = holdfast.command(&["why", url]).await;
    let lines: Vec<String> = text
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(lines[0], format!("101 a/chat rule \"chat\" -> chat-0 {}", server.address));
    assert!(lines.contains(&"maxConnections 1 of 2 lets it in".to_owned()), "{text}");
    assert!(
        lines.contains(&format!("pick RoundRobin chat-0 {} (1 open) 1st", server.address)),
        "{text}"
    );
    assert_eq!(lines.last().unwrap(), "1/1 replica");
    let (text, code) = holdfast.command(&["why", "ws://chat.example.com/caht"]).await;
    assert!(
        text.starts_with("404 no_route  no rule of chat.example.com matches /caht\nnearest  "),
        "{text}"
    );
    assert!(
        code == 1 && text.ends_with("1/1 replica.   holdfast explain no_route\n"),
        "{text}"
    );
}

#[tokio::test]
async fn a_process_that_drains_says_so() {
    let server = Server::start().await;
    let holdfast = Holdfast::start(server.address, &["--drain-delay", "0s", "--drain-window", "1h"]).await;
    let (_client, _endpoint) = crate::support::tunnel_to(holdfast.http, &server).await;
    assert_eq!(asked(&holdfast, &["ws://any/"]).await.1, 0);
    holdfast.command(&["drain"]).await;
    let refused = async || asked(&holdfast, &["ws://any/"]).await;
    let started = std::time::Instant::now();
    let document = loop {
        let (document, code) = refused().await;
        if code == 1 {
            break document;
        }
        assert!(started.elapsed() < crate::support::PATIENCE);
    };
    assert_eq!(
        (&document["error.type"], &document["http.response.status_code"]),
        (&json!("draining"), &json!(503))
    );
    assert_eq!(document["guards"][0]["guard"], "drain");
}

#[tokio::test]
async fn what_is_no_question_is_refused_with_how_to_ask() {
    let server = Server::start().await;
    let holdfast = Holdfast::start(server.address, &[]).await;
    let post = async |body: &str, order: &str| {
        let length = body.len();
        let request = format!(
            "POST /why HTTP/1.1\r\nHost: {}\r\n{order}Connection: close\r\nContent-Length: {length}\r\n\r\n{body}",
            holdfast.live
        );
        ask(holdfast.live, request).await
    };
    let order = "Holdfast-Order: 1\r\n";
    for (body, word) in [
        ("", "\"url\": "),
        ("{}", "missing field `url`"),
        (r#"{"url": "chat"}"#, "ws://HOST"),
        (r#"{"url": "ws://a/", "header": []}"#, "unknown field `header`"),
        (r#"{"url": "ws://a/", "headers": ["x"]}"#, "Name: value"),
        (r#"{"url": "ws://a/", "client": "me"}"#, "\"client\": "),
        (&format!(r#"{{"url": "ws://a/{}"}}"#, "a".repeat(70_000)), "length limit"),
    ] {
        let answer = post(body, order).await;
        assert_eq!(answer.status, 400, "{body}");
        assert!(answer.text().contains(word), "{}", answer.text());
    }
    assert_eq!(post(r#"{"url": "ws://a/"}"#, "").await.status, 403);
    assert_eq!(post(r#"{"url": "ws://a/"}"#, order).await.status, 200);
    assert_eq!(crate::routes::ask_live(&holdfast, "/why").await.status, 405);
}
