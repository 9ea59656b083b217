//! `holdfast reference`: docs/reference.md, from the code that it documents.
//!
//! Hidden: `make generate` runs it and a test compares. What each reason and cause means to a person is in docs/reasons.md.

mod fields;

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::{Arg, Command};
use prometheus::proto::MetricType;

use crate::app;
use crate::cli::output::{ColorChoice, print};
use crate::cli::{Failure, INTERRUPTED, NO, USAGE};
use crate::control;
use crate::proxy;
use crate::proxy::end::{Cause, Initiator};
use crate::proxy::error::Reason;
use crate::telemetry::metric::Name;

pub use fields::{FIELDS, Field};

/// Arguments of `holdfast reference`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Prints it. `command`: the whole command line of this program.
#[must_use]
pub fn run(_args: &Args, command: Command, color: ColorChoice) -> ExitCode {
    match print(&markdown(command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => Failure::from(error).report(color),
    }
}

/// Every metric: of the process, of the control plane, of the data plane.
#[must_use]
pub fn metrics() -> Vec<Name> {
    let mut all = vec![app::BUILD_INFO];
    all.extend(app::PROCESS);
    all.extend(control::metrics::names::ALL);
    all.extend(proxy::metrics::names::ALL);
    all.sort_by_key(|metric| metric.name);
    all
}

fn markdown(mut command: Command) -> String {
    command.build();
    let mut out = String::from(HEAD);
    flags(&mut out, &command);
    for subcommand in command.get_subcommands().filter(|command| !command.is_hide_set()) {
        self::subcommand(&mut out, subcommand);
    }
    exit_codes(&mut out);
    table(
        &mut out,
        SIGNALS,
        &["signal", "serving", "ping, echo"],
        SIGNAL_ROWS.map(Vec::from),
    );
    metric_table(&mut out);
    reasons(&mut out);
    causes(&mut out);
    access_lines(&mut out);
    out
}

/// What serving is told, under the headings of `--help`.
fn flags(out: &mut String, command: &Command) {
    let mut headings: Vec<&str> = Vec::new();
    for heading in shown(command).filter_map(Arg::get_help_heading) {
        if !headings.contains(&heading) {
            headings.push(heading);
        }
    }
    for heading in headings {
        let of_heading = shown(command).filter(|arg| arg.get_help_heading() == Some(heading));
        let rows = of_heading.map(|arg| {
            let (meaning, default) = meaning(arg);
            let env = arg.get_env().map(|name| code(&name.to_string_lossy())).unwrap_or_default();
            vec![code(&spelling(arg)), default, env, meaning]
        });
        table(
            out,
            &format!("### {heading}\n"),
            &["flag", "default", "environment", "meaning"],
            rows,
        );
    }
}

fn subcommand(out: &mut String, command: &Command) {
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let rows: Vec<_> = shown(command)
        .filter(|arg| !arg.is_global_set())
        .map(|arg| {
            let (meaning, default) = meaning(arg);
            vec![code(&spelling(arg)), default, meaning]
        })
        .collect();
    let title = format!("### holdfast {}\n\n{}\n", command.get_name(), sentence(&about));
    if rows.is_empty() {
        let _ = write!(out, "\n{title}");
    } else {
        table(out, &title, &["argument", "default", "meaning"], rows);
    }
}

/// Arguments that are meant for people, without those that every command has.
fn shown(command: &Command) -> impl Iterator<Item = &Arg> {
    command
        .get_arguments()
        .filter(|arg| !arg.is_hide_set() && arg.get_id() != "help" && arg.get_id() != "version")
}

/// `-n, --name VALUE`, or `VALUE...` where it has no name.
fn spelling(arg: &Arg) -> String {
    let short = arg.get_short().map(|short| format!("-{short}"));
    let long = arg.get_long().map(|long| format!("--{long}"));
    let mut out = [short, long].into_iter().flatten().collect::<Vec<_>>().join(", ");
    if arg.get_action().takes_values() {
        let names = arg.get_value_names().unwrap_or_default();
        let names = names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(" ");
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(&names);
        if arg.is_positional() && arg.get_num_args().is_some_and(|count| count.max_values() > 1) {
            out.push_str("...");
        }
    }
    out
}

/// What an argument means, and its default.
fn meaning(arg: &Arg) -> (String, String) {
    let help = arg
        .get_long_help()
        .or(arg.get_help())
        .map(ToString::to_string)
        .unwrap_or_default();
    // A default that is found out at the start is in the help.
    let (meaning, default) = match help.split_once("[default: ") {
        Some((meaning, default)) => (meaning.trim().to_owned(), default.trim_end().trim_end_matches(']').to_owned()),
        None => (help, String::new()),
    };
    let mut meaning = sentence(&meaning);
    let values = arg.get_possible_values();
    let values: Vec<_> = values
        .iter()
        .filter(|value| !value.is_hide_set())
        .map(|value| code(value.get_name()))
        .collect();
    if arg.get_action().takes_values() && !values.is_empty() {
        let _ = write!(meaning, " One of {}.", values.join(", "));
    }
    let given: Vec<_> = arg
        .get_default_values()
        .iter()
        .map(|value| code(&value.to_string_lossy()))
        .collect();
    let default = if given.is_empty() || !arg.get_action().takes_values() {
        default
    } else {
        given.join(", ")
    };
    (meaning, default)
}

fn exit_codes(out: &mut String) {
    let rows = [
        (0, "Done."),
        (
            NO,
            "The answer is no: rejected, refused, closed badly. Serving: a part failed while running, or a drain was cut short.",
        ),
        (USAGE, "Usage or configuration. Nothing was bound or dialled."),
        (INTERRUPTED, "A second SIGINT."),
    ];
    let rows = rows.map(|(code, meaning)| vec![code.to_string(), meaning.to_owned()]);
    table(out, "## Exit codes\n", &["code", "meaning"], rows);
}

fn metric_table(out: &mut String) {
    let rows = metrics().into_iter().map(|metric| {
        let labels = metric.label_names().into_iter().map(code).collect::<Vec<_>>().join(", ");
        vec![
            code(metric.name),
            kind(metric.kind).to_owned(),
            labels,
            metric.help.to_owned(),
        ]
    });
    table(out, METRICS, &["metric", "type", "labels", "meaning"], rows);
    list(out, "`initiator`", Initiator::ALL.map(Initiator::word));
    list(
        out,
        "`result` of a dial",
        proxy::metrics::Dial::ALL.map(proxy::metrics::Dial::word),
    );
}

fn kind(kind: MetricType) -> &'static str {
    match kind {
        MetricType::COUNTER => "counter",
        MetricType::GAUGE => "gauge",
        MetricType::HISTOGRAM => "histogram",
        MetricType::SUMMARY => "summary",
        MetricType::UNTYPED => "untyped",
    }
}

fn reasons(out: &mut String) {
    let rows = Reason::ALL.into_iter().map(|reason| {
        let answer = reason.answer();
        let retry = match reason.retry_after() {
            Some(seconds) => format!("{seconds} to {} s", 2 * seconds),
            None => String::new(),
        };
        let error = answer
            .proxy_error
            .map_or_else(|| "nobody is left to read it".to_owned(), code);
        vec![link(answer.word), status(answer.status), error, retry, answer.text.to_owned()]
    });
    let header = ["reason", "status", "Proxy-Status error", "Retry-After", "text"];
    table(out, REASONS, &header, rows);
}

fn status(status: http::StatusCode) -> String {
    let phrase = status.canonical_reason().unwrap_or_default();
    format!("{} {phrase}", status.as_str()).trim_end().to_owned()
}

fn causes(out: &mut String) {
    let code = |code: Option<u16>| code.map_or_else(|| "-".to_owned(), |code| code.to_string());
    let rows = Cause::ALL.into_iter().map(|cause| {
        let codes = cause.codes();
        let initiators = cause.initiators().iter().map(|initiator| initiator.word());
        vec![
            link(cause.word()),
            initiators.collect::<Vec<_>>().join(", "),
            code(codes.client),
            code(codes.endpoint),
            if cause.is_failure() { "yes" } else { "" }.to_owned(),
        ]
    });
    let header = [
        "cause",
        "initiator",
        "Close to the client",
        "Close to the endpoint",
        "failure",
    ];
    table(out, CAUSES, &header, rows);
}

fn access_lines(out: &mut String) {
    let rows = FIELDS.iter().map(|field| {
        let text = if field.text.is_empty() {
            String::new()
        } else {
            code(field.text)
        };
        vec![code(field.json), text, field.events.to_owned(), field.meaning.to_owned()]
    });
    table(out, ACCESS, &["JSON", "text", "events", "meaning"], rows);
}

/// A title with what belongs below it, then a table.
fn table<S: AsRef<str>>(out: &mut String, title: &str, header: &[&str], rows: impl IntoIterator<Item = Vec<S>>) {
    let _ = write!(
        out,
        "\n{title}\n| {} |\n|{}\n",
        header.join(" | "),
        " --- |".repeat(header.len())
    );
    for row in rows {
        let cells: Vec<String> = row.iter().map(|cell| cell.as_ref().replace('|', "\\|")).collect();
        let _ = writeln!(out, "| {} |", cells.join(" | "));
    }
}

fn list<const N: usize>(out: &mut String, title: &str, words: [&str; N]) {
    let _ = writeln!(out, "\n{title}: {}.", words.map(code).join(", "));
}

fn code(text: &str) -> String {
    format!("`{text}`")
}

/// Where the word is explained.
fn link(word: &str) -> String {
    format!("[`{word}`](reasons.md#{word})")
}

/// Help texts are written without a full stop at their end, or with one.
fn sentence(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if text.is_empty() || text.ends_with('.') {
        text
    } else {
        text + "."
    }
}

const HEAD: &str = "\
<!-- Written by `make generate` from the program itself: holdfast reference. -->
# Reference

What a WebSocketRoute can say is in the CRD: `kubectl explain wsr.spec`, or crds/websocketroutes.yaml.

## Command line

`holdfast` without a subcommand serves. Its flags have names in the environment too, where lists are separated by commas; a flag
beats its name in the environment. Names that begin with `HOLDFAST_` and that no flag reads are warned about. `POD_NAME` is
written into records. Durations are written as in the Gateway API: `1h30m`, `15s`, `250ms`. Sizes are bytes, or `KiB`, `MiB`, `GiB`.
";

const SIGNALS: &str = "## Signals\n";
const SIGNAL_ROWS: [[&str; 3]; 8] = [
    [
        "TERM",
        "Drain: new connections are served for --drain-delay and refused afterwards, tunnels are ended over --drain-window.",
        "End in order.",
    ],
    [
        "INT",
        "As TERM; for a folder of manifests or one endpoint at once: every side is told by a Close.",
        "End in order.",
    ],
    [
        "TERM or INT again",
        "End now; tunnels are told once. Exit code 1, of INT 130.",
        "End now. Exit code of ping: 130.",
    ],
    ["QUIT", "End now; tunnels are told once.", "End the command."],
    ["HUP", "Read files again. Never ends anything.", "End the command."],
    ["USR1", "Write a summary to the log.", "End the command."],
    ["USR2", "Nothing.", "End the command."],
    ["PIPE", "Nothing.", "Nothing."],
];

const METRICS: &str = "\
## Metrics

At `/metrics` of the admin listener. The series of a removed route stay until its last tunnel has ended. Series for each endpoint
can be switched off by `--endpoint-metrics off`.
";

const REASONS: &str = "\
## Refusals before the 101

The `reason` label of `holdfast_handshakes_total` (there `accepted` stands for a 101 and `endpoint` for the endpoint's own answer),
`error.type` in access lines, and for the client `Proxy-Status: holdfast; error=...; details=\"REASON\"` (RFC 9209). The text is the
body, one line. The endpoint's own answer passes as it is.
";

const CAUSES: &str = "\
## Ends of tunnels

The `cause` label of `holdfast_ends_total`, `holdfast.end.cause` in access lines, and the text of the Close frames that Holdfast sends.
`-`: that side is gone, or has said so itself. After a Close of ours the endpoint is told once the client has answered.
";

const ACCESS: &str = "\
## Access lines

On stdout, one line when a connection opens (`holdfast.connection.opened`), ends (`.ended`) or is refused (`.refused`), and one
for each plain request that an endpoint answered (`holdfast.request.answered`). `--log-format` chooses the form: JSON with a
field for each, or text with `name=value`. In text a code that is not there is `-`; in JSON it is left out.
";
