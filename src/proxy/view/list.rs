//! Open tunnels one by one.

use std::net::SocketAddr;

use super::{each_tunnel, filter::Filter};
use crate::{
    proxy::{
        clock::{PER_SECOND, Tick},
        limits::Limit,
        slot::{self, Peer, Slot},
        tls,
        worker::Worker,
    },
    routing::{RuleId, ServicePort, route},
};

/// An open tunnel, as it is at one moment.
#[derive(Clone, Debug)]
pub struct Open {
    pub id: u64,
    pub worker: usize,
    pub rule: RuleId,
    pub client: SocketAddr,
    pub service: ServicePort,
    pub endpoint_name: Box<str>,
    pub endpoint: SocketAddr,
    /// Host and path; empty while no access lines are written.
    pub target: Box<str>,
    pub tls_version: Option<tls::Version>,
    pub would_be_refused_by: Option<Limit>,
    pub attempts: u8,
    /// Seconds.
    pub age: f64,
    /// Seconds since the last byte of a message, in either direction.
    pub idle: f64,
    /// The client's and the endpoint's.
    pub legs: [Leg; 2],
    /// Its end has begun.
    pub is_ending: bool,
    /// How long it may be idle, live, and have a side accept nothing, in seconds; 0: for ever.
    pub idle_timeout: f64,
    pub max_duration: f64,
    pub send_timeout: f64,
}

/// One leg of it.
#[derive(Clone, Debug)]
pub struct Leg {
    pub bytes: u64,
    pub messages: u64,
    /// Seconds for which it has accepted none of what is queued for it.
    pub stalled: Option<f64>,
    pub is_delayed: bool,
    /// Seconds since it last showed itself.
    pub silent: f64,
    /// Microseconds: of the client from its request to the 101, of the endpoint its dials.
    pub took: u32,
    pub heartbeat: Heartbeat,
}

/// Our pings to one leg.
#[derive(Clone, Debug)]
pub struct Heartbeat {
    /// Seconds; 0: none are sent.
    pub interval: f64,
    /// Intervals of silence after which it counts as lost.
    pub missed_allowed: u8,
    pub missed: u8,
    pub outstanding: u8,
    /// Whether it has ever answered one.
    pub answers: bool,
    /// Milliseconds.
    pub round_trip: Option<u32>,
}

/// In which order tunnels are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Oldest first.
    Age,
    /// Longest without a message first.
    Idle,
    Messages,
    Bytes,
    /// Farthest away first.
    RoundTrip,
    /// Longest stalled first.
    Stalled,
}

impl Order {
    pub const ALL: [Self; 6] = [
        Self::Age,
        Self::Idle,
        Self::Messages,
        Self::Bytes,
        Self::RoundTrip,
        Self::Stalled,
    ];

    pub fn word(self) -> &'static str {
        match self {
            Self::Age => "age",
            Self::Idle => "idle",
            Self::Messages => "messages",
            Self::Bytes => "bytes",
            Self::RoundTrip => "rtt",
            Self::Stalled => "stalled",
        }
    }

    /// Sorts what several workers listed.
    pub(super) fn sort(self, list: &mut [Open]) {
        list.sort_by(|a, b| self.of(b).total_cmp(&self.of(a)).then(a.id.cmp(&b.id)));
    }

    fn of(self, open: &Open) -> f64 {
        let [client, endpoint] = &open.legs;
        match self {
            Self::Age => open.age,
            Self::Idle => open.idle,
            Self::Messages => (client.messages + endpoint.messages) as f64,
            Self::Bytes => (client.bytes + endpoint.bytes) as f64,
            Self::RoundTrip => client.heartbeat.round_trip.map_or(-1.0, f64::from),
            Self::Stalled => client.stalled.unwrap_or(-1.0).max(endpoint.stalled.unwrap_or(-1.0)),
        }
    }

    /// The same without a copy.
    fn of_slot(self, slot: &Slot, now: Tick) -> f64 {
        let (client, endpoint) = (&slot.client, &slot.endpoint);
        let stalled = |leg: &slot::Leg| leg.stalled.get().map_or(-1.0, |since| seconds(now, since));
        match self {
            Self::Age => slot.since.elapsed().as_secs_f64(),
            Self::Idle => seconds(now, slot.last_message.get()),
            Self::Messages => (client.messages.get() + endpoint.messages.get()) as f64,
            Self::Bytes => (client.bytes.get() + endpoint.bytes.get()) as f64,
            Self::RoundTrip => client.round_trip.get().map_or(-1.0, f64::from),
            Self::Stalled => stalled(client).max(stalled(endpoint)),
        }
    }
}

/// Lists tunnels of one worker, the first `limit` of them in an order. With [`Order::Stalled`], those that are.
pub(super) async fn list(worker: &Worker, filter: &Filter, order: Order, limit: usize, is_over: impl Fn() -> bool) -> Vec<Open> {
    let mut list: Vec<Open> = Vec::new();
    let mut least = if order == Order::Stalled { 0.0 } else { f64::NEG_INFINITY };
    each_tunnel(worker, is_over, |slot| {
        if order.of_slot(slot, worker.clock.now()) < least || !filter.takes(slot) {
            return;
        }
        list.push(Open::of(worker, slot));
        if list.len() >= 2 * limit {
            order.sort(&mut list);
            list.truncate(limit);
            least = list.last().map_or(least, |last| order.of(last));
        }
    })
    .await;
    order.sort(&mut list);
    list.truncate(limit);
    list
}

impl Open {
    pub(super) fn of(worker: &Worker, slot: &Slot) -> Self {
        let (of, now) = (&slot.of, worker.clock.now());
        let timeouts = &of.rule.timeouts;
        let heartbeats = &of.rule.heartbeat;
        let leg = |peer: Peer, heartbeat: &route::Heartbeat, is_off: bool| {
            let leg = slot.leg(peer);
            Leg {
                bytes: leg.bytes.get(),
                messages: leg.messages.get(),
                stalled: leg.stalled.get().map(|since| seconds(now, since)),
                is_delayed: leg.delayed.get(),
                silent: seconds(now, leg.life.get()),
                took: leg.took.get(),
                heartbeat: Heartbeat {
                    interval: if is_off { 0.0 } else { heartbeat.interval.as_secs_f64() },
                    missed_allowed: heartbeat.missed,
                    missed: leg.missed.get(),
                    outstanding: leg.outstanding.get(),
                    answers: leg.answers.get(),
                    round_trip: leg.round_trip.get(),
                },
            }
        };
        Self {
            id: of.id,
            worker: worker.index,
            rule: of.rule.id.clone(),
            client: of.client_address,
            service: of.endpoint_held.key().service.clone(),
            endpoint_name: of.endpoint_held.name().into(),
            endpoint: of.endpoint_address,
            target: of.target.clone(),
            tls_version: of.tls_version,
            would_be_refused_by: of.would_be_refused_by,
            attempts: of.attempts,
            age: slot.since.elapsed().as_secs_f64(),
            idle: seconds(now, slot.last_message.get()),
            legs: [
                leg(Peer::Client, &heartbeats.client, of.client_is_pinged),
                leg(Peer::Endpoint, &heartbeats.endpoint, false),
            ],
            is_ending: slot.deadline.get().is_some(),
            idle_timeout: timeouts.idle.as_secs_f64(),
            max_duration: timeouts.max_duration.as_secs_f64(),
            send_timeout: timeouts.send.as_secs_f64(),
        }
    }
}

fn seconds(now: Tick, since: Tick) -> f64 {
    f64::from(now.since(since)) / f64::from(PER_SECOND)
}
