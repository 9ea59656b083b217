//! A worker's coarse clock: one reading serves every tunnel between two slices of the sweep.

use std::{cell::Cell, time::Duration};

use tokio::time::Instant;

/// A moment, in sixteenths of a second since the worker started. Wraps after eight years.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tick(pub u32);

/// Ticks in a second, and slices in a round of the sweep.
pub const PER_SECOND: u32 = 16;

/// The length of one tick.
pub const TICK: Duration = Duration::from_nanos(1_000_000_000 / PER_SECOND as u64);

impl Tick {
    /// Time since `earlier`, which may not be later.
    pub fn since(self, earlier: Self) -> u32 {
        self.0.saturating_sub(earlier.0)
    }

    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(ticks(duration)))
    }
}

/// A duration in ticks, rounded up.
pub fn ticks(duration: Duration) -> u32 {
    let ticks = duration.as_nanos().div_ceil(TICK.as_nanos());
    u32::try_from(ticks).unwrap_or(u32::MAX)
}

/// The clock itself. It stands still until [`Clock::advance`].
#[derive(Debug)]
pub struct Clock {
    started: Instant,
    now: Cell<Tick>,
}

impl Clock {
    pub fn start() -> Self {
        Self {
            started: Instant::now(),
            now: Cell::new(Tick(1)), // 0 is before everything
        }
    }

    pub fn now(&self) -> Tick {
        self.now.get()
    }

    /// Reads the time.
    pub fn advance(&self) -> Tick {
        let ticks = self.started.elapsed().as_nanos() / TICK.as_nanos();
        self.now.set(Tick(u32::try_from(ticks).unwrap_or(u32::MAX).saturating_add(1)));
        self.now.get()
    }

    /// Nanoseconds since the worker started, read now: for rates.
    pub fn nanos(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }

    /// The moment so many nanoseconds after the worker started.
    pub fn instant(&self, nanos: u64) -> Instant {
        self.started + Duration::from_nanos(nanos)
    }

    /// Milliseconds since the worker started, read now.
    pub fn millis(&self) -> u32 {
        self.started.elapsed().as_millis() as u32
    }
}
