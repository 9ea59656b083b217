//! Shutdown as a type: who says when, who watches, and who is waited for.
//!
//! `app` holds the [`Trigger`]; everything that serves holds a [`Watch`]; everything that must finish first holds a
//! [`Blocker`]. The drain is over when the last blocker is dropped.

use std::time::Duration;

use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

/// How far a shutdown has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// None has begun, or load balancers still have to notice it: new handshakes are served.
    Serving,
    /// New handshakes are refused, and tunnels are ended over the window.
    Closing {
        /// When this phase began.
        since: Instant,
        /// Zero: all at once.
        window: Duration,
    },
}

/// Moves the shutdown on.
#[derive(Debug)]
pub struct Trigger {
    phase: watch::Sender<Phase>,
    finished: mpsc::Receiver<()>,
}

/// Sees how far the shutdown has come.
#[derive(Clone, Debug)]
pub struct Watch {
    phase: watch::Receiver<Phase>,
    blocker: mpsc::WeakSender<()>,
}

/// Delays the end of the drain until it is dropped.
#[derive(Clone, Debug)]
pub struct Blocker {
    _alive: mpsc::Sender<()>,
}

/// A drain that has not begun, and a blocker to hand on.
pub fn new() -> (Trigger, Watch, Blocker) {
    let (phase, watched) = watch::channel(Phase::Serving);
    let (alive, finished) = mpsc::channel(1);
    let watch = Watch {
        phase: watched,
        blocker: alive.downgrade(),
    };
    (Trigger { phase, finished }, watch, Blocker { _alive: alive })
}

impl Trigger {
    /// Begins to refuse and to close. A second call shortens the window, never lengthens it.
    pub fn close(&self, window: Duration) {
        self.phase.send_if_modified(|phase| match phase {
            Phase::Closing { window: current, .. } if *current <= window => false,
            _ => {
                *phase = Phase::Closing {
                    since: Instant::now(),
                    window,
                };
                true
            }
        });
    }

    /// Returns when the last [`Blocker`] is gone.
    pub async fn finished(&mut self) {
        let _ = self.finished.recv().await; // nothing is ever sent: this is the end of the last sender
    }
}

impl Watch {
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Whether new connections are refused.
    pub fn is_closing(&self) -> bool {
        self.phase() != Phase::Serving
    }

    /// Returns when new connections begin to be refused, or at once.
    pub async fn closing(&mut self) {
        // An error means that the trigger is gone, and with it the process's reason to serve.
        let _ = self.phase.wait_for(|phase| *phase != Phase::Serving).await;
    }

    /// Returns when the trigger is dropped.
    pub async fn gone(&mut self) {
        while self.phase.changed().await.is_ok() {}
    }

    /// One more thing to wait for; `None` if the drain is over already.
    pub fn block(&self) -> Option<Blocker> {
        self.blocker.upgrade().map(|alive| Blocker { _alive: alive })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_drain_waits_for_its_last_blocker() {
        let (mut trigger, mut watch, blocker) = new();
        assert_eq!(watch.phase(), Phase::Serving);
        let second = watch.block().unwrap();
        trigger.close(Duration::from_secs(9));
        watch.closing().await;
        drop(blocker);
        assert!(futures::poll!(std::pin::pin!(trigger.finished())).is_pending());
        drop(second);
        trigger.finished().await;
        assert!(watch.block().is_none());
    }

    #[tokio::test]
    async fn a_second_close_only_shortens_the_window() {
        let (trigger, watch, _blocker) = new();
        for (asked, expected) in [(9, 9), (20, 9), (0, 0), (5, 0)] {
            trigger.close(Duration::from_secs(asked));
            let Phase::Closing { window, .. } = watch.phase() else {
                panic!("not closing");
            };
            assert_eq!(window, Duration::from_secs(expected));
        }
    }
}
