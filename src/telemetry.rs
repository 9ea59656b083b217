//! Diagnostics: what the process says on stderr, and the bounded queue through which any line leaves it.
//!
//! `main` calls [`init`] once and keeps the guard; everything else speaks through `tracing`. The record writer of the proxy
//! uses [`Lines`] for stdout. A terminal or a pipe that nobody reads fills the queue and costs lines, which are counted; it
//! never makes a worker wait. [`metric`] is what a metric of any part is named by. Nothing here knows a route or a tunnel.

mod format;
mod lines;
pub mod metric;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io;
use std::panic::PanicHookInfo;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

pub use lines::{Flush, Lines};

use format::{Json, Text};

/// How diagnostics and access records are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum LogFormat {
    /// One line for a person.
    #[default]
    Text,
    /// One JSON object a line, with OpenTelemetry's field names.
    Json,
}

/// What keeps diagnostics flowing; dropping it writes out what is queued, for at most a second.
#[derive(Debug)]
pub struct Telemetry {
    lines: Lines,
    _flush: Flush,
}

impl Telemetry {
    /// How many diagnostic lines were lost so far because nobody read stderr.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.lines.dropped()
    }
}

/// Why diagnostics could not be started.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter is not one.
    #[error("log level {given:?} is not a level or a filter: {source}; write error, warn, info, debug, trace or target=level")]
    Filter {
        /// As the user wrote it.
        given: String,
        /// What the parser said.
        source: tracing_subscriber::filter::ParseError,
    },
    /// A writer thread could not be started.
    #[error("cannot start the log writer: {0}")]
    Thread(#[from] io::Error),
    /// Called twice in one process.
    #[error("diagnostics are already started: {0}")]
    Twice(#[from] TryInitError),
}

/// Starts diagnostics on stderr and logs panics from then on.
///
/// `level` is a level or a filter as `tracing` writes it (`info`, `holdfast=debug,warn`). The Kubernetes client's own lines are
/// written only if it names them (`info,kube_client=debug`). `color` colours the text format's level; the caller has decided
/// whether stderr is a terminal that wants it.
///
/// # Errors
/// When `level` is no filter, when no thread can be started, or on a second call.
pub fn init(format: LogFormat, level: &str, color: bool) -> Result<Telemetry, TelemetryError> {
    let filter = EnvFilter::try_new(format!("{QUIET},{level}")).map_err(|source| TelemetryError::Filter {
        given: level.to_owned(),
        source,
    })?;
    let (lines, flush) = Lines::new("log-writer", io::stderr(), QUEUE)?;
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer().with_writer(lines.clone());
    match format {
        LogFormat::Text => registry.with(layer.event_format(Text { color })).try_init()?,
        LogFormat::Json => registry.with(layer.event_format(Json)).try_init()?,
    }
    std::panic::set_hook(Box::new(log_panic));
    Ok(Telemetry { lines, _flush: flush })
}

fn log_panic(panic: &PanicHookInfo<'_>) {
    let message = panic.payload_as_str().unwrap_or("a value that is not text");
    let location = panic.location().map(ToString::to_string).unwrap_or_default();
    let thread = std::thread::current().name().unwrap_or("unnamed").to_owned();
    let backtrace = Backtrace::capture();
    let stack = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    tracing::error!(
        exception.message = message,
        code.location = location,
        thread.name = thread,
        exception.stacktrace = stack,
        "panic: this is a bug in holdfast, please report it"
    );
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = LineWriter<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        LineWriter(self)
    }
}

/// Turns the one write that `tracing-subscriber` makes for each event into one queued line.
#[derive(Debug)]
pub struct LineWriter<'a>(&'a Lines);

impl io::Write for LineWriter<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.send(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What says once more, and without a name, what its caller gets as an error and says better: each failed request.
const QUIET: &str = "kube_client=off";
/// Diagnostic lines that may wait for a slow reader of stderr.
const QUEUE: usize = 2048;
