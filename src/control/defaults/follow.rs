//! Follows the file of `--defaults`. A look each second sees every kind of edit, the swapped link of a mounted ConfigMap
//! included, and costs one small read.

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, mpsc},
    task::spawn_blocking,
    time::{MissedTickBehavior, interval},
};

use super::Defaults;
use crate::control::Message;

/// Reads the file again on request.
#[derive(Debug)]
pub(in crate::control) struct Follower(Arc<Notify>);

impl Follower {
    /// Reads the file again, and says in the log what came of it.
    pub(in crate::control) fn reload(&self) {
        self.0.notify_one();
    }
}

/// Starts to follow the file, which was read as `known`. Ends when nobody listens any longer.
pub(in crate::control) fn follow(file: PathBuf, known: Defaults, out: mpsc::Sender<Message>) -> Follower {
    let reload: Arc<Notify> = Arc::default();
    tokio::spawn(run(file, known, out, Arc::clone(&reload)));
    Follower(reload)
}

async fn run(file: PathBuf, mut known: Defaults, out: mpsc::Sender<Message>, reload: Arc<Notify>) {
    let mut looks = interval(INTERVAL);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = None;
    loop {
        let is_asked = tokio::select! {
            _ = looks.tick() => false,
            () = reload.notified() => true,
            () = out.closed() => return,
        };
        let at = file.clone();
        let Ok(read) = spawn_blocking(move || Defaults::read(&at)).await else {
            continue; // the runtime ends
        };
        match read {
            Ok(defaults) if defaults == known => {
                if told.take().is_some() || is_asked {
                    tracing::info!(file = %file.display(), "the defaults are as they were");
                }
            }
            Ok(defaults) => {
                tracing::info!(file = %file.display(), policies = %defaults, "new defaults");
                told = None;
                known = defaults.clone();
                if out.send(Message::Defaults(defaults)).await.is_err() {
                    return;
                }
            }
            Err(invalid) => {
                let problem = Some(invalid.to_string());
                if problem != told || is_asked {
                    tracing::warn!("{invalid}; the last good defaults stay in effect");
                }
                if problem != told && out.send(Message::Trouble(1)).await.is_err() {
                    return;
                }
                told = problem;
            }
        }
    }
}

const INTERVAL: Duration = Duration::from_secs(1);
