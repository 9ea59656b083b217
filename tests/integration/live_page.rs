//! The page of the live listener, and what it is fed with: the history and the events, of a real process.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    time::{sleep, timeout},
};

use crate::{
    process::Holdfast,
    support::{Answer, PATIENCE, Server, ask, tunnel_to},
};

#[tokio::test]
async fn the_page_runs_nothing_but_its_own_script_and_asks_nobody_else() {
    let server = Server::start().await;
    let holdfast = Holdfast::start(server.address, &[]).await;
    for (path, kind) in [
        ("/", "text/html"),
        ("/page.css", "text/css"),
        ("/page.js", "text/javascript"),
        ("/icon.svg", "image/svg+xml"),
    ] {
        let answer = get(&holdfast, path).await;
        assert_eq!(answer.status, 200, "{path}");
        assert!(answer.header("content-type").unwrap().starts_with(kind), "{path}");
        let policy = answer.header("content-security-policy").unwrap();
        assert!(
            policy.starts_with("default-src 'none';") && !policy.contains("unsafe"),
            "{policy}"
        );
        assert!(policy.contains("frame-ancestors 'none'"), "{policy}");
        assert_eq!(answer.header("x-frame-options"), Some("DENY"));
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(answer.header("set-cookie"), None);
        let text = answer.text().replace("http://www.w3.org/2000/svg", "");
        assert!(
            !text.contains("http://") && !text.contains("https://"),
            "{path} names another site"
        );
        for word in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("] {
            assert!(!text.contains(word), "{path}: {word}");
        }
    }
    let unknown = get(&holdfast, "/unknown").await;
    assert_eq!(unknown.status, 404);
    assert!(unknown.text().contains("/history"));
    let words: Value = serde_json::from_str(get(&holdfast, "/words").await.text()).unwrap();
    assert!(
        words["words"]
            .as_array()
            .unwrap()
            .iter()
            .any(|word| word["word"] == "endpoint_gone")
    );
}

#[tokio::test]
async fn what_happens_is_told_to_who_follows_and_stays_in_the_history() {
    let server = Server::start().await;
    let holdfast = Holdfast::start(server.address, &[]).await;
    let mut events = Events::follow(&holdfast).await.unwrap();
    let state = events.next("state").await;
    assert_eq!(state["stage"], "serving");
    assert_eq!(state["connections"], 0);

    let (client, endpoint) = tunnel_to(holdfast.http, &server).await;
    while events.next("state").await["connections"] != 1 {}
    let accepted = json!([{ "outcome": "accepted", "count": 1 }]);
    let sample = events.sample_with(|sample| sample["handshakes"] == accepted).await;
    assert_eq!(sample["open"], 1);
    assert_eq!(sample["routes"][0]["handshakes"], accepted, "{sample}");

    endpoint.reset();
    let gone = json!({ "holdfast.end.initiator": "endpoint", "holdfast.end.cause": "endpoint_gone", "count": 1 });
    let sample = events.sample_with(|sample| sample["ends"] == json!([gone])).await;
    assert_eq!(sample["open"], 0);
    drop(client);

    let history: Value = serde_json::from_str(get(&holdfast, "/history").await.text()).unwrap();
    let sum = |counts: &Value| {
        counts
            .as_array()
            .unwrap()
            .iter()
            .map(|count| count.as_u64().unwrap())
            .sum::<u64>()
    };
    assert_eq!(sum(&history["handshakes"][0]["counts"]), 1);
    assert_eq!(sum(&history["ends"][0]["counts"]), 1);
    assert_eq!(
        history["at"].as_array().unwrap().len(),
        history["open"].as_array().unwrap().len()
    );
    assert!(history["last"].as_u64() >= sample["sample"].as_u64());
    let route = &history["routes"][0];
    let path = format!(
        "/history?route={}%2F{}",
        route["holdfast.route.namespace"].as_str().unwrap(),
        route["holdfast.route.name"].as_str().unwrap()
    );
    let one: Value = serde_json::from_str(get(&holdfast, &path).await.text()).unwrap();
    assert_eq!(one["ends"], history["ends"]);
    assert_eq!(get(&holdfast, "/history?route=chat").await.status, 400);
}

#[tokio::test]
async fn each_end_is_told_to_who_follows_once() {
    let server = Server::start().await;
    let holdfast = Holdfast::start(server.address, &[]).await;
    let mut events = Events::follow(&holdfast).await.unwrap();
    events.next("state").await;
    let mut told = Vec::new();
    for round in 1..=3 {
        let (_client, endpoint) = tunnel_to(holdfast.http, &server).await;
        endpoint.reset();
        while told.len() < round {
            let news = events.next("ends").await;
            let ends = news["ends"].as_array().unwrap();
            assert!(!ends.is_empty() && news["more"] == false, "{news}");
            assert_eq!(news["last"], ends[0]["sequence"]);
            for end in ends.iter().rev() {
                assert_eq!(end["holdfast.end.cause"], "endpoint_gone");
                told.push(end["sequence"].as_u64().unwrap());
            }
        }
    }
    assert!(told.len() == 3 && told.is_sorted_by(|a, b| a < b), "{told:?}");
}

#[tokio::test]
async fn so_many_may_follow_and_who_leaves_makes_room() {
    let server = Server::start().await;
    let holdfast = Holdfast::start(server.address, &[]).await;
    let mut followers = Vec::new();
    let refusal = loop {
        match Events::follow(&holdfast).await {
            Ok(events) => followers.push(events),
            Err(status) => break status,
        }
    };
    assert_eq!((refusal, followers.len()), (503, 16));
    followers.pop();
    let came = async {
        while Events::follow(&holdfast).await.is_err() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, came).await.expect("no room is made");
    assert_eq!(get(&holdfast, "/history").await.status, 200, "others are answered");
}

async fn get(holdfast: &Holdfast, path: &str) -> Answer {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost:9478\r\nConnection: close\r\n\r\n");
    ask(holdfast.live, request).await
}

/// One that follows.
struct Events(BufReader<TcpStream>);

impl Events {
    /// An error is the status of a refusal.
    async fn follow(holdfast: &Holdfast) -> Result<Self, u16> {
        let mut socket = TcpStream::connect(holdfast.live).await.unwrap();
        socket
            .write_all(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .await
            .unwrap();
        let mut events = Self(BufReader::new(socket));
        let status = events.line().await.split(' ').nth(1).unwrap().parse().unwrap();
        if status != 200 {
            return Err(status);
        }
        while !events.line().await.is_empty() {}
        Ok(events)
    }

    /// The data of the next event of this kind.
    async fn next(&mut self, kind: &str) -> Value {
        while self.line().await != format!("event: {kind}") {}
        let line = self.line().await;
        serde_json::from_str(line.strip_prefix("data: ").unwrap()).unwrap()
    }

    async fn sample_with(&mut self, is_wanted: impl Fn(&Value) -> bool) -> Value {
        loop {
            let sample = self.next("sample").await;
            if is_wanted(&sample) {
                return sample;
            }
        }
    }

    /// Sizes of chunks are lines, too.
    async fn line(&mut self) -> String {
        let mut line = String::new();
        let read = timeout(PATIENCE, self.0.read_line(&mut line)).await;
        assert!(read.expect("nothing comes").unwrap() > 0, "the events end");
        line.truncate(line.trim_end().len());
        line
    }
}
