//! Which tunnels and which ends a question is about.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::proxy::{
    end::{Cause, Initiator},
    recent::{Entry, Millis, What},
    slot::Slot,
};
use crate::routing::RuleId;

/// All that is said must hold; what is empty holds for all.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Namespace and name.
    pub route: Option<(String, String)>,
    /// The rule's name.
    pub rule: Option<String>,
    /// The endpoint's name, its address, or address and port.
    pub endpoint: Option<String>,
    pub client: Option<ClientFilter>,
    pub id: Option<u64>,
    /// Of ends: one of these causes or reasons.
    pub causes: Vec<String>,
    /// Of ends: who moved first.
    pub by: Option<Initiator>,
    /// Of ends: what one of the sides was told or said.
    pub code: Option<Code>,
    /// Of ends: since when, in milliseconds since 1970.
    pub since: Millis,
}

/// Which clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientFilter(pub IpNet);

/// A close code, or the status of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code(pub u16);

impl Code {
    /// What a side's library makes of an end without a Close. Nobody sends it.
    pub const CUT: Self = Self(1006);

    fn is_of(self, entry: &Entry) -> bool {
        match entry.what {
            What::Refusal(refusal) => refusal.status() == self.0,
            What::Tunnel(tunnel) => {
                let end = tunnel.end;
                let told = [end.told_client, end.told_endpoint];
                if self == Self::CUT {
                    return told.contains(&None);
                }
                told.into_iter()
                    .chain([end.client_said, end.endpoint_said])
                    .any(|code| code == Some(self.0))
            }
        }
    }
}

impl Filter {
    /// Whether an open tunnel is meant.
    pub fn takes(&self, slot: &Slot) -> bool {
        let of = &slot.of;
        self.takes_rule(Some(&of.rule.id))
            && self.takes_endpoint(of.endpoint_held.name(), Some(of.endpoint_address))
            && self.takes_client(of.client_address.ip())
            && self.id.is_none_or(|id| id == of.id)
    }

    /// Whether an end is meant.
    pub fn takes_end(&self, entry: &Entry) -> bool {
        entry.at >= self.since
            && self.by.is_none_or(|by| by == entry.initiator())
            && (self.causes.is_empty() || self.causes.iter().any(|cause| cause == entry.word()))
            && self.code.is_none_or(|code| code.is_of(entry))
            && self.takes_rule(entry.rule.as_ref())
            && self.takes_endpoint(
                entry.endpoint_name(),
                entry.endpoint.as_ref().map(|(_, address)| address.socket()),
            )
            && self.takes_client(entry.client.ip())
            && self.id.is_none_or(|id| id == entry.id)
    }

    pub(super) fn takes_rule(&self, id: Option<&RuleId>) -> bool {
        let is_route = |(namespace, name): &(String, String)| {
            id.is_some_and(|id| *id.route.namespace == **namespace && *id.route.name == **name)
        };
        let is_rule = |rule: &String| id.is_some_and(|id| *id.rule == **rule);
        self.route.as_ref().is_none_or(is_route) && self.rule.as_ref().is_none_or(is_rule)
    }

    pub(super) fn takes_endpoint(&self, name: &str, address: Option<SocketAddr>) -> bool {
        let Some(wanted) = &self.endpoint else { return true };
        name == wanted
            || address.is_some_and(|address| match wanted.parse() {
                Ok(socket) => canonical(address) == canonical(socket),
                Err(_) => wanted
                    .parse()
                    .is_ok_and(|ip: IpAddr| ip.to_canonical() == address.ip().to_canonical()),
            })
    }

    fn takes_client(&self, client: IpAddr) -> bool {
        self.client
            .is_none_or(|ClientFilter(network)| network.contains(&client.to_canonical()))
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

impl Filter {
    /// Whether a word is that of a cause or of a reason.
    pub fn is_known(word: &str) -> bool {
        word == "endpoint"
            || Cause::ALL.iter().any(|cause| cause.word() == word)
            || crate::proxy::error::Reason::ALL.iter().any(|reason| reason.word() == word)
    }
}
