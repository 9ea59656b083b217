//! From what a route and its Services say of TLS towards endpoints to what the proxy connects with. What must be secure and
//! cannot be is not connected to at all.

use std::sync::Arc;

use super::{
    compile::{CompiledBackendTls, Reference, SecretReference},
    index::{Entry, Index},
    object::{ObjectKind, Port},
    path::Fault,
    verdict::{Finding, Reason},
};
use crate::{
    api::BackendTlsMode as Mode,
    routing::{
        BackendTls, Certificate, ObjectName,
        endpoint_tls::{Authorities, Configs, Trust},
    },
};

/// What a route says, with its Secrets looked up.
pub(super) struct RouteTls<'a> {
    said: &'a CompiledBackendTls,
    /// `None`: its Secret is of no use. `Some(None)`: it names none.
    authorities: Option<Option<Arc<Authorities>>>,
    shown: Option<Option<Arc<Certificate>>>,
}

impl<'a> RouteTls<'a> {
    /// Looks up the Secrets that a route names.
    pub(super) fn of(index: &Index, entry: &'a Entry, unresolved: &mut Vec<Finding>) -> Self {
        let said = &entry.compiled.backend_tls;
        let certificates = index.certificates();
        let mut look_up = |reference: &Option<SecretReference>, fault: &dyn Fn(&ObjectName) -> Option<String>| {
            let Some(reference) = reference else { return true };
            let denied = denied(index, &entry.route.name, reference);
            let is_allowed = denied.is_none();
            let fault = || {
                Some(Finding {
                    reason: Reason::InvalidCertificateRef,
                    fault: Fault::new(reference.path.field("name"), fault(&reference.secret)?),
                    fix: None,
                })
            };
            unresolved.extend(denied.or_else(fault));
            is_allowed
        };
        let may_trust = look_up(&said.authorities, &|secret| certificates.authorities_fault(secret));
        let may_show = look_up(&said.shown, &|secret| certificates.fault(secret));
        let authorities = match &said.authorities {
            None => Some(None),
            Some(_) if !may_trust => None,
            Some(reference) => certificates
                .authorities(&reference.secret)
                .map(|found| Some(Arc::clone(found))),
        };
        let shown = match &said.shown {
            None => Some(None),
            Some(_) if !may_show => None,
            Some(reference) => {
                let held = certificates.get(&reference.secret);
                held.and_then(|held| held.certificate.clone()).map(Some)
            }
        };
        Self {
            said,
            authorities,
            shown,
        }
    }

    /// What holds for a backendRef, whose Service is there or not.
    pub(super) fn towards(
        &self,
        index: &Index,
        reference: &Reference,
        configs: &mut Configs,
        unresolved: &mut Vec<Finding>,
    ) -> BackendTls {
        let service = index.service(&reference.service);
        let is_secure = match self.said.mode {
            Some(Mode::Disable) => false,
            Some(Mode::Simple | Mode::Mutual) => true,
            None => service.is_some_and(|service| {
                let ports = service.ports.iter().filter(|port| port.number == reference.port);
                ports.into_iter().any(|port| speaks(port) == Some(Spoken::Tls))
            }),
        };
        if !is_secure {
            return BackendTls::Off;
        }
        let (Some(authorities), Some(shown)) = (&self.authorities, &self.shown) else {
            return BackendTls::Unusable;
        };
        let Some(authorities) = authorities.clone().or_else(|| index.system_authorities()) else {
            unresolved.push(Finding {
                reason: Reason::InvalidCertificateRef,
                fault: Fault::new(
                    reference.path.clone(),
                    "its endpoints use TLS, and this system trusts no certificate authority",
                ),
                fix: Some("name who signs the endpoints' certificates by spec.backendTLS.caRef".to_owned()),
            });
            return BackendTls::Unusable;
        };
        let trust = Trust {
            authorities,
            shown: shown.clone(),
        };
        let external = service.and_then(|service| service.external_name.as_deref());
        let name = match (&self.said.hostname, external) {
            (Some(hostname), _) => hostname.to_string(),
            (None, Some(external)) => external.to_owned(),
            (None, None) => format!("{}.{}.svc", reference.service.name, reference.service.namespace),
        };
        configs.make(trust, &name).map_or(BackendTls::Unusable, BackendTls::On)
    }
}

/// Why a route may not refer to this.
fn denied(index: &Index, route: &ObjectName, reference: &SecretReference) -> Option<Finding> {
    let secret = &reference.secret;
    if &*reference.kind != "Secret" {
        let message = format!("{} cannot be referred to, only a Secret can", reference.kind);
        return Some(Finding {
            reason: Reason::InvalidKind,
            fault: Fault::new(reference.path.field("kind"), message),
            fix: Some("put the certificates into ca.crt of a Secret of type kubernetes.io/tls".to_owned()),
        });
    }
    if secret.namespace == route.namespace || index.is_granted(&route.namespace, ObjectKind::Secret, secret) {
        return None;
    }
    let message = format!(
        "no ReferenceGrant in namespace {} lets WebSocketRoutes of {} refer to Secret {secret}",
        secret.namespace, route.namespace
    );
    Some(Finding {
        reason: Reason::RefNotPermitted,
        fault: Fault::new(reference.path.field("namespace"), message),
        fix: Some("add one there, or refer to a Secret of the route's own namespace".to_owned()),
    })
}

/// What the endpoints of a port speak that we speak too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spoken {
    Plain,
    Tls,
}

/// What a port says of itself by its `appProtocol`: a name that IANA has, one of Kubernetes' own, or what is written for them.
/// `None`: nothing that we speak.
pub(super) fn speaks(port: &Port) -> Option<Spoken> {
    let Some(said) = port.app_protocol.as_deref() else {
        return Some(Spoken::Plain);
    };
    let is_among = |words: &[&str]| words.iter().any(|word| word.eq_ignore_ascii_case(said));
    match () {
        () if is_among(&PLAIN) => Some(Spoken::Plain),
        () if is_among(&TLS) => Some(Spoken::Tls),
        () => None,
    }
}

const PLAIN: [&str; 7] = ["http", "http1", "http/1.1", "ws", "websocket", "kubernetes.io/ws", "tcp"];

const TLS: [&str; 3] = ["https", "wss", "kubernetes.io/wss"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_says_what_its_endpoints_speak() {
        for (said, spoken) in [
            (None, Some(Spoken::Plain)),
            (Some("kubernetes.io/ws"), Some(Spoken::Plain)),
            (Some("http"), Some(Spoken::Plain)),
            (Some("kubernetes.io/wss"), Some(Spoken::Tls)),
            (Some("HTTPS"), Some(Spoken::Tls)),
            (Some("kubernetes.io/h2c"), None),
            (Some("grpc"), None),
        ] {
            let port = Port {
                name: Box::default(),
                number: 80,
                protocol: "TCP".into(),
                app_protocol: said.map(Box::from),
            };
            assert_eq!(speaks(&port), spoken, "{said:?}");
        }
    }
}
