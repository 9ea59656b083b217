//! The clients: a set of tunnels through one proxy, and what can be done with them. Whoever measures passes what to ask at the
//! start and at the end of the measured part.

mod rows;
mod stream;
mod tunnels;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::certificate;
use crate::failure::{Failure, Result};
use crate::process::Usage;

pub use rows::{Plan, Row, Timing, open_one};
pub use stream::Target;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where the proxy listens
    #[arg(long, value_name = "IP:PORT")]
    target: SocketAddr,
    /// What to do
    #[arg(long, value_enum)]
    row: Row,
    /// The proxy's process, to measure it and all that it started
    #[arg(long, value_name = "PID")]
    pid: u32,
    /// The certificate of the proxy, for the rows with TLS; its host is bench.example
    #[arg(long, value_name = "FILE")]
    cacert: Option<PathBuf>,
    #[command(flatten)]
    timing: Timing,
}

/// One row against a proxy that runs already.
pub fn run(args: &Args) -> Result<()> {
    let tls = match &args.cacert {
        None if args.row.has_tls() => return Err(Failure::says("this row needs --cacert")),
        Some(chain) if args.row.has_tls() => Some(certificate::clients(chain)?),
        _ => None,
    };
    let plan = Plan {
        target: Target {
            address: args.target,
            tls,
        },
        usage: Usage::of(args.pid),
        timing: args.timing,
    };
    let started = Instant::now();
    let figure = plan.measure(args.row)?;
    let row = args.row.name();
    println!(
        "{}",
        json!({"row": row, "figure": figure, "unit": args.row.unit(), "seconds": started.elapsed().as_secs_f64()})
    );
    Ok(())
}

/// Longest that a step which waits for the proxy may take.
const STEP: Duration = Duration::from_secs(60);
