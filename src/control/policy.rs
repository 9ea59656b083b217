//! Effective values: the route's, else the process's, else the built-in ones. The one place where defaults are.

use std::{fmt, time::Duration};

use crate::{
    api::{self, WebSocketRouteSpec},
    routing::route::{Balancing, Heartbeat, Heartbeats, OnUnavailable, Timeouts},
};

/// What holds where a route says nothing. `Defaults::default()` are the built-in values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Defaults {
    pub connect: Duration,
    pub handshake: Duration,
    /// Where the client heartbeat is on.
    pub idle: Duration,
    /// Where it is off.
    pub idle_without_heartbeat: Duration,
    pub send: Duration,
    pub max_duration: Duration,
    pub close_handshake: Duration,
    pub client_heartbeat: Heartbeat,
    pub endpoint_heartbeat: Heartbeat,
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(2),
            handshake: Duration::from_secs(10),
            idle: Duration::ZERO,
            idle_without_heartbeat: Duration::from_secs(3600),
            send: Duration::from_secs(60),
            max_duration: Duration::ZERO,
            close_handshake: Duration::from_secs(5),
            client_heartbeat: Heartbeat {
                interval: Duration::from_secs(45),
                missed: 2,
            },
            endpoint_heartbeat: Heartbeat {
                interval: Duration::ZERO,
                missed: 2,
            },
        }
    }
}

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    Route,
    Process,
    BuiltIn,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Route => "route",
            Self::Process => "process",
            Self::BuiltIn => "built-in",
        })
    }
}

/// A value, and where it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effective<T> {
    pub value: T,
    pub origin: Origin,
}

/// The policies of one route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policies {
    pub connect: Effective<Duration>,
    pub handshake: Effective<Duration>,
    pub idle: Effective<Duration>,
    pub send: Effective<Duration>,
    pub max_duration: Effective<Duration>,
    pub close_handshake: Effective<Duration>,
    pub client_heartbeat: EffectiveHeartbeat,
    pub endpoint_heartbeat: EffectiveHeartbeat,
}

/// A heartbeat, whose two values may come from different places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EffectiveHeartbeat {
    pub interval: Effective<Duration>,
    pub missed: Effective<u8>,
}

impl Policies {
    /// What holds for a route.
    pub fn of(spec: &WebSocketRouteSpec, defaults: &Defaults) -> Self {
        let built_in = Defaults::default();
        let given = spec.timeouts.clone().unwrap_or_default();
        let time = |route: Option<api::Duration>, process, built_in| effective(route.map(Duration::from), process, built_in);
        let heartbeats = spec.heartbeat.clone().unwrap_or_default();
        let client_heartbeat = heartbeat(heartbeats.client, defaults.client_heartbeat, built_in.client_heartbeat);
        let idle = match client_heartbeat.interval.value.is_zero() {
            false => time(given.idle, defaults.idle, built_in.idle),
            true => time(given.idle, defaults.idle_without_heartbeat, built_in.idle_without_heartbeat),
        };
        Self {
            connect: time(given.connect, defaults.connect, built_in.connect),
            handshake: time(given.handshake, defaults.handshake, built_in.handshake),
            idle,
            send: time(given.send, defaults.send, built_in.send),
            max_duration: time(given.max_duration, defaults.max_duration, built_in.max_duration),
            close_handshake: time(given.close_handshake, defaults.close_handshake, built_in.close_handshake),
            client_heartbeat,
            endpoint_heartbeat: heartbeat(heartbeats.endpoint, defaults.endpoint_heartbeat, built_in.endpoint_heartbeat),
        }
    }

    pub fn timeouts(&self) -> Timeouts {
        Timeouts {
            connect: self.connect.value,
            handshake: self.handshake.value,
            idle: self.idle.value,
            send: self.send.value,
            max_duration: self.max_duration.value,
            close_handshake: self.close_handshake.value,
        }
    }

    pub fn heartbeats(&self) -> Heartbeats {
        let heartbeat = |of: &EffectiveHeartbeat| Heartbeat {
            interval: of.interval.value,
            missed: of.missed.value,
        };
        Heartbeats {
            client: heartbeat(&self.client_heartbeat),
            endpoint: heartbeat(&self.endpoint_heartbeat),
        }
    }

    /// Every duration with its field's name, as an answer of the command line shows them.
    pub fn durations(&self) -> [(&'static str, Effective<Duration>); 8] {
        [
            ("timeouts.connect", self.connect),
            ("timeouts.handshake", self.handshake),
            ("timeouts.idle", self.idle),
            ("timeouts.send", self.send),
            ("timeouts.maxDuration", self.max_duration),
            ("timeouts.closeHandshake", self.close_handshake),
            ("heartbeat.client.interval", self.client_heartbeat.interval),
            ("heartbeat.endpoint.interval", self.endpoint_heartbeat.interval),
        ]
    }
}

fn heartbeat(route: Option<api::Heartbeat>, process: Heartbeat, built_in: Heartbeat) -> EffectiveHeartbeat {
    let route = route.unwrap_or_default();
    EffectiveHeartbeat {
        interval: effective(route.interval.map(Duration::from), process.interval, built_in.interval),
        missed: effective(
            route.missed.and_then(|missed| u8::try_from(missed).ok()),
            process.missed,
            built_in.missed,
        ),
    }
}

fn effective<T: PartialEq>(route: Option<T>, process: T, built_in: T) -> Effective<T> {
    match route {
        Some(value) => Effective {
            value,
            origin: Origin::Route,
        },
        None if process == built_in => Effective {
            value: process,
            origin: Origin::BuiltIn,
        },
        None => Effective {
            value: process,
            origin: Origin::Process,
        },
    }
}

/// What [`Balancing`] is where a route says nothing.
pub const BALANCING: Balancing = Balancing::PowerOfTwo;
/// What [`OnUnavailable`] is where a route says nothing.
pub const ON_UNAVAILABLE: OnUnavailable = OnUnavailable::Repick;
/// Bits of a client's address that count where a route says nothing: IPv4, IPv6.
pub const PREFIX_LENGTHS: (u8, u8) = (32, 64);
/// The least that a heartbeat which is on can wait.
pub const MIN_HEARTBEAT: Duration = Duration::from_secs(1);
