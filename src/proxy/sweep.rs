//! The sweep: one task per worker that looks at each tunnel once a second, in slices, and paces a drain.
//!
//! It is the only clock that tunnels have, but for delays. Its end is fatal for the worker.

use std::{
    rc::{Rc, Weak},
    sync::atomic::Ordering::Relaxed,
};

use tokio::time::{MissedTickBehavior, interval};

use super::{
    clock::{PER_SECOND, TICK, Tick, ticks},
    end::Cause,
    metrics::Padded,
    slot::Slot,
    worker::Worker,
};
use crate::drain::Phase;

/// Runs until the worker's runtime ends.
pub async fn run(worker: Rc<Worker>) {
    let mut ticker = interval(TICK);
    ticker.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut drain = None;
    let mut seen = [Seen::default(); PER_SECOND as usize];
    let mut last = worker.clock.now();
    loop {
        tokio::select! {
            _ = ticker.tick() => {}
            () = worker.pressure.notified() => worker.relieve(),
        }
        let now = worker.clock.advance();
        worker.shared.beats.beat(worker.index);
        // However late the loop is, every tunnel is looked at once a second.
        let missed = now.since(last).min(PER_SECOND);
        for slice in (0..missed).map(|back| (now.0 - back) % PER_SECOND) {
            seen[slice as usize] = look(&worker, now, slice);
        }
        last = now;
        if let Some(Padded(gauge)) = worker.shared.metrics.worker_stalled.get(worker.index) {
            gauge.store(seen.iter().map(|seen| seen.stalled).sum(), Relaxed);
        }
        if let Some(Padded(gauge)) = worker.shared.metrics.worker_delayed.get(worker.index) {
            gauge.store(seen.iter().map(|seen| seen.delayed).sum(), Relaxed);
        }
        if missed > 0 && now.0.is_multiple_of(PER_SECOND) {
            worker.pool.expire();
        }
        if let Phase::Closing { window, .. } = worker.shared.drain.phase() {
            // A second signal may shorten the window.
            let pace = drain.get_or_insert_with(|| Pace::start(&worker, now));
            let left = pace.keep(&worker, now, ticks(window));
            worker.drain_until.set(Some(pace.started.plus(window)));
            if let Some(Padded(gauge)) = worker.shared.metrics.worker_draining.get(worker.index) {
                gauge.store(left as u64, Relaxed);
            }
        }
    }
}

/// Tunnels of one slice, at the last look.
#[derive(Clone, Copy, Default)]
struct Seen {
    stalled: u64,
    delayed: u64,
}

/// Judges the tunnels of one slice; returns how many of them do not move.
fn look(worker: &Worker, now: Tick, slice: u32) -> Seen {
    let mut seen = Seen::default();
    worker.slots.each_in(slice, PER_SECOND, |slot| {
        seen.stalled += u64::from(slot.stalled().is_some());
        seen.delayed += u64::from(slot.is_delayed());
        slot.judge(now);
    });
    seen
}

/// The pace of this worker's part of a drain: its tunnels, those without messages first, evenly over the window.
#[derive(Debug)]
struct Pace {
    /// Those that end by themselves meanwhile are not kept: each holds a connection's place, and the drain waits for all places.
    waiting: std::vec::IntoIter<Weak<Slot>>,
    total: usize,
    started: Tick,
}

impl Pace {
    fn start(worker: &Worker, now: Tick) -> Self {
        let mut slots = Vec::with_capacity(worker.tunnels());
        worker.slots.each(|slot| slots.push(Rc::clone(slot)));
        slots.sort_by_key(|slot| (slot.last_message.get(), slot.of.id));
        Self {
            total: slots.len(),
            waiting: slots.iter().map(Rc::downgrade).collect::<Vec<_>>().into_iter(),
            started: now,
        }
    }

    /// Ends as many tunnels as should have ended by now; returns how many are left.
    fn keep(&mut self, worker: &Worker, now: Tick, window: u32) -> usize {
        let elapsed = now.since(self.started).min(window);
        if elapsed == window {
            // Those too whose handshake was under way when the drain began.
            worker.slots.each(|slot| slot.end(Cause::Drain));
        }
        let due = match window {
            0 => self.total,
            window => (self.total as u64 * u64::from(elapsed)).div_ceil(u64::from(window)) as usize,
        };
        let ended = self.total - self.waiting.len();
        for slot in self.waiting.by_ref().take(due.saturating_sub(ended)) {
            if let Some(slot) = slot.upgrade() {
                slot.end(Cause::Drain);
            }
        }
        self.waiting.as_slice().iter().filter(|slot| slot.strong_count() > 0).count()
    }
}
