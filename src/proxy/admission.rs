//! How many connections the process may hold, counted from their accept to their end.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use super::{Shared, metrics::Padded};

/// Bounds on connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Connections that are served. One more is refused with 503 before an endpoint is dialled.
    pub connections: usize,
    /// Connections beyond those that can be told so; one more is closed at once.
    pub reserve: usize,
}

/// The count.
#[derive(Debug)]
pub(super) struct Admission {
    limit: Limit,
    open: Padded<AtomicUsize>,
}

/// One connection's place, given back at drop.
#[derive(Debug)]
pub struct Admitted {
    shared: Arc<Shared>,
    /// Few enough to be told in little room: each idle tunnel has one.
    worker: Option<u16>,
    over: bool,
}

impl Admission {
    pub fn new(limit: Limit) -> Self {
        Self {
            limit,
            open: Padded::default(),
        }
    }

    /// Connections that are open, and how many are served.
    pub fn open(&self) -> (usize, usize) {
        (self.open.0.load(Relaxed), self.limit.connections)
    }
}

impl Admitted {
    /// `None`: there is not even room for a refusal.
    pub fn new(shared: &Arc<Shared>) -> Option<Self> {
        let Admission { limit, open } = &shared.admission;
        let before = open.0.fetch_add(1, Relaxed);
        let admitted = Self {
            shared: Arc::clone(shared),
            worker: None,
            over: before >= limit.connections,
        };
        (before < limit.connections + limit.reserve).then_some(admitted)
    }

    /// Whether the connection is one too many to be served.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// Counts the connection as one of `worker`'s.
    pub fn count_on(&mut self, worker: usize) {
        let Ok(index) = u16::try_from(worker) else { return };
        if let Some(Padded(count)) = self.shared.metrics.worker_connections.get(worker) {
            count.fetch_add(1, Relaxed);
            self.worker = Some(index);
        }
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.shared.admission.open.0.fetch_sub(1, Relaxed);
        if let Some(Padded(count)) = self
            .worker
            .and_then(|worker| self.shared.metrics.worker_connections.get(usize::from(worker)))
        {
            count.fetch_sub(1, Relaxed);
        }
    }
}
