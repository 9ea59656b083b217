//! Which certificate a host has: read and checked once, looked up for each TLS handshake and each request.
//!
//! The control plane reads certificates and decides which hosts they belong to; the proxy shows them. TLS belongs to a host,
//! not to a route: a host that has a certificate is served in plain by no route unless that is allowed for the host.

use std::{collections::HashMap, sync::Arc};

use rustls::{
    Error, InconsistentKeys,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use super::route::ObjectName;

/// A certificate chain with its key.
#[derive(Debug)]
pub struct Certificate {
    secret: ObjectName,
    key: Arc<CertifiedKey>,
    /// Seconds since 1970 of its first and its last second.
    valid: (i64, i64),
}

/// Why there is no certificate in what was given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCertificate {
    #[error("tls.crt has no certificate in PEM form")]
    NoCertificate,
    #[error("tls.crt cannot be read: {0}")]
    Unreadable(String),
    #[error("tls.key has no private key in PEM form")]
    NoKey,
    #[error("tls.key cannot be used: {0}; ECDSA, RSA and Ed25519 keys can")]
    UnusableKey(String),
    #[error("tls.key is not the key of the certificate in tls.crt")]
    Mismatch,
}

impl Certificate {
    /// Reads a chain and its key, both in PEM form: the content of a Secret.
    ///
    /// # Errors
    /// When one of them cannot be used, or they do not belong together.
    pub fn read(secret: ObjectName, chain: &[u8], key: &[u8]) -> Result<Self, InvalidCertificate> {
        let unreadable = |error: &dyn std::fmt::Display| InvalidCertificate::Unreadable(error.to_string());
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<_, _>>()
            .map_err(|error| unreadable(&error))?;
        let leaf = chain.first().ok_or(InvalidCertificate::NoCertificate)?;
        let (_, parsed) = X509Certificate::from_der(leaf).map_err(|error| unreadable(&error))?;
        let validity = parsed.validity();
        let valid = (validity.not_before.timestamp(), validity.not_after.timestamp());
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| InvalidCertificate::NoKey)?;
        let key = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider()).map_err(|error| match error {
            Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => InvalidCertificate::Mismatch,
            Error::InvalidCertificate(_) => unreadable(&error),
            error => InvalidCertificate::UnusableKey(error.to_string()),
        })?;
        Ok(Self {
            secret,
            key: Arc::new(key),
            valid,
        })
    }

    /// The Secret that it is from.
    pub fn secret(&self) -> &ObjectName {
        &self.secret
    }

    /// What a handshake shows and signs with.
    pub fn key(&self) -> &Arc<CertifiedKey> {
        &self.key
    }

    /// Seconds since 1970 from which it is valid.
    pub fn begins(&self) -> i64 {
        self.valid.0
    }

    /// Seconds since 1970 until which it is valid.
    pub fn expires(&self) -> i64 {
        self.valid.1
    }
}

/// The TLS of one host.
#[derive(Clone, Debug)]
pub struct HostTls {
    /// The Secret that was named.
    pub secret: ObjectName,
    /// `None`: it cannot be used, and the host is not served until it can.
    pub certificate: Option<Arc<Certificate>>,
    /// Whether the host is served without TLS as well.
    pub allows_plain: bool,
}

/// The TLS of all hosts.
#[derive(Clone, Debug, Default)]
pub struct Certificates {
    exact: HashMap<Box<str>, HostTls>,
    /// By what stands behind the `*.`.
    wildcards: HashMap<Box<str>, HostTls>,
    every: Option<HostTls>,
    default: Option<Arc<Certificate>>,
}

impl Certificates {
    /// `default`: what hosts without one of their own show.
    pub fn new(default: Option<Arc<Certificate>>) -> Self {
        Self {
            default,
            ..Self::default()
        }
    }

    /// Gives a hostname TLS, unless it has it already; hostnames as in [`RouteSpec`](super::table::RouteSpec), `None` for every
    /// host.
    pub fn add(&mut self, hostname: Option<&str>, tls: HostTls) {
        match hostname.map(|hostname| (hostname, hostname.strip_prefix("*."))) {
            None => drop(self.every.get_or_insert(tls)),
            Some((_, Some(suffix))) => drop(self.wildcards.entry(suffix.into()).or_insert(tls)),
            Some((hostname, None)) => drop(self.exact.entry(hostname.into()).or_insert(tls)),
        }
    }

    /// The TLS of a host: its own, else that of the longest wildcard over it, else that of every host.
    pub fn of(&self, host: &str) -> Option<&HostTls> {
        let wider = || {
            host.match_indices('.')
                .find_map(|(dot, _)| self.wildcards.get(&host[dot + 1..]))
        };
        self.exact.get(host).or_else(wider).or(self.every.as_ref())
    }

    /// What a handshake for a host shows, or one that names none. `None`: nothing; a certificate that cannot be used is not
    /// replaced by another one.
    pub fn select(&self, name: Option<&str>) -> Option<&Arc<Certificate>> {
        match name.and_then(|name| self.of(name)) {
            Some(tls) => tls.certificate.as_ref(),
            None => self.default.as_ref(),
        }
    }

    /// Whether a connection whose handshake named `name` may ask for `host`: if that shows the same certificate.
    pub fn covers(&self, name: Option<&str>, host: &str) -> bool {
        match (self.select(name), self.select(Some(host))) {
            (Some(shown), Some(own)) => shown.secret == own.secret,
            _ => false,
        }
    }

    /// Whether a host may be asked for without TLS.
    pub fn allows_plain(&self, host: &str) -> bool {
        self.of(host).is_none_or(|tls| tls.allows_plain)
    }

    /// Whether any host has TLS.
    pub fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.wildcards.is_empty() && self.every.is_none() && self.default.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(name: &str) -> ObjectName {
        ObjectName {
            namespace: "chat".into(),
            name: name.into(),
        }
    }

    fn pair() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(["chat.example.com".to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    fn certificate(name: &str) -> Arc<Certificate> {
        let (chain, key) = pair();
        Arc::new(Certificate::read(secret(name), chain.as_bytes(), key.as_bytes()).unwrap())
    }

    fn tls(name: &str) -> HostTls {
        HostTls {
            secret: secret(name),
            certificate: Some(certificate(name)),
            allows_plain: false,
        }
    }

    #[test]
    fn what_is_wrong_with_a_pair_is_said() {
        let ((chain, key), (_, other)) = (pair(), pair());
        let read = |chain: &str, key: &str| {
            Certificate::read(secret("a"), chain.as_bytes(), key.as_bytes()).map(|certificate| certificate.expires() > 0)
        };
        assert_eq!(read(&chain, &key), Ok(true));
        assert_eq!(read(&chain, &other), Err(InvalidCertificate::Mismatch));
        assert_eq!(read("", &key), Err(InvalidCertificate::NoCertificate));
        assert_eq!(read(&chain, "no key"), Err(InvalidCertificate::NoKey));
        let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(matches!(read(garbage, &key), Err(InvalidCertificate::Unreadable(_))));
        let garbage = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        assert!(matches!(read(&chain, garbage), Err(InvalidCertificate::UnusableKey(_))));
    }

    #[test]
    fn the_narrowest_name_decides_and_the_first_to_claim_it_has_it() {
        let mut certificates = Certificates::new(Some(certificate("default")));
        certificates.add(Some("a.example.com"), tls("exact"));
        certificates.add(Some("a.example.com"), tls("late"));
        certificates.add(Some("*.example.com"), tls("wild"));
        certificates.add(Some("*.b.example.com"), tls("narrow"));
        for (name, expected) in [
            (Some("a.example.com"), "exact"),
            (Some("x.example.com"), "wild"),
            (Some("x.b.example.com"), "narrow"),
            (Some("example.com"), "default"),
            (None, "default"),
        ] {
            let selected = certificates.select(name).unwrap();
            assert_eq!(&*selected.secret().name, expected, "{name:?}");
        }
    }

    #[test]
    fn a_certificate_that_is_missing_is_not_replaced_by_the_default() {
        let mut certificates = Certificates::new(Some(certificate("default")));
        let missing = HostTls {
            certificate: None,
            ..tls("missing")
        };
        certificates.add(Some("a"), missing);
        assert!(certificates.select(Some("a")).is_none());
        assert!(!certificates.covers(Some("b"), "a") && !certificates.allows_plain("a"));
    }

    #[test]
    fn a_connection_may_ask_for_the_hosts_of_its_certificate_only() {
        let mut certificates = Certificates::default();
        certificates.add(Some("a"), tls("one"));
        certificates.add(Some("b"), tls("one"));
        certificates.add(Some("c"), tls("two"));
        assert!(certificates.covers(Some("a"), "b"));
        assert!(!certificates.covers(Some("a"), "c"));
        assert!(!certificates.covers(Some("a"), "without") && !certificates.covers(None, "a"));
        assert!(certificates.allows_plain("without") && !certificates.allows_plain("a"));
    }
}
