//! Parses the command line and runs what it says.

use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use holdfast::{
    app::{self, Exit},
    cli,
    config::{Cli, Command, Serve, Switch},
    telemetry::{self, Lines},
};
use tokio::runtime::Builder;

mod signals;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let Cli { command, serve } = Cli::parse();
    let color = serve.color;
    match command {
        None => run(serve),
        Some(Command::Check(args)) => cli::check::run(&args, color),
        Some(Command::Why(args)) => cli::why::run(&args, color),
        Some(Command::Ping(args)) => cli::ping::run(&args, color),
        Some(Command::Echo(args)) => cli::echo::run(&args, color),
        Some(Command::Drain(args)) => cli::drain::run(&args, color),
        Some(Command::Connections(args)) => cli::connections::run(&args, color),
        Some(Command::Ends(args)) => cli::ends::run(&args, color),
        Some(Command::Explain(args)) => cli::explain::run(&args, color),
        Some(Command::Crd(args)) => cli::crd::run(&args),
        Some(Command::Completion(args)) => cli::completion::run(&args, Cli::command(), color),
        Some(Command::Reference(args)) => cli::reference::run(&args, Cli::command(), color),
        Some(Command::Version(args)) => cli::version::run(&args, color),
    }
}

/// Serves until it ends.
fn run(config: Serve) -> ExitCode {
    let color = cli::output::Screen::stderr(config.color).color();
    let _telemetry = match telemetry::init(config.log_format, &config.log_level, color) {
        Ok(telemetry) => telemetry,
        Err(error) => return refuse(&error),
    };
    let access = match config.access_log {
        Switch::Off => None,
        Switch::On => match Lines::new("access-writer", std::io::stdout(), ACCESS_LINES) {
            Ok(access) => Some(access),
            Err(error) => return refuse(&error),
        },
    };
    signals::warn_unknown_names();
    let bound = match app::build(config, access) {
        Ok(bound) => bound,
        Err(error) => return refuse(&error),
    };
    let runtime = match Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return refuse(&error),
    };
    let exit = runtime.block_on(async {
        let signals = signals::watch()?;
        bound.run(signals).await
    });
    runtime.shutdown_background();
    match exit {
        Ok(Exit::Done) => ExitCode::SUCCESS,
        Ok(Exit::Failed) => ExitCode::from(1),
        Ok(Exit::Interrupted) => ExitCode::from(130),
        Err(error) => refuse(&error),
    }
}

fn refuse(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("holdfast: {error}");
    ExitCode::from(2)
}

/// Threads for the control plane, the admin listener and signals; connections have their own.
const CONTROL_THREADS: usize = 2;

/// Access lines that may wait for a slow reader of stdout.
const ACCESS_LINES: usize = 16 * 1024;
