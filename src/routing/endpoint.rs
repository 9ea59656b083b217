//! Endpoints: one pod address and port each, with an identity that outlives every change around it.

use std::{
    fmt,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use arc_swap::ArcSwap;
use sha2::{Digest, Sha256};

use super::health::Standing;

/// A port of a Service, by the number that routes use for it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServicePort {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    pub port: u16,
}

impl fmt::Display for ServicePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}:{}", self.namespace, self.name, self.port)
    }
}

/// What makes an endpoint the same one across changes: its Service port, and its pod's UID or else its address.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointKey {
    pub service: ServicePort,
    /// The pod's UID where the slice names a pod, else the address as text.
    pub identity: Box<str>,
    /// The port that the endpoint listens on.
    pub port: u16,
}

impl EndpointKey {
    /// A hash that is the same in every process and release: cookies and rendezvous hashing stand on it.
    fn digest(&self) -> [u8; 32] {
        let mut hasher = Sha256::new_with_prefix(b"holdfast endpoint\0");
        for text in [&*self.service.namespace, &*self.service.name, &*self.identity] {
            hasher.update((text.len() as u64).to_be_bytes());
            hasher.update(text);
        }
        hasher.update(self.service.port.to_be_bytes());
        hasher.update(self.port.to_be_bytes());
        hasher.finalize().into()
    }
}

/// One endpoint. Its `Arc`, its count and its health stay the same for as long as its key is in the Service's slices.
#[derive(Debug)]
pub struct Endpoint {
    key: EndpointKey,
    digest: [u8; 32],
    pod: Option<Box<str>>,
    addresses: ArcSwap<Vec<SocketAddr>>,
    /// Empty where no rule with passive health has used it.
    health: OnceLock<Box<Standing>>,
    open: Padded<AtomicU32>,
}

/// A value on a cache line of its own, so that counting on one endpoint does not slow another.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Padded<T>(T);

impl Endpoint {
    /// An endpoint at `addresses` (the Service's first family first, never empty), backed by `pod` where that is known.
    pub fn new(key: EndpointKey, pod: Option<Box<str>>, addresses: Vec<SocketAddr>) -> Self {
        Self {
            digest: key.digest(),
            key,
            pod,
            addresses: ArcSwap::from_pointee(addresses),
            health: OnceLock::new(),
            open: Padded::default(),
        }
    }

    pub fn key(&self) -> &EndpointKey {
        &self.key
    }

    /// A hash of the key, the same in every process and release.
    pub(super) fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// The pod's name, or the address where no pod is named.
    pub fn name(&self) -> &str {
        self.pod.as_deref().unwrap_or(&self.key.identity)
    }

    /// Where to dial, in order of preference.
    pub fn addresses(&self) -> Arc<Vec<SocketAddr>> {
        self.addresses.load_full()
    }

    /// Replaces the addresses; the identity stays.
    pub fn set_addresses(&self, addresses: Vec<SocketAddr>) {
        self.addresses.store(Arc::new(addresses));
    }

    /// What is known of its health, if anything was ever noted.
    pub(super) fn known_health(&self) -> Option<&Standing> {
        self.health.get().map(|standing| &**standing)
    }

    pub(super) fn health(&self) -> &Standing {
        self.health.get_or_init(Box::default)
    }

    /// Handshakes under way and tunnels that this process holds to the endpoint.
    pub fn open(&self) -> u32 {
        self.open.0.load(Ordering::Relaxed)
    }

    /// Counts one more connection until the guard is dropped.
    pub fn hold(self: &Arc<Self>) -> Held {
        self.open.0.fetch_add(1, Ordering::Relaxed);
        Held(Arc::clone(self))
    }

    /// The same, if fewer than `limit` are counted.
    pub fn hold_below(self: &Arc<Self>, limit: u32) -> Option<Held> {
        let one_more = |open: u32| (open < limit).then(|| open + 1);
        let taken = self.open.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        taken.is_ok().then(|| Held(Arc::clone(self)))
    }
}

/// One connection's share in [`Endpoint::open`]. Taken at the pick, given back at drop.
#[derive(Debug)]
pub struct Held(Arc<Endpoint>);

impl std::ops::Deref for Held {
    type Target = Arc<Endpoint>;

    fn deref(&self) -> &Arc<Endpoint> {
        &self.0
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.open.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether new connections may go to an endpoint (EndpointSlice conditions, terminating looked at first).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum State {
    Ready,
    /// Terminating but still serving: used only when no endpoint of the Service is ready, as kube-proxy does.
    Terminating,
    /// Neither: never picked. Kept, so that its tunnels and its count go on.
    NotReady,
}

impl State {
    /// In answers of the command line and the live listener.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Terminating => "terminating",
            Self::NotReady => "not ready",
        }
    }
}

/// All endpoints of one Service port at one moment. Immutable; replaced as a whole.
#[derive(Debug, Default)]
pub struct EndpointSet {
    members: Vec<(Arc<Endpoint>, State)>,
    usable: Vec<Arc<Endpoint>>,
    any_ready: bool,
}

impl EndpointSet {
    /// Sorts the members by key; usable are the ready ones, or without any the terminating ones that still serve.
    pub fn new(mut members: Vec<(Arc<Endpoint>, State)>) -> Self {
        members.sort_by(|a, b| a.0.key.cmp(&b.0.key));
        let any_ready = members.iter().any(|(_, state)| *state == State::Ready);
        let mut set = Self {
            usable: Vec::new(),
            members,
            any_ready,
        };
        let usable = set.members.iter().filter(|(_, state)| set.takes(*state));
        set.usable = usable.map(|(endpoint, _)| Arc::clone(endpoint)).collect();
        set
    }

    pub fn members(&self) -> &[(Arc<Endpoint>, State)] {
        &self.members
    }

    /// The endpoints that new connections may go to, by key.
    pub fn usable(&self) -> &[Arc<Endpoint>] {
        &self.usable
    }

    /// Whether new connections may go to a member in this state.
    pub fn takes(&self, state: State) -> bool {
        match state {
            State::Ready => true,
            State::Terminating => !self.any_ready,
            State::NotReady => false,
        }
    }
}

/// A Service port's current [`EndpointSet`]. Rules hold the cell, so that a change of endpoints needs no new table.
#[derive(Debug, Default)]
pub struct EndpointCell {
    set: ArcSwap<EndpointSet>,
    ejecting: Mutex<()>,
}

impl EndpointCell {
    pub fn load(&self) -> Arc<EndpointSet> {
        self.set.load_full()
    }

    pub fn store(&self, set: EndpointSet) {
        self.set.store(Arc::new(set));
    }

    /// Held while passive health decides whether one more endpoint may be left out.
    pub(super) fn ejecting(&self) -> MutexGuard<'_, ()> {
        self.ejecting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(identity: &str) -> EndpointKey {
        EndpointKey {
            service: ServicePort {
                namespace: "chat".into(),
                name: "chat".into(),
                port: 80,
            },
            identity: identity.into(),
            port: 8080,
        }
    }

    fn endpoint(identity: &str) -> Arc<Endpoint> {
        Arc::new(Endpoint::new(
            key(identity),
            None,
            vec![SocketAddr::from(([10, 0, 0, 1], 8080))],
        ))
    }

    fn names(endpoints: &[Arc<Endpoint>]) -> Vec<&str> {
        endpoints.iter().map(|endpoint| endpoint.name()).collect()
    }

    #[test]
    fn terminating_endpoints_are_used_only_where_none_is_ready() {
        let of = |states: &[(&str, State)]| {
            EndpointSet::new(states.iter().map(|(identity, state)| (endpoint(identity), *state)).collect())
        };
        let mixed = of(&[
            ("c", State::Ready),
            ("b", State::Terminating),
            ("a", State::Ready),
            ("d", State::NotReady),
        ]);
        assert_eq!(names(mixed.usable()), ["a", "c"]);
        assert_eq!(mixed.members().len(), 4);
        assert!(!mixed.takes(State::Terminating));

        let leaving = of(&[("b", State::Terminating), ("a", State::NotReady)]);
        assert_eq!(names(leaving.usable()), ["b"]);
        assert!(leaving.takes(State::Terminating));
        assert!(of(&[("a", State::NotReady)]).usable().is_empty());
        assert!(of(&[]).usable().is_empty());
    }

    #[test]
    fn counts_and_identity_outlive_sets_and_addresses() {
        let cell = EndpointCell::default();
        let pod = endpoint("uid");
        cell.store(EndpointSet::new(vec![(Arc::clone(&pod), State::Ready)]));
        let first = cell.load().usable()[0].hold();
        let second = first.hold();
        assert_eq!(pod.open(), 2);

        pod.set_addresses(vec![SocketAddr::from(([10, 0, 0, 2], 8080))]);
        cell.store(EndpointSet::new(vec![(Arc::clone(&pod), State::Terminating)]));
        assert_eq!(second.key(), &key("uid"));
        assert_eq!(second.addresses()[0].ip().to_string(), "10.0.0.2");
        drop(first);
        assert_eq!(cell.load().usable()[0].open(), 1);
        cell.store(EndpointSet::default());
        drop(second);
        assert_eq!(pod.open(), 0);
    }

    #[test]
    fn counting_loses_nothing_between_threads() {
        let pod = endpoint("uid");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..1_000).for_each(|_| drop(pod.hold())));
            }
        });
        assert_eq!(pod.open(), 0);
    }

    #[test]
    fn the_digest_tells_every_part_of_the_key_apart() {
        let changed = |change: &dyn Fn(&mut EndpointKey)| {
            let mut key = key("uid");
            change(&mut key);
            key.digest()
        };
        let digests = [
            changed(&|_| ()),
            changed(&|key| key.identity = "uie".into()),
            changed(&|key| key.port = 8081),
            changed(&|key| key.service.port = 81),
            changed(&|key| key.service.namespace = "cha".into()),
            changed(&|key| (key.service.namespace, key.service.name) = ("chatc".into(), "hat".into())),
        ];
        let distinct: std::collections::HashSet<_> = digests.iter().collect();
        assert_eq!(distinct.len(), digests.len());
    }

    /// Another value would send every client of a hash or a cookie elsewhere at an upgrade.
    #[test]
    fn the_digest_never_changes() {
        assert_eq!(key("uid").digest()[..8], 0xd036_c8d9_05b8_202b_u64.to_be_bytes());
    }
}
