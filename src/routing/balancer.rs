//! Picks endpoints for a new connection: persistence first, then the rule's algorithm.
//!
//! The proxy calls [`pick`] once per handshake and dials what it returns, in order. A pick is made in two steps. First a
//! backendRef, by weight: weights are shares of new connections, whatever is open where. Then an endpoint of it, by the
//! algorithm. A backendRef without a usable endpoint leaves its share to the others; one that cannot be resolved keeps it,
//! and it is answered 500, as in the Gateway API. Where all weights are 0 nothing takes new connections, and the answer is
//! 503.
//!
//! The candidates after the first are for dials that fail. They are of the same backendRef, so that a client stays within
//! its share, but for the last: that is of another one where there is one, so that a backendRef whose endpoints all refuse
//! does not take its share of clients with it.

mod cursor;
mod order;
#[cfg(test)]
mod tests;

use std::{net::IpAddr, sync::Arc};

use http::HeaderMap;
use smallvec::SmallVec;

pub use self::cursor::Cursor;
use self::order::Order;
use super::{
    endpoint::{Endpoint, EndpointSet},
    health::{self, Moment},
    matching::header_value,
    persistence, query,
    rendezvous::{hash, rank, weighted_score},
    route::{Backend, Balancing, HashSource, OnUnavailable, PersistBy, Rule, network_of},
};

/// What a pick looks at.
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    pub address: IpAddr,
    /// Normal form.
    pub path: &'a str,
    pub query: Option<&'a str>,
    pub headers: &'a HeaderMap,
    /// Seconds since 1970.
    pub now: u64,
    /// The same on the clock of passive health.
    pub moment: Moment,
    /// Whether an ejected endpoint whose time is over may be tried with it: with handshakes, one at a time.
    pub tries: bool,
}

/// Why a candidate stands where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PickedBy {
    Cookie,
    ClientIp,
    Header,
    Algorithm,
}

/// Endpoints to dial, best first: distinct, never empty, at most [`MAX_CANDIDATES`].
#[derive(Debug)]
pub struct Pick {
    pub candidates: Candidates,
}

/// See [`Pick`].
pub type Candidates = SmallVec<[(Arc<Endpoint>, PickedBy); MAX_CANDIDATES]>;

/// Dials that one handshake may cost.
pub const MAX_CANDIDATES: usize = 4;

/// Why there is nothing to dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoPick {
    /// The backendRef whose turn it was cannot be resolved (500).
    Unresolved,
    /// No endpoint takes new connections (503).
    NoReadyEndpoint,
    /// The client's own endpoint takes none, and the route says `onUnavailable: Fail` (503).
    PersistedUnavailable,
    /// Every endpoint that takes some, or the client's own, has as many as it may (503).
    EndpointsFull,
}

/// The endpoints to try for this client, however many connections they have.
///
/// # Errors
/// There is none.
pub fn pick(rule: &Rule, client: &Client<'_>) -> Result<Pick, NoPick> {
    pick_from(&Backends::load(rule, client, None), client)
}

/// The endpoints to try among those that have fewer connections than `limit`. Others are passed over as if they took none.
///
/// # Errors
/// There is none.
pub fn pick_below(rule: &Rule, client: &Client<'_>, limit: u32) -> Result<Pick, NoPick> {
    pick_from(&Backends::load(rule, client, Some(limit)), client)
}

/// What the next pick would come to, where an endpoint may have `limit` connections if any; picks leave no trace of it.
///
/// # Errors
/// There is none.
pub fn rehearse(rule: &Rule, client: &Client<'_>, limit: Option<u32>) -> Result<Pick, NoPick> {
    let cursor = rule.cursor.copy();
    let backends = Backends {
        cursor: &cursor,
        ..Backends::load(rule, client, limit)
    };
    pick_from(&backends, client)
}

/// Whether [`pick_below`] would have had nothing to offer where [`pick`] offered `pick`.
pub fn would_be_full(rule: &Rule, client: &Client<'_>, pick: &Pick, limit: u32) -> bool {
    let is_full = |endpoint: &Arc<Endpoint>| endpoint.open() >= limit;
    let fails = |by| {
        by != PickedBy::Algorithm
            && rule
                .persistence
                .as_ref()
                .is_some_and(|of| of.on_unavailable == OnUnavailable::Fail)
    };
    let first = pick.candidates.first().filter(|(endpoint, _)| is_full(endpoint));
    first.is_some_and(|&(_, by)| {
        let backends = Backends::load(rule, client, Some(limit));
        fails(by) || (0..rule.backends.len()).all(|backend| !backends.is_usable(backend))
    })
}

fn pick_from(backends: &Backends<'_>, client: &Client<'_>) -> Result<Pick, NoPick> {
    let rule = backends.rule;
    let algorithm = || algorithm(&rule.balancing, client);
    let Some(persistence) = &rule.persistence else {
        return backends.pick(algorithm(), PickedBy::Algorithm);
    };
    let (key, by) = match &persistence.by {
        PersistBy::Cookie(cookie) => {
            return match persistence::own_endpoint(rule, cookie, client, &backends.sets) {
                Some(own) => backends.pick_own(own, persistence.on_unavailable, algorithm()),
                None => backends.pick(algorithm(), PickedBy::Algorithm),
            };
        }
        &PersistBy::ClientIp {
            ipv4_prefix,
            ipv6_prefix,
        } => (
            Some(address_hash(client.address, ipv4_prefix, ipv6_prefix)),
            PickedBy::ClientIp,
        ),
        PersistBy::Header(name) => (header_hash(client, name), PickedBy::Header),
    };
    match (key, persistence.on_unavailable) {
        (None, _) => backends.pick(algorithm(), PickedBy::Algorithm),
        (Some(key), OnUnavailable::Repick) => backends.pick(Order::Hash(key), by),
        (Some(key), OnUnavailable::Fail) => backends.pick_owner(key, by),
    }
}

/// Endpoint sets of a rule's backends as they are now, in the order of the rule. `None`: unresolved.
pub(super) type Sets = SmallVec<[Option<Arc<EndpointSet>>; 4]>;

/// The sets of a rule.
pub(super) fn sets(rule: &Rule) -> Sets {
    let load = |backend: &Backend| backend.endpoints.as_ref().map(|cell| cell.load());
    rule.backends.iter().map(load).collect()
}

/// The endpoint that a client's cookie names.
#[derive(Debug)]
pub(super) struct Own {
    pub endpoint: Arc<Endpoint>,
    /// Whether it takes new connections.
    pub usable: bool,
}

/// The backends of a rule at the moment of a pick.
struct Backends<'a> {
    rule: &'a Rule,
    /// The rule's own, but for rehearsals.
    cursor: &'a Cursor,
    sets: Sets,
    /// Where passive health leaves some endpoints of a set out: the others.
    admitted: SmallVec<[Option<Vec<Arc<Endpoint>>>; 4]>,
    /// Connections that an endpoint may have.
    limit: Option<u32>,
    /// Where some of the others have as many: those that have fewer.
    below: SmallVec<[Option<Vec<Arc<Endpoint>>>; 4]>,
    moment: Moment,
    tries: bool,
}

impl<'a> Backends<'a> {
    fn load(rule: &'a Rule, client: &Client<'_>, limit: Option<u32>) -> Self {
        let sets = sets(rule);
        let admitted = |set: &Option<Arc<EndpointSet>>| health::admitted(set.as_ref()?.usable(), client.moment);
        let mut backends = Self {
            admitted: match rule.health {
                None => SmallVec::new(),
                Some(_) => sets.iter().map(admitted).collect(),
            },
            limit,
            below: SmallVec::new(),
            moment: client.moment,
            tries: client.tries,
            cursor: &rule.cursor,
            rule,
            sets,
        };
        if let Some(limit) = limit {
            let below = |backend| below(backends.usable(backend), limit);
            backends.below = (0..rule.backends.len()).map(below).collect();
        }
        backends
    }

    /// By weight and `order`.
    fn pick(&self, order: Order, by: PickedBy) -> Result<Pick, NoPick> {
        if self.rule.backends.is_empty() {
            return Err(NoPick::Unresolved);
        }
        let backend = self
            .choose(order, |backend| self.has_share(backend))
            .ok_or_else(|| self.nothing())?;
        if self.sets[backend].is_none() {
            return Err(NoPick::Unresolved);
        }
        let mut candidates = SmallVec::new();
        self.fill(&mut candidates, backend, order, by, |endpoint, is_first| {
            self.admits(endpoint, is_first)
        });
        if candidates.is_empty() {
            // All who could be tried are being tried.
            self.fill(&mut candidates, backend, order, by, |_, _| true);
        }
        Ok(Pick { candidates })
    }

    /// The endpoint that a cookie names, whatever the weights say, and others behind it.
    fn pick_own(&self, own: Own, on_unavailable: OnUnavailable, order: Order) -> Result<Pick, NoPick> {
        let is_full = own.usable && self.is_full(&own.endpoint);
        match (own.usable && !is_full && self.takes(&own.endpoint), on_unavailable) {
            (false, OnUnavailable::Fail) if is_full => return Err(NoPick::EndpointsFull),
            (false, OnUnavailable::Fail) => return Err(NoPick::PersistedUnavailable),
            (false, OnUnavailable::Repick) => return self.pick(order, PickedBy::Algorithm),
            (true, _) => {}
        }
        let mut candidates = Candidates::from_iter([(own.endpoint, PickedBy::Cookie)]);
        let order = order.for_retries();
        let others = match on_unavailable {
            OnUnavailable::Fail => None,
            OnUnavailable::Repick => self.choose(order, |backend| self.is_usable(backend)),
        };
        if let Some(backend) = others {
            self.fill(&mut candidates, backend, order, PickedBy::Algorithm, |endpoint, _| {
                self.admits(endpoint, false)
            });
        }
        Ok(Pick { candidates })
    }

    /// The one endpoint that a hash belongs to, of all that there are, usable or not.
    fn pick_owner(&self, key: u64, by: PickedBy) -> Result<Pick, NoPick> {
        let backends = &self.rule.backends;
        if backends.is_empty() {
            return Err(NoPick::Unresolved);
        }
        let exists = |backend: usize| self.sets[backend].as_ref().is_none_or(|set| !set.members().is_empty());
        let backend = self
            .choose(Order::Hash(key), |backend| backends[backend].weight > 0 && exists(backend))
            .ok_or(NoPick::NoReadyEndpoint)?;
        let set = self.sets[backend].as_ref().ok_or(NoPick::Unresolved)?;
        let owner = set.members().iter().min_by_key(|(endpoint, _)| rank(key, endpoint.digest()));
        match owner {
            Some((endpoint, state)) if set.takes(*state) && self.is_full(endpoint) => Err(NoPick::EndpointsFull),
            Some((endpoint, state)) if set.takes(*state) && self.takes(endpoint) => Ok(Pick {
                candidates: Candidates::from_iter([(Arc::clone(endpoint), by)]),
            }),
            _ => Err(NoPick::PersistedUnavailable),
        }
    }

    /// Adds endpoints of `first`, then of others, that `may`, up to [`MAX_CANDIDATES`] in all. `may` is told whether one
    /// would be the first of them.
    fn fill(
        &self,
        candidates: &mut Candidates,
        first: usize,
        mut order: Order,
        by: PickedBy,
        may: impl Fn(&Endpoint, bool) -> bool,
    ) {
        let mut tried = SmallVec::<[usize; 4]>::new();
        let mut next = Some(first);
        while let Some(backend) = next {
            tried.push(backend);
            let usable = self.usable(backend);
            let places = order.best(usable, || self.cursor.next_endpoint(self.rule, backend));
            order = order.for_retries();
            next = self.choose(order, |other| self.is_usable(other) && !tried.contains(&other));
            let limit = match (tried.len(), next) {
                (1, Some(_)) => MAX_CANDIDATES - 1,
                _ => MAX_CANDIDATES,
            };
            for place in places {
                let endpoint = &usable[place];
                let is_new = !candidates.iter().any(|(other, _)| Arc::ptr_eq(other, endpoint));
                if is_new && candidates.len() < limit && may(endpoint, candidates.is_empty()) {
                    candidates.push((Arc::clone(endpoint), by));
                }
            }
            if candidates.len() == MAX_CANDIDATES {
                return;
            }
        }
    }

    /// One of the backends that `may`, by weight.
    fn choose(&self, order: Order, may: impl Fn(usize) -> bool) -> Option<usize> {
        let backends = &self.rule.backends;
        let cursor = self.cursor;
        let weights: SmallVec<[(usize, u32); 4]> = (0..backends.len())
            .filter(|&backend| may(backend))
            .map(|backend| (backend, backends[backend].weight))
            .collect();
        match *weights {
            [] => None,
            [(only, _)] => Some(only),
            _ => match order {
                Order::Hash(key) => weights
                    .iter()
                    .map(|&(backend, weight)| (backend, weighted_score(key, cursor.hash_of(self.rule, backend), weight)))
                    .max_by(|a, b| a.1.total_cmp(&b.1))
                    .map(|(backend, _)| backend),
                Order::Turn => cursor.next_backend(self.rule, &weights),
                Order::Fewest | Order::TwoChoices | Order::Random => at(&weights, fastrand::u64(0..total(&weights))),
            },
        }
    }

    /// Whether a backend takes part in sharing out new connections.
    fn has_share(&self, backend: usize) -> bool {
        let Backend { weight, .. } = self.rule.backends[backend];
        weight > 0 && (self.sets[backend].is_none() || !self.usable(backend).is_empty())
    }

    /// Whether a backend has an endpoint for new connections.
    fn is_usable(&self, backend: usize) -> bool {
        self.rule.backends[backend].weight > 0 && !self.usable(backend).is_empty()
    }

    fn usable(&self, backend: usize) -> &[Arc<Endpoint>] {
        match (self.below.get(backend), self.admitted.get(backend)) {
            (Some(Some(fewer)), _) | (_, Some(Some(fewer))) => fewer,
            _ => self.sets[backend].as_ref().map_or(&[], |set| set.usable()),
        }
    }

    /// Whether passive health lets a client come back to its own endpoint.
    fn takes(&self, endpoint: &Arc<Endpoint>) -> bool {
        let is_left_out = |(backend, admitted): (usize, &Option<Vec<Arc<Endpoint>>>)| {
            let backend = &self.rule.backends[backend];
            let admitted = admitted.as_ref().filter(|_| backend.service == endpoint.key().service);
            admitted.is_some_and(|admitted| !admitted.iter().any(|one| Arc::ptr_eq(one, endpoint)))
        };
        !self.admitted.iter().enumerate().any(is_left_out) && self.admits(endpoint, true)
    }

    /// Whether a handshake may go to an endpoint as far as trying it goes: only if it would be the first there, and alone.
    fn admits(&self, endpoint: &Endpoint, is_first: bool) -> bool {
        if self.rule.health.is_none() || !endpoint.is_due(self.moment) {
            return true;
        }
        is_first && self.tries && endpoint.claim(self.moment, self.rule.timeouts.handshake)
    }

    fn is_full(&self, endpoint: &Endpoint) -> bool {
        self.limit.is_some_and(|limit| endpoint.open() >= limit)
    }

    /// Why no backend has a share.
    fn nothing(&self) -> NoPick {
        let has_full = |(below, backend): (&Option<_>, &Backend)| below.is_some() && backend.weight > 0;
        match self.below.iter().zip(&self.rule.backends).any(has_full) {
            true => NoPick::EndpointsFull,
            false => NoPick::NoReadyEndpoint,
        }
    }
}

/// Those that have fewer connections than `limit`. `None`: all of them.
fn below(endpoints: &[Arc<Endpoint>], limit: u32) -> Option<Vec<Arc<Endpoint>>> {
    let below: Vec<_> = endpoints.iter().filter(|endpoint| endpoint.open() < limit).cloned().collect();
    (below.len() < endpoints.len()).then_some(below)
}

/// The backend that `point` falls to, of all weights laid end to end.
fn at(weights: &[(usize, u32)], mut point: u64) -> Option<usize> {
    for &(backend, weight) in weights {
        match point.checked_sub(u64::from(weight)) {
            None => return Some(backend),
            Some(rest) => point = rest,
        }
    }
    None
}

fn total(weights: &[(usize, u32)]) -> u64 {
    weights.iter().map(|&(_, weight)| u64::from(weight)).sum()
}

/// How a rule's algorithm orders endpoints for a client. A consistent hash without a value to hash is PowerOfTwo.
fn algorithm(balancing: &Balancing, client: &Client<'_>) -> Order {
    match balancing {
        Balancing::RoundRobin => Order::Turn,
        Balancing::LeastConnections => Order::Fewest,
        Balancing::PowerOfTwo => Order::TwoChoices,
        Balancing::Random => Order::Random,
        Balancing::ConsistentHash(source) => hash_of(source, client).map_or(Order::TwoChoices, Order::Hash),
    }
}

fn hash_of(source: &HashSource, client: &Client<'_>) -> Option<u64> {
    match source {
        HashSource::ClientIp => Some(address_hash(client.address, 32, 64)),
        HashSource::Header(name) => header_hash(client, name),
        HashSource::QueryParam(name) => {
            let value = query::parameter(client.query, name).filter(|value| !value.is_empty());
            value.map(|value| hash("query", &value))
        }
        HashSource::Path => Some(hash("path", client.path.as_bytes())),
    }
}

fn address_hash(address: IpAddr, ipv4_prefix: u8, ipv6_prefix: u8) -> u64 {
    match network_of(address, ipv4_prefix, ipv6_prefix) {
        IpAddr::V4(network) => hash("ipv4", &network.octets()),
        IpAddr::V6(network) => hash("ipv6", &network.octets()),
    }
}

/// An empty header counts as absent.
fn header_hash(client: &Client<'_>, name: &str) -> Option<u64> {
    header_value(client.headers, name, |value| {
        (!value.is_empty()).then(|| hash("header", value))
    })
    .flatten()
}
