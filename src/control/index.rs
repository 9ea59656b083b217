//! Everything that is known about the objects, with one owner and no lock. Events change it; the table is built of it.
//!
//! It keeps the endpoint cells that rules hold, so that a change of endpoints reaches every table, old and new, by one swap;
//! and it keeps endpoints the same ones for as long as anybody holds them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::{Arc, OnceLock, Weak},
};

use super::{
    authorities,
    certificates::{Alarm, Certificates},
    compile::{Compiled, compile},
    defaults::Defaults,
    endpoints::{self, Member},
    object::{EndpointSlice, Event, Key, Object, ObjectKind, ReferenceGrant, Route, Service, Tickets},
};
use crate::routing::{
    Endpoint, EndpointCell, EndpointKey, EndpointSet, ObjectName, ServicePort, TicketKeys, endpoint_tls::Authorities,
};

/// How objects are looked at.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Routes of other classes are ignored.
    pub class: String,
    /// Whether routes of every namespace may share a hostname.
    pub share_hosts: bool,
    /// Whether ExternalName Services are resolved by DNS. In a cluster they are refused: they could reach anything.
    pub external_names: bool,
    /// The Secret whose certificate hosts without one of their own show.
    pub default_certificate: Option<ObjectName>,
    /// The Secret with the keys of session tickets.
    pub ticket_secret: Option<ObjectName>,
    /// What holds for routes that say nothing.
    pub defaults: Defaults,
}

/// All objects.
#[derive(Debug)]
pub struct Index {
    settings: Settings,
    routes: BTreeMap<ObjectName, Entry>,
    /// By the name of their Ingress.
    challenges: BTreeMap<ObjectName, Entry>,
    services: HashMap<ObjectName, Service>,
    slices: HashMap<ObjectName, EndpointSlice>,
    slices_of: HashMap<ObjectName, BTreeSet<ObjectName>>,
    grants: BTreeMap<ObjectName, ReferenceGrant>,
    certificates: Certificates,
    /// The last good ones.
    ticket_keys: Option<Arc<TicketKeys>>,
    /// Read when a route needs them.
    system_authorities: OnceLock<Option<Arc<Authorities>>>,
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
    pub(super) compiled: Compiled,
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
        let mut certificates = Certificates::default();
        if let Some(secret) = &settings.default_certificate {
            certificates.want(secret);
        }
        Self {
            settings,
            routes: BTreeMap::new(),
            challenges: BTreeMap::new(),
            services: HashMap::new(),
            slices: HashMap::new(),
            slices_of: HashMap::new(),
            grants: BTreeMap::new(),
            certificates,
            ticket_keys: None,
            system_authorities: OnceLock::new(),
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
            Event::Apply(Object::Secret(secret)) => table_if(self.certificates.apply(secret)),
            Event::Apply(Object::Tickets(tickets)) => self.apply_tickets(tickets),
            Event::Apply(Object::Challenge(route)) => self.apply_challenge(route),
            Event::Delete(Key { kind, name }) => self.delete(kind, &name),
            Event::Resolved { host, addresses } => self.resolved(host, addresses),
        }
    }

    /// What holds for routes that say nothing is something else now.
    pub(super) fn set_defaults(&mut self, defaults: Defaults) -> Change {
        self.settings.defaults = defaults;
        let entries = std::mem::take(&mut self.routes).into_values();
        let changes = entries.map(|entry| self.apply_route(entry.route));
        changes.max().unwrap_or(Change::Nothing)
    }

    /// The keys of session tickets that the Secret had last.
    pub(super) fn ticket_keys(&self) -> Option<&Arc<TicketKeys>> {
        self.ticket_keys.as_ref()
    }

    /// Tells the time, in seconds since 1970: certificates expire. Untold, none does.
    pub fn set_now(&mut self, now: i64) {
        self.certificates.set_now(now);
    }

    /// Forgets what Secrets say that no route names, from now on.
    pub(super) fn forget_secrets(&mut self) {
        self.certificates.forget();
    }

    /// Whether a route names a Secret that was forgotten.
    pub(super) fn lacks_secrets(&self) -> bool {
        self.certificates.lacks_any()
    }

    /// When the next certificate in use expires.
    pub fn next_expiry(&self) -> Option<i64> {
        self.certificates.next_expiry()
    }

    /// Forgets what no route refers to any longer. Before a build, so that the next one finds what it needs.
    pub fn forget_unreferenced(&mut self) {
        let named = self
            .routes
            .values()
            .flat_map(|entry| &entry.compiled.tls)
            .map(|tls| &tls.secret);
        let towards = || self.routes.values().map(|entry| &entry.compiled.backend_tls);
        let shown = towards().filter_map(|tls| Some(&tls.shown.as_ref()?.secret));
        let authorities = towards().filter_map(|tls| Some(&tls.authorities.as_ref()?.secret));
        self.certificates.want_only(
            &named.chain(shown).chain(&self.settings.default_certificate).collect(),
            &authorities.collect(),
        );
        let mut wanted: HashMap<&ObjectName, BTreeSet<u16>> = HashMap::new();
        for entry in self.routes.values().chain(self.challenges.values()) {
            for reference in entry.compiled.rules.iter().flat_map(|rule| &rule.references) {
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

    /// The names of the objects of this kind; of routes, those of our class.
    pub(super) fn names(&self, kind: ObjectKind) -> Box<dyn Iterator<Item = &ObjectName> + '_> {
        match kind {
            ObjectKind::WebSocketRoute => Box::new(self.routes.keys()),
            ObjectKind::Service => Box::new(self.services.keys()),
            ObjectKind::EndpointSlice => Box::new(self.slices.keys()),
            ObjectKind::ReferenceGrant => Box::new(self.grants.keys()),
            ObjectKind::Secret => Box::new(self.certificates.names()),
            ObjectKind::Ingress => Box::new(self.challenges.keys()),
        }
    }

    pub fn service(&self, name: &ObjectName) -> Option<&Service> {
        self.services.get(name)
    }

    pub(super) fn entry(&self, name: &ObjectName) -> Option<&Entry> {
        self.routes.get(name)
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.routes.values()
    }

    /// What must be done about certificates: for each Secret once in each namespace that names it, by its first route there.
    pub(super) fn alarms(&self) -> Vec<(ObjectName, Alarm)> {
        let mut told = BTreeSet::new();
        let mut alarms = Vec::new();
        for entry in self.routes.values() {
            let route = &entry.route.name;
            for secret in entry.compiled.tls.iter().map(|tls| &tls.secret) {
                let may = secret.namespace == route.namespace || self.is_granted(&route.namespace, ObjectKind::Secret, secret);
                if may && told.insert((&route.namespace, secret)) {
                    alarms.extend(self.certificates.alarm(secret).map(|alarm| (route.clone(), alarm)));
                }
            }
        }
        alarms
    }

    /// The challenges that are being answered.
    pub(super) fn challenges(&self) -> impl Iterator<Item = &Entry> {
        self.challenges.values()
    }

    /// The certificates that routes name.
    pub(super) fn certificates(&self) -> &Certificates {
        &self.certificates
    }

    /// The certificate authorities that the system trusts. `None`: it has none.
    pub(super) fn system_authorities(&self) -> Option<Arc<Authorities>> {
        self.system_authorities.get_or_init(authorities::of_system).clone()
    }

    /// Whether some grant lets routes of `from` refer to a Service or a Secret.
    pub(super) fn is_granted(&self, from: &str, kind: ObjectKind, to: &ObjectName) -> bool {
        let there = self.grants.values().filter(|grant| grant.name.namespace == to.namespace);
        there
            .filter(|grant| grant.from.iter().any(|namespace| **namespace == *from))
            .any(|grant| {
                let names = if kind == ObjectKind::Secret {
                    &grant.to_secrets
                } else {
                    &grant.to
                }
                .iter();
                names
                    .map(Option::as_deref)
                    .any(|name| name.is_none_or(|name| *name == *to.name))
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
        let mut compiled = compile(&route.name, &route.spec, &self.settings.defaults);
        compiled.faults.splice(..0, route.unreadable.iter().cloned());
        self.make_cells(&compiled);
        compiled.tls.iter().for_each(|tls| self.certificates.want(&tls.secret));
        if let Some(shown) = &compiled.backend_tls.shown {
            self.certificates.want(&shown.secret);
        }
        if let Some(authorities) = &compiled.backend_tls.authorities {
            self.certificates.want_authorities(&authorities.secret);
        }
        self.routes.insert(route.name.clone(), Entry { route, compiled });
        Change::Table
    }

    /// Like a route, but for the process's defaults: what they demand of clients is not for whoever issues certificates.
    fn apply_challenge(&mut self, route: Arc<Route>) -> Change {
        if self.challenges.get(&route.name).is_some_and(|old| old.route == route) {
            return Change::Nothing;
        }
        let compiled = compile(&route.name, &route.spec, &Defaults::default());
        self.make_cells(&compiled);
        self.challenges.insert(route.name.clone(), Entry { route, compiled });
        Change::Table
    }

    /// Makes the cells of the Services that a route refers to, where they are new.
    fn make_cells(&mut self, compiled: &Compiled) {
        let mut services = BTreeSet::new();
        for reference in compiled.rules.iter().flat_map(|rule| &rule.references) {
            let ports = self.cells.entry(reference.service.clone()).or_default();
            ports.entry(reference.port).or_default();
            services.insert(&reference.service);
        }
        for service in services {
            self.refresh(service);
        }
    }

    fn apply_service(&mut self, service: Service) -> Change {
        if self.services.get(&service.name) == Some(&service) {
            return Change::Nothing;
        }
        let name = service.name.clone();
        self.services.insert(name.clone(), service);
        self.refresh(&name);
        table_if(self.cells.contains_key(&name)) // a Service that no route refers to changes nothing
    }

    fn apply_tickets(&mut self, tickets: Tickets) -> Change {
        if self.settings.ticket_secret.as_ref() == Some(&tickets.name) && tickets.keys.is_some() {
            self.ticket_keys = tickets.keys;
        }
        table_if(self.certificates.delete(&tickets.name)) // it may have been a certificate before
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
            ObjectKind::Secret => table_if(self.certificates.delete(name)),
            ObjectKind::Ingress => table_if(self.challenges.remove(name).is_some()),
            ObjectKind::Service => {
                let was_there = self.services.remove(name).is_some();
                self.refresh(name);
                table_if(was_there && self.cells.contains_key(name))
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

#[cfg(test)]
mod tests {
    use super::{
        super::{
            build::{Rules, build, build_over},
            manifests::objects,
        },
        *,
    };

    fn index(text: &str) -> Index {
        let mut index = Index::new(Settings {
            class: "holdfast".to_owned(),
            share_hosts: false,
            external_names: true,
            default_certificate: None,
            ticket_secret: None,
            defaults: Defaults::default(),
        });
        apply(&mut index, text);
        index
    }

    fn apply(index: &mut Index, text: &str) -> Vec<Change> {
        objects(text)
            .into_iter()
            .map(|object| index.apply(Event::Apply(object)))
            .collect()
    }

    fn name(text: &str) -> ObjectName {
        ObjectName {
            namespace: "default".into(),
            name: text.into(),
        }
    }

    fn delete(index: &mut Index, kind: ObjectKind, text: &str) -> Change {
        index.apply(Event::Delete(Key { kind, name: name(text) }))
    }

    /// The members of the cell of port 80 of Service chat, in words.
    fn members(index: &Index) -> Vec<String> {
        let set = index.cell(&name("chat"), 80).unwrap().load();
        let word = |(endpoint, state): &(Arc<Endpoint>, _)| format!("{} {:?} {state:?}", endpoint.name(), endpoint.addresses());
        set.members().iter().map(word).collect()
    }

    fn route(backends: &str) -> String {
        format!(
            "apiVersion: holdfast.dev/v1alpha1\nkind: WebSocketRoute\nmetadata: {{name: chat}}\n\
             spec: {{rules: [{{backendRefs: [{backends}]}}]}}\n---\n"
        )
    }

    fn service(spec: &str) -> String {
        format!("apiVersion: v1\nkind: Service\nmetadata: {{name: chat}}\nspec: {spec}\n---\n")
    }

    fn slice(name: &str, family: &str, ports: &str, endpoints: &str) -> String {
        format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: {name}, labels: {{kubernetes.io/service-name: chat}}}}\n\
             addressType: {family}\nports: {ports}\nendpoints: {endpoints}\n---\n"
        )
    }

    const CHAT: &str = "{name: chat, port: 80}";

    #[test]
    fn ports_are_chosen_by_name_and_their_numbers_may_differ() {
        let ports = "{ports: [{name: ws, port: 80}, {name: other, port: 81}]}";
        let one = slice(
            "a",
            "IPv4",
            "[{name: ws, port: 8080}, {name: other, port: 9}]",
            "[{addresses: [10.0.0.1]}]",
        );
        let two = slice(
            "b",
            "IPv4",
            "[{name: ws, port: 8090}, {name: ws, port: 53, protocol: UDP}]",
            "[{addresses: [10.0.0.2]}]",
        );
        let index = index(&[route(CHAT), service(ports), one, two].concat());
        assert_eq!(
            members(&index),
            ["10.0.0.1 [10.0.0.1:8080] Ready", "10.0.0.2 [10.0.0.2:8090] Ready"]
        );
    }

    #[test]
    fn absent_conditions_mean_ready_and_terminating_is_looked_at_first() {
        let endpoints = "[
            {addresses: [10.0.0.1]},
            {addresses: [10.0.0.2], conditions: {ready: false}},
            {addresses: [10.0.0.3], conditions: {ready: true, terminating: true}},
            {addresses: [10.0.0.4], conditions: {ready: true, serving: false, terminating: true}},
            {addresses: [10.0.0.5], conditions: {ready: false, serving: true, terminating: true}},
            {addresses: [10.0.0.6], conditions: {ready: false, terminating: true}}]";
        let index = index(
            &[
                route(CHAT),
                service("{ports: [{port: 80}]}"),
                slice("a", "IPv4", "[{port: 1}]", endpoints),
            ]
            .concat(),
        );
        let states: Vec<String> = members(&index)
            .iter()
            .map(|member| member.split(' ').next_back().unwrap().to_owned())
            .collect();
        assert_eq!(
            states,
            ["Ready", "NotReady", "Terminating", "NotReady", "Terminating", "NotReady"]
        );
    }

    #[test]
    fn in_two_slices_at_once_the_one_that_does_not_terminate_counts() {
        let service = service("{ports: [{port: 80}]}");
        let pod = "targetRef: {kind: Pod, name: chat-0, uid: u0}";
        let old = slice(
            "a",
            "IPv4",
            "[{port: 1}]",
            &format!("[{{addresses: [10.0.0.1], {pod}, conditions: {{terminating: true}}}}]"),
        );
        let new = slice("b", "IPv4", "[{port: 1}]", &format!("[{{addresses: [10.0.0.1], {pod}}}]"));
        for order in [[&old, &new], [&new, &old]] {
            let index = index(&[&route(CHAT), &service, order[0], order[1]].map(String::as_str).concat());
            assert_eq!(members(&index), ["chat-0 [10.0.0.1:1] Ready"]);
        }
    }

    #[test]
    fn a_pod_in_both_families_is_one_endpoint_with_the_services_first_family_first() {
        let pod = "targetRef: {kind: Pod, name: chat-0, uid: u0}";
        let four = slice("a", "IPv4", "[{port: 1}]", &format!("[{{addresses: [10.0.0.1], {pod}}}]"));
        let six = slice("b", "IPv6", "[{port: 1}]", &format!("[{{addresses: [\"fd00::1\"], {pod}}}]"));
        for (families, expected) in [
            ("[IPv4, IPv6]", "chat-0 [10.0.0.1:1, [fd00::1]:1] Ready"),
            ("[IPv6, IPv4]", "chat-0 [[fd00::1]:1, 10.0.0.1:1] Ready"),
        ] {
            let service = service(&format!("{{ipFamilies: {families}, ports: [{{port: 80}}]}}"));
            let index = index(&[route(CHAT), service, four.clone(), six.clone()].concat());
            assert_eq!(members(&index), [expected]);
        }
    }

    #[test]
    fn a_change_of_endpoints_swaps_the_set_and_keeps_the_endpoints() {
        let at = |endpoints: &str| slice("a", "IPv4", "[{port: 1}]", endpoints);
        let start = [
            route(CHAT),
            service("{ports: [{port: 80}]}"),
            at("[{addresses: [10.0.0.1]}, {addresses: [10.0.0.2]}]"),
        ];
        let mut index = index(&start.concat());
        let cell = Arc::clone(index.cell(&name("chat"), 80).unwrap());
        let before = cell.load();
        assert_eq!(
            apply(&mut index, &at("[{addresses: [10.0.0.2]}, {addresses: [10.0.0.3]}]")),
            [Change::Endpoints]
        );
        let after = cell.load();
        assert!(
            Arc::ptr_eq(&before.members()[1].0, &after.members()[0].0),
            "10.0.0.2 stays the same endpoint"
        );
        assert!(Arc::ptr_eq(&cell, index.cell(&name("chat"), 80).unwrap()));
        assert_eq!(
            apply(&mut index, &at("[{addresses: [10.0.0.2]}, {addresses: [10.0.0.3]}]")),
            [Change::Nothing]
        );
        // An endpoint that left comes back as the same one while a tunnel holds it.
        let held = before.members()[0].0.hold();
        drop(before);
        apply(&mut index, &at("[{addresses: [10.0.0.1]}]"));
        assert_eq!(cell.load().members()[0].0.open(), 1);
        drop(held);
    }

    #[test]
    fn a_pod_that_gets_another_address_stays_the_same_endpoint() {
        let at = |address: &str| {
            slice(
                "a",
                "IPv4",
                "[{port: 1}]",
                &format!("[{{addresses: [{address}], targetRef: {{name: chat-0, uid: u0}}}}]"),
            )
        };
        let mut index = index(&[route(CHAT), service("{ports: [{port: 80}]}"), at("10.0.0.1")].concat());
        let before = index.cell(&name("chat"), 80).unwrap().load();
        apply(&mut index, &at("10.0.0.9"));
        assert_eq!(before.members()[0].0.addresses()[0].to_string(), "10.0.0.9:1");
    }

    #[test]
    fn cells_outlive_their_service_and_end_with_the_last_reference() {
        let slice = slice("a", "IPv4", "[{port: 1}]", "[{addresses: [10.0.0.1]}]");
        let mut index = index(&[route(CHAT), service("{ports: [{port: 80}]}"), slice].concat());
        let cell = Arc::clone(index.cell(&name("chat"), 80).unwrap());
        assert_eq!(delete(&mut index, ObjectKind::Service, "chat"), Change::Table);
        assert!(cell.load().members().is_empty());
        index.forget_unreferenced();
        apply(&mut index, &service("{ports: [{port: 80}]}"));
        assert_eq!(cell.load().members().len(), 1, "a Service that comes back finds its cell");
        assert_eq!(delete(&mut index, ObjectKind::EndpointSlice, "a"), Change::Endpoints);
        assert!(cell.load().members().is_empty());
        assert_eq!(delete(&mut index, ObjectKind::WebSocketRoute, "chat"), Change::Table);
        index.forget_unreferenced();
        assert!(index.cell(&name("chat"), 80).is_none());
    }

    #[test]
    fn a_slice_that_changes_its_service_leaves_the_old_one() {
        let slice = slice("a", "IPv4", "[{port: 1}]", "[{addresses: [10.0.0.1]}]");
        let mut index = index(&[route(CHAT), service("{ports: [{port: 80}]}"), slice.clone()].concat());
        assert_eq!(members(&index).len(), 1);
        apply(&mut index, &slice.replace("service-name: chat", "service-name: other"));
        assert!(members(&index).is_empty());
    }

    #[test]
    fn a_name_becomes_its_addresses() {
        let mut index = index(&[route(CHAT), service("{type: ExternalName, externalName: Chat.Example.Com.}")].concat());
        assert_eq!(
            index
                .external_hosts()
                .into_iter()
                .map(|host| host.to_string())
                .collect::<Vec<_>>(),
            ["chat.example.com"]
        );
        let mut resolved = |addresses: &[&str]| {
            let change = index.apply(Event::Resolved {
                host: "chat.example.com".into(),
                addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
            });
            (change, members(&index))
        };
        let (change, members) = resolved(&["10.0.0.1", "10.0.0.2"]);
        assert_eq!(change, Change::Endpoints);
        assert_eq!(members, ["10.0.0.1 [10.0.0.1:80] Ready", "10.0.0.2 [10.0.0.2:80] Ready"]);
        let (_, members) = resolved(&["::1", "127.0.0.1"]);
        assert_eq!(
            members,
            ["127.0.0.1 [[::1]:80, 127.0.0.1:80] Ready"],
            "the same host twice is one endpoint"
        );
    }

    #[test]
    fn routes_of_other_classes_are_not_there() {
        let other = route(CHAT).replace("spec: {", "spec: {className: other, ");
        let mut index = index(&route(CHAT));
        assert_eq!(index.routes().count(), 1);
        assert_eq!(apply(&mut index, &other), [Change::Table]);
        assert_eq!(index.routes().count(), 0);
        assert_eq!(
            apply(&mut index, &other.replace("className: other", "className: holdfast")),
            [Change::Table]
        );
        assert_eq!(index.routes().count(), 1);
    }

    #[test]
    fn a_change_of_endpoints_costs_one_service_among_thousands_of_routes() {
        let mut index = index("");
        for number in 0..2_000 {
            let text = [
                route(&format!("{{name: chat-{number}, port: 80}}")),
                service("{ports: [{port: 80}]}"),
            ]
            .concat();
            apply(&mut index, &text.replace("{name: chat}", &format!("{{name: chat-{number}}}")));
        }
        apply(
            &mut index,
            &slice("a", "IPv4", "[{port: 1}]", "[{addresses: [10.0.0.1]}]").replace("name: chat", "name: chat-7"),
        );
        assert_eq!(build(&index).verdicts.len(), 2_000);
        let cells: Vec<_> = index
            .cells
            .values()
            .flat_map(BTreeMap::values)
            .map(|cell| (Arc::clone(cell), cell.load()))
            .collect();
        let more = slice("b", "IPv4", "[{port: 1}]", "[{addresses: [10.0.0.2]}]").replace("name: chat", "name: chat-7");
        assert_eq!(apply(&mut index, &more), [Change::Endpoints]);
        let touched = cells
            .iter()
            .filter(|(cell, before)| !Arc::ptr_eq(&cell.load(), before))
            .count();
        assert_eq!(touched, 1);
    }

    #[test]
    fn services_that_no_route_refers_to_cost_no_table() {
        let mut index = index(&route("{name: other, port: 80}"));
        assert_eq!(apply(&mut index, &service("{ports: [{port: 80}]}")), [Change::Nothing]);
        assert_eq!(delete(&mut index, ObjectKind::Service, "chat"), Change::Nothing);
        assert_eq!(apply(&mut index, &route(CHAT)), [Change::Table]);
        assert_eq!(apply(&mut index, &service("{ports: [{port: 80}]}")), [Change::Table]);
        assert_eq!(delete(&mut index, ObjectKind::Service, "chat"), Change::Table);
    }

    #[test]
    fn a_rule_that_means_the_same_stays_the_same_one() {
        let mut index = index(&[route(CHAT), service("{ports: [{port: 80}]}")].concat());
        let rules = |index: &Index, before: &Rules| -> Rules {
            let built = build_over(index, before);
            built.table.rules().map(|rule| (rule.id.clone(), Arc::clone(rule))).collect()
        };
        let same = |a: &Rules, b: &Rules| a.values().zip(b.values()).all(|(a, b)| Arc::ptr_eq(a, b));
        let first = rules(&index, &Rules::new());
        apply(&mut index, &slice("a", "IPv4", "[{port: 1}]", "[{addresses: [10.0.0.1]}]"));
        let second = rules(&index, &first);
        assert!(same(&first, &second));
        apply(&mut index, &route("{name: chat, port: 80, weight: 2}"));
        let third = rules(&index, &second);
        assert!(!same(&second, &third));
        delete(&mut index, ObjectKind::Service, "chat");
        assert!(!same(&third, &rules(&index, &third)), "its reference is unresolved now");
    }
}
