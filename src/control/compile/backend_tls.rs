//! What a route says of TLS towards its endpoints.

use std::sync::Arc;

use crate::{
    api::{BackendTls, BackendTlsMode, SecretRef, WebSocketRouteSpec},
    control::path::FieldPath,
    routing::ObjectName,
};

/// TLS towards the endpoints of a route.
#[derive(Debug)]
pub(crate) struct CompiledBackendTls {
    /// `None`: what the Services say.
    pub(crate) mode: Option<BackendTlsMode>,
    /// `None`: whom the system trusts.
    pub(crate) authorities: Option<SecretReference>,
    /// `None`: the Services' names.
    pub(crate) hostname: Option<Box<str>>,
    pub(crate) shown: Option<SecretReference>,
}

/// A Secret that has not been looked up yet.
#[derive(Debug)]
pub(crate) struct SecretReference {
    pub(crate) path: FieldPath,
    pub(crate) kind: Box<str>,
    pub(crate) secret: ObjectName,
}

impl CompiledBackendTls {
    pub(super) fn of(route: &ObjectName, spec: &WebSocketRouteSpec, root: &FieldPath) -> Self {
        let path = root.field("backendTLS");
        let BackendTls {
            mode,
            ca_ref,
            hostname,
            client_certificate_ref,
        } = spec.backend_tls.clone().unwrap_or_default();
        let reference = |field, reference: SecretRef| SecretReference {
            path: path.field(field),
            kind: reference.kind.into(),
            secret: ObjectName {
                namespace: reference.namespace.map_or_else(|| Arc::clone(&route.namespace), Arc::from),
                name: reference.name.into(),
            },
        };
        Self {
            mode,
            authorities: ca_ref.map(|ca| reference("caRef", ca)),
            hostname: hostname.map(Box::from),
            shown: client_certificate_ref.map(|shown| reference("clientCertificateRef", shown)),
        }
    }
}
