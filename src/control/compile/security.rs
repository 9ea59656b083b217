//! What `spec.security` means.

use ipnet::IpNet;

use super::Faults;
use crate::{
    api::{self, MissingOrigin, OriginPolicy as PolicySpec, WebSocketRouteSpec},
    control::path::FieldPath,
    routing::security::{AllowedOrigin, HostPattern, OriginPolicy, Origins, Security, Sources, network},
};

/// What the schema admits and is still no origin or no network is a fault, and is left out.
pub(super) fn security(spec: &WebSocketRouteSpec, path: &FieldPath, faults: &mut Faults) -> Security {
    let given = spec.security.clone().unwrap_or_default();
    let own = spec
        .hostnames
        .iter()
        .filter_map(|hostname| HostPattern::parse(hostname))
        .collect();
    let ranges = given.source_ranges.unwrap_or_default();
    let at = path.field("sourceRanges");
    Security {
        origins: origins(given.origins.unwrap_or_default(), own, &path.field("origins"), faults),
        sources: Sources {
            allow: networks(&ranges.allow, &at.field("allow"), faults),
            deny: networks(&ranges.deny, &at.field("deny"), faults),
        },
    }
}

fn origins(spec: api::Origins, own: Box<[HostPattern]>, path: &FieldPath, faults: &mut Faults) -> Origins {
    let mut allow = Vec::with_capacity(spec.allow.len());
    for (index, entry) in spec.allow.iter().enumerate() {
        match AllowedOrigin::parse(entry) {
            Some(entry) => allow.push(entry),
            None => faults.add(
                path.field("allow").item(index),
                format!("{entry:?} is no origin: a label has at most 63 characters, and a port is at most 65535"),
            ),
        }
    }
    Origins {
        policy: match spec.policy.unwrap_or_default() {
            PolicySpec::Any => OriginPolicy::Any,
            PolicySpec::List => OriginPolicy::List,
            PolicySpec::SameOrigin => OriginPolicy::SameOrigin,
            PolicySpec::SameOriginIfCookies => OriginPolicy::SameOriginIfCookies,
        },
        allow: allow.into(),
        own,
        denies_missing: spec.missing == Some(MissingOrigin::Deny),
    }
}

fn networks(texts: &[String], path: &FieldPath, faults: &mut Faults) -> Box<[IpNet]> {
    let mut networks = Vec::with_capacity(texts.len());
    for (index, text) in texts.iter().enumerate() {
        match network(text) {
            Some(network) => networks.push(network),
            None => faults.add(
                path.item(index),
                format!("{text:?} is no address and no network such as 10.0.0.0/8"),
            ),
        }
    }
    networks.into()
}
