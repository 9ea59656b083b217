//! Holdfast as a process that uses a cluster: the way a pod of its Deployment would.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::Command,
    time::Duration,
};

use rustix::process::Signal;

use crate::{
    namespace::Namespace,
    process::Process,
    support::{Answer, PATIENCE, ask, handshake_with},
    traffic::Client,
    wait::{until, within},
};

/// How a replica is to be started.
pub struct Replica {
    name: String,
    namespace: String,
    class: String,
    kubeconfig: PathBuf,
    ip: IpAddr,
    args: Vec<String>,
    env: Vec<(String, String)>,
}

/// A running replica. Killed when dropped; what it said is shown if the test fails.
pub struct Holdfast {
    process: Process,
    pub name: String,
    pub http: SocketAddr,
    /// `None`: it was started without --https.
    pub https: Option<SocketAddr>,
    pub admin: SocketAddr,
    pub live: SocketAddr,
}

impl Replica {
    /// One of the namespace's class, with its Leases in that namespace, as the administrator. `name` is that of its pod.
    pub fn of(namespace: &Namespace, name: &str) -> Self {
        Self {
            name: name.to_owned(),
            namespace: namespace.name().to_owned(),
            class: namespace.class().to_owned(),
            kubeconfig: namespace.kubeconfig().to_owned(),
            ip: Ipv4Addr::LOCALHOST.into(),
            args: Vec::new(),
            env: Vec::new(),
        }
    }

    /// One of an installation of the class `holdfast` in this namespace.
    pub fn installed(namespace: &str, name: &str, kubeconfig: impl Into<PathBuf>) -> Self {
        Self {
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            class: "holdfast".to_owned(),
            kubeconfig: kubeconfig.into(),
            ip: Ipv4Addr::LOCALHOST.into(),
            args: Vec::new(),
            env: Vec::new(),
        }
    }

    /// As whom it talks to the API server, or to which one.
    pub fn kubeconfig(mut self, file: impl Into<PathBuf>) -> Self {
        self.kubeconfig = file.into();
        self
    }

    /// Another class than the namespace's.
    pub fn class(mut self, class: &str) -> Self {
        class.clone_into(&mut self.class);
        self
    }

    /// The address that it listens on, instead of loopback.
    pub fn ip(mut self, ip: IpAddr) -> Self {
        self.ip = ip;
        self
    }

    pub fn args(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(ToString::to_string));
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts it, and returns when it is ready.
    pub async fn start(self) -> Holdfast {
        let holdfast = self.launch().await;
        holdfast.until_ready().await;
        holdfast
    }

    /// Starts it, and returns when it listens.
    pub async fn launch(self) -> Holdfast {
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("HOLDFAST_")) {
            command.env_remove(name); // what the machine that runs the tests has set must not matter
        }
        let any_port = SocketAddr::new(self.ip, 0).to_string();
        command
            .env("KUBECONFIG", &self.kubeconfig)
            .env("POD_NAME", &self.name)
            .env("POD_NAMESPACE", &self.namespace)
            .envs(self.env)
            .args([
                "--class",
                &self.class,
                "--workers",
                "1",
                "--http",
                &any_port,
                "--admin",
                &any_port,
                "--live",
                "127.0.0.1:0",
            ])
            .args(&self.args);
        let process = Process::spawn(&self.name, &mut command);
        let line = process.line_with(" serving ").await;
        Holdfast {
            process,
            name: self.name,
            http: address(&line, "http="),
            https: line.contains(" https=").then(|| address(&line, "https=")),
            admin: address(&line, "admin="),
            live: address(&line, "live="),
        }
    }
}

impl Holdfast {
    /// Waits until it says that it is ready.
    pub async fn until_ready(&self) {
        until(&format!("{} is ready", self.name), async || {
            let answer = self.get("/readyz").await;
            if answer.status == 200 {
                Ok(())
            } else {
                Err(answer.text().to_owned())
            }
        })
        .await;
    }

    /// An answer of the admin listener.
    pub async fn get(&self, path: &str) -> Answer {
        ask(self.admin, plain("test", path)).await
    }

    /// The answer to a plain request.
    pub async fn plain(&self, host: &str, path: &str) -> Answer {
        ask(self.http, plain(host, path)).await
    }

    /// The answer to a handshake that gets no 101.
    pub async fn refused(&self, host: &str, path: &str) -> Answer {
        ask(self.http, handshake_with(host, path, "Connection: close\r\n")).await
    }

    /// Opens a tunnel. [`Client::header`] knows which [`Echo`](crate::endpoint::Echo) it leads to: `x-echo-endpoint`.
    pub async fn open(&self, host: &str, path: &str) -> Client {
        Client::open_by(self.http, &handshake_with(host, path, "")).await
    }

    /// Waits until handshakes are answered with this status and, where it is not 101, this reason.
    pub async fn until_answer(&self, host: &str, path: &str, status: u16, reason: Option<&str>) {
        until(&format!("{host}{path} is answered {status} {reason:?}"), async || {
            let head = self.head(host, path).await;
            let is_status = head.starts_with(&format!("HTTP/1.1 {status} "));
            let is_reason = reason.is_none_or(|reason| head.contains(&format!("details=\"{reason}\"")));
            if is_status && is_reason { Ok(()) } else { Err(head) }
        })
        .await;
    }

    /// Waits until tunnels lead to this endpoint.
    pub async fn until_endpoint(&self, host: &str, path: &str, name: &str) {
        let wanted = format!("\r\nX-Echo-Endpoint: {name}\r\n");
        until(&format!("{host}{path} leads to {name}"), async || {
            let head = self.head(host, path).await;
            if head.contains(&wanted) { Ok(()) } else { Err(head) }
        })
        .await;
    }

    /// The endpoints that so many new tunnels lead to, each once.
    pub async fn endpoints(&self, host: &str, path: &str, tunnels: usize) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        for _ in 0..tunnels {
            let client = self.open(host, path).await;
            names.insert(client.header("x-echo-endpoint").unwrap().to_owned());
        }
        names
    }

    /// The series of a metric, each as in a scrape.
    pub async fn series(&self, name: &str) -> Vec<String> {
        let answer = self.get("/metrics").await;
        let is_of = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
        answer.text().lines().filter(is_of).map(str::to_owned).collect()
    }

    /// The sum of a metric's series that have all of `labels`.
    pub async fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let series = self.series(name).await;
        let wanted = series.iter().filter(|line| labels.iter().all(|label| line.contains(label)));
        wanted
            .map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap())
            .sum()
    }

    /// The next line of its log or of its access log that has `text` in it.
    pub async fn line_with(&self, text: &str) -> String {
        self.process.line_with(text).await
    }

    /// A line of its log that has all of these words in it; it may have been said before.
    pub async fn said(&self, words: &[&str]) -> String {
        self.said_within(PATIENCE, words).await
    }

    /// The same with another limit.
    pub async fn said_within(&self, limit: Duration, words: &[&str]) -> String {
        within(limit, &format!("{} says {words:?}", self.name), async || {
            let lines = self.lines().into_iter();
            let mut said = lines.filter(|line| words.iter().all(|word| line.contains(word)));
            said.next().ok_or("not said")
        })
        .await
    }

    /// Everything that it has said so far.
    pub fn lines(&self) -> Vec<String> {
        self.process.lines()
    }

    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Waits for its end. Panics if a signal ended it.
    pub async fn exit_code(&mut self) -> i32 {
        self.process.exit_code().await
    }

    /// Ends it without a word to anybody.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// The head of the answer to a handshake, on a connection that ends then.
    pub async fn head(&self, host: &str, path: &str) -> String {
        let mut peer = crate::support::Peer::connect(self.http).await;
        peer.write(handshake_with(host, path, "")).await;
        peer.head().await
    }
}

fn address(line: &str, key: &str) -> SocketAddr {
    let word = line.split_whitespace().find_map(|word| word.strip_prefix(key));
    word.unwrap_or_else(|| panic!("{line}")).parse().unwrap()
}

fn plain(host: &str, path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
}
