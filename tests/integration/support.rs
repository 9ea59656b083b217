//! The data plane as it runs, between clients and endpoints that a test writes byte by byte.

use std::{
    fs,
    io::{self, Write},
    net::SocketAddr,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use futures::FutureExt;
use holdfast::{
    drain::{self, Trigger},
    proxy::{
        KeepAlive, Limit, Proxy, Running, Settings, Trust,
        metrics::{Collector, Metrics},
        recent::Entry,
        record::Recorder,
        view::{Filter, Wanted},
    },
    routing::{
        Backend, BackendTls, Certificates, Endpoint, EndpointCell, EndpointKey, EndpointSet, ObjectName, Published, Rule, RuleId,
        ServicePort, Snapshot, Table, Tickets,
        endpoint::State,
        filter::Filters,
        forwarded::Forwarded,
        health::Passive,
        limits::Limits,
        retry::Retry,
        route::{Balancing, Fallback, Heartbeat, Heartbeats, Persistence, Timeouts},
        security::Security,
        table::{Match, PathMatch, RouteSpec, RuleSpec},
        tunnel_limits::{SideLimits, TunnelLimits},
    },
    telemetry::{Flush, Lines, LogFormat},
};
use prometheus::{Encoder, TextEncoder, core::Collector as _};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// Long enough for anything that is going to happen.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A socket that has accepted nothing for this long accepts nothing: its other end is not read.
const STUCK: Duration = Duration::from_millis(700);

/// A running data plane.
pub struct Gateway {
    pub address: SocketAddr,
    pub https: SocketAddr,
    _running: Running,
    pub trigger: Trigger,
    published: Published,
    /// The keys of its session tickets.
    pub tickets: Tickets,
    /// Published with the next rules.
    pub certificates: Certificates,
    collector: Collector,
    log: Log,
    _flush: Flush,
    blocker: Option<drain::Blocker>,
}

impl Gateway {
    /// One worker, default settings.
    pub fn start(rules: Vec<RuleSpec>) -> Self {
        Self::with(rules, |_| {})
    }

    pub fn with(rules: Vec<RuleSpec>, change: impl FnOnce(&mut Settings)) -> Self {
        let log = Log::default();
        let (lines, flush) = Lines::new("records", log.clone(), 64 * 1024).unwrap();
        let mut gateway = Self::recording_to(Some(lines), flush, change);
        gateway.log = log;
        gateway.publish(rules);
        gateway
    }

    /// One whose records go somewhere else.
    pub fn recording_to(lines: Option<Lines>, flush: Flush, change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = settings();
        change(&mut settings);
        let published: Published = Arc::new(ArcSwap::from_pointee(Snapshot::default()));
        let metrics = Arc::new(Metrics::new(settings.workers));
        let recorder = Arc::new(Recorder::new(lines, LogFormat::Json, None));
        let (trigger, watch, blocker) = drain::new();
        let tickets = Tickets::default();
        let proxy = Proxy::bind(settings, "127.0.0.1:0".parse().unwrap()).unwrap();
        let proxy = proxy.with_https("127.0.0.1:0".parse().unwrap(), tickets.clone()).unwrap();
        let address = proxy.address();
        let https = proxy.https_address().unwrap();
        let running = proxy
            .start(Arc::clone(&published), Arc::clone(&recorder), Arc::clone(&metrics), watch)
            .unwrap();
        let collector = Collector {
            metrics,
            published: Arc::clone(&published),
            recorder,
            per_endpoint: true,
        };
        Self {
            address,
            https,
            _running: running,
            trigger,
            published,
            tickets,
            certificates: Certificates::default(),
            collector,
            log: Log::default(),
            _flush: flush,
            blocker: Some(blocker),
        }
    }

    pub fn publish(&self, rules: Vec<RuleSpec>) {
        let route = RouteSpec {
            name: name("route"),
            created: 0,
            hostnames: Vec::new(),
            rules,
        };
        let (table, _) = Table::build(vec![route]);
        let generation = self.published.load().generation + 1;
        self.published.store(Arc::new(Snapshot {
            generation,
            table,
            certificates: self.certificates.clone(),
        }));
    }

    /// What ended lately, newest first, by what is remembered of it.
    pub async fn recent(&self) -> Vec<Entry> {
        let wanted = Wanted { limit: 100, after: None };
        self._running.view.ends(Filter::default(), wanted).await.of.entries
    }

    /// Begins a drain.
    pub fn drain(&mut self, window: Duration) {
        self.blocker = None;
        self.trigger.close(window);
    }

    /// The next record of an event (`opened`, `ended`, `refused`, `answered`) that no call has returned before.
    pub async fn record(&self, event: &str) -> Value {
        let (log, event) = (self.log.clone(), event.to_owned());
        tokio::task::spawn_blocking(move || log.take(&event)).await.unwrap()
    }

    /// All records of an event so far that no call has returned.
    pub fn records(&self, event: &str) -> Vec<Value> {
        let records = self.log.0.0.lock().unwrap();
        let of_event = records.iter().filter(|record| is_event(record, event));
        of_event.cloned().collect()
    }

    /// A metric's value, by the text of its series without its name's labels being in order: all of `labels` must be there.
    pub fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        Scrape(self.metrics()).sum(name, labels)
    }

    /// Waits until a metric has a value.
    pub async fn wait_for_metric(&self, name: &str, labels: &[&str], wanted: impl Fn(f64) -> bool) {
        let started = Instant::now();
        while !wanted(self.metric(name, labels)) {
            assert!(
                started.elapsed() < PATIENCE,
                "{name}{labels:?} is {}",
                self.metric(name, labels)
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until a tunnel is ending: nothing outside shows that yet, so this is several rounds of the sweep.
    pub async fn wait_for_ending(&self) {
        tokio::time::sleep(Duration::from_secs(6)).await;
    }

    pub fn metrics(&self) -> String {
        let mut out = Vec::new();
        TextEncoder::new().encode(&self.collector.collect(), &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }
}

pub fn settings() -> Settings {
    Settings {
        workers: 1,
        trust: Trust::default(),
        https_redirect: false,
        ejections: None,
        static_root: None,
        limit: Limit {
            connections: 10_000,
            reserve: 100,
        },
        receive_buffer: 256 * 1024,
        queue_budget: 64 << 20,
        recent_ends: 1000,
        client_keepalive: KeepAlive {
            idle: Duration::from_secs(45),
            interval: Duration::from_secs(15),
            probes: 3,
        },
        endpoint_keepalive: KeepAlive {
            idle: Duration::from_secs(15),
            interval: Duration::from_secs(5),
            probes: 3,
        },
    }
}

/// Records as they are written.
#[derive(Clone, Default)]
struct Log(Arc<(Mutex<Vec<Value>>, Condvar)>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let lines = String::from_utf8(bytes.to_vec()).unwrap();
        let records = lines
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")));
        self.0.0.lock().unwrap().extend(records);
        self.0.1.notify_all();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn take(&self, event: &str) -> Value {
        let (records, changed) = &*self.0;
        let started = Instant::now();
        let mut records = records.lock().unwrap();
        loop {
            if let Some(at) = records.iter().position(|record| is_event(record, event)) {
                return records.remove(at);
            }
            assert!(started.elapsed() < PATIENCE, "no record {event}; there are {records:#?}");
            records = changed.wait_timeout(records, Duration::from_millis(100)).unwrap().0;
        }
    }
}

fn is_event(record: &Value, event: &str) -> bool {
    record["event.name"].as_str().is_some_and(|name| name.ends_with(event))
}

pub fn name(name: &str) -> ObjectName {
    ObjectName {
        namespace: "test".into(),
        name: name.into(),
    }
}

/// A rule for path prefix `/` with sensible defaults, to be changed.
pub struct RuleBuilder {
    pub prefix: &'static str,
    pub cell: Option<Arc<EndpointCell>>,
    pub tls: BackendTls,
    pub fallback: Fallback,
    pub filters: Option<Box<Filters>>,
    pub forwarded: Forwarded,
    pub persistence: Option<Persistence>,
    pub security: Arc<Security>,
    pub timeouts: Timeouts,
    pub heartbeat: Heartbeats,
    pub limits: Option<Arc<Limits>>,
    pub retry: Option<Retry>,
    pub health: Option<Passive>,
    /// What the endpoints need to stay as they are.
    pub keep: Option<Silent>,
}

impl RuleBuilder {
    pub fn to(endpoints: &[SocketAddr]) -> Self {
        let cell = EndpointCell::default();
        cell.store(set(endpoints, State::Ready));
        Self {
            prefix: "/",
            cell: Some(Arc::new(cell)),
            tls: BackendTls::Off,
            fallback: Fallback::Backend,
            filters: None,
            forwarded: Forwarded::BUILT_IN,
            persistence: None,
            security: Arc::default(),
            timeouts: Timeouts {
                connect: Duration::from_secs(2),
                handshake: Duration::from_secs(10),
                idle: Duration::ZERO,
                send: Duration::from_secs(60),
                max_duration: Duration::ZERO,
                close_handshake: Duration::from_secs(5),
            },
            heartbeat: Heartbeats {
                client: heartbeat(0, 2),
                endpoint: heartbeat(0, 2),
            },
            limits: None,
            retry: None,
            health: None,
            keep: None,
        }
    }

    /// Other endpoints.
    pub fn store(&self, endpoints: EndpointSet) {
        self.cell.as_ref().unwrap().store(endpoints);
    }

    pub fn change(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    pub fn build(self) -> Vec<RuleSpec> {
        let rule = Rule {
            id: RuleId {
                route: name("route"),
                rule: "rule".into(),
            },
            backends: Box::new([Backend {
                service: service(),
                weight: 1,
                endpoints: self.cell,
                tls: self.tls,
            }]),
            fallback: self.fallback,
            filters: self.filters,
            forwarded: self.forwarded,
            persistence: self.persistence,
            balancing: Balancing::PowerOfTwo,
            timeouts: self.timeouts,
            heartbeat: self.heartbeat,
            limits: self.limits,
            retry: self.retry.map(Arc::new),
            health: self.health.map(Arc::new),
            security: self.security,
            cursor: Default::default(),
        };
        let everything = Match {
            path: PathMatch::Prefix(self.prefix.into()),
            headers: vec![],
            query: vec![],
            subprotocols: vec![],
        };
        vec![RuleSpec {
            matches: vec![everything],
            rule: Arc::new(rule),
        }]
    }
}

/// What the two sides may send.
pub fn tunnel_limits(from_client: Option<SideLimits>, from_endpoint: Option<SideLimits>) -> Option<Arc<Limits>> {
    Some(Arc::new(Limits {
        tunnel: Some(TunnelLimits {
            from_client,
            from_endpoint,
        }),
        ..Limits::default()
    }))
}

pub fn heartbeat(seconds: u64, missed: u8) -> Heartbeat {
    Heartbeat {
        interval: Duration::from_secs(seconds),
        missed,
    }
}

pub fn service() -> ServicePort {
    ServicePort {
        namespace: "test".into(),
        name: "echo".into(),
        port: 80,
    }
}

pub fn set(endpoints: &[SocketAddr], state: State) -> EndpointSet {
    let endpoint = |address: &SocketAddr| {
        let key = EndpointKey {
            service: service(),
            identity: address.to_string().into(),
            port: address.port(),
        };
        (Arc::new(Endpoint::new(key, None, vec![*address])), state)
    };
    EndpointSet::new(endpoints.iter().map(endpoint).collect())
}

/// One end of a connection, as bytes and frames.
pub struct Peer {
    pub socket: TcpStream,
    buffer: Vec<u8>,
    masks: bool,
}

/// A frame as it was read, unmasked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub first: u8,
    pub payload: Vec<u8>,
}

impl Frame {
    pub fn opcode(&self) -> u8 {
        self.first & 0x0F
    }

    /// The code of a Close frame.
    pub fn code(&self) -> u16 {
        assert_eq!(self.opcode(), CLOSE, "{self:?}");
        u16::from_be_bytes([self.payload[0], self.payload[1]])
    }

    pub fn reason(&self) -> &str {
        std::str::from_utf8(&self.payload[2..]).unwrap()
    }
}

pub const TEXT: u8 = 0x81;
pub const BINARY: u8 = 0x82;
pub const CLOSE: u8 = 0x8;
pub const PING: u8 = 0x9;
pub const PONG: u8 = 0xA;

pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// A handshake for `path`, with more header lines.
pub fn handshake(path: &str, more: &str) -> String {
    handshake_with("test", path, more)
}

/// The same with a host.
pub fn handshake_with(host: &str, path: &str, more: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: {KEY}\r\n{more}\r\n"
    )
}

/// The right answer to [`handshake`].
pub fn switching(more: &str) -> String {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {ACCEPT}\r\n{more}\r\n"
    )
}

impl Peer {
    pub async fn connect(address: SocketAddr) -> Self {
        Self::of_client(TcpStream::connect(address).await.unwrap())
    }

    /// The client's end of a connection.
    pub fn of_client(socket: TcpStream) -> Self {
        Self::new(socket, true)
    }

    /// The endpoint's end of a connection.
    pub fn of_endpoint(socket: TcpStream) -> Self {
        Self::new(socket, false)
    }

    fn new(socket: TcpStream, masks: bool) -> Self {
        socket.set_nodelay(true).unwrap();
        Self {
            socket,
            buffer: Vec::new(),
            masks,
        }
    }

    /// Writes bytes as they are.
    pub async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        timeout(PATIENCE, self.socket.write_all(bytes.as_ref()))
            .await
            .expect("a write is stuck")
            .unwrap();
    }

    /// Reads a head up to its empty line.
    pub async fn head(&mut self) -> String {
        loop {
            if let Some(end) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                let head: Vec<u8> = self.buffer.drain(..end + 4).collect();
                return String::from_utf8(head).unwrap();
            }
            assert!(
                self.more().await,
                "the connection ended in a head: {:?}",
                String::from_utf8_lossy(&self.buffer)
            );
        }
    }

    /// Reads everything until the connection ends.
    pub async fn rest(&mut self) -> Vec<u8> {
        while self.more().await {}
        std::mem::take(&mut self.buffer)
    }

    /// Reads exactly `len` bytes.
    pub async fn bytes(&mut self, len: usize) -> Vec<u8> {
        while self.buffer.len() < len {
            assert!(
                self.more().await,
                "the connection ended after {} of {len} bytes",
                self.buffer.len()
            );
        }
        self.buffer.drain(..len).collect()
    }

    /// Writes a frame, masked as the role demands.
    pub async fn send(&mut self, first: u8, payload: impl AsRef<[u8]>) {
        let frame = frame(first, payload.as_ref(), self.masks.then_some([1, 2, 3, 4]));
        self.write(frame).await;
    }

    pub async fn close(&mut self, code: u16) {
        self.send(0x80 | CLOSE, code.to_be_bytes()).await;
    }

    /// Reads a frame; its masking must be the one of the other role.
    pub async fn frame(&mut self) -> Frame {
        self.try_frame()
            .await
            .expect("the connection ended where a frame was expected")
    }

    /// Reads a frame, or sees the orderly end of the connection.
    pub async fn try_frame(&mut self) -> Option<Frame> {
        loop {
            if let Some((frame, masked, len)) = decode(&self.buffer) {
                self.buffer.drain(..len);
                assert_eq!(masked, !self.masks, "wrong masking: {frame:?}");
                return Some(frame);
            }
            if !self.more().await {
                let rest = self.buffer.len();
                assert!(rest == 0, "the connection ended after {rest} bytes of a frame");
                return None;
            }
        }
    }

    /// Reads a frame and says whether there was one, however the connection is.
    pub async fn try_read_frame(&mut self) -> bool {
        let mut piece = vec![0; 64 * 1024];
        match timeout(PATIENCE, self.socket.read(&mut piece)).await {
            Ok(Ok(read)) => read > 0,
            _ => false,
        }
    }

    /// The connection must end in order, with nothing more on it.
    pub async fn ends(&mut self) {
        let frame = self.try_frame().await;
        assert_eq!(frame, None);
    }

    /// Reads an answer with its body, whose end is known by its length, its chunks or the end of the connection.
    pub async fn answer(&mut self) -> Answer {
        let mut answer = Answer::new(self.head().await);
        if let Some(length) = answer.header("content-length") {
            let length = length.parse().unwrap();
            answer.body = self.bytes(length).await;
        } else if answer
            .header("transfer-encoding")
            .is_some_and(|coding| coding.ends_with("chunked"))
        {
            answer.body = self.chunks().await;
        } else if answer.status != 204 && answer.status != 304 {
            answer.body = self.rest().await;
        }
        answer
    }

    /// The same, or a 101, which has none.
    pub async fn answer_or_switch(&mut self) -> Answer {
        while !self.buffer.windows(4).any(|four| four == b"\r\n\r\n") {
            assert!(self.more().await, "the connection ended before an answer");
        }
        if self.buffer.starts_with(b"HTTP/1.1 101 ") {
            return Answer::new(self.head().await);
        }
        self.answer().await
    }

    /// Reads a chunked body without trailers and returns what is in it.
    pub async fn chunks(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let line = self.line().await;
            let size = usize::from_str_radix(line.split(';').next().unwrap().trim(), 16).unwrap_or_else(|_| panic!("{line:?}"));
            body.extend(self.bytes(size).await);
            assert_eq!(self.bytes(2).await, b"\r\n");
            if size == 0 {
                return body;
            }
        }
    }

    async fn line(&mut self) -> String {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            line.extend(self.bytes(1).await);
        }
        String::from_utf8(line).unwrap()
    }

    /// Waits for what comes first: a byte, or the end of the connection.
    pub async fn has_request(&mut self) -> bool {
        !self.buffer.is_empty() || self.more().await
    }

    /// Nothing has come that nobody has read.
    pub fn has_nothing(&self) -> bool {
        let peeked = socket2::SockRef::from(&self.socket).peek(&mut [std::mem::MaybeUninit::uninit()]);
        self.buffer.is_empty() && peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Ends our direction of TCP.
    pub async fn shut_down(&mut self) {
        self.socket.shutdown().await.unwrap();
    }

    /// Ends the connection without waiting for anything, so that the other end reads a reset.
    pub fn reset(self) {
        socket2::SockRef::from(&self.socket).set_linger(Some(Duration::ZERO)).unwrap();
    }

    /// Reads until the connection ends, in whichever way, and says in which.
    pub async fn ending(&mut self) -> Ending {
        let mut piece = vec![0; 64 * 1024];
        loop {
            match timeout(PATIENCE, self.socket.read(&mut piece))
                .await
                .expect("the connection stays")
            {
                Ok(0) => return Ending::InOrder,
                Ok(read) => self.buffer.extend_from_slice(&piece[..read]),
                Err(_) => return Ending::Reset,
            }
        }
    }

    /// Sends copies of `bytes` until the other end accepts nothing any more, or answers; returns how many bytes went out. The
    /// last copy may be cut anywhere.
    pub async fn fill(&mut self, bytes: &[u8]) -> usize {
        let mut sent = 0;
        while self.has_nothing() {
            let at = sent % bytes.len();
            match timeout(STUCK, self.socket.write(&bytes[at..])).await {
                Ok(written) => sent += written.unwrap(),
                Err(_) => break,
            }
        }
        sent
    }

    /// The same from byte `from` on, whatever the other end says meanwhile.
    pub async fn fill_regardless(&mut self, bytes: &[u8], from: usize) -> usize {
        let mut sent = 0;
        loop {
            let at = (from + sent) % bytes.len();
            match timeout(STUCK, self.socket.write(&bytes[at..])).await {
                Ok(written) => sent += written.unwrap(),
                Err(_) => return sent,
            }
        }
    }

    /// What has been read from the socket and not been asked for.
    pub fn unread(&self) -> &[u8] {
        &self.buffer
    }

    async fn more(&mut self) -> bool {
        let mut piece = [0; 16 * 1024];
        let read = timeout(PATIENCE, self.socket.read(&mut piece))
            .await
            .expect("nothing comes")
            .expect("the connection was reset");
        self.buffer.extend_from_slice(&piece[..read]);
        read > 0
    }
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    InOrder,
    Reset,
}

/// An answer to a request.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    fn new(head: String) -> Self {
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let body = Vec::new();
        Self { status, head, body }
    }

    /// The value of a field that is there at most once.
    pub fn header(&self, name: &str) -> Option<&str> {
        let values = header_values(&self.head, name);
        assert!(values.len() < 2, "{name} is there twice: {}", self.head);
        values.first().copied()
    }

    /// The word of `Proxy-Status` that says why.
    pub fn reason(&self) -> Option<&str> {
        self.header("proxy-status")?.split_once("details=\"")?.1.strip_suffix('"')
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn into_scrape(self) -> Scrape {
        Scrape(String::from_utf8(self.body).unwrap())
    }
}

/// What /metrics says.
pub struct Scrape(pub String);

impl Scrape {
    /// The series of a metric, each as its line.
    pub fn series<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let is_of = move |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
        self.0.lines().filter(is_of)
    }

    /// The sum of those that have all of `labels`.
    pub fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        let wanted = self
            .series(name)
            .filter(|line| labels.iter().all(|label| line.contains(label)));
        wanted
            .map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap())
            .sum()
    }
}

/// All values of a field in a head, in order.
pub fn header_values<'a>(head: &'a str, name: &str) -> Vec<&'a str> {
    let fields = head.lines().skip(1).filter_map(|line| line.split_once(": "));
    fields
        .filter(|(found, _)| found.eq_ignore_ascii_case(name))
        .map(|(_, value)| value)
        .collect()
}

/// A frame's bytes.
pub fn frame(first: u8, payload: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
    let mut out = vec![first];
    let bit = if mask.is_some() { 0x80 } else { 0 };
    match payload.len() {
        len @ 0..=125 => out.push(bit | len as u8),
        len @ 126..=0xFFFF => {
            out.push(bit | 126);
            out.extend((len as u16).to_be_bytes());
        }
        len => {
            out.push(bit | 127);
            out.extend((len as u64).to_be_bytes());
        }
    }
    let key = mask.unwrap_or_default();
    out.extend(mask.iter().flatten());
    out.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
    out
}

fn decode(bytes: &[u8]) -> Option<(Frame, bool, usize)> {
    let (&first, &second) = (bytes.first()?, bytes.get(1)?);
    let (len, mut at) = match second & 0x7F {
        126 => (u64::from(u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?)), 4),
        127 => (u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?), 10),
        len => (u64::from(len), 2),
    };
    let masked = second & 0x80 != 0;
    let mut key = [0; 4];
    if masked {
        key = *bytes.get(at..)?.first_chunk()?;
        at += 4;
    }
    let payload = bytes.get(at..at + len as usize)?;
    let payload = payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key).collect();
    Some((Frame { first, payload }, masked, at + len as usize))
}

/// An endpoint that a test plays.
pub struct Server {
    listener: TcpListener,
    pub address: SocketAddr,
    taken: AtomicUsize,
}

impl Server {
    pub async fn start() -> Self {
        Self::on("127.0.0.1:0".parse().unwrap()).await
    }

    /// One on this address.
    pub async fn on(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        Self {
            listener,
            address,
            taken: AtomicUsize::new(0),
        }
    }

    /// How many connections have come, taken or not.
    pub fn dialled(&self) -> usize {
        let mut waiting = 0;
        while let Some(Ok(_)) = self.listener.accept().now_or_never() {
            waiting += 1;
        }
        self.taken.fetch_add(waiting, Relaxed) + waiting
    }

    /// The next connection, before its request.
    pub async fn connection(&self) -> Peer {
        let (socket, _) = timeout(PATIENCE, self.listener.accept())
            .await
            .expect("nobody dials")
            .unwrap();
        self.taken.fetch_add(1, Relaxed);
        Peer::of_endpoint(socket)
    }

    /// The next connection, with its handshake answered; and the request.
    pub async fn accept(&self) -> (Peer, String) {
        let mut peer = self.connection().await;
        let request = peer.head().await;
        let key = header_values(&request, "sec-websocket-key")[0];
        let accept = derive_accept_key(key.as_bytes());
        peer.write(switching("").replace(ACCEPT, &accept)).await;
        (peer, request)
    }
}

/// An address that answers no dial: its queue of connections is full, and nobody takes them out.
pub struct Silent {
    pub address: SocketAddr,
    listener: socket2::Socket,
    queue: Vec<std::net::TcpStream>,
}

impl Silent {
    pub fn start() -> Self {
        let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        listener.bind(&any.into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let mut queue = Vec::new();
        while let Ok(queued) = std::net::TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
            queue.push(queued);
        }
        Self {
            address,
            listener,
            queue,
        }
    }

    /// What the connections sent that got into the queue all the same.
    pub fn into_queued(self) -> Vec<Vec<u8>> {
        drop(self.queue);
        let listener: std::net::TcpListener = self.listener.into();
        listener.set_nonblocking(true).unwrap();
        let mut queued = Vec::new();
        while let Ok((mut socket, _)) = listener.accept() {
            let mut bytes = Vec::new();
            socket.set_nonblocking(false).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            io::Read::read_to_end(&mut socket, &mut bytes).unwrap();
            queued.push(bytes);
        }
        queued
    }

    /// A server that takes what comes from now on.
    pub fn revive(self) -> Server {
        drop(self.queue);
        self.listener.listen(128).unwrap();
        let listener: std::net::TcpListener = self.listener.into();
        listener.set_nonblocking(true).unwrap();
        Server {
            listener: TcpListener::from_std(listener).unwrap(),
            address: self.address,
            taken: AtomicUsize::new(0),
        }
    }
}

/// An address that refuses every dial. Nobody else gets it while the tests run: it stays bound, without listening.
pub fn closed_port() -> SocketAddr {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    socket.bind(&any.into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    std::mem::forget(socket);
    address
}

/// What the kernel knows of the connection between two local ports, as seen from the first: a row of /proc/net/tcp.
pub fn tcp_row(local: u16, remote: u16) -> Option<Vec<String>> {
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let (local, remote) = (format!(":{local:04X}"), format!(":{remote:04X}"));
    let mut rows = table
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
    rows.find(|row| row[1].ends_with(&local) && row[2].ends_with(&remote))
}

/// A client and an endpoint with an open tunnel between them.
pub async fn tunnel(gateway: &Gateway, server: &Server) -> (Peer, Peer) {
    tunnel_to(gateway.address, server).await
}

/// Opens another tunnel, and waits until it has been ended.
pub async fn until_told(gateway: &Gateway, server: &Server) {
    let (mut client, endpoint) = tunnel(gateway, server).await;
    let told = client.frame().await;
    client.close(told.code()).await;
    client.ends().await;
    drop((client, endpoint));
    gateway.record("ended").await;
}

/// The same through whatever listens at an address.
pub async fn tunnel_to(address: SocketAddr, server: &Server) -> (Peer, Peer) {
    let mut client = Peer::connect(address).await;
    client.write(handshake("/", "")).await;
    let (endpoint, _) = server.accept().await;
    let answer = client.head().await;
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    (client, endpoint)
}

/// The answer to one request on a connection of its own.
pub async fn ask(address: SocketAddr, request: impl AsRef<[u8]>) -> Answer {
    let mut client = Peer::connect(address).await;
    client.write(request).await;
    client.answer().await
}
