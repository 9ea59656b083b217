//! Everything that is known about the objects, with one owner and no lock. Events change it; the table is built of it.
//!
//! It keeps the endpoint cells that rules hold, so that a change of endpoints reaches every table, old and new, by one swap;
//! and it keeps endpoints the same ones for as long as anybody holds them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::{Arc, Weak},
};

use super::{
    compile::{Compiled, compile},
    endpoints::{self, Member},
    object::{EndpointSlice, Event, Key, Object, ObjectKind, ReferenceGrant, Route, Service},
    path::Fault,
    policy::Defaults,
};
use crate::routing::{Endpoint, EndpointCell, EndpointKey, EndpointSet, ObjectName, ServicePort};

/// How objects are looked at.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Routes of other classes are ignored.
    pub class: String,
    /// Whether routes of every namespace may share a hostname.
    pub share_hosts: bool,
    /// Whether ExternalName Services are resolved by DNS. In a cluster they are refused: they could reach anything.
    pub external_names: bool,
    pub defaults: Defaults,
}

/// All objects.
#[derive(Debug)]
pub struct Index {
    settings: Settings,
    routes: BTreeMap<ObjectName, Entry>,
    services: HashMap<ObjectName, Service>,
    slices: HashMap<ObjectName, EndpointSlice>,
    slices_of: HashMap<ObjectName, BTreeSet<ObjectName>>,
    grants: BTreeMap<ObjectName, ReferenceGrant>,
    addresses: HashMap<Arc<str>, Vec<IpAddr>>,
    /// By Service and port, for each one that a route refers to, whether it exists or not.
    cells: HashMap<ObjectName, BTreeMap<u16, Arc<EndpointCell>>>,
    /// Every endpoint that anybody still holds, so that one that comes back is the same one.
    endpoints: HashMap<EndpointKey, Weak<Endpoint>>,
    sweep_at: usize,
}

/// A route and what its own fields mean.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) route: Arc<Route>,
    pub(super) compiled: Result<Compiled, Vec<Fault>>,
}

/// What an event changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    Nothing,
    /// Endpoints of a Service; in effect already.
    Endpoints,
    /// The table, which must be built anew.
    Table,
}

impl Index {
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            routes: BTreeMap::new(),
            services: HashMap::new(),
            slices: HashMap::new(),
            slices_of: HashMap::new(),
            grants: BTreeMap::new(),
            addresses: HashMap::new(),
            cells: HashMap::new(),
            endpoints: HashMap::new(),
            sweep_at: MIN_SWEEP,
        }
    }

    /// Takes in one event.
    pub fn apply(&mut self, event: Event) -> Change {
        match event {
            Event::Apply(Object::Route(route)) => self.apply_route(route),
            Event::Apply(Object::Service(service)) => self.apply_service(service),
            Event::Apply(Object::EndpointSlice(slice)) => self.apply_slice(slice),
            Event::Apply(Object::ReferenceGrant(grant)) => {
                let old = self.grants.insert(grant.name.clone(), grant.clone());
                table_if(old.as_ref() != Some(&grant))
            }
            Event::Delete(Key { kind, name }) => self.delete(kind, &name),
            Event::Resolved { host, addresses } => self.resolved(host, addresses),
        }
    }

    /// Forgets what no route refers to any longer. Before a build, so that the next one finds what it needs.
    pub fn forget_unreferenced(&mut self) {
        let mut wanted: HashMap<&ObjectName, BTreeSet<u16>> = HashMap::new();
        for compiled in self.routes.values().filter_map(|entry| entry.compiled.as_ref().ok()) {
            for reference in compiled.rules.iter().flat_map(|rule| &rule.references) {
                wanted.entry(&reference.service).or_default().insert(reference.port);
            }
        }
        self.cells.retain(|service, ports| {
            let wanted = wanted.get(service);
            ports.retain(|port, _| wanted.is_some_and(|wanted| wanted.contains(port)));
            !ports.is_empty()
        });
    }

    /// The DNS names that routes refer to by way of ExternalName Services.
    pub fn external_hosts(&self) -> BTreeSet<Arc<str>> {
        if !self.settings.external_names {
            return BTreeSet::new();
        }
        let referenced = self.cells.keys().filter_map(|name| self.services.get(name));
        referenced.filter_map(|service| service.external_name.clone()).collect()
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The routes of our class, by name.
    pub fn routes(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.routes.values().map(|entry| &entry.route)
    }

    pub fn service(&self, name: &ObjectName) -> Option<&Service> {
        self.services.get(name)
    }

    pub fn services(&self) -> usize {
        self.services.len()
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.routes.values()
    }

    /// Whether some grant lets routes of `from` refer to `service`.
    pub(super) fn is_granted(&self, from: &str, service: &ObjectName) -> bool {
        let there = self.grants.values().filter(|grant| grant.name.namespace == service.namespace);
        there
            .filter(|grant| grant.from.iter().any(|namespace| **namespace == *from))
            .any(|grant| {
                let names = grant.to.iter();
                names
                    .map(Option::as_deref)
                    .any(|name| name.is_none_or(|name| *name == *service.name))
            })
    }

    /// The cell of a Service port that a route refers to.
    pub(super) fn cell(&self, service: &ObjectName, port: u16) -> Option<&Arc<EndpointCell>> {
        self.cells.get(service)?.get(&port)
    }

    fn apply_route(&mut self, route: Arc<Route>) -> Change {
        let is_ours = route
            .spec
            .class_name
            .as_ref()
            .is_none_or(|class| *class == self.settings.class);
        if !is_ours {
            return self.delete(ObjectKind::WebSocketRoute, &route.name);
        }
        if let Some(old) = self.routes.get_mut(&route.name).filter(|old| old.route == route) {
            old.route = route; // it may stand somewhere else
            return Change::Nothing;
        }
        let compiled = compile(&route.name, &route.spec, &self.settings.defaults);
        if let Ok(compiled) = &compiled {
            for reference in compiled.rules.iter().flat_map(|rule| &rule.references) {
                let ports = self.cells.entry(reference.service.clone()).or_default();
                ports.entry(reference.port).or_default();
            }
            let services: BTreeSet<ObjectName> = compiled
                .rules
                .iter()
                .flat_map(|rule| &rule.references)
                .map(|reference| reference.service.clone())
                .collect();
            for service in services {
                self.refresh(&service);
            }
        }
        self.routes.insert(route.name.clone(), Entry { route, compiled });
        Change::Table
    }

    fn apply_service(&mut self, service: Service) -> Change {
        if self.services.get(&service.name) == Some(&service) {
            return Change::Nothing;
        }
        let name = service.name.clone();
        self.services.insert(name.clone(), service);
        self.refresh(&name);
        Change::Table
    }

    fn apply_slice(&mut self, slice: EndpointSlice) -> Change {
        let name = slice.name.clone();
        let service = service_of(&slice);
        let old = self.slices.insert(name.clone(), slice.clone());
        if old.as_ref() == Some(&slice) {
            return Change::Nothing;
        }
        let former = old
            .as_ref()
            .and_then(service_of)
            .filter(|former| Some(former) != service.as_ref());
        if let Some(former) = former {
            self.forget_slice(&former, &name);
        }
        if let Some(service) = service {
            self.slices_of.entry(service.clone()).or_default().insert(name);
            self.refresh(&service);
        }
        Change::Endpoints
    }

    fn delete(&mut self, kind: ObjectKind, name: &ObjectName) -> Change {
        match kind {
            ObjectKind::WebSocketRoute => table_if(self.routes.remove(name).is_some()),
            ObjectKind::ReferenceGrant => table_if(self.grants.remove(name).is_some()),
            ObjectKind::Service => {
                let was_there = self.services.remove(name).is_some();
                self.refresh(name);
                table_if(was_there)
            }
            ObjectKind::EndpointSlice => {
                let Some(slice) = self.slices.remove(name) else {
                    return Change::Nothing;
                };
                if let Some(service) = service_of(&slice) {
                    self.forget_slice(&service, name);
                }
                Change::Endpoints
            }
        }
    }

    fn forget_slice(&mut self, service: &ObjectName, slice: &ObjectName) {
        if let Some(slices) = self.slices_of.get_mut(service) {
            slices.remove(slice);
            if slices.is_empty() {
                self.slices_of.remove(service);
            }
        }
        self.refresh(service);
    }

    fn resolved(&mut self, host: Arc<str>, addresses: Vec<IpAddr>) -> Change {
        if self.addresses.get(&host) == Some(&addresses) {
            return Change::Nothing;
        }
        let affected: Vec<ObjectName> = self
            .services
            .values()
            .filter(|service| service.external_name.as_ref() == Some(&host))
            .map(|service| service.name.clone())
            .collect();
        self.addresses.insert(host, addresses);
        for service in affected {
            self.refresh(&service);
        }
        Change::Endpoints
    }

    /// Swaps the endpoint sets of one Service's ports.
    fn refresh(&mut self, name: &ObjectName) {
        let Some(ports) = self.cells.get(name) else { return };
        let ports: Vec<(u16, Arc<EndpointCell>)> = ports.iter().map(|(port, cell)| (*port, Arc::clone(cell))).collect();
        for (port, cell) in ports {
            let port = ServicePort {
                namespace: Arc::clone(&name.namespace),
                name: Arc::clone(&name.name),
                port,
            };
            let set = EndpointSet::new(
                self.members(name, &port)
                    .into_iter()
                    .map(|(key, member)| self.endpoint(key, member))
                    .collect(),
            );
            if cell
                .load()
                .members()
                .iter()
                .map(|(endpoint, state)| (Arc::as_ptr(endpoint), *state))
                .ne(set.members().iter().map(|(endpoint, state)| (Arc::as_ptr(endpoint), *state)))
            {
                cell.store(set);
            }
        }
    }

    fn members(&self, name: &ObjectName, port: &ServicePort) -> BTreeMap<EndpointKey, Member> {
        let Some(service) = self.services.get(name) else {
            return BTreeMap::new();
        };
        if let Some(host) = &service.external_name {
            let is_port = service.ports.is_empty() || service.ports.iter().any(|known| known.number == port.port);
            return match self.addresses.get(host) {
                Some(addresses) if self.settings.external_names && is_port => endpoints::external(port, addresses),
                _ => BTreeMap::new(),
            };
        }
        let slices = self.slices_of.get(name).into_iter().flatten();
        endpoints::members(service, port, slices.filter_map(|slice| self.slices.get(slice)))
    }

    /// The endpoint of this identity: the one that somebody still holds, or a new one.
    fn endpoint(&mut self, key: EndpointKey, member: Member) -> (Arc<Endpoint>, crate::routing::endpoint::State) {
        if let Some(endpoint) = self.endpoints.get(&key).and_then(Weak::upgrade) {
            if *endpoint.addresses() != member.addresses {
                endpoint.set_addresses(member.addresses);
            }
            return (endpoint, member.state);
        }
        let endpoint = Arc::new(Endpoint::new(key.clone(), member.pod, member.addresses));
        self.endpoints.insert(key, Arc::downgrade(&endpoint));
        if self.endpoints.len() >= self.sweep_at {
            self.endpoints.retain(|_, endpoint| endpoint.strong_count() > 0);
            self.sweep_at = (self.endpoints.len() * 2).max(MIN_SWEEP);
        }
        (endpoint, member.state)
    }
}

fn service_of(slice: &EndpointSlice) -> Option<ObjectName> {
    slice.service.as_ref().map(|service| ObjectName {
        namespace: Arc::clone(&slice.name.namespace),
        name: Arc::clone(service),
    })
}

fn table_if(changed: bool) -> Change {
    if changed { Change::Table } else { Change::Nothing }
}

/// Endpoints that are remembered before those that nobody holds are looked for.
const MIN_SWEEP: usize = 256;
