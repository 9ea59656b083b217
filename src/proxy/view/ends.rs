//! What ended lately: the entries that are wanted, and all of them summed up by cause.

use std::collections::HashMap;

use super::{each_entry, filter::Filter};
use crate::proxy::{
    end::Initiator,
    recent::{Entry, Millis},
    worker::Worker,
};

/// Which of the ends that pass the filter are shown.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted {
    /// Only those with higher numbers, the lowest of them first in turn: for who follows.
    pub after: Option<u64>,
    /// The newest so many, or after a number the oldest.
    pub limit: usize,
}

/// What ended.
#[derive(Debug, Default)]
pub struct Ends {
    /// Newest first.
    pub entries: Vec<Entry>,
    /// All that pass the filter, by word and who moved first.
    pub summary: Summary,
    /// Up to which number this is complete.
    pub last: u64,
    /// There are higher ones than those that were wanted.
    pub has_more: bool,
    /// When the newest of the tunnels and of the refusals ended that are forgotten. 0: none is.
    pub forgotten: [Millis; 2],
}

/// Counts by cause or reason.
pub type Summary = HashMap<(&'static str, Initiator), Tally>;

/// What has one cause.
#[derive(Debug, Default)]
pub struct Tally {
    pub count: u64,
    /// Whether these are refusals.
    pub is_refusal: bool,
    /// By endpoint.
    pub endpoints: HashMap<Box<str>, u64>,
    /// The earliest and the latest.
    pub first: Millis,
    pub latest: Millis,
}

impl Ends {
    /// One answer of all workers' answers.
    pub(super) fn merge(parts: Vec<Self>, wanted: Wanted, last: u64) -> Self {
        let mut all = Self { last, ..Self::default() };
        let mut cut = false;
        for part in parts {
            cut |= part.entries.len() >= wanted.limit;
            all.entries.extend(part.entries);
            for (mine, theirs) in all.forgotten.iter_mut().zip(part.forgotten) {
                *mine = (*mine).max(theirs);
            }
            for (key, tally) in part.summary {
                all.summary.entry(key).or_default().merge(tally);
            }
        }
        all.entries.sort_unstable_by_key(|entry| std::cmp::Reverse(entry.sequence));
        if wanted.after.is_none() {
            all.entries.truncate(wanted.limit);
        } else if all.entries.len() > wanted.limit || cut {
            let more = all.entries.len().saturating_sub(wanted.limit);
            all.entries.drain(..more);
            all.has_more = true;
            all.last = all.entries.first().map_or(all.last, |newest| newest.sequence);
        }
        all
    }
}

impl Tally {
    fn merge(&mut self, other: Self) {
        self.first = if self.count == 0 {
            other.first
        } else {
            self.first.min(other.first)
        };
        self.count += other.count;
        self.is_refusal |= other.is_refusal;
        self.latest = self.latest.max(other.latest);
        for (endpoint, count) in other.endpoints {
            *self.endpoints.entry(endpoint).or_default() += count;
        }
    }

    fn take(&mut self, entry: &Entry) {
        self.first = if self.count == 0 { entry.at } else { self.first.min(entry.at) };
        self.count += 1;
        self.is_refusal = entry.cause().is_none();
        self.latest = self.latest.max(entry.at);
        let name = entry.endpoint_name();
        if let Some(count) = self.endpoints.get_mut(name) {
            *count += 1;
        } else if !name.is_empty() && self.endpoints.len() < MAX_ENDPOINTS {
            self.endpoints.insert(name.into(), 1);
        }
    }
}

/// What ended on one worker, up to the number `last`.
pub(super) async fn ends(worker: &Worker, filter: &Filter, wanted: Wanted, last: u64, is_over: impl Fn() -> bool) -> Ends {
    let mut ends = Ends::default();
    for (index, ring) in [worker.recent.tunnels(), worker.recent.refusals()].into_iter().enumerate() {
        let mut found = Vec::new();
        each_entry(ring, last.saturating_add(1), &is_over, |entry| {
            if wanted.after.is_some_and(|after| entry.sequence <= after) || !filter.takes_end(entry) {
                return;
            }
            ends.summary.entry((entry.word(), entry.initiator())).or_default().take(entry);
            if wanted.after.is_some() {
                // The oldest count, and they come last.
                if found.len() >= 2 * wanted.limit {
                    found.drain(..wanted.limit);
                }
                found.push(entry.clone());
            } else if found.len() < wanted.limit {
                found.push(entry.clone());
            }
        })
        .await;
        if wanted.after.is_some() {
            found.drain(..found.len().saturating_sub(wanted.limit));
        }
        ends.entries.append(&mut found);
        ends.forgotten[index] = ring.borrow().forgotten();
    }
    ends
}

/// Endpoints that are told apart for one cause.
const MAX_ENDPOINTS: usize = 1000;
