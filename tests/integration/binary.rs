//! What only a whole process shows: its limits, its memory, its output that nobody reads, its shutdown.

use std::{fs, io::Read, time::Duration};

use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use serde_json::{Value, json};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpSocket},
};

use crate::{
    process::Holdfast,
    support::{BINARY, PING, Peer, Server, TEXT, ask, frame, handshake, handshake_with, header_values, switching, tunnel_to},
};

#[tokio::test]
async fn output_that_nobody_reads_stops_nothing() {
    let server = Server::start().await;
    let (mut holdfast, mut stdout) = Holdfast::start_talking(server.address, &["--workers", "2"]).await;
    let (mut client, mut endpoint) = tunnel_to(holdfast.http, &server).await;
    // Far more lines than a pipe holds.
    for _ in 0..800 {
        drop(tunnel_to(holdfast.http, &server).await);
    }
    client.send(TEXT, "still here").await;
    assert_eq!(endpoint.frame().await.payload, b"still here");
    holdfast
        .wait_for_metric("holdfast_ends_total", &[], |ends| ends == 800.0)
        .await;
    assert_eq!(holdfast.get("/livez").await.status, 200);
    // Nor does it stop the end.
    holdfast.signal(Signal::TERM);
    assert_eq!(client.frame().await.code(), 1012);
    client.close(1012).await;
    assert_eq!(endpoint.frame().await.code(), 1001);
    drop((client, endpoint));
    assert_eq!(holdfast.exit_code().await, 0);
    let mut text = String::new();
    stdout.read_to_string(&mut text).unwrap();
    // What the pipe held; the end did not wait for a reader.
    let lines = text.lines().count();
    assert!((100..1602).contains(&lines), "{lines} lines");
}

#[tokio::test]
async fn edited_defaults_hold_for_new_tunnels_and_wrong_ones_for_none() {
    let server = Server::start().await;
    let file = std::env::temp_dir().join(format!("holdfast-defaults-{}.yaml", std::process::id()));
    fs::write(&file, "timeouts: {send: 30s}\n").unwrap();
    let mut holdfast = Holdfast::start(server.address, &["--defaults", file.to_str().unwrap()]).await;
    let (mut client, mut endpoint) = tunnel_to(holdfast.http, &server).await;
    fs::write(&file, "timeouts: {maxDuration: 1s}\n").unwrap();
    holdfast
        .wait_for_metric("holdfast_snapshot_generation", &[], |generation| generation == 2.0)
        .await;
    let (mut bounded, _endpoint) = tunnel_to(holdfast.http, &server).await;
    fs::write(&file, "timeouts: {maxDuration: for ever}\n").unwrap();
    let line = holdfast.line_with("the last good defaults stay in effect").await;
    assert!(line.contains("line 1: timeouts.maxDuration"), "{line}");
    assert_eq!(bounded.frame().await.code(), 1001);
    let (mut bounded, _endpoint) = tunnel_to(holdfast.http, &server).await;
    assert_eq!(bounded.frame().await.code(), 1001);
    client.send(TEXT, "older than the edit").await;
    assert_eq!(endpoint.frame().await.payload, b"older than the edit");
    fs::remove_file(file).unwrap();
}

#[tokio::test]
async fn an_ordered_drain_tells_who_waits_and_stays_until_it_is_stopped() {
    let server = Server::start().await;
    let window = ["--drain-window", "1s"];
    let mut holdfast = Holdfast::start(server.address, &window).await;
    let (mut client, mut endpoint) = tunnel_to(holdfast.http, &server).await;
    let (state, code) = holdfast.command(&["drain", "--status", "-o", "json"]).await;
    let state: Value = serde_json::from_str(&state).unwrap();
    assert_eq!(
        (code, &state["drains"][0]["stage"], &state["drains"][0]["connections"]),
        (0, &json!("serving"), &json!(1))
    );

    let waiting = holdfast.get("/drained");
    let ordered = holdfast.command(&["drain", "--wait"]);
    let ending = async {
        assert_eq!(client.frame().await.code(), 1012);
        client.close(1012).await;
        assert_eq!(endpoint.frame().await.code(), 1001);
        drop((client, endpoint));
    };
    let (waited, (told, code), ()) = tokio::join!(waiting, ordered, ending);
    assert_eq!((waited.status, waited.text()), (200, "drained\n"));
    assert_eq!(code, 0);
    assert!(told.lines().last().unwrap().contains("has drained; 0 left"), "{told}");
    let refused = ask(holdfast.http, handshake("/", "")).await;
    assert_eq!((refused.status, refused.reason()), (503, Some("draining")));
    holdfast.signal(Signal::TERM);
    assert_eq!(holdfast.exit_code().await, 0);
}

#[tokio::test]
async fn an_ordered_drain_goes_on_when_the_process_is_told_to_end_meanwhile() {
    let server = Server::start().await;
    let mut holdfast = Holdfast::start(server.address, &["--drain-window", "1s"]).await;
    let (mut client, _endpoint) = tunnel_to(holdfast.http, &server).await;
    assert_eq!(holdfast.command(&["drain"]).await.1, 0);
    holdfast.signal(Signal::TERM);
    assert_eq!(client.frame().await.code(), 1012);
    client.close(1012).await;
    assert_eq!(holdfast.exit_code().await, 0);
}

#[tokio::test]
async fn a_folder_s_filters_and_files_are_served() {
    let server = Server::start().await;
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/examples");
    let folder = std::env::temp_dir().join(format!("holdfast-filters-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    for (example, port) in [("filters", 4000), ("static", 9001)] {
        let text = fs::read_to_string(format!("{examples}/{example}/{example}.yaml")).unwrap();
        let own = server.address.port();
        let text = text.replace(&format!("{{port: {port}}}"), &format!("{{port: {own}}}"));
        assert!(text.contains(&format!("{{port: {own}}}")), "{example}");
        fs::write(folder.join(example).with_extension("yaml"), text).unwrap();
    }
    let root = format!("{examples}/static");
    let holdfast = Holdfast::start_folder(&folder, &["--static-root", &root]).await;
    let chat = |request: &str| format!("{request}\r\nHost: chat.example.com\r\nConnection: close\r\n\r\n");
    let answer = ask(holdfast.http, chat("GET /healthz HTTP/1.1")).await;
    assert_eq!((answer.status, answer.text()), (200, "ok\n"));
    let answer = ask(holdfast.http, chat("GET /talk/7?x HTTP/1.1")).await;
    assert_eq!(answer.status, 301);
    assert_eq!(answer.header("location"), Some("http://chat.example.com/chat/7?x"));
    let page = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: other\r\nConnection: close\r\n\r\n");
    for path in ["/", "/rooms/7"] {
        let answer = ask(holdfast.http, page(path)).await;
        assert!(answer.text().contains("<script src=\"/main.js\">"), "{}", answer.head);
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    }
    let mut client = Peer::connect(holdfast.http).await;
    client
        .write(handshake_with("chat.example.com", "/chat/rooms/7?x=1", "X-Debug: 1\r\n"))
        .await;
    let mut endpoint = server.connection().await;
    let asked = endpoint.head().await;
    assert!(
        asked.starts_with("GET /ws/rooms/7?x=1 HTTP/1.1\r\nHost: chat.internal\r\n"),
        "{asked}"
    );
    assert_eq!(header_values(&asked, "x-forwarded-prefix"), ["/chat"]);
    assert_eq!(header_values(&asked, "x-debug"), [""; 0]);
    assert_eq!(header_values(&asked, "x-real-ip"), [""; 0]);
    assert_eq!(
        header_values(&asked, "forwarded"),
        ["for=127.0.0.1;host=chat.example.com;proto=http"]
    );
    endpoint.write(switching("Server: x\r\n")).await;
    let head = client.head().await;
    assert!(
        head.starts_with("HTTP/1.1 101 ") && header_values(&head, "server").is_empty(),
        "{head}"
    );
    assert_eq!(header_values(&head, "strict-transport-security"), ["max-age=31536000"]);
    fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn a_sidecar_treats_its_endpoint_by_the_policies_of_a_route_in_a_file() {
    let server = Server::start().await;
    let file = std::env::temp_dir().join(format!("holdfast-sidecar-{}.yaml", std::process::id()));
    let route = |policies: &str| {
        let text = format!(
            "apiVersion: holdfast.dev/v1alpha1\nkind: WebSocketRoute\nmetadata: {{name: chat, namespace: web}}\n\
             spec:\n  hostnames: [chat.example.com]\n  {policies}\n  \
             rules: [{{matches: [{{path: {{value: /chat}}}}], backendRefs: [{{name: chat, port: 80}}]}}]\n"
        );
        fs::write(&file, text).unwrap();
    };
    route("timeouts: {maxDuration: 1s}");
    let path = file.to_str().unwrap();
    let holdfast = Holdfast::start(server.address, &["--route", "web/chat", "--manifests", path]).await;
    let (mut client, _endpoint) = tunnel_to(holdfast.http, &server).await;
    assert_eq!(client.frame().await.code(), 1001);
    let label = ["route_namespace=\"web\"", "route=\"chat\""];
    assert_eq!(holdfast.metric("holdfast_handshakes_total", &label).await, 1.0);
    route("heartbeat: {client: {interval: 1s}}");
    holdfast
        .wait_for_metric("holdfast_snapshot_generation", &[], |generation| generation == 2.0)
        .await;
    let (mut client, _endpoint) = tunnel_to(holdfast.http, &server).await;
    assert_eq!(client.frame().await.first, 0x80 | PING);
    fs::remove_file(file).unwrap();
}

#[tokio::test]
async fn when_descriptors_run_out_clients_are_told_and_tunnels_go_on() {
    let server = Server::start().await;
    let holdfast = Holdfast::start_with_descriptors(server.address, 300, &["--workers", "2"]).await;
    let mut tunnels = Vec::new();
    // As many as it serves.
    let refusal = loop {
        assert!(tunnels.len() < 300, "more tunnels than descriptors");
        let mut client = Peer::connect(holdfast.http).await;
        client.write(handshake("/", "")).await;
        tokio::select! {
            (endpoint, _) = server.accept() => {
                client.head().await;
                tunnels.push((client, endpoint));
            }
            answer = client.answer() => break answer,
        }
    };
    assert_eq!((refusal.status, refusal.reason()), (503, Some("overload")));
    assert!(tunnels.len() >= 60, "only {}", tunnels.len());
    // A crowd at the door that says nothing: some wait, the rest is sent away, and nothing breaks.
    let mut crowd = Vec::new();
    for _ in 0..100 {
        crowd.push(Peer::connect(holdfast.http).await);
    }
    holdfast
        .wait_for_metric("holdfast_accept_errors_total", &[], |errors| errors >= 90.0)
        .await;
    assert!(holdfast.descriptors() < 300);
    assert_eq!(holdfast.get("/livez").await.status, 200);
    for (client, endpoint) in &mut tunnels {
        client.send(TEXT, "on").await;
        assert_eq!(endpoint.frame().await.payload, b"on");
    }
    assert_eq!(
        holdfast
            .metric("holdfast_endpoint_dials_total", &["result=\"no_source_port\""])
            .await,
        0.0,
        "a socket for a dial was missing"
    );
    // Room again.
    drop(crowd);
    tunnels.truncate(tunnels.len() / 2);
    let left = tunnels.len() as f64;
    holdfast
        .wait_for_metric("holdfast_worker_connections_active", &[], |open| open == left)
        .await;
    for _ in 0..10 {
        tunnels.push(tunnel_to(holdfast.http, &server).await);
    }
}

/// An endpoint that sends every client messages as fast as it can.
async fn pour(listener: TcpListener) {
    let message = frame(BINARY, &[7; 16 * 1024], None);
    loop {
        let (socket, _) = listener.accept().await.unwrap();
        let message = message.clone();
        tokio::spawn(async move {
            let mut peer = Peer::of_endpoint(socket);
            peer.head().await;
            peer.write(switching("")).await;
            while peer.socket.write_all(&message).await.is_ok() {}
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_clients_that_read_nothing_cost_little() {
    raise_descriptors();
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_send_buffer_size(16 * 1024).unwrap(); // kernel memory is not what this is about
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1024).unwrap();
    let endpoint = listener.local_addr().unwrap();
    let pouring = tokio::spawn(pour(listener));
    let holdfast = Holdfast::start(endpoint, &["--workers", "2", "--receive-buffer", "64KiB"]).await;
    let before = (holdfast.memory(), kernel_memory());
    let mut clients = Vec::new();
    for _ in 0..STALLED {
        // Segments as on a network: those of loopback would cost the kernel more than the messages.
        let socket = TcpSocket::new_v4().unwrap();
        socket2::SockRef::from(&socket).set_tcp_mss(1400).unwrap();
        socket.set_recv_buffer_size(16 * 1024).unwrap();
        let mut client = Peer::of_client(socket.connect(holdfast.http).await.unwrap());
        client.write(handshake("/", "")).await;
        clients.push(client);
    }
    holdfast
        .wait_for_metric("holdfast_stalled_connections", &[], |stalled| stalled == STALLED as f64)
        .await;
    let each = (holdfast.memory() - before.0) / STALLED;
    println!(
        "{each} B of user memory for each of {STALLED} stalled tunnels, {} KiB of kernel memory",
        (kernel_memory() - before.1) / 1024 / STALLED
    );
    assert!(each <= 64 * 1024, "{each} B for each stalled tunnel");
    // The process goes on, for them and for others.
    assert_eq!(holdfast.get("/livez").await.status, 200);
    for client in clients.iter_mut().step_by(100) {
        assert!(client.head().await.starts_with("HTTP/1.1 101 "));
        for _ in 0..200 {
            assert_eq!(client.frame().await.payload, [7; 16 * 1024]);
        }
    }
    let mut reader = Peer::connect(holdfast.http).await;
    reader.write(handshake("/", "")).await;
    reader.head().await;
    for _ in 0..200 {
        reader.frame().await;
    }
    assert_eq!(
        ask(holdfast.http, "GET /%zz HTTP/1.1\r\nHost: test\r\n\r\n").await.status,
        400
    );
    pouring.abort();
}

fn raise_descriptors() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    setrlimit(Resource::Nofile, raised).unwrap();
}

/// Bytes that TCP holds in the kernel, of all processes.
fn kernel_memory() -> u64 {
    let text = fs::read_to_string("/proc/net/sockstat").unwrap();
    let line = text.lines().find(|line| line.starts_with("TCP:")).unwrap();
    let pages = line.rsplit_once("mem ").unwrap().1;
    pages.trim().parse::<u64>().unwrap() * 4096
}

const STALLED: u64 = 1000;

#[tokio::test]
async fn a_refusal_during_a_drain_is_told_by_the_process_too() {
    let server = Server::start().await;
    let mut holdfast = Holdfast::start(server.address, &["--drain-delay", "1s", "--drain-window", "2s"]).await;
    let (mut client, mut endpoint) = tunnel_to(holdfast.http, &server).await;
    holdfast.signal(Signal::TERM);
    holdfast.line_with("shutting down").await;
    assert_eq!(
        holdfast.get("/readyz").await.status,
        200,
        "load balancers have not noticed yet"
    );
    drop(tunnel_to(holdfast.http, &server).await);
    while holdfast.get("/readyz").await.status == 200 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let answer = ask(holdfast.http, handshake("/", "")).await;
    assert_eq!((answer.status, answer.reason()), (503, Some("draining")));
    assert_eq!(client.frame().await.code(), 1012);
    client.close(1012).await;
    assert_eq!(endpoint.frame().await.code(), 1001);
    drop((client, endpoint));
    assert_eq!(holdfast.exit_code().await, 0);
}
