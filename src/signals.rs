//! Signals as values, and environment names that nobody reads.

use std::{
    ffi::{OsStr, OsString},
    io,
};

use clap::CommandFactory;
use holdfast::{app::Signal, config::Cli};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

/// Watches the signals that mean something. USR2 means nothing, and would end the process if nobody watched it.
pub fn watch() -> io::Result<mpsc::Receiver<Signal>> {
    let (sender, receiver) = mpsc::channel(8);
    for (kind, meaning) in [
        (SignalKind::terminate(), Some(Signal::Terminate)),
        (SignalKind::interrupt(), Some(Signal::Interrupt)),
        (SignalKind::quit(), Some(Signal::Quit)),
        (SignalKind::hangup(), Some(Signal::Reload)),
        (SignalKind::user_defined1(), Some(Signal::Summary)),
        (SignalKind::user_defined2(), None),
    ] {
        let mut stream = signal(kind)?;
        let sender = sender.clone();
        tokio::spawn(async move {
            while stream.recv().await.is_some() {
                if let Some(meaning) = meaning
                    && sender.send(meaning).await.is_err()
                {
                    return;
                }
            }
        });
    }
    Ok(receiver)
}

/// Warns about `HOLDFAST_` names that no flag reads: a typing error would go unnoticed otherwise.
pub fn warn_unknown_names() {
    for name in unknown(std::env::vars_os().map(|(name, _)| name)) {
        tracing::warn!("{name} is set, but no flag reads it; see holdfast --help");
    }
}

/// The `HOLDFAST_` names that mean nothing. Those that Kubernetes makes for a Service called holdfast are not meant for us, and
/// what the build reads is set by whoever starts what was just built.
fn unknown(names: impl Iterator<Item = OsString>) -> Vec<String> {
    let command = Cli::command();
    let flags: Vec<&OsStr> = command.get_arguments().filter_map(clap::Arg::get_env).collect();
    names
        .filter(|name| !flags.contains(&name.as_os_str()))
        .filter_map(|name| name.into_string().ok())
        .filter(|name| name.starts_with("HOLDFAST_") && !BUILD_NAMES.contains(&name.as_str()))
        .filter(|name| !SERVICE_LINKS.iter().any(|prefix| name.starts_with(prefix)))
        .collect()
}

/// What `option_env!` reads while Holdfast is built; the Makefile sets it for everything it runs.
const BUILD_NAMES: [&str; 1] = ["HOLDFAST_REVISION"];

/// How the variables begin that a Service called holdfast brings into each pod of its namespace.
const SERVICE_LINKS: [&str; 2] = ["HOLDFAST_PORT", "HOLDFAST_SERVICE_"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_nobody_reads_are_unknown() {
        let names = [
            "HOLDFAST_HTTP",
            "HOLDFAST_HTPP",
            "HOLDFAST_REVISION",
            "HOLDFAST_PORT_8080_TCP_ADDR",
            "HOLDFAST_SERVICE_HOST",
            "HOLDFAST_REVISIONS",
            "PATH",
        ];
        let unknown = unknown(names.into_iter().map(OsString::from));
        assert_eq!(unknown, ["HOLDFAST_HTPP", "HOLDFAST_REVISIONS"]);
    }
}
