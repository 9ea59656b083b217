//! A crowd of clients that number their messages, and come back when their connection ends.
//!
//! Each does what a well-behaved client does: one connection at a time, a message every so often, an answer to a Close; after an end
//! a short, random pause, and longer ones while it is refused. Nothing is sent twice: a message whose echo had not come when its
//! connection ended is lost. The crowd has a thread of its own, so that nothing that a test does meanwhile delays it.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use futures::{SinkExt, StreamExt};
use tokio::{
    net::TcpStream,
    runtime::Runtime,
    sync::watch,
    time::{Interval, MissedTickBehavior, interval_at, sleep, timeout},
};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{
        Error, Message,
        error::ProtocolError,
        protocol::{CloseFrame, WebSocketConfig, frame::coding::CloseCode},
    },
};

/// Who the clients are, and where they go.
pub struct Plan {
    pub clients: usize,
    /// Such as `ws://chat.example.com/chat`. Its host is only said, not looked up.
    pub url: String,
    /// Between two messages of a client.
    pub every: Duration,
    /// Over how long the first connections are spread.
    pub arrival: Duration,
    /// Where the next connection goes, as a load balancer would say; `None`: there is nobody.
    pub address: Box<dyn Fn() -> Option<SocketAddr> + Send + Sync>,
}

/// Clients at work. Dropped, they vanish without a word.
pub struct Crowd {
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    /// Taken when dropped: a runtime must not be awaited inside another.
    runtime: Option<Runtime>,
}

/// What happened to the crowd in some span of time.
#[derive(Debug, Default)]
pub struct Tally {
    pub sent: u64,
    pub echoed: u64,
    /// Messages that had no echo when their connection ended in this way.
    pub lost: BTreeMap<End, u64>,
    pub ends: BTreeMap<End, u64>,
    /// Handshakes without a connection, by status and word, or by what went wrong before.
    pub refused: BTreeMap<String, u64>,
    /// Of each client.
    pub reconnects: Vec<u32>,
    /// From an end to the next connection, of each reconnect.
    pub away: Vec<Duration>,
    /// What must not happen on a connection: an echo twice, out of turn, or of another client. The first few.
    pub faults: Vec<String>,
    opened: Vec<Instant>,
    ended: Vec<Instant>,
}

/// How a connection ended, as a browser reports it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct End {
    /// 1006: without a Close; 1005: a Close without a code.
    pub code: u16,
    pub reason: String,
}

impl End {
    pub fn new(code: u16, reason: &str) -> Self {
        let reason = reason.to_owned();
        Self { code, reason }
    }

    fn closed(frame: Option<&CloseFrame>) -> Self {
        frame.map_or(Self::new(1005, ""), |frame| Self::new(frame.code.into(), &frame.reason))
    }

    fn cut() -> Self {
        Self::new(1006, "")
    }
}

impl fmt::Display for End {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.reason {
            "" => write!(out, "{}", self.code),
            reason => write!(out, "{} {reason}", self.code),
        }
    }
}

impl Crowd {
    pub fn start(plan: Plan) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("crowd")
            .enable_all()
            .build()
            .unwrap();
        let (stop, stopping) = watch::channel(false);
        let shared = Arc::new(Shared {
            ledger: Mutex::new(Ledger {
                clients: vec![Progress::default(); plan.clients],
                tally: Tally::of(plan.clients),
            }),
            plan,
        });
        for number in 0..shared.plan.clients {
            let client = Client {
                number,
                shared: Arc::clone(&shared),
                stopping: stopping.clone(),
            };
            runtime.spawn(client.live());
        }
        Self {
            shared,
            stop,
            runtime: Some(runtime),
        }
    }

    /// How many clients have a connection.
    pub fn connected(&self) -> usize {
        self.shared.lock().clients.iter().filter(|client| client.connected).count()
    }

    /// How many connections have ended since the last [`Self::take`].
    pub fn ended(&self) -> u64 {
        self.shared.lock().tally.ended()
    }

    /// What happened since the last call.
    pub fn take(&self) -> Tally {
        let mut ledger = self.shared.lock();
        let next = Tally::of(ledger.clients.len());
        std::mem::replace(&mut ledger.tally, next)
    }

    /// The numbers that the clients have come to.
    pub fn mark(&self) -> Vec<u64> {
        self.shared.lock().clients.iter().map(|client| client.sent).collect()
    }

    /// Whether every client is connected, and every message up to these numbers is echoed or lost.
    pub fn is_settled(&self, mark: &[u64]) -> bool {
        let ledger = self.shared.lock();
        let mut clients = ledger.clients.iter().zip(mark);
        clients.all(|(client, mark)| client.connected && client.answered >= *mark)
    }

    /// Has every client say goodbye with 1000, and forget the rest. Whether all have is for [`Self::connected`] to say.
    pub fn stop(&self) {
        let _ = self.stop.send(true);
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Tally {
    fn of(clients: usize) -> Self {
        Self {
            reconnects: vec![0; clients],
            ..Self::default()
        }
    }

    pub fn lost(&self) -> u64 {
        self.lost.values().sum()
    }

    pub fn ended(&self) -> u64 {
        self.ends.values().sum()
    }

    pub fn reconnected(&self) -> u64 {
        self.reconnects.iter().map(|reconnects| u64::from(*reconnects)).sum()
    }

    /// The most reconnects that one client needed.
    pub fn most_reconnects(&self) -> u32 {
        self.reconnects.iter().copied().max().unwrap_or(0)
    }

    /// The most that came back within any one second.
    pub fn peak_reconnects(&self) -> usize {
        peak(&self.opened)
    }

    /// The most that ended within any one second.
    pub fn peak_ends(&self) -> usize {
        peak(&self.ended)
    }

    /// From the first end to the last one.
    pub fn ending_took(&self) -> Duration {
        match (self.ended.first(), self.ended.last()) {
            (Some(first), Some(last)) => *last - *first,
            _ => Duration::ZERO,
        }
    }

    /// The longest that a client was without a connection.
    pub fn longest_away(&self) -> Duration {
        self.away.iter().copied().max().unwrap_or_default()
    }
}

/// The most of these, which are in order, within any one second.
fn peak(times: &[Instant]) -> usize {
    let mut most = 0;
    let mut from = 0;
    for (index, time) in times.iter().enumerate() {
        while *time - times[from] >= Duration::from_secs(1) {
            from += 1;
        }
        most = most.max(index + 1 - from);
    }
    most
}

struct Shared {
    plan: Plan,
    ledger: Mutex<Ledger>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap()
    }
}

struct Ledger {
    clients: Vec<Progress>,
    tally: Tally,
}

#[derive(Clone, Default)]
struct Progress {
    connected: bool,
    /// Messages over all its connections.
    sent: u64,
    /// Those of them that were echoed or lost.
    answered: u64,
}

impl Ledger {
    /// `ended`: when the client's last connection did.
    fn opened(&mut self, client: usize, ended: Option<Instant>) {
        self.clients[client].connected = true;
        if let Some(ended) = ended {
            let now = Instant::now();
            self.tally.opened.push(now);
            self.tally.away.push(now - ended);
            self.tally.reconnects[client] += 1;
        }
    }

    /// The number of the client's next message.
    fn sent(&mut self, client: usize) -> u64 {
        self.tally.sent += 1;
        self.clients[client].sent += 1;
        self.clients[client].sent
    }

    fn echoed(&mut self, client: usize) {
        self.tally.echoed += 1;
        self.clients[client].answered += 1;
    }

    fn fault(&mut self, client: usize, what: &str) {
        if self.tally.faults.len() < MAX_FAULTS {
            self.tally.faults.push(format!("client {client}: {what}"));
        }
    }

    fn ended(&mut self, client: usize, end: End, lost: u64) -> Instant {
        let now = Instant::now();
        let progress = &mut self.clients[client];
        progress.connected = false;
        progress.answered += lost;
        if lost > 0 {
            *self.tally.lost.entry(end.clone()).or_default() += lost;
        }
        *self.tally.ends.entry(end).or_default() += 1;
        self.tally.ended.push(now);
        now
    }

    fn refused(&mut self, why: String) {
        *self.tally.refused.entry(why).or_default() += 1;
    }
}

struct Client {
    number: usize,
    shared: Arc<Shared>,
    stopping: watch::Receiver<bool>,
}

type Socket = WebSocketStream<TcpStream>;

impl Client {
    async fn live(mut self) {
        let plan = &self.shared.plan;
        sleep(plan.arrival.mul_f64(self.number as f64 / plan.clients as f64)).await;
        let mut ended = None;
        let mut pause = FIRST_PAUSE;
        while !*self.stopping.borrow() {
            match self.connect().await {
                Ok(socket) => {
                    self.shared.lock().opened(self.number, ended);
                    pause = FIRST_PAUSE;
                    ended = Some(self.hold(socket).await);
                }
                Err(why) => self.shared.lock().refused(why),
            }
            sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn connect(&self) -> Result<Socket, String> {
        let plan = &self.shared.plan;
        let address = (plan.address)().ok_or("nobody is ready")?;
        let stream = timeout(DIAL, TcpStream::connect(address))
            .await
            .map_err(|_| "no answer to a dial")?
            .map_err(|error| format!("dial: {}", error.kind()))?;
        let _ = stream.set_nodelay(true);
        let config = WebSocketConfig::default().read_buffer_size(READ_BUFFER).write_buffer_size(0);
        let opened = timeout(HANDSHAKE, client_async_with_config(&*plan.url, stream, Some(config))).await;
        match opened.map_err(|_| "no answer to a handshake")? {
            Ok((socket, _)) => Ok(socket),
            Err(Error::Http(answer)) => Err(refusal(answer.status().as_u16(), answer.headers().get("proxy-status"))),
            Err(error) => Err(format!("handshake: {error}")),
        }
    }

    /// One connection from its opening to its end; returns when it ended.
    async fn hold(&mut self, socket: Socket) -> Instant {
        let mut connection = Connection {
            client: self.number,
            shared: &self.shared,
            socket,
            waiting: VecDeque::new(),
        };
        let stopped = async { self.stopping.wait_for(|stop| *stop).await.is_ok() };
        let end = tokio::select! {
            end = connection.converse() => end,
            _ = stopped => connection.close().await,
        };
        let lost = connection.waiting.len() as u64;
        self.shared.lock().ended(self.number, end, lost)
    }
}

/// What a refusal is counted under: the status, and the word of `Proxy-Status`.
fn refusal(status: u16, proxy_status: Option<&http::HeaderValue>) -> String {
    let details = proxy_status.and_then(|value| value.to_str().ok()?.split_once("details=\""));
    let word = details.and_then(|(_, rest)| rest.split('"').next());
    word.map_or(status.to_string(), |word| format!("{status} {word}"))
}

struct Connection<'a> {
    client: usize,
    shared: &'a Shared,
    socket: Socket,
    /// Numbers whose echo has not come.
    waiting: VecDeque<u64>,
}

impl Connection<'_> {
    async fn converse(&mut self) -> End {
        let mut ticks = ticks(self.shared.plan.every);
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    let number = self.shared.lock().sent(self.client);
                    self.waiting.push_back(number);
                    let message = Message::text(format!("{}:{number}", self.client));
                    if !matches!(timeout(SEND, self.socket.send(message)).await, Ok(Ok(()))) {
                        return self.rest().await;
                    }
                }
                received = self.socket.next() => if let Some(end) = self.received(received).await {
                    return end;
                },
            }
        }
    }

    /// Ends the connection with 1000; echoes may still come before the answer.
    async fn close(&mut self) -> End {
        let normal = CloseFrame {
            code: CloseCode::Normal,
            reason: "".into(),
        };
        let _ = timeout(GOODBYE, self.socket.close(Some(normal))).await;
        self.rest().await
    }

    /// What still comes on a connection that takes nothing more: why it ended may be among it.
    async fn rest(&mut self) -> End {
        let rest = async {
            loop {
                let received = self.socket.next().await;
                if let Some(end) = self.received(received).await {
                    return end;
                }
            }
        };
        timeout(GOODBYE, rest).await.unwrap_or_else(|_| End::cut())
    }

    /// Takes what came; the end, if it was that.
    async fn received(&mut self, received: Option<Result<Message, Error>>) -> Option<End> {
        match received {
            Some(Ok(Message::Close(frame))) => {
                // Reading on sends the answer, and waits for the other side to end TCP.
                let over = async { while let Some(Ok(_)) = self.socket.next().await {} };
                let _ = timeout(GOODBYE, over).await;
                Some(End::closed(frame.as_ref()))
            }
            Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => {
                self.echoed(&message.into_text().unwrap_or_default());
                None
            }
            Some(Ok(_)) => None,
            Some(Err(error)) => {
                if let Error::Protocol(broken) = &error
                    && *broken != ProtocolError::ResetWithoutClosingHandshake
                {
                    self.shared.lock().fault(self.client, &broken.to_string());
                }
                Some(End::cut())
            }
            None => Some(End::cut()),
        }
    }

    fn echoed(&mut self, text: &str) {
        let number = text.split_once(':').and_then(|(client, number)| {
            let client: usize = client.parse().ok()?;
            (client == self.client).then_some(number.parse::<u64>().ok()?)
        });
        let mut ledger = self.shared.lock();
        match number.and_then(|number| self.waiting.iter().position(|waiting| *waiting == number)) {
            Some(0) => {}
            Some(_) => ledger.fault(self.client, &format!("{text} came back before {:?}", self.waiting[0])),
            None => return ledger.fault(self.client, &format!("{text} was not waited for; {:?} are", self.waiting)),
        }
        self.waiting.retain(|waiting| Some(*waiting) != number);
        ledger.echoed(self.client);
    }
}

/// Starts anywhere in a period, so that the messages of a crowd are spread evenly.
fn ticks(every: Duration) -> Interval {
    let first = tokio::time::Instant::now() + every.mul_f64(fastrand::f64());
    let mut ticks = interval_at(first, every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// Before the first attempt to come back, halved at random; doubled with each that fails. As `holdfast ping` does.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// For a TCP connection.
const DIAL: Duration = Duration::from_secs(5);
/// For the answer to a handshake.
const HANDSHAKE: Duration = Duration::from_secs(15);
/// For the kernel to take a message.
const SEND: Duration = Duration::from_secs(10);
/// For the other side to end a connection that one of the two has closed.
const GOODBYE: Duration = Duration::from_secs(8);
/// Small: many connections, short messages.
const READ_BUFFER: usize = 1024;
/// Faults that are kept.
const MAX_FAULTS: usize = 20;
