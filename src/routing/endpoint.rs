//! Endpoints: one pod address and port each, with an identity that outlives every change around it.

use std::{
    fmt,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use arc_swap::ArcSwap;

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

/// One endpoint. Its `Arc` and its count stay the same for as long as its key is in the Service's slices.
#[derive(Debug)]
pub struct Endpoint {
    key: EndpointKey,
    pod: Option<Box<str>>,
    addresses: ArcSwap<Vec<SocketAddr>>,
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
            key,
            pod,
            addresses: ArcSwap::from_pointee(addresses),
            open: Padded::default(),
        }
    }

    pub fn key(&self) -> &EndpointKey {
        &self.key
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

    /// Handshakes under way and tunnels that this process holds to the endpoint.
    pub fn open(&self) -> u32 {
        self.open.0.load(Ordering::Relaxed)
    }

    /// Counts one more connection until the guard is dropped.
    pub fn hold(self: &Arc<Self>) -> Held {
        self.open.0.fetch_add(1, Ordering::Relaxed);
        Held(Arc::clone(self))
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

/// All endpoints of one Service port at one moment. Immutable; replaced as a whole.
#[derive(Debug, Default)]
pub struct EndpointSet {
    members: Vec<(Arc<Endpoint>, State)>,
    usable: Vec<Arc<Endpoint>>,
}

impl EndpointSet {
    /// Sorts the members by key; usable are the ready ones, or without any the terminating ones that still serve.
    pub fn new(mut members: Vec<(Arc<Endpoint>, State)>) -> Self {
        members.sort_by(|a, b| a.0.key.cmp(&b.0.key));
        let in_state = |wanted: State| -> Vec<Arc<Endpoint>> {
            members
                .iter()
                .filter(|(_, state)| *state == wanted)
                .map(|(endpoint, _)| Arc::clone(endpoint))
                .collect()
        };
        let mut usable = in_state(State::Ready);
        if usable.is_empty() {
            usable = in_state(State::Terminating);
        }
        Self { members, usable }
    }

    pub fn members(&self) -> &[(Arc<Endpoint>, State)] {
        &self.members
    }

    /// The endpoints that new connections may go to, by key.
    pub fn usable(&self) -> &[Arc<Endpoint>] {
        &self.usable
    }
}

/// A Service port's current [`EndpointSet`]. Rules hold the cell, so that a change of endpoints needs no new table.
#[derive(Debug, Default)]
pub struct EndpointCell(ArcSwap<EndpointSet>);

impl EndpointCell {
    pub fn load(&self) -> Arc<EndpointSet> {
        self.0.load_full()
    }

    pub fn store(&self, set: EndpointSet) {
        self.0.store(Arc::new(set));
    }
}
