//! The real binary on a folder: its addresses, its log, its signals, its memory. Killed when dropped.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
    time::{sleep, timeout},
};

use crate::support::{PATIENCE, Scrape, ask};

/// A process that serves.
pub struct Holdfast {
    child: Child,
    lines: UnboundedReceiver<String>,
    pub http: SocketAddr,
    /// `None`: it was started without --https.
    pub https: Option<SocketAddr>,
    pub admin: SocketAddr,
}

impl Holdfast {
    /// Starts it without access lines, and returns when it is ready.
    pub async fn start(folder: &Path, more: &[&str]) -> Self {
        Self::writing_to(Stdio::null(), folder, &[&["--access-log", "off"], more].concat()).await
    }

    /// Starts it with its access lines going somewhere.
    pub async fn writing_to(out: Stdio, folder: &Path, more: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("HOLDFAST_")) {
            command.env_remove(name); // what the machine that runs the tests has set must not matter
        }
        command
            .env("POD_NAME", "pod-1")
            .arg("--manifests")
            .arg(folder)
            .args(ARGUMENTS)
            .args(more);
        command.stdin(Stdio::null()).stdout(out).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let (send, lines) = unbounded_channel();
        thread::spawn(move || log.lines().map_while(Result::ok).all(|line| send.send(line).is_ok()));
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut holdfast = Self {
            child,
            lines,
            http: nowhere,
            https: None,
            admin: nowhere,
        };
        let line = holdfast.line_with("serving").await;
        holdfast.http = address(&line, "http");
        holdfast.https = line.contains("https").then(|| address(&line, "https"));
        holdfast.admin = address(&line, "admin");
        eventually("ready", async || holdfast.get("/readyz").await == 200).await;
        holdfast
    }

    /// The next line of its log that has `text` in it.
    pub async fn line_with(&mut self, text: &str) -> String {
        let found = async {
            while let Some(line) = self.lines.recv().await {
                if line.contains(text) {
                    return line;
                }
            }
            panic!("the log ended without {text:?}");
        };
        timeout(PATIENCE, found)
            .await
            .unwrap_or_else(|_| panic!("no line with {text:?}"))
    }

    /// Forgets what the log has said so far.
    pub fn skip_lines(&mut self) {
        while self.lines.try_recv().is_ok() {}
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end. Panics if a signal ended it.
    pub async fn exit_code(&mut self) -> i32 {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().unwrap_or_else(|| panic!("{status}"));
            }
            assert!(started.elapsed() < PATIENCE, "it does not end");
            sleep(POLL).await;
        }
    }

    /// The status of the admin listener's answer.
    pub async fn get(&self, path: &str) -> u16 {
        ask(self.admin, plain(path)).await.status
    }

    /// The status of the answer to a plain request.
    pub async fn plain(&self, path: &str) -> u16 {
        ask(self.http, plain(path)).await.status
    }

    /// The series of a metric, each as in a scrape.
    pub async fn series(&self, name: &str) -> Vec<String> {
        self.scrape().await.series(name).map(str::to_owned).collect()
    }

    /// The sum of a metric's series that have all of `labels`.
    pub async fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        self.scrape().await.sum(name, labels)
    }

    async fn scrape(&self) -> Scrape {
        ask(self.admin, plain("/metrics")).await.into_scrape()
    }

    /// Resident bytes, shared pages by their share.
    pub fn memory(&self) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.child.id())).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
        let kib: u64 = line.trim().strip_suffix(" kB").unwrap().parse().unwrap();
        kib * 1024
    }
}

impl Drop for Holdfast {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until something is so.
pub async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !is_so().await {
        assert!(started.elapsed() < PATIENCE, "never: {what}");
        sleep(POLL).await;
    }
}

/// What a line of text or of JSON has under a key.
fn address(line: &str, key: &str) -> SocketAddr {
    let text = line.split_once(&format!(" {key}="));
    let (_, rest) = text
        .or(line.split_once(&format!("\"{key}\":\"")))
        .unwrap_or_else(|| panic!("{line}"));
    rest.split([' ', '"']).next().unwrap().parse().unwrap()
}

fn plain(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
}

const ARGUMENTS: [&str; 8] = [
    "--http",
    "127.0.0.1:0",
    "--admin",
    "127.0.0.1:0",
    "--live",
    "127.0.0.1:0",
    "--workers",
    "2",
];

/// Between two looks at something that is going to change.
const POLL: Duration = Duration::from_millis(5);
