//! A worker: one thread, one runtime, and what all its connections share.
//!
//! Nothing here is locked; the worker's tasks run on its thread alone. What crosses threads is in [`Shared`].

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
};

use tokio::sync::Notify;

use super::{
    Shared,
    clock::{Clock, Tick},
    delay::Delays,
    end::Cause,
    fallback::{Complaints, Pool},
    frame::MAX_CONTROL_FRAME,
    recent::Recent,
    roll::Roll,
    slot::{Opened, Slot},
    tls,
};

/// Bytes that one read may bring: also the most that can be queued for a side that accepts nothing. With what was carried
/// over it fits a size that the allocator has (56 KiB); one byte more would cost the next one, 64 KiB, and with it a stalled
/// tunnel more than it may.
pub const READ: usize = 56 * 1024 - HEADROOM;

/// Space in front of a read for the beginning of a frame that an earlier read brought.
pub const HEADROOM: usize = MAX_CONTROL_FRAME;

/// One worker's state.
#[derive(Debug)]
pub struct Worker {
    /// From 0.
    pub index: usize,
    pub shared: Arc<Shared>,
    pub clock: Clock,
    /// Where every read of the worker goes.
    pub scratch: RefCell<Box<[u8]>>,
    /// Makes connections to endpoints secure.
    pub connector: tls::Connector,
    /// `None`: nobody listens for TLS.
    pub acceptor: Option<tls::Acceptor>,
    /// Bytes queued for sides that do not accept them.
    pub queued: Cell<usize>,
    /// Rung when `queued` passes the worker's budget.
    pub pressure: Notify,
    /// Tunnels of which a side is not read for a while.
    pub delays: Delays,
    /// During a drain: the end of its window.
    pub drain_until: Cell<Option<Tick>>,
    /// Kept connections to endpoints, for plain requests.
    pub pool: Pool,
    /// About files that cannot be read.
    pub complaints: Complaints,
    /// What ended here lately.
    pub recent: Recent,
    /// Its tunnels.
    pub slots: Roll<Slot>,
    entropy: RefCell<Entropy>,
    next_id: Cell<u64>,
}

impl Worker {
    pub fn new(index: usize, shared: Arc<Shared>) -> Self {
        let connector = tls::Connector::default();
        Self {
            index,
            acceptor: shared.tls.as_ref().map(|config| tls::Acceptor::new(config, &connector)),
            connector,
            clock: Clock::start(),
            scratch: RefCell::new(vec![0; HEADROOM + READ].into_boxed_slice()),
            queued: Cell::new(0),
            pressure: Notify::new(),
            delays: Delays::default(),
            drain_until: Cell::new(None),
            pool: Pool::default(),
            complaints: Complaints::default(),
            recent: Recent::new(shared.settings.recent_ends.div_ceil(shared.workers.max(1))),
            slots: Roll::default(),
            entropy: RefCell::default(),
            next_id: Cell::new(0),
            shared,
        }
    }

    /// The id of a new connection: unique in this process, and by the process's random part among replicas.
    pub fn next_id(&self) -> u64 {
        let count = self.next_id.get();
        self.next_id.set(count + 1);
        let workers = self.shared.workers as u64;
        u64::from(self.shared.instance) << 40 | (count * workers + self.index as u64) & 0xFF_FFFF_FFFF
    }

    /// Puts a tunnel on the list that the sweep walks.
    pub fn enlist(&self, opened: Opened) -> Rc<Slot> {
        let slot = Rc::new(Slot::new(opened, self.clock.now()));
        self.slots.add(&slot);
        slot
    }

    /// The tunnels that are open now.
    pub fn tunnels(&self) -> usize {
        self.slots.len()
    }

    /// Whether nothing is left to wait for: no tunnel, and no connection on which a request may be under way. On any worker: the
    /// end of one would close its listener, and reset whoever is in its queue.
    pub fn is_drained(&self) -> bool {
        self.tunnels() == 0 && self.shared.metrics.connections() == 0
    }

    /// Notes that `more` bytes are queued, and rings for help beyond the budget.
    pub fn queue(&self, more: usize) {
        self.queued.set(self.queued.get() + more);
        if self.queued.get() > self.shared.settings.queue_budget {
            self.pressure.notify_one();
        }
    }

    /// Notes that `less` bytes are no longer queued.
    pub fn unqueue(&self, less: usize) {
        self.queued.set(self.queued.get().saturating_sub(less));
    }

    /// Ends the tunnels that have been stalled longest until what is queued is within the budget.
    pub fn relieve(&self) {
        let budget = self.shared.settings.queue_budget;
        let mut excess = self.queued.get().saturating_sub(budget);
        if excess == 0 {
            return;
        }
        let mut stalled = Vec::new();
        self.slots
            .each(|slot| stalled.extend(slot.stalled().map(|since| (since, Rc::clone(slot)))));
        stalled.sort_by_key(|(since, slot)| (*since, slot.of.id));
        for (_, slot) in stalled {
            if excess == 0 {
                break;
            }
            excess = excess.saturating_sub(READ);
            slot.end(Cause::Memory);
        }
    }

    /// Four bytes that no client or endpoint can foresee (RFC 6455, section 10.3).
    pub fn mask(&self) -> [u8; 4] {
        (self.entropy.borrow_mut().next() as u32).to_ne_bytes()
    }

    /// Eight of them.
    pub fn token(&self) -> u64 {
        self.entropy.borrow_mut().next()
    }
}

/// Random numbers from the operating system, fetched in pieces.
#[derive(Debug, Default)]
struct Entropy(Vec<u64>);

impl Entropy {
    fn next(&mut self) -> u64 {
        if let Some(number) = self.0.pop() {
            return number;
        }
        self.0 = (0..64)
            .map(|_| getrandom::u64().unwrap_or_else(|_| fastrand::u64(..))) // the call cannot fail on a running Linux
            .collect();
        self.0.pop().unwrap_or_default()
    }
}
