//! Measures Holdfast on one machine, on loopback only. `run` compares it with its peers; `echo` and `load` are the two ends of
//! that, for measuring something by hand; `scale` gives it a large cluster. bench/README.md says how the figures are made.

mod certificate;
mod echo;
mod failure;
mod frame;
mod handshake;
mod load;
mod poller;
mod process;
mod record;
mod run;
mod scale;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use failure::{Failure, Result};

#[derive(Debug, Parser)]
#[command(name = "holdfast-bench", about, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The endpoint: completes WebSocket handshakes and sends every message back. One thread
    Echo(echo::Args),
    /// The clients: opens tunnels through one proxy that runs already, does one row, prints JSON. One thread
    Load(load::Args),
    /// The comparison: starts the endpoint and each peer in turn, measures, prints a table
    Run(run::Args),
    /// Holdfast on a large cluster: memory, time to the first table, time from a change to its effect. Needs KUBECONFIG of a
    /// cluster that may be filled, and whose pod addresses are this machine's: bench/scale.sh
    Scale(scale::Args),
    /// Pins itself to a core, dies with its parent, and becomes another program
    #[command(hide = true)]
    Become(process::become_program::Args),
}

fn main() -> ExitCode {
    let done = raise_fd_limit().and_then(|()| match Cli::parse().command {
        Command::Echo(args) => echo::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Load(args) => load::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Run(args) => run::run(&args),
        Command::Scale(args) => scale::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Become(args) => Err(process::become_program::run(&args)),
    });
    done.unwrap_or_else(|failure| {
        eprintln!("error: {failure}");
        ExitCode::FAILURE
    })
}

/// Every connection is a descriptor; children inherit the limit.
fn raise_fd_limit() -> Result<()> {
    let hard = getrlimit(Resource::Nofile).maximum;
    let limit = hard.map(|hard| hard.min(MAX_FDS));
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit,
            maximum: hard,
        },
    )
    .map_err(|error| Failure::new("raise the limit of file descriptors", error))
}

const MAX_FDS: u64 = 20_000;
