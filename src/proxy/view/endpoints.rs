//! The endpoints of the table as it is now, those without a tunnel too.

use std::{collections::HashMap, net::SocketAddr};

use super::{filter::Filter, groups::Key};
use crate::{
    proxy::Shared,
    routing::{Endpoint, endpoint::State, health::Failure},
};

/// What is known of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    pub state: Standing,
    pub address: Option<SocketAddr>,
    /// The most connections that one of its rules lets it have.
    pub limit: Option<u32>,
}

/// Whether new connections go to an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Ready,
    Terminating,
    NotReady,
    /// Left out by passive health, and for what.
    Ejected(Option<Failure>),
    /// No rule names it any more; it keeps its tunnels.
    Removed,
}

impl Standing {
    pub fn word(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Terminating => "terminating",
            Self::NotReady => "not_ready",
            Self::Ejected(_) => "ejected",
            Self::Removed => "removed",
        }
    }

    fn of(endpoint: &Endpoint, state: State) -> Self {
        match state {
            State::Ready if endpoint.is_ejected() => Self::Ejected(endpoint.ejected_for()),
            State::Ready => Self::Ready,
            State::Terminating => Self::Terminating,
            State::NotReady => Self::NotReady,
        }
    }
}

/// The endpoints of the rules that pass `filter`.
pub(super) fn known(shared: &Shared, filter: &Filter) -> HashMap<Key, Known> {
    let snapshot = shared.published.load();
    let mut known: HashMap<Key, Known> = HashMap::new();
    for rule in snapshot.table.rules().filter(|rule| filter.takes_rule(Some(&rule.id))) {
        let limit = rule.limits.as_ref().and_then(|limits| limits.max_connections_per_endpoint);
        for set in rule
            .backends
            .iter()
            .filter_map(|backend| Some(backend.endpoints.as_ref()?.load()))
        {
            for (endpoint, state) in set.members() {
                let address = endpoint.addresses().first().copied();
                if !filter.takes_endpoint(endpoint.name(), address) {
                    continue;
                }
                let entry = known.entry(Key::of_endpoint(endpoint)).or_insert(Known {
                    state: Standing::of(endpoint, *state),
                    address,
                    limit,
                });
                entry.limit = entry.limit.into_iter().chain(limit).min();
            }
        }
    }
    known
}
