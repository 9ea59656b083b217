//! What the data plane counts, and how a scrape reads it.
//!
//! Counters on the message path have one writer each, the worker that owns the tunnel, on a cache line that no other worker
//! writes: a load and a store, no locked instruction. A scrape adds them up and never waits for a worker.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::runtime::RuntimeMetrics;

use super::{
    end::{Cause, Initiator},
    limits::{self, Limit},
    slot::Peer,
    tls,
};
use crate::routing::{Endpoint, EndpointKey, ObjectName, RuleId, health::Failure, limits::RouteOpen};

mod collect;
mod limited;
pub mod names;
mod tally;

pub use collect::Collector;
use limited::Limited;
pub use limited::Outcome;
pub use tally::{Happening, Tally};

/// All counts of the data plane.
#[derive(Debug)]
pub struct Metrics {
    workers: usize,
    rules: Mutex<HashMap<RuleId, Arc<RuleMetrics>>>,
    unrouted: Arc<RuleMetrics>,
    dials: Mutex<HashMap<EndpointKey, Dialled>>,
    shared: Arc<SharedMetrics>,
    /// Connections of each worker: sockets in a handshake and tunnels.
    pub worker_connections: Box<[Padded<AtomicU64>]>,
    /// Tunnels of each worker of which a side accepts nothing, at the sweep's last look.
    pub worker_stalled: Box<[Padded<AtomicU64>]>,
    /// Tunnels of each worker of which a side is not read because of a rate, at the sweep's last look.
    pub worker_delayed: Box<[Padded<AtomicU64>]>,
    /// Tunnels of each worker that a drain has still to end.
    pub worker_draining: Box<[Padded<AtomicU64>]>,
    runtimes: OnceLock<Vec<RuntimeMetrics>>,
    limits: Arc<limits::Counts>,
}

/// Counts that belong to no rule.
#[derive(Debug)]
pub struct SharedMetrics {
    close_codes: Mutex<BTreeMap<(Initiator, CloseCode), u64>>,
    heartbeats_missed: [AtomicU64; 2],
    heartbeat_rtt: [Histogram; 2],
    /// Connections from private addresses that are no trusted proxy and yet speak for somebody else.
    pub untrusted_forwarders: AtomicU64,
    tls_handshakes: [AtomicU64; tls::Handshake::ALL.len()],
    ejections: [AtomicU64; Failure::ALL.len()],
    /// Accepted sockets that were given up before a request, because no file descriptor or memory was left.
    pub accept_errors: AtomicU64,
}

/// A value on a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Padded<T>(pub T);

/// The counts of one rule. Tunnels hold it, so a removed rule's series stays until its last tunnel ended.
#[derive(Debug)]
pub struct RuleMetrics {
    /// `None`: requests that no rule serves.
    pub id: Option<RuleId>,
    /// Open tunnels.
    pub active: AtomicU64,
    handshakes: Mutex<BTreeMap<(u16, &'static str), u64>>,
    handshake_duration: Histogram,
    retries: Mutex<BTreeMap<&'static str, u64>>,
    ends: [[AtomicU64; Cause::ALL.len()]; 3],
    connection_duration: Histogram,
    relayed: Box<[Padded<Relayed>]>,
    /// Made when a limit is reached for the first time.
    tunnel_limited: OnceLock<Box<[Padded<Limited>]>>,
    fallback: Mutex<BTreeMap<u16, u64>>,
    /// What its route's limits count, whichever rule it came by.
    pub route: Arc<RouteOpen>,
    /// What the limits of all routes count.
    pub limits: Arc<limits::Counts>,
    /// By limit: what was refused, what would have been.
    limited: [[AtomicU64; 2]; Limit::ALL.len()],
    /// Handshakes of foreign pages: refused, passed.
    cross_origin: [AtomicU64; 2],
    shared: Arc<SharedMetrics>,
}

/// One worker's count of what a rule's tunnels relayed, by the side that it came from: client, endpoint.
#[derive(Debug, Default)]
pub struct Relayed {
    bytes: [AtomicU64; 2],
    messages: [AtomicU64; 2],
}

#[derive(Debug, Default)]
struct DialCounts([u64; Dial::ALL.len()]);

/// An endpoint that was dialled, for as long as it is in a table or has a tunnel.
#[derive(Debug)]
struct Dialled {
    endpoint: Weak<Endpoint>,
    counts: DialCounts,
}

/// How a dial went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dial {
    Connected,
    Refused,
    TimedOut,
    /// Another candidate was faster.
    Outrun,
    NoSourcePort,
    /// It was answered, and the TLS handshake behind it failed.
    TlsFailed,
}

impl Dial {
    pub const ALL: [Self; 6] = [
        Self::Connected,
        Self::Refused,
        Self::TimedOut,
        Self::Outrun,
        Self::NoSourcePort,
        Self::TlsFailed,
    ];

    pub fn word(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Refused => "refused",
            Self::TimedOut => "timed_out",
            Self::Outrun => "outrun",
            Self::NoSourcePort => "no_source_port",
            Self::TlsFailed => "tls_failed",
        }
    }
}

/// A close code as a label: 1000 to 1015 by number, the open ranges as one each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum CloseCode {
    None,
    Standard(u16),
    Registered,
    Private,
    Invalid,
}

impl Metrics {
    pub fn new(workers: usize) -> Self {
        let padded = || (0..workers).map(|_| Padded::default()).collect();
        let shared = Arc::<SharedMetrics>::default();
        let limits = Arc::<limits::Counts>::default();
        let unrouted = RuleMetrics::new(None, workers, Arc::default(), Arc::clone(&limits), Arc::clone(&shared));
        Self {
            workers,
            unrouted: Arc::new(unrouted),
            rules: Mutex::default(),
            dials: Mutex::default(),
            shared,
            worker_connections: padded(),
            worker_stalled: padded(),
            worker_delayed: padded(),
            worker_draining: padded(),
            runtimes: OnceLock::new(),
            limits,
        }
    }

    /// The counts of a rule.
    pub fn rule(&self, id: &RuleId) -> Arc<RuleMetrics> {
        let mut rules = lock(&self.rules);
        if let Some(metrics) = rules.get(id) {
            return Arc::clone(metrics);
        }
        let route = self.limits.route(&id.route);
        let (limits, shared) = (Arc::clone(&self.limits), Arc::clone(&self.shared));
        let metrics = Arc::new(RuleMetrics::new(Some(id.clone()), self.workers, route, limits, shared));
        rules.insert(id.clone(), Arc::clone(&metrics));
        metrics
    }

    /// The counts of a rule, if a request has come to it.
    pub fn known(&self, id: &RuleId) -> Option<Arc<RuleMetrics>> {
        lock(&self.rules).get(id).cloned()
    }

    /// What the limits of all routes count.
    pub(super) fn limits(&self) -> &limits::Counts {
        &self.limits
    }

    /// Connections that count for a route's limits, whichever rule they came by.
    pub fn open(&self, route: &ObjectName) -> u32 {
        self.limits.open(route)
    }

    /// The counts of the requests that no rule serves.
    pub fn unrouted(&self) -> Arc<RuleMetrics> {
        Arc::clone(&self.unrouted)
    }

    pub fn shared(&self) -> &SharedMetrics {
        &self.shared
    }

    /// Connections of all workers: in a request or in a tunnel.
    pub fn connections(&self) -> u64 {
        self.worker_connections.iter().map(|Padded(count)| count.load(Relaxed)).sum()
    }

    /// Endpoints that were dialled and that somebody still holds, be they in a table or not.
    pub fn dialled_endpoints(&self) -> Vec<Arc<Endpoint>> {
        let dials = lock(&self.dials);
        dials.values().filter_map(|dialled| dialled.endpoint.upgrade()).collect()
    }

    /// Lets a scrape read how busy the workers' runtimes are.
    pub fn set_runtimes(&self, runtimes: Vec<RuntimeMetrics>) {
        let _ = self.runtimes.set(runtimes); // set once, at the start
    }

    fn runtimes(&self) -> &[RuntimeMetrics] {
        self.runtimes.get().map_or(&[], Vec::as_slice)
    }

    /// Counts one dial.
    pub fn dialled(&self, endpoint: &Arc<Endpoint>, result: Dial) {
        let mut dials = lock(&self.dials);
        if let Some(dialled) = dials.get_mut(endpoint.key()) {
            dialled.counts.0[result as usize] += 1;
            if dialled.endpoint.as_ptr() != Arc::as_ptr(endpoint) {
                dialled.endpoint = Arc::downgrade(endpoint); // the same pod came back
            }
            return;
        }
        // Pods come and go, and perhaps nobody scrapes.
        if dials.len() == dials.capacity() {
            dials.retain(|_, dialled| dialled.endpoint.strong_count() > 0);
        }
        let mut counts = DialCounts::default();
        counts.0[result as usize] = 1;
        let dialled = Dialled {
            endpoint: Arc::downgrade(endpoint),
            counts,
        };
        dials.insert(endpoint.key().clone(), dialled);
    }
}

impl Default for SharedMetrics {
    fn default() -> Self {
        Self {
            close_codes: Mutex::default(),
            heartbeats_missed: Default::default(),
            heartbeat_rtt: [Histogram::new(RTT_BOUNDS), Histogram::new(RTT_BOUNDS)],
            untrusted_forwarders: AtomicU64::new(0),
            tls_handshakes: Default::default(),
            ejections: Default::default(),
            accept_errors: AtomicU64::new(0),
        }
    }
}

impl SharedMetrics {
    pub fn heartbeat_missed(&self, leg: Peer) {
        self.heartbeats_missed[leg as usize].fetch_add(1, Relaxed);
    }

    pub fn heartbeat_answered(&self, leg: Peer, round_trip: Duration) {
        self.heartbeat_rtt[leg as usize].observe(round_trip);
    }

    /// Counts an ejection by passive health.
    pub fn ejected(&self, reason: Failure) {
        self.ejections[reason as usize].fetch_add(1, Relaxed);
    }

    pub fn tls_handshake(&self, outcome: tls::Handshake) {
        self.tls_handshakes[outcome as usize].fetch_add(1, Relaxed);
    }

    /// Counts a Close frame that a side sent; `None`: it ended without one.
    pub fn close_code(&self, sender: Initiator, code: Option<u16>) {
        *lock(&self.close_codes).entry((sender, CloseCode::from(code))).or_default() += 1;
    }
}

impl RuleMetrics {
    fn new(
        id: Option<RuleId>,
        workers: usize,
        route: Arc<RouteOpen>,
        limits: Arc<limits::Counts>,
        shared: Arc<SharedMetrics>,
    ) -> Self {
        Self {
            id,
            active: AtomicU64::new(0),
            handshakes: Mutex::default(),
            handshake_duration: Histogram::new(HANDSHAKE_BOUNDS),
            retries: Mutex::default(),
            ends: Default::default(),
            connection_duration: Histogram::new(CONNECTION_BOUNDS),
            relayed: (0..workers).map(|_| Padded::default()).collect(),
            tunnel_limited: OnceLock::new(),
            fallback: Mutex::default(),
            route,
            limits,
            limited: Default::default(),
            cross_origin: Default::default(),
            shared,
        }
    }

    pub fn shared(&self) -> &SharedMetrics {
        &self.shared
    }

    /// Counts the answer to a handshake. `reason`: our own word, or `endpoint` where the answer is the endpoint's.
    pub fn handshake(&self, code: u16, reason: &'static str) {
        *lock(&self.handshakes).entry((code, reason)).or_default() += 1;
    }

    /// Counts a handshake that goes to one more endpoint. `reason`: why, as in [`RuleMetrics::handshake`].
    pub fn retried(&self, reason: &'static str) {
        *lock(&self.retries).entry(reason).or_default() += 1;
    }

    /// Counts the answer to a request that is no handshake.
    pub fn fallback(&self, code: u16) {
        *lock(&self.fallback).entry(code).or_default() += 1;
    }

    /// Counts what a limit refused, or would have refused if it were no dry run.
    pub fn limited(&self, limit: Limit, is_dry_run: bool) {
        self.limited[limit as usize][usize::from(is_dry_run)].fetch_add(1, Relaxed);
    }

    /// Counts a handshake of a foreign page, and says how many there were before.
    pub fn cross_origin(&self, passed: bool) -> u64 {
        self.cross_origin[usize::from(passed)].fetch_add(1, Relaxed)
    }

    /// How many handshakes were answered with each status for each reason.
    pub fn answers(&self) -> BTreeMap<(u16, &'static str), u64> {
        lock(&self.handshakes).clone()
    }

    /// How many tunnels ended for each cause.
    pub fn causes(&self) -> impl Iterator<Item = (Cause, u64)> {
        let of_all = |cause: Cause| self.ends.iter().map(|ends| ends[cause as usize].load(Relaxed)).sum();
        Cause::ALL.into_iter().map(move |cause| (cause, of_all(cause)))
    }

    /// What a limit has refused, and what it would have.
    pub fn refused(&self, limit: Limit) -> [u64; 2] {
        [0, 1].map(|dry_run| self.limited[limit as usize][dry_run].load(Relaxed))
    }

    pub fn opened(&self, handshake: Duration) {
        self.handshake(101, "accepted");
        self.handshake_duration.observe(handshake);
        self.active.fetch_add(1, Relaxed);
    }

    pub fn ended(&self, initiator: Initiator, cause: Cause, age: Duration) {
        self.active.fetch_sub(1, Relaxed);
        self.ends[initiator as usize][cause as usize].fetch_add(1, Relaxed);
        self.connection_duration.observe(age);
    }

    /// Counts what `worker` relayed. Called by that worker's thread alone.
    pub fn relayed(&self, worker: usize, from: Peer, bytes: u64, messages: u64) {
        if let Some(Padded(relayed)) = self.relayed.get(worker) {
            add(&relayed.bytes[from as usize], bytes);
            add(&relayed.messages[from as usize], messages);
        }
    }
}

impl From<Option<u16>> for CloseCode {
    fn from(code: Option<u16>) -> Self {
        match code {
            None => Self::None,
            Some(code @ 1000..=1015) => Self::Standard(code),
            Some(3000..=3999) => Self::Registered,
            Some(4000..=4999) => Self::Private,
            Some(_) => Self::Invalid,
        }
    }
}

/// Adds to a counter that only this thread writes.
fn add(counter: &AtomicU64, amount: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(amount), Relaxed);
}

/// Counts durations by upper bounds in seconds.
#[derive(Debug)]
struct Histogram {
    bounds: &'static [f64],
    /// One more than there are bounds.
    counts: Box<[AtomicU64]>,
    micros: AtomicU64,
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Self {
        Self {
            bounds,
            counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            micros: AtomicU64::new(0),
        }
    }

    fn observe(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let at = self.bounds.partition_point(|bound| *bound < seconds);
        self.counts[at].fetch_add(1, Relaxed);
        self.micros
            .fetch_add(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX), Relaxed);
    }
}

/// Nothing that holds one of these locks can leave the map half changed, so a panic elsewhere does not spoil it.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const HANDSHAKE_BOUNDS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];
const CONNECTION_BOUNDS: &[f64] = &[1.0, 10.0, 60.0, 300.0, 1800.0, 3600.0, 14400.0, 86400.0];
const RTT_BOUNDS: &[f64] = &[0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];
