//! The real binary in front of one endpoint: its addresses, metrics, signals and memory. Killed when dropped.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
    time::{sleep, timeout},
};

use crate::support::{Answer, PATIENCE, ask};

/// A process that serves.
pub struct Holdfast {
    child: Child,
    log: UnboundedReceiver<String>,
    pub http: SocketAddr,
    /// Port 0 without --https.
    pub https: SocketAddr,
    pub admin: SocketAddr,
    pub live: SocketAddr,
}

impl Holdfast {
    /// Starts it without access lines, and returns when it is ready.
    pub async fn start(endpoint: SocketAddr, more: &[&str]) -> Self {
        let mut command = command(endpoint, more);
        command.arg("--access-log").arg("off").stdout(Stdio::null());
        Self::spawn(command).await.0
    }

    /// Starts it on a folder of manifests.
    pub async fn start_folder(folder: &Path, more: &[&str]) -> Self {
        let mut command = bare(more);
        command.arg("--manifests").arg(folder);
        command.arg("--access-log").arg("off").stdout(Stdio::null());
        Self::spawn(command).await.0
    }

    /// Starts it with access lines on a pipe that the caller may read.
    pub async fn start_talking(endpoint: SocketAddr, more: &[&str]) -> (Self, ChildStdout) {
        let mut command = command(endpoint, more);
        command.stdout(Stdio::piped());
        let (holdfast, stdout) = Self::spawn(command).await;
        (holdfast, stdout.unwrap())
    }

    /// Starts it with no more than `descriptors` files and sockets.
    pub async fn start_with_descriptors(endpoint: SocketAddr, descriptors: u32, more: &[&str]) -> Self {
        let inner = command(endpoint, more);
        let mut command = Command::new("sh");
        command.args(["-c", &format!("ulimit -n {descriptors} && exec \"$@\""), "sh"]);
        command.arg(inner.get_program()).args(inner.get_args());
        command.arg("--access-log").arg("off").stdout(Stdio::null());
        for (name, _) in inner.get_envs() {
            command.env_remove(name);
        }
        Self::spawn(command).await.0
    }

    async fn spawn(mut command: Command) -> (Self, Option<ChildStdout>) {
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (send, log) = unbounded_channel();
        thread::spawn(move || lines.map_while(Result::ok).all(|line| send.send(line).is_ok()));
        let stdout = child.stdout.take();
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut holdfast = Self {
            child,
            log,
            http: nowhere,
            https: nowhere,
            admin: nowhere,
            live: nowhere,
        };
        let line = holdfast.line_with(" serving ").await;
        holdfast.http = address(&line, "http=");
        if line.contains(" https=") {
            holdfast.https = address(&line, "https=");
        }
        holdfast.admin = address(&line, "admin=");
        holdfast.live = address(&line, "live=");
        let started = Instant::now();
        while holdfast.get("/readyz").await.status != 200 {
            assert!(started.elapsed() < PATIENCE, "it does not get ready");
            sleep(POLL).await;
        }
        (holdfast, stdout)
    }

    /// The next line of its log that has `text` in it.
    pub async fn line_with(&mut self, text: &str) -> String {
        let found = async {
            while let Some(line) = self.log.recv().await {
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

    /// A subcommand that asks it; what it prints, and its exit code.
    pub async fn command(&self, args: &[&str]) -> (String, i32) {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_holdfast"));
        command.args(args).env("HOLDFAST_LIVE", self.live.to_string());
        let output = timeout(PATIENCE, command.output()).await.unwrap().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        (text, output.status.code().unwrap())
    }

    /// An answer of the admin listener.
    pub async fn get(&self, path: &str) -> Answer {
        ask(
            self.admin,
            format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"),
        )
        .await
    }

    /// The sum of a metric's series that have all of `labels`.
    pub async fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        self.get("/metrics").await.into_scrape().sum(name, labels)
    }

    /// Waits until a metric has a value.
    pub async fn wait_for_metric(&self, name: &str, labels: &[&str], wanted: impl Fn(f64) -> bool) {
        let started = Instant::now();
        loop {
            let value = self.metric(name, labels).await;
            if wanted(value) {
                return;
            }
            assert!(started.elapsed() < PATIENCE, "{name}{labels:?} is {value}");
            sleep(10 * POLL).await;
        }
    }

    /// Bytes of user memory, shared pages by their share.
    pub fn memory(&self) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.child.id())).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
        let kib: u64 = line.trim().strip_suffix(" kB").unwrap().parse().unwrap();
        kib * 1024
    }

    /// Files and sockets that it has open.
    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }
}

impl Drop for Holdfast {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(endpoint: SocketAddr, more: &[&str]) -> Command {
    let mut command = bare(more);
    command.arg("--to").arg(endpoint.to_string());
    command
}

fn bare(more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("HOLDFAST_")) {
        command.env_remove(name); // what the machine that runs the tests has set must not matter
    }
    if !more.contains(&"--http") {
        command.args(["--http", "127.0.0.1:0"]);
    }
    command.args(["--admin", "127.0.0.1:0", "--live", "127.0.0.1:0"]).args(more);
    command
}

fn address(line: &str, key: &str) -> SocketAddr {
    let word = line.split_whitespace().find_map(|word| word.strip_prefix(key));
    word.unwrap_or_else(|| panic!("{line}")).parse().unwrap()
}

/// Between two looks at something that is going to change.
const POLL: Duration = Duration::from_millis(5);
