//! Drives the real binary: what each command prints where, its exit code, and how it takes signals.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// Long enough for a busy machine; only a failing test waits for it.
const PATIENCE: Duration = Duration::from_secs(30);

fn holdfast(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    // What the machine that runs the tests has set must not matter.
    for name in [
        "NO_COLOR",
        "CLICOLOR_FORCE",
        "TERM",
        "COLUMNS",
        "LC_ALL",
        "LC_CTYPE",
        "LANG",
        "POD_NAME",
    ] {
        command.env_remove(name);
    }
    command.args(args).stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> Output {
    holdfast(args).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// A command that runs for a while, read line by line; killed when dropped.
struct Running {
    child: Child,
    lines: Receiver<String>,
}

impl Running {
    fn start(args: &[&str]) -> Self {
        let mut child = holdfast(args).stdout(Stdio::piped()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (send, lines) = channel();
        thread::spawn(move || out.lines().map_while(Result::ok).all(|line| send.send(line).is_ok()));
        Self { child, lines }
    }

    /// An echo endpoint and the address it got.
    fn echo(args: &[&str]) -> (Self, String) {
        let echo = Self::start(&[&["echo", "--listen", "127.0.0.1:0"], args].concat());
        let address = echo.address();
        (echo, address)
    }

    fn address(&self) -> String {
        let line = self.line_with("listening on ws://");
        line.split_once("ws://").unwrap().1.split(' ').next().unwrap().to_owned()
    }

    /// The next line that holds `text`.
    fn line_with(&self, text: &str) -> String {
        loop {
            let line = self
                .lines
                .recv_timeout(PATIENCE)
                .unwrap_or_else(|_| panic!("no line with {text:?}"));
            if line.contains(text) {
                return line;
            }
        }
    }

    fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    }

    fn exit_code(mut self) -> i32 {
        self.child.wait().unwrap().code().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A server that gives each connection one fixed answer to its request, and ends it.
fn answering(answer: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            read_head(&mut stream);
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    url
}

fn read_head(stream: &mut TcpStream) -> String {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

/// A raw WebSocket to an echo endpoint.
fn upgraded(address: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    let request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    assert!(read_head(&mut stream).starts_with("HTTP/1.1 101 "));
    stream
}

/// The server's side of the next client's WebSocket.
fn accepted(listener: &TcpListener) -> TcpStream {
    let (mut stream, _) = listener.accept().unwrap();
    let head = read_head(&mut stream);
    let key = head
        .lines()
        .find_map(|line| line.strip_prefix("Sec-WebSocket-Key: "))
        .unwrap();
    let accept = derive_accept_key(key.as_bytes());
    let head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ";
    stream.write_all(format!("{head}{accept}\r\n\r\n").as_bytes()).unwrap();
    stream
}

/// A short client frame; the mask is zero, so the payload shows as it is.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first, 0x80 | u8::try_from(payload.len()).unwrap(), 0, 0, 0, 0];
    frame.extend_from_slice(payload);
    frame
}

fn expect(stream: &mut TcpStream, bytes: &[u8]) {
    let mut read = vec![0; bytes.len()];
    stream.read_exact(&mut read).unwrap();
    assert_eq!(read, bytes);
}

#[test]
fn ping_and_echo_agree() {
    let (echo, address) = Running::echo(&["--name", "one"]);
    let output = run(&[
        "ping",
        "-c",
        "3",
        "-i",
        "1ms",
        "--size",
        "70000",
        &format!("ws://{address}/chat?token=secret"),
    ]);
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(text.starts_with("ok open     101 in "), "{text}");
    assert!(text.lines().next().unwrap().ends_with(", endpoint one"), "{text}");
    assert!(text.contains("ok closed   1000 after "), "{text}");
    assert!(text.contains("ok 3 sent, 3 received, 0 lost; RTT min/avg/max "), "{text}");
    assert!(!text.contains('\x1b'), "{text:?}");
    assert!(echo.line_with("opened").ends_with(" /chat"), "the query is not logged");
    assert!(echo.line_with("ended").contains("closed 1000; 3 messages, 210000 bytes"));
    echo.signal("TERM");
    assert_eq!(echo.exit_code(), 0);
}

#[test]
fn ping_answers_in_one_document() {
    let (_echo, address) = Running::echo(&["--subprotocol", "any", "--name", "one"]);
    let url = format!("ws://{address}/");
    let answer = json(&run(&[
        "ping",
        "-c",
        "2",
        "-i",
        "1ms",
        "-o",
        "json",
        "--subprotocol",
        "a",
        &url,
    ]));
    assert_eq!(answer["version"], 1);
    assert_eq!(
        (&answer["sent"], &answer["received"], &answer["lost"]),
        (&2.into(), &2.into(), &0.into())
    );
    assert_eq!(answer["connections"][0]["echo.endpoint"], "one");
    assert_eq!(answer["connections"][0]["holdfast.close.client.code"], 1000);
}

#[test]
fn ping_shows_the_headers_and_asks_for_colour() {
    let (_echo, address) = Running::echo(&["--subprotocol", "b"]);
    let url = format!("ws://{address}/");
    let args = ["ping", "-c", "1", "-v", "--subprotocol", "a", "--subprotocol", "b", &url];
    let output = holdfast(&args)
        .env("CLICOLOR_FORCE", "1")
        .env("LANG", "C.UTF-8")
        .output()
        .unwrap();
    let text = stdout(&output);
    assert!(text.contains("sec-websocket-protocol: b\n"), "{text}");
    assert!(text.starts_with("\x1b[32m✓\x1b[0m  open "), "{text:?}");
    let plain = holdfast(&args)
        .env("CLICOLOR_FORCE", "1")
        .env("NO_COLOR", "1")
        .output()
        .unwrap();
    assert!(!stdout(&plain).contains('\x1b'));
    let asked = holdfast(&[&args[..], &["--color", "always"]].concat())
        .env("NO_COLOR", "1")
        .output()
        .unwrap();
    assert!(stdout(&asked).contains('\x1b'));
}

#[test]
fn ping_says_why_it_was_refused_and_what_explains_it() {
    let url = answering(
        "HTTP/1.1 503 Service Unavailable\r\nProxy-Status: holdfast; error=destination_unavailable; \
         details=\"no_ready_endpoint\"\r\nContent-Length: 21\r\n\r\nNo endpoint is ready.",
    );
    let output = run(&["ping", &url]);
    assert_eq!(output.status.code(), Some(1));
    let text = stdout(&output);
    assert!(text.starts_with("xx refused  503 Service Unavailable\n"), "{text}");
    assert!(text.contains("No endpoint is ready.\n"), "{text}");
    assert!(text.ends_with("holdfast explain no_ready_endpoint\n"), "{text}");
    let answer = json(&run(&["ping", "-o", "json", &url]));
    assert_eq!(answer["connections"][0]["error.type"], "no_ready_endpoint");
}

#[test]
fn ping_checks_the_accept_key() {
    let url = answering(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: no\r\n\r\n",
    );
    let output = run(&["ping", &url]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(stdout(&output).starts_with("xx refused "), "{output:?}");
}

#[test]
fn ping_counts_a_close_before_the_end_as_bad() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    thread::spawn(move || {
        let mut stream = accepted(&listener);
        stream.write_all(b"\x88\x05\x0f\xa1abc").unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let output = run(&["ping", "-c", "5", &url]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(stdout(&output).contains("4001 \"abc\" after "), "{output:?}");
}

#[test]
fn ping_refuses_what_it_cannot_do_before_it_dials() {
    for (args, message) in [
        (&["ping", "wss://localhost/", "--cacert", "Cargo.toml"][..], "no certificate"),
        (&["ping", "localhost:8080"], "write it as ws://HOST[:PORT][/PATH]"),
        (&["ping", "ws://a/", "-H", "nonsense"], "write it as 'Name: value'"),
        (&["ping", "ws://a/", "--interval", "often"], "write it as 500ms, 1s or 1m30s"),
        (&["ping", "ws://a/", "--size", "17000000"], "at most 16777216"),
        (&["echo", "--listen", "nowhere"], "--listen"),
        (&["completion", "cmd.exe"], "possible values"),
        (&["no-such-command"], "no-such-command"),
    ] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {output:?}");
        assert!(stderr(&output).contains(message), "{args:?}: {}", stderr(&output));
        assert!(output.stdout.is_empty(), "{args:?}");
    }
}

#[test]
fn ping_names_an_unknown_host_and_does_not_try_for_ever() {
    // No name has a label this long, so that no name server needs to be asked.
    let host = "a".repeat(64) + ".invalid";
    let output = run(&["ping", "--count", "0", &format!("ws://{host}/")]);
    assert_eq!(output.status.code(), Some(1));
    let text = stdout(&output);
    assert!(text.starts_with(&format!("xx refused  cannot resolve {host}: ")), "{text}");
    assert!(text.trim_end().ends_with("check the name"), "{text}");
}

#[test]
fn ping_reconnects_and_says_what_the_end_was() {
    let (echo, address) = Running::echo(&[]);
    let ping = Running::start(&["ping", "--count", "0", "-i", "5ms", &format!("ws://{address}/")]);
    ping.line_with(" open ");
    ping.line_with("3 ");
    echo.signal("TERM");
    assert!(ping.line_with("closed").contains("1001 \"endpoint is stopping\""));
    assert_eq!(echo.exit_code(), 0);
    ping.line_with("refused");
    let _again = Running::start(&["echo", "--quiet", "--listen", &address]);
    assert!(ping.line_with(" open ").contains("; reconnect 1 after "));
    ping.line_with(" ms");
    ping.signal("INT");
    ping.line_with("closed   1000");
    let sum = ping.line_with(" sent, ");
    assert!(
        sum.contains("; 1 reconnect, ") && sum.ends_with("; ends 1000 (1), 1001 (1)"),
        "{sum}"
    );
    // One that was on its way when the endpoint stopped may be lost, and the exit code says so.
    assert_eq!(ping.exit_code(), i32::from(!sum.contains(", 0 lost")), "{sum}");
}

#[test]
fn a_second_interrupt_ends_ping_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    let ping = Running::start(&["ping", "--count", "0", &url]);
    let mut stream = accepted(&listener);
    ping.line_with(" open ");
    ping.signal("INT");
    // Its Close arrives, and is never answered. All its frames are short and masked.
    let mut header = [0; 6];
    while header[0] != 0x88 {
        stream.read_exact(&mut header).unwrap();
        stream.read_exact(&mut vec![0; usize::from(header[1] & 0x7f)]).unwrap();
    }
    ping.signal("INT");
    assert_eq!(ping.exit_code(), 130);
}

#[test]
fn echo_puts_fragments_together_answers_pings_and_returns_the_close() {
    let (_echo, address) = Running::echo(&[]);
    let mut stream = upgraded(&address);
    stream.write_all(&frame(0x01, b"he")).unwrap();
    stream.write_all(&frame(0x89, b"p")).unwrap();
    stream.write_all(&frame(0x80, b"llo")).unwrap();
    stream.write_all(&frame(0x82, &[0, 255])).unwrap();
    expect(&mut stream, b"\x8a\x01p\x81\x05hello\x82\x02\x00\xff");
    stream.write_all(&frame(0x88, b"\x0f\xa1bye")).unwrap();
    expect(&mut stream, b"\x88\x05\x0f\xa1bye");
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
}

#[test]
fn echo_says_1001_when_it_stops() {
    let (echo, address) = Running::echo(&[]);
    let mut stream = upgraded(&address);
    echo.signal("INT");
    expect(&mut stream, b"\x88\x16\x03\xe9endpoint is stopping");
    assert_eq!(echo.exit_code(), 0);
}

#[test]
fn echo_is_several_endpoints_that_say_who_they_are() {
    let args = ["echo", "--listen", "127.0.0.1:0", "--listen", "127.0.0.1:0", "--name", "one"];
    let echo = Running::start(&args);
    let (one, two) = (echo.address(), echo.address());
    for (address, name) in [
        (&one, "one".to_owned()),
        (&two, format!("echo-{}", two.split_once(':').unwrap().1)),
    ] {
        let mut stream = TcpStream::connect(address).unwrap();
        for _ in 0..2 {
            stream
                .write_all(b"POST /x HTTP/1.1\r\nX-Forwarded-For: 192.0.2.1\r\nContent-Length: 2\r\n\r\nhi")
                .unwrap();
            let head = read_head(&mut stream);
            assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
            assert!(head.contains(&format!("X-Echo-Endpoint: {name}\r\n")), "{head}");
            let body = format!("endpoint {name}\nPOST /x\nx-forwarded-for: 192.0.2.1\ncontent-length: 2\n");
            expect(&mut stream, body.as_bytes());
        }
    }
}

#[test]
fn echo_goes_on_when_nobody_reads_what_it_says() {
    let mut child = holdfast(&["echo", "--listen", "127.0.0.1:0"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    let address = line.split_once("ws://").unwrap().1.split(' ').next().unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    // One line each: more than the pipe and the queue together hold.
    for _ in 0..10_000 {
        stream.write_all(b"HEAD / HTTP/1.1\r\n\r\n").unwrap();
        read_head(&mut stream);
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn echo_names_the_address_it_cannot_have() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = run(&["echo", "--listen", &address]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).starts_with(&format!("error: cannot listen on {address}: ")),
        "{output:?}"
    );
}

#[test]
fn explain_knows_a_word_in_any_spelling() {
    let text = stdout(&run(&["explain", "NoReadyEndpoint"]));
    assert!(text.starts_with("no_ready_endpoint  ("), "{text}");
    assert!(
        text.contains("client sees    503 Service Unavailable, Retry-After, Proxy-Status: holdfast; "),
        "{text}"
    );
    assert_eq!(text.lines().count(), 7, "piped text is not wrapped: {text}");
    assert_eq!(text, stdout(&run(&["explain", "no-ready-endpoint"])));
    assert_eq!(
        json(&run(&["explain", "internal", "-o", "json"]))["words"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
}

#[test]
fn explain_lists_all_words_and_suggests_near_ones() {
    let list = run(&["explain"]);
    assert_eq!(list.status.code(), Some(0));
    for word in ["no_route", "endpoint_gone", "Programmed", "Shadowed"] {
        assert!(
            stdout(&list).lines().any(|line| line.trim_start().starts_with(word)),
            "{word}"
        );
    }
    let unknown = run(&["explain", "no_root"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(unknown.stdout.is_empty());
    assert!(stderr(&unknown).contains("did you mean no_route"), "{}", stderr(&unknown));
}

#[test]
fn a_reader_that_left_gets_no_panic() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = holdfast(&["explain"]).stdout(writer).stderr(Stdio::piped()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stderr(&output), "");
}

#[test]
fn completion_and_version_answer() {
    for shell in ["bash", "zsh", "fish"] {
        let script = stdout(&run(&["completion", shell]));
        assert!(script.contains("holdfast") && script.contains("explain"), "{shell}");
    }
    let version = env!("CARGO_PKG_VERSION");
    assert!(stdout(&run(&["version", "--client"])).starts_with(&format!("holdfast {version}")));
    let answer = json(&run(&["version", "--client", "-o", "json"]));
    assert_eq!((&answer["version"], &answer["service.version"]), (&1.into(), &version.into()));
    let yaml = stdout(&run(&["version", "--client", "-o", "yaml"]));
    assert!(yaml.starts_with("version: 1\n"), "{yaml}");
}
