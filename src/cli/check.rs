//! `holdfast check PATH...`: what would become of manifests, without serving them: the API server's verdict and ours. Without a
//! path: whether the installation that runs is as it should be.

mod excerpt;
mod installation;
mod report;
mod text;

use std::path::PathBuf;
use std::process::ExitCode;

use crate::cli::live::Reach;
use crate::cli::offline::{Offline, View};
use crate::cli::output::{ColorChoice, Format, Screen, document, print};
use crate::cli::{Failure, NO, block_on};
use crate::control::object::ObjectKind;
use crate::control::{ListError, Listing, list};

use report::Report;

/// Arguments of `holdfast check`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Files, or folders that are looked through for *.yaml, *.yml and *.json [default: none; the installation is checked]
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Judge the files beside what is there: as if they were applied
    #[arg(long, value_enum, value_name = "WHAT", requires = "paths")]
    against: Option<Against>,
    /// With --against: look at these namespaces only; repeatable, or a comma-separated list
    #[arg(long, value_name = "NAME", value_delimiter = ',', requires = "against")]
    watch_namespace: Vec<String>,
    /// Show each route's rules and effective values too, and where the values come from
    #[arg(long, requires = "paths")]
    effective: bool,
    /// The shape of the answer; wide shows effective values too, and of an installation each thing on a line of its own
    #[arg(long, short, value_enum, value_name = "FORMAT", default_value_t)]
    output: Format,
    #[command(flatten)]
    view: View,
    #[command(flatten)]
    reach: Reach,
}

/// What files are judged beside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Against {
    /// The routes, Services and Secrets of a cluster, read with the kubeconfig's rights.
    Cluster,
}

/// Checks. 1 when something would be refused, or the installation has a problem.
#[must_use]
pub fn run(args: &Args, color: ColorChoice) -> ExitCode {
    block_on(color, async {
        if args.paths.is_empty() {
            return installation::run(args, color).await;
        }
        let (code, text) = answer(args, &Screen::stdout(color)).await?;
        print(&text)?;
        Ok(code)
    })
}

async fn answer(args: &Args, screen: &Screen) -> Result<(u8, String), Failure> {
    let mut notes = Vec::new();
    let offline = match args.against {
        None => Offline::read(&args.paths, &args.view)?,
        Some(Against::Cluster) => {
            let Listing { objects, forbidden } = listed(args).await?;
            let unread = |(kind, why): &(ObjectKind, String)| format!("{}s of the cluster count as missing: {why}", kind.word());
            notes.extend(forbidden.iter().map(unread));
            Offline::beside(&args.paths, &args.view, Listing { objects, forbidden })?
        }
    };
    let mut report = Report::of(&offline, &args.view.class);
    report.notes = notes;
    let code = if report.rejected == 0 { 0 } else { NO };
    let with_values = args.effective || args.output == Format::Wide;
    let text = document(args.output, &report.json())?.unwrap_or_else(|| text::render(&report, screen, with_values));
    Ok((code, text))
}

async fn listed(args: &Args) -> Result<Listing, Failure> {
    let access = args.reach.cluster()?;
    let listing = list(&access, &args.watch_namespace, &args.view.class).await;
    listing.map_err(|error| match error {
        ListError::Access(error) => Failure::usage(error.to_string()),
        error => Failure {
            code: NO,
            text: error.to_string(),
        },
    })
}
