//! What all TLS connections have in common: versions, ciphers, tickets, and the certificate that each host has now.

use std::{
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
};

use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    server::{ClientHello, NoServerSessionStorage, ResolvesServerCert},
    sign::CertifiedKey,
};

use super::{Connector, Gate, Scratch, tickets::Ticketer};
use crate::routing::{Published, Snapshot, Tickets};

/// What the workers share.
#[derive(Debug)]
pub struct Config {
    base: ServerConfig,
    published: Published,
}

/// Accepts the TLS connections of one worker, with the certificates of the published snapshot.
#[derive(Debug)]
pub struct Acceptor {
    pub(super) config: Arc<ServerConfig>,
    resolver: Arc<Resolver>,
    pub(super) scratch: Rc<Scratch>,
    pub(super) gate: Rc<Gate>,
}

impl Config {
    /// # Errors
    /// When the process has no source of randomness.
    pub fn new(published: Published, tickets: Tickets) -> Result<Self, rustls::Error> {
        let mut base = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Resolver::new(&published)));
        base.alpn_protocols = vec![b"http/1.1".to_vec()];
        base.session_storage = Arc::new(NoServerSessionStorage {}); // a ticket costs no memory here
        base.ticketer = Arc::new(Ticketer::new(tickets)?);
        base.send_tls13_tickets = 1; // a client comes back on one connection
        Ok(Self { base, published })
    }
}

impl Acceptor {
    /// An acceptor for a worker of its own, which shares with the worker's other connections what those share. Tickets of one
    /// are good for all.
    pub fn new(config: &Config, connector: &Connector) -> Self {
        let resolver = Arc::new(Resolver::new(&config.published));
        let mut own = config.base.clone();
        own.cert_resolver = Arc::<Resolver>::clone(&resolver);
        Self {
            config: Arc::new(own),
            resolver,
            scratch: Rc::clone(&connector.scratch),
            gate: Rc::clone(&connector.gate),
        }
    }

    /// The host that the ClientHello asked for that a session took in last, if it asked for one.
    pub(super) fn take_asked(&self) -> Option<Rc<str>> {
        let mut asked = self.resolver.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.take().map(Rc::from)
    }
}

/// Finds the certificate of the host that a client asks for, and notes which one that is: a session of this form does not
/// tell. It is asked while a session takes in a ClientHello, on the worker's own thread; the lock is there for the type.
#[derive(Debug)]
struct Resolver {
    published: Published,
    asked: Mutex<Option<Box<str>>>,
}

impl Resolver {
    fn new(published: &Published) -> Self {
        Self {
            published: Arc::clone(published),
            asked: Mutex::default(),
        }
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().map(str::to_ascii_lowercase);
        let snapshot: &Snapshot = &self.published.load();
        let certificate = snapshot.certificates.select(name.as_deref())?;
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = name.map(Box::from);
        Some(Arc::clone(certificate.key()))
    }
}
