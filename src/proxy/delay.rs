//! Wakes the tunnels of which a side is not read for a while, because it sent more than its rule's rates allow.
//!
//! The sweep is too coarse for that: one delayed message in a hundred milliseconds is a pace, ten in a second are not. Only
//! tunnels that are delayed now are in here, and one timer of the worker's runtime serves them all.

use std::{
    cell::RefCell,
    cmp::{Ordering, Reverse},
    collections::BinaryHeap,
    rc::{Rc, Weak},
};

use tokio::{sync::Notify, time::sleep_until};

use super::{slot::Slot, worker::Worker};

/// One worker's delayed tunnels, by when they are to be woken.
#[derive(Debug, Default)]
pub struct Delays {
    due: RefCell<BinaryHeap<Reverse<Due>>>,
    /// Rung when one is due before all others.
    sooner: Notify,
}

/// A tunnel, unless it has ended since, and when it is due, on the worker's clock.
#[derive(Debug)]
struct Due {
    at: u64,
    slot: Weak<Slot>,
}

impl Delays {
    /// Has a tunnel woken at `at` nanoseconds of the worker's clock, or a little later.
    pub fn add(&self, at: u64, slot: &Rc<Slot>) {
        let mut due = self.due.borrow_mut();
        if due.peek().is_none_or(|Reverse(first)| at < first.at) {
            self.sooner.notify_one();
        }
        due.push(Reverse(Due {
            at,
            slot: Rc::downgrade(slot),
        }));
    }

    /// Wakes those that are due, and says when the next one is.
    fn wake(&self, now: u64) -> Option<u64> {
        let mut due = self.due.borrow_mut();
        loop {
            let at = match due.peek() {
                Some(Reverse(first)) if first.at > now => Some(first.at),
                Some(_) => {
                    if let Some(slot) = due.pop().and_then(|Reverse(first)| first.slot.upgrade()) {
                        slot.wake();
                    }
                    continue;
                }
                None => None,
            };
            if due.capacity() > 4 * due.len().max(KEPT) {
                let len = due.len();
                due.shrink_to(2 * len);
            }
            return at;
        }
    }
}

/// Runs until the worker's runtime ends. Its end is fatal for the worker.
pub async fn run(worker: Rc<Worker>) {
    let delays = &worker.delays;
    loop {
        match delays.wake(worker.clock.nanos()) {
            None => delays.sooner.notified().await,
            Some(at) => tokio::select! {
                () = sleep_until(worker.clock.instant(at)) => {}
                () = delays.sooner.notified() => {}
            },
        }
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> Ordering {
        self.at.cmp(&other.at)
    }
}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Due {}

/// Entries for which room is kept.
const KEPT: usize = 256;
