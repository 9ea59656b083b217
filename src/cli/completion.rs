//! `holdfast completion SHELL`: a completion script on stdout.

use std::process::ExitCode;

use clap_complete::Shell;

use crate::cli::Failure;
use crate::cli::output::{ColorChoice, print};

/// Arguments of `holdfast completion`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Whose: `source <(holdfast completion bash)` tries it at once.
    #[arg(value_enum)]
    shell: Shell,
}

/// Writes the script for `command`, the whole command line of this program.
#[must_use]
pub fn run(args: &Args, mut command: clap::Command, color: ColorChoice) -> ExitCode {
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, name, &mut script);
    match print(&String::from_utf8_lossy(&script)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => Failure::from(error).report(color),
    }
}
