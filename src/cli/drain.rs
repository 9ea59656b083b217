//! `holdfast drain`: has one Holdfast drain, as SIGTERM does, and stay. Of a cluster's, the one that is named.

use std::process::ExitCode;
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::cli::live::{Answers, Reach, Replicas, Scope};
use crate::cli::offline::counted;
use crate::cli::output::{ColorChoice, Format, Screen, Tone, document, print};
use crate::cli::{Failure, NO, block_on};

/// Arguments of `holdfast drain`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The replica, by its pod's name; without it the one on this machine or in this pod
    #[arg(value_name = "POD")]
    pod: Option<String>,
    /// All replicas of the cluster at once: every tunnel ends
    #[arg(long, conflicts_with = "pod")]
    all: bool,
    /// Show how far it is, and return when no tunnel is left
    #[arg(long)]
    wait: bool,
    /// Order nothing: say how far it is, of every replica unless one is named
    #[arg(long, conflicts_with = "wait")]
    status: bool,
    /// The shape of the answer
    #[arg(long, short, value_enum, value_name = "FORMAT", default_value_t)]
    output: Format,
    #[command(flatten)]
    reach: Reach,
}

/// Orders it. 1 when one that was meant has not taken the order.
#[must_use]
pub fn run(args: &Args, color: ColorChoice) -> ExitCode {
    block_on(color, drain(args, color))
}

async fn drain(args: &Args, color: ColorChoice) -> Result<u8, Failure> {
    let replicas = match &args.pod {
        Some(pod) => Replicas::in_pod(&args.reach, pod).await?,
        None => Replicas::find(&args.reach).await?,
    };
    let is_meant = args.pod.is_some() || args.all || args.status || replicas.scope() != Scope::Cluster;
    if !is_meant {
        return Err(Failure::usage(format!(
            "which replica? Name one of {}; --all drains every one, --live {} the process on this machine",
            replicas.names().join(", "),
            crate::app::LIVE,
        )));
    }
    let method = if args.status { Method::GET } else { Method::POST };
    let mut answers = replicas.ask(method, "/drain", None).await;
    let mut told = Vec::new();
    while args.wait && answers.failed.is_empty() && !answers.documents.iter().all(is_drained) {
        if args.output == Format::Table {
            let lines: Vec<String> = answers.documents.iter().map(sentence).collect();
            for line in lines.iter().filter(|line| !told.contains(*line)) {
                print(line)?;
            }
            told = lines;
        }
        sleep(LOOK).await;
        answers = replicas.ask(Method::GET, "/drain", None).await;
    }
    print(&answer(args.output, &answers, &Screen::stdout(color))?)?;
    // An order that one has not taken is not done; a question that one has answered is answered.
    let is_done = answers.failed.is_empty() || args.status && !answers.documents.is_empty();
    Ok(if is_done { 0 } else { NO })
}

fn answer(format: Format, answers: &Answers, screen: &Screen) -> Result<String, Failure> {
    let drains: Vec<Value> = answers.documents.iter().map(without_version).collect();
    let shown = document(format, &json!({"drains": drains, "replicas": answers.summary()}))?;
    let text = || {
        let line = |state| {
            let tone = if is_drained(state) || state["stage"] == "serving" {
                Tone::Good
            } else {
                Tone::Warning
            };
            format!("{}  {}", screen.mark(tone), sentence(state))
        };
        let mut lines: Vec<String> = answers.documents.iter().map(line).collect();
        for missing in &answers.failed {
            lines.push(format!(
                "{}  {}: {}\n",
                screen.mark(Tone::Bad),
                missing.replica,
                missing.reason
            ));
        }
        lines.concat()
    };
    Ok(shown.unwrap_or_else(text))
}

/// The document that it stands in has one of its own.
fn without_version(state: &Value) -> Value {
    let fields = state.as_object().into_iter().flatten();
    fields
        .filter(|(key, _)| *key != "version")
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

fn is_drained(state: &Value) -> bool {
    state["stage"] == "drained"
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
