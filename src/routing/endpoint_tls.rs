//! TLS towards endpoints: whom they are asked to be, who may vouch for that, and what they are shown of us.
//!
//! The control plane reads authorities and certificates and makes the configurations, each once; the proxy connects with
//! them. A new certificate makes a new configuration, so that connections that are open never notice.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use rustls::{
    ClientConfig, RootCertStore,
    client::{Resumption, WebPkiServerVerifier},
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
    sign::{CertifiedKey, SingleCertAndKey},
};

use super::{certificate::Certificate, route::Rule};

/// Whether connections to the endpoints of a backendRef are secure.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum BackendTls {
    #[default]
    Off,
    On(Arc<EndpointTls>),
    /// They must be, and what they need is not there: there are none.
    Unusable,
}

/// How connections to the endpoints of one backendRef are made secure.
#[derive(Debug)]
pub struct EndpointTls {
    trust: Trust,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    /// Seconds since 1970 of the last time that a failure was told.
    told: AtomicU64,
}

/// Whom to believe, and what to show.
#[derive(Clone, Debug)]
pub struct Trust {
    pub authorities: Arc<Authorities>,
    /// Our own certificate, for endpoints that ask for one.
    pub shown: Option<Arc<Certificate>>,
}

impl PartialEq for Trust {
    /// What was read once is the same one.
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Trust {
    fn key(&self) -> (usize, usize) {
        let shown = self.shown.as_ref().map_or(0, |shown| Arc::as_ptr(shown) as usize);
        (Arc::as_ptr(&self.authorities) as usize, shown)
    }
}

impl PartialEq for EndpointTls {
    fn eq(&self, other: &Self) -> bool {
        self.trust == other.trust && self.name == other.name
    }
}

impl EndpointTls {
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    pub fn config(&self) -> &Arc<ClientConfig> {
        &self.config
    }

    /// The name that is asked for, and that the endpoint's certificate must be for.
    pub fn name(&self) -> &ServerName<'static> {
        &self.name
    }

    /// Whether a failure at `now` (seconds since 1970) is to be told: one in ten seconds is, over all workers.
    pub fn is_news(&self, now: u64) -> bool {
        let told = self.told.load(Relaxed);
        now.saturating_sub(told) >= QUIET && self.told.compare_exchange(told, now, Relaxed, Relaxed).is_ok()
    }
}

/// Certificates of those who may vouch for endpoints.
#[derive(Debug)]
pub struct Authorities(Arc<RootCertStore>);

/// Why there are no authorities in what was given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAuthorities {
    #[error("ca.crt is missing")]
    Missing,
    #[error("ca.crt has no certificate in PEM form")]
    None,
    #[error("ca.crt cannot be read: {0}")]
    Unreadable(String),
}

impl Authorities {
    /// Reads certificates in PEM form.
    ///
    /// # Errors
    /// When one of them cannot be used, or there is none.
    pub fn read(pem: &[u8]) -> Result<Self, InvalidAuthorities> {
        let unreadable = |error: &dyn std::fmt::Display| InvalidAuthorities::Unreadable(error.to_string());
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|error| unreadable(&error))?;
            roots.add(certificate).map_err(|error| unreadable(&error))?;
        }
        match roots.is_empty() {
            true => Err(InvalidAuthorities::None),
            false => Ok(Self(Arc::new(roots))),
        }
    }

    /// Those of `certificates` that can be used; `None`: there is none. For the operating system's, of which a few always are
    /// too old for that.
    pub fn of_those<'a>(certificates: impl IntoIterator<Item = &'a [u8]>) -> Option<Self> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates.into_iter().map(CertificateDer::from));
        (!roots.is_empty()).then(|| Self(Arc::new(roots)))
    }
}

/// Configurations, each made once, so that what connections have in common is kept once.
#[derive(Debug, Default)]
pub struct Configs(HashMap<(usize, usize), (Trust, Arc<ClientConfig>)>);

impl Configs {
    /// Those of rules, to be used on.
    pub fn in_use<'a>(rules: impl IntoIterator<Item = &'a Rule>) -> Self {
        let mut configs = Self::default();
        for backend in rules.into_iter().flat_map(|rule| &rule.backends) {
            if let BackendTls::On(tls) = &backend.tls {
                configs.keep(tls);
            }
        }
        configs
    }

    fn keep(&mut self, tls: &EndpointTls) {
        let kept = || (tls.trust.clone(), Arc::clone(&tls.config));
        self.0.entry(tls.trust.key()).or_insert_with(kept);
    }

    /// TLS with endpoints that must show a certificate for `name`. `None`: `name` is no host's name, or there is no protocol
    /// version that could be spoken.
    pub fn make(&mut self, trust: Trust, name: &str) -> Option<Arc<EndpointTls>> {
        let name = ServerName::try_from(name.to_owned()).ok()?;
        let config = match self.0.get(&trust.key()) {
            Some((_, config)) => Arc::clone(config),
            None => {
                let config = config(&trust)?;
                self.0.insert(trust.key(), (trust.clone(), Arc::clone(&config)));
                config
            }
        };
        Some(Arc::new(EndpointTls {
            trust,
            config,
            name,
            told: AtomicU64::new(0),
        }))
    }
}

fn config(trust: &Trust) -> Option<Arc<ClientConfig>> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::clone(&trust.authorities.0), Arc::clone(&provider));
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .ok()?
        .with_webpki_verifier(verifier.build().ok()?);
    let mut config = match &trust.shown {
        None => config.with_no_client_auth(),
        Some(shown) => {
            let shown: CertifiedKey = (**shown.key()).clone();
            config.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(shown)))
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = Resumption::in_memory_sessions(SESSIONS);
    Some(Arc::new(config))
}

/// Seconds between two words about failures.
const QUIET: u64 = 10;

/// Names of whose sessions something is kept, so that the next connection is cheaper.
const SESSIONS: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    fn authority() -> String {
        rcgen::generate_simple_self_signed(["ca".to_owned()]).unwrap().cert.pem()
    }

    fn trust() -> Trust {
        Trust {
            authorities: Arc::new(Authorities::read(authority().as_bytes()).unwrap()),
            shown: None,
        }
    }

    #[test]
    fn what_is_wrong_with_authorities_is_said() {
        let read = |pem: &str| Authorities::read(pem.as_bytes()).map(drop);
        assert_eq!(read(&authority()), Ok(()));
        assert_eq!(read(&[authority(), authority()].concat()), Ok(()));
        assert_eq!(read("nothing"), Err(InvalidAuthorities::None));
        let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for text in [garbage.to_owned(), authority() + garbage] {
            assert!(matches!(read(&text), Err(InvalidAuthorities::Unreadable(_))), "{text}");
        }
        assert!(Authorities::of_those([&b"garbage"[..]]).is_none());
    }

    #[test]
    fn a_configuration_is_made_once_for_the_same_trust() {
        let (one, other) = (trust(), trust());
        let mut configs = Configs::default();
        let [a, b] = ["a.test", "b.test"].map(|name| configs.make(one.clone(), name).unwrap());
        assert!(Arc::ptr_eq(a.config(), b.config()) && a != b);
        let c = configs.make(other, "a.test").unwrap();
        assert!(!Arc::ptr_eq(a.config(), c.config()) && a != c);

        let mut later = Configs::default();
        later.keep(&a);
        let again = later.make(one, "a.test").unwrap();
        assert!(Arc::ptr_eq(a.config(), again.config()) && a == again);
        assert!(later.make(trust(), "no name").is_none());
    }

    #[test]
    fn a_failure_is_told_once_in_a_while() {
        let tls = Configs::default().make(trust(), "a.test").unwrap();
        let told: Vec<bool> = [1000, 1001, 1009, 1010, 1011].map(|now| tls.is_news(now)).into();
        assert_eq!(told, [true, false, false, true, false]);
    }
}
