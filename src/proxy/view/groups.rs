//! Open tunnels in groups: how many, how old, how busy, how far away, and how many ended lately.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use tokio::time::Instant;

use super::{each_entry, each_tunnel, filter::Filter};
use crate::{
    proxy::{
        metrics::RuleMetrics,
        recent::{Entry, now},
        slot::Slot,
        worker::Worker,
    },
    routing::{Endpoint, ObjectName, RuleId, ServicePort},
};

/// What makes a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    Endpoint,
    Route,
    Rule,
    Client,
    Worker,
    Age,
}

impl By {
    pub const ALL: [Self; 6] = [Self::Endpoint, Self::Route, Self::Rule, Self::Client, Self::Worker, Self::Age];

    pub fn word(self) -> &'static str {
        match self {
            Self::Endpoint => "endpoint",
            Self::Route => "route",
            Self::Rule => "rule",
            Self::Client => "client",
            Self::Worker => "worker",
            Self::Age => "age",
        }
    }
}

/// Which group.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key {
    /// Service port, name, and the port that it listens on.
    Endpoint(ServicePort, Box<str>, u16),
    Route(ObjectName),
    Rule(RuleId),
    Client(IpAddr),
    Worker(usize),
    /// An index into [`AGES`].
    Age(usize),
}

impl Key {
    pub(super) fn of_endpoint(endpoint: &Endpoint) -> Self {
        let key = endpoint.key();
        Self::Endpoint(key.service.clone(), endpoint.name().into(), key.port)
    }
}

/// Upper bounds of the groups by age, in seconds; the last group has none.
pub const AGES: [u32; 7] = [1, 10, 60, 600, 3600, 6 * 3600, 24 * 3600];

/// Tunnels that have something in common.
#[derive(Clone, Debug, Default)]
pub struct Group {
    pub open: u64,
    /// Their ages, in tenths of a second.
    pub ages: Vec<u32>,
    /// The last round trips of our pings to their clients, in milliseconds, where there was one.
    pub round_trips: Vec<u32>,
    /// From clients, from endpoints, since they were opened.
    pub messages: [u64; 2],
    pub bytes: [u64; 2],
    /// The same in a second, over the interval that was asked for.
    pub rates: [f64; 2],
    /// A side accepts nothing.
    pub stalled: u64,
    /// A side is not read because of a rate.
    pub delayed: u64,
    /// Their end has begun.
    pub ending: u64,
    /// Ends of tunnels in the last five minutes.
    pub ended: u64,
}

/// All groups.
#[derive(Debug, Default)]
pub struct Groups {
    pub groups: HashMap<Key, Group>,
    /// Tunnels of groups that there was no room for.
    pub others: u64,
    /// Whether all ends of the last five minutes are remembered.
    pub knows_ends: bool,
}

/// The messages of each tunnel at one moment.
#[derive(Debug)]
pub struct Counted {
    at: Instant,
    messages: HashMap<u64, [u32; 2]>,
}

/// What one worker is asked.
#[derive(Debug)]
pub struct Asked {
    pub filter: Arc<Filter>,
    pub by: By,
    /// The worker's own number.
    pub worker: usize,
    /// What it counted before, for rates.
    pub earlier: Option<Counted>,
}

impl Groups {
    pub fn merge(&mut self, other: Self) {
        self.others += other.others;
        self.knows_ends &= other.knows_ends;
        for (key, group) in other.groups {
            self.groups.entry(key).or_default().merge(group);
        }
    }
}

impl Group {
    fn merge(&mut self, mut other: Self) {
        self.open += other.open;
        self.ages.append(&mut other.ages);
        self.round_trips.append(&mut other.round_trips);
        for side in 0..2 {
            self.messages[side] += other.messages[side];
            self.bytes[side] += other.bytes[side];
            self.rates[side] += other.rates[side];
        }
        self.stalled += other.stalled;
        self.delayed += other.delayed;
        self.ending += other.ending;
        self.ended += other.ended;
    }

    fn take(&mut self, slot: &Slot, earlier: Option<&Counted>) {
        self.open += 1;
        self.ages
            .push(u32::try_from(slot.since.elapsed().as_millis() / 100).unwrap_or(u32::MAX));
        self.round_trips.extend(slot.client.round_trip.get());
        let legs = [&slot.client, &slot.endpoint];
        let before = earlier.and_then(|earlier| earlier.messages.get(&slot.of.id));
        for (side, leg) in legs.into_iter().enumerate() {
            let messages = leg.messages.get();
            self.messages[side] += messages;
            self.bytes[side] += leg.bytes.get();
            if earlier.is_some() {
                // Of a tunnel that was not there before, all are new.
                let before = before.map_or(0, |before| before[side]);
                self.rates[side] += f64::from((messages as u32).wrapping_sub(before));
            }
        }
        self.stalled += u64::from(slot.stalled().is_some());
        self.delayed += u64::from(slot.is_delayed());
        self.ending += u64::from(slot.deadline.get().is_some());
    }
}

/// Counts the messages of each tunnel, of so many of them.
pub(super) async fn count(worker: &Worker, filter: &Filter, is_over: impl Fn() -> bool) -> Counted {
    let mut messages = HashMap::new();
    each_tunnel(worker, is_over, |slot| {
        if filter.takes(slot) && messages.len() < MAX_COUNTED {
            let counts = [&slot.client, &slot.endpoint].map(|leg| leg.messages.get() as u32);
            messages.insert(slot.of.id, counts);
        }
    })
    .await;
    Counted {
        at: Instant::now(),
        messages,
    }
}

/// Groups the tunnels of one worker.
pub(super) async fn groups(worker: &Worker, asked: Asked, is_over: impl Fn() -> bool) -> Groups {
    let Asked {
        filter,
        by,
        worker: index,
        earlier,
    } = asked;
    let mut making: HashMap<u128, Making> = HashMap::new();
    let mut others = 0;
    each_tunnel(worker, &is_over, |slot| {
        if !filter.takes(slot) {
            return;
        }
        let mark = mark(by, slot);
        if making.len() >= MAX_GROUPS && !making.contains_key(&mark) {
            others += 1;
            return;
        }
        let group = making.entry(mark).or_insert_with(|| Making::of(by, slot, index));
        group.group.take(slot, earlier.as_ref());
    })
    .await;
    let seconds = earlier.map_or(1.0, |earlier| earlier.at.elapsed().as_secs_f64().max(0.001));
    let mut groups = Groups {
        others,
        ..Groups::default()
    };
    for Making { key, mut group, .. } in making.into_values() {
        group.rates = group.rates.map(|count| count / seconds);
        groups.groups.entry(key).or_default().merge(group); // an endpoint that came back is the same one
    }
    let since = now().saturating_sub(LATELY.as_millis() as u64);
    each_entry(worker.recent.tunnels(), u64::MAX, is_over, |entry| {
        if entry.at >= since
            && filter.takes_end(entry)
            && let Some(key) = key_of(by, entry, index)
            && (groups.groups.len() < MAX_GROUPS || groups.groups.contains_key(&key))
        {
            groups.groups.entry(key).or_default().ended += 1;
        }
    })
    .await;
    groups.knows_ends = worker.recent.is_on() && worker.recent.tunnels().borrow().forgotten() < since;
    groups
}

/// A group in the making. What its mark is the address of stays where it is meanwhile.
struct Making {
    key: Key,
    group: Group,
    _endpoint: Option<Arc<Endpoint>>,
    _metrics: Option<Arc<RuleMetrics>>,
}

impl Making {
    fn of(by: By, slot: &Slot, worker: usize) -> Self {
        let endpoint = &slot.of.endpoint_held;
        Self {
            key: match by {
                By::Endpoint => Key::of_endpoint(endpoint),
                By::Route => Key::Route(slot.of.rule.id.route.clone()),
                By::Rule => Key::Rule(slot.of.rule.id.clone()),
                By::Client => Key::Client(slot.of.client_address.ip().to_canonical()),
                By::Worker => Key::Worker(worker),
                By::Age => Key::Age(age(slot)),
            },
            group: Group::default(),
            _endpoint: (by == By::Endpoint).then(|| Arc::clone(endpoint)),
            _metrics: matches!(by, By::Route | By::Rule).then(|| Arc::clone(&slot.of.metrics)),
        }
    }
}

/// What tells the group of a tunnel from others, without a copy of its names.
fn mark(by: By, slot: &Slot) -> u128 {
    match by {
        By::Endpoint => Arc::as_ptr(&slot.of.endpoint_held) as usize as u128,
        By::Route => Arc::as_ptr(&slot.of.metrics.route) as usize as u128,
        By::Rule => Arc::as_ptr(&slot.of.metrics) as usize as u128,
        By::Client => match slot.of.client_address.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped().to_bits(),
            IpAddr::V6(ip) => ip.to_bits(),
        },
        By::Worker => 0,
        By::Age => age(slot) as u128,
    }
}

fn age(slot: &Slot) -> usize {
    let seconds = slot.since.elapsed().as_secs();
    AGES.partition_point(|bound| u64::from(*bound) <= seconds)
}

/// The group that an ended tunnel was in.
fn key_of(by: By, entry: &Entry, worker: usize) -> Option<Key> {
    match by {
        By::Endpoint => {
            let (service, address) = entry.endpoint.as_ref()?;
            Some(Key::Endpoint(service.clone(), entry.endpoint_name().into(), address.port()))
        }
        By::Route => Some(Key::Route(entry.rule.as_ref()?.route.clone())),
        By::Rule => entry.rule.clone().map(Key::Rule),
        By::Client => Some(Key::Client(entry.client.ip())),
        By::Worker => Some(Key::Worker(worker)),
        By::Age => None,
    }
}

/// Groups that one worker makes. A tunnel of one more is counted among the others.
const MAX_GROUPS: usize = 10_000;

/// Tunnels of one worker whose messages are counted for rates: at most 6 MB for as long as that takes.
const MAX_COUNTED: usize = 200_000;

/// How long ends count for their group.
pub const LATELY: std::time::Duration = std::time::Duration::from_secs(300);
