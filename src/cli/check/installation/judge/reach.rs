//! Whether clients reach the replicas: Services, their ports, load balancers, and what answers there.

use k8s_openapi::api::core::v1::{Pod, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::super::facts::{Cluster, Dial, Outcome, State};
use super::super::{Item, Status};

pub(super) fn reach(cluster: &Cluster, states: &[State]) -> Vec<Item> {
    let services = match &cluster.services {
        Ok(services) => services,
        Err(why) => return vec![Item::not_looked(format!("Services: {why}"))],
    };
    let pod = cluster.pods.as_ref().ok().and_then(|pods| pods.first());
    if services.is_empty() {
        if pod.is_some_and(has_host_port) {
            return vec![Item::good("by ports of the nodes")];
        }
        let text = format!("no Service of namespace {} selects the pods", cluster.namespace);
        return vec![Item::warning("ServiceMissing", text).at(
            format!("Service in {}", cluster.namespace),
            "spec.selector",
            "let a Service select the pods (service.enabled of the chart), or send clients to them in another way",
        )];
    }
    let mut items = Vec::new();
    for service in services {
        items.extend(ports(service, pod, states.first()));
        items.extend(balancer(service, cluster.is_inside));
    }
    if let Some(state) = states.first() {
        items.extend(unreached(services, pod, state));
    }
    items.extend(cluster.dials.iter().map(dialled));
    items
}

/// The port of the pods that a Service's port leads to; `None`: no container has a port of that name.
pub(in super::super) fn target(port: &ServicePort, pod: Option<&Pod>) -> Option<u16> {
    let number = |number: i32| u16::try_from(number).ok();
    match &port.target_port {
        None => number(port.port),
        Some(IntOrString::Int(0)) => number(port.port),
        Some(IntOrString::Int(target)) => number(*target),
        Some(IntOrString::String(name)) => {
            let spec = pod?.spec.as_ref()?;
            let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
            let mut ports = containers.flat_map(|container| container.ports.iter().flatten());
            ports
                .find(|port| port.name.as_ref() == Some(name))
                .and_then(|port| number(port.container_port))
        }
    }
}

/// Whether each port leads to one that the pods serve.
fn ports(service: &Service, pod: Option<&Pod>, state: Option<&State>) -> Vec<Item> {
    let (object, mut items) = (named(service), Vec::new());
    for port in service.spec.iter().flat_map(|spec| spec.ports.iter().flatten()) {
        let field = format!(
            "spec.ports[{}].targetPort",
            port.name.clone().unwrap_or_else(|| port.port.to_string())
        );
        let Some(leads_to) = target(port, pod) else {
            if let (Some(IntOrString::String(name)), Some(_)) = (&port.target_port, pod) {
                let text = format!(
                    ":{} leads nowhere: no container of the pods has a port named {name}",
                    port.port
                );
                let fix = "name a port that the pods have, or its number";
                items.push(Item::problem("ServicePortMissing", text).at(&object, field, fix));
            }
            continue;
        };
        let Some(state) = state else { continue };
        let listeners = &state.listeners;
        let of = |address: Option<std::net::SocketAddr>| address.map(|address| address.port());
        let (http, https, admin) = (of(listeners.http), of(listeners.https), of(listeners.admin));
        if Some(leads_to) == admin && is_outside(service) {
            let text = format!(":{} opens /metrics to whoever reaches the Service", port.port);
            let fix = "leave the admin port out of this Service; a PodMonitor asks the pods";
            items.push(Item::warning("AdminExposed", text).at(&object, field, fix));
        } else if ![http, https, admin].contains(&Some(leads_to)) {
            let served: Vec<String> = [("http", http), ("https", https)]
                .into_iter()
                .filter_map(|(name, port)| Some(format!("{name} is {}", port?)))
                .collect();
            let text = format!(
                ":{} leads to port {leads_to}, where Holdfast does not listen: {}",
                port.port,
                served.join(", ")
            );
            let fix = "correct targetPort, or --http and --https";
            items.push(Item::problem("ServicePortMissing", text).at(&object, field, fix));
        }
    }
    items
}

/// What the pods serve and no Service leads to.
fn unreached(services: &[Service], pod: Option<&Pod>, state: &State) -> Vec<Item> {
    let all = services.iter().flat_map(|service| service.spec.iter());
    let leads: Vec<u16> = all
        .flat_map(|spec| spec.ports.iter().flatten())
        .filter_map(|port| target(port, pod))
        .collect();
    let listeners = [("http", state.listeners.http, 80), ("https", state.listeners.https, 443)];
    let unreached = listeners
        .into_iter()
        .filter_map(|(name, address, usual)| Some((name, address?.port(), usual)))
        .filter(|(_, port, _)| pod.is_some() && !leads.contains(port));
    unreached
        .map(|(name, port, usual)| {
            let object = services.first().map(named).unwrap_or_default();
            let fix = format!("add {{name: {name}, port: {usual}, targetPort: {port}}}, if clients are to come that way");
            let text = format!("no port leads to {name}, {port}");
            Item::warning("ServicePortMissing", text).at(object, "spec.ports", fix)
        })
        .collect()
}

fn balancer(service: &Service, is_inside: bool) -> Option<Item> {
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() != Some("LoadBalancer") {
        let kind = spec.type_.as_deref().unwrap_or("ClusterIP");
        let text = format!("{} is of type {kind}: not dialled from outside the cluster", named(service));
        return (!is_inside).then(|| Item::not_looked(text));
    }
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let has_address = status.is_some_and(|status| status.ingress.as_ref().is_some_and(|ingress| !ingress.is_empty()));
    (!has_address).then(|| {
        Item::problem("LoadBalancerPending", "no load balancer has given it an address").at(
            named(service),
            "status.loadBalancer",
            "kubectl describe it: the cloud's controller says why; without one, use type ClusterIP or NodePort",
        )
    })
}

fn dialled(dial: &Dial) -> Item {
    let place = match dial.address.contains(':') {
        true => format!("[{}]:{}", dial.address, dial.port),
        false => format!("{}:{}", dial.address, dial.port),
    };
    match &dial.outcome {
        Outcome::Answered { what, took } => Item::good(format!("{place} {what} in {}ms", took.as_millis())),
        Outcome::Foreign { what } => Item::warning("NotHoldfast", format!("{place} {what}")).at(
            &dial.service,
            "",
            "something that speaks HTTP is in front: let it pass TCP, or name its network with --trusted-proxies",
        ),
        Outcome::Refused { why } => unreachable(Status::Problem, dial, format!("{place} refused: {why}")),
        Outcome::Silent => unreachable(Status::Warning, dial, format!("{place} is silent from here")),
    }
}

fn unreachable(status: Status, dial: &Dial, text: String) -> Item {
    Item::found(status, "PortUnreachable", text).at(
        &dial.service,
        "spec.ports",
        "look at the load balancer's health checks, firewalls, loadBalancerSourceRanges and the NetworkPolicy",
    )
}

fn is_outside(service: &Service) -> bool {
    let kind = service.spec.as_ref().and_then(|spec| spec.type_.as_deref());
    matches!(kind, Some("LoadBalancer" | "NodePort"))
}

fn has_host_port(pod: &Pod) -> bool {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let mut ports = containers.flat_map(|container| container.ports.iter().flatten());
    ports.any(|port| port.host_port.is_some())
}

fn named(service: &Service) -> String {
    let metadata = &service.metadata;
    format!(
        "Service {}/{}",
        metadata.namespace.as_deref().unwrap_or_default(),
        metadata.name.as_deref().unwrap_or_default()
    )
}
