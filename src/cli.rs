//! The command line's answers: one module per subcommand, each with its `Args` and a `run` that returns the exit code.
//!
//! `main` parses and dispatches. Commands may look at everything; nothing looks at them. They write to stdout through
//! [`output`] or a queue of lines, and never through `tracing`.

pub mod check;
pub mod completion;
pub mod connections;
pub mod crd;
pub mod drain;
pub mod echo;
pub mod ends;
pub mod explain;
mod figures;
mod live;
mod offline;
pub mod output;
pub mod ping;
pub mod reference;
pub mod version;
pub mod why;

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::cli::output::ColorChoice;

/// The answer is no: rejected, refused, closed badly.
pub const NO: u8 = 1;
/// The question makes no sense: usage or configuration. Nothing was bound or dialled.
pub const USAGE: u8 = 2;
/// A second SIGINT.
pub const INTERRUPTED: u8 = 130;

/// Runs one command's future on a runtime of its own; an error is printed and becomes its exit code.
fn block_on<F>(color: ColorChoice, command: F) -> ExitCode
where
    F: Future<Output = Result<u8, Failure>>,
{
    let done = runtime().map_err(Failure::from).and_then(|runtime| {
        let done = runtime.block_on(command);
        // A name server that does not answer must not hold up the end.
        runtime.shutdown_background();
        done
    });
    done.map_or_else(|failure| failure.report(color), ExitCode::from)
}

fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

/// Why a command ended without an answer.
#[derive(Debug)]
struct Failure {
    code: u8,
    text: String,
}

impl Failure {
    fn usage(text: impl Into<String>) -> Self {
        Self {
            code: USAGE,
            text: text.into(),
        }
    }

    fn no(text: impl Into<String>) -> Self {
        Self {
            code: NO,
            text: text.into(),
        }
    }

    fn report(&self, color: ColorChoice) -> ExitCode {
        // A reader that went away (`| head`) needs no message, and has nowhere to show one.
        if !self.text.is_empty() {
            output::error(color, &self.text);
        }
        ExitCode::from(self.code)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        let text = if error.kind() == io::ErrorKind::BrokenPipe {
            String::new()
        } else {
            error.to_string()
        };
        Self { code: NO, text }
    }
}

/// SIGINT and SIGTERM, as a command that runs for a while hears them.
struct Interrupts {
    int: Signal,
    term: Signal,
}

impl Interrupts {
    /// Listens from now on; the default action of both is gone.
    fn listen() -> io::Result<Self> {
        Ok(Self {
            int: signal(SignalKind::interrupt())?,
            term: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for the next of either. Nothing is lost when it is dropped.
    async fn next(&mut self) {
        tokio::select! {
            _ = self.int.recv() => {}
            _ = self.term.recv() => {}
        }
    }
}

/// A duration as people write it: `500ms`, `1s`, `1m30s`.
fn duration(text: &str) -> Result<Duration, String> {
    let signed: jiff::SignedDuration = text.parse().map_err(|_| "write it as 500ms, 1s or 1m30s".to_owned())?;
    Duration::try_from(signed).map_err(|_| "it cannot be negative".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_people_do() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1s"), Ok(Duration::from_secs(1)));
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        assert!(duration("1").is_err());
        assert!(duration("-1s").is_err());
        assert!(duration("soon").is_err());
    }
}
