//! What the limits inside tunnels did, and how a scrape reads it. Rules that never reach one have no counters for it.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use prometheus::proto::MetricFamily;

use super::{
    Padded, RuleMetrics, add,
    collect::{family, labels, with_counter},
    names,
};
use crate::proxy::{end::Excess, slot::Peer};

/// One worker's count of what the limits of a rule did inside its tunnels, by the side that was limited.
#[derive(Debug, Default)]
pub struct Limited {
    reached: [[[AtomicU64; Outcome::ALL.len()]; Excess::ALL.len()]; 2],
    delayed_nanos: [AtomicU64; 2],
}

/// What a limit did that was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It ended the tunnel.
    Closed,
    /// It stopped the reading of a side for a while.
    Delayed,
    /// Nothing: limits are only counted.
    DryRun,
}

impl Outcome {
    pub const ALL: [Self; 3] = [Self::Closed, Self::Delayed, Self::DryRun];

    pub fn word(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Delayed => "delayed",
            Self::DryRun => "dry_run",
        }
    }
}

impl RuleMetrics {
    /// Counts a limit inside a tunnel of `worker` that `from` has reached. Called by that worker's thread alone.
    pub fn tunnel_limited(&self, worker: usize, from: Peer, excess: Excess, outcome: Outcome) {
        if let Some(limited) = self.limited_of(worker) {
            add(&limited.reached[from as usize][excess as usize][outcome as usize], 1);
        }
    }

    /// Counts a time for which a side was not read. Called by that worker's thread alone.
    pub fn delayed(&self, worker: usize, from: Peer, nanos: u64) {
        if let Some(limited) = self.limited_of(worker) {
            add(&limited.delayed_nanos[from as usize], nanos);
        }
    }

    fn limited_of(&self, worker: usize) -> Option<&Limited> {
        let make = || self.relayed.iter().map(|_| Padded::default()).collect();
        self.tunnel_limited
            .get_or_init(make)
            .get(worker)
            .map(|Padded(limited)| limited)
    }
}

/// The families of all rules.
pub fn families(rules: &[Arc<RuleMetrics>]) -> Vec<MetricFamily> {
    let (mut reached, mut seconds) = (Vec::new(), Vec::new());
    for rule in rules {
        let Some(workers) = rule.tunnel_limited.get() else { continue };
        for (from, direction) in [(Peer::Client, "to_endpoint"), (Peer::Endpoint, "to_client")] {
            let sum = |count: &dyn Fn(&Limited) -> u64| workers.iter().map(|Padded(limited)| count(limited)).sum::<u64>();
            let with = |extra: &[(&str, &str)]| {
                let mut all = rule.labels();
                all.extend(labels(&[("direction", direction)]));
                all.extend(labels(extra));
                all
            };
            for excess in Excess::ALL {
                for outcome in Outcome::ALL {
                    let count = sum(&|limited| limited.reached[from as usize][excess as usize][outcome as usize].load(Relaxed));
                    if count > 0 {
                        let labels = with(&[("limit", excess.word()), ("outcome", outcome.word())]);
                        reached.push(with_counter(labels, count as f64));
                    }
                }
            }
            let nanos = sum(&|limited| limited.delayed_nanos[from as usize].load(Relaxed));
            seconds.push(with_counter(with(&[]), nanos as f64 / 1e9));
        }
    }
    vec![
        family(&names::TUNNEL_LIMITED_TOTAL, reached),
        family(&names::DELAYED_SECONDS_TOTAL, seconds),
    ]
}
