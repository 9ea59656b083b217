//! Holdfast on a large cluster: how much memory it takes, how long it takes until it is ready and until a change is in effect,
//! and what a stream of changes costs.

mod cluster;
mod probe;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use tokio::time::{Instant, interval, sleep, timeout};

use crate::failure::{Failure, Result};
use crate::process::Process;
use crate::record;
use crate::run::Folder;

use cluster::{CLASS, Cluster, NAMESPACE, POD_PORT, Size, route_path};
use probe::Probe;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    size: Size,
    /// The Holdfast to measure
    #[arg(long, value_name = "FILE", default_value = "target/release/holdfast")]
    holdfast: PathBuf,
    /// How many changes of each kind are timed
    #[arg(long, value_name = "N", default_value_t = 200)]
    changes: u32,
    /// How long the streams of changes last
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    seconds: u64,
    /// Put the table into this file, between its `<!-- scale -->` and `<!-- /scale -->`
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
}

/// Measures and prints a table.
pub fn run(args: &Args) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::new("start a runtime", error))?;
    let figures = runtime.block_on(measure(args))?;
    let table = figures.table(&args.size);
    println!("{table}");
    args.record.as_ref().map_or(Ok(()), |file| record::put(file, "scale", &table))
}

/// What was measured.
struct Figures {
    first_table: Duration,
    memory: u64,
    peak: u64,
    per_endpoint: u64,
    endpoints: Times,
    routes: Times,
    /// Share of a core during 100 changes a second.
    cpu_endpoints: f64,
    cpu_routes: f64,
}

/// From the API server's word that a change is written to the first connection that follows it.
struct Times(Vec<Duration>);

async fn measure(args: &Args) -> Result<Figures> {
    let cluster = Cluster::connect(args.size).await?;
    let folder = Folder::make()?;
    let this = std::env::current_exe().map_err(|error| Failure::new("find this program", error))?;
    let mut echo = Command::new(this);
    echo.args(["echo", "--limit", "1800", "--listen", &format!("0.0.0.0:{POD_PORT}")]);
    let _echo = Process::start("echo", &echo, None, folder.as_ref())?;

    eprintln!("writing {} routes and {} Services", args.size.routes, args.size.services);
    cluster.fill().await?;
    let (empty, _) = Running::start(args, &folder).await?;
    let before = empty.settled().await?;
    drop(empty);
    eprintln!("writing {} endpoints", args.size.endpoints);
    cluster.fill_endpoints().await?;
    let (holdfast, first_table) = Running::start(args, &folder).await?;
    let memory = holdfast.settled().await?;
    let peak = holdfast.peak()?;

    eprintln!("timing {} changes of endpoints, and as many of routes", args.changes);
    let endpoints = endpoint_changes(&cluster, &holdfast, args.changes).await?;
    let routes = route_changes(&cluster, &holdfast, args.changes).await?;
    eprintln!("100 changes a second, for {} s each", args.seconds);
    let cpu_endpoints = holdfast
        .cpu_during(args.seconds, |at| {
            cluster.set_ready(at % args.size.services, at / args.size.services % 2 == 1)
        })
        .await?;
    let cpu_routes = holdfast
        .cpu_during(args.seconds, |at| cluster.set_path(at % args.size.routes, 1_000_000 + at))
        .await?;
    Ok(Figures {
        first_table,
        memory,
        peak,
        per_endpoint: memory.saturating_sub(before) / u64::from(args.size.endpoints.max(1)),
        endpoints,
        routes,
        cpu_endpoints,
        cpu_routes,
    })
}

/// Takes all endpoints of a Service away and gives them back; each is a change.
async fn endpoint_changes(cluster: &Cluster, holdfast: &Running, changes: u32) -> Result<Times> {
    let mut times = Vec::new();
    for change in 0..changes {
        let service = change / 2 % cluster.size.services;
        let ready = change % 2 == 1;
        let wanted = if ready { 101 } else { 503 };
        let probe = holdfast.probe(cluster.path_of(service), wanted);
        cluster.set_ready(service, ready).await?;
        times.push(probe.since(Instant::now()).await?);
    }
    Ok(Times(times))
}

/// Moves routes to paths that nothing was at before.
async fn route_changes(cluster: &Cluster, holdfast: &Running, changes: u32) -> Result<Times> {
    let mut times = Vec::new();
    for change in 0..changes {
        let route = cluster.size.routes - 1 - change % cluster.size.routes;
        let probe = holdfast.probe(route_path(route, change + 1), 101);
        cluster.set_path(route, change + 1).await?;
        times.push(probe.since(Instant::now()).await?);
    }
    Ok(Times(times))
}

/// A Holdfast that serves the cluster.
struct Running {
    process: Process,
    http: SocketAddr,
    pid: u32,
}

impl Running {
    /// Starts it, and says how long it took until it was ready.
    async fn start(args: &Args, folder: &Folder) -> Result<(Self, Duration)> {
        let (http, admin) = (
            SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
            SocketAddr::from((Ipv4Addr::LOCALHOST, 9477)),
        );
        let mut command = Command::new(&args.holdfast);
        command.args([
            "--workers",
            "1",
            "--access-log",
            "off",
            "--drain-delay",
            "0s",
            "--drain-window",
            "0s",
            "--class",
            CLASS,
        ]);
        command.args(["--http", &http.to_string(), "--admin", &admin.to_string()]);
        command.env("POD_NAME", "scale-0").env("POD_NAMESPACE", NAMESPACE);
        let started = Instant::now();
        let mut process = Process::start("holdfast", &command, None, folder.as_ref())?;
        while probe::status(admin, "/readyz").await != Some(200) {
            process.check()?;
            if started.elapsed() > PATIENCE {
                return Err(Failure::says(format!(
                    "not ready after {PATIENCE:?}\n{}",
                    process.last_lines()
                )));
            }
            sleep(Duration::from_millis(5)).await;
        }
        let took = started.elapsed();
        let pid = process.pid();
        Ok((Self { process, http, pid }, took))
    }

    /// Its memory when it has not moved for two seconds.
    async fn settled(&self) -> Result<u64> {
        let started = Instant::now();
        let mut last = self.process.usage().pss()?;
        let mut since = Instant::now();
        while since.elapsed() < Duration::from_secs(2) && started.elapsed() < PATIENCE {
            sleep(Duration::from_millis(200)).await;
            let now = self.process.usage().pss()?;
            if now.abs_diff(last) > now / 100 {
                (last, since) = (now, Instant::now());
            }
        }
        self.process.usage().pss()
    }

    /// The most that it ever held.
    fn peak(&self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.pid);
        let text = fs::read_to_string(&path).map_err(|error| Failure::new(format_args!("read {path}"), error))?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
        kibibytes
            .map(|kibibytes| kibibytes * 1024)
            .ok_or_else(|| Failure::says(format!("no VmHWM in {path}")))
    }

    /// Asks for `path` again and again until the answer has the status `wanted`.
    fn probe(&self, path: String, wanted: u16) -> Probe {
        Probe::start(self.http, path, wanted)
    }

    /// The share of a core that it takes while `change` is done 100 times a second.
    async fn cpu_during<F: Future<Output = Result<()>>>(&self, seconds: u64, change: impl Fn(u32) -> F) -> Result<f64> {
        let count = u32::try_from(seconds * 100).unwrap_or(u32::MAX);
        let usage = self.process.usage();
        let (cpu, started) = (usage.cpu()?, Instant::now());
        let mut ticks = interval(Duration::from_millis(10));
        for at in 0..count {
            ticks.tick().await;
            let late = timeout(PATIENCE, change(at)).await;
            late.map_err(|_| Failure::says("the API server does not keep up"))??;
        }
        Ok((usage.cpu()? - cpu).as_secs_f64() / started.elapsed().as_secs_f64())
    }
}

impl Times {
    fn quantile(&self, quantile: f64) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let at = ((sorted.len() as f64 * quantile).ceil() as usize).saturating_sub(1);
        sorted.get(at).copied().unwrap_or_default()
    }

    fn cells(&self) -> String {
        let millis = |quantile| self.quantile(quantile).as_secs_f64() * 1e3;
        format!("p50 {:.1} ms, p99 {:.1} ms", millis(0.5), millis(0.99))
    }
}

impl Figures {
    fn table(&self, size: &Size) -> String {
        let date = format!("{:.10}", jiff::Timestamp::now().to_string());
        let mebibytes = |bytes: u64| format!("{:.0} MiB", bytes as f64 / f64::from(1 << 20));
        let rows = [
            ("memory (Pss)", mebibytes(self.memory), ""),
            ("memory at its peak, while it starts (RSS)", mebibytes(self.peak), ""),
            ("memory per endpoint", format!("{} B", self.per_endpoint), ""),
            ("from start to ready", format!("{:.2} s", self.first_table.as_secs_f64()), ""),
            (
                "from a written EndpointSlice to the first connection that follows it",
                self.endpoints.cells(),
                "20 ms",
            ),
            (
                "from a written route to the first connection that follows it",
                self.routes.cells(),
                "300 ms",
            ),
            (
                "CPU during 100 changes of EndpointSlices a second",
                format!("{:.0}% of a core", self.cpu_endpoints * 100.0),
                "",
            ),
            (
                "CPU during 100 changes of routes a second",
                format!("{:.0}% of a core", self.cpu_routes * 100.0),
                "",
            ),
        ];
        let mut table = format!(
            "{date}: {} WebSocketRoutes, {} Services, {} endpoints; one worker; API server, etcd and clients on the same {} cores.\n\n\
             | | Holdfast {} | bar |\n| --- | ---: | ---: |\n",
            size.routes,
            size.services,
            size.endpoints,
            std::thread::available_parallelism().map_or(1, usize::from),
            env!("CARGO_PKG_VERSION"),
        );
        for (what, figure, bar) in rows {
            table += &format!("| {what} | {figure} | {bar} |\n");
        }
        table
    }
}

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);
