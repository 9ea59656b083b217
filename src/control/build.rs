//! From the index to a table and a verdict on each route. Pure: the same objects give the same answer, on every replica.

use std::{collections::HashMap, sync::Arc};

use super::{
    backend_tls::{self, RouteTls},
    compile::{CompiledRule, CompiledTls, Reference},
    index::{Entry, Index},
    object::{ObjectKind, Service},
    path::{Fault, FieldPath},
    verdict::{Finding, Reason, Verdict},
};
use crate::routing::{
    Backend, BackendTls, Certificate, Certificates, EndpointCell, HostTls, ObjectName, Rule, RuleId, ServicePort, Table,
    balancer::Cursor,
    endpoint_tls::Configs,
    table::{PathMatch, RouteSpec, RuleSpec, Shadowed},
};

/// What the objects come to.
#[derive(Debug)]
pub struct Built {
    pub table: Table,
    pub certificates: Certificates,
    /// One for each route of our class, by name.
    pub verdicts: Vec<Verdict>,
    /// What is wrong with challenges, by the name of their Ingress.
    pub unanswered: Vec<(ObjectName, String)>,
}

/// Rules that are in use.
pub(super) type Rules = HashMap<RuleId, Arc<Rule>>;

/// Builds the table.
pub fn build(index: &Index) -> Built {
    build_over(index, &Rules::new())
}

/// Builds the table, and takes over each rule that means what it meant before: whose turn it is, and what else picks have
/// learnt, stays. The table means the same without them.
pub(super) fn build_over(index: &Index, before: &Rules) -> Built {
    let mut owners = Owners::default();
    let mut specs = Vec::new();
    let mut certificates = Certificates::new(default_certificate(index));
    let mut verdicts = Vec::new();
    let mut configs = Configs::in_use(before.values().map(Arc::as_ref));
    let mut entries: Vec<&Entry> = index.entries().collect();
    entries.sort_by(|a, b| (a.route.created, &a.route.name).cmp(&(b.route.created, &b.route.name)));
    for entry in entries {
        let compiled = &entry.compiled;
        let mut verdict = Verdict {
            route: entry.route.name.clone(),
            generation: entry.route.generation,
            rejected: compiled
                .faults
                .iter()
                .map(|fault| refused(Reason::UnsupportedValue, fault))
                .chain(
                    compiled
                        .incompatible
                        .iter()
                        .map(|fault| refused(Reason::IncompatibleFilters, fault)),
                )
                .chain(owners.claim(index, entry))
                .collect(),
            unresolved: Vec::new(),
            shadowed: Vec::new(),
        };
        let rules = rules(index, entry, before, &mut configs, &mut verdict.unresolved);
        for tls in &compiled.tls {
            let of_host = host_tls(index, entry, tls, &mut verdict.unresolved);
            match tls.hosts.as_slice() {
                _ if !verdict.is_accepted() => {}
                [] => certificates.add(None, of_host),
                hosts => hosts.iter().for_each(|host| certificates.add(Some(host), of_host.clone())),
            }
        }
        if verdict.is_accepted() {
            specs.push(RouteSpec {
                name: entry.route.name.clone(),
                created: entry.route.created,
                hostnames: compiled.hostnames.clone(),
                rules,
            });
        }
        verdicts.push(verdict);
    }
    let (mut table, shadowed) = Table::build(specs);
    let unanswered = challenges(index, before, &owners, &mut configs, &mut table);
    verdicts.sort_by(|a, b| a.route.cmp(&b.route));
    report(index, shadowed, &mut verdicts);
    Built {
        table,
        certificates,
        verdicts,
        unanswered,
    }
}

/// Adds the challenges that are being answered, and says what is wrong with the others. Who does not own a host must not get a
/// certificate for it.
fn challenges(
    index: &Index,
    before: &Rules,
    owners: &Owners<'_>,
    configs: &mut Configs,
    table: &mut Table,
) -> Vec<(ObjectName, String)> {
    let mut wrong = Vec::new();
    for entry in index.challenges() {
        let name = &entry.route.name;
        let host = entry.compiled.hostnames.first().map_or("", |host| host);
        if let Some(owner) = owners.foreign(index, host, name) {
            wrong.push((
                name.clone(),
                format!("{host} is owned by namespace {} (WebSocketRoute {owner})", owner.namespace),
            ));
            continue;
        }
        let mut unresolved = Vec::new();
        for RuleSpec { matches, rule } in rules(index, entry, before, configs, &mut unresolved) {
            for one in matches {
                if let PathMatch::Exact(path) = one.path {
                    table.add_challenge(host, &path, Arc::clone(&rule));
                }
            }
        }
        wrong.extend(unresolved.iter().map(|finding| (name.clone(), finding.fault.to_string())));
    }
    wrong
}

/// Which namespace owns which hostname: that of the oldest route that names it.
#[derive(Default)]
struct Owners<'a>(HashMap<&'a str, &'a ObjectName>);

impl<'a> Owners<'a> {
    /// Who owns a hostname, if that is another namespace than the object's: by its own name, else by the longest wildcard over it.
    fn foreign(&self, index: &Index, host: &str, object: &ObjectName) -> Option<&'a ObjectName> {
        let wider = host.match_indices('.').map(|(dot, _)| format!("*{}", &host[dot..]));
        let mut names = std::iter::once(host.to_owned()).chain(wider);
        let owner = names
            .find_map(|name| self.0.get(&*name))
            .filter(|_| !index.settings().share_hosts)?;
        (owner.namespace != object.namespace).then_some(*owner)
    }

    /// Claims a route's hostnames, all or none. Routes come oldest first.
    fn claim(&mut self, index: &Index, entry: &'a Entry) -> Vec<Finding> {
        let route = &entry.route;
        if !route.unreadable.is_empty() {
            return Vec::new(); // nobody knows which
        }
        let path = FieldPath::of(["spec", "hostnames"]);
        let named = route
            .spec
            .hostnames
            .iter()
            .enumerate()
            .map(|(index, host)| (path.item(index), host.as_str()));
        let every = route.spec.hostnames.is_empty().then(|| (FieldPath::of(["spec"]), EVERY_HOST));
        let hosts: Vec<(FieldPath, &str)> = named.chain(every).collect();
        let taken = |host: &str| self.0.get(host).filter(|owner| owner.namespace != route.name.namespace);
        let conflicts: Vec<Finding> = hosts
            .iter()
            .filter_map(|(path, host)| taken(host).map(|owner| conflict(path.clone(), host, owner)))
            .collect();
        if index.settings().share_hosts {
            return Vec::new();
        }
        if conflicts.is_empty() {
            for (_, host) in hosts {
                self.0.entry(host).or_insert(&route.name);
            }
        }
        conflicts
    }
}

fn conflict(path: FieldPath, host: &str, owner: &ObjectName) -> Finding {
    let host = if host == EVERY_HOST { "every host" } else { host };
    let namespace = &owner.namespace;
    Finding {
        reason: Reason::HostnameConflict,
        fault: Fault::new(
            path,
            format!("{host} is owned by namespace {namespace} (WebSocketRoute {owner})"),
        ),
        fix: Some(format!(
            "move the route to namespace {namespace}, or run with --host-ownership=shared"
        )),
    }
}

fn refused(reason: Reason, fault: &Fault) -> Finding {
    Finding {
        reason,
        fault: fault.clone(),
        fix: None,
    }
}

fn rules(index: &Index, entry: &Entry, before: &Rules, configs: &mut Configs, unresolved: &mut Vec<Finding>) -> Vec<RuleSpec> {
    let tls = RouteTls::of(index, entry, unresolved);
    let compiled = &entry.compiled;
    let timeouts = compiled.policies.timeouts;
    let heartbeat = compiled.policies.heartbeat;
    let mut backends = |rule: &CompiledRule| {
        let references = rule.references.iter();
        references
            .map(|reference| Backend {
                tls: tls.towards(index, reference, configs, unresolved),
                ..backend(index, entry, reference, unresolved)
            })
            .collect()
    };
    let rule = |rule: &CompiledRule| {
        let new = Rule {
            id: rule.id.clone(),
            backends: backends(rule),
            fallback: rule.fallback.clone(),
            filters: rule.filters.clone(),
            forwarded: compiled.policies.forwarded,
            persistence: rule.persistence.clone(),
            balancing: rule.balancing.clone(),
            timeouts,
            heartbeat,
            limits: compiled.limits.clone(),
            retry: compiled.retry.clone(),
            health: compiled.health.clone(),
            security: Arc::clone(&compiled.security),
            cursor: Cursor::default(),
        };
        let old = before.get(&new.id).filter(|old| is_same(old, &new));
        RuleSpec {
            matches: rule.matches.clone(),
            rule: old.map_or_else(|| Arc::new(new), Arc::clone),
        }
    };
    compiled.rules.iter().map(rule).collect()
}

/// The certificate of hosts without one of their own.
fn default_certificate(index: &Index) -> Option<Arc<Certificate>> {
    let secret = index.settings().default_certificate.as_ref()?;
    index.certificates().get(secret)?.certificate.clone()
}

/// What a certificate that a route names comes to. One that must not be shown is like one that is missing: its hosts are not
/// served.
fn host_tls(index: &Index, entry: &Entry, tls: &CompiledTls, unresolved: &mut Vec<Finding>) -> HostTls {
    let (route, secret) = (&entry.route.name, &tls.secret);
    let is_granted = secret.namespace == route.namespace || index.is_granted(&route.namespace, ObjectKind::Secret, secret);
    let certificates = index.certificates();
    let finding = if is_granted {
        certificates.fault(secret).map(|fault| Finding {
            reason: Reason::InvalidCertificateRef,
            fault: Fault::new(tls.path.field("secretName"), fault),
            fix: None,
        })
    } else {
        let message = format!(
            "no ReferenceGrant in namespace {} lets WebSocketRoutes of {} refer to Secret {secret}",
            secret.namespace, route.namespace
        );
        Some(Finding {
            reason: Reason::RefNotPermitted,
            fault: Fault::new(tls.path.field("secretNamespace"), message),
            fix: Some("add one there, or refer to a Secret of the route's own namespace".to_owned()),
        })
    };
    unresolved.extend(finding);
    HostTls {
        secret: secret.clone(),
        certificate: certificates
            .get(secret)
            .filter(|_| is_granted)
            .and_then(|held| held.certificate.clone()),
        allows_plain: tls.allows_plain,
    }
}

/// Whether two rules of the same name mean the same.
fn is_same(a: &Rule, b: &Rule) -> bool {
    let is_same_backend = |(a, b): (&Backend, &Backend)| {
        let cells = (a.endpoints.as_ref().map(Arc::as_ptr), b.endpoints.as_ref().map(Arc::as_ptr));
        a.service == b.service && a.weight == b.weight && cells.0 == cells.1 && a.tls == b.tls
    };
    a.backends.len() == b.backends.len()
        && a.backends.iter().zip(&b.backends).all(is_same_backend)
        && (&a.fallback, &a.filters, a.forwarded) == (&b.fallback, &b.filters, b.forwarded)
        && (&a.persistence, &a.balancing) == (&b.persistence, &b.balancing)
        && (a.timeouts, a.heartbeat, &a.limits, &a.security) == (b.timeouts, b.heartbeat, &b.limits, &b.security)
        && (&a.retry, &a.health) == (&b.retry, &b.health)
}

fn backend(index: &Index, entry: &Entry, reference: &Reference, unresolved: &mut Vec<Finding>) -> Backend {
    let endpoints = match resolve(index, &entry.route.name, reference) {
        Ok(cell) => Some(cell),
        Err(finding) => {
            unresolved.push(*finding);
            None
        }
    };
    Backend {
        service: ServicePort {
            namespace: Arc::clone(&reference.service.namespace),
            name: Arc::clone(&reference.service.name),
            port: reference.port,
        },
        weight: reference.weight,
        endpoints,
        tls: BackendTls::default(),
    }
}

fn resolve(index: &Index, route: &ObjectName, reference: &Reference) -> Result<Arc<EndpointCell>, Box<Finding>> {
    let broken = |field: &str, reason, message: String, fix: Option<String>| {
        Box::new(Finding {
            reason,
            fault: Fault::new(reference.path.field(field), message),
            fix,
        })
    };
    let name = &reference.service;
    if !(reference.group.is_empty() && &*reference.kind == "Service") {
        let kind = [&*reference.kind, &*reference.group].join(".");
        let message = format!("{} cannot be referred to, only a Service can", kind.trim_end_matches('.'));
        return Err(broken("kind", Reason::InvalidKind, message, None));
    }
    if name.namespace != route.namespace && !index.is_granted(&route.namespace, ObjectKind::Service, name) {
        let message = format!(
            "no ReferenceGrant in namespace {} lets WebSocketRoutes of {} refer to Service {name}",
            name.namespace, route.namespace
        );
        let fix = "add one there, or refer to a Service of the route's own namespace".to_owned();
        return Err(broken("namespace", Reason::RefNotPermitted, message, Some(fix)));
    }
    let missing = || {
        let fix = "create it, or refer to one that is there".to_owned();
        broken(
            "name",
            Reason::BackendNotFound,
            format!("there is no Service {name}"),
            Some(fix),
        )
    };
    let service = index.service(name).ok_or_else(missing)?;
    if service.external_name.is_some() && !index.settings().external_names {
        let message = format!("Service {name} is an ExternalName, which could reach anything");
        let fix = "refer to a Service with EndpointSlices".to_owned();
        return Err(broken("name", Reason::InvalidKind, message, Some(fix)));
    }
    port(service, reference).map_err(|(reason, message)| broken("port", reason, message, None))?;
    index.cell(name, reference.port).cloned().ok_or_else(missing)
}

/// Whether the Service has the port, and speaks what we speak.
fn port(service: &Service, reference: &Reference) -> Result<(), (Reason, String)> {
    if service.external_name.is_some() && service.ports.is_empty() {
        return Ok(());
    }
    let name = &service.name;
    let number = reference.port;
    let of_number = || service.ports.iter().filter(|port| port.number == number);
    let Some(port) = of_number()
        .find(|port| &*port.protocol == "TCP")
        .or_else(|| of_number().next())
    else {
        let has: Vec<String> = service.ports.iter().map(|port| port.number.to_string()).collect();
        let has = if has.is_empty() { "none".to_owned() } else { has.join(", ") };
        return Err((
            Reason::BackendNotFound,
            format!("Service {name} has no port {number}; it has {has}"),
        ));
    };
    if &*port.protocol != "TCP" {
        return Err((
            Reason::UnsupportedProtocol,
            format!("port {number} of Service {name} is {}, not TCP", port.protocol),
        ));
    }
    match (backend_tls::speaks(port), port.app_protocol.as_deref()) {
        (None, Some(protocol)) => {
            let message = format!("port {number} of Service {name} speaks {protocol}; Holdfast speaks HTTP/1.1 and WebSocket");
            Err((Reason::UnsupportedProtocol, message))
        }
        _ => Ok(()),
    }
}

/// Adds the shadowed rules to the verdicts, which are in order of name.
fn report(index: &Index, shadowed: Vec<Shadowed>, verdicts: &mut [Verdict]) {
    for Shadowed { rule, by } in shadowed {
        let Ok(at) = verdicts.binary_search_by(|verdict| verdict.route.cmp(&rule.route)) else {
            continue;
        };
        let rules = index.entry(&rule.route).map(|entry| &entry.compiled.rules);
        let position = rules.and_then(|rules| rules.iter().position(|candidate| candidate.id == rule));
        let path = FieldPath::of(["spec", "rules"]).item(position.unwrap_or_default());
        verdicts[at].shadowed.push(Finding {
            reason: Reason::Shadowed,
            fault: Fault::new(
                path,
                format!(
                    "rule {:?} never matches: rule {by} with the same conditions comes first",
                    &*rule.rule
                ),
            ),
            fix: None,
        });
    }
}

/// No hostname has this spelling.
const EVERY_HOST: &str = "";
