//! The promise, kept by the real binary: changes never end a tunnel, and what ends one says so.
//!
//! The tests run one at a time: each loads the machine.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "../integration/support.rs"]
#[allow(dead_code, reason = "shared with the integration tests, which use all of it")]
mod support;

#[path = "../e2e/crowd.rs"]
#[allow(dead_code, reason = "shared with the end to end tests, which use all of it")]
mod crowd;
mod folder;
mod process;
mod traffic;

use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::{
    sync::{Mutex, watch},
    task::JoinSet,
};

use crowd::{Crowd, End, Plan};
use folder::{Busy, Folder, marker, route, service_at};
use process::{Holdfast, eventually};
use support::{Answer, Peer, Server, ask, handshake, switching};
use traffic::{Client, Closed, Echo};

/// The test that runs.
static TURN: Mutex<()> = Mutex::const_new(());

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_changes_lose_none_of_two_thousand_tunnels() {
    let _turn = TURN.lock().await;
    let endpoint = Echo::start(TUNNELS).await;
    let mut busy = Busy::new(endpoint.address);
    let mut holdfast = Holdfast::start(busy.folder.path(), &[]).await;
    let clients = Client::open_many(holdfast.http, "/tunnel", TUNNELS).await;
    let (stop, stopped) = watch::channel(());
    let mut counting = JoinSet::new();
    for (index, client) in clients.into_iter().enumerate() {
        let offset = Duration::from_secs(1) * index as u32 / TUNNELS as u32;
        counting.spawn(client.count(offset, stopped.clone()));
    }
    // What the handshakes needed has been given back by the time that each tunnel has carried some messages.
    eventually("every tunnel has carried messages", async || {
        holdfast.metric("holdfast_relayed_messages_total", &["to_client"]).await >= (8 * TUNNELS) as f64
    })
    .await;
    let before = holdfast.memory();
    let generation = holdfast.metric("holdfast_snapshot_generation", &[]).await;

    let started = Instant::now();
    let mut effects = Vec::new();
    let mut last = "/marker-0".to_owned();
    while busy.changes() < CHANGES {
        for _ in 1..CHANGES_PER_MARK {
            busy.change();
        }
        let path = busy.mark();
        let written = Instant::now();
        eventually("the marker is served", async || holdfast.plain(&path).await == 426).await;
        effects.push(written.elapsed());
        assert_eq!(holdfast.plain(&last).await, 404, "{last}, the marker before {path}");
        last = path;
        holdfast.skip_lines();
    }
    let took = started.elapsed();
    effects.sort();
    let (p50, p99) = (effects[effects.len() / 2], effects[effects.len() * 99 / 100]);
    let generations = holdfast.metric("holdfast_snapshot_generation", &[]).await - generation;

    stop.send(()).unwrap();
    let clients: Vec<Client> = counting.join_all().await;
    let messages: u64 = clients.iter().map(Client::sent).sum();
    println!(
        "{} changes in {took:.1?}, {generations} tables; in effect after {p50:.0?} (p50), {p99:.0?} (p99)",
        busy.changes()
    );
    println!("{messages} messages over {TUNNELS} tunnels, 0 lost");
    assert_eq!(clients.len(), TUNNELS);
    assert_eq!(endpoint.accepted(), TUNNELS);
    assert_eq!(holdfast.series("holdfast_ends_total").await, [""; 0]);
    let active = holdfast.metric("holdfast_connections_active", &["route=\"tunnels\""]).await;
    assert_eq!(active, TUNNELS as f64);
    assert!(
        generations >= effects.len() as f64,
        "{generations} tables for {} marks",
        effects.len()
    );
    assert!(p50 < Duration::from_secs(2), "{p50:?} from a change to its effect");

    let allowed = before + before / 4 + (4 << 20);
    let peak = holdfast.memory();
    eventually("memory is back", async || holdfast.memory() <= allowed).await;
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    println!(
        "{:.1} MiB before, {:.1} after the last change, {:.1} now",
        mib(before),
        mib(peak),
        mib(holdfast.memory())
    );

    let closing: JoinSet<()> = clients.into_iter().map(|client| client.close(1000)).collect();
    closing.join_all().await;
    assert_eq!(endpoint.close_codes().await, [1000; TUNNELS]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tunnels_outlive_their_endpoints_entry_and_their_route() {
    let _turn = TURN.lock().await;
    let (old, new) = (Echo::start(EACH).await, Echo::start(EACH).await);
    let folder = Folder::new();
    folder.write("route.yaml", route("chat", "/chat", "chat", ""));
    folder.write("service.yaml", service_at("chat", old.address));
    let holdfast = Holdfast::start(folder.path(), &[]).await;
    let mut clients = Client::open_many(holdfast.http, "/chat", EACH).await;
    assert_eq!(old.accepted(), EACH);

    // The endpoint leaves. It would not answer another handshake.
    folder.replace("service.yaml", service_at("chat", new.address));
    folder.write("marker.yaml", marker("marker", "/marker"));
    eventually("the marker is served", async || holdfast.plain("/marker").await == 426).await;
    clients.extend(Client::open_many(holdfast.http, "/chat", EACH).await);
    assert_eq!((old.accepted(), new.accepted()), (EACH, EACH));
    exchange(&mut clients).await;

    // The route goes too.
    folder.remove("route.yaml");
    eventually("the route is gone", async || refused(&holdfast, "/chat").await.status == 404).await;
    assert_eq!(refused(&holdfast, "/chat").await.reason(), Some("no_route"));
    exchange(&mut clients).await;
    let chat = ["route=\"chat\""];
    assert_eq!(holdfast.metric("holdfast_connections_active", &chat).await, (2 * EACH) as f64);

    // They end when their clients say so, and the last one takes the route's series with it.
    while clients.len() > 1 {
        clients.pop().unwrap().close(1000).await;
    }
    let last = clients.pop().unwrap();
    eventually("the others are counted", async || {
        holdfast.metric("holdfast_ends_total", &chat).await == (2 * EACH - 1) as f64
    })
    .await;
    assert_eq!(holdfast.metric("holdfast_connections_active", &chat).await, 1.0);
    last.close(1000).await;
    for name in [
        "holdfast_connections_active",
        "holdfast_ends_total",
        "holdfast_relayed_bytes_total",
    ] {
        eventually("the series is gone", async || {
            holdfast.series(name).await.iter().all(|line| !line.contains(chat[0]))
        })
        .await;
    }
    assert_eq!(old.close_codes().await, [1000; EACH]);
    assert_eq!(new.close_codes().await, [1000; EACH]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_tells_every_side_and_takes_its_time() {
    let _turn = TURN.lock().await;
    let endpoint = Echo::start(2 * EACH * 10 + 1).await;
    let slow = Server::start().await;
    let folder = Folder::new();
    folder.write("chat.yaml", route("chat", "/chat", "chat", ""));
    folder.write("chat-service.yaml", service_at("chat", endpoint.address));
    folder.write("slow.yaml", route("slow", "/slow", "slow", ""));
    folder.write("slow-service.yaml", service_at("slow", slow.address));
    let mut holdfast = Holdfast::start(folder.path(), &["--drain-delay", "2s", "--drain-window", "4s"]).await;
    let (mut idle, mut chatting) = (JoinSet::new(), JoinSet::new());
    for client in Client::open_many(holdfast.http, "/chat", EACH * 10).await {
        idle.spawn(client.listen());
    }
    for (index, client) in Client::open_many(holdfast.http, "/chat", EACH * 10)
        .await
        .into_iter()
        .enumerate()
    {
        chatting.spawn(client.chat(Duration::from_millis(2) * index as u32));
    }

    // The delay: load balancers have still to notice.
    holdfast.signal(Signal::TERM);
    holdfast.line_with("shutting down").await;
    assert_eq!(holdfast.get("/readyz").await, 200);
    idle.spawn(Client::open(holdfast.http, "/chat").await.listen());
    // A handshake that the end of the delay overtakes.
    let mut late = Peer::connect(holdfast.http).await;
    late.write(handshake("/slow", "")).await;
    let mut late_endpoint = slow.connection().await;
    late_endpoint.head().await;

    eventually("not ready", async || holdfast.get("/readyz").await == 503).await;
    let closing = Instant::now();
    let answer = refused(&holdfast, "/chat").await;
    assert_eq!((answer.status, answer.reason()), (503, Some("draining")));
    assert!(
        answer
            .header("retry-after")
            .is_some_and(|seconds| seconds.parse::<u32>().is_ok())
    );
    eventually("the closes have begun", async || {
        holdfast.metric("holdfast_ends_total", &["cause=\"drain\""]).await >= (EACH * 5) as f64
    })
    .await;
    late_endpoint.write(switching("")).await;
    let head = late.head().await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let late = tokio::spawn(async move {
        let frame = late.frame().await;
        late.close(frame.code()).await;
        (frame.code(), late_endpoint.frame().await.code())
    });

    let (idle, chatting) = (idle.join_all().await, chatting.join_all().await);
    for closed in idle.iter().chain(&chatting) {
        assert_eq!((closed.code, &*closed.reason), (1012, "drain"));
    }
    let all = || idle.iter().chain(&chatting);
    for quarter in 0..4 {
        let within = |closed: &&Closed| (closed.at.saturating_duration_since(closing)).as_secs() == quarter;
        let closes = all().filter(within).count();
        assert!(
            closes <= all().count() / 2,
            "{closes} of {} closes in one quarter of the window",
            all().count()
        );
    }
    assert!(median(&idle) < median(&chatting), "tunnels without messages end first");
    assert_eq!(endpoint.close_codes().await, [1001; 2 * EACH * 10 + 1]);
    assert_eq!(late.await.unwrap(), (1012, 1001));
    assert!(holdfast.line_with(" ended ").await.contains("left=0"));
    assert_eq!(holdfast.exit_code().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_a_process_that_drains_move_to_its_successor_once_and_at_its_pace() {
    let _turn = TURN.lock().await;
    let endpoint = Echo::start(2 * CROWD).await;
    let folder = chat_folder(&endpoint);
    let arguments = ["--drain-delay", "1s", "--drain-window", "5s"];
    let mut old = Holdfast::start(folder.path(), &arguments).await;
    let new = Holdfast::start(folder.path(), &arguments).await;
    let (balancer, choice) = watch::channel(old.http);
    let crowd = Crowd::start(Plan {
        clients: CROWD,
        url: "ws://chat.example.com/chat".to_owned(),
        every: Duration::from_millis(500),
        arrival: Duration::from_secs(1),
        address: Box::new(move || Some(*choice.borrow())),
    });
    eventually("all are there", async || crowd.connected() == CROWD).await;

    // As a load balancer does: who drains gets nobody new.
    balancer.send(new.http).unwrap();
    old.signal(Signal::TERM);
    eventually("the closes have begun", async || crowd.connected() < CROWD).await;
    let drained = async || new.metric("holdfast_connections_active", &[]).await == CROWD as f64;
    eventually("all have moved", drained).await;
    assert_eq!(old.exit_code().await, 0);
    let mark = crowd.mark();
    eventually("messages come back", async || crowd.is_settled(&mark)).await;

    let tally = crowd.take();
    assert_eq!(tally.faults, [""; 0]);
    assert_eq!(tally.ends.keys().collect::<Vec<_>>(), [&End::new(1012, "drain")]);
    assert_eq!((tally.ended(), tally.reconnected()), (CROWD as u64, CROWD as u64));
    assert_eq!(tally.most_reconnects(), 1);
    assert!(tally.refused.is_empty(), "{:?}", tally.refused);
    // What an endpoint sent during one round trip may be lost, no more.
    assert!(tally.lost() <= CROWD as u64 / 20, "{:?}", tally.lost);
    // 80 a second is the pace; a machine that stood still catches up.
    assert!(
        tally.peak_reconnects() <= CROWD / 2,
        "{} in one second",
        tally.peak_reconnects()
    );

    crowd.stop();
    eventually("all have gone", async || crowd.connected() == 0).await;
    let tally = crowd.take();
    assert_eq!((tally.lost(), tally.reconnected()), (0, 0), "{tally:?}");
    let said = new
        .metric("holdfast_ends_total", &["initiator=\"client\"", "cause=\"closed\""])
        .await;
    assert_eq!(said, CROWD as f64);
    assert_eq!(tally.ends[&End::new(1000, "")], CROWD as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signals_that_ask_for_no_end_make_none() {
    let _turn = TURN.lock().await;
    let endpoint = Echo::start(EACH).await;
    let folder = chat_folder(&endpoint);
    let mut holdfast = Holdfast::start(folder.path(), &[]).await;
    let mut clients = Client::open_many(holdfast.http, "/chat", EACH).await;

    holdfast.signal(Signal::HUP);
    holdfast.line_with("nothing to reload").await;
    exchange(&mut clients).await;

    folder.write("marker.yaml", marker("marker", "/marker"));
    holdfast.signal(Signal::HUP);
    holdfast.line_with("reload").await;
    eventually("the marker is served", async || holdfast.plain("/marker").await == 426).await;
    exchange(&mut clients).await;

    folder.write("chat.yaml", "kind: [");
    holdfast.signal(Signal::HUP);
    holdfast.line_with("chat.yaml").await;
    exchange(&mut clients).await;

    holdfast.signal(Signal::USR1);
    holdfast.line_with(" summary ").await;
    holdfast.signal(Signal::USR2);
    holdfast.signal(Signal::PIPE);
    // Both were delivered before this one, which is answered.
    holdfast.signal(Signal::HUP);
    holdfast.line_with("reload").await;
    exchange(&mut clients).await;
    assert_eq!(holdfast.series("holdfast_ends_total").await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_sigterm_ends_the_process_at_once() {
    let _turn = TURN.lock().await;
    let endpoint = Echo::start(1).await;
    let folder = chat_folder(&endpoint);
    let mut holdfast = Holdfast::start(folder.path(), &["--drain-delay", "10m", "--drain-window", "10m"]).await;
    let client = Client::open(holdfast.http, "/chat").await;
    holdfast.signal(Signal::TERM);
    holdfast.line_with("shutting down").await;
    holdfast.signal(Signal::TERM);
    let closed = client.listen().await;
    assert_eq!((closed.code, &*closed.reason), (1012, "drain"));
    assert_eq!(holdfast.exit_code().await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigint_ends_a_process_on_a_folder_at_once_and_in_order() {
    let _turn = TURN.lock().await;
    let endpoint = Echo::start(EACH).await;
    let folder = chat_folder(&endpoint);
    let mut holdfast = Holdfast::start(folder.path(), &["--drain-delay", "10m", "--drain-window", "10m"]).await;
    let clients = Client::open_many(holdfast.http, "/chat", EACH).await;
    holdfast.signal(Signal::INT);
    let closed: JoinSet<Closed> = clients.into_iter().map(Client::listen).collect();
    for closed in closed.join_all().await {
        assert_eq!((closed.code, &*closed.reason), (1012, "drain"));
    }
    assert_eq!(endpoint.close_codes().await, [1001; EACH]);
    assert_eq!(holdfast.exit_code().await, 0);
}

fn chat_folder(endpoint: &Echo) -> Folder {
    let folder = Folder::new();
    folder.write("chat.yaml", route("chat", "/chat", "chat", ""));
    folder.write("chat-service.yaml", service_at("chat", endpoint.address));
    folder
}

/// One message over each.
async fn exchange(clients: &mut [Client]) {
    for client in clients {
        client.exchange().await;
    }
}

/// The answer to a handshake that gets no 101.
async fn refused(holdfast: &Holdfast, path: &str) -> Answer {
    ask(holdfast.http, handshake(path, "")).await
}

fn median(closed: &[Closed]) -> Instant {
    let mut times: Vec<Instant> = closed.iter().map(|closed| closed.at).collect();
    times.sort();
    times[times.len() / 2]
}

const TUNNELS: usize = 2_000;
const CHANGES: usize = 2_000;
/// Changes that are made together; the last of them is the marker.
const CHANGES_PER_MARK: usize = 10;

/// Clients that come back.
const CROWD: usize = 400;
/// Tunnels of a smaller test.
const EACH: usize = 10;
