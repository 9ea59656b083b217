//! Passive health: endpoints that are left out because of what was seen of them.
//!
//! The proxy notes what came of each handshake and tunnel ([`note`]); the balancer leaves out who is ejected, and lets one
//! handshake try an endpoint whose time is over. Each process judges by what it has seen itself. There is no timer: an
//! ejection ends by the clock that the next pick brings. Only rules with [`Rule::health`] note anything or look at it; an
//! endpoint that several of them share has one record, and each event is judged by the rule that it belongs to.

mod record;
#[cfg(test)]
mod tests;

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{
    endpoint::{Endpoint, EndpointSet, ServicePort},
    route::{ObjectName, Rule},
};
use record::{Judgement, Record};

/// `health.passive` of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passive {
    /// Failures that eject: so many failed handshakes in a row, or so many failures of any kind within `window` (1 to 100).
    pub failures: u32,
    /// Never zero.
    pub window: Duration,
    /// The least share that failures must have in what was seen within `window`, if they were not in a row (1 to 100).
    pub min_failure_percent: u32,
    /// Statuses of answers to handshakes that are failures.
    pub codes: Box<[u16]>,
    /// A tunnel that its endpoint ends abnormally sooner than this is a failure. Zero: none is.
    pub early_close_within: Duration,
    /// How long the first ejection lasts; the second in short order twice as long, and so on. Never zero.
    pub base_ejection_time: Duration,
    /// The longest that one lasts, not less than the base.
    pub max_ejection_time: Duration,
    /// Of the endpoints of a Service port that take new connections, the share that may be out at a time (1 to 100). One may
    /// always be, and one never.
    pub max_ejection_percent: usize,
}

/// A moment, in milliseconds since some fixed one of the process. The default is before every other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

impl Moment {
    /// So long after the fixed one.
    pub fn after(time: Duration) -> Self {
        Self(millis(time).saturating_add(1))
    }

    fn plus(self, time: Duration) -> Self {
        Self(self.0.saturating_add(millis(time)))
    }

    /// How much later this is; nothing if it is earlier.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Something that an endpoint did, or did not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It answered a handshake in a way that is no failure.
    Answered,
    Failed(Failure),
}

/// What counts against an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    /// It refused the dial or could not be reached.
    ConnectionRefused,
    /// It did not answer the dial in time.
    DialTimeout,
    /// There was no TLS with it.
    TlsFailed,
    /// It did not answer the handshake in time.
    HandshakeTimeout,
    /// It ended the connection instead of answering.
    EndpointClosed,
    /// Its answer was no valid HTTP/1.1.
    EndpointProtocolError,
    /// Its 101 was no valid answer to the handshake.
    InvalidUpgrade,
    /// It answered with one of [`Passive::codes`].
    Status,
    /// It ended a fresh tunnel abnormally.
    EarlyClose,
    /// It sent Close 1011: it met a condition that it did not expect.
    InternalError,
    /// It stopped answering pings.
    HeartbeatLost,
    /// Its packets stopped.
    Vanished,
    /// It took no more bytes.
    Stalled,
}

impl Failure {
    pub const ALL: [Self; 13] = [
        Self::ConnectionRefused,
        Self::DialTimeout,
        Self::TlsFailed,
        Self::HandshakeTimeout,
        Self::EndpointClosed,
        Self::EndpointProtocolError,
        Self::InvalidUpgrade,
        Self::Status,
        Self::EarlyClose,
        Self::InternalError,
        Self::HeartbeatLost,
        Self::Vanished,
        Self::Stalled,
    ];

    /// Its word in metrics and logs: where a refusal or an end has the same one, the same.
    pub fn word(self) -> &'static str {
        match self {
            Self::ConnectionRefused => "connection_refused",
            Self::DialTimeout => "dial_timeout",
            Self::TlsFailed => "tls_failed",
            Self::HandshakeTimeout => "handshake_timeout",
            Self::EndpointClosed => "endpoint_closed",
            Self::EndpointProtocolError => "endpoint_protocol_error",
            Self::InvalidUpgrade => "invalid_upgrade",
            Self::Status => "status",
            Self::EarlyClose => "early_close",
            Self::InternalError => "close_1011",
            Self::HeartbeatLost => "endpoint_heartbeat_lost",
            Self::Vanished => "endpoint_vanished",
            Self::Stalled => "endpoint_stalled",
        }
    }

    /// Whether it came of a dial or a handshake, and not of a tunnel.
    fn is_of_handshake(self) -> bool {
        match self {
            Self::ConnectionRefused
            | Self::DialTimeout
            | Self::TlsFailed
            | Self::HandshakeTimeout
            | Self::EndpointClosed
            | Self::EndpointProtocolError
            | Self::InvalidUpgrade
            | Self::Status => true,
            Self::EarlyClose | Self::InternalError | Self::HeartbeatLost | Self::Vanished | Self::Stalled => false,
        }
    }
}

/// What became of an endpoint by what was noted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It gets no new connections for a time.
    Ejected {
        /// The most frequent of `failures`.
        reason: Failure,
        /// The failures that counted, each kind with its number.
        failures: Vec<(Failure, usize)>,
        time: Duration,
        /// Which ejection in short order it is, from 1.
        times: u32,
    },
    /// A handshake has tried it, and it answered.
    Returned { after: Duration },
    /// It would have been ejected, but too many of its Service port are, or it is the last. Told once per window.
    Withheld {
        reason: Failure,
        failures: Vec<(Failure, usize)>,
    },
}

/// An ejection, for those who look after the route by which it came about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ejection {
    pub route: ObjectName,
    pub service: ServicePort,
    /// Its pod's name, or its address.
    pub endpoint: Box<str>,
    /// The most frequent failure.
    pub reason: Failure,
}

/// Notes what was seen of one of the rule's endpoints. `None`: nothing has changed.
pub fn note(rule: &Rule, endpoint: &Endpoint, seen: Seen, now: Moment) -> Option<Change> {
    let passive = rule.health.as_deref()?;
    let standing = endpoint.health();
    let mut record = standing.record.lock().unwrap_or_else(PoisonError::into_inner);
    match record.judge(passive, seen, now)? {
        Judgement::Return => {
            let after = record.come_back(passive, now);
            standing.reopens.store(IN, Ordering::Relaxed);
            Some(Change::Returned { after })
        }
        Judgement::Eject => {
            let was_out = record.is_out();
            let cell = rule.backends.iter().find(|backend| backend.service == endpoint.key().service);
            let cell = cell.and_then(|backend| backend.endpoints.as_ref())?;
            // Two that fail at the same moment must not both leave where only one may.
            let _one_at_a_time = cell.ejecting();
            let set = cell.load();
            if !set.usable().iter().any(|usable| usable.key() == endpoint.key()) {
                return None; // it gets no new connections anyway
            }
            if !was_out && !may_leave(&set, passive.max_ejection_percent) {
                let (reason, failures) = record.withhold(passive, now)?;
                return Some(Change::Withheld { reason, failures });
            }
            let (change, until) = record.eject(passive, seen, now);
            standing.reopens.store(until.0, Ordering::Relaxed);
            Some(change)
        }
    }
}

/// Whether one more endpoint of the set may be left out.
fn may_leave(set: &EndpointSet, max_percent: usize) -> bool {
    let usable = set.usable();
    let out = usable.iter().filter(|other| other.is_ejected()).count();
    out < most_out(usable.len(), max_percent)
}

/// How many of so many endpoints may be out.
fn most_out(of: usize, max_percent: usize) -> usize {
    (of * max_percent / 100).max(1).min(of.saturating_sub(1))
}

/// The endpoints that new connections may go to, those whose time is over among them; `None`: all. If every one is out, none
/// is: where nobody is known to be well, all are worth a try.
pub(super) fn admitted(usable: &[Arc<Endpoint>], now: Moment) -> Option<Vec<Arc<Endpoint>>> {
    if !usable.iter().any(|endpoint| endpoint.is_out(now)) {
        return None;
    }
    let admitted = usable.iter().filter(|endpoint| !endpoint.is_out(now));
    let admitted: Vec<_> = admitted.map(Arc::clone).collect();
    (!admitted.is_empty()).then_some(admitted)
}

/// What is known of one endpoint's health. Made when something is noted of it for the first time.
#[derive(Debug, Default)]
pub(super) struct Standing {
    /// [`IN`], or the moment from which one handshake may try the endpoint.
    reopens: AtomicU64,
    record: Mutex<Record>,
}

const IN: u64 = 0;

impl Endpoint {
    /// Whether it is ejected: left out, or waiting for the handshake that tries it.
    pub fn is_ejected(&self) -> bool {
        self.reopens() != IN
    }

    /// The main reason of its last ejection, if it was ever ejected.
    pub fn ejected_for(&self) -> Option<Failure> {
        let standing = self.known_health()?;
        standing.record.lock().unwrap_or_else(PoisonError::into_inner).reason()
    }

    /// The moment from which a handshake may try it, if it is ejected.
    pub fn ejected_until(&self) -> Option<Moment> {
        Some(Moment(self.reopens())).filter(|until| until.0 != IN)
    }

    /// Whether it is ejected, and its time is not over.
    fn is_out(&self, now: Moment) -> bool {
        self.reopens() > now.0
    }

    /// Whether this handshake may go to it: where it is to be tried, for one only, which must come back within `time`.
    pub(super) fn claim(&self, now: Moment, time: Duration) -> bool {
        let reopens = self.reopens();
        let Some(standing) = self.known_health().filter(|_| reopens != IN && reopens <= now.0) else {
            return true;
        };
        let next = now.plus(time).0;
        let claimed = standing
            .reopens
            .compare_exchange(reopens, next, Ordering::Relaxed, Ordering::Relaxed);
        claimed.is_ok()
    }

    /// Whether it waits for the handshake that tries it.
    pub(super) fn is_due(&self, now: Moment) -> bool {
        let reopens = self.reopens();
        reopens != IN && reopens <= now.0
    }

    fn reopens(&self) -> u64 {
        self.known_health()
            .map_or(IN, |standing| standing.reopens.load(Ordering::Relaxed))
    }
}
