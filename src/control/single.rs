//! `--to HOST:PORT`: one endpoint without any manifest, as objects like all others.

use std::{net::Ipv6Addr, str::FromStr, sync::Arc};

use super::object::{Event, Object, Route, Service};
use crate::{
    api::{BackendRef, RouteRule, WebSocketRouteSpec},
    routing::ObjectName,
};

/// An endpoint by name or address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    host: Arc<str>,
    port: u16,
}

/// The route of a target that no route is named for.
pub(super) fn unnamed() -> ObjectName {
    ObjectName {
        namespace: "default".into(),
        name: "to".into(),
    }
}

/// The text is no [`Target`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{given}: {fault}; write HOST:PORT, such as localhost:3000 or [::1]:3000")]
pub struct InvalidTarget {
    given: String,
    fault: &'static str,
}

impl FromStr for Target {
    type Err = InvalidTarget;

    fn from_str(text: &str) -> Result<Self, InvalidTarget> {
        parse(text).map_err(|fault| InvalidTarget {
            given: text.to_owned(),
            fault,
        })
    }
}

impl Target {
    /// The objects that make every host and path go there, by the policies of `spec`.
    pub(super) fn events(&self, name: &ObjectName, spec: WebSocketRouteSpec) -> Vec<Event> {
        let service = Service {
            name: name.clone(),
            ports: Vec::new(),
            external_name: Some(Arc::clone(&self.host)),
            ipv6_first: false,
        };
        let backend = BackendRef {
            group: String::new(),
            kind: "Service".to_owned(),
            name: name.name.to_string(),
            namespace: None,
            port: i32::from(self.port),
            weight: 1,
        };
        let spec = WebSocketRouteSpec {
            rules: vec![RouteRule {
                backend_refs: vec![backend],
                ..RouteRule::default()
            }],
            ..spec
        };
        let route = Route {
            name: name.clone(),
            created: 0,
            generation: None,
            unreadable: Vec::new(),
            spec,
            origin: None,
        };
        vec![
            Event::Apply(Object::Service(service)),
            Event::Apply(Object::Route(Arc::new(route))),
        ]
    }
}

fn parse(text: &str) -> Result<Target, &'static str> {
    let (host, port) = text.rsplit_once(':').ok_or("the port is missing")?;
    let port = port
        .parse()
        .ok()
        .filter(|port| *port > 0)
        .ok_or("the port is not from 1 to 65535")?;
    let host = match host.strip_prefix('[') {
        Some(rest) => {
            let address = rest.strip_suffix(']').ok_or("a bracket is not closed")?;
            address
                .parse::<Ipv6Addr>()
                .map_err(|_| "what is in brackets is no IPv6 address")?
                .to_string()
        }
        None if host.contains(':') => return Err("an IPv6 address needs brackets"),
        None => host.trim_end_matches('.').to_ascii_lowercase(),
    };
    let is_fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':');
    if host.is_empty() || !host.bytes().all(is_fine) {
        return Err("the host is missing or no name");
    }
    Ok(Target { host: host.into(), port })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_names_or_addresses_with_a_port() {
        for (text, host, port) in [
            ("localhost:3000", "localhost", 3000),
            ("Chat.Example.com.:80", "chat.example.com", 80),
            ("10.0.0.1:1", "10.0.0.1", 1),
            ("[::1]:65535", "::1", 65535),
        ] {
            let target: Target = text.parse().unwrap();
            assert_eq!((&*target.host, target.port), (host, port), "{text}");
        }
        for text in [
            "",
            "localhost",
            ":80",
            "localhost:",
            "localhost:0",
            "localhost:65536",
            "::1:80",
            "[::1:80",
            "[x]:80",
            "a/b:80",
        ] {
            let error = text.parse::<Target>().unwrap_err().to_string();
            assert!(error.contains("localhost:3000"), "{error}");
        }
    }
}
