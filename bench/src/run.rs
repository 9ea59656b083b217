//! The comparison. Each figure is taken on an endpoint and a proxy that have just started; peers follow each other within a row,
//! rows within a round, so that what the machine does meanwhile meets all of them alike. The medians over the rounds count.

mod peer;
mod report;

use std::fs;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread::{available_parallelism, sleep};
use std::time::{Duration, Instant};

use clap::ValueEnum;

use crate::certificate::{self, Files};
use crate::failure::{Failure, Result};
use crate::load::{self, Plan, Row, Target, Timing};
use crate::process::{Machine, Process, become_program::pin};
use crate::record;

use peer::{Peer, Program, Setup};
use report::{Figures, Setting};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// How often each figure is taken; the median counts
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=50))]
    rounds: u32,
    /// Only these rows [default: all]
    #[arg(long, value_name = "ROW,...", value_enum, value_delimiter = ',')]
    only: Vec<Row>,
    /// Only these peers [default: those that are found]
    #[arg(long, value_name = "PEER,...", value_enum, value_delimiter = ',')]
    peers: Vec<Peer>,
    /// Where peers are looked for, before PATH
    #[arg(long, value_name = "DIR", default_value = "target/bench-peers/bin")]
    programs: PathBuf,
    /// The Holdfast to measure
    #[arg(long, value_name = "FILE", default_value = "target/release/holdfast")]
    holdfast: PathBuf,
    /// More arguments for Holdfast; repeatable
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    holdfast_arg: Vec<String>,
    /// Let processes run on any core instead of the proxy alone on the first
    #[arg(long)]
    no_pin: bool,
    /// Put the table into this file, between its `<!-- bench -->` and `<!-- /bench -->`
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Write every figure of every round to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Exit 1 if a bar does not hold
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    timing: Timing,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let programs = programs(args)?;
    let rows = if args.only.is_empty() {
        Row::value_variants().to_vec()
    } else {
        args.only.clone()
    };
    let folder = Folder::make()?;
    let bench = Bench {
        timing: args.timing,
        cores: Cores::choose(args.no_pin),
        certificate: certificate::make(&folder.0)?,
        folder,
        next_port: FIRST_PORT.into(),
    };
    if let Some(core) = bench.cores.load {
        pin(core).map_err(|error| Failure::new(format_args!("run on core {core}"), error))?;
    }
    rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1))
        .map_err(|error| Failure::new("wait precisely", error))?;

    let before = Machine::now()?;
    let figures = bench.rounds(args.rounds, &rows, &programs)?;
    let setting = Setting::new(args.rounds, Machine::now()?.others_since(before), bench.cores.to_string());

    let table = report::markdown(&setting, &programs, &figures);
    println!("\n{table}");
    if let Some(file) = &args.json {
        let text = report::json(&setting, &programs, &figures);
        fs::write(file, text).map_err(|error| Failure::new(format_args!("write {}", file.display()), error))?;
    }
    if let Some(file) = &args.record {
        record::put(file, "bench", &table)?;
    }
    let holds = report::bars_hold(&figures);
    Ok(if args.check && !holds {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// Those asked for, or those found.
fn programs(args: &Args) -> Result<Vec<Program>> {
    let mut programs = Vec::new();
    let (peers, all) = if args.peers.is_empty() {
        (Peer::value_variants(), false)
    } else {
        (&args.peers[..], true)
    };
    for &peer in peers {
        let found = match peer {
            Peer::Holdfast => Program::at(peer, &args.holdfast, &args.holdfast_arg),
            _ => Program::find(peer, &args.programs),
        };
        match found {
            Ok(program) => {
                eprintln!("{peer} {}: {}", program.version, program.path.display());
                programs.push(program);
            }
            Err(failure) if all => return Err(failure),
            Err(failure) => eprintln!("without {peer}: {failure}"),
        }
    }
    Ok(programs)
}

struct Bench {
    timing: Timing,
    cores: Cores,
    certificate: Files,
    folder: Folder,
    next_port: std::cell::Cell<u16>,
}

impl Bench {
    fn rounds(&self, rounds: u32, rows: &[Row], programs: &[Program]) -> Result<Figures> {
        let mut figures = Figures::default();
        for round in 0..rounds {
            for &row in rows {
                // Whoever is first in one round is last in the next.
                let mut turn: Vec<_> = programs.iter().collect();
                turn.rotate_left(round as usize % programs.len().max(1));
                for program in turn {
                    let figure = self.figure(row, program).or_else(|failure| {
                        eprintln!("once more: {failure}"); // a machine that starves a row should not cost the whole run
                        self.figure(row, program)
                    })?;
                    eprintln!(
                        "round {} of {rounds}  {:<13}  {:<8}  {figure:>10.2} {}",
                        round + 1,
                        row.name(),
                        program.peer.to_string(),
                        row.unit()
                    );
                    figures.add(row, program.peer, figure);
                }
            }
        }
        Ok(figures)
    }

    fn figure(&self, row: Row, program: &Program) -> Result<f64> {
        let (endpoint, listen) = (self.free_address()?, self.free_address()?);
        let this = std::env::current_exe().map_err(|error| Failure::new("find this program", error))?;
        let mut echo = Command::new(this);
        echo.args(["echo", "--limit", "300", "--listen", &endpoint.to_string()]);
        let mut echo = Process::start("echo", &echo, self.cores.echo, &self.folder.0)?;
        let plain = |address| Target { address, tls: None };
        wait_for(&plain(endpoint), &mut echo)?;
        let setup = Setup {
            listen,
            admin: self.free_address()?,
            endpoint,
            folder: &self.folder.0,
            certificate: row.has_tls().then_some(&self.certificate),
        };
        let command = program.command(&setup)?;
        let mut proxy = Process::start(&program.peer.to_string(), &command, self.cores.proxy, &self.folder.0)?;
        let target = match row.has_tls() {
            false => plain(listen),
            true => Target {
                address: listen,
                tls: Some(certificate::clients(&self.certificate.chain)?),
            },
        };
        wait_for(&target, &mut proxy)?;
        let plan = Plan {
            target,
            usage: proxy.usage(),
            timing: self.timing,
        };
        plan.measure(row).map_err(|failure| {
            Failure::says(format!(
                "{} with {}: {failure}\n{}",
                row.name(),
                program.peer,
                proxy.last_lines()
            ))
        })
    }

    /// A new one for each process, below the range that clients' ports come from.
    fn free_address(&self) -> Result<SocketAddr> {
        loop {
            let port = self.next_port.get();
            if port > LAST_PORT {
                return Err(Failure::says("no free port is left"));
            }
            self.next_port.set(port + 1);
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            match TcpListener::bind(address) {
                Ok(_) => return Ok(address),
                Err(error) if error.kind() == ErrorKind::AddrInUse => {}
                Err(error) => return Err(Failure::new(format_args!("listen on {address}"), error)),
            }
        }
    }
}

/// Until a connection to `target` becomes a tunnel: some proxies listen before they know their endpoint.
fn wait_for(target: &Target, process: &mut Process) -> Result<()> {
    let deadline = Instant::now() + START;
    while let Err(failure) = load::open_one(target) {
        process.check()?;
        if Instant::now() > deadline {
            return Err(Failure::says(format!("{failure}, after {START:?}\n{}", process.last_lines())));
        }
        sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Who runs where: the proxy has a core of its own, the two ends share the next, or have one each where there are three.
#[derive(Clone, Copy)]
struct Cores {
    proxy: Option<usize>,
    load: Option<usize>,
    echo: Option<usize>,
}

impl Cores {
    fn choose(no_pin: bool) -> Self {
        let count = available_parallelism().map_or(1, usize::from);
        if no_pin || count < 2 {
            return Self {
                proxy: None,
                load: None,
                echo: None,
            };
        }
        Self {
            proxy: Some(0),
            load: Some(1),
            echo: Some(if count > 2 { 2 } else { 1 }),
        }
    }
}

impl std::fmt::Display for Cores {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.proxy, self.load, self.echo) {
            (Some(proxy), Some(load), Some(echo)) => {
                write!(f, "proxy on core {proxy}, clients on core {load}, endpoint on core {echo}")
            }
            _ => f.write_str("any core for any process"),
        }
    }
}

/// A folder for configurations and logs, removed at the end.
pub struct Folder(PathBuf);

impl Folder {
    pub fn make() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("holdfast-bench-{}", std::process::id()));
        fs::create_dir_all(&path).map_err(|error| Failure::new(format_args!("make {}", path.display()), error))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl AsRef<Path> for Folder {
    fn as_ref(&self) -> &Path {
        &self.0
    }
}

const START: Duration = Duration::from_secs(10);
const FIRST_PORT: u16 = 20_000;
const LAST_PORT: u16 = 32_000;
