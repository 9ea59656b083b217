//! What a worker knows of each of its tunnels without touching their sockets: clocks, counts and orders.
//!
//! The tunnel's task writes it as bytes pass; the sweep reads it, judges by it, and leaves orders for the task. Both run on
//! the same thread, so plain cells do.

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    sync::Arc,
    task::Waker,
    time::Duration,
};

use tokio::time::Instant;

use super::{
    admission::Admitted,
    clock::{PER_SECOND, Tick, ticks},
    end::Cause,
    limits::Limit,
    metrics::RuleMetrics,
    roll::Placed,
    tls,
};
use crate::routing::{Rule, endpoint::Held, limits::Place, route::Heartbeat};

/// One tunnel, as its worker's list holds it.
#[derive(Debug)]
pub struct Slot {
    /// What was known when it was opened.
    pub of: Opened,
    pub since: Instant,
    pub since_tick: Tick,
    /// When the last byte of a message passed, in either direction.
    pub last_message: Cell<Tick>,
    pub client: Leg,
    pub endpoint: Leg,
    /// Whether the sweep has seen the tunnel before.
    seen: Cell<bool>,
    /// Set once the tunnel is ending: when its patience ends.
    pub deadline: Cell<Option<Tick>>,
    /// Where the worker's list has it.
    place: Cell<u32>,
    waker: RefCell<Option<Waker>>,
    orders: Cell<Orders>,
}

/// The clocks and counts of one leg.
#[derive(Debug, Default)]
pub struct Leg {
    /// Bytes read from it.
    pub bytes: Cell<u64>,
    /// Messages read from it.
    pub messages: Cell<u64>,
    /// Microseconds until it was there: for the client from its request to the 101, for the endpoint its dials.
    pub took: Cell<u32>,
    /// When it last sent a byte or accepted a queued one.
    pub life: Cell<Tick>,
    /// Since when bytes are queued towards it of which it accepts none.
    pub stalled: Cell<Option<Tick>>,
    /// Whether TCP has been told of that.
    pub patient: Cell<bool>,
    /// Whether it is not read, because the other leg is stalled.
    pub paused: Cell<bool>,
    /// Whether it is not read, because it sent more than its rule's rates allow.
    pub delayed: Cell<bool>,
    /// When our last ping went to it.
    pub pinged: Cell<Tick>,
    /// The same on the worker's clock, for the round trip.
    pub pinged_millis: Cell<u32>,
    /// The last round trip of a ping of ours, in milliseconds.
    pub round_trip: Cell<Option<u32>>,
    /// When the other side's ping went to it, until a pong came back.
    pub foreign_ping: Cell<Option<Tick>>,
    /// Our pings that it has not answered.
    pub outstanding: Cell<u8>,
    /// Intervals of silence after a ping, in a row.
    pub missed: Cell<u8>,
    /// Whether it has ever answered a ping of ours.
    pub answers: Cell<bool>,
    /// The payload of our pings to it: unpredictable, the same for the tunnel's life so that late answers are known too.
    pub token: Cell<u64>,
}

/// What the task is to do when it is woken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Orders {
    pub ping_client: bool,
    pub ping_endpoint: bool,
    /// The tunnel is old enough for what a short one need not pay for.
    pub settle_in: bool,
    /// A leg accepts nothing: TCP is to leave its end to the send timeout.
    pub stalled: Option<Peer>,
    pub end: Option<Cause>,
    /// The time for the current step of the end is over.
    pub deadline: bool,
}

/// Which leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    Client,
    Endpoint,
}

impl Peer {
    pub fn word(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Endpoint => "endpoint",
        }
    }
}

/// What is known of a tunnel when it is opened, and does not change.
#[derive(Debug)]
pub struct Opened {
    /// The connection's id in records.
    pub id: u64,
    pub rule: Arc<Rule>,
    pub metrics: Arc<RuleMetrics>,
    pub endpoint_held: Held,
    pub client_address: SocketAddr,
    /// Whether a proxy in front pings the client.
    pub client_is_pinged: bool,
    /// Of the client's own connection; `None`: it came without TLS.
    pub tls_version: Option<tls::Version>,
    /// The first limit that would have refused it, were it not a dry run.
    pub would_be_refused_by: Option<Limit>,
    /// Endpoints that were sent the handshake.
    pub attempts: u8,
    pub endpoint_address: SocketAddr,
    /// Host and path as the client sent them, for the record.
    pub target: Box<str>,
    /// Its place among the connections of the process.
    pub admitted: Admitted,
    /// Its place among the connections of its route.
    pub place: Option<Place>,
}

impl Slot {
    pub fn new(opened: Opened, now: Tick) -> Self {
        let leg = || Leg {
            life: Cell::new(now),
            ..Leg::default()
        };
        Self {
            of: opened,
            since: Instant::now(),
            since_tick: now,
            last_message: Cell::new(now),
            client: leg(),
            endpoint: leg(),
            seen: Cell::new(false),
            deadline: Cell::new(None),
            place: Cell::new(0),
            waker: RefCell::new(None),
            orders: Cell::new(Orders::default()),
        }
    }

    pub fn leg(&self, peer: Peer) -> &Leg {
        match peer {
            Peer::Client => &self.client,
            Peer::Endpoint => &self.endpoint,
        }
    }

    /// Remembers how to wake the tunnel's task.
    pub fn set_waker(&self, waker: &Waker) {
        self.waker.borrow_mut().get_or_insert_with(|| waker.clone());
    }

    /// Wakes the tunnel's task.
    pub fn wake(&self) {
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }

    /// Takes the orders that are waiting.
    pub fn take_orders(&self) -> Orders {
        self.orders.take()
    }

    /// Orders the tunnel's end, unless it is ending already.
    pub fn end(&self, cause: Cause) {
        if self.deadline.get().is_none() {
            self.order(|orders| orders.end = orders.end.or(Some(cause)));
        }
    }

    fn order(&self, change: impl FnOnce(&mut Orders)) {
        let mut orders = self.orders.get();
        change(&mut orders);
        self.orders.set(orders);
        self.wake();
    }

    /// Since when the longer stalled of the two legs is stalled.
    pub fn stalled(&self) -> Option<Tick> {
        match (self.client.stalled.get(), self.endpoint.stalled.get()) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Whether a side is not read because of a rate.
    pub fn is_delayed(&self) -> bool {
        self.client.delayed.get() || self.endpoint.delayed.get()
    }

    /// Looks at every clock of the tunnel and leaves orders for its task.
    pub fn judge(&self, now: Tick) {
        if let Some(deadline) = self.deadline.get() {
            if now >= deadline {
                self.order(|orders| orders.deadline = true);
            }
            return;
        }
        if !self.seen.replace(true) {
            self.order(|orders| orders.settle_in = true);
        }
        if let Some(cause) = self.overdue(now) {
            return self.end(cause);
        }
        for peer in [Peer::Client, Peer::Endpoint] {
            let leg = self.leg(peer);
            let long = leg.stalled.get().is_some_and(|since| now.since(since) >= 2 * PER_SECOND);
            if long && !leg.patient.get() {
                self.order(|orders| orders.stalled = Some(peer));
            }
        }
        match self.silence(Peer::Client, now) {
            Silence::Short => {}
            Silence::Ping => self.order(|orders| orders.ping_client = true),
            Silence::Lost => return self.end(Cause::HeartbeatLost),
        }
        match self.silence(Peer::Endpoint, now) {
            Silence::Short => {}
            Silence::Ping => self.order(|orders| orders.ping_endpoint = true),
            Silence::Lost => self.end(Cause::EndpointHeartbeatLost),
        }
    }

    /// The cause of an end whose time has come.
    fn overdue(&self, now: Tick) -> Option<Cause> {
        let timeouts = &self.of.rule.timeouts;
        let over = |since: Tick, limit: u32| limit > 0 && now.since(since) >= limit;
        let stalled = |leg: &Leg| leg.stalled.get().is_some_and(|since| over(since, ticks(timeouts.send)));
        if stalled(&self.client) {
            return Some(Cause::ClientStalled);
        }
        if stalled(&self.endpoint) {
            return Some(Cause::EndpointStalled);
        }
        // Tunnels that were opened together must not end together: never after the longest duration, never before the idle time.
        if over(self.since_tick, shorter(ticks(timeouts.max_duration), 10, self.spread())) {
            return Some(Cause::MaxDuration);
        }
        let idle = ticks(timeouts.idle);
        let idle = idle.saturating_add(idle - shorter(idle, 10, self.spread()));
        over(self.last_message.get(), idle).then_some(Cause::IdleTimeout)
    }

    fn silence(&self, peer: Peer, now: Tick) -> Silence {
        let heartbeats = &self.of.rule.heartbeat;
        let Heartbeat { interval, missed } = match peer {
            Peer::Client => heartbeats.client,
            Peer::Endpoint => heartbeats.endpoint,
        };
        if interval == Duration::ZERO || (peer == Peer::Client && self.of.client_is_pinged) {
            return Silence::Short;
        }
        let leg = self.leg(peer);
        if leg.paused.get() || leg.delayed.get() || leg.stalled.get().is_some() {
            leg.life.set(now); // its silence says nothing while it is not read or not written to
            return Silence::Short;
        }
        let interval = shorter(ticks(interval), 20, self.spread());
        let unanswered = leg.outstanding.get() > 0 && leg.pinged.get() > leg.life.get();
        if now.since(leg.life.get().max(leg.pinged.get())) < interval {
            return Silence::Short;
        }
        if unanswered {
            leg.missed.set(leg.missed.get().saturating_add(1));
            self.of.metrics.shared().heartbeat_missed(peer);
            if leg.missed.get() >= missed && leg.answers.get() {
                return Silence::Lost;
            }
        }
        match leg.foreign_ping.get() {
            // A peer may answer only the latest of several pings (RFC 6455, 5.5.3): the other side's comes first.
            Some(since) if now.since(since) < interval => Silence::Short,
            _ => Silence::Ping,
        }
    }

    /// A fixed number of this tunnel's own, evenly spread over all tunnels.
    fn spread(&self) -> u32 {
        (self.of.id.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as u32
    }
}

impl Placed for Slot {
    fn place(&self) -> &Cell<u32> {
        &self.place
    }
}

enum Silence {
    Short,
    Ping,
    Lost,
}

/// `ticks`, less between 0 and `percent` of it, by `spread`.
fn shorter(ticks: u32, percent: u32, spread: u32) -> u32 {
    let off = u64::from(ticks) * u64::from(percent) * u64::from(spread) / (100 << 32);
    ticks - off as u32
}
