//! Who may come in, compiled: pages of which origins, clients of which networks. The data plane asks, nobody else.

use std::{borrow::Cow, net::IpAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::target;

/// What a route asks of whoever comes. The default lets everybody in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Security {
    pub origins: Origins,
    pub sources: Sources,
}

/// Which pages may open WebSockets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins {
    pub policy: OriginPolicy,
    pub allow: Box<[AllowedOrigin]>,
    /// The route's hostnames, whose pages are its own.
    pub own: Box<[HostPattern]>,
    /// Whether a handshake without `Origin` is refused.
    pub denies_missing: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OriginPolicy {
    #[default]
    Any,
    /// Those of the list alone.
    List,
    /// Our own, and those of the list.
    SameOrigin,
    /// The same for handshakes that carry cookies, any for others.
    SameOriginIfCookies,
}

/// An entry of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllowedOrigin {
    /// `null`.
    Opaque,
    /// With http or https, on any port.
    Host(HostPattern),
    Exact {
        scheme: Box<str>,
        host: HostPattern,
        /// `None`: the scheme has none of its own, and none is given.
        port: Option<u16>,
    },
}

/// A host, or all below one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostPattern {
    Host(Box<str>),
    /// With the point in front.
    Below(Box<str>),
}

/// Which networks clients may come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// Empty: all.
    pub allow: Box<[IpNet]>,
    pub deny: Box<[IpNet]>,
}

/// What an origin is to a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may, and it is nobody foreign.
    Allowed,
    /// It may, although it is foreign and comes with a user's cookies.
    Passed,
    Refused,
}

/// The `Origin` of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Given<'a> {
    Missing,
    Once(&'a str),
    /// Several, or what is no text.
    Unreadable,
}

impl Origins {
    /// Judges a handshake. `host`: whom it is for, in normal form. `has_cookies`: whether it carries any besides ours.
    pub fn judge(&self, given: Given<'_>, host: &str, has_cookies: bool) -> Verdict {
        let origin = match given {
            Given::Missing if self.denies_missing => return Verdict::Refused,
            Given::Missing => return Verdict::Allowed,
            Given::Once("null") => Some(Origin::Opaque),
            Given::Once(text) => Origin::parse(text),
            Given::Unreadable => None,
        };
        let is_listed = origin
            .as_ref()
            .is_some_and(|origin| self.allow.iter().any(|entry| entry.matches(origin)));
        let is_own = origin.as_ref().is_some_and(|origin| self.is_own(origin, host));
        match self.policy {
            _ if is_listed => Verdict::Allowed,
            OriginPolicy::List => Verdict::Refused,
            _ if is_own => Verdict::Allowed,
            OriginPolicy::SameOrigin => Verdict::Refused,
            _ if !has_cookies => Verdict::Allowed,
            OriginPolicy::SameOriginIfCookies => Verdict::Refused,
            OriginPolicy::Any => Verdict::Passed,
        }
    }

    /// Hosts are compared and nothing else: which scheme and port the browser used, only what stands in front of us knows.
    fn is_own(&self, origin: &Origin<'_>, host: &str) -> bool {
        let Origin::Of { host: of, .. } = origin else {
            return false;
        };
        origin.is_web() && (**of == *host || self.own.iter().any(|own| own.matches(of)))
    }
}

/// An `Origin` (RFC 6454, section 7).
#[derive(Debug, PartialEq, Eq)]
enum Origin<'a> {
    Opaque,
    Of {
        scheme: &'a str,
        host: Cow<'a, str>,
        port: Option<u16>,
    },
}

impl<'a> Origin<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (scheme, authority) = text.split_once("://")?;
        let host = target::host(authority)?;
        Some(Self::Of {
            scheme,
            port: target::port(authority).or_else(|| usual_port(scheme)),
            host,
        })
    }

    fn is_web(&self) -> bool {
        matches!(self, Self::Of { scheme, .. } if scheme.eq_ignore_ascii_case("https") || scheme.eq_ignore_ascii_case("http"))
    }
}

impl AllowedOrigin {
    /// An entry of the list; `None`: it is none.
    pub fn parse(text: &str) -> Option<Self> {
        if text == "null" {
            return Some(Self::Opaque);
        }
        let Some((scheme, authority)) = text.split_once("://") else {
            return HostPattern::parse(text).map(Self::Host);
        };
        let port_given = authority.contains(':');
        let host = authority.split(':').next()?;
        let port = target::port(authority);
        if port_given && port.is_none() {
            return None;
        }
        Some(Self::Exact {
            port: port.or_else(|| usual_port(scheme)),
            scheme: scheme.into(),
            host: HostPattern::parse(host)?,
        })
    }

    fn matches(&self, origin: &Origin<'_>) -> bool {
        match (self, origin) {
            (Self::Opaque, Origin::Opaque) => true,
            (Self::Host(wanted), Origin::Of { host, .. }) => origin.is_web() && wanted.matches(host),
            (
                Self::Exact { scheme, host, port },
                Origin::Of {
                    scheme: of,
                    host: at,
                    port: on,
                },
            ) => scheme.eq_ignore_ascii_case(of) && port == on && host.matches(at),
            _ => false,
        }
    }
}

impl HostPattern {
    /// `None`: it is no host.
    pub fn parse(text: &str) -> Option<Self> {
        if text.contains(':') {
            return None;
        }
        match text.strip_prefix('*') {
            Some(below) => {
                let host = target::host(below.strip_prefix('.')?)?;
                Some(Self::Below(format!(".{host}").into()))
            }
            None => Some(Self::Host(target::host(text)?.into())),
        }
    }

    fn matches(&self, host: &str) -> bool {
        match self {
            Self::Host(wanted) => **wanted == *host,
            Self::Below(wanted) => host.len() > wanted.len() && host.ends_with(&**wanted),
        }
    }
}

impl Sources {
    /// Whether a client with this address may come. What is denied is denied, whatever is allowed.
    pub fn admit(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let has = |networks: &[IpNet]| networks.iter().any(|network| network.contains(&address));
        !has(&self.deny) && (self.allow.is_empty() || has(&self.allow))
    }
}

/// A network, or one address as the network of that alone. Bits behind the prefix are cleared, and IPv4 written as IPv6
/// becomes IPv4, since that is what clients are compared as. `None`: it is none.
pub fn network(text: &str) -> Option<IpNet> {
    let network = match text.parse::<IpAddr>() {
        Ok(address) => IpNet::from(address),
        Err(_) => text.parse().ok()?,
    };
    let mapped = |network: Ipv6Net| {
        let length = network.prefix_len().checked_sub(96)?;
        Ipv4Net::new(network.addr().to_ipv4_mapped()?, length).ok()
    };
    let network = match network {
        IpNet::V6(v6) => mapped(v6).map_or(IpNet::V6(v6), IpNet::V4),
        v4 @ IpNet::V4(_) => v4,
    };
    Some(network.trunc())
}

fn usual_port(scheme: &str) -> Option<u16> {
    match scheme {
        _ if scheme.eq_ignore_ascii_case("https") => Some(443),
        _ if scheme.eq_ignore_ascii_case("http") => Some(80),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origins(policy: OriginPolicy, allow: &[&str]) -> Origins {
        Origins {
            policy,
            allow: allow.iter().map(|entry| AllowedOrigin::parse(entry).unwrap()).collect(),
            own: ["chat.example.com", "*.rooms.example.com"]
                .map(|own| HostPattern::parse(own).unwrap())
                .into(),
            denies_missing: false,
        }
    }

    fn judged(origins: &Origins, origin: &str, has_cookies: bool) -> Verdict {
        origins.judge(Given::Once(origin), "here.example", has_cookies)
    }

    #[test]
    fn our_own_pages_are_those_of_the_host_asked_for_and_of_the_route() {
        let same = origins(OriginPolicy::SameOrigin, &[]);
        for origin in [
            "https://here.example",
            "http://here.example:8080",
            "HTTPS://Here.Example",
            "https://chat.example.com",
            "https://a.rooms.example.com",
            "https://a.b.rooms.example.com",
        ] {
            assert_eq!(judged(&same, origin, true), Verdict::Allowed, "{origin}");
        }
        for origin in [
            "null",
            "",
            "here.example",
            "https://here.example.evil",
            "https://evilhere.example",
            "https://rooms.example.com",
            "https://evilrooms.example.com",
            "https://here.example@evil.example",
            "https://evil.example/here.example",
            "https://here.example/",
            "https://here.example https://evil.example",
            "chrome-extension://here.example",
            "https://here.example:99999",
        ] {
            assert_eq!(judged(&same, origin, false), Verdict::Refused, "{origin}");
        }
        assert_eq!(same.judge(Given::Unreadable, "here.example", false), Verdict::Refused);
    }

    #[test]
    fn each_policy_says_who_else_may() {
        let foreign = "https://evil.example";
        for (policy, bare, with_cookies) in [
            (OriginPolicy::Any, Verdict::Allowed, Verdict::Passed),
            (OriginPolicy::SameOriginIfCookies, Verdict::Allowed, Verdict::Refused),
            (OriginPolicy::SameOrigin, Verdict::Refused, Verdict::Refused),
            (OriginPolicy::List, Verdict::Refused, Verdict::Refused),
        ] {
            let origins = origins(policy, &["friend.example"]);
            assert_eq!(judged(&origins, foreign, false), bare, "{policy:?}");
            assert_eq!(judged(&origins, foreign, true), with_cookies, "{policy:?}");
            assert_eq!(
                judged(&origins, "https://friend.example", true),
                Verdict::Allowed,
                "{policy:?}"
            );
            assert_eq!(origins.judge(Given::Missing, "here.example", true), Verdict::Allowed);
            let strict = Origins {
                denies_missing: true,
                ..origins
            };
            assert_eq!(strict.judge(Given::Missing, "here.example", true), Verdict::Refused);
        }
        let list = origins(OriginPolicy::List, &["friend.example"]);
        assert_eq!(judged(&list, "https://here.example", false), Verdict::Refused);
    }

    #[test]
    fn an_entry_with_a_scheme_wants_that_and_its_port() {
        let list = origins(
            OriginPolicy::List,
            &[
                "https://a.example",
                "https://b.example:8443",
                "https://*.c.example",
                "capacitor://localhost",
                "null",
            ],
        );
        for origin in [
            "https://a.example",
            "https://a.example:443",
            "https://b.example:8443",
            "https://x.c.example",
            "capacitor://localhost",
            "null",
        ] {
            assert_eq!(judged(&list, origin, true), Verdict::Allowed, "{origin}");
        }
        for origin in [
            "http://a.example",
            "https://a.example:8443",
            "https://b.example",
            "https://c.example",
            "https://localhost",
        ] {
            assert_eq!(judged(&list, origin, true), Verdict::Refused, "{origin}");
        }
        for entry in ["https://a.example:99999", "https://a.example:", "a.example:80", "*", "a b"] {
            assert_eq!(AllowedOrigin::parse(entry), None, "{entry}");
        }
    }

    #[test]
    fn deny_goes_before_allow_and_ipv4_is_ipv4_however_it_is_written() {
        let networks = |texts: &[&str]| texts.iter().map(|text| network(text).unwrap()).collect();
        let sources = Sources {
            allow: networks(&["10.1.2.3/8", "2001:db8::/32", "::ffff:192.0.2.0/120"]),
            deny: networks(&["10.9.0.0/16", "2001:db8::bad"]),
        };
        for (address, admitted) in [
            ("10.200.0.1", true),
            ("::ffff:10.200.0.1", true),
            ("10.9.0.1", false),
            ("::ffff:10.9.0.1", false),
            ("2001:db8::1", true),
            ("2001:db8::bad", false),
            ("192.0.2.7", true),
            ("192.0.3.7", false),
            ("2001:db9::1", false),
        ] {
            assert_eq!(sources.admit(address.parse().unwrap()), admitted, "{address}");
        }
        assert!(Sources::default().admit([8, 8, 8, 8].into()));
        for text in ["10.0.0.0/33", "10.0.0", "::/129", "10.0.0.256", "example.com", ""] {
            assert_eq!(network(text), None, "{text}");
        }
    }
}
