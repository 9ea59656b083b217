//! Effective values: the route's, else the process's, else the built-in ones. The one place where built-in ones are.
//!
//! [`Defaults`] puts the process's where the route says nothing; [`Policies`] puts the built-in ones where neither does.

pub(in crate::control) mod health;

use std::{fmt, time::Duration};

use crate::{
    api::{self, WebSocketRouteSpec},
    routing::forwarded::{Forwarded, Mode},
    routing::route::{Balancing, Heartbeat, Heartbeats, OnUnavailable, Timeouts},
};

use super::defaults::Defaults;

/// The policies of one route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policies {
    pub timeouts: Timeouts,
    pub heartbeat: Heartbeats,
    pub forwarded: Forwarded,
}

impl Policies {
    /// What holds for a spec that [`Defaults::complete`] has made.
    pub fn of(spec: &WebSocketRouteSpec) -> Self {
        let given = spec.timeouts.clone().unwrap_or_default();
        let time = |given: Option<api::Duration>, built_in| given.map_or(built_in, Duration::from);
        let heartbeats = spec.heartbeat.clone().unwrap_or_default();
        let heartbeat = Heartbeats {
            client: heartbeat(heartbeats.client, CLIENT_HEARTBEAT),
            endpoint: heartbeat(heartbeats.endpoint, ENDPOINT_HEARTBEAT),
        };
        let idle = if heartbeat.client.interval.is_zero() {
            IDLE_WITHOUT_HEARTBEAT
        } else {
            TIMEOUTS.idle
        };
        Self {
            timeouts: Timeouts {
                connect: time(given.connect, TIMEOUTS.connect),
                handshake: time(given.handshake, TIMEOUTS.handshake),
                idle: time(given.idle, idle),
                send: time(given.send, TIMEOUTS.send),
                max_duration: time(given.max_duration, TIMEOUTS.max_duration),
                close_handshake: time(given.close_handshake, TIMEOUTS.close_handshake),
            },
            heartbeat,
            forwarded: forwarded(spec.forwarded.as_ref()),
        }
    }

    /// Every duration with its field's path, as an answer of the command line shows them.
    pub fn durations(&self) -> [(&'static str, Duration); 8] {
        [
            ("timeouts.connect", self.timeouts.connect),
            ("timeouts.handshake", self.timeouts.handshake),
            ("timeouts.idle", self.timeouts.idle),
            ("timeouts.send", self.timeouts.send),
            ("timeouts.maxDuration", self.timeouts.max_duration),
            ("timeouts.closeHandshake", self.timeouts.close_handshake),
            ("heartbeat.client.interval", self.heartbeat.client.interval),
            ("heartbeat.endpoint.interval", self.heartbeat.endpoint.interval),
        ]
    }
}

fn forwarded(given: Option<&api::Forwarded>) -> Forwarded {
    let given = given.cloned().unwrap_or_default();
    let mode = |given: Option<api::ForwardedMode>, built_in| match given {
        None => built_in,
        Some(api::ForwardedMode::Append) => Mode::Append,
        Some(api::ForwardedMode::Replace) => Mode::Replace,
        Some(api::ForwardedMode::None) => Mode::None,
    };
    Forwarded {
        x_forwarded_for: mode(given.x_forwarded_for, Forwarded::BUILT_IN.x_forwarded_for),
        x_real_ip: given.x_real_ip.unwrap_or(Forwarded::BUILT_IN.x_real_ip),
        forwarded: mode(given.forwarded, Forwarded::BUILT_IN.forwarded),
    }
}

fn heartbeat(given: Option<api::Heartbeat>, built_in: Heartbeat) -> Heartbeat {
    let given = given.unwrap_or_default();
    Heartbeat {
        interval: given.interval.map_or(built_in.interval, Duration::from),
        missed: given
            .missed
            .and_then(|missed| u8::try_from(missed).ok())
            .unwrap_or(built_in.missed),
    }
}

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    Route,
    /// The file of `--defaults`.
    Defaults,
    BuiltIn,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Route => "route",
            Self::Defaults => "--defaults",
            Self::BuiltIn => "built-in",
        })
    }
}

/// A value that holds for a route, and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effective {
    /// Its field's path below `spec`.
    pub name: String,
    /// As it is written in a manifest.
    pub value: String,
    pub origin: Origin,
}

/// The values that hold for a route, balancing and persistence excepted: those with a built-in value first, then what the
/// route or the process says besides.
pub fn effective(spec: &WebSocketRouteSpec, defaults: &Defaults) -> Vec<Effective> {
    let given = defaults.given(spec);
    let policies = Policies::of(&defaults.complete(spec));
    let durations = policies
        .durations()
        .map(|(name, value)| (name, api::Duration::from(value).to_string()));
    let missed = [
        ("heartbeat.client.missed", policies.heartbeat.client.missed.to_string()),
        ("heartbeat.endpoint.missed", policies.heartbeat.endpoint.missed.to_string()),
    ];
    let forwarded = [
        ("forwarded.xForwardedFor", format!("{:?}", policies.forwarded.x_forwarded_for)),
        ("forwarded.xRealIP", policies.forwarded.x_real_ip.to_string()),
        ("forwarded.forwarded", format!("{:?}", policies.forwarded.forwarded)),
    ];
    let built_in = durations
        .into_iter()
        .chain(missed)
        .chain(forwarded)
        .chain(health::listed(&defaults.complete(spec)))
        .map(|(name, value)| Effective {
            origin: given
                .iter()
                .find(|given| given.name == name)
                .map_or(Origin::BuiltIn, |given| given.origin),
            name: name.to_owned(),
            value,
        });
    let mut values: Vec<_> = built_in.collect();
    let others: Vec<_> = given
        .into_iter()
        .filter(|given| values.iter().all(|value| value.name != given.name))
        .collect();
    values.extend(others);
    values
}

/// What holds where nobody says anything.
const TIMEOUTS: Timeouts = Timeouts {
    connect: Duration::from_secs(2),
    handshake: Duration::from_secs(10),
    idle: Duration::ZERO,
    send: Duration::from_secs(60),
    max_duration: Duration::ZERO,
    close_handshake: Duration::from_secs(5),
};
/// A client that vanished is not noticed otherwise.
const IDLE_WITHOUT_HEARTBEAT: Duration = Duration::from_secs(3600);
const CLIENT_HEARTBEAT: Heartbeat = Heartbeat {
    interval: Duration::from_secs(45),
    missed: 2,
};
const ENDPOINT_HEARTBEAT: Heartbeat = Heartbeat {
    interval: Duration::ZERO,
    missed: 2,
};
/// What [`Balancing`] is where nobody says anything.
pub const BALANCING: Balancing = Balancing::PowerOfTwo;
/// What [`OnUnavailable`] is where nobody says anything.
pub const ON_UNAVAILABLE: OnUnavailable = OnUnavailable::Repick;
/// Bits of a client's address that count where nobody says anything: IPv4, IPv6.
pub const PREFIX_LENGTHS: (u8, u8) = (32, 64);
/// The least that a heartbeat which is on can wait.
pub const MIN_HEARTBEAT: Duration = Duration::from_secs(1);
