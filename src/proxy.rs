//! The data plane: takes connections, upgrades them, and relays frames between clients and endpoints.
//!
//! `app` binds it and starts it; it reads the published routing table and writes nothing but answers, records and metrics.
//! It knows nothing of Kubernetes. Each worker is a thread with a runtime, a listener and tunnels of its own.

mod admission;
mod answer;
mod body;
mod client;
mod clock;
mod connection;
mod delay;
pub mod end;
pub mod error;
mod fallback;
mod filter;
mod frame;
mod guard;
mod head;
mod headers;
mod health;
mod limits;
mod listener;
pub mod look;
pub mod metrics;
pub mod recent;
pub mod record;
mod roll;
mod select;
mod slot;
mod socket;
mod stream;
mod sweep;
mod tls;
mod tunnel;
mod untrusted;
mod upgrade;
mod upstream;
pub mod view;
mod worker;

use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::{
    net::TcpListener,
    runtime::{Builder, LocalOptions, RuntimeMetrics},
    sync::mpsc,
};

use crate::{
    drain::{self, Blocker},
    routing::{
        Published, Tickets,
        health::{Ejection, Moment},
    },
};
use admission::Admitted;
use metrics::Metrics;
use record::Recorder;
use worker::Worker;

pub use admission::Limit;
pub use client::Trust;
pub use limits::Limit as RouteLimit;
pub use socket::{KeepAlive, bind_or_ipv4};

/// What the data plane is told at its start.
#[derive(Clone, Debug)]
pub struct Settings {
    pub workers: usize,
    pub trust: Trust,
    pub limit: Limit,
    /// Whether a host that has TLS answers requests without it by sending the client there.
    pub https_redirect: bool,
    /// The folder below which routes may serve files.
    pub static_root: Option<PathBuf>,
    /// Bytes of each socket's kernel receive buffer.
    pub receive_buffer: u32,
    /// Bytes that one worker may queue for sides that accept nothing.
    pub queue_budget: usize,
    /// How many ended tunnels are remembered, and how many refused handshakes; each worker has its share. 0: none.
    pub recent_ends: usize,
    pub client_keepalive: KeepAlive,
    pub endpoint_keepalive: KeepAlive,
    /// Where ejections of endpoints are told; `None`: to nobody.
    pub ejections: Option<mpsc::Sender<Ejection>>,
}

/// What the workers share. Nothing in it is written on the message path but counters with one writer each.
#[derive(Debug)]
pub struct Shared {
    pub workers: usize,
    /// 24 random bits of this process, for ids.
    pub instance: u32,
    pub settings: Settings,
    pub published: Published,
    pub recorder: Arc<Recorder>,
    pub metrics: Arc<Metrics>,
    pub drain: drain::Watch,
    pub beats: Beats,
    /// `None`: nobody listens for TLS.
    tls: Option<tls::Config>,
    admission: admission::Admission,
    untrusted: untrusted::Untrusted,
    sequence: recent::Sequence,
}

impl Shared {
    /// Connections that the process holds, and how many it serves at once.
    pub fn admitted(&self) -> (usize, usize) {
        self.admission.open()
    }

    /// Now, on the clock of passive health.
    pub fn moment(&self) -> Moment {
        Moment::after(self.beats.started.elapsed())
    }
}

/// When each worker last showed that its loop turns.
#[derive(Debug)]
pub struct Beats {
    started: Instant,
    millis: Box<[metrics::Padded<AtomicU64>]>,
}

impl Beats {
    fn new(workers: usize) -> Self {
        Self {
            started: Instant::now(),
            millis: (0..workers).map(|_| metrics::Padded::default()).collect(),
        }
    }

    fn beat(&self, worker: usize) {
        if let Some(metrics::Padded(millis)) = self.millis.get(worker) {
            millis.store(self.started.elapsed().as_millis() as u64, Relaxed);
        }
    }

    /// The workers that have not shown themselves for `limit`.
    pub fn silent(&self, limit: Duration) -> Vec<usize> {
        let now = self.started.elapsed().as_millis() as u64;
        let is_silent =
            |millis: &metrics::Padded<AtomicU64>| now.saturating_sub(millis.0.load(Relaxed)) > limit.as_millis() as u64;
        (0..self.millis.len())
            .filter(|index| is_silent(&self.millis[*index]))
            .collect()
    }
}

/// The data plane with its sockets bound and nothing running.
#[derive(Debug)]
pub struct Proxy {
    settings: Settings,
    http: Bound,
    https: Option<(Bound, Tickets)>,
}

/// One address, bound once for each worker.
#[derive(Debug)]
struct Bound {
    address: SocketAddr,
    listeners: Vec<std::net::TcpListener>,
}

impl Bound {
    /// Port 0 takes a free one, the same for all.
    fn new(settings: &Settings, address: SocketAddr) -> io::Result<Self> {
        let first = socket::listen(address, settings)?;
        let address = first.local_addr()?;
        let mut listeners = vec![first];
        for _ in 1..settings.workers {
            listeners.push(socket::listen(address, settings)?);
        }
        Ok(Self { address, listeners })
    }
}

impl Proxy {
    /// Binds `http` once for each worker; port 0 takes a free one, the same for all.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn bind(settings: Settings, http: SocketAddr) -> io::Result<Self> {
        Ok(Self {
            http: Bound::new(&settings, http)?,
            https: None,
            settings,
        })
    }

    /// Binds an address for TLS as well, whose session tickets are made with these keys.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn with_https(mut self, https: SocketAddr, tickets: Tickets) -> io::Result<Self> {
        self.https = Some((Bound::new(&self.settings, https)?, tickets));
        Ok(self)
    }

    /// How many workers it will have.
    pub fn workers(&self) -> usize {
        self.settings.workers
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.http.address
    }

    /// Where it listens for TLS.
    pub fn https_address(&self) -> Option<SocketAddr> {
        self.https.as_ref().map(|(bound, _)| bound.address)
    }

    /// Starts the workers. They end when the drain has come to its end, or when one of them fails.
    ///
    /// # Errors
    /// When a thread or a runtime cannot be made.
    pub fn start(
        self,
        published: Published,
        recorder: Arc<Recorder>,
        metrics: Arc<Metrics>,
        drain: drain::Watch,
    ) -> io::Result<Running> {
        let workers = self.http.listeners.len();
        let (secure, tickets) = self.https.unzip();
        let tls = tickets.map(|tickets| tls::Config::new(Arc::clone(&published), tickets));
        let mut secure = secure.map(|bound| bound.listeners).unwrap_or_default().into_iter();
        let shared = Arc::new(Shared {
            workers,
            instance: fastrand::u32(..1 << 24),
            tls: tls.transpose().map_err(io::Error::other)?,
            admission: admission::Admission::new(self.settings.limit),
            settings: self.settings,
            published,
            recorder,
            metrics,
            drain,
            beats: Beats::new(workers),
            untrusted: untrusted::Untrusted::default(),
            sequence: recent::Sequence::default(),
        });
        let (doors, receivers): (Vec<_>, Vec<_>) = (0..workers).map(|_| mpsc::channel(HANDED)).unzip();
        let (asked, questions): (Vec<_>, Vec<_>) = (0..workers).map(|_| mpsc::channel(QUESTIONS)).unzip();
        let (failed, failures) = mpsc::channel(1);
        let mut questions = questions.into_iter();
        let mut runtimes = Vec::with_capacity(workers);
        for (index, (listener, door)) in self.http.listeners.into_iter().zip(receivers).enumerate() {
            let Some(questions) = questions.next() else { break };
            let start = Start {
                index,
                shared: Arc::clone(&shared),
                listener,
                secure: secure.next(),
                door,
                doors: doors.clone(),
                questions,
                blocker: shared.drain.block(),
            };
            runtimes.push(start.spawn(failed.clone())?);
        }
        shared.metrics.set_runtimes(runtimes);
        let view = view::View::new(Arc::clone(&shared), asked);
        Ok(Running { shared, view, failures })
    }
}

/// The data plane at work.
#[derive(Debug)]
pub struct Running {
    pub shared: Arc<Shared>,
    /// What it does right now, for whoever asks.
    pub view: view::View,
    failures: mpsc::Receiver<usize>,
}

impl Running {
    /// Returns when a worker has ended that should not have, with its number.
    pub async fn failed(&mut self) -> usize {
        match self.failures.recv().await {
            Some(worker) => worker,
            None => std::future::pending().await,
        }
    }
}

/// What one worker's thread is started with.
struct Start {
    index: usize,
    shared: Arc<Shared>,
    listener: std::net::TcpListener,
    /// The same for TLS.
    secure: Option<std::net::TcpListener>,
    door: mpsc::Receiver<listener::Handed>,
    doors: listener::Doors,
    questions: mpsc::Receiver<view::Question>,
    blocker: Option<Blocker>,
}

impl Start {
    fn spawn(self, failed: mpsc::Sender<usize>) -> io::Result<RuntimeMetrics> {
        let (ready, is_ready) = std::sync::mpsc::sync_channel(1);
        let name = format!("worker-{}", self.index);
        thread::Builder::new().name(name).spawn(move || self.run(ready, &failed))?;
        // The thread answers as soon as it has a runtime, which waits for nothing.
        is_ready
            .recv()
            .map_err(|_| io::Error::other("a worker's thread ended at its start"))?
    }

    fn run(self, ready: std::sync::mpsc::SyncSender<io::Result<RuntimeMetrics>>, failed: &mpsc::Sender<usize>) {
        // Sockets are looked at after every few tasks, so that a busy tunnel does not delay the others.
        let runtime = Builder::new_current_thread()
            .enable_all()
            .event_interval(EVENT_INTERVAL)
            .max_blocking_threads(FILE_THREADS)
            .build_local(LocalOptions::default());
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => return drop(ready.send(Err(error))),
        };
        let index = self.index;
        let _ = ready.send(Ok(runtime.metrics()));
        let fine = runtime.block_on(self.serve());
        if !fine {
            let _ = failed.try_send(index);
        }
        runtime.shutdown_timeout(Duration::ZERO);
    }

    /// Serves until the drain has ended the last connection, and refuses until the drain is dropped. False: a part that must not end has ended.
    async fn serve(self) -> bool {
        let worker = Rc::new(Worker::new(self.index, Arc::clone(&self.shared)));
        let Ok(listener) = TcpListener::from_std(self.listener) else {
            return false;
        };
        let Ok(secure) = self.secure.map(TcpListener::from_std).transpose() else {
            return false;
        };
        let mut accepting = listener::accept_all(&worker, listener, secure, &self.doors);
        let mut receiving = tokio::task::spawn_local(listener::receive(Rc::clone(&worker), self.door));
        let mut sweeping = tokio::task::spawn_local(sweep::run(Rc::clone(&worker)));
        let mut waking = tokio::task::spawn_local(delay::run(Rc::clone(&worker)));
        // It has no part in serving, so its end is nobody's.
        drop(tokio::task::spawn_local(view::answer_all(Rc::clone(&worker), self.questions)));
        let mut drain = self.shared.drain.clone();
        let drained = async {
            drain.closing().await;
            // Long enough for the sweep to see the phase, and again for each look at what is left.
            loop {
                tokio::time::sleep(2 * clock::TICK).await;
                if worker.is_drained() {
                    return;
                }
            }
        };
        let fine = tokio::select! {
            () = drained => true,
            _ = accepting.join_next() => false,
            _ = &mut receiving => false,
            _ = &mut sweeping => false,
            _ = &mut waking => false,
        };
        drop(self.blocker);
        if fine {
            // Whoever comes now is refused with a reason, for as long as the process stays.
            drain.gone().await;
        }
        fine
    }
}

/// Threads of a worker that read files. They come when they are needed, and go again.
const FILE_THREADS: usize = 4;

/// Tasks between two looks at the sockets.
const EVENT_INTERVAL: u32 = 8;

/// Questions that may wait for a worker. One is answered at a time.
const QUESTIONS: usize = 16;

/// Sockets that may be on their way to a worker.
const HANDED: usize = 1024;
