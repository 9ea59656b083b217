//! `holdfast version`: which build this is.

use std::io;
use std::process::ExitCode;

use serde_json::json;

use crate::cli::Failure;
use crate::cli::output::{ColorChoice, Format, document, print};

/// Arguments of `holdfast version`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The shape of the answer.
    #[arg(long, short, value_enum, value_name = "FORMAT", default_value_t)]
    output: Format,
}

/// The version of this build.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit it was built from, if that was known: the Makefile sets HOLDFAST_REVISION.
#[must_use]
pub fn revision() -> Option<&'static str> {
    option_env!("HOLDFAST_REVISION").filter(|revision| !revision.is_empty())
}

/// Says it.
#[must_use]
pub fn run(args: &Args, color: ColorChoice) -> ExitCode {
    match answer(args.output).and_then(|text| print(&text)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => Failure::from(error).report(color),
    }
}

fn answer(format: Format) -> io::Result<String> {
    let fields = json!({
        "service.name": env!("CARGO_PKG_NAME"),
        "service.version": VERSION,
        "vcs.ref.head.revision": revision(),
    });
    let plain = || match revision() {
        Some(revision) => format!("holdfast {VERSION} ({revision})\n"),
        None => format!("holdfast {VERSION}\n"),
    };
    Ok(document(format, &fields)?.unwrap_or_else(plain))
}
