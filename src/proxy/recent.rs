//! What ended lately, for those who ask why: of each worker the newest ends of tunnels and, apart from them, the newest refusals
//! of handshakes, so that a storm of the one leaves the other.
//!
//! [`record`](super::record) writes it where it writes the access line; [`view`](super::view) reads it on the same thread. It holds
//! no rule, endpoint or socket, so that nothing lives longer because of it, and it never holds more than it was told.

use std::{
    cell::RefCell,
    collections::VecDeque,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, SystemTime},
};

use super::{
    clock::{PER_SECOND, Tick},
    end::{Cause, Initiator},
    error::Reason,
    limits::Limit,
    metrics::Padded,
    record::{Attempt, shortened},
    slot::Slot,
    tls,
    tunnel::End,
};
use crate::routing::{
    RuleId, ServicePort,
    endpoint::{Endpoint, Held},
};

/// Numbers the ends of all workers in their order. Those of a process that starts later are higher, so that who follows a
/// replica by number does not miss what it says after a restart.
#[derive(Debug)]
pub struct Sequence(Padded<AtomicU64>);

impl Sequence {
    /// The next one.
    pub(super) fn next(&self) -> u64 {
        self.0.0.fetch_add(1, Relaxed) + 1
    }

    /// The highest so far.
    pub(super) fn last(&self) -> u64 {
        self.0.0.load(Relaxed)
    }
}

impl Default for Sequence {
    /// Begins at the time in microseconds: below 2^53, so that a number in JSON has it exactly.
    fn default() -> Self {
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        Self(Padded(AtomicU64::new(u64::try_from(now.as_micros()).unwrap_or_default())))
    }
}

/// What ended on one worker.
#[derive(Debug)]
pub struct Recent {
    tunnels: RefCell<Ring>,
    refusals: RefCell<Ring>,
    most: usize,
}

/// The newest entries, oldest first.
#[derive(Debug, Default)]
pub(super) struct Ring {
    entries: VecDeque<Entry>,
    /// When the newest of those ended that had to go. 0: none had to.
    forgotten: u64,
}

/// One end, or one refusal. 256 bytes, and the texts: usually about 50 more.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its place among the ends of the process.
    pub sequence: u64,
    /// When, in milliseconds since 1970.
    pub at: u64,
    /// The connection's id, as in its records.
    pub id: u64,
    /// How old the tunnel was; of a refusal, how long the client waited for it.
    pub lasted: Millis,
    pub what: What,
    pub rule: Option<RuleId>,
    pub client: Address,
    /// The endpoint, if one was reached.
    pub endpoint: Option<(ServicePort, Address)>,
    pub tls_version: Option<tls::Version>,
    pub would_be_refused_by: Option<Limit>,
    /// Endpoints that were sent the handshake.
    pub attempts: u8,
    /// The endpoint's name, host and path, and request id, each followed by a line feed but the last.
    texts: Box<str>,
}

/// Milliseconds.
pub type Millis = u64;

/// Which of the two.
#[derive(Clone, Copy, Debug)]
pub enum What {
    Tunnel(Tunnel),
    Refusal(Refusal),
}

/// How a tunnel ended, and what it had been.
#[derive(Clone, Copy, Debug)]
pub struct Tunnel {
    pub end: End,
    /// Read from the client, from the endpoint.
    pub bytes: [u64; 2],
    pub messages: [u64; 2],
    /// The last round trip of a ping of ours to the client, in milliseconds.
    pub round_trip: Option<u32>,
    /// How long before the end the last byte of a message had passed, in milliseconds.
    pub idle: u32,
    /// Microseconds from the request to the 101, and of those the dials'.
    pub handshake: u32,
    pub dialling: u32,
}

/// Who refused a handshake.
#[derive(Clone, Copy, Debug)]
pub enum Refusal {
    Ours(Reason),
    /// The endpoint answered for itself.
    OfEndpoint {
        status: u16,
    },
}

impl Refusal {
    pub fn status(self) -> u16 {
        match self {
            Self::Ours(reason) => reason.status().as_u16(),
            Self::OfEndpoint { status } => status,
        }
    }

    /// As in metrics and records.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ours(reason) => reason.word(),
            Self::OfEndpoint { .. } => "endpoint",
        }
    }

    pub fn initiator(self) -> Initiator {
        match self {
            Self::Ours(Reason::ClientGone) => Initiator::Client,
            Self::Ours(_) => Initiator::Holdfast,
            Self::OfEndpoint { .. } => Initiator::Endpoint,
        }
    }
}

/// A socket's address, in 18 bytes instead of 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    ip: [u8; 16],
    port: u16,
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        let ip = match address.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        Self {
            ip: ip.octets(),
            port: address.port(),
        }
    }
}

impl Address {
    pub fn ip(self) -> IpAddr {
        Ipv6Addr::from(self.ip).to_canonical()
    }

    pub fn port(self) -> u16 {
        self.port
    }

    pub fn socket(self) -> SocketAddr {
        SocketAddr::new(self.ip(), self.port)
    }
}

impl Entry {
    pub fn initiator(&self) -> Initiator {
        match self.what {
            What::Tunnel(tunnel) => tunnel.end.initiator,
            What::Refusal(refusal) => refusal.initiator(),
        }
    }

    /// The cause of an end, or the reason of a refusal.
    pub fn word(&self) -> &'static str {
        match self.what {
            What::Tunnel(tunnel) => tunnel.end.cause.word(),
            What::Refusal(refusal) => refusal.word(),
        }
    }

    /// The cause, of a tunnel.
    pub fn cause(&self) -> Option<Cause> {
        match self.what {
            What::Tunnel(tunnel) => Some(tunnel.end.cause),
            What::Refusal(_) => None,
        }
    }

    /// The endpoint's name; empty where none was reached.
    pub fn endpoint_name(&self) -> &str {
        self.text(0)
    }

    /// Host and path. Empty for a tunnel while no access lines are written: an open one would cost more.
    pub fn target(&self) -> &str {
        self.text(1)
    }

    /// Of a refusal.
    pub fn request_id(&self) -> &str {
        self.text(2)
    }

    fn text(&self, index: usize) -> &str {
        self.texts.splitn(3, '\n').nth(index).unwrap_or_default()
    }
}

impl Recent {
    /// Keeps as many ends of tunnels, and as many refusals.
    pub fn new(most: usize) -> Self {
        Self {
            tunnels: RefCell::default(),
            refusals: RefCell::default(),
            most,
        }
    }

    pub fn is_on(&self) -> bool {
        self.most > 0
    }

    /// Keeps the end of a tunnel.
    pub(super) fn ended(&self, sequence: impl FnOnce() -> u64, slot: &Slot, end: &End, age: Duration, now_tick: Tick) {
        if !self.is_on() {
            return;
        }
        let of = &slot.of;
        let entry = Entry {
            sequence: sequence(),
            at: now(),
            id: of.id,
            lasted: millis(age),
            what: What::Tunnel(Tunnel {
                end: *end,
                bytes: [slot.client.bytes.get(), slot.endpoint.bytes.get()],
                messages: [slot.client.messages.get(), slot.endpoint.messages.get()],
                idle: now_tick.since(slot.last_message.get()).saturating_mul(1000 / PER_SECOND),
                round_trip: slot.client.round_trip.get(),
                handshake: slot.client.took.get(),
                dialling: slot.endpoint.took.get(),
            }),
            rule: Some(of.rule.id.clone()),
            client: of.client_address.into(),
            endpoint: Some(of_endpoint(&of.endpoint_held, of.endpoint_address)),
            tls_version: of.tls_version,
            would_be_refused_by: of.would_be_refused_by,
            attempts: of.attempts,
            texts: texts(of.endpoint_held.name(), &of.target, ""),
        };
        self.tunnels.borrow_mut().push(entry, self.most);
    }

    /// Keeps the refusal of a handshake; `by`: the endpoint whose answer it is.
    pub(super) fn refused(
        &self,
        sequence: impl FnOnce() -> u64,
        attempt: &Attempt,
        refusal: Refusal,
        by: Option<(&Held, SocketAddr)>,
    ) {
        if !self.is_on() {
            return;
        }
        let request_id = attempt.request_id.as_deref().map(shortened).unwrap_or_default();
        let entry = Entry {
            sequence: sequence(),
            at: now(),
            id: attempt.id,
            lasted: millis(attempt.started().elapsed()),
            what: What::Refusal(refusal),
            rule: attempt.rule().cloned(),
            client: attempt.client.into(),
            endpoint: by.map(|(endpoint, address)| of_endpoint(endpoint, address)),
            tls_version: attempt.tls_version,
            would_be_refused_by: attempt.would_be_refused_by,
            attempts: attempt.attempts,
            texts: texts(by.map_or("", |(endpoint, _)| endpoint.name()), &attempt.target(), request_id),
        };
        self.refusals.borrow_mut().push(entry, self.most);
    }

    /// The ends of tunnels.
    pub(super) fn tunnels(&self) -> &RefCell<Ring> {
        &self.tunnels
    }

    /// The refusals.
    pub(super) fn refusals(&self) -> &RefCell<Ring> {
        &self.refusals
    }
}

impl Ring {
    fn push(&mut self, entry: Entry, most: usize) {
        while self.entries.len() >= most.max(1) {
            let Some(oldest) = self.entries.pop_front() else { break };
            self.forgotten = self.forgotten.max(oldest.at);
        }
        if self.entries.len() == self.entries.capacity() {
            // Grows with what ends, up to what it may hold and no further.
            let more = self.entries.len().max(FIRST).min(most - self.entries.len());
            self.entries.reserve_exact(more);
        }
        self.entries.push_back(entry);
    }

    /// When the newest of those ended that are forgotten, in milliseconds since 1970. 0: none is.
    pub fn forgotten(&self) -> Millis {
        self.forgotten
    }

    /// Calls `look` for at most so many entries, newest first, with lower numbers than `below`. Returns the number of the last one,
    /// to go on below; `None`: there are no more.
    pub fn walk(&self, below: u64, most: usize, mut look: impl FnMut(&Entry)) -> Option<u64> {
        let end = self.entries.partition_point(|entry| entry.sequence < below);
        let from = end.saturating_sub(most);
        self.entries.range(from..end).rev().for_each(&mut look);
        (from > 0).then(|| self.entries[from].sequence)
    }
}

fn of_endpoint(endpoint: &Endpoint, address: SocketAddr) -> (ServicePort, Address) {
    (endpoint.key().service.clone(), address.into())
}

fn texts(endpoint: &str, target: &str, request_id: &str) -> Box<str> {
    let mut texts = String::with_capacity(endpoint.len() + target.len() + request_id.len() + 2);
    for text in [endpoint, "\n", target, "\n", request_id] {
        texts.push_str(text);
    }
    texts.into_boxed_str()
}

/// Milliseconds since 1970.
pub(super) fn now() -> Millis {
    millis(SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default())
}

fn millis(duration: Duration) -> Millis {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Entries that a ring has room for at first.
const FIRST: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(sequence: u64) -> Entry {
        Entry {
            sequence,
            at: 1000 + sequence,
            id: 7,
            lasted: 3,
            what: What::Refusal(Refusal::Ours(Reason::NoRoute)),
            rule: None,
            client: SocketAddr::from(([192, 0, 2, 1], 9)).into(),
            endpoint: None,
            tls_version: None,
            would_be_refused_by: None,
            attempts: 0,
            texts: texts("pod", "host/path", "id"),
        }
    }

    fn numbers(ring: &Ring, below: u64, most: usize) -> (Vec<u64>, Option<u64>) {
        let mut seen = Vec::new();
        let next = ring.walk(below, most, |entry| seen.push(entry.sequence));
        (seen, next)
    }

    #[test]
    fn a_ring_keeps_the_newest_and_says_since_when() {
        let mut ring = Ring::default();
        for sequence in 1..=5 {
            ring.push(entry(sequence), 5);
        }
        assert_eq!(ring.forgotten(), 0);
        for sequence in 6..=8 {
            ring.push(entry(sequence), 5);
        }
        assert_eq!(ring.forgotten(), 1003, "3 is the newest of those that are gone");
        assert_eq!(numbers(&ring, u64::MAX, 9), (vec![8, 7, 6, 5, 4], None));
        assert!(ring.entries.capacity() < 2 * FIRST, "{}", ring.entries.capacity());
    }

    #[test]
    fn a_walk_in_steps_meets_each_once_whatever_comes_and_goes() {
        let mut ring = Ring::default();
        for sequence in 1..=6 {
            ring.push(entry(sequence), 6);
        }
        let (seen, next) = numbers(&ring, u64::MAX, 2);
        assert_eq!(seen, [6, 5]);
        ring.push(entry(7), 6);
        let (seen, next) = numbers(&ring, next.unwrap(), 2);
        assert_eq!((seen, next), (vec![4, 3], Some(3)));
        assert_eq!(numbers(&ring, 3, 2), (vec![2], None), "1 had to go");
    }

    #[test]
    fn room_grows_with_what_is_kept_and_never_beyond_what_may_be() {
        let mut ring = Ring::default();
        for sequence in 0..10_000 {
            ring.push(entry(sequence), 1000);
        }
        assert_eq!((ring.entries.len(), ring.entries.capacity()), (1000, 1000));
        assert!(size_of::<Entry>() <= 256, "{} B", size_of::<Entry>());
    }

    #[test]
    fn texts_and_addresses_come_back() {
        let entry = entry(1);
        assert_eq!(
            (entry.endpoint_name(), entry.target(), entry.request_id()),
            ("pod", "host/path", "id")
        );
        assert_eq!(entry.client.socket(), SocketAddr::from(([192, 0, 2, 1], 9)));
        let six: SocketAddr = "[2001:db8::1]:80".parse().unwrap();
        assert_eq!(Address::from(six).socket(), six);
    }

    #[test]
    fn a_later_process_counts_from_higher_up_and_json_has_it_exactly() {
        let first = Sequence::default();
        let number = first.next();
        assert_eq!(first.last(), number);
        assert!(number > 1_700_000_000_000_000 && number < 1 << 53);
    }
}
