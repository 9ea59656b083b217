//! What ended lately and what is open, as the live listener of a real process says it, and as `holdfast ends` shows it.

use std::{
    net::SocketAddr,
    process::Stdio,
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    time::{sleep, timeout},
};

use crate::{
    process::Holdfast,
    support::{Answer, PATIENCE, Peer, Server, TEXT, ask, handshake, tunnel_to},
};

/// An answer of the live listener.
async fn answer(live: SocketAddr, path: &str) -> Answer {
    ask(
        live,
        format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"),
    )
    .await
}

async fn get(live: SocketAddr, path: &str) -> Value {
    let answer = answer(live, path).await;
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    let document: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(document["version"], 1);
    assert!(document["replica"].is_string());
    document
}

/// The ends that a question matches, once there are so many.
async fn ends(live: SocketAddr, question: &str, count: usize) -> Value {
    let started = Instant::now();
    loop {
        let document = get(live, &format!("/ends?limit=1000&{question}")).await;
        if document["matched"] == count {
            return document;
        }
        assert!(started.elapsed() < PATIENCE, "{question}: {document:#}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// A tunnel that the client closes in order.
async fn closed(holdfast: &Holdfast, server: &Server) {
    let (mut client, mut endpoint) = tunnel_to(holdfast.http, server).await;
    client.close(1000).await;
    endpoint.frame().await;
    endpoint.close(1000).await;
    client.frame().await;
}

/// One whose endpoint ends without a word.
async fn gone(holdfast: &Holdfast, server: &Server) {
    let (mut client, endpoint) = tunnel_to(holdfast.http, server).await;
    drop(endpoint);
    let told = client.frame().await;
    client.close(told.code()).await;
    client.ends().await;
}

fn sequences(document: &Value) -> Vec<u64> {
    let ends = document["ends"].as_array().unwrap();
    ends.iter().map(|end| end["sequence"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn ends_and_refusals_are_told_with_what_each_side_saw_and_can_be_asked_for_one_by_one() {
    let server = Server::start().await;
    let holdfast = Holdfast::start(server.address, &["--workers", "2"]).await;
    for _ in 0..6 {
        closed(&holdfast, &server).await;
    }
    gone(&holdfast, &server).await;
    ask(
        holdfast.http,
        handshake("/x?SECRET=1", "Sec-WebSocket-Version: 12\r\n").replacen("Sec-WebSocket-Version: 13\r\n", "", 1),
    )
    .await;
    let all = ends(holdfast.live, "since=600", 8).await;
    assert!(!all.to_string().contains("SECRET"));
    let numbers = sequences(&all);
    assert!(numbers.is_sorted_by(|a, b| a > b), "newest first: {numbers:?}");
    assert_eq!(all["last"], numbers[0]);
    let counts: Vec<(&str, u64)> = all["summary"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (row["word"].as_str().unwrap(), row["count"].as_u64().unwrap()))
        .collect();
    assert_eq!(counts[0], ("closed", 6));
    assert_eq!(counts.len(), 3);

    let one = ends(holdfast.live, "cause=endpoint_gone", 1).await["ends"][0].take();
    for (key, value) in [
        ("event.name", Value::from("holdfast.connection.ended")),
        ("holdfast.end.initiator", "endpoint".into()),
        ("holdfast.end.cause", "endpoint_gone".into()),
        ("holdfast.close.client.code", 1012.into()),
        ("holdfast.close.client.received", 1012.into()),
        ("holdfast.close.endpoint.code", Value::Null),
        ("client.address", "127.0.0.1".into()),
        ("destination.port", server.address.port().into()),
    ] {
        assert_eq!(one[key], value, "{key} of {one}");
    }
    let refusal = ends(holdfast.live, "cause=unsupported_version", 1).await["ends"][0].take();
    assert_eq!(refusal["event.name"], "holdfast.connection.refused");
    assert_eq!(refusal["http.response.status_code"], 426);
    assert_eq!(
        (&refusal["server.address"], &refusal["url.path"]),
        (&"test".into(), &"/x".into())
    );

    let id = one["holdfast.connection.id"].as_str().unwrap();
    let endpoint = server.address;
    for (question, count) in [
        ("by=client", 6),
        ("by=endpoint", 1),
        ("by=holdfast", 1),
        ("code=1012", 1),
        ("code=1006", 1), // the endpoint was told nothing
        ("code=426", 1),
        ("code=4000", 0),
        ("cause=closed,endpoint_gone", 7),
        ("client=127.0.0.0/8", 8),
        ("client=192.0.2.1", 0),
        (&*format!("endpoint={endpoint}"), 7),
        ("endpoint=127.0.0.1", 7),
        ("endpoint=other", 0),
        ("route=default/to", 7),
        ("route=default/other", 0),
        (&*format!("id={id}"), 1),
        (&*format!("after={}", numbers[3]), 3),
        (
            &*format!("after=other:1,{}:{}", all["replica"].as_str().unwrap(), numbers[1]),
            1,
        ),
        ("since=0", 0),
    ] {
        let found = ends(holdfast.live, question, count).await;
        assert_eq!(found["ends"].as_array().unwrap().len(), count, "{question}");
    }

    // Who follows with a small limit gets all of them, one after the other.
    let first = get(holdfast.live, "/ends?after=0&limit=3").await;
    assert_eq!(sequences(&first), numbers[5..]);
    assert_eq!((&first["more"], &first["last"]), (&true.into(), &numbers[5].into()));
    let next = get(holdfast.live, &format!("/ends?limit=1000&after={}", first["last"])).await;
    assert_eq!(sequences(&next), numbers[..5]);
    assert_eq!(next["more"], false);
}

#[tokio::test]
async fn a_question_that_makes_no_sense_is_told_what_would() {
    let server = Server::start().await;
    let holdfast = Holdfast::start(server.address, &[]).await;
    for (path, wanted) in [
        (
            "/ends?cuase=reset",
            "since, after, route, rule, endpoint, client, cause, by, code, id, limit",
        ),
        ("/ends?cause=rest", "holdfast explain"),
        ("/ends?since=soon", "a number of seconds"),
        ("/ends?limit=0", "from 1 to 1000"),
        ("/ends?limit=1001", "from 1 to 1000"),
        ("/ends?by=me", "client, endpoint, holdfast"),
        ("/ends?route=chat", "NAMESPACE/NAME"),
        ("/ends?client=me", "a network"),
        ("/ends?code=6", "a close code or a status"),
        ("/ends?by=client&by=client", "given twice"),
        ("/ends?id=xyz", "16 hexadecimal digits"),
        ("/connections?by=pod", "endpoint, route, rule, client, worker, age"),
        ("/connections?since=5", "by, list, interval, limit"),
        ("/connections?interval=11", "from 0 to 10"),
        ("/connections?list=yes", "true or false"),
        ("/connections/chat", "16 hexadecimal digits"),
    ] {
        let answer = answer(holdfast.live, path).await;
        assert_eq!(answer.status, 400, "{path}");
        assert!(answer.text().contains(wanted), "{path}: {}", answer.text());
    }
}

#[tokio::test]
async fn a_storm_is_forgotten_from_its_beginning_and_that_is_said() {
    let server = Server::start().await;
    let holdfast = Holdfast::start(server.address, &["--workers", "1", "--recent-ends", "4"]).await;
    closed(&holdfast, &server).await;
    // Refusals do not push out ends.
    for _ in 0..9 {
        ask(holdfast.http, handshake("/", "").replace("Version: 13", "Version: 12")).await;
    }
    let all = ends(holdfast.live, "since=600", 5).await;
    assert_eq!(all["ends_complete_since"], Value::Null);
    assert!(all["refusals_complete_since"].is_string(), "{all}");
    let (said, code) = holdfast.command(&["ends", "--since", "5m"]).await;
    assert_eq!(code, 0);
    assert!(
        said.contains("refusals before ") && said.contains("(--recent-ends)"),
        "{said}"
    );
    assert!(!said.contains("ends before "), "{said}");
    // What was forgotten before the time that is asked for is not missed.
    assert_eq!(
        ends(holdfast.live, "since=0", 0).await["refusals_complete_since"],
        Value::Null
    );
}

#[tokio::test]
async fn nothing_is_remembered_where_nothing_is_to_be() {
    let server = Server::start().await;
    let holdfast = Holdfast::start(server.address, &["--recent-ends", "0"]).await;
    closed(&holdfast, &server).await;
    holdfast.wait_for_metric("holdfast_ends_total", &[], |ends| ends == 1.0).await;
    assert_eq!(ends(holdfast.live, "", 0).await["remembers"], 0);
    let (said, _) = holdfast.command(&["ends"]).await;
    assert!(said.contains("--recent-ends is 0"), "{said}");
}

#[tokio::test]
async fn the_command_says_first_what_happened_and_last_what_to_read() {
    let server = Server::start().await;
    let holdfast = Holdfast::start(server.address, &[]).await;
    for _ in 0..3 {
        closed(&holdfast, &server).await;
    }
    gone(&holdfast, &server).await;
    let id = ends(holdfast.live, "cause=endpoint_gone", 1).await["ends"][0]["holdfast.connection.id"]
        .as_str()
        .unwrap()
        .to_owned();
    ends(holdfast.live, "", 4).await;
    let (said, code) = holdfast.command(&["ends"]).await;
    assert_eq!(code, 0);
    let lines: Vec<&str> = said.lines().collect();
    assert!(
        lines[0].ends_with("  1 of 4 connections ended without being asked to in 10m"),
        "{said}"
    );
    assert!(
        lines[1].starts_with("TIME ") && lines[1].contains("CLIENT SAW  ENDPOINT SAW"),
        "{said}"
    );
    assert!(lines[2].contains("endpoint_gone") && lines[2].contains("1012"), "{said}");
    assert!(
        lines[6].starts_with("closed 3 (75%)  endpoint_gone 1 (25%: 127.0.0.1"),
        "{said}"
    );
    assert_eq!(
        *lines.last().unwrap(),
        "0 open, 1/1 replica.   holdfast explain endpoint_gone"
    );

    let (said, code) = holdfast.command(&["ends", "-o", "json", "--cause", "closed"]).await;
    let document: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, document["ends"].as_array().unwrap().len()), (0, 3));
    assert_eq!(
        (&document["version"], &document["replicas"]["answered"]),
        (&1.into(), &1.into())
    );

    let (said, code) = holdfast.command(&["ends", "--explain", &id]).await;
    assert_eq!(code, 0);
    assert!(
        said.contains(&format!(
            "  {id}  default/to  ended by the endpoint after 0s: endpoint_gone\n"
        )),
        "{said}"
    );
    assert!(
        said.contains("The endpoint said nothing, and was not there to be told."),
        "{said}"
    );
    assert_eq!(holdfast.command(&["ends", "--explain", "0123456789abcdef"]).await.1, 1);
    assert_eq!(holdfast.command(&["ends", "--explain", "chat"]).await.1, 2);
    // What the process does not understand is its own word, and the answer is no.
    assert_eq!(holdfast.command(&["ends", "--cause", "rest"]).await.1, 1);
}

#[tokio::test]
async fn who_follows_sees_each_end_once_and_in_order() {
    let server = Server::start().await;
    let holdfast = Holdfast::start(server.address, &[]).await;
    closed(&holdfast, &server).await;
    ends(holdfast.live, "", 1).await;
    let mut follower = tokio::process::Command::new(env!("CARGO_BIN_EXE_holdfast"))
        .args(["ends", "--watch", "-o", "json"])
        .env("HOLDFAST_LIVE", holdfast.live.to_string())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    let mut last = 0;
    for wanted in ["closed", "endpoint_gone", "closed"] {
        let line = timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap().unwrap();
        let end: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(end["holdfast.end.cause"], wanted);
        let sequence = end["sequence"].as_u64().unwrap();
        assert!(sequence > last);
        if last == 0 {
            gone(&holdfast, &server).await;
            closed(&holdfast, &server).await;
        }
        last = sequence;
    }
}

#[tokio::test]
async fn a_life_is_told_while_it_lasts_and_afterwards() {
    let server = Server::start().await;
    let (holdfast, _lines) = Holdfast::start_talking(server.address, &["--workers", "2"]).await;
    let mut client = Peer::connect(holdfast.http).await;
    client.write(handshake("/chat?SECRET=1", "")).await;
    let (mut endpoint, _) = server.accept().await;
    client.head().await;
    client.send(TEXT, "hello").await;
    endpoint.frame().await;
    let listed = get(holdfast.live, "/connections?list=true").await;
    let tunnel = &listed["list"][0];
    assert_eq!(tunnel["holdfast.messages.to_endpoint"], 1, "{listed}");
    assert_eq!(
        (&tunnel["server.address"], &tunnel["url.path"]),
        (&"test".into(), &"/chat".into())
    );
    let id = tunnel["holdfast.connection.id"].as_str().unwrap().to_owned();
    let life = get(holdfast.live, &format!("/connections/{id}")).await;
    assert_eq!(life["state"], "open");
    assert_eq!(life["connection"]["client"]["heartbeat"]["interval_seconds"], 45.0);
    let handshake = life["connection"]["holdfast.handshake.duration_seconds"].as_f64().unwrap();
    let dial = life["connection"]["holdfast.handshake.dial_seconds"].as_f64().unwrap();
    assert!(0.0 < dial && dial <= handshake, "{life}");
    let (said, code) = holdfast.command(&["ends", "--explain", &id]).await;
    assert_eq!(code, 0);
    assert!(said.contains(&format!("  {id}  default/to  open for ")), "{said}");
    client.reset();
    endpoint.frame().await;
    drop(endpoint);
    ends(holdfast.live, &format!("id={id}"), 1).await;
    let life = get(holdfast.live, &format!("/connections/{id}")).await;
    assert_eq!(
        (&life["state"], &life["connection"]["holdfast.end.cause"]),
        (&"over".into(), &"reset".into())
    );
    assert_eq!(life["connection"]["url.path"], "/chat");
    assert!(!life.to_string().contains("SECRET"));
    // A request id that was made here begins with the connection's.
    assert_eq!(
        get(holdfast.live, &format!("/connections/{id}0123456789abcdef")).await["state"],
        "over"
    );
    assert_eq!(get(holdfast.live, "/connections/1").await["state"], "unknown");
}

#[tokio::test]
async fn connections_are_shown_in_groups_and_one_by_one() {
    let server = Server::start().await;
    let holdfast = Holdfast::start(server.address, &["--workers", "2"]).await;
    let (said, code) = holdfast.command(&["connections"]).await;
    assert_eq!(code, 0);
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].ends_with("  0 connections open"), "{said}");
    assert!(
        lines[2].contains("  ready ") && lines[2].contains(" - / - "),
        "an endpoint without a tunnel: {said}"
    );
    let mut tunnels = Vec::new();
    for _ in 0..3 {
        tunnels.push(tunnel_to(holdfast.http, &server).await);
    }
    closed(&holdfast, &server).await;
    ends(holdfast.live, "", 1).await;
    let (said, _) = holdfast.command(&["connections", "--interval", "100ms"]).await;
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].ends_with("  3 connections open on 1 endpoint"), "{said}");
    assert!(
        lines[1].starts_with("ENDPOINT ") && lines[1].contains("AGE p50 / max  MSG/S IN / OUT  RTT p50 / p99"),
        "{said}"
    );
    let cells: Vec<&str> = lines[2].split_whitespace().collect();
    assert_eq!(cells[1..4], ["ready", "3", "100.0%"], "{said}");
    assert_eq!(*cells.last().unwrap(), "1", "one end: {said}");
    assert_eq!(*lines.last().unwrap(), "1/1 replica.   holdfast ends --since 5m");
    for by in ["route", "rule", "client", "worker", "age"] {
        let args = ["connections", "--by", by, "--interval", "100ms", "-o", "json"];
        let (said, code) = holdfast.command(&args).await;
        let document: Value = serde_json::from_str(&said).unwrap();
        let open = document["groups"]
            .as_array()
            .unwrap()
            .iter()
            .map(|group| group["open"].as_u64().unwrap());
        assert_eq!((code, open.sum::<u64>()), (0, 3), "{by}: {said}");
    }
    let (said, code) = holdfast.command(&["connections", "--list", "-o", "wide"]).await;
    assert_eq!((code, said.lines().count()), (0, 2 + 3 + 1), "{said}");
    let id = said.lines().nth(2).unwrap().split_whitespace().next().unwrap().to_owned();
    let (life, _) = holdfast.command(&["connections", "--explain", &id]).await;
    assert!(life.contains(&format!("  {id}  default/to  open for ")), "{life}");
    let (said, _) = holdfast.command(&["connections", "--list", "--client", "192.0.2.0/24"]).await;
    assert!(said.contains("  0 connections listed"), "{said}");
}

#[tokio::test]
async fn who_watches_off_a_terminal_gets_one_answer_after_the_other() {
    let server = Server::start().await;
    let holdfast = Holdfast::start(server.address, &[]).await;
    let mut watcher = tokio::process::Command::new(env!("CARGO_BIN_EXE_holdfast"))
        .args(["connections", "--watch", "--interval", "100ms"])
        .env("HOLDFAST_LIVE", holdfast.live.to_string())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watcher.stdout.take().unwrap()).lines();
    let mut shows = async |wanted: &str| {
        let found = async {
            while let Some(line) = lines.next_line().await.unwrap() {
                assert!(!line.contains('\u{1b}'), "{line:?}");
                if line.ends_with(wanted) {
                    return;
                }
            }
            panic!("it ended without {wanted}");
        };
        timeout(PATIENCE, found).await.unwrap();
    };
    shows("  0 connections open").await;
    let _tunnel = tunnel_to(holdfast.http, &server).await;
    shows("  1 connection open on 1 endpoint").await;
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(watcher.id().unwrap().cast_signed()).unwrap(),
        rustix::process::Signal::INT,
    )
    .unwrap();
    assert!(timeout(PATIENCE, watcher.wait()).await.unwrap().unwrap().success());
}

#[tokio::test]
async fn thousands_of_tunnels_are_grouped_while_messages_flow() {
    const TUNNELS: usize = 5_000;
    let server = Server::start().await;
    let holdfast = Holdfast::start(server.address, &["--workers", "2"]).await;
    let mut tunnels = Vec::with_capacity(TUNNELS);
    for _ in 0..TUNNELS {
        tunnels.push(tunnel_to(holdfast.http, &server).await);
    }
    let busy = async {
        loop {
            for (client, endpoint) in tunnels.iter_mut().take(50) {
                client.send(TEXT, "x").await;
                endpoint.frame().await;
            }
        }
    };
    let asked = async {
        let by_worker = get(holdfast.live, "/connections?by=worker&interval=0.5").await;
        let groups = by_worker["groups"].as_array().unwrap();
        assert_eq!((groups.len(), &by_worker["open"]), (2, &TUNNELS.into()));
        let rates = groups
            .iter()
            .map(|group| group["messages_per_second.to_endpoint"].as_f64().unwrap());
        assert!(rates.sum::<f64>() > 10.0, "{by_worker}");
        for by in ["endpoint", "route", "rule", "client"] {
            let grouped = get(holdfast.live, &format!("/connections?by={by}")).await;
            let groups = grouped["groups"].as_array().unwrap();
            assert_eq!((groups.len(), &groups[0]["open"]), (1, &TUNNELS.into()), "{grouped}");
            assert_eq!(groups[0]["share"], 1.0);
            let (p50, max) = (&groups[0]["age_p50_seconds"], &groups[0]["age_max_seconds"]);
            assert!(p50.as_f64().unwrap() <= max.as_f64().unwrap(), "{grouped}");
            let ages = groups[0]["ages"].as_array().unwrap().iter();
            assert_eq!(ages.map(|age| age[1].as_u64().unwrap()).sum::<u64>(), TUNNELS as u64);
        }
        let by_endpoint = get(holdfast.live, "/connections").await;
        assert_eq!(by_endpoint["groups"][0]["state"], "ready", "{by_endpoint}");
        let by_age = get(holdfast.live, "/connections?by=age").await;
        let open = by_age["groups"]
            .as_array()
            .unwrap()
            .iter()
            .map(|group| group["open"].as_u64().unwrap());
        assert_eq!(open.sum::<u64>(), TUNNELS as u64);
        let list = get(holdfast.live, "/connections?list=true&sort=messages&limit=50").await;
        let list = list["list"].as_array().unwrap();
        assert_eq!(list.len(), 50);
        assert!(
            list.iter()
                .all(|tunnel| tunnel["holdfast.messages.to_endpoint"].as_u64() > Some(0))
        );
    };
    tokio::select! {
        () = busy => unreachable!(),
        () = asked => {}
    }
}
