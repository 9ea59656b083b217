//! `holdfast check PATH...`: what would become of manifests, without serving them: the API server's verdict and ours.

mod excerpt;
mod report;
mod text;

use std::path::PathBuf;
use std::process::ExitCode;

use crate::cli::offline::{Offline, View};
use crate::cli::output::{ColorChoice, Format, Screen, document, print};
use crate::cli::{Failure, NO};

use report::Report;

/// Arguments of `holdfast check`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Files, or folders that are looked through for *.yaml, *.yml and *.json
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
    /// Show each route's rules and effective values too, and where the values come from
    #[arg(long)]
    effective: bool,
    /// The shape of the answer; wide shows effective values too
    #[arg(long, short, value_enum, value_name = "FORMAT", default_value_t)]
    output: Format,
    #[command(flatten)]
    view: View,
}

/// Checks. 1 when something would be refused.
#[must_use]
pub fn run(args: &Args, color: ColorChoice) -> ExitCode {
    match answer(args, &Screen::stdout(color)).and_then(|(code, text)| print(&text).map(|()| code).map_err(Failure::from)) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => failure.report(color),
    }
}

fn answer(args: &Args, screen: &Screen) -> Result<(u8, String), Failure> {
    let offline = Offline::read(&args.paths, &args.view)?;
    let report = Report::of(&offline, &args.view.class);
    let code = if report.rejected == 0 { 0 } else { NO };
    let with_values = args.effective || args.output == Format::Wide;
    let text = document(args.output, &report.json())?.unwrap_or_else(|| text::render(&report, screen, with_values));
    Ok((code, text))
}
