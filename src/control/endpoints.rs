//! From a Service and its EndpointSlices to the endpoints of one of its ports. Pure.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use super::object::{EndpointSlice, Port, Service, SliceEndpoint};
use crate::routing::{EndpointKey, ServicePort, endpoint::State};

/// An endpoint as the objects describe it.
#[derive(Debug, PartialEq)]
pub(super) struct Member {
    /// The pod's name.
    pub(super) pod: Option<Box<str>>,
    /// The Service's first family first.
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) state: State,
    terminating: bool,
}

/// The endpoints of a Service's port by their identity.
pub(super) fn members<'a>(
    service: &Service,
    port: &ServicePort,
    slices: impl Iterator<Item = &'a EndpointSlice>,
) -> BTreeMap<EndpointKey, Member> {
    let mut members = BTreeMap::new();
    let Some(Port { name, .. }) = service
        .ports
        .iter()
        .find(|candidate| candidate.number == port.port && &*candidate.protocol == "TCP")
    else {
        return members;
    };
    for slice in slices {
        let numbers = slice
            .ports
            .iter()
            .filter(|(slice_port, _)| slice_port == name)
            .map(|(_, number)| *number);
        for number in numbers {
            for endpoint in &slice.endpoints {
                add(&mut members, port, number, endpoint);
            }
        }
    }
    for member in members.values_mut() {
        member
            .addresses
            .sort_by_key(|address| (address.is_ipv6() != service.ipv6_first, *address));
        member.addresses.dedup();
    }
    members
}

/// The endpoints of an ExternalName Service, whose name resolves to `addresses`: each is one, except that one address of
/// each family is most likely the same host twice.
pub(super) fn external(port: &ServicePort, addresses: &[IpAddr]) -> BTreeMap<EndpointKey, Member> {
    let member = |addresses: &[IpAddr]| Member {
        pod: None,
        addresses: addresses.iter().map(|address| SocketAddr::new(*address, port.port)).collect(),
        state: State::Ready,
        terminating: false,
    };
    match addresses {
        [first, second] if first.is_ipv4() != second.is_ipv4() => {
            let lasting = if first.is_ipv4() { first } else { second };
            BTreeMap::from([(key(port, &lasting.to_string(), port.port), member(addresses))])
        }
        _ => {
            let each = addresses
                .iter()
                .map(|address| (key(port, &address.to_string(), port.port), member(&[*address])));
            each.collect()
        }
    }
}

fn add(members: &mut BTreeMap<EndpointKey, Member>, port: &ServicePort, number: u16, endpoint: &SliceEndpoint) {
    let Some(first) = endpoint.addresses.first() else { return };
    let identity = match &endpoint.pod {
        Some(pod) => pod.uid.to_string(),
        None => first.to_string(),
    };
    let state = state(endpoint);
    let addresses = endpoint.addresses.iter().map(|address| SocketAddr::new(*address, number));
    let member = members.entry(key(port, &identity, number)).or_insert_with(|| Member {
        pod: endpoint.pod.as_ref().map(|pod| pod.name.clone()),
        addresses: Vec::new(),
        state,
        terminating: endpoint.terminating,
    });
    member.addresses.extend(addresses);
    // In two slices at once: the non-terminating one wins, then the better state.
    if (endpoint.terminating, state) < (member.terminating, member.state) {
        (member.terminating, member.state) = (endpoint.terminating, state);
    }
}

fn key(port: &ServicePort, identity: &str, number: u16) -> EndpointKey {
    EndpointKey {
        service: port.clone(),
        identity: identity.into(),
        port: number,
    }
}

/// Terminating is looked at first: `publishNotReadyAddresses` keeps a terminating pod `ready`.
fn state(endpoint: &SliceEndpoint) -> State {
    match (endpoint.terminating, endpoint.serving, endpoint.ready) {
        (true, true, _) => State::Terminating,
        (true, false, _) | (false, _, false) => State::NotReady,
        (false, _, true) => State::Ready,
    }
}
