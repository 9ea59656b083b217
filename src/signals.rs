//! Signals as values, and environment names that nobody reads.

use std::io;

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

/// Warns about `HOLDFAST_` names that no flag reads: a typing error would go unnoticed otherwise. Those that Kubernetes makes
/// for a Service called holdfast are not meant for us.
pub fn warn_unknown_names() {
    let command = Cli::command();
    let known: Vec<_> = command.get_arguments().filter_map(clap::Arg::get_env).collect();
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let service_link = text.starts_with("HOLDFAST_PORT") || text.starts_with("HOLDFAST_SERVICE_");
        if text.starts_with("HOLDFAST_") && !service_link && !known.contains(&name.as_os_str()) {
            tracing::warn!("{text} is set, but no flag reads it; see holdfast --help");
        }
    }
}
