//! `holdfast version`: which build this is, and which build each replica is that can be asked.

use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::timeout;

use crate::cli::live::{Answers, Reach, Replicas};
use crate::cli::output::{Cell, ColorChoice, Format, Screen, Table, Tone, document, print};
use crate::cli::{Failure, block_on};

/// Arguments of `holdfast version`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only this program's; ask nobody
    #[arg(long)]
    client: bool,
    /// The shape of the answer
    #[arg(long, short, value_enum, value_name = "FORMAT", default_value_t)]
    output: Format,
    #[command(flatten)]
    reach: Reach,
}

/// The version of this build.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit it was built from, if that was known: the Makefile sets HOLDFAST_REVISION.
#[must_use]
pub fn revision() -> Option<&'static str> {
    option_env!("HOLDFAST_REVISION").filter(|revision| !revision.is_empty())
}

/// Says it. 0 also where no replica has answered, unless one was asked for.
#[must_use]
pub fn run(args: &Args, color: ColorChoice) -> ExitCode {
    block_on(color, version(args, color))
}

async fn version(args: &Args, color: ColorChoice) -> Result<u8, Failure> {
    let running = match args.client {
        true => None,
        false => match ask(&args.reach).await {
            Ok(answers) => Some(answers),
            Err(failure) if args.reach.is_named() => return Err(failure),
            Err(_) => None, // nobody said that there is one
        },
    };
    let text = document(args.output, &fields(running.as_ref()))?;
    print(&text.unwrap_or_else(|| render(running.as_ref(), &Screen::stdout(color))))?;
    Ok(0)
}

/// Whoever cannot be found and asked in a moment is not waited for.
async fn ask(reach: &Reach) -> Result<Answers, Failure> {
    let found = timeout(PATIENCE, Replicas::find(reach)).await;
    let found = found.unwrap_or_else(|_| Err(Failure::no(format!("no replica was found in {PATIENCE:?}"))))?;
    found.within(PATIENCE).get("/state").await
}

fn fields(running: Option<&Answers>) -> Value {
    let mut fields = json!({
        "service.name": env!("CARGO_PKG_NAME"),
        "service.version": VERSION,
        "vcs.ref.head.revision": revision(),
    });
    if let Some(answers) = running {
        let versions = answers.documents.iter().map(|state| {
            json!({
                "replica": state["replica"],
                "service.version": state["service.version"],
                "vcs.ref.head.revision": state["vcs.ref.head.revision"],
            })
        });
        fields["running"] = versions.collect();
        fields["replicas"] = answers.summary();
    }
    fields
}

fn render(running: Option<&Answers>, screen: &Screen) -> String {
    let own = words(VERSION, revision());
    let mut out = format!("holdfast {own}\n");
    let Some(answers) = running else { return out };
    let mut table = Table::new(["", ""]);
    for state in &answers.documents {
        let text = |key: &str| state[key].as_str().map(str::to_owned);
        let version = words(
            text("service.version").as_deref().unwrap_or("?"),
            text("vcs.ref.head.revision").as_deref(),
        );
        let tone = if version == own { Tone::Good } else { Tone::Warning };
        table.row([
            Cell::from(text("replica").unwrap_or_default().as_str()),
            Cell::toned(tone, version),
        ]);
    }
    out.push_str(&table.render(screen));
    out + &answers.closing() + "\n"
}

fn words(version: &str, revision: Option<&str>) -> String {
    revision.map_or_else(|| version.to_owned(), |revision| format!("{version} ({revision})"))
}

/// For finding the replicas, and for each answer.
const PATIENCE: Duration = Duration::from_secs(2);
