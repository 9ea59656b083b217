//! Stand-ins for kube-proxy, the cluster's DNS and a load balancer: connections to a Service go to one of its endpoints.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
};

use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kube::{Api, Client, ResourceExt as _};
use tokio::{
    net::{TcpListener, UdpSocket},
    task::JoinSet,
};

use crate::{
    network::{DNS, relay},
    watching::{Change, follow},
};

/// All Services of the cluster.
pub struct Services {
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    services: HashMap<Name, Service>,
    slices: HashMap<Name, EndpointSlice>,
    /// Who listens on a Service's own address.
    listening: HashMap<SocketAddr, JoinSet<()>>,
}

/// Namespace and name.
type Name = (String, String);

impl Services {
    /// Follows Services and EndpointSlices, and serves them, for as long as this runtime runs.
    pub fn start(client: &Client) -> Arc<Self> {
        let services = Arc::new(Self { known: Mutex::default() });
        let following = Arc::clone(&services);
        tokio::spawn(follow(Api::<Service>::all(client.clone()), "", move |change| {
            let mut known = following.known.lock().unwrap();
            keep(&mut known.services, change);
            following.listen(&mut known);
        }));
        let following = Arc::clone(&services);
        tokio::spawn(follow(Api::<EndpointSlice>::all(client.clone()), "", move |change| {
            keep(&mut following.known.lock().unwrap().slices, change);
        }));
        tokio::spawn(Arc::clone(&services).answer_names());
        services
    }

    /// The addresses that new connections to a Service's port may go to: ready endpoints, or those that still serve while they
    /// end, if there is no other, as kube-proxy does it.
    pub fn endpoints(&self, namespace: &str, service: &str, port: u16) -> Vec<SocketAddr> {
        let known = self.known.lock().unwrap();
        let Some(service) = known.services.get(&(namespace.to_owned(), service.to_owned())) else {
            return Vec::new();
        };
        let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
        let Some(wanted) = ports.into_iter().find(|of_service| of_service.port == i32::from(port)) else {
            return Vec::new();
        };
        let (mut ready, mut serving) = (Vec::new(), Vec::new());
        let name = service.name_any();
        let is_of = |slice: &&EndpointSlice| {
            slice.namespace().as_deref() == Some(namespace) && slice.labels().get(SERVICE_NAME) == Some(&name)
        };
        for slice in known.slices.values().filter(is_of) {
            let ports = slice.ports.iter().flatten();
            let named = |name: &Option<String>| name.clone().unwrap_or_default();
            let mut ports = ports.filter(|port| named(&port.name) == named(&wanted.name));
            let Some(port) = ports.find_map(|port| u16::try_from(port.port?).ok()) else {
                continue;
            };
            for endpoint in &slice.endpoints {
                let addresses = endpoint.addresses.iter().filter_map(|address| address.parse::<IpAddr>().ok());
                let conditions = endpoint.conditions.clone().unwrap_or_default();
                let list = match (conditions.ready, conditions.serving) {
                    (None | Some(true), _) => &mut ready,
                    (_, Some(true)) => &mut serving,
                    _ => continue,
                };
                list.extend(addresses.map(|address| SocketAddr::new(address, port)));
            }
        }
        if ready.is_empty() { serving } else { ready }
    }

    /// One of them at random: what a load balancer does for a new connection.
    pub fn pick(&self, namespace: &str, service: &str, port: u16) -> Option<SocketAddr> {
        fastrand::choice(self.endpoints(namespace, service, port))
    }

    /// Listens on each Service's own addresses, and no longer on those of Services that are gone.
    fn listen(self: &Arc<Self>, known: &mut Known) {
        let wanted: HashMap<SocketAddr, (String, String)> = known
            .services
            .iter()
            .flat_map(|(name, service)| addresses(service).map(|address| (address, name.clone())))
            .collect();
        known.listening.retain(|address, _| wanted.contains_key(address));
        for (address, name) in wanted {
            known.listening.entry(address).or_insert_with(|| {
                let mut listening = JoinSet::new();
                listening.spawn(Arc::clone(self).forward(address, name));
                listening
            });
        }
    }

    async fn forward(self: Arc<Self>, address: SocketAddr, (namespace, service): Name) {
        let Ok(listener) = TcpListener::bind(address).await else {
            return;
        };
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    let Ok((socket, _)) = accepted else { continue };
                    // Nobody there: the connection ends.
                    if let Some(endpoint) = self.pick(&namespace, &service, address.port()) {
                        connections.spawn(relay(socket, endpoint));
                    }
                }
                Some(_) = connections.join_next() => {}
            }
        }
    }

    /// Answers who asks for the address of NAME.NAMESPACE.svc.cluster.local.
    async fn answer_names(self: Arc<Self>) {
        let socket = UdpSocket::bind((DNS, 53)).await.expect("no address for the cluster's DNS");
        let mut question = [0; 512];
        loop {
            let Ok((len, from)) = socket.recv_from(&mut question).await else {
                continue;
            };
            if let Some(answer) = self.answer(&question[..len]) {
                let _ = socket.send_to(&answer, from).await;
            }
        }
    }

    /// The answer to one question (RFC 1035, section 4); none to what is no question.
    fn answer(&self, question: &[u8]) -> Option<Vec<u8>> {
        let mut labels = Vec::new();
        let mut at = 12;
        loop {
            let len = usize::from(*question.get(at)?);
            at += 1;
            if len == 0 {
                break;
            }
            labels.push(String::from_utf8_lossy(question.get(at..at + len)?).to_lowercase());
            at += len;
        }
        let [_, kind, _, _] = *question.get(at..at + 4)? else {
            return None;
        };
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        let address = match labels[..] {
            [name, namespace, "svc", "cluster", "local"] => self.cluster_ip(namespace, name),
            _ => None,
        };
        let is_answered = address.is_some() && kind == A;
        let code = if address.is_some() { 0 } else { NO_SUCH_NAME };
        let mut answer = question[..2].to_vec();
        answer.extend([0x85, 0x80 | code, 0, 1, 0, u8::from(is_answered), 0, 0, 0, 0]);
        answer.extend(&question[12..at + 4]);
        if let Some(address) = address.filter(|_| is_answered) {
            // The name of the question, an A of the Internet, for 5 seconds, of 4 bytes.
            answer.extend([0xc0, 12, 0, A, 0, 1, 0, 0, 0, 5, 0, 4]);
            answer.extend(address.octets());
        }
        Some(answer)
    }

    fn cluster_ip(&self, namespace: &str, name: &str) -> Option<Ipv4Addr> {
        let known = self.known.lock().unwrap();
        let service = known.services.get(&(namespace.to_owned(), name.to_owned()))?;
        service.spec.as_ref()?.cluster_ip.as_ref()?.parse().ok()
    }
}

/// The addresses that a Service has in the cluster. A Service without endpoints of its own has nobody to lead to.
fn addresses(service: &Service) -> impl Iterator<Item = SocketAddr> {
    let spec = service.spec.clone().unwrap_or_default();
    let ip: Option<IpAddr> = spec.cluster_ip.and_then(|ip| ip.parse().ok());
    let ports = spec.ports.into_iter().flatten();
    let ports = ports.filter_map(|port| u16::try_from(port.port).ok());
    ports.filter_map(move |port| Some(SocketAddr::new(ip?, port)))
}

fn keep<K: kube::Resource<DynamicType = ()>>(objects: &mut HashMap<Name, K>, change: Change<K>) {
    let name = |object: &K| (object.namespace().unwrap_or_default(), object.name_any());
    match change {
        Change::All(all) => *objects = all.into_iter().map(|object| (name(&object), object)).collect(),
        Change::Applied(object) => drop(objects.insert(name(&object), object)),
        Change::Deleted(object) => drop(objects.remove(&name(&object))),
    }
}

const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// The type of a record with an IPv4 address.
const A: u8 = 1;
const NO_SUCH_NAME: u8 = 3;
