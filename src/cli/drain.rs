//! `holdfast drain`: has the Holdfast on this machine drain, as SIGTERM does, and stay.

use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value;
use tokio::time::sleep;

use crate::cli::live::{Answers, Reach, Replicas};
use crate::cli::offline::counted;
use crate::cli::output::{ColorChoice, Format, Screen, Tone, document, print};
use crate::cli::{Failure, block_on};

/// Arguments of `holdfast drain`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Show how far it is, and return when no tunnel is left
    #[arg(long)]
    wait: bool,
    /// Order nothing: say how far it is
    #[arg(long, conflicts_with = "wait")]
    status: bool,
    /// The shape of the answer
    #[arg(long, short, value_enum, value_name = "FORMAT", default_value_t)]
    output: Format,
    #[command(flatten)]
    reach: Reach,
}

/// Orders it. 1 when nobody is there to take the order.
#[must_use]
pub fn run(args: &Args, color: ColorChoice) -> ExitCode {
    block_on(color, drain(args, color))
}

async fn drain(args: &Args, color: ColorChoice) -> Result<u8, Failure> {
    let replicas = Replicas::find(&args.reach).await?;
    let screen = Screen::stdout(color);
    let mut state = if args.status {
        only(replicas.get("/drain").await?)
    } else {
        only(replicas.post("/drain", None).await?)
    };
    let mut told = String::new();
    while args.wait && state["stage"] != "drained" {
        if args.output == Format::Table {
            let line = sentence(&state);
            if line != told {
                print(&line)?;
                told = line;
            }
        }
        sleep(LOOK).await;
        state = only(replicas.get("/drain").await?);
    }
    let done = state["stage"] == "drained";
    let tone = if done || state["stage"] == "serving" {
        Tone::Good
    } else {
        Tone::Warning
    };
    let text = document(args.output, &state)?.unwrap_or_else(|| format!("{}  {}", screen.mark(tone), sentence(&state)));
    print(&text)?;
    Ok(0)
}

fn only(answers: Answers) -> Value {
    answers.documents.into_iter().next().unwrap_or_default()
}

fn sentence(state: &Value) -> String {
    let replica = state["replica"].as_str().unwrap_or("?");
    let open = state["connections"]
        .as_u64()
        .and_then(|open| usize::try_from(open).ok())
        .unwrap_or_default();
    let seconds = |name: &str| Duration::from_secs_f64(state[name].as_f64().unwrap_or_default().clamp(0.0, 1e6));
    match state["stage"].as_str().unwrap_or_default() {
        "serving" => format!(
            "{replica} serves {}; nobody has ordered a drain\n",
            counted(open, "connection")
        ),
        "announced" => format!(
            "{replica} still takes connections while load balancers notice ({:?}); {open} open\n",
            seconds("delay_seconds")
        ),
        "closing" => format!(
            "{replica} ends its tunnels over {:?}; {open} open\n",
            seconds("window_seconds")
        ),
        _ => format!("{replica} has drained; {open} left\n"),
    }
}

/// How often the state is looked at.
const LOOK: Duration = Duration::from_millis(250);
