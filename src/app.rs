//! The composition root: binds every socket first, then wires the planes together and runs them to their end.

mod limits;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use prometheus::{Registry, proto::MetricType};
use tokio::{
    sync::{Notify, mpsc, watch},
    time::{Instant, sleep, timeout},
};

use crate::{
    admin::Admin,
    cli,
    config::{self, ConfigError, HostOwnership, Serve, Switch},
    control::{self, Judgements, Outlook, Source, defaults::Defaults},
    drain::{self, Blocker, Trigger},
    live::{About, Drain, Followers, History, Live, Stage, State},
    proxy::{
        Proxy, Running, Settings, Trust,
        metrics::{Collector, Metrics},
        record::Recorder,
    },
    readiness::Readiness,
    routing::{Published, Snapshot, Tickets, health::Ejection},
    telemetry::{Flush, Lines, metric::Name},
    web,
};

/// What the process is told while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// End tunnels in order, then the process. A second one: end the process.
    Terminate,
    /// The same from a terminal.
    Interrupt,
    /// End the process; tell the tunnels once.
    Quit,
    /// Read files again.
    Reload,
    /// Write a summary to the log.
    Summary,
}

/// How the process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Done,
    /// A part failed, or the drain was cut short.
    Failed,
    /// A second interrupt.
    Interrupted,
}

/// Why the process does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("--{flag} {address}: cannot listen: {error}")]
    Bind {
        flag: &'static str,
        address: SocketAddr,
        error: io::Error,
    },
    #[error(transparent)]
    Source(#[from] control::StartError),
    #[error("cannot start: {0}")]
    Io(#[from] io::Error),
}

/// Everything bound, nothing running.
#[derive(Debug)]
pub struct Bound {
    pub http: SocketAddr,
    /// `None`: TLS is not served.
    pub https: Option<SocketAddr>,
    pub admin: SocketAddr,
    /// `None`: another process has its default address.
    pub live: Option<SocketAddr>,
    config: Serve,
    source: Source,
    delay: Duration,
    window: Duration,
    proxy: Proxy,
    tickets: Tickets,
    /// What the proxy tells the control plane of endpoints that it leaves out.
    ejected: mpsc::Receiver<Ejection>,
    admin_listener: std::net::TcpListener,
    live_listener: Option<std::net::TcpListener>,
    access: Option<(Lines, Flush)>,
}

/// Checks what the configuration means together and binds every socket.
///
/// # Errors
/// When the configuration makes no sense or an address cannot be bound; then nothing stays bound.
pub fn build(config: Serve, access: Option<(Lines, Flush)>) -> Result<Bound, StartError> {
    let source = config.source()?;
    source.check()?;
    if let Some(file) = &config.defaults {
        Defaults::read(file).map_err(control::StartError::from)?;
    }
    let (delay, window) = config.drain()?;
    let (ejections, ejected) = mpsc::channel(EJECTIONS);
    let mut settings = settings(&config);
    settings.ejections = matches!(source, Source::Cluster(_)).then_some(ejections);
    let bind = |flag, address| move |error| StartError::Bind { flag, address, error };
    let mut proxy = Proxy::bind(settings, config.http).map_err(bind("http", config.http))?;
    let tickets = Tickets::default();
    if let Some(https) = config.https {
        proxy = proxy
            .with_https(https, Tickets::clone(&tickets))
            .map_err(bind("https", https))?;
    }
    let admin_listener = web::bind(config.admin).map_err(bind("admin", config.admin))?;
    let live_listener = bind_live(config.live)?;
    Ok(Bound {
        http: proxy.address(),
        https: proxy.https_address(),
        admin: admin_listener.local_addr()?,
        live: live_listener.as_ref().and_then(|listener| listener.local_addr().ok()),
        config,
        source,
        delay,
        window,
        proxy,
        tickets,
        ejected,
        admin_listener,
        live_listener,
        access,
    })
}

/// Binds the live listener. Where nobody said which address, a second process on one machine goes without.
fn bind_live(address: Option<SocketAddr>) -> Result<Option<std::net::TcpListener>, StartError> {
    let flag = "live";
    let error = match web::bind(address.unwrap_or(LIVE)) {
        Ok(listener) => return Ok(Some(listener)),
        Err(error) => error,
    };
    match address {
        Some(address) => Err(StartError::Bind { flag, address, error }),
        None => {
            tracing::warn!("--{flag} {LIVE}: {error}; this process goes without its live listener");
            Ok(None)
        }
    }
}

fn settings(config: &Serve) -> Settings {
    let workers = config.workers.map_or_else(limits::cores, usize::from);
    Settings {
        workers,
        trust: Trust {
            proxies: config.trusted_proxies.clone(),
            proxy_protocol: config.proxy_protocol,
        },
        https_redirect: config.https_redirect,
        static_root: config.static_root.clone(),
        limit: limits::connections(config.max_connections),
        receive_buffer: config.receive_buffer,
        queue_budget: usize::try_from(config.queue_memory.unwrap_or_else(limits::queue_memory)).unwrap_or(usize::MAX) / workers,
        recent_ends: usize::try_from(config.recent_ends).unwrap_or(usize::MAX),
        client_keepalive: config.client_keepalive,
        endpoint_keepalive: config.endpoint_keepalive,
        ejections: None,
    }
}

impl Bound {
    /// Serves until a signal or a failure ends it.
    ///
    /// # Errors
    /// When a part cannot be started.
    pub async fn run(self, signals: mpsc::Receiver<Signal>) -> Result<Exit, StartError> {
        let about = self.about();
        let published: Published = Arc::new(ArcSwap::from_pointee(Snapshot::default()));
        let readiness = Readiness::default();
        let registry = Registry::new();
        let (trigger, watch, blocker) = drain::new();
        let reload = Arc::new(Notify::new());
        let synced = readiness.wait_for("routes");
        let (lines, flush) = self.access.unzip();
        let recorder = Arc::new(Recorder::new(
            lines,
            self.config.log_format,
            self.config.pod_name.as_deref().map(Box::from),
        ));
        let metrics = Arc::new(Metrics::new(self.proxy.workers()));
        register(
            &registry,
            &metrics,
            &published,
            &recorder,
            self.config.endpoint_metrics == Switch::On,
        );

        let running = self
            .proxy
            .start(Arc::clone(&published), Arc::clone(&recorder), Arc::clone(&metrics), watch)?;
        let (stage, staged) = watch::channel(Stage::Serving);
        let (order, orders) = mpsc::channel(1);
        let judgements = Judgements::default();
        let outlook = Outlook::default();
        let drain = Drain::new(staged, order, self.delay, self.window);
        let admin = Arc::new(Admin {
            registry: registry.clone(),
            readiness: readiness.clone(),
            proxy: Arc::clone(&running.shared),
            drain: drain.clone(),
        });
        tokio::spawn(web::serve(self.admin_listener, "admin", move |request| {
            Arc::clone(&admin).answer(request)
        }));
        if let Some(listener) = self.live_listener {
            let history = Arc::<History>::default();
            tokio::spawn(Arc::clone(&history).follow(Arc::clone(&metrics)));
            let live = Arc::new(Live {
                drain,
                metrics: Arc::clone(&metrics),
                proxy: Arc::clone(&running.shared),
                judgements: judgements.clone(),
                state: State {
                    about,
                    readiness: readiness.clone(),
                    outlook: outlook.clone(),
                },
                view: running.view.clone(),
                replica: self.config.replica(),
                words: cli::explain::words,
                history,
                followers: Followers::default(),
            });
            tokio::spawn(web::serve(listener, "live", move |request| Arc::clone(&live).answer(request)));
        }
        let options = control::Options {
            class: self.config.class.clone(),
            share_hosts: self.config.host_ownership == HostOwnership::Shared,
            default_certificate: self.config.default_certificate.clone(),
            ticket_secret: self.config.ticket_secret.clone(),
            serves_tls: self.https.is_some(),
            defaults: self.config.defaults.clone(),
        };
        let (retirement, retire, in_charge) = drain::new();
        let wiring = control::Wiring {
            published: Arc::clone(&published),
            judgements,
            outlook,
            tickets: self.tickets,
            ejections: self.ejected,
            registry,
            synced,
            reload: Arc::clone(&reload),
            retire: (retire, in_charge),
        };
        let control = control::start(&self.source, options, wiring).await?;
        let https = self.https.map(tracing::field::display);
        let live = self.live.map(tracing::field::display);
        tracing::info!(http = %self.http, https, admin = %self.admin, live, version = env!("CARGO_PKG_VERSION"), "serving");

        let mut process = Process {
            published,
            readiness,
            metrics,
            trigger,
            blocker: Some(blocker),
            retirement,
            running,
            reload,
            signals,
            orders,
            stage,
            stays: false,
            delay: self.delay,
            window: self.window,
        };
        let exit = tokio::select! {
            exit = process.run() => exit,
            () = control => {
                tracing::error!("the control plane has ended; what is published goes on until the next start");
                process.run().await
            }
        };
        drop(process);
        drop(flush);
        Ok(exit)
    }
}

impl Bound {
    /// What the live listener tells of this process.
    fn about(&self) -> About {
        let config = &self.config;
        About {
            started: SystemTime::now(),
            mode: match &self.source {
                Source::Cluster(_) => "cluster",
                Source::Folder(_) => "folder",
                Source::Endpoint { policies: None, .. } => "single",
                Source::Endpoint { policies: Some(_), .. } => "sidecar",
            },
            class: config.class.clone(),
            watch_namespaces: config.watch_namespaces.clone(),
            ticket_secret: config.ticket_secret.as_ref().map(ToString::to_string),
            proxy_protocol: config.proxy_protocol,
            pod: config.pod_name.clone(),
            namespace: config.pod_namespace.clone(),
            http: self.http,
            https: self.https,
            admin: self.admin,
            grace: config.grace_period,
            closing: config::CLOSING,
            revision: option_env!("HOLDFAST_REVISION").filter(|revision| !revision.is_empty()),
        }
    }
}

fn register(registry: &Registry, metrics: &Arc<Metrics>, published: &Published, recorder: &Arc<Recorder>, per_endpoint: bool) {
    let build_info = prometheus::GaugeVec::new(BUILD_INFO.opts(), &BUILD_INFO.label_names());
    if let Ok(build_info) = build_info {
        build_info
            .with_label_values(&[env!("CARGO_PKG_VERSION"), option_env!("HOLDFAST_REVISION").unwrap_or("")])
            .set(1.0);
        let _ = registry.register(Box::new(build_info)); // the registry is new: nothing can clash
    }
    let _ = registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()));
    let _ = registry.register(Box::new(Collector {
        metrics: Arc::clone(metrics),
        published: Arc::clone(published),
        recorder: Arc::clone(recorder),
        per_endpoint,
    }));
}

/// The running process.
struct Process {
    published: Published,
    readiness: Readiness,
    metrics: Arc<Metrics>,
    trigger: Trigger,
    blocker: Option<Blocker>,
    /// Of the control plane's part in the lead.
    retirement: Trigger,
    running: Running,
    reload: Arc<Notify>,
    signals: mpsc::Receiver<Signal>,
    /// To drain and stay.
    orders: mpsc::Receiver<()>,
    stage: watch::Sender<Stage>,
    /// Whether the process stays when it has drained, for a signal to end it.
    stays: bool,
    delay: Duration,
    window: Duration,
}

/// What ends serving.
enum Ending {
    Drain,
    AtOnce,
    Failure,
}

impl Process {
    async fn run(&mut self) -> Exit {
        match self.serve().await {
            Ending::Drain => self.drain(self.delay, self.window, Exit::Done).await,
            Ending::AtOnce => self.drain(Duration::ZERO, Duration::ZERO, Exit::Done).await,
            Ending::Failure => self.drain(Duration::ZERO, self.window, Exit::Failed).await,
        }
    }

    /// Waits for the signal that ends a process which has drained by order.
    async fn stay(&mut self) {
        loop {
            match self.signals.recv().await {
                Some(Signal::Terminate | Signal::Interrupt | Signal::Quit) | None => return,
                Some(Signal::Reload) => self.reload.notify_one(),
                Some(Signal::Summary) => self.summary(),
            }
        }
    }

    /// Serves until something ends it.
    async fn serve(&mut self) -> Ending {
        loop {
            tokio::select! {
                worker = self.running.failed() => {
                    tracing::error!(worker, "a worker has failed; the others drain");
                    return Ending::Failure;
                }
                signal = self.signals.recv() => match signal {
                    Some(Signal::Terminate) | None => return Ending::Drain,
                    Some(Signal::Interrupt | Signal::Quit) => return Ending::AtOnce,
                    Some(Signal::Reload) => self.reload.notify_one(),
                    Some(Signal::Summary) => self.summary(),
                },
                Some(()) = self.orders.recv() => {
                    self.stays = true;
                    return Ending::Drain;
                }
            }
        }
    }

    /// Serves on for `delay`, then refuses and closes over `window`. A second signal cuts it short.
    async fn drain(&mut self, delay: Duration, window: Duration, exit: Exit) -> Exit {
        let started = Instant::now();
        let open = self.open();
        tracing::info!(connections = open, ?delay, ?window, "shutting down");
        self.stage.send_replace(Stage::Announced {
            since: SystemTime::now(),
        });
        self.retirement.close(Duration::ZERO); // whoever goes away writes no status any more
        let cut = tokio::select! {
            () = sleep(delay) => None,
            cut = Self::cut(&mut self.signals, &self.reload, &mut self.stays) => Some(cut),
        };
        self.readiness.close();
        self.stage.send_replace(Stage::Closing {
            since: SystemTime::now(),
        });
        self.blocker = None;
        let cut = match cut {
            Some(cut) => Some(cut),
            None => {
                self.trigger.close(window);
                let patience = window + if window.is_zero() { AT_ONCE } else { CLOSING };
                tokio::select! {
                    finished = timeout(patience, self.trigger.finished()) => (finished.is_err() && !window.is_zero()).then_some(Exit::Failed),
                    cut = Self::cut(&mut self.signals, &self.reload, &mut self.stays) => Some(cut),
                }
            }
        };
        if cut.is_some() {
            // Tell the tunnels once; a moment for the bytes to leave.
            self.trigger.close(Duration::ZERO);
            let _ = timeout(LAST_WORDS, self.trigger.finished()).await;
        }
        let _ = timeout(PARTING, self.retirement.finished()).await;
        self.stage.send_replace(Stage::Drained {
            since: SystemTime::now(),
        });
        if self.stays && cut.is_none_or(|cut| cut == Exit::Failed) {
            tracing::info!(elapsed = ?started.elapsed(), left = self.open(), "drained; a signal ends the process");
            self.stay().await;
        }
        let exit = cut.unwrap_or(exit);
        tracing::info!(elapsed = ?started.elapsed(), left = self.open(), "ended");
        exit
    }

    /// Returns when a signal says not to wait any longer. The first one after an order only says that the process is to end
    /// when it has drained.
    async fn cut(signals: &mut mpsc::Receiver<Signal>, reload: &Notify, stays: &mut bool) -> Exit {
        loop {
            match signals.recv().await {
                Some(Signal::Terminate | Signal::Interrupt) if *stays => *stays = false,
                Some(Signal::Interrupt) => return Exit::Interrupted,
                Some(Signal::Terminate | Signal::Quit) => return Exit::Failed,
                Some(Signal::Reload) => reload.notify_one(),
                Some(Signal::Summary) => {}
                None => std::future::pending().await,
            }
        }
    }

    fn open(&self) -> u64 {
        self.metrics.connections()
    }

    fn summary(&self) {
        let snapshot = self.published.load();
        tracing::info!(
            generation = snapshot.generation,
            rules = snapshot.table.rules().count(),
            connections = self.open(),
            not_ready = ?self.readiness.missing(),
            "summary"
        );
    }
}

/// What the prometheus crate says of any process, under the names that every exporter uses.
pub const PROCESS: [Name; 7] = [
    of_process(
        "process_cpu_seconds_total",
        MetricType::COUNTER,
        "Total user and system CPU time spent in seconds.",
    ),
    of_process(
        "process_max_fds",
        MetricType::GAUGE,
        "Maximum number of open file descriptors.",
    ),
    of_process("process_open_fds", MetricType::GAUGE, "Number of open file descriptors."),
    of_process(
        "process_resident_memory_bytes",
        MetricType::GAUGE,
        "Resident memory size in bytes.",
    ),
    of_process(
        "process_start_time_seconds",
        MetricType::GAUGE,
        "Start time of the process since unix epoch in seconds.",
    ),
    of_process("process_threads", MetricType::GAUGE, "Number of OS threads in the process."),
    of_process(
        "process_virtual_memory_bytes",
        MetricType::GAUGE,
        "Virtual memory size in bytes.",
    ),
];

const fn of_process(name: &'static str, kind: MetricType, help: &'static str) -> Name {
    Name {
        name,
        kind,
        labels: "",
        help,
    }
}

/// Which build this is.
pub const BUILD_INFO: Name = Name {
    name: "holdfast_build_info",
    kind: MetricType::GAUGE,
    labels: "version, revision",
    help: "Which build this is; always 1.",
};

/// Where the live listener is unless somebody says otherwise.
pub const LIVE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9478);

/// Ejections that may be on their way to the control plane.
const EJECTIONS: usize = 64;

/// How long tunnels may take to end after a drain without a window: their closing handshake.
const AT_ONCE: Duration = Duration::from_millis(1500);

/// The same after a drain with one.
const CLOSING: Duration = Duration::from_secs(20);

/// How long a process that was told to end now waits for its Close frames to leave.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// How long it waits for the Leases to be given back, if that is not done yet.
const PARTING: Duration = Duration::from_secs(2);
