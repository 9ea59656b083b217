//! Who a client is to a limit: a hash, by a key of this process that nobody outside can foresee.

use std::{
    hash::{BuildHasher, Hash, Hasher, RandomState},
    net::IpAddr,
    num::NonZeroU64,
};

use http::HeaderMap;

use super::ClientKey;
use crate::routing::{matching::header_value, persistence::cookie_values, route::ObjectName, route::network_of};

/// Makes hashes of clients.
#[derive(Debug, Default)]
pub struct ClientHashes(RandomState);

impl ClientHashes {
    /// The client of a request to a route. `None`: it sends no such header or cookie, or an empty one, and is not limited.
    ///
    /// Two clients share a hash, and with it a limit, once in 2^64 pairs; nobody can look for a pair.
    pub fn of(&self, route: &ObjectName, key: &ClientKey, address: IpAddr, headers: &HeaderMap) -> Option<NonZeroU64> {
        let mut hasher = self.0.build_hasher();
        route.hash(&mut hasher);
        match key {
            &ClientKey::Address {
                ipv4_prefix,
                ipv6_prefix,
            } => network_of(address, ipv4_prefix, ipv6_prefix).hash(&mut hasher),
            ClientKey::Header(name) => {
                ("header", name).hash(&mut hasher);
                header_value(headers, name, |value| (!value.is_empty()).then(|| value.hash(&mut hasher)))??;
            }
            ClientKey::Cookie(name) => {
                ("cookie", name).hash(&mut hasher);
                cookie_values(headers, name)
                    .find(|value| !value.is_empty())?
                    .hash(&mut hasher);
            }
        }
        NonZeroU64::new(hasher.finish()).or(Some(NonZeroU64::MIN))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::fixture::{headers, rule_id};

    #[test]
    fn clients_are_told_apart_by_what_the_key_says() {
        let hashes = ClientHashes::default();
        let of = |name: &str, key: &ClientKey, address: &str, fields: &[(&str, &str)]| {
            hashes.of(&rule_id(name, "0").route, key, address.parse().unwrap(), &headers(fields))
        };
        let address = ClientKey::Address {
            ipv4_prefix: 24,
            ipv6_prefix: 64,
        };
        let one = of("chat", &address, "192.0.2.1", &[]);
        assert_eq!(of("chat", &address, "192.0.2.9", &[]), one);
        assert_eq!(of("chat", &address, "::ffff:192.0.2.9", &[]), one);
        assert_ne!(of("chat", &address, "192.0.3.1", &[]), one);
        assert_ne!(of("other", &address, "192.0.2.1", &[]), one);
        assert_eq!(
            of("chat", &address, "2001:db8::1", &[]),
            of("chat", &address, "2001:db8::ffff:1", &[])
        );
        let header = ClientKey::Header("x-user".into());
        let ann = of("chat", &header, "192.0.2.1", &[("x-user", "ann")]);
        assert_eq!(of("chat", &header, "192.0.2.2", &[("x-user", "ann")]), ann);
        assert_ne!(of("chat", &header, "192.0.2.1", &[("x-user", "bob")]), ann);
        for nobody in [&[][..], &[("x-user", "")], &[("cookie", "x-user=ann")]] {
            assert_eq!(of("chat", &header, "192.0.2.1", nobody), None);
        }
        let cookie = ClientKey::Cookie("user".into());
        let ann = of("chat", &cookie, "192.0.2.1", &[("cookie", "a=b; user=ann")]);
        assert!(ann.is_some());
        assert_eq!(of("chat", &cookie, "192.0.2.2", &[("cookie", "user=\"ann\";c=d")]), ann);
        for nobody in [&[][..], &[("cookie", "user=")], &[("cookie", "User=ann; users=ann")]] {
            assert_eq!(of("chat", &cookie, "192.0.2.1", nobody), None);
        }
    }
}
