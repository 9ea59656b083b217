//! The step between a spawn and the program: what the program must inherit is set in the process that becomes it.

use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::failure::Failure;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The only core to run on
    #[arg(long, value_name = "N")]
    core: Option<usize>,
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// Does not return, unless it cannot.
pub fn run(args: &Args) -> Failure {
    let ready = set_parent_process_death_signal(Some(Signal::TERM)).and_then(|()| args.core.map_or(Ok(()), pin));
    if let Err(error) = ready {
        return Failure::new("prepare the process", error);
    }
    let Some((program, rest)) = args.command.split_first() else {
        return Failure::says("no program is named");
    };
    Failure::new(format_args!("start {program}"), Command::new(program).args(rest).exec())
}

/// Keeps the calling thread, and what it starts, on one core.
pub fn pin(core: usize) -> rustix::io::Result<()> {
    let mut cores = CpuSet::new();
    cores.set(core);
    sched_setaffinity(None, &cores)
}
